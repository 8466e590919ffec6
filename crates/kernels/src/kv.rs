//! The KV cache of one layer: keys and values in blocks of 64 positions, rounded once when they are written.

use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use std::alloc::{Layout, alloc_zeroed};
use std::fmt;
use std::str::FromStr;

/// How many positions a block holds. It is part of the numeric contract: attention merges block by block.
pub const KV_BLOCK: usize = 64;

/// What keys and values are rounded to when they are written. Part of the id of the contract: `cpu-1/kv-f16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum KvType {
    /// Kept as they are.
    F32,
    /// IEEE half precision, to nearest, ties to even; beyond 65,504 they become infinite as IEEE says, so that a model
    /// whose keys do not fit shows it (NaN) rather than being wrong in silence.
    #[default]
    F16,
}

/// The text names no type of KV cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no type of KV cache: use one of f16, f32")]
pub struct ParseKvTypeError(String);

impl FromStr for KvType {
    type Err = ParseKvTypeError;

    fn from_str(text: &str) -> Result<Self, ParseKvTypeError> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(ParseKvTypeError(text.to_owned())),
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

/// The keys and values of one layer for `blocks` blocks of [`KV_BLOCK`] positions. Which sequence and position a block
/// stands for is the caller's block table.
///
/// A block holds, per kv head, K as `[k_dim][64]` and V as `[64][v_dim]`: scores are vectors over keys, outputs vectors
/// over dimensions. Memory is touched only when written.
pub struct KvLayer {
    shape: KvShape,
    blocks: usize,
    keys: Storage,
    values: Storage,
    /// One token's keys, rounded, before they are scattered.
    staging: Vec<u16>,
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
        let element = match self.kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
        };
        KV_BLOCK * self.kv_heads * (self.k_dim + self.v_dim) * element
    }
}

/// The keys or values of one block and kv head.
#[derive(Clone, Copy)]
pub(crate) enum BlockView<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
}

impl BlockView<'_> {
    /// Element `index`, widened. In software on every machine: the reference must not lean on what it is the measure of.
    pub(crate) fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(data) => data[index],
            Self::F16(data) => half::f16::from_bits(data[index]).to_f32_const(),
        }
    }
}

impl KvLayer {
    /// Room for `blocks` blocks, all zero; `None` where the system does not give the memory, or no machine could.
    pub fn new(shape: KvShape, blocks: usize) -> Option<Self> {
        let KvShape { kv_type, kv_heads, k_dim, v_dim } = shape;
        let storage = |dim: usize| {
            let length = blocks.checked_mul(kv_heads)?.checked_mul(dim)?.checked_mul(KV_BLOCK)?;
            Some(match kv_type {
                KvType::F32 => Storage::F32(Zeroed::new(length)?),
                KvType::F16 => Storage::F16(Zeroed::new(length)?),
            })
        };
        Some(Self { shape, blocks, keys: storage(k_dim)?, values: storage(v_dim)?, staging: Vec::new() })
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
            let keys = block * kv_heads * k_dim * KV_BLOCK..(block + 1) * kv_heads * k_dim * KV_BLOCK;
            match &mut self.keys {
                Storage::F32(data) => {
                    // Head h's element d is at (h·k_dim + d)·64: the row scatters with one stride.
                    for (column, &value) in data.as_mut_slice()[keys].chunks_exact_mut(KV_BLOCK).zip(k) {
                        column[slot] = value;
                    }
                }
                Storage::F16(data) => {
                    self.staging.resize(k.len(), 0);
                    self.staging.reinterpret_cast_mut::<half::f16>().convert_from_f32_slice(k);
                    for (column, &value) in data.as_mut_slice()[keys].chunks_exact_mut(KV_BLOCK).zip(&self.staging) {
                        column[slot] = value;
                    }
                }
            }
            for (head, v) in v.chunks_exact(v_dim).enumerate() {
                let start = ((block * kv_heads + head) * KV_BLOCK + slot) * v_dim;
                match &mut self.values {
                    Storage::F32(data) => data.as_mut_slice()[start..start + v_dim].copy_from_slice(v),
                    Storage::F16(data) => data.as_mut_slice()[start..start + v_dim]
                        .reinterpret_cast_mut::<half::f16>()
                        .convert_from_f32_slice(v),
                }
            }
        }
    }

    /// K of a block and kv head: `[k_dim][64]`.
    pub(crate) fn keys(&self, block: usize, kv_head: usize) -> BlockView<'_> {
        self.keys.part(block * self.shape.kv_heads + kv_head, self.shape.k_dim * KV_BLOCK)
    }

    /// V of a block and kv head: `[64][v_dim]`.
    pub(crate) fn values(&self, block: usize, kv_head: usize) -> BlockView<'_> {
        self.values.part(block * self.shape.kv_heads + kv_head, self.shape.v_dim * KV_BLOCK)
    }
}

enum Storage {
    F32(Zeroed<f32>),
    F16(Zeroed<u16>),
}

impl Storage {
    fn part(&self, index: usize, length: usize) -> BlockView<'_> {
        match self {
            Self::F32(data) => BlockView::F32(&data.as_slice()[index * length..(index + 1) * length]),
            Self::F16(data) => BlockView::F16(&data.as_slice()[index * length..(index + 1) * length]),
        }
    }
}

/// Zeros that begin on a cache line, so that no vector straddles two, and that the system maps only when touched.
pub(crate) struct Zeroed<T> {
    data: Vec<T>,
    start: usize,
    length: usize,
}

impl<T> Default for Zeroed<T> {
    fn default() -> Self {
        Self { data: Vec::new(), start: 0, length: 0 }
    }
}

impl<T: Zeroable> Zeroed<T> {
    const LINE_BYTES: usize = 64;

    /// `None` where the system does not give the memory.
    pub(crate) fn new(length: usize) -> Option<Self> {
        let data: Vec<T> = zeroed(length.checked_add(Self::LINE_BYTES / size_of::<T>())?)?;
        // The vector never grows, so its memory stays where it is.
        let start = data.as_ptr().align_offset(Self::LINE_BYTES);
        Some(Self { data, start, length })
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.data[self.start..self.start + self.length]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.length]
    }
}

/// Numbers whose bytes may all be zero.
///
/// # Safety
/// A value whose bytes are all zero is valid, and the type has a size and nothing to drop.
pub(crate) unsafe trait Zeroable: Copy {}

// SAFETY: zero bytes are +0.
unsafe impl Zeroable for f32 {}
// SAFETY: zero bytes are 0.
unsafe impl Zeroable for u16 {}

/// `vec![0; length]`, but for an answer where the system has no memory: `vec!` ends the process, and what the standard
/// library can reserve without that it does not ask for as zeros, so that filling it would touch all of it. A stricter
/// alignment than the type's would have it filled as well.
fn zeroed<T: Zeroable>(length: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(length).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout has a size.
    let data = unsafe { alloc_zeroed(layout) }.cast::<T>();
    // SAFETY: the memory comes from the global allocator with the layout of a vector of this capacity, and its zero
    // bytes are valid values.
    (!data.is_null()).then(|| unsafe { Vec::from_raw_parts(data, length, length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for kv_type in [KvType::F32, KvType::F16] {
            assert_eq!(kv_type.to_string().parse(), Ok(kv_type));
        }
        assert!("q8".parse::<KvType>().is_err());
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
                let key = layer.keys(1, head).get(d * KV_BLOCK + 62 + token);
                let stored = layer.values(1, head).get((62 + token) * 4 + d);
                assert_eq!(key.to_bits(), expected.to_bits(), "key {value:e} as {kv_type}: {key:e}");
                assert_eq!(stored.to_bits(), expected.to_bits(), "value {value:e} as {kv_type}: {stored:e}");
                assert_eq!(layer.keys(1, head).get(d * KV_BLOCK + 61).to_bits(), 0, "the slot before is untouched");
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
                let expected = half::f16::from_f32_const(value).to_f32_const();
                assert_eq!(layer.keys(0, 0).get(d * KV_BLOCK).to_bits(), expected.to_bits(), "{value:e}");
                assert_eq!(layer.values(0, 0).get(d).to_bits(), expected.to_bits(), "{value:e}");
            }
        };
        for high in 0..64u16 {
            let halves: Vec<f32> = (0..1024).map(|low| half::f16::from_bits(high << 10 | low).to_f32_const()).collect();
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
}
