//! SentencePiece's compiled normalisation rules (`precompiled_charsmap`): a trie of texts and what each becomes.
//!
//! The trie is a double array as Darts-clone writes it. Every unit is 32 bits: of an inner one, bits 0 to 7 are the byte
//! that leads to it, bit 8 says that a text ends there, and the rest is the offset of its children, exclusive-or-ed with
//! its own place; a leaf has bit 31 set and the place of the replacement below it.

/// The longest text that is replaced, in bytes; those of Unicode's normalisation forms have below 20.
const KEY_BYTES_MAX: usize = 256;
const LEAF: u32 = 1 << 31;

/// A trie and the texts it leads to, each ending in a zero byte.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// Reads the rules; nothing in them is trusted.
    ///
    /// # Errors
    /// What is wrong with them, as a phrase.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, String> {
        let (length, rest) = bytes.split_first_chunk().ok_or("it has fewer than 4 bytes")?;
        let length = u32::from_le_bytes(*length) as usize;
        let (units, replacements) = rest
            .split_at_checked(length)
            .ok_or_else(|| format!("its trie should have {length} bytes, and only {} are left", rest.len()))?;
        let (units, []) = units.as_chunks() else {
            return Err(format!("its trie has {length} bytes, which is no multiple of 4"));
        };
        let replacements = String::from_utf8(replacements.to_vec()).map_err(|_| "its texts are not UTF-8")?;
        Ok(Self { units: units.iter().copied().map(u32::from_le_bytes).collect(), replacements })
    }

    /// The rules as [`Self::new`] reads them.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let length = (self.units.len() * size_of::<u32>()) as u32;
        let units = self.units.iter().flat_map(|unit| unit.to_le_bytes());
        length.to_le_bytes().into_iter().chain(units).chain(self.replacements.bytes()).collect()
    }

    /// `text` with everything replaced that the rules replace: each time the longest. It ends early where it passes
    /// `bytes_max`.
    pub(super) fn apply(&self, text: &str, bytes_max: usize) -> String {
        let mut output = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let (length, replacement) = match self.longest(rest) {
                Some((length, replacement)) => (length, replacement),
                None => (character.len_utf8(), &rest[..character.len_utf8()]),
            };
            output.push_str(replacement);
            if output.len() > bytes_max {
                break;
            }
            rest = &rest[length..];
        }
        output
    }

    /// The longest text in the trie that `text` begins with, by its length, and its replacement.
    fn longest<'c>(&'c self, text: &str) -> Option<(usize, &'c str)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
        let mut place = offset(*self.units.first()?);
        let mut longest = None;
        for (depth, &byte) in text.as_bytes().iter().take(KEY_BYTES_MAX).enumerate() {
            place ^= usize::from(byte);
            let Some(&unit) = self.units.get(place) else { break };
            if unit & (LEAF | 0xFF) != u32::from(byte) {
                break;
            }
            place ^= offset(unit);
            // A damaged trie could have a text end within a character.
            if unit & 1 << 8 != 0 && text.is_char_boundary(depth + 1) {
                let from = self.units.get(place).and_then(|leaf| self.replacements.get((leaf & !LEAF) as usize..));
                longest = from.map(|from| (depth + 1, from)).or(longest);
            }
        }
        // Its end is looked for only now: a file may give every text of the trie a megabyte.
        longest.map(|(length, from)| (length, from.find('\0').map_or(from, |end| &from[..end])))
    }
}
