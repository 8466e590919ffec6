//! AMX products with BF16 weights, whose order of additions the contract takes from `tdpbf16ps`.

use super::tiles::Tiles;
use crate::matmul::Tile;

// There are no tiles of such numbers.
pub(super) use crate::avx512::matmul_float::{f16_groups, f16_tile, f32_groups, f32_tile};

/// Few rows too: every other instruction set needs ten times as long for this order.
pub(super) unsafe fn bf16_tile(tile: &Tile<'_>) {
    let k = tile.activations.padded();
    for row in tile.rows.clone().step_by(16) {
        let rows = 16.min(tile.rows.end - row);
        // SAFETY: AMX is available, as the caller promises. K/32 steps read K activations of each row and 1,024 bytes of
        // weights each, which `Activations::prepare` and the packing made; the tile's output has room for its rows.
        unsafe {
            let tiles = Tiles::configure(rows, 16);
            let x = tile.activations.bf16s.as_ptr().add(row * k);
            let out = tile.out.add((row - tile.rows.start) * tile.stride);
            tiles.dot_bf16(x.cast(), k * 2, tile.group.as_ptr(), k / 32, out.cast(), tile.stride * 4);
        }
    }
}
