//! Tokenizers as GGUF metadata and as `tokenizer.json`: what is read, and what is refused by which words.

use crate::allocator::within_limit;
use crate::gguf_builder::{ARRAY, BOOL, Builder, F32, I32, STRING, array, string};
use crate::vocabulary::{MERGES, alphabet, texts};
use freehold_formats::{Config, Gguf, SpecialTokens, Tokenizer};
use serde_json::{Value, json};

const ENDOFTEXT: u32 = 256 + MERGES.len() as u32;

fn strings(texts: &[String]) -> Vec<u8> {
    array(STRING, texts.len() as u64, &texts.iter().map(string).collect::<Vec<_>>().concat())
}

fn tokens() -> Vec<String> {
    let merged = MERGES.map(|merge| merge.replace(' ', ""));
    alphabet().into_iter().chain(merged).chain(["<|endoftext|>".into(), "<tool>".into()]).collect()
}

/// A GGUF file with a sound tokenizer, but for the key that `change` replaces.
fn gguf(change: Option<(&str, u32, Vec<u8>)>) -> Vec<u8> {
    let tokens = tokens();
    let mut types = vec![1i32; tokens.len()];
    types[ENDOFTEXT as usize] = 3;
    types[ENDOFTEXT as usize + 1] = 4;
    let types = array(I32, types.len() as u64, &types.iter().flat_map(|kind| kind.to_le_bytes()).collect::<Vec<_>>());
    let mut keys = vec![
        ("tokenizer.ggml.model", STRING, string("gpt2")),
        ("tokenizer.ggml.pre", STRING, string("gpt-2")),
        ("tokenizer.ggml.tokens", ARRAY, strings(&tokens)),
        ("tokenizer.ggml.token_type", ARRAY, types),
        ("tokenizer.ggml.merges", ARRAY, strings(&MERGES.map(str::to_owned))),
    ];
    if let Some((key, kind, value)) = change {
        keys.retain(|(other, ..)| *other != key);
        keys.push((key, kind, value));
    }
    let keys = keys.into_iter().filter(|(_, _, value)| !value.is_empty());
    keys.fold(Builder::sound(), |builder, (key, kind, value)| builder.key(key, kind, value)).build()
}

fn from_gguf(change: Option<(&str, u32, Vec<u8>)>) -> Result<Tokenizer, freehold_formats::Error> {
    let file = gguf(change);
    let bytes = file.len();
    let container = Gguf::from_bytes(file).expect("a sound container");
    within_limit(bytes, || Tokenizer::from_gguf(&container))
}

#[test]
fn gguf_metadata_make_a_tokenizer() {
    let id = |key, id: u32| Some((key, 4, id.to_le_bytes().to_vec()));
    let tokenizer = from_gguf(id("tokenizer.ggml.eos_token_id", ENDOFTEXT)).expect("a sound tokenizer");
    let ids = tokenizer.encode(" the <tool><|endoftext|>", SpecialTokens::Parse).expect("a short text");
    assert_eq!(texts(&tokenizer, &ids), ["Ġthe", "Ġ", "<tool>", "<|endoftext|>"]);
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.adds_bos()), (Some(ENDOFTEXT), None, false));
    assert_eq!(tokenizer.end_of_generation(), [ENDOFTEXT]);
    assert!(tokenizer.is_special(ENDOFTEXT) && !tokenizer.is_special(ENDOFTEXT + 1));
    assert_eq!(tokenizer.special_texts().collect::<Vec<_>>(), ["<|endoftext|>", "<tool>"]);
    let tokenizer = from_gguf(id("tokenizer.ggml.eot_token_id", 7)).expect("a sound tokenizer");
    assert_eq!(tokenizer.end_of_generation(), [7, ENDOFTEXT]);
}

#[test]
fn the_name_of_the_pre_tokenizer_decides_the_rules() {
    let cases = [
        ("gpt-2", &["1", "23"][..], 2),
        ("llama-bpe", &["123"], 2),
        ("llama3", &["123"], 2),
        ("qwen2", &["1", "2", "3"], 1),
        ("deepseek-r1-qwen", &["1", "2", "3"], 2),
        ("smollm", &["1", "2", "3"], 2),
    ];
    for (pre, _, marks) in cases {
        let tokenizer = from_gguf(Some(("tokenizer.ggml.pre", STRING, string(pre)))).expect("a sound tokenizer");
        // Qwen's own composes: e and its accent become one character of two bytes.
        let ids = tokenizer.encode("e\u{301}", SpecialTokens::AsText).expect("a short text");
        assert_eq!(ids.len(), marks + 1, "{pre}");
        // `1 2` is a merge: it applies where numbers are not cut.
        let ids = tokenizer.encode("12", SpecialTokens::AsText).expect("a short text");
        assert_eq!(ids.len(), if matches!(pre, "qwen2" | "deepseek-r1-qwen" | "smollm") { 2 } else { 1 }, "{pre}");
    }
}

#[test]
fn unsound_gguf_tokenizers_are_refused_by_key() {
    let many = |kind: u32, value: &[u8], count: usize| array(kind, count as u64, &value.repeat(count));
    let tokens = tokens().len();
    let duplicate = strings(&[tokens_with("the"), tokens_with("the")].concat());
    let megabyte = strings(&["x".repeat(1 << 20)]);
    let id = |id: u32| id.to_le_bytes().to_vec();
    let cases: [(&str, u32, Vec<u8>, &str); 16] = [
        ("tokenizer.ggml.model", STRING, string("rwkv"), "`rwkv` is not supported yet"),
        ("tokenizer.ggml.model", STRING, string("llama"), "tokenizer.ggml.scores`: it is missing"),
        ("tokenizer.ggml.model", STRING, vec![], "tokenizer.ggml.model`: it is missing"),
        ("tokenizer.ggml.pre", STRING, string("klingon"), "`klingon` is not supported yet"),
        ("tokenizer.ggml.pre", STRING, vec![], "tokenizer.ggml.pre`: it is missing"),
        ("tokenizer.ggml.tokens", ARRAY, strings(&[]), "token_type`: it has 267 values for 0 tokens"),
        ("tokenizer.ggml.tokens", BOOL, vec![1], "an array of strings is needed"),
        ("tokenizer.ggml.tokens", ARRAY, duplicate, "token_type`: it has 267 values for 2 tokens"),
        ("tokenizer.ggml.tokens", ARRAY, megabyte, "token_type`: it has 267 values for 1 tokens"),
        ("tokenizer.ggml.token_type", ARRAY, many(I32, &9i32.to_le_bytes(), tokens), "token 0 has the unknown type 9"),
        ("tokenizer.ggml.token_type", ARRAY, many(I32, &3i32.to_le_bytes(), 3), "it has 3 values for 267 tokens"),
        ("tokenizer.ggml.scores", ARRAY, many(F32, &0f32.to_le_bytes(), 3), "it has 3 values for 267 tokens"),
        ("tokenizer.ggml.merges", ARRAY, strings(&["q x".into()]), "merge 0: `q x` does not name"),
        ("tokenizer.ggml.merges", ARRAY, vec![], "tokenizer.ggml.merges`: it is missing"),
        ("tokenizer.ggml.eos_token_id", 4, id(1 << 31), "eos token id: 2147483648 is outside"),
        ("tokenizer.ggml.bos_token_id", 5, (-1i32).to_le_bytes().to_vec(), "an unsigned integer below 2^32 is needed"),
    ];
    for (key, kind, value, expected) in cases {
        let error = from_gguf(Some((key, kind, value))).expect_err(expected).to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}

fn tokens_with(token: &str) -> Vec<String> {
    vec![token.to_owned()]
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn split(pattern: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]})
}

/// A sound `tokenizer.json`.
fn tokenizer_json() -> Value {
    let vocab: serde_json::Map<String, Value> =
        tokens().into_iter().take(ENDOFTEXT as usize).zip(0u32..).map(|(text, id)| (text, id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [
            {"id": ENDOFTEXT, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": true},
            {"id": ENDOFTEXT + 1, "content": "<tool>", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": true, "special": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": MERGES},
    })
}

fn from_json(json: &Value) -> Result<Tokenizer, freehold_formats::Error> {
    let file = json.to_string();
    within_limit(file.len(), || Tokenizer::from_hugging_face(file.as_bytes(), None, None))
}

/// The file with the value at `pointer` replaced.
fn changed(pointer: &str, value: Value) -> Value {
    let mut json = tokenizer_json();
    *json.pointer_mut(pointer).expect("a part of the file") = value;
    json
}

#[test]
fn tokenizer_json_makes_the_tokenizer_that_gguf_makes() {
    let pairs: Vec<Vec<&str>> = MERGES.iter().map(|merge| merge.split(' ').collect()).collect();
    let in_gguf = from_gguf(None).expect("a sound tokenizer");
    for json in [tokenizer_json(), changed("/model/merges", json!(pairs))] {
        let in_json = from_json(&json).expect("a sound tokenizer");
        for text in [" the  then 12345 we'll", "<tool>re<|endoftext|>", "é 漢 🦙"] {
            let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, SpecialTokens::Parse).expect("a short text");
            assert_eq!(ids(&in_json), ids(&in_gguf), "{text}");
        }
        assert_eq!(in_json.end_of_generation(), in_gguf.end_of_generation());
        assert_eq!(in_json.vocabulary_size(), in_gguf.vocabulary_size());
    }
}

#[test]
fn known_pipelines_are_recognised() {
    let digits = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    ]});
    let qwen2 = LLAMA3.replace("{1,3}", "");
    let spelled =
        LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])");
    let gpt2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let cases = [
        ("/pre_tokenizer", digits, &["1", "2", "1"][..]),
        ("/pre_tokenizer", split(&qwen2), &["1", "2", "1"]),
        ("/pre_tokenizer", split(LLAMA3), &["12", "1"]),
        ("/pre_tokenizer", split(&spelled), &["12", "1"]),
        ("/pre_tokenizer", split(gpt2), &["12", "1"]),
        ("/normalizer", json!({"type": "NFC"}), &["12", "1"]),
        ("/normalizer", json!({"type": "Sequence", "normalizers": []}), &["12", "1"]),
        ("/post_processor", Value::Null, &["12", "1"]),
        ("/model/ignore_merges", json!(true), &["12", "1"]),
    ];
    for (pointer, value, expected) in cases {
        let tokenizer = from_json(&changed(pointer, value)).expect(pointer);
        let ids = tokenizer.encode("121", SpecialTokens::Parse).expect("a short text");
        assert_eq!(texts(&tokenizer, &ids), expected, "{pointer}");
    }
}

#[test]
fn unknown_steps_are_refused_by_name() {
    let cases = [
        ("/pre_tokenizer", split("(?<=a)b"), "`(?<=a)b` is a kind of group that is not read"),
        ("/pre_tokenizer", split("a(?!b)"), "looks ahead"),
        ("/pre_tokenizer", split(r"(a)\1"), r"the expression `(a)\1`: it is not supported: "),
        ("/pre_tokenizer", split("a++b"), "`a++` is a possessive quantifier"),
        ("/pre_tokenizer", split("a*"), "it matches where there is no text"),
        ("/pre_tokenizer", split(r"\p{Klingon}"), r"the expression `\p{Klingon}`: it is not supported: "),
        ("/pre_tokenizer", split("(a{1000}){1000}"), "it is not supported: "),
        ("/pre_tokenizer", split(&"a".repeat(10_000)), "it has 10000 bytes"),
        ("/pre_tokenizer", split(&"(".repeat(5_000)), "it is not supported: "),
        ("/pre_tokenizer", json!({"type": "UnicodeScripts"}), "pre_tokenizer: `UnicodeScripts`"),
        ("/pre_tokenizer", json!({"type": "Metaspace", "replacement": "ab"}), "that is not one character"),
        ("/pre_tokenizer", Value::Null, "`without ByteLevel, and a decoder without ▁`"),
        ("/pre_tokenizer", json!({"type": "Sequence"}), "a Sequence has no list"),
        ("/normalizer", json!({"type": "Nmt"}), "normalizer: `Nmt`"),
        ("/normalizer", json!({"type": "Prepend"}), "normalizer: Prepend: it has no text `prepend`"),
        ("/post_processor", json!({"type": "BertProcessing"}), "it does not name the tokens `cls` and `sep`"),
        ("/decoder", json!({"type": "CTC"}), "decoder: `CTC`"),
        ("/model/type", json!("Tiktoken"), "model: `Tiktoken`"),
        ("/model/end_of_word_suffix", json!("</w>".repeat(5)), "suffix of more than 16 bytes"),
        ("/model/continuing_subword_prefix", json!("h##"), "merge 0: `Ġ t` does not name"),
        ("/model/merges", json!([["a", "b", "c"]]), "model: "),
        ("/model/merges", json!(["a q"]), "merge 0: `a q` does not name"),
        ("/model/vocab", json!({"a": -1}), "model: "),
        ("/model/vocab", json!({"a": 4_000_000_000u32}), "vocab: it has an id of 4000000000"),
        ("/model/vocab", json!({"a": 0, "b": 0}), "`a` and `b` have the same id 0"),
        ("/model/vocab", json!({"a": 0, "<tool>": 1}), "are both `<tool>`"),
    ];
    for (pointer, value, expected) in cases {
        let error = from_json(&changed(pointer, value)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    let deep = "[".repeat(200_000);
    for file in ["", "[]", "{}", "{\"model\":{}}", &deep, &format!("{{\"normalizer\":{deep}"), "\u{0}"] {
        let read = within_limit(file.len(), || Tokenizer::from_hugging_face(file.as_bytes(), None, None));
        let error = read.expect_err("no tokenizer").to_string();
        assert!(error.starts_with("tokenizer: ") && error.len() < 700, "{error}");
    }
}

#[test]
fn an_expression_takes_linear_time_or_is_given_up() {
    let text = "a".repeat(1_000_000);
    // Exponential for an engine that backtracks; then one that looks to the end of the text for every short match.
    for (pattern, is_cut) in [("(a+)+", true), ("(a|aa)+$|a", true), (".*b|a", false)] {
        let tokenizer = from_json(&changed("/pre_tokenizer", split(pattern))).expect("a sound expression");
        let ids = tokenizer.encode(&text, SpecialTokens::AsText);
        match ids {
            Ok(ids) => assert!(is_cut && ids.len() == text.len(), "{pattern}"),
            Err(error) => assert!(!is_cut && error.to_string().contains("too many steps"), "{pattern}: {error}"),
        }
    }
}

#[test]
fn the_names_of_pre_tokenizers_are_known() {
    let names = "gpt-2 llama-bpe qwen2 smollm deepseek-llm deepseek-coder deepseek-v3 command-r falcon starcoder refact \
        gpt-4o llama4 tekken olmo dbrx chatglm-bpe glm4 viking jais stablelm2 bloom poro-chat smaug-bpe exaone exaone4 \
        exaone-moe minerva-7b qwen35 seed-coder kimi-k2 hunyuan hunyuan-dense trillion mpt codeshell bailingmoe chameleon \
        minicpm5 gpt3-finnish mellum2 grok-2";
    for name in names.split_whitespace() {
        let tokenizer = from_gguf(Some(("tokenizer.ggml.pre", STRING, string(name)))).expect(name);
        for text in ["Hello  world, it's 12345!\r\n\r\n x", "नमस्ते 漢字かな été ²½ 👋🏽 \u{85}\u{3000}", ""]
        {
            let ids = tokenizer.encode(text, SpecialTokens::AsText).expect("a short text");
            let bytes: Vec<u8> = ids.iter().filter_map(|&id| tokenizer.token_bytes(id)).flatten().copied().collect();
            let composes = matches!(name, "qwen2" | "qwen35");
            assert!(composes || bytes == text.as_bytes(), "{name}: {text}");
        }
    }
}

#[test]
fn the_files_beside_it_name_the_special_tokens() {
    let config = |json: Value| Config::parse("tokenizer_config.json", json.to_string().as_bytes()).expect("an object");
    let names = config(
        json!({"bos_token": {"content": "<|endoftext|>"}, "eos_token": "!", "pad_token": null, "add_bos_token": true}),
    );
    let ends = config(json!({"eos_token_id": [34, ENDOFTEXT]}));
    let file = |json: &Value| Tokenizer::from_hugging_face(json.to_string().as_bytes(), Some(&names), Some(&ends));
    let tokenizer = file(&tokenizer_json()).expect("a sound tokenizer");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.padding()), (Some(ENDOFTEXT), Some(33), None));
    assert_eq!(tokenizer.end_of_generation(), [33, 34, ENDOFTEXT]);
    assert!(tokenizer.adds_bos());
    // What the pipeline itself puts around a text counts for more.
    let around = |single: Value| {
        json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel"},
            {"type": "TemplateProcessing", "single": single, "special_tokens": {"#": {"id": "#", "ids": [35], "tokens": ["#"]}}},
        ]})
    };
    let (token, sequence) =
        (json!({"SpecialToken": {"id": "#", "type_id": 0}}), json!({"Sequence": {"id": "A", "type_id": 0}}));
    for (single, expected) in
        [(json!([sequence]), "x"), (json!([token, token, sequence]), "##x"), (json!([token, sequence, token]), "#x#")]
    {
        let tokenizer = file(&changed("/post_processor", around(single))).expect("a sound tokenizer");
        let ids = tokenizer.encode_prompt("x", SpecialTokens::Parse).expect("a short text");
        assert_eq!(texts(&tokenizer, &ids).concat(), expected);
    }
    let error = file(&changed("/post_processor", around(json!([sequence, token, token])))).expect_err("two tokens");
    assert!(error.to_string().contains("TemplateProcessing of more than one token"), "{error}");
}
