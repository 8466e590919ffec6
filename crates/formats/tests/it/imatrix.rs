//! Importance matrices: those of llama.cpp's form are read, what is written is in that form, and nothing else is taken.

use freehold_base::Dtype;
use freehold_formats::{Array, Error, Gguf, GgufWriter, ImportanceMatrix, Metadata, TensorDescription, Value};
use std::path::Path;

fn fixture(name: &str) -> Gguf {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/imatrix"));
    Gguf::open(&folder.join(name)).unwrap()
}

fn written(importance: &ImportanceMatrix) -> Gguf {
    let mut file = Vec::new();
    importance.write::<Failure>(&mut file).unwrap();
    Gguf::from_bytes(file).unwrap()
}

#[derive(Debug)]
#[allow(dead_code, reason = "shown where a test fails")]
enum Failure {
    Format(Error),
    Io(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Format(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

#[test]
fn what_is_read_is_written_alike() {
    for (name, entries) in [("llama.gguf", 14), ("qwen3_moe.gguf", 16)] {
        let source = fixture(name);
        let importance = ImportanceMatrix::from_gguf(&source).unwrap();
        assert_eq!(importance.tensors().len(), entries, "{name}");
        assert_eq!((importance.chunk_count(), importance.chunk_size()), (1, 24), "{name}");
        assert_eq!(importance.datasets(), ["golden.json"], "{name}");
        let copy = written(&importance);
        assert_eq!(ImportanceMatrix::from_gguf(&copy).unwrap(), importance, "{name}");
        assert_eq!(copy.metadata().iter().collect::<Vec<_>>(), source.metadata().iter().collect::<Vec<_>>(), "{name}");
        let tensors = |gguf: &Gguf| {
            let each =
                gguf.tensors().map(|tensor| (tensor.name.to_owned(), tensor.shape.to_vec(), tensor.bytes.to_vec()));
            each.collect::<Vec<_>>()
        };
        assert_eq!(tensors(&copy), tensors(&source), "{name}");
    }
}

/// A tensor of F32, with its shape outermost first.
type Tensor<'a> = (&'a str, &'a [u64], &'a [f32]);

fn file(kind: &str, tensors: &[Tensor<'_>], dtype: Dtype) -> Gguf {
    let pairs = [
        ("general.type", Value::String(kind.into())),
        ("imatrix.datasets", Value::Array(Array::String(["a", "b"].into_iter().collect()))),
        ("imatrix.chunk_count", Value::U32(3)),
        ("imatrix.chunk_size", Value::U32(512)),
    ];
    let metadata = Metadata::from_pairs(pairs.map(|(key, value)| (key.to_owned(), value)).into()).unwrap();
    let described: Vec<_> = tensors
        .iter()
        .map(|(name, shape, _)| TensorDescription { name: (*name).into(), dtype, shape: shape.to_vec() })
        .collect();
    let mut bytes = Vec::new();
    let data = |number: usize, out: &mut dyn std::io::Write| {
        tensors[number].2.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
    };
    GgufWriter::new(&metadata, &described).unwrap().write(&mut bytes, data).unwrap();
    Gguf::from_bytes(bytes).unwrap()
}

#[test]
fn means_are_of_each_matrix() {
    let cases: [(&[Tensor<'_>], &[f32]); 3] = [
        (&[("x.in_sum2", &[2], &[8.0, 2.0]), ("x.counts", &[1], &[4.0])], &[2.0, 0.5]),
        // Nothing came to the second expert; what llama.cpp keeps beside is not read.
        (
            &[
                ("x.in_sum2", &[3, 2], &[8.0, 2.0, 0.0, 0.0, 3.0, 6.0]),
                ("x.in_sum", &[3, 2], &[f32::NAN; 6]),
                ("x.counts", &[3, 1], &[4.0, 0.0, 3.0]),
            ],
            &[2.0, 0.5, 1.0, 1.0, 1.0, 2.0],
        ),
        // One count for all matrices of a dense tensor.
        (&[("x.in_sum2", &[2, 2], &[8.0, 2.0, 4.0, 0.0]), ("x.counts", &[1], &[4.0])], &[2.0, 0.5, 1.0, 0.0]),
    ];
    for (tensors, means) in cases {
        let importance = ImportanceMatrix::from_gguf(&file("imatrix", tensors, Dtype::F32)).unwrap();
        assert_eq!(importance.tensor("x").unwrap().means(), means);
        assert_eq!(importance.tensors().len(), 1);
        assert_eq!(importance.tensor("x.in_sum2"), None);
    }
}

#[test]
fn what_is_refused() {
    let sound: &[Tensor<'_>] = &[("x.in_sum2", &[2], &[1.0, 2.0]), ("x.counts", &[1], &[4.0])];
    let of = |tensors: &[Tensor<'_>]| file("imatrix", tensors, Dtype::F32);
    let cases = [
        (file("model", sound, Dtype::F32), "is no importance matrix"),
        (fixture("../tiny/tiny-llama.gguf"), "is no importance matrix"),
        (file("imatrix", sound, Dtype::I32), "tensor `x.in_sum2`: it is I32, not F32"),
        (of(&[]), "there are no sums"),
        (of(&[("x.counts", &[1], &[4.0])]), "there are no sums"),
        (of(&[("x.in_sum2", &[2], &[1.0, 2.0])]), "no counts"),
        (of(&[("x.in_sum2", &[3], &[1.0; 3]), ("x.counts", &[2], &[4.0; 2])]), "not of the same matrices"),
        (of(&[("x.in_sum2", &[1], &[1.0]), ("x.counts", &[2], &[4.0; 2])]), "not of the same matrices"),
        (of(&[("x.in_sum2", &[1], &[-1.0]), ("x.counts", &[1], &[4.0])]), "negative or not finite"),
        (of(&[("x.in_sum2", &[1], &[f32::NAN]), ("x.counts", &[1], &[4.0])]), "negative or not finite"),
        (of(&[("x.in_sum2", &[1], &[1.0]), ("x.counts", &[1], &[f32::INFINITY])]), "negative or not finite"),
        (of(&[("x.in_sum2", &[1], &[1.0]), ("x.counts", &[1], &[1e-45])]), "beyond all numbers"),
    ];
    for (gguf, problem) in cases {
        let error = ImportanceMatrix::from_gguf(&gguf).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}
