//! `POST /v1/chat/completions`.

mod answer;
mod request;
mod stream;

use crate::backend::PromptError;
use crate::clock::unix_seconds;
use crate::guard::random_id;
use crate::refusal::Refusal;
use crate::server::{MODEL_DIGEST, NUMERICS, Shared};
use answer::Answer;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use freehold_api::openai::ChatRequest;
use freehold_engine::{Event, Flow, GenerationRequest};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub(crate) async fn complete(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    let permit = shared.requests.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
    let body = read_body(&shared, request).await?;
    // Parsing, the template and the tokenizer may take a while on long conversations. The permit goes along: the work
    // counts until it ends, even if the client is gone.
    let (generation, style, permit) = {
        let shared = shared.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&shared, &body).map(|(g, s)| (g, s, permit)));
        prepared.await.map_err(|_| Refusal::Internal)??
    };

    let answer = Answer {
        id: random_id("chatcmpl-")?,
        created: unix_seconds(),
        logprobs: generation.logprobs.is_some(),
        include_usage: style.include_usage,
        backend: shared.backend.clone(),
    };
    let events = submit(&shared, generation, permit)?;
    let mut response = if style.stream {
        stream::respond(answer, events, &shared).into_response()
    } else {
        Json(answer.collect(events, shared.cut.clone()).await?).into_response()
    };
    let model = shared.backend.model();
    for (name, value) in [(MODEL_DIGEST, &model.digest), (NUMERICS, &model.numerics)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

async fn read_body(shared: &Shared, request: Request) -> Result<Bytes, Refusal> {
    let limits = &shared.options.limits;
    match tokio::time::timeout(limits.body_time, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Refusal::BodyTooLarge { limit_bytes: limits.body_bytes })
        }
        Ok(Err(_)) | Err(_) => Err(Refusal::BodyIncomplete),
    }
}

/// How the answer is to be sent.
struct Style {
    stream: bool,
    include_usage: bool,
}

fn prepare(shared: &Shared, body: &[u8]) -> Result<(GenerationRequest, Style), Refusal> {
    let request = request::parse::<ChatRequest>(body)?;
    let model = shared.backend.model();
    let style = Style {
        stream: request.stream.unwrap_or(false),
        include_usage: request.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false),
    };
    let (conversation, mut generation) = request::check(request, model, &shared.options.limits)?;
    generation.prompt = shared.backend.prompt(&conversation).map_err(|error| match error {
        PromptError::Invalid(message) => {
            let message = format!("The messages do not suit this model: {}.", message.trim_end_matches('.'));
            Refusal::invalid("messages", message)
        }
        PromptError::Failed(message) => {
            eprintln!("freehold: a prompt could not be made: {message}");
            Refusal::Internal
        }
    })?;
    Ok((generation, style))
}

/// Hands the request over. The request counts as under way until the backend drops the sink.
fn submit(
    shared: &Shared,
    generation: GenerationRequest,
    permit: OwnedSemaphorePermit,
) -> Result<mpsc::Receiver<Event>, Refusal> {
    // Room for the whole answer, so a slow client never makes the backend wait and never takes more than that. An answer
    // has an event per token, of which the last needs no place in the context, and one for its end.
    let most = shared.backend.model().context_length.saturating_sub(generation.prompt.len()).saturating_add(1);
    let capacity = generation.max_tokens.map_or(most, |tokens| tokens.min(most)).saturating_add(1);
    let (sender, receiver) = mpsc::channel(capacity);
    let sink = move |event| {
        let _under_way = &permit;
        // Neither goes on when the client has left.
        let goes_on = match event {
            Event::Prompt { .. } => !sender.is_closed(),
            event => sender.try_send(event).is_ok(),
        };
        if goes_on { Flow::Continue } else { Flow::Cancel }
    };
    shared.backend.submit(generation, Box::new(sink))?;
    Ok(receiver)
}
