//! What the engine is asked and what it answers.

use freehold_base::Digest;
use std::ops::RangeInclusive;
use std::time::Duration;

/// One prompt to continue.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// The prompt's token ids, at least one.
    pub prompt: Vec<u32>,
    /// The most tokens to generate; `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer, at most [`Self::MAX_STOP_TEXTS`] of 1 to [`Self::MAX_STOP_BYTES`] bytes. They are not part
    /// of it, and no prefix of one is sent before it is known to be none.
    pub stop: Vec<String>,
    /// `Some(n)`: report the log-probability of each chosen token and the `n` most probable ones, at most
    /// [`Self::MAX_TOP_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// Whom the request shares computed prompts with: those of the same salt. Who shares with strangers can tell by the
    /// time of an answer what they have asked.
    pub cache_salt: Option<Digest>,
}

impl GenerationRequest {
    /// The most texts that end an answer (OpenAI API).
    pub const MAX_STOP_TEXTS: usize = 4;
    /// The most bytes of such a text: what may become one is held back and searched at every token.
    pub const MAX_STOP_BYTES: usize = 1024;
    /// The most tokens reported for each position beside the chosen one (OpenAI API).
    pub const MAX_TOP_LOGPROBS: usize = 20;

    /// Whether every setting is one that can be answered, whatever the model and the prompt.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] names the setting that is not.
    pub fn check_settings(&self) -> Result<(), SubmitError> {
        if self.max_tokens == Some(0) {
            return Err(SubmitError::invalid("max_tokens", "is 0: ask for at least one token"));
        }
        self.sampling.check()?;
        let stops = self.stop.len();
        if stops > Self::MAX_STOP_TEXTS {
            return Err(SubmitError::invalid(
                "stop",
                format!("has {stops} texts: at most {} can end an answer", Self::MAX_STOP_TEXTS),
            ));
        }
        if let Some(text) = self.stop.iter().find(|text| !(1..=Self::MAX_STOP_BYTES).contains(&text.len())) {
            return Err(SubmitError::invalid(
                "stop",
                format!("has a text of {} bytes: each must have 1 to {}", text.len(), Self::MAX_STOP_BYTES),
            ));
        }
        match self.logprobs {
            Some(top) if top > Self::MAX_TOP_LOGPROBS => Err(SubmitError::invalid(
                "logprobs",
                format!("is {top}: at most {} tokens are reported for each position", Self::MAX_TOP_LOGPROBS),
            )),
            _ => Ok(()),
        }
    }
}

/// How the next token is chosen. The default is greedy. Filters apply in this order: penalties and bias, top-k,
/// temperature, min-p, top-p, whose share is of what top-k left.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the most probable token (ties to the lower id).
    pub temperature: f32,
    /// Keep this many most probable tokens; 0: all.
    pub top_k: usize,
    /// Keep the fewest most probable tokens whose probabilities reach this sum; 1: all.
    pub top_p: f32,
    /// Drop tokens less probable than this share of the most probable one; 0: none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer, 0.01 to 100; 1: off (Keskar et al.
    /// 2019).
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that the answer holds (OpenAI API); at most [`Self::MAX_BIAS`] either way.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens, times how often the answer holds them (OpenAI API); likewise.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, each named once; likewise.
    pub logit_bias: Vec<(u32, f32)>,
    /// With the same seed, prompt and settings the answer is the same.
    pub seed: u64,
}

impl Sampling {
    /// The most that is added to a logit or subtracted from it (OpenAI API).
    pub const MAX_BIAS: f32 = 100.0;

    fn check(&self) -> Result<(), SubmitError> {
        let bias = -Self::MAX_BIAS..=Self::MAX_BIAS;
        let numbers = [
            ("temperature", self.temperature, 0.0..=f32::MAX),
            ("top_p", self.top_p, 0.0..=1.0),
            ("min_p", self.min_p, 0.0..=1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01..=100.0),
            ("presence_penalty", self.presence_penalty, bias.clone()),
            ("frequency_penalty", self.frequency_penalty, bias.clone()),
        ];
        for (name, number, range) in numbers {
            if !range.contains(&number) {
                return Err(SubmitError::invalid(name, format!("is {number}: it must be {}", in_words(&range))));
            }
        }
        match self.logit_bias.iter().find(|(_, number)| !bias.contains(number)) {
            Some((id, number)) => Err(SubmitError::invalid(
                "logit_bias",
                format!("adds {number} to token {id}: it must be {}", in_words(&bias)),
            )),
            None => Ok(()),
        }
    }
}

fn in_words(range: &RangeInclusive<f32>) -> String {
    let (low, high) = (range.start(), range.end());
    if *high == f32::MAX { format!("{low} or more") } else { format!("between {low} and {high}") }
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// A step of an answer.
#[derive(Clone, Debug)]
pub enum Event {
    /// A part of a long prompt has been taken in: sent between its chunks, so that who waits can leave.
    Prompt {
        /// Tokens taken in.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// One more token. The end-of-text token is none.
    Token(TokenEvent),
    /// The last event.
    Finished(Finished),
}

/// One generated token.
#[derive(Clone, Debug)]
pub struct TokenEvent {
    /// Its id.
    pub id: u32,
    /// The text that became certain with it: empty while a character or a possible stop text is incomplete.
    pub text: String,
    /// Filled where the request asked for log-probabilities.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities (natural logarithm) of one position: of the model's own distribution at temperature 1, before
/// penalties, bias and filters.
#[derive(Clone, Debug)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Of the most probable tokens, in descending order.
    pub top: Vec<(u32, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// The model ended it, or a stop text was met.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// The receiver asked to stop.
    Cancelled,
    /// The logits held NaN or infinity: numbers within the model overflowed, often those of an f16 cache.
    Overflowed,
}

/// The last event of an answer.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Text that was held back until now.
    pub text: String,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were in the cache already, computed for a request that began alike.
    pub cached_tokens: usize,
    /// Tokens generated, the end-of-text token included where there was one.
    pub completion_tokens: usize,
    /// From the start of the prompt's first chunk to the first generated token.
    pub prefill_time: Duration,
    /// From the first generated token to the last.
    pub decode_time: Duration,
    /// Tokens that were guessed and run through the model together with the last one that was certain
    /// ([`EngineOptions::draft_max`](crate::EngineOptions::draft_max)).
    pub drafted_tokens: usize,
    /// Those of them that came true. Each saved a step.
    pub accepted_tokens: usize,
}

/// What the receiver of events wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// More events.
    Continue,
    /// None; the request is dropped.
    Cancel,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no memory for the cache.
    #[error(transparent)]
    Cache(#[from] freehold_model::Error),
    /// The system gives no thread.
    #[error("the engine's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {prompt_tokens} tokens, the context holds {context_length}: shorten the prompt")]
    ContextLengthExceeded {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// Tokens that fit, prompt and answer together.
        context_length: usize,
    },
    /// A part of the request makes no sense.
    #[error("{setting} {problem}")]
    Invalid {
        /// The field of [`GenerationRequest`] or [`Sampling`].
        setting: &'static str,
        /// What is wrong with it, and what would not be.
        problem: String,
    },
    /// The queue is full.
    #[error("the queue of waiting requests is full: try again later")]
    QueueFull,
    /// The engine has been shut down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

impl SubmitError {
    pub(crate) fn invalid(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { setting, problem: problem.into() }
    }
}
