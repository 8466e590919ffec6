//! From token ids back to text, as they come.

use super::Tokenizer;
use std::sync::Arc;

/// Turns a stream of token ids into text that never splits a character.
///
/// The texts that [`Self::push`] and [`Self::finish`] return are, put together, what [`String::from_utf8_lossy`] makes
/// of the bytes of all tokens put together: bytes of an unfinished character are held back, and bytes that cannot be
/// part of any become U+FFFD. The space that encoding puts in front of a text, where it does, is left out.
#[derive(Clone, Debug)]
pub struct Decoder {
    tokenizer: Arc<Tokenizer>,
    show_special: bool,
    /// Whether a space that comes next is one that encoding puts in front.
    strips_space: bool,
    /// The beginning of a character, at most three bytes, between calls.
    unfinished: Vec<u8>,
}

impl Decoder {
    /// A decoder at the beginning of a text. With `show_special` special tokens appear as their text; without, not at
    /// all.
    pub fn new(tokenizer: Arc<Tokenizer>, show_special: bool) -> Self {
        let strips_space = tokenizer.strips_first_space;
        Self { tokenizer, show_special, strips_space, unfinished: Vec::new() }
    }

    /// The text that became certain with token `id`. An id outside the vocabulary adds nothing.
    pub fn push(&mut self, id: u32) -> String {
        if !self.show_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        if !bytes.is_empty() && std::mem::take(&mut self.strips_space) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.unfinished.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.unfinished.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.unfinished.len();
            if at_end && is_beginning_of_character(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            done += invalid.len();
        }
        self.unfinished.drain(..done);
        text
    }

    /// The text of what is held back: nothing, or one U+FFFD. The decoder is at the beginning of a text again.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.unfinished).into_owned();
        self.unfinished.clear();
        self.strips_space = self.tokenizer.strips_first_space;
        text
    }
}

/// Whether more bytes could complete `bytes` to one character.
fn is_beginning_of_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}
