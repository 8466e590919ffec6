//! Reading packed blocks: scales and quants as the numbers that products use.
//!
//! A quantised weight is `d · quant (+ m)` in the types with blocks of 32, and `d · sub_scale · quant − m · sub_min` in those
//! with blocks of 256. The functions here give these parts for a block as [`crate::matrix`] lays it out; dequantisation
//! and the scalar reference of the products are written in terms of them.

use freehold_base::Dtype;
use half::f16;

/// Rows that are interleaved in a packed group.
pub(crate) const GROUP: usize = 16;

/// What IQ4_NL's and IQ4_XS's nibbles stand for (ggml's `kvalues_iq4nl`).
pub(crate) const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What MXFP4's and NVFP4's nibbles stand for: the values of E2M1 (OCP Microscaling Formats 1.0, section 5.3.3), doubled.
pub(crate) const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// (k, bytes) of one block of a packed group; `None` for types without kernels.
pub(crate) const fn packed_block(dtype: Dtype) -> Option<(usize, usize)> {
    Some(match dtype {
        Dtype::F32 => (1, 64),
        Dtype::F16 => (1, 32),
        Dtype::BF16 => (32, 1024),
        Dtype::MXFP4 => (32, 272),
        Dtype::Q4_0 | Dtype::IQ4_NL => (32, 288),
        Dtype::Q4_1 => (32, 320),
        Dtype::Q5_0 => (32, 352),
        Dtype::Q5_1 => (32, 384),
        Dtype::Q8_0 => (32, 544),
        Dtype::NVFP4 => (64, 1280),
        Dtype::Q2_K => (256, 1344),
        Dtype::Q3_K => (256, 1824),
        Dtype::IQ4_XS => (256, 2208),
        Dtype::Q4_K => (256, 2368),
        Dtype::Q5_K => (256, 2880),
        Dtype::Q6_K => (256, 3360),
        _ if is_spread(dtype) => (256, 4416),
        _ => return None,
    })
}

/// The rarer types: packed as plain bytes with a scale for every sixteen, whatever the file's form.
pub(crate) const fn is_spread(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::IQ1_S
            | Dtype::IQ1_M
            | Dtype::IQ2_XXS
            | Dtype::IQ2_XS
            | Dtype::IQ2_S
            | Dtype::IQ3_XXS
            | Dtype::IQ3_S
            | Dtype::TQ1_0
            | Dtype::TQ2_0
    )
}

/// Whether a minimum goes with the scale: added in blocks of 32, subtracted in blocks of 256.
pub(crate) const fn has_min(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q2_K | Dtype::Q4_K | Dtype::Q5_K)
}

/// How many consecutive k share a scale: a float in blocks of 32 and 64, an integer in those of 256.
pub(crate) const fn scale_length(dtype: Dtype) -> usize {
    match dtype {
        Dtype::NVFP4 | Dtype::Q2_K | Dtype::Q3_K | Dtype::Q6_K => 16,
        _ if is_spread(dtype) => 16,
        _ => 32,
    }
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

pub(crate) fn f16_at(bytes: &[u8], offset: usize) -> f32 {
    f16::from_bits(u16_at(bytes, offset)).to_f32()
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

pub(crate) fn f32_at(bytes: &[u8], offset: usize) -> f32 {
    f32::from_bits(u32_at(bytes, offset))
}

/// Half of the power of two with biased exponent `e` (E8M0), for quants are doubled. Exact, subnormal results included.
pub(crate) fn half_e8m0(e: u8) -> f32 {
    f32::from_bits((u32::from(e) << 23).max(1 << 22)) * 0.5
}

/// `d` of a lane. `step` counts the scales of a block: 0 but in NVFP4.
#[inline(always)]
pub(crate) fn scale(dtype: Dtype, packed: &[u8], lane: usize, step: usize) -> f32 {
    match dtype {
        Dtype::MXFP4 => half_e8m0(packed[lane]),
        Dtype::NVFP4 => f32_at(packed, step * 320 + lane * 4),
        _ if is_spread(dtype) => f32_at(packed, lane * 4),
        _ => f16_at(packed, lane * 2),
    }
}

/// The second scale of a lane, in the types that [`has_min`] names.
#[inline(always)]
pub(crate) fn min(packed: &[u8], lane: usize) -> f32 {
    f16_at(packed, (GROUP + lane) * 2)
}

/// Byte `sub` of a lane where bytes lie in pairs.
#[inline(always)]
fn paired(packed: &[u8], start: usize, lane: usize, sub: usize) -> u8 {
    packed[start + (sub / 2 * GROUP + lane) * 2 + sub % 2]
}

/// The integer scale of sub-block `sub` in a block of 256.
#[inline(always)]
pub(crate) fn sub_scale(dtype: Dtype, packed: &[u8], lane: usize, sub: usize) -> i32 {
    match dtype {
        Dtype::Q2_K => i32::from(paired(packed, 64, lane, sub) & 15),
        Dtype::Q3_K | Dtype::Q6_K | Dtype::IQ4_XS => i32::from(paired(packed, 32, lane, sub) as i8),
        Dtype::Q4_K | Dtype::Q5_K => i32::from(packed[64 + sub * GROUP + lane]),
        _ => i32::from(paired(packed, 64, lane, sub) as i8),
    }
}

/// The integer minimum of sub-block `sub` in a block of 256, in the types that [`has_min`] names.
#[inline(always)]
pub(crate) fn sub_min(dtype: Dtype, packed: &[u8], lane: usize, sub: usize) -> i32 {
    match dtype {
        Dtype::Q2_K => i32::from(paired(packed, 64, lane, sub) >> 4),
        _ => i32::from(paired(packed, 192, lane, sub)),
    }
}

/// Byte `k % 4` of a lane in the word at `start`.
#[inline(always)]
fn byte(packed: &[u8], start: usize, lane: usize, k: usize) -> u8 {
    packed[start + lane * 4 + k % 4]
}

/// A nibble of 32: low ones are k 0–15, high ones k 16–31.
#[inline(always)]
fn nibble(packed: &[u8], start: usize, lane: usize, k: usize) -> u8 {
    byte(packed, start + k % 16 / 4 * 64, lane, k) >> (k / 16 * 4) & 15
}

/// A nibble of 64: low ones are k 0–31, high ones k 32–63.
#[inline(always)]
fn wide_nibble(packed: &[u8], start: usize, lane: usize, k: usize) -> u8 {
    byte(packed, start + k % 32 / 4 * 64, lane, k) >> (k / 32 * 4) & 15
}

/// One more bit for each of 32: bit g of a byte is of word g.
#[inline(always)]
fn bit(packed: &[u8], start: usize, lane: usize, k: usize) -> u8 {
    byte(packed, start, lane, k) >> (k / 4) & 1
}

/// Two bits for each of 16: bits 2g and 2g + 1 of a byte are of word g.
#[inline(always)]
fn two_bits(packed: &[u8], start: usize, lane: usize, k: usize) -> u8 {
    byte(packed, start, lane, k) >> (k / 4 * 2) & 3
}

/// Quant `k` of a lane, as the integer that scales are multiplied with.
#[inline(always)]
pub(crate) fn quant(dtype: Dtype, packed: &[u8], lane: usize, k: usize) -> i32 {
    match dtype {
        Dtype::Q4_0 => i32::from(nibble(packed, 32, lane, k)) - 8,
        Dtype::Q4_1 => i32::from(nibble(packed, 64, lane, k)),
        Dtype::Q5_0 => i32::from(nibble(packed, 32, lane, k) | bit(packed, 288, lane, k) << 4) - 16,
        Dtype::Q5_1 => i32::from(nibble(packed, 64, lane, k) | bit(packed, 320, lane, k) << 4),
        Dtype::Q8_0 => i32::from(byte(packed, 32 + k / 4 * 64, lane, k) as i8),
        Dtype::IQ4_NL => i32::from(IQ4_VALUES[usize::from(nibble(packed, 32, lane, k))]),
        Dtype::MXFP4 => i32::from(FP4_VALUES[usize::from(nibble(packed, 16, lane, k))]),
        Dtype::NVFP4 => i32::from(byte(packed, k / 16 * 320 + 64 + k % 16 / 4 * 64, lane, k) as i8),
        Dtype::Q2_K => i32::from(two_bits(packed, 320 + k / 16 * 64, lane, k % 16)),
        Dtype::Q3_K => {
            let low = two_bits(packed, 288 + k / 16 * 64, lane, k % 16);
            i32::from(low | bit(packed, 1312 + k / 32 * 64, lane, k % 32) << 2) - 4
        }
        Dtype::Q4_K => i32::from(wide_nibble(packed, 320 + k / 64 * 512, lane, k % 64)),
        Dtype::Q5_K => {
            let low = wide_nibble(packed, 320 + k / 64 * 512, lane, k % 64);
            i32::from(low | bit(packed, 2368 + k / 32 * 64, lane, k % 32) << 4)
        }
        Dtype::Q6_K => {
            let chunk = 288 + k / 32 * 384;
            let upper = two_bits(packed, chunk + 256 + k % 32 / 16 * 64, lane, k % 16);
            i32::from(nibble(packed, chunk, lane, k % 32) | upper << 4) - 32
        }
        Dtype::IQ4_XS => i32::from(IQ4_VALUES[usize::from(nibble(packed, 160 + k / 32 * 256, lane, k % 32))]),
        _ => i32::from(byte(packed, 320 + k / 4 * 64, lane, k) as i8),
    }
}

/// The numbers of one lane of a block of a quantised type, by the formulas of the GGUF formats.
pub(crate) fn dequantize(dtype: Dtype, packed: &[u8], lane: usize, out: &mut [f32]) {
    let length = scale_length(dtype);
    for (step, out) in out.chunks_mut(length).enumerate() {
        let (d, min) = if packed_block(dtype).is_some_and(|(block, _)| block == 256) {
            let d = scale(dtype, packed, lane, 0) * sub_scale(dtype, packed, lane, step) as f32;
            (d, if has_min(dtype) { -(min(packed, lane) * sub_min(dtype, packed, lane, step) as f32) } else { -0.0 })
        } else {
            let d = scale(dtype, packed, lane, step);
            (d, if has_min(dtype) { min(packed, lane) } else { -0.0 })
        };
        for (k, out) in out.iter_mut().enumerate() {
            *out = d * quant(dtype, packed, lane, step * length + k) as f32 + min;
        }
    }
}
