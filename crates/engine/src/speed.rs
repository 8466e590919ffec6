//! How fast a machine is, and a model on it. Nothing here goes into a result; benchmarks show it.

use crate::batch::PROMPT_TOKENS_PER_STEP;
use freehold_base::{Dtype, random};
use freehold_kernels::{
    ActivationKind, Activations, Compute, KV_BLOCK, KvType, Matrix, MatrixError, Pool, Product, Zeroed,
};
use freehold_model::{Cache, Chunk, Error, LogitRows, Model, Workspace};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Shape of the products that [`product_rate`] times: tokens of a prompt by a matrix of which each group of rows stays in a
/// cache meanwhile.
const TOKENS: usize = 64;
const INPUTS: usize = 1024;
const OUTPUTS: usize = 1024;

/// In a step of so many tokens by chance, every expert is some token's.
pub const MANY_TOKENS: usize = 4096;

/// How long a rate is measured; its fastest pass counts, for other programs only ever slow one down.
const MEASURED: Duration = Duration::from_millis(250);

/// A buffer for [`read_rate`], on pages such as weights lie on; `None` where the system does not give the memory.
pub fn read_buffer(compute: &Compute, bytes: usize) -> Option<Zeroed<u64>> {
    let mut buffer = compute.zeroed(bytes / size_of::<u64>())?;
    // Pages never written to are all one page of zeros.
    buffer.as_mut_slice().fill(1);
    Some(buffer)
}

/// Bytes that the threads read in a second, each going over its part of the buffer `passes` times.
pub fn read_rate(pool: &Pool, buffer: &[u64], passes: usize) -> f64 {
    let part = buffer.len() / pool.threads();
    let seconds = fastest(|| {
        pool.run(pool.threads(), |index| {
            for _ in 0..passes {
                black_box(sum(black_box(&buffer[index * part..][..part])));
            }
        });
    });
    (size_of::<u64>() * part * pool.threads() * passes) as f64 / seconds
}

/// Products, each with its addition, that the kernels which models run on make in a second with weights of a type.
///
/// # Errors
/// If there is no kernel for the type.
pub fn product_rate(compute: &Compute, weights: Dtype) -> Result<f64, MatrixError> {
    let (block_numbers, block_bytes) = weights.block();
    let numbers = OUTPUTS * INPUTS;
    // Zeros are weights of every type, and no kernel looks at values.
    let bytes = vec![0; numbers / block_numbers * block_bytes];
    let matrix = Matrix::pack(weights, OUTPUTS, INPUTS, &bytes, compute)?;
    let inputs: Vec<f32> = (0..TOKENS * INPUTS).map(|index| (index % 7) as f32 - 3.0).collect();
    let mut activations = Activations::new();
    compute.prepare(ActivationKind::of(weights), &inputs, INPUTS, &mut activations);
    let mut out = vec![0.0; TOKENS * OUTPUTS];
    let seconds = fastest(|| {
        compute.matmul(&activations, &mut [Product { matrix: &matrix, bias: None, out: &mut out }]);
    });
    Ok((TOKENS * numbers) as f64 / seconds)
}

/// Seconds of the fastest pass.
fn fastest(mut pass: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut fastest = Duration::MAX;
    loop {
        let start = Instant::now();
        pass();
        fastest = fastest.min(start.elapsed());
        if began.elapsed() >= MEASURED {
            return fastest.as_secs_f64();
        }
    }
}

/// Sixteen sums side by side: a single one would wait for its last addition, not for memory.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in words.chunks_exact(sums.len()) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// `count` tokens of a vocabulary by chance, the same each time.
pub fn any_tokens(vocabulary: usize, count: usize) -> Vec<u32> {
    (0..count as u64).map(|index| (random::uniform(1, 0, index) * vocabulary as f64) as u32).collect()
}

/// A model being timed: steps of it, without a sampler or anybody who waits for an answer.
///
/// Its methods panic if the cache has too few blocks for the tokens, or a token is not in the vocabulary.
pub struct Trial<'a> {
    /// Those of the whole cache, in order.
    blocks: Vec<u32>,
    /// The tokens that the cache holds from its first position on.
    held: Vec<u32>,
    steps: Steps<'a>,
}

struct Steps<'a> {
    model: &'a Model,
    compute: &'a Compute,
    cache: Cache,
    workspace: Workspace,
    logits: Vec<f32>,
}

impl<'a> Trial<'a> {
    /// With a cache of `blocks` blocks of [`KV_BLOCK`] positions.
    ///
    /// # Errors
    /// If there is no memory for the cache.
    pub fn new(model: &'a Model, compute: &'a Compute, kv_type: KvType, blocks: u32) -> Result<Self, Error> {
        let cache = model.new_cache(kv_type, blocks as usize)?;
        let steps = Steps { model, compute, cache, workspace: Workspace::default(), logits: Vec::new() };
        Ok(Self { blocks: (0..blocks).collect(), held: Vec::new(), steps })
    }

    /// How long a prompt takes, up to the logits of its last token, in steps like the engine's.
    pub fn prefill(&mut self, tokens: &[u32]) -> Duration {
        self.held.clear();
        self.extend(tokens, PROMPT_TOKENS_PER_STEP)
    }

    /// How long the tokens from `depth` on take one by one, after those before it. What the cache holds of those already is
    /// not computed again.
    pub fn decode(&mut self, tokens: &[u32], depth: usize) -> Duration {
        let (before, after) = tokens.split_at(depth);
        let same = self.held.iter().zip(before).take_while(|(held, token)| held == token).count();
        self.held.truncate(same);
        self.extend(&before[same..], PROMPT_TOKENS_PER_STEP);
        self.extend(after, 1)
    }

    /// How long tokens take, after those that the cache holds.
    fn extend(&mut self, tokens: &[u32], tokens_per_step: usize) -> Duration {
        let began = Instant::now();
        let end = self.held.len() + tokens.len();
        for part in tokens.chunks(tokens_per_step) {
            let start = self.held.len();
            self.held.extend(part);
            let is_prompt = tokens_per_step > 1 && self.held.len() < end;
            let logits = if is_prompt { LogitRows::None } else { LogitRows::Last };
            self.steps.forward(&[Chunk { tokens: part, start, blocks: &self.blocks, logits }]);
        }
        began.elapsed()
    }

    /// How long sequences of one length take together, a token of each in a step, from their second tokens on.
    pub fn streams(&mut self, sequences: &[&[u32]]) -> Duration {
        self.held.clear();
        let length = sequences[0].len();
        let mut began = Instant::now();
        for start in 0..length {
            let tables = self.blocks.chunks_exact(length.div_ceil(KV_BLOCK));
            let chunks: Vec<Chunk<'_>> = (sequences.iter().zip(tables))
                .map(|(tokens, blocks)| Chunk {
                    tokens: &tokens[start..=start],
                    start,
                    blocks,
                    logits: LogitRows::Last,
                })
                .collect();
            assert_eq!(chunks.len(), sequences.len(), "too few blocks of cache");
            self.steps.forward(&chunks);
            if start == 0 {
                began = Instant::now();
            }
        }
        began.elapsed()
    }
}

/// Tokens that a model takes and gives in a second.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Of a prompt.
    pub prefill: f64,
    /// One after the other.
    pub decode: f64,
}

/// How fast a model is on short texts, after a first one that brings its weights into memory.
///
/// # Errors
/// If there is no memory for the cache.
pub fn rates(model: &Model, compute: &Compute, kv_type: KvType) -> Result<Rates, Error> {
    const PREFILL: usize = 256;
    const DECODE: usize = 32;
    let count = PREFILL.min(model.config().context_length);
    let tokens = any_tokens(model.config().vocabulary, count);
    let answer = &tokens[..DECODE.min(count)];
    let mut trial = Trial::new(model, compute, kv_type, count.div_ceil(KV_BLOCK) as u32)?;
    trial.prefill(answer);
    Ok(Rates {
        prefill: count as f64 / trial.prefill(&tokens).as_secs_f64(),
        decode: answer.len() as f64 / trial.decode(answer, 0).as_secs_f64(),
    })
}

impl Steps<'_> {
    fn forward(&mut self, chunks: &[Chunk<'_>]) {
        self.model.forward(self.compute, &mut self.cache, chunks, &mut self.workspace, &mut self.logits);
    }
}
