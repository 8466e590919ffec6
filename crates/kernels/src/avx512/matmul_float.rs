//! AVX-512 products with float weights.

use super::matmul::by_frame;
use crate::avx2;
use crate::avx2::matmul_float::MXCSR_FLUSHING;
use crate::matmul::Tile;
use crate::x86::frames::{floats, store};
use std::arch::asm;
use std::arch::x86_64::*;

by_frame!(floats, f32_tile, f32_groups, 4, |weights| _mm512_loadu_ps(weights.cast()));
by_frame!(floats, f16_tile, f16_groups, 2, |weights| _mm512_cvtph_ps(_mm256_loadu_si256(weights.cast())));

/// Rows whose chains run side by side, so that none waits for itself.
const ROWS: usize = 4;

/// BF16 weights in AMX's order, four rows at a time; for one row alone AVX2 is faster. The flush modes hold only inside one
/// piece of assembly, where the compiler can move no other arithmetic.
#[target_feature(enable = "avx2,fma,avx512f")]
pub(super) unsafe fn bf16_tile(tile: &Tile<'_>) {
    if tile.rows.len() == 1 {
        // SAFETY: where AVX-512 is available, AVX2 is; the caller's other promises are the same.
        return unsafe { avx2::matmul_float::bf16_tile(tile) };
    }
    let k = tile.activations.padded();
    for row in tile.rows.clone().step_by(ROWS) {
        let rows = ROWS.min(tile.rows.end - row);
        let mut saved_mxcsr = 0u32;
        let mut acc = [_mm512_setzero_ps(); ROWS];
        // SAFETY: the loops read K/32 blocks of 1,024 bytes of weights and K activations of each row, which the packing and
        // `Activations::prepare` made; where there are fewer rows than four, the last is read again. MXCSR is restored at
        // the end. K is at least 32, for no matrix has no columns.
        unsafe {
            let x: [*const f32; ROWS] =
                std::array::from_fn(|c| tile.activations.floats.as_ptr().add((row + c.min(rows - 1)) * k));
            asm!(
                "vstmxcsr [{saved}]",
                "vldmxcsr [{flushing}]",
                "2:",
                "vpxorq {even0}, {even0}, {even0}",
                "vpxorq {even1}, {even1}, {even1}",
                "vpxorq {even2}, {even2}, {even2}",
                "vpxorq {even3}, {even3}, {even3}",
                "vpxorq {odd0}, {odd0}, {odd0}",
                "vpxorq {odd1}, {odd1}, {odd1}",
                "vpxorq {odd2}, {odd2}, {odd2}",
                "vpxorq {odd3}, {odd3}, {odd3}",
                "mov {pairs:e}, 16",
                "3:",
                "vmovdqu32 {odd}, [{weights}]",
                "vpslld {even}, {odd}, 16",
                "vpandd {odd}, {odd}, {mask}",
                "vfmadd231ps {even0}, {even}, dword ptr [{x0} + {at}]{{1to16}}",
                "vfmadd231ps {even1}, {even}, dword ptr [{x1} + {at}]{{1to16}}",
                "vfmadd231ps {even2}, {even}, dword ptr [{x2} + {at}]{{1to16}}",
                "vfmadd231ps {even3}, {even}, dword ptr [{x3} + {at}]{{1to16}}",
                "vfmadd231ps {odd0}, {odd}, dword ptr [{x0} + {at} + 4]{{1to16}}",
                "vfmadd231ps {odd1}, {odd}, dword ptr [{x1} + {at} + 4]{{1to16}}",
                "vfmadd231ps {odd2}, {odd}, dword ptr [{x2} + {at} + 4]{{1to16}}",
                "vfmadd231ps {odd3}, {odd}, dword ptr [{x3} + {at} + 4]{{1to16}}",
                "add {at}, 8",
                "add {weights}, 64",
                "dec {pairs:e}",
                "jnz 3b",
                "vaddps {even0}, {even0}, {odd0}",
                "vaddps {even1}, {even1}, {odd1}",
                "vaddps {even2}, {even2}, {odd2}",
                "vaddps {even3}, {even3}, {odd3}",
                "vaddps {acc0}, {acc0}, {even0}",
                "vaddps {acc1}, {acc1}, {even1}",
                "vaddps {acc2}, {acc2}, {even2}",
                "vaddps {acc3}, {acc3}, {even3}",
                "cmp {at}, {end}",
                "jne 2b",
                "vldmxcsr [{saved}]",
                saved = in(reg) &raw mut saved_mxcsr,
                flushing = in(reg) &raw const MXCSR_FLUSHING,
                x0 = in(reg) x[0],
                x1 = in(reg) x[1],
                x2 = in(reg) x[2],
                x3 = in(reg) x[3],
                at = inout(reg) 0usize => _,
                end = in(reg) k * 4,
                weights = inout(reg) tile.group.as_ptr() => _,
                pairs = out(reg) _,
                mask = in(zmm_reg) _mm512_set1_epi32(0xffff_0000_u32 as i32),
                acc0 = inout(zmm_reg) acc[0],
                acc1 = inout(zmm_reg) acc[1],
                acc2 = inout(zmm_reg) acc[2],
                acc3 = inout(zmm_reg) acc[3],
                even0 = out(zmm_reg) _,
                even1 = out(zmm_reg) _,
                even2 = out(zmm_reg) _,
                even3 = out(zmm_reg) _,
                odd0 = out(zmm_reg) _,
                odd1 = out(zmm_reg) _,
                odd2 = out(zmm_reg) _,
                odd3 = out(zmm_reg) _,
                even = out(zmm_reg) _,
                odd = out(zmm_reg) _,
                options(nostack),
            );
            for (c, acc) in acc.into_iter().take(rows).enumerate() {
                store(tile, row + c, [[acc]]);
            }
        }
    }
}
