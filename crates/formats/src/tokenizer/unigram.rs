//! The unigram language model (Kudo 2018, arXiv:1804.10959): of all ways to write a text in tokens the one with the
//! highest sum of scores, which are log-probabilities.

use super::trie::{KEY_BYTES_MAX, Trie};
use super::vocabulary::TokenTable;

/// What a character that no token stands for costs more than the least likely token (SentencePiece, `kUnkPenalty`).
const UNKNOWN_PENALTY: f64 = 10.0;

#[derive(Clone, Debug)]
pub(super) struct Unigram {
    tokens: Trie,
    scores: Vec<f64>,
    unknown_score: f64,
}

/// How many scores are kept: those of the places that a token can reach back to, and more.
const SCORES_KEPT: usize = 2 * KEY_BYTES_MAX;

impl Unigram {
    /// `scores` are finite and as many as the tokens.
    pub(super) fn new(scores: Vec<f64>, table: &TokenTable) -> Self {
        let ids = (0..table.len() as u32).filter(|&id| table.is_plain(id));
        let ids: Vec<u32> = ids.filter(|&id| !table.text(id).unwrap_or_default().is_empty()).collect();
        // The library takes the least of all scores, those of special tokens with them.
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        Self { tokens: Trie::new(ids, |id| table.text_bytes(id)), unknown_score: least - UNKNOWN_PENALTY, scores }
    }

    /// Calls `part` with the tokens of `text` in order, each with its text; a character that no token stands for has no
    /// id.
    pub(super) fn encode(&self, table: &TokenTable, text: &str, mut part: impl FnMut(&str, Option<u32>)) {
        // Of the best way to write the text up to each place, the bytes of the token that ends there; none where no token
        // ends. They are all that is kept of a long text: the scores of places out of reach are written over.
        let mut bytes_to = vec![0u16; text.len() + 1];
        let mut scores = [0.0; SCORES_KEPT];
        for (start, character) in text.char_indices() {
            let so_far = scores[start % SCORES_KEPT];
            let one = character.len_utf8();
            let mut has_one = false;
            let mut reach = |bytes: usize, score: f64| {
                let end = start + bytes;
                let best = &mut scores[end % SCORES_KEPT];
                // A place that nothing has reached is taken by whatever comes first.
                if bytes_to[end] == 0 || so_far + score > *best {
                    // Tokens are no longer than keys of a trie.
                    (*best, bytes_to[end]) = (so_far + score, bytes as u16);
                }
            };
            self.tokens.each(
                |id| table.text_bytes(id),
                &text.as_bytes()[start..],
                |bytes, id| {
                    has_one |= bytes == one;
                    reach(bytes, self.scores[id as usize]);
                },
            );
            if !has_one {
                reach(one, self.unknown_score);
            }
        }
        // Turned around: from the end on, the bytes of each token are noted where it begins.
        let (mut end, mut bytes) = (text.len(), bytes_to[text.len()]);
        while end > 0 {
            end -= usize::from(bytes);
            bytes = std::mem::replace(&mut bytes_to[end], bytes);
        }
        let mut start = 0;
        while start < text.len() {
            let end = start + usize::from(bytes_to[start]);
            let token = &text[start..end];
            part(token, table.id_of(token).filter(|&id| table.is_plain(id)));
            start = end;
        }
    }
}
