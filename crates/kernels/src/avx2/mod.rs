//! Overrides for x86-64 with AVX2, FMA and F16C.

mod block256;
mod block32;
pub(crate) mod matmul;
pub(crate) mod matmul_float;
pub(crate) mod vector;
