//! `cargo xtask bench engine`: this engine and llama.cpp on the same file, the same tokens and the same threads, by
//! turns in one run; the medians and their ratio.

use anyhow::{Context as _, Result, ensure};
use freehold_base::random;
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, Isa, KV_BLOCK, KvType};
use freehold_model::{Cache, Chunk, LogitRows, Model, Workspace};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// What runs llama.cpp: commands on standard input, seconds on standard output.
const PEER_SCRIPT: &str = include_str!("../scripts/bench_llama_cpp.py");

#[derive(clap::Args)]
pub(crate) struct Options {
    /// GGUF files.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// The Python that has llama-cpp-python, to compare with; without it only this engine is measured.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Instruction set [default: the fastest].
    #[arg(long)]
    isa: Option<Isa>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens decoded one by one after an empty prompt.
    #[arg(long, default_value_t = 128)]
    decode: usize,
    /// Turns; the median counts.
    #[arg(long, default_value_t = 5)]
    turns: usize,
}

/// Seconds of each turn.
#[derive(Default)]
struct Times {
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        println!("| model | | freehold | llama.cpp | ratio |\n|---|---|---|---|---|");
        for path in &self.models {
            let mut ours = Ours::load(path, self.isa.unwrap_or_else(Isa::best), self.threads)?;
            let mut peer = self.python.as_ref().map(|python| Peer::start(python, path, self.threads)).transpose()?;
            let (mut our_times, mut peer_times) = (Times::default(), Times::default());
            for _ in 0..self.turns {
                our_times.prefill.push(ours.prefill(self.prefill));
                our_times.decode.push(ours.decode(self.decode));
                if let Some(peer) = &mut peer {
                    peer_times.prefill.push(peer.ask("prefill", self.prefill)?);
                    peer_times.decode.push(peer.ask("decode", self.decode)?);
                }
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            report(&name, &format!("prefill {}", self.prefill), self.prefill, &our_times.prefill, &peer_times.prefill);
            report(&name, &format!("decode {}", self.decode), self.decode, &our_times.decode, &peer_times.decode);
        }
        Ok(())
    }
}

fn report(model: &str, what: &str, tokens: usize, ours: &[f64], peer: &[f64]) {
    let rate = |times: &[f64]| tokens as f64 / median(times);
    let ours = rate(ours);
    if peer.is_empty() {
        println!("| {model} | {what} | {ours:.1} tok/s | – | – |");
    } else {
        let peer = rate(peer);
        println!("| {model} | {what} | {ours:.1} tok/s | {peer:.1} tok/s | {:.2} |", ours / peer);
    }
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Token ids that both sides use.
fn token(position: usize) -> u32 {
    (random::uniform(1, 0, position as u64) * 30_000.0) as u32
}

struct Ours {
    model: Model,
    compute: Compute,
    cache: Cache,
    blocks: Vec<u32>,
    workspace: Workspace,
    logits: Vec<f32>,
}

impl Ours {
    fn load(path: &Path, isa: Isa, threads: usize) -> Result<Self> {
        ensure!(isa.is_available(), "this machine has no {isa}");
        let compute = Compute::new(isa, threads)?;
        let checkpoint = Checkpoint::open(path)?;
        let model = Model::load(&checkpoint, &compute, &mut |_| {})?;
        let blocks: Vec<u32> = (0..64).collect();
        let cache = model.new_cache(KvType::F16, blocks.len())?;
        Ok(Self { model, compute, cache, blocks, workspace: Workspace::default(), logits: Vec::new() })
    }

    fn forward(&mut self, tokens: &[u32], start: usize) {
        assert!(start + tokens.len() <= self.blocks.len() * KV_BLOCK, "at most 4096 tokens");
        let chunk = Chunk { tokens, start, blocks: &self.blocks, logits: LogitRows::Last };
        self.model.forward(&self.compute, &mut self.cache, &[chunk], &mut self.workspace, &mut self.logits);
    }

    fn prefill(&mut self, count: usize) -> f64 {
        let tokens: Vec<u32> = (0..count).map(token).collect();
        let began = Instant::now();
        self.forward(&tokens, 0);
        began.elapsed().as_secs_f64()
    }

    fn decode(&mut self, count: usize) -> f64 {
        self.forward(&[token(0)], 0);
        let began = Instant::now();
        for position in 1..=count {
            self.forward(&[token(position)], position);
        }
        began.elapsed().as_secs_f64()
    }
}

/// llama.cpp in a process of its own.
struct Peer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &Path, model: &Path, threads: usize) -> Result<Self> {
        let mut process = Command::new(python)
            .args(["-c", PEER_SCRIPT])
            .arg(model)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} cannot be started", python.display()))?;
        let input = process.stdin.take().context("the peer has no standard input")?;
        let output = BufReader::new(process.stdout.take().context("the peer has no standard output")?);
        Ok(Self { process, input, output })
    }

    /// The seconds that the peer took for `count` tokens.
    fn ask(&mut self, what: &str, count: usize) -> Result<f64> {
        let tokens: Vec<String> = (0..=count).map(|position| token(position).to_string()).collect();
        writeln!(self.input, "{what} {count} {}", tokens.join(","))?;
        self.input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| "llama-cpp-python gave no time: is it installed in that Python?")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
