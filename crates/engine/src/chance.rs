//! What tests leave to chance, from a seed: the same in every run.

use freehold_base::random;

/// Apart from the stream that tokens are drawn with.
const STREAM: u64 = 1;

pub(crate) struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A whole number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.drawn += 1;
        (random::uniform(self.seed, STREAM, self.drawn) * bound as f64) as usize
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
