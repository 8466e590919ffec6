//! Cutting text into the pieces inside which tokens are looked for.
//!
//! A pre-tokenizer is a list of steps, as `tokenizer.json` has them; each cuts the pieces that the steps before it left.
//! Nearly all of them are one thing: cutting by an expression. The others change how a piece is written.

use super::budget::Budget;
use super::byte_level;
use super::expression::Expression;
use crate::error::Result;
use std::sync::Arc;

/// How text is cut.
#[derive(Clone, Debug, Default)]
pub struct PreTokenizer(Arc<[Step]>);

/// What becomes of a match, and of what lies between matches (the `behavior` of a `Split` in `tokenizer.json`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behaviour {
    /// Either is a piece of its own.
    Isolated,
    /// Only what lies between is kept.
    Removed,
    /// Neighbouring matches are one piece.
    Contiguous,
    /// A match is the end of the piece before it.
    MergedWithPrevious,
    /// A match is the beginning of the piece after it.
    MergedWithNext,
}

/// Where [`Step::Metaspace`] puts a mark in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Prepend {
    Never,
    /// Before the first piece of a text.
    First,
    Always,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    /// Cuts by an expression; `invert` swaps matches and what lies between.
    Cut { expression: Expression, behaviour: Behaviour, invert: bool },
    /// Writes spaces as `mark`, puts one in front where there is none, and with `cut` cuts before each.
    Metaspace { mark: char, prepend: Prepend, cut: Option<Expression> },
    /// Puts a space in front where there is none.
    SpaceInFront,
    /// Writes every byte as the character that stands for it.
    ByteLevel,
}

impl PreTokenizer {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self(steps.into())
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// One that cuts by `expressions`, one after the other, and then writes bytes in the byte-level alphabet.
    ///
    /// # Errors
    /// What is wrong with an expression, as a phrase.
    pub(super) fn byte_level(expressions: &[&str]) -> Result<Self, String> {
        let cut = |text: &&str| -> Result<Step, String> {
            Ok(Step::Cut { expression: Expression::new(text)?, behaviour: Behaviour::Isolated, invert: false })
        };
        let steps: Result<Vec<Step>, String> = expressions.iter().map(cut).chain([Ok(Step::ByteLevel)]).collect();
        Ok(Self::new(steps?))
    }

    /// Calls `piece` with every piece of `text`, in order. `is_start` says that `text` is the beginning of the text that
    /// is encoded.
    ///
    /// # Errors
    /// Those of `piece`, and [`crate::Error::Tokenizer`] where an expression takes too long on this text, or the steps
    /// make too much of it.
    pub fn cut(&self, text: &str, is_start: bool, piece: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        self.cut_within(&Budget::new(text.len()), text, is_start, piece)
    }

    /// As [`Self::cut`], for a part of the text that `budget` is for.
    pub(super) fn cut_within(
        &self,
        budget: &Budget,
        text: &str,
        is_start: bool,
        piece: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        cut_by(&self.0, budget, text, is_start, piece)
    }
}

/// As deep as there are steps, whose number is bounded where they are read.
fn cut_by(
    steps: &[Step],
    budget: &Budget,
    text: &str,
    is_start: bool,
    piece: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let Some((step, rest)) = steps.split_first() else {
        return piece(text);
    };
    match step {
        Step::Cut { expression, behaviour, invert } => {
            cut_once(expression, *behaviour, *invert, budget, text, |start, end| {
                cut_by(rest, budget, &text[start..end], is_start && start == 0, piece)
            })
        }
        Step::Metaspace { mark, prepend, cut } => {
            let mut changed = String::with_capacity(text.len() + mark.len_utf8());
            let is_wanted = *prepend == Prepend::Always || *prepend == Prepend::First && is_start;
            if is_wanted && !text.starts_with([' ', *mark]) {
                changed.push(*mark);
            }
            changed.extend(text.chars().map(|character| if character == ' ' { *mark } else { character }));
            budget.write(changed.len())?;
            match cut {
                None => cut_by(rest, budget, &changed, is_start, piece),
                Some(cut) => cut_once(cut, Behaviour::MergedWithNext, false, budget, &changed, |start, end| {
                    cut_by(rest, budget, &changed[start..end], is_start && start == 0, piece)
                }),
            }
        }
        Step::SpaceInFront if !text.starts_with(' ') => {
            budget.write(text.len() + 1)?;
            cut_by(rest, budget, &[" ", text].concat(), is_start, piece)
        }
        Step::SpaceInFront => cut_by(rest, budget, text, is_start, piece),
        Step::ByteLevel => {
            let changed: String = text.bytes().map(byte_level::character_of).collect();
            budget.write(changed.len())?;
            cut_by(rest, budget, &changed, is_start, piece)
        }
    }
}

/// Calls `piece` with the beginning and end of each piece, in order.
fn cut_once(
    expression: &Expression,
    behaviour: Behaviour,
    invert: bool,
    budget: &Budget,
    text: &str,
    mut piece: impl FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    // The piece under way, and whether its last part was a match.
    let (mut start, mut end, mut was_match) = (0, 0, false);
    let mut is_first = true;
    expression.split(budget, text, |part, is_match| {
        let is_match = is_match != invert;
        let joins = match behaviour {
            Behaviour::Isolated | Behaviour::Removed => false,
            Behaviour::Contiguous => is_match == was_match,
            Behaviour::MergedWithPrevious => is_match && !was_match,
            Behaviour::MergedWithNext => was_match && !is_match,
        };
        if !is_first && !joins {
            if !(behaviour == Behaviour::Removed && was_match) {
                piece(start, end)?;
            }
            start = end;
        }
        end += part.len();
        (was_match, is_first) = (is_match, false);
        Ok(())
    })?;
    if behaviour == Behaviour::Removed && was_match || start == end {
        return Ok(());
    }
    piece(start, end)
}
