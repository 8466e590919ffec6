//! AVX-512 products with the types that have a float scale for every 32 numbers.

use super::matmul::{add_word, by_frame, load, moved, nibbles, or_masked, table};
use crate::packed::{FP4_VALUES, IQ4_VALUES};
use crate::x86::frames::{block32, raised, scales};
use std::arch::x86_64::*;

/// Adds 32 nibbles.
#[inline(always)]
unsafe fn four_bits<const C: usize>(sums: &mut [__m512i; C], quants: *const u8, x: &[*const i8; C]) {
    for group in 0..4 {
        // SAFETY: four words of sixteen rows at `quants`, 32 activations at each `x`; the target feature is the caller's
        // promise.
        unsafe {
            let [low, high] = nibbles(load(quants.add(group * 64)));
            add_word(sums, low, x, group * 4);
            add_word(sums, high, x, 16 + group * 4);
        }
    }
}

/// Adds 32 quants of five bits.
#[inline(always)]
unsafe fn five_bits<const C: usize>(sums: &mut [__m512i; C], quants: *const u8, fifth: *const u8, x: &[*const i8; C]) {
    // SAFETY: four words of sixteen rows at `quants` and their fifth bits, 32 activations at each `x`; the target feature
    // is the caller's promise.
    unsafe {
        let (fifth, bit) = (load(fifth), _mm512_set1_epi8(16));
        for group in 0..4 {
            let [low, high] = nibbles(load(quants.add(group * 64)));
            add_word(sums, or_masked(low, moved(fifth, group, 4), bit), x, group * 4);
            add_word(sums, or_masked(high, moved(fifth, group + 4, 4), bit), x, 16 + group * 4);
        }
    }
}

/// Adds 32 nibbles that stand for the unsigned bytes of a table.
#[inline(always)]
unsafe fn looked_up<const C: usize>(sums: &mut [__m512i; C], quants: *const u8, values: __m512i, x: &[*const i8; C]) {
    for group in 0..4 {
        // SAFETY: as for `four_bits`.
        unsafe {
            let [low, high] = nibbles(load(quants.add(group * 64)));
            add_word(sums, _mm512_shuffle_epi8(values, low), x, group * 4);
            add_word(sums, _mm512_shuffle_epi8(values, high), x, 16 + group * 4);
        }
    }
}

/// Half of the powers of two whose biased exponents a block begins with: see `packed::half_e8m0`.
#[inline(always)]
pub(crate) unsafe fn exponents(packed: *const u8, _line: usize, _part: usize) -> __m512 {
    // SAFETY: an MXFP4 block begins with sixteen exponents; the target feature is the caller's promise.
    unsafe {
        let exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128(packed.cast()));
        let bits = _mm512_max_epi32(_mm512_slli_epi32::<23>(exponents), _mm512_set1_epi32(1 << 22));
        _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0.5))
    }
}

by_frame!(block32, q4_0_tile, 288, scales, offset: 8, mins: false, |packed, _part, x, sums| {
    four_bits(sums, packed.add(32), x);
});
by_frame!(block32, q4_1_tile, 320, scales, offset: 0, mins: true, |packed, _part, x, sums| {
    four_bits(sums, packed.add(64), x);
});
by_frame!(block32, q5_0_tile, 352, scales, offset: 16, mins: false, |packed, _part, x, sums| {
    five_bits(sums, packed.add(32), packed.add(288), x);
});
by_frame!(block32, q5_1_tile, 384, scales, offset: 0, mins: true, |packed, _part, x, sums| {
    five_bits(sums, packed.add(64), packed.add(320), x);
});
by_frame!(block32, q8_0_tile, 544, scales, offset: 128, mins: false, |packed, _part, x, sums| {
    let sign = _mm512_set1_epi8(-128);
    for group in 0..8 {
        add_word(sums, _mm512_xor_si512(load(packed.add(32 + group * 64)), sign), x, group * 4);
    }
});
by_frame!(block32, iq4_nl_tile, 288, scales, offset: 128, mins: false, |packed, _part, x, sums| {
    looked_up(sums, packed.add(32), table(&const { raised(IQ4_VALUES, 128) }), x);
});
by_frame!(block32, mxfp4_tile, 272, exponents, offset: 12, mins: false, |packed, _part, x, sums| {
    looked_up(sums, packed.add(16), table(&const { raised(FP4_VALUES, 12) }), x);
});
