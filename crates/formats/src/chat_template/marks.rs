//! Which special tokens of a prompt the template wrote itself.
//!
//! What a template spells out in its source, and what the vocabulary names `bos_token` and so on, stands between two
//! marks when the template runs; what comes from users does not, whatever the template makes of it. Afterwards the marks
//! become [`RenderedPrompt::tokens`].

use super::{ChatInput, RenderedPrompt};
use crate::error::{Error, Result};
use crate::tokenizer::trie::{KEY_BYTES_MAX, Trie};
use minijinja::value::Value;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::ops::Range;

/// The most bytes of strings and keys in one conversation: more than a context of a million tokens.
const INPUT_BYTES_MAX: u64 = 8 << 20;
/// The most values in one conversation; each costs about 150 bytes.
const INPUT_VALUES_MAX: u64 = 100_000;
/// The deepest nesting. JSON schemas of real tools stay below 20.
const INPUT_DEPTH_MAX: usize = 64;
/// The noncharacters that Unicode sets aside for a program's own use. The first two are the marks; where the input holds
/// one of them, another stands for it meanwhile.
const RESERVED: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// The roles whose names templates make special tokens of, as in `<|user|>`. Other names could be such as `end`.
const ROLES: [&str; 9] =
    ["system", "developer", "user", "assistant", "tool", "function", "ipython", "observation", "environment"];

/// The shortest string of a template that may go on with a token, in bytes. Shorter ones are brackets and the like.
const PART_BYTES_MIN: usize = 4;

/// Whether a character could be a mark, or stand for one. None of them has a meaning in text (Unicode 16, section 23.7).
pub(super) fn may_be_mark(character: char) -> bool {
    RESERVED.contains(&character)
}

/// The special tokens of a vocabulary, found by their texts.
#[derive(Clone, Debug)]
pub(super) struct SpecialTokens {
    texts: Vec<String>,
    trie: Trie,
    /// Of each text, whether the assistant uses it inside its own turn.
    assistants_own: Vec<bool>,
    /// What may go on with a token that the template has begun: the names of roles, and strings of the template that are
    /// no words, such as a suffix that all of a model's tokens have.
    parts: Vec<String>,
    parts_trie: Trie,
}

/// Who wrote a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// The template, in what it prints. The end of the text may be the beginning of a token, for a role to complete.
    Printed,
    /// The template, elsewhere.
    Template,
    /// The assistant, in a turn of its own.
    Assistant,
}

impl SpecialTokens {
    /// `named`: bos, eos, pad and unk.
    pub(super) fn new(named: &[String], all: &[String]) -> Self {
        // A token that is a word is compared with far more often than written.
        let is_marked = |text: &&String| text.len() <= KEY_BYTES_MAX && !is_word(text);
        let texts: Vec<String> = named.iter().chain(all).filter(is_marked).cloned().collect();
        let trie = Trie::new((0..texts.len() as u32).collect(), |text| texts[text as usize].as_bytes());
        let assistants_own = texts.iter().map(|text| !named.contains(text) && is_assistants_own(text)).collect();
        Self { texts, trie, assistants_own, parts: Vec::new(), parts_trie: Trie::default() }
    }

    /// Notes the strings in the template's expressions.
    pub(super) fn note_strings(&mut self, strings: Vec<String>) {
        let is_part = |text: &String| (PART_BYTES_MIN..=KEY_BYTES_MAX).contains(&text.len()) && !is_word(text);
        self.parts = ROLES.map(String::from).into_iter().chain(ROLES.map(str::to_uppercase)).collect();
        self.parts.extend(strings.into_iter().filter(is_part));
        self.parts_trie =
            Trie::new((0..self.parts.len() as u32).collect(), |part| self.parts[part as usize].as_bytes());
    }

    /// The lengths of the tokens that `text` begins with, and their places in the list; shortest first.
    fn each(&self, text: &str, found: impl FnMut(usize, u32)) {
        self.trie.each(|place| self.texts[place as usize].as_bytes(), text.as_bytes(), found);
    }

    /// `text` with every token in it between marks, the leftmost and longest each time. Marks that it holds already are
    /// left out.
    pub(super) fn marked<'t>(&self, text: &'t str, author: Author) -> Cow<'t, str> {
        let mut marked = String::new();
        let (mut copied, mut from) = (0, 0);
        let mut mark = |copied: &mut usize, place: Range<usize>| {
            marked.extend(text[*copied..place.start].chars().filter(|&character| !is_mark(character)));
            marked.push(OPEN);
            marked.push_str(&text[place.clone()]);
            marked.push(CLOSE);
            *copied = place.end;
        };
        // Where something else may go on with a token: at what is formatted in, and behind what is printed.
        let mut ends: Vec<usize> = match author {
            Author::Assistant => Vec::new(),
            Author::Printed | Author::Template => {
                ["{}", "%s"].iter().flat_map(|hole| text.match_indices(hole)).map(|(place, _)| place).collect()
            }
        };
        ends.extend((author == Author::Printed).then_some(text.len()));
        ends.sort_unstable();
        let mut ends = ends.into_iter().peekable();
        while let Some(character) = text[from..].chars().next() {
            while ends.next_if(|&end| end <= from).is_some() {}
            let mut longest = None;
            self.each(&text[from..], |length, place| {
                if author != Author::Assistant || self.assistants_own[place as usize] {
                    longest = Some(length);
                }
            });
            match longest {
                Some(length) => {
                    mark(&mut copied, from..from + length);
                    from += length;
                }
                None if let Some(&end) = ends.peek()
                    && self
                        .trie
                        .goes_on(|place| self.texts[place as usize].as_bytes(), &text.as_bytes()[from..end]) =>
                {
                    mark(&mut copied, from..end);
                    from = end;
                }
                None => from += character.len_utf8(),
            }
        }
        if copied == 0 && !text.contains(is_mark) {
            return Cow::Borrowed(text);
        }
        marked.extend(text[copied..].chars().filter(|&character| !is_mark(character)));
        Cow::Owned(marked)
    }

    /// What of `prompt` the template has written as a token, where it put the marks around `place`: that place; or, where
    /// it holds only the beginning of a token, and a role or a string of the template goes on with it, all of the token.
    fn written(&self, prompt: &str, place: Range<usize>) -> Range<usize> {
        let (mut is_whole, mut completed) = (false, None);
        self.each(&prompt[place.start..], |length, _| {
            let end = place.start + length;
            is_whole |= end <= place.end;
            if end > place.end {
                let mut goes_on = false;
                let bytes_of = |part: u32| self.parts[part as usize].as_bytes();
                self.parts_trie.each(bytes_of, &prompt.as_bytes()[place.end..end], |_, _| goes_on = true);
                completed = goes_on.then_some(end).or(completed);
            }
        });
        place.start..completed.filter(|_| !is_whole).unwrap_or(place.end)
    }
}

fn is_word(text: &str) -> bool {
    text.chars().all(|character| character.is_alphanumeric() || character == '_')
}

fn is_mark(character: char) -> bool {
    matches!(character, OPEN | CLOSE)
}

/// Whether a special token marks a part of an assistant's turn, such as `<think>`, `[TOOL_CALLS]` or
/// `<｜tool▁calls▁begin｜>`. By name, since no file format tells.
fn is_assistants_own(text: &str) -> bool {
    let letters: String = text.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
    ["think", "reason", "toolcall"].iter().any(|part| letters.contains(part))
}

/// Turns the input of one rendering into values.
pub(super) struct Converter<'t> {
    special: &'t SpecialTokens,
    /// What stands for each mark that the input holds, until the prompt is done.
    aliases: [char; 2],
    bytes: u64,
    values: u64,
}

impl<'t> Converter<'t> {
    /// Measures the input, and chooses what shall stand for the marks in it.
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
        let used = measure.reserved_used;
        let mut free = RESERVED.zip(0..).filter(|(character, index)| !is_mark(*character) && used & (1 << *index) == 0);
        let (Some((open, _)), Some((close, _))) = (free.next(), free.next()) else {
            return Err(Error::ChatInput {
                field: "messages".into(),
                problem: "they hold nearly every noncharacter from U+FDD0 to U+FDEF, and two must be left".into(),
                remedy: "Remove them: they are no text",
            });
        };
        Ok(Self { special, aliases: [open, close], bytes: measure.bytes, values: measure.values })
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
        Value::from_pairs(
            fields.iter().map(|(key, value)| (self.text(key, false), self.convert(value, key == "content"))),
        )
    }

    /// Any other part of the input.
    pub(super) fn value(&self, value: &Json) -> Value {
        self.convert(value, false)
    }

    fn convert(&self, value: &Json, is_assistants: bool) -> Value {
        match value {
            Json::Null => Value::from(()),
            Json::Bool(truth) => Value::from(*truth),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Value::from(integer),
                (None, Some(integer)) => Value::from(integer),
                (None, None) => Value::from(number.as_f64()),
            },
            Json::String(text) => self.text(text, is_assistants),
            Json::Array(items) => items.iter().map(|item| self.convert(item, is_assistants)).collect(),
            Json::Object(fields) => Value::from_pairs(
                fields.iter().map(|(key, value)| (self.text(key, false), self.convert(value, is_assistants))),
            ),
        }
    }

    fn text(&self, text: &str, is_assistants: bool) -> Value {
        let [open, close] = self.aliases;
        let alias = |character| match character {
            OPEN => open,
            CLOSE => close,
            other => other,
        };
        let text =
            if text.contains(is_mark) { Cow::Owned(text.chars().map(alias).collect()) } else { Cow::Borrowed(text) };
        if is_assistants { Value::from(self.special.marked(&text, Author::Assistant)) } else { Value::from(text) }
    }

    /// What a template said about the input, as the user wrote it.
    pub(super) fn cleaned(&self, message: &str) -> String {
        self.without_marks(message, |_, _| ())
    }

    /// The prompt without its marks, and where the template wrote tokens.
    pub(super) fn into_prompt(self, text: &str) -> RenderedPrompt {
        let mut places: Vec<Range<usize>> = Vec::new();
        let mut start = None;
        let text = self.without_marks(text, |mark, at| {
            if mark == OPEN {
                start = Some(at);
            } else {
                // Where a filter has taken away what stood between the marks, there is no token, nor the beginning of one.
                places.extend(start.take().filter(|&start| start < at).map(|start| start..at));
            }
        });
        let mut tokens: Vec<Range<usize>> = Vec::new();
        for place in places {
            let token = self.special.written(&text, place);
            if tokens.last().is_none_or(|last| last.end <= token.start) {
                tokens.push(token);
            }
        }
        RenderedPrompt { text, tokens }
    }

    /// `text` without the marks, each of which is told with where it was; and with those that stood for marks turned back.
    fn without_marks(&self, text: &str, mut mark: impl FnMut(char, usize)) -> String {
        let [open, close] = self.aliases;
        let mut output = String::with_capacity(text.len());
        for character in text.chars() {
            if is_mark(character) {
                mark(character, output.len());
            } else {
                output.push(if character == open {
                    OPEN
                } else if character == close {
                    CLOSE
                } else {
                    character
                });
            }
        }
        output
    }
}

#[derive(Default)]
struct Measure {
    bytes: u64,
    values: u64,
    /// Bit `n`: the input holds U+FDD0 + n.
    reserved_used: u32,
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
                self.reserved_used |= 1 << (tail[2] - 0x90);
            }
        }
        Ok(())
    }
}
