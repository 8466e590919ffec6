//! Checkpoints that are no model of their architecture: each is refused with what is wrong.

use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, Isa};
use freehold_model::Model;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What loading a golden checkpoint says when one setting of its configuration has another value.
fn refusal(key: &str, value: Value) -> String {
    let golden = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden/llama"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let config = std::fs::read(golden.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config[key] = value;
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let compute = Compute::new(Isa::best(), 1).unwrap();
    Model::load(&checkpoint, &compute, &mut |_| {}).err().expect(key).to_string()
}

#[test]
fn what_does_not_fit_is_named() {
    let cases = [
        ("model_type", json!("nosuch"), "the architecture `nosuch` is not supported"),
        ("num_hidden_layers", json!(3), "the tensor `model.layers.2.input_layernorm.weight` is missing"),
        ("num_hidden_layers", json!(1), "is not part of this architecture"),
        ("num_hidden_layers", json!(4_294_967_295u32), "`num_hidden_layers` is not between"),
        ("num_attention_heads", json!(0), "`num_attention_heads` is not between"),
        ("num_key_value_heads", json!(3), "does not divide"),
        ("intermediate_size", json!(256), "has the shape [128, 64], not [256, 64]"),
        ("hidden_act", json!("relu"), "only `silu` is supported"),
        ("rms_norm_eps", json!(-1.0), "not a small positive number"),
    ];
    for (key, value, expected) in cases {
        let error = refusal(key, value);
        assert!(error.contains(expected), "{key}: {error}");
    }
}
