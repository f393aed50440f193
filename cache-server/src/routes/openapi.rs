//! `/v1/openapi.json`: what this service answers, for people and for machines.

use crate::state::App;
use axum::{Router, routing};
use http::header::CONTENT_TYPE;
use std::sync::Arc;

/// The document.
pub(crate) const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/openapi.json", routing::get(async || ([(CONTENT_TYPE, "application/json")], DOCUMENT)))
}
