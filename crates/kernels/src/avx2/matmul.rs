//! AVX2 products with quantised weights. Eight of a group's sixteen rows fill a register; integer sums are exact, so
//! their inner order is free: unsigned quants times signed activations (`maddubs`) are summed in i16 as far as the
//! largest values allow (sixteen products of 4 bits, eight of 5, four of 6), then in i32.

use super::block32::{iq4_nl_tile, mxfp4_tile, q4_0_tile, q4_1_tile, q5_0_tile, q5_1_tile, q8_0_tile};
use super::block256::{iq4_xs_tile, q2_k_tile, q3_k_tile, q4_k_tile, q5_k_tile, q6_k_tile};
use super::matmul_float::{bf16_tile, f16_tile, f32_tile, quantize_row};
use crate::matmul::{MatmulTable, Tile, TileKernel, reference_kernel};
use freehold_base::Dtype;
use std::arch::x86_64::*;

pub(crate) static TABLE: MatmulTable = MatmulTable { kernel, quantize_row };

fn kernel(dtype: Dtype) -> TileKernel {
    match dtype {
        Dtype::F32 => f32_tile,
        Dtype::F16 => f16_tile,
        Dtype::BF16 => bf16_tile,
        Dtype::Q4_0 => q4_0_tile,
        Dtype::Q4_1 => q4_1_tile,
        Dtype::Q5_0 => q5_0_tile,
        Dtype::Q5_1 => q5_1_tile,
        Dtype::Q8_0 => q8_0_tile,
        Dtype::IQ4_NL => iq4_nl_tile,
        Dtype::MXFP4 => mxfp4_tile,
        Dtype::Q2_K => q2_k_tile,
        Dtype::Q3_K => q3_k_tile,
        Dtype::Q4_K => q4_k_tile,
        Dtype::Q5_K => q5_k_tile,
        Dtype::Q6_K => q6_k_tile,
        Dtype::IQ4_XS => iq4_xs_tile,
        _ => reference_kernel(dtype),
    }
}

/// Four activations in every lane.
#[inline(always)]
pub(super) unsafe fn word(x: *const i8) -> __m256i {
    // SAFETY: the caller has four activations at `x`; the target feature is its promise.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

#[inline(always)]
pub(super) unsafe fn load(bytes: *const u8) -> __m256i {
    // SAFETY: the caller has 32 bytes at `bytes`; the target feature is its promise.
    unsafe { _mm256_loadu_si256(bytes.cast()) }
}

/// Eight scales of `half` (0 or 1) in the `part`th row of sixteen f16.
#[inline(always)]
pub(super) unsafe fn scales(packed: *const u8, part: usize, half: usize) -> __m256 {
    // SAFETY: every packed block begins with its rows of scales; the target feature is the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(packed.add(part * 32 + half * 16).cast())) }
}

/// Adds pairs of i16 into i32.
#[inline(always)]
pub(super) unsafe fn widen(sums: __m256i) -> __m256i {
    // SAFETY: the target feature is the caller's promise.
    unsafe { _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) }
}

/// Stores the two halves of sixteen outputs of each of C rows.
#[inline(always)]
pub(super) unsafe fn store<const C: usize>(tile: &Tile<'_>, row: usize, acc: [[__m256; C]; 2]) {
    for (c, (first, second)) in acc[0].into_iter().zip(acc[1]).enumerate() {
        // SAFETY: the tile's output has room for sixteen outputs for each of its rows.
        unsafe {
            let out = tile.out.add((row + c - tile.rows.start) * tile.stride);
            _mm256_storeu_ps(out, first);
            _mm256_storeu_ps(out.add(8), second);
        }
    }
}

/// How far ahead of its use the packed weights are fetched, in bytes: found by measurement.
const PREFETCH: usize = 4096;

/// Fetches what `bytes` (a block's size) will be read in a while. Fetching past the end of the matrix is harmless.
#[inline(always)]
pub(crate) unsafe fn prefetch(packed: *const u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        // SAFETY: a prefetch of any address faults never; the address is computed without being in bounds.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(PREFETCH + at).cast()) };
        at += 64;
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
pub(super) unsafe fn moved(x: __m256i, from: i32, to: i32) -> __m256i {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        if from < to {
            _mm256_sll_epi16(x, _mm_cvtsi32_si128(to - from))
        } else {
            _mm256_srl_epi16(x, _mm_cvtsi32_si128(from - to))
        }
    }
}
