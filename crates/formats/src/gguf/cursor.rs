//! Little-endian reading with every bound checked.

use super::{damaged, unsupported, value_type};
use crate::error::{Error, Result, shown};
use crate::metadata::{Array, Strings, Value};

/// The reference implementation's limit on strings.
const STRING_BYTES_MAX: u64 = 1 << 30;
/// The reference implementation's limit on arrays.
const ARRAY_LENGTH_MAX: u64 = 1 << 30;
/// A position in the file's bytes. Nothing is allocated before the file is known to hold the bytes for it.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, length: u64, field: &dyn Fn() -> String) -> Result<&'a [u8]> {
        match usize::try_from(length).ok().filter(|&length| length <= self.remaining()) {
            Some(length) => {
                let taken = &self.bytes[self.position..][..length];
                self.position += length;
                Ok(taken)
            }
            None => Err(damaged(
                field(),
                format!(
                    "{length} bytes are needed at byte {}, but the file has {} left",
                    self.position,
                    self.remaining()
                ),
            )),
        }
    }

    fn take_array<const N: usize>(&mut self, field: &dyn Fn() -> String) -> Result<[u8; N]> {
        let bytes = self.take(N as u64, field)?;
        Ok(bytes.try_into().expect("take gives as many bytes as were asked for"))
    }

    pub(super) fn u32(&mut self, field: &dyn Fn() -> String) -> Result<u32> {
        self.take_array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &dyn Fn() -> String) -> Result<u64> {
        self.take_array(field).map(u64::from_le_bytes)
    }

    /// A string: its length in bytes as a u64, then UTF-8 without a terminator.
    pub(super) fn string(&mut self, field: &dyn Fn() -> String) -> Result<&'a str> {
        let length = self.u64(field)?;
        if length > STRING_BYTES_MAX {
            return Err(damaged(
                field(),
                format!("a string claims {length} bytes; at most {STRING_BYTES_MAX} are allowed"),
            ));
        }
        let bytes = self.take(length, field)?;
        std::str::from_utf8(bytes).map_err(|error| damaged(field(), format!("a string is not UTF-8 ({error})")))
    }

    /// The type and value of the metadata key `key`.
    pub(super) fn value(&mut self, key: &str) -> Result<Value> {
        let field = || format!("metadata key `{}`", shown(key));
        Ok(match self.u32(&field)? {
            value_type::U8 => Value::U8(u8::from_le_bytes(self.take_array(&field)?)),
            value_type::I8 => Value::I8(i8::from_le_bytes(self.take_array(&field)?)),
            value_type::U16 => Value::U16(u16::from_le_bytes(self.take_array(&field)?)),
            value_type::I16 => Value::I16(i16::from_le_bytes(self.take_array(&field)?)),
            value_type::U32 => Value::U32(u32::from_le_bytes(self.take_array(&field)?)),
            value_type::I32 => Value::I32(i32::from_le_bytes(self.take_array(&field)?)),
            value_type::F32 => Value::F32(f32::from_le_bytes(self.take_array(&field)?)),
            value_type::BOOL => Value::Bool(boolean(self.take_array::<1>(&field)?[0], &field)?),
            value_type::STRING => Value::String(self.string(&field)?.to_owned()),
            value_type::ARRAY => Value::Array(self.array(&field)?),
            value_type::U64 => Value::U64(u64::from_le_bytes(self.take_array(&field)?)),
            value_type::I64 => Value::I64(i64::from_le_bytes(self.take_array(&field)?)),
            value_type::F64 => Value::F64(f64::from_le_bytes(self.take_array(&field)?)),
            id => return Err(unknown_value_type(id, &field)),
        })
    }

    fn array(&mut self, field: &dyn Fn() -> String) -> Result<Array> {
        let id = self.u32(field)?;
        let length = self.u64(field)?;
        if id == value_type::ARRAY {
            return Err(unsupported(field(), "it is an array of arrays, which no known model uses".into()));
        }
        if length > ARRAY_LENGTH_MAX {
            return Err(damaged(
                field(),
                format!("an array claims {length} values; at most {ARRAY_LENGTH_MAX} are allowed"),
            ));
        }
        Ok(match id {
            value_type::U8 => Array::U8(self.numbers(length, field, u8::from_le_bytes)?),
            value_type::I8 => Array::I8(self.numbers(length, field, i8::from_le_bytes)?),
            value_type::U16 => Array::U16(self.numbers(length, field, u16::from_le_bytes)?),
            value_type::I16 => Array::I16(self.numbers(length, field, i16::from_le_bytes)?),
            value_type::U32 => Array::U32(self.numbers(length, field, u32::from_le_bytes)?),
            value_type::I32 => Array::I32(self.numbers(length, field, i32::from_le_bytes)?),
            value_type::F32 => Array::F32(self.numbers(length, field, f32::from_le_bytes)?),
            value_type::BOOL => {
                Array::Bool(self.take(length, field)?.iter().map(|&byte| boolean(byte, field)).collect::<Result<_>>()?)
            }
            value_type::STRING => Array::String(self.strings(length, field)?),
            value_type::U64 => Array::U64(self.numbers(length, field, u64::from_le_bytes)?),
            value_type::I64 => Array::I64(self.numbers(length, field, i64::from_le_bytes)?),
            value_type::F64 => Array::F64(self.numbers(length, field, f64::from_le_bytes)?),
            id => return Err(unknown_value_type(id, field)),
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        length: u64,
        field: &dyn Fn() -> String,
        decode: fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        // At most 2^30 values of 8 bytes.
        let bytes = self.take(length * N as u64, field)?;
        let (values, _) = bytes.as_chunks::<N>();
        Ok(values.iter().map(|&value| decode(value)).collect())
    }

    fn strings(&mut self, length: u64, field: &dyn Fn() -> String) -> Result<Strings> {
        // Walked twice: first for the total size, so that the copy is allocated once and to the byte.
        let start = self.position;
        for _ in 0..length {
            self.string(field)?;
        }
        let end = self.position;
        self.position = start;
        // Each string was seen to have a length of 8 bytes in the file, so neither conversion nor subtraction can fail.
        let length = length as usize;
        let mut strings = Strings::with_capacity(length, end - start - 8 * length);
        for _ in 0..length {
            strings
                .push(self.string(field)?)
                .ok_or_else(|| damaged(field(), "its strings are more than 4 GiB".into()))?;
        }
        Ok(strings)
    }
}

fn boolean(byte: u8, field: &dyn Fn() -> String) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(damaged(field(), format!("a boolean is {other}; only 0 and 1 are allowed"))),
    }
}

fn unknown_value_type(id: u32, field: &dyn Fn() -> String) -> Error {
    damaged(field(), format!("value type {id} does not exist; the types are 0 to 12"))
}
