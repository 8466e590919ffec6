//! Weight matrices, repacked when they are loaded so that kernels run over outputs.
//!
//! Sixteen rows (outputs) form a group. A group is stored block after block along K, and inside a block the sixteen rows
//! are interleaved: sixteen scales side by side, then the quants in words of four consecutive k for each of the sixteen
//! rows (64 bytes a step), which is the layout that AVX2, VNNI and AMX read alike. A tail group is padded with rows of
//! zeros. Sizes per group and block:
//!
//! | type | k | bytes | parts |
//! |---|---|---|---|
//! | F32 | 1 | 64 | 16 f32 |
//! | F16 | 1 | 32 | 16 f16 |
//! | BF16 | 32 | 1024 | 16 pairs of k × 16 rows × 2; K is padded with zeros |
//! | Q4_0, IQ4_NL | 32 | 288 | 16 d; 4 words × 16 rows: low nibbles k 0–15, high nibbles k 16–31 |
//! | Q4_1 | 32 | 320 | 16 d, 16 m; quants as Q4_0 |
//! | Q5_0 | 32 | 352 | 16 d; quants as Q4_0; 16 rows × 4 bytes of fifth bits: bit g is of k 4·g + byte |
//! | Q5_1 | 32 | 384 | 16 d, 16 m; quants as Q5_0 |
//! | Q8_0 | 32 | 544 | 16 d; 8 words × 16 rows |
//! | MXFP4 | 32 | 272 | 16 exponents of one byte; quants as Q4_0 |
//! | NVFP4 | 64 | 1280 | 4 times: 16 d in f32; 4 words × 16 rows of signed bytes |
//! | Q2_K | 256 | 1344 | 16 d, 16 dmin; 8 × 16 rows × 2 bytes: scale and, in the upper nibble, minimum; per 16 k: 16 rows × 4 bytes: bits 2g and 2g + 1 are of word g |
//! | Q3_K | 256 | 1824 | 16 d; 8 × 16 rows × 2 scales; low bits as Q2_K; per 32 k: third bits, as Q5_0's fifth |
//! | Q4_K | 256 | 2368 | 16 d, 16 dmin; 8 scales × 16 rows; 4 × 16 rows × 2 minima; 4 × 8 words × 16 rows: low and high nibbles are sub-blocks 2c and 2c + 1 |
//! | Q5_K | 256 | 2880 | as Q4_K; then per 32 k: fifth bits, as Q5_0's |
//! | Q6_K | 256 | 3360 | 16 d; 8 × 16 rows × 2 scales; per 32 k: 4 words × 16 rows of nibbles as Q4_0, then 2 × 16 rows × 4 bytes of upper bits: bits 2s and 2s + 1 are of word s |
//! | IQ4_XS | 256 | 2208 | 16 d; 4 × 16 rows × 2 scales; 8 times quants as Q4_0 |
//! | IQ1, IQ2, IQ3, TQ | 256 | 4416 | 16 d in f32; 8 × 16 rows × 2 scales; 64 words × 16 rows of signed bytes |

use crate::compute::Compute;
use crate::packed::{GROUP, dequantize, f16_at, f32_at, packed_block, u16_at};
use crate::packing::pack_group;
use crate::zeroed::Zeroed;
use freehold_base::Dtype;
use half::bf16;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A matrix of N rows (outputs) by K columns (inputs), packed for the kernels.
pub struct Matrix {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    /// Each group begins on a cache line.
    packed: Zeroed<u8>,
}

/// Bytes of a cache line.
const LINE: usize = 64;
/// About how much of a file is packed at a time.
const PART_BYTES: usize = 16 << 20;

/// Why a tensor cannot become a [`Matrix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// No kernel for this type.
    #[error(
        "the tensor type {0} is not supported: convert the model to a float type or to one of ggml's quantised types, such as Q8_0 or Q4_K"
    )]
    UnsupportedDtype(Dtype),
    /// The shape and the bytes do not fit each other.
    #[error("{rows} rows of {cols} {dtype} numbers do not fit {bytes} bytes: the file is damaged")]
    WrongSize {
        /// Encoding of the numbers.
        dtype: Dtype,
        /// Rows claimed.
        rows: usize,
        /// Columns claimed.
        cols: usize,
        /// Bytes there are.
        bytes: usize,
    },
    /// A weight or a scale is NaN or infinite.
    #[error("row {row} holds NaN or infinity: the file is damaged or the model diverged in training")]
    NotFinite {
        /// The first such row of those found.
        row: usize,
    },
    /// The system does not give the memory.
    #[error("there is no memory for {bytes} bytes of weights: choose a smaller model or a smaller type of it")]
    NoMemory {
        /// What was asked for.
        bytes: usize,
    },
}

impl Matrix {
    /// Packs `bytes`, the rows of a tensor in its file's layout.
    ///
    /// # Errors
    /// If the type has no kernel, the size is not that of `rows` × `cols`, a number is not finite, or memory is short.
    pub fn pack(dtype: Dtype, rows: usize, cols: usize, bytes: &[u8], compute: &Compute) -> Result<Self, MatrixError> {
        Self::pack_in_parts(dtype, rows, cols, bytes, compute, |_| {})
    }

    /// The same, part by part: `packed` is told each part of `bytes`, some megabytes long, once it is no longer needed.
    ///
    /// # Errors
    /// As of [`Matrix::pack`].
    pub fn pack_in_parts(
        dtype: Dtype,
        rows: usize,
        cols: usize,
        bytes: &[u8],
        compute: &Compute,
        mut packed: impl FnMut(&[u8]),
    ) -> Result<Self, MatrixError> {
        let (block, block_bytes) = packed_block(dtype).ok_or(MatrixError::UnsupportedDtype(dtype))?;
        let wrong_size = || MatrixError::WrongSize { dtype, rows, cols, bytes: bytes.len() };
        let row_bytes = dtype
            .size_bytes(cols as u64)
            .and_then(|row| usize::try_from(row).ok())
            .filter(|row| row.checked_mul(rows) == Some(bytes.len()) && rows > 0 && cols > 0)
            .ok_or_else(wrong_size)?;
        let group_bytes =
            cols.div_ceil(block).checked_mul(block_bytes).and_then(|all| all.checked_next_multiple_of(LINE));
        let group_bytes = group_bytes.ok_or_else(wrong_size)?;
        let size = rows.div_ceil(GROUP).checked_mul(group_bytes).ok_or_else(wrong_size)?;
        let mut groups = compute.weights().zeroed(size).ok_or(MatrixError::NoMemory { bytes: size })?;
        let part_groups = (PART_BYTES / GROUP / row_bytes).max(1);
        let parts = bytes.chunks(part_groups * GROUP * row_bytes);
        let destinations = groups.as_mut_slice().chunks_mut(part_groups * group_bytes);
        for (part, (bytes, groups)) in parts.zip(destinations).enumerate() {
            let bad_row = AtomicUsize::new(usize::MAX);
            compute.pool().run_rows(groups, group_bytes, 1, |group, packed| {
                let mut sources: [&[u8]; GROUP] = [&[]; GROUP];
                let mut count = 0;
                for (source, row) in sources.iter_mut().zip(bytes[group * GROUP * row_bytes..].chunks_exact(row_bytes))
                {
                    *source = row;
                    count += 1;
                }
                if let Some(lane) = pack_group(dtype, &sources[..count], packed) {
                    bad_row.fetch_min(group * GROUP + lane, Ordering::Relaxed);
                }
            });
            packed(bytes);
            match bad_row.into_inner() {
                usize::MAX => {}
                row => return Err(MatrixError::NotFinite { row: part * part_groups * GROUP + row }),
            }
        }
        Ok(Self { dtype, rows, cols, packed: groups })
    }

    /// Encoding of the numbers.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// N, the outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// K, the inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that a product with one vector reads.
    pub fn size_bytes(&self) -> usize {
        self.packed.as_slice().len()
    }

    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// The packed bytes of one group of rows, its blocks ascending in K.
    pub(crate) fn group(&self, group: usize) -> &[u8] {
        self.some_groups(group, 1)
    }

    /// The same of `count` groups, one after the other.
    pub(crate) fn some_groups(&self, group: usize, count: usize) -> &[u8] {
        let packed = self.packed.as_slice();
        let group_bytes = packed.len() / self.groups();
        &packed[group * group_bytes..][..count * group_bytes]
    }

    /// Row `row` as f32, by the formulas of the GGUF formats.
    ///
    /// # Panics
    /// If `row` is not below N or `out` has not K elements.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "the matrix has {} rows, not {}", self.rows, row + 1);
        assert_eq!(out.len(), self.cols, "a row has {} numbers", self.cols);
        let (block, block_bytes) = packed_block(self.dtype).expect("checked when it was packed");
        let group = self.group(row / GROUP);
        let lane = row % GROUP;
        for (packed, out) in group.chunks_exact(block_bytes).zip(out.chunks_mut(block)) {
            unpack(self.dtype, packed, lane, out);
        }
    }
}

/// The numbers of a tensor of one dimension, `bytes` in its file's layout, as f32: what a [`Matrix`] of one row would give,
/// without the fifteen rows that are packed with it.
///
/// # Errors
/// As of [`Matrix::pack`].
pub fn dequantize_vector(dtype: Dtype, length: usize, bytes: &[u8]) -> Result<Vec<f32>, MatrixError> {
    let (block, block_bytes) = packed_block(dtype).ok_or(MatrixError::UnsupportedDtype(dtype))?;
    if length == 0 || dtype.size_bytes(length as u64) != Some(bytes.len() as u64) {
        return Err(MatrixError::WrongSize { dtype, rows: 1, cols: length, bytes: bytes.len() });
    }
    let (source_block, source_bytes) = dtype.block();
    let mut packed = vec![0; block_bytes];
    let mut numbers = vec![0.0; length];
    for (out, source) in numbers.chunks_mut(block).zip(bytes.chunks(block / source_block * source_bytes)) {
        packed.fill(0);
        if pack_group(dtype, &[source], &mut packed).is_some() {
            return Err(MatrixError::NotFinite { row: 0 });
        }
        unpack(dtype, &packed, 0, out);
    }
    Ok(numbers)
}

/// The numbers of one lane of a block.
fn unpack(dtype: Dtype, packed: &[u8], lane: usize, out: &mut [f32]) {
    match dtype {
        Dtype::F32 => out[0] = f32_at(packed, lane * 4),
        Dtype::F16 => out[0] = f16_at(packed, lane * 2),
        Dtype::BF16 => {
            for (k, out) in out.iter_mut().enumerate() {
                *out = bf16::from_bits(u16_at(packed, (k / 2 * GROUP + lane) * 4 + k % 2 * 2)).to_f32();
            }
        }
        dtype => dequantize(dtype, packed, lane, out),
    }
}
