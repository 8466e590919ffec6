//! AVX-512 products: a group's sixteen rows fill a register. Quants are made unsigned by an offset where they are not, and
//! `vpdpbusd` adds their products with signed activations exactly in i32: four of at most 255 · 127 each, and a block's
//! total at most 256 · 63 · 127 · 128 < 2^28 (Q6_K).

use super::block32::{iq4_nl_tile, mxfp4_tile, q4_0_tile, q4_1_tile, q5_0_tile, q5_1_tile, q8_0_tile};
use super::block256::{iq4_xs_tile, q2_k_tile, q3_k_tile, q4_k_tile, q5_k_tile, q6_k_tile};
use super::matmul_float::{bf16_tile, f16_tile, f32_tile};
use crate::avx2;
use crate::matmul::{MatmulTable, Tile, TileKernel, reference_kernel};
use freehold_base::Dtype;
use std::arch::x86_64::*;

pub(crate) static TABLE: MatmulTable = MatmulTable { kernel, quantize_row: avx2::matmul::TABLE.quantize_row };

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
pub(crate) unsafe fn table(values: &[i8; 16], offset: i32) -> __m512i {
    let shifted = values.map(|value| (i32::from(value) + offset) as u8);
    // SAFETY: sixteen bytes; the target feature is the caller's promise.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(shifted.as_ptr().cast())) }
}

/// The `part`th row of sixteen f16 scales.
#[inline(always)]
pub(crate) unsafe fn scales(packed: *const u8, part: usize) -> __m512 {
    // SAFETY: every packed block begins with its rows of scales; the target feature is the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(packed.add(part * 32).cast())) }
}

/// Stores sixteen outputs of each of C rows.
#[inline(always)]
pub(crate) unsafe fn store<const C: usize>(tile: &Tile<'_>, row: usize, acc: [__m512; C]) {
    for (c, acc) in acc.into_iter().enumerate() {
        // SAFETY: the tile's output has room for sixteen outputs for each of its rows.
        unsafe { _mm512_storeu_ps(tile.out.add((row + c - tile.rows.start) * tile.stride), acc) };
    }
}
