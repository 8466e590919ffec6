//! Attention over the blocked KV cache: what is asked, and the scalar reference that defines the bits.
//!
//! Keys are taken in blocks of 64 positions from position 0. Per block: scores, their maximum, weights, their sum and the
//! weighted values; then the blocks are merged in ascending order. Each query head of each token stands alone: how tokens
//! are batched, chunked or tiled changes nothing. Nor does who computes a block: it knows nothing of those before it until
//! it is merged.

use crate::kv::{BlockView, KV_BLOCK, KvLayer};
use crate::math;
use crate::vector::lane_sum;
use std::ops::Range;

/// The heads of one attention layer, and what they may see.
#[derive(Clone, PartialEq, Debug)]
pub struct AttentionShape {
    /// Query heads: a multiple of `kv_heads`. Query head h reads kv head h / (heads / kv_heads).
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Length of a query and of a key.
    pub k_dim: usize,
    /// Length of a value.
    pub v_dim: usize,
    /// What a score is multiplied by, usually 1/√`k_dim`.
    pub scale: f32,
    /// How many positions a token sees, itself included; all before it where this is missing.
    pub window: Option<usize>,
    /// What scaled scores are kept within, above 0: see [`math::softcap`].
    pub softcap: Option<f32>,
    /// A score per query head of something that has no value: it takes its share of the weights (arXiv 2309.17453).
    pub sinks: Option<Vec<f32>>,
}

impl AttentionShape {
    /// Query heads per kv head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The positions that a token at `position` sees.
    pub(crate) fn visible(&self, position: usize) -> Range<usize> {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
    }

    /// The blocks of its sequence that these are in.
    pub(crate) fn blocks(&self, position: usize) -> Range<usize> {
        let visible = self.visible(position);
        visible.start / KV_BLOCK..visible.end.div_ceil(KV_BLOCK)
    }
}

/// One token that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// Its queries, `[heads][k_dim]`.
    pub q: &'a [f32],
    /// Its position in the sequence. The keys up to and including it have been written.
    pub position: usize,
}

/// Working memory of one thread, grown as needed and kept between calls.
#[derive(Default)]
pub struct AttentionScratch {
    /// A block's keys and values, widened, for the instruction sets that do so.
    #[cfg(x86)]
    pub(crate) widened: [crate::zeroed::Zeroed<f32>; 2],
    /// The scales of a block's keys and values, widened.
    #[cfg(x86)]
    pub(crate) scales: [crate::zeroed::Zeroed<f32>; 2],
    /// One head's weighted values of a block.
    block_out: Vec<f32>,
}

/// What a query head has seen so far: the largest score, and the sum of weights against it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) max: f32,
    pub(crate) sum: f32,
}

/// One kv head's attention, checked: what the functions of the table get.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    pub(crate) layer: &'a KvLayer,
    pub(crate) shape: &'a AttentionShape,
    pub(crate) kv_head: usize,
    pub(crate) rows: &'a [AttentionRow<'a>],
    pub(crate) blocks: &'a [u32],
    /// Only this block of the sequence, if not all.
    only: Option<usize>,
}

impl<'a> Attention<'a> {
    /// Checks everything that the functions of the table rely on.
    ///
    /// # Panics
    /// If shapes, lengths or blocks do not match.
    pub(crate) fn new(
        layer: &'a KvLayer,
        shape: &'a AttentionShape,
        kv_head: usize,
        rows: &'a [AttentionRow<'a>],
        blocks: &'a [u32],
        out: &[f32],
    ) -> Self {
        let kv = layer.shape();
        assert_eq!((shape.kv_heads, shape.k_dim, shape.v_dim), (kv.kv_heads, kv.k_dim, kv.v_dim), "cache's shape");
        assert!(shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads), "{} heads", shape.heads);
        assert!(shape.window != Some(0), "a window of no positions");
        assert!(shape.softcap.is_none_or(|cap| cap > 0.0), "a cap of {:?}", shape.softcap);
        assert!(shape.sinks.as_ref().is_none_or(|sinks| sinks.len() == shape.heads), "one sink per head");
        assert!(kv_head < shape.kv_heads, "kv head {kv_head} of {}", shape.kv_heads);
        assert_eq!(out.len(), rows.len() * shape.group() * shape.v_dim, "output");
        for row in rows {
            assert_eq!(row.q.len(), shape.heads * shape.k_dim, "queries");
            assert!(row.position / KV_BLOCK < blocks.len(), "position {} of {} blocks", row.position, blocks.len());
        }
        assert!(blocks.iter().all(|&block| (block as usize) < layer.blocks()), "a block outside the cache");
        Self { layer, shape, kv_head, rows, blocks, only: None }
    }

    /// The same with block `index` alone, which every row must see some of.
    pub(crate) fn of_block(self, index: usize) -> Self {
        Self { only: Some(index), ..self }
    }

    /// The blocks to go over for a token at `position`.
    pub(crate) fn span(&self, position: usize) -> Range<usize> {
        self.only.map_or_else(|| self.shape.blocks(position), |index| index..index + 1)
    }

    /// The query of head `head` of this kv head's group.
    pub(crate) fn query(&self, row: usize, head: usize) -> &'a [f32] {
        let start = (self.kv_head * self.shape.group() + head) * self.shape.k_dim;
        &self.rows[row].q[start..start + self.shape.k_dim]
    }

    /// The sink of head `head` of this kv head's group.
    pub(crate) fn sink(&self, head: usize) -> Option<f32> {
        self.shape.sinks.as_ref().map(|sinks| sinks[self.kv_head * self.shape.group() + head])
    }

    /// K and V of block `index` of the sequence.
    pub(crate) fn block(&self, index: usize) -> (BlockView<'a>, BlockView<'a>) {
        let block = self.blocks[index] as usize;
        (self.layer.keys(block, self.kv_head), self.layer.values(block, self.kv_head))
    }
}

/// The part of `visible` that lies in block `index`, as slots of that block.
pub(crate) fn slots(visible: &Range<usize>, index: usize) -> Range<usize> {
    let start = index * KV_BLOCK;
    visible.start.clamp(start, start + KV_BLOCK) - start..visible.end.clamp(start, start + KV_BLOCK) - start
}

/// The weighted values of all blocks, brought to their mean: the sink, where there is one, comes in as a last block without
/// a value.
pub(crate) fn finish(out: &mut [f32], Seen { max, mut sum }: Seen, sink: Option<f32>) {
    if let Some(sink) = sink {
        let new_max = max.max(sink);
        let old = math::exp(max - new_max);
        sum = sum * old + math::exp(sink - new_max);
        out.iter_mut().for_each(|out| *out *= old);
    }
    out.iter_mut().for_each(|out| *out /= sum);
}

/// The reference: every row and head by itself. `seen` is of the blocks merged, and so is `out`: see [`finish`].
pub(crate) fn attend(attention: &Attention<'_>, out: &mut [f32], seen: &mut [Seen], scratch: &mut AttentionScratch) {
    let (group, v_dim) = (attention.shape.group(), attention.shape.v_dim);
    scratch.block_out.resize(v_dim, 0.0);
    let block_out = &mut scratch.block_out[..v_dim];
    for (unit, (out, seen)) in out.chunks_exact_mut(v_dim).zip(seen).enumerate() {
        let (row, head) = (unit / group, unit % group);
        let q = attention.query(row, head);
        let visible = attention.shape.visible(attention.rows[row].position);
        let span = attention.span(attention.rows[row].position);
        for index in span.clone() {
            let (keys, values) = attention.block(index);
            let slots = slots(&visible, index);
            let mut weights = [0.0; KV_BLOCK];
            for slot in slots.clone() {
                let mut score = 0.0f32;
                for (d, &q) in q.iter().enumerate() {
                    score = q.mul_add(keys.key(slot, d), score);
                }
                let score = attention.shape.scale * score;
                weights[slot] = attention.shape.softcap.map_or(score, |cap| math::softcap(score, cap));
            }
            let block_max = weights[slots.clone()].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for weight in &mut weights[slots.clone()] {
                *weight = math::exp(*weight - block_max);
            }
            let block_sum = lane_sum(&weights, |lane, weight| lane + weight);
            block_out.fill(0.0);
            for slot in slots {
                for (d, sum) in block_out.iter_mut().enumerate() {
                    *sum = weights[slot].mul_add(values.value(slot, d, v_dim), *sum);
                }
            }
            if index == span.start {
                out.copy_from_slice(block_out);
                *seen = Seen { max: block_max, sum: block_sum };
                continue;
            }
            let max = seen.max.max(block_max);
            let (old, new) = (math::exp(seen.max - max), math::exp(block_max - max));
            for (out, &block_out) in out.iter_mut().zip(&*block_out) {
                *out = block_out.mul_add(new, *out * old);
            }
            *seen = Seen { max, sum: block_sum.mul_add(new, seen.sum * old) };
        }
    }
}
