//! Collection: removes what nothing holds while a namespace is over its size.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How blobs are removed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CollectConfig {
    /// How long a lease lasts, in seconds; at least an hour.
    pub lease_seconds: u64,
    /// How long a blob is condemned before it is deleted, in seconds.
    pub wait_seconds: u64,
}

impl Default for CollectConfig {
    fn default() -> Self {
        Self { lease_seconds: 3600, wait_seconds: 60 }
    }
}
