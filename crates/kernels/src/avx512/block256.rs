//! AVX-512 products with the types that have blocks of 256: K-quants and IQ4_XS.

use super::matmul::{add_word, load, moved, nibbles, or_masked, scales, store, table};
use crate::avx2::matmul::prefetch;
use crate::matmul::{Tile, over_rows};
use crate::packed::IQ4_VALUES;
use std::arch::x86_64::*;

over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q2_k_tile, q2_k);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q3_k_tile, q3_k);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q4_k_tile, q4_k);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q5_k_tile, q5_k);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], q6_k_tile, q6_k);
over_rows!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", [8, 4, 2, 1], iq4_xs_tile, iq4_xs);

/// The sums of a block's activations.
#[derive(Clone, Copy)]
struct Sums {
    /// Eight, of 32 activations each.
    of_32: *const i16,
    /// Sixteen, of 16 each.
    of_16: *const i16,
}

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

/// The frame: `$dot` adds a block's exact sums S to `$scaled`, and Mn to `$mins`. Where quants have an offset, `$mins` is
/// instead the sum `Σ scale · Σ x` that it is to be subtracted with.
macro_rules! block256 {
    ($name:ident, $bytes:literal, mins: $mins:literal, offset: $offset:literal,
     |$packed:ident, $x:ident, $sums:ident, $scaled:ident, $min_sums:ident| $dot:expr) => {
        #[inline(always)]
        unsafe fn $name<const C: usize>(tile: &Tile<'_>, row: usize) {
            let activations = tile.activations;
            let k = activations.padded();
            let blocks = k / 256;
            // SAFETY: the target feature is the caller's promise; blocks and activations are within their vectors,
            // whose lengths were made for `blocks` blocks of K.
            unsafe {
                let mut acc = [_mm512_setzero_ps(); C];
                let mut acc_min = [_mm512_setzero_ps(); C];
                let mut $packed = tile.group.as_ptr();
                for block in 0..blocks {
                    if C == 1 {
                        prefetch($packed, $bytes);
                    }
                    let $x: [*const i8; C] =
                        std::array::from_fn(|c| activations.quants.as_ptr().add((row + c) * k + block * 256));
                    let $sums: [Sums; C] = std::array::from_fn(|c| {
                        let index = (row + c) * blocks + block;
                        Sums {
                            of_32: activations.sums32.as_ptr().add(index * 8),
                            of_16: activations.sums16.as_ptr().add(index * 16),
                        }
                    });
                    let mut $scaled = [_mm512_setzero_si512(); C];
                    let mut $min_sums = [_mm512_setzero_si512(); C];
                    $dot;
                    let dw = scales($packed, 0);
                    for c in 0..C {
                        let dx = _mm512_set1_ps(*activations.scales.as_ptr().add((row + c) * blocks + block));
                        let mut sums = $scaled[c];
                        if $offset != 0 {
                            let offset = _mm512_mullo_epi32($min_sums[c], _mm512_set1_epi32($offset));
                            sums = _mm512_sub_epi32(sums, offset);
                        }
                        acc[c] = _mm512_fmadd_ps(_mm512_mul_ps(dw, dx), _mm512_cvtepi32_ps(sums), acc[c]);
                        if $mins {
                            let dmin = _mm512_mul_ps(scales($packed, 1), dx);
                            acc_min[c] = _mm512_fmadd_ps(dmin, _mm512_cvtepi32_ps($min_sums[c]), acc_min[c]);
                        }
                    }
                    $packed = $packed.add($bytes);
                }
                if $mins {
                    for (acc, acc_min) in acc.iter_mut().zip(acc_min) {
                        *acc = _mm512_sub_ps(*acc, acc_min);
                    }
                }
                store(tile, row, acc);
            }
        }
    };
}

block256!(q2_k, 1344, mins: true, offset: 0, |packed, x, sums, scaled, mins| {
    let two_bits = _mm512_set1_epi8(3);
    for pair in 0..8 {
        let both = unsigned_pairs(packed.add(64 + pair * 32));
        for c in 0..C {
            mins[c] = add_pair(mins[c], _mm512_srli_epi16::<4>(both), sums[c].of_16, pair);
        }
        for (part, scale) in split(_mm512_and_si512(both, _mm512_set1_epi16(15))).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(320 + sub * 64));
            let mut sums = [_mm512_setzero_si512(); C];
            for group in 0..4 {
                let weights = _mm512_and_si512(moved(quants, group * 2, 0), two_bits);
                add_word(&mut sums, weights, &x, sub * 16 + group * 4);
            }
            add_scaled(&mut scaled, sums, scale);
        }
    }
});

block256!(q3_k, 1824, mins: false, offset: 4, |packed, x, sums, scaled, offsets| {
    let (two_bits, third_bit) = (_mm512_set1_epi8(3), _mm512_set1_epi8(4));
    for pair in 0..8 {
        let pairs = signed_pairs(packed.add(32 + pair * 32));
        for c in 0..C {
            offsets[c] = add_pair(offsets[c], pairs, sums[c].of_16, pair);
        }
        let third = load(packed.add(1312 + pair * 64));
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(288 + sub * 64));
            let mut sums = [_mm512_setzero_si512(); C];
            for group in 0..4 {
                let low = _mm512_and_si512(moved(quants, group * 2, 0), two_bits);
                let weights = or_masked(low, moved(third, part * 4 + group, 2), third_bit);
                add_word(&mut sums, weights, &x, sub * 16 + group * 4);
            }
            add_scaled(&mut scaled, sums, scale);
        }
    }
});

block256!(q4_k, 2368, mins: true, offset: 0, |packed, x, sums, scaled, mins| {
    for pair in 0..4 {
        let mut low_sums = [_mm512_setzero_si512(); C];
        let mut high_sums = [_mm512_setzero_si512(); C];
        for group in 0..8 {
            let [low, high] = nibbles(load(packed.add(320 + pair * 512 + group * 64)));
            add_word(&mut low_sums, low, &x, pair * 64 + group * 4);
            add_word(&mut high_sums, high, &x, pair * 64 + 32 + group * 4);
        }
        add_scaled(&mut scaled, low_sums, bytes(packed.add(64 + pair * 32)));
        add_scaled(&mut scaled, high_sums, bytes(packed.add(64 + pair * 32 + 16)));
        let min = unsigned_pairs(packed.add(192 + pair * 32));
        for c in 0..C {
            mins[c] = add_pair(mins[c], min, sums[c].of_32, pair);
        }
    }
});

block256!(q5_k, 2880, mins: true, offset: 0, |packed, x, sums, scaled, mins| {
    let fifth_bit = _mm512_set1_epi8(16);
    for pair in 0..4 {
        let low_fifth = load(packed.add(2368 + pair * 128));
        let high_fifth = load(packed.add(2368 + pair * 128 + 64));
        let mut low_sums = [_mm512_setzero_si512(); C];
        let mut high_sums = [_mm512_setzero_si512(); C];
        for group in 0..8 {
            let [low, high] = nibbles(load(packed.add(320 + pair * 512 + group * 64)));
            let low = or_masked(low, moved(low_fifth, group, 4), fifth_bit);
            add_word(&mut low_sums, low, &x, pair * 64 + group * 4);
            let high = or_masked(high, moved(high_fifth, group, 4), fifth_bit);
            add_word(&mut high_sums, high, &x, pair * 64 + 32 + group * 4);
        }
        add_scaled(&mut scaled, low_sums, bytes(packed.add(64 + pair * 32)));
        add_scaled(&mut scaled, high_sums, bytes(packed.add(64 + pair * 32 + 16)));
        let min = unsigned_pairs(packed.add(192 + pair * 32));
        for c in 0..C {
            mins[c] = add_pair(mins[c], min, sums[c].of_32, pair);
        }
    }
});

block256!(q6_k, 3360, mins: false, offset: 32, |packed, x, sums, scaled, offsets| {
    let upper = _mm512_set1_epi8(0x30);
    for pair in 0..8 {
        let chunk = packed.add(288 + pair * 384);
        let pairs = signed_pairs(packed.add(32 + pair * 32));
        for c in 0..C {
            offsets[c] = add_pair(offsets[c], pairs, sums[c].of_16, pair);
        }
        let low_upper = load(chunk.add(256));
        let high_upper = load(chunk.add(320));
        let mut low_sums = [_mm512_setzero_si512(); C];
        let mut high_sums = [_mm512_setzero_si512(); C];
        for group in 0..4 {
            let [low, high] = nibbles(load(chunk.add(group * 64)));
            let low = or_masked(low, moved(low_upper, group * 2, 4), upper);
            add_word(&mut low_sums, low, &x, pair * 32 + group * 4);
            let high = or_masked(high, moved(high_upper, group * 2, 4), upper);
            add_word(&mut high_sums, high, &x, pair * 32 + 16 + group * 4);
        }
        let [low_scale, high_scale] = split(pairs);
        add_scaled(&mut scaled, low_sums, low_scale);
        add_scaled(&mut scaled, high_sums, high_scale);
    }
});

block256!(iq4_xs, 2208, mins: false, offset: 128, |packed, x, sums, scaled, offsets| {
    let values = table(&IQ4_VALUES, 128);
    for pair in 0..4 {
        let pairs = signed_pairs(packed.add(32 + pair * 32));
        for c in 0..C {
            offsets[c] = add_pair(offsets[c], pairs, sums[c].of_32, pair);
        }
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let mut sums = [_mm512_setzero_si512(); C];
            for group in 0..4 {
                let [low, high] = nibbles(load(packed.add(160 + sub * 256 + group * 64)));
                add_word(&mut sums, _mm512_shuffle_epi8(values, low), &x, sub * 32 + group * 4);
                add_word(&mut sums, _mm512_shuffle_epi8(values, high), &x, sub * 32 + 16 + group * 4);
            }
            add_scaled(&mut scaled, sums, scale);
        }
    }
});
