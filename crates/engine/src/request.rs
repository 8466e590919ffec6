//! What the engine is asked and what it answers.

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
    /// Texts that end the answer. They are not part of it, and no prefix of one is sent before it is known to be none.
    pub stop: Vec<String>,
    /// `Some(n)`: report the log-probability of each chosen token and the `n` most probable ones.
    pub logprobs: Option<usize>,
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
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1: off (Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that the answer holds (OpenAI API).
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens, times how often the answer holds them (OpenAI API).
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// With the same seed, prompt and settings the answer is the same.
    pub seed: u64,
}

impl Sampling {
    /// Whether every setting is one that a token can be chosen with.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] names the setting that is not.
    pub fn check(&self) -> Result<(), SubmitError> {
        let numbers = [
            ("temperature", self.temperature, 0.0..=f32::MAX, "0 or more"),
            ("top_p", self.top_p, 0.0..=1.0, "between 0 and 1"),
            ("min_p", self.min_p, 0.0..=1.0, "between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE..=f32::MAX, "above 0"),
            ("presence_penalty", self.presence_penalty, f32::MIN..=f32::MAX, "a finite number"),
            ("frequency_penalty", self.frequency_penalty, f32::MIN..=f32::MAX, "a finite number"),
        ];
        for (name, number, range, rule) in numbers {
            if !range.contains(&number) {
                return Err(SubmitError::Invalid(format!("{name} is {number}: it must be {rule}")));
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            Some((id, bias)) => {
                Err(SubmitError::Invalid(format!("the logit bias of token {id} is {bias}: it must be a finite number")))
            }
            None => Ok(()),
        }
    }
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
    /// Tokens generated, the end-of-text token included where there was one.
    pub completion_tokens: usize,
    /// From the start of the prompt's first chunk to the first generated token.
    pub prefill_time: Duration,
    /// From the first generated token to the last.
    pub decode_time: Duration,
}

/// What the receiver of events wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// More events.
    Continue,
    /// None; the request is dropped.
    Cancel,
}

/// Receives the events of one request on the engine's thread; it must not block.
pub type Sink = Box<dyn FnMut(Event) -> Flow + Send>;

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
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The queue is full.
    #[error("the queue of waiting requests is full: try again later")]
    QueueFull,
    /// The engine has been shut down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}
