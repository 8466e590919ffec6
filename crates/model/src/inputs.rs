//! What goes into the matrices of a model's layers, summed up while it runs: how much each of their columns counts.

use crate::blocks::Linear;
use freehold_formats::Importance;
use freehold_kernels::Compute;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which of a model's matrices one is.
pub(crate) struct Origin {
    /// The tensor, as GGUF calls it.
    pub(crate) tensor: Arc<str>,
    /// Its number among the matrices of the tensor, and how many these are: experts.
    pub(crate) expert: usize,
    pub(crate) experts: usize,
}

/// Sums of squares of the inputs of matrices.
///
/// Each is one chain over the tokens, in f64; so it depends neither on threads nor on the chunks in which a sequence is fed.
#[derive(Default)]
pub(crate) struct InputSquares {
    tensors: BTreeMap<Arc<str>, Sums>,
}

struct Sums {
    /// For each matrix and column.
    squares: Vec<f64>,
    /// Inputs of each matrix.
    counts: Vec<u64>,
}

impl InputSquares {
    /// x: (M, K), which goes into all of `linears`.
    pub(crate) fn add(&mut self, compute: &Compute, x: &[f32], linears: &[&Linear]) {
        for (index, Linear { origin, matrix, .. }) in linears.iter().enumerate() {
            // Only those of layers, as llama.cpp: the output head gets many bits in any case.
            let is_first_part = linears[..index].iter().all(|other| !Arc::ptr_eq(&other.origin.tensor, &origin.tensor));
            if !is_first_part || !origin.tensor.starts_with("blk.") {
                continue;
            }
            let cols = matrix.cols();
            let sums = self
                .tensors
                .entry(Arc::clone(&origin.tensor))
                .or_insert_with(|| Sums { squares: vec![0.0; cols * origin.experts], counts: vec![0; origin.experts] });
            compute.add_squares(x, &mut sums.squares[origin.expert * cols..][..cols]);
            sums.counts[origin.expert] += (x.len() / cols) as u64;
        }
    }

    /// The sums of each tensor.
    ///
    /// # Errors
    /// What is wrong where the model's numbers overflowed.
    pub(crate) fn finish(self) -> Result<BTreeMap<String, Importance>, &'static str> {
        let importance = |sums: Sums| {
            let counts = sums.counts.iter().map(|&count| count as f32).collect();
            Importance::new(sums.squares.iter().map(|&square| square as f32).collect(), counts)
        };
        self.tensors.into_iter().map(|(name, sums)| Ok((name.to_string(), importance(sums)?))).collect()
    }
}
