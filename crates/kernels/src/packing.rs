//! From a tensor's bytes in its file to packed groups: see [`crate::matrix`] for the layout.

use crate::codebooks::Spread;
use crate::packed::{FP4_VALUES, GROUP, is_spread, packed_block, u16_at, u32_at};
use freehold_base::Dtype;
use half::{bf16, f16};

/// How many floats of a row are packed before those of the next row: few enough for all sixteen to stay in the first cache.
const FLOATS: usize = 32;

/// Packs rows, sixteen at most, to a group, whose bytes are still zero. Answers which of them is the first with a number
/// that is not finite, if any.
pub(crate) fn pack_group(dtype: Dtype, rows: &[&[u8]], packed: &mut [u8]) -> Option<usize> {
    let (block, block_bytes) = packed_block(dtype).expect("checked by the caller");
    let (source_block, source_block_bytes) = dtype.block();
    let step = block.max(FLOATS);
    let (source_bytes, packed_bytes) = (step / source_block * source_block_bytes, step / block * block_bytes);
    let mut bad = None;
    // Block by block, with all rows of each, so that the block stays in the first cache.
    for (index, packed) in packed.chunks_mut(packed_bytes).enumerate() {
        for (lane, row) in rows.iter().enumerate() {
            let start = (index * source_bytes).min(row.len());
            let source = &row[start..row.len().min(start + source_bytes)];
            if !source.is_empty() && !pack_block(dtype, source, lane, packed) {
                bad = Some(bad.unwrap_or(lane).min(lane));
            }
        }
    }
    bad
}

/// Copies words of four quants, each to the lane's place in a row of sixteen words.
fn words(packed: &mut [u8], lane: usize, quants: &[u8]) {
    for (row, quants) in packed.as_chunks_mut::<64>().0.iter_mut().zip(quants.as_chunks::<4>().0) {
        row.as_chunks_mut::<4>().0[lane] = *quants;
    }
}

/// Copies pairs of scales, each to the lane's place in a row of sixteen pairs.
fn pairs(packed: &mut [u8], lane: usize, scales: &[u8]) {
    for (row, pair) in packed.as_chunks_mut::<32>().0.iter_mut().zip(scales.as_chunks::<2>().0) {
        row.as_chunks_mut::<2>().0[lane] = *pair;
    }
}

/// The fifth bits of 32 quants, bit k of `bits` being that of quant k, as bit g of a byte is of word g.
fn fifth_bits(bits: u32) -> [u8; 4] {
    // A nibble times the constant has its bit b at the foot of byte b.
    let word = |g: u32| (((bits >> (4 * g) & 15) * 0x0020_4081) & 0x0101_0101) << g;
    (0..8).fold(0, |bits, g| bits | word(g)).to_le_bytes()
}

/// `width` bits from `shift` on of each byte of up to eight words, gathered: those of word g are at g · `width`.
fn gathered(words: &[u8], shift: usize, width: usize) -> [u8; 4] {
    let mask = 0x0101_0101 * ((1 << width) - 1);
    let words = words.as_chunks::<4>().0.iter().enumerate();
    words.fold(0, |bits, (g, &word)| bits | (u32::from_le_bytes(word) >> shift & mask) << (g * width)).to_le_bytes()
}

fn pack_block(dtype: Dtype, source: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    // Copies an f16 of the source to the lane's place in the `part`th row of sixteen.
    let scale = |packed: &mut [u8], part: usize, offset: usize| {
        packed[(part * GROUP + lane) * 2..][..2].copy_from_slice(&source[offset..offset + 2]);
        f16::from_bits(u16_at(source, offset)).is_finite()
    };
    match dtype {
        Dtype::F32 => {
            words(packed, lane, source);
            source.as_chunks().0.iter().all(|&number| f32::from_le_bytes(number).is_finite())
        }
        Dtype::F16 => {
            pairs(packed, lane, source);
            source.as_chunks().0.iter().all(|&number| f16::from_le_bytes(number).is_finite())
        }
        Dtype::BF16 => {
            for (row, pair) in packed.as_chunks_mut::<64>().0.iter_mut().zip(source.chunks(4)) {
                row[lane * 4..][..pair.len()].copy_from_slice(pair);
            }
            source.as_chunks().0.iter().all(|&number| bf16::from_le_bytes(number).is_finite())
        }
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
            words(&mut packed[288..], lane, &fifth_bits(u32_at(source, 2)));
            scale(packed, 0, 0)
        }
        Dtype::Q5_1 => {
            words(&mut packed[64..], lane, &source[8..]);
            words(&mut packed[320..], lane, &fifth_bits(u32_at(source, 4)));
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
            pairs(&mut packed[64..], lane, scales);
            words(&mut packed[320..], lane, low_bits(&quants[..64]).as_flattened());
            scale(packed, 0, 80) & scale(packed, 1, 82)
        }
        Dtype::Q3_K => {
            let (upper, rest) = source.split_at(32);
            let (quants, scales) = rest.split_at(64);
            let scales: [u8; 16] = std::array::from_fn(|sub| {
                let low = scales[sub % 8] >> (sub / 8 * 4) & 15;
                let high = scales[8 + sub % 4] >> (sub / 4 * 2) & 3;
                ((low | high << 4) as i8 - 32) as u8
            });
            pairs(&mut packed[32..], lane, &scales);
            words(&mut packed[288..], lane, low_bits(quants).as_flattened());
            let third: [_; 8] = std::array::from_fn(|chunk| gathered(upper, chunk, 1));
            words(&mut packed[1312..], lane, third.as_flattened());
            scale(packed, 0, 108)
        }
        Dtype::Q4_K | Dtype::Q5_K => {
            let (scales, minima) = q4_k_scales(&source[4..16]);
            for (row, scale) in packed[64..192].as_chunks_mut::<GROUP>().0.iter_mut().zip(scales) {
                row[lane] = scale;
            }
            pairs(&mut packed[192..320], lane, &minima);
            words(&mut packed[320..2368], lane, &source[source.len() - 128..]);
            if dtype == Dtype::Q5_K {
                let fifth: [_; 8] = std::array::from_fn(|sub| gathered(&source[16..48], sub, 1));
                words(&mut packed[2368..], lane, fifth.as_flattened());
            }
            scale(packed, 0, 0) & scale(packed, 1, 2)
        }
        Dtype::Q6_K => {
            let (low, rest) = source.split_at(128);
            let (high, scales) = rest.split_at(64);
            pairs(&mut packed[32..288], lane, &scales[..16]);
            // ggml stores halves of 128, in each 64 bytes of nibbles and 32 of upper bits.
            for (chunk, packed) in packed[288..].chunks_exact_mut(384).enumerate() {
                let (half, quarter) = (chunk / 4, chunk % 4);
                let nibbles = &low[half * 64 + quarter % 2 * 32..][..32];
                let nibbles = |word: usize| u32_at(nibbles, word * 4) >> (quarter / 2 * 4) & 0x0f0f_0f0f;
                let paired: [_; 4] = std::array::from_fn(|word| (nibbles(word) | nibbles(word + 4) << 4).to_le_bytes());
                words(packed, lane, paired.as_flattened());
                let (first, second) = high[half * 32..][..32].split_at(16);
                words(&mut packed[256..], lane, &gathered(first, quarter * 2, 2));
                words(&mut packed[320..], lane, &gathered(second, quarter * 2, 2));
            }
            scale(packed, 0, 208)
        }
        Dtype::IQ4_XS => {
            let upper = u16_at(source, 2);
            let scales: [u8; 8] = std::array::from_fn(|sub| {
                let low = source[4 + sub / 2] >> (sub % 2 * 4) & 15;
                let high = (upper >> (sub * 2)) as u8 & 3;
                ((low | high << 4) as i8 - 32) as u8
            });
            pairs(&mut packed[32..160], lane, &scales);
            words(&mut packed[160..], lane, &source[8..]);
            scale(packed, 0, 0)
        }
        _ => {
            debug_assert!(is_spread(dtype), "checked when packing began");
            let block = Spread::decode(dtype, source);
            packed[lane * 4..][..4].copy_from_slice(&block.d.to_le_bytes());
            pairs(&mut packed[64..320], lane, &block.scales.map(|scale| scale as u8));
            words(&mut packed[320..], lane, &block.quants.map(|quant| quant as u8));
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

/// The two low bits of 256 quants of Q2_K and Q3_K, 16 in each word of the answer: ggml stores halves of 128, in 32 bytes of
/// four times two bits.
fn low_bits(source: &[u8]) -> [[u8; 4]; 16] {
    std::array::from_fn(|word| {
        let (half, quarter, sixteen) = (word / 8, word / 2 % 4, word % 2);
        gathered(&source[half * 32 + sixteen * 16..][..16], quarter * 2, 2)
    })
}

/// The 6-bit scales and minima of the eight sub-blocks in Q4_K's and Q5_K's twelve packed bytes (`get_scale_min_k4` of ggml).
fn q4_k_scales(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let [a, b, c] = [0, 4, 8].map(|offset| u32_at(packed, offset));
    let low = |bits: u32| bits & 0x3f3f_3f3f;
    let high = |lower: u32, upper: u32| lower & 0x0f0f_0f0f | (upper >> 6 & 0x0303_0303) << 4;
    let bytes = |first: u32, second: u32| (u64::from(first) | u64::from(second) << 32).to_le_bytes();
    (bytes(low(a), high(c, a)), bytes(low(b), high(c >> 4, b)))
}
