//! Entries of preheat namespaces: statements by builders whom the namespace trusts.

use crate::auth::Caller;
use crate::error::ApiError;
use crate::state::App;
use crate::storage::Namespace;
use axum::body::Body;
use axum::response::Response;
use http::HeaderMap;
use preheat_image::Digest;
use preheat_image::api::NamespaceConfig;
use std::sync::Arc;

/// The statements under `key`; the caller may read `namespace`. Also for HEAD, whose body whoever sends it leaves out.
pub(crate) async fn get(
    _app: &Arc<App>,
    _caller: &Caller,
    _namespace: &Namespace,
    _config: &Arc<NamespaceConfig>,
    _key: &Digest,
    _headers: &HeaderMap,
) -> Result<Response, ApiError> {
    Err(ApiError::not_found("not-found", "there is no such entry"))
}

/// Takes a statement; the caller has the right to write keys in `namespace`.
pub(crate) async fn put(
    _app: &Arc<App>,
    _caller: &Caller,
    _namespace: &Namespace,
    _config: &Arc<NamespaceConfig>,
    _key: &Digest,
    _headers: &HeaderMap,
    _body: Body,
) -> Result<Response, ApiError> {
    Err(ApiError::refused("statement-refused", "this server takes no statements"))
}
