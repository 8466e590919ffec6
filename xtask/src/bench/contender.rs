//! An engine in a process of its own, which answers questions: a line each on its standard input and output.

use anyhow::{Context as _, Result};
use freehold_engine::speed::any_tokens;
use freehold_kernels::Isa;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What runs llama.cpp.
const LLAMA_CPP_SCRIPT: &str = include_str!("../../scripts/bench_llama_cpp.py");

/// Below the vocabulary of every model that is compared.
const VOCABULARY: usize = 30_000;

/// What can be asked. Answers are seconds, if nothing else is said.
#[derive(Clone, Copy)]
pub(crate) enum Question {
    /// Loading the model, up to the logits of a prompt's last token. The first question.
    Load { tokens: usize },
    /// A prompt.
    Prefill { tokens: usize },
    /// Tokens one by one, after `depth` others.
    Decode { depth: usize, tokens: usize },
    /// Tokens of several sequences, one of each in a step.
    Streams { streams: usize, tokens: usize },
    /// Bytes of memory that the process had at most, files that it mapped among them.
    PeakBytes,
    /// Bytes a second that a buffer of the weights' size is read with. Of this engine alone.
    ReadRate,
    /// Bytes of weights that a token needs. Of this engine alone.
    WeightBytes,
}

/// The question as both sides read it: its name, a number, and token ids.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, number, tokens) = match *self {
            Self::Load { tokens } => ("load", 0, tokens),
            Self::Prefill { tokens } => ("prefill", 0, tokens),
            Self::Decode { depth, tokens } => ("decode", depth, depth + tokens),
            // The first token of each is its prompt.
            Self::Streams { streams, tokens } => ("streams", streams, streams * (tokens + 1)),
            Self::PeakBytes => ("peak", 0, 0),
            Self::ReadRate => ("read-rate", 0, 0),
            Self::WeightBytes => ("weight-bytes", 0, 0),
        };
        let ids: Vec<String> = any_tokens(VOCABULARY, tokens).iter().map(u32::to_string).collect();
        write!(f, "{name} {number} {}", ids.join(","))
    }
}

pub(crate) struct Contender {
    name: String,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Contender {
    /// This engine, by the hidden task of this very program.
    pub(crate) fn freehold(model: &Path, isa: Isa, threads: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "worker"]).arg(model).args(["--isa", &isa.to_string()]);
        Self::start("freehold", command.args(["--threads", &threads.to_string()]).stderr(Stdio::inherit()))
    }

    pub(crate) fn llama_cpp(python: &Path, model: &Path, threads: usize, flash_attention: bool) -> Result<Self> {
        let mut command = Command::new(python);
        command.args(["-c", LLAMA_CPP_SCRIPT]).arg(model);
        command.args([threads.to_string(), u8::from(flash_attention).to_string()]);
        Self::start("llama-cpp-python", command.stderr(Stdio::null()))
    }

    fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        let input = process.stdin.take().context("no standard input")?;
        let output = BufReader::new(process.stdout.take().context("no standard output")?);
        Ok(Self { name: name.to_owned(), process, input, output })
    }

    pub(crate) fn ask(&mut self, question: &Question) -> Result<f64> {
        let name = &self.name;
        writeln!(self.input, "{question}")
            .and_then(|()| self.input.flush())
            .with_context(|| format!("{name} ended"))?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("{name} gave no answer: is it installed?"))
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
