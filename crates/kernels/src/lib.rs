//! The numeric contract `cpu-1`: every operation that adds numbers, as a scalar reference and as SIMD overrides with the
//! same bits.
//!
//! The order of every operation is written down in `docs/numerics.md`. The rule behind it all: vectorise over outputs,
//! never across the reduction.

mod isa;

pub use isa::{Isa, ParseIsaError};
