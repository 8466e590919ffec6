//! A model as a new GGUF file: out of Hugging Face's form, or quantised.

use crate::config::Config;
use crate::decoder::{Decoder, Variant};
use crate::encode::Encoder;
use crate::mix::{Decider, Facts, Mix, is_block};
use crate::notes::{NotedTensor, Numbers};
use crate::source::Source;
use crate::{Error, architectures};
use freehold_base::Dtype;
use freehold_formats::tokenizer::Vocabulary;
use freehold_formats::{
    Checkpoint, Gguf, GgufWriter, HuggingFaceFolder, ImportanceMatrix, Metadata, TensorDescription, Value,
};
use freehold_kernels::{Compute, Pool};
use std::cell::RefCell;
use std::io::Write;

/// ggml's version of the block formats (`general.quantization_version`).
const QUANTIZATION_VERSION: u32 = 2;

/// llama.cpp's numbers of what most of a file's weights are (`general.file_type`).
const FILE_TYPES: [(Dtype, u32); 3] = [(Dtype::F32, 0), (Dtype::F16, 1), (Dtype::BF16, 32)];

/// What the keys about an importance matrix begin with.
const IMPORTANCE_KEYS: &str = "quantize.imatrix.";

/// How a conversion encodes matrices. Vectors, biases and the routers of experts are no matrices in this sense.
#[derive(Clone, Copy)]
pub enum Encoding<'a> {
    /// As they are.
    Source,
    /// As F32, F16 or BF16.
    Float(Dtype),
    /// Quantised.
    Quantized(Quantization<'a>),
}

/// How matrices are quantised.
#[derive(Clone, Copy)]
pub struct Quantization<'a> {
    /// Which tensor has which type.
    pub mix: Mix,
    /// The type of a tensor, by its name in GGUF, where it is not to be the mix's: a float or one that
    /// [`freehold_kernels::can_quantize`].
    pub choice: &'a dyn Fn(&str) -> Option<Dtype>,
    /// How much the errors of each column count.
    pub importance: Option<&'a ImportanceMatrix>,
    /// Whether what is quantised already may be quantised again.
    pub requantize: bool,
}

/// A GGUF file of a model, ready to be written.
///
/// What is written is noted while the model is looked through as it is when it is loaded, one layer at a time, so that all
/// is refused that loading refuses. The keys are then read as those of a GGUF file, and must give the same
/// hyper-parameters.
pub struct Conversion<'a> {
    writer: GgufWriter,
    metadata: Metadata,
    /// Each with its encoding in the file.
    tensors: Vec<(Dtype, NotedTensor<'a>)>,
    importance: Option<&'a ImportanceMatrix>,
    pool: &'a Pool,
}

impl<'a> Conversion<'a> {
    /// Looks through a model. `name` is a folder's (`general.name`); a GGUF file keeps its own, as all its keys but those
    /// that tell the encoding. `progress` is told the bytes of each tensor as it is taken up.
    ///
    /// # Errors
    /// Those of loading the model, [`Error::NotInGguf`] where a GGUF file cannot say what the folder says,
    /// [`Error::IsGguf`] where there is nothing to convert, [`Error::AlreadyQuantized`], and [`Error::OtherImportance`].
    pub fn new(
        checkpoint: &'a Checkpoint,
        name: &str,
        encoding: Encoding<'a>,
        compute: &'a Compute,
        progress: &'a mut dyn FnMut(u64),
    ) -> Result<Self, Error> {
        if let (Checkpoint::Gguf(_), Encoding::Source | Encoding::Float(_)) = (checkpoint, encoding) {
            return Err(Error::IsGguf);
        }
        let mut source = Source::new(checkpoint, compute, progress);
        source.notes = Some(RefCell::default());
        let (config, variant) = architectures::parameters(&mut source)?;
        Decoder::load(&source, &config, &variant)?;
        let notes = source.notes.take().unwrap_or_default().into_inner();
        source.finish()?;
        let (mut pairs, tensors) = match checkpoint {
            Checkpoint::Gguf(gguf) => of_file(gguf),
            Checkpoint::HuggingFace(folder) => {
                let mut pairs = vec![
                    ("general.architecture".to_owned(), Value::String(config.architecture.to_owned())),
                    ("general.type".to_owned(), Value::String("model".to_owned())),
                    ("general.name".to_owned(), Value::String(name.to_owned())),
                    ("general.file_type".to_owned(), Value::U32(0)),
                ];
                let prefixed = |(key, value)| (format!("{}.{key}", config.architecture), value);
                pairs.extend(notes.keys.into_iter().map(prefixed));
                pairs.extend(tokenizer_keys(checkpoint, folder, name, config.vocabulary)?);
                (pairs, notes.tensors)
            }
        };
        let (tensors, file_type) = encoded(tensors, encoding, &Metadata::from_pairs(pairs.clone())?)?;
        set(&mut pairs, "general.file_type", file_type);
        if tensors.iter().any(|(dtype, _)| is_block(*dtype)) {
            set(&mut pairs, "general.quantization_version", QUANTIZATION_VERSION);
        }
        let importance = match encoding {
            Encoding::Quantized(Quantization { importance, .. }) => importance,
            Encoding::Source | Encoding::Float(_) => None,
        };
        if let Some(importance) = importance {
            pairs.extend(importance_keys(importance));
            tensors
                .iter()
                .filter(|(dtype, _)| is_block(*dtype))
                .try_for_each(|(_, tensor)| check(importance, tensor))?;
        }
        let metadata = Metadata::from_pairs(pairs)?;
        if let Checkpoint::HuggingFace(_) = checkpoint {
            check_parameters(&metadata, &tensors, (&config, &variant), compute)?;
        }
        let described: Vec<_> = tensors
            .iter()
            .map(|(dtype, tensor)| TensorDescription {
                name: tensor.name.clone(),
                dtype: *dtype,
                shape: tensor.shape.iter().map(|&size| size as u64).collect(),
            })
            .collect();
        Ok(Self {
            writer: GgufWriter::new(&metadata, &described)?,
            metadata,
            tensors,
            importance,
            pool: compute.pool(),
        })
    }

    /// The keys of the file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The encoding and the bytes of each tensor of the file.
    pub fn tensors(&self) -> impl Iterator<Item = (Dtype, u64)> {
        self.tensors.iter().map(|(dtype, tensor)| {
            let numbers = tensor.shape.iter().product::<usize>() as u64;
            (*dtype, dtype.size_bytes(numbers).expect("the writer has measured it"))
        })
    }

    /// The length of the file.
    pub fn size_bytes(&self) -> u64 {
        self.writer.size_bytes()
    }

    /// Whether the file's logits have the bits of the folder's: all matrices are encoded as they are there. Routers of
    /// experts may not be, for a GGUF file has them in F32.
    pub fn keeps_bits(&self) -> bool {
        self.tensors.iter().all(|(dtype, tensor)| !tensor.is_matrix() || tensor.has_dtype(*dtype))
    }

    /// Of the tensors that are quantised, how many the importance matrix does not know.
    pub fn without_importance(&self) -> usize {
        let unknown = |(dtype, tensor): &&(Dtype, NotedTensor<'_>)| {
            is_block(*dtype) && !tensor.has_dtype(*dtype) && self.importance_of(tensor).is_none()
        };
        self.tensors.iter().filter(unknown).count()
    }

    fn importance_of(&self, tensor: &NotedTensor<'_>) -> Option<Vec<f32>> {
        Some(self.importance?.tensor(&tensor.name)?.means())
    }

    /// Writes the file. `progress` is told how many bytes of tensors have been written since it was last told.
    ///
    /// # Errors
    /// [`Error::Output`] where `out` fails, and [`Error::TooLarge`] where a number is beyond its new encoding.
    pub fn write(&self, out: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.writer.write(out, |number, out| {
            let (dtype, tensor) = &self.tensors[number];
            let mut put = |bytes: &[u8]| {
                progress(bytes.len() as u64);
                Ok(out.write_all(bytes)?)
            };
            if tensor.has_dtype(*dtype) {
                return tensor.copy(&mut put);
            }
            let encoder = Encoder::new(*dtype, tensor, self.importance_of(tensor), self.pool);
            let mut rows = 0;
            tensor.decode(self.pool, &mut |numbers| {
                let bytes = encoder.encode(rows, numbers)?;
                rows += numbers.len() / tensor.cols();
                put(&bytes)
            })
        })
    }
}

/// llama.cpp's keys about an importance matrix, but for the path of its file.
fn importance_keys(importance: &ImportanceMatrix) -> Vec<(String, Value)> {
    let dataset = importance.datasets().first().map(|name| ("dataset", Value::String(name.clone())));
    let counts = [("entries_count", importance.tensors().len() as u32), ("chunks_count", importance.chunk_count())];
    let counts = counts.map(|(key, count)| (key, Value::U32(count)));
    dataset.into_iter().chain(counts).map(|(key, value)| (format!("{IMPORTANCE_KEYS}{key}"), value)).collect()
}

/// Whether the importance of a tensor's columns, where it is known, is of as many.
fn check(importance: &ImportanceMatrix, tensor: &NotedTensor<'_>) -> Result<(), Error> {
    let Some(known) = importance.tensor(&tensor.name) else { return Ok(()) };
    let (found, expected) = (known.means().len(), tensor.cols() * tensor.matrices());
    if found == expected { Ok(()) } else { Err(Error::OtherImportance { name: tensor.name.clone(), found, expected }) }
}

/// The keys and tensors of a GGUF file, as they stand.
fn of_file(gguf: &Gguf) -> (Vec<(String, Value)>, Vec<NotedTensor<'_>>) {
    // What is written is aligned as is usual, and is not quantised as the file may be.
    let stays = |key: &str| key != "general.alignment" && !key.starts_with(IMPORTANCE_KEYS);
    let pairs = gguf.metadata().iter().filter(|(key, _)| stays(key));
    let tensors = gguf.tensors().map(|tensor| NotedTensor {
        name: tensor.name.to_owned(),
        shape: tensor.shape.iter().map(|&size| size as usize).collect(),
        numbers: Numbers::Whole(tensor),
    });
    (pairs.map(|(key, value)| (key.to_owned(), value.clone())).collect(), tensors.collect())
}

/// Each tensor with its encoding in the new file, and the file's type.
#[allow(clippy::type_complexity, reason = "a list and a number")]
fn encoded<'a>(
    tensors: Vec<NotedTensor<'a>>,
    encoding: Encoding<'_>,
    metadata: &Metadata,
) -> Result<(Vec<(Dtype, NotedTensor<'a>)>, u32), Error> {
    let quantization = match encoding {
        Encoding::Quantized(quantization) => quantization,
        Encoding::Source | Encoding::Float(_) => {
            let dtype = if let Encoding::Float(dtype) = encoding { Some(dtype) } else { None };
            let tensors: Vec<_> = tensors.into_iter().map(|tensor| (tensor.dtype(dtype), tensor)).collect();
            let file_type = file_type(&tensors);
            return Ok((tensors, file_type));
        }
    };
    let facts = Facts::read(metadata, tensors.iter().all(|tensor| tensor.name != "output.weight"))?;
    let decider = Decider::new(&quantization, facts, tensors.iter().map(|tensor| tensor.name.as_str()));
    let mut chosen = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let dtype = decider.dtype(&tensor.name, &tensor.shape).unwrap_or_else(|| tensor.dtype(None));
        if let Some(now) = tensor.quantized().filter(|&now| now != dtype && !quantization.requantize) {
            return Err(Error::AlreadyQuantized { name: tensor.name, dtype: now });
        }
        chosen.push((dtype, tensor));
    }
    Ok((chosen, quantization.mix.file_type))
}

/// Gives a key a number, in its place where it is there.
fn set(pairs: &mut Vec<(String, Value)>, key: &str, number: u32) {
    match pairs.iter_mut().find(|(known, _)| known == key) {
        Some((_, value)) => *value = Value::U32(number),
        None => pairs.push((key.to_owned(), Value::U32(number))),
    }
}

/// What most of the weights are encoded as.
fn file_type(tensors: &[(Dtype, NotedTensor<'_>)]) -> u32 {
    let numbers = |wanted: Dtype| {
        let those = tensors.iter().filter(|(dtype, _)| *dtype == wanted);
        those.map(|(_, tensor)| tensor.shape.iter().product::<usize>()).sum::<usize>()
    };
    let most = FILE_TYPES.into_iter().max_by_key(|(dtype, _)| numbers(*dtype));
    most.map_or(0, |(_, number)| number)
}

/// The tokenizer and the chat template; a folder without a tokenizer makes a file without one.
fn tokenizer_keys(
    checkpoint: &Checkpoint,
    folder: &HuggingFaceFolder,
    name: &str,
    vocabulary: usize,
) -> Result<Vec<(String, Value)>, Error> {
    if folder.tokenizer().or(folder.sentencepiece()).or(folder.word_list()).is_none() {
        return Ok(vec![("tokenizer.ggml.model".to_owned(), Value::String("none".to_owned()))]);
    }
    let mut keys = Vocabulary::from_checkpoint(checkpoint)?.gguf_keys(name, vocabulary)?;
    if let Some(template) = folder.chat_template() {
        keys.push(("tokenizer.chat_template".to_owned(), Value::String(template.to_owned())));
    }
    Ok(keys)
}

/// Reads the keys as those of a GGUF file and compares the hyper-parameters with the folder's: a setting that GGUF has no
/// key for must be the one that its readers take for granted. Stand-ins take the places of the weights, which are not there
/// yet; rotary factors are.
fn check_parameters(
    metadata: &Metadata,
    tensors: &[(Dtype, NotedTensor<'_>)],
    (config, variant): (&Config, &Variant),
    compute: &Compute,
) -> Result<(), Error> {
    let stand_in = |name: &str, rows: usize| {
        let description = TensorDescription { name: name.to_owned(), dtype: Dtype::I8, shape: vec![rows as u64, 1] };
        (description, vec![0; rows])
    };
    let mut few = vec![stand_in("token_embd.weight", config.vocabulary)];
    few.extend(config.has_head.then(|| stand_in("output.weight", 1)));
    for (_, tensor) in tensors.iter().filter(|(_, tensor)| tensor.name.starts_with("rope_")) {
        if let Numbers::Given(numbers) = &tensor.numbers {
            let shape = vec![numbers.len() as u64];
            let description = TensorDescription { name: tensor.name.clone(), dtype: Dtype::F32, shape };
            few.push((description, numbers.iter().flat_map(|number| number.to_le_bytes()).collect()));
        }
    }
    let (descriptions, data): (Vec<_>, Vec<Vec<u8>>) = few.into_iter().unzip();
    let mut file = Vec::new();
    GgufWriter::new(metadata, &descriptions)?.write(&mut file, |number, out| out.write_all(&data[number]))?;
    let read = Checkpoint::Gguf(Gguf::from_bytes(file)?);
    let mut ignored = |_| {};
    let (read_config, read_variant) = architectures::parameters(&mut Source::new(&read, compute, &mut ignored))?;
    let difference = variant.difference(&read_variant);
    let difference = difference.or((*config != read_config).then_some("sizes"));
    difference.map_or(Ok(()), |part| Err(Error::NotInGguf(part)))
}
