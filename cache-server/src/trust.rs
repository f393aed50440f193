//! Whom the service trusts: its root and what it delegates.

use crate::storage::Meta;
use std::sync::Arc;

/// The root that the service knows.
pub(crate) struct ServerTrust {
    pub(crate) meta: Arc<dyn Meta>,
}
