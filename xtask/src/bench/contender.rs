//! An engine in a process of its own, which answers questions: see [`super::protocol`].

use super::protocol::{Answer, Question};
use anyhow::{Context as _, Result, bail};
use freehold_kernels::Isa;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;

const WORKER_SCRIPT: &str = include_str!("../../scripts/bench_worker.py");
const LLAMA_CPP_SCRIPT: &str = include_str!("../../scripts/bench_llama_cpp.py");
const MISTRAL_RS_SCRIPT: &str = include_str!("../../scripts/bench_mistral_rs.py");

/// An engine to compare with.
#[derive(Clone)]
pub(crate) struct Peer {
    /// For the table. It begins with the engine's name: two builds of one engine can be told apart.
    pub(crate) name: String,
    engine: Engine,
    program: PathBuf,
}

#[derive(Clone, Copy)]
enum Engine {
    LlamaCpp,
    MistralRs,
    Candle,
}

impl FromStr for Peer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, program) = text.split_once('=').ok_or("give it as NAME=PROGRAM")?;
        let engines = [("llama.cpp", Engine::LlamaCpp), ("mistral.rs", Engine::MistralRs), ("candle", Engine::Candle)];
        let engine = engines.iter().find(|(engine, _)| name.starts_with(engine));
        let (_, engine) = engine.ok_or("the name begins with `llama.cpp`, `mistral.rs` or `candle`")?;
        Ok(Self { name: name.to_owned(), engine: *engine, program: program.into() })
    }
}

impl Peer {
    /// Its processes, one for each way of running that may be the fastest.
    pub(crate) fn start(&self, model: &Path, threads: usize, column: usize) -> Result<Vec<Contender>> {
        let python = |script: &str, arguments: &[&str]| {
            let mut command = Command::new(&self.program);
            command.args(["-c", &format!("{WORKER_SCRIPT}\n{script}")]).arg(model).args(arguments);
            command
        };
        let threads = &threads.to_string();
        let commands = match self.engine {
            // Without flash attention and with it.
            Engine::LlamaCpp => {
                ["0", "1"].map(|flash_attention| python(LLAMA_CPP_SCRIPT, &[threads, flash_attention])).into()
            }
            Engine::MistralRs => vec![python(MISTRAL_RS_SCRIPT, &[])],
            Engine::Candle => {
                let mut command = Command::new(&self.program);
                command.arg(model);
                vec![command]
            }
        };
        let start = |mut command: Command| {
            // Candle's number of threads, and that of mistral.rs, which stands on it.
            command.env("RAYON_NUM_THREADS", threads).stderr(Stdio::null());
            Contender::start(&self.name, &mut command, column)
        };
        commands.into_iter().map(start).collect()
    }
}

pub(crate) struct Contender {
    name: String,
    /// Of the table. A peer's contenders share one, which the best of them fills.
    pub(crate) column: usize,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Contender {
    /// This engine, by the hidden task of this very program.
    pub(crate) fn freehold(model: &Path, isa: Isa, threads: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "worker"]).arg(model).args(["--isa", &isa.to_string()]);
        Self::start("freehold", command.args(["--threads", &threads.to_string()]).stderr(Stdio::inherit()), 0)
    }

    fn start(name: &str, command: &mut Command, column: usize) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        let input = process.stdin.take().context("no standard input")?;
        let output = BufReader::new(process.stdout.take().context("no standard output")?);
        Ok(Self { name: name.to_owned(), column, process, input, output })
    }

    /// # Errors
    /// If it ends before it has loaded a model, or says what is no answer. That it cannot do something is an answer.
    pub(crate) fn ask(&mut self, question: &Question) -> Result<Answer> {
        let mut line = String::new();
        let asked = writeln!(self.input, "{question}").and_then(|()| self.input.flush());
        let answered = asked.and_then(|()| self.output.read_line(&mut line)).is_ok() && !line.is_empty();
        match question {
            _ if answered => line.trim_end().parse().map_err(anyhow::Error::msg).context(self.name.clone()),
            Question::Load { .. } => bail!("{} ended before it loaded a model: is it installed?", self.name),
            _ => Ok(Answer(Err("its process ended".to_owned()))),
        }
    }

    /// Linux's high-water mark of the process's resident memory, files that it mapped included.
    pub(crate) fn peak_bytes(&self) -> Answer {
        let peak = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix("kB")?.trim_end().parse::<f64>().ok()
        };
        Answer(
            peak().map(|kibibytes| kibibytes * 1024.0).ok_or_else(|| "the system tells no peak of memory".to_owned()),
        )
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
