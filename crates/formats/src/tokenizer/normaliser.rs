//! What is done to text before it is cut: Unicode's normalisation forms, case, accents, and how spaces are written.

use super::budget::Budget;
use super::charsmap::Charsmap;
use super::expression::Expression;
use super::{SPACE_MARK, TEXT_BYTES_MAX};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::sync::Arc;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The most a text may grow to. Spaces, where each becomes three bytes, stay below it; a file whose rules make a
/// megabyte of every letter does not.
const OUTPUT_BYTES_MAX: usize = 4 * TEXT_BYTES_MAX;

/// The steps of normalisation, in order.
#[derive(Clone, Debug, Default)]
pub struct Normaliser(Arc<[Step]>);

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    /// Leaves out combining marks that take no space of their own (`Mn`).
    StripAccents,
    /// Puts a text in front, but not of nothing and not within a text.
    Prepend(String),
    /// Puts `content` in place of every match.
    Replace {
        expression: Expression,
        content: String,
    },
    /// Leaves out white space at the ends.
    Trim {
        left: bool,
        right: bool,
    },
    /// Leaves out spaces (U+0020) at the ends and makes one of several (SentencePiece, `remove_extra_whitespaces`).
    SqueezeSpaces,
    /// Leaves out control characters and makes all white space spaces (BERT, `clean_text`).
    CleanText,
    /// Puts spaces around Chinese characters (BERT, `handle_chinese_chars`).
    SpaceChinese,
    Charsmap(Arc<Charsmap>),
}

impl Normaliser {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self(steps.into())
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Unicode's normalisation form C.
    pub fn nfc() -> Self {
        Self::new(vec![Step::Nfc])
    }

    /// The step by which SentencePiece writes spaces.
    pub(super) fn space_marks() -> Step {
        let expression = Expression::literal(" ").expect("a space is a sound expression");
        Step::Replace { expression, content: SPACE_MARK.into() }
    }

    /// BERT's, with the steps that are asked for.
    pub(super) fn bert(clean_text: bool, space_chinese: bool, strip_accents: bool, lowercase: bool) -> Self {
        let accents: &[Step] = if strip_accents { &[Step::Nfd, Step::StripAccents] } else { &[] };
        let optional = |wanted: bool, step: Step| wanted.then_some(step);
        let first = [optional(clean_text, Step::CleanText), optional(space_chinese, Step::SpaceChinese)];
        let last = optional(lowercase, Step::Lowercase);
        Self::new(first.into_iter().flatten().chain(accents.iter().cloned()).chain(last).collect())
    }

    /// The normalised text, which is a part of the one that `budget` is for. `is_start` says that the text is a fragment
    /// and not what follows in one: only then something is put in front.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] where it grows beyond four times what is encoded at once; [`Error::Tokenizer`] where the
    /// budget is used up; the errors of expressions.
    pub(super) fn apply<'t>(&self, text: &'t str, is_start: bool, budget: &Budget) -> Result<Cow<'t, str>> {
        let mut text = Cow::Borrowed(text);
        for step in &*self.0 {
            if let Some(changed) = step.apply(&text, is_start, budget)? {
                budget.write(changed.len())?;
                text = Cow::Owned(changed);
            }
            if text.len() > OUTPUT_BYTES_MAX {
                return Err(too_long(text.len()));
            }
        }
        Ok(text)
    }
}

impl Step {
    /// The changed text; `None` where nothing changes.
    fn apply(&self, text: &str, is_start: bool, budget: &Budget) -> Result<Option<String>> {
        let filtered = |keep: fn(char) -> bool| text.chars().filter(|&character| keep(character)).collect::<String>();
        Ok(Some(match self {
            Self::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => return Ok(None),
            Self::Nfc => gathered(text.nfc())?,
            Self::Nfd => gathered(text.nfd())?,
            Self::Nfkc => gathered(text.nfkc())?,
            Self::Nfkd => gathered(text.nfkd())?,
            // Each character by itself, as the library does: a final sigma is a sigma.
            Self::Lowercase => gathered(text.chars().flat_map(char::to_lowercase))?,
            Self::StripAccents => filtered(|character| character.general_category() != GeneralCategory::NonspacingMark),
            Self::Prepend(_) if !is_start || text.is_empty() => return Ok(None),
            Self::Prepend(prefix) => [prefix, text].concat(),
            Self::Replace { expression, content } => {
                let mut output = String::with_capacity(text.len());
                expression.split(budget, text, |part, is_match| {
                    output.push_str(if is_match { content } else { part });
                    if output.len() > OUTPUT_BYTES_MAX { Err(too_long(output.len())) } else { Ok(()) }
                })?;
                output
            }
            Self::Trim { left, right } => {
                let text = if *left { text.trim_start() } else { text };
                (if *right { text.trim_end() } else { text }).to_owned()
            }
            Self::SqueezeSpaces => {
                let mut output = String::with_capacity(text.len());
                for word in text.split(' ').filter(|word| !word.is_empty()) {
                    if !output.is_empty() {
                        output.push(' ');
                    }
                    output.push_str(word);
                }
                output
            }
            Self::CleanText => {
                let space = |character: char| if character.is_whitespace() { ' ' } else { character };
                filtered(|character| !is_bert_control(character)).chars().map(space).collect()
            }
            Self::SpaceChinese => {
                let mut output = String::with_capacity(text.len());
                for character in text.chars() {
                    if is_chinese(character) {
                        output.extend([' ', character, ' ']);
                    } else {
                        output.push(character);
                    }
                }
                output
            }
            Self::Charsmap(charsmap) => charsmap.apply(text, OUTPUT_BYTES_MAX),
        }))
    }
}

/// The characters as a text, no further than it may grow: one character can decompose to eighteen.
fn gathered(characters: impl Iterator<Item = char>) -> Result<String> {
    let mut output = String::new();
    for character in characters {
        output.push(character);
        if output.len() > OUTPUT_BYTES_MAX {
            return Err(too_long(output.len()));
        }
    }
    Ok(output)
}

fn too_long(bytes: usize) -> Error {
    Error::TextTooLong { bytes, bytes_max: OUTPUT_BYTES_MAX }
}

/// What BERT leaves out: control and format characters, and with the library private ones; NUL and U+FFFD.
fn is_bert_control(character: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse};
    match character {
        '\t' | '\n' | '\r' => false,
        char::REPLACEMENT_CHARACTER => true,
        _ => matches!(character.general_category(), Control | Format | PrivateUse),
    }
}

/// The blocks of Chinese characters that BERT names (`_is_chinese_char`), with the fourth extension beginning where the
/// library has it.
fn is_chinese(character: char) -> bool {
    matches!(character, '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{20000}'..='\u{2A6DF}'
        | '\u{2A700}'..='\u{2B73F}' | '\u{2B740}'..='\u{2B81F}' | '\u{2B920}'..='\u{2CEAF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{2F800}'..='\u{2FA1F}')
}
