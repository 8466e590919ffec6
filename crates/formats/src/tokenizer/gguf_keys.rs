//! A tokenizer as the keys `tokenizer.ggml.…` of a GGUF file to be written.
//!
//! A GGUF file has a few fields for what a tokenizer's own files spell out. They are not made to fit: the keys are read
//! again, and what comes back must have the same parts, or the tokenizer is refused with the part that has no words in
//! GGUF. Ids that have no token get one whose text has a space, which no text becomes.

use super::bpe::Merger;
use super::gguf::token_type;
use super::named::Rules;
use super::normaliser::Step as Change;
use super::pretokenizer::{Prepend, Step as Cut};
use super::vocabulary::{Affixes, PIECE_BYTES_MAX, named_byte};
use super::{AddedToken, Normaliser, SPACE_MARK, Spelling, Tokenizer, Vocabulary, VocabularyModel, WordMark};
use crate::error::{Error, Result, shown};
use crate::metadata::{Array, Metadata, Strings, Value};
use hashbrown::HashMap;

/// What an id without a token is worth in a vocabulary with scores: no less than others, for the least of them counts.
const SCORE_OF_NOTHING: f32 = 0.0;

impl Vocabulary {
    /// The keys of `tokenizer.ggml` that make this tokenizer, for a model with `size` ids. `name` is the model's
    /// (`general.name`), by which readers know a peculiarity of Phi-3's tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where GGUF has no words for a part of the tokenizer, or it has more than `size` tokens, and
    /// as [`Tokenizer::new`].
    pub fn gguf_keys(&self, name: &str, size: usize) -> Result<Vec<(String, Value)>> {
        if self.tokens.len() > size {
            let problem = format!("there are {}, but the model has only {size}", self.tokens.len());
            return Err(Error::Tokenizer {
                field: "tokens".into(),
                problem,
                remedy: "The tokenizer belongs to another model: fetch its files again",
            });
        }
        let mut keys = Keys(Vec::new());
        if matches!(&self.model, VocabularyModel::Bpe { affixes, .. } if *affixes != Affixes::default()) {
            return Err(no_words("model", "what tokens have in front or behind by their place in a word"));
        }
        match (&self.spelling, &self.model) {
            (Spelling::ByteLevel, VocabularyModel::Bpe { merges, ignore_merges, byte_fallback: false, .. }) => {
                let named = |ignore| Rules::name_of(&self.pre_tokenizer, &self.normaliser, ignore);
                let pre = match named(*ignore_merges) {
                    None if self.merges_make_all_tokens()? => named(!ignore_merges),
                    pre => pre,
                };
                let pre = pre.ok_or_else(|| {
                    no_words("pre_tokenizer", "this way to cut text with this normaliser: it only names known ones")
                })?;
                keys.text("model", "gpt2");
                keys.text("pre", pre);
                self.put_tokens(&mut keys, size)?;
                keys.put("merges", Value::Array(Array::String(merges.clone())));
            }
            (Spelling::SentencePiece, VocabularyModel::ScoredBpe { scores }) => {
                keys.text("model", "llama");
                self.put_scored(&mut keys, size, scores.iter().map(|&score| score as f32).collect())?;
            }
            (Spelling::SentencePiece, VocabularyModel::Bpe { merges, ignore_merges: false, .. }) => {
                keys.text("model", "llama");
                self.put_scored(&mut keys, size, self.scores_of_merges(merges)?)?;
            }
            (Spelling::SentencePiece, VocabularyModel::Unigram { scores, .. }) => {
                keys.text("model", "t5");
                self.put_scored(&mut keys, size, scores.iter().map(|&score| score as f32).collect())?;
            }
            (Spelling::Words { .. }, VocabularyModel::WordPiece { .. }) => {
                keys.text("model", "bert");
                keys.text("pre", "default");
                self.put_tokens(&mut keys, size)?;
                let has = |step: &Change| self.normaliser.steps().contains(step);
                keys.flag("normalizer.lowercase", has(&Change::Lowercase));
                keys.flag("normalizer.strip_accents", has(&Change::StripAccents));
                // The format misspells the second.
                keys.id("cls", self.bos);
                keys.id("seperator", self.eos);
                keys.flag("add_sep_token", self.add_eos);
            }
            _ => return Err(no_words("model", "such a model with such tokens")),
        }
        self.put_special(&mut keys)?;
        let mut pairs = keys.0;
        pairs.push(("general.name".into(), Value::String(name.into())));
        let read = Self::from_metadata(&Metadata::from_pairs(pairs.clone())?)?;
        pairs.pop();
        self.check_same(&read)?;
        Ok(pairs)
    }

    /// The tokens and what they are.
    fn put_tokens(&self, keys: &mut Keys, size: usize) -> Result<()> {
        let mut types = vec![token_type::NORMAL; size];
        let mut tokens = Strings::default();
        for token in &self.added {
            // A sound vocabulary has none outside it; others are refused when the keys are read again.
            if let Some(kind) = types.get_mut(token.id as usize) {
                *kind = match token.special {
                    true if self.unknown == Some(token.id) => token_type::UNKNOWN,
                    true => token_type::CONTROL,
                    false => token_type::USER_DEFINED,
                };
            }
        }
        for (id, kind) in types.iter_mut().enumerate() {
            let text = self.tokens.get(id).unwrap_or_default();
            let written = match &self.spelling {
                _ if text.is_empty() => {
                    *kind = token_type::UNUSED;
                    format!("[PAD {id}]")
                }
                Spelling::SentencePiece if *kind == token_type::NORMAL && named_byte(text).is_some() => {
                    *kind = token_type::BYTE;
                    text.to_owned()
                }
                Spelling::Words { mark: WordMark::Continuation(mark), .. } if *kind == token_type::NORMAL => {
                    match text.strip_prefix(mark.as_str()) {
                        Some(rest) if rest.starts_with(SPACE_MARK) => {
                            return Err(no_words("tokens", &format!("`{}`", shown(text))));
                        }
                        Some(rest) => rest.to_owned(),
                        None => format!("{SPACE_MARK}{text}"),
                    }
                }
                _ => text.to_owned(),
            };
            tokens.push(&written).ok_or_else(|| no_words("tokens", "more than 4 GiB of them"))?;
        }
        keys.put("tokens", Value::Array(Array::String(tokens)));
        keys.put("token_type", Value::Array(Array::I32(types)));
        Ok(())
    }

    /// The tokens with their scores, and how spaces are written.
    fn put_scored(&self, keys: &mut Keys, size: usize, mut scores: Vec<f32>) -> Result<()> {
        self.put_tokens(keys, size)?;
        scores.resize(size, SCORE_OF_NOTHING);
        keys.put("scores", Value::Array(Array::F32(scores)));
        let changes = self.normaliser.steps();
        keys.flag("add_space_prefix", changes.iter().any(|change| matches!(change, Change::Prepend(_))));
        keys.flag("remove_extra_whitespaces", changes.contains(&Change::SqueezeSpaces));
        let charsmap = changes.iter().find_map(|change| match change {
            Change::Charsmap(charsmap) => Some(charsmap.to_bytes()),
            _ => None,
        });
        if let Some(charsmap) = charsmap {
            keys.put("precompiled_charsmap", Value::Array(Array::U8(charsmap)));
        }
        Ok(())
    }

    /// The tokens with a part to play.
    fn put_special(&self, keys: &mut Keys) -> Result<()> {
        keys.id("bos", self.bos);
        keys.id("eos", self.eos);
        keys.id("unknown", self.unknown);
        keys.id("padding", self.padding);
        keys.flag("add_bos_token", self.add_bos);
        if !matches!(self.spelling, Spelling::Words { .. }) {
            keys.flag("add_eos_token", self.add_eos);
        }
        // What a reader takes for an end by itself needs no key.
        let known = Tokenizer::new(Self { ends: Vec::new(), ..self.clone() })?;
        let mut ends: Vec<u32> =
            self.ends.iter().copied().filter(|id| !known.end_of_generation().contains(id)).collect();
        ends.dedup();
        if ends.len() > 2 {
            return Err(no_words("generation_config.json", "more than two tokens of its own that end an answer"));
        }
        keys.id("eot", ends.first().copied());
        keys.id("eom", ends.get(1).copied());
        Ok(())
    }

    /// Whether ranked merges make each token of its text, so that it makes no difference whether a piece that is a token is
    /// taken as it stands.
    fn merges_make_all_tokens(&self) -> Result<bool> {
        let mut merging = self.clone();
        if let VocabularyModel::Bpe { ignore_merges, .. } = &mut merging.model {
            *ignore_merges = false;
        }
        let tokenizer = Tokenizer::new(merging)?;
        let (mut merger, mut ids) = (Merger::default(), Vec::new());
        let mut plain = (0u32..).zip(self.tokens.iter()).filter(|&(id, _)| tokenizer.table.is_plain(id));
        Ok(plain.all(|(id, text)| {
            ids.clear();
            tokenizer.model.encode(&tokenizer.table, text, &mut merger, &mut ids);
            text.is_empty() || ids == [id]
        }))
    }

    /// Scores by which [`VocabularyModel::ScoredBpe`] merges as these ranked merges do. It merges whatever makes a token,
    /// best score first, and of the same score from the left.
    fn scores_of_merges(&self, merges: &Strings) -> Result<Vec<f32>> {
        let mut is_plain: Vec<bool> =
            self.tokens.iter().map(|text| !text.is_empty() && named_byte(text).is_none()).collect();
        for token in &self.added {
            if let Some(is_plain) = is_plain.get_mut(token.id as usize) {
                *is_plain = false;
            }
        }
        let plain = (0usize..).zip(self.tokens.iter()).filter(|(id, _)| is_plain[*id]);
        let ids: HashMap<&str, usize> = plain.map(|(id, text)| (text, id)).collect();
        let (mut scores, mut ways) = (vec![0.0; self.tokens.len()], vec![0usize; self.tokens.len()]);
        let (mut score, mut last) = (0.0, None);
        let mut made = String::new();
        for merge in merges.iter() {
            let halves =
                merge.split_once(' ').filter(|(left, right)| [left, right].iter().all(|half| ids.contains_key(*half)));
            let id = halves.and_then(|(left, right)| {
                made.clear();
                made.extend([left, right]);
                ids.get(made.as_str()).copied()
            });
            let id = id.ok_or_else(|| {
                no_words("merges", &format!("`{}`, which makes an added token or none", shown(merge)))
            })?;
            if last != Some(id) {
                if ways[id] > 0 {
                    return Err(no_words("merges", "ranks that differ between the ways to make one token"));
                }
                score -= 1.0;
                last = Some(id);
            }
            scores[id] = score;
            ways[id] += 1;
        }
        for (&text, &id) in &ids {
            if text.len() > PIECE_BYTES_MAX {
                return Err(no_words(
                    "tokens",
                    &format!("one of {} bytes, which would be looked up in the text", text.len()),
                ));
            }
            let inner = text.char_indices().map(|(place, _)| text.split_at(place));
            let all = inner.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right)).count();
            if all != ways[id] {
                return Err(no_words(
                    "merges",
                    &format!("tokens that are not merged, though they make `{}`", shown(text)),
                ));
            }
        }
        Ok(scores)
    }

    /// Refuses what the keys do not bring back.
    fn check_same(&self, read: &Self) -> Result<()> {
        let sorted = |tokens: &[AddedToken]| {
            let mut tokens = tokens.to_vec();
            tokens.sort_by_key(|token| token.id);
            if self.normaliser.steps().is_empty() {
                // It makes no difference when they are looked for.
                tokens.iter_mut().for_each(|token| token.normalised = false);
            }
            tokens
        };
        let (own, others) = (sorted(&self.added), sorted(&read.added));
        if let Some((token, _)) = own.iter().zip(&others).find(|(token, other)| token != other) {
            let text = shown(&token.text);
            return Err(no_words(
                "added tokens",
                &format!("how `{text}` is found (white space, words or normalisation around it)"),
            ));
        }
        if own.len() != others.len() {
            return Err(no_words("added tokens", "their kinds"));
        }
        let (normaliser, cuts) = self.without_effectless()?;
        // The bytes of an unknown character have tokens, or none of them has.
        let bytes = self.tokens.iter().filter(|text| named_byte(text).is_some()).count();
        let same_model = match (&self.model, &read.model) {
            (VocabularyModel::Bpe { byte_fallback: true, fuse_unknown, .. }, VocabularyModel::ScoredBpe { .. }) => {
                bytes == 256 || *fuse_unknown
            }
            (VocabularyModel::Bpe { byte_fallback: false, fuse_unknown, .. }, VocabularyModel::ScoredBpe { .. }) => {
                bytes == 0 && *fuse_unknown
            }
            (VocabularyModel::Bpe { .. } | VocabularyModel::ScoredBpe { .. }, _) => true,
            (VocabularyModel::Unigram { scores, byte_fallback }, _) => {
                (*byte_fallback || bytes == 0) && scores.iter().all(|score| f64::from(*score as f32) == *score)
            }
            (VocabularyModel::WordPiece { characters_max }, VocabularyModel::WordPiece { characters_max: other }) => {
                characters_max == other
            }
            (VocabularyModel::WordPiece { .. } | VocabularyModel::WordLevel, _) => false,
        };
        let tidy = |spelling: &Spelling| matches!(spelling, Spelling::Words { tidy: true, .. });
        let ends = |vocabulary: &Self| Ok::<_, Error>(Tokenizer::new(vocabulary.clone())?.end_of_generation().to_vec());
        let parts = [
            ("normalizer", "these steps in this order", normaliser == read.normaliser.steps()),
            ("pre_tokenizer", "these steps", cuts == read.pre_tokenizer.steps()),
            ("model", "what becomes of unknown characters, or numbers of this precision", same_model),
            ("decoder", "how spaces are written", self.strips_first_space == read.strips_first_space),
            ("decoder", "words without `cleanup`", tidy(&self.spelling) == tidy(&read.spelling)),
            ("special tokens", "these", self.special() == read.special()),
            ("special tokens", "those that end an answer", ends(self)? == ends(read)?),
        ];
        match parts.iter().find(|(_, _, same)| !same) {
            Some((part, what, _)) => Err(no_words(part, what)),
            None => Ok(()),
        }
    }

    /// The tokens with a part to play, and where they go.
    fn special(&self) -> ([Option<u32>; 4], bool, &[u32], bool) {
        ([self.bos, self.eos, self.unknown, self.padding], self.add_bos, &self.after_bos, self.add_eos)
    }

    /// The steps before the model as SentencePiece would have them, where `tokenizer.json` says the same otherwise.
    fn without_effectless(&self) -> Result<(Vec<Change>, Vec<Cut>)> {
        let mut changes = self.normaliser.steps().to_vec();
        let mut cuts = self.pre_tokenizer.steps().to_vec();
        if self.spelling == Spelling::SentencePiece {
            let marked = Normaliser::space_marks();
            cuts.retain(|cut| match cut {
                // No space is left to cut at.
                Cut::Cut { expression, .. } => {
                    !(changes.last() == Some(&marked)
                        && matches!(&marked, Change::Replace { expression: space, .. } if expression == space))
                }
                Cut::Metaspace { mark: SPACE_MARK, prepend: Prepend::Never, cut: None } => {
                    changes.push(marked.clone());
                    false
                }
                _ => true,
            });
            if cuts.iter().any(|cut| matches!(cut, Cut::Metaspace { prepend: Prepend::First, .. })) {
                let what = "a space in front of a text that is not also put after each special token";
                return Err(no_words("pre_tokenizer: Metaspace", what));
            }
        }
        Ok((changes, cuts))
    }
}

/// Keys below `tokenizer.ggml`.
struct Keys(Vec<(String, Value)>);

impl Keys {
    fn put(&mut self, key: &str, value: Value) {
        self.0.push((format!("tokenizer.ggml.{key}"), value));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.put(key, Value::String(text.into()));
    }

    fn flag(&mut self, key: &str, truth: bool) {
        self.put(key, Value::Bool(truth));
    }

    fn id(&mut self, name: &str, id: Option<u32>) {
        if let Some(id) = id {
            self.put(&format!("{name}_token_id"), Value::U32(id));
        }
    }
}

fn no_words(part: &str, what: &str) -> Error {
    Error::Tokenizer {
        field: part.into(),
        problem: format!("GGUF has no words for {what}"),
        remedy: "Keep the model as a folder, which runs as it is",
    }
}
