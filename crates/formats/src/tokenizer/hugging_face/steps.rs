//! The steps of `tokenizer.json` around its model: what is done to text before it, and how it is written afterwards.

use super::{refused, unsupported};
use crate::error::{Error, Result, shown};
use crate::json;
use crate::tokenizer::charsmap::Charsmap;
use crate::tokenizer::expression::Expression;
use crate::tokenizer::named::{self, PUNCTUATION};
use crate::tokenizer::normaliser::{Normaliser, Step as Change};
use crate::tokenizer::pretokenizer::{Behaviour, PreTokenizer, Prepend, Step as Cut};
use crate::tokenizer::{REMEDY_KIND, SPACE_MARK};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The most steps of a part of the pipeline; the published ones have below ten. It bounds the depth of recursion, and
/// how often a text is gone through.
const STEPS_MAX: usize = 32;

type Step = Map<String, Value>;

pub(super) fn read_normaliser(raw: Option<&RawValue>) -> Result<Normaliser> {
    const FIELD: &str = "normalizer";
    let mut changes = Vec::new();
    for step in &read_steps(FIELD, "normalizers", raw)? {
        let flag = |name: &str| flag(step, name, true);
        match kind(step) {
            "NFC" => changes.push(Change::Nfc),
            "NFD" => changes.push(Change::Nfd),
            "NFKC" => changes.push(Change::Nfkc),
            "NFKD" => changes.push(Change::Nfkd),
            "Lowercase" => changes.push(Change::Lowercase),
            "StripAccents" => changes.push(Change::StripAccents),
            "Strip" => changes.push(Change::Trim { left: flag("strip_left"), right: flag("strip_right") }),
            "Prepend" => changes.push(Change::Prepend(text(FIELD, step, "prepend")?.to_owned())),
            "Replace" => changes.push(Change::Replace {
                expression: read_pattern("normalizer: Replace", step)?,
                content: text(FIELD, step, "content")?.to_owned(),
            }),
            "BertNormalizer" => {
                let lowercase = flag("lowercase");
                let strip_accents = step.get("strip_accents").and_then(Value::as_bool).unwrap_or(lowercase);
                let bert = Normaliser::bert(flag("clean_text"), flag("handle_chinese_chars"), strip_accents, lowercase);
                changes.extend(bert.steps().iter().cloned());
            }
            "Precompiled" => {
                // Some files have the step and no rules.
                if let Some(rules) = step.get("precompiled_charsmap").and_then(Value::as_str) {
                    let charsmap = BASE64_STANDARD.decode(rules).map_err(|error| error.to_string());
                    let charsmap = charsmap.and_then(|bytes| Charsmap::new(&bytes));
                    let charsmap = charsmap.map_err(|problem| refused("normalizer: Precompiled", problem))?;
                    changes.push(Change::Charsmap(Arc::new(charsmap)));
                }
            }
            other => return Err(unsupported(FIELD, other)),
        }
    }
    Ok(Normaliser::new(changes))
}

/// The pre-tokenizer, and whether it writes text in the byte-level alphabet.
pub(super) fn read_pre_tokenizer(raw: Option<&RawValue>) -> Result<(PreTokenizer, bool)> {
    const FIELD: &str = "pre_tokenizer";
    let mut cuts = Vec::new();
    let mut is_byte_level = false;
    for step in &read_steps(FIELD, "pretokenizers", raw)? {
        let kind = kind(step);
        if kind == "ByteLevel" && is_byte_level {
            return Err(unsupported(FIELD, "ByteLevel twice"));
        }
        match kind {
            "ByteLevel" => {
                is_byte_level = true;
                if flag(step, "add_prefix_space", true) {
                    cuts.push(Cut::SpaceInFront);
                }
                if flag(step, "use_regex", true) {
                    cuts.push(named::gpt2());
                }
                cuts.push(Cut::ByteLevel);
            }
            "Split" => cuts.push(Cut::Cut {
                expression: read_pattern("pre_tokenizer: Split", step)?,
                behaviour: read_behaviour("pre_tokenizer: Split", step)?,
                invert: flag(step, "invert", false),
            }),
            "Digits" if flag(step, "individual_digits", false) => cuts.push(named::cut(r"\p{N}", Behaviour::Isolated)),
            "Digits" => cuts.push(named::cut(r"\p{N}+", Behaviour::Isolated)),
            "Punctuation" => cuts.push(named::cut(PUNCTUATION, read_behaviour("pre_tokenizer: Punctuation", step)?)),
            "Whitespace" => {
                let expression = Expression::new(r"\w+|[^\w\s]+").expect("a sound expression");
                cuts.push(Cut::Cut { expression, behaviour: Behaviour::Removed, invert: true });
            }
            "WhitespaceSplit" => cuts.push(named::cut(r"\s+", Behaviour::Removed)),
            "BertPreTokenizer" => cuts.extend(PreTokenizer::bert().steps().iter().cloned()),
            "Metaspace" => cuts.push(read_metaspace(step)?),
            other => return Err(unsupported(FIELD, other)),
        }
    }
    Ok((PreTokenizer::new(cuts), is_byte_level))
}

/// In older files `add_prefix_space` says what `prepend_scheme` says now, and every mark is cut before.
fn read_metaspace(step: &Step) -> Result<Cut> {
    const FIELD: &str = "pre_tokenizer: Metaspace";
    let mut marks = text(FIELD, step, "replacement")?.chars();
    let (Some(mark), None) = (marks.next(), marks.next()) else {
        return Err(unsupported(FIELD, "a replacement that is not one character"));
    };
    let scheme = match step.get("prepend_scheme").and_then(Value::as_str) {
        None if flag(step, "add_prefix_space", true) => "always",
        None => "never",
        Some(scheme) => scheme,
    };
    let prepend = match scheme {
        "always" => Prepend::Always,
        "first" => Prepend::First,
        "never" => Prepend::Never,
        other => return Err(unsupported(FIELD, other)),
    };
    let cut = flag(step, "split", true).then(|| Expression::literal(mark.encode_utf8(&mut [0; 4])));
    let cut = cut.transpose().map_err(|problem| refused(FIELD, problem))?;
    Ok(Cut::Metaspace { mark, prepend, cut })
}

fn read_behaviour(field: &str, step: &Step) -> Result<Behaviour> {
    Ok(match step.get("behavior").and_then(Value::as_str) {
        None | Some("Isolated") => Behaviour::Isolated,
        Some("Removed") => Behaviour::Removed,
        Some("Contiguous") => Behaviour::Contiguous,
        Some("MergedWithPrevious") => Behaviour::MergedWithPrevious,
        Some("MergedWithNext") => Behaviour::MergedWithNext,
        Some(other) => return Err(unsupported(field, &format!("the behaviour {other}"))),
    })
}

/// What is looked for: `{"String": …}` as it stands, or `{"Regex": …}`.
fn read_pattern(field: &str, step: &Step) -> Result<Expression> {
    let pattern = step.get("pattern");
    let named = |name: &str| pattern.and_then(|pattern| pattern.get(name)).and_then(Value::as_str);
    let (text, expression) = match (named("Regex"), named("String")) {
        (Some(text), _) => (text, Expression::new(text)),
        (None, Some(text)) => (text, Expression::literal(text)),
        (None, None) => return Err(refused(field, "it has no pattern".into())),
    };
    expression.map_err(|problem| Error::Tokenizer {
        field: format!("{field}: the expression `{}`", shown(text)),
        problem: format!("it is not supported: {problem}"),
        remedy: REMEDY_KIND,
    })
}

/// How tokens are written as text, as far as the vocabulary leaves it open.
pub(super) struct Decoding {
    /// Whether a space is written as `▁`.
    pub(super) has_space_mark: bool,
    /// Whether the space that a text begins with is left out.
    pub(super) strips_first_space: bool,
    /// Whether the spaces before punctuation are.
    pub(super) tidy: bool,
}

pub(super) fn read_decoder(raw: Option<&RawValue>) -> Result<Decoding> {
    const FIELD: &str = "decoder";
    let mut decoding = Decoding { has_space_mark: false, strips_first_space: false, tidy: false };
    for step in &read_steps(FIELD, "decoders", raw)? {
        match kind(step) {
            "ByteLevel" | "ByteFallback" | "Fuse" => {}
            "Replace" => {
                let pattern = step.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str);
                if pattern != Some("▁") || text(FIELD, step, "content")? != " " {
                    return Err(unsupported(FIELD, "Replace of anything but ▁ by a space"));
                }
                decoding.has_space_mark = true;
            }
            "Strip" => {
                let number = |name: &str| step.get(name).and_then(Value::as_u64).unwrap_or(0);
                if text(FIELD, step, "content")? != " " || number("start") > 1 || number("stop") != 0 {
                    return Err(unsupported(FIELD, "Strip of anything but one space in front"));
                }
                decoding.strips_first_space |= number("start") == 1;
            }
            "Metaspace" => {
                if text(FIELD, step, "replacement")? != SPACE_MARK.encode_utf8(&mut [0; 4]) {
                    return Err(unsupported(FIELD, "Metaspace with a mark other than ▁"));
                }
                decoding.has_space_mark = true;
                decoding.strips_first_space = match step.get("prepend_scheme").and_then(Value::as_str) {
                    Some(scheme) => scheme != "never",
                    None => flag(step, "add_prefix_space", true),
                };
            }
            "WordPiece" => (decoding.tidy, decoding.strips_first_space) = (flag(step, "cleanup", true), true),
            other => return Err(unsupported(FIELD, other)),
        }
    }
    Ok(decoding)
}

/// What is put around a text.
pub(super) struct Ends {
    pub(super) before: Vec<u32>,
    pub(super) after: Option<u32>,
}

/// `None` where no step puts anything around a text.
pub(super) fn read_post_processor(raw: Option<&RawValue>) -> Result<Option<Ends>> {
    const FIELD: &str = "post_processor";
    let mut ends = None;
    for step in &read_steps(FIELD, "processors", raw)? {
        match kind(step) {
            // It only moves the offsets of tokens in the text, which are not kept.
            "ByteLevel" => {}
            "BertProcessing" | "RobertaProcessing" if ends.is_none() => {
                let id = |name: &str| step.get(name)?.get(1)?.as_u64()?.try_into().ok();
                let (Some(before), Some(after)) = (id("cls"), id("sep")) else {
                    return Err(refused(FIELD, "it does not name the tokens `cls` and `sep` with their ids".into()));
                };
                ends = Some(Ends { before: vec![before], after: Some(after) });
            }
            "TemplateProcessing" if ends.is_none() => {
                let template = read_template(step);
                ends = Some(
                    template.ok_or_else(|| unsupported(FIELD, "TemplateProcessing of more than one token behind"))?,
                );
            }
            other => return Err(unsupported(FIELD, other)),
        }
    }
    Ok(ends)
}

/// The tokens around the sequence in `single`, at most one behind it; `None` where it is anything else.
fn read_template(step: &Step) -> Option<Ends> {
    let id_of = |piece: &Value| -> Option<u32> {
        let name = piece.get("SpecialToken")?.get("id")?.as_str()?;
        let [id] = step.get("special_tokens")?.get(name)?.get("ids")?.as_array()?.as_slice() else {
            return None;
        };
        id.as_u64()?.try_into().ok()
    };
    let single = step.get("single")?.as_array()?;
    let sequence = single.iter().position(|piece| piece.get("Sequence").is_some())?;
    let after = match &single[sequence + 1..] {
        [] => None,
        [piece] => Some(id_of(piece)?),
        _ => return None,
    };
    Some(Ends { before: single[..sequence].iter().map(id_of).collect::<Option<_>>()?, after })
}

/// The steps of a part of the pipeline: none, one, or those of a `Sequence` (of sequences).
fn read_steps(field: &str, list: &str, raw: Option<&RawValue>) -> Result<Vec<Step>> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return Ok(Vec::new());
    };
    let step = json::parse_object(raw.get().as_bytes()).map_err(|problem| refused(field, problem))?;
    let mut steps = Vec::new();
    flatten(field, list, step, &mut steps)?;
    Ok(steps)
}

/// The parser has bounded the depth.
fn flatten(field: &str, list: &str, mut step: Step, steps: &mut Vec<Step>) -> Result<()> {
    if kind(&step) != "Sequence" {
        if steps.len() == STEPS_MAX {
            return Err(refused(field, format!("it has more than {STEPS_MAX} steps")));
        }
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

fn kind(step: &Step) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or("without a type")
}

/// The flag `name` of a step.
fn flag(step: &Step, name: &str, default: bool) -> bool {
    step.get(name).and_then(Value::as_bool).unwrap_or(default)
}

/// The text `name` of a step, which must have it.
fn text<'s>(field: &str, step: &'s Step, name: &str) -> Result<&'s str> {
    let text = step.get(name).and_then(Value::as_str);
    text.ok_or_else(|| refused(&format!("{field}: {}", kind(step)), format!("it has no text `{name}`")))
}
