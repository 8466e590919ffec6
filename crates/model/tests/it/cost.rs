//! What a step costs, worked out from a configuration.

use crate::golden::golden;
use freehold_base::Dtype;
use freehold_kernels::{Compute, Isa};
use freehold_model::{Cost, Model};

#[test]
fn experts_that_no_token_goes_to_cost_nothing() {
    let compute = Compute::new(Isa::best(), 1).unwrap();
    let model = Model::load(&golden("qwen2_moe").checkpoint, &compute, &mut |_| {}).unwrap();
    // Two layers 64 wide: q and output of 64 rows, k and v of 32; a router of four experts, of which a token goes to two, each
    // 32 inside; a shared one, 48 inside, with a gate of one row. A head of 320 tokens.
    let (attention, router, gate, shared, expert) = (192 * 64, 4 * 64, 64, 3 * 48 * 64, 3 * 32 * 64);
    // Rows are packed in sixteens.
    let always = attention + 16 * 64 + 16 * 64 + shared;
    let head = 320 * 64;
    for (tokens, logit_rows, weights, products) in [
        (1, 1, 2 * (always + 2 * expert) + head, 2 * (attention + router + gate + shared + 2 * expert) + head),
        (3, 0, 2 * (always + 4 * expert), 3 * 2 * (attention + router + gate + shared + 2 * expert)),
    ] {
        let expected = Cost { weight_bytes: 4 * weights, products: vec![(Dtype::F32, products)] };
        assert_eq!(model.cost(tokens, logit_rows), expected, "{tokens} tokens");
    }
}
