//! The frames of the matrix products: what surrounds an instruction set's integer sums. A group's sixteen rows are PARTS
//! registers; C rows of activations are taken at once, so that unpacked weights serve all of them.

use super::Lanes;
use crate::matmul::{GROUPS, Tile};
use crate::packed::GROUP;
use std::arch::x86_64::*;

/// Defines `$name`, a [`TileKernel`](crate::matmul::TileKernel) that runs `$rows`, which takes C rows of activations at once,
/// over all rows of a tile: as many as it can at a time, in the order of the counts given.
macro_rules! over_rows {
    ($features:literal, [$($count:literal),+], $name:ident, |$tile:ident, $row:ident| $rows:expr) => {
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $name($tile: &crate::matmul::Tile<'_>) {
            let mut $row = $tile.rows.start;
            $({
                const C: usize = $count;
                while $tile.rows.end - $row >= C {
                    // SAFETY: the caller's promises hold for every part of the tile.
                    unsafe { $rows };
                    $row += C;
                }
            })+
        }
    };
}
pub(crate) use over_rows;

/// Defines kernels by [`float_rows`] and, for several groups, [`float_groups`]: `$load` widens a register of weights of `$bytes`
/// each.
macro_rules! floats {
    ($features:literal, $counts:tt, $lanes:ty, $parts:literal, $name:ident, $groups:ident, $bytes:literal,
     |$weights:ident| $load:expr) => {
        crate::x86::frames::over_rows!($features, $counts, $name, |tile, row| {
            crate::x86::frames::float_rows::<$lanes, $parts, C, $bytes>(tile, row, |$weights| $load)
        });

        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $groups(tile: &crate::matmul::Tile<'_>) {
            // SAFETY: the features are enabled; the tile is of several groups.
            unsafe { crate::x86::frames::float_groups::<$lanes, $parts, $bytes>(tile, |$weights| $load) }
        }
    };
}
pub(crate) use floats;

/// F32 and F16 weights: one fma chain, k ascending, per output.
///
/// # Safety
/// To be inlined where the features of `L` are enabled; the C rows from `row` on are the tile's, and its parts fit.
#[inline(always)]
pub(crate) unsafe fn float_rows<L: Lanes, const PARTS: usize, const C: usize, const BYTES: usize>(
    tile: &Tile<'_>,
    row: usize,
    load: impl Fn(*const u8) -> L,
) {
    let k = tile.activations.padded();
    // SAFETY: the target feature is the caller's promise; weights and activations hold K numbers a row.
    unsafe {
        let x: [*const f32; C] = std::array::from_fn(|c| tile.activations.floats.as_ptr().add((row + c) * k));
        let mut acc = [[L::zero(); C]; PARTS];
        for index in 0..k {
            for (part, acc) in acc.iter_mut().enumerate() {
                let weights = load(tile.group.as_ptr().add((index * GROUP + part * L::COUNT) * BYTES));
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = L::fma(weights, L::splat(*x.add(index)), *acc);
                }
            }
        }
        store(tile, row, acc);
    }
}

/// The same for a single row, and several groups at once.
///
/// # Safety
/// To be inlined where the features of `L` are enabled; the tile is of a single row and [`GROUPS`] groups.
#[inline(always)]
pub(crate) unsafe fn float_groups<L: Lanes, const PARTS: usize, const BYTES: usize>(
    tile: &Tile<'_>,
    load: impl Fn(*const u8) -> L,
) {
    let k = tile.activations.padded();
    // SAFETY: the target feature is the caller's promise; weights and activations hold K numbers a row, and there is room for
    // sixteen outputs of each group.
    unsafe {
        let x = tile.activations.floats.as_ptr().add(tile.rows.start * k);
        let groups = tile.group.chunks_exact(tile.group.len() / GROUPS).map(<[u8]>::as_ptr);
        let mut weights = [std::ptr::null(); GROUPS];
        weights.iter_mut().zip(groups).for_each(|(weights, group)| *weights = group);
        let mut acc = [[L::zero(); PARTS]; GROUPS];
        for index in 0..k {
            let x = L::splat(*x.add(index));
            for (weights, acc) in weights.iter().zip(&mut acc) {
                for (part, acc) in acc.iter_mut().enumerate() {
                    *acc = L::fma(load(weights.add((index * GROUP + part * L::COUNT) * BYTES)), x, *acc);
                }
            }
        }
        for (number, acc) in acc.into_iter().flatten().enumerate() {
            L::store(tile.out.add(number * L::COUNT), acc);
        }
    }
}

/// Defines a kernel by [`block32_rows`]: of a block of `$bytes`, `$scale` gives a part's scales, and `$dot` adds C rows'
/// products, over 32 of k, to `$sums`. `$offset` was added to the quants.
macro_rules! block32 {
    ($features:literal, $counts:tt, $lanes:ty, $parts:literal, $name:ident, $bytes:literal, $scale:ident,
     offset: $offset:expr, mins: $mins:literal, |$packed:ident, $part:ident, $x:ident, $sums:ident| $dot:expr) => {
        crate::x86::frames::over_rows!($features, $counts, $name, |tile, row| {
            crate::x86::frames::block32_rows::<$lanes, $parts, C, $bytes, { $offset }, $mins>(
                tile,
                row,
                |packed, part| $scale(packed, 0, part),
                |$packed, $part, $x: &[*const i8; C], $sums| $dot,
            )
        });
    };
}
pub(crate) use block32;

/// The types that have a float scale for every 32 numbers.
///
/// # Safety
/// As for [`float_rows`].
#[inline(always)]
pub(crate) unsafe fn block32_rows<
    L: Lanes,
    const PARTS: usize,
    const C: usize,
    const BYTES: usize,
    const OFFSET: i32,
    const MINS: bool,
>(
    tile: &Tile<'_>,
    row: usize,
    scale: impl Fn(*const u8, usize) -> L,
    dot: impl Fn(*const u8, usize, &[*const i8; C], &mut [L::Ints; C]),
) {
    let activations = tile.activations;
    let k = activations.padded();
    let blocks = k / 32;
    // SAFETY: the target feature is the caller's promise; blocks and activations are within their vectors, whose lengths
    // were made for `blocks` blocks of K.
    unsafe {
        let quants: [*const i8; C] = std::array::from_fn(|c| activations.quants.as_ptr().add((row + c) * k));
        let mut acc = [[L::zero(); C]; PARTS];
        let mut acc_min = [[L::zero(); C]; PARTS];
        let mut packed = tile.group.as_ptr();
        for block in 0..blocks {
            if C == 1 {
                prefetch(packed, BYTES);
            }
            let index: [usize; C] = std::array::from_fn(|c| (row + c) * blocks + block);
            let x = quants.map(|quants| quants.add(block * 32));
            for part in 0..PARTS {
                let mut sums: [L::Ints; C] = index.map(|index| {
                    // Not even read where there is no offset.
                    let sum = if OFFSET == 0 { 0 } else { *activations.sums32.as_ptr().add(index) };
                    L::splat_int(-OFFSET * i32::from(sum))
                });
                dot(packed, part, &x, &mut sums);
                let dw = scale(packed, part);
                for c in 0..C {
                    let d = L::mul(dw, L::splat(*activations.scales.as_ptr().add(index[c])));
                    acc[part][c] = L::fma(d, L::from_ints(sums[c]), acc[part][c]);
                    if MINS {
                        let sx = L::splat(*activations.scaled_sums.as_ptr().add(index[c]));
                        acc_min[part][c] = L::fma(scales::<L>(packed, 1, part), sx, acc_min[part][c]);
                    }
                }
            }
            packed = packed.add(BYTES);
        }
        if MINS {
            for (acc, acc_min) in acc.as_flattened_mut().iter_mut().zip(acc_min.as_flattened()) {
                *acc = L::add(*acc, *acc_min);
            }
        }
        store(tile, row, acc);
    }
}

/// The sums of a block's activations, of C rows.
pub(crate) struct Sums<const C: usize> {
    /// Eight each, of 32 activations.
    pub(crate) of_32: [*const i16; C],
    /// Sixteen each, of 16.
    pub(crate) of_16: [*const i16; C],
}

/// Defines a kernel by [`block256_rows`]: of a block of `$bytes`, `$dot` adds C rows' exact sums S to `$scaled`, and Mn to
/// `$mins`. Where `$offset` was added to the quants, `$mins` is instead the sum `Σ scale · Σ x` that goes with it.
macro_rules! block256 {
    ($features:literal, $counts:tt, $lanes:ty, $parts:literal, $name:ident, $bytes:literal, offset: $offset:literal,
     mins: $mins:literal, |$packed:ident, $part:ident, $x:ident, $x_sums:ident, $scaled:ident, $min_sums:ident| $dot:expr) => {
        crate::x86::frames::over_rows!($features, $counts, $name, |tile, row| {
            crate::x86::frames::block256_rows::<$lanes, $parts, C, $bytes, $offset, $mins>(
                tile,
                row,
                |$packed, $part, $x: &[*const i8; C], $x_sums, $scaled, $min_sums| $dot,
            )
        });
    };
}
pub(crate) use block256;

/// The types that have blocks of 256.
///
/// # Safety
/// As for [`float_rows`].
#[inline(always)]
pub(crate) unsafe fn block256_rows<
    L: Lanes,
    const PARTS: usize,
    const C: usize,
    const BYTES: usize,
    const OFFSET: i32,
    const MINS: bool,
>(
    tile: &Tile<'_>,
    row: usize,
    dot: impl Fn(*const u8, usize, &[*const i8; C], &Sums<C>, &mut [L::Ints; C], &mut [L::Ints; C]),
) {
    let activations = tile.activations;
    let blocks = activations.padded() / 256;
    // SAFETY: the target feature is the caller's promise; blocks and activations are within their vectors, whose lengths
    // were made for `blocks` blocks of K.
    unsafe {
        let mut acc = [[L::zero(); C]; PARTS];
        let mut acc_min = [[L::zero(); C]; PARTS];
        let mut packed = tile.group.as_ptr();
        for block in 0..blocks {
            if C == 1 {
                prefetch(packed, BYTES);
            }
            let index: [usize; C] = std::array::from_fn(|c| (row + c) * blocks + block);
            let x = index.map(|index| activations.quants.as_ptr().add(index * 256));
            let x_sums = Sums {
                of_32: index.map(|index| activations.sums32.as_ptr().add(index * 8)),
                of_16: index.map(|index| activations.sums16.as_ptr().add(index * 16)),
            };
            for part in 0..PARTS {
                let mut scaled = [L::splat_int(0); C];
                let mut mins = [L::splat_int(0); C];
                dot(packed, part, &x, &x_sums, &mut scaled, &mut mins);
                let dw = scales::<L>(packed, 0, part);
                for c in 0..C {
                    let dx = L::splat(*activations.scales.as_ptr().add(index[c]));
                    let sum = if OFFSET == 0 {
                        scaled[c]
                    } else {
                        L::sub_ints(scaled[c], L::mul_ints(mins[c], L::splat_int(OFFSET)))
                    };
                    acc[part][c] = L::fma(L::mul(dw, dx), L::from_ints(sum), acc[part][c]);
                    if MINS {
                        let dmin = L::mul(scales::<L>(packed, 1, part), dx);
                        acc_min[part][c] = L::fma(dmin, L::from_ints(mins[c]), acc_min[part][c]);
                    }
                }
            }
            packed = packed.add(BYTES);
        }
        if MINS {
            for (acc, acc_min) in acc.as_flattened_mut().iter_mut().zip(acc_min.as_flattened()) {
                *acc = L::sub(*acc, *acc_min);
            }
        }
        store(tile, row, acc);
    }
}

/// Values with `offset` added, so that none is negative: unsigned bytes, though the type does not say so.
pub(crate) const fn raised(values: [i8; 16], offset: u8) -> [i8; 16] {
    let mut raised = values;
    let mut i = 0;
    while i < raised.len() {
        raised[i] = values[i].wrapping_add_unsigned(offset);
        i += 1;
    }
    raised
}

/// A part of the `line`th sixteen f16 scales, with which a packed block begins.
#[inline(always)]
pub(crate) unsafe fn scales<L: Lanes>(packed: *const u8, line: usize, part: usize) -> L {
    // SAFETY: the target feature and the block are the caller's promise.
    unsafe { L::load_f16(packed.cast::<u16>().add(line * GROUP + part * L::COUNT)) }
}

/// Stores the sixteen outputs of each of C rows.
#[inline(always)]
pub(crate) unsafe fn store<L: Lanes, const PARTS: usize, const C: usize>(
    tile: &Tile<'_>,
    row: usize,
    acc: [[L; C]; PARTS],
) {
    for (part, acc) in acc.into_iter().enumerate() {
        for (c, acc) in acc.into_iter().enumerate() {
            // SAFETY: the target feature is the caller's promise; the tile's output has room for sixteen outputs for each
            // of its rows.
            unsafe {
                L::store(tile.out.add((row + c - tile.rows.start) * tile.stride + part * L::COUNT), acc);
            }
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
