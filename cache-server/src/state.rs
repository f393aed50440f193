//! What all requests share.

use crate::auth::Auth;
use crate::budget::Budget;
use crate::collect::Collector;
use crate::config::Config;
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::storage::{Blobs, Meta};
use crate::trust::ServerTrust;
use crate::verified::Verified;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The service.
pub(crate) struct App {
    pub(crate) config: Arc<Config>,
    /// With leases over them: asking for a blob renews its lease, and what is about to be removed is not there.
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) meta: Arc<dyn Meta>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) trust: Arc<ServerTrust>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) verified: Arc<Verified>,
    /// Whoever adds up a profile holds the one permit.
    pub(crate) merging: Semaphore,
    /// Done when the service is to end: background tasks stop, `/readyz` says no.
    pub(crate) stopping: CancellationToken,
}

/// The state as handlers take it.
pub(crate) type State = axum::extract::State<Arc<App>>;
