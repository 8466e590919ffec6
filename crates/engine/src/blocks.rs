//! The blocks of the KV cache: who has which, and which of them hold the keys and values of which tokens, so that sequences
//! that begin alike share what is computed of their beginning.
//!
//! Where a drafter runs beside the model, a block is the same positions in both caches. What counts is the model's part; the
//! drafter's follows when it drafts.
//!
//! Only full blocks are shared, and nobody writes to a full block. Those that no sequence has are kept until their place is
//! needed, the longest unused going first.

use freehold_base::Digest;
use freehold_kernels::KV_BLOCK;
use std::collections::{BTreeMap, HashMap};

/// What keys and values depend on: the tokens themselves and all before them. Not a digest of them, so that no two contents
/// are ever taken for one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Content {
    before: Before,
    tokens: [u32; KV_BLOCK],
}

/// What stands before the tokens of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Before {
    /// Nothing: they begin the sequences with this salt.
    Nothing(Option<Digest>),
    /// What this block holds, and what stands before it. It stays as long as a block that stands behind it.
    Block(u32),
}

/// The blocks of one cache.
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    /// Those that hold nothing that could be used again.
    empty: Vec<u32>,
    /// Those that are shared, or would be.
    index: HashMap<Content, u32>,
    /// Those of them that no sequence has, by when the last one let them go.
    unused: BTreeMap<u64, u32>,
    /// Blocks that were let go so far: the time, for `unused`.
    let_go: u64,
    /// Blocks that sequences will still take.
    promised: usize,
}

#[derive(Clone, Default)]
struct Block {
    /// Sequences that have it.
    users: usize,
    /// When it came into `unused`, where it is there.
    unused_since: u64,
    /// Where it stands in the index, where it does.
    content: Option<Content>,
    /// Of how many of its positions, from the first on, the drafter's keys and values are there too.
    drafter_cached: usize,
}

/// The blocks of one sequence: block i holds positions 64·i to 64·i + 63. It goes back to its pool by [`BlockPool::close`].
pub(crate) struct BlockTable {
    blocks: Vec<u32>,
    /// How many of them, from the first on, are in the index.
    indexed: usize,
    /// How many more it may take.
    promised: usize,
    salt: Option<Digest>,
}

impl BlockTable {
    /// Block numbers, in the order of positions.
    pub(crate) fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}

impl BlockPool {
    /// A pool of `count` blocks, none of which holds anything.
    pub(crate) fn new(count: u32) -> Self {
        Self {
            blocks: vec![Block::default(); count as usize],
            empty: (0..count).rev().collect(),
            index: HashMap::new(),
            unused: BTreeMap::new(),
            let_go: 0,
            promised: 0,
        }
    }

    /// How many blocks there are.
    pub(crate) fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Whether there are blocks for a sequence of `length` tokens beside those under way.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.promised + length.div_ceil(KV_BLOCK) <= self.empty.len() + self.unused.len()
    }

    /// A table for a sequence of at most `length` tokens, for which there is room. It shares blocks with others of its salt.
    pub(crate) fn open(&mut self, length: usize, salt: Option<Digest>) -> BlockTable {
        assert!(self.has_room(length), "too few blocks for a sequence");
        let promised = length.div_ceil(KV_BLOCK);
        self.promised += promised;
        BlockTable { blocks: Vec::new(), indexed: 0, promised, salt }
    }

    /// Gives the sequence the blocks that are there for its next `tokens` (all that are known, from position 0 on), whoever
    /// computed them, and lets others have those that it has filled: keys and values of its first `cached` tokens are
    /// there. Returns of how many they are now.
    pub(crate) fn share(&mut self, table: &mut BlockTable, tokens: &[u32], cached: usize) -> usize {
        while let Some(&tokens) = tokens[table.indexed * KV_BLOCK..].first_chunk() {
            let before = match table.indexed.checked_sub(1) {
                None => Before::Nothing(table.salt),
                Some(last) => Before::Block(table.blocks[last]),
            };
            let content = Content { before, tokens };
            if let Some(&block) = self.index.get(&content) {
                self.take(block);
                match table.blocks.get_mut(table.indexed) {
                    // What it computed itself is the same, or would have become so.
                    Some(own) => self.give(std::mem::replace(own, block)),
                    None => self.put(table, block),
                }
            } else if cached >= (table.indexed + 1) * KV_BLOCK {
                let block = table.blocks[table.indexed];
                self.index.insert(content, block);
                self.blocks[block as usize].content = Some(content);
            } else {
                break;
            }
            table.indexed += 1;
        }
        cached.max(table.indexed * KV_BLOCK)
    }

    /// Of how many positions of the sequence, from 0 on, the drafter's keys and values are there, whoever had them computed.
    pub(crate) fn drafter_cached(&self, table: &BlockTable) -> usize {
        let mut cached = 0;
        for &block in &table.blocks {
            let of_block = self.blocks[block as usize].drafter_cached;
            cached += of_block;
            if of_block < KV_BLOCK {
                break;
            }
        }
        cached
    }

    /// Notes that the drafter's keys and values of the sequence's first `cached` positions are there. A full block's may be
    /// computed by each of its sequences: they are the same.
    pub(crate) fn note_drafter_cached(&mut self, table: &BlockTable, cached: usize) {
        for (start, &block) in (0..cached).step_by(KV_BLOCK).zip(&table.blocks) {
            let of_block = &mut self.blocks[block as usize].drafter_cached;
            *of_block = (*of_block).max((cached - start).min(KV_BLOCK));
        }
    }

    /// Makes the table long enough for `positions`, at most the length it was opened for.
    pub(crate) fn grow(&mut self, table: &mut BlockTable, positions: usize) {
        while table.blocks.len() * KV_BLOCK < positions {
            let block = self.empty.pop().unwrap_or_else(|| {
                let (_, block) = self.unused.pop_first().expect("a block that was promised");
                let content = &self.blocks[block as usize].content;
                self.index.remove(content.as_ref().expect("what is unused is in the index"));
                block
            });
            self.blocks[block as usize] = Block { users: 1, ..Block::default() };
            self.put(table, block);
        }
    }

    /// Takes the blocks of a sequence back.
    pub(crate) fn close(&mut self, table: BlockTable) {
        self.promised -= table.promised;
        // From the last one on, so that no block's place is taken before those that stand behind it.
        for block in table.blocks.into_iter().rev() {
            self.give(block);
        }
    }

    /// One more sequence has a block of the index.
    fn take(&mut self, block: u32) {
        let Block { users, unused_since, .. } = &mut self.blocks[block as usize];
        if *users == 0 {
            self.unused.remove(unused_since);
        }
        *users += 1;
    }

    /// One sequence less has a block.
    fn give(&mut self, block: u32) {
        let Block { users, unused_since, content, .. } = &mut self.blocks[block as usize];
        *users -= 1;
        if *users > 0 {
            return;
        }
        if content.is_some() {
            self.let_go += 1;
            *unused_since = self.let_go;
            self.unused.insert(self.let_go, block);
        } else {
            self.empty.push(block);
        }
    }

    /// Puts a block that the sequence has from now on at the end of its table.
    fn put(&mut self, table: &mut BlockTable, block: u32) {
        table.blocks.push(block);
        table.promised -= 1;
        self.promised -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    const COUNT: u32 = 8;

    /// A sequence as the engine goes about it, and what must be in its blocks.
    struct Sequence {
        tokens: Vec<u32>,
        cached: usize,
        table: BlockTable,
    }

    fn open(pool: &mut BlockPool, tokens: &[u32], salt: Option<Digest>) -> Sequence {
        Sequence { tokens: tokens.to_vec(), cached: 0, table: pool.open(tokens.len(), salt) }
    }

    impl Sequence {
        /// Computes up to `count` tokens; of how many the keys and values were there.
        fn compute(&mut self, pool: &mut BlockPool, count: usize) -> usize {
            let shared = pool.share(&mut self.table, &self.tokens[..self.tokens.len() - 1], self.cached);
            let reused = shared - self.cached;
            self.cached = (shared + count).min(self.tokens.len());
            pool.grow(&mut self.table, self.cached);
            reused
        }

        /// What keys and values of a position depend on, where tokens are zeros and then ones.
        fn up_to(&self, position: usize) -> (Option<Digest>, usize, usize) {
            let ones = self.tokens[..=position].iter().filter(|&&token| token == 1).count();
            (self.table.salt, position, ones)
        }

        fn close(mut self, pool: &mut BlockPool) {
            pool.share(&mut self.table, &self.tokens[..self.cached], self.cached);
            pool.close(self.table);
        }
    }

    /// Computes a sequence as a whole, and of how many tokens it need not.
    fn run(pool: &mut BlockPool, tokens: &[u32], salt: Option<Digest>) -> usize {
        let mut sequence = open(pool, tokens, salt);
        let reused = sequence.compute(pool, tokens.len());
        sequence.close(pool);
        reused
    }

    #[test]
    fn what_is_shared_is_the_common_beginning_in_whole_blocks() {
        let text: Vec<u32> = (0..200).collect();
        let changed = |at: usize| text.iter().enumerate().map(|(i, &id)| if i == at { 999 } else { id }).collect();
        let salt = |of: &[u8]| Some(Digest::of(of));
        let cases: [(Vec<u32>, Option<Digest>, usize); 9] = [
            (text.clone(), None, 192),
            (text[..192].to_vec(), None, 128),
            (text[..193].to_vec(), None, 192),
            (text[..64].to_vec(), None, 0),
            (changed(0), None, 0),
            (changed(64), None, 64),
            (changed(127), None, 64),
            // The same tokens in another place are something else.
            (text[64..].to_vec(), None, 0),
            (text.clone(), salt(b"another"), 0),
        ];
        for (tokens, of, expected) in cases {
            for own in [None, salt(b"own")] {
                let mut pool = BlockPool::new(COUNT);
                run(&mut pool, &text, own);
                let of = if of.is_some() { of } else { own };
                assert_eq!(run(&mut pool, &tokens, of), expected, "{} tokens from {}", tokens.len(), tokens[0]);
            }
        }
    }

    #[test]
    fn what_was_longest_unused_goes_first_and_ends_before_beginnings() {
        let mut pool = BlockPool::new(5);
        let text = |first: u32, length: u32| (first..first + length).collect::<Vec<u32>>();
        run(&mut pool, &text(0, 128), None);
        run(&mut pool, &text(1000, 128), None);
        run(&mut pool, &text(0, 65), None);
        // One block was empty, and another was the end of the first text, which was not used again.
        run(&mut pool, &text(2000, 128), None);
        let mut found = |tokens: &[u32]| {
            let mut table = pool.open(tokens.len(), None);
            let found = pool.share(&mut table, tokens, 0);
            pool.close(table);
            found
        };
        assert_eq!([0, 1000, 2000].map(|first| found(&text(first, 128))), [64, 128, 128]);
    }

    #[test]
    fn sequences_that_run_together_come_to_share() {
        let mut pool = BlockPool::new(COUNT);
        let text: Vec<u32> = (0..200).collect();
        let [mut first, mut second] = [(); 2].map(|()| open(&mut pool, &text, None));
        assert_eq!([first.compute(&mut pool, 150), second.compute(&mut pool, 30)], [0, 0]);
        // In the middle of its own block, which goes back.
        assert_eq!([first.compute(&mut pool, 1), second.compute(&mut pool, 1)], [0, 98]);
        assert_eq!(first.table.blocks()[..2], second.table.blocks()[..2]);
        first.close(&mut pool);
        second.close(&mut pool);
        assert!(pool.has_room(COUNT as usize * KV_BLOCK));
    }

    #[test]
    fn no_schedule_loses_a_block_or_takes_one_for_another() {
        let (mut opened, mut reused) = (0, 0);
        for seed in 0..100 {
            let mut chance = Chance::new(seed);
            let mut pool = BlockPool::new(COUNT);
            // What each block holds, written as the cache would be.
            let mut memory = vec![[None; KV_BLOCK]; COUNT as usize];
            let mut sequences: Vec<Sequence> = Vec::new();
            for _ in 0..100 {
                let salt = chance.one_of(&[None, Some(Digest::of(b"a salt"))]);
                let length = 1 + chance.below(250);
                if chance.below(3) == 0 && pool.has_room(length) {
                    // Zeros, then ones.
                    let zeros = chance.below(length + 1);
                    let tokens: Vec<u32> = (0..length).map(|position| u32::from(position >= zeros)).collect();
                    sequences.push(open(&mut pool, &tokens, salt));
                    opened += 1;
                }
                if sequences.is_empty() {
                    continue;
                }
                let at = chance.below(sequences.len());
                let sequence = &mut sequences[at];
                let before = sequence.cached;
                let found = sequence.compute(&mut pool, 1 + chance.below(100));
                reused += found;
                for position in before + found..sequence.cached {
                    let block = sequence.table.blocks()[position / KV_BLOCK] as usize;
                    memory[block][position % KV_BLOCK] = Some(sequence.up_to(position));
                }
                for sequence in &sequences {
                    for position in 0..sequence.cached {
                        let block = sequence.table.blocks()[position / KV_BLOCK] as usize;
                        assert_eq!(memory[block][position % KV_BLOCK], Some(sequence.up_to(position)), "seed {seed}");
                    }
                }
                if chance.below(4) == 0 || sequences[at].cached == sequences[at].tokens.len() {
                    sequences.remove(at).close(&mut pool);
                }
            }
            for sequence in sequences {
                sequence.close(&mut pool);
            }
            assert_eq!(pool.promised, 0, "seed {seed}");
            let mut all: Vec<u32> = pool.empty.iter().chain(pool.unused.values()).copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..COUNT).collect::<Vec<_>>(), "seed {seed}: a block is lost, or there twice");
        }
        assert!(opened > 500 && reused > 50 * KV_BLOCK, "{opened} sequences, {reused} tokens taken over");
    }
}
