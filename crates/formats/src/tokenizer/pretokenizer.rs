//! Cutting text into the pieces inside which merges happen.
//!
//! Published tokenizers describe the cut by a regular expression. There are few of them, so each is a scanner here:
//! linear whatever the text, where a backtracking engine is not. The scanners follow leftmost-first alternation, and
//! every character of the text ends up in exactly one piece.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// A known rule for cutting text, named by the tokenizer that introduced it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PreTokenizer {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3,
    /// As [`Self::Llama3`], but every digit alone: `\p{N}`.
    Qwen2,
    /// Every digit (`\p{N}`) alone, and what lies between digits as [`Self::Gpt2`].
    SmolLm,
}

impl PreTokenizer {
    /// The pieces of `text`, in order; together they are the text.
    pub fn pieces(self, text: &str) -> impl Iterator<Item = &str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (piece, after) = rest.split_at(self.first_piece(rest));
            rest = after;
            Some(piece)
        })
    }

    /// The length in bytes of the first piece of `text`, which is not empty.
    fn first_piece(self, text: &str) -> usize {
        match self {
            Self::Gpt2 => gpt2_piece(text, false),
            Self::SmolLm => gpt2_piece(text, true),
            Self::Llama3 => llama3_piece(text, 3),
            Self::Qwen2 => llama3_piece(text, 1),
        }
    }
}

/// What the expressions tell apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    Other,
}

fn class(character: char) -> Class {
    match character {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        '\t'..='\r' | ' ' => Class::Space,
        '\0'..='\x7f' => Class::Other,
        _ if character.is_whitespace() => Class::Space,
        _ => match character.general_category_group() {
            GeneralCategoryGroup::Letter => Class::Letter,
            GeneralCategoryGroup::Number => Class::Number,
            _ => Class::Other,
        },
    }
}

/// The length of the longest prefix of `text` whose characters are all of `wanted`.
fn run(text: &str, wanted: Class) -> usize {
    text.find(|character| class(character) != wanted).unwrap_or(text.len())
}

/// The first character and its class; `None` at the end.
fn first(text: &str) -> Option<(Class, char)> {
    text.chars().next().map(|character| (class(character), character))
}

/// The length of the contraction (`'s`, `'ll`, …) that `text` begins with.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let after = text.strip_prefix('\'')?;
    // Two letters are enough to tell; U+017F (long s) is the one other character that folds to a letter asked for.
    let mut letters = after.chars().map(|letter| match letter {
        'ſ' if any_case => 's',
        _ if any_case => letter.to_ascii_lowercase(),
        _ => letter,
    });
    let length = match (letters.next()?, letters.next()) {
        ('s' | 't' | 'm' | 'd', _) => after.chars().next()?.len_utf8(),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => 2,
        _ => return None,
    };
    Some(1 + length)
}

/// `\s+(?!\S)|\s+` at white space that `length` bytes of `text` are: all of it at the end of the text, and else all
/// but its last character, which goes with what follows, unless there is no other.
fn white_space(text: &str, length: usize) -> usize {
    let last = text[..length].chars().next_back().map_or(0, char::len_utf8);
    if length == text.len() || length == last { length } else { length - last }
}

fn gpt2_piece(text: &str, digits_alone: bool) -> usize {
    if let Some(length) = contraction(text, false) {
        return length;
    }
    let Some((class, character)) = first(text) else {
        return 0;
    };
    if class == Class::Number && digits_alone {
        return character.len_utf8();
    }
    if class != Class::Space {
        return run(text, class);
    }
    // With digits alone, text before a digit ends there: its white space is not followed by anything.
    let piece_end = |length: usize| match first(&text[length..]) {
        Some((Class::Number, _)) if digits_alone => length,
        _ => white_space(text, length),
    };
    match text.strip_prefix(' ').and_then(first) {
        Some((Class::Number, _)) if digits_alone => 1,
        Some((next @ (Class::Letter | Class::Number | Class::Other), _)) => 1 + run(&text[1..], next),
        _ => piece_end(run(text, Class::Space)),
    }
}

fn llama3_piece(text: &str, digits_max: usize) -> usize {
    if let Some(length) = contraction(text, true) {
        return length;
    }
    let Some((class, character)) = first(text) else {
        return 0;
    };
    let after = &text[character.len_utf8()..];
    match class {
        Class::Letter => return run(text, Class::Letter),
        Class::Number => return numbers(text, digits_max),
        Class::Space | Class::Other => {}
    }
    // `[^\r\n\p{L}\p{N}]?\p{L}+` with its optional character there.
    if !matches!(character, '\r' | '\n') {
        let letters = run(after, Class::Letter);
        if letters > 0 {
            return character.len_utf8() + letters;
        }
    }
    // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
    let space = usize::from(character == ' ');
    let others = run(&text[space..], Class::Other);
    if others > 0 {
        let end = space + others;
        return end + text[end..].find(|character| !matches!(character, '\r' | '\n')).unwrap_or(text.len() - end);
    }
    // `\s*[\r\n]+`: up to the last line break of the run.
    let spaces = run(text, Class::Space);
    match text[..spaces].rfind(['\r', '\n']) {
        Some(line_break) => line_break + 1,
        None => white_space(text, spaces),
    }
}

/// The length of the first `numbers_max` characters of `text`, or of as many as are numbers.
fn numbers(text: &str, numbers_max: usize) -> usize {
    text.chars().take(numbers_max).take_while(|&character| class(character) == Class::Number).map(char::len_utf8).sum()
}
