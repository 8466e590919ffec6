//! Importance matrices: how much each input of a model's matrices counts, as llama.cpp's `llama-imatrix` keeps it.
//!
//! A GGUF file of the type `imatrix` has two tensors for each one of the model: `NAME.in_sum2`, the sums of squares of what
//! each column of each of its matrices was multiplied with, and `NAME.counts`, of how many tokens (llama.cpp,
//! `tools/imatrix`). Other tensors of the file are llama.cpp's own statistics, and are not read. What llama.cpp wrote before
//! it used GGUF (`.dat`) is refused as no GGUF file.

use crate::error::{Error, Result, shown};
use crate::gguf::{Gguf, GgufWriter, TensorDescription};
use crate::metadata::{Array, Metadata, Value};
use crate::tensor::TensorView;
use freehold_base::Dtype;
use std::collections::BTreeMap;
use std::io::{self, Write};

const TYPE: &str = "imatrix";
const SQUARES: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The importance of the inputs of a model's matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportanceMatrix {
    tensors: BTreeMap<String, Importance>,
    datasets: Vec<String>,
    chunk_count: u32,
    chunk_size: u32,
}

/// Of the matrices of one tensor: one, or one for each expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// For each matrix and column, the sum of squares of its inputs.
    squares: Vec<f32>,
    /// For each matrix, of how many inputs.
    counts: Vec<f32>,
}

impl Importance {
    /// `squares` has `columns` numbers for each of `counts`.
    ///
    /// # Errors
    /// What is wrong with them: they do not fit each other, or have a number that is no such sum or count.
    pub fn new(squares: Vec<f32>, counts: Vec<f32>) -> Result<Self, &'static str> {
        if counts.is_empty() || squares.is_empty() || !squares.len().is_multiple_of(counts.len()) {
            return Err("sums and counts are not of the same matrices");
        }
        if !squares.iter().chain(&counts).all(|&number| number.is_finite() && number >= 0.0) {
            return Err("a sum of squares or a count is negative or not finite");
        }
        let importance = Self { squares, counts };
        if !importance.means().iter().all(|mean| mean.is_finite()) {
            return Err("a mean is beyond all numbers");
        }
        Ok(importance)
    }

    /// For each matrix and column, the mean of the squares; 1 for the columns of a matrix that nothing came to, so that they
    /// count alike.
    pub fn means(&self) -> Vec<f32> {
        let columns = self.squares.len() / self.counts.len();
        let matrices = self.squares.chunks_exact(columns).zip(&self.counts);
        let mean = |square: &f32, count: f32| if count > 0.0 { square / count } else { 1.0 };
        matrices.flat_map(|(squares, &count)| squares.iter().map(move |square| mean(square, count))).collect()
    }

    /// Matrices that nothing came to.
    pub fn unvisited(&self) -> usize {
        self.counts.iter().filter(|&&count| count == 0.0).count()
    }
}

impl ImportanceMatrix {
    /// Of a model's tensors by name, collected on `chunk_count` chunks of `chunk_size` tokens of the texts called `datasets`.
    pub fn new(
        tensors: BTreeMap<String, Importance>,
        datasets: Vec<String>,
        chunk_count: u32,
        chunk_size: u32,
    ) -> Self {
        Self { tensors, datasets, chunk_count, chunk_size }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the file is no importance matrix, or a tensor of it makes no sense.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let metadata = gguf.metadata();
        if metadata.optional_str("general.type")? != Some(TYPE) {
            return Err(refused("general.type".into(), "the file is no importance matrix".into()));
        }
        let mut tensors = BTreeMap::new();
        for squares in gguf.tensors() {
            let Some(name) = squares.name.strip_suffix(SQUARES) else { continue };
            let field = || format!("tensor `{}`", shown(squares.name));
            let counts = gguf.tensor(&format!("{name}{COUNTS}"));
            let counts = counts.ok_or_else(|| refused(field(), "it has no counts beside it".into()))?;
            let importance = Importance::new(numbers(&squares)?, numbers(&counts)?);
            tensors.insert(name.to_owned(), importance.map_err(|problem| refused(field(), problem.into()))?);
        }
        if tensors.is_empty() {
            return Err(refused("tensors".into(), "there are no sums of squares".into()));
        }
        let datasets = metadata.optional_strings("imatrix.datasets")?;
        Ok(Self {
            tensors,
            datasets: datasets.map(|names| names.iter().map(str::to_owned).collect()).unwrap_or_default(),
            chunk_count: metadata.u32("imatrix.chunk_count")?,
            chunk_size: metadata.u32("imatrix.chunk_size")?,
        })
    }

    /// Writes it as a GGUF file.
    ///
    /// # Errors
    /// Those of `out`, and [`Error::Gguf`] where GGUF has no room for a tensor's name.
    pub fn write<E: From<Error> + From<io::Error>>(&self, out: &mut dyn Write) -> Result<(), E> {
        let pairs = [
            ("general.type", Value::String(TYPE.to_owned())),
            ("imatrix.datasets", Value::Array(Array::String(self.datasets.iter().collect()))),
            ("imatrix.chunk_count", Value::U32(self.chunk_count)),
            ("imatrix.chunk_size", Value::U32(self.chunk_size)),
        ];
        let metadata = Metadata::from_pairs(pairs.map(|(key, value)| (key.to_owned(), value)).into())?;
        let (mut described, mut data) = (Vec::new(), Vec::new());
        for (name, Importance { squares, counts }) in &self.tensors {
            for (suffix, numbers) in [(SQUARES, squares), (COUNTS, counts)] {
                // As ggml writes shapes, without dimensions of 1 outside.
                let mut shape = vec![counts.len() as u64, (numbers.len() / counts.len()) as u64];
                if counts.len() == 1 {
                    shape.remove(0);
                }
                described.push(TensorDescription { name: format!("{name}{suffix}"), dtype: Dtype::F32, shape });
                data.push(numbers);
            }
        }
        GgufWriter::new(&metadata, &described)?.write(out, |number, out| {
            let bytes: Vec<u8> = data[number].iter().flat_map(|number| number.to_le_bytes()).collect();
            Ok::<_, E>(out.write_all(&bytes)?)
        })
    }

    /// The importance of a tensor's inputs.
    pub fn tensor(&self, name: &str) -> Option<&Importance> {
        self.tensors.get(name)
    }

    /// All there are, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &Importance)> {
        self.tensors.iter().map(|(name, importance)| (name.as_str(), importance))
    }

    /// What the texts are called that it was collected on.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// On how many chunks of them.
    pub fn chunk_count(&self) -> u32 {
        self.chunk_count
    }

    /// Tokens of a chunk.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }
}

fn numbers(tensor: &TensorView<'_>) -> Result<Vec<f32>> {
    if tensor.dtype != Dtype::F32 {
        return Err(refused(format!("tensor `{}`", shown(tensor.name)), format!("it is {}, not F32", tensor.dtype)));
    }
    Ok(tensor.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

fn refused(field: String, problem: String) -> Error {
    Error::Gguf { field, problem, remedy: "Collect the importance matrix again, here or with a current llama-imatrix" }
}
