//! GGUF files written and read again.

use crate::gguf::DTYPES;
use freehold_base::Dtype;
use freehold_formats::{Array, Gguf, GgufWriter, Metadata, Strings, TensorDescription, Value};
use proptest::prelude::*;
use std::io::{self, Write};

fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> TensorDescription {
    TensorDescription { name: name.into(), dtype, shape: shape.into() }
}

fn pairs(pairs: &[(&str, Value)]) -> Metadata {
    Metadata::from_pairs(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()).unwrap()
}

/// The file with these data, a tensor's worth to each tensor.
fn written(metadata: &Metadata, tensors: &[(TensorDescription, Vec<u8>)]) -> Vec<u8> {
    let descriptions: Vec<_> = tensors.iter().map(|(description, _)| description.clone()).collect();
    let writer = GgufWriter::new(metadata, &descriptions).unwrap();
    let mut file = Vec::new();
    writer.write(&mut file, |number, out| out.write_all(&tensors[number].1)).unwrap();
    assert_eq!(file.len() as u64, writer.size_bytes());
    file
}

#[test]
fn tensors_of_every_type_come_back() {
    let tensors: Vec<_> = (0u8..)
        .zip(DTYPES)
        .map(|(number, (_, dtype))| {
            let (numbers, bytes) = dtype.block();
            let description = tensor(&format!("{dtype}.weight"), dtype, &[2, 3, numbers as u64]);
            (description, (0..6 * bytes).map(|byte| number.wrapping_mul(31) ^ byte as u8).collect())
        })
        .collect();
    let gguf = Gguf::from_bytes(written(&Metadata::default(), &tensors)).unwrap();
    let found = gguf.tensors().map(|found| (tensor(found.name, found.dtype, found.shape), found.bytes.to_vec()));
    assert_eq!(found.collect::<Vec<_>>(), tensors);
}

#[test]
fn a_file_is_laid_out_as_the_specification_has_it() {
    let file = written(
        &pairs(&[("general.architecture", Value::String("llama".into())), ("a.b", Value::U32(7))]),
        &[
            (tensor("x", Dtype::F32, &[2, 3]), (0..24).collect()),
            (tensor("y.weight", Dtype::F16, &[5]), (0..10).collect()),
        ],
    );
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let header = [
        b"GGUF".to_vec(),
        3u32.to_le_bytes().to_vec(),
        2u64.to_le_bytes().to_vec(),
        2u64.to_le_bytes().to_vec(),
        text("general.architecture"),
        8u32.to_le_bytes().to_vec(),
        text("llama"),
        text("a.b"),
        4u32.to_le_bytes().to_vec(),
        7u32.to_le_bytes().to_vec(),
        text("x"),
        2u32.to_le_bytes().to_vec(),
        3u64.to_le_bytes().to_vec(),
        2u64.to_le_bytes().to_vec(),
        0u32.to_le_bytes().to_vec(),
        0u64.to_le_bytes().to_vec(),
        text("y.weight"),
        1u32.to_le_bytes().to_vec(),
        5u64.to_le_bytes().to_vec(),
        1u32.to_le_bytes().to_vec(),
        32u64.to_le_bytes().to_vec(),
    ]
    .concat();
    let mut expected = header;
    expected.resize(expected.len().next_multiple_of(32), 0);
    expected.extend(0..24u8);
    expected.resize(expected.len().next_multiple_of(32), 0);
    expected.extend(0..10u8);
    expected.resize(expected.len().next_multiple_of(32), 0);
    assert_eq!(file, expected);
}

fn values() -> impl Strategy<Value = Value> {
    let list = 0..5usize;
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        prop_oneof![
            prop::collection::vec(any::<u8>(), list.clone()).prop_map(Array::U8),
            prop::collection::vec(any::<i8>(), list.clone()).prop_map(Array::I8),
            prop::collection::vec(any::<u16>(), list.clone()).prop_map(Array::U16),
            prop::collection::vec(any::<i16>(), list.clone()).prop_map(Array::I16),
            prop::collection::vec(any::<u32>(), list.clone()).prop_map(Array::U32),
            prop::collection::vec(any::<i32>(), list.clone()).prop_map(Array::I32),
            prop::collection::vec(any::<u64>(), list.clone()).prop_map(Array::U64),
            prop::collection::vec(any::<i64>(), list.clone()).prop_map(Array::I64),
            prop::collection::vec(any::<f32>(), list.clone()).prop_map(Array::F32),
            prop::collection::vec(any::<f64>(), list.clone()).prop_map(Array::F64),
            prop::collection::vec(any::<bool>(), list.clone()).prop_map(Array::Bool),
            prop::collection::vec(any::<String>(), list)
                .prop_map(|texts| Array::String(texts.into_iter().collect::<Strings>())),
        ]
        .prop_map(Value::Array),
    ]
}

proptest! {
    #[test]
    fn keys_of_every_type_come_back(values in prop::collection::vec(values(), 0..8)) {
        let keys: Vec<_> = values.into_iter().enumerate().map(|(number, value)| (format!("key.{number}"), value)).collect();
        let metadata = Metadata::from_pairs(keys.clone()).unwrap();
        let gguf = Gguf::from_bytes(written(&metadata, &[])).unwrap();
        let found: Vec<_> = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        prop_assert_eq!(found, keys);
    }
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let none = Metadata::default();
    let cases = [
        (vec![tensor("", Dtype::F32, &[1])], "the name is empty"),
        (vec![tensor(&"x".repeat(64), Dtype::F32, &[1])], "64 bytes long; at most 63"),
        (vec![tensor("../x", Dtype::F32, &[1])], "a file system path"),
        (vec![tensor("x", Dtype::F32, &[1]), tensor("x", Dtype::F32, &[1])], "two tensors have this name"),
        (vec![tensor("x", Dtype::F32, &[])], "it has 0 dimensions"),
        (vec![tensor("x", Dtype::F32, &[1; 5])], "it has 5 dimensions"),
        (vec![tensor("x", Dtype::F32, &[3, 0])], "one of its dimensions is 0"),
        (vec![tensor("x", Dtype::Q4_K, &[256, 32])], "no whole blocks of 256"),
        (vec![tensor("x", Dtype::Bool, &[1])], "Bool is no type of tensors in GGUF"),
        (vec![tensor("x", Dtype::F32, &[1 << 32, 1 << 32])], "larger than any file"),
        (vec![tensor("x", Dtype::I8, &[u64::MAX])], "larger than any file"),
        (vec![tensor("x", Dtype::I8, &[1 << 63]), tensor("y", Dtype::I8, &[1 << 63])], "larger than any file"),
    ];
    for (tensors, expected) in cases {
        let error = GgufWriter::new(&none, &tensors).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = GgufWriter::new(&pairs(&[("a\nb", Value::U8(0))]), &[]).unwrap_err().to_string();
    assert!(error.contains("control character"), "{error}");
    let twice = vec![("a".to_owned(), Value::U8(0)), ("a".to_owned(), Value::U8(1))];
    let error = Metadata::from_pairs(twice).unwrap_err().to_string();
    assert!(error.contains("metadata key `a`: it occurs twice"), "{error}");
}

#[test]
fn errors_of_data_and_of_the_output_are_passed_on() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let writer = GgufWriter::new(&Metadata::default(), &[tensor("x", Dtype::F32, &[64])]).unwrap();
    for room in [0, 64, 200] {
        let error = writer.write(&mut Full(room), |_, out| out.write_all(&[0; 256])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{room}");
    }
    let mut room = Full(1 << 20);
    let error: io::Error = writer.write(&mut room, |_, _| Err(io::ErrorKind::InvalidData.into())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
