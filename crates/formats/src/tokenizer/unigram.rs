//! The unigram language model (Kudo 2018, arXiv:1804.10959): of all ways to write a text in tokens the one with the
//! highest sum of scores, which are log-probabilities.

use super::trie::Trie;
use super::vocabulary::TokenTable;

/// What a character that no token stands for costs more than the least likely token (SentencePiece, `kUnkPenalty`).
const UNKNOWN_PENALTY: f64 = 10.0;

#[derive(Clone, Debug)]
pub(super) struct Unigram {
    tokens: Trie,
    scores: Vec<f64>,
    unknown_score: f64,
}

/// The best way to write the text up to a place: its score, and the token that ends there with its length in bytes.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    bytes: u32,
    id: u32,
}

/// The id of a character that no token stands for.
const NONE: u32 = u32::MAX;

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
        let nowhere = Best { score: f64::NEG_INFINITY, bytes: 0, id: NONE };
        let mut best = vec![nowhere; text.len() + 1];
        best[0].score = 0.0;
        for (start, character) in text.char_indices() {
            let so_far = best[start].score;
            let one = character.len_utf8();
            let mut has_one = false;
            let mut reach = |bytes: usize, score: f64, id: u32| {
                let place = &mut best[start + bytes];
                // A place that nothing has reached is taken by whatever comes first.
                if place.bytes == 0 || so_far + score > place.score {
                    *place = Best { score: so_far + score, bytes: bytes as u32, id };
                }
            };
            self.tokens.each(
                |id| table.text_bytes(id),
                &text.as_bytes()[start..],
                |bytes, id| {
                    has_one |= bytes == one;
                    reach(bytes, self.scores[id as usize], id);
                },
            );
            if !has_one {
                reach(one, self.unknown_score, NONE);
            }
        }
        let mut ends = Vec::new();
        let mut end = text.len();
        while end > 0 {
            ends.push(end);
            end -= best[end].bytes as usize;
        }
        let mut start = 0;
        for end in ends.into_iter().rev() {
            part(&text[start..end], Some(best[end].id).filter(|&id| id != NONE));
            start = end;
        }
    }
}
