//! Encodes texts with tokenizers that cannot be in this repository, and compares with what others made of them.
//!
//! `cargo run --release -p freehold-formats --example tokenizer_pairs -- FILE...`, where each FILE is one of
//!
//! - a vocabulary in GGUF: the texts of `tests/data/tokenizers/gpt-2.inp` are encoded, and the SHA-256 of the ids
//!   compared with the one in `tests/data/tokenizers/digests.txt` that has the file's name. Where a file with `.out`
//!   added to the name lies beside it, its ids are compared one by one;
//! - a `tokenizer.json`, `tokenizer.model` or `vocab.txt`: a file with `.ids.jsonl` added to its name is read, as
//!   `scripts/tokenizer_ids.py` writes it, with a `text` and its `ids` on each line.

use freehold_formats::{Gguf, SpecialTokens, Tokenizer};
use serde_json::Value;
use std::fs;
use std::path::Path;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tokenizers");
const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

fn main() {
    let mut is_equal = true;
    for file in std::env::args().skip(1) {
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let name = Path::new(&file).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let tokenizer = if name.ends_with(".gguf") {
            Gguf::from_bytes(bytes).and_then(|gguf| Tokenizer::from_gguf(&gguf))
        } else if name.ends_with(".model") {
            Tokenizer::from_sentencepiece(&bytes, None, None)
        } else if name.ends_with(".txt") {
            Tokenizer::from_word_list(&bytes, None)
        } else {
            Tokenizer::from_hugging_face(&bytes, None, None)
        };
        let tokenizer = match tokenizer {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                println!("{file}: {error}");
                is_equal = false;
                continue;
            }
        };
        is_equal &= if name.ends_with(".gguf") { digest(&file, name, &tokenizer) } else { ids(&file, &tokenizer) };
    }
    std::process::exit(i32::from(!is_equal));
}

fn encode(tokenizer: &Tokenizer, text: &str, special: SpecialTokens) -> Vec<u32> {
    tokenizer.encode(text, special).expect("a text below the limit")
}

fn digest(file: &str, name: &str, tokenizer: &Tokenizer) -> bool {
    let texts = fs::read_to_string(format!("{DATA}/gpt-2.inp")).expect("the texts");
    let texts: Vec<&str> = texts.strip_suffix(SEPARATOR).expect("a separator at the end").split(SEPARATOR).collect();
    let lines = texts.iter().map(|text| {
        let ids = encode(tokenizer, text, SpecialTokens::AsText);
        ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n"
    });
    let lines: Vec<String> = lines.collect();
    if let Ok(expected) = fs::read_to_string(format!("{file}.out")) {
        for (text, (line, expected)) in texts.iter().zip(lines.iter().zip(expected.lines())) {
            if line.trim_end() != expected.trim() {
                println!("{text:?}\n  {}\n  {}, expected", line.trim_end(), expected.trim());
            }
        }
    }
    let digest = freehold_base::Digest::of(lines.concat().as_bytes()).hex();
    let digests = fs::read_to_string(format!("{DATA}/digests.txt")).unwrap_or_default();
    let expected = digests.lines().find_map(|line| line.strip_suffix(name)).map(str::trim);
    let is_equal = expected.is_some_and(|expected| expected == digest);
    println!("{digest}  {name} ({} texts, {})", texts.len(), if is_equal { "equal" } else { "DIFFERENT or not known" });
    is_equal
}

fn ids(file: &str, tokenizer: &Tokenizer) -> bool {
    let cases = fs::read_to_string(format!("{file}.ids.jsonl")).expect("the ids");
    let (mut equal, mut total) = (0, 0);
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let text = case["text"].as_str().expect("a text");
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let ids = encode(tokenizer, text, SpecialTokens::Parse);
        total += 1;
        if ids == expected {
            equal += 1;
        } else if total - equal < 10 {
            let shown: String = text.chars().take(60).collect();
            let first = ids.iter().zip(&expected).take_while(|(left, right)| left == right).count();
            let around = |ids: &[u32]| {
                ids.iter()
                    .skip(first)
                    .take(6)
                    .map(|&id| tokenizer.token_text(id).map(str::to_owned))
                    .collect::<Vec<_>>()
            };
            println!("{shown:?} differs from token {first}\n  {:?}\n  {:?}, expected", around(&ids), around(&expected));
        }
    }
    println!("{file}: {equal} of {total} texts equal");
    equal == total
}
