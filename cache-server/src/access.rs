//! Who may do what: one place that every handler asks.

use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::state::App;
use crate::storage::Namespace;
use axum::extract::FromRequestParts;
use http::request::Parts;
use preheat_image::api::{NamespaceConfig, NamespaceKind};
use std::sync::Arc;

/// Most namespaces that lie over each other.
const MAX_OVERLAYS: usize = 4;

/// The caller, as the request's middleware found out: handlers take it as an argument.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Without the middleware there is no caller, and so nobody gets in.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::unauthorized("no credentials"))
    }
}

/// Whether the caller may read a namespace.
pub(crate) fn readable(app: &App, caller: &Caller, namespace: &Namespace, config: &NamespaceConfig) -> bool {
    caller.may(Right::Read, namespace) || (config.anonymous_read && app.config.auth.anonymous)
}

/// Lets the caller do what takes `right` in `namespace`.
///
/// # Errors
/// 404 when the caller may not read it, or it is not there; 401 when no credentials came; 403 when the caller may read, but not this.
pub(crate) async fn authorize(app: &App, caller: &Caller, namespace: &Namespace, right: Right) -> Result<Arc<NamespaceConfig>, ApiError> {
    let config = app.namespaces.get(namespace).await?;
    if let Some(config) = &config
        && (caller.may(right, namespace) || (right == Right::Read && readable(app, caller, namespace, config)))
    {
        return Ok(config.clone());
    }
    if caller.is_anonymous() {
        // The same for namespaces that are there and that are not.
        return Err(ApiError::unauthorized("this needs credentials"));
    }
    match config {
        Some(config) if readable(app, caller, namespace, &config) => {
            Err(ApiError::forbidden(format!("`{}` has no right `{}` in `{namespace}`", caller.name(), right.as_str())))
        }
        _ => Err(ApiError::no_namespace(namespace.as_str())),
    }
}

/// Lets the caller do what takes `right` everywhere.
///
/// # Errors
/// 401 or 403.
pub(crate) fn authorize_all(caller: &Caller, right: Right) -> Result<(), ApiError> {
    match caller.may_all(right) {
        true => Ok(()),
        false if caller.is_anonymous() => Err(ApiError::unauthorized("this needs credentials")),
        false => Err(ApiError::forbidden(format!("`{}` has no right `{}` over all namespaces", caller.name(), right.as_str()))),
    }
}

/// `namespace` and the namespaces below it through which its reads fall: only as far as the caller may read those too. An overlay never opens
/// its base to whoever may read the overlay.
pub(crate) async fn layers(
    app: &App,
    caller: &Caller,
    namespace: &Namespace,
    config: &Arc<NamespaceConfig>,
) -> Result<Vec<Namespace>, ApiError> {
    let mut layers = vec![namespace.clone()];
    let mut config = config.clone();
    while let Some(base) = config.base.as_deref().and_then(Namespace::new) {
        let Some(below) = app.namespaces.get(&base).await? else { break };
        let fits = below.kind == NamespaceKind::Preheat && config.kind == NamespaceKind::Preheat;
        if !fits || !readable(app, caller, &base, &below) || layers.contains(&base) || layers.len() == MAX_OVERLAYS {
            break;
        }
        layers.push(base);
        config = below;
    }
    Ok(layers)
}
