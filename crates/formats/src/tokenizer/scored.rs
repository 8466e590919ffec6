//! Byte-pair merges by score, as SentencePiece's BPE makes them (Kudo & Richardson 2018, arXiv:1808.06226): of all
//! neighbours whose texts make a token together, those with the highest score are merged first.

use super::vocabulary::TokenTable;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The scores, as numbers whose order is that of the scores reversed.
#[derive(Clone, Debug)]
pub(super) struct Scored {
    ranks: Vec<u32>,
    /// The longest text of a token, in bytes: what is longer need not be looked up.
    text_bytes_max: usize,
}

/// A part of the text, in a doubly linked list by position; empty when it was merged away.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    bytes: u32,
    previous: u32,
    next: u32,
}

/// No neighbour.
const NONE: u32 = u32::MAX;

/// A possible merge: the highest score first, and of equals the leftmost; then the bytes of both parts, by which one
/// that has since been overtaken is known.
type Candidate = Reverse<(u32, u32, u32)>;

impl Scored {
    /// `scores` are finite and as many as the tokens.
    pub(super) fn new(scores: &[f64], table: &TokenTable) -> Self {
        let rank = |&score: &f64| {
            // Adding zero makes −0 and 0 one. The bits of numbers below zero fall as the numbers rise.
            let bits = (score as f32 + 0.0).to_bits();
            if bits >> 31 == 0 { !bits & (u32::MAX >> 1) } else { bits }
        };
        let lengths = (0..table.len() as u32).filter(|&id| table.is_plain(id)).filter_map(|id| table.text(id));
        Self { ranks: scores.iter().map(rank).collect(), text_bytes_max: lengths.map(str::len).max().unwrap_or(0) }
    }

    /// Merges the characters of `text`, which has fewer than 2^32 - 1 bytes, as far as they go, and calls `part` with
    /// what is left, in order; n log n in the length.
    pub(super) fn merge(&self, table: &TokenTable, text: &str, mut part: impl FnMut(&str)) {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (position, (start, character)) in (0u32..).zip(text.char_indices()) {
            let previous = position.wrapping_sub(1);
            let bytes = character.len_utf8() as u32;
            symbols.push(Symbol { start: start as u32, bytes, previous, next: position + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let mut queue: Vec<Candidate> = Vec::new();
        for position in 0..(symbols.len() as u32).saturating_sub(1) {
            queue.extend(self.candidate(table, text, &symbols, position));
        }
        let mut queue = BinaryHeap::from(queue);
        while let Some(Reverse((_, position, bytes))) = queue.pop() {
            let here = symbols[position as usize];
            if here.bytes == 0 || here.next == NONE {
                continue;
            }
            let taken = symbols[here.next as usize];
            if here.bytes + taken.bytes != bytes {
                continue;
            }
            symbols[here.next as usize].bytes = 0;
            symbols[position as usize] = Symbol { bytes, next: taken.next, ..here };
            if taken.next != NONE {
                symbols[taken.next as usize].previous = position;
                queue.extend(self.candidate(table, text, &symbols, position));
            }
            if here.previous != NONE {
                queue.extend(self.candidate(table, text, &symbols, here.previous));
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.bytes > 0) {
            part(&text[symbol.start as usize..(symbol.start + symbol.bytes) as usize]);
        }
    }

    /// The merge of the symbol at `position`, which has a next one, with that.
    fn candidate(&self, table: &TokenTable, text: &str, symbols: &[Symbol], position: u32) -> Option<Candidate> {
        let left = symbols[position as usize];
        let bytes = left.bytes + symbols[left.next as usize].bytes;
        if bytes as usize > self.text_bytes_max {
            return None;
        }
        let id = table.id_of(&text[left.start as usize..(left.start + bytes) as usize])?;
        table.is_plain(id).then(|| Reverse((self.ranks[id as usize], position, bytes)))
    }
}
