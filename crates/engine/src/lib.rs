//! The engine: serves one model. Synchronous, no I/O; it runs on its own thread behind a bounded queue.

mod request;

pub use request::{
    Event, FinishReason, Finished, Flow, GenerationRequest, Sampling, Sink, SubmitError, TokenEvent, TokenLogprobs,
};
