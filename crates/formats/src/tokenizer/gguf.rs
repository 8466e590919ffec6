//! The tokenizer within a GGUF file's metadata (`tokenizer.ggml.*`).

use super::charsmap::Charsmap;
use super::named::Rules;
use super::normaliser::{Normaliser, Step};
use super::special::{ADDED_MAX, too_many};
use super::vocabulary::{Affixes, Spelling, Vocabulary, VocabularyModel};
use super::word_piece::WordMark;
use super::{AddedToken, PreTokenizer, REMEDY, REMEDY_KIND, SPACE_MARK};
use crate::error::{Error, Result, shown};
use crate::metadata::{Array, Metadata, Strings, Value};
use std::sync::Arc;

/// `tokenizer.ggml.token_type`, as the GGUF specification numbers it.
pub(super) mod token_type {
    pub(in super::super) const NORMAL: i32 = 1;
    pub(in super::super) const UNKNOWN: i32 = 2;
    pub(in super::super) const CONTROL: i32 = 3;
    pub(in super::super) const USER_DEFINED: i32 = 4;
    pub(in super::super) const UNUSED: i32 = 5;
    pub(in super::super) const BYTE: i32 = 6;
}

impl Vocabulary {
    /// The parts of the tokenizer that a GGUF file carries.
    ///
    /// # Errors
    /// [`Error::Gguf`] where a key is missing or has the wrong type; [`Error::Tokenizer`] where the tokenizer is of a
    /// kind that is not supported or its parts do not fit together.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        if let Some(scores) = metadata.optional_f32s("tokenizer.ggml.scores")? {
            check_length("tokenizer.ggml.scores", scores.len(), tokens.len())?;
        }
        let kind = match metadata.str("tokenizer.ggml.model")? {
            "gpt2" => gpt2(metadata)?,
            "llama" => llama(metadata)?,
            "bert" => bert(metadata)?,
            "t5" => t5(metadata)?,
            other => return Err(unsupported("tokenizer.ggml.model", other)),
        };
        let id = |name: &str| metadata.optional_u32(&format!("tokenizer.ggml.{name}_token_id"));
        let flag = |name: &str| metadata.optional_bool(&format!("tokenizer.ggml.{name}"));
        let mut ends = Vec::new();
        for name in ["eot", "eom"] {
            ends.extend(id(name)?);
        }
        let added = added_tokens(metadata, tokens)?;
        let is_words = matches!(kind.spelling, Spelling::Words { .. });
        // BERT calls the tokens at the ends by other names; one of them the format misspells.
        let (begin, end) = if is_words { (id("cls")?, id("seperator")?) } else { (None, None) };
        let default_unknown = if is_words { id_of(tokens, "[UNK]") } else { id_of(tokens, "<unk>") };
        Ok(Self {
            tokens: tokens.clone(),
            added,
            normaliser: kind.normaliser,
            pre_tokenizer: kind.pre_tokenizer,
            strips_first_space: kind.strips_first_space,
            bos: id("bos")?.or(begin),
            eos: end.or(id("eos")?),
            unknown: id("unknown")?.or(default_unknown.filter(|_| kind.spelling != Spelling::ByteLevel)),
            padding: id("padding")?,
            after_bos: Vec::new(),
            add_bos: flag("add_bos_token")?.unwrap_or(kind.add_bos),
            add_eos: flag(if is_words { "add_sep_token" } else { "add_eos_token" })?.unwrap_or(kind.add_eos),
            ends,
            spelling: kind.spelling,
            model: kind.model,
        })
    }
}

/// What the kinds of tokenizers differ in.
struct Kind {
    spelling: Spelling,
    model: VocabularyModel,
    normaliser: Normaliser,
    pre_tokenizer: PreTokenizer,
    strips_first_space: bool,
    add_bos: bool,
    add_eos: bool,
}

/// Byte-level BPE.
fn gpt2(metadata: &Metadata) -> Result<Kind> {
    let pre = metadata.str("tokenizer.ggml.pre")?;
    let rules = Rules::named(pre).ok_or_else(|| unsupported("tokenizer.ggml.pre", pre))?;
    Ok(Kind {
        spelling: Spelling::ByteLevel,
        model: VocabularyModel::Bpe {
            merges: metadata.strings("tokenizer.ggml.merges")?.clone(),
            ignore_merges: rules.ignore_merges,
            byte_fallback: false,
            fuse_unknown: false,
            affixes: Affixes::default(),
        },
        normaliser: rules.normaliser,
        pre_tokenizer: rules.pre_tokenizer,
        strips_first_space: false,
        add_bos: rules.add_bos,
        add_eos: false,
    })
}

/// SentencePiece's BPE, as in Llama 2 and Gemma.
fn llama(metadata: &Metadata) -> Result<Kind> {
    let adds_space = metadata.optional_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let removes_spaces = metadata.optional_bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    Ok(Kind {
        spelling: Spelling::SentencePiece,
        model: VocabularyModel::ScoredBpe { scores: scores(metadata)? },
        normaliser: sentencepiece_spaces(None, removes_spaces, adds_space),
        pre_tokenizer: PreTokenizer::default(),
        strips_first_space: adds_space,
        add_bos: true,
        add_eos: false,
    })
}

/// The unigram language model, as in T5 and XLM-R.
fn t5(metadata: &Metadata) -> Result<Kind> {
    const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
    let adds_space = metadata.optional_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(false);
    let removes_spaces = metadata.optional_bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    let charsmap = match metadata.get(CHARSMAP) {
        None => None,
        Some(Value::Array(Array::U8(bytes))) => Some(bytes.clone()),
        Some(Value::Array(Array::I8(bytes))) => Some(bytes.iter().map(|byte| byte.cast_unsigned()).collect()),
        Some(_) => return Err(wrong(CHARSMAP, "it is no array of bytes".into())),
    };
    let charsmap = charsmap.filter(|bytes| !bytes.is_empty());
    let charsmap =
        charsmap.map(|bytes| Charsmap::new(&bytes)).transpose().map_err(|problem| wrong(CHARSMAP, problem))?;
    Ok(Kind {
        spelling: Spelling::SentencePiece,
        model: VocabularyModel::Unigram { scores: scores(metadata)?, byte_fallback: true },
        normaliser: sentencepiece_spaces(charsmap, removes_spaces, adds_space),
        pre_tokenizer: PreTokenizer::default(),
        strips_first_space: adds_space,
        add_bos: false,
        add_eos: true,
    })
}

/// WordPiece, as in BERT.
fn bert(metadata: &Metadata) -> Result<Kind> {
    let flag = |name: &str| metadata.optional_bool(&format!("tokenizer.ggml.normalizer.{name}"));
    let lowercase = flag("lowercase")?.unwrap_or(true);
    let strip_accents = flag("strip_accents")?.unwrap_or(lowercase);
    Ok(Kind {
        spelling: Spelling::Words { mark: WordMark::Beginning(SPACE_MARK.into()), tidy: true },
        model: VocabularyModel::WordPiece { characters_max: super::WORD_CHARACTERS_MAX },
        normaliser: Normaliser::bert(true, true, strip_accents, lowercase),
        pre_tokenizer: PreTokenizer::bert(),
        strips_first_space: true,
        add_bos: true,
        add_eos: true,
    })
}

/// SentencePiece's normalisation: its rules, then how it writes spaces.
pub(super) fn sentencepiece_spaces(charsmap: Option<Charsmap>, removes_spaces: bool, adds_space: bool) -> Normaliser {
    let steps = [
        charsmap.map(|charsmap| Step::Charsmap(Arc::new(charsmap))),
        removes_spaces.then_some(Step::SqueezeSpaces),
        adds_space.then(|| Step::Prepend(SPACE_MARK.into())),
        Some(Normaliser::space_marks()),
    ];
    Normaliser::new(steps.into_iter().flatten().collect())
}

fn scores(metadata: &Metadata) -> Result<Vec<f64>> {
    Ok(metadata.f32s("tokenizer.ggml.scores")?.into_iter().map(f64::from).collect())
}

fn id_of(tokens: &Strings, text: &str) -> Option<u32> {
    tokens.iter().position(|token| token == text).map(|id| id as u32)
}

/// The tokens that are found in the text: control and unknown tokens are special, user-defined ones are not.
fn added_tokens(metadata: &Metadata, tokens: &Strings) -> Result<Vec<AddedToken>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = metadata.optional_i32s(KEY)? else {
        return Ok(Vec::new());
    };
    check_length(KEY, types.len(), tokens.len())?;
    // Of Phi-3's chat tokens, the original takes the white space after them in; the format has no place to say so.
    let name = metadata.optional_str("general.name").ok().flatten().unwrap_or_default().to_lowercase();
    let is_phi3 = ["phi-3", "phi3"].iter().any(|part| name.contains(part));
    let mut added = Vec::new();
    for (id, (kind, text)) in (0u32..).zip(types.into_iter().zip(tokens.iter())) {
        let special = match kind {
            token_type::CONTROL | token_type::UNKNOWN => true,
            token_type::USER_DEFINED => false,
            token_type::NORMAL..=token_type::BYTE => continue,
            _ => {
                return Err(wrong(KEY, format!("token {id} has the unknown type {kind}")));
            }
        };
        if added.len() == ADDED_MAX {
            return Err(too_many());
        }
        let strip_right = is_phi3 && special && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
        let text = text.to_owned();
        added.push(AddedToken {
            id,
            text,
            special,
            strip_left: false,
            strip_right,
            single_word: false,
            normalised: false,
        });
    }
    Ok(added)
}

fn check_length(key: &str, length: usize, tokens: usize) -> Result<()> {
    if length == tokens {
        return Ok(());
    }
    Err(wrong(key, format!("it has {length} values for {tokens} tokens")))
}

fn wrong(key: &str, problem: String) -> Error {
    Error::Tokenizer { field: format!("metadata key `{key}`"), problem, remedy: REMEDY }
}

fn unsupported(key: &str, kind: &str) -> Error {
    Error::Tokenizer {
        field: format!("metadata key `{key}`"),
        problem: format!("the kind `{}` is not supported yet", shown(kind)),
        remedy: REMEDY_KIND,
    }
}
