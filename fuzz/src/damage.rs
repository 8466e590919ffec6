//! What is done to sound files.

use arbitrary::Arbitrary;

/// A change to the bytes of a sound file. Positions are taken modulo its length.
#[derive(Arbitrary, Debug)]
pub enum Damage {
    /// Another byte.
    Byte(u16, u8),
    /// A number at the edge of what a count or an offset can be.
    Number(u16, Edge),
    /// The file ends here.
    End(u16),
    /// These bytes are gone.
    Cut(u16, u8),
    /// These bytes are there twice.
    Repeat(u16, u8),
    /// Something is put in.
    Insert(u16, Vec<u8>),
}

/// A number that parsers get wrong.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Edge {
    /// 0 to 255.
    Small(u8),
    /// A power of two, and what is added to it: 2^63, 2^32 − 1, …
    Power(u8, i8),
    /// The largest numbers.
    FromTop(u8),
}

impl Edge {
    /// The number.
    pub fn value(self) -> u64 {
        match self {
            Self::Small(number) => number.into(),
            Self::Power(exponent, change) => (1u64 << (exponent % 64)).wrapping_add_signed(change.into()),
            Self::FromTop(distance) => u64::MAX - u64::from(distance),
        }
    }
}

/// Applies a few of them.
pub fn damaged(mut file: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages.iter().take(4) {
        let at = |position: &u16| usize::from(*position) % file.len().max(1);
        match damage {
            Damage::Byte(position, byte) => {
                let position = at(position);
                if let Some(place) = file.get_mut(position) {
                    *place = *byte;
                }
            }
            Damage::Number(position, number) => {
                let position = at(position);
                for (place, byte) in file[position..].iter_mut().zip(number.value().to_le_bytes()) {
                    *place = byte;
                }
            }
            Damage::End(position) => file.truncate(at(position)),
            Damage::Cut(position, length) => {
                let start = at(position);
                let end = (start + usize::from(*length)).min(file.len());
                file.drain(start..end);
            }
            Damage::Repeat(position, length) => {
                let start = at(position);
                let end = (start + usize::from(*length)).min(file.len());
                file.extend_from_within(start..end);
            }
            Damage::Insert(position, bytes) => {
                let start = at(position);
                file.splice(start..start, bytes.iter().take(64).copied());
            }
        }
    }
    file
}
