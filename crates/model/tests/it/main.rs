//! Architectures against logits of transformers, and the promise that logits do not depend on how they were computed.

mod conversion;
mod cost;
mod golden;
mod importance;
mod quantization;
mod refusals;
