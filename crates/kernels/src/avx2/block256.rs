//! AVX2 products with the types that have blocks of 256: K-quants and IQ4_XS.

use super::matmul::{add_word, by_frame, load, moved, nibbles, or_masked, signed_products, table};
use crate::packed::IQ4_VALUES;
use crate::x86::frames::{Sums, block256};
use std::arch::x86_64::*;

/// Adds the products of pairs of scales or minima with two neighbouring sums of each row of activations.
#[inline(always)]
unsafe fn add_pair<const C: usize>(to: &mut [__m256i; C], pairs: __m256i, sums: [*const i16; C], pair: usize) {
    for (to, sums) in to.iter_mut().zip(sums) {
        // SAFETY: the caller has two sums at `sums + 2 · pair`; the target feature is its promise.
        unsafe {
            let two = _mm256_set1_epi32(sums.add(pair * 2).cast::<i32>().read_unaligned());
            *to = _mm256_add_epi32(*to, _mm256_madd_epi16(pairs, two));
        }
    }
}

/// Each of eight unsigned bytes as a pair of equal i16.
#[inline(always)]
unsafe fn doubled(bytes: *const u8) -> __m256i {
    // SAFETY: eight bytes at `bytes`; the target feature is the caller's promise.
    unsafe {
        let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.cast()));
        _mm256_or_si256(wide, _mm256_slli_epi32::<16>(wide))
    }
}

/// Eight pairs of unsigned bytes as i16.
#[inline(always)]
unsafe fn unsigned_pairs(bytes: *const u8) -> __m256i {
    // SAFETY: the caller has sixteen bytes at `bytes`; the target feature is its promise.
    unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.cast())) }
}

/// Eight pairs of signed bytes as i16.
#[inline(always)]
unsafe fn signed_pairs(bytes: *const u8) -> __m256i {
    // SAFETY: the caller has sixteen bytes at `bytes`; the target feature is its promise.
    unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.cast())) }
}

/// Of pairs of i16, the first and the second of each, doubled.
#[inline(always)]
unsafe fn split(pairs: __m256i) -> [__m256i; 2] {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let (low, high) = (_mm256_set1_epi32(0xffff), _mm256_set1_epi32(0xffff_0000_u32 as i32));
        [
            _mm256_or_si256(_mm256_and_si256(pairs, low), _mm256_slli_epi32::<16>(pairs)),
            _mm256_or_si256(_mm256_and_si256(pairs, high), _mm256_srli_epi32::<16>(pairs)),
        ]
    }
}

/// Adds `scale` times the sums in i16. A block's total stays far below 2^31 in i32: of Q6_K, whose scales are the largest,
/// it is at most 256 · 63 · 127 · 128 < 2^28.
#[inline(always)]
unsafe fn add_scaled<const C: usize>(scaled: &mut [__m256i; C], sums: [__m256i; C], scale: __m256i) {
    for (scaled, sums) in scaled.iter_mut().zip(sums) {
        // SAFETY: the target feature is the caller's promise.
        unsafe { *scaled = _mm256_add_epi32(*scaled, _mm256_madd_epi16(sums, scale)) };
    }
}

/// Adds what the minima of sub-blocks `2 · pair` and `2 · pair + 1` of Q4_K and Q5_K give.
#[inline(always)]
unsafe fn add_mins<const C: usize>(
    mins: &mut [__m256i; C],
    packed: *const u8,
    half: usize,
    pair: usize,
    x_sums: &Sums<C>,
) {
    // SAFETY: the block and its sums, and the target feature, are the caller's promise.
    unsafe { add_pair(mins, unsigned_pairs(packed.add(192 + pair * 32 + half * 16)), x_sums.of_32, pair) };
}

by_frame!(block256, q2_k_tile, 1344, offset: 0, mins: true, |packed, half, x, x_sums, scaled, mins| {
    for pair in 0..8 {
        let both = unsigned_pairs(packed.add(64 + pair * 32 + half * 16));
        add_pair(mins, _mm256_srli_epi16::<4>(both), x_sums.of_16, pair);
        for (part, scale) in split(_mm256_and_si256(both, _mm256_set1_epi16(15))).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(320 + sub * 64 + half * 32));
            // Eight products of at most 3 · 127 each.
            let mut sums = [_mm256_setzero_si256(); C];
            for group in 0..4 {
                let weights = _mm256_and_si256(moved(quants, group * 2, 0), _mm256_set1_epi8(3));
                add_word(&mut sums, weights, x, sub * 16 + group * 4);
            }
            add_scaled(scaled, sums, scale);
        }
    }
});

by_frame!(block256, q3_k_tile, 1824, offset: 4, mins: false, |packed, half, x, x_sums, scaled, offsets| {
    let (two_bits, third_bit) = (_mm256_set1_epi8(3), _mm256_set1_epi8(4));
    for pair in 0..8 {
        let pairs = signed_pairs(packed.add(32 + pair * 32 + half * 16));
        add_pair(offsets, pairs, x_sums.of_16, pair);
        let third = load(packed.add(1312 + pair * 64 + half * 32));
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(288 + sub * 64 + half * 32));
            // Eight products of at most 7 · 127 each.
            let mut sums = [_mm256_setzero_si256(); C];
            for group in 0..4 {
                let low = _mm256_and_si256(moved(quants, group * 2, 0), two_bits);
                let weights = or_masked(low, moved(third, part * 4 + group, 2), third_bit);
                add_word(&mut sums, weights, x, sub * 16 + group * 4);
            }
            add_scaled(scaled, sums, scale);
        }
    }
});

by_frame!(block256, q4_k_tile, 2368, offset: 0, mins: true, |packed, half, x, x_sums, scaled, mins| {
    for pair in 0..4 {
        // Sixteen products of at most 15 · 127 each stay below 2^15.
        let mut low_sums = [_mm256_setzero_si256(); C];
        let mut high_sums = [_mm256_setzero_si256(); C];
        for group in 0..8 {
            let [low, high] = nibbles(load(packed.add(320 + pair * 512 + half * 32 + group * 64)));
            add_word(&mut low_sums, low, x, pair * 64 + group * 4);
            add_word(&mut high_sums, high, x, pair * 64 + 32 + group * 4);
        }
        add_scaled(scaled, low_sums, doubled(packed.add(64 + pair * 32 + half * 8)));
        add_scaled(scaled, high_sums, doubled(packed.add(64 + pair * 32 + 16 + half * 8)));
        add_mins(mins, packed, half, pair, x_sums);
    }
});

by_frame!(block256, q5_k_tile, 2880, offset: 0, mins: true, |packed, half, x, x_sums, scaled, mins| {
    let fifth_bit = _mm256_set1_epi8(16);
    for pair in 0..4 {
        let low_fifth = load(packed.add(2368 + pair * 128 + half * 32));
        let high_fifth = load(packed.add(2368 + pair * 128 + 64 + half * 32));
        let low_scale = doubled(packed.add(64 + pair * 32 + half * 8));
        let high_scale = doubled(packed.add(64 + pair * 32 + 16 + half * 8));
        for step in 0..2 {
            // Eight products of at most 31 · 127 each stay below 2^15.
            let mut low_sums = [_mm256_setzero_si256(); C];
            let mut high_sums = [_mm256_setzero_si256(); C];
            for group in step * 4..step * 4 + 4 {
                let [low, high] = nibbles(load(packed.add(320 + pair * 512 + half * 32 + group * 64)));
                let low = or_masked(low, moved(low_fifth, group, 4), fifth_bit);
                add_word(&mut low_sums, low, x, pair * 64 + group * 4);
                let high = or_masked(high, moved(high_fifth, group, 4), fifth_bit);
                add_word(&mut high_sums, high, x, pair * 64 + 32 + group * 4);
            }
            add_scaled(scaled, low_sums, low_scale);
            add_scaled(scaled, high_sums, high_scale);
        }
        add_mins(mins, packed, half, pair, x_sums);
    }
});

by_frame!(block256, q6_k_tile, 3360, offset: 32, mins: false, |packed, half, x, x_sums, scaled, offsets| {
    let upper = _mm256_set1_epi8(0x30);
    for pair in 0..8 {
        let chunk = packed.add(288 + pair * 384 + half * 32);
        let pairs = signed_pairs(packed.add(32 + pair * 32 + half * 16));
        add_pair(offsets, pairs, x_sums.of_16, pair);
        let [low_scale, high_scale] = split(pairs);
        let low_upper = load(chunk.add(256));
        let high_upper = load(chunk.add(320));
        for step in 0..2 {
            // Two words in i16: four products of at most 63 · 127 each stay below 2^15.
            let mut low_sums = [_mm256_setzero_si256(); C];
            let mut high_sums = [_mm256_setzero_si256(); C];
            for group in step * 2..step * 2 + 2 {
                let [low, high] = nibbles(load(chunk.add(group * 64)));
                let low = or_masked(low, moved(low_upper, group * 2, 4), upper);
                add_word(&mut low_sums, low, x, pair * 32 + group * 4);
                let high = or_masked(high, moved(high_upper, group * 2, 4), upper);
                add_word(&mut high_sums, high, x, pair * 32 + 16 + group * 4);
            }
            add_scaled(scaled, low_sums, low_scale);
            add_scaled(scaled, high_sums, high_scale);
        }
    }
});

by_frame!(block256, iq4_xs_tile, 2208, offset: 0, mins: false, |packed, half, x, _x_sums, scaled, _offsets| {
    let values = table(&IQ4_VALUES);
    for pair in 0..4 {
        let pairs = signed_pairs(packed.add(32 + pair * 32 + half * 16));
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            for group in 0..4 {
                let [low, high] = nibbles(load(packed.add(160 + sub * 256 + half * 32 + group * 64)));
                let at = sub * 32 + group * 4;
                add_scaled(scaled, signed_products(_mm256_shuffle_epi8(values, low), x, at), scale);
                add_scaled(scaled, signed_products(_mm256_shuffle_epi8(values, high), x, at + 16), scale);
            }
        }
    }
});
