//! Norms, activations, rope and the other operations that are no matrix product: the table of functions, one per
//! instruction set, and the scalar reference that defines the bits.

use crate::attention::{self, Attention, AttentionRow, AttentionScratch, AttentionShape, Seen};
use crate::isa::Isa;
use crate::kv::KvLayer;
use crate::math;
use crate::rope::RopeStyle;

/// One function per operation. An instruction set overrides what it does faster and takes the rest from the reference.
///
/// The functions are unsafe because those of an instruction set may only run where it is available; lengths have been
/// checked before they are called.
#[derive(Clone, Copy)]
pub(crate) struct VectorTable {
    pub(crate) rms_norm: unsafe fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    pub(crate) add_scaled: unsafe fn(x: &mut [f32], y: &[f32], scale: f32),
    pub(crate) silu_mul: unsafe fn(gate: &[f32], up: &[f32], out: &mut [f32]),
    pub(crate) gelu_mul: unsafe fn(gate: &[f32], up: &[f32], out: &mut [f32]),
    pub(crate) clamped_silu_mul: unsafe fn(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]),
    pub(crate) softcap: unsafe fn(x: &mut [f32], cap: f32),
    pub(crate) exp: unsafe fn(x: &mut [f32]),
    pub(crate) sigmoid: unsafe fn(x: &mut [f32]),
    pub(crate) log_sum_exp: unsafe fn(x: &[f32]) -> f32,
    pub(crate) rope: unsafe fn(head: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle),
    pub(crate) attend: Attend,
}

/// Merges the blocks of an attention, row by row and head by head, into `out` and `seen`: see [`attention::attend`].
pub(crate) type Attend =
    unsafe fn(attention: &Attention<'_>, out: &mut [f32], seen: &mut [Seen], scratch: &mut AttentionScratch);

/// The scalar reference.
pub(crate) static REFERENCE: VectorTable = VectorTable {
    rms_norm,
    add_scaled,
    silu_mul,
    gelu_mul,
    clamped_silu_mul,
    softcap,
    exp,
    sigmoid,
    log_sum_exp,
    rope,
    attend: attention::attend,
};

/// How a gated feed-forward lets its gate act on the other half.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Gate {
    /// `silu(gate) · up` with `silu(g) = g / (1 + exp(−g))` (arXiv 2002.05202).
    Silu,
    /// `gelu(gate) · up`: see [`math::gelu`].
    Gelu,
    /// With `g = min(gate, limit)` and `u = up` kept within ±`limit`: `g / (1 + exp(−(alpha · g))) · (u + 1)`, as GPT-OSS
    /// has it (arXiv 2508.10925). A NaN in either makes the output one.
    ClampedSilu {
        /// What the gate is multiplied by inside the exponential.
        alpha: f32,
        /// Above 0.
        limit: f32,
    },
}

/// The functions for an instruction set that is available.
fn vector_table(isa: Isa) -> &'static VectorTable {
    match isa {
        Isa::Reference => &REFERENCE,
        #[cfg(x86)]
        Isa::Avx2 => &crate::avx2::vector::TABLE,
        #[cfg(x86)]
        Isa::Avx512 | Isa::Amx => &crate::avx512::vector::TABLE,
        #[cfg(not(x86))]
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("never available here"),
    }
}

/// The operations that are no matrix product, each on the calling thread.
///
/// Shape letters: H heads, D elements of a head. Every method panics where lengths do not match: that is a bug of the
/// caller, no property of the data. The bits are the same for every instruction set.
#[derive(Clone, Copy)]
pub struct VectorKernels {
    table: &'static VectorTable,
}

impl VectorKernels {
    /// The functions of `isa`.
    ///
    /// # Panics
    /// If this machine cannot run it: ask [`Isa::is_available`] first.
    pub fn new(isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine cannot run {isa}");
        Self { table: vector_table(isa) }
    }

    /// `out = x · 1/√(mean(x²) + eps) · weight`, all of one length: root mean square normalisation (arXiv 1910.07467).
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "rms_norm: lengths differ");
        // SAFETY: `new` checked that the instruction set is available.
        unsafe { (self.table.rms_norm)(x, weight, eps, out) }
    }

    /// `x = fma(y, scale, x)`; with a scale of 1, `x + y`.
    pub fn add_scaled(&self, x: &mut [f32], y: &[f32], scale: f32) {
        assert_eq!(x.len(), y.len(), "add_scaled: lengths differ");
        // SAFETY: `new` checked that the instruction set is available.
        unsafe { (self.table.add_scaled)(x, y, scale) }
    }

    /// `out` = what `kind` makes of `gate` and `up`.
    pub fn gate_mul(&self, kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len(), "gate_mul: lengths differ");
        // SAFETY: `new` checked that the instruction set is available.
        unsafe {
            match kind {
                Gate::Silu => (self.table.silu_mul)(gate, up, out),
                Gate::Gelu => (self.table.gelu_mul)(gate, up, out),
                Gate::ClampedSilu { alpha, limit } => (self.table.clamped_silu_mul)(gate, up, alpha, limit, out),
            }
        }
    }

    /// `x = cap · tanh(x / cap)`: see [`math::softcap`].
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        // SAFETY: `new` checked that the instruction set is available.
        unsafe { (self.table.softcap)(x, cap) }
    }

    /// `x = exp(x)`: see [`math::exp`].
    pub fn exp(&self, x: &mut [f32]) {
        // SAFETY: `new` checked that the instruction set is available.
        unsafe { (self.table.exp)(x) }
    }

    /// `x = 1 / (1 + exp(−x))`: see [`math::sigmoid`].
    pub fn sigmoid(&self, x: &mut [f32]) {
        // SAFETY: `new` checked that the instruction set is available.
        unsafe { (self.table.sigmoid)(x) }
    }

    /// ln Σ exp(x): with it, log-probabilities are `x − log_sum_exp(x)`. −∞ for no numbers, or where all are −∞; a NaN
    /// makes it NaN.
    pub fn log_sum_exp(&self, x: &[f32]) -> f32 {
        // SAFETY: `new` checked that the instruction set is available.
        unsafe { (self.table.log_sum_exp)(x) }
    }

    /// Rotates the first `2 · cos.len()` elements of every head of one token, `x: [H][D]` with D = `head_dim`, by the
    /// angles whose cosines and sines are given, one per pair; the rest of each head stays.
    pub fn rope(&self, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], style: RopeStyle) {
        assert!(head_dim > 0 && x.len().is_multiple_of(head_dim), "rope: {} is not heads of {head_dim}", x.len());
        assert!(cos.len() == sin.len() && 2 * cos.len() <= head_dim, "rope: {} pairs in {head_dim}", cos.len());
        for head in x.chunks_exact_mut(head_dim) {
            // SAFETY: `new` checked that the instruction set is available.
            unsafe { (self.table.rope)(&mut head[..2 * cos.len()], cos, sin, style) }
        }
    }

    /// Attention of the query heads that read `kv_head`, for `rows` of one sequence whose block table is `blocks`, into
    /// `out: [rows][heads / kv_heads][v_dim]`.
    ///
    /// A row at position p sees the keys at p + 1 − window to p. Rows may come in any order and any number: each one's
    /// bits depend on nothing but its query and the keys and values that it sees.
    #[allow(clippy::too_many_arguments, reason = "each is a different thing; a struct would only rename them")]
    pub fn attend(
        &self,
        layer: &KvLayer,
        shape: &AttentionShape,
        kv_head: usize,
        rows: &[AttentionRow<'_>],
        blocks: &[u32],
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let attention = Attention::new(layer, shape, kv_head, rows, blocks, out);
        let mut seen = vec![Seen::default(); rows.len() * shape.group()];
        self.merge_blocks(&attention, out, &mut seen, scratch);
        for (head, (out, seen)) in out.chunks_exact_mut(shape.v_dim).zip(seen).enumerate() {
            attention::finish(out, seen, attention.sink(head % shape.group()));
        }
    }

    /// Merges an attention's blocks into `out: [rows][heads / kv_heads][v_dim]`, and what was seen per row and head.
    pub(crate) fn merge_blocks(
        &self,
        attention: &Attention<'_>,
        out: &mut [f32],
        seen: &mut [Seen],
        scratch: &mut AttentionScratch,
    ) {
        // SAFETY: `new` checked that the instruction set is available.
        unsafe { (self.table.attend)(attention, out, seen, scratch) }
    }

    /// Joins the blocks of one head, ascending, each with its weighted values and what was seen in it, to the head's output.
    pub(crate) fn join_blocks<'a>(
        &self,
        blocks: impl Iterator<Item = (&'a [f32], Seen)>,
        sink: Option<f32>,
        out: &mut [f32],
    ) {
        let mut all: Option<Seen> = None;
        for (values, block) in blocks {
            let Some(before) = all else {
                out.copy_from_slice(values);
                all = Some(block);
                continue;
            };
            let max = before.max.max(block.max);
            let mut factors = [before.max - max, block.max - max];
            // SAFETY: `new` checked that the instruction set is available.
            unsafe { (self.table.exp)(&mut factors) };
            let [old, new] = factors;
            out.iter_mut().for_each(|out| *out *= old);
            self.add_scaled(out, values, new);
            all = Some(Seen { max, sum: block.sum.mul_add(new, before.sum * old) });
        }
        if let Some(all) = all {
            attention::finish(out, all, sink);
        }
    }
}

/// The contract's sum: element i enters lane i mod 16 by `step`, ascending, from +0; then the tree.
pub(crate) fn lane_sum(x: &[f32], step: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; 16];
    for (i, &x) in x.iter().enumerate() {
        lanes[i % 16] = step(lanes[i % 16], x);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// The logarithm of a sum of exponentials whose maximum is −∞, where none but a NaN, which no maximum shows, is above it.
pub(crate) fn log_sum_of_nothing(x: &[f32]) -> f32 {
    if x.iter().any(|x| x.is_nan()) { f32::NAN } else { f32::NEG_INFINITY }
}

/// What a row is multiplied by, from its sum of squares.
pub(crate) fn rms_scale(sum_of_squares: f32, length: usize, eps: f32) -> f32 {
    1.0 / (sum_of_squares / length as f32 + eps).sqrt()
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = rms_scale(lane_sum(x, |lane, x| x.mul_add(x, lane)), x.len(), eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = y.mul_add(scale, *x);
    }
}

fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + math::exp(-gate)) * up;
    }
}

fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = math::gelu(gate) * up;
    }
}

/// The smaller one; a NaN stays one, which `f32::min` would hide.
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

fn clamped_silu_mul(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        let (gate, up) = (at_most(gate, limit), -at_most(-at_most(up, limit), limit));
        *out = gate / (1.0 + math::exp(-(alpha * gate))) * (up + 1.0);
    }
}

fn softcap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = math::softcap(*x, cap);
    }
}

fn exp(x: &mut [f32]) {
    for x in x {
        *x = math::exp(*x);
    }
}

fn sigmoid(x: &mut [f32]) {
    for x in x {
        *x = math::sigmoid(*x);
    }
}

fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return log_sum_of_nothing(x);
    }
    max + math::ln(lane_sum(x, |lane, x| lane + math::exp(x - max)))
}

fn rope(head: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
    for (pair, (&cos, &sin)) in cos.iter().zip(sin).enumerate() {
        let (i, j) = match style {
            RopeStyle::Halves => (pair, pair + head.len() / 2),
            RopeStyle::Pairs => (2 * pair, 2 * pair + 1),
        };
        (head[i], head[j]) = rotate(head[i], head[j], cos, sin);
    }
}

/// One pair, turned: `(a·cos − b·sin, b·cos + a·sin)`, the products with the sine rounded first.
fn rotate(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin))
}
