//! Attention. Scores are vectors over keys and outputs vectors over dimensions, so every sum keeps the reference's order; a
//! few query heads that see the same keys go together, so that a loaded vector serves all.

use super::Lanes;
use super::vector::{exp_of, softcap_of};
use crate::attention::{Attention, AttentionScratch, Seen, slots};
use crate::kv::{BlockView, KV_BLOCK, KV_GROUP};
use crate::zeroed::Zeroed;
use std::arch::x86_64::{__m256, _MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

/// How many query heads go together: with three, their 3 × 4 sums, three broadcasts and one load fill AVX2's 16 registers;
/// with six they fill AVX-512's 32.
const fn tile<L: Lanes>() -> usize {
    if L::COUNT == 16 { 6 } else { 3 }
}

/// How many query heads go together straight over bytes: their scales want registers too, which AVX2 has not.
const fn tile_of_bytes<L: Lanes>() -> usize {
    if L::COUNT == 16 { tile::<L>() } else { 1 }
}

/// Of how many positions the keys and values of a model's layers come from beyond the caches, and are fetched ahead.
const FAR: usize = 2048;

/// A query head of a row: what the loops below go over.
struct Unit<'a> {
    q: &'a [f32],
    out: &'a mut [f32],
    /// The positions that it sees.
    visible: Range<usize>,
    /// The blocks that are merged.
    blocks: Range<usize>,
    /// Of the blocks merged so far.
    seen: &'a mut Seen,
}

/// The keys or values of a block, as it holds them.
trait Numbers: Copy {
    /// Dimension `d` of a register of keys from `slot` on, widened.
    ///
    /// # Safety
    /// The block must have these keys and this dimension, and the features of `L` be enabled where it is inlined.
    unsafe fn keys<L: Lanes>(self, slot: usize, d: usize) -> L;

    /// A register of dimensions of the value in `slot`, from `d` on, widened. They are of one group; a value has `dim`.
    ///
    /// # Safety
    /// The block must have this value and these dimensions, and the features of `L` be enabled where it is inlined.
    unsafe fn values<L: Lanes>(self, slot: usize, d: usize, dim: usize) -> L;

    /// One dimension of the value in `slot`, widened.
    fn value(self, slot: usize, d: usize, dim: usize) -> f32;
}

impl Numbers for &[f32] {
    #[inline(always)]
    unsafe fn keys<L: Lanes>(self, slot: usize, d: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(self.as_ptr().add(d * KV_BLOCK + slot)) }
    }

    #[inline(always)]
    unsafe fn values<L: Lanes>(self, slot: usize, d: usize, dim: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(self.as_ptr().add(slot * dim + d)) }
    }

    #[inline(always)]
    fn value(self, slot: usize, d: usize, dim: usize) -> f32 {
        self[slot * dim + d]
    }
}

impl Numbers for &[u16] {
    #[inline(always)]
    unsafe fn keys<L: Lanes>(self, slot: usize, d: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(self.as_ptr().add(d * KV_BLOCK + slot)) }
    }

    #[inline(always)]
    unsafe fn values<L: Lanes>(self, slot: usize, d: usize, dim: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(self.as_ptr().add(slot * dim + d)) }
    }

    #[inline(always)]
    fn value(self, slot: usize, d: usize, dim: usize) -> f32 {
        half::f16::from_bits(self[slot * dim + d]).to_f32_const()
    }
}

/// Signed bytes, and their scales widened: each is read many times.
#[derive(Clone, Copy)]
struct Quantized<'a> {
    quants: &'a [i8],
    scales: &'a [f32],
}

impl Numbers for Quantized<'_> {
    #[inline(always)]
    unsafe fn keys<L: Lanes>(self, slot: usize, d: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let scales = L::load(self.scales.as_ptr().add(d / KV_GROUP * KV_BLOCK + slot));
            L::mul(L::load_i8(self.quants.as_ptr().add(d * KV_BLOCK + slot)), scales)
        }
    }

    #[inline(always)]
    unsafe fn values<L: Lanes>(self, slot: usize, d: usize, dim: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = *self.scales.as_ptr().add(slot * dim.div_ceil(KV_GROUP) + d / KV_GROUP);
            L::mul(L::load_i8(self.quants.as_ptr().add(slot * dim + d)), L::splat(scale))
        }
    }

    #[inline(always)]
    fn value(self, slot: usize, d: usize, dim: usize) -> f32 {
        self.scales[slot * dim.div_ceil(KV_GROUP) + d / KV_GROUP] * f32::from(self.quants[slot * dim + d])
    }
}

#[inline(always)]
pub(crate) unsafe fn attend<L: Lanes>(
    attention: &Attention<'_>,
    out: &mut [f32],
    seen: &mut [Seen],
    scratch: &mut AttentionScratch,
) {
    let (shape, rows) = (attention.shape, attention.rows);
    let (group, k_dim, v_dim) = (shape.group(), shape.k_dim, shape.v_dim);
    let mut units: Vec<Unit<'_>> = out
        .chunks_exact_mut(v_dim)
        .zip(seen)
        .enumerate()
        .map(|(unit, (out, seen))| {
            let row = unit / group;
            let position = rows[row].position;
            let (visible, blocks) = (shape.visible(position), attention.span(position));
            Unit { q: attention.query(row, unit % group), out, visible, blocks, seen }
        })
        .collect();
    let first = units.iter().map(|unit| unit.blocks.start).min().unwrap_or(0);
    let end = units.iter().map(|unit| unit.blocks.end).max().unwrap_or(0);
    // A single token waits for memory, where it sees much; several work on what is there.
    let waits = matches!(rows, [row] if shape.visible(row.position).len() >= FAR);
    for index in first..end {
        let (scale, softcap) = (shape.scale, shape.softcap);
        let next = (waits && index + 1 < attention.blocks.len()).then(|| attention.block(index + 1));
        let next = next.map(|(keys, values)| [keys.place(), values.place()]);
        // SAFETY: the target feature is the caller's promise.
        unsafe {
            match attention.block(index) {
                (BlockView::F32(keys), BlockView::F32(values)) => {
                    Block { index, keys, values, k_dim, v_dim, next, scale, softcap }.enter::<L>(&mut units);
                }
                (BlockView::F16(keys), BlockView::F16(values)) => {
                    Block { index, keys, values, k_dim, v_dim, next, scale, softcap }.enter_widened::<L>(
                        &mut units,
                        &mut scratch.widened,
                        tile::<L>(),
                    );
                }
                (BlockView::Q8_0(keys, key_scales), BlockView::Q8_0(values, value_scales)) => {
                    let [wide_keys, wide_values] = &mut scratch.scales;
                    let keys = Quantized { quants: keys, scales: widened::<L>(key_scales, wide_keys) };
                    let values = Quantized { quants: values, scales: widened::<L>(value_scales, wide_values) };
                    Block { index, keys, values, k_dim, v_dim, next, scale, softcap }.enter_widened::<L>(
                        &mut units,
                        &mut scratch.widened,
                        tile_of_bytes::<L>(),
                    );
                }
                _ => unreachable!("a layer's keys and values are of one type"),
            }
        }
    }
}

/// The beginning of memory that grows as needed.
fn room(memory: &mut Zeroed<f32>, length: usize) -> &mut [f32] {
    if memory.as_slice().len() < length {
        *memory = Zeroed::new(length).expect("memory for one block of one kv head");
    }
    &mut memory.as_mut_slice()[..length]
}

/// A block's scales as f32, in memory that is kept between calls.
#[inline(always)]
unsafe fn widened<'a, L: Lanes>(from: &[u16], memory: &'a mut Zeroed<f32>) -> &'a [f32] {
    let to = room(memory, from.len());
    // A block has 64 keys, so its length is a multiple of any register's.
    for (to, from) in to.chunks_exact_mut(L::COUNT).zip(from.chunks_exact(L::COUNT)) {
        // SAFETY: the target feature is the caller's promise; both are as long as a register.
        unsafe { L::store(to.as_mut_ptr(), L::load_f16(from.as_ptr())) };
    }
    to
}

/// One block of the sequence.
#[derive(Clone, Copy)]
struct Block<T> {
    index: usize,
    /// `[k_dim][64]`.
    keys: T,
    /// `[64][v_dim]`.
    values: T,
    k_dim: usize,
    v_dim: usize,
    /// Where the keys and values of the block after it lie, and their bytes: they are fetched while this one is worked on.
    next: Option<[(*const u8, usize); 2]>,
    scale: f32,
    softcap: Option<f32>,
}

impl<T: Numbers> Block<T> {
    /// As [`Block::enter`], by way of `memory` if there are more units than `direct`: widening once for all is faster then.
    #[inline(always)]
    unsafe fn enter_widened<L: Lanes>(self, units: &mut [Unit<'_>], memory: &mut [Zeroed<f32>; 2], direct: usize) {
        let Self { index, k_dim, v_dim, next, scale, softcap, .. } = self;
        if units.len() <= direct {
            // SAFETY: the target feature is the caller's promise.
            return unsafe { self.enter::<L>(units) };
        }
        let [keys, values] = memory;
        let (keys, values) = (room(keys, k_dim * KV_BLOCK), room(values, v_dim * KV_BLOCK));
        for (d, row) in keys.chunks_exact_mut(KV_BLOCK).enumerate() {
            for (i, row) in row.chunks_exact_mut(L::COUNT).enumerate() {
                // SAFETY: the target feature is the caller's promise. The block has k_dim dimensions of 64 keys, and the
                // register as much room.
                unsafe { L::store(row.as_mut_ptr(), self.keys.keys(i * L::COUNT, d)) };
            }
        }
        for (slot, row) in values.chunks_exact_mut(v_dim).enumerate() {
            let (registers, rest) = row.split_at_mut(v_dim - v_dim % L::COUNT);
            for (i, register) in registers.chunks_exact_mut(L::COUNT).enumerate() {
                // SAFETY: as above: 64 values of v_dim dimensions.
                unsafe { L::store(register.as_mut_ptr(), self.values.values(slot, i * L::COUNT, v_dim)) };
            }
            for (d, number) in (v_dim - v_dim % L::COUNT..).zip(rest) {
                *number = self.values.value(slot, d, v_dim);
            }
        }
        // SAFETY: the target feature is the caller's promise.
        unsafe {
            Block { index, keys: &*keys, values: &*values, k_dim, v_dim, next, scale, softcap }.enter::<L>(units);
        };
    }

    /// Takes it into every unit that sees some of it, in runs of units that see the same keys.
    #[inline(always)]
    unsafe fn enter<L: Lanes>(self, units: &mut [Unit<'_>]) {
        let mut rest = units;
        while let [unit, ..] = &*rest {
            let visible = slots(&unit.visible, self.index);
            let same =
                rest.iter().take(tile::<L>()).take_while(|unit| slots(&unit.visible, self.index) == visible).count();
            let (run, after) = rest.split_at_mut(same);
            rest = after;
            if visible.is_empty() {
                continue;
            }
            // SAFETY: the target feature is the caller's promise.
            unsafe {
                match run {
                    [a, b, c] => self.enter_tile::<L, 3>([a, b, c], visible),
                    [a, b] => self.enter_tile::<L, 2>([a, b], visible),
                    [a] => self.enter_tile::<L, 1>([a], visible),
                    [a, b, c, d] if L::COUNT == 16 => self.enter_tile::<L, 4>([a, b, c, d], visible),
                    [a, b, c, d, e] if L::COUNT == 16 => self.enter_tile::<L, 5>([a, b, c, d, e], visible),
                    [a, b, c, d, e, f] if L::COUNT == 16 => self.enter_tile::<L, 6>([a, b, c, d, e, f], visible),
                    _ => unreachable!("a run fits a tile"),
                }
            }
        }
    }

    /// The same for Q units that all see its `slots`.
    #[inline(always)]
    unsafe fn enter_tile<L: Lanes, const Q: usize>(self, mut units: [&mut Unit<'_>; Q], slots: Range<usize>) {
        let mut weights = [[0.0; KV_BLOCK]; Q];
        let queries = units.each_ref().map(|unit| unit.q);
        // SAFETY: the target feature is the caller's promise.
        unsafe {
            if Q == 1 && L::COUNT == 8 {
                // Eight chains side by side hide the latency of fma.
                self.scores::<L, Q, 8>(queries, 0, &mut weights);
            } else {
                for from in (0..KV_BLOCK).step_by(4 * L::COUNT) {
                    if slots.start < from + 4 * L::COUNT && slots.end > from {
                        self.scores::<L, Q, 4>(queries, from, &mut weights);
                    }
                }
            }
        }

        let mut merges = [Merge { fresh: true, old: 0.0, new: 0.0 }; Q];
        let mut sums = [0.0; Q];
        // How far the maximum so far (in the first half) and the block's (in the second) are from the new one.
        let mut exponents = [0.0; 16];
        let half = L::COUNT / 2;
        for (i, unit) in units.iter_mut().enumerate() {
            // SAFETY: the target feature is the caller's promise.
            let (max, sum) = unsafe { soften::<L>(&mut weights[i], &slots, self.scale, self.softcap) };
            let fresh = unit.blocks.start == self.index;
            let new_max = if fresh { max } else { unit.seen.max.max(max) };
            (exponents[i], exponents[i + half]) = (unit.seen.max - new_max, max - new_max);
            (unit.seen.max, sums[i], merges[i].fresh) = (new_max, sum, fresh);
        }
        // SAFETY: the target feature is the caller's promise; there are as many exponents as any register has.
        unsafe { L::store(exponents.as_mut_ptr(), exp_of(L::load(exponents.as_ptr()))) };
        for (i, (unit, merge)) in units.iter_mut().zip(&mut merges).enumerate() {
            (merge.old, merge.new) = (exponents[i], exponents[i + half]);
            unit.seen.sum = merge.of(unit.seen.sum, sums[i]);
        }

        let v_dim = self.v_dim;
        let mut d = 0;
        // SAFETY: the target feature is the caller's promise, and AVX2 is among those of every instruction set.
        unsafe {
            while d + 4 * L::COUNT <= v_dim {
                self.weigh::<L, Q, 4>(&weights, &slots, &merges, d, &mut units);
                d += 4 * L::COUNT;
            }
            while d + L::COUNT <= v_dim {
                self.weigh::<L, Q, 1>(&weights, &slots, &merges, d, &mut units);
                d += L::COUNT;
            }
            if d + 8 <= v_dim {
                self.weigh::<__m256, Q, 1>(&weights, &slots, &merges, d, &mut units);
                d += 8;
            }
        }
        for d in d..v_dim {
            for (i, unit) in units.iter_mut().enumerate() {
                let weighted = slots
                    .clone()
                    .fold(0.0f32, |sum, slot| weights[i][slot].mul_add(self.values.value(slot, d, v_dim), sum));
                unit.out[d] = merges[i].of(unit.out[d], weighted);
            }
        }
    }

    /// q·k of Q queries with N vectors of keys from slot `from` on: one chain per key, over the dimensions.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "n counts vectors of three things alike")]
    unsafe fn scores<L: Lanes, const Q: usize, const N: usize>(
        self,
        q: [&[f32]; Q],
        from: usize,
        scores: &mut [[f32; KV_BLOCK]; Q],
    ) {
        let k_dim = self.k_dim;
        assert!(from + N * L::COUNT <= KV_BLOCK && q.iter().all(|q| q.len() == k_dim));
        // SAFETY: the target feature is the caller's promise. The queries have k_dim elements; row d of the k_dim rows has
        // 64 keys, and from + N · COUNT ≤ 64.
        unsafe {
            let mut sums = [[L::zero(); N]; Q];
            for d in 0..k_dim {
                if let (Some(next), 0) = (self.next, from) {
                    next.into_iter().for_each(|place| fetch_part(place, d, k_dim));
                }
                let q: [L; Q] = q.map(|q| L::splat(*q.get_unchecked(d)));
                for n in 0..N {
                    let keys: L = self.keys.keys(from + n * L::COUNT, d);
                    for i in 0..Q {
                        sums[i][n] = L::fma(q[i], keys, sums[i][n]);
                    }
                }
            }
            for (scores, sums) in scores.iter_mut().zip(sums) {
                for (n, sum) in sums.into_iter().enumerate() {
                    L::store(scores.as_mut_ptr().add(from + n * L::COUNT), sum);
                }
            }
        }
    }

    /// Weights times values for N vectors of dimensions from `d` on, one chain per dimension over the visible keys,
    /// merged into the outputs.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "n counts vectors of three things alike")]
    unsafe fn weigh<L: Lanes, const Q: usize, const N: usize>(
        self,
        weights: &[[f32; KV_BLOCK]; Q],
        slots: &Range<usize>,
        merges: &[Merge; Q],
        d: usize,
        units: &mut [&mut Unit<'_>; Q],
    ) {
        let v_dim = self.v_dim;
        assert!(d + N * L::COUNT <= v_dim && slots.end <= KV_BLOCK && units.iter().all(|unit| unit.out.len() == v_dim));
        // SAFETY: the target feature is the caller's promise. Slots end within the 64 of a block; row `slot` of 64 rows has
        // v_dim values, as many as there are outputs, and d + N · COUNT ≤ v_dim.
        unsafe {
            let mut sums = [[L::zero(); N]; Q];
            for slot in slots.clone() {
                let weights: [L; Q] = weights.each_ref().map(|weights| L::splat(*weights.get_unchecked(slot)));
                for n in 0..N {
                    let values: L = self.values.values(slot, d + n * L::COUNT, v_dim);
                    for i in 0..Q {
                        sums[i][n] = L::fma(weights[i], values, sums[i][n]);
                    }
                }
            }
            for ((unit, sums), merge) in units.iter_mut().zip(sums).zip(merges) {
                let (old, new) = (L::splat(merge.old), L::splat(merge.new));
                for (n, sum) in sums.into_iter().enumerate() {
                    let out = unit.out.as_mut_ptr().add(d + n * L::COUNT);
                    L::store(out, if merge.fresh { sum } else { L::fma(sum, new, L::mul(L::load(out), old)) });
                }
            }
        }
    }
}

/// Fetches the cache lines of one of `parts` parts of a place in memory: its beginning and its bytes.
#[inline(always)]
unsafe fn fetch_part((start, bytes): (*const u8, usize), part: usize, parts: usize) {
    let length = bytes / parts;
    for at in (part * length..(part + 1) * length).step_by(64) {
        // SAFETY: a prefetch of any address faults never.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
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
    #[inline(always)]
    fn of(self, before: f32, block: f32) -> f32 {
        if self.fresh { block } else { block.mul_add(self.new, before * self.old) }
    }
}

/// Scales (and caps) the scores of a block and turns them into weights, +0 outside `slots`. Returns the largest scaled score in
/// `slots` and the sum of the weights.
#[inline(always)]
unsafe fn soften<L: Lanes>(
    scores: &mut [f32; KV_BLOCK],
    slots: &Range<usize>,
    scale: f32,
    softcap: Option<f32>,
) -> (f32, f32) {
    // SAFETY: the target feature is the caller's promise; a block is a whole number of registers.
    unsafe {
        let lowest = L::splat(f32::NEG_INFINITY);
        let mut max = lowest;
        for (i, scores) in scores.chunks_exact_mut(L::COUNT).enumerate() {
            let mut score = L::mul(L::load(scores.as_ptr()), L::splat(scale));
            if let Some(cap) = softcap {
                score = softcap_of(score, L::splat(cap));
            }
            if slots.len() < KV_BLOCK {
                // −∞ is never the maximum and its weight is +0.
                let first = (i * L::COUNT) as i32;
                let visible = L::within(slots.start as i32 - first..slots.end as i32 - first);
                score = L::select(visible, score, lowest);
            }
            L::store(scores.as_mut_ptr(), score);
            max = L::max(max, score);
        }
        let max = L::largest(max);
        let mut lanes = [L::zero(); 2];
        for (i, scores) in scores.chunks_exact_mut(L::COUNT).enumerate() {
            let weight = exp_of(L::sub(L::load(scores.as_ptr()), L::splat(max)));
            L::store(scores.as_mut_ptr(), weight);
            let lanes = &mut lanes[i * L::COUNT % 16 / L::COUNT];
            *lanes = L::add(*lanes, weight);
        }
        (max, L::tree(lanes))
    }
}
