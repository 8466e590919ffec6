//! The same requests under other schedules: alone and in batches in which others come and go, with drafts and without, on a
//! cold and on a warm prefix cache, by instruction set and threads. What each is told must not differ in a bit.

use anyhow::{Context as _, Result, ensure};
use freehold_base::{Digest, Hasher};
use freehold_engine::{
    DraftModel, Engine, EngineOptions, Event, Finished, Flow, GenerationRequest, Sampling, TextModel, TokenEvent,
};
use freehold_formats::{Checkpoint, SpecialTokens};
use freehold_kernels::{Compute, Isa};
use freehold_model::Model;
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

const REQUESTS: usize = 16;

/// How the requests are run.
struct Schedule {
    isa: Isa,
    threads: usize,
    batch: usize,
    draft_max: usize,
    /// Whether the model drafts for itself where the look-up finds nothing.
    drafts_itself: bool,
    /// Whether requests may take over what was computed for others.
    shares: bool,
}

/// What the requests were told: a digest, and of all of them the tokens that were not computed anew.
struct Told {
    digest: String,
    cached_tokens: usize,
    accepted_tokens: usize,
    rejected_tokens: usize,
}

/// Fails unless all schedules tell the requests the same; prints the digest.
pub(super) fn check(model: &Path, text: &str) -> Result<()> {
    let checkpoint = Checkpoint::open(model)?;
    let text_model = TextModel::open(&checkpoint)?;
    let requests = requests(&text_model, text)?;
    let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available() && *isa != Isa::Reference).collect();
    // Alone and computed anew comes first: all others are held to it.
    let alone = Schedule { isa: Isa::best(), threads: 1, batch: 1, draft_max: 0, drafts_itself: false, shares: false };
    let mut schedules = vec![alone];
    for isa in isas {
        for (threads, batch, draft_max, drafts_itself) in
            [(2, 16, 16, false), (1, 1, 0, false), (2, 3, 12, true), (1, 3, 4, false), (4, 16, 0, false)]
        {
            schedules.push(Schedule { isa, threads, batch, draft_max, drafts_itself, shares: true });
            if isa != Isa::best() {
                break;
            }
        }
    }
    let mut common: Option<String> = None;
    for Schedule { isa, threads, batch, draft_max, drafts_itself, shares } in schedules {
        let compute = Compute::new(isa, threads)?;
        let load = || Model::load(&checkpoint, &compute, &mut |_| {});
        let tokenizer = text_model.tokenizer();
        let draft_model = if drafts_itself { Some(DraftModel::new(load()?, tokenizer, tokenizer)?) } else { None };
        let options = EngineOptions { batch, draft_max, ..EngineOptions::default() };
        let engine = Engine::start(load()?, tokenizer.clone(), draft_model, compute, options)?;
        for &cache in if shares { &["cold cache", "warm cache"][..] } else { &["nothing shared"] } {
            let began = Instant::now();
            let told = run(&engine, &requests, shares)?;
            let drafts = if drafts_itself { "drafts by itself" } else { "drafts" };
            let path = format!("--isa {isa} --threads {threads}, {batch} at a time, {drafts} of {draft_max}, {cache}");
            println!(
                "  {path}: {} ({} prompt tokens from the cache, {} drafted tokens right, {} wrong, {:.1} s)",
                told.digest,
                told.cached_tokens,
                told.accepted_tokens,
                told.rejected_tokens,
                began.elapsed().as_secs_f64()
            );
            ensure!((told.cached_tokens > 0) == shares, "{path}: {} tokens came from the cache", told.cached_tokens);
            ensure!(draft_max == 0 || told.accepted_tokens > 0, "{path}: no draft came true");
            ensure!(draft_max == 0 || told.rejected_tokens > 0, "{path}: no draft was wrong");
            let common = common.get_or_insert_with(|| told.digest.clone());
            ensure!(*common == told.digest, "{path}: other tokens or log-probabilities than before");
        }
    }
    println!("  one digest over all schedules: {}", common.context("no instruction set")?);
    Ok(())
}

/// Prompts of several lengths, some of which begin alike, and some with passages that repeat; greedy and by chance.
fn requests(model: &TextModel, text: &str) -> Result<Vec<GenerationRequest>> {
    let tokens = model.tokenizer().encode(text, SpecialTokens::AsText)?;
    ensure!(tokens.len() >= 400, "the text has only {} tokens", tokens.len());
    let request = |index: usize| {
        let mut prompt = tokens[..130 * (index % 3)].to_vec();
        prompt.extend(&tokens[200 + 7 * index..][..10 + index]);
        if index % 4 == 1 {
            let passage = prompt[prompt.len() - 10..].to_vec();
            prompt.extend(passage);
        }
        GenerationRequest {
            prompt,
            max_tokens: Some(8 + 3 * (index % 5)),
            sampling: Sampling {
                temperature: if index.is_multiple_of(2) { 0.0 } else { 0.8 },
                seed: index as u64,
                ..Sampling::default()
            },
            logprobs: Some(GenerationRequest::MAX_TOP_LOGPROBS),
            stop: Vec::new(),
            cache_salt: None,
        }
    };
    Ok((0..REQUESTS).map(request).collect())
}

/// Asks them all at once. Unless it `shares`, each has a prefix cache of its own.
fn run(engine: &Engine, requests: &[GenerationRequest], shares: bool) -> Result<Told> {
    let (sender, receiver) = mpsc::channel();
    for (index, request) in requests.iter().enumerate() {
        let sender = sender.clone();
        let sink = move |event| {
            // The receiver stays until all are told.
            let _ = sender.send((index, event));
            Flow::Continue
        };
        let cache_salt = (!shares).then(|| Digest::of(&index.to_le_bytes()));
        engine.submit(GenerationRequest { cache_salt, ..request.clone() }, Box::new(sink))?;
    }
    drop(sender);
    let mut of_request: Vec<Hasher> = requests.iter().map(|_| Hasher::new()).collect();
    let (mut ends, mut cached_tokens, mut accepted_tokens, mut drafted_tokens) = (0, 0, 0, 0);
    for (index, event) in receiver {
        let hasher = &mut of_request[index];
        match event {
            Event::Prompt { .. } => {}
            Event::Token(TokenEvent { id, text, logprobs }) => {
                hasher.update(&id.to_le_bytes());
                hasher.update(text.as_bytes());
                let logprobs = logprobs.context("no log-probabilities")?;
                for (id, logprob) in logprobs.top {
                    hasher.update(&id.to_le_bytes());
                    hasher.update(&logprob.to_bits().to_le_bytes());
                }
            }
            Event::Finished(Finished {
                reason,
                text,
                cached_tokens: cached,
                accepted_tokens: accepted,
                drafted_tokens: drafted,
                ..
            }) => {
                hasher.update(format!("{reason:?} {text}").as_bytes());
                ends += 1;
                cached_tokens += cached;
                accepted_tokens += accepted;
                drafted_tokens += drafted;
            }
        }
    }
    ensure!(ends == requests.len(), "{ends} of {} requests came to an end", requests.len());
    let mut all = Hasher::new();
    of_request.into_iter().for_each(|hasher| all.update(hasher.finish().hex().as_bytes()));
    let digest = all.finish().hex();
    Ok(Told { digest, cached_tokens, accepted_tokens, rejected_tokens: drafted_tokens - accepted_tokens })
}
