//! GGUF files: the header, metadata of every type, tensors; then the tokenizer and the chat template inside, and what an
//! importance matrix would be.

use crate::allocator::within_limit;
use crate::damage::{Damage, Edge, damaged};
use crate::gguf_builder::{ARRAY, Builder, Tensor, array, string};
use arbitrary::Arbitrary;
use freehold_formats::{Checkpoint, Gguf, ImportanceMatrix, Tokenizer};

const KEYS: [&str; 16] = [
    "general.architecture",
    "general.alignment",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.attention.head_count",
    "llama.rope.freq_base",
    "llama.rope.scaling.type",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.chat_template",
];
const TEXTS: [&str; 8] = ["llama", "gpt2", "smollm", "linear", "a b", "{{ messages }}", "<|im_end|>", ""];

/// What names of tensors end in: those of an importance matrix go in twos.
const SUFFIXES: [&str; 3] = ["", ".in_sum2", ".counts"];

/// A value of metadata.
#[derive(Arbitrary, Debug)]
pub enum Item {
    /// Of a numeric type, cut to its width.
    Number(u8, Edge),
    /// One of the known texts.
    Known(u8),
    /// Any text, or not even one.
    Text(Vec<u8>),
    /// Texts, of which more may be claimed.
    Texts(Vec<u8>, Option<Edge>),
    /// Numbers of a type, of which more may be claimed.
    Numbers(u8, Vec<u8>, Option<Edge>),
    /// Lists in lists.
    Nested(u16),
    /// Any type with any bytes.
    Raw(u32, Vec<u8>),
}

/// A tensor: its name, its shape, a count of dimensions that may be wrong, its type, and an offset that may be wrong.
type TensorInput = (u8, Vec<Edge>, Option<u8>, u8, Option<Edge>);

/// A file.
#[derive(Arbitrary, Debug)]
pub struct Input {
    keys: Vec<(u8, Item)>,
    tensors: Vec<TensorInput>,
    version: Option<Edge>,
    tensor_count: Option<Edge>,
    key_count: Option<Edge>,
    data_bytes: u16,
    damages: Vec<Damage>,
}

fn width(kind: u8) -> usize {
    match kind % 13 {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        10..=12 => 8,
        _ => 4,
    }
}

impl Item {
    fn encoded(&self) -> (u32, Vec<u8>) {
        match self {
            Self::Number(kind, number) => (u32::from(kind % 13), number.value().to_le_bytes()[..width(*kind)].to_vec()),
            Self::Known(text) => (8, string(TEXTS[usize::from(*text) % TEXTS.len()])),
            Self::Text(bytes) => (8, string(bytes)),
            Self::Texts(texts, count) => {
                let elements: Vec<u8> =
                    texts.iter().flat_map(|text| string(TEXTS[usize::from(*text) % TEXTS.len()])).collect();
                (ARRAY, array(8, count.map_or(texts.len() as u64, Edge::value), &elements))
            }
            Self::Numbers(kind, bytes, count) => {
                let length = (bytes.len() / width(*kind)) as u64;
                (ARRAY, array(u32::from(kind % 13), count.map_or(length, Edge::value), bytes))
            }
            Self::Nested(depth) => {
                let nested = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat();
                (ARRAY, nested.repeat(usize::from(*depth)))
            }
            Self::Raw(kind, bytes) => (*kind, bytes.clone()),
        }
    }
}

/// Reads it as a model would be.
pub fn check(input: &Input) {
    let mut builder = Builder::sound().key("general.type", 8, string("imatrix"));
    for (key, item) in input.keys.iter().take(32) {
        let (kind, value) = item.encoded();
        builder = builder.key(KEYS[usize::from(*key) % KEYS.len()], kind, value);
    }
    for (name, dimensions, rank, kind, offset) in input.tensors.iter().take(16) {
        builder.tensors.push(Tensor {
            name: format!("blk.{}.attn_q.weight{}", name / 3, SUFFIXES[usize::from(name % 3)]).into_bytes(),
            rank: rank.map_or(dimensions.len() as u32, u32::from),
            dimensions: dimensions.iter().map(|dimension| dimension.value()).collect(),
            kind: u32::from(kind % 45),
            offset: offset.map_or(192, Edge::value),
        });
    }
    if let Some(version) = input.version {
        builder.version = version.value() as u32;
    }
    builder.tensor_count = input.tensor_count.map(Edge::value);
    builder.key_count = input.key_count.map(Edge::value);
    builder.data.resize(usize::from(input.data_bytes), 7);
    let file = damaged(builder.build(), &input.damages);
    within_limit(file.len() * 2, || {
        let Ok(gguf) = Gguf::from_bytes(file.clone()) else { return };
        let _ = Tokenizer::from_gguf(&gguf).map(|tokenizer| tokenizer.special_texts().count());
        let _ = ImportanceMatrix::from_gguf(&gguf);
        let checkpoint = Checkpoint::Gguf(gguf);
        let _ = checkpoint.chat_template();
    });
}
