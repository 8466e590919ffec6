//! An answer as server-sent events, in the order that OpenAI sends them: the role, pieces of text, the reason why it
//! ended, the usage where it was asked for, `[DONE]`.

use super::answer::{Answer, finish_reason, next, usage};
use crate::refusal::Refusal;
use crate::server::Shared;
use axum::http::{HeaderName, HeaderValue};
use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use freehold_api::openai::{Chunk, ChunkChoice, Delta, FinishReason, Logprobs, TokenLogprob, Usage};
use freehold_engine::Event;
use futures_util::stream::{self, Stream};
use serde_json::to_string;
use std::collections::VecDeque;
use std::convert::Infallible;
use tokio::sync::{mpsc, watch};

/// Tells nginx not to hold events back.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// The response that carries `events`. It begins at once; the prompt is still being read then.
pub(super) fn respond(answer: Answer, events: mpsc::Receiver<Event>, shared: &Shared) -> impl IntoResponse {
    let mut chunks = Chunks { answer, events, cut: shared.cut.clone(), ready: VecDeque::new(), ended: false };
    chunks.choice(Delta { role: Some("assistant"), content: Some(String::new()) }, None, None);
    let keep_alive = KeepAlive::new().interval(shared.options.limits.keep_alive_interval).text("keep-alive");
    ([UNBUFFERED], Sse::new(chunks.into_stream()).keep_alive(keep_alive))
}

struct Chunks {
    answer: Answer,
    events: mpsc::Receiver<Event>,
    cut: watch::Receiver<bool>,
    /// The data of events to send.
    ready: VecDeque<String>,
    /// Nothing follows what is ready.
    ended: bool,
}

impl Chunks {
    fn into_stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, async |mut chunks| {
            loop {
                if let Some(data) = chunks.ready.pop_front() {
                    return Some((Ok(sse::Event::default().data(data)), chunks));
                }
                if chunks.ended {
                    return None;
                }
                if let Err(refusal) = chunks.advance().await {
                    chunks.push(&refusal.body());
                    chunks.ended = true;
                }
            }
        })
    }

    /// Waits for the engine's next event and readies what it gives the client.
    async fn advance(&mut self) -> Result<(), Refusal> {
        match next(&mut self.events, &mut self.cut).await? {
            Event::Prompt { .. } => {}
            Event::Token(token) => {
                let logprob = self.answer.logprob(&token);
                if !token.text.is_empty() || logprob.is_some() {
                    self.choice(Delta { role: None, content: Some(token.text) }, logprob, None);
                }
            }
            Event::Finished(finished) => {
                let reason = finish_reason(&finished)?;
                if !finished.text.is_empty() {
                    self.choice(Delta { role: None, content: Some(finished.text.clone()) }, None, None);
                }
                self.choice(Delta::default(), None, Some(reason));
                if self.answer.include_usage {
                    self.chunk(Vec::new(), Some(usage(&finished)));
                }
                self.ready.push_back("[DONE]".into());
                self.ended = true;
            }
        }
        Ok(())
    }

    fn choice(&mut self, delta: Delta, logprob: Option<TokenLogprob>, finish_reason: Option<FinishReason>) {
        let logprobs = logprob.map(|logprob| Logprobs { content: vec![logprob], refusal: None });
        self.chunk(vec![ChunkChoice { index: 0, delta, logprobs, finish_reason }], None);
    }

    fn chunk(&mut self, choices: Vec<ChunkChoice>, usage: Option<Usage>) {
        let chunk = Chunk {
            id: self.answer.id.clone(),
            object: "chat.completion.chunk",
            created: self.answer.created,
            model: self.answer.backend.model().id.clone(),
            service_tier: "default",
            system_fingerprint: self.answer.fingerprint(),
            choices,
            usage,
        };
        self.push(&chunk);
    }

    fn push(&mut self, value: &impl serde::Serialize) {
        self.ready.push_back(to_string(value).expect("the keys of wire types are strings"));
    }
}
