//! Inputs that are mostly sound, then damaged, and what must hold of them whatever they are: no panic, and no more
//! memory than hostile input may cost.
//!
//! Random bytes seldom get past a magic number. So each module builds a whole file from a structure that the fuzzer
//! fills, with values that tend to break parsers, and [`damage::Damage`] then spoils some of its bytes.
//!
//! `xtask/tests/it` takes the same modules in and runs each check on the inputs in `corpus`.

#[allow(dead_code, reason = "shared with the tests of freehold-formats")]
#[path = "../../crates/formats/tests/it/allocator.rs"]
mod allocator;
#[allow(dead_code, reason = "shared with the tests of freehold-formats")]
#[path = "../../crates/formats/tests/it/gguf_builder.rs"]
mod gguf_builder;

#[cfg(feature = "catalogue")]
pub mod catalogue;
pub mod chat_template;
pub mod damage;
pub mod gguf;
pub mod safetensors;
pub mod store;
pub mod tokenizer;
