//! Types with blocks of 32.

use super::{inverse, nearest, search, stored, weights};
use freehold_base::Dtype;

pub(super) fn quantize(dtype: Dtype, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mean_square = x.iter().map(|x| x * x).sum::<f32>() / 32.0;
    let mut weight = [0.0; 32];
    if let Some(importance) = importance {
        weights(x, importance, mean_square, &mut weight);
    }
    let weight = importance.map(|_| &weight[..]);
    match dtype {
        Dtype::Q4_0 => symmetric(x, weight, 8, out),
        Dtype::Q5_0 => symmetric(x, weight, 16, out),
        Dtype::Q4_1 => affine(x, weight, 15, out),
        Dtype::Q5_1 => affine(x, weight, 31, out),
        Dtype::Q8_0 => bytes(x, out),
        _ => values(x, weight, out),
    }
}

/// Q4_0 and Q5_0: quants from −`end` to `end` − 1.
fn symmetric(x: &[f32], weights: Option<&[f32]>, end: i32, out: &mut [u8]) {
    let mut quants = [0u8; 32];
    let d = match weights {
        None => {
            // ggml's reference: halves round up, from a product and a sum that are rounded once.
            let d = search::largest(x) / -end as f32;
            let factor = f64::from(inverse(d));
            for (q, &x) in quants.iter_mut().zip(x) {
                let up = (f64::from(x) * factor + f64::from(end) + 0.5) as f32;
                *q = (up as i32).clamp(0, 2 * end - 1) as u8;
            }
            stored(d)
        }
        Some(weights) => {
            let d = stored(search::symmetric(x, weights, end));
            let factor = inverse(d.to_f32());
            for (q, x) in quants.iter_mut().zip(x) {
                *q = (nearest(factor * x, -end, end - 1) + end) as u8;
            }
            d
        }
    };
    out[..2].copy_from_slice(&d.to_le_bytes());
    put(&quants, end == 16, &mut out[2..]);
}

/// Q4_1 and Q5_1: quants from 0 to `end`, and a minimum.
fn affine(x: &[f32], weights: Option<&[f32]>, end: i32, out: &mut [u8]) {
    let mut quants = [0u8; 32];
    let (d, low) = match weights {
        None => {
            // ggml's reference.
            let low = x.iter().fold(f32::INFINITY, |low, &x| low.min(x));
            let high = x.iter().fold(f32::NEG_INFINITY, |high, &x| high.max(x));
            let d = (high - low) / end as f32;
            let factor = inverse(d);
            for (q, x) in quants.iter_mut().zip(x) {
                *q = (((x - low) * factor + 0.5) as i32).clamp(0, end) as u8;
            }
            (stored(d), stored(low))
        }
        Some(weights) => {
            let (d, low) = search::affine(x, weights, end, (0.9, 0.9), false);
            let (d, low) = (stored(d), stored(low));
            let factor = inverse(d.to_f32());
            for (q, x) in quants.iter_mut().zip(x) {
                *q = nearest(factor * (x - low.to_f32()), 0, end) as u8;
            }
            (d, low)
        }
    };
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&low.to_le_bytes());
    put(&quants, end == 31, &mut out[4..]);
}

/// Q8_0, by ggml's reference: halves round away from 0. So fine that importance would change nothing.
fn bytes(x: &[f32], out: &mut [u8]) {
    let d = search::largest(x).abs() / 127.0;
    let factor = inverse(d);
    out[..2].copy_from_slice(&stored(d).to_le_bytes());
    for (out, x) in out[2..].iter_mut().zip(x) {
        *out = (x * factor).round() as i8 as u8;
    }
}

/// IQ4_NL.
fn values(x: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let mut squares = [0.0; 32];
    squares.iter_mut().zip(x).for_each(|(square, x)| *square = x * x);
    let d = stored(search::of_values(x, weights.unwrap_or(&squares)));
    let factor = inverse(d.to_f32());
    let mut quants = [0u8; 32];
    for (q, x) in quants.iter_mut().zip(x) {
        *q = search::nearest_value(factor * x) as u8;
    }
    out[..2].copy_from_slice(&d.to_le_bytes());
    put(&quants, false, &mut out[2..]);
}

/// Quants of four bits, or of five: the fifth ones first, then nibbles, of which k and k + 16 share a byte.
pub(super) fn put(quants: &[u8; 32], fifth: bool, out: &mut [u8]) {
    let nibbles = if fifth {
        let bits = quants.iter().enumerate().fold(0u32, |bits, (k, q)| bits | u32::from(q >> 4) << k);
        out[..4].copy_from_slice(&bits.to_le_bytes());
        &mut out[4..]
    } else {
        out
    };
    for (k, out) in nibbles.iter_mut().enumerate() {
        *out = quants[k] & 15 | quants[k + 16] << 4;
    }
}
