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
//! | Q4_0 | 32 | 288 | 16 d; 4 words × 16 rows: low nibbles k 0–15, high nibbles k 16–31 |
//! | Q4_1 | 32 | 320 | 16 d, 16 m; quants as Q4_0 |
//! | Q5_0 | 32 | 352 | 16 d; quants as Q4_0; 16 rows × 4 bytes of fifth bits: bit g is of k 4·g + byte |
//! | Q8_0 | 32 | 544 | 16 d; 8 words × 16 rows |
//! | Q4_K | 256 | 2368 | 16 d, 16 dmin; 8 scales × 16 rows; 4 × 16 rows × 2 minima; 4 × 8 words × 16 rows: low and high nibbles are sub-blocks 2c and 2c + 1 |
//! | Q6_K | 256 | 3360 | 16 d; 8 × 16 rows × 2 scales; per 32 k: 4 words × 16 rows of nibbles as Q4_0, then 2 × 16 rows × 4 bytes of upper bits: bits 2s and 2s + 1 are of word s |

use crate::pool::Pool;
use freehold_base::Dtype;
use half::{bf16, f16};

/// Rows that are interleaved.
pub(crate) const GROUP: usize = 16;

/// A matrix of N rows (outputs) by K columns (inputs), packed for the kernels.
pub struct Matrix {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    lines: Vec<Line>,
}

/// A cache line, for its alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Why a tensor cannot become a [`Matrix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// No kernel for this type.
    #[error(
        "the tensor type {0} is not supported: convert the model to one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K"
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
}

/// (k, bytes) of one block of a packed group; `None` for types without kernels.
pub(crate) const fn packed_block(dtype: Dtype) -> Option<(usize, usize)> {
    Some(match dtype {
        Dtype::F32 => (1, 64),
        Dtype::F16 => (1, 32),
        Dtype::BF16 => (32, 1024),
        Dtype::Q4_0 => (32, 288),
        Dtype::Q4_1 => (32, 320),
        Dtype::Q5_0 => (32, 352),
        Dtype::Q8_0 => (32, 544),
        Dtype::Q4_K => (256, 2368),
        Dtype::Q6_K => (256, 3360),
        _ => return None,
    })
}

impl Matrix {
    /// Packs `bytes`, the rows of a tensor in its file's layout.
    ///
    /// # Errors
    /// If the type has no kernel, the size is not that of `rows` × `cols`, or a number is not finite.
    pub fn pack(dtype: Dtype, rows: usize, cols: usize, bytes: &[u8], pool: &Pool) -> Result<Self, MatrixError> {
        let (block, block_bytes) = packed_block(dtype).ok_or(MatrixError::UnsupportedDtype(dtype))?;
        let wrong_size = || MatrixError::WrongSize { dtype, rows, cols, bytes: bytes.len() };
        let row_bytes = dtype
            .size_bytes(cols as u64)
            .and_then(|row| usize::try_from(row).ok())
            .filter(|row| row.checked_mul(rows) == Some(bytes.len()) && rows > 0 && cols > 0)
            .ok_or_else(wrong_size)?;
        let group_bytes = cols.div_ceil(block).checked_mul(block_bytes).ok_or_else(wrong_size)?;
        let group_lines = group_bytes.div_ceil(size_of::<Line>());
        let groups = rows.div_ceil(GROUP);
        let mut lines = vec![Line([0; 64]); groups.checked_mul(group_lines).ok_or_else(wrong_size)?];
        let bad_row = std::sync::atomic::AtomicUsize::new(usize::MAX);
        pool.run_rows(&mut lines, group_lines, 1, |group, lines| {
            let packed = line_bytes_mut(lines);
            for lane in 0..GROUP.min(rows - group * GROUP) {
                let row = group * GROUP + lane;
                let source = &bytes[row * row_bytes..][..row_bytes];
                if !pack_row(dtype, source, lane, packed) {
                    bad_row.fetch_min(row, std::sync::atomic::Ordering::Relaxed);
                }
            }
        });
        match bad_row.into_inner() {
            usize::MAX => Ok(Self { dtype, rows, cols, lines }),
            row => Err(MatrixError::NotFinite { row }),
        }
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
        size_of_val(self.lines.as_slice())
    }

    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// The packed bytes of one group of rows, its blocks ascending in K.
    pub(crate) fn group(&self, group: usize) -> &[u8] {
        let group_lines = self.lines.len() / self.groups();
        line_bytes(&self.lines[group * group_lines..][..group_lines])
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
            unpack_block(self.dtype, packed, lane, out);
        }
    }
}

fn line_bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: `Line` is 64 bytes without padding, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

fn line_bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are a valid `Line`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

pub(crate) fn f16_at(bytes: &[u8], offset: usize) -> f32 {
    f16::from_bits(u16_at(bytes, offset)).to_f32()
}

/// Writes one row's share of a group; false if a number is not finite.
fn pack_row(dtype: Dtype, source: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    let (_, block_bytes) = packed_block(dtype).expect("checked by the caller");
    let (_, source_bytes) = dtype.block();
    if dtype == Dtype::BF16 {
        return pack_row_bf16(source, lane, packed);
    }
    let mut finite = true;
    for (source, packed) in source.chunks_exact(source_bytes).zip(packed.chunks_exact_mut(block_bytes)) {
        finite &= pack_block(dtype, source, lane, packed);
    }
    finite
}

fn pack_row_bf16(source: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    let mut finite = true;
    for (k, number) in source.chunks_exact(2).enumerate() {
        let pair = (k / 2 * GROUP + lane) * 4 + k % 2 * 2;
        packed[pair..pair + 2].copy_from_slice(number);
        finite &= bf16::from_bits(u16_at(number, 0)).is_finite();
    }
    finite
}

fn pack_block(dtype: Dtype, source: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    let finite_f16 = |offset: usize| f16::from_bits(u16_at(source, offset)).is_finite();
    // Copies an f16 of the source to the lane's place in the `part`th row of sixteen.
    let scale = |packed: &mut [u8], part: usize, offset: usize| {
        packed[(part * GROUP + lane) * 2..][..2].copy_from_slice(&source[offset..offset + 2]);
        finite_f16(offset)
    };
    // Copies `words` words of four quants.
    let words = |packed: &mut [u8], start: usize, quants: &[u8]| {
        for (word, quants) in quants.chunks_exact(4).enumerate() {
            packed[start + word * GROUP * 4 + lane * 4..][..4].copy_from_slice(quants);
        }
    };
    match dtype {
        Dtype::F32 => {
            packed[lane * 4..][..4].copy_from_slice(source);
            f32::from_le_bytes([source[0], source[1], source[2], source[3]]).is_finite()
        }
        Dtype::F16 => scale(packed, 0, 0),
        Dtype::Q4_0 | Dtype::Q8_0 => {
            words(packed, 32, &source[2..]);
            scale(packed, 0, 0)
        }
        Dtype::Q4_1 => {
            words(packed, 64, &source[4..]);
            scale(packed, 0, 0) & scale(packed, 1, 2)
        }
        Dtype::Q5_0 => {
            words(packed, 32, &source[6..]);
            let fifth = u32::from_le_bytes([source[2], source[3], source[4], source[5]]);
            for byte in 0..4 {
                let mut bits = 0;
                for word in 0..8 {
                    bits |= ((fifth >> (word * 4 + byte)) as u8 & 1) << word;
                }
                packed[288 + lane * 4 + byte] = bits;
            }
            scale(packed, 0, 0)
        }
        Dtype::Q4_K => {
            for sub in 0..8 {
                let (sc, mn) = q4_k_scale(&source[4..16], sub);
                packed[64 + sub * GROUP + lane] = sc;
                packed[192 + (sub / 2 * GROUP + lane) * 2 + sub % 2] = mn;
            }
            words(packed, 320, &source[16..]);
            scale(packed, 0, 0) & scale(packed, 1, 2)
        }
        Dtype::Q6_K => {
            let (low, rest) = source.split_at(128);
            let (high, rest) = rest.split_at(64);
            for sub in 0..16 {
                packed[32 + (sub / 2 * GROUP + lane) * 2 + sub % 2] = rest[sub];
            }
            for k in 0..256 {
                let quant = q6_k_quant(low, high, k);
                let chunk = &mut packed[288 + k / 32 * 384..][..384];
                let (word, byte) = (k % 32 / 4, k % 4);
                chunk[word % 4 * 64 + lane * 4 + byte] |= (quant & 15) << (word / 4 * 4);
                chunk[256 + word / 4 * 64 + lane * 4 + byte] |= (quant >> 4) << (word % 4 * 2);
            }
            scale(packed, 0, 208)
        }
        _ => unreachable!("checked when packing began"),
    }
}

/// The 6-bit scale and minimum of sub-block `sub` in Q4_K's and Q5_K's twelve packed bytes (`get_scale_min_k4` of ggml).
fn q4_k_scale(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let scale = packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4;
        let min = packed[sub + 4] >> 4 | packed[sub] >> 6 << 4;
        (scale, min)
    }
}

/// Quant `k` (0 to 63) of a Q6_K block: ggml stores halves of 128, in each 64 bytes of nibbles and 32 of upper bits.
fn q6_k_quant(low: &[u8], high: &[u8], k: usize) -> u8 {
    let (half, inner) = (k / 128, k % 128);
    let (quarter, l) = (inner / 32, inner % 32);
    let nibble = low[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
    let upper = high[half * 32 + l] >> (quarter * 2) & 3;
    nibble | upper << 4
}

/// The quants of Q4_0, Q4_1 and Q5_0: element `k` of the block whose quants begin at `start`.
fn nibble(packed: &[u8], start: usize, lane: usize, k: usize) -> u8 {
    packed[start + k % 16 / 4 * 64 + lane * 4 + k % 4] >> (k / 16 * 4) & 15
}

fn unpack_block(dtype: Dtype, packed: &[u8], lane: usize, out: &mut [f32]) {
    let d = f16_at(packed, lane * 2);
    let second = |part: usize| f16_at(packed, (part * GROUP + lane) * 2);
    for (k, out) in out.iter_mut().enumerate() {
        *out = match dtype {
            Dtype::F32 => {
                let at = &packed[lane * 4..][..4];
                f32::from_le_bytes([at[0], at[1], at[2], at[3]])
            }
            Dtype::F16 => d,
            Dtype::BF16 => bf16::from_bits(u16_at(packed, (k / 2 * GROUP + lane) * 4 + k % 2 * 2)).to_f32(),
            Dtype::Q4_0 => (f32::from(nibble(packed, 32, lane, k)) - 8.0) * d,
            Dtype::Q4_1 => f32::from(nibble(packed, 64, lane, k)) * d + second(1),
            Dtype::Q5_0 => {
                let fifth = packed[288 + lane * 4 + k % 4] >> (k / 4) & 1;
                (f32::from(nibble(packed, 32, lane, k) | fifth << 4) - 16.0) * d
            }
            Dtype::Q8_0 => f32::from(packed[32 + k / 4 * 64 + lane * 4 + k % 4] as i8) * d,
            Dtype::Q4_K => {
                let sub = k / 32;
                let scale = d * f32::from(packed[64 + sub * GROUP + lane]);
                let min = second(1) * f32::from(packed[192 + (sub / 2 * GROUP + lane) * 2 + sub % 2]);
                let byte = packed[320 + (k / 64 * 8 + k % 32 / 4) * 64 + lane * 4 + k % 4];
                f32::from(byte >> (sub % 2 * 4) & 15) * scale - min
            }
            Dtype::Q6_K => {
                let sub = k / 16;
                let scale = d * f32::from(packed[32 + (sub / 2 * GROUP + lane) * 2 + sub % 2] as i8);
                let chunk = &packed[288 + k / 32 * 384..][..384];
                let upper = chunk[256 + k % 32 / 16 * 64 + lane * 4 + k % 4] >> (k % 16 / 4 * 2) & 3;
                (f32::from(nibble(chunk, 0, lane, k % 32) | upper << 4) - 32.0) * scale
            }
            _ => unreachable!("checked when it was packed"),
        };
    }
}
