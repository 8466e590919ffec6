//! AVX2 products with the types that have blocks of 256: K-quants and IQ4_XS.

use super::block32::table;
use super::matmul::{load, moved, or_masked, prefetch, scales, store, word};
use crate::matmul::{Tile, over_rows};
use crate::packed::IQ4_VALUES;
use std::arch::x86_64::*;

over_rows!("avx2,fma,f16c", [4, 2, 1], q2_k_tile, q2_k);
over_rows!("avx2,fma,f16c", [4, 2, 1], q3_k_tile, q3_k);
over_rows!("avx2,fma,f16c", [4, 2, 1], q4_k_tile, q4_k);
over_rows!("avx2,fma,f16c", [4, 2, 1], q5_k_tile, q5_k);
over_rows!("avx2,fma,f16c", [4, 2, 1], q6_k_tile, q6_k);
over_rows!("avx2,fma,f16c", [4, 2, 1], iq4_xs_tile, iq4_xs);

/// The sums of a block's activations.
#[derive(Clone, Copy)]
struct Sums {
    /// Eight, of 32 activations each.
    of_32: *const i16,
    /// Sixteen, of 16 each.
    of_16: *const i16,
}

/// Two neighbouring sums in every lane, to be multiplied with pairs of scales or minima.
#[inline(always)]
unsafe fn two(sums: *const i16, pair: usize) -> __m256i {
    // SAFETY: the caller has two sums at `sums + 2 · pair`; the target feature is its promise.
    unsafe { _mm256_set1_epi32(sums.add(pair * 2).cast::<i32>().read_unaligned()) }
}

/// The frame: `$dot` computes, for one half of the rows, the exact i32 sums S and Mn of C rows of activations.
macro_rules! block256 {
    ($name:ident, $bytes:literal, mins: $mins:literal, |$packed:ident, $half:ident, $x:ident, $sums:ident| $dot:expr) => {
        #[inline(always)]
        unsafe fn $name<const C: usize>(tile: &Tile<'_>, row: usize) {
            let activations = tile.activations;
            let k = activations.padded();
            let blocks = k / 256;
            // SAFETY: the target feature is the caller's promise; blocks and activations are within their vectors,
            // whose lengths were made for `blocks` blocks of K.
            unsafe {
                let mut acc = [[_mm256_setzero_ps(); C]; 2];
                let mut acc_min = [[_mm256_setzero_ps(); C]; 2];
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
                    for $half in 0..2 {
                        let (scaled, mins): ([__m256i; C], [__m256i; C]) = $dot;
                        let dw = scales($packed, 0, $half);
                        for c in 0..C {
                            let dx = _mm256_set1_ps(*activations.scales.as_ptr().add((row + c) * blocks + block));
                            acc[$half][c] =
                                _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(scaled[c]), acc[$half][c]);
                            if $mins {
                                let dmin = scales($packed, 1, $half);
                                acc_min[$half][c] = _mm256_fmadd_ps(
                                    _mm256_mul_ps(dmin, dx),
                                    _mm256_cvtepi32_ps(mins[c]),
                                    acc_min[$half][c],
                                );
                            }
                        }
                    }
                    $packed = $packed.add($bytes);
                }
                if $mins {
                    for (acc, acc_min) in acc.as_flattened_mut().iter_mut().zip(acc_min.as_flattened()) {
                        *acc = _mm256_sub_ps(*acc, *acc_min);
                    }
                }
                store(tile, row, acc);
            }
        }
    };
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

/// Adds the products of four k of eight rows in i16.
#[inline(always)]
unsafe fn add_word<const C: usize>(sums: &mut [__m256i; C], weights: __m256i, x: &[*const i8; C], at: usize) {
    for (sums, x) in sums.iter_mut().zip(x) {
        // SAFETY: four activations at `x + at`; the target feature is the caller's promise.
        unsafe { *sums = _mm256_add_epi16(*sums, _mm256_maddubs_epi16(weights, word(x.add(at)))) };
    }
}

block256!(q2_k, 1344, mins: true, |packed, half, x, sums| {
    let (two_bits, nibble) = (_mm256_set1_epi8(3), _mm256_set1_epi16(15));
    let mut scaled = [_mm256_setzero_si256(); C];
    let mut mins = [_mm256_setzero_si256(); C];
    for pair in 0..8 {
        let both = _mm256_cvtepu8_epi16(_mm_loadu_si128(packed.add(64 + pair * 32 + half * 16).cast()));
        let min = _mm256_srli_epi16::<4>(both);
        for c in 0..C {
            mins[c] = _mm256_add_epi32(mins[c], _mm256_madd_epi16(min, two(sums[c].of_16, pair)));
        }
        for (part, scale) in split(_mm256_and_si256(both, nibble)).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(320 + sub * 64 + half * 32));
            // Eight products of at most 3 · 127 each.
            let mut sums = [_mm256_setzero_si256(); C];
            for group in 0..4 {
                let weights = _mm256_and_si256(moved(quants, group as i32 * 2, 0), two_bits);
                add_word(&mut sums, weights, &x, sub * 16 + group * 4);
            }
            add_scaled(&mut scaled, sums, scale);
        }
    }
    (scaled, mins)
});

block256!(q3_k, 1824, mins: false, |packed, half, x, sums| {
    let (two_bits, third_bit) = (_mm256_set1_epi8(3), _mm256_set1_epi8(4));
    // Σ scale · (Σ quant · x − 4 · Σ x), the second term of two sub-blocks at a time.
    let mut scaled = [_mm256_setzero_si256(); C];
    let mut offsets = [_mm256_setzero_si256(); C];
    for pair in 0..8 {
        let pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128(packed.add(32 + pair * 32 + half * 16).cast()));
        for c in 0..C {
            offsets[c] = _mm256_add_epi32(offsets[c], _mm256_madd_epi16(pairs, two(sums[c].of_16, pair)));
        }
        let third = load(packed.add(1312 + pair * 64 + half * 32));
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            let quants = load(packed.add(288 + sub * 64 + half * 32));
            // Eight products of at most 7 · 127 each.
            let mut sums = [_mm256_setzero_si256(); C];
            for group in 0..4 {
                let low = _mm256_and_si256(moved(quants, group as i32 * 2, 0), two_bits);
                let weights = or_masked(low, moved(third, (part * 4 + group) as i32, 2), third_bit);
                add_word(&mut sums, weights, &x, sub * 16 + group * 4);
            }
            add_scaled(&mut scaled, sums, scale);
        }
    }
    let subtract = |c: usize| _mm256_sub_epi32(scaled[c], _mm256_slli_epi32::<2>(offsets[c]));
    (std::array::from_fn(subtract), offsets)
});

block256!(q4_k, 2368, mins: true, |packed, half, x, sums| {
    let mask = _mm256_set1_epi8(15);
    let mut scaled = [_mm256_setzero_si256(); C];
    let mut mins = [_mm256_setzero_si256(); C];
    for pair in 0..4 {
        let quants = packed.add(320 + pair * 512 + half * 32);
        // Sixteen products of at most 15 · 127 each stay below 2^15.
        let mut low_sums = [_mm256_setzero_si256(); C];
        let mut high_sums = [_mm256_setzero_si256(); C];
        for group in 0..8 {
            let both = load(quants.add(group * 64));
            add_word(&mut low_sums, _mm256_and_si256(both, mask), &x, pair * 64 + group * 4);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
            add_word(&mut high_sums, high, &x, pair * 64 + 32 + group * 4);
        }
        add_scaled(&mut scaled, low_sums, doubled(packed.add(64 + pair * 32 + half * 8)));
        add_scaled(&mut scaled, high_sums, doubled(packed.add(64 + pair * 32 + 16 + half * 8)));
        let min = _mm256_cvtepu8_epi16(_mm_loadu_si128(packed.add(192 + pair * 32 + half * 16).cast()));
        for c in 0..C {
            mins[c] = _mm256_add_epi32(mins[c], _mm256_madd_epi16(min, two(sums[c].of_32, pair)));
        }
    }
    (scaled, mins)
});

block256!(q5_k, 2880, mins: true, |packed, half, x, sums| {
    let (mask, fifth_bit) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
    let mut scaled = [_mm256_setzero_si256(); C];
    let mut mins = [_mm256_setzero_si256(); C];
    for pair in 0..4 {
        let quants = packed.add(320 + pair * 512 + half * 32);
        let low_fifth = load(packed.add(2368 + pair * 128 + half * 32));
        let high_fifth = load(packed.add(2368 + pair * 128 + 64 + half * 32));
        let low_scale = doubled(packed.add(64 + pair * 32 + half * 8));
        let high_scale = doubled(packed.add(64 + pair * 32 + 16 + half * 8));
        for step in 0..2 {
            // Eight products of at most 31 · 127 each stay below 2^15.
            let mut low_sums = [_mm256_setzero_si256(); C];
            let mut high_sums = [_mm256_setzero_si256(); C];
            for group in step * 4..step * 4 + 4 {
                let both = load(quants.add(group * 64));
                let low = or_masked(_mm256_and_si256(both, mask), moved(low_fifth, group as i32, 4), fifth_bit);
                add_word(&mut low_sums, low, &x, pair * 64 + group * 4);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                let high = or_masked(high, moved(high_fifth, group as i32, 4), fifth_bit);
                add_word(&mut high_sums, high, &x, pair * 64 + 32 + group * 4);
            }
            add_scaled(&mut scaled, low_sums, low_scale);
            add_scaled(&mut scaled, high_sums, high_scale);
        }
        let min = _mm256_cvtepu8_epi16(_mm_loadu_si128(packed.add(192 + pair * 32 + half * 16).cast()));
        for c in 0..C {
            mins[c] = _mm256_add_epi32(mins[c], _mm256_madd_epi16(min, two(sums[c].of_32, pair)));
        }
    }
    (scaled, mins)
});

block256!(q6_k, 3360, mins: false, |packed, half, x, sums| {
    let (mask, upper) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    // Σ scale · (Σ quant · x − 32 · Σ x), the second term of two sub-blocks at a time.
    let mut scaled = [_mm256_setzero_si256(); C];
    let mut offsets = [_mm256_setzero_si256(); C];
    for pair in 0..8 {
        let chunk = packed.add(288 + pair * 384 + half * 32);
        let pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128(packed.add(32 + pair * 32 + half * 16).cast()));
        let [low_scale, high_scale] = split(pairs);
        for c in 0..C {
            offsets[c] = _mm256_add_epi32(offsets[c], _mm256_madd_epi16(pairs, two(sums[c].of_16, pair)));
        }
        let low_upper = load(chunk.add(256));
        let high_upper = load(chunk.add(320));
        for step in 0..2 {
            // Two words in i16: four products of at most 63 · 127 each stay below 2^15.
            let mut low_sums = [_mm256_setzero_si256(); C];
            let mut high_sums = [_mm256_setzero_si256(); C];
            for group in step * 2..step * 2 + 2 {
                let both = load(chunk.add(group * 64));
                let low = _mm256_and_si256(both, mask);
                let low = or_masked(low, moved(low_upper, group as i32 * 2, 4), upper);
                add_word(&mut low_sums, low, &x, pair * 32 + group * 4);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                let high = or_masked(high, moved(high_upper, group as i32 * 2, 4), upper);
                add_word(&mut high_sums, high, &x, pair * 32 + 16 + group * 4);
            }
            add_scaled(&mut scaled, low_sums, low_scale);
            add_scaled(&mut scaled, high_sums, high_scale);
        }
    }
    let subtract = |c: usize| _mm256_sub_epi32(scaled[c], _mm256_slli_epi32::<5>(offsets[c]));
    (std::array::from_fn(subtract), offsets)
});

block256!(iq4_xs, 2208, mins: false, |packed, half, x, _sums| {
    let (mask, values) = (_mm256_set1_epi8(15), table(&IQ4_VALUES));
    let mut scaled = [_mm256_setzero_si256(); C];
    for pair in 0..4 {
        let pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128(packed.add(32 + pair * 32 + half * 16).cast()));
        for (part, scale) in split(pairs).into_iter().enumerate() {
            let sub = pair * 2 + part;
            for group in 0..4 {
                let both = load(packed.add(160 + sub * 256 + half * 32 + group * 64));
                for (part, nibbles) in [both, _mm256_srli_epi16::<4>(both)].into_iter().enumerate() {
                    // |w| · (x with w's sign): two products of at most 127 · 127 each stay below 2^15.
                    let weights = _mm256_shuffle_epi8(values, _mm256_and_si256(nibbles, mask));
                    let magnitudes = _mm256_abs_epi8(weights);
                    let products: [__m256i; C] = std::array::from_fn(|c| {
                        let signed = _mm256_sign_epi8(word(x[c].add(sub * 32 + part * 16 + group * 4)), weights);
                        _mm256_maddubs_epi16(magnitudes, signed)
                    });
                    add_scaled(&mut scaled, products, scale);
                }
            }
        }
    }
    (scaled, [_mm256_setzero_si256(); C])
});
