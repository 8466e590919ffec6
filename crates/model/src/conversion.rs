//! A model in Hugging Face's form as a GGUF file.

use crate::config::Config;
use crate::decoder::{Decoder, Variant};
use crate::notes::{NotedTensor, Notes, Numbers};
use crate::source::Source;
use crate::{Error, architectures};
use freehold_base::Dtype;
use freehold_formats::tokenizer::Vocabulary;
use freehold_formats::{Checkpoint, Gguf, GgufWriter, HuggingFaceFolder, Metadata, TensorDescription, Value};
use freehold_kernels::Compute;
use half::{bf16, f16};
use std::cell::RefCell;
use std::io::Write;

/// Bytes that are converted before they are written.
const BUFFER_BYTES: usize = 1 << 16;

/// llama.cpp's numbers of what most of a file's weights are (`general.file_type`).
const FILE_TYPES: [(Dtype, u32); 3] = [(Dtype::F32, 0), (Dtype::F16, 1), (Dtype::BF16, 32)];

/// A GGUF file of a model in Hugging Face's form, ready to be written.
///
/// What is written is noted while the model is looked through as it is when it is loaded, one layer at a time, so that all
/// is refused that loading refuses. The keys are then read as those of a GGUF file, and must give the same
/// hyper-parameters.
pub struct Conversion<'a> {
    writer: GgufWriter,
    metadata: Metadata,
    /// Each with its encoding in the file.
    tensors: Vec<(Dtype, NotedTensor<'a>)>,
}

impl<'a> Conversion<'a> {
    /// Looks through a folder. Matrices are to be encoded as `dtype`: F32, F16, BF16, or as they are where it is `None`.
    /// `name` is the model's (`general.name`). `progress` is told the bytes of each tensor as it is taken up.
    ///
    /// # Errors
    /// Those of loading the model, [`Error::NotInGguf`] where a GGUF file cannot say what the folder says, and
    /// [`Error::IsGguf`] where there is nothing to convert.
    pub fn new(
        checkpoint: &'a Checkpoint,
        name: &str,
        dtype: Option<Dtype>,
        compute: &'a Compute,
        progress: &'a mut dyn FnMut(u64),
    ) -> Result<Self, Error> {
        let Checkpoint::HuggingFace(folder) = checkpoint else { return Err(Error::IsGguf) };
        let mut source = Source::new(checkpoint, compute, progress);
        source.notes = Some(RefCell::default());
        let (config, variant) = architectures::parameters(&mut source)?;
        Decoder::load(&source, &config, &variant)?;
        let Notes { keys, tensors } = source.notes.take().unwrap_or_default().into_inner();
        source.finish()?;
        let tensors: Vec<_> = tensors.into_iter().map(|tensor| (tensor.dtype(dtype), tensor)).collect();
        let mut pairs = vec![
            ("general.architecture".to_owned(), Value::String(config.architecture.to_owned())),
            ("general.type".to_owned(), Value::String("model".to_owned())),
            ("general.name".to_owned(), Value::String(name.to_owned())),
            ("general.file_type".to_owned(), Value::U32(file_type(&tensors))),
        ];
        let prefixed = |(key, value)| (format!("{}.{key}", config.architecture), value);
        pairs.extend(keys.into_iter().map(prefixed));
        pairs.extend(tokenizer_keys(checkpoint, folder, name, config.vocabulary)?);
        let metadata = Metadata::from_pairs(pairs)?;
        check_parameters(&metadata, &tensors, (&config, &variant), compute)?;
        let described: Vec<_> = tensors
            .iter()
            .map(|(dtype, tensor)| TensorDescription {
                name: tensor.name.clone(),
                dtype: *dtype,
                shape: tensor.shape.iter().map(|&size| size as u64).collect(),
            })
            .collect();
        Ok(Self { writer: GgufWriter::new(&metadata, &described)?, metadata, tensors })
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
            match &tensor.numbers {
                Numbers::Given(numbers) => {
                    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                    progress(bytes.len() as u64);
                    out.write_all(&bytes)?;
                }
                Numbers::Slabs(slabs) => {
                    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
                    for slab in slabs {
                        for run in slab.runs() {
                            append(run, slab.tensor.dtype, *dtype, &mut buffer).map_err(|number| Error::TooLarge {
                                name: tensor.name.clone(),
                                number,
                                dtype: *dtype,
                            })?;
                            if buffer.len() >= BUFFER_BYTES {
                                progress(buffer.len() as u64);
                                out.write_all(&buffer)?;
                                buffer.clear();
                            }
                        }
                    }
                    progress(buffer.len() as u64);
                    out.write_all(&buffer)?;
                }
            }
            Ok(())
        })
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
