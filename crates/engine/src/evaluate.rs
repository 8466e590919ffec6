//! Logits of given tokens, and what follows from them: the numbers behind `logits` and `perplexity`.

use crate::sampler::are_finite;
use freehold_kernels::{Compute, KV_BLOCK, KvType, math64};
use freehold_model::{Chunk, LogitRows, Model, Workspace};

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
    #[error("the model's numbers overflowed on this text: use `--kv f32`, or another file of the model")]
    Overflowed,
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
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK) as u32).collect();
    let mut cache = model.new_cache(kv_type, blocks.len())?;
    let mut workspace = Workspace::default();
    let mut logits = Vec::new();
    let mut start = 0;
    for part in tokens.chunks(chunk) {
        let end = start + part.len();
        let rows = match (all, end == tokens.len()) {
            (true, _) => LogitRows::All,
            (false, true) => LogitRows::Last,
            (false, false) => LogitRows::None,
        };
        let part = Chunk { tokens: part, start, blocks: &blocks, logits: rows };
        model.forward(compute, &mut cache, &[part], &mut workspace, &mut logits);
        let rows = logits.chunks_exact(model.config().vocabulary);
        for (position, row) in (end - rows.len()..).zip(rows) {
            if !are_finite(row) {
                return Err(EvaluateError::Overflowed);
            }
            if !visit(position, row) {
                return Ok(());
            }
        }
        start = end;
    }
    Ok(())
}

/// Whether the model takes these tokens, `context` of them together.
fn check(model: &Model, tokens: &[u32], context: usize) -> Result<(), EvaluateError> {
    let config = model.config();
    if context > config.context_length {
        return Err(EvaluateError::ContextLengthExceeded { tokens: context, context_length: config.context_length });
    }
    match tokens.iter().find(|&&id| id as usize >= config.vocabulary) {
        Some(&id) => Err(EvaluateError::UnknownToken { id, vocabulary: config.vocabulary }),
        None => Ok(()),
    }
}

/// Perplexity as llama.cpp's tool defines it: windows of `context` tokens without overlap, each begun with `bos` in
/// place of its first token where the model has one, the second half of each scored.
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
    tokens: &[u32],
    bos: Option<u32>,
    context: usize,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<(f64, usize)>, EvaluateError> {
    // Before the first window, which may take long.
    check(model, tokens, context)?;
    if context < 2 || tokens.len() < 2 * context {
        return Ok(None);
    }
    let windows = tokens.len() / context;
    let first = context / 2;
    let vector = compute.vector();
    let (mut sum, mut count) = (0.0f64, 0usize);
    for (index, window) in tokens.chunks_exact(context).enumerate() {
        let mut input = window.to_vec();
        if let Some(bos) = bos {
            input[0] = bos;
        }
        evaluate(model, compute, kv_type, &input, 512, true, &mut |position, row| {
            // Logits of position p are about the token at p + 1.
            if position >= first && position + 1 < context {
                let log_probability = row[window[position + 1] as usize] - vector.log_sum_exp(row);
                sum -= f64::from(log_probability);
                count += 1;
            }
            true
        })?;
        if !progress(index + 1, windows) {
            break;
        }
    }
    let perplexity = math64::exp(sum / count as f64);
    if perplexity.is_finite() { Ok(Some((perplexity, count))) } else { Err(EvaluateError::Overflowed) }
}
