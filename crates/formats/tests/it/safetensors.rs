//! safetensors files and indices, sound and hostile (each case is a sound file with one thing changed).

use crate::allocator::within_limit;
use freehold_base::Dtype;
use freehold_formats::{Error, Mmap, Safetensors};
use proptest::prelude::*;
use std::fmt::Write as _;

/// Two tensors and 40 bytes of data; written in the other order than their data lie.
const HEADER: &str = concat!(
    r#"{"__metadata__":{"format":"pt"},"#,
    r#""b":{"dtype":"F16","shape":[2,4],"data_offsets":[24,40]},"#,
    r#""a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#
);

fn file(header: impl AsRef<[u8]>, data_bytes: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut bytes = [&(header.len() as u64).to_le_bytes(), header].concat();
    bytes.extend((0..data_bytes).map(|byte| byte as u8));
    bytes
}

/// The sound file with `from` in its header replaced.
fn changed(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(HEADER.matches(from).count(), 1, "`{from}` must occur once");
    file(HEADER.replace(from, to), 40)
}

fn open(bytes: Vec<u8>) -> Result<Safetensors, Error> {
    within_limit(bytes.len(), || Safetensors::from_bytes(bytes))
}

fn check_refused<T: std::fmt::Debug>(result: Result<T, Error>, words: &[&str]) {
    let text = match result {
        Err(error @ Error::Safetensors { .. }) => error.to_string(),
        other => panic!("expected a refusal with {words:?}, got {other:?}"),
    };
    for word in words {
        assert!(text.contains(word), "`{text}` does not say `{word}`");
    }
    assert!(text.len() < 800 && !text.contains(char::is_control), "not fit to be shown: {text:?}");
}

fn refused(bytes: Vec<u8>, words: &[&str]) {
    check_refused(open(bytes), words);
}

#[test]
fn a_sound_file_reads_back() {
    let weights = open(file(HEADER, 40)).unwrap();
    let names: Vec<_> = weights.tensors().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["a", "b"], "in the order of the data");
    let b = weights.tensor("b").unwrap();
    assert_eq!((b.dtype, b.shape), (Dtype::F16, &[2, 4][..]));
    assert_eq!(b.bytes, (24..40).collect::<Vec<u8>>());
    assert!(weights.tensor("c").is_none() && weights.tensor("__metadata__").is_none());
}

#[test]
fn other_sound_files_open() {
    for (name, bytes) in [
        ("no tensors", file("{}", 0)),
        ("a header padded with spaces", file(format!("{HEADER}     "), 40)),
        ("an escaped name", changed(r#""a""#, r#""\u0061""#)),
        ("a single number", file(r#"{"x":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}"#, 8)),
        ("an empty tensor", file(r#"{"x":{"dtype":"I64","shape":[0,7],"data_offsets":[0,0]}}"#, 0)),
    ] {
        open(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(open(changed(r#""a""#, r#""\u0061""#)).unwrap().tensor("a").is_some());
}

#[test]
fn every_dtype_is_known_or_named() {
    for (name, bytes) in [
        ("F64", 8),
        ("F32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("I64", 8),
        ("I32", 4),
        ("I16", 2),
        ("I8", 1),
        ("U8", 1),
        ("BOOL", 1),
    ] {
        let header = format!(r#"{{"x":{{"dtype":"{name}","shape":[3],"data_offsets":[0,{}]}}}}"#, 3 * bytes);
        open(file(header, 3 * bytes)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["F8_E4M3", "Q4_0", "f32", ""] {
        refused(changed("F32", name), &["`a`", &format!("dtype `{name}` is not supported")]);
    }
}

#[test]
fn hostile_headers() {
    let length = |length: u64| [&length.to_le_bytes(), file(HEADER, 40).split_off(8).as_slice()].concat();
    for claim in [0, 1, 100_000_001, 1 << 63, u64::MAX] {
        refused(length(claim), &["header length", &claim.to_string()]);
    }
    refused(length(100_000), &["header length", "100000"]);
    refused(length(50), &["header"]);
    refused(vec![1; 7], &["header length", "7 bytes"]);
    refused(file(" {}", 0), &["header", "begin with `{`"]);
    refused(file("[]", 0), &["header"]);
    refused(file(format!("{HEADER}x"), 40), &["header"]);
    refused(file([HEADER.as_bytes(), b"\0"].concat(), 40), &["header"]);
    refused(file(b"{\"\xff\":1}", 0), &["header"]);

    let deep = "[".repeat(200_000);
    refused(file(format!(r#"{{"__metadata__":{deep}"#), 0), &["`__metadata__`"]);
    refused(file(format!(r#"{{"x":{{"dtype":"F32","shape":{deep}"#), 0), &["`x`"]);
    refused(file(format!(r#"{{"x":{{"extra":{deep}"#), 0), &["`x`", "unknown field `extra`"]);
    refused(changed(r#"{"format":"pt"}"#, r#"{"format":1}"#), &["`__metadata__`", "string"]);
    refused(changed(r#""b":"#, r#""__metadata__":{},"b":"#), &["`__metadata__`", "twice"]);
}

#[test]
fn hostile_tensors() {
    refused(changed(r#""b""#, r#""a""#), &["`a`", "two tensors"]);
    refused(changed(r#""b""#, r#""\u0061""#), &["`a`", "two tensors"]);
    refused(changed(r#""dtype":"F32""#, r#""dtype":"F32","dtype":"F32""#), &["`a`", "duplicate field"]);
    refused(file(r#"{"a":1}"#, 0), &["`a`", "an object of dtype"]);
    refused(changed(r#""dtype":"F32","#, ""), &["`a`", "missing field `dtype`"]);
    for (name, word) in
        [("", "empty"), (r"\u0000", "control"), ("../../etc/x", "path"), (&"n".repeat(513), "513 bytes")]
    {
        refused(changed(r#""a""#, &format!(r#""{name}""#)), &["header", word]);
    }

    for (offsets, word) in [
        ("[1,25]", "leave a hole"),
        ("[0,20]", "do not fit"),
        ("[24,0]", "do not fit"),
        ("[0,18446744073709551615]", "do not fit"),
        ("[0]", "invalid length 1"),
        ("[0,24,40]", ""),
        ("[-24,0]", "invalid value"),
        ("[0.0,24.0]", "invalid type"),
        ("[0,18446744073709551616]", "invalid type"),
        ("[0,\"24\"]", "invalid type"),
    ] {
        refused(changed("[0,24]", offsets), &["`a`", word]);
    }
    refused(changed("[24,40]", "[20,36]"), &["`b`", "overlap"]);
    refused(changed("[24,40]", "[32,48]"), &["`b`", "leave a hole"]);
    refused(changed("[24,40]", "[18446744073709551600,18446744073709551615]"), &["`b`"]);
    refused(file(HEADER, 39), &["`b`", "end at 40"]);
    refused(file(HEADER, 62), &["end of file", "22 bytes"]);
    refused(file("{}", 1), &["end of file", "1 bytes"]);

    for (shape, word) in [
        ("[4294967296,4294967296]", "do not fit"),
        ("[4611686018427387910]", "do not fit"), // 4 times this wraps u64 to 24
        ("[2,-3]", "invalid value"),
        ("[2.0,3]", "invalid type"),
        ("[2,1e0]", "invalid type"),
        ("6", "invalid type"),
        ("[2,3,1,1,1,1,1,1,1]", "more than 8 dimensions"),
    ] {
        refused(changed("[2,3]", shape), &["`a`", word]);
    }
}

#[test]
fn large_headers_stay_within_memory() {
    let mut many_dimensions = "1,".repeat(1_000_000);
    many_dimensions.pop();
    refused(changed("[2,3]", &format!("[{many_dimensions}]")), &["`a`", "more than 8 dimensions"]);

    let many = |count: usize| {
        let mut header = String::from("{");
        for number in 0..count {
            write!(header, r#""{number:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#).unwrap();
        }
        header.pop();
        file(header + "}", 0)
    };
    assert_eq!(open(many(200_000)).unwrap().tensors().len(), 200_000);
    refused(many(400_000), &["more than 262144 tensors"]);
    let million = many(1_000_000);
    assert!(million.len() > 32 << 20);
    refused(million, &["header length"]);

    let text = "x".repeat(20_000_000);
    refused(changed("F32", &text), &["`a`", "xxx", "…"]);
    refused(changed("F32", &format!(r"\t{text}")), &["`a`"]);
    refused(changed(r#""a""#, &format!(r#""{text}""#)), &["20000000 bytes"]);
    let metadata = r#""a":"","#.repeat(3_000_000);
    let unread = changed(r#"{"format":"pt"}"#, &format!(r#"{{{metadata}"b":""}}"#));
    open(unread).unwrap();
}

#[test]
fn truncated_anywhere_it_is_refused() {
    let bytes = file(HEADER, 40);
    for length in 0..bytes.len() {
        assert!(matches!(open(bytes[..length].to_vec()), Err(Error::Safetensors { .. })), "{length} bytes accepted");
    }
}

const FIRST: &str = r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
const SECOND: &str = r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
const INDEX: &str = r#"{"metadata":{"total_size":5},"weight_map":{"b":"2.safetensors","a":"1.safetensors"}}"#;

fn open_shards(index: &str, first: &str) -> Result<Safetensors, Error> {
    within_limit(index.len(), || {
        Safetensors::from_shards(index.as_bytes(), |name| match name {
            "1.safetensors" => Ok(Mmap::from(file(first, 3))),
            "2.safetensors" => Ok(Mmap::from(file(SECOND, 2))),
            other => panic!("`{other}` was asked for"),
        })
    })
}

#[test]
fn shards_read_as_one() {
    let weights = open_shards(INDEX, FIRST).unwrap();
    assert_eq!(weights.tensors().len(), 2);
    assert_eq!(weights.tensor("a").unwrap().bytes, [0, 1, 2]);
    assert_eq!(weights.tensor("b").unwrap().bytes, [0, 1]);
}

#[test]
fn hostile_indices() {
    for (from, to, words) in [
        ("\"1.safetensors\"", r#""../1.safetensors""#, &["shard `../1.safetensors`", "plain name"][..]),
        ("\"1.safetensors\"", r#""/etc/passwd""#, &["shard `/etc/passwd`", "plain name"]),
        ("\"1.safetensors\"", r#""C:x""#, &["plain name"]),
        ("\"1.safetensors\"", r#""..\\x""#, &["plain name"]),
        ("\"1.safetensors\"", r#""..""#, &["plain name"]),
        ("\"1.safetensors\"", r#""""#, &["plain name"]),
        ("\"1.safetensors\"", r#""a\u0000b""#, &["plain name"]),
        ("\"1.safetensors\"", "1", &["index", "string"]),
        ("\"a\"", "\"b\"", &["`b`", "twice"]),
        ("\"a\"", "\"c\"", &["tensor `a`", "`1.safetensors`", "does not place"]),
        ("\"a\":\"1", "\"a\":\"2", &["tensor `a`", "`2.safetensors`", "does not hold"]),
        ("\"a\":", "\"c\":\"1.safetensors\",\"a\":", &["tensor `c`", "does not hold"]),
        ("weight_map", "weights", &["index", "weight_map"]),
        ("}}", "}", &["index"]),
    ] {
        assert_eq!(INDEX.matches(from).count(), 1, "`{from}` must occur once");
        check_refused(open_shards(&INDEX.replace(from, to), FIRST), words);
    }
    let deep = "[".repeat(200_000);
    check_refused(open_shards(&format!(r#"{{"weight_map":{deep}"#), FIRST), &["index"]);
    check_refused(open_shards(&format!(r#"{{"metadata":{deep}"#), FIRST), &["index"]);
    let second_has_it_too = r#"{"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    check_refused(open_shards(INDEX, second_has_it_too), &["`b`", "two tensors"]);
    check_refused(open_shards(INDEX, "{}"), &["shard `1.safetensors`", "3 bytes"]);
}

proptest! {
    #[test]
    fn any_few_changed_bytes_are_read_or_refused(
        changes in prop::collection::vec((0usize..300, prop::sample::select(b"{}[]\",:0123456789-.eab\\\0\xff".to_vec())), 1..6),
    ) {
        let mut bytes = file(HEADER, 40);
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        if let Ok(weights) = open(bytes) {
            for tensor in weights.tensors() {
                prop_assert_eq!(tensor.dtype.size_bytes(tensor.numbers()), Some(tensor.bytes.len() as u64));
            }
        }
    }
}
