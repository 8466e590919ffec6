//! The Jinja environment as transformers sets it up.

use super::marks::SpecialTokens;
use super::{methods, operators, python, rewrite};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};
use std::fmt;

/// An environment without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_debug(false);
    environment.set_syntax(syntax());
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|output, state, value| {
        output.write_str(python::text(state, value)?.as_str().unwrap_or_default()).map_err(Error::from)
    });
    // They tell what a prompt must not hold, or print otherwise than Python does.
    environment.remove_global("debug");
    environment.remove_filter("pprint");
    environment.add_function("raise_exception", raise_exception);
    // Python's `None` is not, and minijinja's is; an undefined variable is in both.
    environment.add_test("iterable", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |state: &State, value: &Value| python::text(state, value));
    environment.add_filter("join", methods::join_filter);
    operators::add_to(&mut environment);
    environment
}

/// The source of a template as the environment takes it, its special tokens marked; and the strings in its expressions.
pub(super) fn prepared(source: &str, special: &SpecialTokens) -> Result<(String, Vec<String>), Error> {
    rewrite::rewrite(&spelled(source), special, syntax())
}

fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("the delimiters are the default ones")
}

/// Transformers' `{% generation %}` marks what the assistant said, for training. Here it is only a scope.
fn spelled(source: &str) -> String {
    // Jinja's lexer knows one newline only.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        prepared.push_str(before);
        let name = tag.trim_start_matches(['-', '+']).trim_start();
        let replacement =
            [("generation", "with"), ("endgeneration", "endwith")].into_iter().find_map(|(own, jinja)| {
                let after = name.strip_prefix(own)?;
                after.trim_start().trim_start_matches(['-', '+']).starts_with("%}").then_some((jinja, after))
            });
        rest = match replacement {
            Some((jinja, after)) => {
                prepared.push_str(&tag[..tag.len() - name.len()]);
                prepared.push_str(jinja);
                after
            }
            None => tag,
        };
    }
    prepared.push_str(rest);
    prepared
}

/// What a template said to `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(state: &State<'_, '_>, message: &Value) -> Result<Value, Error> {
    let message = python::text(state, message)?.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, "the template refused").with_source(Raised(message)))
}

/// The message of `raise_exception`, when that is why rendering ended.
pub(super) fn raised(error: &Error) -> Option<&str> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message);
        }
        source = error.source();
    }
    None
}

/// `json.dumps` with the defaults of transformers: `ensure_ascii=False`, no HTML escapes, the order of keys kept.
#[expect(clippy::needless_pass_by_value, reason = "the form in which minijinja hands named arguments over")]
fn tojson(state: &State, value: &Value, positional: Option<bool>, arguments: Kwargs) -> Result<Value, Error> {
    let separators: Option<(String, String)> = match arguments.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let text = |index| {
                let part = pair.get_item_by_index(index)?;
                let wrong = || Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings");
                part.as_str().map(str::to_owned).ok_or_else(wrong)
            };
            Some((text(0)?, text(1)?))
        }
        _ => None,
    };
    let indent: Option<Value> = arguments.get("indent")?;
    let indent = match indent {
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(python::INDENT_MAX)),
        }),
        None => None,
    };
    let style = python::JsonStyle {
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.or(positional).unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: separators.unwrap_or_else(|| (if indent.is_some() { "," } else { ", " }.into(), ": ".into())),
        indent,
    };
    arguments.assert_all_used()?;
    python::json(state, value, &style).map(Value::from)
}
