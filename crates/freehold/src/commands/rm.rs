//! `freehold rm`.

use crate::home::Home;
use crate::output;
use anyhow::Result;
use freehold_base::units::format_bytes;
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  freehold rm qwen2.5-coder:0.5b\n  \
    freehold rm --unused             (what no model needs, and what broken-off pulls left)")]
pub(crate) struct Options {
    /// A model of the store.
    #[arg(required_unless_present = "unused")]
    models: Vec<String>,
    /// Delete every file of the store that no model needs.
    #[arg(long)]
    unused: bool,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let store = home.store()?;
        for model in &self.models {
            let freed = store.remove(model)?;
            if json {
                output::print_json(
                    &json!({ "removed": model, "freed_bytes": freed.bytes, "deferred": freed.deferred }),
                )?;
            } else if freed.deferred {
                output::print_line(&format!(
                    "{model} is removed; `freehold rm --unused` frees its space when no pull is under way."
                ))?;
            } else {
                output::print_line(&format!("{model} is removed, {} freed.", format_bytes(freed.bytes)))?;
            }
        }
        if self.unused {
            let freed = store.clean()?;
            if json {
                output::print_json(&json!({
                    "unused_files": freed.files,
                    "freed_bytes": freed.bytes,
                    "deferred": freed.deferred,
                }))?;
            } else if freed.deferred {
                output::print_line("A pull is under way, so nothing is deleted; try again when it has ended.")?;
            } else {
                let files = if freed.files == 1 { "file" } else { "files" };
                output::print_line(&format!(
                    "{} unused {files} deleted, {} freed.",
                    freed.files,
                    format_bytes(freed.bytes)
                ))?;
            }
        }
        Ok(())
    }
}
