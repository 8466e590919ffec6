//! Which of many keys a text begins with.

/// The keys, kept elsewhere and known by number, as a tree: one node for every place where a key ends or two part.
/// Two nodes a key at most, so that a megabyte of keys takes no more than a megabyte of short ones does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trie {
    /// The root, then the children of each node next to each other, by their first byte.
    nodes: Vec<Node>,
    /// The first of the bytes that lead to each node.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// One of the keys that go through here; where one ends, that one.
    key: u32,
    first_child: u32,
    children: u16,
    /// How many bytes lead here from the parent. The top bit says that a key ends here.
    bytes: u16,
}

/// The longest key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 512;
const ENDS: u16 = 1 << 15;

impl Trie {
    /// A tree of `keys`, whose bytes `bytes_of` tells: at least one each, and no more than [`KEY_BYTES_MAX`]. Of equal
    /// ones the first counts.
    pub(crate) fn new<'k>(mut keys: Vec<u32>, bytes_of: impl Fn(u32) -> &'k [u8]) -> Self {
        keys.sort_by_key(|&key| bytes_of(key));
        keys.dedup_by(|later, first| bytes_of(*later) == bytes_of(*first));
        let mut trie =
            Self { nodes: Vec::with_capacity(2 * keys.len() + 1), bytes: Vec::with_capacity(2 * keys.len() + 1) };
        trie.nodes.push(Node { key: 0, first_child: 0, children: 0, bytes: 0 });
        trie.bytes.push(0);
        // Each node with the keys that begin as it does, but for the one that ends there, and with how far they do.
        let mut waiting = vec![(0, keys.as_slice(), 0)];
        while let Some((parent, mut keys, depth)) = waiting.pop() {
            let first_child = trie.nodes.len();
            while let Some((&key, _)) = keys.split_first() {
                let first = bytes_of(key);
                let same = keys.partition_point(|&key| bytes_of(key)[depth] == first[depth]);
                let (siblings, rest) = keys.split_at(same);
                // What the first and the last have in common those between have as well.
                let last = siblings.last().map_or(first, |&key| bytes_of(key));
                let end = (depth..first.len()).find(|&at| last.get(at) != Some(&first[at])).unwrap_or(first.len());
                let ends = end == first.len();
                // Both fit by the limits of keys.
                let bytes = (end - depth) as u16 | if ends { ENDS } else { 0 };
                waiting.push((trie.nodes.len(), &siblings[usize::from(ends)..], end));
                trie.nodes.push(Node { key, first_child: 0, children: 0, bytes });
                trie.bytes.push(first[depth]);
                keys = rest;
            }
            let children = (trie.nodes.len() - first_child) as u16;
            (trie.nodes[parent].first_child, trie.nodes[parent].children) = (first_child as u32, children);
        }
        trie.nodes.shrink_to_fit();
        trie.bytes.shrink_to_fit();
        trie
    }

    /// Whether `text` is the beginning of a key that goes on.
    pub(crate) fn goes_on<'k>(&self, bytes_of: impl Fn(u32) -> &'k [u8], text: &[u8]) -> bool {
        let mut node = self.nodes.first();
        let mut depth = 0;
        while let (Some(here), Some(byte)) = (node, text.get(depth)) {
            let first = here.first_child as usize;
            let children = &self.bytes[first..first + usize::from(here.children)];
            let Ok(child) = children.binary_search(byte) else { return false };
            let next = &self.nodes[first + child];
            let end = depth + usize::from(next.bytes & !ENDS);
            let common = end.min(text.len());
            if text[depth..common] != bytes_of(next.key)[depth..common] {
                return false;
            }
            if end > text.len() {
                return true;
            }
            (node, depth) = (Some(next), end);
        }
        node.is_some_and(|node| node.children > 0)
    }

    /// Calls `found` with the length and the number of each key that `text` begins with, shortest first. `bytes_of` tells
    /// the same as when the tree was made.
    pub(crate) fn each<'k>(&self, bytes_of: impl Fn(u32) -> &'k [u8], text: &[u8], mut found: impl FnMut(usize, u32)) {
        let Some(mut node) = self.nodes.first() else { return };
        let mut depth = 0;
        while let Some(&byte) = text.get(depth) {
            let first = node.first_child as usize;
            let children = &self.bytes[first..first + usize::from(node.children)];
            let Ok(child) = children.binary_search(&byte) else { return };
            node = &self.nodes[first + child];
            let end = depth + usize::from(node.bytes & !ENDS);
            if end > depth + 1 && text.get(depth..end) != bytes_of(node.key).get(depth..end) {
                return;
            }
            depth = end;
            if node.bytes & ENDS != 0 {
                found(depth, node.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_the_text_begins_with(
            keys in proptest::collection::vec("[ab\u{e9}]{1,6}", 0..40),
            text in "[ab\u{e9}]{0,8}",
        ) {
            let bytes_of = |key: u32| keys[key as usize].as_bytes();
            let mut found = Vec::new();
            Trie::new((0..keys.len() as u32).collect(), bytes_of).each(bytes_of, text.as_bytes(), |length, key| {
                found.push((length, key));
            });
            let first = |end: &usize| keys.iter().position(|key| key.as_bytes() == &text.as_bytes()[..*end]);
            let expected = (1..=text.len()).filter_map(|end| Some((end, first(&end)? as u32)));
            prop_assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }
}
