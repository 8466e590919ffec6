//! Norms, activations and rope for AVX2. The operations and their order are the reference's, eight elements at a time.

use super::attention;
use crate::math::{EXP, EXP_HIGH, EXP_LOW, LN_2_HIGH, LN_2_LOW, LOG2_E, ROUND, ln};
use crate::rope::RopeStyle;
use crate::vector::{REFERENCE, VectorTable, rms_scale, rotate};
use std::arch::x86_64::*;

pub(crate) static TABLE: VectorTable =
    VectorTable { rms_norm, silu_mul, exp, sigmoid, log_sum_exp, rope, attend: attention::attend, ..REFERENCE };

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array is eight readable floats; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store(x: &mut [f32; 8], value: __m256) {
    // SAFETY: the array is eight writable floats; the store needs no alignment.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), value) }
}

/// The first elements are `x`, at most eight, the rest `padding`.
fn padded(x: &[f32], padding: f32) -> [f32; 8] {
    let mut array = [padding; 8];
    array[..x.len()].copy_from_slice(x);
    array
}

/// [`crate::math::exp`] of eight numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp8(x: __m256) -> __m256 {
    let round = _mm256_set1_ps(ROUND);
    let rounded = _mm256_fmadd_ps(x, _mm256_set1_ps(LOG2_E), round);
    let n = _mm256_sub_ps(rounded, round);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2_HIGH), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2_LOW), r);
    let one = _mm256_set1_ps(1.0);
    let mut p = _mm256_set1_ps(EXP[4]);
    for coefficient in [EXP[3], EXP[2], EXP[1], EXP[0]] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(coefficient));
    }
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded));
    let p = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(EXP_LOW));
    let above = _mm256_cmp_ps::<_CMP_NLE_UQ>(x, _mm256_set1_ps(EXP_HIGH));
    let infinite = _mm256_add_ps(x, _mm256_set1_ps(f32::INFINITY));
    _mm256_blendv_ps(_mm256_andnot_ps(below, p), infinite, above)
}

/// `1 + exp(−x)` of eight numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn one_plus_exp_neg(x: __m256) -> __m256 {
    _mm256_add_ps(_mm256_set1_ps(1.0), exp8(_mm256_xor_ps(x, _mm256_set1_ps(-0.0))))
}

/// The tree of the contract's sums over lanes 0 to 7 and 8 to 15.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn tree(low: __m256, high: __m256) -> f32 {
    let eight = _mm256_add_ps(low, high);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The largest of eight numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn largest(eight: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

#[target_feature(enable = "avx2,fma")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (chunks, tail) = x.as_chunks::<8>();
    let mut lanes = [_mm256_setzero_ps(); 2];
    for (i, chunk) in chunks.iter().enumerate() {
        let x = load(chunk);
        lanes[i % 2] = _mm256_fmadd_ps(x, x, lanes[i % 2]);
    }
    let x_tail = load(&padded(tail, 0.0));
    lanes[chunks.len() % 2] = _mm256_fmadd_ps(x_tail, x_tail, lanes[chunks.len() % 2]);
    let scale = rms_scale(tree(lanes[0], lanes[1]), x.len(), eps);
    let eight = _mm256_set1_ps(scale);
    let (outs, out_tail) = out.as_chunks_mut::<8>();
    let (weights, weight_tail) = weight.as_chunks::<8>();
    for ((out, x), weight) in outs.iter_mut().zip(chunks).zip(weights) {
        store(out, _mm256_mul_ps(_mm256_mul_ps(load(x), eight), load(weight)));
    }
    for ((out, x), weight) in out_tail.iter_mut().zip(tail).zip(weight_tail) {
        *out = x * scale * weight;
    }
}

#[target_feature(enable = "avx2,fma")]
fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let (gates, gate_tail) = gate.as_chunks::<8>();
    let (ups, up_tail) = up.as_chunks::<8>();
    let (outs, out_tail) = out.as_chunks_mut::<8>();
    let silu_mul8 = |gate: &[f32; 8], up: &[f32; 8], out: &mut [f32; 8]| {
        let gate = load(gate);
        store(out, _mm256_mul_ps(_mm256_div_ps(gate, one_plus_exp_neg(gate)), load(up)));
    };
    for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
        silu_mul8(gate, up, out);
    }
    let mut last = [0.0; 8];
    silu_mul8(&padded(gate_tail, 0.0), &padded(up_tail, 0.0), &mut last);
    out_tail.copy_from_slice(&last[..out_tail.len()]);
}

#[target_feature(enable = "avx2,fma")]
fn exp(x: &mut [f32]) {
    let (chunks, tail) = x.as_chunks_mut::<8>();
    for chunk in chunks {
        let value = exp8(load(chunk));
        store(chunk, value);
    }
    let mut last = padded(tail, 0.0);
    let value = exp8(load(&last));
    store(&mut last, value);
    tail.copy_from_slice(&last[..tail.len()]);
}

#[target_feature(enable = "avx2,fma")]
fn sigmoid(x: &mut [f32]) {
    let one = _mm256_set1_ps(1.0);
    let (chunks, tail) = x.as_chunks_mut::<8>();
    for chunk in chunks {
        let value = _mm256_div_ps(one, one_plus_exp_neg(load(chunk)));
        store(chunk, value);
    }
    let mut last = padded(tail, 0.0);
    let value = _mm256_div_ps(one, one_plus_exp_neg(load(&last)));
    store(&mut last, value);
    tail.copy_from_slice(&last[..tail.len()]);
}

#[target_feature(enable = "avx2,fma")]
fn log_sum_exp(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<8>();
    // What pads the tail is never the maximum, and its exponential is +0.
    let tail = padded(tail, f32::NEG_INFINITY);
    let max = chunks.iter().fold(load(&tail), |max, chunk| _mm256_max_ps(max, load(chunk)));
    let max = largest(max);
    if max == f32::NEG_INFINITY {
        return max;
    }
    let eight = _mm256_set1_ps(max);
    let mut lanes = [_mm256_setzero_ps(); 2];
    for (i, chunk) in chunks.iter().chain([&tail]).enumerate() {
        lanes[i % 2] = _mm256_add_ps(lanes[i % 2], exp8(_mm256_sub_ps(load(chunk), eight)));
    }
    max + ln(tree(lanes[0], lanes[1]))
}

#[target_feature(enable = "avx2,fma")]
fn rope(head: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
    let (coses, cos_tail) = cos.as_chunks::<8>();
    let (sins, sin_tail) = sin.as_chunks::<8>();
    match style {
        RopeStyle::Halves => {
            let (first, second) = head.split_at_mut(cos.len());
            let (firsts, first_tail) = first.as_chunks_mut::<8>();
            let (seconds, second_tail) = second.as_chunks_mut::<8>();
            for (((first, second), cos), sin) in firsts.iter_mut().zip(seconds).zip(coses).zip(sins) {
                let (a, b, cos, sin) = (load(first), load(second), load(cos), load(sin));
                store(first, _mm256_fmsub_ps(a, cos, _mm256_mul_ps(b, sin)));
                store(second, _mm256_fmadd_ps(b, cos, _mm256_mul_ps(a, sin)));
            }
            for (((a, b), &cos), &sin) in first_tail.iter_mut().zip(second_tail).zip(cos_tail).zip(sin_tail) {
                (*a, *b) = rotate(*a, *b, cos, sin);
            }
        }
        RopeStyle::Pairs => {
            let (pairs, pairs_tail) = head.as_chunks_mut::<16>();
            let (low, high) = (_mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3), _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
            for ((pairs, cos), sin) in pairs.iter_mut().zip(coses).zip(sins) {
                let (cos, sin) = (load(cos), load(sin));
                for (pairs, spread) in pairs.as_chunks_mut::<8>().0.iter_mut().zip([low, high]) {
                    let (cos, sin) = (_mm256_permutevar8x32_ps(cos, spread), _mm256_permutevar8x32_ps(sin, spread));
                    let pair = load(pairs);
                    let swapped = _mm256_permute_ps::<0b1011_0001>(pair);
                    // Subtracts at the even places, adds at the odd ones.
                    store(pairs, _mm256_fmaddsub_ps(pair, cos, _mm256_mul_ps(swapped, sin)));
                }
            }
            for ((pair, &cos), &sin) in pairs_tail.as_chunks_mut::<2>().0.iter_mut().zip(cos_tail).zip(sin_tail) {
                (pair[0], pair[1]) = rotate(pair[0], pair[1], cos, sin);
            }
        }
    }
}
