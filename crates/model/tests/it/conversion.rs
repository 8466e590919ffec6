//! Folders as GGUF files: the same bits as the folder's, and the tensors and keys of llama.cpp's own converter, whose rules
//! `tests/data/gguf/make_gguf.py` follows through the `gguf` package.

use crate::golden::{GOLDENS, digest, golden, logits};
use freehold_base::Dtype;
use freehold_formats::{Checkpoint, Gguf, Value};
use freehold_kernels::{Compute, Isa, KvType};
use freehold_model::{Conversion, Encoding, Error, Model};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

fn compute() -> Compute {
    Compute::new(Isa::best(), 2).unwrap()
}

fn encoding(dtype: Option<Dtype>) -> Encoding<'static> {
    dtype.map_or(Encoding::Source, Encoding::Float)
}

/// The file that a checkpoint becomes.
fn converted(checkpoint: &Checkpoint, dtype: Option<Dtype>) -> Result<Gguf, Error> {
    let (compute, mut file, mut written) = (compute(), Vec::new(), 0);
    let mut ignored = |_| {};
    let conversion = Conversion::new(checkpoint, "golden", encoding(dtype), &compute, &mut ignored)?;
    conversion.write(&mut file, &mut |bytes| written += bytes)?;
    assert_eq!(file.len() as u64, conversion.size_bytes());
    let gguf = Gguf::from_bytes(file)?;
    assert_eq!(written, gguf.tensors().map(|tensor| tensor.bytes.len() as u64).sum::<u64>());
    Ok(gguf)
}

#[test]
fn a_converted_file_has_the_bits_of_the_folder() {
    let compute = compute();
    for name in GOLDENS {
        let golden = golden(name);
        let gguf = converted(&golden.checkpoint, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let [folder, file] = [golden.checkpoint, Checkpoint::Gguf(gguf)].map(|checkpoint| {
            let model = Model::load(&checkpoint, &compute, &mut |_| {}).unwrap();
            digest(&logits(&model, &compute, KvType::F32, &golden.tokens, usize::MAX))
        });
        assert_eq!(file, folder, "{name}");
    }
}

/// Keys that the converter does not write for each architecture: what its readers take where they are missing.
const ALSO_WRITTEN: [&str; 5] = [
    "attention.key_length",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
];

#[test]
fn tensors_and_keys_are_those_of_llama_cpps_converter() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/gguf")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let found = converted(&golden(&name).checkpoint, Some(Dtype::F32)).unwrap();
        let expected = Gguf::open(&path).unwrap();
        let tensors = |gguf: &Gguf| gguf.tensors().map(|tensor| tensor.name.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(tensors(&found), tensors(&expected), "{name}");
        for expected in expected.tensors() {
            let found = found.tensor(expected.name).unwrap();
            let what = format!("{name}: {}", expected.name);
            assert_eq!((found.dtype, found.shape), (expected.dtype, expected.shape), "{what}");
            assert!(found.bytes == expected.bytes, "{what}");
        }
        // What the files say of themselves is their own.
        let pairs = |gguf: &Gguf| {
            let pairs = gguf.metadata().iter().filter(|(key, _)| !key.starts_with("general."));
            pairs.map(|(key, value)| (key.to_owned(), value.clone())).collect::<BTreeMap<_, _>>()
        };
        let (mut found, mut expected) = (pairs(&found), pairs(&expected));
        // The two names of no tokenizer.
        assert_eq!(found.remove("tokenizer.ggml.model"), Some(Value::String("none".into())));
        assert_eq!(expected.remove("tokenizer.ggml.model"), Some(Value::String("no_vocab".into())));
        // A window of nothing is none.
        expected.retain(|key, value| !(key == "phi3.attention.sliding_window" && *value == Value::U32(0)));
        found.retain(|key, _| {
            let (_, name) = key.split_once('.').unwrap();
            expected.contains_key(key) || !ALSO_WRITTEN.contains(&name)
        });
        assert_eq!(found, expected, "{name}");
        names.push(name);
    }
    assert!(names.len() > 10, "only {names:?}");
}

/// A golden checkpoint whose configuration and tensors have been changed.
fn changed(
    name: &str,
    change_config: impl FnOnce(&mut Json),
    change_tensors: impl FnOnce(&mut Map<String, Json>, &mut Vec<u8>),
) -> Checkpoint {
    let golden = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden")).join(name);
    let mut config = serde_json::from_slice(&std::fs::read(golden.join("config.json")).unwrap()).unwrap();
    change_config(&mut config);
    let file = std::fs::read(golden.join("model.safetensors")).unwrap();
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let (mut header, mut data) = (serde_json::from_slice(header).unwrap(), data.to_vec());
    change_tensors(&mut header, &mut data);
    let header = Json::Object(header).to_string().into_bytes();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    // The mapping outlives the name.
    Checkpoint::open(folder.path()).unwrap()
}

/// The checkpoint with all numbers as `kind`, which has two bytes.
fn halves(name: &str, kind: &str, encode: fn(f32) -> [u8; 2]) -> Checkpoint {
    changed(
        name,
        |_| {},
        |header, data| {
            let (numbers, _) = data.as_chunks();
            *data = numbers.iter().flat_map(|&bytes| encode(f32::from_le_bytes(bytes))).collect();
            for (_, tensor) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
                tensor["dtype"] = kind.into();
                for offset in tensor["data_offsets"].as_array_mut().unwrap() {
                    *offset = (offset.as_u64().unwrap() / 2).into();
                }
            }
        },
    )
}

#[test]
fn types_are_kept_or_changed_as_asked() {
    let bf16 = |number| half::bf16::from_f32(number).to_le_bytes();
    let f16 = |number| half::f16::from_f32(number).to_le_bytes();
    let compute = compute();
    for (name, checkpoint, own) in [
        ("qwen3", halves("qwen3", "BF16", bf16), Dtype::BF16),
        ("qwen2_moe", halves("qwen2_moe", "BF16", bf16), Dtype::BF16),
        ("gpt_oss", halves("gpt_oss", "F16", f16), Dtype::F16),
        ("gemma2", golden("gemma2").checkpoint, Dtype::F32),
    ] {
        for asked in [None, Some(Dtype::F32), Some(Dtype::F16), Some(Dtype::BF16)] {
            let gguf = converted(&checkpoint, asked).unwrap();
            for tensor in gguf.tensors() {
                let is_small = tensor.shape.len() == 1 || !tensor.name.ends_with(".weight");
                let expected =
                    if is_small || tensor.name.contains("ffn_gate_inp") { Dtype::F32 } else { asked.unwrap_or(own) };
                assert_eq!(tensor.dtype, expected, "{name}: {} as {asked:?}", tensor.name);
            }
            let mut ignored = |_| {};
            let keeps = Conversion::new(&checkpoint, name, encoding(asked), &compute, &mut ignored);
            let keeps = keeps.unwrap().keeps_bits();
            // Routers become F32.
            let has_router = gguf.tensors().any(|tensor| tensor.name.contains("ffn_gate_inp"));
            assert_eq!(keeps, asked.is_none_or(|asked| asked == own) && (own == Dtype::F32 || !has_router), "{name}");
            let tokens = [1, 7, 2, 3];
            let [folder, file] = [&checkpoint, &Checkpoint::Gguf(gguf)].map(|checkpoint| {
                let model = Model::load(checkpoint, &compute, &mut |_| {}).unwrap();
                logits(&model, &compute, KvType::F32, &tokens, usize::MAX)
            });
            assert!(!keeps || digest(&folder) == digest(&file), "{name} as {asked:?}");
            let largest = folder.iter().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
            let difference = folder.iter().zip(&file).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference <= 0.05 * largest, "{name} as {asked:?}: {difference} of {largest}");
        }
    }
}

fn refusal(checkpoint: &Checkpoint, dtype: Option<Dtype>) -> String {
    converted(checkpoint, dtype).err().unwrap().to_string()
}

/// What is done to a configuration.
type Change = Box<dyn FnOnce(&mut Json)>;

#[test]
fn what_gguf_cannot_say_is_refused() {
    let rope = |key: &'static str, value: Json| move |config: &mut Json| config["rope_parameters"][key] = value;
    let top = |key: &'static str, value: Json| move |config: &mut Json| config[key] = value;
    let cases: [(&str, Change, &str); 9] = [
        ("qwen3_moe", Box::new(top("norm_topk_prob", false.into())), "mixture of experts"),
        ("qwen2_moe", Box::new(top("norm_topk_prob", true.into())), "mixture of experts"),
        ("gemma2", Box::new(top("query_pre_attn_scalar", 100.into())), "scale of attention"),
        ("gpt_oss", Box::new(top("swiglu_limit", 6.5.into())), "gate"),
        ("smollm3", Box::new(top("no_rope_layers", vec![1, 0, 1, 1].into())), "which layers embed positions"),
        ("qwen2_yarn", Box::new(rope("truncate", false.into())), "rotary frequencies"),
        ("gpt_oss", Box::new(rope("truncate", true.into())), "rotary frequencies"),
        // Not to be told from its neighbour in binary32.
        ("llama", Box::new(rope("rope_theta", 16_777_217.into())), "rotary frequencies"),
        ("llama", Box::new(top("rope_parameters", json!({"rope_type": "linear", "factor": 1.000_000_06}))), "rotary"),
    ];
    for (name, change, expected) in cases {
        let error = converted(&changed(name, change, |_, _| {}), None)
            .err()
            .unwrap_or_else(|| panic!("{name}: {expected}"))
            .to_string();
        assert!(error.contains("GGUF has no words for") && error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn folders_that_are_no_model_are_refused_as_they_are_when_loaded() {
    let config = |key: &'static str, value: Json| changed("llama", |config| config[key] = value, |_, _| {});
    let tensor = |change: fn(&mut Map<String, Json>, &mut Vec<u8>)| changed("llama", |_| {}, change);
    let renamed = tensor(|header, _| {
        let tensor = header.remove("model.layers.1.mlp.up_proj.weight").unwrap();
        header.insert("model.layers.1.mlp.op_proj.weight".into(), tensor);
    });
    let turned = tensor(|header, _| header["model.layers.0.mlp.up_proj.weight"]["shape"] = vec![64, 128].into());
    let infinite = tensor(|_, data| data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes()));
    let integers = tensor(|header, _| header["model.norm.weight"]["dtype"] = "I32".into());
    let cases = [
        (renamed, "the tensor `model.layers.1.mlp.up_proj.weight` is missing"),
        (turned, "has the shape [64, 128], not [128, 64]"),
        (infinite, "holds NaN or infinity"),
        (integers, "the tensor type I32 is not supported"),
        (config("num_hidden_layers", 1.into()), "is not part of this architecture"),
        (config("num_hidden_layers", u64::MAX.into()), "`num_hidden_layers` is not between"),
        (config("max_position_embeddings", (1u64 << 40).into()), "`max_position_embeddings` is not between"),
        (config("num_attention_heads", 0.into()), "`num_attention_heads` is not between"),
        (config("model_type", "nosuch".into()), "the architecture `nosuch` is not supported"),
        (config("quantization_config", json!({"quant_method": "fp8"})), "use the model as GGUF"),
    ];
    for (checkpoint, expected) in cases {
        let error = refusal(&checkpoint, None);
        assert!(error.contains(expected), "{error}");
    }
    let large = tensor(|_, data| data[..4].copy_from_slice(&1e30f32.to_le_bytes()));
    let error = refusal(&large, Some(Dtype::F16));
    assert!(error.contains("holds 1000000000000000000000000000000, which is beyond F16"), "{error}");
    assert!(converted(&large, Some(Dtype::BF16)).is_ok());
    let gguf = converted(&golden("llama").checkpoint, None).unwrap();
    assert_eq!(refusal(&Checkpoint::Gguf(gguf), None), "the model is a GGUF file already");
}
