//! Attention for AVX2. Scores are vectors over keys and outputs vectors over dimensions, so every sum keeps the
//! reference's order; up to three query heads that see the same keys go together, so that a loaded vector serves all.

use super::vector::{exp8, largest, load, softcap8, store, tree};
use crate::attention::{Attention, AttentionScratch, finish, slots};
use crate::kv::{BlockView, KV_BLOCK, Zeroed};
use std::arch::x86_64::*;
use std::ops::Range;

/// How many query heads go together: 3 × 4 sums, three broadcasts and one load fill the 16 registers.
const TILE: usize = 3;

/// A query head of a row: what the loops below go over.
struct Unit<'a> {
    q: &'a [f32],
    out: &'a mut [f32],
    /// The positions that it sees.
    visible: Range<usize>,
    /// The largest score of the blocks merged so far, and the sum of weights against it.
    max: f32,
    sum: f32,
    sink: Option<f32>,
}

/// Numbers as a block holds them.
trait Element: Copy {
    /// Eight of them, widened.
    ///
    /// # Safety
    /// `from` must point to eight readable elements, and the machine must have AVX2, FMA and F16C.
    unsafe fn load(from: *const Self) -> __m256;

    /// One of them, widened.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for u16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline]
    fn widen(self) -> f32 {
        half::f16::from_bits(self).to_f32_const()
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attend(attention: &Attention<'_>, out: &mut [f32], scratch: &mut AttentionScratch) {
    let (shape, rows) = (attention.shape, attention.rows);
    let [wide_keys, wide_values] = &mut scratch.widened;
    let (group, k_dim, v_dim) = (shape.group(), shape.k_dim, shape.v_dim);
    let mut units: Vec<Unit<'_>> = out
        .chunks_exact_mut(v_dim)
        .enumerate()
        .map(|(unit, out)| {
            let row = unit / group;
            let visible = shape.visible(rows[row].position);
            let head = unit % group;
            Unit { q: attention.query(row, head), out, visible, max: 0.0, sum: 0.0, sink: attention.sink(head) }
        })
        .collect();
    let first = units.iter().map(|unit| unit.visible.start / KV_BLOCK).min().unwrap_or(0);
    let end = units.iter().map(|unit| unit.visible.end.div_ceil(KV_BLOCK)).max().unwrap_or(0);
    for index in first..end {
        let (scale, softcap) = (shape.scale, shape.softcap);
        match attention.block(index) {
            (BlockView::F32(keys), BlockView::F32(values)) => {
                Block { index, keys, values, scale, softcap }.enter(&mut units);
            }
            (BlockView::F16(keys), BlockView::F16(values)) if units.len() > TILE => {
                // More than one tile would widen it: once for all is faster, measured from six heads on.
                let keys = widened(keys, wide_keys, k_dim * KV_BLOCK);
                let values = widened(values, wide_values, v_dim * KV_BLOCK);
                Block { index, keys, values, scale, softcap }.enter(&mut units);
            }
            (BlockView::F16(keys), BlockView::F16(values)) => {
                Block { index, keys, values, scale, softcap }.enter(&mut units);
            }
            (BlockView::F32(_), BlockView::F16(_)) | (BlockView::F16(_), BlockView::F32(_)) => {
                unreachable!("a layer's keys and values are of one type")
            }
        }
    }
    for unit in units {
        finish(unit.out, unit.max, unit.sum, unit.sink);
    }
}

/// `from` as f32, in memory that is kept between calls.
#[target_feature(enable = "avx2,fma,f16c")]
fn widened<'a>(from: &[u16], memory: &'a mut Zeroed<f32>, length: usize) -> &'a [f32] {
    if memory.as_slice().len() < length {
        *memory = Zeroed::new(length).expect("memory for one block of one kv head");
    }
    let (to, from) = (&mut memory.as_mut_slice()[..length], &from[..length]);
    // A block has 64 keys, so its length is a multiple of eight.
    for (to, from) in to.as_chunks_mut::<8>().0.iter_mut().zip(from.as_chunks::<8>().0) {
        // SAFETY: `from` is eight elements.
        store(to, unsafe { u16::load(from.as_ptr()) });
    }
    to
}

/// One block of the sequence.
#[derive(Clone, Copy)]
struct Block<'a, T> {
    index: usize,
    /// `[k_dim][64]`.
    keys: &'a [T],
    /// `[64][v_dim]`.
    values: &'a [T],
    scale: f32,
    softcap: Option<f32>,
}

impl<T: Element> Block<'_, T> {
    /// Takes it into every unit that sees some of it, in runs of units that see the same keys.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn enter(self, units: &mut [Unit<'_>]) {
        let mut rest = units;
        while let [unit, ..] = &*rest {
            let visible = slots(&unit.visible, self.index);
            let same = rest.iter().take(TILE).take_while(|unit| slots(&unit.visible, self.index) == visible).count();
            let (run, after) = rest.split_at_mut(same);
            rest = after;
            if visible.is_empty() {
                continue;
            }
            match run {
                [a, b, c] => self.enter_tile([a, b, c], visible),
                [a, b] => self.enter_tile([a, b], visible),
                [a] => self.enter_tile([a], visible),
                _ => unreachable!("a run has one to three units"),
            }
        }
    }

    /// The same for Q units that all see its `slots`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn enter_tile<const Q: usize>(self, mut units: [&mut Unit<'_>; Q], slots: Range<usize>) {
        let mut weights = [[0.0; KV_BLOCK]; Q];
        let queries = units.each_ref().map(|unit| unit.q);
        if Q == 1 {
            self.scores::<Q, 8>(queries, 0, &mut weights);
        } else {
            for half in [0, KV_BLOCK / 2] {
                if slots.start < half + KV_BLOCK / 2 && slots.end > half {
                    self.scores::<Q, 4>(queries, half, &mut weights);
                }
            }
        }

        let mut merges = [Merge { fresh: true, old: 0.0, new: 0.0 }; Q];
        let mut sums = [0.0; Q];
        // How far the maximum so far (0 to 3) and the block's (4 to 7) are from the new one.
        let mut exponents = [0.0; 8];
        for (i, unit) in units.iter_mut().enumerate() {
            let (max, sum) = soften(&mut weights[i], &slots, self.scale, self.softcap);
            let fresh = unit.visible.start / KV_BLOCK == self.index;
            let new_max = if fresh { max } else { unit.max.max(max) };
            (exponents[i], exponents[i + 4]) = (unit.max - new_max, max - new_max);
            (unit.max, sums[i], merges[i].fresh) = (new_max, sum, fresh);
        }
        let exponential = exp8(load(&exponents));
        store(&mut exponents, exponential);
        for (i, (unit, merge)) in units.iter_mut().zip(&mut merges).enumerate() {
            (merge.old, merge.new) = (exponents[i], exponents[i + 4]);
            unit.sum = merge.of(unit.sum, sums[i]);
        }

        let v_dim = self.values.len() / KV_BLOCK;
        let mut d = 0;
        while d + 32 <= v_dim {
            self.weigh::<Q, 4>(&weights, &slots, &merges, d, &mut units);
            d += 32;
        }
        while d + 8 <= v_dim {
            self.weigh::<Q, 1>(&weights, &slots, &merges, d, &mut units);
            d += 8;
        }
        for d in d..v_dim {
            for (i, unit) in units.iter_mut().enumerate() {
                let weighted = slots
                    .clone()
                    .fold(0.0f32, |sum, slot| weights[i][slot].mul_add(self.values[slot * v_dim + d].widen(), sum));
                unit.out[d] = merges[i].of(unit.out[d], weighted);
            }
        }
    }

    /// q·k of Q queries with N vectors of keys from slot `from` on: one chain per key, over the dimensions.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(clippy::needless_range_loop, reason = "n counts vectors of three things alike")]
    fn scores<const Q: usize, const N: usize>(self, q: [&[f32]; Q], from: usize, scores: &mut [[f32; KV_BLOCK]; Q]) {
        let k_dim = self.keys.len() / KV_BLOCK;
        assert!(from + 8 * N <= KV_BLOCK && q.iter().all(|q| q.len() == k_dim));
        let mut sums = [[_mm256_setzero_ps(); N]; Q];
        for d in 0..k_dim {
            // SAFETY: the queries have k_dim elements.
            let q: [__m256; Q] = q.map(|q| _mm256_set1_ps(unsafe { *q.get_unchecked(d) }));
            for n in 0..N {
                // SAFETY: row d of the k_dim rows of 64 keys, and within it from + 8·N ≤ 64.
                let keys = unsafe { T::load(self.keys.as_ptr().add(d * KV_BLOCK + from + 8 * n)) };
                for i in 0..Q {
                    sums[i][n] = _mm256_fmadd_ps(q[i], keys, sums[i][n]);
                }
            }
        }
        for (scores, sums) in scores.iter_mut().zip(sums) {
            for (scores, sums) in scores[from..].as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                store(scores, sums);
            }
        }
    }

    /// Weights times values for N vectors of dimensions from `d` on, one chain per dimension over the visible keys,
    /// merged into the outputs.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(clippy::needless_range_loop, reason = "n counts vectors of three things alike")]
    fn weigh<const Q: usize, const N: usize>(
        self,
        weights: &[[f32; KV_BLOCK]; Q],
        slots: &Range<usize>,
        merges: &[Merge; Q],
        d: usize,
        units: &mut [&mut Unit<'_>; Q],
    ) {
        let v_dim = self.values.len() / KV_BLOCK;
        assert!(d + 8 * N <= v_dim && slots.end <= KV_BLOCK);
        let mut sums = [[_mm256_setzero_ps(); N]; Q];
        for slot in slots.clone() {
            // SAFETY: slots end within the 64 of a block.
            let weights: [__m256; Q] =
                weights.each_ref().map(|weights| _mm256_set1_ps(unsafe { *weights.get_unchecked(slot) }));
            for n in 0..N {
                // SAFETY: row `slot` of 64 rows of v_dim, and within it d + 8·N ≤ v_dim.
                let values = unsafe { T::load(self.values.as_ptr().add(slot * v_dim + d + 8 * n)) };
                for i in 0..Q {
                    sums[i][n] = _mm256_fmadd_ps(weights[i], values, sums[i][n]);
                }
            }
        }
        for ((unit, sums), merge) in units.iter_mut().zip(sums).zip(merges) {
            let (old, new) = (_mm256_set1_ps(merge.old), _mm256_set1_ps(merge.new));
            for (out, sum) in unit.out[d..].as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                let merged = if merge.fresh { sum } else { _mm256_fmadd_ps(sum, new, _mm256_mul_ps(load(out), old)) };
                store(out, merged);
            }
        }
    }
}

/// How a block joins those before it.
#[derive(Clone, Copy)]
struct Merge {
    /// There are none before it: it is copied.
    fresh: bool,
    /// What those before are multiplied by.
    old: f32,
    /// What the block is multiplied by.
    new: f32,
}

impl Merge {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn of(self, before: f32, block: f32) -> f32 {
        if self.fresh { block } else { block.mul_add(self.new, before * self.old) }
    }
}

/// Scales (and caps) the scores of a block and turns them into weights, +0 outside `slots`. Returns the largest scaled score in
/// `slots` and the sum of the weights.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn soften(scores: &mut [f32; KV_BLOCK], slots: &Range<usize>, scale: f32, softcap: Option<f32>) -> (f32, f32) {
    let scale = _mm256_set1_ps(scale);
    let (chunks, _) = scores.as_chunks_mut::<8>();
    let mut max = _mm256_set1_ps(f32::NEG_INFINITY);
    let masked = slots.len() < KV_BLOCK;
    let (start, end) = (_mm256_set1_epi32(slots.start as i32 - 1), _mm256_set1_epi32(slots.end as i32));
    for (i, chunk) in chunks.iter_mut().enumerate() {
        let mut score = _mm256_mul_ps(load(chunk), scale);
        if let Some(cap) = softcap {
            score = softcap8(score, _mm256_set1_ps(cap));
        }
        if masked {
            let slot = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * i as i32));
            let visible = _mm256_and_si256(_mm256_cmpgt_epi32(slot, start), _mm256_cmpgt_epi32(end, slot));
            // −∞ is never the maximum and its weight is +0.
            score = _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), score, _mm256_castsi256_ps(visible));
        }
        store(chunk, score);
        max = _mm256_max_ps(max, score);
    }
    let max = largest(max);
    let eight = _mm256_set1_ps(max);
    let mut lanes = [_mm256_setzero_ps(); 2];
    for (i, chunk) in chunks.iter_mut().enumerate() {
        let weight = exp8(_mm256_sub_ps(load(chunk), eight));
        store(chunk, weight);
        lanes[i % 2] = _mm256_add_ps(lanes[i % 2], weight);
    }
    (max, tree(lanes[0], lanes[1]))
}
