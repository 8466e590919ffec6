//! GGUF files, sound and hostile (each case is a sound file with one thing changed).

use crate::allocator::within_limit;
use crate::gguf_builder::{ARRAY, BOOL, Builder, F64, I32, STRING, U8, U64, array, string};
use freehold_base::Dtype;
use freehold_formats::{Error, Gguf, Value};
use proptest::prelude::*;

fn open(bytes: Vec<u8>) -> Result<Gguf, Error> {
    within_limit(bytes.len(), || Gguf::from_bytes(bytes))
}

/// The file must be refused as GGUF, with words that name the field and the fault.
fn refused(bytes: Vec<u8>, words: &[&str]) {
    let text = match open(bytes) {
        Err(error @ Error::Gguf { .. }) => error.to_string(),
        other => panic!("expected a refusal with {words:?}, got {other:?}"),
    };
    for word in words {
        assert!(text.contains(word), "`{text}` does not say `{word}`");
    }
    assert!(text.len() < 600 && !text.contains(char::is_control), "not fit to be shown: {text:?}");
}

#[test]
fn a_sound_file_reads_back() {
    for version in [2, 3] {
        let gguf = open(Builder::sound().set(|file| file.version = version).build()).unwrap();
        assert_eq!((gguf.version(), gguf.alignment()), (version, 32));

        let metadata = gguf.metadata();
        assert_eq!(metadata.str("general.architecture").unwrap(), "llama");
        assert_eq!(metadata.u32("llama.block_count").unwrap(), 2);
        assert_eq!(metadata.u64("llama.block_count").unwrap(), 2);
        assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), 1e4);
        assert!(metadata.bool("truth").unwrap());
        assert_eq!(metadata.strings("words").unwrap().iter().collect::<Vec<_>>(), ["the", "", "café"]);
        assert_eq!(metadata.i32s("numbers").unwrap(), [1, -1]);
        assert_eq!(metadata.optional_u32("absent").unwrap(), None);
        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys[..2], ["general.architecture", "llama.block_count"]);

        let names: Vec<_> = gguf.tensors().map(|tensor| tensor.name).collect();
        assert_eq!(names, ["a", "b"]);
        let b = gguf.tensor("b").unwrap();
        assert_eq!((b.dtype, b.shape, b.numbers()), (Dtype::Q8_0, &[2, 32][..], 64));
        assert_eq!(b.bytes, (96..164).collect::<Vec<u8>>());
        assert!(gguf.tensor("c").is_none());
    }
}

#[test]
fn a_missing_or_mistyped_key_is_named_with_the_type_it_needs() {
    let gguf = open(Builder::sound().key("big", U64, u64::MAX.to_le_bytes()).build()).unwrap();
    let metadata = gguf.metadata();
    let cases = [
        (metadata.u32("llama.head").map(drop), ["`llama.head`", "missing", "unsigned integer"]),
        (metadata.u32("big").map(drop), ["`big`", "18446744073709551615", "below 2^32"]),
        (metadata.f32("llama.block_count").map(drop), ["`llama.block_count`", "U32(2)", "floating-point"]),
        (metadata.str("words").map(drop), ["`words`", "array of strings", "a string is needed"]),
        (metadata.strings("numbers").map(drop), ["`numbers`", "array of 2 values", "array of strings"]),
        (metadata.u32s("numbers").map(drop), ["`numbers`", "array of 2 values", "unsigned integers"]),
        (metadata.optional_bool("words").map(drop), ["`words`", "array of strings", "boolean"]),
    ];
    for (result, words) in cases {
        let text = result.unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "`{text}` does not say `{word}`");
        }
    }
}

#[test]
fn other_sound_files_open() {
    let sound = Builder::sound;
    let no_tensors = sound().set(|file| {
        file.tensors.clear();
        file.data.clear();
    });
    let unpadded_header = no_tensors.clone().set(|file| file.alignment = 1);
    let aligned = sound().u32("general.alignment", 64).set(|file| file.alignment = 64).b(|b| b.offset = 128);
    let cases = [
        ("no tensors", no_tensors.build()),
        ("no tensors, no padding", unpadded_header.build()),
        ("no padding after the last tensor", sound().set(|file| file.data.truncate(164)).build()),
        ("part one of one", sound().u32("split.count", 1).build()),
        ("alignment 64", aligned.set(|file| file.data.resize(256, 0)).build()),
        ("slashes in a name", sound().a(|a| a.name = b"encoder/layer_0/weight".into()).build()),
    ];
    for (name, bytes) in cases {
        open(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn hostile_counts() {
    let sound = Builder::sound;
    for count in [1 << 32, 1 << 63, u64::MAX] {
        refused(sound().set(|file| file.tensor_count = Some(count)).build(), &["tensor count", &count.to_string()]);
        refused(sound().set(|file| file.key_count = Some(count)).build(), &["metadata key count", &count.to_string()]);
    }
    refused(sound().set(|file| file.tensor_count = Some(200_000)).build(), &["tensor count", "more than the file"]);
    refused(sound().set(|file| file.tensor_count = Some(3)).build(), &["tensor number 2"]);
    refused(sound().set(|file| file.key_count = Some(7)).build(), &["tensor number 0"]);
    for length in [1u64 << 40, u64::MAX - 7, u64::MAX] {
        let claim = length.to_le_bytes();
        refused(sound().key("text", STRING, claim).build(), &["`text`", &length.to_string()]);
        let last_key_is_long = [
            b"GGUF".to_vec(),
            3u32.to_le_bytes().into(),
            0u64.to_le_bytes().into(),
            1u64.to_le_bytes().into(),
            claim.into(),
        ]
        .concat();
        refused(last_key_is_long, &["metadata key number 0", &length.to_string()]);
    }
    // 1 GiB is allowed, but has to be there.
    refused(sound().key("text", STRING, (1u64 << 30).to_le_bytes()).build(), &["`text`", "1073741824"]);
}

#[test]
fn hostile_arrays() {
    let with = |value: Vec<u8>| Builder::sound().key("list", ARRAY, value).build();
    refused(with(array(U64, 1 << 61, &[])), &["`list`", "2305843009213693952"]);
    refused(with(array(STRING, 1 << 62, &[])), &["`list`", "4611686018427387904"]);
    refused(with(array(STRING, 1 << 30, &[0; 8000])), &["`list`"]);
    refused(with(array(U64, 1 << 30, &[])), &["`list`", "8589934592"]);
    refused(with(array(BOOL, 2, &[1, 2])), &["`list`", "boolean is 2"]);
    refused(with(array(13, 1, &[0; 8])), &["`list`", "type 13"]);
    refused(with(array(STRING, 1, &string([0xff]))), &["`list`", "UTF-8"]);
    let deep: Vec<u8> = std::iter::repeat_n(array(ARRAY, 1, &[]), 100_000).flatten().collect();
    refused(with(deep), &["`list`", "array of arrays"]);
}

/// Four million empty strings are 32 MB of file; what is kept of them must be less.
#[test]
fn many_empty_strings_cost_less_than_the_file() {
    let bytes = Builder::sound().key("list", ARRAY, array(STRING, 1 << 22, &vec![0; 8 << 22])).build();
    assert_eq!(open(bytes).unwrap().metadata().strings("list").unwrap().len(), 1 << 22);
}

/// Descriptions of tensors take the least space in a file and the most in memory.
#[test]
fn as_many_tensors_as_allowed_stay_within_memory() {
    let file = Builder::sound().set(|file| {
        let one = file.tensors[0].clone();
        file.tensors = (0..1 << 18)
            .map(|number: u64| {
                let mut tensor = one.clone();
                tensor.name = format!("{number:x}").into_bytes();
                (tensor.dimensions, tensor.rank, tensor.kind, tensor.offset) = (vec![1], 1, 24, 8 * number);
                tensor
            })
            .collect();
        file.alignment = 8;
        file.data = vec![0; 8 << 18];
    });
    let file = file.u32("general.alignment", 8);
    assert_eq!(open(file.build()).unwrap().tensors().len(), 1 << 18);
    let duplicate = file.set(|file| file.tensors[70_000].name = b"77".into());
    refused(duplicate.build(), &["`77`", "two tensors"]);
}

#[test]
fn hostile_shapes() {
    let shaped = |dimensions: &[u64]| {
        let (dimensions, rank) = (dimensions.to_vec(), dimensions.len() as u32);
        Builder::sound().a(|a| (a.dimensions, a.rank) = (dimensions, rank)).build()
    };
    for (dimensions, word) in [
        (&[1 << 32, 1 << 32][..], "larger than any file"),   // wraps u64 to 0
        (&[1 << 32, (1 << 32) + 1], "larger than any file"), // wraps u64 to 2^32
        (&[1 << 62, 2], "larger than any file"),             // wraps i64 to negative
        (&[1 << 62], "larger than any file"),                // bytes wrap u64
        (&[1 << 63], "larger than any file"),
        (&[(1 << 62) + 24], "larger than any file"), // bytes wrap u64 to the right size
        (&[1 << 40], "beyond the end of the file"),
        (&[8, 0], "is 0"),
        (&[0], "is 0"),
        (&[], "0 dimensions"),
        (&[1, 1, 1, 1, 1], "5 dimensions"),
    ] {
        refused(shaped(dimensions), &["tensor `a`", word]);
    }
    refused(Builder::sound().a(|a| a.rank = u32::MAX).build(), &["tensor `a`", "4294967295 dimensions"]);
    refused(Builder::sound().b(|b| b.dimensions[0] = 33).build(), &["tensor `b`", "33 numbers", "Q8_0"]);
    refused(Builder::sound().b(|b| b.dimensions = vec![16, 4]).build(), &["tensor `b`", "16 numbers"]);
    refused(Builder::sound().b(|b| b.dimensions[1] = 4).build(), &["tensor data", "end is missing"]);
}

#[test]
fn hostile_offsets_and_alignment() {
    for (offset, word) in [
        (1 << 40, "1099511627776"),
        (u64::MAX - 31, "18446744073709551584"),
        (97, "97"),      // unaligned
        (64, "64"),      // overlapping
        (128, "128"),    // a gap
        (0, "offset 0"), // on top
    ] {
        refused(Builder::sound().b(|b| b.offset = offset).build(), &["tensor `b`", word]);
    }
    let reversed = Builder::sound().a(|a| a.offset = 96).b(|b| b.offset = 0);
    refused(reversed.build(), &["tensor `a`", "offset 96"]);

    let key = "`general.alignment`";
    for alignment in [0, 1, 3, 24, 1 << 31, u32::MAX] {
        refused(Builder::sound().u32("general.alignment", alignment).build(), &[key, &alignment.to_string()]);
    }
    refused(Builder::sound().str("general.alignment", "32").build(), &[key, "u32"]);
    refused(Builder::sound().key("general.alignment", I32, (-32i32).to_le_bytes()).build(), &[key, "u32"]);
    refused(Builder::sound().key("general.alignment", F64, 32f64.to_le_bytes()).build(), &[key, "u32"]);
}

/// The specification's numbers of the types.
pub(crate) const DTYPES: [(u32, Dtype); 35] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (3, Dtype::Q4_1),
    (6, Dtype::Q5_0),
    (7, Dtype::Q5_1),
    (8, Dtype::Q8_0),
    (9, Dtype::Q8_1),
    (10, Dtype::Q2_K),
    (11, Dtype::Q3_K),
    (12, Dtype::Q4_K),
    (13, Dtype::Q5_K),
    (14, Dtype::Q6_K),
    (15, Dtype::Q8_K),
    (16, Dtype::IQ2_XXS),
    (17, Dtype::IQ2_XS),
    (18, Dtype::IQ3_XXS),
    (19, Dtype::IQ1_S),
    (20, Dtype::IQ4_NL),
    (21, Dtype::IQ3_S),
    (22, Dtype::IQ2_S),
    (23, Dtype::IQ4_XS),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (29, Dtype::IQ1_M),
    (30, Dtype::BF16),
    (34, Dtype::TQ1_0),
    (35, Dtype::TQ2_0),
    (39, Dtype::MXFP4),
    (40, Dtype::NVFP4),
    (41, Dtype::Q1_0),
    (42, Dtype::Q2_0),
];

#[test]
fn types_unknown_removed_and_known() {
    let typed = |kind| Builder::sound().a(|a| a.kind = kind).build();
    for removed in [4, 5, 31, 32, 33, 36, 37, 38] {
        refused(typed(removed), &["tensor `a`", &format!("type {removed} was removed")]);
    }
    for unknown in [43, 100, u32::MAX] {
        refused(typed(unknown), &["tensor `a`", &format!("type {unknown} is unknown")]);
    }
    for (kind, dtype) in DTYPES {
        let (_, block_bytes) = dtype.block();
        let file = Builder::sound().set(|file| {
            file.tensors.truncate(1);
            (file.tensors[0].kind, file.tensors[0].dimensions) = (kind, vec![256, 1]);
            file.data = vec![0; 256 / dtype.block().0 * block_bytes];
        });
        let gguf = open(file.build()).unwrap();
        assert_eq!(gguf.tensor("a").unwrap().dtype, dtype);
    }
    refused(Builder::sound().key("odd", 13, [0; 16]).build(), &["`odd`", "type 13"]);
    refused(Builder::sound().key("odd", BOOL, [2]).build(), &["`odd`", "boolean is 2"]);
}

#[test]
fn hostile_names() {
    for (name, word) in [
        (&b""[..], "empty"),
        (b"a\0b", "control"),
        (b"a\x1b[31m", "control"),
        (b"\xff\xfe", "UTF-8"),
        (&[b'n'; 64], "64 bytes"),
        (b"../../etc/x", "path"),
        (b"/etc/x", "path"),
        (b"a\\b", "path"),
    ] {
        refused(Builder::sound().a(|a| a.name = name.into()).build(), &["tensor number 0", word]);
        if name.len() < 64 {
            refused(Builder::sound().key(name, U8, [1]).build(), &["metadata key number 6", word]);
        }
    }
    refused(Builder::sound().key([b'k'; 65_536], U8, [1]).build(), &["metadata key number 6", "65536 bytes"]);
    refused(Builder::sound().b(|b| b.name = b"a".into()).build(), &["tensor `a`", "two tensors"]);
    refused(Builder::sound().str("words", "again").build(), &["`words`", "twice"]);
}

#[test]
fn other_versions_and_structure() {
    let version = |version| Builder::sound().set(|file| file.version = version).build();
    refused(version(0), &["version 0"]);
    refused(version(1), &["version 1"]);
    refused(version(4), &["version 4"]);
    refused(version(99), &["version 99"]);
    refused(version(3u32.swap_bytes()), &["big-endian"]);
    let mut bytes = Builder::sound().build();
    bytes[0] = b'g';
    refused(bytes, &["magic"]);
    refused(Vec::new(), &["magic"]);

    // An empty ZIP archive, which some tools would find from the end of the file.
    let zip = [&b"PK\x05\x06"[..], &[0; 18]].concat();
    refused([Builder::sound().build(), zip].concat(), &["end of file", "22 bytes"]);
    refused(Builder::sound().u32("split.count", 3).build(), &["`split.count`", "3 parts", "--merge"]);
}

#[test]
fn truncated_anywhere_it_is_refused() {
    let bytes = Builder::sound().build();
    let needed = bytes.len() - (192 - 164);
    for length in 0..needed {
        assert!(matches!(open(bytes[..length].to_vec()), Err(Error::Gguf { .. })), "{length} bytes were accepted");
    }
    for length in needed..=bytes.len() {
        open(bytes[..length].to_vec()).unwrap();
    }
}

/// Looks at everything a file offers, so that a bad range would be found.
fn walk(gguf: &Gguf) -> usize {
    let metadata: usize = gguf
        .metadata()
        .iter()
        .map(|(key, value)| match value {
            Value::Array(array) => array.len(),
            _ => key.len(),
        })
        .sum();
    metadata + gguf.tensors().map(|tensor| gguf.tensor(tensor.name).unwrap().bytes.len()).sum::<usize>()
}

proptest! {
    #[test]
    fn any_few_changed_bytes_are_read_or_refused(
        changes in prop::collection::vec((0usize..700, any::<u8>()), 1..6),
        cut in prop::option::of(0usize..700),
    ) {
        let mut bytes = Builder::sound().build();
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        if let Ok(gguf) = open(bytes) {
            walk(&gguf);
        }
    }

    #[test]
    fn any_word_changed_to_an_extreme_is_read_or_refused(
        place in 0usize..700,
        word in prop::sample::select(vec![0, 1, 1 << 31, 1 << 32, 1 << 61, 1 << 62, 1 << 63, u64::MAX - 31, u64::MAX]),
    ) {
        let mut bytes = Builder::sound().build();
        let place = place % (bytes.len() - 8);
        bytes[place..place + 8].copy_from_slice(&word.to_le_bytes());
        if let Ok(gguf) = open(bytes) {
            walk(&gguf);
        }
    }
}

#[test]
fn the_tiny_model_opens_from_its_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tiny/tiny-llama.gguf");
    let gguf = Gguf::open(path.as_ref()).unwrap();
    assert_eq!(gguf.metadata().strings("tokenizer.ggml.tokens").unwrap().len(), 359);
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().shape, [359, 256]);
    assert_eq!(gguf.tensors().len(), 20);
    assert_eq!(gguf.metadata().get("general.license"), Some(&Value::String("apache-2.0".into())));
}
