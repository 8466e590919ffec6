//! Logits of given tokens, and what follows from them: the numbers behind `logits` and `perplexity`.

use crate::sampler::are_finite;
use freehold_kernels::{Compute, KV_BLOCK, KvType, VectorKernels, math64};
use freehold_model::{Cache, Chunk, LogitRows, Model, Workspace};

/// Why tokens were not evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// There is no memory for the cache.
    #[error(transparent)]
    Cache(#[from] freehold_model::Error),
    /// The model was not made for so many.
    #[error("{tokens} tokens do not fit the model's context of {context_length}: give fewer")]
    ContextLengthExceeded {
        /// Tokens that would be evaluated together.
        tokens: usize,
        /// Tokens that the model was made for.
        context_length: usize,
    },
    /// A token has no row in the embedding.
    #[error(
        "token {id} is not in the model's vocabulary of {vocabulary} tokens: ids are below that; a tokenizer may have more \
         tokens than its model"
    )]
    UnknownToken {
        /// The token.
        id: u32,
        /// The rows of the embedding.
        vocabulary: usize,
    },
    /// Logits, or what was made of them, are NaN or infinite.
    #[error(
        "the model's numbers overflowed on this text: use another file of the model, or `--kv f32` where there is such an option"
    )]
    Overflowed,
}

/// Tokens whose logits are made together: few enough that those of a large vocabulary stay below 100 MB.
const ROWS: usize = 128;

/// Tokens of the shortest window that has something to score.
pub(crate) const CONTEXT_MIN: usize = 3;

/// Tokens that are fed together where nobody asks for their logits.
const UNSEEN: usize = 512;

/// A sequence on its way through a model, from an empty cache.
pub(crate) struct Pass<'a> {
    model: &'a Model,
    compute: &'a Compute,
    cache: Cache,
    blocks: Vec<u32>,
    pub(crate) workspace: Workspace,
    logits: Vec<f32>,
    /// Tokens fed so far.
    position: usize,
}

impl<'a> Pass<'a> {
    /// With room for `tokens` tokens.
    pub(crate) fn new(
        model: &'a Model,
        compute: &'a Compute,
        kv_type: KvType,
        tokens: usize,
        workspace: Workspace,
    ) -> Result<Self, EvaluateError> {
        let blocks: Vec<u32> = (0..tokens.div_ceil(KV_BLOCK) as u32).collect();
        let cache = model.new_cache(kv_type, blocks.len())?;
        Ok(Self { model, compute, cache, blocks, workspace, logits: Vec::new(), position: 0 })
    }

    /// Feeds more tokens; the logits that are wanted, a row after the other.
    pub(crate) fn feed(&mut self, tokens: &[u32], wanted: LogitRows) -> Result<&[f32], EvaluateError> {
        let chunk = Chunk { tokens, start: self.position, blocks: &self.blocks, logits: wanted };
        self.model.forward(self.compute, &mut self.cache, &[chunk], &mut self.workspace, &mut self.logits);
        self.position += tokens.len();
        if are_finite(&self.logits) { Ok(&self.logits) } else { Err(EvaluateError::Overflowed) }
    }

    /// Feeds a sequence's first tokens, from an empty cache.
    pub(crate) fn begin(&mut self, tokens: &[u32]) -> Result<(), EvaluateError> {
        // What the cache holds beyond the position is never looked at.
        self.position = 0;
        tokens.chunks(UNSEEN).try_for_each(|part| self.feed(part, LogitRows::None).map(|_| ()))
    }
}

/// Runs `tokens` from an empty cache in chunks of `chunk` and hands over the logits: of the last token, or, with `all`,
/// of each in order. `visit` gets the position and one row of the vocabulary's size; returning false ends the run.
///
/// # Errors
/// If the tokens do not fit the model's context or its vocabulary, there is no memory for their cache, or logits are NaN or
/// infinite.
///
/// # Panics
/// If `chunk` is 0.
pub fn evaluate(
    model: &Model,
    compute: &Compute,
    kv_type: KvType,
    tokens: &[u32],
    chunk: usize,
    all: bool,
    visit: &mut dyn FnMut(usize, &[f32]) -> bool,
) -> Result<(), EvaluateError> {
    check(model, tokens, tokens.len())?;
    let mut pass = Pass::new(model, compute, kv_type, tokens.len(), Workspace::default())?;
    let mut end = 0;
    for part in tokens.chunks(chunk) {
        end += part.len();
        let wanted = match (all, end == tokens.len()) {
            (true, _) => LogitRows::All,
            (false, true) => LogitRows::Last,
            (false, false) => LogitRows::None,
        };
        let rows = pass.feed(part, wanted)?.chunks_exact(model.config().vocabulary);
        for (position, row) in (end - rows.len()..).zip(rows) {
            if !visit(position, row) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether the model takes these tokens, `context` of them together.
pub(crate) fn check(model: &Model, tokens: &[u32], context: usize) -> Result<(), EvaluateError> {
    let config = model.config();
    if context > config.context_length {
        return Err(EvaluateError::ContextLengthExceeded { tokens: context, context_length: config.context_length });
    }
    match tokens.iter().find(|&&id| id as usize >= config.vocabulary) {
        Some(&id) => Err(EvaluateError::UnknownToken { id, vocabulary: config.vocabulary }),
        None => Ok(()),
    }
}

/// A text's tokens and how they are cut: windows of `context` tokens without overlap, each begun with `bos` in place of its
/// first token where the model has one. What is left over at the end is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'t> {
    /// The text's tokens.
    pub tokens: &'t [u32],
    /// What sequences of the model begin with.
    pub bos: Option<u32>,
    /// Tokens of a window.
    pub context: usize,
}

/// One of them: the logits of its second half are scored, but for those of the last token, which are about the next window.
pub(crate) struct Window<'t> {
    pub(crate) input: Vec<u32>,
    /// What follows each token of the input.
    targets: &'t [u32],
    /// The first token whose logits are scored.
    first: usize,
}

impl<'t> Windows<'t> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.tokens.len().checked_div(self.context).unwrap_or(0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Window<'t>> {
        let Self { tokens, bos, context } = *self;
        tokens.chunks_exact(context).map(move |window| {
            let mut input = window.to_vec();
            if let Some(bos) = bos {
                input[0] = bos;
            }
            Window { input, targets: &window[1..], first: context / 2 }
        })
    }
}

impl Window<'_> {
    /// Tokens before those whose logits are scored.
    pub(crate) fn unscored(&self) -> &[u32] {
        &self.input[..self.first]
    }

    /// Tokens whose logits are scored, a few at a time, with what follows each.
    pub(crate) fn scored(&self) -> impl Iterator<Item = (&[u32], &[u32])> {
        let targets = &self.targets[self.first..];
        self.input[self.first..][..targets.len()].chunks(ROWS).zip(targets.chunks(ROWS))
    }
}

/// Perplexity as llama.cpp's tool defines it: of each window, the second half is scored.
///
/// Returns the perplexity and the number of tokens scored; `None` if the text has not two windows' worth of tokens.
/// `progress` gets windows done and their number; returning false ends the run after that window.
///
/// # Errors
/// As [`evaluate`], for windows of `context` tokens; also if the perplexity itself is infinite.
pub fn perplexity(
    model: &Model,
    compute: &Compute,
    kv_type: KvType,
    windows: Windows<'_>,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<(f64, usize)>, EvaluateError> {
    // Before the first window, which may take long.
    check(model, windows.tokens, windows.context)?;
    if windows.context < CONTEXT_MIN || windows.count() < 2 {
        return Ok(None);
    }
    let vector = compute.vector();
    let mut pass = Pass::new(model, compute, kv_type, windows.context, Workspace::default())?;
    let (mut sum, mut count) = (0.0f64, 0usize);
    for (index, window) in windows.iter().enumerate() {
        pass.begin(window.unscored())?;
        for (tokens, targets) in window.scored() {
            let rows = pass.feed(tokens, LogitRows::All)?.chunks_exact(model.config().vocabulary);
            for (row, &target) in rows.zip(targets) {
                sum += surprise(vector, row, target);
                count += 1;
            }
        }
        if !progress(index + 1, windows.count()) {
            break;
        }
    }
    let perplexity = math64::exp(sum / count as f64);
    if perplexity.is_finite() { Ok(Some((perplexity, count))) } else { Err(EvaluateError::Overflowed) }
}

/// Minus the logarithm of a token's probability.
pub(crate) fn surprise(vector: VectorKernels, row: &[f32], token: u32) -> f64 {
    f64::from(vector.log_sum_exp(row) - row[token as usize])
}
