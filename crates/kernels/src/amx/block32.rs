//! AMX products with the types that have a float scale for every 32 numbers: one `tdpbssd` for each 16 rows of a block.

use super::matmul::{PANEL, four_words, over_panels};
use super::tiles::Tiles;
use crate::avx512::block32::exponents;
use crate::avx512::matmul::{load, moved, or_masked, table};
use crate::matmul::Tile;
use crate::packed::{FP4_VALUES, IQ4_VALUES};
use crate::x86::frames::{scales, store};
use freehold_base::Dtype;
use std::arch::x86_64::*;

/// Eight words of K of sixteen rows, as signed bytes.
type Words = [__m512i; 8];

/// Defines the kernel of a type whose packed block has `$bytes`: `$unpack` gives a block's weights, `$scale` its scales.
macro_rules! block32 {
    ($name:ident, $dtype:ident, $bytes:literal, $scale:ident, mins: $mins:literal, |$packed:ident| $unpack:expr) => {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        pub(super) unsafe fn $name(tile: &Tile<'_>) {
            // SAFETY: the instruction set is available and the tile's parts fit each other, as the caller promises; every
            // block of the group has `$bytes`.
            unsafe {
                over_panels(tile, Dtype::$dtype, |panel| {
                    panel_product::<$bytes, $mins>(panel, |packed| $scale(packed, 0, 0), |$packed| $unpack);
                });
            }
        }
    };
}

/// The frame, for at most [`PANEL`] rows that fill tiles.
#[inline(always)]
unsafe fn panel_product<const BYTES: usize, const MINS: bool>(
    tile: &Tile<'_>,
    scale: impl Fn(*const u8) -> __m512,
    unpack: impl Fn(*const u8) -> Words,
) {
    let activations = tile.activations;
    let k = activations.padded();
    let blocks = k / 32;
    // SAFETY: the target feature and AMX are the caller's promise; blocks and activations are within their vectors, whose
    // lengths were made for `blocks` blocks of K; sixteen sums of sixteen i32 fill `sums`.
    unsafe {
        let tiles = Tiles::configure(16, 8);
        let mut acc = [_mm512_setzero_ps(); PANEL];
        let mut acc_min = [_mm512_setzero_ps(); PANEL];
        let mut sums = [_mm512_setzero_si512(); 16];
        for block in 0..blocks {
            let packed = tile.group.as_ptr().add(block * BYTES);
            let weights = unpack(packed);
            let dw = scale(packed);
            for first in (0..tile.rows.len()).step_by(16) {
                let row = tile.rows.start + first;
                let x = activations.quants.as_ptr().add(row * k + block * 32);
                tiles.dot_int8(x.cast(), k, weights.as_ptr().cast(), 1, sums.as_mut_ptr().cast(), 64);
                for (c, sums) in sums.into_iter().enumerate() {
                    let index = (row + c) * blocks + block;
                    let d = _mm512_mul_ps(dw, _mm512_set1_ps(*activations.scales.as_ptr().add(index)));
                    acc[first + c] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(sums), acc[first + c]);
                    if MINS {
                        let sx = _mm512_set1_ps(*activations.scaled_sums.as_ptr().add(index));
                        acc_min[first + c] = _mm512_fmadd_ps(scales(packed, 1, 0), sx, acc_min[first + c]);
                    }
                }
            }
        }
        for (c, row) in tile.rows.clone().enumerate() {
            let sum = if MINS { _mm512_add_ps(acc[c], acc_min[c]) } else { acc[c] };
            store(tile, row, [[sum]]);
        }
    }
}

/// 32 nibbles, changed by `value`.
#[inline(always)]
unsafe fn four_bits(quants: *const u8, value: impl Fn(__m512i) -> __m512i) -> Words {
    // SAFETY: four words of sixteen rows at `quants`; the target feature is the caller's promise.
    let halves = unsafe { [four_words(quants, false), four_words(quants, true)] };
    std::array::from_fn(|word| value(halves[word / 4][word % 4]))
}

/// 32 quants of five bits.
#[inline(always)]
unsafe fn five_bits(quants: *const u8, fifth: *const u8) -> Words {
    // SAFETY: as for `four_bits`, with 64 bytes of fifth bits.
    unsafe {
        let (nibbles, fifth) = (four_bits(quants, |nibbles| nibbles), load(fifth));
        std::array::from_fn(|word| or_masked(nibbles[word], moved(fifth, word, 4), _mm512_set1_epi8(16)))
    }
}

block32!(q4_0_tile, Q4_0, 288, scales, mins: false, |packed| {
    four_bits(packed.add(32), |quants| _mm512_sub_epi8(quants, _mm512_set1_epi8(8)))
});
block32!(q4_1_tile, Q4_1, 320, scales, mins: true, |packed| four_bits(packed.add(64), |quants| quants));
block32!(q5_0_tile, Q5_0, 352, scales, mins: false, |packed| {
    five_bits(packed.add(32), packed.add(288)).map(|quants| _mm512_sub_epi8(quants, _mm512_set1_epi8(16)))
});
block32!(q5_1_tile, Q5_1, 384, scales, mins: true, |packed| five_bits(packed.add(64), packed.add(320)));
block32!(q8_0_tile, Q8_0, 544, scales, mins: false, |packed| {
    std::array::from_fn(|word| load(packed.add(32 + word * 64)))
});
block32!(iq4_nl_tile, IQ4_NL, 288, scales, mins: false, |packed| {
    four_bits(packed.add(32), |quants| _mm512_shuffle_epi8(table(&IQ4_VALUES), quants))
});
block32!(mxfp4_tile, MXFP4, 272, exponents, mins: false, |packed| {
    four_bits(packed.add(16), |quants| _mm512_shuffle_epi8(table(&FP4_VALUES), quants))
});
