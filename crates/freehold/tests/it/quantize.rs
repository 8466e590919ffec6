//! `freehold quantize`: a smaller file that runs.

use crate::program::{Home, TINY};
use serde_json::json;
use std::fs;

#[test]
fn a_file_becomes_smaller_and_runs() {
    let home = Home::new();
    fs::copy(TINY, home.path("tiny.gguf")).unwrap();
    // Its matrices are quantised already.
    let quantize = ["quantize", "tiny.gguf", "small.gguf", "--requantize", "--type"];
    home.run(&[&quantize[..], &["Q8_0"]].concat()).succeeded();
    let error = home.run(&[&quantize[..], &["q8_0"]].concat()).failed(2);
    assert!(error.contains("small.gguf is there already"), "{error}");
    home.run(&[&quantize[..], &["q8_0", "--force", "--json"]].concat()).succeeded();
    let error = home.run(&["quantize", "small.gguf", "smaller.gguf", "--type", "q4_0"]).failed(1);
    assert!(error.contains("is Q8_0 already"), "{error}");
    assert!(!home.path("smaller.gguf").exists());
    home.run(&["quantize", "small.gguf", "smaller.gguf", "--type", "q4_0", "--requantize"]).succeeded();
    let size = |name: &str| fs::metadata(home.path(name)).unwrap().len();
    assert!(size("smaller.gguf") < size("small.gguf"));
    home.run(&["logits", "file:smaller.gguf", "--tokens", "1,2,3", "--digest-only"]).succeeded();
    assert!(!home.path("small.gguf.partial").exists() && !home.path("smaller.gguf.partial").exists());
}

#[test]
fn importance_is_collected_kept_and_read() {
    let home = Home::new();
    fs::copy(TINY, home.path("tiny.gguf")).unwrap();
    home.file("calibration.txt", "The ferry left the island at ten past six. ".repeat(60));
    home.file("short.txt", "The ferry.");
    let quantize = |file: &str, options: &[&str]| {
        let given = ["quantize", "tiny.gguf", file, "--type", "q4_0", "--requantize", "--json"];
        home.run(&[&given[..], options].concat())
    };
    quantize("plain.gguf", &[]).succeeded();
    let calibrate = ["--calibrate", "calibration.txt", "--save-imatrix", "kept.gguf", "--threads", "2"];
    let first = quantize("first.gguf", &calibrate).json();
    assert_eq!(first["importance"]["datasets"], json!(["calibration.txt"]));
    let second = quantize("second.gguf", &["--imatrix", "kept.gguf", "--threads", "1"]).json();
    assert_eq!(first["importance"], second["importance"]);
    let bytes = |name: &str| fs::read(home.path(name)).unwrap();
    assert!(bytes("first.gguf") == bytes("second.gguf"), "the same, collected or read");
    assert!(bytes("first.gguf") != bytes("plain.gguf"));
    let shown = home.run(&["quantize", "first.gguf", "again.gguf", "--type", "q8_0", "--requantize", "--json"]).json();
    assert_eq!(shown["importance"], json!(null));

    for (options, code, expected) in [
        (&["--calibrate", "calibration.txt", "--imatrix", "kept.gguf"][..], 2, "cannot be used with"),
        (&["--save-imatrix", "other.gguf"], 2, "--calibrate"),
        (&calibrate[..], 2, "kept.gguf is there already"),
        (&["--calibrate", "short.txt"], 1, "short.txt has"),
        (&["--calibrate", "none.txt"], 1, "none.txt cannot be read"),
        (&["--imatrix", "tiny.gguf"], 1, "the file is no importance matrix"),
        (&["--imatrix", "short.txt"], 1, "does not begin with the letters GGUF"),
    ] {
        let error = quantize("never.gguf", options).failed(code);
        assert!(error.contains(expected), "{error}");
        assert!(!home.path("never.gguf").exists());
    }
}

#[test]
fn types_of_tensors_by_hand() {
    let home = Home::new();
    fs::copy(TINY, home.path("tiny.gguf")).unwrap();
    let quantize = |choices: &[&str]| {
        let given = ["quantize", "tiny.gguf", "out.gguf", "--type", "q4_0", "--requantize", "--force", "--json"];
        let choices = choices.iter().flat_map(|choice| ["--tensor-type", *choice]);
        home.run(&given.into_iter().chain(choices).collect::<Vec<_>>())
    };
    let count = |choices: &[&str], dtype: &str| {
        let tensors = &quantize(choices).json()["tensors"];
        let found = tensors.as_array().unwrap().iter().find(|tensor| tensor["dtype"] == dtype);
        found.map_or(0, |found| found["count"].as_u64().unwrap())
    };
    let layers = count(&["attn_output=q5_1"], "Q5_1");
    assert!(layers >= 2);
    // The first that finds a name counts.
    assert_eq!(count(&[r"blk\.0\.attn=Q5_0", "attn_output=q5_1"], "Q5_1"), layers - 1);
    for (choice, code, expected) in [
        ("attn_output", 2, "PATTERN=TYPE"),
        ("attn_(=q4_0", 2, "is no regular expression"),
        ("attn_output=q9_0", 2, "is none of the types: F32, F16"),
        ("no_such_tensor=q4_0", 2, "--tensor-type no_such_tensor=q4_0 is of no matrix"),
        // What is no matrix stays as it is.
        ("attn_norm=q4_0", 2, "is of no matrix"),
    ] {
        let error = quantize(&[choice]).failed(code);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_report_says_what_it_cost() {
    let home = Home::new();
    fs::copy(TINY, home.path("tiny.gguf")).unwrap();
    home.file("text.txt", "The ferry left the island at ten past six. ".repeat(60));
    let quantize = ["quantize", "tiny.gguf", "small.gguf", "--type", "q4_0", "--requantize", "--force", "--report"];
    let report = home.run(&[&quantize[..], &["--json"]].concat()).json()["report"].clone();
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    for model in ["source", "result"] {
        for rate in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
            assert!(number(&report[model][rate]) > 0.0, "{report}");
        }
    }
    assert!(number(&report["result"]["bits_per_weight"]) < number(&report["source"]["bits_per_weight"]), "{report}");
    let divergence = &report["kl_divergence"];
    assert!(0.0 < number(&divergence["mean"]) && number(&divergence["mean"]) < number(&divergence["percentile_99"]));
    assert!(number(&divergence["percentile_99"]) <= number(&divergence["max"]), "{report}");
    assert!((0.0..=1.0).contains(&number(&report["same_top_token"])), "{report}");

    // As the command of that name has it.
    let report = home.run(&[&quantize[..], &["--json", "--report-text", "text.txt"]].concat()).json()["report"].clone();
    let perplexity = ["perplexity", "file:small.gguf", "--file", "text.txt", "--json"];
    let perplexity = home.run(&perplexity).json();
    assert_eq!(report["result"]["perplexity"], perplexity["perplexity"]);
    assert_eq!((&report["tokens"], &report["numerics"]), (&perplexity["tokens"], &perplexity["numerics"]));

    let shown = home.run(&quantize).succeeded();
    assert!(shown.contains("Perplexity") && shown.contains("KL divergence") && shown.contains("Try it:"), "{shown}");
    home.file("short.txt", "The ferry.");
    let error = home.run(&[&quantize[..], &["--report-text", "short.txt"]].concat()).failed(1);
    assert!(error.contains("short.txt has") && home.path("small.gguf").exists(), "{error}");
}
