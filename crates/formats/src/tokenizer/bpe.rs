//! Byte-pair merges over token ids (Sennrich et al. 2016, arXiv:1508.07909).

use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What a pair of neighbours becomes, and how early.
#[derive(Clone, Copy, Debug)]
struct Merge {
    left: u32,
    right: u32,
    merged: u32,
}

/// The merges in order of rank, and by pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Merges {
    ranked: Vec<Merge>,
    ranks: HashMap<(u32, u32), u32>,
}

impl Merges {
    pub(super) fn with_capacity(merges: usize) -> Self {
        Self { ranked: Vec::with_capacity(merges), ranks: HashMap::with_capacity(merges) }
    }

    /// Adds the merge of the next rank. Of a pair that is given twice the first counts.
    pub(super) fn push(&mut self, left: u32, right: u32, merged: u32) {
        // Fewer merges than 2^32: each is at least a byte of a file's string table, which is capped below that.
        let rank = self.ranked.len() as u32;
        self.ranks.entry((left, right)).or_insert(rank);
        self.ranked.push(Merge { left, right, merged });
    }
}

/// A token of the piece being merged, in a doubly linked list by position.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
}

/// No neighbour; also the id of a symbol that was merged away.
const NONE: u32 = u32::MAX;

/// The buffers of merging, kept from piece to piece.
#[derive(Default)]
pub(super) struct Merger {
    ids: Vec<u32>,
    symbols: Vec<Symbol>,
    /// Possible merges as rank and position in one number: the lowest rank first, and of equals the leftmost.
    queue: BinaryHeap<Reverse<u64>>,
}

impl Merger {
    /// Where to put the symbols to merge, fewer than 2^32 - 1; there are none yet.
    pub(super) fn symbols(&mut self) -> &mut Vec<u32> {
        self.ids.clear();
        &mut self.ids
    }

    /// Merges the symbols as far as they go and appends the result to `ids`; n log n in their number.
    pub(super) fn merge(&mut self, merges: &Merges, ids: &mut Vec<u32>) {
        self.symbols.clear();
        self.symbols.extend(self.ids.iter().zip(0u32..).map(|(&id, position)| Symbol {
            id,
            previous: position.wrapping_sub(1),
            next: position + 1,
        }));
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        queue.clear();
        for (position, pair) in (0u32..).zip(self.symbols.windows(2)) {
            queue.extend(candidate(merges, position, pair[0].id, pair[1].id));
        }
        self.queue = queue.into();
        while let Some(Reverse(entry)) = self.queue.pop() {
            let (rank, position) = ((entry >> 32) as usize, entry as u32);
            self.apply(merges, merges.ranked[rank], position);
        }
        ids.extend(self.symbols.iter().map(|symbol| symbol.id).filter(|&id| id != NONE));
    }

    /// Merges the symbol at `position` with the next, unless an earlier merge has changed either.
    fn apply(&mut self, merges: &Merges, merge: Merge, position: u32) {
        let here = self.symbols[position as usize];
        if here.id != merge.left || here.next == NONE {
            return;
        }
        let taken = self.symbols[here.next as usize];
        if taken.id != merge.right {
            return;
        }
        self.symbols[here.next as usize].id = NONE;
        self.symbols[position as usize] = Symbol { id: merge.merged, next: taken.next, ..here };
        if taken.next != NONE {
            let next = &mut self.symbols[taken.next as usize];
            next.previous = position;
            let right = next.id;
            self.queue.extend(candidate(merges, position, merge.merged, right));
        }
        if here.previous != NONE {
            let left = self.symbols[here.previous as usize].id;
            self.queue.extend(candidate(merges, here.previous, left, merge.merged));
        }
    }
}

fn candidate(merges: &Merges, position: u32, left: u32, right: u32) -> Option<Reverse<u64>> {
    let rank = *merges.ranks.get(&(left, right))?;
    Some(Reverse(u64::from(rank) << 32 | u64::from(position)))
}
