//! The parts of a tokenizer as plain data, and the checks that make them one.

use super::bpe::Merges;
use super::budget::Budget;
use super::model::PieceModel;
use super::special::{AddedToken, Matcher};
use super::word_piece::WordMark;
use super::{Normaliser, PreTokenizer, REMEDY, SPACE_MARK, Tokenizer, byte_level, trie};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, shown};
use crate::metadata::Strings;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// The most tokens in a vocabulary. The largest published ones have about 260,000.
pub(super) const TOKENS_MAX: usize = 1 << 20;
/// The most merges. The largest published lists have about 520,000. Both limits bound the memory of the tables.
const MERGES_MAX: usize = 1 << 20;

/// Tokens that end an answer wherever they are added tokens, whatever the metadata name: chat models are often
/// published with only the end-of-text token named, and end their turns with one of these.
const ENDS: [&str; 15] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
];

/// The longest token that is no added one, in bytes, where tokens are looked up in the text; published ones have below
/// 400. It bounds the time per character.
pub(super) const PIECE_BYTES_MAX: usize = trie::KEY_BYTES_MAX;

/// A tokenizer as plain data. [`Tokenizer::new`] checks it.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The tokens by id, written as `spelling` says; added tokens in plain text. An empty text is a gap.
    pub tokens: Strings,
    /// How the tokens are written.
    pub spelling: Spelling,
    /// How a piece becomes tokens.
    pub model: VocabularyModel,
    /// The tokens that are looked for in the text before anything else. Each is one of `tokens`.
    pub added: Vec<AddedToken>,
    /// What is done to text before it is cut.
    pub normaliser: Normaliser,
    /// How text is cut.
    pub pre_tokenizer: PreTokenizer,
    /// Whether a decoded text loses the space that it begins with, because encoding put it there.
    pub strips_first_space: bool,
    /// The token for the beginning of a text.
    pub bos: Option<u32>,
    /// The token for the end of a text.
    pub eos: Option<u32>,
    /// The token for what the vocabulary lacks.
    pub unknown: Option<u32>,
    /// The token that fills batches; only chat templates ask for it.
    pub padding: Option<u32>,
    /// Whether prompts begin with `bos`.
    pub add_bos: bool,
    /// What follows `bos` where prompts begin with it.
    pub after_bos: Vec<u32>,
    /// Whether prompts end with `eos`.
    pub add_eos: bool,
    /// Tokens besides `eos`, and besides the well-known ones, that end an answer.
    pub ends: Vec<u32>,
}

/// How a vocabulary writes the bytes that a token stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spelling {
    /// Every byte as a printable character, a space as `Ġ`.
    ByteLevel,
    /// As text, a space as `▁`, and a byte that is no text by itself as `<0x0A>`.
    SentencePiece,
    /// As words and parts of words. With `tidy` the space before a full stop or a comma is left out.
    Words {
        /// How the two are told apart.
        mark: WordMark,
        /// Whether decoding leaves out spaces that only cutting has made.
        tidy: bool,
    },
}

/// How a piece of text becomes tokens.
#[derive(Clone, Debug)]
pub enum VocabularyModel {
    /// Merges by rank.
    Bpe {
        /// The merges by rank: two tokens with a space between them.
        merges: Strings,
        /// Whether a piece that is a token as a whole is that token, whatever the merges say.
        ignore_merges: bool,
        /// Whether a character without a token is written in tokens of its bytes.
        byte_fallback: bool,
        /// Whether several unknown characters in a row are one unknown token.
        fuse_unknown: bool,
        /// What tokens have in front or behind that do not begin or do end a piece.
        affixes: Affixes,
    },
    /// Merges by score, and bytes where a character has no token.
    ScoredBpe {
        /// The score of each token.
        scores: Vec<f64>,
    },
    /// The most likely tokens.
    Unigram {
        /// The logarithm of each token's probability.
        scores: Vec<f64>,
        /// Whether a character without a token is written in tokens of its bytes.
        byte_fallback: bool,
    },
    /// Whole pieces; what is no token is unknown.
    WordLevel,
    /// The longest tokens from the beginning of each word. The spelling must be [`Spelling::Words`].
    WordPiece {
        /// The most characters of a word; a longer one is unknown.
        characters_max: usize,
    },
}

/// How tokens of BPE show where in a piece they may stand (`continuing_subword_prefix` and `end_of_word_suffix`).
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Affixes {
    /// In front of all that do not begin a piece; often nothing.
    pub continuing: String,
    /// Behind all that end a piece, in CLIP `</w>`; often nothing.
    pub end: String,
}

impl Vocabulary {
    /// The parts of a model's tokenizer, from the GGUF file or from the files of the folder.
    ///
    /// # Errors
    /// As [`Self::from_metadata`], [`Self::from_hugging_face`], [`Self::from_sentencepiece`] and [`Self::from_word_list`];
    /// [`Error::Tokenizer`] where a folder has no file of a tokenizer.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint {
            Checkpoint::Gguf(gguf) => Self::from_metadata(gguf.metadata()),
            Checkpoint::HuggingFace(folder) => {
                let (config, generation) = (folder.tokenizer_config(), folder.generation_config());
                match (folder.tokenizer(), folder.sentencepiece(), folder.word_list()) {
                    (Some(json), ..) => Self::from_hugging_face(json, config, generation),
                    (None, Some(model), _) => Self::from_sentencepiece(model, config, generation),
                    (None, None, Some(words)) => Self::from_word_list(words, config),
                    (None, None, None) => Err(Error::Tokenizer {
                        field: "tokenizer.json".into(),
                        problem: "the folder has neither it nor tokenizer.model nor vocab.txt".into(),
                        remedy: "Fetch it from where the model came from",
                    }),
                }
            }
        }
    }
}

impl Tokenizer {
    /// A tokenizer of checked parts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where there are no tokens or too many, two are the same, an id is outside the vocabulary, a
    /// merge names a token that is not there, or there is not one finite score for each token.
    pub fn new(vocabulary: Vocabulary) -> Result<Self> {
        let Vocabulary { tokens, spelling, model, added, normaliser, pre_tokenizer, .. } = vocabulary;
        let Vocabulary { strips_first_space, bos, eos, unknown, padding, .. } = vocabulary;
        let Vocabulary { add_bos, after_bos, add_eos, mut ends, .. } = vocabulary;
        let table = TokenTable::new(tokens, &spelling, &added)?;
        let named = [("bos", bos), ("eos", eos), ("unknown", unknown), ("padding", padding)];
        let named = named.into_iter().filter_map(|(name, id)| Some((name, id?)));
        let listed = [("end-of-generation", &ends), ("beginning", &after_bos)];
        let listed = listed.into_iter().flat_map(|(name, ids)| ids.iter().map(move |&id| (name, id)));
        for (name, id) in named.chain(listed) {
            table.check_id(&format!("{name} token id"), id)?;
        }
        ends.extend(eos);
        ends.extend(well_known_ends(&table));
        ends.sort_unstable();
        ends.dedup();
        // They are one text as far as their cost goes.
        let budget = Budget::new(added.iter().map(|token| token.text.len()).sum());
        let needle = |token: AddedToken| -> Result<(String, AddedToken)> {
            let normalised =
                if token.normalised { Some(normaliser.apply(&token.text, true, &budget)?.into_owned()) } else { None };
            Ok((normalised.unwrap_or_else(|| token.text.clone()), token))
        };
        let (normalised, plain): (Vec<AddedToken>, Vec<AddedToken>) =
            added.into_iter().partition(|token| token.normalised);
        let matcher = |tokens: Vec<AddedToken>| Matcher::new(tokens.into_iter().map(needle));
        Ok(Self {
            model: PieceModel::new(&table, &spelling, model, unknown)?,
            added: matcher(plain)?,
            normalised_added: matcher(normalised)?,
            table,
            normaliser,
            pre_tokenizer,
            strips_first_space,
            bos,
            eos,
            unknown,
            padding,
            add_bos,
            after_bos,
            add_eos,
            end_of_generation: ends,
        })
    }
}

/// The tokens of [`ENDS`] that end an answer of this vocabulary.
fn well_known_ends(table: &TokenTable) -> Vec<u32> {
    let ids = ENDS.iter().filter_map(|text| table.id_of(text)).filter(|&id| table.is_added(id));
    let is_harmony = ["<|return|>", "<|call|>"].iter().all(|text| table.id_of(text).is_some());
    // In OpenAI's Harmony format `<|end|>` ends one message of an answer that has several.
    let message_end = table.id_of("<|end|>").filter(|_| is_harmony);
    ids.filter(|&id| Some(id) != message_end).collect()
}

/// What a token is besides its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Stands for its text.
    Normal,
    /// Stands for a byte, and its text, `<0x0A>`, is only its name.
    Byte,
    /// Found in the text.
    Added,
    /// Found in the text, and special.
    Special,
}

/// The tokens by id and by text.
#[derive(Clone, Debug)]
pub(super) struct TokenTable {
    texts: Strings,
    kinds: Vec<Kind>,
    /// What each token stands for, one after the other.
    bytes: Vec<u8>,
    byte_ends: Vec<u32>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TokenTable {
    fn new(texts: Strings, spelling: &Spelling, added: &[AddedToken]) -> Result<Self> {
        let count = texts.len();
        if count == 0 {
            return Err(refused("tokens", "there are none".into()));
        }
        if count > TOKENS_MAX {
            return Err(refused("tokens", format!("there are {count}; at most {TOKENS_MAX} are allowed")));
        }
        let mut table = Self {
            kinds: vec![Kind::Normal; count],
            bytes: Vec::new(),
            byte_ends: Vec::with_capacity(count),
            ids: HashTable::with_capacity(count),
            hasher: DefaultHashBuilder::default(),
            texts,
        };
        for token in added {
            table.check_id("added token", token.id)?;
            table.kinds[token.id as usize] = if token.special { Kind::Special } else { Kind::Added };
        }
        for id in 0..count as u32 {
            table.index(id, spelling)?;
        }
        for token in added {
            if table.text(token.id) != Some(&token.text) {
                let problem = format!("its text is not that of token {}", token.id);
                return Err(refused(&format!("added token `{}`", shown(&token.text)), problem));
            }
        }
        Ok(table)
    }

    /// Notes the bytes of token `id` and enters it under its text.
    fn index(&mut self, id: u32, spelling: &Spelling) -> Result<()> {
        let Self { texts, kinds, bytes, byte_ends, ids, hasher } = self;
        let text_of = |id: u32| texts.get(id as usize).unwrap_or_default();
        let text = text_of(id);
        // Added tokens are plain text; so is what other programs put into a vocabulary without the alphabet.
        let is_added = matches!(kinds[id as usize], Kind::Added | Kind::Special);
        match spelling {
            Spelling::ByteLevel if !is_added && byte_level::append_bytes(text, bytes).is_some() => {}
            Spelling::SentencePiece if !is_added && let Some(byte) = named_byte(text) => {
                kinds[id as usize] = Kind::Byte;
                bytes.push(byte);
            }
            Spelling::SentencePiece if kinds[id as usize] != Kind::Special => {
                let mut parts = text.split(SPACE_MARK);
                bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
                for part in parts {
                    bytes.push(b' ');
                    bytes.extend_from_slice(part.as_bytes());
                }
            }
            Spelling::Words { mark, tidy } => append_word(text, mark, *tidy, is_added, bytes),
            _ => bytes.extend_from_slice(text.as_bytes()),
        }
        let end = u32::try_from(bytes.len()).map_err(|_| refused("tokens", "the texts pass 4 GiB".into()))?;
        byte_ends.push(end);
        if text.is_empty() {
            return Ok(());
        }
        let hash = hasher.hash_one(text);
        let entry = ids.entry(hash, |&other| text_of(other) == text, |&other| hasher.hash_one(text_of(other)));
        match entry {
            hashbrown::hash_table::Entry::Vacant(entry) => {
                entry.insert(id);
                Ok(())
            }
            hashbrown::hash_table::Entry::Occupied(entry) => {
                let problem = format!("tokens {} and {id} are both `{}`", entry.get(), shown(text));
                Err(refused("tokens", problem))
            }
        }
    }

    fn check_id(&self, field: &str, id: u32) -> Result<()> {
        if (id as usize) < self.len() {
            return Ok(());
        }
        Err(refused(field, format!("{id} is outside the vocabulary of {} tokens", self.len())))
    }

    /// The merges, with ids for texts. The second token of each loses `continuing` in front.
    pub(super) fn merges(&self, merges: &Strings, continuing: &str) -> Result<Merges> {
        if merges.len() > MERGES_MAX {
            let problem = format!("there are {}; at most {MERGES_MAX} are allowed", merges.len());
            return Err(refused("merges", problem));
        }
        let mut ranked = Merges::with_capacity(merges.len());
        let mut joined = String::new();
        for (rank, merge) in merges.iter().enumerate() {
            let ids = merge.split_once(' ').and_then(|(left, right)| {
                joined.clear();
                joined.push_str(left);
                joined.push_str(right.get(continuing.len()..)?);
                Some((self.id_of(left)?, self.id_of(right)?, self.id_of(&joined)?))
            });
            let Some((left, right, merged)) = ids else {
                let problem = format!("`{}` does not name two tokens that make a third", shown(merge));
                return Err(refused(&format!("merge {rank}"), problem));
            };
            // No text becomes a special token, whatever the merges say.
            if !self.is_special(merged) {
                ranked.push(left, right, merged);
            }
        }
        Ok(ranked)
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize)
    }

    /// The text of token `id`; empty where there is no such token.
    pub(super) fn text_bytes(&self, id: u32) -> &[u8] {
        self.text(id).unwrap_or_default().as_bytes()
    }

    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let end = *self.byte_ends.get(id as usize)? as usize;
        let start = (id as usize).checked_sub(1).map_or(0, |before| self.byte_ends[before] as usize);
        Some(&self.bytes[start..end])
    }

    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(text), |&id| self.text(id) == Some(text)).copied()
    }

    pub(super) fn is_added(&self, id: u32) -> bool {
        self.kinds.get(id as usize).is_some_and(|kind| matches!(kind, Kind::Added | Kind::Special))
    }

    /// Whether text becomes token `id` where it is looked up; added tokens have been found before.
    pub(super) fn is_plain(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Normal)
    }

    /// The token of each single byte; `None` where there is none.
    pub(super) fn byte_ids(&self) -> Box<[Option<u32>; 256]> {
        let mut ids = Box::new([None; 256]);
        for id in 0..self.len() as u32 {
            if self.kinds[id as usize] == Kind::Byte
                && let Some(&[byte]) = self.bytes(id)
            {
                ids[usize::from(byte)] = Some(id);
            }
        }
        ids
    }

    /// Checks that there is one finite score for each token, and that no token is too long to be looked up.
    pub(super) fn check_pieces(&self, scores: Option<&[f64]>) -> Result<()> {
        if let Some(scores) = scores {
            if scores.len() != self.len() {
                return Err(refused("scores", format!("there are {} for {} tokens", scores.len(), self.len())));
            }
            if let Some(id) = scores.iter().position(|score| !(*score as f32).is_finite()) {
                return Err(refused("scores", format!("that of token {id} is {}", scores[id])));
            }
        }
        let is_long = |&id: &u32| self.is_plain(id) && self.text(id).unwrap_or_default().len() > PIECE_BYTES_MAX;
        match (0..self.len() as u32).find(is_long) {
            Some(id) => {
                let problem = format!("it has more than {PIECE_BYTES_MAX} bytes");
                Err(refused(&format!("token {id}"), problem))
            }
            None => Ok(()),
        }
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Special)
    }
}

/// The byte that a token such as `<0x0A>` names.
pub(super) fn named_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    // Two digits, and no sign, which the parser would take.
    let is_number = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_number)
}

/// Appends what a word or part of one stands for: the space before it, and its text.
fn append_word(text: &str, mark: &WordMark, tidy: bool, is_added: bool, bytes: &mut Vec<u8>) {
    // What the library's decoder cleans up, as far as it lies within one token.
    const NO_SPACE_BEFORE: [&str; 9] = [".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"];
    let (goes_on, text) = match mark {
        WordMark::Continuation(mark) => text.strip_prefix(mark.as_str()).map_or((false, text), |rest| (true, rest)),
        WordMark::Beginning(mark) => text.strip_prefix(mark.as_str()).map_or((!is_added, text), |rest| (false, rest)),
        WordMark::None => (false, text),
    };
    let has_space = !goes_on && (!tidy || !NO_SPACE_BEFORE.contains(&text));
    if has_space {
        bytes.push(b' ');
    }
    bytes.extend_from_slice(text.as_bytes());
}

/// An [`Error::Tokenizer`] about a damaged part.
fn refused(field: &str, problem: String) -> Error {
    Error::Tokenizer { field: field.into(), problem, remedy: REMEDY }
}
