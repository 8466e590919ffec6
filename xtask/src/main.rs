//! Developers' tasks: `cargo xtask <task>`.

mod conformance;
mod tidy;

use clap::Parser;

/// Developers' tasks.
#[derive(Parser)]
enum Task {
    /// Check the rules of the house; remark on long files and functions.
    Tidy,
    /// The main job on a real model, end to end: fetches it, answers, serves, and compares bits.
    Conformance(conformance::Options),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Tidy => tidy::run(),
        Task::Conformance(options) => options.run(),
    }
}
