//! Just enough of Rust's grammar to tell code from comments and texts.

use std::ops::Range;

/// The source with every comment and every string or character literal blanked out; line ends stay where they are.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => quoted_end(bytes, at),
            b'r' if !follows_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at),
            b'b' | b'c' if !follows_word(bytes, at) && bytes[at + 1..].starts_with(b"r") => {
                raw_string_end(bytes, at + 1).unwrap_or(at)
            }
            b'\'' => char_end(source, at).unwrap_or(at),
            _ => at,
        };
        code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("whole literals and comments are blanked, so no character is cut")
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], at: usize) -> usize {
    let mut next = at + 1;
    while next < bytes.len() {
        match bytes[next] {
            b'\\' => next += 2,
            b'"' => return next + 1,
            _ => next += 1,
        }
    }
    bytes.len()
}

/// `at` is the `r`; `None` where no raw string begins there.
fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let body = at + 1 + hashes;
    if bytes.get(body) != Some(&b'"') {
        return None;
    }
    let closing = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let end = bytes[body + 1..].windows(closing.len()).position(|window| window == closing);
    Some(end.map_or(bytes.len(), |length| body + 1 + length + closing.len()))
}

/// `at` is a quote; `None` where it begins a lifetime.
fn char_end(source: &str, at: usize) -> Option<usize> {
    let mut chars = source[at + 1..].char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        // The escaped character itself may be a quote.
        chars.next()?;
        return chars.find(|(_, next)| *next == '\'').map(|(offset, _)| at + 2 + offset);
    }
    chars.next().filter(|(_, next)| *next == '\'').map(|(offset, _)| at + 2 + offset)
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes[at - 1])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands in `code` as a word of its own.
pub(crate) fn word_positions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !follows_word(bytes, at) && !bytes.get(at + word.len()).copied().is_some_and(is_word))
}

/// The number, from 1, of the line that holds the byte at `position`.
pub(crate) fn line_number(text: &str, position: usize) -> usize {
    1 + text.as_bytes()[..position].iter().filter(|&&byte| byte == b'\n').count()
}

/// The part of a Rust file before its unit tests.
pub(crate) fn without_tests(source: &str) -> &str {
    source.find("#[cfg(test)]\nmod tests").map_or(source, |at| &source[..at])
}

/// Every function with a body: its name, and its bytes from `fn` to the closing brace. `code` is free of comments and
/// literals.
pub(crate) fn functions(code: &str) -> Vec<(&str, Range<usize>)> {
    word_positions(code, "fn")
        .filter_map(|at| {
            let name = code[at + 2..].trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
            // A type such as `fn(u8)` has no name.
            (!name.is_empty()).then_some(())?;
            body_end(code, at).map(|end| (name, at..end))
        })
        .collect()
}

fn body_end(code: &str, at: usize) -> Option<usize> {
    let mut braces = 0_usize;
    // Array types in a signature hold semicolons.
    let mut brackets = 0_usize;
    for (offset, byte) in code.as_bytes()[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' if braces == 0 => brackets += 1,
            b')' | b']' if braces == 0 => brackets = brackets.saturating_sub(1),
            b';' if braces == 0 && brackets == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 {
                    return Some(at + offset + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let cases = [
            ("a // word", 0),
            ("/* word /* word */ word */ a", 0),
            ("a /* b */ word", 1),
            (r#"f("word \" word", word)"#, 1),
            ("r\"word\\\" word", 1),
            ("r#\"word \" word\"# word", 1),
            ("br##\"word\"# word\"## word", 1),
            ("'\"' word", 1),
            (r"'\'' word '\\' word '\u{7f}'", 2),
            ("fn f<'a>(word: &'a str)", 1),
            ("'é' word", 1),
            ("word_code words keyword word", 1),
            ("for_r(\"word\")", 0),
            ("\"word", 0),
        ];
        for (source, count) in cases {
            let code = code_only(source);
            assert_eq!(code.len(), source.len(), "{source}");
            assert_eq!(word_positions(&code, "word").count(), count, "{source} → {code}");
        }
    }

    #[test]
    fn functions_end_at_their_brace() {
        let cases = [
            ("fn one() {}", vec![("one", 1)]),
            ("fn one(\n  a: [u8; 3],\n) -> u8 {\n  { a }\n}\nfn two() {\n}", vec![("one", 5), ("two", 2)]),
            ("trait T {\n fn open(a: [u8; 2]);\n fn closed() {\n }\n}", vec![("closed", 2)]),
            ("type F = fn(u8) -> u8; fn f() {}", vec![("f", 1)]),
        ];
        for (code, expected) in cases {
            let lines = |range: Range<usize>| code[range].lines().count();
            let found: Vec<_> = functions(code).into_iter().map(|(name, range)| (name, lines(range))).collect();
            assert_eq!(found, expected, "{code}");
        }
    }
}
