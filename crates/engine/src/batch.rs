//! The requests under way and one step of them: a plain state machine that the engine's thread drives.

use crate::blocks::{BlockPool, BlockTable};
use crate::drafter::{Drafter, Trust};
use crate::lookup::Lookup;
use crate::request::{Event, FinishReason, Finished, Flow, GenerationRequest, TokenEvent};
use crate::sampler::{Sampler, are_finite, log_probabilities};
use crate::sink::GuardedSink;
use crate::stop::{Released, StopMatcher};
use freehold_formats::{Decoder, Tokenizer};
use freehold_kernels::Compute;
use freehold_model::{Cache, Chunk, LogitRows, Model, Workspace};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prompt tokens and guesses that one step takes up, over all requests: enough to fill the kernels, few enough that a long
/// prompt does not keep others from their next token for long.
pub(crate) const PROMPT_TOKENS_PER_STEP: usize = 512;

/// One request under way.
struct Sequence {
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// How many of them are in the cache.
    cached: usize,
    /// How many of those it did not compute itself.
    reused: usize,
    /// Length at which it ends.
    longest: usize,
    blocks: BlockTable,
    logprobs: Option<usize>,
    sampler: Sampler,
    lookup: Lookup,
    trust: Trust,
    drafted: usize,
    accepted: usize,
    decoder: Decoder,
    stop: StopMatcher,
    sink: GuardedSink,
    started: Instant,
    first_token: Option<Instant>,
}

/// All requests under way, their cache, and what one model needs to go on with them.
pub(crate) struct Batch {
    cache: Cache,
    drafter: Option<Drafter>,
    pool: BlockPool,
    sequences: Vec<Sequence>,
    workspace: Workspace,
    logits: Vec<f32>,
    prompt_tokens_per_step: usize,
    draft_max: usize,
}

/// What one sequence does in a step.
struct Part {
    /// The sequence's place.
    index: usize,
    /// Tokens that are certain and run through the model, and guesses that do so behind them.
    certain: usize,
    drafted: usize,
    /// Tokens, guesses among them, that the drafter has in its cache, where it was asked.
    drafter_cached: usize,
    logits: LogitRows,
}

impl Part {
    /// Tokens that run through the model.
    fn count(&self) -> usize {
        self.certain + self.drafted
    }
}

impl Batch {
    /// `blocks` blocks of cache, shared by all requests, and as many of the drafter's; drafts of at most `draft_max` tokens.
    pub(crate) fn new(cache: Cache, drafter: Option<Drafter>, blocks: u32, draft_max: usize) -> Self {
        Self {
            cache,
            drafter,
            pool: BlockPool::new(blocks),
            sequences: Vec::new(),
            workspace: Workspace::default(),
            logits: Vec::new(),
            prompt_tokens_per_step: PROMPT_TOKENS_PER_STEP,
            draft_max,
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
        self.pool.has_room(length)
    }

    /// Takes up a request that there is room for; its answer ends at `longest` tokens, the prompt's among them.
    pub(crate) fn add(
        &mut self,
        request: GenerationRequest,
        sink: GuardedSink,
        longest: usize,
        tokenizer: &Arc<Tokenizer>,
    ) {
        self.sequences.push(Sequence {
            prompt_tokens: request.prompt.len(),
            cached: 0,
            reused: 0,
            longest,
            blocks: self.pool.open(longest, request.cache_salt),
            logprobs: request.logprobs,
            sampler: Sampler::new(request.sampling, &request.prompt),
            lookup: Lookup::new(),
            trust: Trust::default(),
            drafted: 0,
            accepted: 0,
            decoder: Decoder::new(Arc::clone(tokenizer), false),
            stop: StopMatcher::new(request.stop),
            sink,
            started: Instant::now(),
            first_token: None,
            tokens: request.prompt,
        });
    }

    /// One forward pass of everything under way: a chunk of each prompt, a token of each answer and what is drafted behind it.
    /// Tells the sinks, and drops what has ended.
    pub(crate) fn step(&mut self, model: &Model, tokenizer: &Tokenizer, compute: &Compute) {
        let parts = self.plan(compute);
        let chunk = |part: &Part| {
            let Sequence { tokens, cached, blocks, .. } = &self.sequences[part.index];
            let tokens = &tokens[*cached..cached + part.count()];
            Chunk { tokens, start: *cached, blocks: blocks.blocks(), logits: part.logits }
        };
        let chunks: Vec<Chunk<'_>> = parts.iter().map(chunk).collect();
        model.forward(compute, &mut self.cache, &chunks, &mut self.workspace, &mut self.logits);
        let vocabulary = model.config().vocabulary;
        let mut logits = &self.logits[..];
        let mut ended = Vec::new();
        for part in parts {
            let sequence = &mut self.sequences[part.index];
            let rows = logits
                .split_off(..part.logits.count(part.count()) * vocabulary)
                .expect("the rows that each chunk asked for");
            let draft = sequence.tokens.split_off(sequence.tokens.len() - part.drafted);
            sequence.cached += part.certain;
            let outcome = if part.logits == LogitRows::None {
                let event = Event::Prompt { done: sequence.cached, total: sequence.prompt_tokens };
                if sequence.sink.send(event) == Flow::Cancel {
                    Some((FinishReason::Cancelled, String::new()))
                } else {
                    None
                }
            } else {
                let known = sequence.tokens.len();
                let rows = rows.chunks_exact(vocabulary);
                let outcome = sequence.next_tokens(rows, &draft, self.draft_max, tokenizer, compute);
                if let Some(drafter) = &self.drafter {
                    let came = sequence.tokens.len() - known;
                    let was_wrong = part.drafter_cached > 0 && came <= part.drafted;
                    sequence.trust.observe(&drafter.caution, came, was_wrong);
                }
                outcome
            };
            self.pool.note_drafter_cached(&sequence.blocks, part.drafter_cached.min(sequence.cached));
            if let Some((reason, text)) = outcome {
                sequence.finish(reason, text);
                ended.push(part.index);
            }
        }
        for index in ended.into_iter().rev() {
            let Sequence { tokens, cached, mut blocks, .. } = self.sequences.remove(index);
            self.pool.share(&mut blocks, &tokens[..cached], cached);
            self.pool.close(blocks);
        }
    }

    /// Who does what in the next step. Answers come first, a token each; what is left of the step's tokens goes to prompts,
    /// the oldest first, and then to drafts, which are put behind their sequences' tokens.
    fn plan(&mut self, compute: &Compute) -> Vec<Part> {
        let mut budget = self.prompt_tokens_per_step;
        let mut parts = Vec::with_capacity(self.sequences.len());
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            // The last token is always computed: its logits are wanted.
            let before_last = &sequence.tokens[..sequence.tokens.len() - 1];
            let cached = self.pool.share(&mut sequence.blocks, before_last, sequence.cached);
            sequence.reused += cached - sequence.cached;
            sequence.cached = cached;
            let waiting = sequence.tokens.len() - sequence.cached;
            let is_prompt = sequence.is_prompt();
            let count = if is_prompt { waiting.min(budget) } else { waiting };
            if count == 0 {
                continue;
            }
            if is_prompt {
                budget -= count;
            }
            let logits = if count == waiting { LogitRows::Last } else { LogitRows::None };
            parts.push(Part { index, certain: count, drafted: 0, drafter_cached: 0, logits });
        }
        if self.draft_max > 0 {
            self.draft(&mut parts, budget, compute);
        }
        for part in &parts {
            let Sequence { blocks, cached, .. } = &mut self.sequences[part.index];
            self.pool.grow(blocks, *cached + part.count());
        }
        parts
    }

    /// Puts guesses behind the last tokens of answers: what the look-up finds, which costs nothing, and where it finds nothing
    /// what the drafter says. The drafter computes at most `budget` tokens that are certain.
    fn draft(&mut self, parts: &mut [Part], mut budget: usize, compute: &Compute) {
        // A guess costs as much as a token that is certain, and all wait for it: each further answer takes the place of one.
        let answers = self.sequences.iter().filter(|sequence| !sequence.is_prompt()).count();
        let mut guesses = budget.min(self.draft_max.saturating_sub(answers.saturating_sub(1)));
        // The drafter's passes serve all, so that none gets more of them than the others.
        let share = guesses / answers.max(1);
        let mut sequences = self.sequences.iter_mut().enumerate();
        let (mut asking, mut drafts) = (Vec::new(), Vec::new());
        for part in parts {
            let is_its = |(index, _): &(usize, _)| *index == part.index;
            let (_, sequence) = sequences.find(is_its).expect("parts in the order of their sequences");
            if sequence.is_prompt() {
                continue;
            }
            part.logits = LogitRows::All;
            let known = sequence.tokens.len();
            let room = sequence.longest - known - 1;
            sequence.tokens.extend_from_slice(sequence.lookup.propose(&sequence.tokens, guesses.min(room)));
            part.drafted = sequence.tokens.len() - known;
            guesses -= part.drafted;
            let Some(drafter) = self.drafter.as_ref().filter(|_| part.drafted == 0) else { continue };
            let cached = self.pool.drafter_cached(&sequence.blocks);
            let steps = known - sequence.prompt_tokens - sequence.accepted;
            if !sequence.trust.allows(&drafter.caution, known - cached, steps) {
                continue;
            }
            let most = share.min(guesses).min(room);
            self.pool.grow(&mut sequence.blocks, known + most);
            let blocks = sequence.blocks.blocks();
            if let Some(draft) = drafter.prepare(&mut sequence.tokens, blocks, cached, most, budget) {
                guesses -= most;
                budget -= draft.next - draft.cached;
                drafts.push(draft);
                asking.push((part, known));
            }
        }
        if let Some(drafter) = &mut self.drafter {
            drafter.draft(compute, &mut drafts);
        }
        for ((part, known), draft) in asking.into_iter().zip(drafts) {
            part.drafted = draft.tokens.len() - known;
            part.drafter_cached = draft.cached;
        }
    }

    /// Drops everything under way and its sinks, and what the cache holds: what a step that failed has left cannot be gone on
    /// with.
    pub(crate) fn abandon_all(&mut self) {
        self.sequences.clear();
        self.pool = BlockPool::new(self.pool.count());
    }

    /// Ends everything under way.
    pub(crate) fn cancel_all(&mut self) {
        for mut sequence in self.sequences.drain(..) {
            sequence.finish(FinishReason::Cancelled, String::new());
            self.pool.close(sequence.blocks);
        }
    }
}

impl Sequence {
    fn is_prompt(&self) -> bool {
        self.cached < self.prompt_tokens
    }

    /// Chooses a token from each row of logits, as long as the tokens chosen are those of `draft`: then the next row is of
    /// the very tokens that the answer has. `Some` when the answer has ended, with text still to be sent.
    fn next_tokens<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a [f32]>,
        draft: &[u32],
        draft_max: usize,
        tokenizer: &Tokenizer,
        compute: &Compute,
    ) -> Option<(FinishReason, String)> {
        let known = self.tokens.len();
        self.drafted += draft.len();
        for (row, place) in rows.zip(0..) {
            let outcome = self.next_token(row, tokenizer, compute);
            let chosen = self.tokens.get(known + place);
            let is_accepted = chosen.is_some() && chosen == draft.get(place);
            self.accepted += usize::from(is_accepted);
            if outcome.is_some() {
                return outcome;
            }
            if !is_accepted {
                break;
            }
            // Its keys and values are there. Those of guesses that were wrong are not counted, and will be written over.
            self.cached += 1;
        }
        self.lookup.observe(&self.tokens[known..], draft_max);
        None
    }

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
            cached_tokens: self.reused,
            completion_tokens: self.tokens.len() - self.prompt_tokens,
            prefill_time: first_token - self.started,
            decode_time: self.first_token.map_or(Duration::ZERO, |first| now - first),
            drafted_tokens: self.drafted,
            accepted_tokens: self.accepted,
        };
        // The answer is over; whether the sink wants more does not matter.
        let _ = self.sink.send(Event::Finished(finished));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use crate::drafter::Caution;
    use crate::{DraftModel, Sampling, TextModel};
    use freehold_base::Digest;
    use freehold_formats::{Checkpoint, Gguf};
    use freehold_kernels::{Isa, KV_BLOCK, KvType};
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::Mutex;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tiny/tiny-llama.gguf");
    /// A model of 320 tokens, where the tiny one has 359.
    const OTHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden/llama_hd");
    /// The longest prompt and answer of a schedule, and blocks for three of them.
    const LONGEST_PROMPT: usize = 150;
    const LONGEST_ANSWER: usize = 24;
    const BLOCKS: u32 = 9;

    /// Some begin like `common`, and the others somehow.
    fn any_request(chance: &mut Chance, vocabulary: usize, common: &[u32]) -> GenerationRequest {
        let length = 1 + chance.below(LONGEST_PROMPT);
        // Any tokens, or a phrase over and over.
        let period = 1 + chance.below(12);
        let phrase = chance.one_of(&[length, period]);
        let phrase: Vec<u32> = (0..phrase).map(|_| chance.below(vocabulary) as u32).collect();
        let own = chance.below(8).min(length);
        let alike = chance.one_of(&[0, length - own, length]);
        GenerationRequest {
            prompt: common[..alike].iter().chain(phrase.iter().cycle()).copied().take(length).collect(),
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
            cache_salt: chance.one_of(&[None, None, None, Some(Digest::of(b"a salt"))]),
        }
    }

    /// What a sink was told: a token with the bits of all log-probabilities, or the end.
    #[derive(Clone, PartialEq, Debug)]
    enum Told {
        Token(u32, String, Vec<(u32, u32)>),
        End(FinishReason, String),
    }

    /// What was told, and how the answer came about.
    #[derive(Default)]
    struct Record {
        told: Vec<Told>,
        finished: Option<Finished>,
    }

    /// A sink that writes down what it is told, and leaves after `patience` events.
    fn sink(record: &Arc<Mutex<Record>>, mut patience: usize) -> GuardedSink {
        let record = Arc::clone(record);
        GuardedSink::new(Box::new(move |event| {
            let mut record = record.lock().unwrap();
            let told_now = match event {
                Event::Prompt { .. } => None,
                Event::Token(TokenEvent { id, text, logprobs }) => {
                    let top = logprobs.unwrap().top.into_iter();
                    Some(Told::Token(id, text, top.map(|(id, logprob)| (id, logprob.to_bits())).collect()))
                }
                Event::Finished(finished) => {
                    record.finished = Some(finished.clone());
                    Some(Told::End(finished.reason, finished.text))
                }
            };
            record.told.extend(told_now);
            let more = patience > 0;
            patience = patience.saturating_sub(1);
            if more { Flow::Continue } else { Flow::Cancel }
        }))
    }

    /// What drafts beside the look-up.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum Drafting {
        Nothing,
        /// The model itself, and so always right at temperature 0.
        Itself,
        /// The model with its logits negated: what it finds most likely is what the model finds least so.
        Contrary,
        /// A model with another vocabulary.
        Other,
    }

    impl Drafting {
        const ALL: [Self; 4] = [Self::Nothing, Self::Itself, Self::Contrary, Self::Other];

        fn drafter(self, served: &Model, compute: &Compute, kv_type: KvType) -> Option<Drafter> {
            let checkpoint = match self {
                Self::Nothing => return None,
                Self::Itself => Checkpoint::open(TINY.as_ref()).unwrap(),
                Self::Contrary => contrary(),
                Self::Other => Checkpoint::open(OTHER.as_ref()).unwrap(),
            };
            let model = DraftModel::unchecked(Model::load(&checkpoint, compute, &mut |_| {}).unwrap());
            Some(Drafter::new(model, served, kv_type, BLOCKS as usize).unwrap())
        }
    }

    /// The tiny model with the signs of its last norm, and so of all logits, turned.
    fn contrary() -> Checkpoint {
        let mut file = std::fs::read(TINY).unwrap();
        let norm = Gguf::from_bytes(file.clone()).unwrap().tensor("output_norm.weight").unwrap().bytes.to_vec();
        let place = file.windows(norm.len()).position(|bytes| bytes == norm).unwrap();
        for number in file[place..place + norm.len()].chunks_exact_mut(4) {
            number[3] ^= 0x80;
        }
        Checkpoint::Gguf(Gguf::from_bytes(file).unwrap())
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
        let new_batch =
            |kv_type, drafter| Batch::new(model.new_cache(kv_type, BLOCKS as usize).unwrap(), drafter, BLOCKS, 0);
        let (mut whole, mut cut, mut together, mut reused) = (0, 0, 0, 0);
        // Guesses that came true, and that did not, by what drafted.
        let mut guesses: BTreeMap<Drafting, (usize, usize)> = BTreeMap::new();
        for seed in 0..40 {
            let mut chance = Chance::new(seed);
            let kv_type = chance.one_of(&KvType::ALL);
            let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
            let compute = Compute::new(chance.one_of(&isas), 1 + chance.below(3)).unwrap();
            let vocabulary = model.config().vocabulary;
            let common: Vec<u32> = (0..LONGEST_PROMPT).map(|_| chance.below(vocabulary) as u32).collect();
            let requests: Vec<_> =
                (0..1 + chance.below(8)).map(|_| any_request(&mut chance, vocabulary, &common)).collect();

            let drafting = Drafting::ALL[seed as usize % Drafting::ALL.len()];
            let mut drafter = drafting.drafter(&model, &compute, kv_type);
            if let Some(drafter) = &mut drafter {
                drafter.caution = Caution {
                    sure: chance.one_of(&[0.0, 0.9]),
                    wrong_costs: chance.one_of(&[0, 2, 32]),
                    catch_up: chance.one_of(&[8, 500]),
                };
            }
            let (mut batch, mut abandoned) = (new_batch(kv_type, drafter), false);
            let records: Vec<_> = requests.iter().map(|_| Arc::<Mutex<Record>>::default()).collect();
            let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
            while !(waiting.is_empty() && batch.is_empty()) {
                while let Some(&next) = waiting.front()
                    && (batch.is_empty() || chance.below(2) == 0)
                {
                    let patience = if chance.below(3) == 0 { chance.below(LONGEST_ANSWER) } else { usize::MAX };
                    if !add(&mut batch, &requests[next], sink(&records[next], patience)) {
                        break;
                    }
                    waiting.pop_front();
                }
                together = together.max(batch.len());
                batch.prompt_tokens_per_step = 1 + chance.below(LONGEST_PROMPT);
                batch.draft_max = chance.below(9);
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
            assert!(batch.has_room(BLOCKS as usize * KV_BLOCK), "seed {seed}: blocks are lost");

            for (number, (request, record)) in requests.iter().zip(records).enumerate() {
                let mut lone = new_batch(kv_type, None);
                let alone = Arc::<Mutex<Record>>::default();
                assert!(add(&mut lone, request, sink(&alone, usize::MAX)));
                while !lone.is_empty() {
                    lone.step(&model, tokenizer, &loading);
                }
                let (record, alone) = (record.lock().unwrap(), alone.lock().unwrap());
                if let Some(finished) = &record.finished {
                    let (right, wrong) = guesses.entry(drafting).or_default();
                    *right += finished.accepted_tokens;
                    *wrong += finished.drafted_tokens - finished.accepted_tokens;
                    reused += finished.cached_tokens;
                }
                let lone = alone.finished.as_ref().unwrap();
                assert_eq!((lone.drafted_tokens, lone.cached_tokens), (0, 0));
                let (found, mut expected) = (&record.told, alone.told.clone());
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
                assert!(*found == expected, "seed {seed}, request {number}: not as when alone");
            }
        }
        assert!(
            whole > 50 && cut > 20 && together > 4,
            "{whole} whole answers, {cut} cut, {together} together at most"
        );
        assert!(reused > 10 * KV_BLOCK, "{reused} tokens taken over");
        let [(nothing_right, nothing_wrong), (itself_right, _), (_, contrary_wrong), _] =
            Drafting::ALL.map(|drafting| guesses[&drafting]);
        assert!(nothing_right > 20 && itself_right > nothing_right, "guesses that came true, and not: {guesses:?}");
        assert!(contrary_wrong > nothing_wrong + 10, "guesses that came true, and not: {guesses:?}");
    }
}
