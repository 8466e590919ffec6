//! OpenAI's API: chat completions, models, errors (OpenAI's published OpenAPI description, 2026).
//!
//! Requests tolerate fields they do not know. Answers carry every field that the description requires, `null` included,
//! because strict clients insist on them.

mod chat;
mod completion;
mod error;
mod model;

pub use chat::{
    ChatRequest, Content, FunctionCall, Message, Part, ResponseFormat, Role, Stop, StreamOptions, ToolCall, ToolChoice,
};
pub use completion::{
    Choice, Chunk, ChunkChoice, Completion, CompletionTokensDetails, Delta, FinishReason, Logprobs,
    PromptTokensDetails, ResponseMessage, TokenLogprob, TopLogprob, Usage,
};
pub use error::{ErrorBody, ErrorDetail};
pub use model::{Model, ModelList};
