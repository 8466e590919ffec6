//! The tokenizer within a GGUF file's metadata (`tokenizer.ggml.*`).

use super::special::{ADDED_MAX, too_many};
use super::{AddedToken, PreTokenizer, REMEDY, REMEDY_KIND, Tokenizer, Vocabulary};
use crate::error::{Error, Result, shown};
use crate::gguf::Gguf;
use crate::metadata::{Metadata, Strings};

/// `tokenizer.ggml.token_type`, as the GGUF specification numbers it.
mod token_type {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const BYTE: i32 = 6;
}

impl Tokenizer {
    /// The tokenizer that `gguf` carries.
    ///
    /// # Errors
    /// [`Error::Gguf`] where a key is missing or has the wrong type; [`Error::Tokenizer`] where the tokenizer is of a
    /// kind that is not supported or its parts do not fit together.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let metadata = gguf.metadata();
        let model = metadata.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(unsupported("tokenizer.ggml.model", model));
        }
        let pre = metadata.str("tokenizer.ggml.pre")?;
        let rules = Rules::named(pre).ok_or_else(|| unsupported("tokenizer.ggml.pre", pre))?;
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        if let Some(scores) = metadata.optional_f32s("tokenizer.ggml.scores")? {
            check_length("tokenizer.ggml.scores", scores.len(), tokens.len())?;
        }
        let id = |name: &str| metadata.optional_u32(&format!("tokenizer.ggml.{name}_token_id"));
        let mut ends = Vec::new();
        for name in ["eot", "eom"] {
            ends.extend(id(name)?);
        }
        Self::new(Vocabulary {
            tokens: tokens.clone(),
            merges: metadata.strings("tokenizer.ggml.merges")?.clone(),
            added: added_tokens(metadata, tokens)?,
            pre_tokenizer: rules.pre_tokenizer,
            compose: rules.compose,
            ignore_merges: rules.ignore_merges,
            bos: id("bos")?,
            eos: id("eos")?,
            unknown: id("unknown")?,
            padding: id("padding")?,
            add_bos: metadata.optional_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(rules.add_bos),
            add_eos: metadata.optional_bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            ends,
        })
    }
}

/// What a value of `tokenizer.ggml.pre` stands for. It is the only trace that the original's normaliser and other
/// settings leave in a GGUF file.
struct Rules {
    pre_tokenizer: PreTokenizer,
    compose: bool,
    ignore_merges: bool,
    add_bos: bool,
}

impl Rules {
    /// The names are those that converters write for tokenizers of the same rules.
    fn named(pre: &str) -> Option<Self> {
        let rules = |pre_tokenizer| Self { pre_tokenizer, compose: false, ignore_merges: false, add_bos: false };
        Some(match pre {
            "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4" | "mpt" | "olmo" | "jais"
            | "trillion" | "granite-docling" => rules(PreTokenizer::Gpt2),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
                Self { ignore_merges: true, add_bos: true, ..rules(PreTokenizer::Llama3) }
            }
            "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => rules(PreTokenizer::Llama3),
            // The tokenizers of Qwen 1.5 to 3 compose; the others only share the cut.
            "qwen2" => Self { compose: true, ..rules(PreTokenizer::Qwen2) },
            "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan" | "grok-2" => {
                rules(PreTokenizer::Qwen2)
            }
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                rules(PreTokenizer::SmolLm)
            }
            _ => return None,
        })
    }
}

/// The tokens that are found in the text: control and unknown tokens are special, user-defined ones are not.
fn added_tokens(metadata: &Metadata, tokens: &Strings) -> Result<Vec<AddedToken>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = metadata.optional_i32s(KEY)? else {
        return Ok(Vec::new());
    };
    check_length(KEY, types.len(), tokens.len())?;
    let mut added = Vec::new();
    for (id, (kind, text)) in (0u32..).zip(types.into_iter().zip(tokens.iter())) {
        let special = match kind {
            token_type::CONTROL | token_type::UNKNOWN => true,
            token_type::USER_DEFINED => false,
            token_type::NORMAL..=token_type::BYTE => continue,
            _ => {
                return Err(Error::Tokenizer {
                    field: format!("metadata key `{KEY}`"),
                    problem: format!("token {id} has the unknown type {kind}"),
                    remedy: REMEDY,
                });
            }
        };
        if added.len() == ADDED_MAX {
            return Err(too_many());
        }
        let text = text.to_owned();
        added.push(AddedToken { id, text, special, strip_left: false, strip_right: false, single_word: false });
    }
    Ok(added)
}

fn check_length(key: &str, length: usize, tokens: usize) -> Result<()> {
    if length == tokens {
        return Ok(());
    }
    Err(Error::Tokenizer {
        field: format!("metadata key `{key}`"),
        problem: format!("it has {length} values for {tokens} tokens"),
        remedy: REMEDY,
    })
}

fn unsupported(key: &str, kind: &str) -> Error {
    Error::Tokenizer {
        field: format!("metadata key `{key}`"),
        problem: format!("the kind `{}` is not supported yet", shown(kind)),
        remedy: REMEDY_KIND,
    }
}
