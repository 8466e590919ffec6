//! `freehold quantize`: a smaller file that runs.

use crate::program::{Home, TINY};
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
