//! What users see.

use anyhow::Result;
use freehold_hub::{Stage, Status};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal as _, Write};
use std::ops::ControlFlow;

/// The command was called wrongly, in a way that clap does not know of.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl std::error::Error for UsageError {}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the error says that the reader of our output has gone: `freehold list | head` is no failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// One line on standard error: what was wrong, and its causes where they say more.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    let mut err = io::stderr().lock();
    let is_terminal = err.is_terminal();
    // Where even this cannot be written there is nobody to tell.
    let _ = write_text(&mut err, is_terminal, &format!("error: {message}\n"));
}

/// A text and a line end on standard output. Unlike `println!` it is no panic where the reader has gone.
pub(crate) fn print_line(text: &str) -> Result<()> {
    print_part(&format!("{text}\n"))
}

/// A piece of an answer on standard output, at once.
pub(crate) fn print_part(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    Ok(write_text(&mut out, is_terminal, text)?)
}

/// A terminal does not get the control characters that a model may write, or a registry or a file may hold in a title or
/// a licence: they could move its cursor or set its title.
fn write_text(out: &mut impl Write, is_terminal: bool, text: &str) -> io::Result<()> {
    if is_terminal {
        let harmless =
            |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c };
        out.write_all(text.chars().map(harmless).collect::<String>().as_bytes())?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}

/// One line of JSON on standard output.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    print_line(&value.to_string())
}

/// A progress bar over bytes: rate and time left on a terminal, nothing elsewhere.
pub(crate) fn byte_bar(total: u64, what: String) -> ProgressBar {
    bar(Some(total), what, "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}")
}

/// A progress bar over `total` things.
pub(crate) fn count_bar(total: u64, what: String) -> ProgressBar {
    bar(Some(total), what, "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")
}

/// A sign of life while nobody knows how long it takes.
fn spinner(what: String) -> ProgressBar {
    bar(None, what, "{spinner} {msg} {elapsed}")
}

fn bar(total: Option<u64>, what: String, template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(total, target).with_style(style).with_message(what);
    bar.tick();
    bar
}

/// The progress of a fetch: one bar for the file under way.
pub(crate) struct FetchProgress {
    bar: ProgressBar,
    /// What it shows, and whether that has an end.
    shown: (String, bool),
}

impl FetchProgress {
    pub(crate) fn new() -> Self {
        Self { bar: ProgressBar::hidden(), shown: (String::new(), false) }
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
        let shown = (what.clone(), status.bytes_total.is_some());
        if shown != self.shown {
            self.bar.finish_and_clear();
            self.bar = match status.bytes_total {
                Some(total) => byte_bar(total, what).with_position(status.bytes_done),
                None => spinner(what),
            };
            self.bar.reset_eta();
            self.shown = shown;
        }
        match status.bytes_total {
            Some(total) => {
                self.bar.set_length(total);
                self.bar.set_position(status.bytes_done);
            }
            None => self.bar.tick(),
        }
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

#[cfg(test)]
mod tests {
    use super::write_text;

    #[test]
    fn terminals_get_no_control_characters() {
        for (is_terminal, text, expected) in [
            (true, "MIT\u{1b}]0;mine\u{7}\n", "MIT\u{fffd}]0;mine\u{fffd}\n"),
            (true, "a\rb\u{8}\u{9b}2J\tä\n", "a\u{fffd}b\u{fffd}\u{fffd}2J\tä\n"),
            (false, "a\rb\u{1b}[2J\n", "a\rb\u{1b}[2J\n"),
        ] {
            let mut out = Vec::new();
            write_text(&mut out, is_terminal, text).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{text:?}");
        }
    }
}
