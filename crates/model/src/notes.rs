//! What a GGUF file of a model says, noted while a checkpoint in Hugging Face's form is looked through.
//!
//! The architectures' code reads every parameter and tensor under GGUF's name and Hugging Face's together. Where a file is
//! to be written, it notes what it has read under the first; so there is one table of names, and what is written is what
//! is read.

use crate::mix::is_block;
use freehold_base::Dtype;
use freehold_formats::{TensorView, Value};

/// The keys, without the architecture in front, and the tensors.
#[derive(Default)]
pub(crate) struct Notes<'a> {
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<NotedTensor<'a>>,
}

/// A tensor of the GGUF file.
pub(crate) struct NotedTensor<'a> {
    pub(crate) name: String,
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Numbers<'a>,
}

/// Where a tensor's numbers come from.
pub(crate) enum Numbers<'a> {
    /// From tensors of the checkpoint, one slab after the other.
    Slabs(Vec<Slab<'a>>),
    /// A tensor of a GGUF file, as it stands.
    Whole(TensorView<'a>),
    /// They have been worked out.
    Given(Vec<f32>),
}

/// Some numbers of a checkpoint's tensor in some order: three loops, one in the other.
#[derive(Clone, Copy)]
pub(crate) struct Slab<'a> {
    pub(crate) tensor: TensorView<'a>,
    /// The first number's place in the tensor.
    pub(crate) first: usize,
    /// For each loop, outermost first: how often it goes round, and by how many places at a time.
    pub(crate) axes: [(usize, usize); 3],
}

impl<'a> Slab<'a> {
    /// Rows of `cols` numbers, as they stand in the tensor from row `first` on.
    pub(crate) fn rows(tensor: TensorView<'a>, first: usize, rows: usize, cols: usize) -> Self {
        Self { tensor, first: first * cols, axes: [(1, 0), (rows, cols), (cols, 1)] }
    }

    /// The bytes of each innermost loop, in order: consecutive numbers as they stand in the file, or single ones.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &'a [u8]> {
        let Self { tensor, first, axes: [outer, middle, inner] } = *self;
        let (_, size) = tensor.dtype.block();
        // Consecutive numbers are one run.
        let (runs, length) = if inner.1 == 1 { ((1, 0), inner.0) } else { (inner, 1) };
        let places = move |(count, step): (usize, usize)| (0..count).map(move |index| index * step);
        places(outer).flat_map(move |outer| {
            places(middle).flat_map(move |middle| {
                places(runs).map(move |inner| &tensor.bytes[(first + outer + middle + inner) * size..][..length * size])
            })
        })
    }
}

impl<'a> Notes<'a> {
    /// Several tensors have norms with one epsilon; the key is noted once.
    pub(crate) fn key(&mut self, key: &str, value: Value) {
        if self.keys.iter().all(|(known, _)| known != key) {
            self.keys.push((key.to_owned(), value));
        }
    }

    pub(crate) fn tensor(&mut self, name: String, shape: Vec<usize>, slabs: Vec<Slab<'a>>) {
        self.tensors.push(NotedTensor { name, shape, numbers: Numbers::Slabs(slabs) });
    }

    /// Layers may share what is noted of them all; it is noted once.
    pub(crate) fn numbers(&mut self, name: String, numbers: Vec<f32>) {
        if self.tensors.iter().all(|known| known.name != name) {
            self.tensors.push(NotedTensor { name, shape: vec![numbers.len()], numbers: Numbers::Given(numbers) });
        }
    }
}

impl NotedTensor<'_> {
    /// Whether it is one of products, and not a norm, a bias or sinks.
    pub(crate) fn is_matrix(&self) -> bool {
        self.name.ends_with(".weight") && (self.shape.len() > 1 || self.is_router())
    }

    fn is_router(&self) -> bool {
        self.name.contains("ffn_gate_inp")
    }

    /// Whether the checkpoint has it all in this encoding.
    pub(crate) fn has_dtype(&self, dtype: Dtype) -> bool {
        match &self.numbers {
            Numbers::Slabs(slabs) => slabs.iter().all(|slab| slab.tensor.dtype == dtype),
            Numbers::Whole(tensor) => tensor.dtype == dtype,
            Numbers::Given(_) => dtype == Dtype::F32,
        }
    }

    /// How the numbers are encoded in the GGUF file: a matrix as `matrices` says, or else as the checkpoint has it;
    /// vectors, biases and the routers of experts in F32, as llama.cpp has them.
    pub(crate) fn dtype(&self, matrices: Option<Dtype>) -> Dtype {
        match &self.numbers {
            Numbers::Slabs(slabs) if self.is_matrix() && !self.is_router() => {
                let own = slabs.first().map(|slab| slab.tensor.dtype).filter(|&dtype| self.has_dtype(dtype));
                matrices.or(own).unwrap_or(Dtype::F32)
            }
            Numbers::Whole(tensor) => tensor.dtype,
            _ => Dtype::F32,
        }
    }

    /// How it is encoded now where that is in blocks.
    pub(crate) fn quantized(&self) -> Option<Dtype> {
        match &self.numbers {
            Numbers::Whole(tensor) => Some(tensor.dtype).filter(|&dtype| is_block(dtype)),
            _ => None,
        }
    }
}
