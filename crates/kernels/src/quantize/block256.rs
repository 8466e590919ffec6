//! Types with blocks of 256: scales of 16 or 32 numbers each are integers times the block's own.

use super::{block32, inverse, nearest, search, stored, weights};
use freehold_base::Dtype;

pub(super) fn quantize(dtype: Dtype, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mean_square = x.iter().map(|x| x * x).sum::<f32>() / 256.0;
    let mut weight = [0.0; 256];
    match importance {
        // Where most of a block counts nothing, the rest is no reason for a bad scale.
        Some(importance) if importance.iter().any(|&importance| importance > 0.0) => {
            let factor = if dtype == Dtype::Q2_K { 1.0 } else { 2.0 };
            weights(x, importance, factor * mean_square, &mut weight);
        }
        _ => plain_weights(dtype, x, &mut weight),
    }
    match dtype {
        Dtype::Q2_K => two_bits(x, &weight, importance.is_none(), out),
        Dtype::Q3_K => three_bits(x, &weight, out),
        Dtype::Q4_K => nibbles(x, &weight, out),
        Dtype::Q5_K => five_bits(x, &weight, out),
        Dtype::Q6_K => six_bits(x, &weight, out),
        _ => values(x, &weight, out),
    }
}

/// How much each error counts where nothing is known of the inputs: more for larger numbers.
fn plain_weights(dtype: Dtype, x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(32)) {
        let root_mean_square = (x.iter().map(|x| x * x).sum::<f32>() / 32.0).sqrt();
        for (out, x) in out.iter_mut().zip(x) {
            *out = match dtype {
                Dtype::Q2_K => x.abs(),
                Dtype::Q4_K | Dtype::Q5_K => root_mean_square + x.abs(),
                _ => x * x,
            };
        }
    }
}

/// Quants from 0 to `end` with a scale and a minimum for each `LENGTH` numbers.
struct Affine<const PARTS: usize> {
    /// Before the integer scales.
    d: [u8; 2],
    /// Before the integer minima, which are subtracted.
    d_min: [u8; 2],
    scales: [u8; PARTS],
    minima: [u8; PARTS],
    quants: [u8; 256],
}

impl<const PARTS: usize> Affine<PARTS> {
    /// `largest` is the largest integer scale and minimum.
    fn find(x: &[f32], weights: &[f32], end: i32, largest: i32, spread: (f32, f32), absolute: bool) -> Self {
        let length = 256 / PARTS;
        let (mut scales, mut minima) = ([0.0f32; PARTS], [0.0f32; PARTS]);
        for (part, (x, weights)) in x.chunks_exact(length).zip(weights.chunks_exact(length)).enumerate() {
            let (scale, low) = search::affine(x, weights, end, spread, absolute);
            (scales[part], minima[part]) = (scale, -low);
        }
        let of_block = |numbers: &[f32]| stored(numbers.iter().fold(0.0f32, |most, &x| most.max(x)) / largest as f32);
        let (d, d_min) = (of_block(&scales), of_block(&minima));
        let (factor, min_factor) = (inverse(d.to_f32()), inverse(d_min.to_f32()));
        let scales = scales.map(|scale| nearest(factor * scale, 0, largest) as u8);
        let minima = minima.map(|min| nearest(min_factor * min, 0, largest) as u8);
        let mut quants = [0u8; 256];
        for (k, (q, x)) in quants.iter_mut().zip(x).enumerate() {
            let scale = d.to_f32() * f32::from(scales[k / length]);
            let min = d_min.to_f32() * f32::from(minima[k / length]);
            *q = nearest((x + min) * inverse(scale), 0, end) as u8;
        }
        Self { d: d.to_le_bytes(), d_min: d_min.to_le_bytes(), scales, minima, quants }
    }
}

/// Quants from −`end` to `end` − 1 with a signed scale for each 16 numbers.
struct Symmetric {
    d: [u8; 2],
    scales: [i8; 16],
    /// From 0 up.
    quants: [u8; 256],
}

impl Symmetric {
    /// `scale_end`: integer scales are from minus that to one less than that.
    fn find(x: &[f32], weights: &[f32], end: i32, scale_end: i32) -> Self {
        let mut scales = [0.0f32; 16];
        for (scale, (x, weights)) in scales.iter_mut().zip(x.chunks_exact(16).zip(weights.chunks_exact(16))) {
            *scale = search::symmetric(x, weights, end);
        }
        let d = stored(search::largest(&scales) / -scale_end as f32);
        let factor = inverse(d.to_f32());
        let scales = scales.map(|scale| nearest(factor * scale, -scale_end, scale_end - 1) as i8);
        let mut quants = [0u8; 256];
        for (k, (q, x)) in quants.iter_mut().zip(x).enumerate() {
            let factor = inverse(d.to_f32() * f32::from(scales[k / 16]));
            *q = (nearest(factor * x, -end, end - 1) + end) as u8;
        }
        Self { d: d.to_le_bytes(), scales, quants }
    }
}

/// Two bits of each quant: of every 128, k, k + 32, k + 64 and k + 96 share a byte.
fn put_two_bits(quants: &[u8; 256], out: &mut [u8]) {
    for (quants, out) in quants.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (k, out) in out.iter_mut().enumerate() {
            *out = (0..4).fold(0, |byte, part| byte | (quants[part * 32 + k] & 3) << (2 * part));
        }
    }
}

/// Four bits of each quant: of every 64, k and k + 32 share a byte.
fn put_nibbles(quants: &[u8; 256], out: &mut [u8]) {
    for (quants, out) in quants.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (k, out) in out.iter_mut().enumerate() {
            *out = quants[k] & 15 | quants[k + 32] << 4;
        }
    }
}

/// Bit `shift` of each quant: bit j of byte k is of 32·j + k.
fn put_bits(quants: &[u8; 256], shift: u32, out: &mut [u8]) {
    for (k, out) in out.iter_mut().enumerate() {
        *out = (0..8).fold(0, |byte, part| byte | (quants[part * 32 + k] >> shift & 1) << part);
    }
}

/// Q2_K.
fn two_bits(x: &[f32], weights: &[f32], absolute: bool, out: &mut [u8]) {
    let found = Affine::<16>::find(x, weights, 3, 15, (0.5, 1.5), absolute);
    for (out, (scale, min)) in out.iter_mut().zip(found.scales.iter().zip(&found.minima)) {
        *out = scale | min << 4;
    }
    put_two_bits(&found.quants, &mut out[16..80]);
    out[80..82].copy_from_slice(&found.d);
    out[82..].copy_from_slice(&found.d_min);
}

/// Q3_K.
fn three_bits(x: &[f32], weights: &[f32], out: &mut [u8]) {
    let found = Symmetric::find(x, weights, 4, 32);
    put_bits(&found.quants, 2, &mut out[..32]);
    put_two_bits(&found.quants, &mut out[32..96]);
    let scales = &mut out[96..108];
    scales.fill(0);
    for (part, scale) in found.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        scales[part % 8] |= (scale & 15) << (part / 8 * 4);
        scales[8 + part % 4] |= scale >> 4 << (part / 4 * 2);
    }
    out[108..].copy_from_slice(&found.d);
}

/// The twelve bytes of eight scales and minima of six bits each, and before them what they are multiplied with.
fn put_scales(found: &Affine<8>, out: &mut [u8]) {
    out[..2].copy_from_slice(&found.d);
    out[2..4].copy_from_slice(&found.d_min);
    let packed = &mut out[4..16];
    for part in 0..4 {
        let upper = part + 4;
        packed[part] = found.scales[part] | found.scales[upper] >> 4 << 6;
        packed[part + 4] = found.minima[part] | found.minima[upper] >> 4 << 6;
        packed[part + 8] = found.scales[upper] & 15 | found.minima[upper] << 4;
    }
}

/// Q4_K.
fn nibbles(x: &[f32], weights: &[f32], out: &mut [u8]) {
    let found = Affine::find(x, weights, 15, 63, (1.0, 1.0), false);
    put_scales(&found, out);
    put_nibbles(&found.quants, &mut out[16..]);
}

/// Q5_K.
fn five_bits(x: &[f32], weights: &[f32], out: &mut [u8]) {
    let found = Affine::find(x, weights, 31, 63, (0.5, 1.0), false);
    put_scales(&found, out);
    put_bits(&found.quants, 4, &mut out[16..48]);
    put_nibbles(&found.quants, &mut out[48..]);
}

/// Q6_K.
fn six_bits(x: &[f32], weights: &[f32], out: &mut [u8]) {
    let found = Symmetric::find(x, weights, 32, 128);
    for (half, quants) in found.quants.chunks_exact(128).enumerate() {
        for k in 0..32 {
            let [a, b, c, d] = [quants[k], quants[k + 32], quants[k + 64], quants[k + 96]];
            out[half * 64 + k] = a & 15 | c << 4;
            out[half * 64 + 32 + k] = b & 15 | d << 4;
            out[128 + half * 32 + k] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
    for (out, scale) in out[192..208].iter_mut().zip(found.scales) {
        *out = scale as u8;
    }
    out[208..].copy_from_slice(&found.d);
}

/// IQ4_XS.
fn values(x: &[f32], weights: &[f32], out: &mut [u8]) {
    let mut scales = [0.0f32; 8];
    for (scale, (x, weights)) in scales.iter_mut().zip(x.chunks_exact(32).zip(weights.chunks_exact(32))) {
        *scale = search::of_values(x, weights);
    }
    let d = stored(search::largest(&scales) / -32.0);
    let factor = inverse(d.to_f32());
    let scales = scales.map(|scale| nearest(factor * scale, -32, 31));
    out[..2].copy_from_slice(&d.to_le_bytes());
    let upper =
        scales.iter().enumerate().fold(0u16, |bits, (part, scale)| bits | ((scale + 32) as u16 >> 4) << (2 * part));
    out[2..4].copy_from_slice(&upper.to_le_bytes());
    for (out, pair) in out[4..8].iter_mut().zip(scales.chunks_exact(2)) {
        *out = (pair[0] + 32) as u8 & 15 | ((pair[1] + 32) as u8) << 4;
    }
    for (part, (x, out)) in x.chunks_exact(32).zip(out[8..].chunks_exact_mut(16)).enumerate() {
        let factor = inverse(d.to_f32() * scales[part] as f32);
        let mut quants = [0u8; 32];
        for (q, x) in quants.iter_mut().zip(x) {
            *q = search::nearest_value(factor * x) as u8;
        }
        block32::put(&quants, false, out);
    }
}
