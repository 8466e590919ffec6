//! The HTTP surface: OpenAI's chat completions over a [`Backend`], for one holder of the [`AdminKey`].
//!
//! | path | |
//! |---|---|
//! | `GET /` | a page that says what is served and how to call it; open |
//! | `GET /healthz` | `ok`; open, and under any Host, for probes |
//! | `GET /v1/models`, `GET /v1/models/{id}` | what is served |
//! | `POST /v1/chat/completions` | answers, whole or streamed |
//!
//! Every request but the probe is refused unless its Host header names this machine or an allowed host, and every `/v1`
//! request unless it carries the key and comes from no page of another site.
//!
//! # Where OpenAI's API leaves a choice, or this server does less
//! - What a request leaves out comes from [`ModelInfo::sampling`]; without a `seed` each request gets a random one.
//! - `max_tokens` may exceed what the context has left: the answer then ends there, with the reason `length`. Without one
//!   the answer ends after [`Limits::answer_tokens`]. A prompt that does not fit is refused, never cut.
//! - `tools` go to the model's template, unless `tool_choice` is `none`; what the model says comes back as text.
//! - Parts of a message are joined by line ends. A `developer` is a `system` to templates.
//! - Refused, because silence would lie: `n` above 1, a `tool_choice` that demands a call, a `response_format` other than
//!   text, images, sound, files, `functions`, `web_search_options`.

mod backend;
mod chat;
mod clock;
mod engine_backend;
mod error;
mod guard;
mod keys;
mod landing;
mod models;
mod refusal;
mod server;

pub use backend::{Backend, Conversation, ModelInfo, PromptError};
pub use clock::unix_seconds;
pub use engine_backend::EngineBackend;
pub use error::GatewayError;
pub use keys::AdminKey;
pub use server::{Gateway, Limits, Options};
