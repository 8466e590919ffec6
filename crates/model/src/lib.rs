//! Model architectures over shared blocks: from a checkpoint to logits.
//!
//! A [`Model`] holds packed weights and hyper-parameters; a [`Cache`] holds keys and values in blocks of 64 positions
//! that whoever runs the model hands out. One call of [`Model::forward`] runs chunks of several sequences together; the
//! logits of a token depend on its own sequence alone, to the bit.

mod architectures;
mod blocks;
mod config;
mod conversion;
mod cost;
mod decoder;
mod encode;
mod error;
mod experts;
mod inputs;
mod mix;
mod notes;
mod parameters;
mod source;

pub use blocks::Workspace;
pub use config::Config;
pub use conversion::{Conversion, Encoding, Quantization};
pub use cost::Cost;
pub use error::Error;
pub use mix::Mix;

use blocks::Step;
use decoder::Decoder;
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, KV_BLOCK, KvLayer, KvShape, KvType};

/// A model ready to run.
pub struct Model {
    config: Config,
    decoder: Decoder,
}

/// Keys and values of all layers, in blocks of [`KV_BLOCK`] positions.
pub struct Cache {
    layers: Vec<KvLayer>,
}

/// Consecutive tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Their ids, each below the size of the vocabulary.
    pub tokens: &'a [u32],
    /// Position of the first one; all before it are in the cache.
    pub start: usize,
    /// The sequence's block table: block i holds positions 64·i to 64·i + 63.
    pub blocks: &'a [u32],
    /// Which logits are wanted.
    pub logits: LogitRows,
}

/// Which tokens' logits are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogitRows {
    /// Of none: the chunk only fills the cache.
    None,
    /// Of the last one.
    Last,
    /// Of each.
    All,
}

impl Model {
    /// Loads and packs the weights. `progress` is told the bytes of each tensor as it is taken up.
    ///
    /// # Errors
    /// If the architecture is not supported, or parameters or tensors are missing, misshapen or not finite.
    pub fn load(checkpoint: &Checkpoint, compute: &Compute, progress: &mut dyn FnMut(u64)) -> Result<Self, Error> {
        let mut source = source::Source::new(checkpoint, compute, progress);
        let (config, variant) = architectures::parameters(&mut source)?;
        let decoder = Decoder::load(&source, &config, &variant)?;
        source.finish()?;
        Ok(Self { config, decoder })
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the weights cost a step with `tokens` tokens, of which `logit_rows` are to have logits. Where experts are chosen
    /// it is the most that they can cost: visits spread evenly over all of them.
    pub fn cost(&self, tokens: usize, logit_rows: usize) -> Cost {
        self.decoder.cost(tokens as u64, logit_rows as u64)
    }

    /// The shape of a layer's cache.
    pub fn kv_shape(&self, kv_type: KvType) -> KvShape {
        let Config { kv_heads, head_dim, .. } = self.config;
        KvShape { kv_type, kv_heads, k_dim: head_dim, v_dim: head_dim }
    }

    /// A cache of `blocks` blocks. The system maps its memory when it is written.
    ///
    /// # Errors
    /// [`Error::CacheMemory`] if the system does not give that much. Linux, as it is usually set, gives what fits its
    /// memory and swap, whether they are in use or not; other systems, and limits on a container, may show only when
    /// the cache fills.
    pub fn new_cache(&self, kv_type: KvType, blocks: usize) -> Result<Cache, Error> {
        let shape = self.kv_shape(kv_type);
        // No product of four counts overflows this.
        let bytes = shape.block_bytes() as u128 * blocks as u128 * self.config.layers as u128;
        let refused = || Error::CacheMemory {
            positions: (blocks as u64).saturating_mul(KV_BLOCK as u64),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        };
        Ok(Cache { layers: KvLayer::layers(shape, self.config.layers, blocks).ok_or_else(refused)? })
    }

    /// Runs the chunks together and puts the logits they ask for into `logits`, one row of the vocabulary's size each,
    /// in the order of chunks and tokens.
    ///
    /// # Panics
    /// If a chunk is empty, names a token outside the vocabulary, has too short a block table, or goes beyond
    /// [`MAX_POSITIONS`](freehold_kernels::MAX_POSITIONS).
    pub fn forward(
        &self,
        compute: &Compute,
        cache: &mut Cache,
        chunks: &[Chunk<'_>],
        workspace: &mut Workspace,
        logits: &mut Vec<f32>,
    ) {
        for chunk in chunks {
            assert!(!chunk.tokens.is_empty(), "a chunk without tokens");
            assert!(chunk.start + chunk.tokens.len() <= chunk.blocks.len() * KV_BLOCK, "too short a block table");
        }
        logits.clear();
        if chunks.is_empty() {
            return;
        }
        let mut step = Step::new(compute, chunks, cache, workspace, &self.decoder.ropes);
        self.decoder.forward(&mut step, logits);
    }
}
