//! The requests, a file for each group; each has a `router`.

mod pages;

use crate::error::ApiError;
use crate::state::App;
use crate::storage::Namespace;
use axum::Router;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use preheat_image::Digest;
use std::sync::Arc;

/// All of them.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new().merge(pages::router()).fallback(fallback).with_state(app)
}

async fn fallback() -> ApiError {
    ApiError::not_found("no-such-page", "there is no such page here")
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
