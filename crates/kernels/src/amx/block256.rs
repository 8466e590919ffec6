//! AMX products with the types that have blocks of 256: K-quants and IQ4_XS.
//!
//! The contract asks for the exact integer `S = Σ scale · quant · x` over a block. With `scale · quant`, which fits 15 bits,
//! written as `low + 128 · high`, that is two products of signed bytes over the whole block.

use super::matmul::{PANEL, four_words, over_panels};
use super::tiles::Tiles;
use crate::avx512::block256::{add_pair, bytes, signed_pairs, split, unsigned_pairs};
use crate::avx512::matmul::{load, moved, or_masked, table};
use crate::matmul::Tile;
use crate::packed::IQ4_VALUES;
use crate::x86::frames::{scales, store};
use freehold_base::Dtype;
use std::arch::x86_64::*;

/// Defines the kernel of a type whose packed block has `$bytes`. Of the `$sub`th sixteen of a block, `$scale` gives the
/// scale of each row as i32, and `$quants` the quants as signed bytes: four words of sixteen rows.
macro_rules! block256 {
    ($name:ident, $dtype:ident, $bytes:literal, mins: $mins:expr, |$packed:ident, $sub:ident| scale: $scale:expr, quants: $quants:expr) => {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        pub(super) unsafe fn $name(tile: &Tile<'_>) {
            // SAFETY: the instruction set is available and the tile's parts fit each other, as the caller promises; every
            // block of the group has `$bytes`.
            unsafe {
                over_panels(tile, Dtype::$dtype, |panel| {
                    panel_product::<$bytes>(panel, $mins, |$packed, $sub| ($scale, $quants));
                });
            }
        }
    };
}

/// Where a type with minima keeps them.
#[derive(Clone, Copy)]
enum Mins {
    None,
    /// Q2_K: of sixteen, in the upper nibbles of the scales.
    Of16,
    /// Q4_K and Q5_K: of 32, after the scales.
    Of32,
}

/// The frame, for at most [`PANEL`] rows that fill tiles.
#[inline(always)]
unsafe fn panel_product<const BYTES: usize>(
    tile: &Tile<'_>,
    mins: Mins,
    sixteen: impl Fn(*const u8, usize) -> (__m512i, [__m512i; 4]),
) {
    let activations = tile.activations;
    let k = activations.padded();
    let blocks = k / 256;
    // SAFETY: the target feature and AMX are the caller's promise; blocks and activations are within their vectors, whose
    // lengths were made for `blocks` blocks of K; sixteen sums of sixteen i32 fill each of `sums`.
    unsafe {
        let tiles = Tiles::configure(16, 16);
        let mut acc = [_mm512_setzero_ps(); PANEL];
        let mut acc_min = [_mm512_setzero_ps(); PANEL];
        let mut weights = [[_mm512_setzero_si512(); 64]; 2];
        let mut sums = [[_mm512_setzero_si512(); 16]; 2];
        for block in 0..blocks {
            let packed = tile.group.as_ptr().add(block * BYTES);
            for sub in 0..16 {
                let (scale, quants) = sixteen(packed, sub);
                for (word, quants) in quants.into_iter().enumerate() {
                    [weights[0][sub * 4 + word], weights[1][sub * 4 + word]] = planes(scale, quants);
                }
            }
            let dw = scales(packed, 0, 0);
            for first in (0..tile.rows.len()).step_by(16) {
                let row = tile.rows.start + first;
                let x = activations.quants.as_ptr().add(row * k + block * 256);
                for (weights, sums) in weights.iter().zip(&mut sums) {
                    tiles.dot_int8(x.cast(), k, weights.as_ptr().cast(), 4, sums.as_mut_ptr().cast(), 64);
                }
                for c in 0..16 {
                    let index = (row + c) * blocks + block;
                    let dx = _mm512_set1_ps(*activations.scales.as_ptr().add(index));
                    let sum = _mm512_add_epi32(sums[0][c], _mm512_slli_epi32::<7>(sums[1][c]));
                    acc[first + c] = _mm512_fmadd_ps(_mm512_mul_ps(dw, dx), _mm512_cvtepi32_ps(sum), acc[first + c]);
                    let mut min_sum = _mm512_setzero_si512();
                    match mins {
                        Mins::None => continue,
                        Mins::Of16 => {
                            let sums = activations.sums16.as_ptr().add(index * 16);
                            for pair in 0..8 {
                                let both = unsigned_pairs(packed.add(64 + pair * 32));
                                min_sum = add_pair(min_sum, _mm512_srli_epi16::<4>(both), sums, pair);
                            }
                        }
                        Mins::Of32 => {
                            let sums = activations.sums32.as_ptr().add(index * 8);
                            for pair in 0..4 {
                                min_sum = add_pair(min_sum, unsigned_pairs(packed.add(192 + pair * 32)), sums, pair);
                            }
                        }
                    }
                    let dmin = _mm512_mul_ps(scales(packed, 1, 0), dx);
                    acc_min[first + c] = _mm512_fmadd_ps(dmin, _mm512_cvtepi32_ps(min_sum), acc_min[first + c]);
                }
            }
        }
        for (c, row) in tile.rows.clone().enumerate() {
            let sum = if matches!(mins, Mins::None) { acc[c] } else { _mm512_sub_ps(acc[c], acc_min[c]) };
            store(tile, row, [[sum]]);
        }
    }
}

/// `scale · quant` of four quants of each row, as `low + 128 · high` with `low` from 0 to 127. At most 63 · 31 (Q5_K) or
/// 128 · 32 (Q6_K) in magnitude, so `high` fits a signed byte.
#[inline(always)]
unsafe fn planes(scale: __m512i, quants: __m512i) -> [__m512i; 2] {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let scale = _mm512_or_si512(_mm512_and_si512(scale, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32::<16>(scale));
        // Even and odd quants, in i16.
        let even = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(quants)), scale);
        let odd = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(quants), scale);
        let bytes =
            |even, odd| _mm512_or_si512(_mm512_and_si512(even, _mm512_set1_epi16(0xff)), _mm512_slli_epi16::<8>(odd));
        let low = _mm512_and_si512(bytes(even, odd), _mm512_set1_epi8(127));
        [low, bytes(_mm512_srai_epi16::<7>(even), _mm512_srai_epi16::<7>(odd))]
    }
}

/// Of pairs of scales, those of sub-block `sub`.
#[inline(always)]
unsafe fn one_of(pairs: __m512i, sub: usize) -> __m512i {
    // SAFETY: the target feature is the caller's promise.
    unsafe { split(pairs)[sub % 2] }
}

/// Four words of two bits, from `sub`'s sixteen rows of four bytes.
#[inline(always)]
unsafe fn two_bits(quants: *const u8, sub: usize) -> [__m512i; 4] {
    // SAFETY: the caller has a row of 64 bytes for each sub-block; the target feature is its promise.
    unsafe {
        let quants = load(quants.add(sub * 64));
        std::array::from_fn(|word| _mm512_and_si512(moved(quants, word * 2, 0), _mm512_set1_epi8(3)))
    }
}

/// Four words of nibbles of Q4_K and Q5_K, whose 64 numbers lie in eight words: low nibbles, then high ones.
#[inline(always)]
unsafe fn wide_nibbles(quants: *const u8, sub: usize) -> [__m512i; 4] {
    // SAFETY: the caller has 512 bytes for each four sub-blocks; the target feature is its promise.
    unsafe { four_words(quants.add(sub / 4 * 512 + sub % 2 * 256), sub % 4 >= 2) }
}

block256!(q2_k_tile, Q2_K, 1344, mins: Mins::Of16, |packed, sub|
    scale: {
        let pairs = _mm512_and_si512(unsigned_pairs(packed.add(64 + sub / 2 * 32)), _mm512_set1_epi16(15));
        one_of(pairs, sub)
    },
    quants: two_bits(packed.add(320), sub)
);
block256!(q3_k_tile, Q3_K, 1824, mins: Mins::None, |packed, sub|
    scale: one_of(signed_pairs(packed.add(32 + sub / 2 * 32)), sub),
    quants: {
        let low = two_bits(packed.add(288), sub);
        let third = load(packed.add(1312 + sub / 2 * 64));
        std::array::from_fn(|word| {
            let quants = or_masked(low[word], moved(third, sub % 2 * 4 + word, 2), _mm512_set1_epi8(4));
            _mm512_sub_epi8(quants, _mm512_set1_epi8(4))
        })
    }
);
block256!(q4_k_tile, Q4_K, 2368, mins: Mins::Of32, |packed, sub|
    scale: bytes(packed.add(64 + sub / 2 * 16)),
    quants: wide_nibbles(packed.add(320), sub)
);
block256!(q5_k_tile, Q5_K, 2880, mins: Mins::Of32, |packed, sub|
    scale: bytes(packed.add(64 + sub / 2 * 16)),
    quants: {
        let low = wide_nibbles(packed.add(320), sub);
        let fifth = load(packed.add(2368 + sub / 2 * 64));
        std::array::from_fn(|word| or_masked(low[word], moved(fifth, sub % 2 * 4 + word, 4), _mm512_set1_epi8(16)))
    }
);
block256!(q6_k_tile, Q6_K, 3360, mins: Mins::None, |packed, sub|
    scale: one_of(signed_pairs(packed.add(32 + sub / 2 * 32)), sub),
    quants: {
        let chunk = packed.add(288 + sub / 2 * 384);
        let (low, upper) = (four_words(chunk, sub % 2 == 1), load(chunk.add(256 + sub % 2 * 64)));
        std::array::from_fn(|word| {
            let quants = or_masked(low[word], moved(upper, word * 2, 4), _mm512_set1_epi8(0x30));
            _mm512_sub_epi8(quants, _mm512_set1_epi8(32))
        })
    }
);
block256!(iq4_xs_tile, IQ4_XS, 2208, mins: Mins::None, |packed, sub|
    scale: one_of(signed_pairs(packed.add(32 + sub / 4 * 32)), sub / 2),
    quants: {
        let quants = four_words(packed.add(160 + sub / 2 * 256), sub % 2 == 1);
        quants.map(|quants| _mm512_shuffle_epi8(table(&IQ4_VALUES), quants))
    }
);
