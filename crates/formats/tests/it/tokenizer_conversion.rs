//! Tokenizers of folders as GGUF keys: the same ids, or a refusal that names what GGUF has no words for.

use freehold_formats::tokenizer::{Vocabulary, VocabularyModel};
use freehold_formats::{Config, Metadata, SpecialTokens, Tokenizer, Value};
use serde_json::{Map, Value as Json, json};
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

/// SentencePiece's BPE as transformers writes it to `tokenizer.json`: a merge for each way to make a token of two, in the
/// order of the tokens' scores.
fn extracted() -> Json {
    let own = Vocabulary::from_sentencepiece(&fs::read(format!("{FOLDER}/sp-bpe.model")).unwrap(), None, None).unwrap();
    let VocabularyModel::ScoredBpe { scores } = &own.model else { panic!("it is BPE") };
    let vocab: Map<String, Json> =
        own.tokens.iter().zip(0u32..).map(|(text, id)| (text.to_owned(), Json::from(id))).collect();
    let mut by_score: Vec<(usize, &str)> = own.tokens.iter().enumerate().collect();
    by_score.sort_by(|left, right| scores[right.0].total_cmp(&scores[left.0]));
    let is_plain = |text: &str| {
        !text.starts_with("<0x") && vocab.get(text).is_some_and(|id| own.added.iter().all(|token| id != token.id))
    };
    let mut merges = Vec::new();
    for (_, text) in by_score.into_iter().filter(|(_, text)| is_plain(text)) {
        let halves = text.char_indices().map(|(place, _)| text.split_at(place));
        merges.extend(
            halves.filter(|(left, right)| is_plain(left) && is_plain(right)).map(|(left, right)| json!([left, right])),
        );
    }
    assert!(merges.len() > 100);
    let mut json = json_of("llama.json");
    let added = own.added.iter().map(|token| {
        json!({"id": token.id, "content": token.text, "special": token.special, "lstrip": false, "rstrip": false,
            "normalized": false, "single_word": false})
    });
    json["added_tokens"] = added.collect();
    json["model"]["vocab"] = vocab.into();
    json["model"]["merges"] = merges.into();
    json
}

#[test]
fn ranked_merges_of_sentencepiece_become_scores() {
    // As Llama's, and as Gemma's, which puts nothing in front and cuts where no space is left.
    let llama = extracted();
    let mut gemma = extracted();
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        gemma[part] = json_of("gemma.json")[part].take();
    }
    for (json, prefix) in [(llama, true), (gemma, false)] {
        let own = vocabulary(&json);
        let (metadata, tokenizer) = converted(&own, "", own.tokens.len()).unwrap();
        assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), "llama");
        assert_eq!(metadata.bool("tokenizer.ggml.add_space_prefix").unwrap(), prefix);
        let original = Tokenizer::new(own).unwrap();
        for line in fs::read_to_string(format!("{FOLDER}/sp-bpe.model.ids.jsonl")).unwrap().lines() {
            let case: Json = serde_json::from_str(line).unwrap();
            let text = case["text"].as_str().unwrap();
            let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, SpecialTokens::Parse).unwrap();
            assert_eq!(ids(&tokenizer), ids(&original), "{text:?}");
        }
    }
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
        ("gpt-4o.json", "gpt2", "gpt-4o"),
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
    let of = |pointer: &str, value: Json| {
        let mut json = extracted();
        *json.pointer_mut(pointer).unwrap() = value;
        json
    };
    // Whether merges are ignored makes a difference where some tokens are made by none.
    let mut ignoring = changed("gpt-4o.json", "/model/ignore_merges", true.into());
    assert!(converted(&vocabulary(&ignoring), "", 2000).is_ok());
    ignoring["model"]["merges"].as_array_mut().unwrap().truncate(3);
    let mut swapped = extracted();
    swapped["model"]["merges"].as_array_mut().unwrap().truncate(3);
    let mut first = extracted();
    (first["normalizer"], first["pre_tokenizer"]) = (Json::Null, json_of("mistral.json")["pre_tokenizer"].take());
    let cases = [
        (first, "pre_tokenizer: Metaspace"),
        (json_of("llama.json"), "merges"),
        (json_of("roberta.json"), "pre_tokenizer: GGUF has no words for this way to cut text"),
        (json_of("unigram.json"), "normalizer"),
        (changed("gpt-4o.json", "/normalizer", json!({"type": "NFC"})), "with this normaliser"),
        (ignoring, "this way to cut text"),
        (of("/normalizer", json!({"type": "NFKC"})), "normalizer: GGUF has no words for these steps"),
        (of("/pre_tokenizer", json!({"type": "Digits"})), "pre_tokenizer: GGUF has no words for these"),
        (of("/model/byte_fallback", false.into()), "unknown characters"),
        (of("/model/ignore_merges", true.into()), "such a model with such tokens"),
        (of("/added_tokens/2/rstrip", true.into()), "how `</s>` is found"),
        (of("/added_tokens/2/normalized", true.into()), "how `</s>` is found"),
        (swapped, "merges: GGUF has no words for tokens that are not merged"),
        (changed("bert.json", "/decoder/cleanup", false.into()), "words without `cleanup`"),
        (changed("bert.json", "/model/max_input_chars_per_word", 50.into()), "model"),
        (changed("bert.json", "/normalizer/handle_chinese_chars", false.into()), "normalizer"),
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
    let mut json = extracted();
    let id = json["model"]["vocab"].as_object().unwrap().len();
    let chat = json!({"id": id, "content": "<|user|>", "special": true, "lstrip": false, "rstrip": true,
        "normalized": false, "single_word": false});
    json["added_tokens"].as_array_mut().unwrap().push(chat);
    let own = vocabulary(&json);
    assert!(converted(&own, "Another", 2000).unwrap_err().contains("how `<|user|>` is found"));
    // Of Phi-3, so do its other special tokens.
    let error = converted(&own, "Phi-3-mini", 2000).unwrap_err();
    assert!(error.contains("how `</s>` is found"), "{error}");
}
