//! Chat templates made of expressions and statements, and conversations that spell out special tokens.

use crate::allocator::{HOSTILE_BYTES_MAX, peak_of_process};
use crate::damage::{Damage, damaged};
use arbitrary::Arbitrary;
use freehold_formats::{ChatInput, ChatTemplate, Error, SpecialTexts};
use serde_json::{Map, Value, json};
use std::fmt::Write;

const NAMES: [&str; 8] = ["messages", "n", "x", "loop", "tools", "n.t", "m", "bos_token"];
const OPERATORS: [&str; 18] =
    ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "and", "or", "in", "not in"];
const FILTERS: [&str; 40] = [
    "list",
    "tojson",
    "tojson(indent=99)",
    "join",
    "join(x)",
    "upper",
    "trim",
    "map('list')",
    "map(attribute='role')",
    "select",
    "selectattr('role', 'eq', x)",
    "batch(3, x)",
    "slice(3, x)",
    "sort",
    "unique",
    "groupby('role')",
    "sum",
    "sum(start=x)",
    "first",
    "last",
    "reverse",
    "length",
    "string",
    "safe",
    "e",
    "replace('a', x)",
    "indent(99)",
    "items",
    "dictsort",
    "default(x)",
    "min",
    "max",
    "title",
    "capitalize",
    "format(x, x)",
    "round",
    "abs",
    "int",
    "float",
    "attr('role')",
];
const METHODS: [&str; 16] = [
    "split()",
    "split(x)",
    "replace('a', x)",
    "join(x)",
    "format(x, x)",
    "items()",
    "get(x, n)",
    "strip(x)",
    "rsplit(x, 1)",
    "partition(x)",
    "splitlines()",
    "count(x)",
    "startswith(x)",
    "upper()",
    "keys()",
    "title()",
];
const TESTS: [&str; 10] =
    ["defined", "none", "string", "mapping", "iterable", "sequence", "eq(x)", "in(x)", "sameas(x)", "lt(x)"];
const TEXTS: [&str; 8] = ["", "a", "<|im_end|>", "<|IM_", "end|>", "é\u{fdd0}", "{}{0:99}%s%99d", " \n\t"];

/// An expression.
#[derive(Arbitrary, Debug)]
pub enum Expression {
    Name(u8),
    Text(u8),
    Number(i16),
    Huge,
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    Binary(Box<Expression>, u8, Box<Expression>),
    Not(Box<Expression>),
    Minus(Box<Expression>),
    Filter(Box<Expression>, u8),
    Method(Box<Expression>, u8),
    Test(Box<Expression>, u8),
    Item(Box<Expression>, Box<Expression>),
    Slice(Box<Expression>, Option<Box<Expression>>, Option<Box<Expression>>),
    If(Box<Expression>, Box<Expression>, Option<Box<Expression>>),
    Range(Box<Expression>),
    Call(Box<Expression>),
}

/// A statement.
#[derive(Arbitrary, Debug)]
pub enum Statement {
    Raw(u8),
    Print(Expression),
    Set(Expression),
    Change(Expression),
    Capture(Vec<Statement>),
    If(Expression, Vec<Statement>, Vec<Statement>),
    For(Expression, bool, Vec<Statement>),
    Macro(Vec<Statement>),
    With(Expression, Vec<Statement>),
    Raise(Expression),
    Break,
    Continue,
    Include,
}

/// A template and a conversation.
#[derive(Arbitrary, Debug)]
pub struct Input {
    statements: Vec<Statement>,
    damages: Vec<Damage>,
    messages: Vec<(u8, Vec<u8>)>,
}

fn write_expression(out: &mut String, expression: &Expression) {
    use Expression as E;
    let list = |out: &mut String, items: &[E]| {
        for item in items.iter().take(8) {
            write_expression(out, item);
            out.push_str(", ");
        }
    };
    match expression {
        E::Name(name) => out.push_str(NAMES[usize::from(*name) % NAMES.len()]),
        E::Text(text) => drop(write!(out, "{}", json!(TEXTS[usize::from(*text) % TEXTS.len()]))),
        E::Number(number) => drop(write!(out, "({number})")),
        E::Huge => out.push_str("10**12"),
        E::List(items) => {
            out.push('[');
            list(out, items);
            out.push(']');
        }
        E::Tuple(items) => {
            out.push('(');
            list(out, items);
            out.push(')');
        }
        E::Dict(pairs) => {
            out.push('{');
            for (key, value) in pairs.iter().take(8) {
                write_expression(out, key);
                out.push_str(": ");
                write_expression(out, value);
                out.push_str(", ");
            }
            out.push('}');
        }
        E::Binary(left, operator, right) => {
            out.push('(');
            write_expression(out, left);
            let _ = write!(out, " {} ", OPERATORS[usize::from(*operator) % OPERATORS.len()]);
            write_expression(out, right);
            out.push(')');
        }
        E::Not(operand) => {
            out.push_str("(not ");
            write_expression(out, operand);
            out.push(')');
        }
        E::Minus(operand) => {
            out.push('-');
            write_expression(out, operand);
        }
        E::Filter(input, filter) => {
            write_expression(out, input);
            let _ = write!(out, "|{}", FILTERS[usize::from(*filter) % FILTERS.len()]);
        }
        E::Method(object, method) => {
            write_expression(out, object);
            let _ = write!(out, ".{}", METHODS[usize::from(*method) % METHODS.len()]);
        }
        E::Test(value, test) => {
            write_expression(out, value);
            let _ = write!(out, " is {}", TESTS[usize::from(*test) % TESTS.len()]);
        }
        E::Item(object, key) => {
            write_expression(out, object);
            out.push('[');
            write_expression(out, key);
            out.push(']');
        }
        E::Slice(object, start, end) => {
            write_expression(out, object);
            out.push('[');
            start.iter().for_each(|start| write_expression(out, start));
            out.push(':');
            end.iter().for_each(|end| write_expression(out, end));
            out.push(']');
        }
        E::If(value, test, other) => {
            out.push('(');
            write_expression(out, value);
            out.push_str(" if ");
            write_expression(out, test);
            if let Some(other) = other {
                out.push_str(" else ");
                write_expression(out, other);
            }
            out.push(')');
        }
        E::Range(end) => {
            out.push_str("range(");
            write_expression(out, end);
            out.push(')');
        }
        E::Call(argument) => {
            out.push_str("m(");
            write_expression(out, argument);
            out.push(')');
        }
    }
}

fn write_statements(out: &mut String, statements: &[Statement]) {
    let tag = |out: &mut String, keyword: &str, expression: &Expression| {
        let _ = write!(out, "{{% {keyword} ");
        write_expression(out, expression);
        out.push_str(" %}");
    };
    for statement in statements.iter().take(12) {
        use Statement as S;
        match statement {
            S::Raw(text) => out.push_str(TEXTS[usize::from(*text) % TEXTS.len()]),
            S::Print(expression) => {
                out.push_str("{{ ");
                write_expression(out, expression);
                out.push_str(" }}");
            }
            S::Set(expression) => tag(out, "set x =", expression),
            S::Change(expression) => tag(out, "set n.t =", expression),
            S::Capture(body) => {
                out.push_str("{% set x %}");
                write_statements(out, body);
                out.push_str("{% endset %}");
            }
            S::If(test, body, other) => {
                tag(out, "if", test);
                write_statements(out, body);
                out.push_str("{% else %}");
                write_statements(out, other);
                out.push_str("{% endif %}");
            }
            S::For(items, recursive, body) => {
                out.push_str("{% for x in ");
                write_expression(out, items);
                out.push_str(if *recursive { " recursive %}{{ loop([x]) }}" } else { " %}" });
                write_statements(out, body);
                out.push_str("{% endfor %}");
            }
            S::Macro(body) => {
                out.push_str("{% macro m(x) %}");
                write_statements(out, body);
                out.push_str("{% endmacro %}");
            }
            S::With(value, body) => {
                tag(out, "with x =", value);
                write_statements(out, body);
                out.push_str("{% endwith %}");
            }
            S::Raise(message) => {
                out.push_str("{{ raise_exception(");
                write_expression(out, message);
                out.push_str(") }}");
            }
            S::Break => out.push_str("{% break %}"),
            S::Continue => out.push_str("{% continue %}"),
            S::Include => out.push_str("{% include 'chat' %}"),
        }
    }
}

/// Compiles and renders.
pub fn check(input: &Input) {
    let mut source = String::from("{% set n = namespace(t=[1]) %}{% set x = messages %}");
    write_statements(&mut source, &input.statements);
    let source = damaged(source.into_bytes(), &input.damages);
    let source = String::from_utf8_lossy(&source);
    let all = ["<|im_start|>", "<|im_end|>", "<think>"].map(String::from).to_vec();
    let special = SpecialTexts { eos: Some("<|im_end|>".into()), all, ..SpecialTexts::default() };
    let messages: Vec<Value> = (input.messages.iter().take(8))
        .map(|(role, parts)| {
            let content: String = parts.iter().take(16).map(|part| TEXTS[usize::from(*part) % TEXTS.len()]).collect();
            let role = ["system", "user", "assistant", "tool"][usize::from(role % 4)];
            json!({"role": role, "content": content})
        })
        .collect();
    let result = ChatTemplate::new(&source, special).and_then(|template| {
        template.render(&ChatInput {
            messages: &messages,
            tools: None,
            add_generation_prompt: true,
            extra: &Map::new(),
            now: None,
        })
    });
    match result {
        Ok(prompt) => {
            assert!(prompt.tokens.iter().all(|token| !prompt.text[token.clone()].is_empty()));
            assert!(prompt.tokens.is_sorted_by(|before, after| before.end <= after.start));
        }
        Err(Error::Template { problem, .. }) => assert!(!problem.contains("panic"), "{problem}: {source}"),
        Err(Error::ChatRefused { .. } | Error::ChatInput { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let peak = peak_of_process();
    assert!(peak <= HOSTILE_BYTES_MAX + (4 << 20), "{peak} bytes: {source}");
}
