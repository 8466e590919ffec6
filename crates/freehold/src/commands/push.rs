//! `freehold push`.

use crate::home::Home;
use crate::output;
use anyhow::Result;
use freehold_base::units::format_bytes;
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "Example: freehold push smollm2:135m oci://registry.example/team/smollm2:135m")]
pub(crate) struct Options {
    /// A model of the store.
    model: String,
    /// Where to: oci://HOST/NAME[:TAG]. With oci+http:// it goes without TLS, as it does to this machine itself.
    target: String,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let hub = home.hub()?;
        let mut progress = output::FetchProgress::new();
        let pushed = hub.push(&self.model, &self.target, &mut |status| progress.show(status))?;
        progress.finish();
        if json {
            return output::print_json(&json!({
                "reference": pushed.reference,
                "digest": pushed.digest.to_string(),
                "bytes_sent": pushed.bytes_sent,
            }));
        }
        output::print_line(&format!("{} ({} sent)", pushed.reference, format_bytes(pushed.bytes_sent)))
    }
}
