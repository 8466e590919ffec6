//! `tokenizer.json`, as the Hugging Face `tokenizers` library writes it, and `tokenizer_config.json` beside it.
//!
//! The file describes a pipeline of steps. Those of byte-level BPE tokenizers are recognised as a whole; any other step
//! is refused by name, because leaving one out would give other tokens without a word.

use super::special::ADDED_MAX;
use super::vocabulary::TOKENS_MAX;
use super::{AddedToken, PreTokenizer, REMEDY, REMEDY_KIND, Tokenizer, Vocabulary};
use crate::error::{Error, Result, shown};
use crate::hugging_face::Config;
use crate::json;
use crate::metadata::Strings;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// The largest file read. Published ones reach 35 MB.
const FILE_BYTES_MAX: usize = 64 << 20;

impl Tokenizer {
    /// The tokenizer of the file `tokenizer.json`. `tokenizer_config.json` names the special tokens, and
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
        let (pre_tokenizer, compose) = (read_pre_tokenizer(file.pre_tokenizer)?, read_normalizer(file.normalizer)?);
        let nothing = Map::new();
        let config = tokenizer_config.map_or(&nothing, Config::values);
        let id_of = |name: &str| -> Result<Option<u32>> {
            let Some(text) = token_name(config, name)? else {
                return Ok(None);
            };
            let id = added.iter().find(|token| token.text == text).map(|token| token.id);
            Ok(id.or_else(|| tokens.iter().position(|token| token == text).map(|id| id as u32)))
        };
        let (mut bos, mut eos) = (id_of("bos_token")?, id_of("eos_token")?);
        let (mut add_bos, mut add_eos) = (is_true(config, "add_bos_token"), is_true(config, "add_eos_token"));
        if let Some(ends) = read_post_processor(file.post_processor)? {
            (add_bos, add_eos) = (ends.before.is_some(), ends.after.is_some());
            (bos, eos) = (ends.before.or(bos), ends.after.or(eos));
        }
        Self::new(Vocabulary {
            unknown: id_of("unk_token")?,
            padding: id_of("pad_token")?,
            tokens,
            merges: model.merges.0,
            added,
            pre_tokenizer,
            compose,
            ignore_merges: model.ignore_merges,
            bos,
            eos,
            add_bos,
            add_eos,
            ends: generation_config.map_or(Ok(Vec::new()), read_ends)?,
        })
    }
}

/// The parts of `tokenizer.json` that are read. Truncation and padding are the caller's matter, and the decoder of a
/// byte-level tokenizer can only be the byte-level one.
#[derive(Deserialize)]
struct File<'j> {
    #[serde(borrow)]
    normalizer: Option<&'j RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'j RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'j RawValue>,
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
}

#[derive(Deserialize)]
struct ModelType {
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocab,
    merges: MergeList,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    dropout: Option<f64>,
}

/// The vocabulary in file order: texts, and the id of each.
struct Vocab {
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

fn read_model(raw: &RawValue) -> Result<Model> {
    let kind: ModelType = parse("model", raw.get().as_bytes())?;
    if let Some(kind) = kind.r#type.filter(|kind| kind != "BPE") {
        return Err(unsupported("model", &kind));
    }
    let model: Model = parse("model", raw.get().as_bytes())?;
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let settings = [
        ("byte_fallback", model.byte_fallback),
        ("continuing_subword_prefix", is_set(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", is_set(&model.end_of_word_suffix)),
        ("dropout", model.dropout.is_some_and(|dropout| dropout != 0.0)),
    ];
    match settings.into_iter().find(|(_, set)| *set) {
        Some((setting, _)) => Err(unsupported("model", &format!("BPE with {setting}"))),
        None => Ok(model),
    }
}

/// The vocabulary by id, added tokens included.
fn all_tokens(vocab: Vocab, entries: Vec<AddedTokenEntry>) -> Result<(Strings, Vec<AddedToken>)> {
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
    let added = entries.into_iter().map(|entry| AddedToken {
        id: entry.id,
        text: entry.content,
        special: entry.special,
        strip_left: entry.lstrip,
        strip_right: entry.rstrip,
        single_word: entry.single_word,
    });
    Ok((tokens, added.collect()))
}

/// Whether the normaliser composes (NFC); anything else it may do is refused.
fn read_normalizer(raw: Option<&RawValue>) -> Result<bool> {
    let steps = read_steps("normalizer", "normalizers", raw)?;
    match steps.iter().find(|step| kind(step) != "NFC") {
        Some(step) => Err(unsupported("normalizer", kind(step))),
        None => Ok(!steps.is_empty()),
    }
}

fn read_pre_tokenizer(raw: Option<&RawValue>) -> Result<PreTokenizer> {
    const FIELD: &str = "pre_tokenizer";
    let steps = read_steps(FIELD, "pretokenizers", raw)?;
    let mut digits_alone = false;
    let mut cut = None;
    let mut is_byte_level = false;
    for step in &steps {
        let is = |key: &str, default: bool| step.get(key).map_or(Some(default), Value::as_bool) == Some(true);
        match kind(step) {
            "Digits" if is("individual_digits", false) && cut.is_none() && !is_byte_level => digits_alone = true,
            "Split" if cut.is_none() && !is_byte_level => cut = Some(read_split(step)?),
            "ByteLevel" if is("add_prefix_space", true) => {
                return Err(unsupported(FIELD, "ByteLevel with add_prefix_space"));
            }
            "ByteLevel" if !is_byte_level => {
                is_byte_level = true;
                if is("use_regex", true) {
                    // The library's own expression; after another cut it would cut the pieces once more.
                    cut = match cut {
                        None | Some(PreTokenizer::Gpt2) => Some(PreTokenizer::Gpt2),
                        Some(_) => return Err(unsupported(FIELD, "Split and then ByteLevel with use_regex")),
                    };
                }
            }
            other => return Err(unsupported(FIELD, other)),
        }
    }
    match (cut, digits_alone) {
        (Some(PreTokenizer::Gpt2), true) if is_byte_level => Ok(PreTokenizer::SmolLm),
        (Some(cut), false) if is_byte_level => Ok(cut),
        _ if !is_byte_level => Err(unsupported(FIELD, "without ByteLevel")),
        _ => Err(unsupported(FIELD, "this combination of steps")),
    }
}

/// The rule that a `Split` step's expression writes out, in the spellings that published files have.
fn read_split(step: &Map<String, Value>) -> Result<PreTokenizer> {
    const FIELD: &str = "pre_tokenizer: Split";
    /// What the spellings differ in: how the contractions are written.
    const CONTRACTIONS_ANY_CASE: [&str; 3] = [
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        "'(?i:[sdmt]|ll|ve|re)",
    ];
    const CONTRACTIONS: [&str; 2] = ["'s|'t|'re|'ve|'m|'ll|'d", "'(?:[sdmt]|ll|ve|re)"];
    let is_plain = step.get("behavior").and_then(Value::as_str) == Some("Isolated")
        && step.get("invert").is_none_or(|invert| invert == &Value::Bool(false));
    if !is_plain {
        return Err(unsupported(FIELD, "a behaviour other than Isolated, or inverted"));
    }
    let pattern = step.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
    let pattern = pattern.ok_or_else(|| unsupported(FIELD, "a pattern other than Regex"))?;
    let rest = |contractions: &[&str]| contractions.iter().find_map(|prefix| pattern.strip_prefix(prefix));
    let any_case = rest(&CONTRACTIONS_ANY_CASE).and_then(|rest| match rest {
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+" => {
            Some(PreTokenizer::Llama3)
        }
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+" => {
            Some(PreTokenizer::Qwen2)
        }
        _ => None,
    });
    let gpt2 = rest(&CONTRACTIONS)
        .filter(|&rest| rest == r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
        .map(|_| PreTokenizer::Gpt2);
    any_case.or(gpt2).ok_or_else(|| unsupported(FIELD, &format!("the expression {pattern}")))
}

/// What is put around a text.
struct Ends {
    before: Option<u32>,
    after: Option<u32>,
}

/// `None` where no step puts anything around a text.
fn read_post_processor(raw: Option<&RawValue>) -> Result<Option<Ends>> {
    const FIELD: &str = "post_processor";
    let mut ends = None;
    for step in &read_steps(FIELD, "processors", raw)? {
        match kind(step) {
            // It only moves the offsets of tokens in the text, which are not kept.
            "ByteLevel" => {}
            "TemplateProcessing" if ends.is_none() => {
                let template = read_template(step);
                ends = Some(template.ok_or_else(|| unsupported(FIELD, "TemplateProcessing of more than one token"))?);
            }
            other => return Err(unsupported(FIELD, other)),
        }
    }
    Ok(ends)
}

/// The tokens around the sequence in `single`, at most one on each side; `None` where it is anything else.
fn read_template(step: &Map<String, Value>) -> Option<Ends> {
    let id_of = |piece: &Value| -> Option<u32> {
        let name = piece.get("SpecialToken")?.get("id")?.as_str()?;
        let [id] = step.get("special_tokens")?.get(name)?.get("ids")?.as_array()?.as_slice() else {
            return None;
        };
        id.as_u64()?.try_into().ok()
    };
    let single = step.get("single")?.as_array()?;
    let sequence = single.iter().position(|piece| piece.get("Sequence").is_some())?;
    let side = |pieces: &[Value]| match pieces {
        [] => Some(None),
        [piece] => Some(Some(id_of(piece)?)),
        _ => None,
    };
    Some(Ends { before: side(&single[..sequence])?, after: side(&single[sequence + 1..])? })
}

/// The steps of a part of the pipeline: none, one, or those of a `Sequence` (of sequences).
fn read_steps(field: &str, list: &str, raw: Option<&RawValue>) -> Result<Vec<Map<String, Value>>> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return Ok(Vec::new());
    };
    let step = json::parse_object(raw.get().as_bytes()).map_err(|problem| refused(field, problem))?;
    let mut steps = Vec::new();
    flatten(field, list, step, &mut steps)?;
    Ok(steps)
}

/// The parser has bounded the depth.
fn flatten(field: &str, list: &str, mut step: Map<String, Value>, steps: &mut Vec<Map<String, Value>>) -> Result<()> {
    if kind(&step) != "Sequence" {
        steps.push(step);
        return Ok(());
    }
    let Some(Value::Array(parts)) = step.remove(list) else {
        return Err(refused(field, format!("a Sequence has no list of `{list}`")));
    };
    for part in parts {
        match part {
            Value::Object(part) => flatten(field, list, part, steps)?,
            _ => return Err(refused(field, format!("`{list}` holds something that is no object"))),
        }
    }
    Ok(())
}

fn kind(step: &Map<String, Value>) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or("without a type")
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

/// `eos_token_id`, one or a list.
fn read_ends(generation_config: &Config) -> Result<Vec<u32>> {
    let ids = match generation_config.get("eos_token_id") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(id) => std::slice::from_ref(id),
    };
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Option<_> = ids.iter().map(id).collect();
    ids.ok_or_else(|| refused("generation_config.json", "`eos_token_id` is neither an id nor a list of ids".into()))
}

fn is_true(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key) == Some(&Value::Bool(true))
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
