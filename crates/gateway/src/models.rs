//! `GET /v1/models`.

use crate::backend::ModelInfo;
use crate::refusal::Refusal;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use freehold_api::openai::{Model, ModelList};
use std::sync::Arc;

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![describe(shared.backend.model())] })
}

pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, Refusal> {
    let model = shared.backend.model();
    // What is not UTF-8 names no model.
    let Path(id) = id.map_err(|_| Refusal::UnknownPath)?;
    if id == model.id { Ok(Json(describe(model))) } else { Err(Refusal::unknown_model(&id)) }
}

fn describe(model: &ModelInfo) -> Model {
    Model {
        id: model.id.clone(),
        object: "model",
        created: model.created,
        owned_by: model.owned_by.clone(),
        context_length: model.context_length as u64,
        digest: model.digest.clone(),
        numerics: model.numerics.clone(),
        licence: model.licence.clone(),
    }
}
