//! Drafts by a second, smaller model (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"):
//! what it would say next, greedily, for several sequences at once.

use crate::sampler::argmax;
use freehold_formats::Tokenizer;
use freehold_kernels::{Compute, KvType, math};
use freehold_model::{Cache, Chunk, Error, LogitRows, Model, Workspace};

/// A smaller model with the vocabulary of the one that is served, to draft for it.
pub struct DraftModel(Model);

/// The first token in which a draft model's vocabulary is another than that of the model it is to draft for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "token {id} is {} to the draft model and {} to the model: a draft model needs the same tokens under the same ids, as \
     smaller models of one family have them; choose such a one",
    shown(.draft),
    shown(.model)
)]
pub struct VocabularyMismatch {
    /// Its id.
    pub id: u32,
    /// The bytes that it stands for in the draft model.
    pub draft: Vec<u8>,
    /// The bytes that it stands for in the model.
    pub model: Vec<u8>,
}

/// The beginning of a token that may be long and no text.
fn shown(token: &[u8]) -> String {
    let text = String::from_utf8_lossy(token);
    format!("{:?}", text.chars().take(40).collect::<String>())
}

impl DraftModel {
    /// A model with the tokenizer that it was made for, to draft for the model with the tokenizer `served`. One vocabulary may
    /// be longer than the other, as some are filled up: tokens that only one has are not drafted.
    ///
    /// # Errors
    /// If an id that both have stands for other bytes.
    pub fn new(model: Model, tokenizer: &Tokenizer, served: &Tokenizer) -> Result<Self, VocabularyMismatch> {
        let common = tokenizer.vocabulary_size().min(served.vocabulary_size()) as u32;
        let bytes = |tokenizer: &Tokenizer, id| tokenizer.token_bytes(id).unwrap_or_default().to_vec();
        match (0..common).find(|&id| tokenizer.token_bytes(id) != served.token_bytes(id)) {
            None => Ok(Self(model)),
            Some(id) => Err(VocabularyMismatch { id, draft: bytes(tokenizer, id), model: bytes(served, id) }),
        }
    }

    /// For a schedule in which guesses are any tokens at all.
    #[cfg(test)]
    pub(crate) fn unchecked(model: Model) -> Self {
        Self(model)
    }
}

/// A draft model at work. Its cache has the blocks of the model's, and the same tables say which sequence has which.
pub(crate) struct Drafter {
    model: Model,
    cache: Cache,
    workspace: Workspace,
    logits: Vec<f32>,
    /// Tokens that both models have.
    vocabulary: usize,
    pub(crate) caution: Caution,
}

/// When the drafter is asked, and how far it goes on. It depends on tokens alone, and changes nothing but the speed.
pub(crate) struct Caution {
    /// How probable it must find a token to go on behind it. Each further guess costs a forward pass of the drafter, and is in
    /// vain when one before it was wrong.
    pub(crate) sure: f32,
    /// For how many tokens of an answer it is left alone after a wrong guess, and how many tokens without one make up for it.
    pub(crate) wrong_costs: i32,
    /// Tokens that it may have to catch up on, for each step that the answer has taken: a long prompt is computed a second
    /// time only where the answer has become long too, and not by guesses that came without the drafter.
    pub(crate) catch_up: usize,
}

impl Default for Caution {
    /// The best of those tried on recorded answers, with the times of BENCHMARKS.md.
    fn default() -> Self {
        Self { sure: 0.9, wrong_costs: 32, catch_up: 8 }
    }
}

/// How the drafter has done for one sequence.
#[derive(Default)]
pub(crate) struct Trust {
    /// Tokens that came, less what wrong guesses cost.
    balance: i32,
}

impl Trust {
    /// Whether to ask the drafter, which has yet to compute `behind` tokens, after the answer has taken `steps`.
    pub(crate) fn allows(&self, caution: &Caution, behind: usize, steps: usize) -> bool {
        self.balance >= 0 && behind <= caution.catch_up.saturating_mul(steps)
    }

    /// Takes note of a step that gave `came` tokens, and whether the drafter was wrong about the last one.
    pub(crate) fn observe(&mut self, caution: &Caution, came: usize, was_wrong: bool) {
        // No step gives more tokens than the context holds.
        self.balance = (self.balance + came as i32).min(caution.wrong_costs);
        if was_wrong {
            self.balance -= caution.wrong_costs;
        }
    }
}

/// What is drafted for one sequence.
pub(crate) struct Draft<'a> {
    /// Those that are certain, and then the guesses.
    pub(crate) tokens: &'a mut Vec<u32>,
    /// The sequence's block table, long enough for `longest`.
    blocks: &'a [u32],
    /// How many of the tokens are in the drafter's cache.
    pub(crate) cached: usize,
    /// How many are to be after the next forward pass.
    pub(crate) next: usize,
    /// How many tokens there may be with the guesses.
    longest: usize,
}

impl Drafter {
    /// To draft for `served`, with a cache of `blocks` blocks.
    ///
    /// # Errors
    /// If there is no memory for the cache.
    pub(crate) fn new(draft: DraftModel, served: &Model, kv_type: KvType, blocks: usize) -> Result<Self, Error> {
        let DraftModel(model) = draft;
        let vocabulary = model.config().vocabulary.min(served.config().vocabulary);
        let cache = model.new_cache(kv_type, blocks)?;
        Ok(Self {
            model,
            cache,
            workspace: Workspace::default(),
            logits: Vec::new(),
            vocabulary,
            caution: Caution::default(),
        })
    }

    /// Prepares to put at most `most` guesses behind the tokens of a sequence, of which the drafter's cache holds the first
    /// `cached`; no more than `budget` of the others go there in a step. `None` where there is no room for a guess, or the draft
    /// model does not know a token.
    pub(crate) fn prepare<'a>(
        &self,
        tokens: &'a mut Vec<u32>,
        blocks: &'a [u32],
        cached: usize,
        most: usize,
        budget: usize,
    ) -> Option<Draft<'a>> {
        let config = self.model.config();
        let longest = (tokens.len() + most).min(config.context_length);
        let next = tokens.len().min(cached + budget);
        let knows = |&id: &u32| (id as usize) < config.vocabulary;
        let can = tokens.len() < longest && cached < next && tokens[cached..next].iter().all(knows);
        can.then_some(Draft { tokens, blocks, cached, next, longest })
    }

    /// Puts guesses behind the tokens of each sequence, one for all of them in a forward pass, until a sequence is as long as
    /// it may be or the drafter is not sure of one. Where not all that is certain is in the cache yet, there is none.
    pub(crate) fn draft(&mut self, compute: &Compute, drafts: &mut [Draft<'_>]) {
        let mut under_way: Vec<&mut Draft<'_>> = drafts.iter_mut().collect();
        while !under_way.is_empty() {
            let chunks: Vec<Chunk<'_>> = under_way.iter().map(|draft| draft.chunk()).collect();
            self.model.forward(compute, &mut self.cache, &chunks, &mut self.workspace, &mut self.logits);
            let mut rows = self.logits.chunks_exact(self.model.config().vocabulary);
            under_way.retain_mut(|draft| {
                draft.cached = draft.next;
                if draft.cached < draft.tokens.len() {
                    return false;
                }
                let row = &rows.next().expect("a row for each that asked for it")[..self.vocabulary];
                let likeliest = argmax(row);
                draft.tokens.push(likeliest as u32);
                draft.next += 1;
                // Not where it is NaN.
                let is_sure = || math::exp(row[likeliest] - compute.vector().log_sum_exp(row)) >= self.caution.sure;
                draft.tokens.len() < draft.longest && is_sure()
            });
        }
    }
}

impl Draft<'_> {
    /// What runs through the drafter next.
    fn chunk(&self) -> Chunk<'_> {
        let logits = if self.next == self.tokens.len() { LogitRows::Last } else { LogitRows::None };
        Chunk { tokens: &self.tokens[self.cached..self.next], start: self.cached, blocks: self.blocks, logits }
    }
}
