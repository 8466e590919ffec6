//! Values as Python prints them: `str`, `repr` and `json.dumps`.

use super::marks::may_be_mark;
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::fmt::Write;

/// The deepest `indent` of `tojson`.
pub(super) const INDENT_MAX: usize = 16;
/// The deepest nesting printed. Input is nested less, and only hostile templates nest what they build.
pub(super) const DEPTH_MAX: usize = 128;
/// Bytes that one unit of fuel pays for, as in minijinja.
const BYTES_PER_FUEL: usize = 64;

/// The arguments of `json.dumps`.
pub(super) struct JsonStyle {
    pub(super) ensure_ascii: bool,
    pub(super) sort_keys: bool,
    /// Between items, and between a key and its value.
    pub(super) separators: (String, String),
    /// One step of indentation; `None`: all in one line.
    pub(super) indent: Option<String>,
}

/// Text that grows on fuel: a list that holds itself a billion times over must end the template, not the process.
pub(super) struct Paid<'s, 'a, 'b> {
    state: &'s State<'a, 'b>,
    text: String,
    paid: usize,
}

impl<'s, 'a, 'b> Paid<'s, 'a, 'b> {
    pub(super) fn new(state: &'s State<'a, 'b>) -> Self {
        Self { state, text: String::new(), paid: 0 }
    }

    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.text.push_str(text);
        self.pay(0)
    }

    /// Pays for `visited` items and what was written since.
    fn pay(&mut self, visited: u64) -> Result<(), Error> {
        let owed = (self.text.len() - self.paid) / BYTES_PER_FUEL;
        self.paid += owed * BYTES_PER_FUEL;
        self.state.consume_fuel(owed as u64 + visited)
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// `str(value)`.
pub(super) fn text(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let mut out = Paid::new(state);
    out.str(value)?;
    Ok(Value::from(out.finish()))
}

/// `json.dumps(value)`.
pub(super) fn json(state: &State<'_, '_>, value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = Paid::new(state);
    out.json(value, style, 0)?;
    Ok(out.finish())
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value is nested more than {DEPTH_MAX} levels deep"))
}

/// `repr` of a float: the fewest digits that read back the same, in scientific notation outside 1e-4 to 1e16. `names`
/// are those of infinity and not-a-number.
fn float(number: f64, names: [&str; 2]) -> String {
    if number.is_nan() {
        return names[1].into();
    }
    if number.is_infinite() {
        return format!("{}{}", if number < 0.0 { "-" } else { "" }, names[0]);
    }
    // Rust chooses digits and notation alike, but writes exponents without sign and padding.
    let plain = format!("{number:?}");
    match plain.split_once('e') {
        None => plain,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            let digits = digits.strip_suffix(".0").unwrap_or(digits);
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

fn as_float(value: &Value) -> Option<f64> {
    if value.kind() == ValueKind::Number && !value.is_integer() { f64::try_from(value.clone()).ok() } else { None }
}

impl Paid<'_, '_, '_> {
    /// `str(value)`.
    pub(super) fn str(&mut self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.push(text),
            None if value.is_undefined() => Ok(()),
            None => self.repr(value, 0),
        }
    }

    fn repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        self.pay(1)?;
        match value.kind() {
            ValueKind::None | ValueKind::Bool => self.push(&value.to_string()),
            ValueKind::Undefined => self.push("Undefined"),
            ValueKind::Number => match as_float(value) {
                Some(number) => self.push(&float(number, ["inf", "nan"])),
                None => self.push(&value.to_string()),
            },
            ValueKind::String => {
                self.repr_str(value.as_str().unwrap_or_default());
                self.pay(0)
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
                self.push(open)?;
                let mut count = 0;
                for item in value.try_iter()?.checked() {
                    if count > 0 {
                        self.push(", ")?;
                    }
                    self.repr(&item?, depth + 1)?;
                    count += 1;
                }
                if count == 1 && value.is_tuple() {
                    self.push(",")?;
                }
                self.push(close)
            }
            ValueKind::Map => {
                self.push("{")?;
                for (index, key) in value.try_iter()?.checked().enumerate() {
                    let key = key?;
                    if index > 0 {
                        self.push(", ")?;
                    }
                    self.repr(&key, depth + 1)?;
                    self.push(": ")?;
                    self.repr(&value.get_item(&key)?, depth + 1)?;
                }
                self.push("}")
            }
            ValueKind::Invalid | ValueKind::Bytes | ValueKind::Plain | _ => {
                Err(Error::new(ErrorKind::InvalidOperation, format!("cannot print a value of type {}", value.kind())))
            }
        }
    }

    /// A string in quotes: single ones, unless it holds those and no double ones.
    fn repr_str(&mut self, text: &str) {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.text.push(quote);
        for character in text.chars() {
            match character {
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\\' => self.text.push_str("\\\\"),
                _ if character == quote => self.text.extend(['\\', quote]),
                _ if may_be_mark(character) => self.text.push(character),
                '\0'..='\u{1f}' | '\u{7f}'..='\u{a0}' | '\u{ad}' => {
                    // Writing to a string cannot fail.
                    let _ = write!(self.text, "\\x{:02x}", u32::from(character));
                }
                _ => self.text.push(character),
            }
        }
        self.text.push(quote);
    }

    fn json(&mut self, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        self.pay(1)?;
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match as_float(value) {
                Some(number) => self.push(&float(number, ["Infinity", "NaN"])),
                None => self.push(&value.to_string()),
            },
            ValueKind::String => {
                self.json_str(value.as_str().unwrap_or_default(), style.ensure_ascii);
                self.pay(0)
            }
            ValueKind::Seq => {
                self.push("[")?;
                let mut empty = true;
                for item in value.try_iter()?.checked() {
                    self.json_item(style, depth + 1, empty)?;
                    empty = false;
                    self.json(&item?, style, depth + 1)?;
                }
                self.json_end(style, depth, empty, "]")
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                if style.sort_keys {
                    keys.sort();
                }
                self.push("{")?;
                for (index, key) in keys.iter().enumerate() {
                    self.json_item(style, depth + 1, index == 0)?;
                    self.json_key(key, style)?;
                    self.push(&style.separators.1)?;
                    self.json(&value.get_item(key)?, style, depth + 1)?;
                }
                self.json_end(style, depth, keys.is_empty(), "}")
            }
            kind => {
                Err(Error::new(ErrorKind::BadSerialization, format!("a value of type {kind} is not JSON serializable")))
            }
        }
    }

    /// Keys become strings, as in Python.
    fn json_key(&mut self, key: &Value, style: &JsonStyle) -> Result<(), Error> {
        if let Some(key) = key.as_str() {
            self.json_str(key, style.ensure_ascii);
            return self.pay(0);
        }
        self.push("\"")?;
        match key.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.json(key, style, DEPTH_MAX)?,
            kind => {
                return Err(Error::new(ErrorKind::BadSerialization, format!("a key cannot be of type {kind}")));
            }
        }
        self.push("\"")
    }

    fn json_item(&mut self, style: &JsonStyle, depth: usize, first: bool) -> Result<(), Error> {
        if !first {
            self.push(&style.separators.0)?;
        }
        self.json_line(style, depth)
    }

    fn json_end(&mut self, style: &JsonStyle, depth: usize, empty: bool, close: &str) -> Result<(), Error> {
        if !empty {
            self.json_line(style, depth)?;
        }
        self.push(close)
    }

    fn json_line(&mut self, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        let Some(indent) = &style.indent else { return Ok(()) };
        self.push("\n")?;
        (0..depth).try_for_each(|_| self.push(indent))
    }

    fn json_str(&mut self, text: &str, ensure_ascii: bool) {
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                '\0'..='\u{1f}' => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(character));
                }
                '\u{7f}'.. if ensure_ascii && !may_be_mark(character) && character != '\u{7f}' => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                _ => self.text.push(character),
            }
        }
        self.text.push('"');
    }
}
