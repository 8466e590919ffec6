//! Norms, activations and rope for AVX2. The operations and their order are the reference's, eight elements at a time.

use super::attention;
use crate::math::{
    EXP, EXP_HIGH, EXP_LOW, GELU_CUBIC, GELU_LINEAR, LN_2_HIGH, LN_2_LOW, LOG2_E, ROUND, TANH, TANH_SMALL, ln,
};
use crate::rope::RopeStyle;
use crate::vector::{VectorTable, log_sum_of_nothing, rms_scale, rotate};
use std::arch::x86_64::*;

pub(crate) static TABLE: VectorTable = VectorTable {
    rms_norm,
    add_scaled,
    silu_mul,
    gelu_mul,
    clamped_silu_mul,
    softcap,
    exp,
    sigmoid,
    log_sum_exp,
    rope,
    attend: attention::attend,
};

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

/// [`crate::math::softcap`] of eight numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn softcap8(x: __m256, cap: __m256) -> __m256 {
    _mm256_mul_ps(cap, tanh8(_mm256_div_ps(x, cap)))
}

/// [`crate::math::tanh`] of eight numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tanh8(x: __m256) -> __m256 {
    let sign_bit = _mm256_set1_ps(-0.0);
    let size = _mm256_andnot_ps(sign_bit, x);
    let square = _mm256_mul_ps(size, size);
    let mut t = _mm256_set1_ps(TANH[4]);
    for coefficient in [TANH[3], TANH[2], TANH[1], TANH[0]] {
        t = _mm256_fmadd_ps(t, square, _mm256_set1_ps(coefficient));
    }
    let small = _mm256_fmadd_ps(_mm256_mul_ps(size, square), t, size);
    let (one, two) = (_mm256_set1_ps(1.0), _mm256_set1_ps(2.0));
    let large = _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(exp8(_mm256_mul_ps(two, size)), one)));
    let is_small = _mm256_cmp_ps::<_CMP_LT_OQ>(size, _mm256_set1_ps(TANH_SMALL));
    _mm256_or_ps(_mm256_blendv_ps(large, small, is_small), _mm256_and_ps(sign_bit, x))
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
fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    let (xs, x_tail) = x.as_chunks_mut::<8>();
    let (ys, y_tail) = y.as_chunks::<8>();
    for (x, y) in xs.iter_mut().zip(ys) {
        let sum = _mm256_fmadd_ps(load(y), _mm256_set1_ps(scale), load(x));
        store(x, sum);
    }
    for (x, y) in x_tail.iter_mut().zip(y_tail) {
        *x = y.mul_add(scale, *x);
    }
}

/// `out = op(a, b)`, eight at a time.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn zip8(a: &[f32], b: &[f32], out: &mut [f32], op: impl Fn(__m256, __m256) -> __m256) {
    let (a, a_tail) = a.as_chunks::<8>();
    let (b, b_tail) = b.as_chunks::<8>();
    let (outs, out_tail) = out.as_chunks_mut::<8>();
    for ((a, b), out) in a.iter().zip(b).zip(outs) {
        store(out, op(load(a), load(b)));
    }
    let mut last = [0.0; 8];
    store(&mut last, op(load(&padded(a_tail, 0.0)), load(&padded(b_tail, 0.0))));
    out_tail.copy_from_slice(&last[..out_tail.len()]);
}

/// `x = op(x)`, eight at a time.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn map8(x: &mut [f32], op: impl Fn(__m256) -> __m256) {
    let (chunks, tail) = x.as_chunks_mut::<8>();
    for chunk in chunks {
        let value = op(load(chunk));
        store(chunk, value);
    }
    let mut last = padded(tail, 0.0);
    let value = op(load(&last));
    store(&mut last, value);
    tail.copy_from_slice(&last[..tail.len()]);
}

#[target_feature(enable = "avx2,fma")]
fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    zip8(gate, up, out, |gate, up| _mm256_mul_ps(_mm256_div_ps(gate, one_plus_exp_neg(gate)), up));
}

#[target_feature(enable = "avx2,fma")]
fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let (cubic, linear) = (_mm256_set1_ps(GELU_CUBIC), _mm256_set1_ps(GELU_LINEAR));
    zip8(gate, up, out, |gate, up| {
        let twice = _mm256_mul_ps(gate, _mm256_fmadd_ps(_mm256_mul_ps(gate, gate), cubic, linear));
        _mm256_mul_ps(_mm256_div_ps(gate, one_plus_exp_neg(twice)), up)
    });
}

#[target_feature(enable = "avx2,fma")]
fn clamped_silu_mul(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]) {
    let (alpha, one) = (_mm256_set1_ps(alpha), _mm256_set1_ps(1.0));
    let (low, high) = (_mm256_set1_ps(-limit), _mm256_set1_ps(limit));
    zip8(gate, up, out, |gate, up| {
        let (gate, up) = (_mm256_min_ps(gate, high), _mm256_min_ps(_mm256_max_ps(up, low), high));
        let gate = _mm256_div_ps(gate, one_plus_exp_neg(_mm256_mul_ps(alpha, gate)));
        _mm256_mul_ps(gate, _mm256_add_ps(up, one))
    });
}

#[target_feature(enable = "avx2,fma")]
fn softcap(x: &mut [f32], cap: f32) {
    let cap = _mm256_set1_ps(cap);
    map8(x, |x| softcap8(x, cap));
}

#[target_feature(enable = "avx2,fma")]
fn exp(x: &mut [f32]) {
    map8(x, |x| exp8(x));
}

#[target_feature(enable = "avx2,fma")]
fn sigmoid(x: &mut [f32]) {
    let one = _mm256_set1_ps(1.0);
    map8(x, |x| _mm256_div_ps(one, one_plus_exp_neg(x)));
}

#[target_feature(enable = "avx2,fma")]
fn log_sum_exp(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<8>();
    // What pads the tail is never the maximum, and its exponential is +0.
    let tail = padded(tail, f32::NEG_INFINITY);
    let max = chunks.iter().fold(load(&tail), |max, chunk| _mm256_max_ps(max, load(chunk)));
    let max = largest(max);
    if max == f32::NEG_INFINITY {
        return log_sum_of_nothing(x);
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
