//! The regular expressions by which tokenizers cut text, in bounded time.
//!
//! Files write them for a backtracking engine, where `(a+)+` takes exponential time. Here an expression becomes an
//! automaton whose states are built as a text asks for them: each byte of a search is one step. Two things are on top.
//! Nearly every published expression has the alternative `\s+(?!\S)`, a look-ahead that no automaton has; it is split
//! off and its answer worked out from the white space around it. And since even an automaton may look far ahead for
//! every short match, which is quadratic, the steps are counted and a search that takes too many is given up.

use super::budget::Budget;
use crate::error::{Error, Result, shown};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, NFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, PatternID};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The longest expression read, in bytes. Published ones have below 1,000.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// The largest automaton, in bytes of the library's count; the published ones are below a fifth of it. It bounds the
/// time that one new state may take.
const AUTOMATON_BYTES_MAX: usize = 2 << 20;
/// What the states built so far may take, in bytes, before they are thrown away and built anew.
const CACHE_BYTES_MAX: usize = 4 << 20;
/// How many times its own length the steps over a text may be. The published expressions take at most three.
const STEPS_PER_BYTE_MAX: usize = 64;
/// After how many bytes of one search the states thrown away are counted.
const BYTES_PER_CHECK: usize = 1 << 10;
/// How many caches are kept for the next text.
const CACHES_KEPT: usize = 4;

/// White space up to what is not, as files write it: the run without its last character.
const SPACE_BEFORE_TEXT: &str = r"\s+(?!\S)";

/// Possessive quantifiers of published expressions, and the greedy ones that match the same there: what follows each
/// either cannot match what was taken or may match nothing.
const POSSESSIVE: [(&str, &str); 4] = [
    (r"[^\r\n\p{L}\p{N}]?+\p{L}++", r"[^\r\n\p{L}\p{N}]?\p{L}+"),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+"),
    (r" ?[^\s\p{L}\p{N}]++[\r\n]*+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"),
    (r" ?[^\s\p{L}\p{N}]++[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n]*"),
];

/// An expression, ready to search.
#[derive(Clone)]
pub(super) struct Expression(Arc<Automaton>);

struct Automaton {
    text: String,
    dfa: DFA,
    /// Which pattern of the automaton stands for [`SPACE_BEFORE_TEXT`]. Those before it are the alternatives before,
    /// and the one after, if any, those after.
    space: Option<PatternID>,
    patterns: Vec<String>,
    caches: Mutex<Vec<Cache>>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.0.text).finish()
    }
}

impl PartialEq for Expression {
    /// Whether they say the same but for how it is spelled. Two that do not may still match alike.
    fn eq(&self, other: &Self) -> bool {
        let parsed = |automaton: &Automaton| {
            let patterns = automaton.patterns.iter().map(|pattern| syntax::parse_with(pattern, &syntax_config()).ok());
            patterns.collect::<Option<Vec<_>>>()
        };
        self.0.text == other.0.text || self.0.space == other.0.space && parsed(&self.0) == parsed(&other.0)
    }
}

/// As Oniguruma, for which the expressions are written: `^` and `$` are the ends of lines.
fn syntax_config() -> syntax::Config {
    syntax::Config::new().multi_line(true).nest_limit(32)
}

impl Expression {
    /// Reads an expression in the syntax that `tokenizer.json` has, as far as it is the syntax of automata.
    ///
    /// # Errors
    /// What is wrong with it, as a phrase.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("it has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len()));
        }
        let mut greedy = text.to_owned();
        for (possessive, equal) in POSSESSIVE {
            greedy = greedy.replace(possessive, equal);
        }
        let alternatives = alternatives(&greedy)?;
        let space = alternatives.iter().position(|&alternative| alternative == SPACE_BEFORE_TEXT);
        let patterns: Vec<String> = match space {
            None => vec![greedy.clone()],
            Some(place) => {
                let (before, after) = (alternatives[..place].join("|"), alternatives[place + 1..].join("|"));
                let parts = [before, r"\s+".into(), after];
                parts.into_iter().filter(|part| !part.is_empty()).collect()
            }
        };
        let space = space.map(|place| PatternID::new_unchecked(usize::from(place > 0)));
        if let Some(pattern) = patterns.iter().find(|pattern| pattern.contains("(?!") || pattern.contains("(?=")) {
            return Err(format!("`{}` looks ahead, which is read only as `{SPACE_BEFORE_TEXT}`", shown(pattern)));
        }
        let wrong = |error: &dyn fmt::Display| shown(&error.to_string().replace('\n', " "));
        let nfa = NFA::compiler()
            .syntax(syntax_config())
            .configure(thompson::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX)))
            .build_many(&patterns)
            .map_err(|error| wrong(&error))?;
        if nfa.has_empty() {
            return Err("it matches where there is no text".into());
        }
        let config = DFA::config().starts_for_each_pattern(true).cache_capacity(CACHE_BYTES_MAX);
        let dfa = DFA::builder().configure(config).build_from_nfa(nfa).map_err(|error| wrong(&error))?;
        Ok(Self(Arc::new(Automaton { text: text.into(), dfa, space, patterns, caches: Mutex::default() })))
    }

    /// An expression that matches `text` as it stands.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn literal(text: &str) -> Result<Self, String> {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            if character.is_ascii_punctuation() {
                escaped.push('\\');
            }
            escaped.push(character);
        }
        Self::new(&escaped)
    }

    /// Calls `piece` with every match and with what lies between the matches, in order: the bytes, and whether they are
    /// a match. Together they are the text, which may be a part of the one that `budget` is for.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the search takes more steps than a text of this length may, or the error of `piece`.
    pub(super) fn split(
        &self,
        budget: &Budget,
        text: &str,
        mut piece: impl FnMut(&str, bool) -> Result<()>,
    ) -> Result<()> {
        let automaton = &*self.0;
        let kept = automaton.caches.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut cache = kept.unwrap_or_else(|| automaton.dfa.create_cache());
        let mut search = Search {
            automaton,
            cache: &mut cache,
            text,
            steps_left: text.len().saturating_mul(STEPS_PER_BYTE_MAX).saturating_add(1 << 16),
            budget,
        };
        let (mut from, mut position) = (0, 0);
        let result = loop {
            let Some(character) = text[position..].chars().next() else {
                break if from < position { piece(&text[from..], false) } else { Ok(()) };
            };
            let end = match search.match_at(position) {
                Ok(Some(end)) => end,
                Ok(None) => {
                    position += character.len_utf8();
                    continue;
                }
                Err(error) => break Err(error),
            };
            let between = if from < position { piece(&text[from..position], false) } else { Ok(()) };
            if let Err(error) = between.and_then(|()| piece(&text[position..end], true)) {
                break Err(error);
            }
            (from, position) = (end, end);
        };
        let mut caches = automaton.caches.lock().unwrap_or_else(PoisonError::into_inner);
        if caches.len() < CACHES_KEPT {
            caches.push(cache);
        }
        result
    }
}

/// One search over one text.
struct Search<'s> {
    automaton: &'s Automaton,
    cache: &'s mut Cache,
    text: &'s str,
    steps_left: usize,
    budget: &'s Budget,
}

impl Search<'_> {
    /// The end of the match that begins at `start`.
    fn match_at(&mut self, start: usize) -> Result<Option<usize>> {
        let Some((end, pattern)) = self.longest_preferred(start, Anchored::Yes)? else {
            return Ok(None);
        };
        if Some(pattern) != self.automaton.space || end == self.text.len() {
            return Ok(Some(end));
        }
        // Something else follows: `(?!\S)` holds only before the last character of the white space.
        let last = self.text[start..end].chars().next_back().map_or(0, char::len_utf8);
        if start + last < end {
            return Ok(Some(end - last));
        }
        let after = pattern.as_usize() + 1;
        if after == self.automaton.patterns.len() {
            return Ok(None);
        }
        let found = self.longest_preferred(start, Anchored::Pattern(PatternID::new_unchecked(after)))?;
        Ok(found.map(|(end, _)| end))
    }

    /// The match at `start` that a backtracking engine would find first.
    fn longest_preferred(&mut self, start: usize, anchored: Anchored) -> Result<Option<(usize, PatternID)>> {
        let dfa = &self.automaton.dfa;
        let clears_before = self.cache.clear_count();
        let given_up = || too_long(&self.automaton.text);
        let input = Input::new(self.text).range(start..).anchored(anchored);
        let mut state = dfa.start_state_forward(self.cache, &input).map_err(|_| given_up())?;
        let mut found = None;
        let mut position = start;
        'search: for bytes in self.text.as_bytes()[start..].chunks(BYTES_PER_CHECK) {
            for &byte in bytes {
                state = dfa.next_state(self.cache, state, byte).map_err(|_| given_up())?;
                if state.is_tagged() {
                    if state.is_match() {
                        // A match is known one byte late.
                        found = Some((position, dfa.match_pattern(self.cache, state, 0)));
                    } else if state.is_dead() || state.is_quit() {
                        break 'search;
                    }
                }
                position += 1;
            }
            if self.cache.clear_count() - clears_before > self.budget.clears() {
                return Err(given_up());
            }
        }
        if position == self.text.len() {
            state = dfa.next_eoi_state(self.cache, state).map_err(|_| given_up())?;
            if state.is_match() {
                found = Some((position, dfa.match_pattern(self.cache, state, 0)));
            }
        }
        let steps = self.steps_left.checked_sub(position + 1 - start);
        let clears = self.cache.clear_count() - clears_before;
        self.steps_left = steps.filter(|_| clears <= self.budget.clears()).ok_or_else(given_up)?;
        self.budget.clear(clears);
        Ok(found)
    }
}

fn too_long(expression: &str) -> Error {
    Error::Tokenizer {
        field: format!("the expression `{}`", shown(expression)),
        problem: "it takes too many steps to cut this text".into(),
        remedy: "The expression is hostile or not made for such a text: use another model or other text",
    }
}

/// The alternatives of the outermost level.
///
/// # Errors
/// What is not read: groups with flags other than `i`, and quantifiers that are possessive.
fn alternatives(text: &str) -> Result<Vec<&str>, String> {
    let (mut groups, mut classes) = (0usize, 0usize);
    let (mut start, mut found) = (0, Vec::new());
    let mut characters = text.char_indices().peekable();
    let mut after_quantifier = false;
    while let Some((offset, character)) = characters.next() {
        let is_quantifier = classes == 0 && matches!(character, '*' | '+' | '?');
        if after_quantifier && character == '+' && classes == 0 {
            return Err(format!("`{}` is a possessive quantifier", shown(&text[..=offset])));
        }
        after_quantifier = is_quantifier;
        match character {
            '\\' => drop(characters.next()),
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '(' if classes == 0 => {
                groups += 1;
                let rest = &text[offset + 1..];
                let is_known = ["?:", "?i:", "?!", "?="].iter().any(|flags| rest.starts_with(flags));
                if rest.starts_with('?') && !is_known {
                    return Err(format!("`({}` is a kind of group that is not read", shown(rest)));
                }
                if rest.starts_with('?') {
                    characters.next();
                }
            }
            ')' if classes == 0 => groups = groups.saturating_sub(1),
            '|' if classes == 0 && groups == 0 => {
                found.push(&text[start..offset]);
                start = offset + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    Ok(found)
}
