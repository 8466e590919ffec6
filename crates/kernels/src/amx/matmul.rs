//! AMX products: the table, and what the integer kernels share.

use crate::avx512;
use crate::avx512::matmul::{load, nibbles};
use crate::matmul::{MatmulTable, Tile, kernel_of_type};
use freehold_base::Dtype;
use std::arch::x86_64::*;

pub(crate) static TABLE: MatmulTable = MatmulTable { kernel, groups_kernel, takes_bf16: true, ..avx512::matmul::TABLE };

kernel_of_type!();

/// Rows of activations that the weights of a block serve once they are unpacked.
pub(super) const PANEL: usize = 128;

/// Runs `panel` over the rows that fill tiles, at most [`PANEL`] at a time, and AVX-512's kernel over those left.
#[inline]
pub(super) unsafe fn over_panels(tile: &Tile<'_>, dtype: Dtype, panel: impl Fn(&Tile<'_>)) {
    let (start, end) = (tile.rows.start, tile.rows.end);
    let part = |row: usize, rows: usize| Tile {
        group: tile.group,
        activations: tile.activations,
        rows: row..row + rows,
        out: tile.out.wrapping_add((row - start) * tile.stride),
        stride: tile.stride,
    };
    let whole = start + (end - start) / 16 * 16;
    for row in (start..whole).step_by(PANEL) {
        panel(&part(row, PANEL.min(whole - row)));
    }
    if whole < end {
        // SAFETY: where AMX is available, AVX-512 is; the caller's promises hold for every part of the tile.
        unsafe { (avx512::matmul::TABLE.kernel)(dtype)(&part(whole, end - whole)) };
    }
}

/// Of four words of sixteen rows the low nibbles, or the high ones.
#[inline(always)]
pub(super) unsafe fn four_words(quants: *const u8, high: bool) -> [__m512i; 4] {
    // SAFETY: the caller has 256 bytes at `quants`; the target feature is its promise.
    std::array::from_fn(|word| unsafe { nibbles(load(quants.add(word * 64)))[usize::from(high)] })
}
