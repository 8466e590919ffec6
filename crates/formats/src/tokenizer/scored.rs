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
    neighbours: Neighbours,
}

/// Which characters stand next to each other in any token. Where two others do in a text, nothing is merged, so what
/// lies between such places is merged by itself: from a text mostly words, since a space begins a token. Pairs share
/// bits, which makes a place too few at worst.
#[derive(Clone, Debug)]
struct Neighbours(Box<[u64]>);

impl Neighbours {
    const WORDS: usize = 1 << 14;

    fn of<'t>(texts: impl Iterator<Item = &'t str>) -> Self {
        let mut words = vec![0; Self::WORDS].into_boxed_slice();
        for text in texts {
            for (left, right) in text.chars().zip(text.chars().skip(1)) {
                let (word, bit) = Self::place(left, right);
                words[word] |= bit;
            }
        }
        Self(words)
    }

    fn may_be(&self, left: char, right: char) -> bool {
        let (word, bit) = Self::place(left, right);
        self.0[word] & bit != 0
    }

    /// Multiplied by an odd number near 2^64 / φ, the high bits depend on all others (Knuth, TAOCP 3, section 6.4).
    fn place(left: char, right: char) -> (usize, u64) {
        let hash = (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((hash >> 50) as usize, 1 << (hash >> 44 & 63))
    }
}

/// What merging needs room for, kept from word to word.
#[derive(Default)]
struct Room {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
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
        let texts = || (0..table.len() as u32).filter(|&id| table.is_plain(id)).filter_map(|id| table.text(id));
        Self {
            ranks: scores.iter().map(rank).collect(),
            text_bytes_max: texts().map(str::len).max().unwrap_or(0),
            neighbours: Neighbours::of(texts()),
        }
    }

    /// Merges the characters of `text`, which has fewer than 2^32 - 1 bytes, as far as they go, and calls `part` with
    /// what is left, in order; n log n in the length.
    pub(super) fn merge(&self, table: &TokenTable, text: &str, mut part: impl FnMut(&str)) {
        let mut room = Room::default();
        let mut start = 0;
        let mut characters = text.char_indices().peekable();
        while let Some((_, left)) = characters.next() {
            let end = characters.peek().map_or(text.len(), |&(end, _)| end);
            if characters.peek().is_none_or(|&(_, right)| !self.neighbours.may_be(left, right)) {
                self.merge_within(table, &text[start..end], &mut room, &mut part);
                start = end;
            }
        }
    }

    fn merge_within(&self, table: &TokenTable, text: &str, room: &mut Room, part: &mut impl FnMut(&str)) {
        let Room { symbols, queue } = room;
        symbols.clear();
        for (position, (start, character)) in (0u32..).zip(text.char_indices()) {
            let previous = position.wrapping_sub(1);
            let bytes = character.len_utf8() as u32;
            symbols.push(Symbol { start: start as u32, bytes, previous, next: position + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        // Filled at once where it is long, which is linear.
        let mut candidates = std::mem::take(queue).into_vec();
        candidates.extend((1..symbols.len() as u32).filter_map(|next| self.candidate(table, text, symbols, next - 1)));
        *queue = candidates.into();
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
                queue.extend(self.candidate(table, text, symbols, position));
            }
            if here.previous != NONE {
                queue.extend(self.candidate(table, text, symbols, here.previous));
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
