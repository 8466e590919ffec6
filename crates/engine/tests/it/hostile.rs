//! Small files that ask for much.

use crate::{TINY, overflowing};
use freehold_engine::{Engine, EngineOptions, EvaluateError, StartError, TextModel, Windows, evaluate, perplexity};
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, Isa, KvType};
use freehold_model::{Error, Model};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A Llama of one layer and 16 MB whose keys and values have 2^20 numbers each, made for 2^24 tokens.
fn wide(compute: &Compute) -> Model {
    const HEAD: usize = 1 << 20;
    let config = json!({
        "model_type": "llama", "hidden_size": 2, "num_attention_heads": 1, "head_dim": HEAD, "num_hidden_layers": 1,
        "intermediate_size": 1, "max_position_embeddings": 1 << 24, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let tensors: [(&str, &[usize]); 11] = [
        ("embed_tokens", &[4, 2]),
        ("norm", &[2]),
        ("layers.0.input_layernorm", &[2]),
        ("layers.0.self_attn.q_proj", &[HEAD, 2]),
        ("layers.0.self_attn.k_proj", &[HEAD, 2]),
        ("layers.0.self_attn.v_proj", &[HEAD, 2]),
        ("layers.0.self_attn.o_proj", &[2, HEAD]),
        ("layers.0.post_attention_layernorm", &[2]),
        ("layers.0.mlp.gate_proj", &[1, 2]),
        ("layers.0.mlp.up_proj", &[1, 2]),
        ("layers.0.mlp.down_proj", &[2, 1]),
    ];
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] });
        header.insert(format!("model.{name}.weight"), entry);
    }
    let header = Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end, 0);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    Model::load(&Checkpoint::open(folder.path()).unwrap(), compute, &mut |_| {}).unwrap()
}

#[test]
fn a_cache_that_no_machine_has_room_for_is_refused() {
    let compute = Compute::new(Isa::best(), 1).unwrap();
    let model = wide(&compute);
    assert!(model.new_cache(KvType::F32, 1).is_ok(), "what there is room for is given");
    // 2^21 numbers of 4 bytes for each of 2^25 positions: beyond what 47 bits address, though the file is small and right.
    let expected = "the keys and values of 33554432 positions take 281.5 TB, which this machine does not have: choose a \
                    smaller `--context`, or give fewer tokens";
    assert_eq!(model.new_cache(KvType::F32, 1 << 19).err().unwrap().to_string(), expected);
    assert!(matches!(model.new_cache(KvType::F32, usize::MAX), Err(Error::CacheMemory { bytes: u64::MAX, .. })));

    let tokens = vec![0; 1 << 25];
    let result = evaluate(&model, &compute, KvType::F32, &tokens[..1 << 24], 512, false, &mut |_, _| true);
    assert!(matches!(result, Err(EvaluateError::Cache(Error::CacheMemory { .. }))));
    let result = perplexity(
        &model,
        &compute,
        KvType::F32,
        Windows { tokens: &tokens, bos: None, context: 1 << 24 },
        &mut |_, _| true,
    );
    assert!(matches!(result, Err(EvaluateError::Cache(Error::CacheMemory { .. }))));
    let tokenizer = Arc::clone(TextModel::open(&Checkpoint::open(TINY.as_ref()).unwrap()).unwrap().tokenizer());
    let options = EngineOptions { kv_type: KvType::F32, context_length: Some(usize::MAX), ..EngineOptions::default() };
    let error = Engine::start(model, tokenizer, None, compute, options).err().unwrap();
    assert!(matches!(&error, StartError::Cache(_)) && error.to_string() == expected, "{error}");
}

#[test]
fn texts_that_a_model_cannot_take_are_refused() {
    let compute = Compute::new(Isa::best(), 1).unwrap();
    let tiny = Checkpoint::open(TINY.as_ref()).unwrap();
    let [sound, overflowing] =
        [&tiny, &overflowing()].map(|checkpoint| Model::load(checkpoint, &compute, &mut |_| {}).unwrap());
    let context = sound.config().context_length;
    let too_long = format!("{} tokens do not fit the model's context of {context}", context + 1);
    let foreign = [vec![1; 7], vec![359]].concat();
    let cases = [
        (&sound, vec![1; context + 1], context + 1, too_long.as_str()),
        (&sound, foreign, 4, "token 359 is not in the model's vocabulary of 359 tokens"),
        (
            &overflowing,
            vec![1; 8],
            4,
            "the model's numbers overflowed on this text: use another file of the model, or `--kv f32`",
        ),
    ];
    for (model, tokens, window, expected) in cases {
        let error = evaluate(model, &compute, KvType::F16, &tokens, 512, true, &mut |_, _| true).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        let text = tokens.repeat(2);
        let error = perplexity(
            model,
            &compute,
            KvType::F16,
            Windows { tokens: &text, bos: None, context: window },
            &mut |_, _| true,
        )
        .unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
