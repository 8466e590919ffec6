//! `freehold perplexity`.

use crate::cli::ComputeOptions;
use crate::home::Home;
use crate::{models, output};
use anyhow::{Context as _, Result};
use freehold_engine::{Windows, numerics_id, perplexity};
use freehold_kernels::MAX_POSITIONS;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = "Example: freehold perplexity smollm2:135m --file book.txt --context 512\n\n\
    Windows of --context tokens without overlap, the second half of each scored: llama.cpp's definition.")]
pub(crate) struct Options {
    /// A model of the store, or where to fetch it from.
    model: String,
    /// The text, UTF-8.
    #[arg(long)]
    file: PathBuf,
    /// Tokens of a window.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(3..=MAX_POSITIONS as i64))]
    context: u32,
    #[command(flatten)]
    compute: ComputeOptions,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let file = self.file.display();
        let text = read_text(&self.file)?;
        let opened = models::open(home, Some(&self.model))?;
        let text_model = opened.text()?;
        let (tokens, bos) = text_model.document(&text)?;
        let compute = self.compute.start()?;
        let model = opened.weights(&compute)?;
        let context = self.context as usize;
        opened.check_context(&model, context)?;
        let windows = Windows { tokens: &tokens, bos, context };
        let bar = output::count_bar(windows.count() as u64, "Windows".to_owned());
        let result = perplexity(&model, &compute, self.compute.kv, windows, &mut |done, _| {
            bar.set_position(done as u64);
            true
        })?;
        bar.finish_and_clear();
        let (perplexity, scored) = result.with_context(|| {
            format!(
                "{file} has {} tokens: give a text of at least {} or a smaller --context",
                tokens.len(),
                2 * context
            )
        })?;
        if json {
            return output::print_json(&json!({
                "perplexity": perplexity,
                "tokens": scored,
                "context": context,
                "model": opened.label(),
                "numerics": numerics_id(self.compute.kv),
            }));
        }
        output::print_line(&format!("{perplexity:.4} over {scored} tokens"))
    }
}

/// A text that a model is to read.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read as UTF-8 text", path.display()))
}
