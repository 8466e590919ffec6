//! The model of `tokenizer.json`: its vocabulary and what makes tokens of pieces.

use super::{AddedTokenEntry, parse, refused, unsupported};
use crate::error::{Result, shown};
use crate::metadata::Strings;
use crate::tokenizer::vocabulary::{Affixes, TOKENS_MAX, VocabularyModel};
use crate::tokenizer::word_piece::WordMark;
use crate::tokenizer::{AddedToken, WORD_CHARACTERS_MAX};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The longest prefix or suffix of BPE's tokens, in bytes; CLIP's has 4.
const AFFIX_BYTES_MAX: usize = 16;

/// The model, and what of it the rest of the pipeline needs.
pub(super) struct Model {
    pub(super) vocab: Vocab,
    pub(super) kind: VocabularyModel,
    pub(super) unknown: Option<Unknown>,
    /// How the tokens of a model of words are marked that go on with one.
    pub(super) word_mark: Option<WordMark>,
}

/// How the file names the unknown token.
pub(super) enum Unknown {
    Text(String),
    Id(u32),
}

#[derive(Deserialize)]
struct ModelType {
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: Vocab,
    merges: MergeList,
    unk_token: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    dropout: Option<f64>,
}

#[derive(Deserialize)]
struct WordPiece {
    vocab: Vocab,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: Option<usize>,
}

#[derive(Deserialize)]
struct WordLevel {
    vocab: Vocab,
    unk_token: Option<String>,
}

#[derive(Deserialize)]
struct Unigram {
    vocab: ScoredVocab,
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
}

pub(super) fn read_model(raw: &RawValue) -> Result<Model> {
    const FIELD: &str = "model";
    let bytes = raw.get().as_bytes();
    let kind: ModelType = parse(FIELD, bytes)?;
    match kind.r#type.as_deref() {
        // Files of before there were other kinds name none.
        None | Some("BPE") => read_bpe(parse(FIELD, bytes)?),
        Some("WordPiece") => {
            let model: WordPiece = parse(FIELD, bytes)?;
            let characters_max = model.max_input_chars_per_word.unwrap_or(WORD_CHARACTERS_MAX);
            if characters_max > WORD_CHARACTERS_MAX {
                return Err(unsupported(FIELD, "WordPiece with words of more than 100 characters"));
            }
            if model.continuing_subword_prefix.is_empty() {
                return Err(unsupported(FIELD, "WordPiece without continuing_subword_prefix"));
            }
            Ok(Model {
                vocab: model.vocab,
                kind: VocabularyModel::WordPiece { characters_max },
                unknown: Some(Unknown::Text(model.unk_token)),
                word_mark: Some(WordMark::Continuation(model.continuing_subword_prefix)),
            })
        }
        Some("WordLevel") => {
            let WordLevel { vocab, unk_token } = parse(FIELD, bytes)?;
            Ok(Model {
                vocab,
                kind: VocabularyModel::WordLevel,
                unknown: unk_token.map(Unknown::Text),
                word_mark: Some(WordMark::None),
            })
        }
        Some("Unigram") => {
            let Unigram { vocab: ScoredVocab { texts, scores }, unk_id, byte_fallback } = parse(FIELD, bytes)?;
            Ok(Model {
                vocab: Vocab { ids: (0..texts.len() as u32).collect(), texts },
                kind: VocabularyModel::Unigram { scores, byte_fallback },
                unknown: unk_id.map(Unknown::Id),
                word_mark: None,
            })
        }
        Some(other) => Err(unsupported(FIELD, other)),
    }
}

fn read_bpe(model: Bpe) -> Result<Model> {
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(unsupported("model", "BPE with dropout"));
    }
    let affixes = Affixes {
        continuing: model.continuing_subword_prefix.unwrap_or_default(),
        end: model.end_of_word_suffix.unwrap_or_default(),
    };
    // They are put to every character.
    if affixes.continuing.len().max(affixes.end.len()) > AFFIX_BYTES_MAX {
        return Err(unsupported("model", "BPE with a prefix or suffix of more than 16 bytes"));
    }
    Ok(Model {
        vocab: model.vocab,
        kind: VocabularyModel::Bpe {
            merges: model.merges.0,
            ignore_merges: model.ignore_merges,
            byte_fallback: model.byte_fallback,
            fuse_unknown: model.fuse_unk,
            affixes,
        },
        unknown: model.unk_token.map(Unknown::Text),
        word_mark: None,
    })
}

/// The vocabulary in file order: texts, and the id of each.
pub(super) struct Vocab {
    texts: Strings,
    ids: Vec<u32>,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token ids by token")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab { texts: Strings::default(), ids: Vec::new() };
                while let Some((Text(text), id)) = map.next_entry()? {
                    vocab.texts.push(&text).ok_or_else(|| de::Error::custom("the texts pass 4 GiB"))?;
                    vocab.ids.push(id);
                }
                Ok(vocab)
            }
        }
        deserializer.deserialize_map(VocabVisitor)
    }
}

/// A string of the file, copied only where it has escapes.
#[derive(Deserialize)]
struct Text<'j>(#[serde(borrow)] std::borrow::Cow<'j, str>);

/// The merges, each with one space between its tokens, whether the file has `"a b"` or `["a", "b"]`.
struct MergeList(Strings);

impl<'de> Deserialize<'de> for MergeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge<'j> {
            Joined(#[serde(borrow)] Text<'j>),
            Pair(#[serde(borrow)] Text<'j>, Text<'j>),
        }
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = MergeList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges, each two tokens")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<MergeList, A::Error> {
                let mut merges = Strings::default();
                let mut joined = String::new();
                while let Some(merge) = sequence.next_element::<Merge<'de>>()? {
                    let text = match &merge {
                        Merge::Joined(text) => &*text.0,
                        Merge::Pair(left, right) => {
                            joined.clear();
                            joined.extend([&*left.0, " ", &*right.0]);
                            &joined
                        }
                    };
                    merges.push(text).ok_or_else(|| de::Error::custom("the texts pass 4 GiB"))?;
                }
                Ok(MergeList(merges))
            }
        }
        deserializer.deserialize_seq(MergeVisitor)
    }
}

/// The vocabulary of a unigram model, by id: texts and scores.
struct ScoredVocab {
    texts: Strings,
    scores: Vec<f64>,
}

impl<'de> Deserialize<'de> for ScoredVocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = ScoredVocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tokens, each with its score")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<ScoredVocab, A::Error> {
                let mut vocab = ScoredVocab { texts: Strings::default(), scores: Vec::new() };
                while let Some((Text(text), score)) = sequence.next_element()? {
                    if vocab.scores.len() == TOKENS_MAX {
                        return Err(de::Error::custom(format_args!("more than {TOKENS_MAX} tokens")));
                    }
                    vocab.texts.push(&text).ok_or_else(|| de::Error::custom("the texts pass 4 GiB"))?;
                    vocab.scores.push(score);
                }
                Ok(vocab)
            }
        }
        deserializer.deserialize_seq(VocabVisitor)
    }
}

/// The vocabulary by id, added tokens included.
pub(super) fn all_tokens(vocab: Vocab, entries: Vec<AddedTokenEntry>) -> Result<(Strings, Vec<AddedToken>)> {
    let highest = vocab.ids.iter().copied().chain(entries.iter().map(|entry| entry.id)).max();
    let count = highest.map_or(0, |id| id as usize + 1);
    if count > TOKENS_MAX {
        return Err(refused("vocab", format!("it has an id of {}; ids must be below {TOKENS_MAX}", count - 1)));
    }
    let mut texts = vec![""; count];
    let known = vocab.texts.iter().zip(vocab.ids).chain(entries.iter().map(|entry| (entry.content.as_str(), entry.id)));
    for (text, id) in known {
        let place = &mut texts[id as usize];
        if !place.is_empty() && *place != text {
            let problem = format!("`{}` and `{}` have the same id {id}", shown(*place), shown(text));
            return Err(refused("vocab", problem));
        }
        *place = text;
    }
    // The texts are parts of a file that is far below the limit of the list.
    let tokens = texts.into_iter().collect();
    let added = entries.into_iter().map(AddedTokenEntry::into_token);
    Ok((tokens, added.collect()))
}
