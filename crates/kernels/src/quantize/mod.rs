//! Encoding numbers in the block formats of GGUF: the way back from what [`crate::packed`] reads.
//!
//! Every block is encoded by itself, by scalar code whose order of operations is written down once, so the bytes depend on
//! the numbers and their importance alone: on no thread count and on no instruction set.
//!
//! Blocks of 32 have the reference rounding of their format, where no importance is given. All others are searched: each
//! scale is the least-squares fit for the best of some candidate roundings ([`search`]).

mod block256;
mod block32;
mod search;

use freehold_base::Dtype;
use half::f16;

/// No block holds a number of this size; the squares of those below do not overflow.
const BEYOND: f32 = 268_435_456.0;

/// Whether [`quantize_row`] encodes this type.
pub const fn can_quantize(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Q4_0
            | Dtype::Q4_1
            | Dtype::Q5_0
            | Dtype::Q5_1
            | Dtype::Q8_0
            | Dtype::Q2_K
            | Dtype::Q3_K
            | Dtype::Q4_K
            | Dtype::Q5_K
            | Dtype::Q6_K
            | Dtype::IQ4_NL
            | Dtype::IQ4_XS
    )
}

/// Encodes a row of finite numbers. `importance` says how much the error of each counts: the mean square of what it is
/// multiplied with, at least 0. Numbers beyond what a block can hold become the largest that it can.
///
/// # Panics
/// If [`can_quantize`] denies the type, the row is no whole number of its blocks, or a length does not fit.
pub fn quantize_row(dtype: Dtype, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let (block, block_bytes) = dtype.block();
    assert!(can_quantize(dtype), "{dtype} is not encoded");
    assert!(x.len().is_multiple_of(block) && out.len() == x.len() / block * block_bytes, "a row of {dtype}");
    assert!(importance.is_none_or(|importance| importance.len() == x.len()), "importance of each number");
    let mut clamped = [0.0; 256];
    let clamped = &mut clamped[..block];
    for (index, (x, out)) in x.chunks_exact(block).zip(out.chunks_exact_mut(block_bytes)).enumerate() {
        let importance = importance.map(|importance| &importance[index * block..][..block]);
        clamped.iter_mut().zip(x).for_each(|(clamped, x)| *clamped = x.clamp(-BEYOND, BEYOND));
        match block {
            32 => block32::quantize(dtype, clamped, importance, out),
            _ => block256::quantize(dtype, clamped, importance, out),
        }
    }
}

/// A scale as blocks store it: a finite half.
fn stored(scale: f32) -> f16 {
    // The largest finite half.
    f16::from_f32(scale.clamp(-65_504.0, 65_504.0))
}

/// 1 / x, and 0 where that is not finite.
fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The nearest integer from `low` to `high`, ties to even.
fn nearest(x: f32, low: i32, high: i32) -> i32 {
    // 1.5 · 2^23: adding it leaves no bits for a fraction.
    const ROUNDER: f32 = 12_582_912.0;
    ((x.clamp(low as f32, high as f32) + ROUNDER) - ROUNDER) as i32
}

/// How much each number's error counts in a block: what it is multiplied with, and the number's own size, for larger ones
/// matter more than their importance says.
fn weights(x: &[f32], importance: &[f32], mean_square: f32, out: &mut [f32]) {
    for ((out, x), importance) in out.iter_mut().zip(x).zip(importance) {
        *out = importance * (mean_square + x * x).sqrt();
    }
}
