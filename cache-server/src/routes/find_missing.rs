//! `POST /v1/namespaces/{namespace}/find-missing`: what a push has to send.

use super::{ApiJson, Ns};
use crate::access::{authorize, layers};
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::state::{App, State};
use crate::storage::Namespace;
use axum::{Json, Router, routing};
use preheat_image::Digest;
use preheat_image::api::{FindMissing, MAX_FIND_MISSING, Missing};
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/namespaces/{namespace}/find-missing", routing::post(find_missing))
}

async fn find_missing(
    axum::extract::State(app): State,
    caller: Caller,
    Ns(namespace): Ns,
    ApiJson(question): ApiJson<FindMissing>,
) -> Result<Json<Missing>, ApiError> {
    let config = authorize(&app, &caller, &namespace, Right::Read).await?;
    if question.digests.len() > MAX_FIND_MISSING {
        return Err(ApiError::too_large(format!("{} digests, at most {MAX_FIND_MISSING} in one question", question.digests.len())));
    }
    let asked = question.digests.len() as u64;
    let mut missing = question.digests;
    for layer in layers(&app, &caller, &namespace, &config).await? {
        if missing.is_empty() {
            break;
        }
        missing = missing_in(&app, &layer, missing).await?;
    }
    app.metrics.blobs_looked_up(asked - missing.len() as u64, missing.len() as u64);
    Ok(Json(Missing { missing }))
}

/// Those of `digests` that are not in `namespace`. Asking renews the leases of the others.
async fn missing_in(app: &App, namespace: &Namespace, digests: Vec<Digest>) -> Result<Vec<Digest>, ApiError> {
    let sizes = app.blobs.sizes(namespace, &digests).await?;
    let there = |index: usize| sizes.get(index).is_some_and(Option::is_some);
    Ok(digests.into_iter().enumerate().filter(|(index, _)| !there(*index)).map(|(_, digest)| digest).collect())
}
