//! `cargo xtask conformance`: the main job on a real model, through the built program: fetch it, ask it, serve it to the
//! Python `openai` client, stop; and the numeric contract over instruction sets, threads and chunks. Where the machine has
//! AVX-512 without AMX, a second build of the program emulates AMX (docs/amx.md).

mod schedules;

use anyhow::{Context as _, Result, ensure};
use freehold_kernels::Isa;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// The default of `freehold up`, and small enough for any machine.
const MODEL: &str = "smollm2:135m";
const QUESTION: &str = "What is the capital of France?";

/// What a user's program does, in Python.
const CLIENT_SCRIPT: &str = include_str!("../../scripts/openai_client.py");

/// The text whose logits are compared: English, and it does not change.
const TEXT_FILE: &str = "LICENSE";

const THREADS: [usize; 3] = [1, 2, 4];
const CHUNKS: [usize; 4] = [1, 7, 64, 512];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The program to check [default: built in release first].
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A home that may hold the model already [default: an empty one, so that the model is fetched].
    #[arg(long)]
    home: Option<PathBuf>,
    /// A Python that has the package `openai` [default: a new virtual environment from python3].
    #[arg(long)]
    python: Option<PathBuf>,
    /// The model whose numbers are compared.
    #[arg(long, default_value = MODEL)]
    model: String,
    /// Tokens whose logits are compared on every path that is fast.
    #[arg(long, default_value_t = 520)]
    tokens: usize,
    /// Tokens on which the scalar reference, and AMX where it is emulated, run every path; one of them runs on all tokens.
    #[arg(long, default_value_t = 72)]
    reference_tokens: usize,
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        let scratch = TempDir::with_prefix("freehold-conformance-").context("no temporary directory can be made")?;
        let binary = self.binary.clone().map_or_else(|| build(&[]), Ok)?;
        let home = self.home.clone().unwrap_or_else(|| scratch.path().join("home"));
        let emulating = if Isa::Avx512.is_available() && !Isa::Amx.is_available() && cfg!(target_os = "linux") {
            let binary = scratch.path().join("freehold-with-emulated-amx");
            timed("build with emulated AMX", || build_emulating(&binary))?;
            Some(Freehold { binary, home: home.clone() })
        } else {
            None
        };
        let freehold = Freehold { binary, home };

        timed("fetch", || freehold.json(&["pull", MODEL]).map(drop))?;
        timed("answer", || check_answer(&freehold))?;
        timed("serve", || {
            let python = self.python.clone().map_or_else(|| install_client(scratch.path()), Ok)?;
            check_server(&freehold, &python)
        })?;
        if self.model != MODEL {
            timed("fetch", || freehold.json(&["pull", &self.model]).map(drop))?;
        }
        timed("numeric contract", || self.check_numbers(&freehold, emulating.as_ref()))?;
        timed("schedules", || {
            let text = std::fs::read_to_string(crate::tidy::root().join(TEXT_FILE))?;
            schedules::check(&freehold.weights(&self.model)?, &text)
        })
    }

    /// One digest of all logits, whatever the path. `emulating` is the program for AMX where the machine has none.
    fn check_numbers(&self, freehold: &Freehold, emulating: Option<&Freehold>) -> Result<()> {
        let root = crate::tidy::root();
        let text = root.join(TEXT_FILE);
        let text = text.to_str().context("the work tree's path is not UTF-8")?;
        let ids = freehold.json(&["tokenize", &self.model, "--file", text, "--no-special"])?;
        let ids = ids["ids"].as_array().context("`tokenize` printed no ids")?;
        ensure!(ids.len() >= self.tokens, "{TEXT_FILE} has only {} tokens", ids.len());
        let ids: Vec<String> = ids.iter().take(self.tokens).map(Value::to_string).collect();

        let short = self.reference_tokens.min(self.tokens);
        let mut all = Vec::new();
        let mut of_first = Vec::new();
        for isa in Isa::ALL {
            let (program, is_slow) = match emulating {
                _ if isa.is_available() => (freehold, isa == Isa::Reference),
                Some(emulating) if isa == Isa::Amx => (emulating, true),
                _ => {
                    println!("  no {isa} on this machine");
                    continue;
                }
            };
            let path = |threads, chunk| LogitsPath { program, isa, threads, chunk };
            let paths = THREADS.iter().flat_map(|&threads| CHUNKS.map(|chunk| path(threads, chunk)));
            if is_slow {
                // Takes a minute for what the others do at once: on all tokens, one of its paths.
                all.push(path(2, 512));
            } else {
                all.extend(paths.clone());
            }
            of_first.extend(paths);
        }
        self.compare(&ids, &all)?;
        self.compare(&ids[..short], &of_first)
    }

    /// Fails unless the logits of all positions have one digest over the paths; prints it.
    fn compare(&self, ids: &[String], paths: &[LogitsPath<'_>]) -> Result<()> {
        let tokens = ids.join(",");
        let mut common: Option<String> = None;
        for LogitsPath { program, isa, threads, chunk } in paths {
            let began = Instant::now();
            let options = ["logits", &self.model, "--tokens", &tokens, "--all", "--digest-only"];
            let path = ["--isa", &isa.to_string(), "--threads", &threads.to_string(), "--chunk", &chunk.to_string()];
            let printed = program.json(&[&options[..], &path].concat())?;
            let digest = printed["sha256"].as_str().context("`logits` printed no sha256")?;
            let path = path.join(" ");
            let mut remarks = format!("{:.1} s", began.elapsed().as_secs_f64());
            let products = &printed["emulated_tile_products"];
            if let (Some(int8), Some(bf16)) = (products["int8"].as_u64(), products["bf16"].as_u64()) {
                write!(remarks, ", emulated: {int8} tdpbssd, {bf16} tdpbf16ps")?;
                ensure!(ids.len().min(*chunk) < 16 || int8 + bf16 > 0, "{path}: rows that fill tiles ran on none");
            }
            println!("  {} tokens {path}: {digest} ({remarks})", ids.len());
            let common = common.get_or_insert_with(|| digest.to_owned());
            ensure!(common == digest, "{path} gives other bits than the paths before it");
        }
        let common = common.context("no path was compared")?;
        println!("  one digest over {} paths, {} tokens: {common}", paths.len(), ids.len());
        Ok(())
    }
}

/// A way to the same logits.
#[derive(Clone, Copy)]
struct LogitsPath<'a> {
    program: &'a Freehold,
    isa: Isa,
    threads: usize,
    chunk: usize,
}

/// The built program and where it keeps things.
struct Freehold {
    binary: PathBuf,
    home: PathBuf,
}

impl Freehold {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--json").env("FREEHOLD_HOME", &self.home).stdin(Stdio::null());
        command
    }

    /// Where the store has a model's one file of weights.
    fn weights(&self, model: &str) -> Result<PathBuf> {
        let shown = self.json(&["show", model])?;
        let file = shown["files"].as_array().and_then(|files| files.first()).context("`show` named no file")?;
        let digest = file["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        Ok(self.home.join("store/blobs/sha256").join(digest.context("`show` named no digest")?))
    }

    /// The last line that a command prints, as JSON.
    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let what = || format!("freehold {}", arguments[0]);
        let output = self.command(arguments).stderr(Stdio::inherit()).output().with_context(what)?;
        ensure!(output.status.success(), "{}: {}", what(), output.status);
        let printed = String::from_utf8(output.stdout).with_context(what)?;
        let line = printed.lines().last().with_context(|| format!("{} printed nothing", what()))?;
        serde_json::from_str(line).with_context(|| format!("{} printed no JSON: {line}", what()))
    }
}

fn check_answer(freehold: &Freehold) -> Result<()> {
    let answer = freehold.json(&["run", MODEL, "--temperature", "0", QUESTION])?;
    let text = answer["text"].as_str().context("`run` printed no text")?;
    println!("  {}\n  numerics {}", text.chars().take(400).collect::<String>(), answer["numerics"]);
    ensure!(text.contains("Paris"), "the answer does not name Paris");
    let ids = answer["token_ids"].as_array().context("`run` printed no token_ids")?;
    let again = freehold.json(&["run", MODEL, "--temperature", "0", QUESTION, "--threads", "1"])?;
    ensure!(again["token_ids"].as_array() == Some(ids), "the same question has another answer on one thread");
    Ok(())
}

fn check_server(freehold: &Freehold, python: &Path) -> Result<()> {
    let mut server = Server::start(freehold)?;
    let mut client = Command::new(python);
    client.args(["-c", CLIENT_SCRIPT]).env("FREEHOLD_URL", &server.url).env("FREEHOLD_KEY", &server.key);
    let output = client.stderr(Stdio::inherit()).output().context("the Python client cannot be started")?;
    ensure!(output.status.success(), "the Python client: {}", output.status);
    println!("  openai client: {}", String::from_utf8_lossy(&output.stdout).trim());
    server.stop()
}

/// `freehold up`, ended with this value.
struct Server {
    process: Child,
    url: String,
    key: String,
}

impl Server {
    /// On a free port; returns when it is ready.
    fn start(freehold: &Freehold) -> Result<Self> {
        let mut command = freehold.command(&["up", MODEL, "--address", "127.0.0.1:0"]);
        let mut process = command.stdout(Stdio::piped()).spawn().context("freehold up")?;
        let output = process.stdout.take().context("freehold up has no output")?;
        let mut server = Self { process, url: String::new(), key: String::new() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("up printed no JSON: {line:?}"))?;
        for (key, into) in [("url", &mut server.url), ("key", &mut server.key)] {
            ready[key].as_str().with_context(|| format!("up printed no {key}"))?.clone_into(into);
        }
        println!("  serving at {}", server.url);
        Ok(server)
    }

    /// As a service manager does it.
    fn stop(&mut self) -> Result<()> {
        // The shell's own `kill`, as small machines have no other.
        let id = self.process.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &id]).status().context("sh")?;
        ensure!(status.success(), "the server is not there to be stopped");
        let status = self.process.wait()?;
        ensure!(status.success(), "freehold up ended with {status} when it was asked to stop");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Builds the program in release, with these features of its; where it lies.
pub(crate) fn build(features: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::tidy::root()).args(["build", "--release", "--locked", "--package", "freehold"]);
    command.arg(format!("--features={}", features.join(",")));
    let output = command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "cargo build: {}", output.status);
    let messages = String::from_utf8(output.stdout)?;
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = messages.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.context("cargo build named no program")
}

/// Copies a program that emulates AMX to `path`. It is built where the plain one lies, which is put back.
fn build_emulating(path: &Path) -> Result<()> {
    std::fs::copy(build(&["emulated-amx"])?, path).context("the program cannot be copied")?;
    build(&[]).map(drop)
}

/// A virtual environment with the package `openai`; its Python.
fn install_client(directory: &Path) -> Result<PathBuf> {
    let directory = directory.join("client");
    let run = |command: &mut Command| -> Result<()> {
        let status = command.stdin(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
        ensure!(status.success(), "{command:?}: {status}");
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
    let python = directory.join("bin/python");
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "openai"]))?;
    Ok(python)
}

fn timed(what: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("{what}");
    let began = Instant::now();
    step().with_context(|| what.to_owned())?;
    println!("{what}: {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
