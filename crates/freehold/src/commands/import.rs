//! `freehold import`.

use super::pull;
use crate::home::Home;
use crate::output;
use anyhow::Result;
use freehold_base::units::format_bytes;
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  freehold import                  (what there is)\n  \
    freehold import ollama:llama3.2:1b\n  freehold import hf:Qwen/Qwen3-0.6B")]
pub(crate) struct Options {
    /// ollama:NAME[:TAG] or hf:ORG/REPO[@REV][/FILE]; without it, what could be taken over is listed.
    reference: Option<String>,
    /// The name to give it in the store.
    #[arg(long, requires = "reference")]
    name: Option<String>,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let hub = home.hub()?;
        let Some(reference) = &self.reference else {
            let found = hub.importable();
            if json {
                let rows =
                    found.iter().map(|model| json!({ "reference": model.reference, "size_bytes": model.size_bytes }));
                return output::print_json(&json!({ "importable": rows.collect::<Vec<_>>() }));
            }
            if found.is_empty() {
                return output::print_line("No models of Ollama or Hugging Face were found on this machine.");
            }
            let rows: Vec<_> =
                found.iter().map(|model| vec![model.reference.clone(), format_bytes(model.size_bytes)]).collect();
            return output::print_line(&output::table(&["REFERENCE", "SIZE"], &rows));
        };
        let mut progress = output::FetchProgress::new();
        let pulled = hub.import(reference, self.name.as_deref(), &mut |status| progress.show(status))?;
        progress.finish();
        pull::report(&pulled, json)
    }
}
