//! What quantising cost and what it gained: the two models side by side.

use super::bits_per_weight;
use crate::output;
use anyhow::{Context as _, Result};
use freehold_base::units::format_bytes;
use freehold_engine::speed::{Rates, rates};
use freehold_engine::{Comparison, Windows, compare, numerics_id};
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, KvType};
use freehold_model::Model;
use serde_json::{Value, json};

/// The text that models are compared on where the user gives none: some of much that models are for, in no book or page
/// that one may have been trained on.
pub(super) const SAMPLE: &str = include_str!("sample.txt");

/// Both models, measured.
pub(super) struct Report {
    comparison: Comparison,
    sizes: [Size; 2],
    rates: [Rates; 2],
}

struct Size {
    bytes: u64,
    bits_per_weight: f64,
}

impl Size {
    fn of(checkpoint: &Checkpoint) -> Self {
        let tensors = || checkpoint.tensors().map(|tensor| (tensor.dtype, tensor.bytes.len() as u64));
        Self { bytes: tensors().map(|(_, bytes)| bytes).sum(), bits_per_weight: bits_per_weight(tensors()) }
    }
}

impl Report {
    /// Of the source and what was made of it, on a text called `text`.
    pub(super) fn new(
        checkpoints: [&Checkpoint; 2],
        models: [&Model; 2],
        compute: &Compute,
        windows: Windows<'_>,
        text: &str,
    ) -> Result<Self> {
        let bar = output::count_bar(windows.count() as u64, "Comparing".to_owned());
        let mut progress = |done, _| bar.set_position(done as u64);
        let comparison = compare(models, compute, KvType::default(), windows, &mut progress)?;
        bar.finish_and_clear();
        let comparison = comparison.with_context(|| super::too_short(text, windows))?;
        let [source, result] = models.map(|model| rates(model, compute, KvType::default()));
        Ok(Self { comparison, sizes: checkpoints.map(Size::of), rates: [source?, result?] })
    }

    pub(super) fn as_json(&self) -> Value {
        let Comparison { tokens, divergence_mean, divergence_99, divergence_max, same_top, .. } = self.comparison;
        let model = |index: usize| {
            json!({
                "tensor_bytes": self.sizes[index].bytes,
                "bits_per_weight": self.sizes[index].bits_per_weight,
                "perplexity": self.comparison.perplexity[index],
                "prefill_tokens_per_second": self.rates[index].prefill,
                "decode_tokens_per_second": self.rates[index].decode,
            })
        };
        json!({
            "numerics": numerics_id(KvType::default()),
            "tokens": tokens,
            "source": model(0),
            "result": model(1),
            "kl_divergence": { "mean": divergence_mean, "percentile_99": divergence_99, "max": divergence_max },
            "same_top_token": same_top,
        })
    }

    pub(super) fn lines(&self) -> String {
        let row = |name: &str, figure: &dyn Fn(usize) -> String| vec![name.to_owned(), figure(0), figure(1)];
        let rows = [
            row("Tensors", &|index| format_bytes(self.sizes[index].bytes)),
            row("Bits per weight", &|index| format!("{:.2}", self.sizes[index].bits_per_weight)),
            row("Perplexity", &|index| format!("{:.3}", self.comparison.perplexity[index])),
            row("Prompt, tokens/s", &|index| format!("{:.1}", self.rates[index].prefill)),
            row("Answer, tokens/s", &|index| format!("{:.1}", self.rates[index].decode)),
        ];
        let Comparison { tokens, divergence_mean, divergence_99, divergence_max, same_top, .. } = self.comparison;
        let below = [
            ("KL divergence", format!("{divergence_mean:.4} nats in the mean of {tokens} tokens")),
            ("", format!("{divergence_99:.4} at most for 99 of 100, {divergence_max:.4} for the worst")),
            ("Same top token", format!("{:.1} %", 100.0 * same_top)),
        ];
        let below = below.map(|(name, value)| format!("{name:<18}{value}"));
        format!("{}\n\n{}", output::table(&["", "SOURCE", "RESULT"], &rows), below.join("\n"))
    }
}
