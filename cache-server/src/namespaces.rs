//! The namespaces and how they are set up.

use crate::storage::{Meta, Namespace, StorageError};
use preheat_image::api::NamespaceConfig;
use std::sync::Arc;

/// Reads namespaces' configurations.
pub(crate) struct Namespaces {
    meta: Arc<dyn Meta>,
}

impl Namespaces {
    pub(crate) fn new(meta: Arc<dyn Meta>) -> Self {
        Self { meta }
    }

    /// The configuration of a namespace, if there is one of that name.
    pub(crate) async fn get(&self, namespace: &Namespace) -> Result<Option<Arc<NamespaceConfig>>, StorageError> {
        let Some((bytes, _)) = self.meta.get(&format!("ns/{namespace}")).await? else { return Ok(None) };
        let config = serde_json::from_slice(&bytes).map_err(|e| StorageError::Damaged(format!("namespace `{namespace}`: {e}")))?;
        Ok(Some(Arc::new(config)))
    }
}
