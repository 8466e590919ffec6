//! Checkpoints that are no model of their architecture: each is refused with what is wrong.

use crate::golden::altered;
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, Isa};
use freehold_model::Model;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What loading a golden checkpoint says when one setting of its configuration has another value.
fn refusal(golden: &str, key: &str, value: &Value) -> String {
    let compute = Compute::new(Isa::best(), 1).unwrap();
    Model::load(&altered(golden, &json!({ key: value })), &compute, &mut |_| {}).err().expect(key).to_string()
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
        ("max_position_embeddings", json!(16_777_217), "`max_position_embeddings` is not between 1 and 16777216"),
        ("rope_parameters", json!({"rope_type": "linear", "factor": 0.25}), "turns by 4 radians per position"),
        ("intermediate_size", json!(256), "has the shape [128, 64], not [256, 64]"),
        ("hidden_act", json!("relu"), "only `silu` is supported"),
        ("rms_norm_eps", json!(-1.0), "not a small positive number"),
        ("quantization_config", json!({"quant_method": "fp8"}), "use the model as GGUF"),
    ];
    for (key, value, expected) in cases {
        let error = refusal("llama", key, &value);
        assert!(error.contains(expected), "{key}: {error}");
    }
}

#[test]
fn what_an_architecture_does_not_support_is_named() {
    let cases = [
        ("gemma2", "hidden_activation", json!("gelu"), "only `gelu_pytorch_tanh` is supported"),
        ("gemma2", "layer_types", json!(["full_attention"]), "has 1 entries for 2 layers"),
        ("gemma2", "layer_types", json!(["full_attention", "chunked_attention"]), "an entry that is not supported"),
        ("gemma2", "sliding_window", Value::Null, "`sliding_window` is missing"),
        ("gemma2", "attn_logit_softcapping", json!(0.0), "`attn_logit_softcapping` is 0, not a number above 0"),
        ("gemma3", "use_bidirectional_attention", json!(true), "only `false` is supported"),
        ("gpt_oss", "num_local_experts", json!(5), "has the shape [4, 64], not [5, 64]"),
        ("gpt_oss", "sliding_window", Value::Null, "`sliding_window` is missing, and"),
        ("gpt_oss", "intermediate_size", json!(32), "gate_up_proj` has the shape [4, 64, 128], not [4, 64, 64]"),
        ("granite", "residual_multiplier", json!(-0.2), "`residual_multiplier` is -0.2, not a number above 0"),
        // Its reciprocal is infinite in binary32.
        (
            "granite",
            "logits_scaling",
            json!(1e-40),
            "`logits_scaling` is 0.0000000000000000000000000000000000000001, not",
        ),
        ("llama_tied", "tie_word_embeddings", json!(false), "the tensor `lm_head.weight` is missing"),
        ("llama_tied", "tie_word_embeddings", Value::Null, "the tensor `lm_head.weight` is missing"),
        ("mixtral", "num_experts_per_tok", json!(5), "`num_experts_per_tok` is not between 1 and 4"),
        ("mixtral", "num_local_experts", json!(0), "`num_local_experts` is not between"),
        ("phi3_longrope", "rope_parameters", json!({"rope_type": "longrope"}), "short_factor"),
        ("qwen2", "tie_word_embeddings", Value::Null, "the tensor `lm_head.weight` is missing"),
        ("qwen2_moe", "decoder_sparse_step", json!(2), "`decoder_sparse_step` is 2; only `1` is supported"),
        ("qwen2_moe", "use_sliding_window", json!(true), "`use_sliding_window` is true; only `false` is supported"),
        ("qwen2_moe", "mlp_only_layers", json!([1]), "only an empty list is supported"),
        ("qwen3_moe", "moe_intermediate_size", Value::Null, "`moe_intermediate_size` is missing"),
        ("qwen3_moe", "use_sliding_window", json!(true), "`use_sliding_window` is true; only `false` is supported"),
        ("smollm3", "use_sliding_window", json!(true), "`use_sliding_window` is true; only `false` is supported"),
        ("smollm3", "no_rope_layers", json!([1, 0]), "no list of 4 numbers"),
    ];
    for (golden, key, value, expected) in cases {
        let error = refusal(golden, key, &value);
        assert!(error.contains(expected), "{golden}, {key}: {error}");
    }
}

#[test]
fn an_embedding_of_no_tokens_is_refused() {
    let golden = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden/llama"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden.join("config.json"), folder.path().join("config.json")).unwrap();
    let header = json!({"model.embed_tokens.weight": {"dtype": "F32", "shape": [0, 64], "data_offsets": [0, 0]}});
    let header = header.to_string().into_bytes();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let compute = Compute::new(Isa::best(), 1).unwrap();
    let error = Model::load(&checkpoint, &compute, &mut |_| {}).err().unwrap().to_string();
    assert!(error.contains("0 rows of 64 F32 numbers do not fit 0 bytes"), "{error}");
}
