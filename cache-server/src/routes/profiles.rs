//! `/v1/namespaces/{namespace}/profiles/{source}`: what runs of a program taught those who ran it. Opaque here: contributions are kept, listed and
//! given out one by one. Each is a blob of its namespace, so that it counts towards its size and is evicted like others; a contribution whose
//! blob was evicted is gone.

use super::documents::{or_drain, read_document};
use super::{NsDigest, NsDigests, digest};
use crate::access::authorize;
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::records::{ContributionRecord, contribution_key, contributions_prefix};
use crate::routes::cas::{created, get_blob};
use crate::state::{App, State};
use crate::storage::{Expect, Namespace, PutError, StorageError};
use crate::trust::now;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;
use axum::{Json, Router, routing};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use preheat_image::api::{Contribution, ContributionList, MAX_CONTRIBUTION, NamespaceConfig, NamespaceKind};
use preheat_image::{Digest, chunks};
use serde::Deserialize;
use std::sync::Arc;

/// Most contributions to one profile.
const MAX_CONTRIBUTIONS: usize = 10_000;
/// Contributions in one answer.
const PAGE: usize = 1000;
/// Records that are read at once.
const AT_ONCE: usize = 16;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/namespaces/{namespace}/profiles/{source}", routing::get(list).post(append))
        .route("/v1/namespaces/{namespace}/profiles/{source}/{id}", routing::get(get))
}

/// Profiles are of programs that Preheat runs, which raw namespaces know nothing of.
async fn namespace_of_profiles(app: &App, caller: &Caller, namespace: &Namespace, right: Right) -> Result<Arc<NamespaceConfig>, ApiError> {
    let config = authorize(app, caller, namespace, right).await?;
    match config.kind {
        NamespaceKind::Preheat => Ok(config),
        NamespaceKind::Raw => Err(ApiError::not_found("raw-namespace", format!("`{namespace}` is raw: it has no profiles"))),
    }
}

async fn append(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, source): NsDigest,
    headers: HeaderMap,
    mut body: Body,
) -> Result<(StatusCode, Json<Contribution>), ApiError> {
    or_drain(namespace_of_profiles(&app, &caller, &namespace, Right::WriteBlob).await, &mut body).await?;
    let document = read_document(&app, &headers, body, "application/octet-stream", MAX_CONTRIBUTION).await?;
    if document.bytes.is_empty() {
        return Err(ApiError::refused("empty", "a contribution has bytes"));
    }
    let id = Digest::of(&document.bytes);
    let (contribution, new) = add(&app, &namespace, &source, id, document.bytes.clone(), caller.name(), now()).await?;
    Ok((created(new), Json(contribution)))
}

/// Keeps a contribution; one that is there already stays as it is.
async fn add(
    app: &App,
    namespace: &Namespace,
    source: &Digest,
    id: Digest,
    bytes: Bytes,
    by: &str,
    at: u64,
) -> Result<(Contribution, bool), ApiError> {
    let record = contribution_key(namespace, source, &id);
    let known = app.meta.get(&record).await?;
    if known.is_none() && app.meta.list(&contributions_prefix(namespace, source)).await?.len() >= MAX_CONTRIBUTIONS {
        make_room(app, namespace, source).await?;
    }
    let size = bytes.len() as u64;
    // The blob before its record, and a lease before and after the blob, as for any upload.
    app.leases.touch(namespace, &[id]);
    let list = (bytes.len() > chunks::CHUNK_SIZE).then(|| Bytes::from(chunks::encode(&bytes)));
    let mut upload = app.blobs.begin(namespace).await?;
    upload.write(bytes).await?;
    upload.commit(&id, list).await?;
    app.leases.touch(namespace, &[id]);
    let new = ContributionRecord { size, at, by: by.to_owned() };
    let value = serde_json::to_vec(&new).map_err(|error| StorageError::Other(error.to_string()))?;
    match app.meta.put(&record, Bytes::from(value), Expect::Absent).await {
        Ok(_) => Ok((contribution(id, new), true)),
        Err(PutError::Conflict) => Ok((read(app, &record, id).await?.unwrap_or_else(|| contribution(id, new)), false)),
        Err(PutError::Storage(error)) => Err(error.into()),
    }
}

fn contribution(digest: Digest, record: ContributionRecord) -> Contribution {
    Contribution { digest, size: record.size, at: record.at, by: record.by }
}

async fn read(app: &App, record: &str, id: Digest) -> Result<Option<Contribution>, StorageError> {
    let Some((bytes, _)) = app.meta.get(record).await? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes).map_err(|error| StorageError::Damaged(format!("{record}: {error}")))?;
    Ok(Some(contribution(id, parsed)))
}

/// Ids of contributions, in their order, after `after`.
async fn ids(app: &App, namespace: &Namespace, source: &Digest, after: Option<Digest>) -> Result<Vec<Digest>, StorageError> {
    let prefix = contributions_prefix(namespace, source);
    let records = app.meta.list(&prefix).await?;
    let ids = records.iter().filter_map(|record| Digest::from_hex(record.strip_prefix(&prefix)?).ok());
    Ok(ids.filter(|id| after.is_none_or(|after| *id > after)).collect())
}

/// Forgets contributions whose blobs were evicted.
async fn make_room(app: &App, namespace: &Namespace, source: &Digest) -> Result<(), ApiError> {
    let ids = ids(app, namespace, source, None).await?;
    let mut left = ids.len();
    for ids in ids.chunks(PAGE) {
        let sizes = app.blobs.sizes(namespace, ids).await?;
        for (id, _) in ids.iter().zip(sizes).filter(|(_, size)| size.is_none()) {
            app.meta.delete(&contribution_key(namespace, source, id)).await?;
            left -= 1;
        }
    }
    if left >= MAX_CONTRIBUTIONS {
        return Err(ApiError::conflict("profile-full", format!("a profile has at most {MAX_CONTRIBUTIONS} contributions")));
    }
    Ok(())
}

/// Which part of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    /// Those after this one: 64 hexadecimal digits.
    after: Option<String>,
}

async fn list(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, source): NsDigest,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<ContributionList>, ApiError> {
    namespace_of_profiles(&app, &caller, &namespace, Right::Read).await?;
    let Query(page) = page.map_err(|_| ApiError::bad_request("bad-query", "the query is `after` and an id, or nothing"))?;
    let after = page.after.as_deref().map(digest).transpose()?;
    let ids = ids(&app, &namespace, &source, after).await?;
    let more = ids.len() > PAGE;
    let ids: Vec<Digest> = ids.into_iter().take(PAGE).collect();
    let sizes = app.blobs.sizes(&namespace, &ids).await?;
    let next = ids.last().filter(|_| more).copied();
    let there = ids.into_iter().zip(sizes).filter(|(_, size)| size.is_some()).map(|(id, _)| id);
    let records = there.map(|id| {
        let (app, record) = (app.clone(), contribution_key(&namespace, &source, &id));
        async move { read(&app, &record, id).await }
    });
    let read: Vec<_> = stream::iter(records).buffered(AT_ONCE).collect().await;
    let contributions = read.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
    Ok(Json(ContributionList { contributions, next }))
}

async fn get(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigests(namespace, source, id): NsDigests,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    namespace_of_profiles(&app, &caller, &namespace, Right::Read).await?;
    if app.meta.get(&contribution_key(&namespace, &source, &id)).await?.is_none() {
        return Err(ApiError::not_found("not-found", "there is no such contribution"));
    }
    // Not from a namespace below: profiles stay where they were brought to.
    let alone = Arc::new(NamespaceConfig::new(NamespaceKind::Preheat));
    get_blob(&app, &caller, &namespace, &alone, &id, &headers).await
}
