//! Signed documents as requests and answers carry them, and JSON with an entity tag.

use crate::auth::Caller;
use crate::budget::Permit;
use crate::conditions::none_match_fails;
use crate::error::ApiError;
use crate::routes::cas::{created, etag};
use crate::routes::read_body;
use crate::state::App;
use crate::storage::StorageError;
use crate::trust::Replaced;
use crate::upload::drain;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use preheat_image::{Digest, media};
use serde::Serialize;

/// How much memory a document takes while it is read: its envelope, the payload in that, what is read of the payload.
const COPIES: usize = 3;

/// A body that was read whole, and the permit for its memory.
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    _permit: Permit,
}

/// Reads a body of at most `max` bytes. It may come without a type, as `application/json` or as what it is.
///
/// # Errors
/// 415 for another type or an encoding, 413, 400.
pub(crate) async fn read_document(
    app: &App,
    headers: &HeaderMap,
    mut body: Body,
    media_type: &str,
    max: usize,
) -> Result<Document, ApiError> {
    let size = or_drain(declared_size(headers, media_type, max), &mut body).await?;
    let permit = app.budget.acquire(size.saturating_mul(COPIES)).await;
    let permit = or_drain(permit, &mut body).await?;
    Ok(Document { bytes: read_body(app, body, max).await?, _permit: permit })
}

fn declared_size(headers: &HeaderMap, media_type: &str, max: usize) -> Result<usize, ApiError> {
    let unsupported = |what: String| ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", what);
    if let Some(sent) = headers.get(CONTENT_TYPE) {
        let sent = sent.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if ![media_type, "application/json"].iter().any(|known| sent.eq_ignore_ascii_case(known.as_bytes())) {
            return Err(unsupported(format!("the body should be {media_type}")));
        }
    }
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("this takes no encoded body".into()));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match length {
        Some(length) if length > max => Err(ApiError::too_large(format!("the body may have at most {max} bytes here"))),
        length => Ok(length.unwrap_or(max)),
    }
}

/// Passes on what was decided before the body was read; takes what little there is of the body of a request that was refused.
///
/// # Errors
/// Those of `decided`.
pub(crate) async fn or_drain<T>(decided: Result<T, ApiError>, body: &mut Body) -> Result<T, ApiError> {
    if decided.is_err() {
        drain(body).await;
    }
    decided
}

/// Lets anybody through who has credentials; all, where anonymous reading is on.
///
/// # Errors
/// 401.
pub(crate) fn known_caller(app: &App, caller: &Caller) -> Result<(), ApiError> {
    if caller.is_anonymous() && !app.config.auth.anonymous {
        return Err(ApiError::unauthorized("this needs credentials"));
    }
    Ok(())
}

/// An envelope as an answer. Its entity tag is the digest of its bytes.
pub(crate) fn envelope(headers: &HeaderMap, bytes: Bytes) -> Response {
    tagged(headers, media::ENVELOPE, bytes)
}

/// JSON as an answer, with an entity tag.
///
/// # Errors
/// None in practice: the types of the wire can all be written.
pub(crate) fn tagged_json(headers: &HeaderMap, value: &impl Serialize) -> Result<Response, ApiError> {
    let bytes = serde_json::to_vec(value).map_err(|error| StorageError::Other(error.to_string()))?;
    Ok(tagged(headers, "application/json", bytes.into()))
}

fn tagged(headers: &HeaderMap, media_type: &'static str, bytes: Bytes) -> Response {
    let tag = etag(&Digest::of(&bytes));
    if none_match_fails(headers, &[&tag]) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    ([(ETAG, tag.as_str()), (CONTENT_TYPE, media_type), (X_CONTENT_TYPE_OPTIONS, "nosniff")], bytes).into_response()
}

/// The answer to a document that was taken.
pub(crate) fn replaced(replaced: Replaced) -> Response {
    (created(replaced.first), [(ETAG, etag(&replaced.tag))]).into_response()
}
