//! The body of every answer that is an error.

use serde::Serialize;

/// What went wrong. Also sent as an event of a stream that has begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ErrorBody {
    /// The only field.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ErrorDetail {
    /// For people.
    pub message: String,
    /// The kind of error, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// For programs, such as `context_length_exceeded`.
    pub code: Option<&'static str>,
}
