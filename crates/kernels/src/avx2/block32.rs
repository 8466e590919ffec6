//! AVX2 products with the types that have a float scale for every 32 numbers.

use super::matmul::{add_pairs, add_word, by_frame, load, moved, nibbles, or_masked, signed_products, table};
use crate::packed::{FP4_VALUES, IQ4_VALUES};
use crate::x86::frames::{block32, raised, scales};
use std::arch::x86_64::*;

/// Adds 32 nibbles: sixteen products of at most 15 · 127 each stay below 2^15 in i16.
#[inline(always)]
unsafe fn four_bits<const C: usize>(sums: &mut [__m256i; C], quants: *const u8, x: &[*const i8; C]) {
    // SAFETY: four words of a half at `quants`, 32 activations at each `x`; the target feature is the caller's promise.
    unsafe {
        let mut of_16 = [_mm256_setzero_si256(); C];
        for group in 0..4 {
            let [low, high] = nibbles(load(quants.add(group * 64)));
            add_word(&mut of_16, low, x, group * 4);
            add_word(&mut of_16, high, x, 16 + group * 4);
        }
        add_pairs(sums, of_16);
    }
}

/// Adds 32 quants of five bits: eight products of at most 31 · 127 each stay below 2^15 in i16.
#[inline(always)]
unsafe fn five_bits<const C: usize>(sums: &mut [__m256i; C], quants: *const u8, fifth: *const u8, x: &[*const i8; C]) {
    // SAFETY: four words of a half at `quants` and their fifth bits, 32 activations at each `x`; the target feature is
    // the caller's promise.
    unsafe {
        let (fifth, bit) = (load(fifth), _mm256_set1_epi8(16));
        let mut low_sums = [_mm256_setzero_si256(); C];
        let mut high_sums = [_mm256_setzero_si256(); C];
        for group in 0..4 {
            let [low, high] = nibbles(load(quants.add(group * 64)));
            add_word(&mut low_sums, or_masked(low, moved(fifth, group, 4), bit), x, group * 4);
            add_word(&mut high_sums, or_masked(high, moved(fifth, group + 4, 4), bit), x, 16 + group * 4);
        }
        add_pairs(sums, low_sums);
        add_pairs(sums, high_sums);
    }
}

/// Half of the powers of two whose biased exponents are the eight bytes of `half`: see `packed::half_e8m0`.
#[inline(always)]
unsafe fn exponents(packed: *const u8, _line: usize, half: usize) -> __m256 {
    // SAFETY: an MXFP4 block begins with sixteen exponents; the target feature is the caller's promise.
    unsafe {
        let exponents = _mm256_cvtepu8_epi32(_mm_loadl_epi64(packed.add(half * 8).cast()));
        let bits = _mm256_max_epi32(_mm256_slli_epi32::<23>(exponents), _mm256_set1_epi32(1 << 22));
        _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0.5))
    }
}

by_frame!(block32, q4_0_tile, 288, scales, offset: 8, mins: false, |packed, half, x, sums| {
    four_bits(sums, packed.add(32 + half * 32), x);
});
by_frame!(block32, q4_1_tile, 320, scales, offset: 0, mins: true, |packed, half, x, sums| {
    four_bits(sums, packed.add(64 + half * 32), x);
});
by_frame!(block32, q5_0_tile, 352, scales, offset: 16, mins: false, |packed, half, x, sums| {
    five_bits(sums, packed.add(32 + half * 32), packed.add(288 + half * 32), x);
});
by_frame!(block32, q5_1_tile, 384, scales, offset: 0, mins: true, |packed, half, x, sums| {
    five_bits(sums, packed.add(64 + half * 32), packed.add(320 + half * 32), x);
});
by_frame!(block32, q8_0_tile, 544, scales, offset: 0, mins: false, |packed, half, x, sums| {
    for group in 0..8 {
        add_pairs(sums, signed_products(load(packed.add(32 + half * 32 + group * 64)), x, group * 4));
    }
});
by_frame!(block32, iq4_nl_tile, 288, scales, offset: 0, mins: false, |packed, half, x, sums| {
    let values = table(&IQ4_VALUES);
    for group in 0..4 {
        let [low, high] = nibbles(load(packed.add(32 + half * 32 + group * 64)));
        add_pairs(sums, signed_products(_mm256_shuffle_epi8(values, low), x, group * 4));
        add_pairs(sums, signed_products(_mm256_shuffle_epi8(values, high), x, 16 + group * 4));
    }
});

by_frame!(block32, mxfp4_tile, 272, exponents, offset: 12, mins: false, |packed, half, x, sums| {
    let values = table(&const { raised(FP4_VALUES, 12) });
    // Eight products of at most 24 · 127 each stay below 2^15.
    let mut low_sums = [_mm256_setzero_si256(); C];
    let mut high_sums = [_mm256_setzero_si256(); C];
    for group in 0..4 {
        let [low, high] = nibbles(load(packed.add(16 + half * 32 + group * 64)));
        add_word(&mut low_sums, _mm256_shuffle_epi8(values, low), x, group * 4);
        add_word(&mut high_sums, _mm256_shuffle_epi8(values, high), x, 16 + group * 4);
    }
    add_pairs(sums, low_sums);
    add_pairs(sums, high_sums);
});
