//! `cargo xtask parity-hub`: the same repositories through the Python package `huggingface_hub` and through the built
//! program, from one server on this machine; files, bytes and refusals must agree. And `cargo xtask parity-convert`: folders
//! that the built program converts, loaded by llama.cpp; logits and tokens must agree. And `cargo xtask parity-quantize`:
//! files that both quantise, with an importance matrix and without; types must agree, and the built program's perplexity be no
//! worse.

use crate::conformance::build;
use crate::tidy;
use anyhow::{Context as _, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const HUB_SCRIPT: &str = include_str!("../scripts/parity_hub.py");
const CONVERT_SCRIPT: &str = include_str!("../scripts/parity_convert.py");
const QUANTIZE_SCRIPT: &str = include_str!("../scripts/parity_quantize.py");

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The program to check [default: built in release first].
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A Python that has the packages: `huggingface_hub`; or llama-cpp-python, numpy and gguf.
    #[arg(long)]
    python: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct ConvertOptions {
    #[command(flatten)]
    options: Options,
    /// Files `tokenizer.json` to be tried too, each with the `tokenizer_config.json` beside it.
    tokenizers: Vec<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct QuantizeOptions {
    #[command(flatten)]
    options: Options,
    /// A GGUF file in F16.
    model: PathBuf,
    /// The text that perplexity is of.
    text: PathBuf,
    /// The text that the importance matrix is collected on.
    calibration: PathBuf,
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        let scratch = scratch()?;
        self.run_script(HUB_SCRIPT, vec![scratch.path().into()])
    }

    /// Runs a script with the program and these arguments.
    fn run_script(&self, script: &str, arguments: Vec<OsString>) -> Result<()> {
        let binary = self.binary.clone().map_or_else(|| build(&[]), Ok)?;
        let status = Command::new(&self.python)
            .args(["-c", script])
            .arg(binary.canonicalize().with_context(|| format!("{} is not there", binary.display()))?)
            .args(arguments)
            .status()
            .with_context(|| format!("{} cannot be started", self.python.display()))?;
        ensure!(status.success(), "the two do not agree");
        Ok(())
    }
}

impl ConvertOptions {
    pub(crate) fn run(&self) -> Result<()> {
        let scratch = scratch()?;
        let own: [OsString; 2] = [tidy::root().join("tests/data").into(), scratch.path().into()];
        let tokenizers = self.tokenizers.iter().map(|path| path.clone().into_os_string());
        self.options.run_script(CONVERT_SCRIPT, own.into_iter().chain(tokenizers).collect())
    }
}

impl QuantizeOptions {
    pub(crate) fn run(&self) -> Result<()> {
        let scratch = scratch()?;
        let paths = [scratch.path(), &self.model, &self.text, &self.calibration];
        let arguments = paths.map(|path: &Path| path.as_os_str().to_owned());
        self.options.run_script(QUANTIZE_SCRIPT, arguments.into())
    }
}

fn scratch() -> Result<TempDir> {
    TempDir::with_prefix("freehold-parity-").context("no temporary directory can be made")
}
