//! Which experts of a mixture a token goes to, and what their outputs weigh.

use crate::math;
use crate::vector::lane_sum;

/// An expert that a token goes to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Route {
    /// Its number.
    pub expert: usize,
    /// What its output is multiplied by.
    pub weight: f32,
}

/// What the weights of a token's experts are shares of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteShare {
    /// The softmax over all experts.
    OfAll,
    /// The softmax over the chosen ones: their weights add up to 1.
    OfChosen,
}

/// The `count` experts with the largest `logits`, one per expert, in ascending number; of equal logits the lower number
/// is chosen. Where a logit is NaN, so are the weights.
///
/// # Panics
/// If `count` is 0 or above the number of experts.
pub fn route(logits: &[f32], count: usize, share: RouteShare) -> Vec<Route> {
    assert!((1..=logits.len()).contains(&count), "{count} of {} experts", logits.len());
    let mut experts: Vec<usize> = (0..logits.len()).collect();
    // Adding +0 makes the two zeros equal. A NaN of either sign comes first: it is chosen, and the weights show it.
    let key = |expert: usize| if logits[expert].is_nan() { f32::NAN } else { logits[expert] + 0.0 };
    let before = |&a: &usize, &b: &usize| key(b).total_cmp(&key(a)).then(a.cmp(&b));
    experts.select_nth_unstable_by(count - 1, before);
    experts.truncate(count);
    experts.sort_unstable();
    let max = experts.iter().fold(f32::NEG_INFINITY, |max, &expert| max.max(logits[expert]));
    let exponential = |&expert: &usize| math::exp(logits[expert] - max);
    let chosen: Vec<f32> = experts.iter().map(exponential).collect();
    let sum = match share {
        RouteShare::OfAll => lane_sum(logits, |lane, logit| lane + math::exp(logit - max)),
        RouteShare::OfChosen => lane_sum(&chosen, |lane, exponential| lane + exponential),
    };
    experts.into_iter().zip(chosen).map(|(expert, chosen)| Route { expert, weight: chosen / sum }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_in_ascending_order_and_ties_go_to_the_lower_number() {
        let cases: [(&[f32], usize, &[usize]); 8] = [
            (&[1.0], 1, &[0]),
            (&[1.0, 3.0, 2.0, 0.0], 2, &[1, 2]),
            (&[0.0, 0.0, 0.0, 0.0], 2, &[0, 1]),
            (&[-0.0, 0.0, -1.0, 0.0], 2, &[0, 1]),
            (&[1.0, 2.0, 1.0, 1.0], 2, &[0, 1]),
            (&[5.0, 1.0, 5.0, 5.0, 9.0], 3, &[0, 2, 4]),
            (&[1.0, 2.0, 3.0], 3, &[0, 1, 2]),
            (&[1e-45, 0.0, -1e-45], 1, &[0]),
        ];
        for (logits, count, expected) in cases {
            for share in [RouteShare::OfAll, RouteShare::OfChosen] {
                let found: Vec<usize> = route(logits, count, share).iter().map(|route| route.expert).collect();
                assert_eq!(found, expected, "{logits:?}");
            }
        }
        for nan in [f32::NAN, -f32::NAN] {
            for share in [RouteShare::OfAll, RouteShare::OfChosen] {
                let routes = route(&[2.0, nan, 1.0], 2, share);
                assert_eq!(routes.iter().map(|route| route.expert).collect::<Vec<_>>(), [0, 1]);
                assert!(routes.iter().all(|route| route.weight.is_nan()), "{nan} is hidden: {routes:?}");
            }
        }
    }

    #[test]
    fn weights_are_shares_of_all_or_of_the_chosen() {
        let logits = [0.3f32, -1.2, 2.0, 0.9, -40.0, 1.1];
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        for route in route(&logits, 3, RouteShare::OfAll) {
            let exact = f64::from(logits[route.expert]).exp() / total;
            assert!((f64::from(route.weight) - exact).abs() < 1e-7, "{route:?}, not {exact}");
        }
        let sum: f32 = route(&logits, 3, RouteShare::OfChosen).iter().map(|route| route.weight).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }
}
