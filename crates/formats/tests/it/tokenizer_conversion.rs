//! Tokenizers of folders as GGUF keys: the same ids, or a refusal that names what GGUF has no words for.

use freehold_formats::tokenizer::Vocabulary;
use freehold_formats::{Config, Metadata, SpecialTokens, Tokenizer, Value};
use serde_json::{Value as Json, json};
use std::fs;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tokenizers/small");

/// `tokenizer.json` without the tokens that GGUF cannot say how to find: one that takes in white space, and one that is
/// looked for after normalisation.
fn json_of(name: &str) -> Json {
    let mut json: Json = serde_json::from_slice(&fs::read(format!("{FOLDER}/{name}")).unwrap()).unwrap();
    let tokens = json["added_tokens"].as_array_mut().unwrap();
    tokens.retain(|token| token["lstrip"] == false && token["normalized"] == false);
    json
}

fn vocabulary(json: &Json) -> Vocabulary {
    Vocabulary::from_hugging_face(json.to_string().as_bytes(), None, None).unwrap()
}

/// What is read back of a vocabulary.
fn converted(vocabulary: &Vocabulary, name: &str, size: usize) -> Result<(Metadata, Tokenizer), String> {
    let mut keys = vocabulary.gguf_keys(name, size).map_err(|error| error.to_string())?;
    keys.push(("general.name".into(), Value::String(name.into())));
    let metadata = Metadata::from_pairs(keys).unwrap();
    let tokenizer = Tokenizer::new(Vocabulary::from_metadata(&metadata).unwrap()).unwrap();
    Ok((metadata, tokenizer))
}

#[test]
fn converted_tokenizers_give_the_ids_of_the_reference() {
    let cases = [
        ("bert-cased.json", "bert", "default"),
        ("bert.json", "bert", "default"),
        ("bloom.json", "gpt2", "bloom"),
        ("deepseek-v3.json", "gpt2", "deepseek-v3"),
        ("falcon.json", "gpt2", "falcon"),
        ("gemma.json", "llama", ""),
        ("gpt-4o.json", "gpt2", "gpt-4o"),
        ("llama.json", "llama", ""),
        ("sp-bpe.model", "llama", ""),
        ("sp-unigram-bytes.model", "t5", ""),
        ("sp-unigram.model", "t5", ""),
    ];
    for (name, model, pre) in cases {
        let own = match name.ends_with(".json") {
            true => vocabulary(&json_of(name)),
            false => {
                Vocabulary::from_sentencepiece(&fs::read(format!("{FOLDER}/{name}")).unwrap(), None, None).unwrap()
            }
        };
        // Models have more ids than tokens.
        let size = own.tokens.len() + 3;
        let (metadata, tokenizer) = converted(&own, name, size).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), model);
        assert_eq!(metadata.optional_str("tokenizer.ggml.pre").unwrap().unwrap_or_default(), pre);
        assert_eq!(tokenizer.vocabulary_size(), size);
        let original = Tokenizer::new(own).unwrap();
        for line in fs::read_to_string(format!("{FOLDER}/{name}.ids.jsonl")).unwrap().lines() {
            let case: Json = serde_json::from_str(line).unwrap();
            let text = case["text"].as_str().unwrap();
            let special = if name.ends_with(".model") { SpecialTokens::AsText } else { SpecialTokens::Parse };
            let found = tokenizer.encode(text, special).unwrap();
            assert_eq!(found, original.encode(text, special).unwrap(), "{name}: {text:?}");
            // The tokens that were left out are in some of the texts.
            if !text.contains("<strip>") && !text.contains("<Think>") {
                assert_eq!(json!(found), case["ids"], "{name}: {text:?}");
            }
        }
        let special = |tokenizer: &Tokenizer| {
            let ids = [tokenizer.bos(), tokenizer.eos(), tokenizer.unknown(), tokenizer.padding()];
            (ids, tokenizer.adds_bos(), tokenizer.end_of_generation().to_vec())
        };
        assert_eq!(special(&tokenizer), special(&original), "{name}");
    }
}

#[test]
fn what_gguf_has_no_words_for_is_named() {
    let changed = |name: &str, pointer: &str, value: Json| {
        let mut json = json_of(name);
        *json.pointer_mut(pointer).unwrap() = value;
        json
    };
    let mut stripping = json_of("llama.json");
    stripping["added_tokens"][3]["rstrip"] = true.into();
    let normalised = changed("llama.json", "/added_tokens/3/normalized", true.into());
    let mut swapped = json_of("llama.json");
    swapped["model"]["merges"].as_array_mut().unwrap().truncate(3);
    let cases = [
        (json_of("mistral.json"), "pre_tokenizer: Metaspace"),
        (json_of("roberta.json"), "pre_tokenizer: GGUF has no words for this way to cut text"),
        (json_of("unigram.json"), "normalizer"),
        (changed("gpt-4o.json", "/normalizer", json!({"type": "NFC"})), "with this normaliser"),
        (changed("gpt-4o.json", "/model/ignore_merges", true.into()), "this way to cut text"),
        (
            changed("gemma.json", "/normalizer", json!({"type": "NFKC"})),
            "normalizer: GGUF has no words for these steps",
        ),
        (
            changed("gemma.json", "/pre_tokenizer", json!({"type": "Digits"})),
            "pre_tokenizer: GGUF has no words for these",
        ),
        (changed("llama.json", "/model/byte_fallback", false.into()), "unknown characters"),
        (changed("llama.json", "/model/ignore_merges", true.into()), "such a model with such tokens"),
        (changed("bert.json", "/decoder/cleanup", false.into()), "words without `cleanup`"),
        (changed("bert.json", "/model/max_input_chars_per_word", 50.into()), "model"),
        (changed("bert.json", "/normalizer/handle_chinese_chars", false.into()), "normalizer"),
        (stripping, "how `<tool>` is found"),
        (normalised, "how `<tool>` is found"),
        (swapped, "merges: GGUF has no words for tokens that are not merged"),
    ];
    for (json, expected) in cases {
        let error = converted(&vocabulary(&json), "", 2000).err().unwrap_or_else(|| panic!("{expected}"));
        assert!(error.contains("GGUF has no words for") && error.contains(expected), "{expected}: {error}");
    }
    let charsmap = fs::read(format!("{FOLDER}/sp-bpe-nfkc.model")).unwrap();
    let charsmap = Vocabulary::from_sentencepiece(&charsmap, None, None).unwrap();
    assert!(converted(&charsmap, "", 2000).unwrap_err().contains("normalizer"));
    let error = converted(&charsmap, "", 3).unwrap_err();
    assert!(error.contains("but the model has only 3"), "{error}");
}

#[test]
fn tokens_that_end_an_answer_are_named() {
    let of = |ends: Json| {
        let ends =
            Config::parse("generation_config.json", json!({ "eos_token_id": ends }).to_string().as_bytes()).unwrap();
        Vocabulary::from_hugging_face(json_of("gpt-4o.json").to_string().as_bytes(), None, Some(&ends)).unwrap()
    };
    for ends in [json!(5), json!([5, 6]), json!([])] {
        let own = of(ends);
        let (_, tokenizer) = converted(&own, "", own.tokens.len()).unwrap();
        assert_eq!(tokenizer.end_of_generation(), Tokenizer::new(own).unwrap().end_of_generation());
    }
    assert!(converted(&of(json!([5, 6, 7])), "", 2000).unwrap_err().contains("more than two tokens"));
}

#[test]
fn phi3_is_known_by_its_name() {
    let mut json = json_of("llama.json");
    let id = json["model"]["vocab"].as_object().unwrap().len() + 7;
    let chat = json!({"id": id, "content": "<|user|>", "special": true, "lstrip": false, "rstrip": true, "normalized": false, "single_word": false});
    json["added_tokens"].as_array_mut().unwrap().push(chat);
    let own = vocabulary(&json);
    assert!(converted(&own, "Another", 2000).unwrap_err().contains("how `<|user|>` is found"));
    // Of Phi-3, so do its other special tokens.
    let error = converted(&own, "Phi-3-mini", 2000).unwrap_err();
    assert!(error.contains("how `</s>` is found"), "{error}");
}
