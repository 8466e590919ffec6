//! This engine as a contender: questions on standard input, answers on standard output.

use super::protocol::{Answer, Question};
use anyhow::{Context as _, Result, bail, ensure};
use freehold_engine::speed::{self, Trial};
use freehold_formats::{Checkpoint, Tokenizer};
use freehold_kernels::{Compute, Isa, KV_BLOCK, KvType};
use freehold_model::Model;
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Options {
    model: PathBuf,
    #[arg(long)]
    isa: Isa,
    #[arg(long)]
    threads: usize,
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.isa.is_available(), "this machine has no {}", self.isa);
        let mut questions = std::io::stdin().lines().map(|line| line?.parse::<Question>().map_err(anyhow::Error::msg));
        let Some(Question::Load { positions, ids }) = questions.next().transpose()? else {
            bail!("the first question is `load`");
        };
        let began = Instant::now();
        let compute = Compute::new(self.isa, self.threads)?;
        let checkpoint = Checkpoint::open(&self.model)?;
        // Nobody asks it, but llama.cpp starts with one too, where the file has it.
        let _tokenizer = Tokenizer::from_checkpoint(&checkpoint).ok();
        let model = Model::load(&checkpoint, &compute, &mut |_| {})?;
        drop(checkpoint);
        let mut blocks = positions.div_ceil(KV_BLOCK);
        let mut trial = Trial::new(&model, &compute, KvType::F16, blocks as u32)?;
        trial.prefill(&ids);
        println!("{}", Answer(Ok(began.elapsed().as_secs_f64())));

        for question in questions {
            let number = match question? {
                Question::Load { .. } => bail!("a model is loaded already"),
                Question::Prefill { ids } => trial.prefill(&ids).as_secs_f64(),
                Question::Decode { depth, ids } => trial.decode(&ids, depth).as_secs_f64(),
                Question::Streams { streams, ids } => {
                    let length = ids.len() / streams;
                    let needed = streams * length.div_ceil(KV_BLOCK);
                    if needed > blocks {
                        blocks = needed;
                        trial = Trial::new(&model, &compute, KvType::F16, blocks as u32)?;
                    }
                    trial.streams(&ids.chunks_exact(length).collect::<Vec<_>>()).as_secs_f64()
                }
                Question::WeightBytes { tokens } => model.cost(tokens, 1).weight_bytes as f64,
                Question::ReadRate { bytes } => {
                    let buffer = speed::read_buffer(&compute, bytes).context("memory to read")?;
                    speed::read_rate(compute.pool(), buffer.as_slice(), 1)
                }
            };
            println!("{}", Answer(Ok(number)));
        }
        Ok(())
    }
}
