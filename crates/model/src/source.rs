//! One view of a checkpoint's tensors for all architectures, under GGUF's names, whether the file is a GGUF or a Hugging
//! Face folder.

use crate::Error;
use crate::notes::{Notes, Slab};
use freehold_base::Dtype;
use freehold_formats::{Checkpoint, TensorView};
use freehold_kernels::{Compute, Matrix, MatrixError, dequantize_vector};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Tensors of the whole model: (GGUF, Hugging Face).
const GLOBAL_NAMES: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer: (GGUF after `blk.N.`, Hugging Face after `model.layers.N.`). `{}` is an expert's number: GGUF has
/// the experts in one tensor.
const LAYER_NAMES: [(&str, &str); 23] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_sinks", "self_attn.sinks"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.{}.gate_proj"),
    ("ffn_up_exps", "mlp.experts.{}.up_proj"),
    ("ffn_down_exps", "mlp.experts.{}.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

/// Of those, the ones that Hugging Face keeps outside a module, so that their names have no `.weight`.
const BARE_NAMES: [&str; 1] = ["attn_sinks"];

/// What an architecture's checkpoints in Hugging Face's form have otherwise than a Llama's.
#[derive(Clone, Copy)]
pub(crate) struct Conventions {
    /// Tensors of a layer with other names: (GGUF, Hugging Face).
    pub(crate) names: &'static [(&'static str, &'static str)],
    /// Norms hold their weights less 1; GGUF files hold them whole.
    pub(crate) norms_less_one: bool,
    /// The embedding is the output head where the configuration does not say: the default of the architecture's class in
    /// transformers.
    pub(crate) tied: bool,
}

impl Conventions {
    pub(crate) const LLAMA: Self = Self { names: &[], norms_less_one: false, tied: false };
    pub(crate) const GEMMA: Self = Self { norms_less_one: true, tied: true, ..Self::LLAMA };
}

/// A checkpoint being loaded.
pub(crate) struct Source<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) compute: &'a Compute,
    pub(crate) conventions: Conventions,
    /// What a GGUF file of this model says, where one is to be written.
    pub(crate) notes: Option<RefCell<Notes<'a>>>,
    used: RefCell<BTreeSet<String>>,
    progress: RefCell<&'a mut dyn FnMut(u64)>,
}

/// A tensor's place: of the whole model or of one layer.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Model,
    Layer(usize),
}

impl Place {
    pub(crate) fn name_in_gguf(self, name: &str, part: &str) -> String {
        match self {
            Self::Model => format!("{name}.{part}"),
            Self::Layer(layer) => format!("blk.{layer}.{name}.{part}"),
        }
    }
}

/// Rows of a tensor that make a matrix of their own.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) rows: usize,
    /// Where the rows are heads that rope rotates.
    pub(crate) heads: Option<RotatedHeads>,
}

/// How rows of heads lie in a file.
#[derive(Clone, Copy)]
pub(crate) struct RotatedHeads {
    /// Elements of a head.
    pub(crate) dim: usize,
    /// Those of them that rope rotates.
    pub(crate) rotary_dim: usize,
    pub(crate) interleaved: Interleaved,
}

/// In which form's files the two rotated halves of a head take turns. They are put one after the other when they are
/// loaded, so that the bits are those of the same model in the other form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interleaved {
    Nowhere,
    Gguf,
    Everywhere,
}

impl From<usize> for Part {
    fn from(rows: usize) -> Self {
        Self { rows, heads: None }
    }
}

impl Part {
    /// The heads, if the file interleaves their halves.
    fn interleaved(self, in_gguf: bool) -> Option<RotatedHeads> {
        self.heads.filter(|heads| match heads.interleaved {
            Interleaved::Nowhere => false,
            Interleaved::Gguf => in_gguf,
            Interleaved::Everywhere => true,
        })
    }

    /// The part's rows of `cols` numbers, from row `first` of `tensor` on, as GGUF has them.
    fn slabs_in_gguf<'a>(self, tensor: TensorView<'a>, first: usize, cols: usize) -> Vec<Slab<'a>> {
        match self.interleaved(true).filter(|_| self.interleaved(false).is_none()) {
            None => vec![Slab::rows(tensor, first, self.rows, cols)],
            Some(RotatedHeads { dim, rotary_dim, .. }) => (0..self.rows / dim)
                .flat_map(|head| {
                    let first = first + head * dim;
                    let half = rotary_dim / 2;
                    let rotated =
                        Slab { tensor, first: first * cols, axes: [(half, cols), (2, half * cols), (cols, 1)] };
                    [rotated, Slab::rows(tensor, first + rotary_dim, dim - rotary_dim, cols)]
                })
                .collect(),
        }
    }
}

impl RotatedHeads {
    /// Where row `row` stands in a file that interleaves the halves.
    fn row_in_file(self, row: usize) -> usize {
        let (head, element, half) = (row / self.dim, row % self.dim, self.rotary_dim / 2);
        let place = match element {
            _ if element < half => 2 * element,
            _ if element < self.rotary_dim => 2 * (element - half) + 1,
            _ => element,
        };
        head * self.dim + place
    }
}

impl<'a> Source<'a> {
    /// `progress` is told the bytes of each tensor loaded.
    pub(crate) fn new(checkpoint: &'a Checkpoint, compute: &'a Compute, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self {
            checkpoint,
            compute,
            conventions: Conventions::LLAMA,
            notes: None,
            used: RefCell::default(),
            progress: RefCell::new(progress),
        }
    }

    /// Whether it is a GGUF; otherwise a Hugging Face folder.
    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self.checkpoint, Checkpoint::Gguf(_))
    }

    /// The file's name of a tensor's part (`weight` or `bias`).
    fn name(&self, place: Place, name: &str, part: &str) -> String {
        let translate =
            |names: &[(&'static str, &'static str)]| names.iter().find(|(gguf, _)| *gguf == name).map(|found| found.1);
        match place {
            _ if self.is_gguf() => place.name_in_gguf(name, part),
            Place::Model => {
                format!("{}.{part}", translate(&GLOBAL_NAMES).expect("every name has its translation"))
            }
            Place::Layer(layer) => {
                let translated = translate(self.conventions.names).or_else(|| translate(&LAYER_NAMES));
                let translated = translated.expect("every name has its translation");
                if BARE_NAMES.contains(&name) {
                    return format!("model.layers.{layer}.{translated}");
                }
                format!("model.layers.{layer}.{translated}.{part}")
            }
        }
    }

    /// The tensor of this name in the file, which counts as used from now on.
    pub(crate) fn find(&self, full_name: &str) -> Option<TensorView<'a>> {
        let tensor = self.checkpoint.tensor(full_name)?;
        if self.used.borrow_mut().insert(tensor.name.to_owned()) {
            (self.progress.borrow_mut())(tensor.bytes.len() as u64);
        }
        Some(tensor)
    }

    /// The same, where it must be there, in a shape (outermost first).
    pub(crate) fn require(&self, full_name: &str, shape: &[usize]) -> Result<TensorView<'a>, Error> {
        let tensor = self.find(full_name).ok_or_else(|| Error::MissingTensor(full_name.to_owned()))?;
        check_shape(&tensor, shape)?;
        Ok(tensor)
    }

    /// Whether the file has this weight.
    pub(crate) fn has(&self, place: Place, name: &str) -> bool {
        self.checkpoint.tensor(&self.name(place, name, "weight")).is_some()
    }

    /// Whether the file has both weights and they are not the same.
    pub(crate) fn differ(&self, place: Place, name: &str, other: &str) -> bool {
        let weight = |name| self.checkpoint.tensor(&self.name(place, name, "weight"));
        let (Some(one), Some(other)) = (weight(name), weight(other)) else { return false };
        (one.dtype, one.shape, one.bytes) != (other.dtype, other.shape, other.bytes)
    }

    /// The rows of a weight matrix, before its shape is known.
    pub(crate) fn rows(&self, place: Place, name: &str) -> Result<usize, Error> {
        let full_name = self.name(place, name, "weight");
        let tensor = self.checkpoint.tensor(&full_name).ok_or(Error::MissingTensor(full_name))?;
        let size =
            |dimension: usize| tensor.shape.get(dimension).and_then(|&size| usize::try_from(size).ok()).unwrap_or(0);
        let (rows, cols) = (size(0), size(1));
        if rows == 0 {
            // A safetensors file may hold a tensor of nothing.
            let source = MatrixError::WrongSize { dtype: tensor.dtype, rows, cols, bytes: tensor.bytes.len() };
            return Err(unusable(&tensor, source));
        }
        Ok(rows)
    }

    /// Weight matrices of `cols` columns that lie one below the other in one tensor, each packed.
    pub(crate) fn matrices(&self, place: Place, name: &str, parts: &[Part], cols: usize) -> Result<Vec<Matrix>, Error> {
        let full_name = self.name(place, name, "weight");
        let tensor = self.find(&full_name).ok_or(Error::MissingTensor(full_name))?;
        let total = parts.iter().map(|part| part.rows).sum();
        // A single row may be a vector in the file: converters to GGUF drop dimensions of 1.
        if !(total == 1 && tensor.shape == [cols as u64]) {
            check_shape(&tensor, &[total, cols])?;
        }
        let shape = if total == 1 { vec![cols] } else { vec![total, cols] };
        self.note(place, name, "weight", shape, || slabs_of_parts(tensor, parts, cols));
        let row_bytes = tensor.bytes.len() / total;
        let mut first = 0;
        let mut matrices = Vec::new();
        for part in parts {
            let bytes = &tensor.bytes[first * row_bytes..(first + part.rows) * row_bytes];
            let mut ordered = Vec::new();
            let heads = part.interleaved(self.is_gguf());
            if let Some(heads) = heads {
                for row in 0..part.rows {
                    ordered.extend_from_slice(&bytes[heads.row_in_file(row) * row_bytes..][..row_bytes]);
                }
            }
            let bytes = if heads.is_some() { &ordered } else { bytes };
            matrices.push(self.pack(&tensor, part.rows, cols, bytes)?);
            first += part.rows;
        }
        Ok(matrices)
    }

    /// The biases that go with [`Self::matrices`], where the file has them.
    pub(crate) fn biases(&self, place: Place, name: &str, parts: &[Part]) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let Some(tensor) = self.find(&self.name(place, name, "bias")) else { return Ok(None) };
        let total = parts.iter().map(|part| part.rows).sum();
        let all = self.numbers(&tensor, &[total])?;
        self.note(place, name, "bias", vec![total], || slabs_of_parts(tensor, parts, 1));
        let mut rest = &all[..];
        let mut biases = Vec::new();
        for part in parts {
            let (own, others) = rest.split_at(part.rows);
            biases.push(match part.interleaved(self.is_gguf()) {
                Some(heads) => (0..part.rows).map(|row| own[heads.row_in_file(row)]).collect(),
                None => own.to_vec(),
            });
            rest = others;
        }
        Ok(Some(biases))
    }

    /// The weight matrices of all experts of a layer, `rows` × `cols` each.
    pub(crate) fn expert_matrices(
        &self,
        layer: usize,
        name: &str,
        experts: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Vec<Matrix>, Error> {
        let full_name = self.name(Place::Layer(layer), name, "weight");
        if self.is_gguf() {
            let tensor = self.require(&full_name, &[experts, rows, cols])?;
            let bytes = tensor.bytes.chunks_exact(tensor.bytes.len() / experts);
            return bytes.map(|bytes| self.pack(&tensor, rows, cols, bytes)).collect();
        }
        let of_expert = |expert: usize| self.require(&full_name.replace("{}", &expert.to_string()), &[rows, cols]);
        let tensors = (0..experts).map(of_expert).collect::<Result<Vec<_>, Error>>()?;
        self.note(Place::Layer(layer), name, "weight", vec![experts, rows, cols], || {
            tensors.iter().map(|&tensor| Slab::rows(tensor, 0, rows, cols)).collect()
        });
        tensors.iter().map(|tensor| self.pack(tensor, rows, cols, tensor.bytes)).collect()
    }

    /// The biases of all experts of a layer, `rows` each, where a GGUF file has them.
    pub(crate) fn expert_biases(
        &self,
        layer: usize,
        name: &str,
        experts: usize,
        rows: usize,
    ) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let Some(tensor) = self.find(&self.name(Place::Layer(layer), name, "bias")) else { return Ok(None) };
        Ok(Some(self.numbers(&tensor, &[experts, rows])?.chunks_exact(rows).map(<[f32]>::to_vec).collect()))
    }

    /// Packs a matrix out of `bytes` of a tensor.
    pub(crate) fn pack(
        &self,
        tensor: &TensorView<'_>,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Matrix, Error> {
        // The file's pages need not stay beside the matrix. Those at the edges of a part come again with the next one.
        let release = |part: &[u8]| self.checkpoint.release(part);
        Matrix::pack_in_parts(tensor.dtype, rows, cols, bytes, self.compute, release)
            .map_err(|source| unusable(tensor, source))
    }

    /// Packs a matrix that a tensor of experts, [experts, `cols`, n], holds turned over: its rows are the n columns of
    /// `expert` from `first` on, every `step`th.
    pub(crate) fn pack_transposed(
        &self,
        tensor: &TensorView<'_>,
        expert: usize,
        cols: usize,
        first: usize,
        step: usize,
    ) -> Result<Matrix, Error> {
        let size = match tensor.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            dtype => return Err(unusable(tensor, MatrixError::UnsupportedDtype(dtype))),
        };
        let expert_bytes = tensor.bytes.len() / tensor.shape[0] as usize;
        let bytes = &tensor.bytes[expert * expert_bytes..][..expert_bytes];
        let line_bytes = expert_bytes / cols;
        let mut turned = Vec::with_capacity(expert_bytes / step);
        for column in (first * size..line_bytes).step_by(step * size) {
            for line in bytes.chunks_exact(line_bytes) {
                turned.extend_from_slice(&line[column..column + size]);
            }
        }
        let rows = turned.len() / (cols * size);
        self.pack(tensor, rows, cols, &turned)
    }

    /// A vector of `length` numbers as f32.
    pub(crate) fn vector(&self, place: Place, name: &str, length: usize) -> Result<Vec<f32>, Error> {
        let tensor = self.require(&self.name(place, name, "weight"), &[length])?;
        self.note(place, name, "weight", vec![length], || vec![Slab::rows(tensor, 0, 1, length)]);
        self.numbers(&tensor, &[length])
    }

    /// The weights of a norm over `length` numbers.
    pub(crate) fn norm(&self, place: Place, name: &str, length: usize) -> Result<Vec<f32>, Error> {
        if !self.conventions.norms_less_one || self.is_gguf() {
            return self.vector(place, name, length);
        }
        let mut weights = self.numbers(&self.require(&self.name(place, name, "weight"), &[length])?, &[length])?;
        weights.iter_mut().for_each(|weight| *weight += 1.0);
        self.note_numbers(&place.name_in_gguf(name, "weight"), &weights);
        Ok(weights)
    }

    /// Notes a tensor as GGUF has it, where a GGUF file is to be written.
    pub(crate) fn note(
        &self,
        place: Place,
        name: &str,
        part: &str,
        shape: Vec<usize>,
        slabs: impl FnOnce() -> Vec<Slab<'a>>,
    ) {
        if let Some(notes) = &self.notes {
            notes.borrow_mut().tensor(place.name_in_gguf(name, part), shape, slabs());
        }
    }

    /// The same for a vector that the checkpoint does not hold as it stands.
    pub(crate) fn note_numbers(&self, name: &str, numbers: &[f32]) {
        if let Some(notes) = &self.notes {
            notes.borrow_mut().numbers(name.to_owned(), numbers.to_vec());
        }
    }

    /// A tensor of this shape as f32.
    pub(crate) fn numbers(&self, tensor: &TensorView<'_>, shape: &[usize]) -> Result<Vec<f32>, Error> {
        check_shape(tensor, shape)?;
        let length = shape.iter().product();
        dequantize_vector(tensor.dtype, length, tensor.bytes).map_err(|source| unusable(tensor, source))
    }

    /// Refuses a checkpoint that holds more than was used: what it asks for is not what would be computed.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let used = self.used.into_inner();
        let known = |name: &str| {
            used.contains(name)
                // Stored beside a tied embedding by some tools, equal to it.
                || name == "lm_head.weight"
                // A table derived from the configuration, stored by old versions of transformers.
                || name.ends_with("rotary_emb.inv_freq")
        };
        match self.checkpoint.tensors().find(|tensor| !known(tensor.name)) {
            Some(tensor) => Err(Error::UnusedTensor(tensor.name.to_owned())),
            None => Ok(()),
        }
    }
}

/// The numbers of parts that lie one below the other in `tensor`, as GGUF has them.
fn slabs_of_parts<'a>(tensor: TensorView<'a>, parts: &[Part], cols: usize) -> Vec<Slab<'a>> {
    let mut first = 0;
    let slabs = |part: &Part| {
        let slabs = part.slabs_in_gguf(tensor, first, cols);
        first += part.rows;
        slabs
    };
    parts.iter().flat_map(slabs).collect()
}

fn check_shape(tensor: &TensorView<'_>, shape: &[usize]) -> Result<(), Error> {
    let expected: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
    if tensor.shape == expected { Ok(()) } else { Err(wrong_shape(tensor, &expected)) }
}

fn unusable(tensor: &TensorView<'_>, source: MatrixError) -> Error {
    Error::Tensor { name: tensor.name.to_owned(), dtype: tensor.dtype, source }
}

fn wrong_shape(tensor: &TensorView<'_>, expected: &[u64]) -> Error {
    Error::WrongShape { name: tensor.name.to_owned(), found: tensor.shape.to_vec(), expected: expected.to_vec() }
}
