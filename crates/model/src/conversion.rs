//! A model as a new GGUF file: out of Hugging Face's form, or quantised.

use crate::config::Config;
use crate::decoder::{Decoder, Variant};
use crate::mix::{Decider, Facts, Mix, is_block};
use crate::notes::{NotedTensor, Numbers};
use crate::source::Source;
use crate::{Error, architectures};
use freehold_base::Dtype;
use freehold_formats::tokenizer::Vocabulary;
use freehold_formats::{
    Checkpoint, Gguf, GgufWriter, HuggingFaceFolder, Metadata, TensorDescription, TensorView, Value,
};
use freehold_kernels::{Compute, MatrixError, Pool, can_quantize, dequantize_vector, quantize_row};
use half::{bf16, f16};
use std::cell::RefCell;
use std::io::Write;
use std::sync::Mutex;

/// Bytes that are converted before they are written.
const BUFFER_BYTES: usize = 1 << 16;

/// ggml's version of the block formats (`general.quantization_version`).
const QUANTIZATION_VERSION: u32 = 2;

/// llama.cpp's numbers of what most of a file's weights are (`general.file_type`).
const FILE_TYPES: [(Dtype, u32); 3] = [(Dtype::F32, 0), (Dtype::F16, 1), (Dtype::BF16, 32)];

/// Numbers that are quantised at a time: some MB, and rows for every thread.
const BATCH_NUMBERS: usize = 1 << 20;

/// How a conversion encodes matrices. Vectors, biases and the routers of experts are no matrices in this sense.
#[derive(Clone, Copy, Debug)]
pub enum Encoding {
    /// As they are.
    Source,
    /// As F32, F16 or BF16.
    Float(Dtype),
    /// Quantised.
    Mix {
        /// Which tensor has which type.
        mix: Mix,
        /// Whether what is quantised already may be quantised again.
        requantize: bool,
    },
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
    pool: &'a Pool,
}

impl<'a> Conversion<'a> {
    /// Looks through a model. `name` is a folder's (`general.name`); a GGUF file keeps its own, as all its keys but those
    /// that tell the encoding. `progress` is told the bytes of each tensor as it is taken up.
    ///
    /// # Errors
    /// Those of loading the model, [`Error::NotInGguf`] where a GGUF file cannot say what the folder says,
    /// [`Error::IsGguf`] where there is nothing to convert, and [`Error::AlreadyQuantized`].
    pub fn new(
        checkpoint: &'a Checkpoint,
        name: &str,
        encoding: Encoding,
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
        Ok(Self { writer: GgufWriter::new(&metadata, &described)?, metadata, tensors, pool: compute.pool() })
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

    /// Writes the file. `progress` is told how many bytes of tensors have been written since it was last told.
    ///
    /// # Errors
    /// [`Error::Output`] where `out` fails, and [`Error::TooLarge`] where a number is beyond its new encoding.
    pub fn write(&self, out: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.writer.write(out, |number, out| {
            let (dtype, tensor) = &self.tensors[number];
            let mut put = |bytes: &[u8]| {
                progress(bytes.len() as u64);
                out.write_all(bytes)
            };
            let failed = |number| Error::TooLarge { name: tensor.name.clone(), number, dtype: *dtype };
            let cols = tensor.shape.last().copied().unwrap_or(1);
            let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER_BYTES);
            match &tensor.numbers {
                Numbers::Given(numbers) => {
                    numbers.iter().for_each(|number| buffer.extend_from_slice(&number.to_le_bytes()));
                }
                Numbers::Whole(whole) if whole.dtype == *dtype => put(whole.bytes)?,
                Numbers::Whole(whole) => {
                    let row_bytes = whole.bytes.len() / (whole.numbers() as usize / cols);
                    for bytes in whole.bytes.chunks(row_bytes * (BATCH_NUMBERS / cols).max(1)) {
                        let numbers = self.decoded(whole, cols, row_bytes, bytes)?;
                        if can_quantize(*dtype) {
                            put(&self.quantized(*dtype, cols, &numbers))?;
                            continue;
                        }
                        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                        append(&bytes, Dtype::F32, *dtype, &mut buffer).map_err(failed)?;
                        put(&buffer)?;
                        buffer.clear();
                    }
                }
                Numbers::Slabs(slabs) if can_quantize(*dtype) => {
                    let batch = cols * (BATCH_NUMBERS / cols).max(1);
                    let mut numbers: Vec<f32> = Vec::with_capacity(batch);
                    for run in slabs.iter().flat_map(|slab| slab.runs().map(|run| (run, slab.tensor.dtype))) {
                        append(run.0, run.1, Dtype::F32, &mut buffer).map_err(failed)?;
                        numbers.extend(buffer.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
                        buffer.clear();
                        let whole = numbers.len() / batch * batch;
                        if whole > 0 {
                            put(&self.quantized(*dtype, cols, &numbers[..whole]))?;
                            numbers.drain(..whole);
                        }
                    }
                    put(&self.quantized(*dtype, cols, &numbers))?;
                }
                Numbers::Slabs(slabs) => {
                    for run in slabs.iter().flat_map(|slab| slab.runs().map(|run| (run, slab.tensor.dtype))) {
                        append(run.0, run.1, *dtype, &mut buffer).map_err(failed)?;
                        if buffer.len() >= BUFFER_BYTES {
                            put(&buffer)?;
                            buffer.clear();
                        }
                    }
                }
            }
            put(&buffer)?;
            Ok(())
        })
    }

    /// Rows of `row_bytes` bytes of a tensor as numbers.
    fn decoded(&self, tensor: &TensorView<'_>, cols: usize, row_bytes: usize, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        let mut numbers = vec![0.0; bytes.len() / row_bytes * cols];
        let problem: Mutex<Option<MatrixError>> = Mutex::default();
        self.pool.run_rows(&mut numbers, cols, 1, |row, out| {
            match dequantize_vector(tensor.dtype, cols, &bytes[row * row_bytes..][..row_bytes]) {
                Ok(row) => out.copy_from_slice(&row),
                Err(error) => *problem.lock().expect("nothing panics while it is held") = Some(error),
            }
        });
        let problem = problem.into_inner().expect("nothing panics while it is held");
        let unusable = |source| Error::Tensor { name: tensor.name.to_owned(), dtype: tensor.dtype, source };
        problem.map_or(Ok(numbers), |source| Err(unusable(source)))
    }

    /// Rows of `cols` numbers, quantised.
    fn quantized(&self, dtype: Dtype, cols: usize, numbers: &[f32]) -> Vec<u8> {
        let (block, block_bytes) = dtype.block();
        let row_bytes = cols / block * block_bytes;
        let mut bytes = vec![0; numbers.len() / cols * row_bytes];
        self.pool.run_rows(&mut bytes, row_bytes, 1, |row, out| {
            quantize_row(dtype, &numbers[row * cols..][..cols], None, out);
        });
        bytes
    }
}

/// The keys and tensors of a GGUF file, as they stand.
fn of_file(gguf: &Gguf) -> (Vec<(String, Value)>, Vec<NotedTensor<'_>>) {
    // What is written is aligned as is usual.
    let pairs = gguf.metadata().iter().filter(|(key, _)| *key != "general.alignment");
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
    encoding: Encoding,
    metadata: &Metadata,
) -> Result<(Vec<(Dtype, NotedTensor<'a>)>, u32), Error> {
    let (mix, requantize) = match encoding {
        Encoding::Mix { mix, requantize } => (mix, requantize),
        Encoding::Source | Encoding::Float(_) => {
            let dtype = if let Encoding::Float(dtype) = encoding { Some(dtype) } else { None };
            let tensors: Vec<_> = tensors.into_iter().map(|tensor| (tensor.dtype(dtype), tensor)).collect();
            let file_type = file_type(&tensors);
            return Ok((tensors, file_type));
        }
    };
    let facts = Facts::read(metadata, tensors.iter().all(|tensor| tensor.name != "output.weight"))?;
    let decider = Decider::new(mix, facts, tensors.iter().map(|tensor| tensor.name.as_str()));
    let mut chosen = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let dtype = decider.dtype(&tensor.name, &tensor.shape).unwrap_or_else(|| tensor.dtype(None));
        if let Some(now) = tensor.quantized().filter(|&now| now != dtype && !requantize) {
            return Err(Error::AlreadyQuantized { name: tensor.name, dtype: now });
        }
        chosen.push((dtype, tensor));
    }
    Ok((chosen, mix.file_type))
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

/// Appends numbers in another encoding.
///
/// # Errors
/// The number that it cannot hold.
fn append(bytes: &[u8], from: Dtype, to: Dtype, out: &mut Vec<u8>) -> Result<(), f32> {
    match (from, to) {
        (from, to) if from == to => out.extend_from_slice(bytes),
        (Dtype::F16, to) => append_each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32(), to, out)?,
        (Dtype::BF16, to) => append_each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32(), to, out)?,
        (_, to) => append_each(bytes, f32::from_le_bytes, to, out)?,
    }
    Ok(())
}

fn append_each<const N: usize>(
    bytes: &[u8],
    decode: fn([u8; N]) -> f32,
    to: Dtype,
    out: &mut Vec<u8>,
) -> Result<(), f32> {
    let (numbers, _) = bytes.as_chunks::<N>();
    for number in numbers.iter().map(|&bytes| decode(bytes)) {
        let fits = match to {
            Dtype::F16 => {
                let half = f16::from_f32(number);
                out.extend_from_slice(&half.to_le_bytes());
                half.is_finite()
            }
            Dtype::BF16 => {
                let half = bf16::from_f32(number);
                out.extend_from_slice(&half.to_le_bytes());
                half.is_finite()
            }
            _ => {
                out.extend_from_slice(&number.to_le_bytes());
                true
            }
        };
        if !fits {
            return Err(number);
        }
    }
    Ok(())
}
