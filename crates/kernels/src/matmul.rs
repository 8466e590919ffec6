//! Products of activations (M × K) with packed weights (N × K): the table of functions and the scalar reference.
//!
//! Each output has one accumulation chain, ascending in K, whatever the tiling. `docs/numerics.md` has the formulas.

use crate::activations::{self, Activations, RowMut};
use crate::isa::Isa;
use crate::matrix::{GROUP, f16_at};
use freehold_base::Dtype;
use half::bf16;
use std::ops::Range;

/// The product of one group of sixteen outputs with some rows of activations.
pub(crate) struct Tile<'a> {
    /// The packed group.
    pub(crate) group: &'a [u8],
    pub(crate) activations: &'a Activations,
    /// Rows of activations.
    pub(crate) rows: Range<usize>,
    /// Where the sixteen outputs of row `rows.start` go; those of the next row are `stride` further on.
    pub(crate) out: *mut f32,
    pub(crate) stride: usize,
}

impl Tile<'_> {
    /// # Safety
    /// `row` is one of the tile's.
    unsafe fn store(&self, row: usize, values: &[f32; GROUP]) {
        // SAFETY: the caller of the tile gave room for sixteen outputs for each of its rows.
        unsafe {
            let out = self.out.add((row - self.rows.start) * self.stride);
            std::ptr::copy_nonoverlapping(values.as_ptr(), out, GROUP);
        }
    }
}

/// A kernel for one weight type. The instruction set must be available, and the tile's parts must fit each other.
pub(crate) type TileKernel = unsafe fn(&Tile<'_>);

/// One function per weight type and form of activations.
#[derive(Clone, Copy)]
pub(crate) struct MatmulTable {
    pub(crate) f32: TileKernel,
    pub(crate) f16: TileKernel,
    pub(crate) bf16: TileKernel,
    pub(crate) q4_0: TileKernel,
    pub(crate) q4_1: TileKernel,
    pub(crate) q5_0: TileKernel,
    pub(crate) q8_0: TileKernel,
    pub(crate) q4_k: TileKernel,
    pub(crate) q6_k: TileKernel,
    pub(crate) quantize_row: unsafe fn(activations::ActivationKind, &[f32], &mut RowMut<'_>),
}

/// The scalar reference.
pub(crate) static REFERENCE: MatmulTable = MatmulTable {
    f32: float_tile::<4>,
    f16: float_tile::<2>,
    bf16: bf16_tile,
    q4_0: q4_0_tile,
    q4_1: q4_1_tile,
    q5_0: q5_0_tile,
    q8_0: q8_0_tile,
    q4_k: q4_k_tile,
    q6_k: q6_k_tile,
    quantize_row: activations::quantize_row,
};

impl MatmulTable {
    /// The functions for an instruction set that is available.
    pub(crate) fn of(isa: Isa) -> &'static Self {
        match isa {
            Isa::Reference => &REFERENCE,
            #[cfg(x86)]
            Isa::Avx2 => &crate::avx2::matmul::TABLE,
            #[cfg(not(x86))]
            Isa::Avx2 => unreachable!("never available here"),
        }
    }

    pub(crate) fn kernel(&self, dtype: Dtype) -> TileKernel {
        match dtype {
            Dtype::F32 => self.f32,
            Dtype::F16 => self.f16,
            Dtype::BF16 => self.bf16,
            Dtype::Q4_0 => self.q4_0,
            Dtype::Q4_1 => self.q4_1,
            Dtype::Q5_0 => self.q5_0,
            Dtype::Q8_0 => self.q8_0,
            Dtype::Q4_K => self.q4_k,
            Dtype::Q6_K => self.q6_k,
            _ => unreachable!("no matrix of another type is ever packed"),
        }
    }
}

/// F32 and F16 weights (`BYTES` each): one fma chain, k ascending.
unsafe fn float_tile<const BYTES: usize>(tile: &Tile<'_>) {
    let padded = tile.activations.padded();
    for row in tile.rows.clone() {
        let x = &tile.activations.floats[row * padded..][..padded];
        let mut acc = [0.0f32; GROUP];
        for (weights, &x) in tile.group.chunks_exact(GROUP * BYTES).zip(x) {
            for (lane, acc) in acc.iter_mut().enumerate() {
                let weight = if BYTES == 4 {
                    f32::from_le_bytes(weights[lane * 4..][..4].try_into().expect("four bytes"))
                } else {
                    f16_at(weights, lane * 2)
                };
                *acc = weight.mul_add(x, *acc);
            }
        }
        // SAFETY: `row` is one of the tile's.
        unsafe { tile.store(row, &acc) }
    }
}

/// BF16 weights in the order of `tdpbf16ps`: per 32 of K two chains, over even and over odd k, then their sum.
unsafe fn bf16_tile(tile: &Tile<'_>) {
    let padded = tile.activations.padded();
    for row in tile.rows.clone() {
        let x = &tile.activations.floats[row * padded..][..padded];
        let mut acc = [0.0f32; GROUP];
        for (weights, x) in tile.group.chunks_exact(32 * GROUP * 2).zip(x.chunks_exact(32)) {
            for (lane, acc) in acc.iter_mut().enumerate() {
                let mut chains = [0.0f32; 2];
                for (k, &x) in x.iter().enumerate() {
                    let at = (k / 2 * GROUP + lane) * 4 + k % 2 * 2;
                    let weight = bf16::from_bits(u16::from_le_bytes([weights[at], weights[at + 1]])).to_f32();
                    chains[k % 2] = fma_flushed(weight, x, chains[k % 2]);
                }
                *acc = flush(*acc + flush(chains[0] + chains[1]));
            }
        }
        // SAFETY: `row` is one of the tile's.
        unsafe { tile.store(row, &acc) }
    }
}

/// Subnormals to zeros of their sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// One step of a bf16 chain: `a·b + c` with inputs and the result flushed, tininess decided after rounding with
/// unbounded exponent. `a` and `b` hold bf16 values.
fn fma_flushed(a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = (flush(a), flush(b), flush(c));
    let result = a.mul_add(b, c);
    if result.abs() == f32::MIN_POSITIVE {
        // Rounded with subnormal precision, a result just below the smallest normal number reaches it. Scaled by 2^64
        // the same sum rounds as if the exponent were unbounded; nothing overflows, for terms that cancel to 2^−126
        // are small.
        let scale = f32::from_bits((127 + 32) << 23);
        let scaled = (a * scale).mul_add(b * scale, c * scale * scale);
        if scaled.abs() < f32::MIN_POSITIVE * scale * scale {
            return 0.0f32.copysign(result);
        }
    }
    flush(result)
}

/// Adds the dot products of one word (four k) of sixteen rows.
fn add_words(sums: &mut [i32; GROUP], quants: &[u8], x: &[i8], decode: impl Fn(u8) -> i32) {
    for (sum, quants) in sums.iter_mut().zip(quants.chunks_exact(4)) {
        for (&quant, &x) in quants.iter().zip(x) {
            *sum += decode(quant) * i32::from(x);
        }
    }
}

/// Adds the dot products of 32 nibbles of sixteen rows: low nibbles are k 0–15, high ones k 16–31.
fn add_nibbles(sums: &mut [i32; GROUP], quants: &[u8], x: &[i8]) {
    for (word, quants) in quants.chunks_exact(GROUP * 4).enumerate() {
        add_words(sums, quants, &x[word * 4..][..4], |quant| i32::from(quant & 15));
        add_words(sums, quants, &x[16 + word * 4..][..4], |quant| i32::from(quant >> 4));
    }
}

/// The frame of the kernels with 32-long blocks. `dot` gives a block's exact sums; `MINS`: there is a second scale, of
/// the minimum, with a chain of its own.
fn block32_tile<const MINS: bool>(
    tile: &Tile<'_>,
    block_bytes: usize,
    dot: impl Fn(&[u8], &[i8], i32) -> [i32; GROUP],
) {
    let activations = tile.activations;
    let (k, blocks) = (activations.padded(), activations.padded() / 32);
    for row in tile.rows.clone() {
        let x = &activations.quants[row * k..][..k];
        let mut acc = [0.0f32; GROUP];
        let mut acc_min = [0.0f32; GROUP];
        for (block, packed) in tile.group.chunks_exact(block_bytes).take(blocks).enumerate() {
            let index = row * blocks + block;
            let sums = dot(packed, &x[block * 32..][..32], i32::from(activations.sums32[index]));
            let dx = activations.scales[index];
            for lane in 0..GROUP {
                let dw = f16_at(packed, lane * 2);
                acc[lane] = (dw * dx).mul_add(sums[lane] as f32, acc[lane]);
                if MINS {
                    let min = f16_at(packed, (GROUP + lane) * 2);
                    acc_min[lane] = min.mul_add(activations.scaled_sums[index], acc_min[lane]);
                }
            }
        }
        if MINS {
            for (acc, acc_min) in acc.iter_mut().zip(acc_min) {
                *acc += acc_min;
            }
        }
        // SAFETY: `row` is one of the tile's.
        unsafe { tile.store(row, &acc) }
    }
}

unsafe fn q4_0_tile(tile: &Tile<'_>) {
    block32_tile::<false>(tile, 288, |packed, x, sum| {
        let mut sums = [-8 * sum; GROUP];
        add_nibbles(&mut sums, &packed[32..], x);
        sums
    });
}

unsafe fn q4_1_tile(tile: &Tile<'_>) {
    block32_tile::<true>(tile, 320, |packed, x, _| {
        let mut sums = [0; GROUP];
        add_nibbles(&mut sums, &packed[64..], x);
        sums
    });
}

unsafe fn q5_0_tile(tile: &Tile<'_>) {
    block32_tile::<false>(tile, 352, |packed, x, sum| {
        let mut sums = [-16 * sum; GROUP];
        add_nibbles(&mut sums, &packed[32..288], x);
        for (word, x) in x.chunks_exact(4).enumerate() {
            add_words(&mut sums, &packed[288..], x, |bits| i32::from(bits >> word & 1) << 4);
        }
        sums
    });
}

unsafe fn q8_0_tile(tile: &Tile<'_>) {
    block32_tile::<false>(tile, 544, |packed, x, _| {
        let mut sums = [0; GROUP];
        for (quants, x) in packed[32..].chunks_exact(GROUP * 4).zip(x.chunks_exact(4)) {
            add_words(&mut sums, quants, x, |quant| i32::from(quant as i8));
        }
        sums
    });
}

/// The frame of the K-quants: `S` and `Mn` exact in i32 over a block of 256, then one step of each chain.
fn block256_tile<const MINS: bool>(
    tile: &Tile<'_>,
    block_bytes: usize,
    dot: impl Fn(&[u8], &[i8], usize) -> ([i32; GROUP], [i32; GROUP]),
) {
    let activations = tile.activations;
    let (k, blocks) = (activations.padded(), activations.padded() / 256);
    for row in tile.rows.clone() {
        let x = &activations.quants[row * k..][..k];
        let mut acc = [0.0f32; GROUP];
        let mut acc_min = [0.0f32; GROUP];
        for (block, packed) in tile.group.chunks_exact(block_bytes).take(blocks).enumerate() {
            let index = row * blocks + block;
            let (sums, mins) = dot(packed, &x[block * 256..][..256], index);
            let dx = activations.scales[index];
            for lane in 0..GROUP {
                let dw = f16_at(packed, lane * 2);
                acc[lane] = (dw * dx).mul_add(sums[lane] as f32, acc[lane]);
                if MINS {
                    let dmin = f16_at(packed, (GROUP + lane) * 2);
                    acc_min[lane] = (dmin * dx).mul_add(mins[lane] as f32, acc_min[lane]);
                }
            }
        }
        if MINS {
            for (acc, acc_min) in acc.iter_mut().zip(acc_min) {
                *acc -= acc_min;
            }
        }
        // SAFETY: `row` is one of the tile's.
        unsafe { tile.store(row, &acc) }
    }
}

unsafe fn q4_k_tile(tile: &Tile<'_>) {
    block256_tile::<true>(tile, 2368, |packed, x, index| {
        let mut scaled = [0; GROUP];
        let mut mins = [0; GROUP];
        for sub in 0..8 {
            let sum = i32::from(tile.activations.sums32[index * 8 + sub]);
            let mut sums = [0; GROUP];
            let words = packed[320 + sub / 2 * 512..][..512].chunks_exact(GROUP * 4);
            for (quants, x) in words.zip(x[sub * 32..].chunks_exact(4)) {
                add_words(&mut sums, quants, x, |quant| i32::from(quant >> (sub % 2 * 4) & 15));
            }
            for lane in 0..GROUP {
                scaled[lane] += i32::from(packed[64 + sub * GROUP + lane]) * sums[lane];
                mins[lane] += i32::from(packed[192 + (sub / 2 * GROUP + lane) * 2 + sub % 2]) * sum;
            }
        }
        (scaled, mins)
    });
}

unsafe fn q6_k_tile(tile: &Tile<'_>) {
    block256_tile::<false>(tile, 3360, |packed, x, index| {
        let mut scaled = [0; GROUP];
        for sub in 0..16 {
            let chunk = &packed[288 + sub / 2 * 384..][..384];
            let mut sums = [-32 * i32::from(tile.activations.sums16[index * 16 + sub]); GROUP];
            for (word, x) in x[sub * 16..][..16].chunks_exact(4).enumerate() {
                add_words(&mut sums, &chunk[word * 64..][..64], x, |quant| i32::from(quant >> (sub % 2 * 4) & 15));
                let upper = &chunk[256 + sub % 2 * 64..][..64];
                add_words(&mut sums, upper, x, |bits| i32::from(bits >> (word * 2) & 3) << 4);
            }
            for lane in 0..GROUP {
                scaled[lane] += i32::from(packed[32 + (sub / 2 * GROUP + lane) * 2 + sub % 2] as i8) * sums[lane];
            }
        }
        (scaled, [0; GROUP])
    });
}
