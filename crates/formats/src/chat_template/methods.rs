//! Python's methods on strings, lists and dicts: those of minijinja-contrib, with the ones it lacks, and with those that
//! can build large strings paid for before they do.

use super::operators;
use super::python::Paid;
use minijinja::value::{Kwargs, Rest, StringInput, Tuple, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, filters};
use minijinja_contrib::pycompat;

/// Answers a call of a method that minijinja itself does not have.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    // Those of lists and dicts compare or hash.
    for argument in args.iter().chain((method == "count").then_some(value)) {
        operators::weighed(state, argument.clone())?;
    }
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, method, args) };
    // Reading the string is work that the engine does not charge.
    state.consume_fuel(text.len() as u64 / 64)?;
    match method {
        "replace" => replace(state, text, args),
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            join(state, values, text)
        }
        "format" => {
            // A width is the one way in which few characters ask for many.
            if text.as_bytes().windows(4).any(|digits| digits.iter().all(u8::is_ascii_digit)) {
                return Err(Error::new(ErrorKind::InvalidOperation, "format: a number has more than three digits"));
            }
            let mut longest = 0;
            for argument in args.iter().filter(|argument| argument.kind() != ValueKind::Number) {
                if argument.as_str().is_none() {
                    let mut shown = Paid::new(state);
                    shown.str(argument)?;
                    longest = longest.max(shown.finish().len());
                }
                longest = longest.max(argument.as_str().map_or(0, str::len));
            }
            let fields = text.bytes().filter(|byte| *byte == b'{').count();
            state.consume_fuel((longest.saturating_mul(fields) + text.len().saturating_mul(1000)) as u64 / 64)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let first = method == "partition";
            let parts = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match parts {
                Some((before, after)) => [before, separator, after],
                None if first => [text, "", ""],
                None => ["", "", text],
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        }
        "rsplit" => {
            let (separator, count): (Option<&str>, Option<i64>) = from_args(args)?;
            let (Some(separator), Some(Ok(count))) = (separator, count.map(usize::try_from)) else {
                return pycompat::unknown_method_callback(state, value, "split", &args[..args.len().min(1)]);
            };
            let mut parts: Vec<Value> = text.rsplitn(count.saturating_add(1), separator).map(Value::from).collect();
            parts.reverse();
            Ok(Value::from(parts))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn replace(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = text.matches(old).take(count).count();
    state.consume_fuel((text.len().saturating_add(found.saturating_mul(new.len()))) as u64 / 64)?;
    Ok(Value::from(text.replacen(old, new, count)))
}

/// Jinja's `replace` filter.
#[expect(clippy::needless_pass_by_value, reason = "the form in which minijinja hands arguments over")]
pub(super) fn replace_filter(
    state: &State<'_, '_>,
    text: StringInput<'_>,
    arguments: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let mut arguments = arguments.0;
    arguments.extend(named.get::<Option<Value>>("count")?);
    named.assert_all_used()?;
    replace(state, text.as_str(), &arguments)
}

/// Jinja's `indent` filter.
pub(super) fn indent_filter(state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    type Arguments<'a> = (StringInput<'a>, Option<usize>, Option<bool>, Option<bool>, Kwargs);
    let (text, width, _, _, named): Arguments<'_> = from_args(&arguments)?;
    let width = width.or(named.get("width")?).unwrap_or(4);
    let lines = text.as_str().bytes().filter(|byte| *byte == b'\n').count() + 1;
    state.consume_fuel((lines.saturating_mul(width) / 64) as u64)?;
    Value::from_function(filters::indent).call(state, &arguments)
}

fn join(state: &State<'_, '_>, values: &Value, separator: &str) -> Result<Value, Error> {
    let mut joined = Paid::new(state);
    for (index, value) in values.try_iter()?.checked().enumerate() {
        if index > 0 {
            joined.push(separator)?;
        }
        state.consume_fuel(1)?;
        joined.str(&value?)?;
    }
    Ok(Value::from(joined.finish()))
}

/// Jinja's `join` filter.
pub(super) fn join_filter(
    state: &State<'_, '_>,
    values: &Value,
    separator: Option<&str>,
    attribute: Option<&str>,
) -> Result<Value, Error> {
    let separator = separator.unwrap_or_default();
    if values.is_undefined() {
        return Ok(Value::from(""));
    }
    if values.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "'NoneType' object is not iterable"));
    }
    match attribute {
        None => join(state, values, separator),
        Some(attribute) => {
            let mut attributes = Vec::new();
            for value in values.try_iter()?.checked() {
                state.consume_fuel(1)?;
                attributes.push(value?.get_attr(attribute)?);
            }
            join(state, &Value::from(attributes), separator)
        }
    }
}
