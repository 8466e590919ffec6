//! Drafts by prompt look-up (Saxena 2023, "Prompt Lookup Decoding"): where the last tokens have stood before in a sequence,
//! those that followed them then are likely to follow again. Text that is edited, quoted or summed up repeats itself so.

use std::collections::HashMap;

/// What followed the last tokens of one sequence where they stood before, and how far that has been right of late.
///
/// It holds two entries for each token of the sequence, which the context bounds, and takes constant time per token.
pub(crate) struct Lookup {
    /// Where the token after each three, and after each two, stood last.
    after_three: HashMap<[u32; 3], usize>,
    after_two: HashMap<[u32; 2], usize>,
    /// Tokens of the sequence that are in both.
    indexed: usize,
    /// What was proposed for the step under way.
    proposal: Vec<u32>,
    /// How many tokens are tried next: as many as came true in a row, and half as many after one that did not.
    length: usize,
}

impl Lookup {
    pub(crate) fn new() -> Self {
        let (after_three, after_two) = (HashMap::new(), HashMap::new());
        Self { after_three, after_two, indexed: 0, proposal: Vec::new(), length: 1 }
    }

    /// The tokens to try behind `tokens`, which begin as those of the last call: at most `most`, and none where the
    /// sequence does not repeat itself or where that was no good sign lately.
    pub(crate) fn propose(&mut self, tokens: &[u32], most: usize) -> &[u32] {
        for next in self.indexed..tokens.len() {
            if let Some(&last) = tokens[..next].last_chunk() {
                self.after_three.insert(last, next);
            }
            if let Some(&last) = tokens[..next].last_chunk() {
                self.after_two.insert(last, next);
            }
        }
        self.indexed = tokens.len();
        self.proposal.clear();
        let after_three = tokens.last_chunk().and_then(|last| self.after_three.get(last));
        let after = after_three.or_else(|| tokens.last_chunk().and_then(|last| self.after_two.get(last)));
        let Some(&from) = after else { return &[] };
        let tried = self.length.min(most);
        // One more than is tried: whether it comes true costs nothing to see, so that a sequence that begins to repeat
        // itself is tried again. Where the copy reaches its own beginning it goes on there, as runs do.
        for at in from..from + tried + 1 {
            let copied = tokens.get(at).unwrap_or_else(|| &self.proposal[at - tokens.len()]);
            self.proposal.push(*copied);
        }
        &self.proposal[..tried]
    }

    /// Takes note of what came instead: the tokens tried up to the first wrong one, and the one in its place or after them.
    /// More where others were tried.
    pub(crate) fn observe(&mut self, came: &[u32], longest: usize) {
        if self.proposal.is_empty() {
            return;
        }
        let seen = came.len().min(self.proposal.len());
        if self.proposal[..seen] == came[..seen] {
            self.length = (self.length + seen).min(longest);
        } else {
            self.length /= 2;
        }
        self.proposal.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_last_time_is_proposed() {
        let cases: [(&[u32], usize, &[u32]); 8] = [
            (&[], 3, &[]),
            (&[1], 3, &[]),
            (&[1, 2, 3, 4], 3, &[]),
            (&[1, 2, 3, 4, 9, 1, 2], 3, &[3, 4, 9]),
            (&[1, 2, 3, 4, 9, 1, 2], 1, &[3]),
            // Three tell more than two, and the last time more than the first.
            (&[0, 1, 2, 5, 7, 1, 2, 6, 0, 1, 2], 1, &[5]),
            (&[1, 2, 3, 1, 2, 4, 1, 2], 1, &[4]),
            // A run, and a longer period, go on beyond the end.
            (&[8, 5, 6, 5, 6, 5, 6], 5, &[5, 6, 5, 6, 5]),
        ];
        for (tokens, most, expected) in cases {
            let mut lookup = Lookup { length: 8, ..Lookup::new() };
            assert_eq!(lookup.propose(tokens, most), expected, "{tokens:?}");
            // Learnt one by one it is the same.
            let mut lookup = Lookup { length: 8, ..Lookup::new() };
            for end in 0..tokens.len() {
                lookup.propose(&tokens[..end], most);
            }
            assert_eq!(lookup.propose(tokens, most), expected, "{tokens:?} one by one");
        }
    }

    /// The lengths of the drafts while `text` comes, tried as a batch of one tries them.
    fn lengths(text: &[u32], longest: usize) -> Vec<usize> {
        let (mut lookup, mut known, mut lengths) = (Lookup::new(), 1, Vec::new());
        while known < text.len() {
            let tried = lookup.propose(&text[..known], longest).to_vec();
            let right = tried.iter().zip(&text[known..]).take_while(|(tried, came)| tried == came).count();
            let came = &text[known..text.len().min(known + right + 1)];
            lookup.observe(came, longest);
            known += came.len();
            lengths.push(tried.len());
        }
        lengths
    }

    #[test]
    fn drafts_grow_while_they_are_right_and_vanish_where_they_are_wrong() {
        let repeated: Vec<u32> = (0..40).chain(0..40).collect();
        // Two tokens to know the place by, and then 1, 1 + 2, 3 + 4 and the most.
        assert_eq!(lengths(&repeated, 8)[41..], [1, 3, 7, 8, 8, 8]);
        assert_eq!(lengths(&repeated, 0)[41..], [0; 38]);
        // Each pair has stood before, and never followed by the same again.
        let misleading: Vec<u32> = (10..40).chain((0..200).flat_map(|n| [10, 11, 100 + n])).collect();
        assert_eq!(lengths(&misleading, 8).iter().sum::<usize>(), 1);
    }
}
