//! `GET /v1/models` and `GET /v1/models/{id}`.

use serde::Serialize;

/// The models that are served.
#[derive(Clone, Debug, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<Model>,
}

/// A model that is served. The fields after `owned_by` are Freehold's own.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// The name that requests give.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Who made it.
    pub owned_by: String,
    /// Tokens that fit, prompt and answer together.
    pub context_length: u64,
    /// The digest of the model.
    pub digest: String,
    /// The numeric contract that its answers keep.
    pub numerics: String,
    /// The licence of its weights.
    pub licence: Option<String>,
}
