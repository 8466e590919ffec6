//! The parts of a tokenizer as plain data, and the checks that make them one.

use super::bpe::Merges;
use super::special::{AddedToken, Matcher};
use super::{PreTokenizer, REMEDY, Tokenizer, byte_level};
use crate::error::{Error, Result, shown};
use crate::metadata::Strings;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// The most tokens in a vocabulary. The largest published ones have about 260,000.
pub(super) const TOKENS_MAX: usize = 1 << 20;
/// The most merges. The largest published lists have about 520,000. Both limits bound the memory of the tables.
const MERGES_MAX: usize = 1 << 20;

/// Tokens that end an answer wherever they are added tokens, whatever the metadata name: chat models are often
/// published with only the end-of-text token named, and end their turns with one of these.
const ENDS: [&str; 15] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
];

/// A byte-level BPE tokenizer as plain data. [`Tokenizer::new`] checks it.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The tokens by id, in the byte-level alphabet; added tokens in plain text. An empty text is a gap.
    pub tokens: Strings,
    /// The merges by rank: two tokens with a space between them.
    pub merges: Strings,
    /// The tokens that are looked for in the text before anything else. Each is one of `tokens`.
    pub added: Vec<AddedToken>,
    /// How text is cut.
    pub pre_tokenizer: PreTokenizer,
    /// Whether text is brought to Unicode's normalisation form C first.
    pub compose: bool,
    /// Whether a piece that is a token as a whole is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// The token for the beginning of a text.
    pub bos: Option<u32>,
    /// The token for the end of a text.
    pub eos: Option<u32>,
    /// The token for what the vocabulary lacks; only chat templates ask for it.
    pub unknown: Option<u32>,
    /// The token that fills batches; only chat templates ask for it.
    pub padding: Option<u32>,
    /// Whether prompts begin with `bos`.
    pub add_bos: bool,
    /// Whether prompts end with `eos`.
    pub add_eos: bool,
    /// Tokens besides `eos`, and besides the well-known ones, that end an answer.
    pub ends: Vec<u32>,
}

impl Tokenizer {
    /// A tokenizer of checked parts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where there are no tokens or too many, two are the same, an id is outside the vocabulary, or
    /// a merge names a token that is not there.
    pub fn new(vocabulary: Vocabulary) -> Result<Self> {
        let Vocabulary { tokens, merges, added, pre_tokenizer, compose, ignore_merges, .. } = vocabulary;
        let Vocabulary { bos, eos, unknown, padding, add_bos, add_eos, mut ends, .. } = vocabulary;
        let table = TokenTable::new(tokens, &added)?;
        let named = [("bos", bos), ("eos", eos), ("unknown", unknown), ("padding", padding)];
        let named = named.into_iter().filter_map(|(name, id)| Some((name, id?)));
        for (name, id) in named.chain(ends.iter().map(|&id| ("end-of-generation", id))) {
            table.check_id(&format!("{name} token id"), id)?;
        }
        ends.extend(eos);
        let end_ids: Vec<u32> =
            ENDS.iter().filter_map(|text| table.id_of(text)).filter(|&id| table.is_added(id)).collect();
        let is_harmony = ["<|return|>", "<|call|>"].iter().all(|text| table.id_of(text).is_some());
        // In OpenAI's Harmony format `<|end|>` ends one message of an answer that has several.
        let message_end = table.id_of("<|end|>").filter(|_| is_harmony);
        ends.extend(end_ids.into_iter().filter(|&id| Some(id) != message_end));
        ends.sort_unstable();
        ends.dedup();
        let mut byte_ids = Box::new([None; 256]);
        for (byte, id) in (0..=u8::MAX).zip(byte_ids.iter_mut()) {
            let mut text = [0; 4];
            *id = table.id_of(byte_level::character_of(byte).encode_utf8(&mut text));
        }
        Ok(Self {
            merges: table.merges(&merges)?,
            byte_ids,
            added: Matcher::new(added)?,
            table,
            pre_tokenizer,
            compose,
            ignore_merges,
            bos,
            eos,
            unknown,
            padding,
            add_bos,
            add_eos,
            end_of_generation: ends,
        })
    }
}

/// What a token is besides its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Reached by merging only.
    Normal,
    /// Found in the text.
    Added,
    /// Found in the text, and special.
    Special,
}

/// The tokens by id and by text.
#[derive(Clone, Debug)]
pub(super) struct TokenTable {
    texts: Strings,
    kinds: Vec<Kind>,
    /// What each token stands for, one after the other.
    bytes: Vec<u8>,
    byte_ends: Vec<u32>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TokenTable {
    fn new(texts: Strings, added: &[AddedToken]) -> Result<Self> {
        let count = texts.len();
        if count == 0 {
            return Err(refused("tokens", "there are none".into()));
        }
        if count > TOKENS_MAX {
            return Err(refused("tokens", format!("there are {count}; at most {TOKENS_MAX} are allowed")));
        }
        let mut table = Self {
            kinds: vec![Kind::Normal; count],
            bytes: Vec::new(),
            byte_ends: Vec::with_capacity(count),
            ids: HashTable::with_capacity(count),
            hasher: DefaultHashBuilder::default(),
            texts,
        };
        for token in added {
            table.check_id("added token", token.id)?;
            table.kinds[token.id as usize] = if token.special { Kind::Special } else { Kind::Added };
        }
        for id in 0..count as u32 {
            table.index(id)?;
        }
        for token in added {
            if table.text(token.id) != Some(&token.text) {
                let problem = format!("its text is not that of token {}", token.id);
                return Err(refused(&format!("added token `{}`", shown(&token.text)), problem));
            }
        }
        Ok(table)
    }

    /// Notes the bytes of token `id` and enters it under its text.
    fn index(&mut self, id: u32) -> Result<()> {
        let Self { texts, kinds, bytes, byte_ends, ids, hasher } = self;
        let text_of = |id: u32| texts.get(id as usize).unwrap_or_default();
        let text = text_of(id);
        // Added tokens are plain text; so is what other programs put into a vocabulary without the alphabet.
        let is_plain = kinds[id as usize] != Kind::Normal || byte_level::append_bytes(text, bytes).is_none();
        if is_plain {
            bytes.extend_from_slice(text.as_bytes());
        }
        // At most as long as the texts, whose length fits.
        byte_ends.push(bytes.len() as u32);
        if text.is_empty() {
            return Ok(());
        }
        let hash = hasher.hash_one(text);
        let entry = ids.entry(hash, |&other| text_of(other) == text, |&other| hasher.hash_one(text_of(other)));
        match entry {
            hashbrown::hash_table::Entry::Vacant(entry) => {
                entry.insert(id);
                Ok(())
            }
            hashbrown::hash_table::Entry::Occupied(entry) => {
                let problem = format!("tokens {} and {id} are both `{}`", entry.get(), shown(text));
                Err(refused("tokens", problem))
            }
        }
    }

    fn check_id(&self, field: &str, id: u32) -> Result<()> {
        if (id as usize) < self.len() {
            return Ok(());
        }
        Err(refused(field, format!("{id} is outside the vocabulary of {} tokens", self.len())))
    }

    /// The merges, with ids for texts.
    fn merges(&self, merges: &Strings) -> Result<Merges> {
        if merges.len() > MERGES_MAX {
            let problem = format!("there are {}; at most {MERGES_MAX} are allowed", merges.len());
            return Err(refused("merges", problem));
        }
        let mut ranked = Merges::with_capacity(merges.len());
        let mut joined = String::new();
        for (rank, merge) in merges.iter().enumerate() {
            let ids = merge.split_once(' ').and_then(|(left, right)| {
                joined.clear();
                joined.push_str(left);
                joined.push_str(right);
                Some((self.id_of(left)?, self.id_of(right)?, self.id_of(&joined)?))
            });
            let Some((left, right, merged)) = ids else {
                let problem = format!("`{}` does not name two tokens that make a third", shown(merge));
                return Err(refused(&format!("merge {rank}"), problem));
            };
            ranked.push(left, right, merged);
        }
        Ok(ranked)
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize)
    }

    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let end = *self.byte_ends.get(id as usize)? as usize;
        let start = (id as usize).checked_sub(1).map_or(0, |before| self.byte_ends[before] as usize);
        Some(&self.bytes[start..end])
    }

    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(text), |&id| self.text(id) == Some(text)).copied()
    }

    pub(super) fn is_added(&self, id: u32) -> bool {
        self.kinds.get(id as usize).is_some_and(|&kind| kind != Kind::Normal)
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Special)
    }
}

/// An [`Error::Tokenizer`] about a damaged part.
fn refused(field: &str, problem: String) -> Error {
    Error::Tokenizer { field: field.into(), problem, remedy: REMEDY }
}
