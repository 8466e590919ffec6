//! Overrides for x86-64 with AVX-512 F, BW, VL and VNNI. What is missing here falls back to AVX2's.

pub(crate) mod block256;
pub(crate) mod block32;
pub(crate) mod matmul;
pub(crate) mod matmul_float;
pub(crate) mod vector;
