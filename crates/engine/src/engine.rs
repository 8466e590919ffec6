//! The engine's handle and its thread.

use crate::batch::Batch;
use crate::drafter::{DraftModel, Drafter};
use crate::request::{Event, FinishReason, Finished, GenerationRequest, StartError, SubmitError};
use crate::sink::{GuardedSink, Sink};
use freehold_formats::Tokenizer;
use freehold_kernels::{Compute, KV_BLOCK, KvType};
use freehold_model::{Config, Model};
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How an engine runs. None of it changes a bit but the cache's type, which the numerics id names.
///
/// The cache holds two contexts, and a request reserves its share when it is taken up: its prompt and all that it may
/// answer, a whole context where it names no `max_tokens`. Requests are taken up in the order in which they came, so one
/// that does not fit yet keeps smaller ones behind it waiting.
///
/// What is in the cache stays there until its place is needed: a request that begins like an earlier one, or like one under
/// way, takes over what was computed of the beginning, in blocks of 64 tokens.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// How keys and values are kept.
    pub kv_type: KvType,
    /// The longest prompt and answer together, no more than the model was made for; `None`: that, at most 32,768.
    pub context_length: Option<usize>,
    /// Requests worked on together.
    pub batch: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// The most tokens that are guessed ahead; 0: none. They are those that have followed the last ones where these have stood
    /// before, or else what a draft model says. Guesses run through the model together with the last token of the answer, and
    /// those that are not what it would have chosen are dropped.
    ///
    /// With 16, answers that repeat what they are about (code that is edited, texts that are quoted) come up to four times as
    /// fast, and free ones somewhat faster (BENCHMARKS.md): where guesses fail, fewer are made, and in the end none. Answers
    /// under way together make fewer.
    pub draft_max: usize,
}

/// Where no context length is asked for: longer ones are seldom wanted and cost memory.
const DEFAULT_CONTEXT: usize = 32_768;

impl Default for EngineOptions {
    fn default() -> Self {
        Self { kv_type: KvType::default(), context_length: None, batch: 8, queue: 64, draft_max: 16 }
    }
}

/// A model being served. Dropping it ends its requests.
pub struct Engine {
    config: Config,
    tokenizer: Arc<Tokenizer>,
    context_length: usize,
    numerics: String,
    queue: Mutex<Option<SyncSender<Submission>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Submission {
    request: GenerationRequest,
    sink: GuardedSink,
    longest: usize,
}

/// The numerics id of the CPU contract with a type of cache: what receipts name.
pub fn numerics_id(kv_type: KvType) -> String {
    format!("cpu-1/kv-{kv_type}")
}

impl Engine {
    /// Starts serving on a thread of its own, with the kernels and threads of `compute`. A draft model's guesses change
    /// nothing but the speed; its cache is as long as the model's and comes beside it.
    ///
    /// # Errors
    /// If the system gives no memory for the caches or no thread.
    pub fn start(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        draft_model: Option<DraftModel>,
        compute: Compute,
        options: EngineOptions,
    ) -> Result<Self, StartError> {
        let config = model.config().clone();
        let context_length = options.context_length.unwrap_or(DEFAULT_CONTEXT).clamp(1, config.context_length.max(1));
        // Two full contexts: one long request does not keep all others waiting.
        let blocks = 2 * context_length.div_ceil(KV_BLOCK);
        let cache = model.new_cache(options.kv_type, blocks)?;
        let new_drafter = |draft_model| Drafter::new(draft_model, &model, options.kv_type, blocks);
        let drafter = draft_model.map(new_drafter).transpose()?;
        let batch = Batch::new(cache, drafter, blocks as u32, options.draft_max);
        let (sender, receiver) = sync_channel(options.queue.max(1));
        let stopping = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            model,
            tokenizer: Arc::clone(&tokenizer),
            compute,
            batch,
            batch_size: options.batch.max(1),
            receiver,
            stopping: Arc::clone(&stopping),
            waiting: VecDeque::new(),
        };
        let thread = std::thread::Builder::new().name("freehold-engine".to_owned()).spawn(move || worker.run())?;
        let numerics = numerics_id(options.kv_type);
        let queue = Mutex::new(Some(sender));
        Ok(Self { config, tokenizer, context_length, numerics, queue, stopping, thread: Some(thread) })
    }

    /// The model's hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The longest prompt and answer together, in tokens.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The numerics id of the answers.
    pub fn numerics(&self) -> &str {
        &self.numerics
    }

    /// Queues a request; its events go to `sink`. The last one is [`Event::Finished`], unless the engine fails, which drops
    /// the sink without it.
    ///
    /// # Errors
    /// If it does not fit the context, makes no sense, or the queue is full.
    pub fn submit(&self, request: GenerationRequest, sink: Sink) -> Result<(), SubmitError> {
        let longest = self.check(&request)?;
        let submission = Submission { request, sink: GuardedSink::new(sink), longest };
        let sent = {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            match queue.as_ref() {
                Some(queue) => queue.try_send(submission),
                None => Err(TrySendError::Disconnected(submission)),
            }
        };
        // After the lock: a sink that is refused is dropped here, and what it owns may submit again.
        sent.map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::QueueFull,
            TrySendError::Disconnected(_) => SubmitError::ShuttingDown,
        })
    }

    /// The length at which the answer ends at the latest.
    fn check(&self, request: &GenerationRequest) -> Result<usize, SubmitError> {
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(SubmitError::invalid("prompt", "is empty: give at least one token"));
        }
        if prompt_tokens >= self.context_length {
            return Err(SubmitError::ContextLengthExceeded { prompt_tokens, context_length: self.context_length });
        }
        request.check_settings()?;
        let unknown =
            |id: u32| format!("names token {id}, which is not in the vocabulary of {}", self.config.vocabulary);
        let is_unknown = |id: u32| id as usize >= self.config.vocabulary;
        if let Some(&id) = request.prompt.iter().find(|&&id| is_unknown(id)) {
            return Err(SubmitError::invalid("prompt", unknown(id)));
        }
        let mut biased = BTreeSet::new();
        for &(id, _) in &request.sampling.logit_bias {
            if is_unknown(id) {
                return Err(SubmitError::invalid("logit_bias", unknown(id)));
            }
            if !biased.insert(id) {
                return Err(SubmitError::invalid("logit_bias", format!("names token {id} twice")));
            }
        }
        let wanted = prompt_tokens.saturating_add(request.max_tokens.unwrap_or(usize::MAX));
        Ok(wanted.min(self.context_length))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The flag ends what is under way and what is queued; a worker that waits is woken by the loss of the sender.
        self.stopping.store(true, Ordering::Relaxed);
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // A sink may hold the last handle, and is dropped on the thread itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A panic of the worker has been printed, and its requests have been dropped.
            let _ = thread.join();
        }
    }
}

struct Worker {
    model: Model,
    tokenizer: Arc<Tokenizer>,
    compute: Compute,
    batch: Batch,
    batch_size: usize,
    receiver: Receiver<Submission>,
    /// The engine is being dropped.
    stopping: Arc<AtomicBool>,
    /// Those for which the cache had no room yet: at most one, taken from the queue before that was known.
    waiting: VecDeque<Submission>,
}

impl Worker {
    fn run(mut self) {
        while self.admit() {
            let Self { model, tokenizer, compute, batch, .. } = &mut self;
            // A bug in one step must not take the whole server down with a silent thread.
            if catch_unwind(AssertUnwindSafe(|| batch.step(model, tokenizer, compute))).is_err() {
                self.batch.abandon_all();
            }
        }
        self.batch.cancel_all();
        // The queue has lost its sender, or will at once: this ends.
        for submission in self.waiting.into_iter().chain(self.receiver) {
            cancel(submission);
        }
    }

    /// Takes up what there is room for; waits where there is nothing to do. False when the engine is dropped.
    fn admit(&mut self) -> bool {
        loop {
            if self.stopping.load(Ordering::Relaxed) {
                return false;
            }
            if self.batch.len() >= self.batch_size {
                return true;
            }
            let submission = match self.waiting.pop_front() {
                Some(submission) => submission,
                None if self.batch.is_empty() => match self.receiver.recv() {
                    Ok(submission) => submission,
                    Err(_) => return false,
                },
                None => match self.receiver.try_recv() {
                    Ok(submission) => submission,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                },
            };
            if !self.batch.has_room(submission.longest) {
                self.waiting.push_front(submission);
                return true;
            }
            let Submission { request, sink, longest } = submission;
            self.batch.add(request, sink, longest, &self.tokenizer);
        }
    }
}

fn cancel(mut submission: Submission) {
    let finished = Finished {
        reason: FinishReason::Cancelled,
        text: String::new(),
        prompt_tokens: submission.request.prompt.len(),
        cached_tokens: 0,
        completion_tokens: 0,
        prefill_time: Duration::ZERO,
        decode_time: Duration::ZERO,
        drafted_tokens: 0,
        accepted_tokens: 0,
    };
    // The answer is over; whether the sink wants more does not matter.
    let _ = submission.sink.send(Event::Finished(finished));
}
