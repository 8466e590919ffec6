//! `freehold completions`.

use crate::cli::Cli;
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
        clap_complete::generate(self.shell, &mut Cli::command(), "freehold", &mut std::io::stdout());
        Ok(())
    }
}
