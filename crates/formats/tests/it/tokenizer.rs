//! Whole vocabularies: the ids of other implementations, the way back to text, and what a hostile one may cost.

use crate::allocator::within_limit;
use crate::gguf_builder::{ARRAY, Builder, STRING, array, string};
use crate::vocabulary::{alphabet, piece_lengths};
use flate2::read::GzDecoder;
use freehold_formats::{Decoder, Gguf, PreTokenizer, SpecialTokens, Tokenizer};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::sync::{Arc, LazyLock};
use unicode_normalization::UnicodeNormalization;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tokenizers");

fn gguf(name: &str) -> Gguf {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(format!("{FOLDER}/{name}.gguf.gz")).unwrap()).read_to_end(&mut bytes).unwrap();
    Gguf::from_bytes(bytes).unwrap()
}

static GPT2: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(Tokenizer::from_gguf(&gguf("gpt-2")).unwrap()));
static PHI3: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(Tokenizer::from_gguf(&gguf("phi-3")).unwrap()));
static BERT: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(Tokenizer::from_gguf(&gguf("bert-bge")).unwrap()));
static QWEN2: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(Tokenizer::from_gguf(&gguf("qwen2")).unwrap()));

const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The lines of `golden.jsonl`: texts and what the Python library `tokenizers` makes of them.
fn goldens() -> Vec<Value> {
    let lines = fs::read_to_string(format!("{FOLDER}/golden.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers<T: DeserializeOwned>(list: &Value) -> Vec<T> {
    serde_json::from_value(list.clone()).unwrap()
}

fn decoded(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    let mut decoder = Decoder::new(Arc::clone(tokenizer), true);
    let text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text + &decoder.finish()
}

#[test]
fn published_cases() {
    let texts = fs::read_to_string(format!("{FOLDER}/gpt-2.inp")).unwrap();
    let texts = texts.strip_suffix("\n__ggml_vocab_test__\n").unwrap();
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    for (name, tokenizer) in [("gpt-2", &*GPT2), ("qwen2", &*QWEN2), ("phi-3", &*PHI3), ("bert-bge", &*BERT)] {
        let ids = fs::read_to_string(format!("{FOLDER}/{name}.out")).unwrap();
        assert_eq!(texts.len(), ids.lines().count());
        for (text, ids) in texts.iter().zip(ids.lines()) {
            let expected: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, SpecialTokens::AsText).unwrap(), expected, "{name}: {text:?}");
            // BERT keeps neither capitals nor white space.
            if name != "bert-bge" {
                assert_eq!(decoded(tokenizer, &expected), *text, "{name}");
            }
        }
    }
}

#[test]
fn texts_are_cut_as_the_regular_expressions_cut_them() {
    for case in goldens() {
        let text = case["text"].as_str().unwrap();
        for (name, rule) in [("gpt2", "gpt-2"), ("llama3", "llama3"), ("qwen2", "qwen2"), ("smollm", "smollm")] {
            let lengths = piece_lengths(&PreTokenizer::named(rule).unwrap(), text);
            assert_eq!(lengths, numbers::<usize>(&case[name]), "{name}: {text:?}");
        }
    }
}

#[test]
fn texts_get_the_ids_of_the_reference() {
    for case in goldens() {
        let text = case["text"].as_str().unwrap();
        for (name, tokenizer) in [("gpt2_ids", &*GPT2), ("qwen2_ids", &*QWEN2)] {
            let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
            assert_eq!(ids, numbers::<u32>(&case[name]), "{name}: {text:?}");
        }
    }
}

#[test]
fn a_whole_tokenizer_json_gives_the_ids_of_the_reference() {
    let file = gguf("qwen2");
    let tokens = file.metadata().strings("tokenizer.ggml.tokens").unwrap();
    let kinds = file.metadata().i32s("tokenizer.ggml.token_type").unwrap();
    let vocab: Map<String, Value> = tokens.iter().zip(0u32..).map(|(token, id)| (token.into(), id.into())).collect();
    let merges: Vec<&str> = file.metadata().strings("tokenizer.ggml.merges").unwrap().iter().collect();
    let added = (0..tokens.len()).filter(|&id| kinds[id] != 1);
    let added: Vec<Value> =
        added.map(|id| json!({"id": id, "content": tokens.get(id), "special": kinds[id] == 3})).collect();
    let split = json!({"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": false});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let json = json!({
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
    .to_string();
    let tokenizer = within_limit(json.len(), || Tokenizer::from_hugging_face(json.as_bytes(), None, None).unwrap());
    for case in goldens() {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(ids, numbers::<u32>(&case["qwen2_ids"]), "{text:?}");
    }
}

#[test]
fn tokens_and_their_names() {
    assert_eq!(GPT2.vocabulary_size(), 50257);
    assert_eq!(GPT2.id_of("Ġhello"), Some(23748));
    assert_eq!(GPT2.token_text(23748), Some("Ġhello"));
    assert_eq!(GPT2.token_bytes(23748), Some(&b" hello"[..]));
    assert_eq!(GPT2.token_bytes(50256), Some(&b"<|endoftext|>"[..]));
    assert_eq!((GPT2.token_text(50257), GPT2.token_bytes(u32::MAX), GPT2.id_of("no such token")), (None, None, None));
    assert_eq!((GPT2.bos(), GPT2.eos(), GPT2.adds_bos()), (Some(50256), Some(50256), false));
    assert_eq!(GPT2.end_of_generation(), [50256]);
    assert_eq!(QWEN2.end_of_generation(), [151643, 151645]);
}

proptest! {
    #[test]
    fn an_encoding_decodes_to_the_text(text in "(\\PC|[ a-z0-9'\\n\\r\\t]|<\\|im_end\\|>){0,60}") {
        for mode in [SpecialTokens::Parse, SpecialTokens::AsText] {
            prop_assert_eq!(decoded(&GPT2, &GPT2.encode(&text, mode).unwrap()), text.as_str());
        }
        // Qwen2 composes.
        let composed: String = text.nfc().collect();
        prop_assert_eq!(decoded(&QWEN2, &QWEN2.encode(&text, SpecialTokens::AsText).unwrap()), composed);
    }
}

/// Reads a tokenizer of the single bytes and `tokens`, within the limit of memory.
fn read(tokens: impl Iterator<Item = String>, merges: impl Iterator<Item = String>) -> Result<usize, String> {
    let strings = |texts: &mut dyn Iterator<Item = String>| {
        let (mut count, mut elements) = (0, Vec::new());
        for text in texts {
            elements.extend(string(text));
            count += 1;
        }
        array(STRING, count, &elements)
    };
    let file = Builder::sound()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .key("tokenizer.ggml.tokens", ARRAY, strings(&mut alphabet().into_iter().chain(tokens)))
        .key("tokenizer.ggml.merges", ARRAY, strings(&mut { merges }))
        .build();
    within_limit(file.len(), || {
        let tokenizer = Tokenizer::from_gguf(&Gguf::from_bytes(file).unwrap());
        tokenizer.map(|tokenizer| tokenizer.vocabulary_size()).map_err(|error| error.to_string())
    })
}

#[test]
fn the_largest_vocabularies_stay_within_the_limit_of_memory() {
    const MAX: usize = 1 << 20;
    let pairs = |count: usize| (0..count).map(|pair| [pair >> 10, pair & 0x3FF].map(|number| format!("{number:x}~")));
    let tokens = |count: usize| (0..count).map(|number| format!("{number:x}~"));
    let joined = |count: usize| pairs(count).map(|pair| pair.concat());
    assert_eq!(read(tokens(MAX - 256), std::iter::empty()), Ok(MAX));
    assert!(read(tokens(MAX - 255), std::iter::empty()).unwrap_err().contains("there are 1048577"));
    // Half a million merges, all different.
    let half = MAX / 2;
    let merges = |count: usize| pairs(count).map(|pair| pair.join(" "));
    assert_eq!(read(tokens(1 << 10).chain(joined(half)), merges(half)), Ok(256 + (1 << 10) + half));
    let same = |count: usize| (0..count).map(|_| "0 ~".to_owned());
    assert_eq!(read(["0~".to_owned()].into_iter(), same(MAX)), Ok(257));
    assert!(read(["0~".to_owned()].into_iter(), same(MAX + 1)).unwrap_err().contains("there are 1048577"));
}
