//! AVX2 products with float weights, and the quantisation of activations.

use super::matmul::by_frame;
use crate::activations::{ActivationKind, RowMut, SMALLEST_AMAX, finish_sums};
use crate::matmul::Tile;
use crate::x86::frames::floats;
use std::arch::asm;
use std::arch::x86_64::*;

by_frame!(floats, f32_tile, f32_groups, 4, |weights| _mm256_loadu_ps(weights.cast()));
by_frame!(floats, f16_tile, f16_groups, 2, |weights| _mm256_cvtph_ps(_mm_loadu_si128(weights.cast())));

/// Round to nearest, all exceptions masked, subnormals flushed in results (bit 15) and inputs (bit 6).
pub(crate) static MXCSR_FLUSHING: u32 = 0x9fc0;

/// BF16 weights in AMX's order. The flush modes hold only inside one piece of assembly, where the compiler can move no
/// other arithmetic.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn bf16_tile(tile: &Tile<'_>) {
    let k = tile.activations.padded();
    for row in tile.rows.clone() {
        let mut saved_mxcsr = 0u32;
        // SAFETY: the loops read K/32 blocks of 1,024 bytes of weights and K activations, which the packing and
        // `Activations::prepare` made, and write the sixteen outputs of the row. MXCSR is restored at the end. K is at
        // least 32, for no matrix has no columns.
        unsafe {
            let x = tile.activations.floats.as_ptr().add(row * k);
            let out = tile.out.add((row - tile.rows.start) * tile.stride);
            asm!(
                "vstmxcsr [{saved}]",
                "vldmxcsr [{flushing}]",
                "vpcmpeqd {mask}, {mask}, {mask}",
                "vpslld {mask}, {mask}, 16",
                "vpxor {acc0}, {acc0}, {acc0}",
                "vpxor {acc1}, {acc1}, {acc1}",
                "2:",
                "vpxor {even0}, {even0}, {even0}",
                "vpxor {even1}, {even1}, {even1}",
                "vpxor {odd0}, {odd0}, {odd0}",
                "vpxor {odd1}, {odd1}, {odd1}",
                "mov {pairs:e}, 16",
                "3:",
                "vbroadcastss {xe}, [{x}]",
                "vbroadcastss {xo}, [{x} + 4]",
                "vmovdqu {w}, [{weights}]",
                "vpslld {t}, {w}, 16",
                "vpand {w}, {w}, {mask}",
                "vfmadd231ps {even0}, {t}, {xe}",
                "vfmadd231ps {odd0}, {w}, {xo}",
                "vmovdqu {w}, [{weights} + 32]",
                "vpslld {t}, {w}, 16",
                "vpand {w}, {w}, {mask}",
                "vfmadd231ps {even1}, {t}, {xe}",
                "vfmadd231ps {odd1}, {w}, {xo}",
                "add {x}, 8",
                "add {weights}, 64",
                "dec {pairs:e}",
                "jnz 3b",
                "vaddps {even0}, {even0}, {odd0}",
                "vaddps {even1}, {even1}, {odd1}",
                "vaddps {acc0}, {acc0}, {even0}",
                "vaddps {acc1}, {acc1}, {even1}",
                "dec {blocks}",
                "jnz 2b",
                "vmovups [{out}], {acc0}",
                "vmovups [{out} + 32], {acc1}",
                "vldmxcsr [{saved}]",
                saved = in(reg) &raw mut saved_mxcsr,
                flushing = in(reg) &raw const MXCSR_FLUSHING,
                x = inout(reg) x => _,
                weights = inout(reg) tile.group.as_ptr() => _,
                blocks = inout(reg) k / 32 => _,
                pairs = out(reg) _,
                out = in(reg) out,
                mask = out(ymm_reg) _,
                acc0 = out(ymm_reg) _,
                acc1 = out(ymm_reg) _,
                even0 = out(ymm_reg) _,
                even1 = out(ymm_reg) _,
                odd0 = out(ymm_reg) _,
                odd1 = out(ymm_reg) _,
                xe = out(ymm_reg) _,
                xo = out(ymm_reg) _,
                w = out(ymm_reg) _,
                t = out(ymm_reg) _,
                options(nostack),
            );
        }
    }
}

/// [`crate::activations::quantize_row`], 32 activations at a time.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn quantize_row(kind: ActivationKind, x: &[f32], row: &mut RowMut<'_>) {
    let block = if kind == ActivationKind::Int8Block32 { 32 } else { 256 };
    for (index, x) in x.chunks_exact(block).enumerate() {
        // SAFETY: loads of eight floats inside `x` and stores of 32 bytes inside the block's quants.
        unsafe {
            // As integers, as the reference does: a NaN is the largest.
            let magnitude = _mm256_set1_epi32(i32::MAX);
            let mut largest = _mm256_setzero_si256();
            for eight in x.chunks_exact(8) {
                let bits = _mm256_loadu_si256(eight.as_ptr().cast());
                largest = _mm256_max_epi32(largest, _mm256_and_si256(magnitude, bits));
            }
            let half = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
            let half = _mm_max_epi32(half, _mm_shuffle_epi32::<0b0100_1110>(half));
            let half = _mm_max_epi32(half, _mm_shuffle_epi32::<0b1011_0001>(half));
            let amax = f32::from_bits(_mm_cvtsi128_si32(half) as u32);
            let (d, id) = if amax < SMALLEST_AMAX { (0.0, 0.0) } else { (amax / 127.0, 127.0 / amax) };
            row.scales[index] = d;
            let id = _mm256_set1_ps(id);
            let convert = |at: *const f32| {
                let scaled = _mm256_mul_ps(_mm256_loadu_ps(at), id);
                // NaN (infinity times zero) to 0, as the reference's conversion does.
                let ordered = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled));
                _mm256_and_si256(_mm256_cvtps_epi32(scaled), ordered)
            };
            let quants = &mut row.quants[index * block..][..block];
            for (x, quants) in x.chunks_exact(32).zip(quants.chunks_exact_mut(32)) {
                let x = x.as_ptr();
                let low = _mm256_packs_epi32(convert(x), convert(x.add(8)));
                let high = _mm256_packs_epi32(convert(x.add(16)), convert(x.add(24)));
                // Packing works within 128-bit halves: put the words of four back in order.
                let packed = _mm256_packs_epi16(low, high);
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                _mm256_storeu_si256(quants.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(packed, order));
            }
        }
    }
    finish_sums(kind, row);
}
