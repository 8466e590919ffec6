//! `freehold scrub`.

use crate::home::Home;
use crate::output;
use anyhow::{Result, bail};
use freehold_base::units::format_bytes;
use freehold_hub::Hub;
use freehold_store::{Fault, FaultKind, Scrubbed};
use serde_json::json;
use std::ops::ControlFlow;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  freehold scrub\n  freehold scrub smollm2:135m --no-repair\n\n\
    What is damaged is set aside and fetched again from where it came.")]
pub(crate) struct Options {
    /// A model of the store; without it, everything is checked.
    model: Option<String>,
    /// Only report; change and fetch nothing.
    #[arg(long)]
    no_repair: bool,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let hub = home.hub()?;
        let bar = output::byte_bar(0, format!("Checking {}", self.model.as_deref().unwrap_or("the store")));
        let scrubbed = hub.store().scrub(self.model.as_deref(), &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            ControlFlow::Continue(())
        })?;
        bar.finish_and_clear();
        let repairs = if self.no_repair {
            Vec::new()
        } else {
            let mut progress = output::FetchProgress::new();
            let repairs = hub.repair(&scrubbed.faults, &mut |status| progress.show(status))?;
            progress.finish();
            repairs
        };
        let errors: Vec<(String, String)> =
            repairs.into_iter().filter_map(|repair| Some((repair.model, repair.result.err()?.to_string()))).collect();
        let is_mended = |fault: &Fault| !self.no_repair && is_mended(&hub, fault);
        if json {
            print_json(&scrubbed, &errors, &is_mended)?;
        } else {
            print(&scrubbed, &errors, &is_mended)?;
        }
        let left = scrubbed.faults.iter().filter(|fault| !is_mended(fault)).count();
        if left == 0 {
            return Ok(());
        }
        let left = if left == 1 { "1 file is".to_owned() } else { format!("{left} files are") };
        if self.no_repair {
            bail!("{left} damaged or missing: `freehold scrub` without --no-repair fetches again what models need");
        }
        let is_kept = |fault: &Fault| fault.kind == FaultKind::Damaged && !is_mended(fault);
        let kept = if scrubbed.faults.iter().any(is_kept) {
            let directory = hub.store().ingest_directory();
            format!("; damaged bytes are kept in {} until `freehold rm --unused`", directory.display())
        } else {
            String::new()
        };
        bail!(
            "{left} still damaged or missing: scrub again when what kept them from being fetched is mended, or remove \
            the models with `freehold rm`{kept}"
        );
    }
}

/// Whether the blob is whole again, or was set aside and nobody misses it. What cannot be read is left alone.
fn is_mended(hub: &Hub, fault: &Fault) -> bool {
    let is_readable = !matches!(fault.kind, FaultKind::Unreadable(_));
    is_readable && (fault.needed_by.is_empty() || hub.store().has(&fault.digest))
}

fn print(scrubbed: &Scrubbed, errors: &[(String, String)], is_mended: &dyn Fn(&Fault) -> bool) -> Result<()> {
    for fault in &scrubbed.faults {
        let what = match &fault.kind {
            FaultKind::Missing => "is missing".to_owned(),
            FaultKind::Damaged => "is damaged".to_owned(),
            FaultKind::Unreadable(reason) => format!("cannot be read ({reason})"),
        };
        let needed = match fault.needed_by.as_slice() {
            [] => "no model needs it".to_owned(),
            models => format!("needed by {}", models.join(", ")),
        };
        let mended = match (is_mended(fault), fault.needed_by.is_empty()) {
            (false, _) => "",
            (true, true) => "; set aside",
            (true, false) => "; restored",
        };
        output::print_line(&format!("{} {what}; {needed}{mended}", fault.digest))?;
    }
    for (model, error) in errors {
        output::print_line(&format!("{model} could not be repaired: {error}"))?;
    }
    let (blobs, size) = (scrubbed.blobs, format_bytes(scrubbed.bytes));
    output::print_line(&match scrubbed.faults.len() {
        0 if blobs == 0 => "The store is empty.".to_owned(),
        0 => format!("All {blobs} files ({size}) are whole."),
        faults => format!("{blobs} files ({size}) were checked, {faults} of them damaged or missing."),
    })
}

fn print_json(scrubbed: &Scrubbed, errors: &[(String, String)], is_mended: &dyn Fn(&Fault) -> bool) -> Result<()> {
    let fault = |fault: &Fault| {
        let (kind, reason) = match &fault.kind {
            FaultKind::Missing => ("missing", None),
            FaultKind::Damaged => ("damaged", None),
            FaultKind::Unreadable(reason) => ("unreadable", Some(reason)),
        };
        json!({
            "digest": fault.digest.to_string(),
            "fault": kind,
            "reason": reason,
            "needed_by": fault.needed_by,
            "mended": is_mended(fault),
        })
    };
    let error = |(model, error): &(String, String)| json!({ "model": model, "error": error });
    output::print_json(&json!({
        "files": scrubbed.blobs,
        "size_bytes": scrubbed.bytes,
        "faults": scrubbed.faults.iter().map(fault).collect::<Vec<_>>(),
        "errors": errors.iter().map(error).collect::<Vec<_>>(),
    }))
}
