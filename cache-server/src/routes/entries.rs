//! Entries of preheat namespaces: statements by builders whom the namespace trusts. By key (`/{namespace}/ac/{key}`, which `ac` leads here)
//! and by what they are about (`/v1/namespaces/{namespace}/statements/{subject}`).

use super::NsDigest;
use super::documents::{read_document, tagged_json};
use crate::access::{authorize, layers};
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::records::{entry_key, statements_key};
use crate::routes::cas::created;
use crate::state::{App, State};
use crate::statements::Statements;
use crate::storage::Namespace;
use crate::trust::now;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use http::HeaderMap;
use preheat_image::api::{NamespaceConfig, NamespaceKind, StatementList};
use preheat_image::{Digest, media, statement};
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/namespaces/{namespace}/statements/{digest}", routing::get(about))
}

fn missing() -> ApiError {
    ApiError::not_found("not-found", "there is no such entry")
}

fn statements(app: &App) -> Statements<'_> {
    Statements { meta: app.meta.as_ref(), blobs: app.blobs.as_ref(), leases: app.leases.as_ref() }
}

/// The statements under `key`; the caller may read `namespace`. Also for HEAD, whose body whoever sends it leaves out.
pub(crate) async fn get(
    app: &Arc<App>,
    caller: &Caller,
    namespace: &Namespace,
    config: &Arc<NamespaceConfig>,
    key: &Digest,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    find(app, caller, namespace, config, headers, |layer| entry_key(layer, key)).await
}

async fn find(
    app: &Arc<App>,
    caller: &Caller,
    namespace: &Namespace,
    config: &Arc<NamespaceConfig>,
    headers: &HeaderMap,
    record: impl Fn(&Namespace) -> String,
) -> Result<Response, ApiError> {
    let layers = layers(app, caller, namespace, config).await?;
    let trusted = app.trust.current().await?;
    let found = statements(app).find(&trusted, &layers, record).await?;
    if found.is_empty() {
        app.metrics.entries_looked_up(0, 1);
        return Err(missing());
    }
    app.metrics.entries_looked_up(1, 0);
    tagged_json(headers, &StatementList::new(found))
}

/// Takes a statement; the caller has the right to write keys in `namespace`.
pub(crate) async fn put(
    app: &Arc<App>,
    caller: &Caller,
    namespace: &Namespace,
    config: &Arc<NamespaceConfig>,
    key: &Digest,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let document = read_document(app, headers, body, media::STATEMENT, statement::MAX_SIZE).await?;
    let layers = layers(app, caller, namespace, config).await?;
    let trusted = app.trust.current().await?;
    let new = statements(app).accept(&trusted, &layers, config, key, &document.bytes, now()).await?;
    Ok(created(new).into_response())
}

async fn about(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, subject): NsDigest,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::Read).await?;
    if config.kind != NamespaceKind::Preheat {
        return Err(missing());
    }
    find(&app, &caller, &namespace, &config, &headers, |layer| statements_key(layer, &subject)).await
}
