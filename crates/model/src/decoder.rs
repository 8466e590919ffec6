//! The decoder that all architectures share: embedding, layers of attention and feed-forward each added to the residual
//! stream, a last norm, and the output head.

use crate::blocks::{Attention, GatedUnit, HeadNorms, Linear, Norm, Step, UnitTensors};
use crate::config::Config;
use crate::experts::{Experts, ExpertsShape};
use crate::source::{Interleaved, Place, RotatedHeads, Source};
use crate::{Error, LogitRows};
use freehold_formats::RopeLayers;
use freehold_kernels::{AttentionShape, Gate, RopeFrequencies};

/// What distinguishes one architecture from another.
pub(crate) struct Variant {
    /// Frequencies of rotary positions: layers say which they use.
    pub(crate) ropes: Vec<RopeFrequencies>,
    /// Which files interleave the rotated halves of each head of q and k.
    pub(crate) interleaved: Interleaved,
    pub(crate) layers: Vec<LayerKind>,
    pub(crate) norms: LayerNorms,
    pub(crate) head_norms: HeadNorms,
    /// What scores of attention are multiplied by.
    pub(crate) attention_scale: f32,
    /// What scaled scores are kept within.
    pub(crate) attention_softcap: Option<f32>,
    /// Each query head has a sink.
    pub(crate) sinks: bool,
    pub(crate) gate: Gate,
    /// The feed-forward's gate and its other half are one tensor.
    pub(crate) fused_gate: bool,
    /// The feed-forward is a mixture of experts.
    pub(crate) experts: Option<ExpertsShape>,
    pub(crate) embedding_scale: Option<f32>,
    /// What is added to the residual stream is multiplied by it.
    pub(crate) residual_scale: f32,
    pub(crate) logit_scale: Option<f32>,
    /// What logits are kept within.
    pub(crate) logit_softcap: Option<f32>,
}

impl Variant {
    /// The first part in which this one and one of a file in another form differ.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        let experts = |variant: &Self| variant.experts.as_ref().map(ExpertsShape::facts);
        let parts = [
            ("rotary frequencies", self.ropes == other.ropes && self.interleaved == other.interleaved),
            ("windows, and which layers embed positions", self.layers == other.layers),
            ("norms", self.norms == other.norms && self.head_norms == other.head_norms),
            ("scale of attention", self.attention_scale == other.attention_scale),
            ("cap of attention's scores", self.attention_softcap == other.attention_softcap),
            ("sinks", self.sinks == other.sinks),
            ("gate", self.gate == other.gate && self.fused_gate == other.fused_gate),
            ("mixture of experts", experts(self) == experts(other)),
            ("scale of embeddings", self.embedding_scale == other.embedding_scale),
            ("scale of residual additions", self.residual_scale == other.residual_scale),
            ("scale of logits", self.logit_scale == other.logit_scale),
            ("cap of logits", self.logit_softcap == other.logit_softcap),
        ];
        parts.into_iter().find(|(_, same)| !same).map(|(part, _)| part)
    }
}

/// What distinguishes one layer from another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerKind {
    /// How many positions a token sees.
    pub(crate) window: Option<usize>,
    /// Which of the model's frequencies rotate it.
    pub(crate) rope: Option<usize>,
}

/// The names of a layer's norms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerNorms {
    pub(crate) attention: NormPair,
    pub(crate) feed_forward: NormPair,
}

/// The norms around a block: of what goes in, and of what comes out before it is added to the residual stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct NormPair {
    pub(crate) before: Option<&'static str>,
    pub(crate) after: Option<&'static str>,
}

impl LayerNorms {
    pub(crate) const BEFORE: Self = Self {
        attention: NormPair { before: Some("attn_norm"), after: None },
        feed_forward: NormPair { before: Some("ffn_norm"), after: None },
    };
    pub(crate) const AFTER: Self = Self {
        attention: NormPair { before: None, after: Some("post_attention_norm") },
        feed_forward: NormPair { before: None, after: Some("post_ffw_norm") },
    };
    pub(crate) const AROUND: Self = Self {
        attention: NormPair { before: Some("attn_norm"), after: Some("post_attention_norm") },
        feed_forward: NormPair { before: Some("ffn_norm"), after: Some("post_ffw_norm") },
    };
    /// Those before the blocks, the feed-forward's under another name.
    pub(crate) const BEFORE_NAMED_POST_ATTENTION: Self =
        Self { feed_forward: NormPair { before: Some("post_attention_norm"), after: None }, ..Self::BEFORE };
}

impl Variant {
    /// A Llama in Hugging Face's form.
    pub(crate) fn plain(source: &Source<'_>, config: &Config) -> Result<Self, Error> {
        let ropes = vec![source.rope(config.head_dim, RopeLayers::All)?];
        Ok(Self::of(ropes, vec![None; config.layers], config))
    }

    /// The same with the window that the file may name, in every layer that has one.
    pub(crate) fn windowed(source: &Source<'_>, config: &Config) -> Result<Self, Error> {
        let ropes = vec![source.rope(config.head_dim, RopeLayers::All)?];
        Ok(Self::of(ropes, source.windows(config.layers, None)?, config))
    }

    /// The same with these frequencies, of which all layers use the first, and windows.
    pub(crate) fn of(ropes: Vec<RopeFrequencies>, windows: Vec<Option<usize>>, config: &Config) -> Self {
        Self {
            ropes,
            interleaved: Interleaved::Nowhere,
            layers: windows.into_iter().map(|window| LayerKind { window, rope: Some(0) }).collect(),
            norms: LayerNorms::BEFORE,
            head_norms: HeadNorms::None,
            attention_scale: 1.0 / (config.head_dim as f32).sqrt(),
            attention_softcap: None,
            sinks: false,
            gate: Gate::Silu,
            fused_gate: false,
            experts: None,
            embedding_scale: None,
            residual_scale: 1.0,
            logit_scale: None,
            logit_softcap: None,
        }
    }

    /// The same for models that have frequencies of their own in the layers with a window. `full_every` as in
    /// [`Source::windows`], `theta_default` as in [`RopeLayers::Windowed`].
    pub(crate) fn with_local_rope(
        source: &Source<'_>,
        config: &Config,
        full_every: usize,
        theta_default: Option<f64>,
    ) -> Result<Self, Error> {
        let of = |layers| source.rope(config.head_dim, layers);
        let ropes = vec![of(RopeLayers::Full)?, of(RopeLayers::Windowed { theta_default })?];
        let mut variant = Self::of(ropes, source.windows(config.layers, Some(full_every))?, config);
        for layer in variant.layers.iter_mut().filter(|layer| layer.window.is_some()) {
            layer.rope = Some(1);
        }
        Ok(variant)
    }
}

pub(crate) struct Decoder {
    /// Also the output head where that has no weights of its own.
    embedding: Linear,
    embedding_scale: Option<f32>,
    pub(crate) layers: Vec<Layer>,
    residual_scale: f32,
    norm: Norm,
    head: Option<Linear>,
    logit_scale: Option<f32>,
    logit_softcap: Option<f32>,
    pub(crate) ropes: Vec<RopeFrequencies>,
}

pub(crate) struct Layer {
    attention_norms: Norms,
    pub(crate) attention: Attention,
    feed_forward_norms: Norms,
    pub(crate) feed_forward: FeedForward,
}

pub(crate) enum FeedForward {
    Dense(GatedUnit),
    Experts(Experts),
}

/// See [`NormPair`].
struct Norms {
    before: Option<Norm>,
    after: Option<Norm>,
}

impl Norms {
    fn load(source: &Source<'_>, layer: usize, names: NormPair, width: usize) -> Result<Self, Error> {
        let load =
            |name: Option<&str>| name.map(|name| Norm::load(source, Place::Layer(layer), name, width)).transpose();
        Ok(Self { before: load(names.before)?, after: load(names.after)? })
    }

    /// x += scale · after(block(before(x))).
    fn around(
        &self,
        step: &mut Step<'_>,
        x: &mut [f32],
        scale: f32,
        width: usize,
        block: impl FnOnce(&mut Step<'_>, &[f32]) -> Vec<f32>,
    ) {
        let mut out = match &self.before {
            Some(norm) => {
                let normed = step.norm(x, norm);
                let out = block(step, &normed);
                step.give([normed]);
                out
            }
            None => block(step, x),
        };
        if let Some(norm) = &self.after {
            let normed = step.norm(&out, norm);
            step.give([std::mem::replace(&mut out, normed)]);
        }
        step.compute.add_scaled(x, &out, scale, width);
        step.give([out]);
    }
}

impl Layer {
    fn load(source: &Source<'_>, config: &Config, variant: &Variant, index: usize) -> Result<Self, Error> {
        let (width, kind) = (config.width, variant.layers[index]);
        let sinks = || source.vector(Place::Layer(index), "attn_sinks", config.heads);
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            k_dim: config.head_dim,
            v_dim: config.head_dim,
            scale: variant.attention_scale,
            window: kind.window,
            softcap: variant.attention_softcap,
            sinks: variant.sinks.then(sinks).transpose()?,
        };
        let rotary_dim = 2 * variant.ropes[0].pairs();
        let rotated = RotatedHeads { dim: config.head_dim, rotary_dim, interleaved: variant.interleaved };
        let tensors = if variant.fused_gate { UnitTensors::Fused } else { UnitTensors::Separate };
        Ok(Self {
            attention_norms: Norms::load(source, index, variant.norms.attention, width)?,
            attention: Attention::load(source, index, width, shape, variant.head_norms, kind.rope, rotated)?,
            feed_forward_norms: Norms::load(source, index, variant.norms.feed_forward, width)?,
            feed_forward: match &variant.experts {
                Some(experts) => FeedForward::Experts(Experts::load(source, index, experts, width, variant.gate)?),
                None => FeedForward::Dense(GatedUnit::load(
                    source,
                    index,
                    tensors,
                    width,
                    config.feed_forward,
                    variant.gate,
                )?),
            },
        })
    }
}

impl Decoder {
    pub(crate) fn load(source: &Source<'_>, config: &Config, variant: &Variant) -> Result<Self, Error> {
        let width = config.width;
        let embedding = Linear::load(source, Place::Model, "token_embd", config.vocabulary, width)?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let layer = Layer::load(source, config, variant, index)?;
            // What is only looked at need not fit the memory.
            if source.notes.is_none() {
                layers.push(layer);
            }
        }
        Ok(Self {
            embedding,
            layers,
            norm: Norm::load(source, Place::Model, "output_norm", width)?,
            head: config
                .has_head
                .then(|| Linear::load(source, Place::Model, "output", config.vocabulary, width))
                .transpose()?,
            embedding_scale: variant.embedding_scale,
            residual_scale: variant.residual_scale,
            logit_scale: variant.logit_scale,
            logit_softcap: variant.logit_softcap,
            ropes: variant.ropes.clone(),
        })
    }

    /// What makes logits of the last layer's output.
    pub(crate) fn output_head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Runs the batch of `step`; the logits of the rows that its chunks ask for go to `logits`, (rows, V).
    pub(crate) fn forward(&self, step: &mut Step<'_>, logits: &mut Vec<f32>) {
        let width = self.embedding.matrix.cols();
        let mut x = step.embed(&self.embedding.matrix);
        if let Some(scale) = self.embedding_scale {
            step.compute.scale(&mut x, scale, width);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer
                .attention_norms
                .around(step, &mut x, self.residual_scale, width, |step, x| layer.attention.forward(step, index, x));
            layer.feed_forward_norms.around(step, &mut x, self.residual_scale, width, |step, x| {
                match &layer.feed_forward {
                    FeedForward::Dense(unit) => unit.forward(step, x),
                    FeedForward::Experts(experts) => experts.forward(step, x),
                }
            });
        }
        let wanted = wanted_rows(step, &x, width);
        let normed = step.norm(&wanted, &self.norm);
        let head = self.output_head();
        let vocabulary = head.matrix.rows();
        logits.resize(wanted.len() / width * vocabulary, 0.0);
        step.project_into(&normed, head, logits);
        if let Some(scale) = self.logit_scale {
            step.compute.scale(logits, scale, vocabulary);
        }
        if let Some(cap) = self.logit_softcap {
            step.compute.softcap(logits, cap, vocabulary);
        }
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
    pub fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => tokens,
        }
    }
}
