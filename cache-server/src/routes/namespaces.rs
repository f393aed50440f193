//! `/v1/namespaces`: which there are, how they are set up.

use super::Ns;
use super::documents::{or_drain, read_document};
use crate::access::{authorize, authorize_all, readable};
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::records::names_key;
use crate::routes::cas::created;
use crate::state::{App, State};
use crate::trust::Held;
use axum::body::Body;
use axum::{Json, Router, routing};
use http::{HeaderMap, StatusCode};
use preheat_image::api::{NamespaceConfig, NamespaceList, NamespaceRow};
use preheat_image::names::Names;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Most bytes of a namespace's settings.
const MAX_CONFIG: usize = 256 * 1024;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/namespaces", routing::get(list)).route("/v1/namespaces/{namespace}", routing::get(get).put(put).delete(delete))
}

/// Those that the caller may read.
async fn list(axum::extract::State(app): State, caller: Caller) -> Result<Json<NamespaceList>, ApiError> {
    let all = app.namespaces.all().await?;
    let readable = all.into_iter().filter(|(namespace, config)| readable(&app, &caller, namespace, config));
    let namespaces: Vec<_> =
        readable.map(|(namespace, config)| NamespaceRow { name: namespace.to_string(), config: config.as_ref().clone() }).collect();
    if namespaces.is_empty() && caller.is_anonymous() {
        return Err(ApiError::unauthorized("this needs credentials"));
    }
    Ok(Json(NamespaceList { namespaces }))
}

async fn get(axum::extract::State(app): State, caller: Caller, Ns(namespace): Ns) -> Result<Json<NamespaceRow>, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::Read).await?;
    Ok(Json(NamespaceRow { name: namespace.to_string(), config: config.as_ref().clone() }))
}

async fn put(
    axum::extract::State(app): State,
    caller: Caller,
    Ns(namespace): Ns,
    headers: HeaderMap,
    mut body: Body,
) -> Result<(StatusCode, Json<NamespaceRow>), ApiError> {
    or_drain(authorize_all(&caller, Right::Admin), &mut body).await?;
    let document = read_document(&app, &headers, body, "application/json", MAX_CONFIG).await?;
    let config =
        parse(&document.bytes).map_err(|error| ApiError::bad_request("bad-json", format!("the body is not what it should be: {error}")))?;
    let new = app.namespaces.put(app.blobs.as_ref(), &namespace, &config).await?;
    Ok((created(new), Json(NamespaceRow { name: namespace.to_string(), config })))
}

/// Reads settings. A list of an object's values is no object here, though serde would take it for one.
fn parse(bytes: &[u8]) -> serde_json::Result<NamespaceConfig> {
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(bytes)?;
    for holders in ["builders", "namers"].iter().filter_map(|field| fields.get(*field)) {
        Vec::<serde_json::Map<String, Value>>::deserialize(holders)?;
    }
    serde_json::from_slice(bytes)
}

/// Removes a namespace to which no name leads any more, with all that is in it.
async fn delete(axum::extract::State(app): State, caller: Caller, Ns(namespace): Ns) -> Result<StatusCode, ApiError> {
    authorize_all(&caller, Right::Admin)?;
    if let Some(held) = Held::<Names>::read(app.meta.as_ref(), &names_key(&namespace)).await?
        && !held.signed.unverified().names.is_empty()
    {
        return Err(ApiError::conflict("names-live", format!("`{namespace}` has names")).hint("remove its names first: `preheat tag --rm`"));
    }
    // To its end, also when the client goes away.
    let removal = tokio::spawn(async move { app.namespaces.remove(app.blobs.as_ref(), &namespace).await });
    match removal.await {
        Ok(removed) => removed.map(|()| StatusCode::NO_CONTENT),
        Err(_) => Err(ApiError::overloaded("the removal did not end; ask once more")),
    }
}
