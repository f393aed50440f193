//! `/livez`, `/readyz`, `/metrics`.

use crate::access::authorize_all;
use crate::auth::{Caller, Peer, Right};
use crate::error::ApiError;
use crate::state::{App, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, routing};
use http::header::CONTENT_TYPE;
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/livez", routing::get(live)).route("/readyz", routing::get(ready)).route("/metrics", routing::get(metrics))
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(axum::extract::State(app): State) -> Result<&'static str, ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::overloaded("the service is stopping"));
    }
    app.blobs.ready().await?;
    Ok("ok\n")
}

/// For whoever is on this machine, and for admins.
async fn metrics(axum::extract::State(app): State, peer: Option<Extension<Peer>>, caller: Caller) -> Result<Response, ApiError> {
    if !peer.is_some_and(|peer| peer.addr.ip().is_loopback()) {
        authorize_all(&caller, Right::Admin)?;
    }
    app.metrics.bytes_in_flight.set(app.budget.used());
    app.metrics.lease_age.set(app.leases.age());
    if let Some(free) = app.blobs.free_bytes().await? {
        app.metrics.storage_free.set(free);
    }
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], app.metrics.encode()).into_response())
}
