//! Text to tokens and back, on small vocabularies whose answers can be worked out by hand.

use crate::allocator::within_limit;
use crate::vocabulary::{MERGES, added_token, texts, vocabulary};
use freehold_formats::tokenizer::{AddedToken, Affixes, Normaliser, TEXT_BYTES_MAX, Vocabulary, VocabularyModel};
use freehold_formats::{Decoder, Error, PreTokenizer, SpecialTokens, Strings, Tokenizer};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::Arc;

const ADDED: [(&str, bool); 4] = [("<|end|>", true), ("<|end|>>", true), ("<tool>", false), ("<|im_end|>", true)];

fn tokenizer() -> Tokenizer {
    Tokenizer::new(vocabulary(&ADDED)).expect("a sound vocabulary")
}

fn check(tokenizer: &Tokenizer, text: &str, special: SpecialTokens, expected: &[&str]) {
    let ids = tokenizer.encode(text, special).expect("a short text");
    assert_eq!(texts(tokenizer, &ids), expected, "{text:?}");
}

#[test]
fn merges_apply_by_rank_and_from_the_left() {
    let cases: [(&str, &[&str]); 7] = [
        ("", &[]),
        ("the", &["t", "he"]),
        (" the then", &["Ġthe", "Ġthe", "n"]),
        ("lll", &["ll", "l"]),
        ("llll", &["ll", "ll"]),
        ("we'll", &["w", "e", "'ll"]),
        ("é", &["Ã", "©"]),
    ];
    for (text, expected) in cases {
        check(&tokenizer(), text, SpecialTokens::Parse, expected);
    }
}

#[test]
fn a_piece_that_is_a_token_skips_the_merges_where_asked() {
    let mut parts = vocabulary(&ADDED);
    // Without a merge that makes it, `xyz` is reached as a whole only; an added token never is.
    parts.tokens.push("xyz").expect("room");
    for (ignore_merges, expected) in [(false, &["x", "y", "z"][..]), (true, &["xyz"])] {
        let merges = MERGES.iter().collect();
        let model = bpe(merges, ignore_merges);
        let tokenizer = Tokenizer::new(Vocabulary { model, ..parts.clone() }).expect("a sound vocabulary");
        check(&tokenizer, "xyz", SpecialTokens::AsText, expected);
        check(&tokenizer, "xyzx", SpecialTokens::AsText, &["x", "y", "z", "x"]);
    }
}

#[test]
fn written_out_tokens_are_found_leftmost_and_longest() {
    let parse = SpecialTokens::Parse;
    let as_text = SpecialTokens::AsText;
    let cases: [(&str, SpecialTokens, &[&str]); 7] = [
        ("a<|end|>b", parse, &["a", "<|end|>", "b"]),
        ("<|end|>><|end|>", parse, &["<|end|>>", "<|end|>"]),
        ("<<|end|>", parse, &["<", "<|end|>"]),
        ("<|end|", parse, &["<", "|", "e", "n", "d", "|"]),
        ("<tool>1<|end|>", parse, &["<tool>", "1", "<|end|>"]),
        ("<tool>", as_text, &["<tool>"]),
        ("<|end|>", as_text, &["<", "|", "e", "n", "d", "|", ">"]),
    ];
    for (text, special, expected) in cases {
        check(&tokenizer(), text, special, expected);
    }
}

#[test]
fn in_a_rendered_text_tokens_count_where_the_template_wrote_them() {
    let written = |ranges: &[(usize, usize)]| ranges.iter().map(|&(start, end)| start..end).collect::<Vec<_>>();
    let end: &[&str] = &["<", "|", "e", "n", "d", "|", ">"];
    type Case<'c> = (&'c str, &'c [(usize, usize)], &'c [&'c str]);
    let cases: [Case<'_>; 10] = [
        ("<|end|>", &[], end),
        ("<|end|>", &[(0, 7)], &["<|end|>"]),
        ("<|end|>>", &[(0, 7)], &["<|end|>", ">"]),
        ("<|end|>>", &[(0, 8)], &["<|end|>>"]),
        ("<|end|>", &[(1, 7)], end),
        ("<|end|><|end|>", &[(0, 7)], &[&["<|end|>"], end].concat()),
        ("<|end|><|end|>", &[(7, 14)], &[end, &["<|end|>"]].concat()),
        ("<|end|><tool>", &[(0, 13)], &["<|end|>", "<tool>"]),
        // What is no range of this text, or overlaps the one before, counts for nothing.
        ("<|end|>é", &[(7, 0), (0, 8), (3, usize::MAX), (0, 7), (2, 7)], &["<|end|>", "Ã", "©"]),
        ("<tool><tool>", &[(6, 12), (0, 6)], &["<", "t", "o", "o", "l", ">", "<tool>"]),
    ];
    let tokenizer = tokenizer();
    for (text, ranges, expected) in cases {
        let ids = tokenizer.encode_rendered(text, &written(ranges)).expect("a short text");
        assert_eq!(texts(&tokenizer, &ids), expected, "{text:?} {ranges:?}");
    }
    // White space, a character and a word are text wherever they stand, unless they are special.
    let added = [("\n\n", true), ("漢", false), ("lazy", false), ("字", true)];
    let tokenizer = Tokenizer::new(vocabulary(&added)).expect("a sound vocabulary");
    let ids = tokenizer.encode_rendered("\n\n漢lazy字", &[]).expect("a short text");
    assert_eq!(texts(&tokenizer, &ids), ["\n\n", "漢", "lazy", "å", "Ń", "Ĺ"]);
}

#[test]
fn normalisation_makes_no_token_of_what_users_write() {
    let mut parts = vocabulary(&[("<;>", true)]);
    parts.added.iter_mut().for_each(|token| token.normalised = true);
    parts.normaliser = Normaliser::nfc();
    let tokenizer = Tokenizer::new(parts).expect("a sound vocabulary");
    // Greek's question mark, of which the form makes a semicolon.
    let text = "<\u{37e}><;>";
    let plain = ["<", ";", ">"];
    let parsed = tokenizer.encode(text, SpecialTokens::Parse).expect("a short text");
    assert_eq!(texts(&tokenizer, &parsed), ["<;>", "<;>"]);
    let second = 4..7;
    for (ranges, expected) in
        [(&[][..], [plain, plain].concat()), (std::slice::from_ref(&second), [&plain[..], &["<;>"]].concat())]
    {
        let ids = tokenizer.encode_rendered(text, ranges).expect("a short text");
        assert_eq!(texts(&tokenizer, &ids), expected, "{ranges:?}");
    }
}

#[test]
fn added_tokens_take_white_space_and_stand_alone_where_they_say_so() {
    let mut parts = vocabulary(&[("<m>", false)]);
    let id = parts.added[0].id;
    let plain = added_token(id, "<m>", false);
    let cases: [(AddedToken, &str, &[&str]); 5] = [
        (plain.clone(), "a <m> b", &["a", "Ġ", "<m>", "Ġ", "b"]),
        (AddedToken { strip_left: true, ..plain.clone() }, "a \n<m> b", &["a", "<m>", "Ġ", "b"]),
        (AddedToken { strip_right: true, ..plain.clone() }, "a <m> \n<m>", &["a", "Ġ", "<m>", "<m>"]),
        (
            AddedToken { single_word: true, ..plain.clone() },
            "a<m> <m>b <m>",
            &["a", "<", "m", ">", "Ġ", "<", "m", ">", "b", "Ġ", "<m>"],
        ),
        (AddedToken { strip_left: true, strip_right: true, ..plain }, "<m>  <m>", &["<m>", "<m>"]),
    ];
    for (token, text, expected) in cases {
        parts.added = vec![token];
        check(&Tokenizer::new(parts.clone()).expect("a sound vocabulary"), text, SpecialTokens::Parse, expected);
    }
}

#[test]
fn prompts_begin_and_end_as_the_model_asks() {
    let mut parts = vocabulary(&ADDED);
    (parts.bos, parts.eos) = (Some(65), Some(66));
    for (add_bos, add_eos, expected) in [(false, false, "x"), (true, false, "Ax"), (true, true, "AxB")] {
        let tokenizer = Tokenizer::new(Vocabulary { add_bos, add_eos, ..parts.clone() }).expect("a sound vocabulary");
        let ids = tokenizer.encode_prompt("x", SpecialTokens::Parse).expect("a short text");
        assert_eq!(texts(&tokenizer, &ids).concat(), expected);
        assert_eq!(tokenizer.adds_bos(), add_bos);
    }
}

#[test]
fn well_known_tokens_end_an_answer() {
    let ends = |added: &[(&str, bool)], eos: Option<u32>| {
        let tokenizer = Tokenizer::new(Vocabulary { eos, ..vocabulary(added) }).expect("a sound vocabulary");
        texts(&tokenizer, tokenizer.end_of_generation()).join(" ")
    };
    assert_eq!(
        ends(&[("<|endoftext|>", true), ("<|im_end|>", true), ("<|im_start|>", true)], None),
        "<|endoftext|> <|im_end|>"
    );
    assert_eq!(ends(&[("<|end|>", true)], Some(33)), "! <|end|>");
    // OpenAI's Harmony format: one answer has several messages.
    assert_eq!(ends(&[("<|end|>", true), ("<|return|>", true), ("<|call|>", true)], None), "<|return|> <|call|>");
}

#[test]
fn special_tokens_are_left_out_of_text_unless_asked_for() {
    let tokenizer = Arc::new(tokenizer());
    let ids = tokenizer.encode("a<|end|><tool>é", SpecialTokens::Parse).expect("a short text");
    for (show_special, expected) in [(false, "a<tool>é"), (true, "a<|end|><tool>é")] {
        let mut decoder = Decoder::new(Arc::clone(&tokenizer), show_special);
        let text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        assert_eq!(text + &decoder.finish(), expected);
    }
}

#[test]
fn the_decoder_holds_back_what_may_still_become_a_character() {
    let mut decoder = Decoder::new(Arc::new(tokenizer()), false);
    // The bytes of 🦙, then the beginning of another character that never ends.
    let cases = [
        (0xF0, ""),
        (0x9F, ""),
        (0xA6, ""),
        (0x99, "🦙"),
        (0xE2, ""),
        (0x61, "\u{fffd}a"),
        (0xFF, "\u{fffd}"),
        (0xC3, ""),
    ];
    for (id, expected) in cases {
        assert_eq!(decoder.push(id), expected, "{id:#x}");
    }
    assert_eq!(decoder.push(1_000_000), "");
    assert_eq!((decoder.finish().as_str(), decoder.finish().as_str()), ("\u{fffd}", ""));
}

#[test]
fn a_text_that_is_too_long_is_refused() {
    let text = "a".repeat(TEXT_BYTES_MAX + 1);
    let error = tokenizer().encode(&text, SpecialTokens::AsText).expect_err("too long");
    assert!(matches!(error, Error::TextTooLong { bytes, bytes_max: TEXT_BYTES_MAX } if bytes == text.len()), "{error}");
}

#[test]
fn long_runs_are_merged_in_bounded_time_and_memory() {
    // Quadratic, each of these would take an hour.
    let tokenizer = tokenizer();
    for unit in ["l", "^", " ", "\n", "12", "<", "<|end|", "\u{301}", "ſ'", "🦙"] {
        let text = unit.repeat(1_000_000 / unit.len());
        let ids = within_limit(text.len(), || tokenizer.encode(&text, SpecialTokens::Parse)).expect("below the limit");
        assert_eq!(ids.iter().filter_map(|&id| tokenizer.token_bytes(id)).map(<[u8]>::len).sum::<usize>(), text.len());
    }
    // Very many tokens, of which every other one counts.
    let text = "<|end|>".repeat(100_000);
    let ranges: Vec<Range<usize>> = (0..text.len()).step_by(14).map(|start| start..start + 7).collect();
    assert_eq!(tokenizer.encode_rendered(&text, &ranges).expect("below the limit").len(), 50_000 * 8);
}

fn bpe(merges: Strings, ignore_merges: bool) -> VocabularyModel {
    let affixes = Affixes::default();
    VocabularyModel::Bpe { merges, ignore_merges, byte_fallback: false, fuse_unknown: false, affixes }
}

/// The usual merges and one more.
fn merging(merge: &str) -> VocabularyModel {
    let merges = MERGES.into_iter().chain([merge]).collect();
    bpe(merges, false)
}

#[test]
fn damaged_vocabularies_are_refused() {
    let sound = || vocabulary(&ADDED);
    let with = |change: fn(&mut Vocabulary)| {
        let mut parts = sound();
        change(&mut parts);
        parts
    };
    let long = "x".repeat(300);
    let cases: [(Vocabulary, &str); 9] = [
        (with(|parts| parts.tokens = std::iter::empty::<&str>().collect()), "tokens: there are none"),
        (
            with(|parts| parts.tokens.push("the").into_iter().chain(parts.tokens.push("the")).for_each(drop)),
            "are both `the`",
        ),
        (with(|parts| parts.bos = Some(9_999)), "bos token id: 9999 is outside"),
        (with(|parts| parts.ends = vec![u32::MAX]), "end-of-generation token id: 4294967295 is outside"),
        (with(|parts| parts.added[0].id = 9_999), "added token: 9999 is outside"),
        (with(|parts| parts.added[0].text = "other".into()), "added token `other`: its text is not that of token 265"),
        (with(|parts| parts.model = merging("x nowhere")), "merge 9: `x nowhere` does not name"),
        (with(|parts| parts.model = merging("unsplit")), "merge 9: `unsplit` does not name"),
        (vocabulary(&[(&long, true)]), "its text has 300 bytes; at most 256"),
    ];
    for (parts, expected) in cases {
        let error = Tokenizer::new(parts).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let names: Vec<String> = (0..=1 << 16).map(|number| format!("<{number}>")).collect();
    let many: Vec<(&str, bool)> = names.iter().map(|name| (name.as_str(), true)).collect();
    let error = Tokenizer::new(vocabulary(&many)).expect_err("too many").to_string();
    assert!(error.contains("there are more than 65536"), "{error}");
    // A long token that is not looked for in texts is only long.
    let mut parts = sound();
    parts.tokens.push(&"y".repeat(1 << 20)).expect("room");
    Tokenizer::new(parts).expect("a sound vocabulary");
}

const PRE_TOKENIZERS: [&str; 9] =
    ["gpt-2", "llama3", "qwen2", "smollm", "gpt-4o", "deepseek-llm", "deepseek-v3", "bloom", "falcon"];

fn named(name: &str) -> PreTokenizer {
    PreTokenizer::named(name).expect("a known name")
}

/// Texts of what the scanners tell apart, of added tokens, and of anything.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zA-Zſé漢ب]{0,4}",
        "[0-9²٣]{0,4}",
        "[ \t\r\n\u{a0}\u{3000}]{0,4}",
        "['’.,<>|^\u{301}🦙]{0,4}",
        "'(s|t|re|ve|m|ll|d|S|LL|ſ)",
        proptest::sample::select(ADDED.map(|(text, _)| text.to_owned()).to_vec()),
        any::<String>(),
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same_text(text in any_text(), special in any::<bool>()) {
        let special = if special { SpecialTokens::Parse } else { SpecialTokens::AsText };
        for pre_tokenizer in PRE_TOKENIZERS {
            let parts = Vocabulary { pre_tokenizer: named(pre_tokenizer), ..vocabulary(&ADDED) };
            let tokenizer = Arc::new(Tokenizer::new(parts).expect("sound"));
            let ids = tokenizer.encode(&text, special).expect("a short text");
            let mut decoder = Decoder::new(Arc::clone(&tokenizer), true);
            let decoded: String = ids.iter().map(|&id| decoder.push(id)).collect();
            prop_assert_eq!(decoded + &decoder.finish(), text.as_str());
        }
    }

    #[test]
    fn pieces_are_the_text_and_none_is_empty(text in any_text()) {
        for pre_tokenizer in PRE_TOKENIZERS {
            let lengths = crate::vocabulary::piece_lengths(&named(pre_tokenizer), &text);
            prop_assert!(!lengths.contains(&0));
            prop_assert_eq!(lengths.iter().sum::<usize>(), text.len());
        }
    }

    #[test]
    fn decoding_piece_by_piece_is_decoding_at_once(ids in proptest::collection::vec(0u32..280, 0..40)) {
        let tokenizer = Arc::new(tokenizer());
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| tokenizer.token_bytes(id)).flatten().copied().collect();
        let mut decoder = Decoder::new(Arc::clone(&tokenizer), true);
        let text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        prop_assert_eq!(text + &decoder.finish(), String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn where_the_template_wrote_nothing_no_added_token_is_found(text in any_text()) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_rendered(&text, &[]).expect("a short text");
        prop_assert!(ids.iter().all(|&id| id < tokenizer.vocabulary_size() as u32 - ADDED.len() as u32));
    }
}
