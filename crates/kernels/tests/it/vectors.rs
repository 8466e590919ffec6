//! The test vectors of `docs/numerics.md`: the contract's bits, pinned. They change with its id or not at all.

use crate::numbers::{assert_bits, available};
use freehold_kernels::{
    AttentionRow, AttentionScratch, AttentionShape, Gate, Isa, KV_BLOCK, KvLayer, KvShape, KvType, RopeFrequencies,
    RopeScaling, RopeStyle, RopeTable, RouteShare, VectorKernels, math, route,
};

/// `((i · 2654435761) mod 65536) / 32768 − 1` for i from `first` on.
fn sequence(first: u64, length: u64) -> Vec<f32> {
    (first..first + length).map(|i| (i * 2_654_435_761 % 65_536) as f32 / 32_768.0 - 1.0).collect()
}

/// Three heads of `dim` on one kv head, at `position`, with the numbers that the document names.
fn attend(
    kernels: &VectorKernels,
    kv_type: KvType,
    dim: usize,
    position: usize,
    softcap: Option<f32>,
    sinks: Option<Vec<f32>>,
) -> Vec<f32> {
    let mut layer = KvLayer::new(KvShape { kv_type, kv_heads: 1, k_dim: dim, v_dim: dim }, 3).unwrap();
    for position in 0..=position {
        let first = (dim * position) as u64;
        let (k, v) = (sequence(first, dim as u64), sequence(first + 5_000, dim as u64));
        layer.write((position / KV_BLOCK) as u32, position % KV_BLOCK, &k, &v);
    }
    let shape =
        AttentionShape { heads: 3, kv_heads: 1, k_dim: dim, v_dim: dim, scale: 0.25, window: None, softcap, sinks };
    let q: Vec<f32> = sequence(20_000, 3 * dim as u64).iter().map(|q| 4.0 * q).collect();
    let mut out = vec![0.0; 3 * dim];
    let row = AttentionRow { q: &q, position };
    kernels.attend(&layer, &shape, 0, &[row], &[0, 1, 2], &mut out, &mut AttentionScratch::default());
    out
}

/// Numbers that `scripts/kv_q8_0.py` worked out.
fn worked_out(name: &str) -> Vec<f32> {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../data/kv_q8_0_golden.json")).unwrap();
    golden[name].as_array().unwrap().iter().map(|bits| f32::from_bits(bits.as_u64().unwrap() as u32)).collect()
}

#[test]
fn the_documents_vectors() {
    let text = include_str!("../../../../docs/numerics.md");
    for isa in available().chain([Isa::Reference]) {
        let kernels = VectorKernels::new(isa);
        let mut vectors = vec![
            ("`exp(1)`", vec![math::exp(1.0)]),
            ("`exp(−0.1)`", vec![math::exp(-0.1)]),
            ("`exp(−87)`", vec![math::exp(-87.0)]),
            ("`exp(88.5)`", vec![math::exp(88.5)]),
            ("`sigmoid(−3)`", vec![math::sigmoid(-3.0)]),
            ("`ln(0.1)`", vec![math::ln(0.1)]),
            ("`ln(10)`", vec![math::ln(10.0)]),
            ("`ln(1e−40)`", vec![math::ln(1e-40)]),
            ("`tanh(0.5)`", vec![math::tanh(0.5)]),
            ("`tanh(−1.5)`", vec![math::tanh(-1.5)]),
            ("`gelu(−2.5)`", vec![math::gelu(-2.5)]),
        ];
        let x = sequence(0, 37);
        let mut out = vec![0.0; 37];
        kernels.rms_norm(&x, &sequence(100, 37), 1e-5, &mut out);
        vectors.push((
            "rms norm of x(0, 37), weight x(100, 37), eps 1e−5: elements 0, 1, 36",
            vec![out[0], out[1], out[36]],
        ));
        kernels.gate_mul(Gate::Silu, &x, &sequence(100, 37), &mut out);
        vectors.push(("silu(x(0, 37)) × x(100, 37): elements 0, 1, 36", vec![out[0], out[1], out[36]]));
        kernels.gate_mul(Gate::Gelu, &x, &sequence(100, 37), &mut out);
        vectors.push(("gelu(x(0, 37)) × x(100, 37): elements 0, 1, 36", vec![out[0], out[1], out[36]]));
        let wide: Vec<f32> = x.iter().map(|x| 8.0 * x).collect();
        kernels.gate_mul(Gate::ClampedSilu { alpha: 1.702, limit: 7.0 }, &wide, &sequence(100, 37), &mut out);
        vectors.push((
            "clamped silu of 8·x(0, 37) and x(100, 37), α 1.702, L 7: elements 0, 1, 36",
            vec![out[0], out[1], out[36]],
        ));
        vectors.push(("log-sum-exp of x(0, 1000)", vec![kernels.log_sum_exp(&sequence(0, 1000))]));

        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: None,
            attention_multiplier: 1.0,
            mscale: None,
            mscale_all_dim: None,
        };
        let frequencies = RopeFrequencies::new(1e6, 16, &yarn).expect("valid parameters");
        let table = RopeTable::new(&frequencies, [12_345]);
        let mut head = sequence(0, 16);
        kernels.rope(&mut head, 16, table.row(0).0, table.row(0).1, RopeStyle::Halves);
        vectors.push((
            "rope of x(0, 16) in halves at position 12345, θ 1e6, yarn (factor 4, C 4096, defaults): elements 0, 4, 15",
            vec![head[0], head[4], head[15]],
        ));

        let logits: Vec<f32> = sequence(300, 16).iter().map(|x| 4.0 * x).collect();
        for (name, share) in [
            ("weights of the 3 experts chosen (5, 7, 9) of 16 with logits 4·x(300, 16), of all", RouteShare::OfAll),
            ("the same, of the chosen", RouteShare::OfChosen),
        ] {
            let routes = route(&logits, 3, share);
            assert_eq!(routes.iter().map(|route| route.expert).collect::<Vec<_>>(), [5, 7, 9]);
            vectors.push((name, routes.iter().map(|route| route.weight).collect()));
        }
        let long = RopeScaling::LongRope {
            factors: vec![1.0, 1.5, 2.0, 3.0],
            factor: 4.0,
            original_context: 4096.0,
            attention_factor: None,
        };
        let frequencies = RopeFrequencies::new(1e4, 8, &long).expect("valid parameters");
        vectors.push((
            "rope frequencies of 8 dimensions, θ 1e4, longrope (factors 1, 1.5, 2, 3, factor 4, C 4096): all, and the attention factor",
            frequencies.inverse().iter().copied().chain([frequencies.attention_factor()]).collect(),
        ));

        let out = attend(&kernels, KvType::F16, 8, 129, None, None);
        vectors.push((
            "attention at position 129, 3 heads of 8 on one kv head, scale 0.25, f16, q = 4·x(20000, 24), key and value of position p x(8p, 8) and x(8p + 5000, 8): elements 0, 11, 23",
            vec![out[0], out[11], out[23]],
        ));
        let out = attend(&kernels, KvType::F16, 8, 129, Some(2.0), Some(vec![0.5, -1.0, 3.0]));
        vectors.push((
            "the same with scores capped at 2 and sinks 0.5, −1, 3: elements 0, 11, 23",
            vec![out[0], out[11], out[23]],
        ));
        let out = attend(&kernels, KvType::Q8_0, 40, 129, None, None);
        assert_bits("kv_q8_0.py", &out, &worked_out("attention"));
        vectors.push((
            "attention at position 129, 3 heads of 40 on one kv head, scale 0.25, q8_0, q = 4·x(20000, 120), key and value of position p x(40p, 40) and x(40p + 5000, 40): elements 0, 39, 119",
            vec![out[0], out[39], out[119]],
        ));
        // The only key has all the weight.
        let out = attend(&kernels, KvType::Q8_0, 40, 0, None, None);
        assert_bits("kv_q8_0.py", &out[..40], &worked_out("head of x(5000, 40)"));
        vectors.push(("the value x(5000, 40) in q8_0: elements 0, 31, 39", vec![out[0], out[31], out[39]]));
        for (name, values) in vectors {
            let bits: Vec<String> = values.iter().map(|value| format!("`0x{:08x}`", value.to_bits())).collect();
            let line = format!("| {name} | {} |", bits.join(" "));
            assert!(text.contains(&line), "docs/numerics.md lacks this line of {isa}: {line}");
        }
    }
}
