//! What a step cannot do without: the weights that it reads and the products that it makes. Speed is measured against these.

use crate::decoder::{Decoder, FeedForward};
use crate::experts::Experts;
use freehold_base::Dtype;
use freehold_kernels::Matrix;

/// What the weights cost a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of packed weights that are read, each once.
    pub weight_bytes: u64,
    /// Multiplications of weights of a type with activations, each with its addition; every type once.
    pub products: Vec<(Dtype, u64)>,
}

impl Cost {
    fn add(&mut self, matrix: &Matrix, rows: u64) {
        self.weight_bytes += matrix.size_bytes() as u64;
        let products = rows * matrix.rows() as u64 * matrix.cols() as u64;
        match self.products.iter_mut().find(|(dtype, _)| *dtype == matrix.dtype()) {
            Some((_, sum)) => *sum += products,
            None => self.products.push((matrix.dtype(), products)),
        }
    }
}

impl Decoder {
    /// See [`crate::Model::cost`].
    pub(crate) fn cost(&self, tokens: u64, logit_rows: u64) -> Cost {
        let mut cost = Cost::default();
        for layer in &self.layers {
            for linear in layer.attention.projections() {
                cost.add(&linear.matrix, tokens);
            }
            match &layer.feed_forward {
                FeedForward::Dense(unit) => unit.matrices().into_iter().for_each(|matrix| cost.add(matrix, tokens)),
                FeedForward::Experts(experts) => experts.add_to(&mut cost, tokens),
            }
        }
        if logit_rows > 0 {
            cost.add(&self.output_head().matrix, logit_rows);
        }
        cost
    }
}

impl Experts {
    fn add_to(&self, cost: &mut Cost, tokens: u64) {
        cost.add(&self.router.matrix, tokens);
        if let Some(shared) = &self.shared {
            cost.add(&shared.gate.matrix, tokens);
            shared.unit.matrices().into_iter().for_each(|matrix| cost.add(matrix, tokens));
        }
        let (visits, units) = (self.used as u64 * tokens, self.units.len() as u64);
        for (index, unit) in (0..units.min(visits)).zip(&self.units) {
            let visits = visits / units + u64::from(index < visits % units);
            unit.matrices().into_iter().for_each(|matrix| cost.add(matrix, visits));
        }
    }
}
