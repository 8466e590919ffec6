//! WordPiece, as BERT has it (Devlin et al. 2018, arXiv:1810.04805; `WordpieceTokenizer` in its `tokenization.py`): each
//! word is taken apart from its beginning, the longest token first; one that cannot be is unknown as a whole.

use super::prefixes::Prefixes;
use super::vocabulary::TokenTable;

#[derive(Clone, Debug)]
pub(super) struct WordPiece {
    beginnings: Prefixes,
    continuations: Prefixes,
    /// The most characters of a word; a longer one is unknown.
    characters_max: usize,
}

/// How a vocabulary tells the tokens that begin a word from those that go on with one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WordMark {
    /// Those that go on have this in front, in BERT `##`.
    Continuation(String),
    /// Those that begin have this in front: GGUF files write `▁`.
    Beginning(String),
}

impl WordPiece {
    pub(super) fn new(mark: &WordMark, characters_max: usize, table: &TokenTable) -> Self {
        let (WordMark::Continuation(text) | WordMark::Beginning(text)) = mark;
        let ids = (0..table.len() as u32).filter(|&id| table.is_plain(id));
        let is_marked = |&id: &u32| table.text(id).unwrap_or_default().starts_with(text.as_str());
        let (marked, plain): (Vec<u32>, Vec<u32>) = ids.partition(is_marked);
        let longer = |id: &u32, bytes: usize| table.text(*id).unwrap_or_default().len() > bytes;
        let marked = marked.into_iter().filter(|id| longer(id, text.len())).collect();
        let plain = plain.into_iter().filter(|id| longer(id, 0)).collect();
        let (marked, plain) = (Prefixes::new(marked, text.len(), table), Prefixes::new(plain, 0, table));
        let (beginnings, continuations) = match mark {
            WordMark::Continuation(_) => (plain, marked),
            WordMark::Beginning(_) => (marked, plain),
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
            let mut longest = None;
            tokens.each(table, &word.as_bytes()[start..], |bytes, id| longest = Some((bytes, id)));
            match longest {
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
