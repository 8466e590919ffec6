//! Norms, activations, rope and attention for AVX-512.

use crate::avx2;
use crate::vector::VectorTable;
use std::arch::x86_64::__m512;

crate::x86::vector::vector_table!(OWN, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl", __m512);

pub(crate) static TABLE: VectorTable = VectorTable {
    // One operation for three memory accesses, of which wider ones straddle more cache lines: AVX2's takes nine tenths of
    // the time.
    add_scaled: avx2::vector::TABLE.add_scaled,
    ..OWN
};
