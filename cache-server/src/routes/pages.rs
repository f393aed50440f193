//! `/livez`, `/readyz`, `/metrics`.

use crate::access::authorize_all;
use crate::auth::{Caller, Peer, Right};
use crate::error::ApiError;
use crate::state::{App, State};
use crate::storage::{Blobs, Meta, StorageError};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, routing};
use http::header::CONTENT_TYPE;
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/livez", routing::get(live)).route("/readyz", routing::get(ready)).route("/metrics", routing::get(metrics))
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(axum::extract::State(app): State) -> Result<&'static str, ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::overloaded("the service is stopping"));
    }
    check(&*app.blobs, &*app.meta).await?;
    Ok("ok\n")
}

/// Whether both storages answer. Without records nobody gets in, whatever blobs there are.
async fn check(blobs: &dyn Blobs, meta: &dyn Meta) -> Result<(), StorageError> {
    let records = async { meta.get("readyz").await.map(drop) };
    tokio::try_join!(blobs.ready(), records).map(drop)
}

/// For whoever is on this machine, and for admins.
async fn metrics(axum::extract::State(app): State, peer: Option<Extension<Peer>>, caller: Caller) -> Result<Response, ApiError> {
    if !peer.is_some_and(|peer| peer.addr.ip().is_loopback()) {
        authorize_all(&caller, Right::Admin)?;
    }
    app.metrics.bytes_in_flight.set(app.budget.used());
    app.metrics.lease_age.set(app.leases.age());
    if let Some(free) = app.blobs.free_bytes().await? {
        app.metrics.storage_free.set(free);
    }
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], app.metrics.encode()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::Memory;
    use crate::storage::{Expect, PutError, Version};
    use bytes::Bytes;

    /// Records that can't be read or written.
    struct Broken;

    fn broken() -> StorageError {
        StorageError::Damaged("the records".into())
    }

    #[async_trait::async_trait]
    impl Meta for Broken {
        async fn get(&self, _: &str) -> Result<Option<(Bytes, Version)>, StorageError> {
            Err(broken())
        }

        async fn put(&self, _: &str, _: Bytes, _: Expect) -> Result<Version, PutError> {
            Err(broken().into())
        }

        async fn delete(&self, _: &str) -> Result<bool, StorageError> {
            Err(broken())
        }

        async fn delete_version(&self, _: &str, _: &Version) -> Result<(), PutError> {
            Err(broken().into())
        }

        async fn list(&self, _: &str) -> Result<Vec<String>, StorageError> {
            Err(broken())
        }
    }

    #[tokio::test]
    async fn ready_is_who_can_read_blobs_and_records() {
        let memory = Memory::default();
        check(&memory, &memory).await.unwrap();
        assert!(matches!(check(&memory, &Broken).await, Err(StorageError::Damaged(_))));
    }
}
