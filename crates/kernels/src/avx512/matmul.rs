//! AVX-512 products: a group's sixteen rows fill a register. Quants are made unsigned by an offset where they are not, and
//! `vpdpbusd` adds their products with signed activations exactly in i32: four of at most 255 · 127 each, and a block's
//! total at most 256 · 63 · 127 · 128 < 2^28 (Q6_K).

use crate::avx2;
use crate::matmul::{MatmulTable, kernel_of_type};
use std::arch::x86_64::*;

pub(crate) static TABLE: MatmulTable =
    MatmulTable { kernel, groups_kernel, quantize_row: avx2::matmul::TABLE.quantize_row, takes_bf16: false };

kernel_of_type!();

/// Defines a kernel by a frame.
macro_rules! by_frame {
    ($frame:ident, $($kernel:tt)*) => {
        $frame!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], __m512, 1, $($kernel)*);
    };
}
pub(super) use by_frame;

/// Adds the products of four k of sixteen rows, `weights` unsigned, with four activations of each of C rows.
#[inline(always)]
pub(super) unsafe fn add_word<const C: usize>(
    sums: &mut [__m512i; C],
    weights: __m512i,
    x: &[*const i8; C],
    at: usize,
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        // SAFETY: four activations at `x + at`; the target feature is the caller's promise.
        unsafe {
            let word = _mm512_set1_epi32(x.add(at).cast::<i32>().read_unaligned());
            *sums = _mm512_dpbusd_epi32(*sums, weights, word);
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn load(bytes: *const u8) -> __m512i {
    // SAFETY: the caller has 64 bytes at `bytes`; the target feature is its promise.
    unsafe { _mm512_loadu_si512(bytes.cast()) }
}

/// The low and the high nibble of every byte.
#[inline(always)]
pub(crate) unsafe fn nibbles(both: __m512i) -> [__m512i; 2] {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let mask = _mm512_set1_epi8(15);
        [_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask)]
    }
}

/// `bits | (more & mask)`.
#[inline(always)]
pub(crate) unsafe fn or_masked(bits: __m512i, more: __m512i, mask: __m512i) -> __m512i {
    // SAFETY: the target feature is the caller's promise.
    unsafe { _mm512_ternarylogic_epi32::<0b1111_1000>(bits, more, mask) }
}

/// `x` with bit `from` of every byte at place `to`; other bits are of no use.
#[inline(always)]
pub(crate) unsafe fn moved(x: __m512i, from: usize, to: usize) -> __m512i {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        if from < to {
            _mm512_sll_epi16(x, _mm_cvtsi32_si128((to - from) as i32))
        } else {
            _mm512_srl_epi16(x, _mm_cvtsi32_si128((from - to) as i32))
        }
    }
}

/// The sixteen bytes of a table in every quarter, for `_mm512_shuffle_epi8`.
#[inline(always)]
pub(crate) unsafe fn table(values: &[i8; 16]) -> __m512i {
    // SAFETY: sixteen bytes; the target feature is the caller's promise.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast())) }
}
