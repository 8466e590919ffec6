//! Developers' tasks: `cargo xtask <task>`.

mod tidy;

use clap::Parser;

/// Developers' tasks.
#[derive(Parser)]
enum Task {
    /// Check the rules of the house; remark on long files and functions.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Tidy => tidy::run(),
    }
}
