//! The rarer GGUF types of 256 numbers a block, decoded to signed bytes with an integer scale for every sixteen: IQ1, IQ2
//! and IQ3, whose quants are words of a codebook, and the ternary TQ types.
//!
//! Every number of theirs is `d · scale · quant` with small integers, so the decoded form is exact. It is larger than the
//! file's: these types are for models that would not fit on a disk otherwise, and speed is not what they are chosen for.

use crate::packed::{f16_at, u16_at};
use freehold_base::Dtype;
use half::f16;

/// Words of eight numbers: 256 of IQ2_XXS, 512 of IQ2_XS, 1,024 of IQ2_S; then words of four: 256 of IQ3_XXS, 512 of
/// IQ3_S; then 2,048 words of eight of IQ1. Written by `scripts/codebooks.py`.
static CODEBOOKS: &[u8; 33_792] = include_bytes!("codebooks.bin");

const IQ2_XXS: usize = 0;
const IQ2_XS: usize = IQ2_XXS + 256 * 8;
const IQ2_S: usize = IQ2_XS + 512 * 8;
const IQ3_XXS: usize = IQ2_S + 1024 * 8;
const IQ3_S: usize = IQ3_XXS + 256 * 4;
const IQ1: usize = IQ3_S + 512 * 4;

/// One block, decoded.
pub(crate) struct Spread {
    pub(crate) d: f32,
    /// Of sixteen consecutive quants each.
    pub(crate) scales: [i8; 16],
    pub(crate) quants: [i8; 256],
}

impl Spread {
    /// `source` is one block of `dtype`, in its file's layout (ggml's `block_iq1_s` and so on).
    pub(crate) fn decode(dtype: Dtype, source: &[u8]) -> Self {
        let mut block = Self { d: 0.0, scales: [1; 16], quants: [0; 256] };
        match dtype {
            Dtype::TQ1_0 => block.decode_tq1_0(source),
            Dtype::TQ2_0 => block.decode_tq2_0(source),
            Dtype::IQ1_S => block.decode_iq1_s(source),
            Dtype::IQ1_M => block.decode_iq1_m(source),
            Dtype::IQ2_XXS | Dtype::IQ3_XXS => block.decode_xxs(dtype, source),
            Dtype::IQ2_XS => block.decode_iq2_xs(source),
            Dtype::IQ2_S => block.decode_iq2_s(source),
            Dtype::IQ3_S => block.decode_iq3_s(source),
            _ => unreachable!("no type of this form"),
        }
        block
    }

    /// Copies a word of a codebook to quants `at` and after, with the signs that are set in `signs`, lowest bit first.
    fn word(&mut self, at: usize, codebook: usize, index: usize, length: usize, signs: u8) {
        let word = &CODEBOOKS[codebook + index * length..][..length];
        for (k, &value) in word.iter().enumerate() {
            let value = value as i8;
            self.quants[at + k] = if signs >> k & 1 == 1 { -value } else { value };
        }
    }

    /// Scale `2s + 1` for quants `16 · sub` and after.
    fn odd_scale(&mut self, sub: usize, s: u8) {
        self.scales[sub] = (2 * s + 1) as i8;
    }

    fn decode_tq1_0(&mut self, source: &[u8]) {
        self.d = f16_at(source, 52);
        // Five ternary digits a byte, as a fraction of 3⁵ in 256ths; four in the last four bytes.
        let mut next = 0;
        for (bytes, digits) in [(&source[..32], 5), (&source[32..48], 5), (&source[48..52], 4)] {
            for digit in 0..digits {
                for &byte in bytes {
                    let shifted = byte.wrapping_mul(3u8.pow(digit));
                    self.quants[next] = ((u16::from(shifted) * 3) >> 8) as i8 - 1;
                    next += 1;
                }
            }
        }
    }

    fn decode_tq2_0(&mut self, source: &[u8]) {
        self.d = f16_at(source, 64);
        for (k, quant) in self.quants.iter_mut().enumerate() {
            *quant = (source[k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2) & 3) as i8 - 1;
        }
    }

    /// A word of IQ1 and its offset of an eighth, up or down: both times eight.
    fn ternary_word(&mut self, at: usize, index: usize, down: bool) {
        self.word(at, IQ1, index, 8, 0);
        for quant in &mut self.quants[at..at + 8] {
            *quant = *quant * 8 + if down { -1 } else { 1 };
        }
    }

    fn decode_iq1_s(&mut self, source: &[u8]) {
        self.d = f16_at(source, 0) * 0.125;
        for chunk in 0..8 {
            let upper = u16_at(source, 34 + chunk * 2);
            for sub in [chunk * 2, chunk * 2 + 1] {
                self.odd_scale(sub, (upper >> 12 & 7) as u8);
            }
            for word in 0..4 {
                let index = usize::from(source[2 + chunk * 4 + word]) | usize::from(upper >> (word * 3) & 7) << 8;
                self.ternary_word(chunk * 32 + word * 8, index, upper & 0x8000 != 0);
            }
        }
    }

    fn decode_iq1_m(&mut self, source: &[u8]) {
        let scales: [u16; 4] = std::array::from_fn(|part| u16_at(source, 48 + part * 2));
        let d = scales.iter().enumerate().fold(0, |d, (part, scale)| d | (scale >> 12) << (part * 4));
        self.d = f16::from_bits(d).to_f32() * 0.125;
        for sub in 0..16 {
            self.odd_scale(sub, (scales[sub / 4] >> (sub % 4 * 3) & 7) as u8);
            for word in [sub * 2, sub * 2 + 1] {
                let upper = source[32 + word / 2] >> (word % 2 * 4);
                let index = usize::from(source[word]) | usize::from(upper & 7) << 8;
                self.ternary_word(word * 8, index, upper & 8 != 0);
            }
        }
    }

    /// IQ2_XXS and IQ3_XXS: for 32 numbers four (or eight) indices and a word with a scale and four times seven signs.
    fn decode_xxs(&mut self, dtype: Dtype, source: &[u8]) {
        let three = dtype == Dtype::IQ3_XXS;
        self.d = f16_at(source, 0) * if three { 0.25 } else { 0.125 };
        for chunk in 0..8 {
            let at = if three { 66 + chunk * 4 } else { 6 + chunk * 8 };
            let word = u32::from_le_bytes([source[at], source[at + 1], source[at + 2], source[at + 3]]);
            for sub in [chunk * 2, chunk * 2 + 1] {
                self.odd_scale(sub, (word >> 28) as u8);
            }
            for eight in 0..4 {
                let signs = even_signs((word >> (eight * 7)) as u8 & 127);
                let start = chunk * 32 + eight * 8;
                if three {
                    for four in 0..2 {
                        let index = usize::from(source[2 + start / 4 + four]);
                        self.word(start + four * 4, IQ3_XXS, index, 4, signs >> (four * 4));
                    }
                } else {
                    self.word(start, IQ2_XXS, usize::from(source[2 + chunk * 8 + eight]), 8, signs);
                }
            }
        }
    }

    fn decode_iq2_xs(&mut self, source: &[u8]) {
        self.d = f16_at(source, 0) * 0.125;
        for sub in 0..16 {
            self.odd_scale(sub, source[66 + sub / 2] >> (sub % 2 * 4) & 15);
            for word in [sub * 2, sub * 2 + 1] {
                let code = u16_at(source, 2 + word * 2);
                self.word(word * 8, IQ2_XS, usize::from(code & 511), 8, even_signs((code >> 9) as u8));
            }
        }
    }

    fn decode_iq2_s(&mut self, source: &[u8]) {
        self.d = f16_at(source, 0) * 0.125;
        for sub in 0..16 {
            self.odd_scale(sub, source[74 + sub / 2] >> (sub % 2 * 4) & 15);
            for word in [sub * 2, sub * 2 + 1] {
                let upper = source[66 + word / 4] >> (word % 4 * 2) & 3;
                let index = usize::from(source[2 + word]) | usize::from(upper) << 8;
                self.word(word * 8, IQ2_S, index, 8, source[34 + word]);
            }
        }
    }

    fn decode_iq3_s(&mut self, source: &[u8]) {
        self.d = f16_at(source, 0);
        for sub in 0..16 {
            self.odd_scale(sub, source[106 + sub / 4] >> (sub / 2 % 2 * 4) & 15);
            for word in sub * 4..sub * 4 + 4 {
                let upper = source[66 + word / 8] >> (word % 8) & 1;
                let index = usize::from(source[2 + word]) | usize::from(upper) << 8;
                self.word(word * 4, IQ3_S, index, 4, source[74 + word / 2] >> (word % 2 * 4));
            }
        }
    }
}

/// Seven signs and an eighth that makes their number even.
fn even_signs(signs: u8) -> u8 {
    signs | ((signs.count_ones() as u8 & 1) << 7)
}
