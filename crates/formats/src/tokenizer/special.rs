//! Finding tokens that are written out in the text, such as `<|im_end|>`, before anything is cut or merged.

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

/// One found token: the bytes it takes and its id.
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
}

/// The added tokens in byte order, so that a search narrows a range byte by byte.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher {
    /// Each with the text that is looked for.
    tokens: Vec<(String, AddedToken)>,
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
        tokens.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(Self { tokens, begins })
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter().map(|(_, token)| token)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens in `text`, in order: each time leftmost, then longest. `breaks`, ascending, are offsets that no token
    /// may cover; with `specials` false special tokens are not looked for at all.
    pub(super) fn find_all<'t>(
        &'t self,
        text: &'t str,
        breaks: &'t [usize],
        specials: bool,
    ) -> impl Iterator<Item = Found> + 't {
        let bytes = text.as_bytes();
        let mut breaks = breaks.iter().copied().peekable();
        let (mut from, mut position) = (0, 0);
        std::iter::from_fn(move || {
            loop {
                position += bytes[position..].iter().position(|&byte| self.begins[usize::from(byte)])?;
                while breaks.next_if(|&offset| offset <= position).is_some() {}
                let limit = breaks.peek().copied().unwrap_or(bytes.len());
                if let Some((length, token)) = self.longest_at(text, position, limit, specials) {
                    let found = stripped(text, from, position..position + length, token);
                    (from, position) = (found.end, found.end);
                    return Some(found);
                }
                position += 1;
            }
        })
    }

    /// The longest token that the text has at `position` and that ends at or before `limit`, with its length there.
    fn longest_at(&self, text: &str, position: usize, limit: usize, specials: bool) -> Option<(usize, &AddedToken)> {
        let rest = &text.as_bytes()[position..limit];
        let mut candidates = self.tokens.as_slice();
        let mut longest = None;
        for (depth, &byte) in rest.iter().enumerate() {
            let byte_at = |(text, _): &(String, AddedToken)| text.as_bytes().get(depth).copied();
            let start = candidates.partition_point(|token| byte_at(token) < Some(byte));
            let end = candidates.partition_point(|token| byte_at(token) <= Some(byte));
            candidates = &candidates[start..end];
            // Of a common prefix the token that ends here sorts first.
            let Some((needle, token)) = candidates.first() else {
                break;
            };
            if needle.len() == depth + 1 && counts(text, position..position + depth + 1, token, specials) {
                longest = Some((depth + 1, token));
            }
        }
        longest
    }
}

/// Whether `token`, which the text has at `place`, may stand there.
fn counts(text: &str, place: Range<usize>, token: &AddedToken, specials: bool) -> bool {
    if token.special && !specials {
        return false;
    }
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    !token.single_word || !(text[..place.start].ends_with(is_word) || text[place.end..].starts_with(is_word))
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
