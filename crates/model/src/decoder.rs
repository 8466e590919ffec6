//! The pre-norm decoder that llama, qwen2 and qwen3 share: embedding, layers of attention and feed-forward each added to
//! the residual stream, a last norm, and the output head.

use crate::blocks::{Attention, Linear, Norm, Step, SwiGlu};
use crate::config::Config;
use crate::source::{Place, Source};
use crate::{Error, LogitRows};
use freehold_kernels::{AttentionShape, RopeStyle};

/// What distinguishes one architecture of this family from another.
pub(crate) struct Variant {
    pub(crate) rope_style: RopeStyle,
    /// Norms over each head of q and k, before rope.
    pub(crate) head_norms: bool,
}

pub(crate) struct Decoder {
    /// Also the output head where that has no weights of its own.
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Norm,
    head: Option<Linear>,
}

struct Layer {
    attention_norm: Norm,
    attention: Attention,
    feed_forward_norm: Norm,
    feed_forward: SwiGlu,
}

impl Decoder {
    pub(crate) fn load(source: &Source<'_>, config: &Config, variant: &Variant) -> Result<Self, Error> {
        let width = config.width;
        let windows = source.windows(config.layers)?;
        let layer = |(index, window)| {
            let shape = AttentionShape {
                heads: config.heads,
                kv_heads: config.kv_heads,
                k_dim: config.head_dim,
                v_dim: config.head_dim,
                scale: 1.0 / (config.head_dim as f32).sqrt(),
                window,
                softcap: None,
                sinks: None,
            };
            let place = Place::Layer(index);
            Ok(Layer {
                attention_norm: Norm::load(source, place, "attn_norm", width)?,
                attention: Attention::load(source, index, width, shape, variant.rope_style, variant.head_norms)?,
                feed_forward_norm: Norm::load(source, place, "ffn_norm", width)?,
                feed_forward: SwiGlu::load(source, index, width, config.feed_forward)?,
            })
        };
        Ok(Self {
            embedding: Linear::load(source, Place::Model, "token_embd", config.vocabulary, width)?,
            layers: windows.into_iter().enumerate().map(layer).collect::<Result<_, Error>>()?,
            norm: Norm::load(source, Place::Model, "output_norm", width)?,
            head: config
                .has_head
                .then(|| Linear::load(source, Place::Model, "output", config.vocabulary, width))
                .transpose()?,
        })
    }

    /// Runs the batch of `step`; the logits of the rows that its chunks ask for go to `logits`, (rows, V).
    pub(crate) fn forward(&self, step: &mut Step<'_>, logits: &mut Vec<f32>) {
        let width = self.embedding.matrix.cols();
        let mut x = step.embed(&self.embedding.matrix);
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = step.norm(&x, &layer.attention_norm);
            let attended = layer.attention.forward(step, index, &normed);
            step.compute.add_assign(&mut x, &attended, width);
            step.give([normed, attended]);

            let normed = step.norm(&x, &layer.feed_forward_norm);
            let fed = layer.feed_forward.forward(step, &normed);
            step.compute.add_assign(&mut x, &fed, width);
            step.give([normed, fed]);
        }
        let wanted = wanted_rows(step, &x, width);
        let normed = step.norm(&wanted, &self.norm);
        step.project_into(&normed, self.head.as_ref().unwrap_or(&self.embedding), logits);
        step.give([x, wanted, normed]);
    }
}

/// The rows of x whose logits are wanted, in the batch's order.
fn wanted_rows(step: &mut Step<'_>, x: &[f32], width: usize) -> Vec<f32> {
    let rows: usize = step.chunks.iter().map(|chunk| chunk.logits.count(chunk.tokens.len())).sum();
    let mut wanted = step.buffers.take(rows * width);
    let (mut from, mut to) = (0, 0);
    for chunk in step.chunks {
        let end = from + chunk.tokens.len() * width;
        let count = chunk.logits.count(chunk.tokens.len()) * width;
        wanted[to..to + count].copy_from_slice(&x[end - count..end]);
        to += count;
        from = end;
    }
    wanted
}

impl LogitRows {
    /// How many of a chunk's `tokens` rows, counted from its end.
    pub(crate) fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => tokens,
        }
    }
}
