//! What architectures are built of: projections, norms, attention and gated feed-forward over one step's batch.
//!
//! Shape letters: M tokens of the batch, C elements of the residual stream, H query heads, G kv heads, D elements of a
//! head, F elements of the feed-forward's inside, V the vocabulary.

use crate::inputs::{InputSquares, Origin};
use crate::source::{Part, Place, RotatedHeads, Source};
use crate::{Cache, Chunk, Error};
use freehold_formats::Importance;
use freehold_kernels::{
    ActivationKind, Activations, AttentionInput, AttentionShape, Compute, Gate, KV_BLOCK, Matrix, Product,
    RopeFrequencies, RopeStyle, RopeTable,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A projection: N × K weights and, in some models, a bias.
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) origin: Origin,
}

impl Linear {
    pub(crate) fn load(source: &Source<'_>, place: Place, name: &str, rows: usize, cols: usize) -> Result<Self, Error> {
        let [linear] = Self::load_parts(source, place, name, [rows.into()], cols)?;
        Ok(linear)
    }

    /// Several projections of the same input that one tensor holds one below the other.
    pub(crate) fn load_parts<const N: usize>(
        source: &Source<'_>,
        place: Place,
        name: &str,
        parts: [Part; N],
        cols: usize,
    ) -> Result<[Self; N], Error> {
        let mut matrices = source.matrices(place, name, &parts, cols)?.into_iter();
        let mut biases = source.biases(place, name, &parts)?.map(Vec::into_iter);
        let tensor: Arc<str> = place.name_in_gguf(name, "weight").into();
        Ok(parts.map(|_| Self {
            matrix: matrices.next().expect("one matrix for each part"),
            bias: biases.as_mut().map(|biases| biases.next().expect("one bias for each part")),
            origin: Origin { tensor: Arc::clone(&tensor), expert: 0, experts: 1 },
        }))
    }
}

/// Root mean square norm.
pub(crate) struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(crate) fn load(source: &Source<'_>, place: Place, name: &str, length: usize) -> Result<Self, Error> {
        let epsilon = source.epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps")?;
        Ok(Self { weight: source.norm(place, name, length)?, epsilon })
    }
}

/// What norms of q and k go over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadNorms {
    /// There are none.
    None,
    /// Each head by itself, all with the same weights, before rope.
    EachHead,
    /// The same, after rope.
    EachRotatedHead,
    /// All heads together, before rope.
    AllHeads,
}

/// Grouped-query attention.
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    output: Linear,
    /// Norms of q and k.
    norms: Option<[Norm; 2]>,
    norms_after_rope: bool,
    shape: AttentionShape,
    /// Which of the model's frequencies rotate q and k; none where positions are not embedded.
    rope: Option<usize>,
}

impl Attention {
    /// `rotated`: how the heads of q and k lie in the file.
    pub(crate) fn load(
        source: &Source<'_>,
        layer: usize,
        width: usize,
        shape: AttentionShape,
        head_norms: HeadNorms,
        rope: Option<usize>,
        rotated: RotatedHeads,
    ) -> Result<Self, Error> {
        let place = Place::Layer(layer);
        let heads = |heads| Part { rows: heads * shape.k_dim, heads: Some(rotated) };
        let parts = [heads(shape.heads), heads(shape.kv_heads), (shape.kv_heads * shape.v_dim).into()];
        let [q, k, v] = if source.has(place, "attn_qkv") {
            Linear::load_parts(source, place, "attn_qkv", parts, width)?
        } else {
            let load = |name, part| Linear::load_parts(source, place, name, [part], width).map(|[linear]| linear);
            [load("attn_q", parts[0])?, load("attn_k", parts[1])?, load("attn_v", parts[2])?]
        };
        let norms = match head_norms {
            HeadNorms::None => None,
            HeadNorms::EachHead | HeadNorms::EachRotatedHead => Some([shape.k_dim; 2]),
            HeadNorms::AllHeads => Some([parts[0].rows, parts[1].rows]),
        };
        let norm = |name, length| Norm::load(source, place, name, length);
        Ok(Self {
            q,
            k,
            v,
            output: Linear::load(source, place, "attn_output", width, shape.heads * shape.v_dim)?,
            norms: norms
                .map(|[q, k]| Ok::<_, Error>([norm("attn_q_norm", q)?, norm("attn_k_norm", k)?]))
                .transpose()?,
            norms_after_rope: head_norms == HeadNorms::EachRotatedHead,
            shape,
            rope,
        })
    }

    pub(crate) fn projections(&self) -> [&Linear; 4] {
        [&self.q, &self.k, &self.v, &self.output]
    }

    /// x: (M, C) → (M, C).
    pub(crate) fn forward(&self, step: &mut Step<'_>, layer: usize, x: &[f32]) -> Vec<f32> {
        let [mut q, mut k, v] = step.project(x, [&self.q, &self.k, &self.v]);
        if !self.norms_after_rope {
            [q, k] = self.norm(step, q, k);
        }
        if let Some(rope) = self.rope {
            step.rope(rope, &mut q, &self.shape);
            step.rope(rope, &mut k, &self.shape);
        }
        if self.norms_after_rope {
            [q, k] = self.norm(step, q, k);
        }
        step.write(layer, &k, &v);
        let attended = step.attend(layer, &self.shape, &q);
        let [out] = step.project(&attended, [&self.output]);
        step.give([q, k, v, attended]);
        out
    }

    fn norm(&self, step: &mut Step<'_>, q: Vec<f32>, k: Vec<f32>) -> [Vec<f32>; 2] {
        let Some([q_norm, k_norm]) = &self.norms else { return [q, k] };
        let normed = [step.norm(&q, q_norm), step.norm(&k, k_norm)];
        step.give([q, k]);
        normed
    }
}

/// Feed-forward with a gate (Shazeer, arXiv 2002.05202).
pub(crate) struct GatedUnit {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) kind: Gate,
}

/// Where a gated unit's tensors are.
#[derive(Clone, Copy)]
pub(crate) enum UnitTensors {
    /// `ffn_gate`, `ffn_up` and `ffn_down`.
    Separate,
    /// The gate lies above the other half in `ffn_up`.
    Fused,
    /// Of the expert that every token goes to.
    Shared,
}

impl GatedUnit {
    pub(crate) fn load(
        source: &Source<'_>,
        layer: usize,
        tensors: UnitTensors,
        width: usize,
        inner: usize,
        kind: Gate,
    ) -> Result<Self, Error> {
        let place = Place::Layer(layer);
        let load = |name, rows, cols| Linear::load(source, place, name, rows, cols);
        let ([gate, up], down) = match tensors {
            UnitTensors::Separate => ([load("ffn_gate", inner, width)?, load("ffn_up", inner, width)?], "ffn_down"),
            UnitTensors::Fused => (Linear::load_parts(source, place, "ffn_up", [inner.into(); 2], width)?, "ffn_down"),
            UnitTensors::Shared => {
                ([load("ffn_gate_shexp", inner, width)?, load("ffn_up_shexp", inner, width)?], "ffn_down_shexp")
            }
        };
        Ok(Self { gate, up, down: load(down, width, inner)?, kind })
    }

    pub(crate) fn matrices(&self) -> [&Matrix; 3] {
        [&self.gate, &self.up, &self.down].map(|linear| &linear.matrix)
    }

    /// x: (M, C) → (M, C).
    pub(crate) fn forward(&self, step: &mut Step<'_>, x: &[f32]) -> Vec<f32> {
        let mut out = step.buffers.take(x.len());
        self.forward_into(step, x, &mut out);
        out
    }

    /// The same into a buffer of the caller's.
    pub(crate) fn forward_into(&self, step: &mut Step<'_>, x: &[f32], out: &mut [f32]) {
        let [gate, up] = step.project(x, [&self.gate, &self.up]);
        let mut inner = step.buffers.take(gate.len());
        step.compute.gate_mul(self.kind, &gate, &up, &mut inner, self.gate.matrix.rows());
        step.project_into(&inner, &self.down, out);
        step.give([gate, up, inner]);
    }
}

/// Buffers kept from step to step, so that a step allocates nothing once they have grown.
#[derive(Default)]
pub struct Workspace {
    free: Vec<Vec<f32>>,
    activations: Activations,
    squares: Option<InputSquares>,
}

impl Workspace {
    /// One in which the model's passes also sum up what goes into the matrices of its layers.
    pub fn collecting() -> Self {
        Self { squares: Some(InputSquares::default()), ..Self::default() }
    }

    /// What was summed up for each tensor, by its name in GGUF.
    ///
    /// # Errors
    /// What is wrong where the model's numbers overflowed.
    pub fn importance(self) -> Result<BTreeMap<String, Importance>, &'static str> {
        self.squares.unwrap_or_default().finish()
    }

    /// `length` numbers, stale: whoever takes them writes them all.
    pub(crate) fn take(&mut self, length: usize) -> Vec<f32> {
        let fits = self.free.iter().position(|buffer| buffer.capacity() >= length);
        let mut buffer = fits.or(self.free.len().checked_sub(1)).map_or_else(Vec::new, |at| self.free.swap_remove(at));
        buffer.resize(length, 0.0);
        buffer
    }

    fn give(&mut self, buffer: Vec<f32>) {
        self.free.push(buffer);
    }
}

/// One forward pass under way: the batch, the cache it writes, and where its buffers come from.
pub(crate) struct Step<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) chunks: &'a [Chunk<'a>],
    pub(crate) cache: &'a mut Cache,
    pub(crate) buffers: &'a mut Workspace,
    /// One for each of the model's frequencies.
    ropes: Vec<RopeTable>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(
        compute: &'a Compute,
        chunks: &'a [Chunk<'a>],
        cache: &'a mut Cache,
        buffers: &'a mut Workspace,
        frequencies: &[RopeFrequencies],
    ) -> Self {
        let positions = || chunks.iter().flat_map(|chunk| chunk.start..chunk.start + chunk.tokens.len());
        let ropes = frequencies.iter().map(|frequencies| RopeTable::new(frequencies, positions())).collect();
        Self { compute, chunks, cache, buffers, ropes }
    }

    /// Gives buffers back for the next operation.
    pub(crate) fn give<const N: usize>(&mut self, buffers: [Vec<f32>; N]) {
        for buffer in buffers {
            self.buffers.give(buffer);
        }
    }

    /// The embeddings of the batch's tokens, (M, C).
    pub(crate) fn embed(&mut self, embedding: &Matrix) -> Vec<f32> {
        let width = embedding.cols();
        let tokens = self.chunks.iter().flat_map(|chunk| chunk.tokens);
        let mut x = self.buffers.take(tokens.clone().count() * width);
        for (row, &token) in x.chunks_exact_mut(width).zip(tokens) {
            embedding.dequantize_row(token as usize, row);
        }
        x
    }

    /// Norms the rows of x, each as long as the norm's weights.
    pub(crate) fn norm(&mut self, x: &[f32], norm: &Norm) -> Vec<f32> {
        let mut out = self.buffers.take(x.len());
        self.compute.rms_norm(x, &norm.weight, norm.epsilon, &mut out);
        out
    }

    /// Projections of the same x: (M, K), each to (M, its rows).
    pub(crate) fn project<const N: usize>(&mut self, x: &[f32], linears: [&Linear; N]) -> [Vec<f32>; N] {
        self.observe(x, &linears);
        let rows = x.len() / linears[0].matrix.cols();
        let mut outs = linears.map(|linear| self.buffers.take(rows * linear.matrix.rows()));
        let mut products: Vec<Product<'_>> = linears
            .iter()
            .zip(&mut outs)
            .map(|(linear, out)| Product { matrix: &linear.matrix, bias: linear.bias.as_deref(), out })
            .collect();
        // Activations are brought once into each form that some of the matrices take.
        products.sort_by_key(|product| ActivationKind::of(product.matrix.dtype()) as u8);
        for products in
            products.chunk_by_mut(|a, b| ActivationKind::of(a.matrix.dtype()) == ActivationKind::of(b.matrix.dtype()))
        {
            self.multiply(x, products);
        }
        outs
    }

    /// The product of x: (M, K) with one matrix, into a buffer of the caller's.
    pub(crate) fn project_into(&mut self, x: &[f32], linear: &Linear, out: &mut [f32]) {
        self.observe(x, &[linear]);
        self.multiply(x, &mut [Product { matrix: &linear.matrix, bias: linear.bias.as_deref(), out }]);
    }

    /// Sums up what goes into matrices, where that is wanted.
    fn observe(&mut self, x: &[f32], linears: &[&Linear]) {
        if let Some(squares) = &mut self.buffers.squares {
            squares.add(self.compute, x, linears);
        }
    }

    /// Products of x with matrices that take activations in one form.
    fn multiply(&mut self, x: &[f32], products: &mut [Product<'_>]) {
        let matrix = products[0].matrix;
        let activations = &mut self.buffers.activations;
        self.compute.prepare(ActivationKind::of(matrix.dtype()), x, matrix.cols(), activations);
        self.compute.matmul(activations, products);
    }

    /// Turns each token's heads by the angles of its position.
    fn rope(&self, rope: usize, x: &mut [f32], shape: &AttentionShape) {
        let tokens: usize = self.chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let vector = self.compute.vector();
        self.compute.for_rows(x, x.len() / tokens, |token, heads| {
            let (cos, sin) = self.ropes[rope].row(token);
            vector.rope(heads, shape.k_dim, cos, sin, RopeStyle::Halves);
        });
    }

    /// Puts the batch's keys and values, (M, G·D) each, into the cache.
    fn write(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        let cache = &mut self.cache.layers[layer];
        let shape = cache.shape();
        let (k_width, v_width) = (shape.kv_heads * shape.k_dim, shape.kv_heads * shape.v_dim);
        let mut row = 0;
        for chunk in self.chunks {
            let end = row + chunk.tokens.len();
            let mut position = chunk.start;
            while row < end {
                let slot = position % KV_BLOCK;
                let count = (KV_BLOCK - slot).min(end - row);
                let block = chunk.blocks[position / KV_BLOCK];
                cache.write(
                    block,
                    slot,
                    &k[row * k_width..][..count * k_width],
                    &v[row * v_width..][..count * v_width],
                );
                row += count;
                position += count;
            }
        }
    }

    /// Attention of the batch's queries, (M, H·D) → (M, H·D).
    fn attend(&mut self, layer: usize, shape: &AttentionShape, q: &[f32]) -> Vec<f32> {
        let width = shape.heads * shape.k_dim;
        let mut out = self.buffers.take(q.len() / width * shape.heads * shape.v_dim);
        let positions =
            self.chunks.iter().flat_map(|chunk| (0..chunk.tokens.len()).map(|i| (chunk.start + i, chunk.blocks)));
        let tokens: Vec<AttentionInput<'_>> = q
            .chunks_exact(width)
            .zip(positions)
            .map(|(q, (position, blocks))| AttentionInput { q, position, blocks })
            .collect();
        self.compute.attend(&self.cache.layers[layer], shape, &tokens, &mut out);
        out
    }
}
