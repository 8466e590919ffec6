//! AVX-512 products with the types that have blocks of 256: K-quants and IQ4_XS.

use super::matmul::{add_word, by_frame, load, moved, nibbles, or_masked, table};
use crate::packed::IQ4_VALUES;
use crate::x86::frames::{Sums, block256, raised};
use std::arch::x86_64::*;

/// Adds the products of pairs of scales or minima with two neighbouring sums, in i32.
#[inline(always)]
pub(crate) unsafe fn add_pair(to: __m512i, pairs: __m512i, sums: *const i16, pair: usize) -> __m512i {
    // SAFETY: the caller has two sums at `sums + 2 · pair`; the target feature is its promise.
    unsafe { _mm512_dpwssd_epi32(to, pairs, _mm512_set1_epi32(sums.add(pair * 2).cast::<i32>().read_unaligned())) }
}

/// Adds `scale` times the sums of a sub-block, which begin anew.
#[inline(always)]
unsafe fn add_scaled<const C: usize>(scaled: &mut [__m512i; C], sums: [__m512i; C], scale: __m512i) {
    for (scaled, sums) in scaled.iter_mut().zip(sums) {
        // SAFETY: the target feature is the caller's promise.
        unsafe { *scaled = _mm512_add_epi32(*scaled, _mm512_mullo_epi32(sums, scale)) };
    }
}

/// Of pairs of i16, the first and the second of each as i32.
#[inline(always)]
pub(crate) unsafe fn split(pairs: __m512i) -> [__m512i; 2] {
    // SAFETY: the target feature is the caller's promise.
    unsafe { [_mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(pairs)), _mm512_srai_epi32::<16>(pairs)] }
}

/// Sixteen pairs of unsigned bytes as i16.
#[inline(always)]
pub(crate) unsafe fn unsigned_pairs(bytes: *const u8) -> __m512i {
    // SAFETY: the caller has 32 bytes at `bytes`; the target feature is its promise.
    unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.cast())) }
}

/// Sixteen pairs of signed bytes as i16.
#[inline(always)]
pub(crate) unsafe fn signed_pairs(bytes: *const u8) -> __m512i {
    // SAFETY: the caller has 32 bytes at `bytes`; the target feature is its promise.
    unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes.cast())) }
}

/// Sixteen unsigned bytes as i32.
#[inline(always)]
pub(crate) unsafe fn bytes(bytes: *const u8) -> __m512i {
    // SAFETY: the caller has sixteen bytes; the target feature is its promise.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast())) }
}

/// [`add_pair`] of C rows of activations.
#[inline(always)]
unsafe fn add_pairs<const C: usize>(to: &mut [__m512i; C], pairs: __m512i, sums: [*const i16; C], pair: usize) {
    for (to, sums) in to.iter_mut().zip(sums) {
        // SAFETY: as for `add_pair`.
        unsafe { *to = add_pair(*to, pairs, sums, pair) };
    }
}

/// Adds what the minima of sub-blocks `2 · pair` and `2 · pair + 1` of Q4_K and Q5_K give.
#[inline(always)]
unsafe fn add_mins<const C: usize>(mins: &mut [__m512i; C], packed: *const u8, pair: usize, x_sums: &Sums<C>) {
    // SAFETY: the block and its sums, and the target feature, are the caller's promise.
    unsafe { add_pairs(mins, unsigned_pairs(packed.add(192 + pair * 32)), x_sums.of_32, pair) };
}

by_frame!(block256, q2_k_tile, 1344, offset: 0, mins: true, |packed, _part, x, x_sums, scaled, mins| {
    let two_bits = _mm512_set1_epi8(3);
    for pair in 0..8 {
        let both = unsigned_pairs(packed.add(64 + pair * 32));
        add_pairs(mins, _mm512_srli_epi16::<4>(both), x_sums.of_16, pair);
        for (part, scale) in split(_mm512_and_si512(both, _mm512_set1_epi16(15))).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(320 + sub * 64));
            let mut sums = [_mm512_setzero_si512(); C];
            for group in 0..4 {
                let weights = _mm512_and_si512(moved(quants, group * 2, 0), two_bits);
                add_word(&mut sums, weights, x, sub * 16 + group * 4);
            }
            add_scaled(scaled, sums, scale);
        }
    }
});

by_frame!(block256, q3_k_tile, 1824, offset: 4, mins: false, |packed, _part, x, x_sums, scaled, offsets| {
    let (two_bits, third_bit) = (_mm512_set1_epi8(3), _mm512_set1_epi8(4));
    for pair in 0..8 {
        let pairs = signed_pairs(packed.add(32 + pair * 32));
        add_pairs(offsets, pairs, x_sums.of_16, pair);
        let third = load(packed.add(1312 + pair * 64));
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(288 + sub * 64));
            let mut sums = [_mm512_setzero_si512(); C];
            for group in 0..4 {
                let low = _mm512_and_si512(moved(quants, group * 2, 0), two_bits);
                let weights = or_masked(low, moved(third, part * 4 + group, 2), third_bit);
                add_word(&mut sums, weights, x, sub * 16 + group * 4);
            }
            add_scaled(scaled, sums, scale);
        }
    }
});

by_frame!(block256, q4_k_tile, 2368, offset: 0, mins: true, |packed, _part, x, x_sums, scaled, mins| {
    for pair in 0..4 {
        let mut low_sums = [_mm512_setzero_si512(); C];
        let mut high_sums = [_mm512_setzero_si512(); C];
        for group in 0..8 {
            let [low, high] = nibbles(load(packed.add(320 + pair * 512 + group * 64)));
            add_word(&mut low_sums, low, x, pair * 64 + group * 4);
            add_word(&mut high_sums, high, x, pair * 64 + 32 + group * 4);
        }
        add_scaled(scaled, low_sums, bytes(packed.add(64 + pair * 32)));
        add_scaled(scaled, high_sums, bytes(packed.add(64 + pair * 32 + 16)));
        add_mins(mins, packed, pair, x_sums);
    }
});

by_frame!(block256, q5_k_tile, 2880, offset: 0, mins: true, |packed, _part, x, x_sums, scaled, mins| {
    let fifth_bit = _mm512_set1_epi8(16);
    for pair in 0..4 {
        let low_fifth = load(packed.add(2368 + pair * 128));
        let high_fifth = load(packed.add(2368 + pair * 128 + 64));
        let mut low_sums = [_mm512_setzero_si512(); C];
        let mut high_sums = [_mm512_setzero_si512(); C];
        for group in 0..8 {
            let [low, high] = nibbles(load(packed.add(320 + pair * 512 + group * 64)));
            let low = or_masked(low, moved(low_fifth, group, 4), fifth_bit);
            add_word(&mut low_sums, low, x, pair * 64 + group * 4);
            let high = or_masked(high, moved(high_fifth, group, 4), fifth_bit);
            add_word(&mut high_sums, high, x, pair * 64 + 32 + group * 4);
        }
        add_scaled(scaled, low_sums, bytes(packed.add(64 + pair * 32)));
        add_scaled(scaled, high_sums, bytes(packed.add(64 + pair * 32 + 16)));
        add_mins(mins, packed, pair, x_sums);
    }
});

by_frame!(block256, q6_k_tile, 3360, offset: 32, mins: false, |packed, _part, x, x_sums, scaled, offsets| {
    let upper = _mm512_set1_epi8(0x30);
    for pair in 0..8 {
        let chunk = packed.add(288 + pair * 384);
        let pairs = signed_pairs(packed.add(32 + pair * 32));
        add_pairs(offsets, pairs, x_sums.of_16, pair);
        let low_upper = load(chunk.add(256));
        let high_upper = load(chunk.add(320));
        let mut low_sums = [_mm512_setzero_si512(); C];
        let mut high_sums = [_mm512_setzero_si512(); C];
        for group in 0..4 {
            let [low, high] = nibbles(load(chunk.add(group * 64)));
            let low = or_masked(low, moved(low_upper, group * 2, 4), upper);
            add_word(&mut low_sums, low, x, pair * 32 + group * 4);
            let high = or_masked(high, moved(high_upper, group * 2, 4), upper);
            add_word(&mut high_sums, high, x, pair * 32 + 16 + group * 4);
        }
        let [low_scale, high_scale] = split(pairs);
        add_scaled(scaled, low_sums, low_scale);
        add_scaled(scaled, high_sums, high_scale);
    }
});

by_frame!(block256, iq4_xs_tile, 2208, offset: 128, mins: false, |packed, _part, x, x_sums, scaled, offsets| {
    let values = table(&const { raised(IQ4_VALUES, 128) });
    for pair in 0..4 {
        let pairs = signed_pairs(packed.add(32 + pair * 32));
        add_pairs(offsets, pairs, x_sums.of_32, pair);
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let mut sums = [_mm512_setzero_si512(); C];
            for group in 0..4 {
                let [low, high] = nibbles(load(packed.add(160 + sub * 256 + group * 64)));
                add_word(&mut sums, _mm512_shuffle_epi8(values, low), x, sub * 32 + group * 4);
                add_word(&mut sums, _mm512_shuffle_epi8(values, high), x, sub * 32 + 16 + group * 4);
            }
            add_scaled(scaled, sums, scale);
        }
    }
});
