//! `freehold rm`.

use crate::home::Home;
use crate::output;
use anyhow::Result;
use freehold_base::units::format_bytes;
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "Example: freehold rm qwen2.5-coder:0.5b")]
pub(crate) struct Options {
    /// A model of the store.
    #[arg(required = true)]
    models: Vec<String>,
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
                    "{model} is removed; its space is freed when the pull under way has ended."
                ))?;
            } else {
                output::print_line(&format!("{model} is removed, {} freed.", format_bytes(freed.bytes)))?;
            }
        }
        Ok(())
    }
}
