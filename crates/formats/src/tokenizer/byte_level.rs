//! The byte-level alphabet: every byte as a printable character (GPT-2, `encoder.py`, `bytes_to_unicode`).
//!
//! Bytes that Latin-1 prints stand for themselves; the other 68, in order, are U+0100 and up. So a space is `Ġ`.

/// Whether the alphabet leaves `byte` as it is.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const ALPHABET: [char; 256] = {
    let mut alphabet = ['\0'; 256];
    let mut moved = 0;
    let mut byte = 0;
    while byte < 256 {
        alphabet[byte] = if is_printable(byte as u8) {
            byte as u8 as char
        } else {
            moved += 1;
            // U+0100 to U+0143: below the surrogates.
            match char::from_u32(0xFF + moved) {
                Some(character) => character,
                None => unreachable!(),
            }
        };
        byte += 1;
    }
    alphabet
};

/// The byte for each character below U+0144; `None` for the 68 that the alphabet does not use.
const BYTES: [Option<u8>; 0x144] = {
    let mut bytes = [None; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[ALPHABET[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// The character that stands for `byte`.
pub(super) fn character_of(byte: u8) -> char {
    ALPHABET[usize::from(byte)]
}

/// Appends the bytes that `text` stands for; `None`, with nothing appended, where a character is not of the alphabet.
pub(super) fn append_bytes(text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let start = bytes.len();
    for character in text.chars() {
        if let Some(Some(byte)) = BYTES.get(character as usize) {
            bytes.push(*byte);
        } else {
            bytes.truncate(start);
            return None;
        }
    }
    Some(())
}
