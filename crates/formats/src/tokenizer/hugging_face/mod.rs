//! `tokenizer.json`, as the Hugging Face `tokenizers` library writes it, and `tokenizer_config.json` beside it.
//!
//! The file describes a pipeline of steps. A step that is not known here is refused by name, because leaving one out
//! would give other tokens without a word.

mod model;
mod steps;

use super::special::ADDED_MAX;
use super::vocabulary::{Spelling, Vocabulary, VocabularyModel};
use super::word_piece::WordMark;
use super::{AddedToken, REMEDY, REMEDY_KIND};
use crate::error::{Error, Result, shown};
use crate::hugging_face::Config;
use crate::metadata::Strings;
use model::{Unknown, all_tokens, read_model};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use steps::{read_decoder, read_normaliser, read_post_processor, read_pre_tokenizer};

/// The largest file read. Published ones reach 35 MB.
const FILE_BYTES_MAX: usize = 64 << 20;

impl Vocabulary {
    /// The parts of the file `tokenizer.json`. `tokenizer_config.json` names the special tokens, and
    /// `generation_config.json` may name more tokens that end an answer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where a file is no sound JSON, a step is of a kind that is not supported, or the parts do
    /// not fit together.
    pub fn from_hugging_face(
        tokenizer: &[u8],
        tokenizer_config: Option<&Config>,
        generation_config: Option<&Config>,
    ) -> Result<Self> {
        if tokenizer.len() > FILE_BYTES_MAX {
            let problem = format!("it has {} bytes; at most {FILE_BYTES_MAX} are allowed", tokenizer.len());
            return Err(refused("tokenizer.json", problem));
        }
        let file: File<'_> = parse("tokenizer.json", tokenizer)?;
        let model = read_model(file.model)?;
        let (tokens, added) = all_tokens(model.vocab, file.added_tokens.0)?;
        let normaliser = read_normaliser(file.normalizer)?;
        let (pre_tokenizer, is_byte_level) = read_pre_tokenizer(file.pre_tokenizer)?;
        let decoding = read_decoder(file.decoder)?;
        let is_words = model.word_mark == Some(WordMark::None);
        // Words by themselves are decoded with spaces between them.
        let strips_first_space = decoding.strips_first_space || is_words && !is_byte_level;
        let spelling = match model.word_mark {
            Some(WordMark::None) | None if is_byte_level => Spelling::ByteLevel,
            Some(WordMark::None) | None if decoding.has_space_mark => Spelling::SentencePiece,
            Some(mark) => Spelling::Words { mark, tidy: decoding.tidy },
            None => return Err(unsupported("pre_tokenizer", "without ByteLevel, and a decoder without ▁")),
        };
        let mut kind = model.kind;
        if let VocabularyModel::Unigram { scores, .. } = &mut kind {
            // Added tokens may follow the model's own; they are found as they stand, and their score does not matter.
            scores.resize(tokens.len(), 0.0);
        }
        let names = NamedTokens { config: tokenizer_config.map(Config::values), tokens: &tokens };
        let (mut bos, mut eos) = (names.id_of("bos_token")?, names.id_of("eos_token")?);
        let mut after_bos = Vec::new();
        let (mut add_bos, mut add_eos) =
            (names.flag("add_bos_token") == Some(true), names.flag("add_eos_token") == Some(true));
        if let Some(ends) = read_post_processor(file.post_processor)? {
            let mut before = ends.before.into_iter();
            let first = before.next();
            (add_bos, add_eos) = (first.is_some(), ends.after.is_some());
            (bos, eos, after_bos) = (first.or(bos), ends.after.or(eos), before.collect());
        }
        let unknown = match model.unknown {
            Some(Unknown::Id(id)) => Some(id),
            Some(Unknown::Text(text)) => id_of(&tokens, &text),
            None => None,
        };
        Ok(Self {
            unknown: unknown.map_or_else(|| names.id_of("unk_token"), |id| Ok(Some(id)))?,
            padding: names.id_of("pad_token")?,
            tokens,
            spelling,
            model: kind,
            added,
            normaliser,
            pre_tokenizer,
            strips_first_space,
            bos,
            eos,
            add_bos,
            after_bos,
            add_eos,
            ends: generation_config.map_or(Ok(Vec::new()), read_ends)?,
        })
    }
}

/// The parts of `tokenizer.json` that are read. Truncation and padding are the caller's matter.
#[derive(Deserialize)]
struct File<'j> {
    #[serde(borrow)]
    normalizer: Option<&'j RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'j RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'j RawValue>,
    #[serde(borrow)]
    decoder: Option<&'j RawValue>,
    #[serde(default)]
    added_tokens: AddedTokenList,
    #[serde(borrow)]
    model: &'j RawValue,
}

#[derive(Default)]
struct AddedTokenList(Vec<AddedTokenEntry>);

impl<'de> Deserialize<'de> for AddedTokenList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = AddedTokenList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of added tokens")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<AddedTokenList, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = sequence.next_element()? {
                    if entries.len() == ADDED_MAX {
                        return Err(de::Error::custom(format_args!("more than {ADDED_MAX} added tokens")));
                    }
                    entries.push(entry);
                }
                Ok(AddedTokenList(entries))
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

#[derive(Deserialize)]
struct AddedTokenEntry {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    normalized: Option<bool>,
}

impl AddedTokenEntry {
    fn into_token(self) -> AddedToken {
        AddedToken {
            id: self.id,
            // What is special is found as it stands, unless the file says otherwise.
            normalised: self.normalized.unwrap_or(!self.special),
            text: self.content,
            special: self.special,
            strip_left: self.lstrip,
            strip_right: self.rstrip,
            single_word: self.single_word,
        }
    }
}

/// The text of the special token that the configuration calls `name`, which is a string or an object with `content`.
fn token_name<'c>(config: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>> {
    match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => match other.get("content").and_then(Value::as_str) {
            Some(text) => Ok(Some(text)),
            None => Err(refused("tokenizer_config.json", format!("`{name}` is neither a text nor a token"))),
        },
    }
}

/// Appends the tokens that `tokenizer_config.json` lists by id (`added_tokens_decoder`), to vocabularies that are files of
/// their own; of one that the vocabulary has already, the list says how it is found.
pub(super) fn read_added_tokens(
    config: Option<&Map<String, Value>>,
    tokens: &mut Strings,
    added: &mut Vec<AddedToken>,
) -> Result<()> {
    const FIELD: &str = "tokenizer_config.json: added_tokens_decoder";
    let Some(Value::Object(listed)) = config.and_then(|config| config.get("added_tokens_decoder")) else {
        return Ok(());
    };
    if listed.len() > ADDED_MAX {
        return Err(refused(FIELD, format!("more than {ADDED_MAX} added tokens")));
    }
    let mut entries = BTreeMap::new();
    for (id, token) in listed {
        let id: u32 = id.parse().map_err(|_| refused(FIELD, format!("`{}` is no id", shown(id))))?;
        let mut token = token.clone();
        if let Value::Object(token) = &mut token {
            token.insert("id".into(), id.into());
        }
        let entry: AddedTokenEntry = serde_json::from_value(token).map_err(|error| refused(FIELD, shown(&error)))?;
        entries.insert(id, entry.into_token());
    }
    added.retain(|other| !entries.contains_key(&other.id));
    for (id, token) in entries {
        if id as usize > tokens.len() {
            return Err(refused(FIELD, format!("token {id} is not next to the {} before it", tokens.len())));
        }
        if id as usize == tokens.len() {
            tokens.push(&token.text).ok_or_else(|| refused(FIELD, "the texts pass 4 GiB".into()))?;
        }
        added.push(token);
    }
    Ok(())
}

/// `eos_token_id`, one or a list.
pub(super) fn read_ends(generation_config: &Config) -> Result<Vec<u32>> {
    let ids = match generation_config.get("eos_token_id") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(id) => std::slice::from_ref(id),
    };
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Option<_> = ids.iter().map(id).collect();
    ids.ok_or_else(|| refused("generation_config.json", "`eos_token_id` is neither an id nor a list of ids".into()))
}

/// The tokens that `tokenizer_config.json` names.
pub(super) struct NamedTokens<'c> {
    pub(super) config: Option<&'c Map<String, Value>>,
    pub(super) tokens: &'c Strings,
}

impl NamedTokens<'_> {
    /// The id of the token that the file calls `name`.
    pub(super) fn id_of(&self, name: &str) -> Result<Option<u32>> {
        let text = self.config.map(|config| token_name(config, name)).transpose()?.flatten();
        Ok(text.and_then(|text| id_of(self.tokens, text)))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.config.and_then(|config| config.get(key)).and_then(Value::as_bool)
    }
}

fn id_of(tokens: &Strings, text: &str) -> Option<u32> {
    tokens.iter().position(|token| token == text).map(|id| id as u32)
}

fn parse<'j, T: Deserialize<'j>>(field: &str, bytes: &'j [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| refused(field, shown(&error)))
}

fn refused(field: &str, problem: String) -> Error {
    Error::Tokenizer { field: field.into(), problem, remedy: REMEDY }
}

fn unsupported(field: &str, kind: &str) -> Error {
    Error::Tokenizer {
        field: field.into(),
        problem: format!("`{}` is not supported yet", shown(kind)),
        remedy: REMEDY_KIND,
    }
}
