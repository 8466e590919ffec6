//! The engine: serves one model. Synchronous, no I/O; it runs on its own thread behind a bounded queue.

mod batch;
mod blocks;
mod calibrate;
#[cfg(test)]
mod chance;
mod compare;
mod drafter;
mod engine;
mod evaluate;
mod lookup;
mod request;
mod sampler;
mod sink;
pub mod speed;
mod stop;
mod text;

pub use calibrate::calibrate;
pub use compare::{Comparison, compare};
pub use drafter::{DraftModel, VocabularyMismatch};
pub use engine::{Engine, EngineOptions, numerics_id};
pub use evaluate::{EvaluateError, Windows, evaluate, perplexity};
pub use request::{
    Event, FinishReason, Finished, Flow, GenerationRequest, Sampling, StartError, SubmitError, TokenEvent,
    TokenLogprobs,
};
pub use sink::Sink;
pub use text::TextModel;
