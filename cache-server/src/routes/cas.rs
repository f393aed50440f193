//! `/{namespace}/cas/{digest}`: blobs.

use super::NsDigest;
use crate::access::{authorize, layers};
use crate::auth::{Caller, Right};
use crate::body::{ReadError, Reader};
use crate::budget::SMALL_PIECE;
use crate::conditions::{self, Part};
use crate::error::ApiError;
use crate::state::{App, State};
use crate::storage::{Namespace, StorageError};
use crate::{compress, upload};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LOCATION, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use preheat_image::Digest;
use preheat_image::api::NamespaceConfig;
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/{namespace}/cas/{digest}", routing::get(get).head(head).put(put).delete(delete))
}

fn missing() -> ApiError {
    ApiError::not_found("not-found", "there is no such blob")
}

async fn get(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, digest): NsDigest,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::Read).await?;
    get_blob(&app, &caller, &namespace, &config, &digest, &headers).await
}

/// Answers with a blob of `namespace`, or of those below it.
pub(crate) async fn get_blob(
    app: &Arc<App>,
    caller: &Caller,
    namespace: &Namespace,
    config: &Arc<NamespaceConfig>,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    for layer in layers(app, caller, namespace, config).await? {
        if let Some(response) = from_layer(app, &layer, digest, headers).await? {
            app.metrics.blobs_looked_up(1, 0);
            return Ok(response);
        }
    }
    app.metrics.blobs_looked_up(0, 1);
    Err(missing())
}

async fn from_layer(app: &Arc<App>, namespace: &Namespace, digest: &Digest, headers: &HeaderMap) -> Result<Option<Response>, ApiError> {
    match redirect(app, namespace, digest).await? {
        Some(redirect) => Ok(Some(redirect)),
        None => from_here(app, namespace, digest, headers).await,
    }
}

/// Answers with a blob of `namespace`, without sending the client elsewhere; None if it is not there.
pub(crate) async fn from_here(
    app: &Arc<App>,
    namespace: &Namespace,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    let etag = etag(digest);
    let compressed_etag = format!("\"{digest}+zstd\"");
    let Some(blob) = app.blobs.open(namespace, digest).await? else { return Ok(None) };
    if conditions::none_match_fails(headers, &[&etag, &compressed_etag]) {
        return Ok(Some((StatusCode::NOT_MODIFIED, [(ETAG, header(&etag)?)]).into_response()));
    }
    let size = blob.size;
    let (status, range) = match conditions::part(headers, size, &etag) {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Bytes(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Unsatisfiable => {
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad-range", format!("the blob has {size} bytes"));
            let mut response = error.into_response();
            response.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{size}"))?);
            return Ok(Some(response));
        }
    };
    let reader = Reader::new(app, namespace, digest, blob);
    let end = reader.piece_end(range.start).min(range.end);
    // The first piece before the answer begins: damage in it is a miss like any other.
    let first = match reader.read(range.start..end).await {
        Ok(first) => first,
        Err(ReadError::Failed(error)) => return Err(error),
        Err(ReadError::Damaged(why)) => {
            reader.quarantine(&why).await;
            return Ok(None);
        }
    };
    let length = range.end - range.start;
    let whole = status == StatusCode::OK;
    if whole
        && size > SMALL_PIECE as u64
        && conditions::accepts_zstd(headers)
        && let Some(encoder) = compress::Encoder::begin(app, &first)
    {
        let mut response = Response::new(Body::from_stream(compress::stream(encoder, reader.stream(first, range))));
        let headers = response.headers_mut();
        blob_headers(headers, &compressed_etag)?;
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        return Ok(Some(response));
    }
    let content_range = (!whole).then(|| format!("bytes {}-{}/{size}", range.start, range.end - 1));
    let body = if end == range.end { Body::from(first) } else { Body::from_stream(reader.stream(first, range)) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    blob_headers(headers, &etag)?;
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(content_range) = content_range {
        headers.insert(CONTENT_RANGE, header(&content_range)?);
    }
    if size > SMALL_PIECE as u64 {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    Ok(Some(response))
}

/// Sends the client to the bucket itself, where that is set up and the blob is worth it. What comes from there nobody verified here: that is
/// for the client, which knows the digest.
async fn redirect(app: &App, namespace: &Namespace, digest: &Digest) -> Result<Option<Response>, ApiError> {
    if !app.config.bucket.as_ref().is_some_and(|bucket| bucket.redirect) {
        return Ok(None);
    }
    let Some(size) = app.blobs.size(namespace, digest).await? else { return Ok(None) };
    let Some(direct) = app.blobs.direct_url(namespace, digest, size).await else { return Ok(None) };
    // The address is a secret while it is good: no cache may keep it.
    let headers = [(LOCATION, header(&direct.url)?), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok(Some((StatusCode::TEMPORARY_REDIRECT, headers).into_response()))
}

/// The strong entity tag of a blob as it is.
pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn header(text: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(text).map_err(|error| StorageError::Other(error.to_string()).into())
}

fn blob_headers(headers: &mut HeaderMap, etag: &str) -> Result<(), ApiError> {
    headers.insert(ETAG, header(etag)?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // What is in a blob is for whoever put it there to say, not for a browser to guess.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(())
}

async fn head(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, digest): NsDigest,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::Read).await?;
    head_blob(&app, &caller, &namespace, &config, &digest, &headers).await
}

/// Says whether there is a blob in `namespace` or in those below it.
pub(crate) async fn head_blob(
    app: &Arc<App>,
    caller: &Caller,
    namespace: &Namespace,
    config: &Arc<NamespaceConfig>,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    for layer in layers(app, caller, namespace, config).await? {
        let Some(size) = app.blobs.size(&layer, digest).await? else { continue };
        app.metrics.blobs_looked_up(1, 0);
        let etag = etag(digest);
        if conditions::none_match_fails(headers, &[&etag]) {
            return Ok((StatusCode::NOT_MODIFIED, [(ETAG, header(&etag)?)]).into_response());
        }
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        blob_headers(headers, &etag)?;
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        return Ok(response);
    }
    app.metrics.blobs_looked_up(0, 1);
    Err(missing())
}

async fn put(
    axum::extract::State(app): State,
    caller: Caller,
    NsDigest(namespace, digest): NsDigest,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    if let Err(error) = authorize(&app, &caller, &namespace, Right::WriteBlob).await {
        upload::drain(&mut body).await;
        return Err(error);
    }
    let received = upload::receive(&app, &namespace, &headers, body, Some(digest)).await?;
    Ok((created(received.created), [(ETAG, header(&etag(&digest))?)]).into_response())
}

/// 201 for what is new, else 200.
pub(crate) fn created(created: bool) -> StatusCode {
    if created { StatusCode::CREATED } else { StatusCode::OK }
}

async fn delete(axum::extract::State(app): State, caller: Caller, NsDigest(namespace, digest): NsDigest) -> Result<StatusCode, ApiError> {
    authorize(&app, &caller, &namespace, Right::Admin).await?;
    app.blobs.delete(&namespace, &digest).await?;
    Ok(StatusCode::NO_CONTENT)
}
