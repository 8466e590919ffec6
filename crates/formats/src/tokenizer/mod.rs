//! Tokenizers: text to token ids and back.
//!
//! The one kind so far is byte-level byte-pair encoding, as GPT-2, Llama 3, Qwen and SmolLM use it. Text passes through
//! four steps: tokens that are written out (`<|im_end|>`) are found; what lies between is normalised, cut into pieces
//! by the [`PreTokenizer`], and merged within each piece. Every step is linear in the text, or n log n within a piece.

mod bpe;
mod byte_level;
mod decoder;
mod gguf;
mod hugging_face;
mod pretokenizer;
mod special;
mod vocabulary;

pub use decoder::Decoder;
pub use pretokenizer::PreTokenizer;
pub use special::AddedToken;
pub use vocabulary::Vocabulary;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use bpe::{Merger, Merges};
use special::Matcher;
use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use vocabulary::TokenTable;

/// The most text that is encoded at once, in bytes: several times what the longest published context holds. Working
/// memory is at most about forty times the text (for one that is a single piece).
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// What to do where a tokenizer breaks its format.
const REMEDY: &str = "The file is damaged or was made by a faulty tool: fetch it again or use another";
/// What to do where a tokenizer is of a kind that is not read here.
const REMEDY_KIND: &str = "Use a model with a byte-level BPE tokenizer of GPT-2, Llama 3, Qwen2 or SmolLM";

/// What to make of the text of special tokens within a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialTokens {
    /// The token that the text names.
    Parse,
    /// Text like any other. Added tokens that are not special are still found.
    AsText,
}

/// A byte-level BPE tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    table: TokenTable,
    merges: Merges,
    /// The token of each single byte. A few vocabularies lack some of the bytes that UTF-8 never or hardly ever has.
    byte_ids: Box<[Option<u32>; 256]>,
    added: Matcher,
    pre_tokenizer: PreTokenizer,
    compose: bool,
    ignore_merges: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    end_of_generation: Vec<u32>,
}

impl Tokenizer {
    /// The tokenizer of a model, from the GGUF file or from the files of the folder.
    ///
    /// # Errors
    /// As [`Self::from_gguf`] and [`Self::from_hugging_face`]; [`Error::Tokenizer`] where a folder has no
    /// `tokenizer.json`.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint {
            Checkpoint::Gguf(gguf) => Self::from_gguf(gguf),
            Checkpoint::HuggingFace(folder) => {
                let tokenizer = folder.tokenizer().ok_or_else(|| Error::Tokenizer {
                    field: "tokenizer.json".into(),
                    problem: "the folder has no such file".into(),
                    remedy: "Fetch it from where the model came from; other forms of tokenizers are not read yet",
                })?;
                Self::from_hugging_face(tokenizer, folder.tokenizer_config(), folder.generation_config())
            }
        }
    }

    /// The ids of `text`, nothing added at its ends. A byte that the vocabulary has no token for is left out, as the
    /// reference implementations do.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] where `text` has more than [`TEXT_BYTES_MAX`] bytes.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        self.encode_between(text, &[], special)
    }

    /// As [`Self::encode`], with the tokens for the beginning and the end of a text that the model asks for.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.extend(self.encode(text, special)?);
        ids.extend(self.eos.filter(|_| self.add_eos));
        Ok(ids)
    }

    /// The ids of a rendered chat. Special tokens that the template wrote are parsed, but none that would cover both
    /// the byte before and the byte at one of `breaks`, which are ascending offsets into `text`. Nothing is added at the
    /// ends.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_breaks(&self, text: &str, breaks: &[usize]) -> Result<Vec<u32>> {
        self.encode_between(text, breaks, SpecialTokens::Parse)
    }

    fn encode_between(&self, text: &str, breaks: &[usize], special: SpecialTokens) -> Result<Vec<u32>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TextTooLong { bytes: text.len(), bytes_max: TEXT_BYTES_MAX });
        }
        let mut ids = Vec::new();
        let mut merger = Merger::default();
        let mut start = 0;
        for found in self.added.find_all(text, breaks, special == SpecialTokens::Parse) {
            self.encode_fragment(&text[start..found.start], &mut merger, &mut ids);
            ids.push(found.id);
            start = found.end;
        }
        self.encode_fragment(&text[start..], &mut merger, &mut ids);
        Ok(ids)
    }

    /// Encodes text without added tokens.
    fn encode_fragment(&self, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let normalised = if self.compose && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            Cow::Owned(text.nfc().collect::<String>())
        } else {
            Cow::Borrowed(text)
        };
        let mut whole = String::new();
        for piece in self.pre_tokenizer.pieces(&normalised) {
            if self.ignore_merges {
                whole.clear();
                whole.extend(piece.bytes().map(byte_level::character_of));
                if let Some(id) = self.table.id_of(&whole).filter(|&id| !self.table.is_added(id)) {
                    ids.push(id);
                    continue;
                }
            }
            let bytes = piece.bytes().filter_map(|byte| self.byte_ids[usize::from(byte)]);
            merger.merge(&self.merges, bytes, ids);
        }
    }

    /// The bytes that token `id` stands for; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.table.bytes(id)
    }

    /// Token `id` as the vocabulary writes it: in the byte-level alphabet, where a space is `Ġ`.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.table.text(id)
    }

    /// The token that the vocabulary writes as `text`.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.table.id_of(text)
    }

    /// How many ids there are; all are below this.
    pub fn vocabulary_size(&self) -> usize {
        self.table.len()
    }

    /// Whether token `id` means something to the model beyond its text.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    /// The token for the beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token for the end of a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token for what the vocabulary lacks. Byte-level encoding never gives it; chat templates ask for it.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The token that fills batches. Chat templates ask for it.
    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Whether texts begin with [`Self::bos`].
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// The tokens with which a model ends its answer, in ascending order: end of text, of turn, of message.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// The texts that would each become one token wherever they stand, and so must not come from a user: those of
    /// special tokens and of other added ones, such as `<tool_response>`, that are more than white space.
    pub fn special_texts(&self) -> impl Iterator<Item = &str> {
        self.added.tokens().iter().map(|token| token.text.as_str()).filter(|text| !text.trim().is_empty())
    }
}
