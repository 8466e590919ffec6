//! Rotary position embeddings: inverse frequencies with the scalings that models use, and the rows of cosines and sines
//! made from them.
//!
//! The scalings are those of transformers' `modeling_rope_utils.py` (`default`, `linear`, `llama3`, `yarn`; YaRN is
//! arXiv 2309.00071, section 3). Frequencies are computed in f64 and rounded once to f32.

use crate::math64;

/// How many positions a sequence may have, from 0 on: up to there f32 holds every position exactly.
pub const MAX_POSITIONS: usize = 1 << 24;

/// The fastest that a pair may turn, in radians per position: cosines and sines are proved for angles up to 2²⁵. Models turn
/// by one, give or take a scaling's correction.
const MAX_FREQUENCY: f64 = 2.0;

/// How the frequencies are changed to reach longer contexts.
#[derive(Clone, PartialEq, Debug)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// By what positions are compressed.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, those between interpolated.
    Llama3 {
        /// By what low frequencies are divided.
        factor: f64,
        /// A wavelength longer than `original_context / low_frequency_factor` is low.
        low_frequency_factor: f64,
        /// A wavelength shorter than `original_context / high_frequency_factor` is high.
        high_frequency_factor: f64,
        /// The context, in positions, that the model was first trained with.
        original_context: f64,
    },
    /// Low frequencies divided, high ones kept, a ramp over the pairs between; cosines and sines are scaled.
    Yarn {
        /// By what low frequencies are divided.
        factor: f64,
        /// The context, in positions, that the model was first trained with.
        original_context: f64,
        /// Rotations over that context from which a frequency is high (32 where the model does not say).
        beta_fast: f64,
        /// Rotations up to which a frequency is low (1 where the model does not say).
        beta_slow: f64,
        /// Whether the ramp's ends are rounded outwards to whole pairs (true where the model does not say).
        truncate: bool,
        /// What cosines and sines are multiplied by. Where it is missing, the `mscale`s decide.
        attention_factor: Option<f64>,
        /// By what the derived attention factor is multiplied (1 where the model does not say).
        attention_multiplier: f64,
        /// With `mscale_all_dim`, gives the attention factor as a ratio (DeepSeek).
        mscale: Option<f64>,
        /// See `mscale`.
        mscale_all_dim: Option<f64>,
    },
    /// Each divided by its own factor: GGUF's `rope_freqs.weight`, one number per pair.
    Factors(Vec<f32>),
    /// Each divided by its own factor, and cosines and sines scaled (LongRoPE, arXiv 2402.13753).
    LongRope {
        /// One number per pair: those for the context that the model is to reach.
        factors: Vec<f32>,
        /// The longest context over the original one.
        factor: f64,
        /// The context, in positions, that the model was first trained with.
        original_context: f64,
        /// What cosines and sines are multiplied by. Where it is missing, `√(1 + ln(factor) / ln(original_context))`.
        attention_factor: Option<f64>,
    },
}

/// Numbers of a model that make no rotary embedding.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RopeError {
    /// The rotated part of a head is not a positive even number of elements.
    #[error("rotary embedding over {0} dimensions: it needs a positive even number; check the model's metadata")]
    Dimensions(usize),
    /// A parameter is out of range.
    #[error(
        "rotary embedding with {name} = {value}: it must be a number between 1e-6 and 1e12; check the model's metadata"
    )]
    Parameter {
        /// Which parameter.
        name: &'static str,
        /// What it was.
        value: f64,
    },
    /// `rope_freqs.weight` has the wrong length.
    #[error(
        "rotary embedding with {got} frequency factors for {pairs} pairs: the model's file is damaged or of another shape"
    )]
    Factors {
        /// How many factors there are.
        got: usize,
        /// How many pairs are rotated.
        pairs: usize,
    },
    /// A pair turns faster than cosines and sines are good for.
    #[error(
        "rotary embedding that turns by {0} radians per position, and {MAX_FREQUENCY} is the most that is supported; check the \
         model's metadata"
    )]
    Frequency(f64),
    /// The two ends of a blend coincide.
    #[error(
        "rotary embedding whose low and high frequency factors are both {0}: they must differ; check the model's metadata"
    )]
    EqualFactors(f64),
}

/// The inverse frequency of every rotated pair, in radians per position, and what cosines and sines are multiplied by.
#[derive(Clone, PartialEq, Debug)]
pub struct RopeFrequencies {
    inverse: Vec<f32>,
    attention_factor: f32,
}

impl RopeFrequencies {
    /// For `rotary_dim` rotated dimensions of a head (pairs: `rotary_dim / 2`) and base `theta`.
    pub fn new(theta: f64, rotary_dim: usize, scaling: &RopeScaling) -> Result<Self, RopeError> {
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            return Err(RopeError::Dimensions(rotary_dim));
        }
        let pairs = rotary_dim / 2;
        check("theta", theta)?;
        let plain = |pair: usize| math64::pow(theta, -((2 * pair) as f64) / rotary_dim as f64);
        let mut attention_factor = 1.0;
        let inverse: Vec<f64> = match *scaling {
            RopeScaling::None => (0..pairs).map(plain).collect(),
            RopeScaling::Linear { factor } => {
                check("factor", factor)?;
                (0..pairs).map(|pair| plain(pair) / factor).collect()
            }
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                check("factor", factor)?;
                check("low_freq_factor", low_frequency_factor)?;
                check("high_freq_factor", high_frequency_factor)?;
                check("original_max_position_embeddings", original_context)?;
                if low_frequency_factor == high_frequency_factor {
                    return Err(RopeError::EqualFactors(low_frequency_factor));
                }
                let blend = |frequency: f64| {
                    let wavelength = std::f64::consts::TAU / frequency;
                    if wavelength > original_context / low_frequency_factor {
                        frequency / factor
                    } else if wavelength < original_context / high_frequency_factor {
                        frequency
                    } else {
                        let smooth = (original_context / wavelength - low_frequency_factor)
                            / (high_frequency_factor - low_frequency_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                (0..pairs).map(|pair| blend(plain(pair))).collect()
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor: given,
                attention_multiplier,
                mscale,
                mscale_all_dim,
            } => {
                check("factor", factor)?;
                check("original_max_position_embeddings", original_context)?;
                check("beta_fast", beta_fast)?;
                check("beta_slow", beta_slow)?;
                if theta <= 1.0 {
                    return Err(RopeError::Parameter { name: "theta", value: theta });
                }
                attention_factor = given
                    .unwrap_or_else(|| attention_multiplier * yarn_attention_factor(factor, mscale, mscale_all_dim));
                check("attention_factor", attention_factor)?;
                // The pair (fractional) that makes `rotations` turns over the original context.
                let pair_of = |rotations: f64| {
                    rotary_dim as f64 * math64::ln(original_context / (rotations * std::f64::consts::TAU))
                        / (2.0 * math64::ln(theta))
                };
                let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(rotary_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let blend = |pair: usize| {
                    let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    plain(pair) / factor * ramp + plain(pair) * (1.0 - ramp)
                };
                (0..pairs).map(blend).collect()
            }
            RopeScaling::Factors(ref factors) => divided(plain, pairs, factors)?,
            RopeScaling::LongRope { ref factors, factor, original_context, attention_factor: given } => {
                check("factor", factor)?;
                check("original_max_position_embeddings", original_context)?;
                attention_factor = match given {
                    Some(given) => given,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + math64::ln(factor) / math64::ln(original_context)).sqrt(),
                };
                check("attention_factor", attention_factor)?;
                divided(plain, pairs, factors)?
            }
        };
        if let Some(&frequency) = inverse.iter().find(|&&frequency| frequency > MAX_FREQUENCY) {
            return Err(RopeError::Frequency(frequency));
        }
        Ok(Self {
            inverse: inverse.into_iter().map(|frequency| frequency as f32).collect(),
            attention_factor: attention_factor as f32,
        })
    }

    /// How many pairs are rotated.
    pub fn pairs(&self) -> usize {
        self.inverse.len()
    }

    /// The inverse frequencies, in radians per position.
    pub fn inverse(&self) -> &[f32] {
        &self.inverse
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f32 {
        self.attention_factor
    }
}

/// The frequencies `plain` of `pairs` pairs, each divided by its factor.
fn divided(plain: impl Fn(usize) -> f64, pairs: usize, factors: &[f32]) -> Result<Vec<f64>, RopeError> {
    if factors.len() != pairs {
        return Err(RopeError::Factors { got: factors.len(), pairs });
    }
    for &factor in factors {
        check("a frequency factor", f64::from(factor))?;
    }
    Ok(factors.iter().enumerate().map(|(pair, &factor)| plain(pair) / f64::from(factor)).collect())
}

/// Every parameter is a positive number of a size that keeps the arithmetic in range.
fn check(name: &'static str, value: f64) -> Result<(), RopeError> {
    if (1e-6..=1e12).contains(&value) { Ok(()) } else { Err(RopeError::Parameter { name, value }) }
}

fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * math64::ln(factor) + 1.0 };
    match (mscale, mscale_all_dim) {
        // A zero counts as missing, as there.
        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
        _ => scale(1.0),
    }
}

/// The cosines and sines of a batch's tokens, one row per token: made once per forward pass and used by every layer.
#[derive(Clone, PartialEq, Debug)]
pub struct RopeTable {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// One row for each of `positions`, in their order. The angle is f32(position) · inverse frequency, rounded to f32;
    /// its cosine and sine are rounded to f32 once, then multiplied by the attention factor.
    ///
    /// # Panics
    /// If a position is not below [`MAX_POSITIONS`].
    pub fn new(frequencies: &RopeFrequencies, positions: impl IntoIterator<Item = usize>) -> Self {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            assert!(position < MAX_POSITIONS, "position {position} of at most {MAX_POSITIONS}");
            for &frequency in &frequencies.inverse {
                let angle = position as f32 * frequency;
                let (sine, cosine) = math64::sin_cos(f64::from(angle));
                cos.push(cosine as f32 * frequencies.attention_factor);
                sin.push(sine as f32 * frequencies.attention_factor);
            }
        }
        Self { pairs: frequencies.pairs(), cos, sin }
    }

    /// The cosines and sines, one per pair, of the token at `index` in the order given.
    pub fn row(&self, index: usize) -> (&[f32], &[f32]) {
        let row = index * self.pairs..(index + 1) * self.pairs;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

/// Which elements of a head make a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RopeStyle {
    /// i and i + rotary_dim/2: GPT-NeoX, and every model in Hugging Face's llama layout.
    Halves,
    /// 2i and 2i + 1: the original paper, and llama files in GGUF, whose rows were permuted for it.
    Pairs,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_rope(factors: Vec<f32>, attention_factor: Option<f64>) -> RopeScaling {
        RopeScaling::LongRope { factors, factor: 4.0, original_context: 4096.0, attention_factor }
    }

    fn assert_near(name: &str, got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len(), "{name}");
        for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
            let error = (f64::from(got) / expected - 1.0).abs();
            assert!(error < 1.2e-7, "{name}: pair {i} is {got:e}, not {expected:e}");
        }
    }

    #[test]
    fn scalings() {
        let yarn = |original_context, attention_factor, mscale, mscale_all_dim| RopeScaling::Yarn {
            factor: 4.0,
            original_context,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor,
            attention_multiplier: 0.5,
            mscale,
            mscale_all_dim,
        };
        // Expected values were worked out by hand from the formulas: theta = 10,000 over 8 dimensions gives 1, 0.1,
        // 0.01, 0.001; wavelengths 6.28, 62.8, 628, 6283.
        let smooth = (256.0 / (std::f64::consts::TAU * 100.0) - 0.25) / (4.0 - 0.25);
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 0.25,
            high_frequency_factor: 4.0,
            original_context: 256.0,
        };
        // YaRN over 1024: pairs 4·log10(1024/(32·2π))/4·… = 0.707 → 0 and 2.212 → 3, so the ramp is 0, 1/3, 2/3, 1.
        let ramp = |plain: f64, t: f64| plain / 4.0 * t + plain * (1.0 - t);
        let cases: [(&str, RopeScaling, [f64; 4], f64); 9] = [
            ("none", RopeScaling::None, [1.0, 0.1, 0.01, 0.001], 1.0),
            ("linear", RopeScaling::Linear { factor: 2.0 }, [0.5, 0.05, 0.005, 0.0005], 1.0),
            ("llama3", llama3, [1.0, 0.1, (1.0 - smooth) * 0.01 / 8.0 + smooth * 0.01, 0.001 / 8.0], 1.0),
            (
                "yarn",
                yarn(1024.0, None, None, None),
                [1.0, ramp(0.1, 1.0 / 3.0), ramp(0.01, 2.0 / 3.0), 0.001 / 4.0],
                0.5 * (0.1 * 4f64.ln() + 1.0),
            ),
            (
                "yarn, factor given",
                yarn(1024.0, Some(1.5), Some(2.0), Some(1.0)),
                [1.0, ramp(0.1, 1.0 / 3.0), ramp(0.01, 2.0 / 3.0), 0.001 / 4.0],
                1.5,
            ),
            (
                "yarn, mscales",
                yarn(1024.0, None, Some(2.0), Some(1.0)),
                [1.0, ramp(0.1, 1.0 / 3.0), ramp(0.01, 2.0 / 3.0), 0.001 / 4.0],
                0.5 * (0.2 * 4f64.ln() + 1.0) / (0.1 * 4f64.ln() + 1.0),
            ),
            ("factors", RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0]), [1.0, 0.05, 0.0025, 0.000_125], 1.0),
            (
                "longrope",
                long_rope(vec![1.0, 2.0, 4.0, 8.0], None),
                [1.0, 0.05, 0.0025, 0.000_125],
                (1.0 + 4f64.ln() / 4096f64.ln()).sqrt(),
            ),
            ("longrope, factor given", long_rope(vec![1.0; 4], Some(1.5)), [1.0, 0.1, 0.01, 0.001], 1.5),
        ];
        for (name, scaling, inverse, attention_factor) in cases {
            let frequencies = RopeFrequencies::new(10_000.0, 8, &scaling).expect(name);
            assert_near(name, frequencies.inverse(), &inverse);
            assert_near(name, &[frequencies.attention_factor()], &[attention_factor]);
        }
    }

    #[test]
    fn numbers_that_make_no_rope_are_refused() {
        let yarn = |beta_fast| RopeScaling::Yarn {
            factor: 2.0,
            original_context: 4096.0,
            beta_fast,
            beta_slow: 1.0,
            truncate: false,
            attention_factor: None,
            attention_multiplier: 1.0,
            mscale: None,
            mscale_all_dim: None,
        };
        let cases: [(f64, usize, RopeScaling); 13] = [
            (10_000.0, 0, RopeScaling::None),
            (10_000.0, 7, RopeScaling::None),
            (0.0, 8, RopeScaling::None),
            (f64::NAN, 8, RopeScaling::None),
            (f64::INFINITY, 8, RopeScaling::None),
            (10_000.0, 8, RopeScaling::Linear { factor: 0.0 }),
            (10_000.0, 8, RopeScaling::Linear { factor: 0.4 }),
            (0.01, 8, RopeScaling::None),
            (10_000.0, 8, RopeScaling::Factors(vec![1.0; 3])),
            (10_000.0, 8, long_rope(vec![1.0; 5], None)),
            (10_000.0, 8, long_rope(vec![1.0; 4], Some(-1.0))),
            (10_000.0, 8, yarn(-1.0)),
            (1.0, 8, yarn(32.0)),
        ];
        for (theta, rotary_dim, scaling) in cases {
            assert!(RopeFrequencies::new(theta, rotary_dim, &scaling).is_err(), "{theta} {rotary_dim} {scaling:?}");
        }
    }

    #[test]
    fn rows_are_correctly_rounded_cosines_and_sines() {
        let frequencies = RopeFrequencies::new(10_000.0, 64, &RopeScaling::None).expect("a plain model");
        let positions = [0, 1, 63, 64, 1000, 131_071, MAX_POSITIONS - 1];
        let table = RopeTable::new(&frequencies, positions);
        for (index, &position) in positions.iter().enumerate() {
            let (cos, sin) = table.row(index);
            for (pair, &frequency) in frequencies.inverse().iter().enumerate() {
                let angle = f64::from(position as f32 * frequency);
                assert_eq!((cos[pair], sin[pair]), (angle.cos() as f32, angle.sin() as f32), "{position} {pair}");
            }
        }
    }
}
