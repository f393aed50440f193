//! `/v1/root`: the root of the installation, and those before it. It names namespaces and who may do what; whoever has credentials may read it,
//! since nobody can verify anything without it.

use super::Number;
use super::documents::{envelope, known_caller, or_drain, read_document, replaced};
use crate::access::authorize_all;
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::records::{ROOT_KEY, root_key};
use crate::state::{App, State};
use crate::trust::{Held, now};
use axum::body::Body;
use axum::response::Response;
use axum::{Router, routing};
use http::HeaderMap;
use preheat_image::media;
use preheat_image::root::Root;
use preheat_image::signed::Document as _;
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/root", routing::get(get).put(put)).route("/v1/root/{number}", routing::get(get_old))
}

fn missing() -> ApiError {
    ApiError::not_found("no-root", "the service knows no such root")
}

async fn get(axum::extract::State(app): State, caller: Caller, headers: HeaderMap) -> Result<Response, ApiError> {
    known_caller(&app, &caller)?;
    let trusted = app.trust.current().await?;
    Ok(envelope(&headers, trusted.root().ok_or_else(missing)?.bytes.clone()))
}

async fn get_old(
    axum::extract::State(app): State,
    caller: Caller,
    Number(number): Number,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    known_caller(&app, &caller)?;
    if let Some((bytes, _)) = app.meta.get(&root_key(number)).await? {
        return Ok(envelope(&headers, bytes));
    }
    match Held::<Root>::read(app.meta.as_ref(), ROOT_KEY).await? {
        Some(held) if held.signed.unverified().number == number => Ok(envelope(&headers, held.bytes)),
        _ => Err(missing()),
    }
}

async fn put(axum::extract::State(app): State, caller: Caller, headers: HeaderMap, mut body: Body) -> Result<Response, ApiError> {
    or_drain(authorize_all(&caller, Right::Admin), &mut body).await?;
    let document = read_document(&app, &headers, body, media::ENVELOPE, Root::MAX_SIZE).await?;
    Ok(replaced(app.trust.put_root(&document.bytes, now()).await?))
}
