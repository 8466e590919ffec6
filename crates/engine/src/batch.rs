//! The requests under way and one step of them: a plain state machine that the engine's thread drives.

use crate::request::{Event, FinishReason, Finished, Flow, GenerationRequest, TokenEvent};
use crate::sampler::{Sampler, are_finite, log_probabilities};
use crate::sink::GuardedSink;
use crate::stop::{Released, StopMatcher};
use freehold_formats::{Decoder, Tokenizer};
use freehold_kernels::{Compute, KV_BLOCK};
use freehold_model::{Cache, Chunk, LogitRows, Model, Workspace};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prompt tokens that one step takes up, over all requests: enough to fill the kernels, few enough that a long prompt
/// does not keep others from their next token for long.
const PROMPT_TOKENS_PER_STEP: usize = 512;

/// One request under way.
struct Sequence {
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// How many of them are in the cache.
    cached: usize,
    /// Length at which it ends.
    longest: usize,
    blocks: Vec<u32>,
    logprobs: Option<usize>,
    sampler: Sampler,
    decoder: Decoder,
    stop: StopMatcher,
    sink: GuardedSink,
    started: Instant,
    first_token: Option<Instant>,
}

/// All requests under way, their cache, and what one model needs to go on with them.
pub(crate) struct Batch {
    cache: Cache,
    free_blocks: Vec<u32>,
    sequences: Vec<Sequence>,
    workspace: Workspace,
    logits: Vec<f32>,
    prompt_tokens_per_step: usize,
}

impl Batch {
    /// `blocks` blocks of cache, shared by all requests.
    pub(crate) fn new(cache: Cache, blocks: u32) -> Self {
        Self {
            cache,
            free_blocks: (0..blocks).rev().collect(),
            sequences: Vec::new(),
            workspace: Workspace::default(),
            logits: Vec::new(),
            prompt_tokens_per_step: PROMPT_TOKENS_PER_STEP,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there are cache blocks for a request of `length` tokens, answer included.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        length.div_ceil(KV_BLOCK) <= self.free_blocks.len()
    }

    /// Takes up a request that there is room for; its answer ends at `longest` tokens, the prompt's among them.
    pub(crate) fn add(
        &mut self,
        request: GenerationRequest,
        sink: GuardedSink,
        longest: usize,
        tokenizer: &Arc<Tokenizer>,
    ) {
        let rest = self.free_blocks.len() - longest.div_ceil(KV_BLOCK);
        self.sequences.push(Sequence {
            prompt_tokens: request.prompt.len(),
            cached: 0,
            longest,
            blocks: self.free_blocks.split_off(rest),
            logprobs: request.logprobs,
            sampler: Sampler::new(request.sampling, &request.prompt),
            decoder: Decoder::new(Arc::clone(tokenizer), false),
            stop: StopMatcher::new(request.stop),
            sink,
            started: Instant::now(),
            first_token: None,
            tokens: request.prompt,
        });
    }

    /// One forward pass of everything under way: a chunk of each prompt, a token of each answer. Tells the sinks, and
    /// drops what has ended.
    pub(crate) fn step(&mut self, model: &Model, tokenizer: &Tokenizer, compute: &Compute) {
        // Answers first: what is left of the step's tokens goes to prompts, the oldest first.
        let mut prompt_budget = self.prompt_tokens_per_step;
        let mut chunks = Vec::with_capacity(self.sequences.len());
        let mut members = Vec::with_capacity(self.sequences.len());
        for (index, sequence) in self.sequences.iter().enumerate() {
            let waiting = sequence.tokens.len() - sequence.cached;
            let is_prompt = sequence.cached < sequence.prompt_tokens;
            let count = if is_prompt { waiting.min(prompt_budget) } else { waiting };
            if count == 0 {
                continue;
            }
            if is_prompt {
                prompt_budget -= count;
            }
            let logits = if count == waiting { LogitRows::Last } else { LogitRows::None };
            let start = sequence.cached;
            let tokens = &sequence.tokens[start..start + count];
            chunks.push(Chunk { tokens, start, blocks: &sequence.blocks, logits });
            members.push((index, count, logits));
        }
        model.forward(compute, &mut self.cache, &chunks, &mut self.workspace, &mut self.logits);
        let mut rows = self.logits.chunks_exact(model.config().vocabulary);
        let mut ended = Vec::new();
        for (index, count, logits) in members {
            let sequence = &mut self.sequences[index];
            sequence.cached += count;
            let outcome = if logits == LogitRows::Last {
                let row = rows.next().expect("one row of logits for each chunk that asked");
                sequence.next_token(row, tokenizer, compute)
            } else {
                let event = Event::Prompt { done: sequence.cached, total: sequence.prompt_tokens };
                if sequence.sink.send(event) == Flow::Cancel {
                    Some((FinishReason::Cancelled, String::new()))
                } else {
                    None
                }
            };
            if let Some((reason, text)) = outcome {
                sequence.finish(reason, text);
                ended.push(index);
            }
        }
        for index in ended.into_iter().rev() {
            let sequence = self.sequences.remove(index);
            self.free_blocks.extend(sequence.blocks);
        }
    }

    /// Drops everything under way and its sinks: what a step that failed has left cannot be gone on with.
    pub(crate) fn abandon_all(&mut self) {
        for sequence in self.sequences.drain(..) {
            self.free_blocks.extend(sequence.blocks);
        }
    }

    /// Ends everything under way.
    pub(crate) fn cancel_all(&mut self) {
        for mut sequence in self.sequences.drain(..) {
            sequence.finish(FinishReason::Cancelled, String::new());
            self.free_blocks.extend(sequence.blocks);
        }
    }
}

impl Sequence {
    /// Chooses a token from its logits and tells the sink; `Some` when the answer has ended, with text still to be sent.
    fn next_token(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
        compute: &Compute,
    ) -> Option<(FinishReason, String)> {
        if !are_finite(logits) {
            return Some((FinishReason::Overflowed, String::new()));
        }
        let id = self.sampler.choose(logits, self.tokens.len());
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(id);
        if tokenizer.end_of_generation().contains(&id) {
            let text = self.decoder.finish();
            return Some((FinishReason::Stop, self.release_rest(&text)));
        }
        let text = self.decoder.push(id);
        let released = self.stop.push(&text);
        let (text, stopped) = match released {
            Released::Text(text) => (text, false),
            Released::Stopped(text) => (text, true),
        };
        let logprobs = self.logprobs.map(|top| log_probabilities(compute.vector(), logits, id, top));
        if self.sink.send(Event::Token(TokenEvent { id, text, logprobs })) == Flow::Cancel {
            return Some((FinishReason::Cancelled, String::new()));
        }
        if stopped {
            return Some((FinishReason::Stop, String::new()));
        }
        if self.tokens.len() >= self.longest {
            let text = self.decoder.finish();
            return Some((FinishReason::Length, self.release_rest(&text)));
        }
        None
    }

    fn release_rest(&mut self, text: &str) -> String {
        match self.stop.push(text) {
            Released::Text(text) => text + &self.stop.finish(),
            Released::Stopped(text) => text,
        }
    }

    fn finish(&mut self, reason: FinishReason, text: String) {
        let now = Instant::now();
        let first_token = self.first_token.unwrap_or(now);
        let finished = Finished {
            reason,
            text,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.tokens.len() - self.prompt_tokens,
            prefill_time: first_token - self.started,
            decode_time: self.first_token.map_or(Duration::ZERO, |first| now - first),
        };
        // The answer is over; whether the sink wants more does not matter.
        let _ = self.sink.send(Event::Finished(finished));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use crate::{Sampling, TextModel};
    use freehold_formats::Checkpoint;
    use freehold_kernels::{Isa, KvType};
    use std::collections::VecDeque;
    use std::sync::Mutex;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tiny/tiny-llama.gguf");
    /// The longest prompt and answer of a schedule, and blocks for three of them.
    const LONGEST_PROMPT: usize = 150;
    const LONGEST_ANSWER: usize = 24;
    const BLOCKS: u32 = 9;

    fn any_request(chance: &mut Chance, vocabulary: usize) -> GenerationRequest {
        let length = 1 + chance.below(LONGEST_PROMPT);
        GenerationRequest {
            prompt: (0..length).map(|_| chance.below(vocabulary) as u32).collect(),
            max_tokens: Some(1 + chance.below(LONGEST_ANSWER)),
            sampling: Sampling {
                temperature: chance.one_of(&[0.0, 0.7, 1.3]),
                top_k: chance.one_of(&[0, 5]),
                repetition_penalty: chance.one_of(&[1.0, 1.2]),
                seed: chance.below(1 << 20) as u64,
                ..Sampling::default()
            },
            stop: chance.one_of(&[&[][..], &[], &["the", "e"]]).iter().map(|&text| text.to_owned()).collect(),
            // Of every token, so that no bit of the logits goes unseen.
            logprobs: Some(vocabulary),
        }
    }

    /// What a sink was told: a token with the bits of all log-probabilities, or the end.
    #[derive(Clone, PartialEq, Debug)]
    enum Told {
        Token(u32, String, Vec<(u32, u32)>),
        End(FinishReason, String),
    }

    /// A sink that writes down what it is told, and leaves after `patience` events.
    fn sink(told: &Arc<Mutex<Vec<Told>>>, mut patience: usize) -> GuardedSink {
        let told = Arc::clone(told);
        GuardedSink::new(Box::new(move |event| {
            let told_now = match event {
                Event::Prompt { .. } => None,
                Event::Token(TokenEvent { id, text, logprobs }) => {
                    let top = logprobs.unwrap().top.into_iter();
                    Some(Told::Token(id, text, top.map(|(id, logprob)| (id, logprob.to_bits())).collect()))
                }
                Event::Finished(finished) => Some(Told::End(finished.reason, finished.text)),
            };
            told.lock().unwrap().extend(told_now);
            let more = patience > 0;
            patience = patience.saturating_sub(1);
            if more { Flow::Continue } else { Flow::Cancel }
        }))
    }

    #[test]
    fn no_schedule_changes_a_bit() {
        let checkpoint = Checkpoint::open(TINY.as_ref()).unwrap();
        let text = TextModel::open(&checkpoint).unwrap();
        let tokenizer = text.tokenizer();
        let loading = Compute::new(Isa::best(), 1).unwrap();
        let model = Model::load(&checkpoint, &loading, &mut |_| {}).unwrap();
        let add = |batch: &mut Batch, request: &GenerationRequest, sink: GuardedSink| {
            let longest = request.prompt.len() + request.max_tokens.unwrap();
            let has_room = batch.has_room(longest);
            if has_room {
                batch.add(request.clone(), sink, longest, tokenizer);
            }
            has_room
        };
        let new_batch = |kv_type| Batch::new(model.new_cache(kv_type, BLOCKS as usize).unwrap(), BLOCKS);
        let (mut whole, mut cut, mut together) = (0, 0, 0);
        for seed in 0..30 {
            let mut chance = Chance::new(seed);
            let kv_type = chance.one_of(&KvType::ALL);
            let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
            let compute = Compute::new(chance.one_of(&isas), 1 + chance.below(3)).unwrap();
            let requests: Vec<_> =
                (0..1 + chance.below(8)).map(|_| any_request(&mut chance, model.config().vocabulary)).collect();

            let (mut batch, mut abandoned) = (new_batch(kv_type), false);
            let told: Vec<_> = requests.iter().map(|_| Arc::<Mutex<Vec<Told>>>::default()).collect();
            let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
            while !(waiting.is_empty() && batch.is_empty()) {
                while let Some(&next) = waiting.front()
                    && (batch.is_empty() || chance.below(2) == 0)
                {
                    let patience = if chance.below(3) == 0 { chance.below(LONGEST_ANSWER) } else { usize::MAX };
                    if !add(&mut batch, &requests[next], sink(&told[next], patience)) {
                        break;
                    }
                    waiting.pop_front();
                }
                together = together.max(batch.len());
                batch.prompt_tokens_per_step = 1 + chance.below(LONGEST_PROMPT);
                batch.step(&model, tokenizer, &compute);
                match chance.below(120) {
                    0 => batch.cancel_all(),
                    1 => {
                        batch.abandon_all();
                        abandoned = true;
                    }
                    _ => {}
                }
            }
            assert_eq!(batch.free_blocks.len(), BLOCKS as usize, "seed {seed}: blocks are lost");

            for (number, (request, told)) in requests.iter().zip(told).enumerate() {
                let mut lone = new_batch(kv_type);
                let alone = Arc::<Mutex<Vec<Told>>>::default();
                assert!(add(&mut lone, request, sink(&alone, usize::MAX)));
                while !lone.is_empty() {
                    lone.step(&model, tokenizer, &loading);
                }
                let (found, mut expected) = (told.lock().unwrap().clone(), alone.lock().unwrap().clone());
                match found.last() {
                    Some(Told::End(FinishReason::Cancelled, _)) => {
                        expected.truncate(found.len() - 1);
                        expected.extend(found.last().cloned());
                        cut += 1;
                    }
                    Some(Told::End(..)) => whole += 1,
                    _ => {
                        assert!(abandoned, "seed {seed}, request {number}: no end");
                        expected.truncate(found.len());
                    }
                }
                assert!(found == expected, "seed {seed}, request {number}: not as when alone");
            }
        }
        assert!(
            whole > 50 && cut > 30 && together > 4,
            "{whole} whole answers, {cut} cut, {together} together at most"
        );
    }
}
