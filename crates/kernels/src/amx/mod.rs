//! Overrides for x86-64 with AMX-INT8 and AMX-BF16. What is missing here falls back to AVX-512's.
//!
//! A product by tiles is one of 16 rows of activations with a group of 16 outputs, so it pays for prompts and large
//! batches, not for single tokens. Rust has no stable intrinsics for AMX: all of its instructions are in [`tiles`].

mod block256;
mod block32;
#[cfg(feature = "emulated-amx")]
pub(crate) mod emulator;
pub(crate) mod matmul;
mod matmul_float;
mod tiles;

pub(crate) use tiles::is_available;
