//! What is counted, for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// A request, as it is counted. Routes are templates and namespaces are left out, so that no caller can make series without end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RouteLabels {
    route: String,
}

/// What was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LookupLabels {
    /// `blob`, `entry` or `profile`.
    kind: &'static str,
}

/// A gauge of something that is not negative.
pub(crate) type Level = Gauge<u64, AtomicU64>;

/// The service's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    hits: Family<LookupLabels, Counter>,
    misses: Family<LookupLabels, Counter>,
    /// Requests that failed for a reason of the service's own: never counted as misses.
    pub(crate) errors: Counter,
    /// Bytes of uploads, as they came.
    pub(crate) bytes_received: Counter,
    /// Bytes of answers.
    pub(crate) bytes_sent: Counter,
    /// Blobs found damaged.
    pub(crate) verification_failures: Counter,
    /// Blobs removed for space.
    pub(crate) evictions: Counter,
    /// Bytes of those.
    pub(crate) evicted_bytes: Counter,
    /// When the oldest blob was written, in seconds before now, as it was last counted.
    pub(crate) oldest_entry_age: Level,
    /// Since leases were last written, in seconds.
    pub(crate) lease_age: Level,
    /// Requests under way.
    pub(crate) requests_running: Level,
    /// Bytes of blobs in memory.
    pub(crate) bytes_in_flight: Level,
    /// Bytes that are free for blobs.
    pub(crate) storage_free: Level,
    /// Time to add up a profile.
    pub(crate) profile_merge_seconds: Histogram,
}

fn latency() -> Histogram {
    // From a quarter of a millisecond to about two minutes.
    Histogram::new(exponential_buckets(0.000_25, 2.5, 15))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("preheat_cache"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(latency),
            hits: Family::default(),
            misses: Family::default(),
            errors: Counter::default(),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            verification_failures: Counter::default(),
            evictions: Counter::default(),
            evicted_bytes: Counter::default(),
            oldest_entry_age: Level::default(),
            lease_age: Level::default(),
            requests_running: Level::default(),
            bytes_in_flight: Level::default(),
            storage_free: Level::default(),
            profile_merge_seconds: latency(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("requests", "Requests by method, route and status", self.requests.clone());
        registry.register_with_unit("request", "Time to the last byte of the answer", Unit::Seconds, self.seconds.clone());
        registry.register("hits", "Blobs, entries and summaries of profiles that were asked for and there", self.hits.clone());
        registry.register(
            "misses",
            "Blobs and entries that were asked for and not there, summaries that had to be made",
            self.misses.clone(),
        );
        registry.register("errors", "Requests that failed for a reason of the service's own", self.errors.clone());
        registry.register_with_unit("received", "Bytes of uploads, as they came", Unit::Bytes, self.bytes_received.clone());
        registry.register_with_unit("sent", "Bytes of answers", Unit::Bytes, self.bytes_sent.clone());
        registry.register("verification_failures", "Blobs that were found damaged", self.verification_failures.clone());
        registry.register("evictions", "Blobs removed for space", self.evictions.clone());
        registry.register_with_unit("evicted", "Bytes of blobs removed for space", Unit::Bytes, self.evicted_bytes.clone());
        registry.register_with_unit("oldest_entry_age", "Since the oldest blob was written", Unit::Seconds, self.oldest_entry_age.clone());
        registry.register_with_unit("lease_age", "Since leases were last written", Unit::Seconds, self.lease_age.clone());
        registry.register("requests_running", "Requests under way", self.requests_running.clone());
        registry.register_with_unit("in_flight", "Bytes of blobs in memory", Unit::Bytes, self.bytes_in_flight.clone());
        registry.register_with_unit("storage_free", "Bytes that are free for blobs", Unit::Bytes, self.storage_free.clone());
        registry.register_with_unit("profile_merge", "Time to add up a profile", Unit::Seconds, self.profile_merge_seconds.clone());
        self
    }

    /// Counts a request that is over. `route` is a template.
    pub(crate) fn request(&self, method: &'static str, route: &str, status: u16, seconds: f64) {
        self.requests.get_or_create(&RequestLabels { method, route: route.to_owned(), status }).inc();
        self.seconds.get_or_create(&RouteLabels { route: route.to_owned() }).observe(seconds);
        if status >= 500 {
            self.errors.inc();
        }
    }

    /// Counts lookups of blobs.
    pub(crate) fn blobs_looked_up(&self, hits: u64, misses: u64) {
        self.looked_up("blob", hits, misses);
    }

    /// Counts lookups of entries.
    pub(crate) fn entries_looked_up(&self, hits: u64, misses: u64) {
        self.looked_up("entry", hits, misses);
    }

    /// Counts lookups of profiles' summaries: a miss is one that had to be made.
    pub(crate) fn profiles_looked_up(&self, hits: u64, misses: u64) {
        self.looked_up("profile", hits, misses);
    }

    fn looked_up(&self, kind: &'static str, hits: u64, misses: u64) {
        self.hits.get_or_create(&LookupLabels { kind }).inc_by(hits);
        self.misses.get_or_create(&LookupLabels { kind }).inc_by(misses);
    }

    /// The text for Prometheus.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
