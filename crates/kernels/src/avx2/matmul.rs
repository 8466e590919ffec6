//! AVX2 products with quantised weights. Eight of a group's sixteen rows fill a register; integer sums are exact, so
//! their inner order is free: unsigned quants times signed activations (`maddubs`) are summed in i16 as far as the
//! largest values allow (sixteen products of 4 bits, eight of 5, four of 6), then in i32.

use crate::matmul::{MatmulTable, kernel_of_type};
use std::arch::x86_64::*;

pub(crate) static TABLE: MatmulTable =
    MatmulTable { kernel, groups_kernel, quantize_row: super::matmul_float::quantize_row, takes_bf16: false };

kernel_of_type!();

/// Defines a kernel by a frame.
macro_rules! by_frame {
    ($frame:ident, $($kernel:tt)*) => {
        $frame!("avx2,fma,f16c", [4, 2, 1], __m256, 2, $($kernel)*);
    };
}
pub(super) use by_frame;

/// Four activations in every lane.
#[inline(always)]
unsafe fn word(x: *const i8) -> __m256i {
    // SAFETY: the caller has four activations at `x`; the target feature is its promise.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

#[inline(always)]
pub(super) unsafe fn load(bytes: *const u8) -> __m256i {
    // SAFETY: the caller has 32 bytes at `bytes`; the target feature is its promise.
    unsafe { _mm256_loadu_si256(bytes.cast()) }
}

/// The low and the high nibble of every byte.
#[inline(always)]
pub(super) unsafe fn nibbles(both: __m256i) -> [__m256i; 2] {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(both, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask)]
    }
}

/// The sixteen bytes of a table in both halves, for `_mm256_shuffle_epi8`.
#[inline(always)]
pub(super) unsafe fn table(values: &[i8; 16]) -> __m256i {
    // SAFETY: sixteen bytes; the target feature is the caller's promise.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())) }
}

/// Adds the products of four k of eight rows, `weights` unsigned, with four activations of each of C rows, in i16.
#[inline(always)]
pub(super) unsafe fn add_word<const C: usize>(
    sums: &mut [__m256i; C],
    weights: __m256i,
    x: &[*const i8; C],
    at: usize,
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        // SAFETY: four activations at `x + at`; the target feature is the caller's promise.
        unsafe { *sums = _mm256_add_epi16(*sums, _mm256_maddubs_epi16(weights, word(x.add(at)))) };
    }
}

/// Such products with signed weights, as |w| · (x with w's sign): two products of at most 128 · 127 each stay below 2^15, also
/// for w = −128, whose magnitude is 128 as an unsigned byte.
#[inline(always)]
pub(super) unsafe fn signed_products<const C: usize>(weights: __m256i, x: &[*const i8; C], at: usize) -> [__m256i; C] {
    // SAFETY: four activations at each `x + at`; the target feature is the caller's promise.
    unsafe {
        let magnitudes = _mm256_abs_epi8(weights);
        x.map(|x| _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(word(x.add(at)), weights)))
    }
}

/// Adds sums in i16, two of each row, to those in i32.
#[inline(always)]
pub(super) unsafe fn add_pairs<const C: usize>(sums: &mut [__m256i; C], of_16: [__m256i; C]) {
    for (sums, of_16) in sums.iter_mut().zip(of_16) {
        // SAFETY: the target feature is the caller's promise.
        unsafe { *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(of_16, _mm256_set1_epi16(1))) };
    }
}

/// Adds what a block's `packed` bits give to `bits` where `mask` has ones: `bits | (packed & mask)`.
#[inline(always)]
pub(super) unsafe fn or_masked(bits: __m256i, packed: __m256i, mask: __m256i) -> __m256i {
    // SAFETY: the target feature is the caller's promise.
    unsafe { _mm256_or_si256(bits, _mm256_and_si256(packed, mask)) }
}

/// `x` with bit `from` of every byte at place `to`; other bits are of no use.
#[inline(always)]
pub(super) unsafe fn moved(x: __m256i, from: usize, to: usize) -> __m256i {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        if from < to {
            _mm256_sll_epi16(x, _mm_cvtsi32_si128((to - from) as i32))
        } else {
            _mm256_srl_epi16(x, _mm_cvtsi32_si128((from - to) as i32))
        }
    }
}
