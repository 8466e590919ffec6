//! Predictions compared: by figures that another program worked out, and the same bits on any number of threads.

use freehold_engine::{EvaluateError, Windows, calibrate, compare, perplexity};
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, Isa, KvType};
use freehold_model::Model;
use serde_json::Value;
use std::path::Path;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data");

fn load(name: &str, compute: &Compute) -> Model {
    let checkpoint = Checkpoint::open(&Path::new(DATA).join("golden").join(name)).unwrap();
    Model::load(&checkpoint, compute, &mut |_| {}).unwrap()
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(Path::new(DATA).join(path)).unwrap()).unwrap()
}

fn tokens() -> Vec<u32> {
    let golden = read("golden/llama/golden.json");
    golden["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn figures_are_those_of_another_program() {
    let tokens = tokens();
    let windows = Windows { tokens: &tokens, bos: Some(1), context: 8 };
    let expected = read("imatrix/comparison.json");
    let mut first = None;
    for threads in [1, 2, 3] {
        let compute = Compute::new(Isa::best(), threads).unwrap();
        let [llama, qwen] = ["llama", "qwen3_moe"].map(|name| load(name, &compute));
        let found = compare([&llama, &qwen], &compute, KvType::F32, windows, &mut |_, _| ()).unwrap().unwrap();
        assert_eq!(*first.get_or_insert(found), found, "{threads} threads");
        assert_eq!(found.tokens as u64, expected["tokens"].as_u64().unwrap());
        for (what, found, expected) in [
            ("perplexity", found.perplexity[0], &expected["perplexity"][0]),
            ("the other's", found.perplexity[1], &expected["perplexity"][1]),
            ("mean", found.divergence_mean, &expected["divergence_mean"]),
            ("99 of 100", found.divergence_99, &expected["divergence_max"]),
            ("greatest", found.divergence_max, &expected["divergence_max"]),
            ("same", found.same_top, &expected["same_top"]),
        ] {
            let expected = expected.as_f64().unwrap();
            assert!((found - expected).abs() <= 1e-5 * expected, "{what}: {found} for {expected}");
        }

        let alone = perplexity(&qwen, &compute, KvType::F32, windows, &mut |_, _| true).unwrap().unwrap();
        assert_eq!(alone, (found.perplexity[1], found.tokens));
        let itself = compare([&llama, &llama], &compute, KvType::F32, windows, &mut |_, _| ()).unwrap().unwrap();
        assert_eq!((itself.divergence_mean, itself.divergence_max, itself.same_top), (0.0, 0.0, 1.0));
    }
}

#[test]
fn texts_that_are_too_short_or_of_another_model() {
    let compute = Compute::new(Isa::best(), 1).unwrap();
    let model = load("llama", &compute);
    let tokens = tokens();
    let compared = |tokens: &[u32], context| {
        let windows = Windows { tokens, bos: None, context };
        compare([&model, &model], &compute, KvType::F32, windows, &mut |_, _| ())
            .map(|found| found.map(|found| found.tokens))
    };
    for (count, context, expected) in
        [(0, 8, None), (7, 8, None), (8, 8, Some(3)), (23, 8, Some(6)), (24, 0, None), (24, 2, None), (3, 3, Some(1))]
    {
        assert_eq!(compared(&tokens[..count], context).unwrap(), expected, "{count} tokens in windows of {context}");
    }
    assert!(matches!(compared(&tokens, 129), Err(EvaluateError::ContextLengthExceeded { tokens: 129, .. })));
    assert!(matches!(compared(&[320; 8], 8), Err(EvaluateError::UnknownToken { id: 320, .. })));

    let calibrated = |tokens: &[u32], context| {
        let windows = Windows { tokens, bos: Some(1), context };
        let found = calibrate(&model, &compute, KvType::F16, windows, "text", &mut |_, _| ());
        found.map(|found| found.map(|found| (found.chunk_count(), found.chunk_size(), found.datasets().to_vec())))
    };
    assert_eq!(calibrated(&tokens[..7], 8).unwrap(), None);
    assert_eq!(calibrated(&tokens, 10).unwrap(), Some((2, 10, vec!["text".to_owned()])));
    assert!(matches!(calibrated(&[320; 8], 8), Err(EvaluateError::UnknownToken { id: 320, .. })));
}
