//! Which tokens a text begins with.

use super::vocabulary::TokenTable;

/// Tokens in the order of their texts, or of what their texts have after a mark that all of them begin with.
#[derive(Clone, Debug)]
pub(super) struct Prefixes {
    ids: Vec<u32>,
    mark_bytes: usize,
}

impl Prefixes {
    /// An index of the tokens `ids`, whose texts all have more than `mark_bytes` bytes; these are not looked at.
    pub(super) fn new(mut ids: Vec<u32>, mark_bytes: usize, table: &TokenTable) -> Self {
        ids.sort_unstable_by_key(|&id| table.text(id).unwrap_or_default().as_bytes().get(mark_bytes..));
        Self { ids, mark_bytes }
    }

    /// Calls `found` with the length in bytes and the id of each token that `text` begins with, shortest first.
    pub(super) fn each(&self, table: &TokenTable, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut candidates = self.ids.as_slice();
        let key = |id: u32| table.text(id).unwrap_or_default().as_bytes().get(self.mark_bytes..).unwrap_or_default();
        for (depth, &byte) in text.iter().enumerate() {
            let byte_at = |&id: &u32| key(id).get(depth).copied();
            // The one that ended at the byte before.
            if let Some((first, others)) = candidates.split_first()
                && byte_at(first).is_none()
            {
                candidates = others;
            }
            let are_all = |ids: &[u32]| [ids.first(), ids.last()].iter().flatten().all(|id| byte_at(id) == Some(byte));
            if !are_all(candidates) {
                let start = candidates.partition_point(|id| byte_at(id) < Some(byte));
                let end = start + candidates[start..].partition_point(|id| byte_at(id) == Some(byte));
                candidates = &candidates[start..end];
            }
            // Of a common prefix the token that ends here sorts first.
            let Some(&first) = candidates.first() else {
                return;
            };
            if key(first).len() == depth + 1 {
                found(depth + 1, first);
            }
        }
    }
}
