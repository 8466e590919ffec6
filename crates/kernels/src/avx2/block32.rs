//! AVX2 products with the types that have a float scale for every 32 numbers.

use super::matmul::{load, moved, or_masked, prefetch, scales, store, widen, word};
use crate::matmul::{Tile, over_rows};
use crate::packed::{FP4_VALUES, IQ4_VALUES};
use std::arch::x86_64::*;

over_rows!("avx2,fma,f16c", [4, 2, 1], q4_0_tile, q4_0);
over_rows!("avx2,fma,f16c", [4, 2, 1], q4_1_tile, q4_1);
over_rows!("avx2,fma,f16c", [4, 2, 1], q5_0_tile, q5_0);
over_rows!("avx2,fma,f16c", [4, 2, 1], q5_1_tile, q5_1);
over_rows!("avx2,fma,f16c", [4, 2, 1], q8_0_tile, q8_0);
over_rows!("avx2,fma,f16c", [4, 2, 1], iq4_nl_tile, iq4_nl);
over_rows!("avx2,fma,f16c", [4, 2, 1], mxfp4_tile, mxfp4);

/// The frame of the kernels with 32-long blocks: `$dot` computes, for one half of the rows, the exact i32 sums of C
/// rows of activations.
macro_rules! block32 {
    ($name:ident, $bytes:literal, $scale:ident, mins: $mins:literal, |$packed:ident, $half:ident, $x:ident, $sum:ident| $dot:expr) => {
        #[inline(always)]
        unsafe fn $name<const C: usize>(tile: &Tile<'_>, row: usize) {
            let activations = tile.activations;
            let k = activations.padded();
            let blocks = k / 32;
            // SAFETY: the target feature is the caller's promise; blocks and activations are within their vectors,
            // whose lengths were made for `blocks` blocks of K.
            unsafe {
                let quants: [*const i8; C] = std::array::from_fn(|c| activations.quants.as_ptr().add((row + c) * k));
                let mut acc = [[_mm256_setzero_ps(); C]; 2];
                let mut acc_min = [[_mm256_setzero_ps(); C]; 2];
                let mut $packed = tile.group.as_ptr();
                for block in 0..blocks {
                    if C == 1 {
                        prefetch($packed, $bytes);
                    }
                    for $half in 0..2 {
                        let $x: [*const i8; C] = std::array::from_fn(|c| quants[c].add(block * 32));
                        let $sum = |c: usize| i32::from(*activations.sums32.as_ptr().add((row + c) * blocks + block));
                        let sums: [__m256i; C] = $dot;
                        let dw = $scale($packed, 0, $half);
                        for c in 0..C {
                            let index = (row + c) * blocks + block;
                            let dx = _mm256_set1_ps(*activations.scales.as_ptr().add(index));
                            acc[$half][c] =
                                _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(sums[c]), acc[$half][c]);
                            if $mins {
                                let sx = _mm256_set1_ps(*activations.scaled_sums.as_ptr().add(index));
                                acc_min[$half][c] = _mm256_fmadd_ps(scales($packed, 1, $half), sx, acc_min[$half][c]);
                            }
                        }
                    }
                    $packed = $packed.add($bytes);
                }
                if $mins {
                    for (acc, acc_min) in acc.as_flattened_mut().iter_mut().zip(acc_min.as_flattened()) {
                        *acc = _mm256_add_ps(*acc, *acc_min);
                    }
                }
                store(tile, row, acc);
            }
        }
    };
}

/// Sums of 32 nibbles in i16 pairs: sixteen products of at most 15 · 127 each stay below 2^15.
#[inline(always)]
unsafe fn nibbles<const C: usize>(quants: *const u8, x: [*const i8; C]) -> [__m256i; C] {
    // SAFETY: four words of a half at `quants`, 32 activations at each `x`; the target feature is the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let mut sums = [_mm256_setzero_si256(); C];
        for group in 0..4 {
            let both = load(quants.add(group * 64));
            let low = _mm256_and_si256(both, mask);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
            for c in 0..C {
                let products = _mm256_maddubs_epi16(low, word(x[c].add(group * 4)));
                sums[c] = _mm256_add_epi16(sums[c], products);
                let products = _mm256_maddubs_epi16(high, word(x[c].add(16 + group * 4)));
                sums[c] = _mm256_add_epi16(sums[c], products);
            }
        }
        sums
    }
}

block32!(q4_0, 288, scales, mins: false, |packed, half, x, sum| {
    let sums = nibbles(packed.add(32 + half * 32), x);
    std::array::from_fn(|c| _mm256_sub_epi32(widen(sums[c]), _mm256_set1_epi32(8 * sum(c))))
});

block32!(q4_1, 320, scales, mins: true, |packed, half, x, _sum| {
    let sums = nibbles(packed.add(64 + half * 32), x);
    std::array::from_fn(|c| widen(sums[c]))
});

/// Sums of 32 quants of five bits.
#[inline(always)]
unsafe fn five_bits<const C: usize>(quants: *const u8, fifth: *const u8, x: [*const i8; C]) -> [__m256i; C] {
    // SAFETY: four words of a half at `quants` and their fifth bits, 32 activations at each `x`; the target feature is
    // the caller's promise.
    unsafe {
        let fifth = load(fifth);
        let (mask, bit) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
        // Four words in i16: eight products of at most 31 · 127 each stay below 2^15.
        let mut low_sums = [_mm256_setzero_si256(); C];
        let mut high_sums = [_mm256_setzero_si256(); C];
        for group in 0..4 {
            let both = load(quants.add(group * 64));
            let low = or_masked(_mm256_and_si256(both, mask), moved(fifth, group as i32, 4), bit);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
            let high = or_masked(high, moved(fifth, group as i32 + 4, 4), bit);
            for c in 0..C {
                let products = _mm256_maddubs_epi16(low, word(x[c].add(group * 4)));
                low_sums[c] = _mm256_add_epi16(low_sums[c], products);
                let products = _mm256_maddubs_epi16(high, word(x[c].add(16 + group * 4)));
                high_sums[c] = _mm256_add_epi16(high_sums[c], products);
            }
        }
        std::array::from_fn(|c| _mm256_add_epi32(widen(low_sums[c]), widen(high_sums[c])))
    }
}

block32!(q5_0, 352, scales, mins: false, |packed, half, x, sum| {
    let sums = five_bits(packed.add(32 + half * 32), packed.add(288 + half * 32), x);
    std::array::from_fn(|c| _mm256_sub_epi32(sums[c], _mm256_set1_epi32(16 * sum(c))))
});

block32!(q5_1, 384, scales, mins: true, |packed, half, x, _sum| {
    five_bits(packed.add(64 + half * 32), packed.add(320 + half * 32), x)
});

block32!(q8_0, 544, scales, mins: false, |packed, half, x, _sum| {
    let mut sums = [_mm256_setzero_si256(); C];
    for group in 0..8 {
        // |w| · (x with w's sign): two products of at most 128 · 127 each stay below 2^15, also for w = −128, whose
        // magnitude is 128 as an unsigned byte.
        let weights = load(packed.add(32 + half * 32 + group * 64));
        let magnitudes = _mm256_abs_epi8(weights);
        for c in 0..C {
            let signed = _mm256_sign_epi8(word(x[c].add(group * 4)), weights);
            sums[c] = _mm256_add_epi32(sums[c], widen(_mm256_maddubs_epi16(magnitudes, signed)));
        }
    }
    sums
});

/// The sixteen bytes of a table in both halves, for `_mm256_shuffle_epi8`.
#[inline(always)]
pub(super) unsafe fn table(values: &[i8; 16]) -> __m256i {
    // SAFETY: sixteen bytes; the target feature is the caller's promise.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())) }
}

block32!(iq4_nl, 288, scales, mins: false, |packed, half, x, _sum| {
    let (mask, values) = (_mm256_set1_epi8(15), table(&IQ4_VALUES));
    let mut sums = [_mm256_setzero_si256(); C];
    for group in 0..4 {
        let both = load(packed.add(32 + half * 32 + group * 64));
        for (part, nibbles) in [both, _mm256_srli_epi16::<4>(both)].into_iter().enumerate() {
            // As for Q8_0: two products of at most 127 · 127 each.
            let weights = _mm256_shuffle_epi8(values, _mm256_and_si256(nibbles, mask));
            let magnitudes = _mm256_abs_epi8(weights);
            for c in 0..C {
                let signed = _mm256_sign_epi8(word(x[c].add(part * 16 + group * 4)), weights);
                sums[c] = _mm256_add_epi32(sums[c], widen(_mm256_maddubs_epi16(magnitudes, signed)));
            }
        }
    }
    sums
});

/// Half of the powers of two whose biased exponents are the eight bytes of `half`: see `packed::half_e8m0`.
#[inline(always)]
unsafe fn exponents(packed: *const u8, _part: usize, half: usize) -> __m256 {
    // SAFETY: an MXFP4 block begins with sixteen exponents; the target feature is the caller's promise.
    unsafe {
        let exponents = _mm256_cvtepu8_epi32(_mm_loadl_epi64(packed.add(half * 8).cast()));
        let bits = _mm256_max_epi32(_mm256_slli_epi32::<23>(exponents), _mm256_set1_epi32(1 << 22));
        _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0.5))
    }
}

/// Added to MXFP4's quants, so that none is negative.
const FP4_OFFSET: i8 = 12;

block32!(mxfp4, 272, exponents, mins: false, |packed, half, x, sum| {
    let (mask, values) = (_mm256_set1_epi8(15), table(&FP4_VALUES.map(|value| value + FP4_OFFSET)));
    // Eight products of at most 24 · 127 each stay below 2^15.
    let mut low_sums = [_mm256_setzero_si256(); C];
    let mut high_sums = [_mm256_setzero_si256(); C];
    for group in 0..4 {
        let both = load(packed.add(16 + half * 32 + group * 64));
        let low = _mm256_shuffle_epi8(values, _mm256_and_si256(both, mask));
        let high = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask));
        for c in 0..C {
            let products = _mm256_maddubs_epi16(low, word(x[c].add(group * 4)));
            low_sums[c] = _mm256_add_epi16(low_sums[c], products);
            let products = _mm256_maddubs_epi16(high, word(x[c].add(16 + group * 4)));
            high_sums[c] = _mm256_add_epi16(high_sums[c], products);
        }
    }
    std::array::from_fn(|c| {
        let sums = _mm256_add_epi32(widen(low_sums[c]), widen(high_sums[c]));
        _mm256_sub_epi32(sums, _mm256_set1_epi32(i32::from(FP4_OFFSET) * sum(c)))
    })
});
