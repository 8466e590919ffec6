//! A tensor's numbers on their way into a new file: as they are, or decoded, some rows at a time, and encoded again.

use crate::Error;
use crate::notes::{NotedTensor, Numbers, Slab};
use freehold_base::Dtype;
use freehold_formats::TensorView;
use freehold_kernels::{MatrixError, Pool, can_quantize, dequantize_vector, quantize_row};
use half::{bf16, f16};
use std::sync::Mutex;

/// Bytes that are put together before they are written.
const BUFFER_BYTES: usize = 1 << 16;

/// Numbers that are decoded at a time: some MB, and rows for every thread.
const BATCH_NUMBERS: usize = 1 << 20;

impl NotedTensor<'_> {
    /// Numbers of a row.
    pub(crate) fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Matrices that lie one after the other: experts.
    pub(crate) fn matrices(&self) -> usize {
        self.shape.iter().rev().skip(2).product()
    }

    /// Hands over the bytes as they are.
    pub(crate) fn copy(&self, put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        match &self.numbers {
            Numbers::Given(numbers) => {
                put(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
            }
            Numbers::Whole(tensor) => put(tensor.bytes),
            Numbers::Slabs(slabs) => {
                let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER_BYTES);
                for run in slabs.iter().flat_map(Slab::runs) {
                    buffer.extend_from_slice(run);
                    if buffer.len() >= BUFFER_BYTES {
                        put(&buffer)?;
                        buffer.clear();
                    }
                }
                put(&buffer)
            }
        }
    }

    /// Hands over the numbers, whole rows at a time.
    pub(crate) fn decode(&self, pool: &Pool, put: &mut dyn FnMut(&[f32]) -> Result<(), Error>) -> Result<(), Error> {
        let cols = self.cols();
        let rows = (BATCH_NUMBERS / cols).max(1);
        match &self.numbers {
            Numbers::Given(numbers) => put(numbers),
            Numbers::Whole(tensor) => {
                let row_bytes = tensor.bytes.len() / (tensor.numbers() as usize / cols);
                tensor.bytes.chunks(row_bytes * rows).try_for_each(|bytes| put(&decoded(tensor, cols, bytes, pool)?))
            }
            Numbers::Slabs(slabs) => {
                let mut numbers: Vec<f32> = Vec::with_capacity(cols * rows);
                for slab in slabs {
                    for run in slab.runs() {
                        widen(slab.tensor.dtype, run, &mut numbers);
                        if numbers.len() >= cols * rows {
                            let whole = numbers.len() / cols * cols;
                            put(&numbers[..whole])?;
                            numbers.drain(..whole);
                        }
                    }
                }
                put(&numbers)
            }
        }
    }
}

/// Whole rows of a tensor as numbers.
fn decoded(tensor: &TensorView<'_>, cols: usize, bytes: &[u8], pool: &Pool) -> Result<Vec<f32>, Error> {
    let (block, block_bytes) = tensor.dtype.block();
    let row_bytes = cols / block * block_bytes;
    let mut numbers = vec![0.0; bytes.len() / row_bytes * cols];
    let problem: Mutex<Option<MatrixError>> = Mutex::default();
    pool.run_rows(&mut numbers, cols, 1, |row, out| {
        match dequantize_vector(tensor.dtype, cols, &bytes[row * row_bytes..][..row_bytes]) {
            Ok(row) => out.copy_from_slice(&row),
            Err(error) => *problem.lock().expect("nothing panics while it is held") = Some(error),
        }
    });
    let problem = problem.into_inner().expect("nothing panics while it is held");
    let unusable = |source| Error::Tensor { name: tensor.name.to_owned(), dtype: tensor.dtype, source };
    problem.map_or(Ok(numbers), |source| Err(unusable(source)))
}

/// Appends numbers of a float type, the only ones that slabs are of.
fn widen(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    match dtype {
        Dtype::F16 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32())),
        Dtype::BF16 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32())),
        _ => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
    }
}

/// Encodes a tensor's rows.
pub(crate) struct Encoder<'t> {
    dtype: Dtype,
    name: &'t str,
    cols: usize,
    /// Of each matrix.
    rows: usize,
    /// For each matrix and column.
    importance: Option<Vec<f32>>,
    pool: &'t Pool,
}

impl<'t> Encoder<'t> {
    /// `importance` has a number for each column of each of the tensor's matrices.
    pub(crate) fn new(dtype: Dtype, tensor: &'t NotedTensor<'_>, importance: Option<Vec<f32>>, pool: &'t Pool) -> Self {
        let rows = tensor.shape.iter().rev().nth(1).copied().unwrap_or(1);
        Self { dtype, name: &tensor.name, cols: tensor.cols(), rows, importance, pool }
    }

    /// Whole rows, from the tensor's row `first` on.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(crate) fn encode(&self, first: usize, numbers: &[f32]) -> Result<Vec<u8>, Error> {
        match self.dtype {
            dtype if can_quantize(dtype) => Ok(self.quantized(first, numbers)),
            Dtype::F16 => self.narrowed(numbers, |number| {
                let half = f16::from_f32(number);
                (half.to_le_bytes(), half.is_finite())
            }),
            Dtype::BF16 => self.narrowed(numbers, |number| {
                let half = bf16::from_f32(number);
                (half.to_le_bytes(), half.is_finite())
            }),
            _ => self.narrowed(numbers, |number| (number.to_le_bytes(), true)),
        }
    }

    /// `encode` gives bytes, and whether they hold the number.
    fn narrowed<const N: usize>(
        &self,
        numbers: &[f32],
        encode: impl Fn(f32) -> ([u8; N], bool),
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(numbers.len() * N);
        for &number in numbers {
            let (encoded, fits) = encode(number);
            if !fits {
                return Err(Error::TooLarge { name: self.name.to_owned(), number, dtype: self.dtype });
            }
            bytes.extend_from_slice(&encoded);
        }
        Ok(bytes)
    }

    fn quantized(&self, first: usize, numbers: &[f32]) -> Vec<u8> {
        let Self { dtype, cols, rows, ref importance, .. } = *self;
        let (block, block_bytes) = dtype.block();
        let row_bytes = cols / block * block_bytes;
        let mut bytes = vec![0; numbers.len() / cols * row_bytes];
        self.pool.run_rows(&mut bytes, row_bytes, 1, |row, out| {
            let importance = importance.as_ref().map(|all| &all[(first + row) / rows * cols..][..cols]);
            quantize_row(dtype, &numbers[row * cols..][..cols], importance, out);
        });
        bytes
    }
}
