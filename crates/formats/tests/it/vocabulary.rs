//! Small vocabularies for the tests of tokenizers.

use freehold_formats::tokenizer::{AddedToken, Affixes, Normaliser, Spelling, Vocabulary, VocabularyModel};
use freehold_formats::{PreTokenizer, Tokenizer};

/// Merges in the byte-level alphabet, where `Ġ` is a space.
pub(crate) const MERGES: [&str; 9] = ["Ġ t", "h e", "Ġt he", "i n", "r e", "l l", "' ll", "1 2", "Ġ Ġ"];

/// The token of each byte in the byte-level alphabet, by byte.
pub(crate) fn alphabet() -> Vec<String> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut moved = (0x100..).filter_map(char::from_u32);
    let character = |byte: u8| if is_printable(&byte) { Some(char::from(byte)) } else { moved.next() };
    (0..=u8::MAX).map(character).map(|character| character.unwrap_or_default().to_string()).collect()
}

/// All bytes as ids 0 to 255, the merges of [`MERGES`] from 256, then `added` (text, and whether it is special).
pub(crate) fn vocabulary(added: &[(&str, bool)]) -> Vocabulary {
    let merged = MERGES.map(|merge| merge.replace(' ', ""));
    let first = (256 + merged.len()) as u32;
    let added_texts = added.iter().map(|(text, _)| (*text).to_owned());
    Vocabulary {
        tokens: alphabet().into_iter().chain(merged).chain(added_texts).collect(),
        spelling: Spelling::ByteLevel,
        model: VocabularyModel::Bpe {
            merges: MERGES.iter().collect(),
            ignore_merges: false,
            byte_fallback: false,
            fuse_unknown: false,
            affixes: Affixes::default(),
        },
        added: (first..).zip(added).map(|(id, &(text, special))| added_token(id, text, special)).collect(),
        normaliser: Normaliser::default(),
        pre_tokenizer: PreTokenizer::named("gpt-2").expect("a known name"),
        strips_first_space: false,
        bos: None,
        eos: None,
        unknown: None,
        padding: None,
        add_bos: false,
        after_bos: Vec::new(),
        add_eos: false,
        ends: Vec::new(),
    }
}

pub(crate) fn added_token(id: u32, text: &str, special: bool) -> AddedToken {
    let text = text.into();
    AddedToken { id, text, special, strip_left: false, strip_right: false, single_word: false, normalised: false }
}

/// The tokens of `ids` as the vocabulary writes them.
pub(crate) fn texts<'t>(tokenizer: &'t Tokenizer, ids: &[u32]) -> Vec<&'t str> {
    ids.iter().map(|&id| tokenizer.token_text(id).expect("an id of the vocabulary")).collect()
}

/// The lengths in bytes of the pieces that a byte-level pre-tokenizer cuts `text` into. In the byte-level alphabet, a
/// character is a byte.
pub(crate) fn piece_lengths(pre_tokenizer: &PreTokenizer, text: &str) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut push = |piece: &str| {
        lengths.push(piece.chars().count());
        Ok(())
    };
    pre_tokenizer.cut(text, true, &mut push).expect("an expression for any text");
    lengths
}
