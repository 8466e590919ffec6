//! `cargo xtask parity-hub`: the same repositories through the Python package `huggingface_hub` and through the built
//! program, from one server on this machine; files, bytes and refusals must agree.

use crate::conformance::build;
use anyhow::{Context as _, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

const SCRIPT: &str = include_str!("../scripts/parity_hub.py");

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The program to check [default: built in release first].
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A Python that has the package `huggingface_hub`.
    #[arg(long)]
    python: PathBuf,
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        let scratch = TempDir::with_prefix("freehold-parity-").context("no temporary directory can be made")?;
        let binary = self.binary.clone().map_or_else(|| build(&[]), Ok)?;
        let status = Command::new(&self.python)
            .args(["-c", SCRIPT])
            .arg(binary.canonicalize().with_context(|| format!("{} is not there", binary.display()))?)
            .arg(scratch.path())
            .status()
            .with_context(|| format!("{} cannot be started", self.python.display()))?;
        ensure!(status.success(), "the two do not agree");
        Ok(())
    }
}
