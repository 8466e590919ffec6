//! The typed key-value pairs of a GGUF file.

use crate::error::{Error, Result, shown};

/// What to do where a key is missing or has the wrong type.
const REMEDY: &str = "Convert the model to GGUF again with a current converter, or use another file";

/// One value. Arrays are flat: GGUF's arrays of arrays are refused when the file is opened.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the GGUF specification's value types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// The values of an array, all of one type, without an allocation per element.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the GGUF specification's value types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Strings),
}

impl Array {
    /// How many values the array has.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
        }
    }

    /// Whether the array has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Many strings in one buffer: a vocabulary of 150,000 tokens is two allocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where each string ends; it begins where the one before it ends.
    ends: Vec<u32>,
}

impl Strings {
    /// An empty list with room for `strings` strings of `bytes` bytes altogether.
    pub fn with_capacity(strings: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    /// Appends a string; `None`, and nothing is changed, where the text of all would pass 4 GiB.
    pub fn push(&mut self, string: &str) -> Option<()> {
        let end = u32::try_from(self.text.len().checked_add(string.len())?).ok()?;
        self.text.push_str(string);
        self.ends.push(end);
        Some(())
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String number `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|index| self.get(index).expect("the index is below the length"))
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    /// Collects strings of less than 4 GiB altogether.
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut list = Self::default();
        for string in strings {
            list.push(string.as_ref()).expect("the text is below 4 GiB");
        }
        list
    }
}

/// The key-value pairs of a GGUF file, in file order.
///
/// Getters name the key and the type they need in their error. An integer getter takes any integer type whose value
/// fits, because writers differ in the width they choose; `f32` takes both float types. Nothing else is converted.
/// `optional_…` getters give `None` where the key is missing and still refuse a wrong type.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
    /// Positions in `pairs`, sorted by key.
    by_key: Vec<u32>,
}

/// A scalar getter and its optional form.
macro_rules! getters {
    ($($name:ident, $optional:ident, $type:ty, $expected:literal, $convert:expr;)*) => {$(
        #[doc = concat!("The value of `key`, which must be ", $expected, ".")]
        ///
        /// # Errors
        /// [`Error::Gguf`] where the key is missing or has another type.
        pub fn $name(&self, key: &str) -> Result<$type> {
            self.$optional(key)?.ok_or_else(|| missing(key, $expected))
        }

        #[doc = concat!("The value of `key`, which must be ", $expected, " if it is there.")]
        ///
        /// # Errors
        /// [`Error::Gguf`] where the key has another type.
        pub fn $optional(&self, key: &str) -> Result<Option<$type>> {
            let convert: fn(&Value) -> Option<$type> = $convert;
            self.get(key).map(|value| convert(value).ok_or_else(|| wrong_type(key, value, $expected))).transpose()
        }
    )*};
}

/// A getter of a list and its optional form.
macro_rules! list_getters {
    ($($name:ident, $optional:ident, $type:ty, $expected:literal, $convert:expr;)*) => {$(
        #[doc = concat!("The value of `key`, which must be ", $expected, ".")]
        ///
        /// # Errors
        /// [`Error::Gguf`] where the key is missing or has another type.
        pub fn $name(&self, key: &str) -> Result<$type> {
            self.$optional(key)?.ok_or_else(|| missing(key, $expected))
        }

        #[doc = concat!("The value of `key`, which must be ", $expected, " if it is there.")]
        ///
        /// # Errors
        /// [`Error::Gguf`] where the key has another type.
        pub fn $optional(&self, key: &str) -> Result<Option<$type>> {
            let convert: fn(&Array) -> Option<$type> = $convert;
            self.get(key)
                .map(|value| match value {
                    Value::Array(array) => convert(array).ok_or_else(|| wrong_type(key, value, $expected)),
                    _ => Err(wrong_type(key, value, $expected)),
                })
                .transpose()
        }
    )*};
}

impl Metadata {
    /// Pairs to be written.
    ///
    /// # Errors
    /// [`Error::Gguf`] where a key occurs twice.
    pub fn from_pairs(pairs: Vec<(String, Value)>) -> Result<Self> {
        Self::new(pairs).map_err(|key| Error::Gguf {
            field: format!("metadata key `{}`", shown(&key)),
            problem: "it occurs twice".into(),
            remedy: REMEDY,
        })
    }

    /// Builds the index by key.
    ///
    /// # Errors
    /// The key that two pairs share.
    pub(crate) fn new(pairs: Vec<(String, Value)>) -> Result<Self, String> {
        let mut by_key: Vec<u32> = (0..pairs.len() as u32).collect();
        by_key.sort_unstable_by_key(|&pair| &pairs[pair as usize].0);
        let twice = by_key.windows(2).find(|two| pairs[two[0] as usize].0 == pairs[two[1] as usize].0);
        if let Some(two) = twice {
            return Err(pairs[two[0] as usize].0.clone());
        }
        Ok(Self { pairs, by_key })
    }

    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let place = self.by_key.binary_search_by_key(&key, |&pair| &self.pairs[pair as usize].0).ok()?;
        Some(&self.pairs[self.by_key[place] as usize].1)
    }

    /// All pairs in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    getters! {
        u32, optional_u32, u32, "an unsigned integer below 2^32", |value| unsigned(value)?.try_into().ok();
        u64, optional_u64, u64, "an unsigned integer", unsigned;
        f32, optional_f32, f32, "a floating-point number", |value| match value {
            Value::F32(number) => Some(*number),
            Value::F64(number) => Some(*number as f32),
            _ => None,
        };
        bool, optional_bool, bool, "a boolean", |value| match value {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        };
    }

    /// The value of `key`, which must be a string.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the key is missing or has another type.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.optional_str(key)?.ok_or_else(|| missing(key, "a string"))
    }

    /// The value of `key`, which must be a string if it is there.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the key has another type.
    pub fn optional_str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(key, other, "a string")),
        }
    }

    /// The value of `key`, which must be an array of strings.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the key is missing or has another type.
    pub fn strings(&self, key: &str) -> Result<&Strings> {
        self.optional_strings(key)?.ok_or_else(|| missing(key, "an array of strings"))
    }

    /// The value of `key`, which must be an array of strings if it is there.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the key has another type.
    pub fn optional_strings(&self, key: &str) -> Result<Option<&Strings>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(strings))) => Ok(Some(strings)),
            Some(other) => Err(wrong_type(key, other, "an array of strings")),
        }
    }

    list_getters! {
        f32s, optional_f32s, Vec<f32>, "an array of floating-point numbers", |array| match array {
            Array::F32(numbers) => Some(numbers.clone()),
            Array::F64(numbers) => Some(numbers.iter().map(|&number| number as f32).collect()),
            _ => None,
        };
        i32s, optional_i32s, Vec<i32>, "an array of integers between -2^31 and 2^31 - 1", integers;
        u32s, optional_u32s, Vec<u32>, "an array of unsigned integers below 2^32", integers;
        bools, optional_bools, Vec<bool>, "an array of booleans", |array| match array {
            Array::Bool(truths) => Some(truths.clone()),
            _ => None,
        };
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(number) => Some(number.into()),
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        Value::U64(number) => Some(number),
        Value::I8(number) => number.try_into().ok(),
        Value::I16(number) => number.try_into().ok(),
        Value::I32(number) => number.try_into().ok(),
        Value::I64(number) => number.try_into().ok(),
        _ => None,
    }
}

/// The array's integers in the type asked for; `None` where one does not fit.
fn integers<T>(array: &Array) -> Option<Vec<T>>
where
    T: TryFrom<u8> + TryFrom<i8> + TryFrom<u16> + TryFrom<i16>,
    T: TryFrom<u32> + TryFrom<i32> + TryFrom<u64> + TryFrom<i64>,
{
    fn all<S: Copy, T: TryFrom<S>>(numbers: &[S]) -> Option<Vec<T>> {
        numbers.iter().map(|&number| T::try_from(number).ok()).collect()
    }
    match array {
        Array::U8(numbers) => all(numbers),
        Array::I8(numbers) => all(numbers),
        Array::U16(numbers) => all(numbers),
        Array::I16(numbers) => all(numbers),
        Array::U32(numbers) => all(numbers),
        Array::I32(numbers) => all(numbers),
        Array::U64(numbers) => all(numbers),
        Array::I64(numbers) => all(numbers),
        _ => None,
    }
}

fn missing(key: &str, expected: &str) -> Error {
    Error::Gguf {
        field: format!("metadata key `{}`", shown(key)),
        problem: format!("it is missing; {expected} is needed"),
        remedy: REMEDY,
    }
}

fn wrong_type(key: &str, value: &Value, expected: &str) -> Error {
    let found = match value {
        Value::Array(Array::String(_)) => "an array of strings".into(),
        Value::Array(array) => format!("an array of {} values that do not fit", array.len()),
        Value::String(text) => format!("the string `{}`", shown(text)),
        other => format!("{other:?}"),
    };
    Error::Gguf {
        field: format!("metadata key `{}`", shown(key)),
        problem: format!("it is {found}, but {expected} is needed"),
        remedy: REMEDY,
    }
}
