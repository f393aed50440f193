//! `/v1/statistics`: what the namespaces hold, as the collection last counted it.

use crate::access::readable;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::records::{Count, count_key};
use crate::state::{App, State};
use crate::storage::StorageError;
use axum::{Json, Router, routing};
use preheat_image::api::{NamespaceStatistics, Statistics};
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/v1/statistics", routing::get(get))
}

async fn get(axum::extract::State(app): State, caller: Caller) -> Result<Json<Statistics>, ApiError> {
    let mut namespaces = Vec::new();
    for (namespace, config) in app.namespaces.all().await? {
        if !readable(&app, &caller, &namespace, &config) {
            continue;
        }
        let record = count_key(&namespace);
        let count: Option<Count> = match app.meta.get(&record).await? {
            Some((bytes, _)) => Some(serde_json::from_slice(&bytes).map_err(|error| StorageError::Damaged(format!("{record}: {error}")))?),
            None => None,
        };
        namespaces.push(NamespaceStatistics {
            name: namespace.to_string(),
            blobs: count.map(|count| count.blobs),
            bytes: count.map(|count| count.bytes),
            counted_at: count.map(|count| count.counted_at),
        });
    }
    if namespaces.is_empty() && caller.is_anonymous() {
        return Err(ApiError::unauthorized("this needs credentials"));
    }
    Ok(Json(Statistics { namespaces }))
}
