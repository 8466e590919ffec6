//! WordPiece, as BERT has it (Devlin et al. 2018, arXiv:1810.04805; `WordpieceTokenizer` in its `tokenization.py`): each
//! word is taken apart from its beginning, the longest token first; one that cannot be is unknown as a whole.

use super::trie::Trie;
use super::vocabulary::TokenTable;

#[derive(Clone, Debug)]
pub(super) struct WordPiece {
    beginnings: Words,
    continuations: Words,
    /// The most characters of a word; a longer one is unknown.
    characters_max: usize,
}

/// Tokens, and how many bytes of their texts are only the mark that all of them begin with.
#[derive(Clone, Debug)]
struct Words {
    tokens: Trie,
    mark_bytes: usize,
}

impl Words {
    /// Those of the tokens `ids` that are more than the mark.
    fn new(mut ids: Vec<u32>, mark_bytes: usize, table: &TokenTable) -> Self {
        ids.retain(|&id| table.text_bytes(id).len() > mark_bytes);
        Self { tokens: Trie::new(ids, |id| &table.text_bytes(id)[mark_bytes..]), mark_bytes }
    }

    /// The longest token that `text` begins with, and how long it is without the mark.
    fn longest(&self, table: &TokenTable, text: &str) -> Option<(usize, u32)> {
        let mut longest = None;
        let bytes_of = |id| &table.text_bytes(id)[self.mark_bytes..];
        self.tokens.each(bytes_of, text.as_bytes(), |bytes, id| longest = Some((bytes, id)));
        longest
    }
}

/// How a vocabulary tells the tokens that begin a word from those that go on with one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WordMark {
    /// Those that go on have this in front, in BERT `##`.
    Continuation(String),
    /// Those that begin have this in front: GGUF files write `▁`.
    Beginning(String),
    /// Not at all: each is a word.
    None,
}

impl WordPiece {
    pub(super) fn new(mark: &WordMark, characters_max: usize, table: &TokenTable) -> Self {
        let text = match mark {
            WordMark::Continuation(text) | WordMark::Beginning(text) => text,
            WordMark::None => "",
        };
        let ids = (0..table.len() as u32).filter(|&id| table.is_plain(id));
        let is_marked = |&id: &u32| table.text(id).unwrap_or_default().starts_with(text);
        let (marked, plain): (Vec<u32>, Vec<u32>) = ids.partition(is_marked);
        let (marked, plain) = (Words::new(marked, text.len(), table), Words::new(plain, 0, table));
        let (beginnings, continuations) = match mark {
            WordMark::Continuation(_) => (plain, marked),
            WordMark::Beginning(_) | WordMark::None => (marked, plain),
        };
        Self { beginnings, continuations, characters_max }
    }

    /// Appends the tokens of `word` to `ids`, or `unknown` where it cannot be taken apart.
    pub(super) fn encode(&self, table: &TokenTable, word: &str, unknown: Option<u32>, ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut start = 0;
        // Characters are counted only as far as the limit: a word may be a megabyte.
        let mut is_known = word.chars().nth(self.characters_max).is_none();
        while is_known && start < word.len() {
            let tokens = if start == 0 { &self.beginnings } else { &self.continuations };
            match tokens.longest(table, &word[start..]) {
                Some((bytes, id)) => {
                    ids.push(id);
                    start += bytes;
                }
                None => is_known = false,
            }
        }
        if !is_known {
            ids.truncate(before);
            ids.extend(unknown);
        }
    }
}
