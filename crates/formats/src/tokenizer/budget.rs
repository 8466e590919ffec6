//! What the steps of a tokenizer may do with one text.
//!
//! A step may put something in front of every piece, and the next may cut that into pieces again: files can ask for any
//! amount of text from a word. Steps are therefore paid for together, from what a text of that length may cost.

use crate::error::{Error, Result};
use std::cell::Cell;

/// How many times its own length a text may be written anew. Published tokenizers do so at most three times, and each
/// time it grows threefold at most.
const BYTES_PER_BYTE_MAX: usize = 64;
/// What may be written besides, in bytes, however short the text is.
const BYTES_BASE: usize = 64 << 10;
/// How often automata may throw their states away, and once more per so many bytes of a long text. Published expressions
/// never do, on all of Unicode; building 4 MB of states takes a hostile one about a tenth of a second.
const CLEARS_BASE: usize = 4;
const CLEARS_BYTES: usize = 1 << 20;

/// What is left for one text.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: Cell<usize>,
    clears: Cell<usize>,
}

impl Budget {
    /// The budget of a text of `text_bytes` bytes, with all of its parts.
    pub(super) fn new(text_bytes: usize) -> Self {
        Self {
            bytes: Cell::new(text_bytes.saturating_mul(BYTES_PER_BYTE_MAX).saturating_add(BYTES_BASE)),
            clears: Cell::new(CLEARS_BASE + text_bytes / CLEARS_BYTES),
        }
    }

    /// Pays for `bytes` bytes that a step writes.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where they are not left.
    pub(super) fn write(&self, bytes: usize) -> Result<()> {
        let left = self.bytes.get().checked_sub(bytes).ok_or_else(|| Error::Tokenizer {
            field: "the normaliser or the pre-tokenizer".into(),
            problem: format!("it makes more than {BYTES_PER_BYTE_MAX} times as much of this text"),
            remedy: "The tokenizer is hostile or damaged: use another model",
        })?;
        self.bytes.set(left);
        Ok(())
    }

    /// How often an automaton may still throw its states away.
    pub(super) fn clears(&self) -> usize {
        self.clears.get()
    }

    /// Pays for `clears` times.
    pub(super) fn clear(&self, clears: usize) {
        self.clears.set(self.clears.get().saturating_sub(clears));
    }
}
