//! The requests, a file for each group; each has a `router`.

mod ac;
mod cas;
mod collect;
mod documents;
mod entries;
mod find_missing;
mod names;
mod namespaces;
mod openapi;
mod pages;
pub(crate) mod profiles;
mod revocations;
mod root;
mod statistics;

use crate::error::ApiError;
use crate::state::App;
use crate::storage::Namespace;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use preheat_image::Digest;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// All of them.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(ac::router())
        .merge(cas::router())
        .merge(collect::router())
        .merge(entries::router())
        .merge(find_missing::router())
        .merge(names::router())
        .merge(namespaces::router())
        .merge(openapi::router())
        .merge(pages::router())
        .merge(profiles::router())
        .merge(revocations::router())
        .merge(root::router())
        .merge(statistics::router())
        .fallback(fallback)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

async fn fallback() -> ApiError {
    ApiError::not_found("no-such-page", "there is no such page here")
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this page does not know that method")
}

/// `/{ns}` of a path. What can't be a namespace is one that is not there.
pub(crate) struct Ns(pub(crate) Namespace);

/// `/{ns}/…/{digest}` of a path.
pub(crate) struct NsDigest(pub(crate) Namespace, pub(crate) Digest);

fn namespace(text: &str) -> Result<Namespace, ApiError> {
    Namespace::new(text).ok_or_else(|| ApiError::no_namespace(&text.chars().take(128).collect::<String>()))
}

/// A digest in a path: 64 lower-case hexadecimal digits.
pub(crate) fn digest(text: &str) -> Result<Digest, ApiError> {
    Digest::from_hex(text).map_err(|_| ApiError::bad_request("bad-digest", "a digest has 64 lower-case hexadecimal digits"))
}

fn bad_path<E>(_: E) -> ApiError {
    ApiError::bad_request("bad-path", "the path is not one of this service")
}

impl<S: Send + Sync> FromRequestParts<S> for Ns {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(namespace(&text)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NsDigest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((ns, text)) = Path::<(String, String)>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(namespace(&ns)?, digest(&text)?))
    }
}

/// `/{ns}/…/{digest}/{digest}` of a path.
pub(crate) struct NsDigests(pub(crate) Namespace, pub(crate) Digest, pub(crate) Digest);

impl<S: Send + Sync> FromRequestParts<S> for NsDigests {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((ns, first, second)) = Path::<(String, String, String)>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(namespace(&ns)?, digest(&first)?, digest(&second)?))
    }
}

/// A number in a path: decimal, from 1 on, without zeros in front, so that one number has one text.
fn number(text: &str) -> Result<u64, ApiError> {
    let good = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = text.parse().ok().filter(|_| good);
    parsed.ok_or_else(|| ApiError::bad_request("bad-number", "documents are numbered from 1 on"))
}

/// `/{number}` of a path.
pub(crate) struct Number(pub(crate) u64);

impl<S: Send + Sync> FromRequestParts<S> for Number {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(number(&text)?))
    }
}

/// `/{ns}/…/{number}` of a path.
pub(crate) struct NsNumber(pub(crate) Namespace, pub(crate) u64);

impl<S: Send + Sync> FromRequestParts<S> for NsNumber {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((ns, text)) = Path::<(String, String)>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(namespace(&ns)?, number(&text)?))
    }
}

/// Most bytes of a question in JSON.
const MAX_JSON: usize = 2 * 1024 * 1024;

/// A body of JSON.
pub(crate) struct ApiJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        if let Some(kind) = request.headers().get(CONTENT_TYPE) {
            let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            if !kind.eq_ignore_ascii_case(b"application/json") {
                return Err(ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "unsupported-media-type",
                    "the body should be application/json",
                ));
            }
        }
        let bytes = read_body(app, request.into_body(), MAX_JSON).await?;
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            // A list of an object's values could be read as the object.
            return Err(ApiError::bad_request("bad-json", "the body should be a JSON object"));
        }
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| ApiError::bad_request("bad-json", format!("the body is not what it should be: {error}")))
    }
}

/// Reads a small body whole.
///
/// # Errors
/// 413 when it has more than `max` bytes, 400 when it breaks off.
pub(crate) async fn read_body(app: &App, body: Body, max: usize) -> Result<Bytes, ApiError> {
    use http_body_util::BodyExt as _;
    match http_body_util::Limited::new(body, max).collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            app.metrics.bytes_received.inc_by(bytes.len() as u64);
            Ok(bytes)
        }
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::too_large(format!("the body may have at most {max} bytes here")))
        }
        Err(_) => Err(ApiError::bad_request("truncated", "the body ended before its end")),
    }
}
