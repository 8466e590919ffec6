//! `tokenizer.model`, SentencePiece's own file: a protocol buffer, of which the few fields that encoding needs are read
//! (`sentencepiece_model.proto`).

use super::charsmap::Charsmap;
use super::gguf::sentencepiece_spaces;
use super::hugging_face::{NamedTokens, read_added_tokens, read_ends};
use super::vocabulary::{Spelling, TOKENS_MAX, Vocabulary, VocabularyModel};
use super::{AddedToken, PreTokenizer, REMEDY, REMEDY_KIND, SPACE_MARK};
use crate::error::{Error, Result};
use crate::hugging_face::Config;
use crate::metadata::Strings;

/// The largest file read. The largest published one, Gemma's, has 5 MB.
const FILE_BYTES_MAX: usize = 64 << 20;

/// The ids of the special tokens where the file does not say, in the order of [`Model::special_ids`].
const DEFAULT_IDS: [Option<u32>; 4] = [Some(0), Some(1), Some(2), None];

/// Piece types of the format.
mod piece_type {
    pub(super) const NORMAL: u64 = 1;
    pub(super) const UNKNOWN: u64 = 2;
    pub(super) const CONTROL: u64 = 3;
    pub(super) const USER_DEFINED: u64 = 4;
    pub(super) const BYTE: u64 = 6;
}

/// What is read of the file.
struct Model {
    pieces: Vec<Piece>,
    is_bpe: bool,
    byte_fallback: bool,
    /// The ids of the unknown token, the beginning, the end and the padding as the file gives them; negative where there
    /// is none.
    special_ids: [Option<i32>; 4],
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

impl Vocabulary {
    /// The parts of the file `tokenizer.model`. `tokenizer_config.json` may add tokens and says what is put around a
    /// text; `generation_config.json` may name more tokens that end an answer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the file is damaged, is neither of the BPE nor of the unigram kind, or its parts do
    /// not fit together.
    pub fn from_sentencepiece(
        model: &[u8],
        tokenizer_config: Option<&Config>,
        generation_config: Option<&Config>,
    ) -> Result<Self> {
        if model.len() > FILE_BYTES_MAX {
            return Err(damaged(format!("it has {} bytes; at most {FILE_BYTES_MAX} are allowed", model.len())));
        }
        let Model { pieces, is_bpe, byte_fallback, special_ids, charsmap, add_dummy_prefix, remove_extra_whitespaces } =
            read_model(model)?;
        let mut added = Vec::new();
        let mut tokens = Strings::default();
        let mut scores: Vec<f64> = Vec::with_capacity(pieces.len());
        for (id, piece) in (0u32..).zip(pieces) {
            let is_added = matches!(piece.kind, piece_type::UNKNOWN | piece_type::CONTROL | piece_type::USER_DEFINED);
            // What the user of the trainer defined is looked for in the text as it stands, where spaces are spaces.
            let is_special = piece.kind != piece_type::USER_DEFINED;
            let text = if is_special { piece.text } else { piece.text.replace(SPACE_MARK, " ") };
            tokens.push(&text).ok_or_else(|| damaged("the pieces pass 4 GiB".into()))?;
            scores.push(f64::from(piece.score));
            if is_added {
                added.push(plain_token(id, text, is_special));
            }
        }
        let config = tokenizer_config.map(Config::values);
        read_added_tokens(config, &mut tokens, &mut added)?;
        scores.resize(tokens.len(), 0.0);
        let charsmap = if charsmap.is_empty() { None } else { Some(Charsmap::new(&charsmap).map_err(damaged)?) };
        let names = NamedTokens { config, tokens: &tokens };
        let size = tokens.len() as u32;
        let id = |place: usize| match special_ids[place] {
            Some(id) => u32::try_from(id).ok(),
            None => DEFAULT_IDS[place].filter(|&id| id < size),
        };
        let [unknown, bos, eos, padding] = [0, 1, 2, 3].map(id);
        let named = |name: &str, id: Option<u32>| Ok::<_, Error>(names.id_of(name)?.or(id));
        let (bos, eos, padding) = (named("bos_token", bos)?, named("eos_token", eos)?, named("pad_token", padding)?);
        Ok(Self {
            bos,
            eos,
            unknown,
            padding,
            // What the libraries do for Llama and Gemma, and for T5, where the configuration is silent.
            after_bos: Vec::new(),
            add_bos: names.flag("add_bos_token").unwrap_or(is_bpe),
            add_eos: names.flag("add_eos_token").unwrap_or(!is_bpe),
            tokens,
            spelling: Spelling::SentencePiece,
            model: if is_bpe {
                VocabularyModel::ScoredBpe { scores }
            } else {
                VocabularyModel::Unigram { scores, byte_fallback }
            },
            added,
            normaliser: sentencepiece_spaces(charsmap, remove_extra_whitespaces, add_dummy_prefix),
            pre_tokenizer: PreTokenizer::default(),
            strips_first_space: add_dummy_prefix,
            ends: generation_config.map_or(Ok(Vec::new()), read_ends)?,
        })
    }
}

fn plain_token(id: u32, text: String, special: bool) -> AddedToken {
    AddedToken { id, text, special, strip_left: false, strip_right: false, single_word: false, normalised: false }
}

fn read_model(bytes: &[u8]) -> Result<Model> {
    let mut model = Model {
        pieces: Vec::new(),
        is_bpe: false,
        byte_fallback: false,
        special_ids: [None; 4],
        charsmap: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
    };
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => {
                if model.pieces.len() == TOKENS_MAX {
                    return Err(damaged(format!("there are more than {TOKENS_MAX} pieces")));
                }
                let piece = read_piece(piece, model.pieces.len())?;
                model.pieces.push(piece);
            }
            (2, Field::Bytes(trainer)) => read_trainer(trainer, &mut model)?,
            (3, Field::Bytes(normaliser)) => read_normaliser(normaliser, &mut model)?,
            _ => {}
        }
    }
    Ok(model)
}

fn read_piece(bytes: &[u8], id: usize) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: piece_type::NORMAL };
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(text)) => {
                let text = str::from_utf8(text).map_err(|_| damaged(format!("piece {id} is not UTF-8")))?;
                piece.text = text.into();
            }
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Varint(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    if !(piece_type::NORMAL..=piece_type::BYTE).contains(&piece.kind) {
        return Err(damaged(format!("piece {id} has the unknown type {}", piece.kind)));
    }
    Ok(piece)
}

fn read_trainer(bytes: &[u8], model: &mut Model) -> Result<()> {
    for field in Fields(bytes) {
        match field? {
            (3, Field::Varint(1)) => model.is_bpe = false,
            (3, Field::Varint(2)) => model.is_bpe = true,
            (3, Field::Varint(kind)) => return Err(unsupported(&format!("models of kind {kind}"))),
            (24, Field::Varint(1)) => return Err(unsupported("treat_whitespace_as_suffix")),
            (35, Field::Varint(truth)) => model.byte_fallback = truth != 0,
            // Negative numbers are sign-extended to 64 bits.
            (field @ 40..=43, Field::Varint(id)) => model.special_ids[field as usize - 40] = Some(id as i32),
            _ => {}
        }
    }
    Ok(())
}

fn read_normaliser(bytes: &[u8], model: &mut Model) -> Result<()> {
    for field in Fields(bytes) {
        match field? {
            (2, Field::Bytes(charsmap)) => model.charsmap = charsmap.to_vec(),
            (3, Field::Varint(truth)) => model.add_dummy_prefix = truth != 0,
            (4, Field::Varint(truth)) => model.remove_extra_whitespaces = truth != 0,
            (5, Field::Varint(0)) => return Err(unsupported("escape_whitespaces turned off")),
            _ => {}
        }
    }
    Ok(())
}

/// The fields of a message, in file order: each number with its value.
struct Fields<'b>(&'b [u8]);

enum Field<'b> {
    Varint(u64),
    Bytes(&'b [u8]),
    Fixed32(u32),
    Fixed64,
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Field<'b>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| damaged("it is no sound protocol buffer".into())))
    }
}

impl<'b> Fields<'b> {
    fn field(&mut self) -> Option<(u64, Field<'b>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            // Of the tenth byte one bit counts; what is above it is lost, as in other readers.
            value |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

fn damaged(problem: String) -> Error {
    Error::Tokenizer { field: "tokenizer.model".into(), problem, remedy: REMEDY }
}

fn unsupported(kind: &str) -> Error {
    let problem = format!("`{kind}` is not supported yet");
    Error::Tokenizer { field: "tokenizer.model".into(), problem, remedy: REMEDY_KIND }
}
