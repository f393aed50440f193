//! `/{namespace}/ac/{key}`: entries. In a `raw` namespace whatever was put there; in a `preheat` namespace statements, which are for `entries`.
//!
//! A value is kept as a blob of its namespace, and a record says which.

use super::cas::{created, etag, get_blob, head_blob};
use super::{NsDigest, entries};
use crate::access::authorize;
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::records::{RawEntry, entry_key};
use crate::state::{App, State};
use crate::storage::{Expect, Namespace, StorageError};
use crate::upload;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use bytes::Bytes;
use http::header::ETAG;
use http::{HeaderMap, StatusCode};
use preheat_image::Digest;
use preheat_image::api::NamespaceKind;
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/{namespace}/ac/{key}", routing::get(get).head(head).put(put).delete(delete))
}

fn missing() -> ApiError {
    ApiError::not_found("not-found", "there is no such entry")
}

async fn entry(app: &App, namespace: &Namespace, key: &Digest) -> Result<RawEntry, ApiError> {
    let Some((bytes, _)) = app.meta.get(&entry_key(namespace, key)).await? else {
        app.metrics.entries_looked_up(0, 1);
        return Err(missing());
    };
    Ok(serde_json::from_slice(&bytes).map_err(|error| StorageError::Damaged(format!("entry {key}: {error}")))?)
}

/// Counts the lookup of an entry by what became of its value: one whose blob was evicted is a miss.
fn looked_up(app: &App, answer: Result<Response, ApiError>) -> Result<Response, ApiError> {
    match answer {
        Err(error) if error.status == StatusCode::NOT_FOUND => {
            app.metrics.entries_looked_up(0, 1);
            Err(missing())
        }
        Ok(response) => {
            app.metrics.entries_looked_up(1, 0);
            Ok(response)
        }
        Err(error) => Err(error),
    }
}

async fn get(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, key): NsDigest,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::Read).await?;
    if config.kind == NamespaceKind::Preheat {
        return entries::get(&app, &caller, &namespace, &config, &key, &headers).await;
    }
    let entry = entry(&app, &namespace, &key).await?;
    looked_up(&app, get_blob(&app, &caller, &namespace, &config, &entry.digest, &headers).await)
}

async fn head(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, key): NsDigest,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::Read).await?;
    if config.kind == NamespaceKind::Preheat {
        // The answer to GET without its body; whoever sends it leaves that out.
        return entries::get(&app, &caller, &namespace, &config, &key, &headers).await;
    }
    let entry = entry(&app, &namespace, &key).await?;
    looked_up(&app, head_blob(&app, &caller, &namespace, &config, &entry.digest, &headers).await)
}

async fn put(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, key): NsDigest,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    let config = match authorize(&app, &caller, &namespace, Right::WriteKey).await {
        Ok(config) => config,
        Err(error) => {
            upload::drain(&mut body).await;
            return Err(error);
        }
    };
    if config.kind == NamespaceKind::Preheat {
        return entries::put(&app, &caller, &namespace, &config, &key, &headers, body).await;
    }
    let received = upload::receive(&app, &namespace, &headers, body, None).await?;
    let entry = RawEntry { digest: received.digest, size: received.size };
    let value = serde_json::to_vec(&entry).map_err(|error| StorageError::Other(error.to_string()))?;
    let new = app.meta.get(&entry_key(&namespace, &key)).await?.is_none();
    app.meta.put(&entry_key(&namespace, &key), Bytes::from(value), Expect::Any).await?;
    Ok((created(new), [(ETAG, etag(&entry.digest))]).into_response())
}

/// Removes an entry: of a raw namespace for whoever may write there, since they may overwrite it too; else for admins.
async fn delete(axum::extract::State(app): State, caller: Caller, NsDigest(namespace, key): NsDigest) -> Result<StatusCode, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::WriteKey).await?;
    if config.kind == NamespaceKind::Preheat {
        authorize(&app, &caller, &namespace, Right::Admin).await?;
    }
    app.meta.delete(&entry_key(&namespace, &key)).await?;
    Ok(StatusCode::NO_CONTENT)
}
