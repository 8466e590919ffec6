//! Norms, activations and rope. The operations and their order are the reference's, a register at a time.

use super::Lanes;
use crate::math::{
    EXP, EXP_HIGH, EXP_LOW, GELU_CUBIC, GELU_LINEAR, LN_2_HIGH, LN_2_LOW, LOG2_E, ROUND, TANH, TANH_SMALL, ln,
};
use crate::rope::RopeStyle;
use crate::vector::{log_sum_of_nothing, rms_scale};

pub(crate) use super::attention::attend;

/// Defines `$table`, a [`VectorTable`](crate::vector::VectorTable) for registers of a type and functions that enable its
/// features.
macro_rules! vector_table {
    ($table:ident, $features:literal, $lanes:ty) => {
        crate::x86::vector::vector_table! {
            $table, $features, $lanes,
            rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
            add_scaled(x: &mut [f32], y: &[f32], scale: f32);
            silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
            gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
            clamped_silu_mul(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]);
            softcap(x: &mut [f32], cap: f32);
            exp(x: &mut [f32]);
            sigmoid(x: &mut [f32]);
            log_sum_exp(x: &[f32]) -> f32;
            rope(head: &mut [f32], cos: &[f32], sin: &[f32], style: crate::rope::RopeStyle);
            attend(
                attention: &crate::attention::Attention<'_>,
                out: &mut [f32],
                seen: &mut [crate::attention::Seen],
                scratch: &mut crate::attention::AttentionScratch
            );
        }
    };
    ($table:ident, $features:literal, $lanes:ty, $($name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)+) => {
        pub(crate) static $table: crate::vector::VectorTable = crate::vector::VectorTable { $($name),+ };

        $(
            #[target_feature(enable = $features)]
            fn $name($($arg: $type),*) $(-> $result)? {
                // SAFETY: the features are enabled, and callers of the table have checked lengths.
                unsafe { crate::x86::vector::$name::<$lanes>($($arg),*) }
            }
        )+
    };
}
pub(crate) use vector_table;

/// What is worked on at a time: as many as the contract's sums have lanes, in one register or two.
const CHUNK: usize = 16;

/// What is left of a vector after its chunks, with `padding` up to a whole one; `None` if nothing is left.
fn padded(tail: &[f32], padding: f32) -> Option<[f32; CHUNK]> {
    if tail.is_empty() {
        return None;
    }
    let mut chunk = [padding; CHUNK];
    chunk[..tail.len()].copy_from_slice(tail);
    Some(chunk)
}

/// [`crate::math::exp`].
#[inline(always)]
pub(super) unsafe fn exp_of<L: Lanes>(x: L) -> L {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let round = L::splat(ROUND);
        let rounded = L::fma(x, L::splat(LOG2_E), round);
        let n = L::sub(rounded, round);
        let r = L::fnma(n, L::splat(LN_2_HIGH), x);
        let r = L::fnma(n, L::splat(LN_2_LOW), r);
        let mut p = L::splat(EXP[4]);
        for coefficient in [EXP[3], EXP[2], EXP[1], EXP[0], 1.0, 1.0] {
            p = L::fma(p, r, L::splat(coefficient));
        }
        let p = L::scale_by_power(p, rounded);
        let not_small = L::clear(L::below(x, L::splat(EXP_LOW)), p);
        // A NaN stays one.
        let infinite = L::add(x, L::splat(f32::INFINITY));
        L::select(L::at_most(x, L::splat(EXP_HIGH)), not_small, infinite)
    }
}

/// `1 + exp(−x)`.
#[inline(always)]
unsafe fn one_plus_exp_neg<L: Lanes>(x: L) -> L {
    // SAFETY: the target feature is the caller's promise.
    unsafe { L::add(L::splat(1.0), exp_of(L::xor(x, L::splat(-0.0)))) }
}

/// [`crate::math::softcap`].
#[inline(always)]
pub(super) unsafe fn softcap_of<L: Lanes>(x: L, cap: L) -> L {
    // SAFETY: the target feature is the caller's promise.
    unsafe { L::mul(cap, tanh_of(L::div(x, cap))) }
}

/// [`crate::math::tanh`].
#[inline(always)]
unsafe fn tanh_of<L: Lanes>(x: L) -> L {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let sign_bit = L::splat(-0.0);
        let size = L::and_not(sign_bit, x);
        let square = L::mul(size, size);
        let mut t = L::splat(TANH[4]);
        for coefficient in [TANH[3], TANH[2], TANH[1], TANH[0]] {
            t = L::fma(t, square, L::splat(coefficient));
        }
        let small = L::fma(L::mul(size, square), t, size);
        let (one, two) = (L::splat(1.0), L::splat(2.0));
        let large = L::sub(one, L::div(two, L::add(exp_of(L::mul(two, size)), one)));
        let result = L::select(L::below(size, L::splat(TANH_SMALL)), small, large);
        L::or(result, L::and(sign_bit, x))
    }
}

// In the functions below an operation stands in one place, for whole chunks and for the tail: it is a closure, and those are
// only sure to be inlined, to where their features are enabled, if they are called once.

/// The contract's sum, from +0: `step` takes elements into the lanes, and changes nothing for `padding`.
#[inline(always)]
unsafe fn lane_sum<L: Lanes>(x: &[f32], padding: f32, step: impl Fn(L, L) -> L) -> f32 {
    let (chunks, tail) = x.as_chunks::<CHUNK>();
    let last = padded(tail, padding);
    // SAFETY: the target feature is the caller's promise; a chunk is one register or two.
    unsafe {
        let mut lanes = [L::zero(); 2];
        for chunks in [chunks, last.as_slice()] {
            for chunk in chunks {
                for (lanes, x) in lanes.iter_mut().zip(chunk.chunks_exact(L::COUNT)) {
                    *lanes = step(*lanes, L::load(x.as_ptr()));
                }
            }
        }
        L::tree(lanes)
    }
}

/// `out = op(a, b)`.
#[inline(always)]
unsafe fn zip<L: Lanes>(a: &[f32], b: &[f32], out: &mut [f32], op: impl Fn(L, L) -> L) {
    let (a, a_tail) = a.as_chunks::<CHUNK>();
    let (b, b_tail) = b.as_chunks::<CHUNK>();
    let (outs, out_tail) = out.as_chunks_mut::<CHUNK>();
    let (a_last, b_last, mut out_last) = (padded(a_tail, 0.0), padded(b_tail, 0.0), padded(out_tail, 0.0));
    for (a, b, outs) in [(a, b, outs), (a_last.as_slice(), b_last.as_slice(), out_last.as_mut_slice())] {
        let (a, b) = (a.as_flattened().chunks_exact(L::COUNT), b.as_flattened().chunks_exact(L::COUNT));
        for ((a, b), out) in a.zip(b).zip(outs.as_flattened_mut().chunks_exact_mut(L::COUNT)) {
            // SAFETY: the target feature is the caller's promise; each is a whole register.
            unsafe { L::store(out.as_mut_ptr(), op(L::load(a.as_ptr()), L::load(b.as_ptr()))) };
        }
    }
    if let Some(last) = out_last {
        out_tail.copy_from_slice(&last[..out_tail.len()]);
    }
}

/// `x = op(x)`.
#[inline(always)]
unsafe fn map<L: Lanes>(x: &mut [f32], op: impl Fn(L) -> L) {
    let (chunks, tail) = x.as_chunks_mut::<CHUNK>();
    let mut last = padded(tail, 0.0);
    for chunks in [chunks, last.as_mut_slice()] {
        for x in chunks.as_flattened_mut().chunks_exact_mut(L::COUNT) {
            // SAFETY: the target feature is the caller's promise; it is a whole register.
            unsafe { L::store(x.as_mut_ptr(), op(L::load(x.as_ptr()))) };
        }
    }
    if let Some(last) = last {
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

#[inline(always)]
pub(crate) unsafe fn rms_norm<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let sum = lane_sum(x, 0.0, |lanes: L, x| L::fma(x, x, lanes));
        let scale = L::splat(rms_scale(sum, x.len(), eps));
        zip(x, weight, out, |x: L, weight| L::mul(L::mul(x, scale), weight));
    }
}

#[inline(always)]
pub(crate) unsafe fn add_scaled<L: Lanes>(x: &mut [f32], y: &[f32], scale: f32) {
    // SAFETY: the target feature is the caller's promise; each is a whole register.
    unsafe {
        let mut xs = x.chunks_exact_mut(L::COUNT);
        let ys = y.chunks_exact(L::COUNT);
        let y_tail = ys.remainder();
        for (x, y) in xs.by_ref().zip(ys) {
            L::store(x.as_mut_ptr(), L::fma(L::load(y.as_ptr()), L::splat(scale), L::load(x.as_ptr())));
        }
        for (x, y) in xs.into_remainder().iter_mut().zip(y_tail) {
            *x = y.mul_add(scale, *x);
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn silu_mul<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: the target feature is the caller's promise.
    unsafe { zip(gate, up, out, |gate: L, up| L::mul(L::div(gate, one_plus_exp_neg(gate)), up)) }
}

#[inline(always)]
pub(crate) unsafe fn gelu_mul<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let (cubic, linear) = (L::splat(GELU_CUBIC), L::splat(GELU_LINEAR));
        zip(gate, up, out, |gate: L, up| {
            let twice = L::mul(gate, L::fma(L::mul(gate, gate), cubic, linear));
            L::mul(L::div(gate, one_plus_exp_neg(twice)), up)
        });
    }
}

#[inline(always)]
pub(crate) unsafe fn clamped_silu_mul<L: Lanes>(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]) {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let (alpha, one) = (L::splat(alpha), L::splat(1.0));
        let (low, high) = (L::splat(-limit), L::splat(limit));
        zip(gate, up, out, |gate: L, up| {
            // In this order of operands a NaN stays one.
            let (gate, up) = (L::min(high, gate), L::min(high, L::max(low, up)));
            let gate = L::div(gate, one_plus_exp_neg(L::mul(alpha, gate)));
            L::mul(gate, L::add(up, one))
        });
    }
}

#[inline(always)]
pub(crate) unsafe fn softcap<L: Lanes>(x: &mut [f32], cap: f32) {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let cap = L::splat(cap);
        map(x, |x: L| softcap_of(x, cap));
    }
}

#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: &mut [f32]) {
    // SAFETY: the target feature is the caller's promise.
    unsafe { map(x, |x: L| exp_of(x)) }
}

#[inline(always)]
pub(crate) unsafe fn sigmoid<L: Lanes>(x: &mut [f32]) {
    // SAFETY: the target feature is the caller's promise.
    unsafe {
        let one = L::splat(1.0);
        map(x, |x: L| L::div(one, one_plus_exp_neg(x)));
    }
}

#[inline(always)]
pub(crate) unsafe fn log_sum_exp<L: Lanes>(x: &[f32]) -> f32 {
    // SAFETY: the target feature is the caller's promise; loads are of chunks.
    unsafe {
        let (chunks, tail) = x.as_chunks::<CHUNK>();
        // What pads the tail is never the maximum, and its exponential is +0.
        let last = padded(tail, f32::NEG_INFINITY);
        let mut max = L::splat(f32::NEG_INFINITY);
        for chunk in chunks.iter().chain(&last) {
            for x in chunk.chunks_exact(L::COUNT) {
                max = L::max(max, L::load(x.as_ptr()));
            }
        }
        let max = L::largest(max);
        if max == f32::NEG_INFINITY {
            return log_sum_of_nothing(x);
        }
        let maxes = L::splat(max);
        max + ln(lane_sum(x, f32::NEG_INFINITY, |lanes: L, x| L::add(lanes, exp_of(L::sub(x, maxes)))))
    }
}

#[inline(always)]
pub(crate) unsafe fn rope<L: Lanes>(head: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
    let (coses, cos_tail) = cos.as_chunks::<CHUNK>();
    let (sins, sin_tail) = sin.as_chunks::<CHUNK>();
    let last_angles = || padded(cos_tail, 1.0).zip(padded(sin_tail, 0.0));
    match style {
        RopeStyle::Halves => {
            let (first, second) = head.split_at_mut(cos.len());
            let (firsts, first_tail) = first.as_chunks_mut::<CHUNK>();
            let (seconds, second_tail) = second.as_chunks_mut::<CHUNK>();
            for (((first, second), cos), sin) in firsts.iter_mut().zip(seconds).zip(coses).zip(sins) {
                // SAFETY: the target feature is the caller's promise.
                unsafe { turn_halves::<L>(first, second, cos, sin) };
            }
            let last = padded(first_tail, 0.0).zip(padded(second_tail, 0.0)).zip(last_angles());
            if let Some(((mut first, mut second), (cos, sin))) = last {
                // SAFETY: as above.
                unsafe { turn_halves::<L>(&mut first, &mut second, &cos, &sin) };
                first_tail.copy_from_slice(&first[..first_tail.len()]);
                second_tail.copy_from_slice(&second[..second_tail.len()]);
            }
        }
        RopeStyle::Pairs => {
            let (pairs, tail) = head.as_chunks_mut::<{ 2 * CHUNK }>();
            for ((pairs, cos), sin) in pairs.iter_mut().zip(coses).zip(sins) {
                // SAFETY: as above.
                unsafe { turn_pairs::<L>(pairs, cos, sin) };
            }
            if let Some((cos, sin)) = last_angles() {
                let mut last = [0.0; 2 * CHUNK];
                last[..tail.len()].copy_from_slice(tail);
                // SAFETY: as above.
                unsafe { turn_pairs::<L>(&mut last, &cos, &sin) };
                tail.copy_from_slice(&last[..tail.len()]);
            }
        }
    }
}

#[inline(always)]
unsafe fn turn_halves<L: Lanes>(
    first: &mut [f32; CHUNK],
    second: &mut [f32; CHUNK],
    cos: &[f32; CHUNK],
    sin: &[f32; CHUNK],
) {
    for at in (0..CHUNK).step_by(L::COUNT) {
        // SAFETY: the target feature is the caller's promise; a chunk is one register or two.
        unsafe {
            let (first, second) = (first.as_mut_ptr().add(at), second.as_mut_ptr().add(at));
            let (a, b) = (L::load(first), L::load(second));
            let (cos, sin) = (L::load(cos.as_ptr().add(at)), L::load(sin.as_ptr().add(at)));
            L::store(first, L::fms(a, cos, L::mul(b, sin)));
            L::store(second, L::fma(b, cos, L::mul(a, sin)));
        }
    }
}

#[inline(always)]
unsafe fn turn_pairs<L: Lanes>(pairs: &mut [f32; 2 * CHUNK], cos: &[f32; CHUNK], sin: &[f32; CHUNK]) {
    for at in (0..CHUNK).step_by(L::COUNT) {
        // SAFETY: the target feature is the caller's promise; a chunk of cosines is one register or two, and there are
        // twice as many elements.
        unsafe {
            let (cos, sin) = (L::doubled(L::load(cos.as_ptr().add(at))), L::doubled(L::load(sin.as_ptr().add(at))));
            for half in 0..2 {
                let place = pairs.as_mut_ptr().add(2 * at + half * L::COUNT);
                let pair = L::load(place);
                // Subtracts at the even places, adds at the odd ones.
                L::store(place, L::fmaddsub(pair, cos[half], L::mul(L::swap_pairs(pair), sin[half])));
            }
        }
    }
}
