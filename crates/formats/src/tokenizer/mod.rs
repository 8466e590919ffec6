//! Tokenizers: text to token ids and back.
//!
//! Text passes through four steps. Tokens that are written out (`<|im_end|>`) are found; what lies between is normalised
//! by the [`Normaliser`] and cut into pieces by the [`PreTokenizer`]; and each piece becomes tokens by one of five models:
//! byte-pair encoding by rank (GPT-2, Llama 3, Qwen, …) or by score (SentencePiece, as in Llama 2 and Gemma), the
//! unigram language model (T5, XLM-R), WordPiece (BERT), or whole words. Every step is linear in the text, or n log n
//! within a piece.

mod bpe;
mod budget;
mod byte_level;
mod charsmap;
mod decoder;
mod expression;
mod gguf;
mod gguf_keys;
mod hugging_face;
mod model;
mod named;
mod normaliser;
mod pretokenizer;
mod scored;
mod sentencepiece;
mod special;
pub(crate) mod trie;
mod unigram;
mod vocabulary;
mod word_list;
mod word_piece;

pub use decoder::Decoder;
pub use normaliser::Normaliser;
pub use pretokenizer::PreTokenizer;
pub use special::AddedToken;
pub use vocabulary::{Affixes, Spelling, Vocabulary, VocabularyModel};
pub use word_piece::WordMark;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::hugging_face::Config;
use bpe::Merger;
use budget::Budget;
use model::PieceModel;
use special::{Matcher, Places, is_only_text};
use std::ops::Range;
use vocabulary::TokenTable;

/// The most text that is encoded at once, in bytes: several times what the longest published context holds. Working
/// memory is at most about fifty times the text (for one that is a single piece).
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// What to do where a tokenizer breaks its format.
const REMEDY: &str = "The file is damaged or was made by a faulty tool: fetch it again or use another";
/// What to do where a tokenizer is of a kind that is not read here.
const REMEDY_KIND: &str = "Use a model with one of the tokenizers that the README lists";
/// The most characters that BERT looks for tokens in; a longer word is unknown (`max_input_chars_per_word`, as the
/// library has it).
const WORD_CHARACTERS_MAX: usize = 100;
/// How SentencePiece writes a space.
const SPACE_MARK: char = '▁';

/// What to make of the text of special tokens within a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialTokens {
    /// The token that the text names.
    Parse,
    /// Text like any other. Added tokens that are not special are still found.
    AsText,
}

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    table: TokenTable,
    model: PieceModel,
    added: Matcher,
    /// Those that are looked for after normalisation.
    normalised_added: Matcher,
    normaliser: Normaliser,
    pre_tokenizer: PreTokenizer,
    strips_first_space: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    after_bos: Vec<u32>,
    add_eos: bool,
    end_of_generation: Vec<u32>,
}

/// One text on its way.
struct Encoding<'b> {
    places: Places<'b>,
    budget: Budget,
    merger: Merger,
    /// Those found so far.
    ids: Vec<u32>,
}

impl Tokenizer {
    /// The tokenizer of a model, from the GGUF file or from the files of the folder.
    ///
    /// # Errors
    /// As [`Vocabulary::from_checkpoint`] and [`Self::new`].
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        Self::new(Vocabulary::from_checkpoint(checkpoint)?)
    }

    /// The tokenizer that `gguf` carries.
    ///
    /// # Errors
    /// As [`Vocabulary::from_metadata`] and [`Self::new`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        Self::new(Vocabulary::from_metadata(gguf.metadata())?)
    }

    /// The tokenizer of the file `tokenizer.json` and those beside it.
    ///
    /// # Errors
    /// As [`Vocabulary::from_hugging_face`] and [`Self::new`].
    pub fn from_hugging_face(
        tokenizer: &[u8],
        tokenizer_config: Option<&Config>,
        generation_config: Option<&Config>,
    ) -> Result<Self> {
        Self::new(Vocabulary::from_hugging_face(tokenizer, tokenizer_config, generation_config)?)
    }

    /// The tokenizer of the file `tokenizer.model` and those beside it.
    ///
    /// # Errors
    /// As [`Vocabulary::from_sentencepiece`] and [`Self::new`].
    pub fn from_sentencepiece(
        model: &[u8],
        tokenizer_config: Option<&Config>,
        generation_config: Option<&Config>,
    ) -> Result<Self> {
        Self::new(Vocabulary::from_sentencepiece(model, tokenizer_config, generation_config)?)
    }

    /// The tokenizer of the file `vocab.txt` and the one beside it.
    ///
    /// # Errors
    /// As [`Vocabulary::from_word_list`] and [`Self::new`].
    pub fn from_word_list(words: &[u8], tokenizer_config: Option<&Config>) -> Result<Self> {
        Self::new(Vocabulary::from_word_list(words, tokenizer_config)?)
    }

    /// The ids of `text`, nothing added at its ends. A byte-level vocabulary that has no token for a byte leaves it out,
    /// as the reference implementations do.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] where `text` has more than [`TEXT_BYTES_MAX`] bytes, or four times that once normalised;
    /// [`Error::Tokenizer`] where the tokenizer's steps would take too long on this text or make too much of it.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let places = match special {
            SpecialTokens::Parse => Places::All,
            SpecialTokens::AsText => Places::None,
        };
        self.encode_between(text, places)
    }

    /// As [`Self::encode`], with the tokens for the beginning and the end of a text that the model asks for.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        if self.adds_bos() {
            ids.extend(&self.after_bos);
        }
        ids.extend(self.encode(text, special)?);
        ids.extend(self.eos.filter(|_| self.add_eos));
        Ok(ids)
    }

    /// The ids of a rendered chat. Special tokens, and other added ones that are more than white space, a character or a
    /// word, count only inside of one of `tokens`: ranges of bytes in `text`, ascending and apart. A range that is none
    /// of that, or does not lie between characters of `text`, counts for nothing. Nothing is added at the ends.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_rendered(&self, text: &str, tokens: &[Range<usize>]) -> Result<Vec<u32>> {
        let mut end = 0;
        let is_sound = |range: &&Range<usize>| {
            let is_next = end <= range.start && range.start < range.end && text.get((*range).clone()).is_some();
            end = if is_next { range.end } else { end };
            is_next
        };
        let sound: Vec<Range<usize>> = tokens.iter().filter(is_sound).cloned().collect();
        self.encode_between(text, Places::Within(&sound))
    }

    fn encode_between(&self, text: &str, places: Places<'_>) -> Result<Vec<u32>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TextTooLong { bytes: text.len(), bytes_max: TEXT_BYTES_MAX });
        }
        let (budget, merger, ids) = (Budget::new(text.len()), Merger::default(), Vec::new());
        let mut encoding = Encoding { places, budget, merger, ids };
        let mut start = 0;
        for found in self.added.find_all(text, places) {
            self.encode_fragment(text, start..found.start, &mut encoding)?;
            encoding.ids.push(found.id);
            start = found.end;
        }
        self.encode_fragment(text, start..text.len(), &mut encoding)?;
        Ok(encoding.ids)
    }

    /// Encodes the part `place` of `text`, in which there are no added tokens but those that normalisation may show.
    fn encode_fragment(&self, text: &str, place: Range<usize>, encoding: &mut Encoding<'_>) -> Result<()> {
        let Encoding { places, budget, merger, ids } = encoding;
        let budget = &*budget;
        let is_start = place.start == 0;
        let mut encode = |normalised: &str, is_start: bool, ids: &mut Vec<u32>| {
            self.pre_tokenizer.cut_within(budget, normalised, is_start, &mut |piece| {
                self.model.encode(&self.table, piece, merger, ids);
                Ok(())
            })
        };
        if self.normalised_added.is_empty() {
            return encode(&self.normaliser.apply(&text[place], true, budget)?, is_start, ids);
        }
        let ranges = match *places {
            Places::Within(ranges) => {
                let first = ranges.partition_point(|range| range.start < place.start);
                let last = ranges.partition_point(|range| range.end <= place.end);
                &ranges[first..last.max(first)]
            }
            Places::All | Places::None => &[],
        };
        // Ranges are normalised by themselves, so that they are known in what comes out: nothing from outside gets in.
        let (mut normalised, mut normalised_ranges) = (String::new(), Vec::new());
        let mut part = |part: Range<usize>| -> Result<Range<usize>> {
            let start = normalised.len();
            normalised.push_str(&self.normaliser.apply(&text[part.clone()], part.start == place.start, budget)?);
            Ok(start..normalised.len())
        };
        let mut start = place.start;
        for range in ranges {
            if start < range.start {
                part(start..range.start)?;
            }
            normalised_ranges.push(part(range.clone())?);
            start = range.end;
        }
        if start < place.end {
            part(start..place.end)?;
        }
        let places = match places {
            Places::Within(_) => Places::Within(&normalised_ranges),
            other => *other,
        };
        let mut start = 0;
        for found in self.normalised_added.find_all(&normalised, places) {
            encode(&normalised[start..found.start], is_start && start == 0, ids)?;
            ids.push(found.id);
            start = found.end;
        }
        encode(&normalised[start..], is_start && start == 0, ids)
    }

    /// The bytes that token `id` stands for; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.table.bytes(id)
    }

    /// Token `id` as the vocabulary writes it: a space is `Ġ` in byte-level ones, and `▁` in those of SentencePiece.
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

    /// The token for what the vocabulary lacks.
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
    /// special tokens and of other added ones, such as `<tool_response>`, that are more than white space, a character or a
    /// word.
    pub fn special_texts(&self) -> impl Iterator<Item = &str> {
        let tokens = self.added.tokens().chain(self.normalised_added.tokens());
        tokens.filter(|token| !is_only_text(token)).map(|token| token.text.as_str())
    }
}
