//! `/v1/namespaces/{namespace}/profiles/{source}`: what runs of a program taught those who ran it. Contributions are kept, listed and given out one by
//! one, and added up to a summary. Each is a blob of its namespace, so that it counts towards its size and is evicted like others; a contribution
//! whose blob was evicted is gone. So is a summary, until somebody asks for it again.

use super::documents::{or_drain, read_document, tagged_json};
use super::{NsDigest, NsDigests, digest};
use crate::access::authorize;
use crate::auth::{Caller, Right};
use crate::budget::LARGE_PIECE;
use crate::error::ApiError;
use crate::merge::{self, Weighing, check};
use crate::records::{ContributionRecord, contribution_key, contributions_prefix};
use crate::routes::cas::{created, from_here, get_blob};
use crate::state::{App, State};
use crate::storage::{Committed, Expect, Namespace, PutError, StorageError};
use crate::trust::now;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;
use axum::{Json, Router, routing};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use preheat_image::api::{Contribution, ContributionList, MAX_CONTRIBUTION, NamespaceConfig, NamespaceKind, ProfileReport};
use preheat_image::{Digest, chunks, media};
use serde::Deserialize;
use std::sync::Arc;

/// Most contributions to one profile.
const MAX_CONTRIBUTIONS: usize = 10_000;
/// The header with the generation of a summary.
const GENERATION: HeaderName = HeaderName::from_static("preheat-generation");
/// Contributions in one answer.
const PAGE: usize = 1000;
/// Records that are read at once.
const AT_ONCE: usize = 16;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/namespaces/{namespace}/profiles/{source}", routing::get(list).post(append))
        .route("/v1/namespaces/{namespace}/profiles/{source}/summary", routing::get(summary))
        .route("/v1/namespaces/{namespace}/profiles/{source}/summary.json", routing::get(report))
        .route("/v1/namespaces/{namespace}/profiles/{source}/{id}", routing::get(get).delete(delete))
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
    let says_profile = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == media::PROFILE);
    let kind = if says_profile { media::PROFILE } else { "application/octet-stream" };
    let document = read_document(&app, &headers, body, kind, MAX_CONTRIBUTION).await?;
    if document.bytes.is_empty() {
        return Err(ApiError::refused("empty", "a contribution has bytes"));
    }
    let bytes = document.bytes.clone();
    let checked = tokio::task::spawn_blocking(move || check(&bytes, &source).map(|calls| (calls, Digest::of(&bytes)))).await;
    let (calls, id) = checked.map_err(|_| StorageError::Other("a task ended early".into()))??;
    let record = ContributionRecord { size: document.bytes.len() as u64, at: now(), by: caller.name().to_owned(), calls: Some(calls) };
    let (contribution, new) = add(&app, &namespace, &source, id, document.bytes.clone(), record).await?;
    Ok((created(new), Json(contribution)))
}

/// Keeps a contribution; one that is there already stays as it is.
async fn add(
    app: &App,
    namespace: &Namespace,
    source: &Digest,
    id: Digest,
    bytes: Bytes,
    new: ContributionRecord,
) -> Result<(Contribution, bool), ApiError> {
    let record = contribution_key(namespace, source, &id);
    let known = app.meta.get(&record).await?.is_some();
    if !known && app.meta.list(&contributions_prefix(namespace, source)).await?.len() >= MAX_CONTRIBUTIONS {
        make_room(app, namespace, source).await?;
    }
    // The blob before its record.
    let committed = keep_blob(app, namespace, id, bytes).await?;
    if known && committed.created {
        // It was evicted, and sums were made without it.
        merge::forget(app, namespace, source).await?;
    }
    let value = serde_json::to_vec(&new).map_err(|error| StorageError::Other(error.to_string()))?;
    match app.meta.put(&record, Bytes::from(value), Expect::Absent).await {
        Ok(_) => Ok((contribution(id, new), true)),
        Err(PutError::Conflict) => Ok((read(app, &record, id).await?.unwrap_or_else(|| contribution(id, new)), false)),
        Err(PutError::Storage(error)) => Err(error.into()),
    }
}

/// Keeps bytes whose digest is `id`, with a lease before and after, as for any upload.
pub(crate) async fn keep_blob(app: &App, namespace: &Namespace, id: Digest, bytes: Bytes) -> Result<Committed, StorageError> {
    app.leases.touch(namespace, &[id]);
    let list = (bytes.len() > chunks::CHUNK_SIZE).then(|| Bytes::from(chunks::encode(&bytes)));
    let mut upload = app.blobs.begin(namespace).await?;
    for at in (0..bytes.len()).step_by(LARGE_PIECE) {
        upload.write(bytes.slice(at..bytes.len().min(at + LARGE_PIECE))).await?;
    }
    let committed = upload.commit(&id, list).await?;
    app.leases.touch(namespace, &[id]);
    Ok(committed)
}

fn contribution(digest: Digest, record: ContributionRecord) -> Contribution {
    Contribution { digest, size: record.size, at: record.at, by: record.by }
}

/// The record of a contribution, if there is one.
pub(crate) async fn read_record(app: &App, record: &str) -> Result<Option<ContributionRecord>, StorageError> {
    let Some((bytes, _)) = app.meta.get(record).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| StorageError::Damaged(format!("{record}: {error}")))
}

async fn read(app: &App, record: &str, id: Digest) -> Result<Option<Contribution>, StorageError> {
    Ok(read_record(app, record).await?.map(|parsed| contribution(id, parsed)))
}

/// Ids of contributions, in their order, after `after`.
pub(crate) async fn ids(app: &App, namespace: &Namespace, source: &Digest, after: Option<Digest>) -> Result<Vec<Digest>, StorageError> {
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
    // What comes back may be somebody else's.
    merge::forget(app, namespace, source).await?;
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

/// Removes a contribution, so that it counts no more. One that is not there is removed already.
async fn delete(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigests(namespace, source, id): NsDigests,
) -> Result<StatusCode, ApiError> {
    namespace_of_profiles(&app, &caller, &namespace, Right::Admin).await?;
    if app.meta.delete(&contribution_key(&namespace, &source, &id)).await? {
        app.blobs.delete(&namespace, &id).await?;
    }
    merge::forget(&app, &namespace, &source).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The sum of the contributions, by the rules of the query.
async fn summed(
    app: &App,
    caller: &Caller,
    namespace: &Namespace,
    source: &Digest,
    rules: Result<Query<Weighing>, QueryRejection>,
) -> Result<ProfileReport, ApiError> {
    namespace_of_profiles(app, caller, namespace, Right::Read).await?;
    let wrong =
        |_| ApiError::bad_request("bad-query", "the query is `half-life` in seconds and `cap` in requests, or one of them, or nothing");
    let Query(weighing) = rules.map_err(wrong)?;
    merge::summary(app, namespace, source, weighing.check()?).await
}

async fn summary(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, source): NsDigest,
    rules: Result<Query<Weighing>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let report = summed(&app, &caller, &namespace, &source, rules).await?;
    // Never by an address of the bucket: whoever builds asks with a small request.
    let Some(mut response) = from_here(&app, &namespace, &report.digest, &headers).await? else {
        return Err(ApiError::overloaded("the summary was found damaged: it will be made anew"));
    };
    let headers = response.headers_mut();
    if headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media::PROFILE_SUMMARY));
    }
    headers.insert(GENERATION, HeaderValue::from(report.generation));
    Ok(response)
}

async fn report(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, source): NsDigest,
    rules: Result<Query<Weighing>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    tagged_json(&headers, &summed(&app, &caller, &namespace, &source, rules).await?)
}
