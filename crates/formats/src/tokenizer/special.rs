//! Finding tokens that are written out in the text, such as `<|im_end|>`, before anything is cut or merged.

use super::SPACE_MARK;
use super::trie::Trie;
use crate::error::{Error, Result, shown};
use std::ops::Range;

/// The longest text of such a token, in bytes. Published ones have below 50; the limit bounds the time per position.
const TEXT_BYTES_MAX: usize = 256;

/// The most such tokens. The largest published vocabularies have about 7,000.
pub(super) const ADDED_MAX: usize = 1 << 16;

/// A token that is looked for in the text as it stands, and how (the fields of `added_tokens` in `tokenizer.json`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Whether it means something to the model beyond its text, and is left alone under [`super::SpecialTokens::AsText`].
    pub special: bool,
    /// Whether it takes white space before it in.
    pub strip_left: bool,
    /// Whether it takes white space after it in.
    pub strip_right: bool,
    /// Whether it only counts where no word character is next to it.
    pub single_word: bool,
    /// Whether it is looked for, normalised itself, in the normalised text, after the others were found.
    pub normalised: bool,
}

/// Where special tokens are looked for.
#[derive(Clone, Copy)]
pub(super) enum Places<'p> {
    /// Everywhere.
    All,
    /// Nowhere. Added tokens that are not special are found all the same.
    None,
    /// Inside of these ranges of bytes, which are ascending and apart; so are other added tokens, but for those that only
    /// are text.
    Within(&'p [Range<usize>]),
}

/// One found token: the bytes it takes and its id.
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
}

/// The added tokens, by the texts that are looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher {
    /// Each with the text that is looked for.
    tokens: Vec<(String, AddedToken)>,
    /// By their places in that list.
    texts: Trie,
    /// For each first byte, whether a token begins with it.
    begins: Vec<bool>,
}

impl Matcher {
    /// `needles`: tokens, each with the text that is looked for. They are checked as they come, for they may not be
    /// worth having all.
    pub(super) fn new(needles: impl Iterator<Item = Result<(String, AddedToken)>>) -> Result<Self> {
        let mut tokens = Vec::new();
        let mut begins = vec![false; 256];
        for needle in needles {
            let (text, token) = needle?;
            if tokens.len() == ADDED_MAX {
                return Err(too_many());
            }
            if text.len() > TEXT_BYTES_MAX {
                return Err(Error::Tokenizer {
                    field: format!("added token {} (`{}`)", token.id, shown(&token.text)),
                    problem: format!("its text has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len()),
                    remedy: super::REMEDY,
                });
            }
            if let Some(&first) = text.as_bytes().first() {
                begins[usize::from(first)] = true;
                tokens.push((text, token));
            }
        }
        let texts = Trie::new((0..tokens.len() as u32).collect(), |place| tokens[place as usize].0.as_bytes());
        Ok(Self { tokens, texts, begins })
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter().map(|(_, token)| token)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens in `text`, in order: each time leftmost, then longest.
    pub(super) fn find_all<'t>(&'t self, text: &'t str, places: Places<'t>) -> impl Iterator<Item = Found> + 't {
        let bytes = text.as_bytes();
        let mut places = places;
        let (mut from, mut position) = (0, 0);
        std::iter::from_fn(move || {
            loop {
                position += bytes[position..].iter().position(|&byte| self.begins[usize::from(byte)])?;
                while let Places::Within([first, rest @ ..]) = places
                    && first.end <= position
                {
                    places = Places::Within(rest);
                }
                if let Some((length, token)) = self.longest_at(text, position, places) {
                    let found = stripped(text, from, position..position + length, token);
                    (from, position) = (found.end, found.end);
                    return Some(found);
                }
                position += 1;
            }
        })
    }

    /// The longest token that the text has at `position`, with its length there.
    fn longest_at(&self, text: &str, position: usize, places: Places<'_>) -> Option<(usize, &AddedToken)> {
        let mut longest = None;
        let bytes_of = |place: u32| self.tokens[place as usize].0.as_bytes();
        self.texts.each(bytes_of, &text.as_bytes()[position..], |length, place| {
            let token = &self.tokens[place as usize].1;
            if counts(text, position..position + length, token, places) {
                longest = Some((length, token));
            }
        });
        longest
    }
}

/// Whether `token`, which the text has at `place`, may stand there.
fn counts(text: &str, place: Range<usize>, token: &AddedToken, places: Places<'_>) -> bool {
    let is_looked_for = match places {
        Places::All => true,
        Places::None => !token.special,
        Places::Within(ranges) => {
            // Normalisation may have put the mark of a space before the text of the token.
            let space = place.len() - text[place.clone()].trim_start_matches([' ', SPACE_MARK]).len();
            let within = |range: &Range<usize>| range.start <= place.start + space && place.end <= range.end;
            is_only_text(token) || ranges.first().is_some_and(within)
        }
    };
    if !is_looked_for {
        return false;
    }
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    !token.single_word || !(text[..place.start].ends_with(is_word) || text[place.end..].starts_with(is_word))
}

/// Whether `token` is white space; or has no meaning beyond its text, being a character or a word.
pub(super) fn is_only_text(token: &AddedToken) -> bool {
    let is_word = |text: &str| text.chars().all(|character| character.is_alphanumeric() || character == '_');
    let is_plain = || token.text.chars().nth(1).is_none() || is_word(&token.text);
    token.text.trim().is_empty() || !token.special && is_plain()
}

/// There are more than [`ADDED_MAX`] tokens.
pub(super) fn too_many() -> Error {
    Error::Tokenizer {
        field: "added tokens".into(),
        problem: format!("there are more than {ADDED_MAX}"),
        remedy: super::REMEDY,
    }
}

/// The bytes that `token` at `place` takes, with the white space that it swallows.
fn stripped(text: &str, from: usize, place: Range<usize>, token: &AddedToken) -> Found {
    let (mut start, mut end) = (place.start, place.end);
    if token.strip_left {
        start = from + text[from..start].trim_end().len();
    }
    if token.strip_right {
        end = text.len() - text[end..].trim_start().len();
    }
    Found { start, end, id: token.id }
}
