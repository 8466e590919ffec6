//! From a tensor's bytes in its file to packed groups: see [`crate::matrix`] for the layout.

use crate::codebooks::Spread;
use crate::packed::{FP4_VALUES, GROUP, f32_at, is_spread, packed_block, u16_at};
use freehold_base::Dtype;
use half::{bf16, f16};

/// Writes one row's share of a group, whose bytes are still zero there; false if a number is not finite.
pub(crate) fn pack_row(dtype: Dtype, source: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    let (_, block_bytes) = packed_block(dtype).expect("checked by the caller");
    let (_, source_bytes) = dtype.block();
    if dtype == Dtype::BF16 {
        return pack_row_bf16(source, lane, packed);
    }
    let mut finite = true;
    for (source, packed) in source.chunks_exact(source_bytes).zip(packed.chunks_exact_mut(block_bytes)) {
        finite &= pack_block(dtype, source, lane, packed);
    }
    finite
}

fn pack_row_bf16(source: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    let mut finite = true;
    for (k, number) in source.chunks_exact(2).enumerate() {
        let pair = (k / 2 * GROUP + lane) * 4 + k % 2 * 2;
        packed[pair..pair + 2].copy_from_slice(number);
        finite &= bf16::from_bits(u16_at(number, 0)).is_finite();
    }
    finite
}

/// Copies words of four quants, each to the lane's place in a row of sixteen words.
fn words(packed: &mut [u8], lane: usize, quants: &[u8]) {
    for (word, quants) in quants.chunks_exact(4).enumerate() {
        packed[word * GROUP * 4 + lane * 4..][..4].copy_from_slice(quants);
    }
}

/// The fifth bits of 32 quants, bit k of `bits` being that of quant k: bit g of a byte is of word g.
fn fifth_bits(packed: &mut [u8], lane: usize, bits: u32) {
    for byte in 0..4 {
        for word in 0..8 {
            packed[lane * 4 + byte] |= ((bits >> (word * 4 + byte)) as u8 & 1) << word;
        }
    }
}

/// Bit `sub` of each of 32 bytes.
fn plane(bytes: &[u8], sub: usize) -> u32 {
    bytes.iter().enumerate().fold(0, |bits, (k, byte)| bits | u32::from(byte >> sub & 1) << k)
}

fn pack_block(dtype: Dtype, source: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    // Copies an f16 of the source to the lane's place in the `part`th row of sixteen.
    let scale = |packed: &mut [u8], part: usize, offset: usize| {
        packed[(part * GROUP + lane) * 2..][..2].copy_from_slice(&source[offset..offset + 2]);
        f16::from_bits(u16_at(source, offset)).is_finite()
    };
    let paired = |start: usize, sub: usize| start + (sub / 2 * GROUP + lane) * 2 + sub % 2;
    match dtype {
        Dtype::F32 => {
            packed[lane * 4..][..4].copy_from_slice(source);
            f32_at(source, 0).is_finite()
        }
        Dtype::F16 => scale(packed, 0, 0),
        Dtype::Q4_0 | Dtype::Q8_0 | Dtype::IQ4_NL => {
            words(&mut packed[32..], lane, &source[2..]);
            scale(packed, 0, 0)
        }
        Dtype::Q4_1 => {
            words(&mut packed[64..], lane, &source[4..]);
            scale(packed, 0, 0) & scale(packed, 1, 2)
        }
        Dtype::Q5_0 => {
            words(&mut packed[32..], lane, &source[6..]);
            fifth_bits(&mut packed[288..], lane, u32::from_le_bytes([source[2], source[3], source[4], source[5]]));
            scale(packed, 0, 0)
        }
        Dtype::Q5_1 => {
            words(&mut packed[64..], lane, &source[8..]);
            fifth_bits(&mut packed[320..], lane, u32::from_le_bytes([source[4], source[5], source[6], source[7]]));
            scale(packed, 0, 0) & scale(packed, 1, 2)
        }
        Dtype::MXFP4 => {
            packed[lane] = source[0];
            words(&mut packed[16..], lane, &source[1..]);
            // The one exponent that stands for NaN.
            source[0] != 0xff
        }
        Dtype::NVFP4 => {
            for (step, packed) in packed.chunks_exact_mut(320).enumerate() {
                packed[lane * 4..][..4].copy_from_slice(&half_ue4m3(source[step]).to_le_bytes());
                let nibbles = &source[4 + step * 8..][..8];
                for k in 0..16 {
                    let value = FP4_VALUES[usize::from(nibbles[k % 8] >> (k / 8 * 4) & 15)];
                    packed[64 + k / 4 * 64 + lane * 4 + k % 4] = value as u8;
                }
            }
            true
        }
        Dtype::Q2_K => {
            let (scales, quants) = source.split_at(16);
            for (sub, &scale) in scales.iter().enumerate() {
                packed[paired(64, sub)] = scale;
            }
            low_bits(&mut packed[320..], lane, &quants[..64]);
            scale(packed, 0, 80) & scale(packed, 1, 82)
        }
        Dtype::Q3_K => {
            let (upper, rest) = source.split_at(32);
            let (quants, scales) = rest.split_at(64);
            for sub in 0..16 {
                let low = scales[sub % 8] >> (sub / 8 * 4) & 15;
                let high = scales[8 + sub % 4] >> (sub / 4 * 2) & 3;
                packed[paired(32, sub)] = ((low | high << 4) as i8 - 32) as u8;
            }
            low_bits(&mut packed[288..], lane, quants);
            for chunk in 0..8 {
                fifth_bits(&mut packed[1312 + chunk * 64..], lane, plane(upper, chunk));
            }
            scale(packed, 0, 108)
        }
        Dtype::Q4_K | Dtype::Q5_K => {
            for sub in 0..8 {
                let (scale, min) = q4_k_scale(&source[4..16], sub);
                packed[64 + sub * GROUP + lane] = scale;
                packed[paired(192, sub)] = min;
            }
            if dtype == Dtype::Q5_K {
                for sub in 0..8 {
                    fifth_bits(&mut packed[2368 + sub * 64..], lane, plane(&source[16..48], sub));
                }
            }
            words(&mut packed[320..], lane, &source[source.len() - 128..]);
            scale(packed, 0, 0) & scale(packed, 1, 2)
        }
        Dtype::Q6_K => {
            let (low, rest) = source.split_at(128);
            let (high, rest) = rest.split_at(64);
            for sub in 0..16 {
                packed[paired(32, sub)] = rest[sub];
            }
            for k in 0..256 {
                let quant = q6_k_quant(low, high, k);
                let chunk = &mut packed[288 + k / 32 * 384..][..384];
                let (word, byte) = (k % 32 / 4, k % 4);
                chunk[word % 4 * 64 + lane * 4 + byte] |= (quant & 15) << (word / 4 * 4);
                chunk[256 + word / 4 * 64 + lane * 4 + byte] |= (quant >> 4) << (word % 4 * 2);
            }
            scale(packed, 0, 208)
        }
        Dtype::IQ4_XS => {
            let upper = u16_at(source, 2);
            for sub in 0..8 {
                let low = source[4 + sub / 2] >> (sub % 2 * 4) & 15;
                let high = (upper >> (sub * 2)) as u8 & 3;
                packed[paired(32, sub)] = ((low | high << 4) as i8 - 32) as u8;
            }
            words(&mut packed[160..], lane, &source[8..]);
            scale(packed, 0, 0)
        }
        _ => {
            debug_assert!(is_spread(dtype), "checked when packing began");
            let block = Spread::decode(dtype, source);
            packed[lane * 4..][..4].copy_from_slice(&block.d.to_le_bytes());
            for (sub, &scale) in block.scales.iter().enumerate() {
                packed[paired(64, sub)] = scale as u8;
            }
            for (k, &quant) in block.quants.iter().enumerate() {
                packed[320 + k / 4 * 64 + lane * 4 + k % 4] = quant as u8;
            }
            block.d.is_finite()
        }
    }
}

/// Half of an unsigned E4M3 number, for quants are doubled; 0x7f, its NaN, counts as 0, as ggml reads it.
fn half_ue4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    match (bits, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * f32::from_bits((127 - 10) << 23),
        _ => (8.0 + mantissa) * f32::from_bits(((127 + exponent - 11) as u32) << 23),
    }
}

/// The two low bits of 256 quants of Q2_K and Q3_K: ggml stores halves of 128, in 32 bytes of four times two bits.
fn low_bits(packed: &mut [u8], lane: usize, source: &[u8]) {
    for k in 0..256 {
        let bits = source[k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2) & 3;
        packed[k / 16 * 64 + lane * 4 + k % 4] |= bits << (k % 16 / 4 * 2);
    }
}

/// The 6-bit scale and minimum of sub-block `sub` in Q4_K's and Q5_K's twelve packed bytes (`get_scale_min_k4` of ggml).
fn q4_k_scale(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let scale = packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4;
        let min = packed[sub + 4] >> 4 | packed[sub] >> 6 << 4;
        (scale, min)
    }
}

/// Quant `k` (0 to 63) of a Q6_K block: ggml stores halves of 128, in each 64 bytes of nibbles and 32 of upper bits.
fn q6_k_quant(low: &[u8], high: &[u8], k: usize) -> u8 {
    let (half, inner) = (k / 128, k % 128);
    let (quarter, l) = (inner / 32, inner % 32);
    let nibble = low[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
    let upper = high[half * 32 + l] >> (quarter * 2) & 3;
    nibble | upper << 4
}
