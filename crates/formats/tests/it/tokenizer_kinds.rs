//! Small tokenizers of every kind, against the ids and texts of the Python libraries `tokenizers` and `sentencepiece`.

use crate::allocator::{peak_of, within_limit};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use freehold_formats::{Config, Decoder, SpecialTokens, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::sync::{Arc, LazyLock};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tokenizers/small");

const NAMES: [&str; 16] = [
    "bert-cased.json",
    "bert.json",
    "bloom.json",
    "deepseek-v3.json",
    "falcon.json",
    "gemma.json",
    "gpt-4o.json",
    "llama.json",
    "mistral.json",
    "roberta.json",
    "sp-bpe-nfkc.model",
    "sp-bpe.model",
    "sp-unigram-bytes.model",
    "sp-unigram.model",
    "unigram-bytes.json",
    "unigram.json",
];

fn bytes(name: &str) -> Vec<u8> {
    fs::read(format!("{FOLDER}/{name}")).unwrap()
}

fn read(name: &str) -> Arc<Tokenizer> {
    let bytes = bytes(name);
    let tokenizer = if name.ends_with(".model") {
        Tokenizer::from_sentencepiece(&bytes, None, None)
    } else {
        Tokenizer::from_hugging_face(&bytes, None, None)
    };
    Arc::new(tokenizer.unwrap_or_else(|error| panic!("{name}: {error}")))
}

static ALL: LazyLock<Vec<(&str, Arc<Tokenizer>)>> =
    LazyLock::new(|| NAMES.iter().map(|&name| (name, read(name))).collect());

fn decoded(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    let mut decoder = Decoder::new(Arc::clone(tokenizer), true);
    let text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text + &decoder.finish()
}

#[test]
fn texts_get_the_ids_of_the_reference_and_ids_its_texts() {
    for (name, tokenizer) in &*ALL {
        let cases = fs::read_to_string(format!("{FOLDER}/{name}.ids.jsonl")).unwrap();
        for line in cases.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            // SentencePiece itself never parses; and what names a byte is text to us, but not to the library.
            let special = if name.ends_with(".model") { SpecialTokens::AsText } else { SpecialTokens::Parse };
            if !(*name == "unigram-bytes.json" && text.contains("<0x")) {
                assert_eq!(tokenizer.encode(text, special).unwrap(), expected, "{name}: {text:?}");
            }
            // Of an unknown token SentencePiece writes a mark of its own.
            let is_known = expected.iter().all(|&id| Some(id) != tokenizer.unknown());
            if is_known || name.ends_with(".json") {
                assert_eq!(decoded(tokenizer, &expected), case["decoded"].as_str().unwrap(), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn special_tokens_in_text_stay_text() {
    let text = "<s> </s> <unk> <pad> [CLS] [MASK] [SEP] <|end|> <0x41> a<s>b";
    for (name, tokenizer) in &*ALL {
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        let is_text = |&id: &u32| !tokenizer.is_special(id) || Some(id) == tokenizer.unknown();
        assert!(ids.iter().all(is_text), "{name}: {ids:?}");
        assert!(!ids.is_empty());
        // In a chat only those that the template wrote count.
        for added in ["<tool>", "<Think>"].into_iter().filter(|added| tokenizer.id_of(added).is_some()) {
            let id = tokenizer.id_of(added).unwrap();
            let text = format!("a {added} b {added}");
            let found = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
            assert_eq!(found.iter().filter(|&&other| other == id).count(), 2, "{name}: {found:?}");
            let first = 2..2 + added.len();
            let found = tokenizer.encode_rendered(&text, std::slice::from_ref(&first)).unwrap();
            assert_eq!(found.iter().filter(|&&other| other == id).count(), 1, "{name}: {found:?}");
        }
    }
}

#[test]
fn long_runs_take_bounded_time_and_memory() {
    // Quadratic, each of these would take minutes.
    for (name, tokenizer) in &*ALL {
        for unit in ["a", "^", " ", "\n", "1", "漢", "é", "a b", "\u{301}"] {
            let text = unit.repeat(1_000_000 / unit.len());
            let ids = within_limit(6 * text.len(), || tokenizer.encode(&text, SpecialTokens::Parse));
            assert!(ids.is_ok(), "{name}: {unit:?}");
        }
    }
}

#[test]
fn prompts_begin_and_end_as_the_file_says() {
    let ends = |name: &str| {
        let tokenizer = read(name);
        let ids = tokenizer.encode_prompt("a", SpecialTokens::AsText).unwrap();
        let text = |id: Option<&u32>| tokenizer.token_text(*id.unwrap()).unwrap().to_owned();
        (text(ids.first()), text(ids.last()))
    };
    assert_eq!(ends("bert.json"), ("[CLS]".into(), "[SEP]".into()));
    assert_eq!(ends("sp-bpe.model").0, "<s>");
    assert_eq!(ends("sp-unigram.model").1, "</s>");
}

#[test]
fn byte_tokens_are_held_back_until_they_are_a_character() {
    let tokenizer = read("llama.json");
    let mut decoder = Decoder::new(Arc::clone(&tokenizer), false);
    let ids = tokenizer.encode("🦙", SpecialTokens::AsText).unwrap();
    let texts: Vec<String> = ids.iter().map(|&id| decoder.push(id)).collect();
    // The mark of a space in front, which is left out, and four bytes.
    assert_eq!(texts, ["", "", "", "", "🦙"]);
    assert_eq!(decoder.finish(), "");
}

#[test]
fn word_lists_make_the_tokenizer_of_the_whole_file() {
    let json: Value = serde_json::from_slice(&bytes("bert.json")).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut words: Vec<(&str, u64)> = vocab.iter().map(|(word, id)| (word.as_str(), id.as_u64().unwrap())).collect();
    words.sort_by_key(|(_, id)| *id);
    let list: String = words.iter().flat_map(|(word, _)| [*word, "\n"]).collect();
    let (whole, from_list) = (read("bert.json"), Tokenizer::from_word_list(list.as_bytes(), None).unwrap());
    let cased = Config::parse("tokenizer_config.json", br#"{"do_lower_case": false}"#).unwrap();
    let cased = Tokenizer::from_word_list(list.as_bytes(), Some(&cased)).unwrap();
    for text in ["It wasn't the first TIME", "[CLS] été 你好", "  12.5\u{0}"] {
        let ids = from_list.encode_prompt(text, SpecialTokens::Parse).unwrap();
        assert_eq!(ids, whole.encode_prompt(text, SpecialTokens::Parse).unwrap(), "{text}");
    }
    let time = |tokenizer: &Tokenizer| tokenizer.encode("TIME", SpecialTokens::Parse).unwrap();
    assert_ne!(time(&cased), time(&from_list));
    assert!(Tokenizer::from_word_list(b"\xFF", None).is_err() && Tokenizer::from_word_list(b"", None).is_err());
}

#[test]
fn tokens_may_be_added_beside_a_sentencepiece_model() {
    let config = |entries: Value| {
        let json = json!({"added_tokens_decoder": entries, "add_bos_token": false}).to_string();
        Config::parse("tokenizer_config.json", json.as_bytes()).unwrap()
    };
    let model = bytes("sp-bpe.model");
    let size = read("sp-bpe.model").vocabulary_size();
    let token = json!({"content": "<|user|>", "special": true, "rstrip": true});
    let sound = config(json!({size.to_string(): token.clone()}));
    let tokenizer = Tokenizer::from_sentencepiece(&model, Some(&sound), None).unwrap();
    assert_eq!(tokenizer.encode_prompt("<|user|>  ", SpecialTokens::Parse).unwrap(), [size as u32]);
    for (entries, expected) in [
        (json!({"1000000": token.clone()}), "is not next to"),
        (json!({"x": token}), "`x` is no id"),
        (json!({"3": 5}), "added_tokens_decoder"),
    ] {
        let error = Tokenizer::from_sentencepiece(&model, Some(&config(entries)), None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn damaged_sentencepiece_models_are_refused_or_read() {
    let sound = bytes("sp-bpe.model");
    for end in 0..sound.len() {
        // What is cut at the end of a piece is a smaller model.
        let _ = Tokenizer::from_sentencepiece(&sound[..end], None, None);
    }
    for (bytes, expected) in [
        (&b""[..], "tokens: there are none"),
        (b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "no sound protocol buffer"),
        (b"\x0A\x03\x0A\x01\xFF", "piece 0 is not UTF-8"),
        (b"\x0A\x05\x0A\x01a\x18\x09", "piece 0 has the unknown type 9"),
        (b"\x0A\x03\x0A\x01a\x12\x02\x18\x04", "`models of kind 4` is not supported"),
        (b"\x0A\x03\x0A\x01a\x1A\x04\x12\x02ab", "it has fewer than 4 bytes"),
        (b"\x0A\x08\x0A\x01a\x15\x00\x00\xC0\x7F", "scores: that of token 0 is NaN"),
        (b"\x0A\x03\x0A\x01a\x0A\x03\x0A\x01a", "tokens 0 and 1 are both `a`"),
        (b"\x0A\x03\x0A\x01a\x12\x03\xC0\x02\x05", "unknown token id: 5 is outside"),
    ] {
        let error = Tokenizer::from_sentencepiece(bytes, None, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // A token of a megabyte.
    let length = [0x80, 0x80, 0x40];
    let mut long = [&[0x0A, 0x84, 0x80, 0x40, 0x0A][..], &length].concat();
    long.extend(std::iter::repeat_n(b'x', 1 << 20));
    let error = within_limit(long.len(), || Tokenizer::from_sentencepiece(&long, None, None)).unwrap_err().to_string();
    assert!(error.contains("token 0: it has more than 512 bytes"), "{error}");
}

/// `unigram.json` with its normaliser or model changed.
fn unigram_with(pointer: &str, value: Value) -> Result<Tokenizer, String> {
    let mut json: Value = serde_json::from_slice(&bytes("unigram.json")).unwrap();
    *json.pointer_mut(pointer).unwrap() = value;
    Tokenizer::from_hugging_face(json.to_string().as_bytes(), None, None).map_err(|error| error.to_string())
}

#[test]
fn steps_that_grow_a_text_little_by_little_are_given_up() {
    const TOO_MUCH: &str = "64 times as much";
    let grow = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(1 << 16)});
    // Each part between added tokens grows within the limit.
    let tokenizer = unigram_with("/normalizer", grow.clone()).unwrap();
    let error = tokenizer.encode(&"a<tool>".repeat(64), SpecialTokens::AsText).unwrap_err().to_string();
    assert!(error.contains(TOO_MUCH), "{error}");
    // Each character gets another in front, and is then cut off from it.
    let steps = ["x", "y"].repeat(8).into_iter().flat_map(|mark| {
        let cut = json!({"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated"});
        [cut, json!({"type": "Metaspace", "replacement": mark, "prepend_scheme": "always", "split": false})]
    });
    let doubling = json!({"type": "Sequence", "pretokenizers": steps.collect::<Vec<_>>()});
    let tokenizer = unigram_with("/pre_tokenizer", doubling).unwrap();
    let text = "a".repeat(10_000);
    let error = within_limit(text.len(), || tokenizer.encode(&text, SpecialTokens::AsText)).unwrap_err().to_string();
    assert!(error.contains(TOO_MUCH), "{error}");
    // The texts of added tokens grow as well.
    let mut json: Value = serde_json::from_slice(&bytes("unigram.json")).unwrap();
    json["normalizer"] = grow;
    let added = (0..2000).map(|index| json!({"id": 200 + index, "content": format!("a{index}"), "normalized": true}));
    json["added_tokens"].as_array_mut().unwrap().extend(added);
    let file = json.to_string();
    let read = within_limit(file.len(), || Tokenizer::from_hugging_face(file.as_bytes(), None, None));
    let error = read.unwrap_err().to_string();
    assert!(error.contains(TOO_MUCH) || error.contains("at most 256 are allowed"), "{error}");
}

#[test]
fn tokens_that_begin_alike_take_bounded_time_and_memory() {
    let mut vocab = vec![json!(["<unk>", 0.0])];
    vocab.extend((1..=512).map(|length| json!(["a".repeat(length), -1.0 - f64::from(length as u16) / 7.0])));
    vocab.extend((0..20_000).map(|index| json!([format!("{}c{index}", "a".repeat(index % 500)), -3.0])));
    let json = json!({
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab},
    });
    let file = json.to_string();
    let tokenizer = within_limit(file.len(), || Tokenizer::from_hugging_face(file.as_bytes(), None, None)).unwrap();
    // At the 120 µs a byte that a search through sorted tokens takes, this would be half a minute.
    assert!(tokenizer.encode(&"a".repeat(250_000), SpecialTokens::Parse).is_ok());
}

#[test]
fn a_long_text_takes_little_memory_in_tokens_of_the_highest_score() {
    let (_, tokenizer) = ALL.iter().find(|(name, _)| *name == "sp-unigram.model").unwrap();
    for text in ["the first time ".repeat(1 << 17), "a".repeat(2 << 20)] {
        let (ids, peak) = peak_of(|| tokenizer.encode(&text, SpecialTokens::Parse).unwrap());
        // The normalised text, two bytes for each of its bytes, and the ids in a list that doubles.
        assert!(peak <= 10 * text.len() + 12 * ids.len(), "{peak} bytes for {} and {} ids", text.len(), ids.len());
    }
}

#[test]
fn expressions_cannot_hide_their_cost_in_short_pieces() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"});
    // Every piece asks for states that no piece before it needed, each of thousands of places in the expression.
    let steps = [split(r"[\s\S]{1,250}"), split("(?:[ab]*a[ab]{2000}|[ab]*b[ab]{2001})c|a")];
    let tokenizer = unigram_with("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": steps})).unwrap();
    let mut state = 1u64;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if state >> 63 == 0 { 'a' } else { 'b' }
    });
    let text: String = letters.take(20_000).collect();
    let error = tokenizer.encode(&text, SpecialTokens::AsText).unwrap_err().to_string();
    assert!(error.contains("too many steps"), "{error}");
}

#[test]
fn long_replacements_are_not_read_where_a_longer_text_is_replaced() {
    // A trie of `a` and `aa`: four megabytes for the one, nothing for the other. Reading the first at every place of
    // this text would take minutes.
    let end = 4_000_000u32;
    let mut units = vec![0u32; 2048];
    let mut letter = |base: usize, next: usize| {
        let place = base ^ usize::from(b'a');
        units[place] = ((next ^ place) as u32) << 10 | 1 << 8 | u32::from(b'a');
    };
    letter(256, 512);
    letter(512, 1024);
    (units[0], units[512], units[1024]) = (256 << 10, 1 << 31, 1 << 31 | end);
    let mut rules = (units.len() as u32 * 4).to_le_bytes().to_vec();
    rules.extend(units.into_iter().flat_map(u32::to_le_bytes));
    rules.extend(std::iter::repeat_n(b'x', end as usize));
    rules.push(0);
    let rules = BASE64_STANDARD.encode(rules);
    let normaliser = json!({"type": "Precompiled", "precompiled_charsmap": rules});
    let tokenizer = unigram_with("/normalizer", normaliser).unwrap();
    assert!(tokenizer.encode(&"a".repeat(2_000_000), SpecialTokens::AsText).unwrap().is_empty());
}

#[test]
fn hostile_normalisation_rules_are_refused_or_bounded() {
    for (rules, expected) in [
        ("!", "normalizer: Precompiled"),
        ("AAA=", "it has fewer than 4 bytes"),
        ("/////w==", "its trie should have 4294967295 bytes"),
        ("BQAAAAAAAAAA", "is no multiple of 4"),
        ("AAAAAP8=", "its texts are not UTF-8"),
    ] {
        let error = unigram_with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": rules}));
        let error = error.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let grow = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(1 << 16)});
    let tokenizer = unigram_with("/normalizer", grow).unwrap();
    let error = tokenizer.encode(&"a".repeat(1 << 20), SpecialTokens::AsText).unwrap_err().to_string();
    assert!(error.contains("are encoded at once"), "{error}");
    let many: Vec<Value> = std::iter::repeat_n(json!({"type": "NFC"}), 100).collect();
    let error = unigram_with("/normalizer", json!({"type": "Sequence", "normalizers": many})).unwrap_err();
    assert!(error.contains("more than 32 steps"), "{error}");
    let error = unigram_with("/model/vocab/5/1", json!(1e300)).unwrap_err();
    assert!(error.contains("scores: that of token 5 is"), "{error}");
}

/// The library itself, on the same files.
static REFERENCES: LazyLock<Vec<(&str, tokenizers::Tokenizer)>> = LazyLock::new(|| {
    let names = NAMES.iter().filter(|name| name.ends_with(".json"));
    names.map(|&name| (name, tokenizers::Tokenizer::from_bytes(bytes(name)).unwrap())).collect()
});

/// Kinds that are few lines by hand: whole words, and BPE that tells the tokens at the ends of words; and two tokens put
/// before a text.
static BY_HAND: LazyLock<Vec<(&str, Arc<Tokenizer>, tokenizers::Tokenizer)>> = LazyLock::new(|| {
    let letters = crate::vocabulary::alphabet();
    let numbered = |texts: Vec<String>| {
        texts.into_iter().zip(0u32..).map(|(text, id)| (text, id.into())).collect::<serde_json::Map<String, Value>>()
    };
    let with = |texts: &[&str], more: Vec<String>| {
        numbered(texts.iter().map(|text| (*text).to_owned()).chain(letters.clone()).chain(more).collect())
    };
    let special = |id: u32, text: &str| {
        json!({"id": id, "content": text, "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let affixed = |model: Value| {
        json!({
            "version": "1.0", "added_tokens": [special(0, "[UNK]")], "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level, "model": model,
        })
    };
    let suffixed = letters.iter().map(|letter| format!("{letter}</w>"));
    let suffixed = suffixed.chain(["th", "the</w>", "an", "and</w>", "ll</w>"].map(String::from)).collect();
    let prefixed = letters.iter().map(|letter| format!("#{letter}"));
    let prefixed = prefixed.chain(["th", "the", "#an", "#and", "#ll"].map(String::from)).collect();
    let files = [
        (
            "words",
            json!({
                "version": "1.0", "added_tokens": [special(0, "[UNK]"), special(1, "[CLS]")],
                "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"SpecialToken": {"id": "[UNK]", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                        "[UNK]": {"id": "[UNK]", "ids": [0], "tokens": ["[UNK]"]}},
                },
                "model": {"type": "WordLevel", "unk_token": "[UNK]",
                    "vocab": with(&["[UNK]", "[CLS]", "the", "tool", "...", "漢"], Vec::new())},
            }),
        ),
        (
            "ends of words",
            affixed(json!({
                "type": "BPE", "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": "",
                "end_of_word_suffix": "</w>", "fuse_unk": false, "vocab": with(&["[UNK]"], suffixed),
                "merges": ["t h", "th e</w>", "a n", "an d</w>", "l l</w>"],
            })),
        ),
        (
            "beginnings of words",
            affixed(json!({
                "type": "BPE", "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": "#",
                "end_of_word_suffix": null, "fuse_unk": false, "vocab": with(&["[UNK]"], prefixed),
                "merges": ["t #h", "th #e", "#a #n", "#an #d", "#l #l"],
            })),
        ),
    ];
    let read = |(name, json): (&'static str, Value)| {
        let file = json.to_string();
        let tokenizer = Tokenizer::from_hugging_face(file.as_bytes(), None, None);
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, Arc::new(tokenizer), tokenizers::Tokenizer::from_bytes(file).unwrap())
    };
    files.into_iter().map(read).collect()
});

/// Texts of what the steps tell apart, of added tokens, and of anything. What names a byte is left to the cases above.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zA-Zſéßα漢かب]{0,6}",
        "[0-9²٣]{0,5}",
        "[ \\t\\r\\n\\u{a0}\\u{3000}\\u{85}]{0,4}",
        "[-'’.,<>|^▁$\\u{301}🦙\\u{200d}]{0,4}",
        "'(s|t|re|ve|m|ll|d|S|LL|ſ)",
        proptest::sample::select(vec!["<tool>", "<Think>", "<strip>", "[MASK]", "</s>", "<|end|>"])
            .prop_map(String::from),
        // Assigned since long: the library's tables are of an older Unicode.
        "[ -\\u{2ff}\\u{391}-\\u{52f}\\u{620}-\\u{6d3}\\u{915}-\\u{939}\\u{2010}-\\u{2027}\\u{3041}-\\u{3096}\\u{1f600}-\\u{1f640}]{0,5}",
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_text_gets_the_ids_of_the_library(text in any_text()) {
        for (name, reference) in &*REFERENCES {
            let (_, tokenizer) = ALL.iter().find(|(other, _)| other == name).unwrap();
            let expected = reference.encode_fast(text.as_str(), false).unwrap();
            let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
            prop_assert_eq!(&ids[..], expected.get_ids(), "{}: {:?}", name, text);
        }
    }

    #[test]
    fn any_text_gets_the_ids_of_the_library_by_kinds_made_by_hand(text in any_text(), words in "(the|and|all| |\\.|tool)*") {
        for (name, tokenizer, reference) in &*BY_HAND {
            for text in [&text, &words] {
                let expected = reference.encode_fast(text.as_str(), true).unwrap();
                let ids = tokenizer.encode_prompt(text, SpecialTokens::Parse).unwrap();
                prop_assert_eq!(&ids[..], expected.get_ids(), "{}: {:?}", name, text);
                prop_assert_eq!(decoded(tokenizer, &ids), reference.decode(&ids, false).unwrap(), "{}: {:?}", name, text);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_model_or_an_error(place in 0usize..8000, value in any::<u8>(), text in "\\PC{0,20}") {
        let mut model = bytes("sp-bpe.model");
        model[place] = value;
        if let Ok(tokenizer) = Tokenizer::from_sentencepiece(&model, None, None) {
            prop_assert!(tokenizer.encode(&text, SpecialTokens::Parse).is_ok());
        }
        // The rules of normalisation are the last part of this one.
        let mut model = bytes("sp-unigram.model");
        let place = model.len() - 1 - 30 * place;
        model[place] = value;
        if let Ok(tokenizer) = Tokenizer::from_sentencepiece(&model, None, None) {
            prop_assert!(tokenizer.encode(&text, SpecialTokens::Parse).is_ok());
        }
    }

    #[test]
    fn merging_by_score_keeps_the_text(text in "(\\PC|[ a-z\\n]){0,60}") {
        // It has a token for every byte, and removes no spaces.
        for name in ["sp-bpe.model", "llama.json", "gemma.json"] {
            let (_, tokenizer) = ALL.iter().find(|(other, _)| *other == name).unwrap();
            let ids = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
            if !text.contains('<') {
                prop_assert_eq!(decoded(tokenizer, &ids), text.replace('▁', " "));
            }
        }
    }
}
