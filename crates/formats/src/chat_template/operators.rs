//! Operators and filters that do as Python does and are paid for before they work. [`super::rewrite`] puts them in.
//!
//! **The rule that bounds every template**: a list, tuple or dict that a template makes is paid for with all that it
//! holds, counted each time it is held. So no value can be larger, seen from outside, than the fuel that was spent on
//! it, and whatever walks over one (to print, compare, sort or hash it) ends. Namespaces, the only values that change,
//! are not allowed inside of others.

use super::methods;
use super::python::{DEPTH_MAX, Paid};
use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters, functions, tests};
use std::sync::{Arc, Mutex, PoisonError};

/// Values that one unit of fuel pays a look at.
const LOOKS_PER_FUEL: u64 = 4;

/// What a filter of Python makes that is a generator there: it can be gone through once, and has no length.
#[derive(Debug)]
struct Generator(Mutex<Vec<Value>>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let items = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Enumerator::Iter(Box::new(items.into_iter()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

fn generator(items: Vec<Value>) -> Value {
    Value::from_object(Generator(Mutex::new(items)))
}

/// Adds what templates call by these names, and what [`super::rewrite`] writes.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("__held", |state: &State, value: Value| held(state, value));
    environment.add_filter("__weighed", |state: &State, value: Value| weighed(state, value));
    environment.add_filter("__each", each);
    environment.add_filter("__concatenated", concatenated);
    environment.add_filter("__added", |state: &State, first: Value, others: Rest<Value>| {
        others.iter().try_fold(first, |sum, value| added(state, &sum, value))
    });
    environment.add_function("__other_template", || -> Result<Value, Error> {
        Err(refused("no other template can be loaded: this environment has no loader"))
    });

    environment.add_function("namespace", |state: &mut State, arguments: Rest<ValueOrKwargs>| {
        Value::from_function(functions::namespace).call(state, &measured(state, arguments)?)
    });
    environment.add_function("dict", |state: &mut State, arguments: Rest<ValueOrKwargs>| {
        Value::from_function(functions::dict).call(state, &measured(state, arguments)?)
    });

    // Generators in Python. The first group only chooses from what is there.
    let generators = [
        ("select", Value::from_function(filters::select), Cost::None),
        ("reject", Value::from_function(filters::reject), Cost::None),
        ("selectattr", Value::from_function(filters::selectattr), Cost::None),
        ("rejectattr", Value::from_function(filters::rejectattr), Cost::None),
        ("unique", Value::from_function(filters::unique), Cost::Compare),
        ("map", Value::from_function(filters::map), Cost::Hold),
        ("batch", Value::from_function(filters::batch), Cost::Hold),
        ("slice", Value::from_function(filters::slice), Cost::Hold),
    ];
    for (name, filter, cost) in generators {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            if arguments.get(1).is_some_and(|second| second.as_object().is_some() && !second.is_kwargs()) {
                return Err(refused(format!("{name}: the first argument is a name or a number")));
            }
            let items = paid(state, &filter, &arguments, cost)?;
            Ok::<_, Error>(generator(items.try_iter()?.checked().collect::<Result<_, _>>()?))
        });
    }
    let lists = [
        ("list", Value::from_function(filters::list), Cost::None),
        ("sort", Value::from_function(filters::sort), Cost::Compare),
        ("min", Value::from_function(filters::min), Cost::Compare),
        ("max", Value::from_function(filters::max), Cost::Compare),
        ("dictsort", Value::from_function(filters::dictsort), Cost::Compare),
        ("groupby", Value::from_function(filters::groupby), Cost::Compare),
        ("sum", Value::from_function(filters::sum), Cost::Hold),
    ];
    for (name, filter, cost) in lists {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            arguments.first().cloned().map(each).transpose()?;
            let result = paid(state, &filter, &arguments, cost)?;
            if name == "groupby" { held(state, result) } else { Ok(result) }
        });
    }
    // They print what is not a string.
    let texts = [
        ("upper", Value::from_function(filters::upper)),
        ("lower", Value::from_function(filters::lower)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("trim", Value::from_function(filters::trim)),
        ("replace", Value::from_function(methods::replace_filter)),
        ("indent", Value::from_function(methods::indent_filter)),
        ("format", Value::from_function(filters::format)),
    ];
    for (name, filter) in texts {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values().into_iter().map(|value| printed(state, value));
            let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
            filter.call(state, &arguments)
        });
    }
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, move |state: &State, value: Value| {
            if value.is_safe() && name != "forceescape" {
                return Ok(value);
            }
            let mut out = Paid::new(state);
            out.str(&value)?;
            escaped(state, &out.finish())
        });
    }
    environment.add_filter("safe", |state: &State, value: Value| {
        let mut out = Paid::new(state);
        out.str(&value)?;
        Ok::<_, Error>(Value::from_safe_string(out.finish()))
    });
    // Neither Jinja2 nor transformers know these.
    for name in ["split", "lines", "bool", "chain", "zip"] {
        environment.remove_filter(name);
    }
    add_tests(environment);
}

fn add_tests(environment: &mut Environment<'_>) {
    type Comparison = fn(&Value, &Value) -> bool;
    let comparisons: [(&[&str], Comparison); 6] = [
        (&["eq", "equalto", "=="], tests::is_eq),
        (&["ne", "!="], tests::is_ne),
        (&["lt", "lessthan", "<"], tests::is_lt),
        (&["le", "<="], tests::is_le),
        (&["gt", "greaterthan", ">"], tests::is_gt),
        (&["ge", ">="], tests::is_ge),
    ];
    for (names, compare) in comparisons {
        for name in names {
            environment.add_test(*name, move |state: &State, left: &Value, right: &Value| {
                weighed(state, left.clone())?;
                weighed(state, right.clone())?;
                Ok::<_, Error>(compare(left, right))
            });
        }
    }
    environment.add_test("in", |state: &State, value: &Value, container: &Value| {
        weighed(state, value.clone())?;
        weighed(state, container.clone())?;
        tests::is_in(state, value, container)
    });
    for name in ["startingwith", "endingwith"] {
        environment.remove_test(name);
    }
}

fn refused(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// What a filter does that the engine does not charge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cost {
    None,
    /// It compares its input's items.
    Compare,
    /// What it makes may hold its input more than once.
    Hold,
}

fn paid(state: &mut State<'_, '_>, filter: &Value, arguments: &[Value], cost: Cost) -> Result<Value, Error> {
    if cost == Cost::Compare {
        // To sort, each item is looked at once for every doubling of their number.
        let doublings = arguments.first().and_then(Value::len).map_or(0, |length| length.max(1).ilog2());
        for value in arguments {
            for _ in 0..=doublings {
                weighed(state, value.clone())?;
            }
        }
    }
    let result = filter.call(state, arguments)?;
    if cost == Cost::Hold { held(state, result) } else { Ok(result) }
}

/// Pays for all that `value` holds, when it is a container, and refuses it when a namespace is inside.
pub(super) fn held(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if value.as_object().is_some() {
        Walk { state, looks: 0, changeable: false }.value(&value, 0)?;
    }
    Ok(value)
}

/// Pays for a look at all of `value`.
pub(super) fn weighed(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if value.as_object().is_some() {
        Walk { state, looks: 0, changeable: true }.value(&value, 0)?;
    }
    Ok(value)
}

struct Walk<'s, 'a, 'b> {
    state: &'s State<'a, 'b>,
    looks: u64,
    /// Whether the value itself may be a namespace or a loop.
    changeable: bool,
}

impl Walk<'_, '_, '_> {
    fn pay(&mut self, looks: u64) -> Result<(), Error> {
        let paid = self.looks / LOOKS_PER_FUEL;
        self.looks = self.looks.saturating_add(looks);
        match self.looks / LOOKS_PER_FUEL - paid {
            0 => Ok(()),
            fuel => self.state.consume_fuel(fuel),
        }
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(refused(format!("a value is nested more than {DEPTH_MAX} levels deep")));
        }
        self.pay(1)?;
        let Some(object) = value.as_object() else { return Ok(()) };
        if value.downcast_object_ref::<Generator>().is_some() {
            return Ok(());
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()?.checked() {
                    self.value(&item?, depth + 1)?;
                }
            }
            ValueKind::Map => {
                if ["Namespace", "Loop"].iter().any(|name| object.type_name().ends_with(name)) {
                    if self.changeable && depth == 0 {
                        return Ok(());
                    }
                    return Err(refused("a namespace or a loop cannot be put into another value"));
                }
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    let before = self.looks;
                    self.value(&key, depth + 1)?;
                    // To find the key, all of it is hashed and compared, and what it has inside as a key once more.
                    self.pay((self.looks - before).saturating_mul(2))?;
                    self.value(&value.get_item(&key)?, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The arguments of a function that keeps them.
fn measured(state: &State<'_, '_>, arguments: Rest<ValueOrKwargs>) -> Result<Vec<Value>, Error> {
    arguments.into_values().into_iter().map(|value| held(state, value)).collect()
}

/// Python does not iterate over `None`.
fn each(value: Value) -> Result<Value, Error> {
    if value.is_none() { Err(refused("'NoneType' object is not iterable")) } else { Ok(value) }
}

/// A container as the text that Python would print; anything else as it is.
fn printed(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if value.as_object().is_none() || value.is_kwargs() {
        return Ok(value);
    }
    let mut out = Paid::new(state);
    out.str(&value)?;
    Ok(Value::from(out.finish()))
}

/// `a ~ b ~ …`: the texts of all.
#[expect(clippy::needless_pass_by_value, reason = "the form in which minijinja hands arguments over")]
fn concatenated(state: &State<'_, '_>, first: Value, others: Rest<Value>) -> Result<Value, Error> {
    let mut out = Paid::new(state);
    out.str(&first)?;
    others.iter().try_for_each(|value| out.str(value))?;
    Ok(Value::from(out.finish()))
}

/// `left + right` as in Python, where a text that is marked safe escapes the other.
fn added(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    use ValueKind::{Bool, Number, Seq};
    match (left.kind(), right.kind()) {
        (ValueKind::String, ValueKind::String) => {
            let safe = left.is_safe() || right.is_safe();
            let mut out = Paid::new(state);
            for value in [left, right] {
                let text = value.as_str().unwrap_or_default();
                if safe && !value.is_safe() {
                    out.push(escaped(state, text)?.as_str().unwrap_or_default())?;
                } else {
                    out.push(text)?;
                }
            }
            Ok(if safe { Value::from_safe_string(out.finish()) } else { Value::from(out.finish()) })
        }
        (Number | Bool, Number | Bool) => {
            let integer = |value: &Value| {
                if value.kind() == Bool {
                    Some(i128::from(value.is_true()))
                } else {
                    i128::try_from(value.clone()).ok().filter(|_| value.is_integer())
                }
            };
            if let (Some(left), Some(right)) = (integer(left), integer(right)) {
                let sum = left.checked_add(right).ok_or_else(|| refused("a sum is too large"))?;
                return Ok(i64::try_from(sum).map_or_else(|_| Value::from(sum), Value::from));
            }
            let float = |value: &Value| match integer(value) {
                Some(integer) => Ok(integer as f64),
                None => f64::try_from(value.clone()),
            };
            Ok(Value::from(float(left)? + float(right)?))
        }
        (Seq, Seq) if left.is_tuple() == right.is_tuple() => {
            let length = left.len().unwrap_or(0).saturating_add(right.len().unwrap_or(0));
            state.consume_fuel(length as u64 / 2)?;
            let items = left.try_iter()?.checked().chain(right.try_iter()?.checked()).collect::<Result<Vec<_>, _>>()?;
            held(state, if left.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
        }
        (left, right) => Err(refused(format!("unsupported operand types for +: {left} and {right}"))),
    }
}

/// `text` with the five characters of HTML as references, marked safe.
fn escaped(state: &State<'_, '_>, text: &str) -> Result<Value, Error> {
    let mut out = Paid::new(state);
    for piece in text.split_inclusive(['&', '<', '>', '\'', '"']) {
        let (plain, reference) = match piece.as_bytes().last() {
            Some(b'&') => (&piece[..piece.len() - 1], "&amp;"),
            Some(b'<') => (&piece[..piece.len() - 1], "&lt;"),
            Some(b'>') => (&piece[..piece.len() - 1], "&gt;"),
            Some(b'\'') => (&piece[..piece.len() - 1], "&#39;"),
            Some(b'"') => (&piece[..piece.len() - 1], "&#34;"),
            _ => (piece, ""),
        };
        out.push(plain)?;
        out.push(reference)?;
    }
    Ok(Value::from_safe_string(out.finish()))
}
