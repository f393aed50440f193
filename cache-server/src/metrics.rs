//! What is counted, for Prometheus.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The service's metrics. Others add their own in [`Metrics::new`].
pub(crate) struct Metrics {
    registry: Registry,
    /// Chunks or blobs that were not what their digest says.
    pub(crate) verification_failures: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("preheat_cache");
        let verification_failures = Counter::default();
        registry.register("verification_failures", "Chunks that were damaged in storage", verification_failures.clone());
        Self { registry, verification_failures }
    }

    /// The text for Prometheus.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
