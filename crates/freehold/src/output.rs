//! What users see.

use anyhow::Result;
use freehold_hub::{Stage, Status};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;

/// Whether the error says that the reader of our output has gone: `freehold list | head` is no failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// One line on standard error: what was wrong, and its causes where they say more.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    // Where even this cannot be written there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {message}");
}

/// One line of JSON on standard output.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// A progress bar over bytes: rate and time left on a terminal, nothing elsewhere.
pub(crate) fn byte_bar(total: u64, what: String) -> ProgressBar {
    bar(total, what, "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}")
}

/// A progress bar over `total` things.
pub(crate) fn count_bar(total: u64, what: String) -> ProgressBar {
    bar(total, what, "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")
}

fn bar(total: u64, what: String, template: &str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(what);
    bar.tick();
    bar
}

/// The progress of a fetch: one bar for the file under way.
pub(crate) struct FetchProgress {
    bar: ProgressBar,
    what: String,
}

impl FetchProgress {
    pub(crate) fn new() -> Self {
        Self { bar: ProgressBar::hidden(), what: String::new() }
    }

    pub(crate) fn show(&mut self, status: &Status<'_>) -> ControlFlow<()> {
        let verb = match status.stage {
            Stage::Resolving => "Looking for",
            Stage::Waiting => "Waiting for",
            Stage::Checking => "Checking",
            Stage::Downloading => "Fetching",
            Stage::Uploading => "Sending",
        };
        let what = format!("{verb} {}", status.what);
        if what != self.what {
            self.bar.finish_and_clear();
            self.bar = byte_bar(status.bytes_total.unwrap_or(0), what.clone());
            self.bar.set_position(status.bytes_done);
            self.bar.reset_eta();
            self.what = what;
        }
        if let Some(total) = status.bytes_total {
            self.bar.set_length(total);
        }
        self.bar.set_position(status.bytes_done);
        ControlFlow::Continue(())
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A table with columns as wide as their longest cell; a column of numbers goes to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, &width) in cells.zip(&widths) {
            let is_number = cell.starts_with(|first: char| first.is_ascii_digit());
            let padding = " ".repeat(width - cell.chars().count());
            line += &if is_number { format!("{padding}{cell}  ") } else { format!("{cell}{padding}  ") };
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}
