//! The page at `/`: what is served and how to call it. It holds no key and loads nothing.

use crate::server::Shared;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse};
use std::sync::Arc;

const PAGE: &str = include_str!("landing.html");

/// Its own style and nothing else; in no frame.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) async fn page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> impl IntoResponse {
    let model = shared.backend.model();
    // The guard has let this host through, so it is an address that works for whoever sees the page.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let page = fill(&[
        ("model", &model.id),
        ("licence", model.licence.as_deref().unwrap_or("not stated")),
        ("context", &model.context_length.to_string()),
        ("digest", &model.digest),
        ("numerics", &model.numerics),
        ("address", &format!("http://{host}")),
        ("version", env!("CARGO_PKG_VERSION")),
    ]);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(page))
}

/// Puts values, escaped, in the places of their names. One pass: a value that looks like a place stays what it is.
fn fill(values: &[(&str, &str)]) -> String {
    let mut pieces = PAGE.split("{{");
    let mut page = String::from(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").expect("the page closes each place");
        let (_, value) = values.iter().find(|(key, _)| *key == name).expect("each place of the page has a value");
        for character in value.chars() {
            match character {
                '&' => page.push_str("&amp;"),
                '<' => page.push_str("&lt;"),
                '>' => page.push_str("&gt;"),
                '"' => page.push_str("&quot;"),
                '\'' => page.push_str("&#39;"),
                other => page.push(other),
            }
        }
        page.push_str(rest);
    }
    page
}
