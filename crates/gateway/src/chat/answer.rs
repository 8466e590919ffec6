//! From the engine's events to a whole answer.

use crate::backend::Backend;
use crate::refusal::Refusal;
use freehold_api::openai::{
    Choice, Completion, CompletionTokensDetails, FinishReason, Logprobs, PromptTokensDetails, ResponseMessage,
    TokenLogprob, TopLogprob, Usage,
};
use freehold_engine::{self as engine, Event, Finished, TokenEvent};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// OpenAI's stand-in for the logarithm of 0, which JSON cannot say.
const LOGPROB_OF_IMPOSSIBLE: f32 = -9999.0;

/// What all pieces of one answer share.
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) logprobs: bool,
    pub(super) include_usage: bool,
    pub(super) backend: Arc<dyn Backend>,
}

impl Answer {
    /// The whole answer, once it is there.
    pub(super) async fn collect(
        self,
        mut events: mpsc::Receiver<Event>,
        mut cut: watch::Receiver<bool>,
    ) -> Result<Completion, Refusal> {
        let mut text = String::new();
        let mut logprobs = Vec::new();
        loop {
            match next(&mut events, &mut cut).await? {
                Event::Prompt { .. } => {}
                Event::Token(token) => {
                    text.push_str(&token.text);
                    logprobs.extend(self.logprob(&token));
                }
                Event::Finished(finished) => {
                    let finish_reason = finish_reason(&finished)?;
                    text.push_str(&finished.text);
                    let message =
                        ResponseMessage { role: "assistant", content: Some(text), refusal: None, annotations: [] };
                    let logprobs = self.logprobs.then_some(Logprobs { content: logprobs, refusal: None });
                    return Ok(Completion {
                        object: "chat.completion",
                        created: self.created,
                        model: self.backend.model().id.clone(),
                        choices: vec![Choice { index: 0, message, logprobs, finish_reason }],
                        usage: usage(&finished),
                        service_tier: "default",
                        system_fingerprint: self.fingerprint(),
                        id: self.id,
                    });
                }
            }
        }
    }

    /// What computed the answer: the numeric contract and the start of the model's digest.
    pub(super) fn fingerprint(&self) -> String {
        let model = self.backend.model();
        let digest = model.digest.strip_prefix("sha256:").unwrap_or(&model.digest);
        format!("{}/{}", model.numerics, digest.get(..12).unwrap_or(digest))
    }

    /// The log-probabilities of a token, where the request asked for them.
    pub(super) fn logprob(&self, token: &TokenEvent) -> Option<TokenLogprob> {
        let logprobs = token.logprobs.as_ref()?;
        let describe = |id, logprob: f32| {
            let bytes = self.backend.token_bytes(id);
            let token = String::from_utf8_lossy(&bytes).into_owned();
            TopLogprob { token, logprob: logprob.max(LOGPROB_OF_IMPOSSIBLE), bytes }
        };
        let TopLogprob { token: text, logprob, bytes } = describe(token.id, logprobs.chosen);
        let top_logprobs = logprobs.top.iter().map(|&(id, logprob)| describe(id, logprob)).collect();
        Some(TokenLogprob { token: text, logprob, bytes, top_logprobs })
    }
}

/// The next event; an error where the backend failed, or the server stops waiting for it.
pub(super) async fn next(
    events: &mut mpsc::Receiver<Event>,
    cut: &mut watch::Receiver<bool>,
) -> Result<Event, Refusal> {
    tokio::select! {
        biased;
        event = events.recv() => event.ok_or(Refusal::Internal),
        _ = cut.wait_for(|&cut| cut) => Err(Refusal::ShuttingDown),
    }
}

/// OpenAI's word for why an answer ended; an error where the backend gave it up.
pub(super) fn finish_reason(finished: &Finished) -> Result<FinishReason, Refusal> {
    match finished.reason {
        engine::FinishReason::Stop => Ok(FinishReason::Stop),
        engine::FinishReason::Length => Ok(FinishReason::Length),
        // The client would have cancelled by leaving, so it was the backend.
        engine::FinishReason::Cancelled => Err(Refusal::ShuttingDown),
        engine::FinishReason::Overflowed => Err(Refusal::Overflowed),
    }
}

pub(super) fn usage(finished: &Finished) -> Usage {
    let (prompt_tokens, completion_tokens) = (finished.prompt_tokens as u64, finished.completion_tokens as u64);
    Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens + completion_tokens,
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: finished.cached_tokens as u64,
            ..PromptTokensDetails::default()
        },
        completion_tokens_details: CompletionTokensDetails::default(),
    }
}
