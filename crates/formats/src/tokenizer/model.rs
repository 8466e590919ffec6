//! From a piece of text to tokens, by each kind of model.

use super::REMEDY;
use super::bpe::{Merger, Merges};
use super::scored::Scored;
use super::unigram::Unigram;
use super::vocabulary::{Affixes, Spelling, TokenTable, VocabularyModel};
use super::word_piece::WordPiece;
use crate::error::{Error, Result};

/// The characters that have a place of their own in a table: the byte-level alphabet is below it.
const DIRECT: usize = 0x144;

#[derive(Clone, Debug)]
pub(super) struct PieceModel {
    kind: Kind,
    fallback: Fallback,
}

#[derive(Clone, Debug)]
enum Kind {
    Bpe {
        merges: Merges,
        ignore_merges: bool,
        affixes: Affixes,
        /// The tokens of the first characters of Unicode.
        direct: Box<[Option<u32>; DIRECT]>,
    },
    Scored(Scored),
    Unigram(Unigram),
    WordLevel,
    WordPiece(WordPiece),
}

/// What becomes of a character that has no token.
#[derive(Clone, Debug)]
struct Fallback {
    bytes: Option<Box<[Option<u32>; 256]>>,
    unknown: Option<u32>,
    fuse_unknown: bool,
}

impl Fallback {
    /// Appends the tokens for `text`, which has none of its own: those of its bytes, else the unknown one, else none.
    fn append(&self, text: &str, after_unknown: bool, ids: &mut Vec<u32>) {
        let before = ids.len();
        if let Some(byte_ids) = &self.bytes {
            ids.extend(text.bytes().filter_map(|byte| byte_ids[usize::from(byte)]));
            if ids.len() - before == text.len() {
                return;
            }
            ids.truncate(before);
        }
        if !(self.fuse_unknown && after_unknown) {
            ids.extend(self.unknown);
        }
    }
}

impl PieceModel {
    pub(super) fn new(
        table: &TokenTable,
        spelling: &Spelling,
        model: VocabularyModel,
        unknown: Option<u32>,
    ) -> Result<Self> {
        // Byte-level vocabularies are meant to have every byte; what one lacks the references leave out.
        let unknown = unknown.filter(|_| *spelling != Spelling::ByteLevel);
        let bytes = |wanted: bool| wanted.then(|| table.byte_ids());
        let (kind, bytes, fuse_unknown) = match model {
            VocabularyModel::Bpe { merges, ignore_merges, byte_fallback, fuse_unknown, affixes } => {
                let mut direct = Box::new([None; DIRECT]);
                for (character, id) in ('\0'..).zip(direct.iter_mut()) {
                    *id = id_of(table, character);
                }
                let merges = table.merges(&merges, &affixes.continuing)?;
                (Kind::Bpe { merges, ignore_merges, affixes, direct }, bytes(byte_fallback), fuse_unknown)
            }
            VocabularyModel::ScoredBpe { scores } => {
                table.check_pieces(Some(&scores))?;
                (Kind::Scored(Scored::new(&scores, table)), bytes(true), true)
            }
            VocabularyModel::Unigram { scores, byte_fallback } => {
                table.check_pieces(Some(&scores))?;
                (Kind::Unigram(Unigram::new(scores, table)), bytes(byte_fallback), true)
            }
            VocabularyModel::WordLevel => (Kind::WordLevel, None, false),
            VocabularyModel::WordPiece { characters_max } => {
                table.check_pieces(None)?;
                let Spelling::Words { mark, .. } = spelling else {
                    return Err(Error::Tokenizer {
                        field: "model".into(),
                        problem: "it is WordPiece, but its tokens are not written as words".into(),
                        remedy: REMEDY,
                    });
                };
                (Kind::WordPiece(WordPiece::new(mark, characters_max, table)), None, false)
            }
        };
        Ok(Self { kind, fallback: Fallback { bytes, unknown, fuse_unknown } })
    }

    /// Appends the tokens of `piece` to `ids`.
    pub(super) fn encode(&self, table: &TokenTable, piece: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let fallback = &self.fallback;
        match &self.kind {
            Kind::Bpe { merges, ignore_merges, affixes, direct } => {
                if *ignore_merges && let Some(id) = table.id_of(piece).filter(|&id| !table.is_added(id)) {
                    ids.push(id);
                    return;
                }
                let symbols = merger.symbols();
                let mut after_unknown = false;
                let mut add = |text: &str, known: Option<u32>| {
                    match known {
                        Some(id) => symbols.push(id),
                        None => fallback.append(text, after_unknown, symbols),
                    }
                    after_unknown = known.is_none();
                };
                if *affixes == Affixes::default() {
                    for character in piece.chars() {
                        let known = match direct.get(character as usize) {
                            Some(&id) => id,
                            None => id_of(table, character),
                        };
                        add(character.encode_utf8(&mut [0; 4]), known);
                    }
                } else {
                    let mut text = String::new();
                    for (start, character) in piece.char_indices() {
                        text.clear();
                        text.push_str(if start == 0 { "" } else { &affixes.continuing });
                        text.push(character);
                        text.push_str(if start + character.len_utf8() == piece.len() { &affixes.end } else { "" });
                        add(&text, table.id_of(&text).filter(|&id| !table.is_special(id)));
                    }
                }
                merger.merge(merges, ids);
            }
            Kind::Scored(scored) => {
                let mut after_unknown = false;
                scored.merge(table, piece, |part| {
                    let known = table.id_of(part).filter(|&id| table.is_plain(id));
                    match known {
                        Some(id) => ids.push(id),
                        None => fallback.append(part, after_unknown, ids),
                    }
                    after_unknown = known.is_none();
                });
            }
            Kind::Unigram(unigram) => {
                let mut after_unknown = false;
                unigram.encode(table, piece, |part, id| {
                    match id {
                        Some(id) => ids.push(id),
                        None => fallback.append(part, after_unknown, ids),
                    }
                    after_unknown = id.is_none();
                });
            }
            Kind::WordLevel => match table.id_of(piece).filter(|&id| !table.is_special(id)) {
                Some(id) => ids.push(id),
                None => fallback.append(piece, false, ids),
            },
            Kind::WordPiece(words) => words.encode(table, piece, fallback.unknown, ids),
        }
    }
}

/// The token that is one character and stands for it.
fn id_of(table: &TokenTable, character: char) -> Option<u32> {
    table.id_of(character.encode_utf8(&mut [0; 4])).filter(|&id| !table.is_special(id))
}
