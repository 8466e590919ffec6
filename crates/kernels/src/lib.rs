//! The numeric contract `cpu-1`: every operation that adds numbers, as a scalar reference and as SIMD overrides with the
//! same bits.
//!
//! The order of every operation is written down in `docs/numerics.md`. The rule behind it all: vectorise over outputs,
//! never across the reduction.

mod activations;
#[cfg(x86)]
mod amx;
mod attention;
#[cfg(x86)]
mod avx2;
#[cfg(x86)]
mod avx512;
mod codebooks;
mod compute;
mod isa;
mod kv;
pub mod math;
pub mod math64;
mod matmul;
mod matrix;
mod packed;
mod packing;
mod pool;
mod quantize;
mod rope;
mod routing;
mod vector;
#[cfg(x86)]
mod x86;
mod zeroed;

#[cfg(all(feature = "emulated-amx", not(all(x86, target_os = "linux"))))]
compile_error!("the feature `emulated-amx` needs Linux on x86-64");

pub use activations::{ActivationKind, Activations};
#[cfg(feature = "emulated-amx")]
pub use amx::emulator::{TileProducts, emulated_tile_products};
pub use attention::{AttentionRow, AttentionScratch, AttentionShape};
pub use compute::{AttentionInput, Compute, Product};
pub use isa::{Isa, ParseIsaError};
pub use kv::{KV_BLOCK, KvLayer, KvShape, KvType, ParseKvTypeError};
pub use matrix::{Matrix, MatrixError, dequantize_vector};
pub use pool::Pool;
pub use quantize::{can_quantize, quantize_row};
pub use rope::{MAX_POSITIONS, RopeError, RopeFrequencies, RopeScaling, RopeStyle, RopeTable};
pub use routing::{Route, RouteShare, route};
pub use vector::{Gate, VectorKernels};
pub use zeroed::{Zeroable, Zeroed};
