//! `tests/data/golden`: tiny checkpoints with the logits that transformers computes for them.

use freehold_base::{Digest, Hasher};
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, Isa, KV_BLOCK, KvType};
use freehold_model::{Chunk, LogitRows, Model, Workspace};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(crate) const GOLDENS: [&str; 30] = [
    "ernie4_5",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3",
    "glm4",
    "gpt_oss",
    "granite",
    "granite_moe",
    "hunyuan_dense",
    "llama",
    "llama_hd",
    "llama_linear",
    "llama_rope3",
    "llama_tied",
    "mistral",
    "mistral_swa",
    "mixtral",
    "olmo2",
    "olmo3",
    "olmoe",
    "phi3",
    "phi3_longrope",
    "qwen2",
    "qwen2_moe",
    "qwen2_yarn",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
];

pub(crate) struct Golden {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden")).join(name)
}

/// A golden checkpoint with other values of some settings of its configuration; null, as if one were not there.
pub(crate) fn altered(name: &str, settings: &Value) -> Checkpoint {
    let changed = tempfile::tempdir().unwrap();
    std::fs::copy(folder(name).join("model.safetensors"), changed.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(folder(name).join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    std::fs::write(changed.path().join("config.json"), config.to_string()).unwrap();
    Checkpoint::open(changed.path()).unwrap()
}

pub(crate) fn golden(name: &str) -> Golden {
    let checkpoint = Checkpoint::open(&folder(name)).unwrap();
    let json: Value = serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap();
    let tokens = json["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    let logits = json["logits"].as_array().unwrap().iter().map(row).collect();
    Golden { checkpoint, tokens, logits }
}

/// The logits of all tokens, fed in chunks of `chunk`.
pub(crate) fn logits(model: &Model, compute: &Compute, kv_type: KvType, tokens: &[u32], chunk: usize) -> Vec<f32> {
    // Blocks in no particular order: a table leads to them.
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK) as u32).rev().collect();
    let mut cache = model.new_cache(kv_type, blocks.len()).unwrap();
    let (mut workspace, mut part_logits, mut all) = (Workspace::default(), Vec::new(), Vec::new());
    for (index, part) in tokens.chunks(chunk).enumerate() {
        let part = Chunk { tokens: part, start: index * chunk, blocks: &blocks, logits: LogitRows::All };
        model.forward(compute, &mut cache, &[part], &mut workspace, &mut part_logits);
        all.extend_from_slice(&part_logits);
    }
    all
}

pub(crate) fn digest(logits: &[f32]) -> Digest {
    let mut hasher = Hasher::new();
    logits.iter().for_each(|logit| hasher.update(&logit.to_le_bytes()));
    hasher.finish()
}

#[test]
fn logits_are_those_of_transformers() {
    let compute = Compute::new(Isa::best(), 2).unwrap();
    for name in GOLDENS {
        let golden = golden(name);
        let model = Model::load(&golden.checkpoint, &compute, &mut |_| {}).unwrap();
        let largest = golden.logits.iter().flatten().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
        // What q8_0 holds is off by up to a 254th of the largest of its group. Where that is enough for a router between
        // two experts to choose the other, the logits are another model's.
        let has_router = ["gpt_oss", "mixtral"].contains(&name) || name.contains("moe");
        let kv_types = [(KvType::F32, 1e-4), (KvType::Q8_0, 0.025)];
        for (kv_type, tolerance) in kv_types.into_iter().take(if has_router { 1 } else { 2 }) {
            let found = logits(&model, &compute, kv_type, &golden.tokens, usize::MAX);
            let rows = found.chunks(model.config().vocabulary);
            for (position, (found, expected)) in rows.zip(&golden.logits).enumerate() {
                for (found, expected) in found.iter().zip(expected) {
                    assert!(
                        (found - expected).abs() <= tolerance * largest,
                        "{name}, kv {kv_type}, position {position}: {found} for {expected}"
                    );
                }
            }
            assert_eq!(found.len(), golden.logits.len() * model.config().vocabulary);
        }
    }
}

/// What `scripts/cpu_1` made of `docs/numerics.md`: the bits change with the contract's id or not at all.
#[test]
fn the_contracts_vectors() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data");
    let vectors: Value = serde_json::from_slice(&std::fs::read(format!("{data}/cpu-1/logits.json")).unwrap()).unwrap();
    for case in vectors.as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let checkpoint = Checkpoint::open(format!("{data}/{name}").as_ref()).unwrap();
        let tokens: Vec<u32> =
            case["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let compute = Compute::new(isa, 2).unwrap();
            let model = Model::load(&checkpoint, &compute, &mut |_| {}).unwrap();
            for kv_type in KvType::ALL {
                let found = digest(&logits(&model, &compute, kv_type, &tokens, usize::MAX)).hex();
                let expected = &case["sha256"][kv_type.to_string()];
                assert_eq!(found, *expected, "{name}, {} tokens, kv {kv_type}, {isa}", tokens.len());
            }
        }
    }
}

#[test]
fn settings_that_change_nothing() {
    let compute = Compute::new(Isa::best(), 2).unwrap();
    let default_tie = json!({"tie_word_embeddings": null});
    let default_window =
        json!({"use_sliding_window": null, "sliding_window": 8, "max_window_layers": 0, "layer_types": null});
    let cases = [
        // The defaults of their classes in transformers.
        ("ernie4_5", &default_tie),
        ("gemma", &default_tie),
        ("gemma2", &default_tie),
        ("gemma3", &default_tie),
        ("smollm3", &default_tie),
        ("llama", &default_tie),
        ("qwen2", &default_window),
        ("qwen3", &default_window),
        // The file has a head that is not the embedding.
        ("llama", &json!({"tie_word_embeddings": true})),
        // Their classes have no windows.
        ("llama", &json!({"sliding_window": 8})),
        ("granite", &json!({"sliding_window": 8})),
        // Names of nothing.
        ("gpt_oss", &json!({"": 0})),
        ("mixtral", &json!({"": "text"})),
    ];
    for (name, settings) in cases {
        let as_it_is = golden(name);
        let [expected, found] = [as_it_is.checkpoint, altered(name, settings)].map(|checkpoint| {
            let model = Model::load(&checkpoint, &compute, &mut |_| {})
                .unwrap_or_else(|error| panic!("{name}, {settings}: {error}"));
            digest(&logits(&model, &compute, KvType::F32, &as_it_is.tokens, usize::MAX))
        });
        assert_eq!(found, expected, "{name}, {settings}");
    }
}

#[test]
fn a_gguf_file_gives_the_bits_of_the_checkpoint_it_was_made_from() {
    let compute = Compute::new(Isa::best(), 2).unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/gguf")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let golden = golden(&name);
        let [from_folder, from_gguf] = [golden.checkpoint, Checkpoint::open(&path).unwrap()].map(|checkpoint| {
            let model =
                Model::load(&checkpoint, &compute, &mut |_| {}).unwrap_or_else(|error| panic!("{name}: {error}"));
            logits(&model, &compute, KvType::F32, &golden.tokens, usize::MAX)
        });
        assert_eq!(digest(&from_gguf), digest(&from_folder), "{name}");
        names.push(name);
    }
    assert!(names.len() > 10, "only {names:?}");
}

/// Golden checkpoints and a GGUF whose layers use every quantised type, over sequences of more than one block.
fn models() -> Vec<(&'static str, Checkpoint)> {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tiny/tiny-llama.gguf");
    let names = [
        "gemma2",
        "gemma3",
        "glm4",
        "gpt_oss",
        "granite",
        "hunyuan_dense",
        "llama_hd",
        "mistral_swa",
        "mixtral",
        "olmo3",
        "phi3_longrope",
        "qwen2_moe",
        "qwen2_yarn",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    ];
    let mut models: Vec<_> = names.map(|name| (name, golden(name).checkpoint)).into();
    models.push(("tiny", Checkpoint::open(tiny.as_ref()).unwrap()));
    models
}

#[test]
fn one_digest_over_instruction_sets_threads_and_chunks() {
    let available = || Isa::ALL.into_iter().filter(|isa| isa.is_available());
    for (name, checkpoint) in models() {
        let loading = Compute::new(Isa::best(), 2).unwrap();
        let model = Model::load(&checkpoint, &loading, &mut |_| {}).unwrap();
        let vocabulary = model.config().vocabulary as u32;
        let tokens: Vec<u32> = (0..150).map(|i| (i * i * 7 + i * 3 + 1) % vocabulary).collect();
        for kv_type in KvType::ALL {
            let mut expected = None;
            for isa in available() {
                for threads in [1, 2, 4] {
                    let compute = Compute::new(isa, threads).unwrap();
                    for chunk in [1, 7, 64, 512] {
                        let found = digest(&logits(&model, &compute, kv_type, &tokens, chunk));
                        let expected = *expected.get_or_insert(found);
                        assert_eq!(
                            found, expected,
                            "{name}, kv {kv_type}, {isa}, {threads} threads, chunks of {chunk}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_sequences_logits_do_not_depend_on_its_neighbours() {
    let compute = Compute::new(Isa::best(), 2).unwrap();
    for (name, checkpoint) in models() {
        let model = Model::load(&checkpoint, &compute, &mut |_| {}).unwrap();
        let vocabulary = model.config().vocabulary;
        for batch in [3usize, 16] {
            let sequences: Vec<Vec<u32>> = (0..batch)
                .map(|s| (0..70 + s * 3).map(|i| ((i * 31 + s * 17 + 5) % vocabulary) as u32).collect())
                .collect();
            let mut cache = model.new_cache(KvType::F16, batch * 2).unwrap();
            // Interleaved blocks.
            let tables: Vec<[u32; 2]> = (0..batch as u32).map(|s| [s, s + batch as u32]).collect();
            let (mut workspace, mut together) = (Workspace::default(), Vec::new());
            let mut found = vec![Vec::new(); batch];
            // Each sequence goes on by chunks of its own length, so steps mix prompts and single tokens.
            let mut done = vec![0; batch];
            while done.iter().zip(&sequences).any(|(done, tokens)| *done < tokens.len()) {
                let mut members = Vec::new();
                let mut chunks = Vec::new();
                for (s, tokens) in sequences.iter().enumerate() {
                    let count = (1 + s * 5 % 13).min(tokens.len() - done[s]);
                    if count > 0 {
                        let tokens = &tokens[done[s]..done[s] + count];
                        chunks.push(Chunk { tokens, start: done[s], blocks: &tables[s], logits: LogitRows::All });
                        members.push((s, count));
                    }
                }
                model.forward(&compute, &mut cache, &chunks, &mut workspace, &mut together);
                let mut rest = &together[..];
                for (s, count) in members {
                    let (own, others) = rest.split_at(count * vocabulary);
                    found[s].extend_from_slice(own);
                    rest = others;
                    done[s] += count;
                }
            }
            for (s, tokens) in sequences.iter().enumerate() {
                let alone = logits(&model, &compute, KvType::F16, tokens, usize::MAX);
                assert_eq!(digest(&found[s]), digest(&alone), "{name}, sequence {s} of {batch}");
            }
        }
    }
}
