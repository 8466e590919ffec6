//! Norms, activations, rope and attention for AVX2.

use std::arch::x86_64::__m256;

crate::x86::vector::vector_table!(TABLE, "avx2,fma,f16c", __m256);
