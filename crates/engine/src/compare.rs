//! How far one model's predictions are from another's: what quantising costs.

use crate::evaluate::{CONTEXT_MIN, EvaluateError, Pass, Windows, check, surprise};
use crate::sampler::argmax;
use freehold_kernels::{Compute, KvType, math64};
use freehold_model::{LogitRows, Model, Workspace};

/// How a model predicts a text, and another one of the same vocabulary that should predict like it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Tokens that were scored.
    pub tokens: usize,
    /// The perplexity of each.
    pub perplexity: [f64; 2],
    /// The mean of what the second one's probabilities diverge from the first one's (Kullback and Leibler), in nats.
    pub divergence_mean: f64,
    /// What it is at most for 99 of 100 tokens.
    pub divergence_99: f64,
    /// The greatest.
    pub divergence_max: f64,
    /// The share of tokens for which both hold the same one the most probable.
    pub same_top: f64,
}

/// Of one token.
#[derive(Clone, Copy, Default)]
struct Figures {
    surprise: [f64; 2],
    divergence: f64,
    same_top: bool,
}

/// Runs both models over a text, side by side, and compares what they say of each token of the second half of each window.
/// `None` if the text has not one window's worth of tokens. What is kept of a token is a few numbers; logits are not.
///
/// `progress` gets windows done and their number.
///
/// # Errors
/// As [`crate::evaluate`], for windows of `context` tokens; also if a perplexity is infinite.
///
/// # Panics
/// If the vocabularies have different sizes.
pub fn compare(
    models: [&Model; 2],
    compute: &Compute,
    kv_type: KvType,
    windows: Windows<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<Comparison>, EvaluateError> {
    let vocabulary = models[0].config().vocabulary;
    assert_eq!(models[1].config().vocabulary, vocabulary, "vocabularies");
    models.iter().try_for_each(|model| check(model, windows.tokens, windows.context))?;
    if windows.context < CONTEXT_MIN || windows.count() == 0 {
        return Ok(None);
    }
    let pass = |model| Pass::new(model, compute, kv_type, windows.context, Workspace::default());
    let [mut first, mut second] = [pass(models[0])?, pass(models[1])?];
    let mut all: Vec<Figures> = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        first.begin(window.unscored())?;
        second.begin(window.unscored())?;
        for (tokens, targets) in window.scored() {
            let logits = [first.feed(tokens, LogitRows::All)?, second.feed(tokens, LogitRows::All)?];
            let scored = all.len();
            all.resize(scored + targets.len(), Figures::default());
            compute.pool().run_rows(&mut all[scored..], 1, 1, |row, out| {
                let rows = logits.map(|logits| &logits[row * vocabulary..][..vocabulary]);
                out[0] = Figures {
                    surprise: rows.map(|logits| surprise(compute.vector(), logits, targets[row])),
                    divergence: divergence(rows[0], rows[1]),
                    same_top: argmax(rows[0]) == argmax(rows[1]),
                };
            });
        }
        progress(index + 1, windows.count());
    }
    summary(&all).map(Some)
}

/// Σ p·(ln p − ln q) with p and q the softmax of a and b: one chain each, ids ascending, in f64.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let largest = |row: &[f32]| f64::from(row.iter().fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit)));
    let (a_max, b_max) = (largest(a), largest(b));
    // Of e^(a − a_max), of e^(b − b_max), and of the first times the difference of the exponents.
    let (mut a_sum, mut b_sum, mut weighted) = (0.0f64, 0.0f64, 0.0f64);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a) - a_max, f64::from(b) - b_max);
        let weight = math64::exp(a);
        a_sum += weight;
        b_sum += math64::exp(b);
        weighted += weight * (a - b);
    }
    // It is never negative, but for the last digits of sums that cancel.
    (weighted / a_sum - math64::ln(a_sum) + math64::ln(b_sum)).max(0.0)
}

fn summary(all: &[Figures]) -> Result<Comparison, EvaluateError> {
    let count = all.len() as f64;
    let mean = |of: &dyn Fn(&Figures) -> f64| all.iter().map(of).sum::<f64>() / count;
    let perplexity = [0, 1].map(|model| math64::exp(mean(&|figures| figures.surprise[model])));
    let mut divergences: Vec<f64> = all.iter().map(|figures| figures.divergence).collect();
    divergences.sort_by(f64::total_cmp);
    let found = Comparison {
        tokens: all.len(),
        perplexity,
        divergence_mean: mean(&|figures| figures.divergence),
        divergence_99: divergences[(99 * all.len()).div_ceil(100) - 1],
        divergence_max: divergences[all.len() - 1],
        same_top: mean(&|figures| f64::from(u8::from(figures.same_top))),
    };
    if perplexity.iter().all(|perplexity| perplexity.is_finite()) { Ok(found) } else { Err(EvaluateError::Overflowed) }
}
