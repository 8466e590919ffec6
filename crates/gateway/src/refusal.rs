//! Refused requests, in OpenAI's shape.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use freehold_api::openai::{ErrorBody, ErrorDetail};
use freehold_engine::SubmitError;
use std::borrow::Cow;

/// Seconds after which a client that met a full queue may try again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// Why a request gets no answer. The texts hold nothing of this machine: no addresses, no paths.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum Refusal {
    #[error(
        "No API key was given. Send it as `Authorization: Bearer KEY`; `freehold key show` prints it on the machine that \
         runs this server."
    )]
    NoKey,
    #[error("The API key is not right. `freehold key show` prints it on the machine that runs this server.")]
    WrongKey,
    #[error(
        "The Host header is missing or names a host that this server does not answer to. Call it by its address, or add \
         the name to its allowed hosts."
    )]
    Host,
    #[error(
        "A page of another site may not call this server from a browser. Add the site to the allowed origins if it should."
    )]
    Origin,
    #[error("There is nothing under this path. The API is under `/v1`.")]
    UnknownPath,
    #[error("This path does not take this method.")]
    Method,
    #[error("The model `{0}` is not served here. `GET /v1/models` lists what is.")]
    UnknownModel(String),
    #[error("{message}")]
    Invalid { param: Option<String>, code: Option<&'static str>, message: Cow<'static, str> },
    #[error(
        "This model's maximum context length is {context_length} tokens. However, your messages resulted in \
         {prompt_tokens} tokens. Please reduce the length of the messages."
    )]
    ContextLength { prompt_tokens: usize, context_length: usize },
    #[error("The body is larger than {limit_bytes} bytes. Send less.")]
    BodyTooLarge { limit_bytes: usize },
    #[error("The body did not arrive in time or not whole. Send it again.")]
    BodyIncomplete,
    #[error("Too many requests are waiting. Try again in a moment.")]
    Busy,
    #[error("The server is shutting down. Try again when it is back.")]
    ShuttingDown,
    #[error(
        "the model's numbers overflowed on this prompt: serve it with `--kv f32`, or use another file of the model"
    )]
    Overflowed,
    #[error("The server failed on this request. Its log says why.")]
    Internal,
}

impl Refusal {
    /// A field of the request has a value that cannot be.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { param: Some(param.into()), code: Some("invalid_value"), message: message.into() }
    }

    /// A field asks for something that would be ignored in silence.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { param: Some(param.into()), code: Some("unsupported_value"), message: message.into() }
    }

    /// Another model was asked for.
    pub(crate) fn unknown_model(id: &str) -> Self {
        Self::UnknownModel(shorten(id))
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoKey | Self::WrongKey => StatusCode::UNAUTHORIZED,
            Self::Host | Self::Origin => StatusCode::FORBIDDEN,
            Self::UnknownPath | Self::UnknownModel(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Invalid { .. } | Self::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyIncomplete => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Overflowed | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body, which is also what a stream that has begun sends as its last event.
    pub(crate) fn body(&self) -> ErrorBody {
        let kind = match self {
            Self::Busy => "rate_limit_error",
            Self::ShuttingDown | Self::Overflowed | Self::Internal => "server_error",
            _ => "invalid_request_error",
        };
        let code = match self {
            Self::NoKey | Self::WrongKey => Some("invalid_api_key"),
            Self::Host => Some("host_not_allowed"),
            Self::Origin => Some("origin_not_allowed"),
            Self::UnknownPath => Some("unknown_url"),
            Self::Method => Some("method_not_allowed"),
            Self::UnknownModel(_) => Some("model_not_found"),
            Self::Invalid { code, .. } => *code,
            Self::ContextLength { .. } => Some("context_length_exceeded"),
            Self::BodyTooLarge { .. } => Some("body_too_large"),
            Self::BodyIncomplete => Some("body_incomplete"),
            Self::Busy => Some("rate_limit_exceeded"),
            Self::ShuttingDown => Some("shutting_down"),
            Self::Overflowed => Some("numbers_overflowed"),
            Self::Internal => Some("internal_error"),
        };
        let param = match self {
            Self::Invalid { param, .. } => param.clone(),
            Self::UnknownModel(_) => Some("model".into()),
            Self::ContextLength { .. } => Some("messages".into()),
            _ => None,
        };
        ErrorBody { error: ErrorDetail { message: self.to_string(), kind, param, code } }
    }
}

/// What a client sent, as far as it goes back in a message.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(300).collect()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self {
            Self::NoKey | Self::WrongKey => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Busy => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            _ => {}
        }
        response
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::ContextLengthExceeded { prompt_tokens, context_length } => {
                Self::ContextLength { prompt_tokens, context_length }
            }
            SubmitError::Invalid { .. } => {
                Self::Invalid { param: None, code: Some("invalid_value"), message: error.to_string().into() }
            }
            SubmitError::QueueFull => Self::Busy,
            SubmitError::ShuttingDown => Self::ShuttingDown,
        }
    }
}
