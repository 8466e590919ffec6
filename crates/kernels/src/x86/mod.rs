//! What AVX2 and AVX-512 do alike, written once over the width of a register.
//!
//! Everything here is generic over [`Lanes`] and inlined into functions of `avx2/` and `avx512/` that enable the features of
//! theirs; none of it may run anywhere else.

mod attention;
pub(crate) mod frames;
mod lanes;
pub(crate) mod vector;

pub(crate) use lanes::Lanes;
