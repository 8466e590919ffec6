//! Products of activations (M × K) with packed weights (N × K): the table of functions and the scalar reference.
//!
//! Each output has one accumulation chain, ascending in K, whatever the tiling. `docs/numerics.md` has the formulas.

use crate::activations::{self, Activations, RowMut};
use crate::isa::Isa;
use crate::packed::{
    GROUP, f16_at, f32_at, has_min, is_spread, min, packed_block, quant, scale, scale_length, sub_min, sub_scale,
};
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

/// How many groups a kernel of [`MatmulTable::groups_kernel`] takes: so many chains side by side hide the latency of fma.
pub(crate) const GROUPS: usize = 4;

/// A kernel for one weight type. The instruction set must be available, and the tile's parts must fit each other.
pub(crate) type TileKernel = unsafe fn(&Tile<'_>);

/// Defines `kernel` and `groups_kernel`, the functions of a [`MatmulTable`], for the instruction set whose module has kernels of these names.
#[cfg(x86)]
macro_rules! kernel_of_type {
    () => {
        fn kernel(dtype: freehold_base::Dtype) -> crate::matmul::TileKernel {
            use super::{block32, block256, matmul_float};
            use freehold_base::Dtype;
            match dtype {
                Dtype::F32 => matmul_float::f32_tile,
                Dtype::F16 => matmul_float::f16_tile,
                Dtype::BF16 => matmul_float::bf16_tile,
                Dtype::Q4_0 => block32::q4_0_tile,
                Dtype::Q4_1 => block32::q4_1_tile,
                Dtype::Q5_0 => block32::q5_0_tile,
                Dtype::Q5_1 => block32::q5_1_tile,
                Dtype::Q8_0 => block32::q8_0_tile,
                Dtype::IQ4_NL => block32::iq4_nl_tile,
                Dtype::MXFP4 => block32::mxfp4_tile,
                Dtype::Q2_K => block256::q2_k_tile,
                Dtype::Q3_K => block256::q3_k_tile,
                Dtype::Q4_K => block256::q4_k_tile,
                Dtype::Q5_K => block256::q5_k_tile,
                Dtype::Q6_K => block256::q6_k_tile,
                Dtype::IQ4_XS => block256::iq4_xs_tile,
                _ => crate::matmul::reference_kernel(dtype),
            }
        }

        fn groups_kernel(dtype: freehold_base::Dtype) -> Option<crate::matmul::TileKernel> {
            match dtype {
                freehold_base::Dtype::F32 => Some(super::matmul_float::f32_groups),
                freehold_base::Dtype::F16 => Some(super::matmul_float::f16_groups),
                _ => None,
            }
        }
    };
}
#[cfg(x86)]
pub(crate) use kernel_of_type;

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct MatmulTable {
    /// The kernel for weights of a type, which is one that can be packed.
    pub(crate) kernel: fn(Dtype) -> TileKernel,
    /// A kernel for a single row of activations and [`GROUPS`] groups: its tile's group is all of them, one after the other,
    /// and its output has as many outputs. For types whose kernel would wait for itself with one.
    pub(crate) groups_kernel: fn(Dtype) -> Option<TileKernel>,
    /// Fills one row of activations in an int8 form.
    pub(crate) quantize_row: unsafe fn(activations::ActivationKind, &[f32], &mut RowMut<'_>),
    /// Whether its kernel for BF16 takes activations as bf16. Else they are rounded to bf16 and widened again.
    pub(crate) takes_bf16: bool,
}

/// The scalar reference.
pub(crate) static REFERENCE: MatmulTable = MatmulTable {
    kernel: reference_kernel,
    groups_kernel: |_| None,
    quantize_row: activations::quantize_row,
    takes_bf16: false,
};

impl MatmulTable {
    /// The functions for an instruction set that is available.
    pub(crate) fn of(isa: Isa) -> &'static Self {
        match isa {
            Isa::Reference => &REFERENCE,
            #[cfg(x86)]
            Isa::Avx2 => &crate::avx2::matmul::TABLE,
            #[cfg(x86)]
            Isa::Avx512 => &crate::avx512::matmul::TABLE,
            #[cfg(x86)]
            Isa::Amx => &crate::amx::matmul::TABLE,
            #[cfg(not(x86))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("never available here"),
        }
    }
}

/// The reference's kernel for a type: also what an instruction set without one of its own falls back to.
pub(crate) fn reference_kernel(dtype: Dtype) -> TileKernel {
    /// A kernel whose type the compiler knows.
    macro_rules! of_type {
        ($frame:ident, $dtype:ident) => {{
            unsafe fn kernel(tile: &Tile<'_>) {
                $frame(tile, Dtype::$dtype);
            }
            kernel
        }};
    }
    match dtype {
        Dtype::F32 => float_tile::<4>,
        Dtype::F16 => float_tile::<2>,
        Dtype::BF16 => bf16_tile,
        Dtype::Q4_0 => of_type!(block32_tile, Q4_0),
        Dtype::Q4_1 => of_type!(block32_tile, Q4_1),
        Dtype::Q5_0 => of_type!(block32_tile, Q5_0),
        Dtype::Q5_1 => of_type!(block32_tile, Q5_1),
        Dtype::Q8_0 => of_type!(block32_tile, Q8_0),
        Dtype::IQ4_NL => of_type!(block32_tile, IQ4_NL),
        Dtype::MXFP4 => of_type!(block32_tile, MXFP4),
        Dtype::NVFP4 => of_type!(block32_tile, NVFP4),
        Dtype::Q2_K => of_type!(block256_tile, Q2_K),
        Dtype::Q3_K => of_type!(block256_tile, Q3_K),
        Dtype::Q4_K => of_type!(block256_tile, Q4_K),
        Dtype::Q5_K => of_type!(block256_tile, Q5_K),
        Dtype::Q6_K => of_type!(block256_tile, Q6_K),
        Dtype::IQ4_XS => of_type!(block256_tile, IQ4_XS),
        // All of these are packed alike.
        _ if is_spread(dtype) => of_type!(block256_tile, IQ2_S),
        _ => unreachable!("no matrix of another type is ever packed"),
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
                let weight = if BYTES == 4 { f32_at(weights, lane * 4) } else { f16_at(weights, lane * 2) };
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

/// `Σ quant · x` of sixteen rows over the quants from `start` on, exactly.
#[inline(always)]
fn dot(dtype: Dtype, packed: &[u8], x: &[i8], start: usize) -> [i32; GROUP] {
    let mut sums = [0; GROUP];
    for (k, &x) in x.iter().enumerate() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += quant(dtype, packed, lane, start + k) * i32::from(x);
        }
    }
    sums
}

/// The types whose scales are floats, one for every 32 numbers (NVFP4: 16): a step of the chain for each.
#[inline(always)]
fn block32_tile(tile: &Tile<'_>, dtype: Dtype) {
    let activations = tile.activations;
    let k = activations.padded();
    let (block, block_bytes) = packed_block(dtype).expect("packed");
    let length = scale_length(dtype);
    for row in tile.rows.clone() {
        let x = &activations.quants[row * k..][..k];
        let mut acc = [0.0f32; GROUP];
        let mut acc_min = [0.0f32; GROUP];
        for (index, packed) in tile.group.chunks_exact(block_bytes).take(k / block).enumerate() {
            for (step, x) in x[index * block..][..block].chunks_exact(length).enumerate() {
                let of_32 = (row * k + index * block + step * length) / 32;
                let dx = activations.scales[of_32];
                let sums = dot(dtype, packed, x, step * length);
                for lane in 0..GROUP {
                    acc[lane] = (scale(dtype, packed, lane, step) * dx).mul_add(sums[lane] as f32, acc[lane]);
                    if has_min(dtype) {
                        acc_min[lane] = min(packed, lane).mul_add(activations.scaled_sums[of_32], acc_min[lane]);
                    }
                }
            }
        }
        if has_min(dtype) {
            for (acc, acc_min) in acc.iter_mut().zip(acc_min) {
                *acc += acc_min;
            }
        }
        // SAFETY: `row` is one of the tile's.
        unsafe { tile.store(row, &acc) }
    }
}

/// The types with blocks of 256: `S` and `Mn` exact in i32 over a block, then one step of each chain.
#[inline(always)]
fn block256_tile(tile: &Tile<'_>, dtype: Dtype) {
    let activations = tile.activations;
    let k = activations.padded();
    let (_, block_bytes) = packed_block(dtype).expect("packed");
    let length = scale_length(dtype);
    for row in tile.rows.clone() {
        let x = &activations.quants[row * k..][..k];
        let mut acc = [0.0f32; GROUP];
        let mut acc_min = [0.0f32; GROUP];
        for (index, (packed, x)) in tile.group.chunks_exact(block_bytes).zip(x.chunks_exact(256)).enumerate() {
            let (mut scaled, mut mins) = ([0; GROUP], [0; GROUP]);
            for (sub, x) in x.chunks_exact(length).enumerate() {
                let sums = dot(dtype, packed, x, sub * length);
                let x_sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
                for lane in 0..GROUP {
                    scaled[lane] += sub_scale(dtype, packed, lane, sub) * sums[lane];
                    if has_min(dtype) {
                        mins[lane] += sub_min(dtype, packed, lane, sub) * x_sum;
                    }
                }
            }
            let dx = activations.scales[row * (k / 256) + index];
            for lane in 0..GROUP {
                acc[lane] = (scale(dtype, packed, lane, 0) * dx).mul_add(scaled[lane] as f32, acc[lane]);
                if has_min(dtype) {
                    acc_min[lane] = (min(packed, lane) * dx).mul_add(mins[lane] as f32, acc_min[lane]);
                }
            }
        }
        if has_min(dtype) {
            for (acc, acc_min) in acc.iter_mut().zip(acc_min) {
                *acc -= acc_min;
            }
        }
        // SAFETY: `row` is one of the tile's.
        unsafe { tile.store(row, &acc) }
    }
}
