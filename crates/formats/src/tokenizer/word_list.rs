//! `vocab.txt`, BERT's word pieces: one to a line, whose number is its id.

use super::hugging_face::{NamedTokens, read_added_tokens};
use super::vocabulary::{Spelling, TOKENS_MAX, Vocabulary, VocabularyModel};
use super::word_piece::WordMark;
use super::{AddedToken, Normaliser, PreTokenizer, REMEDY, WORD_CHARACTERS_MAX};
use crate::error::{Error, Result};
use crate::hugging_face::Config;
use crate::metadata::Strings;

/// The tokens that BERT's vocabularies give a meaning beyond their text.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

impl Vocabulary {
    /// The parts of the file `vocab.txt`. `tokenizer_config.json` may say that it keeps capitals and accents, and
    /// name other special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the file is not UTF-8, has too many lines, or its parts do not fit together.
    pub fn from_word_list(words: &[u8], tokenizer_config: Option<&Config>) -> Result<Self> {
        const FIELD: &str = "vocab.txt";
        let refused = |problem: String| Error::Tokenizer { field: FIELD.into(), problem, remedy: REMEDY };
        let words = str::from_utf8(words).map_err(|_| refused("it is not UTF-8".into()))?;
        let mut tokens = Strings::default();
        for word in words.lines() {
            if tokens.len() == TOKENS_MAX {
                return Err(refused(format!("it has more than {TOKENS_MAX} lines")));
            }
            tokens.push(word).ok_or_else(|| refused("it passes 4 GiB".into()))?;
        }
        let special = (0u32..).zip(tokens.iter()).filter(|(_, text)| SPECIAL.contains(text));
        let special = special.map(|(id, text)| AddedToken {
            id,
            text: text.into(),
            special: true,
            strip_left: false,
            strip_right: false,
            single_word: false,
            normalised: false,
        });
        let mut added: Vec<AddedToken> = special.collect();
        let config = tokenizer_config.map(Config::values);
        read_added_tokens(config, &mut tokens, &mut added)?;
        let names = NamedTokens { config, tokens: &tokens };
        let id = |name: &str, text: &str| -> Result<Option<u32>> {
            let by_text = || added.iter().find(|token| token.text == text).map(|token| token.id);
            Ok(names.id_of(name)?.or_else(by_text))
        };
        let lowercase = names.flag("do_lower_case").unwrap_or(true);
        let strip_accents = names.flag("strip_accents").unwrap_or(lowercase);
        let space_chinese = names.flag("tokenize_chinese_chars").unwrap_or(true);
        Ok(Self {
            bos: id("cls_token", "[CLS]")?,
            eos: id("sep_token", "[SEP]")?,
            unknown: id("unk_token", "[UNK]")?,
            padding: id("pad_token", "[PAD]")?,
            spelling: Spelling::Words { mark: WordMark::Continuation("##".into()), tidy: true },
            model: VocabularyModel::WordPiece { characters_max: WORD_CHARACTERS_MAX },
            normaliser: Normaliser::bert(true, space_chinese, strip_accents, lowercase),
            pre_tokenizer: PreTokenizer::bert(),
            strips_first_space: true,
            after_bos: Vec::new(),
            add_bos: true,
            add_eos: true,
            ends: Vec::new(),
            added,
            tokens,
        })
    }
}
