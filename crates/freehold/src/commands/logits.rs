//! `freehold logits`.

use crate::cli::ComputeOptions;
use crate::home::Home;
use crate::{models, output};
use anyhow::Result;
use freehold_base::Hasher;
use freehold_engine::{evaluate, numerics_id};
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "Example: freehold logits smollm2:135m --tokens 1,2,3 --all --json")]
pub(crate) struct Options {
    /// A model of the store, or where to fetch it from.
    model: String,
    /// Token ids.
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS", value_parser = token_id)]
    tokens: Vec<u32>,
    /// One row of logits per token, not only for the last.
    #[arg(long)]
    all: bool,
    /// Feed the tokens in chunks of this many. It changes no bit.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
    /// Print only the digest of the logits.
    #[arg(long)]
    digest_only: bool,
    #[command(flatten)]
    compute: ComputeOptions,
}

fn token_id(text: &str) -> Result<u32, &'static str> {
    text.trim()
        .parse()
        .map_err(|_| "ids are whole numbers, such as `freehold tokenize` prints, with commas between them")
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let opened = models::open(home, Some(&self.model))?;
        let compute = self.compute.start()?;
        let model = opened.weights(&compute)?;
        let mut hasher = Hasher::new();
        let mut rows = Vec::new();
        evaluate(&model, &compute, self.compute.kv, &self.tokens, self.chunk as usize, self.all, &mut |_, row| {
            row.iter().for_each(|logit| hasher.update(&logit.to_le_bytes()));
            if !self.digest_only {
                rows.push(row.to_vec());
            }
            true
        })?;
        let sha256 = hasher.finish().hex();
        if json {
            let mut document = json!({
                "model": opened.label(),
                "numerics": numerics_id(self.compute.kv),
                "sha256": sha256,
            });
            #[cfg(feature = "emulated-amx")]
            if let Some(products) = freehold_kernels::emulated_tile_products() {
                document["emulated_tile_products"] = json!({ "int8": products.int8, "bf16": products.bf16 });
            }
            if !self.digest_only {
                document["logits"] = if self.all { json!(rows) } else { json!(rows.first()) };
            }
            return output::print_json(&document);
        }
        if !self.digest_only {
            for row in &rows {
                output::print_line(&row.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))?;
            }
        }
        output::print_line(&format!("sha256 {sha256}"))
    }
}
