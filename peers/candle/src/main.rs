//! Candle as a contender of `cargo xtask bench engine`. Argument: the model, a GGUF file. Candle takes the number of threads
//! from `RAYON_NUM_THREADS`.

#[path = "../../../xtask/src/bench/protocol.rs"]
mod protocol;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Error, Result, Tensor, bail};
use candle_transformers::models;
use protocol::{Answer, Question};
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// As many as this engine and llama.cpp take.
const TOKENS_PER_STEP: usize = 512;

/// From token ids, a row for each sequence, and their position to the logits of the last ones. Position 0 empties the cache.
type Forward = Box<dyn FnMut(&Tensor, usize) -> Result<Tensor>>;

struct Model {
    forward: Forward,
}

impl Model {
    fn load(path: &Path) -> Result<Self> {
        let device = Device::Cpu;
        let mut file = File::open(path)?;
        let content = Content::read(&mut file)?;
        let architecture = content.metadata.get("general.architecture").map(|value| value.to_string().cloned());
        let architecture = architecture.transpose()?.unwrap_or_default();
        let forward: Forward = match architecture.as_str() {
            "llama" => {
                let mut model = models::quantized_llama::ModelWeights::from_gguf(content, &mut file, &device)?;
                Box::new(move |ids, position| model.forward(ids, position))
            }
            "qwen2" => {
                let mut model = models::quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device)?;
                Box::new(move |ids, position| model.forward(ids, position))
            }
            "qwen3" => {
                let mut model = models::quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device)?;
                Box::new(move |ids, position| {
                    if position == 0 {
                        model.clear_kv_cache();
                    }
                    model.forward(ids, position)
                })
            }
            "gemma3" => {
                let mut model = models::quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &device)?;
                Box::new(move |ids, position| model.forward(ids, position))
            }
            "phi3" => {
                let mut model = models::quantized_phi3::ModelWeights::from_gguf(false, content, &mut file, &device)?;
                Box::new(move |ids, position| model.forward(ids, position))
            }
            _ => bail!("the program for candle knows no {architecture}"),
        };
        Ok(Self { forward })
    }

    /// Runs tokens of sequences of one length, one after the other in `ids`.
    fn step(&mut self, ids: &[u32], sequences: usize, position: usize) -> Result<()> {
        let ids = Tensor::from_slice(ids, (sequences, ids.len() / sequences), &Device::Cpu)?;
        (self.forward)(&ids, position).map(drop)
    }

    /// Seconds of a prompt, from an empty cache.
    fn prefill(&mut self, ids: &[u32]) -> Result<f64> {
        let began = Instant::now();
        for (index, part) in ids.chunks(TOKENS_PER_STEP).enumerate() {
            self.step(part, 1, index * TOKENS_PER_STEP)?;
        }
        Ok(began.elapsed().as_secs_f64())
    }

    fn decode(&mut self, ids: &[u32], depth: usize) -> Result<f64> {
        // Candle's caches cannot be cut back, so each question fills them anew.
        self.prefill(&ids[..depth])?;
        let began = Instant::now();
        for position in depth..ids.len() {
            self.step(&ids[position..=position], 1, position)?;
        }
        Ok(began.elapsed().as_secs_f64())
    }

    fn streams(&mut self, ids: &[u32], streams: usize) -> Result<f64> {
        let length = ids.len() / streams;
        let mut began = Instant::now();
        for position in 0..length {
            let step: Vec<u32> = ids.chunks_exact(length).map(|sequence| sequence[position]).collect();
            self.step(&step, streams, position)?;
            if position == 0 {
                began = Instant::now();
            }
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

fn answer(model: &mut Option<Model>, path: &Path, question: &Question) -> Result<f64> {
    if let Question::Load { ids, .. } = question {
        let began = Instant::now();
        model.insert(Model::load(path)?).prefill(ids)?;
        return Ok(began.elapsed().as_secs_f64());
    }
    let Some(model) = model else { bail!("no model is loaded") };
    match question {
        Question::Prefill { ids } => model.prefill(ids),
        Question::Decode { depth, ids } => model.decode(ids, *depth),
        Question::Streams { streams, ids } => model.streams(ids, *streams),
        Question::Load { .. } | Question::WeightBytes { .. } | Question::ReadRate { .. } => {
            bail!("it is not asked for this")
        }
    }
}

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).ok_or_else(|| Error::msg("the argument is a GGUF file"))?;
    let mut model = None;
    for line in std::io::stdin().lines() {
        let question = line?.parse::<Question>().map_err(Error::msg)?;
        // Where candle was built with backtraces, they follow the message's first line.
        let number = answer(&mut model, path.as_ref(), &question).map_err(|error| error.to_string());
        println!("{}", Answer(number));
    }
    Ok(())
}
