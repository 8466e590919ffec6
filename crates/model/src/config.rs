//! The hyper-parameters that decoders share.

use crate::Error;
use crate::source::{Place, Source};
use freehold_kernels::MAX_POSITIONS;

/// The most of anything: far above every known model, low enough that no product of two overflows.
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 20;

/// The hyper-parameters of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// GGUF's name of the architecture.
    pub architecture: &'static str,
    /// Layers.
    pub layers: usize,
    /// Elements of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of the feed-forward's inside.
    pub feed_forward: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Positions that the model was made for, at most [`MAX_POSITIONS`].
    pub context_length: usize,
    /// Whether the output head has weights of its own; otherwise the embedding serves.
    pub has_head: bool,
}

impl Config {
    pub(crate) fn load(source: &Source<'_>, architecture: &'static str) -> Result<Self, Error> {
        let width = source.count("embedding_length", "hidden_size", MAX_WIDTH)?;
        let heads = source.count("attention.head_count", "num_attention_heads", MAX_HEADS)?;
        let kv_heads =
            source.optional_count("attention.head_count_kv", "num_key_value_heads", MAX_HEADS)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("is {kv_heads}, which does not divide the {heads} query heads");
            return Err(Error::Parameter { key: "head_count_kv".to_owned(), problem });
        }
        let head_dim = match source.optional_count("attention.key_length", "head_dim", MAX_WIDTH)? {
            Some(head_dim) => head_dim,
            None if width.is_multiple_of(heads) => width / heads,
            None => {
                let problem = format!("is missing, and {width} elements are no whole number for each of {heads} heads");
                return Err(Error::Parameter { key: "head_dim".to_owned(), problem });
            }
        };
        // Readers of GGUF take width / heads for either where they are missing.
        source.note_count("attention.key_length", head_dim)?;
        source.note_count("attention.value_length", head_dim)?;
        let vocabulary = source.rows(Place::Model, "token_embd")?;
        source.note_count("vocab_size", vocabulary)?;
        Ok(Self {
            architecture,
            layers: source.count("block_count", "num_hidden_layers", MAX_LAYERS)?,
            width,
            heads,
            kv_heads,
            head_dim,
            feed_forward: source.count("feed_forward_length", "intermediate_size", MAX_WIDTH)?,
            vocabulary,
            context_length: source.count("context_length", "max_position_embeddings", MAX_POSITIONS)?,
            has_head: source.has_head()?,
        })
    }
}
