//! AVX2 products with quantised weights. Eight of a group's sixteen rows fill a register; integer sums are exact, so
//! their inner order is free: unsigned quants times signed activations (`maddubs`) are summed in i16 as far as the
//! largest values allow (sixteen products of 4 bits, eight of 5, four of 6), then in i32.

use super::matmul_float::{bf16_tile, f16_tile, f32_tile, quantize_row};
use crate::matmul::{MatmulTable, Tile};
use std::arch::x86_64::*;

pub(crate) static TABLE: MatmulTable = MatmulTable {
    f32: f32_tile,
    f16: f16_tile,
    bf16: bf16_tile,
    q4_0: q4_0_tile,
    q4_1: q4_1_tile,
    q5_0: q5_0_tile,
    q8_0: q8_0_tile,
    q4_k: q4_k_tile,
    q6_k: q6_k_tile,
    quantize_row,
};

/// Rows of activations whose products share one unpacking of the weights.
const ROWS: usize = 4;

/// Runs `$tile::<C>` over all rows of the tile, C at a time.
macro_rules! over_rows {
    ($name:ident, $tile:ident) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name(tile: &Tile<'_>) {
            let mut row = tile.rows.start;
            // SAFETY: the caller's promises hold for every part of the tile.
            unsafe {
                while row + ROWS <= tile.rows.end {
                    $tile::<ROWS>(tile, row);
                    row += ROWS;
                }
                match tile.rows.end - row {
                    1 => $tile::<1>(tile, row),
                    2 => $tile::<2>(tile, row),
                    3 => $tile::<3>(tile, row),
                    _ => {}
                }
            }
        }
    };
}
pub(super) use over_rows;

over_rows!(q4_0_tile, q4_0);
over_rows!(q4_1_tile, q4_1);
over_rows!(q5_0_tile, q5_0);
over_rows!(q8_0_tile, q8_0);
over_rows!(q4_k_tile, q4_k);
over_rows!(q6_k_tile, q6_k);

/// Four activations in every lane.
#[inline(always)]
unsafe fn word(x: *const i8) -> __m256i {
    // SAFETY: the caller has four activations at `x`; the target feature is its promise.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

#[inline(always)]
unsafe fn load(bytes: *const u8) -> __m256i {
    // SAFETY: the caller has 32 bytes at `bytes`; the target feature is its promise.
    unsafe { _mm256_loadu_si256(bytes.cast()) }
}

/// Eight scales of `half` (0 or 1) in the `part`th row of sixteen f16.
#[inline(always)]
unsafe fn scales(packed: *const u8, part: usize, half: usize) -> __m256 {
    // SAFETY: every packed block begins with its rows of scales; the target feature is the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(packed.add(part * 32 + half * 16).cast())) }
}

/// Adds pairs of i16 into i32.
#[inline(always)]
unsafe fn widen(sums: __m256i) -> __m256i {
    // SAFETY: the target feature is the caller's promise.
    unsafe { _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) }
}

/// Stores the two halves of sixteen outputs of each of C rows.
#[inline(always)]
pub(super) unsafe fn store<const C: usize>(tile: &Tile<'_>, row: usize, acc: [[__m256; C]; 2]) {
    for (c, (first, second)) in acc[0].into_iter().zip(acc[1]).enumerate() {
        // SAFETY: the tile's output has room for sixteen outputs for each of its rows.
        unsafe {
            let out = tile.out.add((row + c - tile.rows.start) * tile.stride);
            _mm256_storeu_ps(out, first);
            _mm256_storeu_ps(out.add(8), second);
        }
    }
}

/// How far ahead of its use the packed weights are fetched, in bytes: found by measurement.
const PREFETCH: usize = 4096;

/// Fetches what `bytes` (a block's size) will be read in a while. Fetching past the end of the matrix is harmless.
#[inline(always)]
unsafe fn prefetch(packed: *const u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        // SAFETY: a prefetch of any address faults never; the address is computed without being in bounds.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(PREFETCH + at).cast()) };
        at += 64;
    }
}

/// The frame of the kernels with 32-long blocks: `$dot` computes, for one half of the rows, the exact i32 sums of C
/// rows of activations.
macro_rules! block32 {
    ($name:ident, $bytes:literal, mins: $mins:literal, |$packed:ident, $half:ident, $x:ident, $sum:ident| $dot:expr) => {
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
                        let dw = scales($packed, 0, $half);
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

block32!(q4_0, 288, mins: false, |packed, half, x, sum| {
    let sums = nibbles(packed.add(32 + half * 32), x);
    std::array::from_fn(|c| _mm256_sub_epi32(widen(sums[c]), _mm256_set1_epi32(8 * sum(c))))
});

block32!(q4_1, 320, mins: true, |packed, half, x, _sum| {
    let sums = nibbles(packed.add(64 + half * 32), x);
    std::array::from_fn(|c| widen(sums[c]))
});

block32!(q5_0, 352, mins: false, |packed, half, x, sum| {
    let fifth = load(packed.add(288 + half * 32));
    let (mask, bit) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
    // Four words in i16: eight products of at most 31 · 127 each stay below 2^15.
    let mut low_sums = [_mm256_setzero_si256(); C];
    let mut high_sums = [_mm256_setzero_si256(); C];
    for group in 0..4 {
        let both = load(packed.add(32 + half * 32 + group * 64));
        // Bit `group` of the fifth bits is of the low nibble, bit `group + 4` of the high one: both to bit 4.
        let low_bit = _mm256_sll_epi16(fifth, _mm_cvtsi32_si128(4 - group as i32));
        let high_bit = _mm256_srl_epi16(fifth, _mm_cvtsi32_si128(group as i32));
        let low = _mm256_or_si256(_mm256_and_si256(both, mask), _mm256_and_si256(low_bit, bit));
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
        let high = _mm256_or_si256(high, _mm256_and_si256(high_bit, bit));
        for c in 0..C {
            let products = _mm256_maddubs_epi16(low, word(x[c].add(group * 4)));
            low_sums[c] = _mm256_add_epi16(low_sums[c], products);
            let products = _mm256_maddubs_epi16(high, word(x[c].add(16 + group * 4)));
            high_sums[c] = _mm256_add_epi16(high_sums[c], products);
        }
    }
    std::array::from_fn(|c| {
        let sums = _mm256_add_epi32(widen(low_sums[c]), widen(high_sums[c]));
        _mm256_sub_epi32(sums, _mm256_set1_epi32(16 * sum(c)))
    })
});

block32!(q8_0, 544, mins: false, |packed, half, x, _sum| {
    let mut sums = [_mm256_setzero_si256(); C];
    for group in 0..8 {
        // |w| · (x with w's sign): both fit `maddubs`, also for w = −128.
        let weights = load(packed.add(32 + half * 32 + group * 64));
        let magnitudes = _mm256_abs_epi8(weights);
        for c in 0..C {
            let signed = _mm256_sign_epi8(word(x[c].add(group * 4)), weights);
            sums[c] = _mm256_add_epi32(sums[c], widen(_mm256_maddubs_epi16(magnitudes, signed)));
        }
    }
    sums
});

/// Each of eight unsigned bytes as a pair of equal i16.
#[inline(always)]
unsafe fn doubled(bytes: *const u8) -> __m256i {
    // SAFETY: eight bytes at `bytes`; the target feature is the caller's promise.
    unsafe {
        let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.cast()));
        _mm256_or_si256(wide, _mm256_slli_epi32::<16>(wide))
    }
}

#[inline(always)]
unsafe fn q4_k<const C: usize>(tile: &Tile<'_>, row: usize) {
    let activations = tile.activations;
    let k = activations.padded();
    let blocks = k / 256;
    // SAFETY: as in `block32`.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let mut acc = [[_mm256_setzero_ps(); C]; 2];
        let mut acc_min = [[_mm256_setzero_ps(); C]; 2];
        let mut packed = tile.group.as_ptr();
        for block in 0..blocks {
            if C == 1 {
                prefetch(packed, 2368);
            }
            let x: [*const i8; C] =
                std::array::from_fn(|c| activations.quants.as_ptr().add((row + c) * k + block * 256));
            let sums32: [*const i16; C] =
                std::array::from_fn(|c| activations.sums32.as_ptr().add(((row + c) * blocks + block) * 8));
            for half in 0..2 {
                let mut scaled = [_mm256_setzero_si256(); C];
                let mut mins = [_mm256_setzero_si256(); C];
                for pair in 0..4 {
                    let quants = packed.add(320 + pair * 512 + half * 32);
                    // Sixteen products of at most 15 · 127 each stay below 2^15.
                    let mut low_sums = [_mm256_setzero_si256(); C];
                    let mut high_sums = [_mm256_setzero_si256(); C];
                    for group in 0..8 {
                        let both = load(quants.add(group * 64));
                        let low = _mm256_and_si256(both, mask);
                        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                        for c in 0..C {
                            let x = x[c].add(pair * 64 + group * 4);
                            low_sums[c] = _mm256_add_epi16(low_sums[c], _mm256_maddubs_epi16(low, word(x)));
                            let x = x.add(32);
                            high_sums[c] = _mm256_add_epi16(high_sums[c], _mm256_maddubs_epi16(high, word(x)));
                        }
                    }
                    let low_scale = doubled(packed.add(64 + pair * 32 + half * 8));
                    let high_scale = doubled(packed.add(64 + pair * 32 + 16 + half * 8));
                    let min = _mm256_cvtepu8_epi16(_mm_loadu_si128(packed.add(192 + pair * 32 + half * 16).cast()));
                    for c in 0..C {
                        scaled[c] = _mm256_add_epi32(scaled[c], _mm256_madd_epi16(low_sums[c], low_scale));
                        scaled[c] = _mm256_add_epi32(scaled[c], _mm256_madd_epi16(high_sums[c], high_scale));
                        let sums = _mm256_set1_epi32(sums32[c].add(pair * 2).cast::<i32>().read_unaligned());
                        mins[c] = _mm256_add_epi32(mins[c], _mm256_madd_epi16(min, sums));
                    }
                }
                let (dw, dmin) = (scales(packed, 0, half), scales(packed, 1, half));
                for c in 0..C {
                    let dx = _mm256_set1_ps(*activations.scales.as_ptr().add((row + c) * blocks + block));
                    acc[half][c] = _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(scaled[c]), acc[half][c]);
                    acc_min[half][c] =
                        _mm256_fmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(mins[c]), acc_min[half][c]);
                }
            }
            packed = packed.add(2368);
        }
        for (acc, acc_min) in acc.as_flattened_mut().iter_mut().zip(acc_min.as_flattened()) {
            *acc = _mm256_sub_ps(*acc, *acc_min);
        }
        store(tile, row, acc);
    }
}

#[inline(always)]
unsafe fn q6_k<const C: usize>(tile: &Tile<'_>, row: usize) {
    let activations = tile.activations;
    let k = activations.padded();
    let blocks = k / 256;
    // SAFETY: as in `block32`.
    unsafe {
        let (mask, upper) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
        let (low_word, high_word) = (_mm256_set1_epi32(0xffff), _mm256_set1_epi32(0xffff_0000u32 as i32));
        let mut acc = [[_mm256_setzero_ps(); C]; 2];
        let mut packed = tile.group.as_ptr();
        for block in 0..blocks {
            if C == 1 {
                prefetch(packed, 3360);
            }
            let x: [*const i8; C] =
                std::array::from_fn(|c| activations.quants.as_ptr().add((row + c) * k + block * 256));
            let sums16: [*const i16; C] =
                std::array::from_fn(|c| activations.sums16.as_ptr().add(((row + c) * blocks + block) * 16));
            for (half, acc) in acc.iter_mut().enumerate() {
                // Σ scale · (Σ quant · x − 32 · Σ x), the second term of two sub-blocks at a time.
                let mut scaled = [_mm256_setzero_si256(); C];
                let mut offsets = [_mm256_setzero_si256(); C];
                for pair in 0..8 {
                    let chunk = packed.add(288 + pair * 384 + half * 32);
                    let pair_scales =
                        _mm256_cvtepi8_epi16(_mm_loadu_si128(packed.add(32 + pair * 32 + half * 16).cast()));
                    let low_scale =
                        _mm256_or_si256(_mm256_and_si256(pair_scales, low_word), _mm256_slli_epi32::<16>(pair_scales));
                    let high_scale =
                        _mm256_or_si256(_mm256_and_si256(pair_scales, high_word), _mm256_srli_epi32::<16>(pair_scales));
                    for c in 0..C {
                        let sums = _mm256_set1_epi32(sums16[c].add(pair * 2).cast::<i32>().read_unaligned());
                        offsets[c] = _mm256_add_epi32(offsets[c], _mm256_madd_epi16(pair_scales, sums));
                    }
                    let low_upper = load(chunk.add(256));
                    let high_upper = load(chunk.add(320));
                    for step in 0..2 {
                        // Two words in i16: four products of at most 63 · 127 each stay below 2^15.
                        let mut low_sums = [_mm256_setzero_si256(); C];
                        let mut high_sums = [_mm256_setzero_si256(); C];
                        for group in step * 2..step * 2 + 2 {
                            let both = load(chunk.add(group * 64));
                            // Bits 2g and 2g + 1 to bits 4 and 5.
                            let place = |bits: __m256i| {
                                let bits = match group {
                                    0 => _mm256_slli_epi16::<4>(bits),
                                    1 => _mm256_slli_epi16::<2>(bits),
                                    2 => bits,
                                    _ => _mm256_srli_epi16::<2>(bits),
                                };
                                _mm256_and_si256(bits, upper)
                            };
                            let low = _mm256_or_si256(_mm256_and_si256(both, mask), place(low_upper));
                            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                            let high = _mm256_or_si256(high, place(high_upper));
                            for c in 0..C {
                                let x = x[c].add(pair * 32 + group * 4);
                                low_sums[c] = _mm256_add_epi16(low_sums[c], _mm256_maddubs_epi16(low, word(x)));
                                let x = x.add(16);
                                high_sums[c] = _mm256_add_epi16(high_sums[c], _mm256_maddubs_epi16(high, word(x)));
                            }
                        }
                        for c in 0..C {
                            scaled[c] = _mm256_add_epi32(scaled[c], _mm256_madd_epi16(low_sums[c], low_scale));
                            scaled[c] = _mm256_add_epi32(scaled[c], _mm256_madd_epi16(high_sums[c], high_scale));
                        }
                    }
                }
                let dw = scales(packed, 0, half);
                for c in 0..C {
                    let sums = _mm256_sub_epi32(scaled[c], _mm256_slli_epi32::<5>(offsets[c]));
                    let dx = _mm256_set1_ps(*activations.scales.as_ptr().add((row + c) * blocks + block));
                    acc[c] = _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(sums), acc[c]);
                }
            }
            packed = packed.add(3360);
        }
        store(tile, row, acc);
    }
}
