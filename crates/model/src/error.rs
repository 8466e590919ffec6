//! Why a model cannot be loaded or run.

use freehold_base::{Dtype, units};
use freehold_kernels::{MatrixError, RopeError};

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself cannot be read.
    #[error(transparent)]
    Format(#[from] freehold_formats::Error),
    /// No implementation.
    #[error("the architecture `{name}` is not supported: use a model of one of these: {supported}")]
    UnsupportedArchitecture {
        /// As the model names it.
        name: String,
        /// The ones there are.
        supported: String,
    },
    /// A hyper-parameter is missing or makes no sense.
    #[error("the model's `{key}` {problem}: the file is damaged or of a kind that is not supported")]
    Parameter {
        /// As the file names it.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is missing.
    #[error("the tensor `{0}` is missing: the file is incomplete, or not of the architecture that it names")]
    MissingTensor(String),
    /// A tensor has another shape than the hyper-parameters say.
    #[error("the tensor `{name}` has the shape {found:?}, not {expected:?}: the file is damaged")]
    WrongShape {
        /// The tensor.
        name: String,
        /// Outermost first.
        found: Vec<u64>,
        /// Outermost first.
        expected: Vec<u64>,
    },
    /// A tensor cannot be used.
    #[error("the tensor `{name}` ({dtype}) cannot be used: {source}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Its encoding.
        dtype: Dtype,
        /// Why.
        source: MatrixError,
    },
    /// The file holds a tensor that the architecture does not use: running without it would give wrong answers.
    #[error("the tensor `{0}` is not part of this architecture: the model is a variant that is not supported")]
    UnusedTensor(String),
    /// GGUF has no key for a setting, and what its readers take for granted is another.
    #[error("GGUF has no words for the model's {0}: keep the model as a folder, which runs as it is")]
    NotInGguf(&'static str),
    /// There is nothing to convert.
    #[error("the model is a GGUF file already")]
    IsGguf,
    /// What is quantised already would lose twice.
    #[error(
        "the tensor `{name}` is {dtype} already: quantising it again adds the second rounding's error to the first's. Take the \
         model in a float type, or give --requantize"
    )]
    AlreadyQuantized {
        /// The tensor.
        name: String,
        /// Its encoding.
        dtype: Dtype,
    },
    /// An importance matrix was collected on another model.
    #[error(
        "the importance matrix knows {found} columns of `{name}`, which has {expected}: it was collected on another model"
    )]
    OtherImportance {
        /// The tensor, as GGUF calls it.
        name: String,
        /// Columns that it knows.
        found: usize,
        /// Columns of all of the tensor's matrices.
        expected: usize,
    },
    /// A number cannot be written as it was asked.
    #[error("the tensor `{name}` holds {number}, which is beyond {dtype}: choose another type")]
    TooLarge {
        /// The tensor, as GGUF calls it.
        name: String,
        /// One such number.
        number: f32,
        /// The encoding asked for.
        dtype: Dtype,
    },
    /// What is written cannot be.
    #[error(transparent)]
    Output(#[from] std::io::Error),
    /// The rotary position parameters make no sense.
    #[error("the model's rotary position parameters: {0}")]
    Rope(#[from] RopeError),
    /// The system does not give the memory for a cache.
    #[error(
        "the keys and values of {positions} positions take {}, which this machine does not have: choose a smaller \
         `--context`, or give fewer tokens",
        units::format_bytes(*.bytes)
    )]
    CacheMemory {
        /// The positions wanted.
        positions: u64,
        /// What they take; `u64::MAX` where it is more.
        bytes: u64,
    },
}
