//! Writing GGUF files: the header from memory, the tensors' data as a stream.

use super::{
    ALIGNMENT_DEFAULT, DIMENSIONS_MAX, DTYPES, KEY_BYTES_MAX, KEYS_MAX, MAGIC, TENSOR_NAME_BYTES_MAX, VERSION,
    value_type,
};
use crate::error::{Error, Result, shown};
use crate::metadata::{Array, Metadata, Value};
use crate::tensor::{TENSORS_MAX, name_problem};
use freehold_base::Dtype;
use std::collections::BTreeSet;
use std::io::{self, Write};

/// A tensor of a file to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDescription {
    /// The name, unique in the file.
    pub name: String,
    /// How the numbers are encoded.
    pub dtype: Dtype,
    /// Outermost dimension first, the last one contiguous.
    pub shape: Vec<u64>,
}

/// A GGUF file to be written, which [`super::Gguf`] will read: its header, and how long each tensor's data are.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    /// Up to where the data begin.
    header: Vec<u8>,
    /// The bytes of each tensor.
    sizes: Vec<u64>,
}

impl GgufWriter {
    /// A file with these keys and tensors, in their order, aligned to 32 bytes.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the format cannot hold a key or a tensor: its name is too long or taken, its shape has no or
    /// more than 4 dimensions or one of 0, its rows are no whole blocks, or its encoding has no number in GGUF.
    pub fn new(metadata: &Metadata, tensors: &[TensorDescription]) -> Result<Self> {
        limited("tensor count", tensors.len(), TENSORS_MAX)?;
        limited("metadata key count", metadata.iter().len(), KEYS_MAX)?;
        let mut header = Vec::new();
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.iter().len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            if let Some(problem) = name_problem(key, KEY_BYTES_MAX) {
                return Err(refused(format!("metadata key `{}`", shown(key)), problem));
            }
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut names = BTreeSet::new();
        let mut sizes = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        for tensor in tensors {
            let field = || format!("tensor `{}`", shown(&tensor.name));
            if let Some(problem) = name_problem(&tensor.name, TENSOR_NAME_BYTES_MAX) {
                return Err(refused(field(), problem));
            }
            if !names.insert(&tensor.name) {
                return Err(refused(field(), "two tensors have this name".into()));
            }
            let (id, size) = measured(tensor).map_err(|problem| refused(field(), problem))?;
            put_string(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|dimension| header.extend_from_slice(&dimension.to_le_bytes()));
            header.extend_from_slice(&id.to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            sizes.push(size);
            let end = offset.checked_add(size).and_then(|end| end.checked_next_multiple_of(ALIGNMENT_DEFAULT.into()));
            offset = end.ok_or_else(|| refused(field(), "the tensors are larger than any file".into()))?;
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
        Ok(Self { header, sizes })
    }

    /// The length of the file; `u64::MAX` where it is more.
    pub fn size_bytes(&self) -> u64 {
        let padded = self.sizes.iter().map(|size| size + padding(*size) as u64);
        padded.fold(self.header.len() as u64, u64::saturating_add)
    }

    /// Writes the file. `data` is asked for each tensor in turn, by its number, and writes its encoded numbers.
    ///
    /// # Errors
    /// Those of `out` and of `data`.
    ///
    /// # Panics
    /// If `data` writes another number of bytes than the tensor's description asks for.
    pub fn write<E: From<io::Error>>(
        &self,
        out: &mut dyn Write,
        mut data: impl FnMut(usize, &mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        out.write_all(&self.header)?;
        for (number, &size) in self.sizes.iter().enumerate() {
            let mut counted = Counted { out: &mut *out, bytes: 0 };
            data(number, &mut counted)?;
            assert_eq!(counted.bytes, size, "the bytes of tensor number {number}");
            out.write_all(&[0; ALIGNMENT_DEFAULT as usize][..padding(size)])?;
        }
        Ok(())
    }
}

/// The bytes that follow `size` bytes up to the next multiple of the alignment.
fn padding(size: u64) -> usize {
    // Below the alignment.
    (size.wrapping_neg() % u64::from(ALIGNMENT_DEFAULT)) as usize
}

/// GGUF's number of a tensor's encoding, and the bytes of its data.
fn measured(tensor: &TensorDescription) -> Result<(u32, u64), String> {
    let TensorDescription { dtype, shape, .. } = tensor;
    let id = DTYPES.iter().find(|(_, known)| known == dtype).map(|(id, _)| *id);
    let id = id.ok_or_else(|| format!("{dtype} is no type of tensors in GGUF"))?;
    if !(1..=DIMENSIONS_MAX as usize).contains(&shape.len()) {
        return Err(format!("it has {} dimensions; 1 to {DIMENSIONS_MAX} are allowed", shape.len()));
    }
    if shape.contains(&0) {
        return Err("one of its dimensions is 0".into());
    }
    let (block, _) = dtype.block();
    let row = shape[shape.len() - 1];
    if !row.is_multiple_of(block as u64) {
        return Err(format!("its rows have {row} numbers, which are no whole blocks of {block} ({dtype})"));
    }
    let numbers = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
    let size = numbers.and_then(|numbers| dtype.size_bytes(numbers));
    Ok((id, size.ok_or_else(|| format!("its shape {shape:?} is larger than any file"))?))
}

/// Counts what goes through.
struct Counted<'o> {
    out: &'o mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The type of a value, then the value.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |id: u32, bytes: &[u8]| {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::U8(number) => put(value_type::U8, &number.to_le_bytes()),
        Value::I8(number) => put(value_type::I8, &number.to_le_bytes()),
        Value::U16(number) => put(value_type::U16, &number.to_le_bytes()),
        Value::I16(number) => put(value_type::I16, &number.to_le_bytes()),
        Value::U32(number) => put(value_type::U32, &number.to_le_bytes()),
        Value::I32(number) => put(value_type::I32, &number.to_le_bytes()),
        Value::F32(number) => put(value_type::F32, &number.to_le_bytes()),
        Value::Bool(truth) => put(value_type::BOOL, &[u8::from(*truth)]),
        Value::U64(number) => put(value_type::U64, &number.to_le_bytes()),
        Value::I64(number) => put(value_type::I64, &number.to_le_bytes()),
        Value::F64(number) => put(value_type::F64, &number.to_le_bytes()),
        Value::String(text) => {
            put(value_type::STRING, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            put(value_type::ARRAY, &[]);
            put_array(out, array);
        }
    }
}

/// The type of the elements, their number, then the elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn put<T: Copy, const N: usize>(out: &mut Vec<u8>, id: u32, values: &[T], encode: fn(T) -> [u8; N]) {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(values.len() as u64).to_le_bytes());
        values.iter().for_each(|&value| out.extend_from_slice(&encode(value)));
    }
    match array {
        Array::U8(values) => put(out, value_type::U8, values, u8::to_le_bytes),
        Array::I8(values) => put(out, value_type::I8, values, i8::to_le_bytes),
        Array::U16(values) => put(out, value_type::U16, values, u16::to_le_bytes),
        Array::I16(values) => put(out, value_type::I16, values, i16::to_le_bytes),
        Array::U32(values) => put(out, value_type::U32, values, u32::to_le_bytes),
        Array::I32(values) => put(out, value_type::I32, values, i32::to_le_bytes),
        Array::F32(values) => put(out, value_type::F32, values, f32::to_le_bytes),
        Array::Bool(values) => put(out, value_type::BOOL, values, |truth| [u8::from(truth)]),
        Array::U64(values) => put(out, value_type::U64, values, u64::to_le_bytes),
        Array::I64(values) => put(out, value_type::I64, values, i64::to_le_bytes),
        Array::F64(values) => put(out, value_type::F64, values, f64::to_le_bytes),
        Array::String(strings) => {
            out.extend_from_slice(&value_type::STRING.to_le_bytes());
            out.extend_from_slice(&(strings.len() as u64).to_le_bytes());
            strings.iter().for_each(|text| put_string(out, text));
        }
    }
}

fn limited(field: &str, count: usize, maximum: usize) -> Result<()> {
    if count <= maximum {
        return Ok(());
    }
    Err(refused(field.into(), format!("there are {count}; at most {maximum} are allowed")))
}

/// The format has no room for what is to be written.
fn refused(field: String, problem: String) -> Error {
    Error::Gguf { field, problem, remedy: "The model cannot be written as GGUF; keep it in the form it has" }
}
