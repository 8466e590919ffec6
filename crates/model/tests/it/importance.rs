//! What goes into matrices: the sums of an independent program, and the same bits however the tokens come.

use crate::golden::{GOLDENS, golden};
use freehold_formats::{Checkpoint, Gguf, Importance, ImportanceMatrix};
use freehold_kernels::{Compute, Isa, KV_BLOCK, KvType};
use freehold_model::{Chunk, Conversion, Encoding, LogitRows, Mix, Model, Quantization, Workspace};
use std::collections::BTreeMap;
use std::path::Path;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data");

/// What goes in while the model reads the tokens `chunk` at a time.
fn collected(checkpoint: &Checkpoint, compute: &Compute, tokens: &[u32], chunk: usize) -> BTreeMap<String, Importance> {
    let model = Model::load(checkpoint, compute, &mut |_| {}).unwrap();
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK) as u32).collect();
    let mut cache = model.new_cache(KvType::F32, blocks.len()).unwrap();
    let mut workspace = Workspace::collecting();
    for (index, part) in tokens.chunks(chunk).enumerate() {
        // Rows of logits or none: what goes into the head is not summed up.
        let wanted = if index == 0 { LogitRows::All } else { LogitRows::None };
        let part = Chunk { tokens: part, start: index * chunk, blocks: &blocks, logits: wanted };
        model.forward(compute, &mut cache, &[part], &mut workspace, &mut Vec::new());
    }
    workspace.importance().unwrap()
}

#[test]
fn sums_are_those_of_another_program() {
    let compute = Compute::new(Isa::best(), 2).unwrap();
    for name in ["llama", "qwen3_moe"] {
        let golden = golden(name);
        let found = collected(&golden.checkpoint, &compute, &golden.tokens, usize::MAX);
        let file = Gguf::open(&Path::new(DATA).join(format!("imatrix/{name}.gguf"))).unwrap();
        let expected = ImportanceMatrix::from_gguf(&file).unwrap();
        assert!(found.keys().map(String::as_str).eq(expected.tensors().map(|(name, _)| name)), "{name}");
        for (tensor, expected) in expected.tensors() {
            let found = &found[tensor];
            assert_eq!(found.unvisited(), expected.unvisited(), "{name}, {tensor}");
            for (found, expected) in found.means().iter().zip(expected.means()) {
                assert!((found - expected).abs() <= 1e-5 * expected, "{name}, {tensor}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn no_bit_depends_on_threads_chunks_or_container() {
    let tokens: Vec<u32> = (0..100).map(|index| (index * 37 + 5) % 320).collect();
    for name in ["llama", "qwen3_moe", "qwen2_moe", "gpt_oss"] {
        let folder = golden(name).checkpoint;
        let collected = |threads: usize, chunk: usize, checkpoint: &Checkpoint| {
            collected(checkpoint, &Compute::new(Isa::best(), threads).unwrap(), &tokens, chunk)
        };
        let expected = collected(1, usize::MAX, &folder);
        for (threads, chunk) in [(1, 1), (1, 7), (2, usize::MAX), (3, 64), (2, 33)] {
            assert!(collected(threads, chunk, &folder) == expected, "{name}: {threads} threads, chunks of {chunk}");
        }
        if name != "llama" {
            let file = Checkpoint::open(&Path::new(DATA).join(format!("gguf/{name}.gguf"))).unwrap();
            assert!(collected(2, 10, &file) == expected, "{name}: its GGUF file");
        }
    }
}

#[test]
fn every_matrix_of_every_architectures_layers_is_known() {
    let compute = Compute::new(Isa::best(), 2).unwrap();
    for name in GOLDENS {
        let golden = golden(name);
        let tensors = collected(&golden.checkpoint, &compute, &golden.tokens, usize::MAX);
        let importance = ImportanceMatrix::new(tensors, Vec::new(), 1, 24);
        let quantization = Quantization {
            mix: Mix::named("q8_0").unwrap(),
            choice: &|_| None,
            importance: Some(&importance),
            requantize: false,
        };
        let mut ignored = |_| {};
        let encoding = Encoding::Quantized(quantization);
        let conversion = Conversion::new(&golden.checkpoint, name, encoding, &compute, &mut ignored).unwrap();
        let has_head = golden.checkpoint.tensor("lm_head.weight").is_some();
        // The embedding, and the head where it is another.
        assert_eq!(conversion.without_importance(), 1 + usize::from(has_head), "{name}");
    }
}
