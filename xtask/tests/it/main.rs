//! The kept inputs of the fuzz targets, each through the check that the fuzzer runs.
//!
//! `fuzz/corpus` has a folder for each target, with what a long run came to once it was minimised, and whatever was ever
//! found. The checks are those of `fuzz/src`, taken in as modules: what is fuzzed with a nightly compiler is tested with
//! the usual one.

#![allow(dead_code, unreachable_pub, reason = "modules of the fuzz targets and of the tests of freehold-formats")]

#[path = "../../../crates/formats/tests/it/allocator.rs"]
mod allocator;
#[path = "../../../fuzz/src/catalogue.rs"]
mod catalogue;
#[path = "../../../fuzz/src/chat_template.rs"]
mod chat_template;
#[path = "../../../fuzz/src/damage.rs"]
mod damage;
#[path = "../../../fuzz/src/gguf.rs"]
mod gguf;
#[path = "../../../crates/formats/tests/it/gguf_builder.rs"]
mod gguf_builder;
#[path = "../../../fuzz/src/safetensors.rs"]
mod safetensors;
#[path = "../../../fuzz/src/store.rs"]
mod store;
#[path = "../../../fuzz/src/tokenizer.rs"]
mod tokenizer;

use arbitrary::{Arbitrary, Unstructured};
use std::fs;
use std::path::{Path, PathBuf};

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz");

/// Runs `check` on what `libfuzzer-sys` would make of `bytes`. `None` where it would make nothing of them.
fn run<'b, Input: Arbitrary<'b>>(bytes: &'b [u8], check: fn(&Input)) -> Option<()> {
    let enough = bytes.len() >= Input::size_hint(0).0;
    let input = enough.then(|| Input::arbitrary_take_rest(Unstructured::new(bytes)))?;
    check(&input.ok()?);
    Some(())
}

/// What a target does with an input; nothing, where the bytes make none.
type Check = fn(&[u8]) -> Option<()>;

/// Each target and its check. What templates hold is counted for the whole process, so they come first.
const TARGETS: [(&str, Check); 6] = [
    ("chat_template", |bytes| run(bytes, chat_template::check)),
    ("gguf", |bytes| run(bytes, gguf::check)),
    ("safetensors", |bytes| run(bytes, safetensors::check)),
    ("tokenizer", |bytes| run(bytes, tokenizer::check)),
    ("catalogue", |bytes| run(bytes, catalogue::check)),
    ("store", |bytes| run(bytes, store::check)),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_target_is_replayed() {
    let mut targets = TARGETS.map(|(target, _)| format!("{target}.rs"));
    targets.sort();
    let sources = files(&Path::new(FUZZ).join("fuzz_targets"));
    let names: Vec<_> = sources.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, targets);
}

/// One test for all: the memory of a process is measured, and nothing else may run in it.
#[test]
fn kept_inputs_pass_the_checks_of_their_targets() {
    for (target, check) in TARGETS {
        let inputs = files(&Path::new(FUZZ).join("corpus").join(target));
        assert!(!inputs.is_empty(), "fuzz/corpus/{target} is empty: this test would test nothing");
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            // The name goes with the panic that a failing check ends in.
            println!("{}", input.display());
            assert!(check(&bytes).is_some(), "{target} makes nothing of {}: remove it", input.display());
        }
    }
}
