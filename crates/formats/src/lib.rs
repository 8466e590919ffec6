//! Everything that parses hostile bytes: model files, tokenizers, chat templates.
//!
//! Whatever the bytes, the answer is a value or an [`Error`] that names the field: no panic, memory below 64 MiB plus the
//! file, time below a second. Weights are mapped, never copied; nothing here interprets their numbers.

pub mod chat_template;
pub mod checkpoint;
pub mod error;
pub mod gguf;
pub mod hugging_face;
pub mod imatrix;
mod json;
pub mod metadata;
pub mod mmap;
pub mod rope;
pub mod safetensors;
pub mod tensor;
pub mod tokenizer;

pub use chat_template::{ChatInput, ChatTemplate, RenderedPrompt, SpecialTexts};
pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use gguf::{Gguf, GgufWriter, TensorDescription};
pub use hugging_face::{Config, HuggingFaceFolder};
pub use imatrix::{Importance, ImportanceMatrix};
pub use metadata::{Array, Metadata, Strings, Value};
pub use mmap::Mmap;
pub use rope::{RopeLayers, RopeParameters, RopeScaling};
pub use safetensors::Safetensors;
pub use tensor::TensorView;
pub use tokenizer::{Decoder, PreTokenizer, SpecialTokens, Tokenizer};
