//! Finding scales: the weighted least-squares fit for each of some roundings, and the best of these.
//!
//! With the quants q fixed, the scale that makes Σ w·(x − d·q)² least is Σ w·x·q / Σ w·q², and what is left of the error
//! falls as (Σ w·x·q)² / Σ w·q² grows. The roundings that are tried come from scales around the one that maps the number
//! of greatest magnitude to the end of the range.

use super::{inverse, nearest};
use crate::packed::IQ4_VALUES;

/// The number of greatest magnitude, the first of several.
pub(super) fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |largest, &x| if x.abs() > largest.abs() { x } else { largest })
}

/// Below this everything is 0: halves end far above.
const NOTHING: f32 = 1e-20;

/// Fits of scales, the best so far.
struct Best {
    scale: f32,
    gain: f32,
}

impl Best {
    fn offer(&mut self, x: &[f32], weights: &[f32], quant: impl Fn(f32) -> i32) {
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for (&x, &weight) in x.iter().zip(weights) {
            let q = quant(x) as f32;
            xq += weight * x * q;
            qq += weight * q * q;
        }
        let scale = xq * inverse(qq);
        let gain = scale * xq;
        if gain > self.gain {
            *self = Self { scale, gain };
        }
    }
}

/// The scale for quants from −`end` to `end` − 1. It is negative where the greatest magnitude is positive, for there is one
/// more quant below 0.
pub(super) fn symmetric(x: &[f32], weights: &[f32], end: i32) -> f32 {
    let largest = largest(x);
    if largest.abs() < NOTHING {
        return 0.0;
    }
    let mut best = Best { scale: 0.0, gain: 0.0 };
    for step in -9..=9 {
        let factor = -(end as f32 + 0.1 * step as f32) / largest;
        best.offer(x, weights, |x| nearest(factor * x, -end, end - 1));
    }
    // Rounding by the scale found may find a better one.
    for _ in 0..4 {
        let (factor, gain) = (inverse(best.scale), best.gain);
        best.offer(x, weights, |x| nearest(factor * x, -end, end - 1));
        if best.gain <= gain {
            break;
        }
    }
    best.scale
}

/// The scale and what is added (at most 0) for quants from 0 to `end`. `spread` says how far from the end of the range the
/// largest number may be mapped: (below it, above it).
pub(super) fn affine(x: &[f32], weights: &[f32], end: i32, spread: (f32, f32), absolute: bool) -> (f32, f32) {
    const STEPS: usize = 20;
    let low = x.iter().fold(0.0f32, |low, &x| low.min(x));
    let high = x.iter().fold(f32::NEG_INFINITY, |high, &x| high.max(x));
    if high - low < NOTHING {
        return (0.0, low);
    }
    let error = |scale: f32, low: f32, quants: &[i32]| {
        let each = x.iter().zip(weights).zip(quants).map(|((x, weight), &q)| {
            let difference = scale * q as f32 + low - x;
            weight * if absolute { difference.abs() } else { difference * difference }
        });
        each.sum::<f32>()
    };
    let round = |factor: f32, low: f32, quants: &mut [i32]| {
        for (q, x) in quants.iter_mut().zip(x) {
            *q = nearest(factor * (x - low), 0, end);
        }
    };
    let mut quants = [0i32; 32];
    let quants = &mut quants[..x.len()];
    let (mut sum_w, mut sum_wx) = (0.0f32, 0.0f32);
    for (x, weight) in x.iter().zip(weights) {
        sum_w += weight;
        sum_wx += weight * x;
    }
    let first = (high - low) / end as f32;
    round(inverse(first), low, quants);
    let mut best = (error(first, low, quants), first, low);
    // Each rounding starts from the minimum found last.
    let mut from = low;
    for step in 0..=STEPS {
        let end_at = end as f32 - spread.0 + (spread.0 + spread.1) * step as f32 / STEPS as f32;
        round(end_at * inverse(high - from), from, quants);
        let (mut sum_wq, mut sum_wqq, mut sum_wxq) = (0.0f32, 0.0f32, 0.0f32);
        for ((x, weight), &q) in x.iter().zip(weights).zip(&*quants) {
            let q = q as f32;
            sum_wq += weight * q;
            sum_wqq += weight * q * q;
            sum_wxq += weight * x * q;
        }
        let determinant = sum_w * sum_wqq - sum_wq * sum_wq;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_wxq - sum_wx * sum_wq) / determinant;
        let mut low = (sum_wqq * sum_wx - sum_wq * sum_wxq) / determinant;
        if low > 0.0 {
            (scale, low) = (sum_wxq * inverse(sum_wqq), 0.0);
        }
        let error = error(scale, low, quants);
        if error < best.0 && scale > 0.0 {
            best = (error, scale, low);
            from = low;
        }
    }
    (best.1, best.2)
}

/// The scale for quants that stand for the values of IQ4.
pub(super) fn of_values(x: &[f32], weights: &[f32]) -> f32 {
    let largest = largest(x);
    if largest.abs() < NOTHING {
        return 0.0;
    }
    let mut best = Best { scale: 0.0, gain: 0.0 };
    for step in -7..=7 {
        for end in [IQ4_VALUES[0], IQ4_VALUES[15]] {
            let factor = (f32::from(end) + step as f32) / largest;
            best.offer(x, weights, |x| IQ4_VALUES[nearest_value(factor * x)].into());
        }
    }
    best.scale
}

/// The number of IQ4's value that is nearest.
pub(super) fn nearest_value(x: f32) -> usize {
    (1..16).filter(|&index| x > (f32::from(IQ4_VALUES[index - 1]) + f32::from(IQ4_VALUES[index])) * 0.5).count()
}
