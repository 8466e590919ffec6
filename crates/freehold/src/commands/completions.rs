//! `freehold completions`.

use crate::cli::Cli;
use crate::output;
use anyhow::Result;
use clap::CommandFactory as _;

#[derive(clap::Args)]
#[command(after_help = "Example: freehold completions bash > ~/.local/share/bash-completion/completions/freehold")]
pub(crate) struct Options {
    /// The shell.
    shell: clap_complete::Shell,
}

impl Options {
    pub(crate) fn run(self) -> Result<()> {
        // Written to memory first: the generator panics where its output cannot be written.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "freehold", &mut script);
        output::print_line(String::from_utf8(script)?.trim_end())
    }
}
