//! The KV cache of one layer: keys and values in blocks of 64 positions, rounded once when they are written.

use crate::zeroed::{Rows, Shelves};
use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// How many positions a block holds. It is part of the numeric contract: attention merges block by block.
pub const KV_BLOCK: usize = 64;

/// How many dimensions of a key or a value share a scale in [`KvType::Q8_0`]; the last of a head may be fewer.
pub(crate) const KV_GROUP: usize = 32;

/// What keys and values are rounded to when they are written. Part of the id of the contract: `cpu-1/kv-f16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum KvType {
    /// Kept as they are.
    F32,
    /// IEEE half precision, to nearest, ties to even; beyond 65,504 they become infinite as IEEE says, so that a model
    /// whose keys do not fit shows it (NaN) rather than being wrong in silence.
    #[default]
    F16,
    /// Signed bytes with one scale of half precision per 32 dimensions of a head. A group whose scale is beyond 65,504
    /// reads as NaN, and so does one with a number that is not finite.
    Q8_0,
}

impl KvType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];
}

/// The text names no type of KV cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no type of KV cache: use one of f32, f16, q8_0")]
pub struct ParseKvTypeError(String);

impl FromStr for KvType {
    type Err = ParseKvTypeError;

    fn from_str(text: &str) -> Result<Self, ParseKvTypeError> {
        Self::ALL
            .into_iter()
            .find(|kv_type| kv_type.to_string() == text)
            .ok_or_else(|| ParseKvTypeError(text.to_owned()))
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        })
    }
}

/// The keys and values of one layer for `blocks` blocks of [`KV_BLOCK`] positions. Which sequence and position a block
/// stands for is the caller's block table.
///
/// A block holds, per kv head, K as `[k_dim][64]` and V as `[64][v_dim]`: scores are vectors over keys, outputs vectors
/// over dimensions. [`KvType::Q8_0`] has its scales apart, alike but for a row per 32 dimensions. Memory is touched only
/// when written.
pub struct KvLayer {
    shape: KvShape,
    blocks: usize,
    keys: Storage,
    values: Storage,
}

/// What a layer's cache holds per position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    /// The type of both keys and values.
    pub kv_type: KvType,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Length of a key.
    pub k_dim: usize,
    /// Length of a value.
    pub v_dim: usize,
}

impl KvShape {
    /// Memory of one block of [`KV_BLOCK`] positions in one layer.
    pub fn block_bytes(&self) -> usize {
        let bytes = |dim: usize| match self.kv_type {
            KvType::F32 => 4 * dim,
            KvType::F16 => 2 * dim,
            KvType::Q8_0 => dim + 2 * dim.div_ceil(KV_GROUP),
        };
        KV_BLOCK * self.kv_heads * (bytes(self.k_dim) + bytes(self.v_dim))
    }
}

/// The keys or values of one block and kv head.
#[derive(Clone, Copy)]
pub(crate) enum BlockView<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    /// Numbers and, for each [`KV_GROUP`] dimensions, their scales.
    Q8_0(&'a [i8], &'a [u16]),
}

// Widened in software on every machine: the reference must not lean on what it is the measure of.
impl BlockView<'_> {
    /// Where its numbers lie in memory, and how many bytes they are.
    #[cfg(x86)]
    pub(crate) fn place(self) -> (*const u8, usize) {
        match self {
            Self::F32(numbers) => (numbers.as_ptr().cast(), size_of_val(numbers)),
            Self::F16(numbers) => (numbers.as_ptr().cast(), size_of_val(numbers)),
            Self::Q8_0(numbers, _) => (numbers.as_ptr().cast(), size_of_val(numbers)),
        }
    }

    /// Of the keys, dimension `d` of the one in `slot`.
    pub(crate) fn key(&self, slot: usize, d: usize) -> f32 {
        self.get(d * KV_BLOCK + slot, d / KV_GROUP * KV_BLOCK + slot)
    }

    /// Of the values, of `dim` dimensions each, dimension `d` of the one in `slot`.
    pub(crate) fn value(&self, slot: usize, d: usize, dim: usize) -> f32 {
        self.get(slot * dim + d, slot * dim.div_ceil(KV_GROUP) + d / KV_GROUP)
    }

    fn get(&self, index: usize, scale: usize) -> f32 {
        match self {
            Self::F32(data) => data[index],
            Self::F16(data) => f16::from_bits(data[index]).to_f32_const(),
            Self::Q8_0(quants, scales) => f16::from_bits(scales[scale]).to_f32_const() * f32::from(quants[index]),
        }
    }
}

impl KvLayer {
    /// One layer by itself: see [`KvLayer::layers`].
    pub fn new(shape: KvShape, blocks: usize) -> Option<Self> {
        Self::layers(shape, 1, blocks)?.pop()
    }

    /// As many `layers` with room for `blocks` blocks each, all zero; `None` where the system does not give the memory, or no
    /// machine could. In memory a block is next to the same block of the other layers, so that what is used lies together.
    pub fn layers(shape: KvShape, layers: usize, blocks: usize) -> Option<Vec<Self>> {
        let mut shelves = Shelves::new(shape.block_bytes().checked_mul(layers)?, blocks)?;
        let mut storage = |dim: usize| Storage::new(shape, dim, &mut shelves);
        (0..layers)
            .map(|_| Some(Self { shape, blocks, keys: storage(shape.k_dim)?, values: storage(shape.v_dim)? }))
            .collect()
    }

    /// What it holds per position.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Writes the keys `[n][kv_heads][k_dim]` and values `[n][kv_heads][v_dim]` of n tokens to slots `slot..slot + n` of
    /// `block`, rounding each number once.
    ///
    /// # Panics
    /// If the block does not exist, the slots do not fit in it, or the lengths do not match.
    pub fn write(&mut self, block: u32, slot: usize, k: &[f32], v: &[f32]) {
        let KvShape { kv_heads, k_dim, v_dim, .. } = self.shape;
        let block = block as usize;
        let tokens = k.len() / (kv_heads * k_dim);
        assert!(block < self.blocks, "block {block} of {}", self.blocks);
        assert!(slot + tokens <= KV_BLOCK, "{tokens} tokens from slot {slot} do not fit in a block");
        assert_eq!(k.len(), tokens * kv_heads * k_dim, "keys");
        assert_eq!(v.len(), tokens * kv_heads * v_dim, "values");
        let slots = slot..slot + tokens;
        for (slot, (k, v)) in slots.zip(k.chunks_exact(kv_heads * k_dim).zip(v.chunks_exact(kv_heads * v_dim))) {
            for (head, (k, v)) in k.chunks_exact(k_dim).zip(v.chunks_exact(v_dim)).enumerate() {
                self.keys.write_key((block, head), slot, k);
                self.values.write_value((block, head), slot, v);
            }
        }
    }

    /// K of a block and kv head: `[k_dim][64]`.
    pub(crate) fn keys(&self, block: usize, kv_head: usize) -> BlockView<'_> {
        self.keys.view((block, kv_head), self.shape.k_dim)
    }

    /// V of a block and kv head: `[64][v_dim]`.
    pub(crate) fn values(&self, block: usize, kv_head: usize) -> BlockView<'_> {
        self.values.view((block, kv_head), self.shape.v_dim)
    }
}

/// The keys or values of a layer: a row is a block, with one kv head after the other.
enum Storage {
    F32(Rows<f32>),
    F16(Rows<u16>),
    Q8_0(Rows<i8>, Rows<u16>),
}

impl Storage {
    fn new(shape: KvShape, dim: usize, shelves: &mut Shelves) -> Option<Self> {
        let length = |dim: usize| shape.kv_heads.checked_mul(dim)?.checked_mul(KV_BLOCK);
        Some(match shape.kv_type {
            KvType::F32 => Self::F32(shelves.rows(length(dim)?)?),
            KvType::F16 => Self::F16(shelves.rows(length(dim)?)?),
            KvType::Q8_0 => Self::Q8_0(shelves.rows(length(dim)?)?, shelves.rows(length(dim.div_ceil(KV_GROUP))?)?),
        })
    }

    fn view(&self, (block, head): (usize, usize), dim: usize) -> BlockView<'_> {
        match self {
            Self::F32(data) => BlockView::F32(&data.row(block)[of_head(head, dim)]),
            Self::F16(data) => BlockView::F16(&data.row(block)[of_head(head, dim)]),
            Self::Q8_0(quants, scales) => BlockView::Q8_0(
                &quants.row(block)[of_head(head, dim)],
                &scales.row(block)[of_head(head, dim.div_ceil(KV_GROUP))],
            ),
        }
    }

    /// Writes a key: a column of its head.
    fn write_key(&mut self, (block, head): (usize, usize), slot: usize, k: &[f32]) {
        let all = of_head(head, k.len());
        match self {
            Self::F32(data) => scatter(&mut data.row_mut(block)[all], slot, k),
            Self::F16(data) => {
                let rows = data.row_mut(block)[all].chunks_mut(KV_GROUP * KV_BLOCK);
                for (rows, k) in rows.zip(k.chunks(KV_GROUP)) {
                    let halves = &mut [0; KV_GROUP][..k.len()];
                    halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(k);
                    scatter(rows, slot, halves);
                }
            }
            Self::Q8_0(quants, scales) => {
                let rows = quants.row_mut(block)[all].chunks_mut(KV_GROUP * KV_BLOCK);
                let scales = &mut scales.row_mut(block)[of_head(head, k.len().div_ceil(KV_GROUP))];
                for ((rows, k), scales) in rows.zip(k.chunks(KV_GROUP)).zip(scales.chunks_exact_mut(KV_BLOCK)) {
                    let (scale, quants) = quantize(k);
                    scatter(rows, slot, &quants[..k.len()]);
                    scales[slot] = scale.to_bits();
                }
            }
        }
    }

    /// Writes a value: a row of its head.
    fn write_value(&mut self, (block, head): (usize, usize), slot: usize, v: &[f32]) {
        let row = |dim: usize| (head * KV_BLOCK + slot) * dim..(head * KV_BLOCK + slot + 1) * dim;
        match self {
            Self::F32(data) => data.row_mut(block)[row(v.len())].copy_from_slice(v),
            Self::F16(data) => {
                data.row_mut(block)[row(v.len())].reinterpret_cast_mut::<f16>().convert_from_f32_slice(v);
            }
            Self::Q8_0(quants, scales) => {
                let quants = quants.row_mut(block)[row(v.len())].chunks_mut(KV_GROUP);
                let scales = &mut scales.row_mut(block)[row(v.len().div_ceil(KV_GROUP))];
                for ((to, v), scale) in quants.zip(v.chunks(KV_GROUP)).zip(scales) {
                    let (rounded, quants) = quantize(v);
                    to.copy_from_slice(&quants[..v.len()]);
                    *scale = rounded.to_bits();
                }
            }
        }
    }
}

/// Where a head of `dim` numbers per position lies.
fn of_head(head: usize, dim: usize) -> Range<usize> {
    head * dim * KV_BLOCK..(head + 1) * dim * KV_BLOCK
}

/// Writes a column of rows of [`KV_BLOCK`].
fn scatter<T: Copy>(rows: &mut [T], slot: usize, column: &[T]) {
    for (row, &number) in rows.chunks_exact_mut(KV_BLOCK).zip(column) {
        row[slot] = number;
    }
}

/// A group's scale, and its numbers as multiples of it: 0 where the scale is 0 or not finite.
fn quantize(group: &[f32]) -> (f16, [i8; KV_GROUP]) {
    /// 1.5 · 2²³: a small number added to it is rounded to an integer, ties to even, whose low byte is the sum's.
    const ROUNDING: f32 = 12_582_912.0;
    // Compared as integers, so that a NaN is the largest: it makes the scale NaN, and with it the whole group.
    let amax = f32::from_bits(group.iter().fold(0, |amax, x| amax.max(x.abs().to_bits())));
    let scale = f16::from_f32_const(amax / 127.0);
    let mut quants = [0; KV_GROUP];
    if scale > f16::ZERO && scale.is_finite() {
        let inverse = 1.0 / scale.to_f32_const();
        for (quant, x) in quants.iter_mut().zip(group) {
            // Beyond 127 where the scale is so small that it lost digits.
            *quant = ((x * inverse).clamp(-127.0, 127.0) + ROUNDING).to_bits() as i8;
        }
    }
    (scale, quants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for kv_type in KvType::ALL {
            assert_eq!(kv_type.to_string().parse(), Ok(kv_type));
        }
        let error = "q8".parse::<KvType>().unwrap_err().to_string();
        assert!(error.ends_with(&KvType::ALL.map(|kv_type| kv_type.to_string()).join(", ")), "{error}");
    }

    #[test]
    fn what_no_machine_has_is_not_given() {
        let shape = |kv_heads, dim| KvShape { kv_type: KvType::F32, kv_heads, k_dim: dim, v_dim: dim };
        // Beyond any address space, beyond what a vector may hold, beyond usize in the product.
        let cases = [(shape(1, 1 << 18), 1 << 24), (shape(1, 1 << 18), 1 << 38), (shape(1 << 12, 1 << 20), 1 << 28)];
        for (shape, blocks) in cases {
            assert!(KvLayer::new(shape, blocks).is_none(), "{shape:?} × {blocks}");
        }
    }

    #[test]
    fn written_once_rounded_to_even_and_found_again() {
        // (value, its half, as f32): exact, ties, subnormal ties, underflow, overflow.
        let cases: [(f32, f32); 16] = [
            (0.0, 0.0),
            (-0.0, -0.0),
            (1.0, 1.0),
            (-2.5, -2.5),
            (1.000_488_3, 1.0),         // 1 + 2^-11, a tie
            (1.001_464_8, 1.001_953_1), // 1 + 3·2^-11, a tie
            (65_504.0, 65_504.0),
            (65_519.0, 65_504.0),
            (65_520.0, f32::INFINITY),
            (-1e30, f32::NEG_INFINITY),
            (6.103_515_6e-5, 6.103_515_6e-5), // 2^-14
            (5.960_464_5e-8, 5.960_464_5e-8), // 2^-24, the smallest subnormal
            (2.980_232_2e-8, 0.0),            // half of it, a tie
            (2.980_232_6e-8, 5.960_464_5e-8),
            (8.940_697e-8, 1.192_092_9e-7), // a tie between two subnormals
            (1e-40, 0.0),
        ];
        let written: Vec<f32> = cases.iter().map(|case| case.0).collect();
        for kv_type in [KvType::F32, KvType::F16] {
            let mut layer = KvLayer::new(KvShape { kv_type, kv_heads: 2, k_dim: 4, v_dim: 4 }, 2).unwrap();
            // Two tokens of two heads of four.
            layer.write(1, 62, &written, &written);
            for (i, &(value, rounded)) in cases.iter().enumerate() {
                let (token, head, d) = (i / 8, i / 4 % 2, i % 4);
                let expected = if kv_type == KvType::F32 { value } else { rounded };
                let key = layer.keys(1, head).key(62 + token, d);
                let stored = layer.values(1, head).value(62 + token, d, 4);
                assert_eq!(key.to_bits(), expected.to_bits(), "key {value:e} as {kv_type}: {key:e}");
                assert_eq!(stored.to_bits(), expected.to_bits(), "value {value:e} as {kv_type}: {stored:e}");
                assert_eq!(layer.keys(1, head).key(61, d).to_bits(), 0, "the slot before is untouched");
            }
        }
    }

    #[test]
    fn every_half_survives_and_every_rounding_is_ieee() {
        // convert_from_f32_slice uses the machine's instruction where it has one; the software form is the measure.
        let mut layer =
            KvLayer::new(KvShape { kv_type: KvType::F16, kv_heads: 1, k_dim: 1024, v_dim: 1024 }, 1).unwrap();
        let mut check = |values: &[f32]| {
            layer.write(0, 0, values, values);
            for (d, &value) in values.iter().enumerate() {
                let expected = f16::from_f32_const(value).to_f32_const();
                assert_eq!(layer.keys(0, 0).key(0, d).to_bits(), expected.to_bits(), "{value:e}");
                assert_eq!(layer.values(0, 0).value(0, d, 1024).to_bits(), expected.to_bits(), "{value:e}");
            }
        };
        for high in 0..64u16 {
            let halves: Vec<f32> = (0..1024).map(|low| f16::from_bits(high << 10 | low).to_f32_const()).collect();
            if halves.iter().any(|value| value.is_nan()) {
                continue;
            }
            check(&halves);
            // Between neighbours: the tie, and one f32 to each side of it.
            for offset in [0x0fff, 0x1000, 0x1001] {
                check(&halves.iter().map(|value| f32::from_bits(value.to_bits() + offset)).collect::<Vec<_>>());
            }
        }
    }

    // What `scripts/cpu_1` made of `docs/numerics.md`.
    #[test]
    fn the_contracts_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/cpu-1/cache.json")).unwrap();
        let cases = vectors.as_array().unwrap().iter();
        for (case, kv_type) in cases.flat_map(|case| [(case, KvType::F16), (case, KvType::Q8_0)]) {
            let numbers = |name: &str| {
                let words = case[name].as_str().unwrap().split(' ');
                words.map(|word| f32::from_bits(u32::from_str_radix(word, 16).unwrap())).collect::<Vec<_>>()
            };
            let group = numbers("x");
            let dim = KV_GROUP + group.len();
            let shape = KvShape { kv_type, kv_heads: 2, k_dim: dim, v_dim: dim };
            let mut layer = KvLayer::new(shape, 2).unwrap();
            // From the second group of the second head on, beside numbers that must not touch it.
            let head: Vec<f32> = [&[1e9; KV_GROUP][..], &group].concat();
            let heads = [vec![f32::NAN; dim], head].concat();
            layer.write(1, 62, &heads, &heads);
            for (d, expected) in (KV_GROUP..).zip(numbers(&kv_type.to_string())) {
                for read in [layer.keys(1, 1).key(62, d), layer.values(1, 1).value(62, d, dim)] {
                    assert!(
                        read.to_bits() == expected.to_bits() || read.is_nan() && expected.is_nan(),
                        "{} in {kv_type}, number {}: {read:e} is not {expected:e}",
                        case["name"],
                        d - KV_GROUP
                    );
                }
            }
            for slot in [61, 63] {
                assert_eq!(layer.keys(1, 1).key(slot, KV_GROUP).to_bits(), 0, "the slot {slot} is untouched");
                assert_eq!(layer.values(1, 1).value(slot, KV_GROUP, dim).to_bits(), 0, "the slot {slot} is untouched");
            }
        }
    }
}
