//! `tokenizer.json` over the byte alphabet, and a text for it to encode.

use crate::allocator::within_limit;
use crate::damage::{Damage, Edge, damaged};
use arbitrary::Arbitrary;
use freehold_formats::{Config, SpecialTokens, Tokenizer};
use serde_json::{Map, Value, json};

/// Bytes of the longest token that a merge makes.
const LONGEST_TOKEN: usize = 4096;

/// A file and a text.
#[derive(Arbitrary, Debug)]
pub struct Input {
    merges: Vec<(u8, u8)>,
    added: Vec<(String, [bool; 5], Option<Edge>)>,
    pre_tokenizer: u8,
    normalizer: u8,
    ignore_merges: bool,
    missing_bytes: Vec<u8>,
    moved: Option<(u8, Edge)>,
    ends: Option<Vec<Edge>>,
    text: String,
    repeat: u8,
    ranges: Vec<u8>,
    damages: Vec<Damage>,
}

/// The character of a byte in the byte-level alphabet.
fn character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let moved = (0..byte).filter(|byte| !printable(*byte)).count() as u32;
    char::from_u32(0x100 + moved).unwrap_or_default()
}

/// Reads the file and, where it is sound, encodes the text.
pub fn check(input: &Input) {
    let mut vocabulary = Map::new();
    for byte in (0..=u8::MAX).filter(|byte| !input.missing_bytes.contains(byte)) {
        vocabulary.insert(character(byte).into(), vocabulary.len().into());
    }
    let mut merges = Vec::new();
    for (left, right) in input.merges.iter().take(64) {
        // Of any two tokens that are there already.
        let nth = |index: &u8| vocabulary.keys().rev().nth(usize::from(*index) % vocabulary.len().max(1)).cloned();
        let (Some(left), Some(right)) = (nth(left), nth(right)) else { break };
        // Doubled again and again, tokens would soon be longer than memory.
        if left.len() + right.len() > LONGEST_TOKEN {
            break;
        }
        let id = vocabulary.len();
        vocabulary.entry(format!("{left}{right}")).or_insert(id.into());
        merges.push(json!([left, right]));
    }
    if let Some((which, id)) = input.moved
        && let Some((_, value)) = vocabulary.iter_mut().nth(usize::from(which))
    {
        *value = id.value().into();
    }
    let added: Vec<Value> = (input.added.iter().take(16).enumerate())
        .map(|(index, (text, [single_word, lstrip, rstrip, normalized, special], id))| {
            json!({
                "id": id.map_or((vocabulary.len() + index) as u64, Edge::value), "content": text,
                "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip, "normalized": normalized,
                "special": special,
            })
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
    let pre_tokenizer = match input.pre_tokenizer % 4 {
        0 => byte_level,
        1 => json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level]}),
        2 => json!({"type": "Split", "pattern": {"Regex": input.text}}),
        _ => Value::Null,
    };
    let normalizer = [Value::Null, json!({"type": "NFC"}), json!({"type": "Sequence", "normalizers": []})];
    let file = json!({
        "added_tokens": added, "pre_tokenizer": pre_tokenizer,
        "normalizer": normalizer[usize::from(input.normalizer) % normalizer.len()],
        "model": {"type": "BPE", "ignore_merges": input.ignore_merges, "vocab": vocabulary, "merges": merges},
    });
    let file = damaged(file.to_string().into_bytes(), &input.damages);
    let text = input.text.repeat(usize::from(input.repeat) + 1);
    let config = input.ends.as_ref().and_then(|ends| {
        let ids: Vec<u64> = ends.iter().map(|id| id.value()).collect();
        Config::parse("generation_config.json", json!({"eos_token_id": ids}).to_string().as_bytes()).ok()
    });
    within_limit(file.len() * 2 + text.len() * 64, || {
        let Ok(tokenizer) = Tokenizer::from_hugging_face(&file, None, config.as_ref()) else { return };
        let ranges: Vec<_> =
            input.ranges.chunks(2).map(|ends| usize::from(ends[0])..usize::from(ends[ends.len() - 1])).collect();
        let size = tokenizer.vocabulary_size();
        let plain = tokenizer.encode(&text, SpecialTokens::AsText).expect("a short text");
        assert!(plain.iter().all(|id| (*id as usize) < size));
        let rendered = tokenizer.encode_rendered(&text, &ranges).expect("a short text");
        assert!(rendered.iter().all(|id| tokenizer.token_bytes(*id).is_some()));
    });
}
