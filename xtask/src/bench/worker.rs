//! This engine as a contender: questions on standard input, answers on standard output.

use anyhow::{Context as _, Result, bail, ensure};
use freehold_engine::speed::{self, Trial};
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, Isa, KV_BLOCK, KvType};
use freehold_model::Model;
use std::io::{Lines, StdinLock};
use std::path::PathBuf;
use std::time::Instant;

/// Positions of the cache at first, as llama.cpp is given them.
const CONTEXT: usize = 4096;

#[derive(clap::Args)]
pub(crate) struct Options {
    model: PathBuf,
    #[arg(long)]
    isa: Isa,
    #[arg(long)]
    threads: usize,
}

struct Request {
    name: String,
    number: usize,
    tokens: Vec<u32>,
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.isa.is_available(), "this machine has no {}", self.isa);
        let mut lines = std::io::stdin().lines();
        let first = next(&mut lines)?.context("no question")?;
        ensure!(first.name == "load", "the first question is `load`");
        let began = Instant::now();
        let compute = Compute::new(self.isa, self.threads)?;
        let model = Model::load(&Checkpoint::open(&self.model)?, &compute, &mut |_| {})?;
        let weight_bytes = model.cost(1, 1).weight_bytes;
        let mut blocks = CONTEXT.div_ceil(KV_BLOCK);
        let mut trial = Trial::new(&model, &compute, KvType::F16, blocks as u32)?;
        trial.prefill(&first.tokens);
        println!("{}", began.elapsed().as_secs_f64());

        while let Some(Request { name, number, tokens }) = next(&mut lines)? {
            let sequences = if name == "streams" { number } else { 1 };
            let needed = sequences * (tokens.len() / sequences).div_ceil(KV_BLOCK);
            if needed > blocks {
                blocks = needed;
                trial = Trial::new(&model, &compute, KvType::F16, blocks as u32)?;
            }
            let answer = match name.as_str() {
                "prefill" => trial.prefill(&tokens).as_secs_f64(),
                "decode" => trial.decode(&tokens, number).as_secs_f64(),
                "streams" => {
                    let sequences: Vec<&[u32]> = tokens.chunks_exact(tokens.len() / sequences).collect();
                    trial.streams(&sequences).as_secs_f64()
                }
                "peak" => peak_bytes()?,
                "read-rate" => {
                    let buffer = speed::read_buffer(&compute, weight_bytes as usize).context("memory to read")?;
                    speed::read_rate(compute.pool(), buffer.as_slice(), 1)
                }
                "weight-bytes" => weight_bytes as f64,
                _ => bail!("no question: {name}"),
            };
            println!("{answer}");
        }
        Ok(())
    }
}

fn next(lines: &mut Lines<StdinLock<'_>>) -> Result<Option<Request>> {
    let Some(line) = lines.next().transpose()? else { return Ok(None) };
    let mut words = line.split(' ');
    let mut word = || words.next().context("a question is a name, a number and token ids");
    let (name, number, ids) = (word()?.to_owned(), word()?.parse()?, word()?);
    let tokens = ids.split(',').filter(|id| !id.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Some(Request { name, number, tokens }))
}

/// Linux's high-water mark of resident memory.
fn peak_bytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("peak memory is read on Linux only")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
    Ok(kibibytes * 1024.0)
}
