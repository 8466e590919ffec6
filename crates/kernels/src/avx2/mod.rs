//! Overrides for x86-64 with AVX2, FMA and F16C.

mod attention;
pub(crate) mod vector;
