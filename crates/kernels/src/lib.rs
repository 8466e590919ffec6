//! The numeric contract `cpu-1`: every operation that adds numbers, as a scalar reference and as SIMD overrides with the
//! same bits.
//!
//! The order of every operation is written down in `docs/numerics.md`. The rule behind it all: vectorise over outputs,
//! never across the reduction.

mod attention;
#[cfg(x86)]
mod avx2;
mod isa;
mod kv;
pub mod math;
mod math64;
mod rope;
mod vector;

pub use attention::{AttentionRow, AttentionScratch, AttentionShape};
pub use isa::{Isa, ParseIsaError};
pub use kv::{KV_BLOCK, KvLayer, KvShape, KvType, ParseKvTypeError};
pub use rope::{RopeError, RopeFrequencies, RopeScaling, RopeStyle, RopeTable};
pub use vector::VectorKernels;
