//! Everything that parses hostile bytes: model files, tokenizers, chat templates.
//!
//! Whatever the bytes, the answer is a value or an [`Error`] that names the field: no panic, memory below 64 MiB plus the
//! file, time below a second. Weights are mapped, never copied; nothing here interprets their numbers.

pub mod error;
pub mod gguf;
pub mod metadata;
pub mod mmap;
pub mod tensor;

pub use error::{Error, Result};
pub use gguf::Gguf;
pub use metadata::{Array, Metadata, Strings, Value};
pub use mmap::Mmap;
pub use tensor::TensorView;
