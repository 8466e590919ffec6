//! Overrides for x86-64 with AVX2, FMA and F16C.

mod attention;
pub(crate) mod matmul;
mod matmul_float;
pub(crate) mod vector;
