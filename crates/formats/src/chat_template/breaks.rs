//! Input becomes template values, in which the special tokens that users spelled out are broken by a sentinel; afterwards
//! the sentinels become [`RenderedPrompt::breaks`].

use super::{ChatInput, RenderedPrompt};
use crate::error::{Error, Result};
use minijinja::value::Value;
use serde_json::Value as Json;

/// The most bytes of strings and keys in one conversation: more than a context of a million tokens.
const INPUT_BYTES_MAX: u64 = 8 << 20;
/// The most values in one conversation; each costs about 150 bytes.
const INPUT_VALUES_MAX: u64 = 100_000;
/// The deepest nesting. JSON schemas of real tools stay below 20.
const INPUT_DEPTH_MAX: usize = 64;
/// Longer special tokens are recognised by so many bytes. Real ones have below 40.
const TOKEN_BYTES_MAX: usize = 128;
/// The noncharacters that Unicode sets aside for a program's own use, one of which becomes the sentinel.
const SENTINELS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Whether a character could be a sentinel. None of them has a meaning in text (Unicode 16, section 23.7).
pub(super) fn may_be_sentinel(character: char) -> bool {
    SENTINELS.contains(&character)
}

/// The special tokens of a vocabulary, by the roles in which they are broken.
#[derive(Clone, Debug)]
pub(super) struct SpecialTokens {
    /// All of them: for what users and tools say.
    all: Texts,
    /// Those that the assistant does not use inside its own turn.
    turns: Texts,
}

impl SpecialTokens {
    /// `named`: bos, eos, pad and unk.
    pub(super) fn new(named: &[String], all: &[String]) -> Self {
        let turns = all.iter().filter(|text| named.contains(text) || !is_assistants_own(text));
        Self { all: Texts::new(all.iter().chain(named)), turns: Texts::new(turns.chain(named)) }
    }
}

/// Whether a special token marks a part of an assistant's turn, such as `<think>`, `[TOOL_CALLS]` or
/// `<｜tool▁calls▁begin｜>`. By name, since no file format tells.
fn is_assistants_own(text: &str) -> bool {
    let letters: String = text.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
    ["think", "reason", "toolcall"].iter().any(|part| letters.contains(part))
}

/// Texts to be found in strings.
#[derive(Clone, Debug)]
struct Texts {
    /// In small letters, since templates change the case of what users write; cut to [`TOKEN_BYTES_MAX`], sorted, each
    /// once; none with fewer than two characters, which cannot be broken.
    sorted: Vec<Box<[u8]>>,
    /// The bytes that any of them begins with.
    first: [bool; 256],
}

impl Texts {
    fn new<'t>(texts: impl Iterator<Item = &'t String>) -> Self {
        let mut sorted: Vec<Box<[u8]>> = Vec::new();
        let mut first = [false; 256];
        for text in texts.filter(|text| text.chars().nth(1).is_some()) {
            let bytes = text.as_bytes()[..text.len().min(TOKEN_BYTES_MAX)].to_ascii_lowercase();
            first[usize::from(bytes[0])] = true;
            first[usize::from(bytes[0].to_ascii_uppercase())] = true;
            sorted.push(bytes.into());
        }
        sorted.sort_unstable();
        sorted.dedup();
        Self { sorted, first }
    }

    /// Whether `rest` begins with one of the texts, or could be the beginning of one when more follows.
    fn may_begin(&self, rest: &[u8]) -> bool {
        let (mut low, mut high) = (0, self.sorted.len());
        for (length, byte) in rest.iter().map(u8::to_ascii_lowercase).enumerate() {
            let texts = &self.sorted[low..high];
            let at = |text: &[u8]| text.get(length).copied();
            let start = texts.partition_point(|text| at(text) < Some(byte));
            let end = texts.partition_point(|text| at(text) <= Some(byte));
            (low, high) = (low + start, low + end);
            if low == high {
                return false;
            }
            // The shortest text of those left comes first.
            if self.sorted[low].len() == length + 1 {
                return true;
            }
        }
        !rest.is_empty()
    }

    /// `text` with `sentinel` behind the first character of every text that is in it or may begin at its end.
    fn broken(&self, text: &str, sentinel: char) -> Option<String> {
        // Templates trim, and what was not at the end may get there.
        let trimmed = text.trim_end().as_bytes();
        let bytes = text.as_bytes();
        let mut broken: Option<String> = None;
        let mut copied = 0;
        for (position, _) in text.char_indices().filter(|(position, _)| self.first[usize::from(bytes[*position])]) {
            let inside = self.may_begin(&bytes[position..]);
            if inside || trimmed.get(position..).is_some_and(|rest| self.may_begin(rest)) {
                let end = position + text[position..].chars().next().map_or(0, char::len_utf8);
                let broken = broken.get_or_insert_with(|| String::with_capacity(text.len() + 64));
                broken.push_str(&text[copied..end]);
                broken.push(sentinel);
                copied = end;
            }
        }
        if let Some(broken) = &mut broken {
            broken.push_str(&text[copied..]);
        }
        broken
    }
}

/// Turns the input of one rendering into values.
pub(super) struct Converter<'t> {
    special: &'t SpecialTokens,
    sentinel: char,
    bytes: u64,
    values: u64,
}

impl<'t> Converter<'t> {
    /// Measures the input and chooses a sentinel that it does not hold.
    pub(super) fn new(special: &'t SpecialTokens, input: &ChatInput<'_>) -> Result<Self> {
        let mut measure = Measure::default();
        for message in input.messages {
            measure.value("messages", message, 0)?;
        }
        for tool in input.tools.unwrap_or_default() {
            measure.value("tools", tool, 0)?;
        }
        for (key, value) in input.extra {
            measure.text("the extra arguments", key)?;
            measure.value("the extra arguments", value, 0)?;
        }
        let used = measure.sentinels_used;
        let sentinel = SENTINELS.zip(0..).find(|(_, index)| used & (1 << *index) == 0).map(|(sentinel, _)| sentinel);
        let Some(sentinel) = sentinel else {
            return Err(Error::ChatInput {
                field: "messages".into(),
                problem: "they hold every noncharacter from U+FDD0 to U+FDEF, and one must be left".into(),
                remedy: "Remove them: they are no text",
            });
        };
        Ok(Self { special, sentinel, bytes: measure.bytes, values: measure.values })
    }

    /// Bytes of strings and keys in the input.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Strings, numbers, lists and so on in the input.
    pub(super) fn values(&self) -> u64 {
        self.values
    }

    /// The messages, each in the way of its role.
    pub(super) fn messages(&self, messages: &[Json]) -> Value {
        messages.iter().map(|message| self.message(message)).collect()
    }

    fn message(&self, message: &Json) -> Value {
        let Json::Object(fields) = message else { return self.value(message) };
        if fields.get("role").and_then(Json::as_str) != Some("assistant") {
            return self.value(message);
        }
        Value::from_pairs(fields.iter().map(|(key, value)| {
            let texts = if key == "content" { &self.special.turns } else { &self.special.all };
            (self.text(key, &self.special.all), self.convert(value, texts))
        }))
    }

    /// Any other part of the input.
    pub(super) fn value(&self, value: &Json) -> Value {
        self.convert(value, &self.special.all)
    }

    fn convert(&self, value: &Json, texts: &Texts) -> Value {
        match value {
            Json::Null => Value::from(()),
            Json::Bool(truth) => Value::from(*truth),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Value::from(integer),
                (None, Some(integer)) => Value::from(integer),
                (None, None) => Value::from(number.as_f64()),
            },
            Json::String(text) => self.text(text, texts),
            Json::Array(items) => items.iter().map(|item| self.convert(item, texts)).collect(),
            Json::Object(fields) => Value::from_pairs(
                fields.iter().map(|(key, value)| (self.text(key, &self.special.all), self.convert(value, texts))),
            ),
        }
    }

    fn text(&self, text: &str, texts: &Texts) -> Value {
        texts.broken(text, self.sentinel).map_or_else(|| Value::from(text), Value::from)
    }

    /// What a template said about the input, as the user wrote it.
    pub(super) fn cleaned(&self, message: &str) -> String {
        message.replace(self.sentinel, "")
    }

    /// The prompt without its sentinels, and where they were.
    pub(super) fn into_prompt(self, mut text: String) -> RenderedPrompt {
        let mut breaks = Vec::new();
        let mut kept = 0;
        text.retain(|character| {
            let keep = character != self.sentinel;
            if keep {
                kept += character.len_utf8();
            } else if breaks.last() != Some(&kept) {
                breaks.push(kept);
            }
            keep
        });
        RenderedPrompt { text, breaks }
    }
}

#[derive(Default)]
struct Measure {
    bytes: u64,
    values: u64,
    /// Bit `n`: the input holds U+FDD0 + n.
    sentinels_used: u32,
}

impl Measure {
    fn value(&mut self, field: &'static str, value: &Json, depth: usize) -> Result<()> {
        let too_much = |problem: String| Error::ChatInput { field: field.into(), problem, remedy: "Send less at once" };
        if depth > INPUT_DEPTH_MAX {
            return Err(too_much(format!("they are nested more than {INPUT_DEPTH_MAX} levels deep")));
        }
        self.values += 1;
        if self.values > INPUT_VALUES_MAX {
            return Err(too_much(format!("the conversation has more than {INPUT_VALUES_MAX} values")));
        }
        match value {
            Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
            Json::String(text) => self.text(field, text),
            Json::Array(items) => items.iter().try_for_each(|item| self.value(field, item, depth + 1)),
            Json::Object(fields) => fields.iter().try_for_each(|(key, value)| {
                self.text(field, key)?;
                self.value(field, value, depth + 1)
            }),
        }
    }

    fn text(&mut self, field: &'static str, text: &str) -> Result<()> {
        self.bytes += text.len() as u64;
        if self.bytes > INPUT_BYTES_MAX {
            return Err(Error::ChatInput {
                field: field.into(),
                problem: format!("the conversation has more than {INPUT_BYTES_MAX} bytes"),
                remedy: "Send less at once",
            });
        }
        // Their UTF-8 is EF B7 90 to EF B7 AF.
        for tail in text.as_bytes().windows(3).filter(|bytes| bytes[..2] == [0xef, 0xb7]) {
            if let 0x90..=0xaf = tail[2] {
                self.sentinels_used |= 1 << (tail[2] - 0x90);
            }
        }
        Ok(())
    }
}
