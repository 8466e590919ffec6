//! AVX-512 products with the types that have a float scale for every 32 numbers.

use super::matmul::{add_word, load, moved, nibbles, or_masked, scales, store, table};
use crate::avx2::matmul::prefetch;
use crate::matmul::{Tile, over_rows};
use crate::packed::{FP4_VALUES, IQ4_VALUES};
use std::arch::x86_64::*;

over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q4_0_tile, q4_0);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q4_1_tile, q4_1);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q5_0_tile, q5_0);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q5_1_tile, q5_1);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q8_0_tile, q8_0);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], iq4_nl_tile, iq4_nl);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], mxfp4_tile, mxfp4);

/// The frame. `$dot` adds the products of a block to `$sums`, which begin at `−$offset` times the block's sum of
/// activations, for quants with `$offset` added.
macro_rules! block32 {
    ($name:ident, $bytes:literal, $scale:ident, offset: $offset:expr, mins: $mins:literal, |$packed:ident, $x:ident, $sums:ident| $dot:expr) => {
        #[inline(always)]
        unsafe fn $name<const C: usize>(tile: &Tile<'_>, row: usize) {
            let activations = tile.activations;
            let k = activations.padded();
            let blocks = k / 32;
            // SAFETY: the target feature is the caller's promise; blocks and activations are within their vectors,
            // whose lengths were made for `blocks` blocks of K.
            unsafe {
                let quants: [*const i8; C] = std::array::from_fn(|c| activations.quants.as_ptr().add((row + c) * k));
                let mut acc = [_mm512_setzero_ps(); C];
                let mut acc_min = [_mm512_setzero_ps(); C];
                let mut $packed = tile.group.as_ptr();
                for block in 0..blocks {
                    if C == 1 {
                        prefetch($packed, $bytes);
                    }
                    let index = |c: usize| (row + c) * blocks + block;
                    let $x: [*const i8; C] = std::array::from_fn(|c| quants[c].add(block * 32));
                    let mut $sums: [__m512i; C] = std::array::from_fn(|c| {
                        if $offset == 0 {
                            return _mm512_setzero_si512();
                        }
                        let sum = i32::from(*activations.sums32.as_ptr().add(index(c)));
                        _mm512_set1_epi32(-$offset * sum)
                    });
                    $dot;
                    let dw = $scale($packed, 0);
                    for c in 0..C {
                        let dx = _mm512_set1_ps(*activations.scales.as_ptr().add(index(c)));
                        acc[c] = _mm512_fmadd_ps(_mm512_mul_ps(dw, dx), _mm512_cvtepi32_ps($sums[c]), acc[c]);
                        if $mins {
                            let sx = _mm512_set1_ps(*activations.scaled_sums.as_ptr().add(index(c)));
                            acc_min[c] = _mm512_fmadd_ps(scales($packed, 1), sx, acc_min[c]);
                        }
                    }
                    $packed = $packed.add($bytes);
                }
                if $mins {
                    for (acc, acc_min) in acc.iter_mut().zip(acc_min) {
                        *acc = _mm512_add_ps(*acc, acc_min);
                    }
                }
                store(tile, row, acc);
            }
        }
    };
}

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
pub(crate) unsafe fn exponents(packed: *const u8, _part: usize) -> __m512 {
    // SAFETY: an MXFP4 block begins with sixteen exponents; the target feature is the caller's promise.
    unsafe {
        let exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128(packed.cast()));
        let bits = _mm512_max_epi32(_mm512_slli_epi32::<23>(exponents), _mm512_set1_epi32(1 << 22));
        _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0.5))
    }
}

block32!(q4_0, 288, scales, offset: 8, mins: false, |packed, x, sums| four_bits(&mut sums, packed.add(32), &x));
block32!(q4_1, 320, scales, offset: 0, mins: true, |packed, x, sums| four_bits(&mut sums, packed.add(64), &x));
block32!(q5_0, 352, scales, offset: 16, mins: false, |packed, x, sums| {
    five_bits(&mut sums, packed.add(32), packed.add(288), &x);
});
block32!(q5_1, 384, scales, offset: 0, mins: true, |packed, x, sums| {
    five_bits(&mut sums, packed.add(64), packed.add(320), &x);
});
block32!(q8_0, 544, scales, offset: 128, mins: false, |packed, x, sums| {
    let sign = _mm512_set1_epi8(-128);
    for group in 0..8 {
        let weights = _mm512_xor_si512(load(packed.add(32 + group * 64)), sign);
        add_word(&mut sums, weights, &x, group * 4);
    }
});
block32!(iq4_nl, 288, scales, offset: 128, mins: false, |packed, x, sums| {
    looked_up(&mut sums, packed.add(32), table(&IQ4_VALUES, 128), &x);
});
block32!(mxfp4, 272, exponents, offset: 12, mins: false, |packed, x, sums| {
    looked_up(&mut sums, packed.add(16), table(&FP4_VALUES, 12), &x);
});
