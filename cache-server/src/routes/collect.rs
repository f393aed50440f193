//! `POST /v1/namespaces/{namespace}/collect`: removes what nothing holds.

use super::Ns;
use super::documents::{or_drain, read_document};
use crate::access::authorize;
use crate::auth::{Caller, Right};
use crate::collect::CollectError;
use crate::error::ApiError;
use crate::state::{App, State};
use axum::body::Body;
use axum::{Json, Router, routing};
use http::{HeaderMap, StatusCode};
use preheat_image::api::CollectReport;
use serde::Deserialize;
use std::sync::Arc;

/// Largest body in bytes.
const MAX_BODY: usize = 4096;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/namespaces/{namespace}/collect", routing::post(collect))
}

/// What to do; without a body it is only looked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CollectRequest {
    #[serde(default = "yes")]
    dry_run: bool,
}

fn yes() -> bool {
    true
}

fn read(body: &[u8]) -> serde_json::Result<CollectRequest> {
    // By way of a map: an array is no request, though a list of its fields could be read as one.
    let fields: serde_json::Map<String, serde_json::Value> =
        if body.is_empty() { Default::default() } else { serde_json::from_slice(body)? };
    serde_json::from_value(fields.into())
}

async fn collect(
    axum::extract::State(app): State,
    caller: Caller,
    Ns(namespace): Ns,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<CollectReport>, ApiError> {
    or_drain(authorize(&app, &caller, &namespace, Right::Admin).await, &mut body).await?;
    let body = read_document(&app, &headers, body, "application/json", MAX_BODY).await?.bytes;
    let request = read(&body).map_err(|error| ApiError::bad_request("bad-json", format!("the body is not what it should be: {error}")))?;
    // In a task of its own: if the caller goes away, what was begun is finished.
    let collector = app.collector.clone();
    let work = tokio::spawn(async move { collector.collect(&namespace, request.dry_run).await.map_err(|error| (namespace, error)) });
    match work.await {
        Ok(Ok(report)) => Ok(Json(report)),
        Ok(Err((namespace, error))) => Err(match error {
            CollectError::NoNamespace => ApiError::no_namespace(namespace.as_str()),
            CollectError::Running => ApiError::conflict("collection-running", error.to_string()),
            CollectError::Hindered(why) => ApiError::conflict("collection-postponed", why)
                .hint("a server that ended without signing off, or that does not answer, holds it up until its leases are over"),
            CollectError::Storage(error) => error.into(),
        }),
        Err(_) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "collection-failed", "the collection ended early")),
    }
}
