//! `/v1/revocations`: what is no longer to be loaded.

use super::documents::{envelope, known_caller, or_drain, read_document, replaced};
use crate::access::authorize_all;
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::state::{App, State};
use crate::trust::now;
use axum::body::Body;
use axum::response::Response;
use axum::{Router, routing};
use http::HeaderMap;
use preheat_image::media;
use preheat_image::revocation::RevocationList;
use preheat_image::signed::Document as _;
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/revocations", routing::get(get).put(put))
}

async fn get(axum::extract::State(app): State, caller: Caller, headers: HeaderMap) -> Result<Response, ApiError> {
    known_caller(&app, &caller)?;
    let trusted = app.trust.current().await?;
    let held = trusted.revocations().ok_or_else(|| ApiError::not_found("no-revocations", "there is no revocation list yet"))?;
    Ok(envelope(&headers, held.bytes.clone()))
}

async fn put(axum::extract::State(app): State, caller: Caller, headers: HeaderMap, mut body: Body) -> Result<Response, ApiError> {
    or_drain(authorize_all(&caller, Right::Admin), &mut body).await?;
    let document = read_document(&app, &headers, body, media::ENVELOPE, RevocationList::MAX_SIZE).await?;
    Ok(replaced(app.trust.put_revocations(&document.bytes, now()).await?))
}
