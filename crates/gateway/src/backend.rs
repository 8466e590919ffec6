//! The seam between HTTP and whatever answers.

use freehold_engine::{GenerationRequest, Sampling, Sink, SubmitError};
use serde_json::{Map, Value};

/// Something that serves one model: the engine of this process, or a stand-in for one elsewhere.
///
/// Its methods are called from threads that may block, except [`Backend::submit`], which must return at once.
pub trait Backend: Send + Sync + 'static {
    /// What it serves. It does not change.
    fn model(&self) -> &ModelInfo;

    /// The tokens of a conversation, up to where the assistant's answer begins.
    ///
    /// # Errors
    /// Where the conversation does not suit the model's template, or the template fails.
    fn prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, PromptError>;

    /// Queues a request. `sink` receives at most one event per token of the answer, and then `Finished`, unless the
    /// backend fails, which drops the sink, or the sink asks to cancel.
    ///
    /// # Errors
    /// Where the request cannot be taken; `sink` is dropped unused.
    fn submit(&self, request: GenerationRequest, sink: Sink) -> Result<(), SubmitError>;

    /// The bytes of a token of the vocabulary.
    fn token_bytes(&self, id: u32) -> Vec<u8>;
}

/// A served model, as clients see it.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name that requests give.
    pub id: String,
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// The numeric contract that its answers keep, such as `cpu-1/kv-f16`.
    pub numerics: String,
    /// Tokens that fit, prompt and answer together.
    pub context_length: usize,
    /// Token ids are below this.
    pub vocabulary_size: usize,
    /// When it was made or fetched, in seconds since 1970.
    pub created: u64,
    /// Who made it.
    pub owned_by: String,
    /// The licence of its weights, where known: an SPDX expression or a name.
    pub licence: Option<String>,
    /// What a request leaves out. [`ModelInfo::DEFAULT_SAMPLING`] where the model's makers recommend nothing else. The
    /// seed is not used: a request without one gets a random one.
    pub sampling: Sampling,
}

impl ModelInfo {
    /// OpenAI's defaults, temperature 1 and top_p 1, and a min_p of 0.05, which keeps small models from the long tail of
    /// unlikely tokens (Nguyen et al., "Turning up the heat: min-p sampling", 2024). `min_p: 0` in a request turns it off.
    pub const DEFAULT_SAMPLING: Sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.05,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: 0,
    };
}

/// A conversation in the form that chat templates expect.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Objects with `role`, `content` (text) and, where the request has them, `name`, `tool_calls` (their arguments
    /// decoded) and `tool_call_id`.
    pub messages: Vec<Value>,
    /// Functions that the model may call, as the client described them; empty: none.
    pub tools: Vec<Value>,
    /// Further arguments of the template.
    pub extra: Map<String, Value>,
}

/// Why a conversation gave no prompt.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The conversation does not suit the model; the text says why, for the client.
    #[error("{0}")]
    Invalid(String),
    /// The backend is at fault; the text is for the operator.
    #[error("{0}")]
    Failed(String),
}
