//! Collection: removes what nothing holds, while a namespace, or all together, are larger than they should be.
//!
//! Mark (what is neither named nor leased, longest unused first), publish what is condemned, wait until all servers act on that, look at names
//! and leases once more, remove. See [`crate::leases`] for why nothing falls between the second look and the removal. Records that lead to a
//! blob go before it. Everything can be done twice; two servers may collect at once, and take turns only to save work.

mod mark;
mod remove;
#[cfg(test)]
mod tests;

use crate::clock::{Clock, seconds};
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::records::{Count, count_key};
use crate::storage::{Blobs, Expect, Meta, Namespace, PutError, StorageError, Version};
use crate::usage;
use futures_util::TryStreamExt as _;
use mark::{Marked, Namespaces, Sources, mark};
use preheat_image::Digest;
use preheat_image::api::CollectReport;
use remove::{Chosen, Removed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often limits are looked at.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a collection may take before another server may begin one, in seconds; renewed while it goes on.
const LOCK: u64 = 900;
/// Longest time between two counts of a namespace.
const LONGEST_COUNT: Duration = Duration::from_secs(3600);

/// When and how blobs are removed. Blobs that a live name or a lease leads to never are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CollectConfig {
    /// How long what was read or asked for stays, in seconds; at least an hour.
    pub lease_seconds: u64,
    /// How long a collection waits at most until all servers act on what it condemned, in seconds. With one server that is at once.
    pub wait_seconds: u64,
    /// Size limit in bytes over the blobs of all namespaces; none by default. A namespace has its own, `maxBytes`.
    pub max_bytes: Option<u64>,
    /// When fewer bytes than this are free on the disk, blobs are removed until there are. No uploads are refused for it.
    pub soft_free_bytes: u64,
}

impl Default for CollectConfig {
    fn default() -> Self {
        Self { lease_seconds: 3600, wait_seconds: 60, max_bytes: None, soft_free_bytes: 2 << 30 }
    }
}

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// There is no such namespace.
    #[error("there is no such namespace")]
    NoNamespace,
    /// Another collection goes on.
    #[error("another collection is under way")]
    Running,
    /// Somebody was promised something that is not known to be over.
    #[error("{0}")]
    Hindered(String),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Collects.
pub(crate) struct Collector {
    /// Without leases over it: looking at a blob here renews none.
    blobs: Arc<dyn Blobs>,
    meta: Arc<dyn Meta>,
    leases: Arc<Leases>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    config: CollectConfig,
    /// Done when the service ends: then nothing is begun any more.
    stopping: CancellationToken,
    /// Between two looks at whether all servers act on a list.
    pause: Duration,
    /// When to count a namespace again.
    due: Mutex<HashMap<Namespace, Instant>>,
}

/// Who collects.
#[derive(Debug, Serialize, Deserialize)]
struct Lock {
    expires: u64,
}

/// The lock while it is held.
struct Held {
    version: Version,
}

impl Collector {
    pub(crate) fn new(
        blobs: Arc<dyn Blobs>,
        meta: Arc<dyn Meta>,
        leases: Arc<Leases>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        config: CollectConfig,
        stopping: CancellationToken,
    ) -> Self {
        Self { blobs, meta, leases, clock, metrics, config, stopping, pause: Duration::from_secs(1), due: Mutex::default() }
    }

    /// Removes everything in a namespace that nothing holds, whatever its size; only looks if `dry_run`.
    ///
    /// # Errors
    /// [`CollectError`]. What was removed before stays removed.
    pub(crate) async fn collect(&self, namespace: &Namespace, dry_run: bool) -> Result<CollectReport, CollectError> {
        let all = mark::namespaces(&*self.meta).await?;
        if !all.contains_key(namespace) {
            return Err(CollectError::NoNamespace);
        }
        if dry_run {
            self.leases.flush().await?;
            let marked = mark(self.sources(), &all, namespace).await?;
            let (count, bytes) = (marked.dead.len() as u64, marked.dead.iter().map(|row| row.size).sum());
            return Ok(report(&marked, true, &Removed { blobs: count, bytes }));
        }
        let mut lock = self.lock().await?;
        let result = async {
            self.check().await?;
            let marked = mark(self.sources(), &all, namespace).await?;
            let chosen = Chosen::all(namespace, &marked);
            let removed = self.remove(&all, chosen, &mut lock).await?;
            self.tidy(namespace).await?;
            Ok(report(&marked, false, &removed))
        }
        .await;
        self.unlock(lock).await;
        self.due().remove(namespace);
        result
    }

    /// Looks at the limits every minute until the service ends.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            match self.sweep().await {
                Ok(()) | Err(CollectError::Running) => {}
                Err(CollectError::Hindered(why)) => tracing::info!(why, "nothing is evicted for now"),
                Err(error) => tracing::warn!(%error, "eviction failed"),
            }
        }
    }

    /// Counts what is due and evicts where a limit is passed.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn sweep(&self) -> Result<(), CollectError> {
        let mut lock = self.lock().await?;
        let result = self.sweep_locked(&mut lock).await;
        self.unlock(lock).await;
        result
    }

    async fn sweep_locked(&self, lock: &mut Held) -> Result<(), CollectError> {
        let all = mark::namespaces(&*self.meta).await?;
        let mut total = 0u64;
        let mut oldest = self.clock.now();
        let mut over = BTreeMap::new();
        for (namespace, config) in &all {
            let count = self.count(namespace).await?;
            total += count.bytes;
            oldest = oldest.min(count.oldest);
            if let Some(limit) = config.max_bytes.filter(|limit| count.bytes > *limit) {
                over.insert(namespace.clone(), limit);
            }
        }
        self.metrics.oldest_entry_age.set(self.clock.now().saturating_sub(oldest));
        let mut removed = Removed::default();
        for (namespace, limit) in over {
            self.check().await?;
            let marked = mark(self.sources(), &all, &namespace).await?;
            let surplus = marked.bytes.saturating_sub(limit - limit / 10);
            let chosen = Chosen::oldest(&[(namespace.clone(), marked)], surplus);
            removed.add(&self.evict(&all, chosen, lock).await?);
            self.tidy(&namespace).await?;
            self.due().remove(&namespace);
        }
        total = total.saturating_sub(removed.bytes);
        let surplus = self.surplus(total).await?;
        if surplus > 0 {
            self.check().await?;
            let mut marked = Vec::new();
            for namespace in all.keys() {
                marked.push((namespace.clone(), mark(self.sources(), &all, namespace).await?));
            }
            self.evict(&all, Chosen::oldest(&marked, surplus), lock).await?;
            for namespace in all.keys() {
                self.tidy(namespace).await?;
            }
            self.due().clear();
        }
        Ok(())
    }

    /// Removes what interrupted removals and uploads left.
    async fn tidy(&self, namespace: &Namespace) -> Result<(), StorageError> {
        let files = self.blobs.sweep(namespace).await?;
        if files > 0 {
            tracing::info!(%namespace, files, "what belonged to blobs that are gone is removed");
        }
        Ok(())
    }

    /// Bytes that are too many over all namespaces.
    async fn surplus(&self, total: u64) -> Result<u64, StorageError> {
        let beyond = self.config.max_bytes.filter(|limit| total > *limit).map_or(0, |limit| total - (limit - limit / 10));
        let free = self.blobs.free_bytes().await?;
        if let Some(free) = free {
            self.metrics.storage_free.set(free);
        }
        let lacking = free.map_or(0, |free| self.config.soft_free_bytes.saturating_sub(free));
        Ok(beyond.max(lacking))
    }

    async fn evict(&self, all: &Namespaces, chosen: Chosen, lock: &mut Held) -> Result<Removed, CollectError> {
        let removed = self.remove(all, chosen, lock).await?;
        self.metrics.evictions.inc_by(removed.blobs);
        self.metrics.evicted_bytes.inc_by(removed.bytes);
        if removed.blobs > 0 {
            tracing::info!(blobs = removed.blobs, bytes = removed.bytes, "evicted");
        }
        Ok(removed)
    }

    /// Counts a namespace, if that is due; the more seldom, the longer it takes. Otherwise says what was counted last, by whichever server.
    async fn count(&self, namespace: &Namespace) -> Result<Count, StorageError> {
        let key = count_key(namespace);
        let due = self.due().get(namespace).is_none_or(|due| *due <= Instant::now());
        if !due
            && let Some((bytes, _)) = self.meta.get(&key).await?
            && let Ok(count) = serde_json::from_slice(&bytes)
        {
            return Ok(count);
        }
        let began = Instant::now();
        let now = self.clock.now();
        let mut count = Count { blobs: 0, bytes: 0, counted_at: now, oldest: now };
        let over = usage::over(&self.leases, namespace, now).await?;
        // Memory for all digests only when they are needed.
        let mut there: HashSet<Digest> = HashSet::new();
        let mut list = self.blobs.list(namespace);
        while let Some(entry) = list.try_next().await? {
            count.blobs += 1;
            count.bytes += entry.size;
            count.oldest = count.oldest.min(seconds(entry.written));
            if !over.is_empty() {
                there.insert(entry.digest);
            }
        }
        usage::fold(&*self.meta, namespace, over, &|digest| there.contains(digest)).await?;
        let value = serde_json::to_vec(&count).map_err(|error| StorageError::Other(error.to_string()))?;
        match self.meta.put(&key, value.into(), Expect::Any).await {
            Ok(_) | Err(PutError::Conflict) => {}
            Err(PutError::Storage(error)) => return Err(error),
        }
        let next = (began.elapsed() * 100).clamp(SWEEP, LONGEST_COUNT);
        self.due().insert(namespace.clone(), Instant::now() + next);
        Ok(count)
    }

    /// Whether anything may be collected now.
    async fn check(&self) -> Result<(), CollectError> {
        self.leases.flush().await?;
        match self.leases.hindrance().await? {
            None => Ok(()),
            Some(why) => Err(CollectError::Hindered(why)),
        }
    }

    fn sources(&self) -> Sources<'_> {
        Sources { blobs: &*self.blobs, meta: &*self.meta, leases: &self.leases }
    }

    async fn lock(&self) -> Result<Held, CollectError> {
        let found = self.meta.get("gc/lock").await?;
        let now = self.clock.now();
        let expect = match &found {
            None => Expect::Absent,
            // What can't be read was not written by a collection.
            Some((bytes, version)) => match serde_json::from_slice::<Lock>(bytes) {
                Ok(lock) if lock.expires > now => return Err(CollectError::Running),
                _ => Expect::Version(version.clone()),
            },
        };
        self.write_lock(now + LOCK, expect).await
    }

    async fn write_lock(&self, expires: u64, expect: Expect) -> Result<Held, CollectError> {
        // Not the same value twice: a version is that of a value.
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| StorageError::Other(error.to_string()))?;
        let value = serde_json::json!({ "expires": expires, "nonce": u64::from_le_bytes(nonce) }).to_string();
        match self.meta.put("gc/lock", value.into(), expect).await {
            Ok(version) => Ok(Held { version }),
            Err(PutError::Conflict) => Err(CollectError::Running),
            Err(PutError::Storage(error)) => Err(error.into()),
        }
    }

    /// Goes on holding the lock.
    async fn renew(&self, lock: &mut Held) -> Result<(), CollectError> {
        *lock = self.write_lock(self.clock.now() + LOCK, Expect::Version(lock.version.clone())).await?;
        Ok(())
    }

    async fn unlock(&self, lock: Held) {
        // If this fails the lock ends by itself.
        if let Err(error) = self.meta.delete_version("gc/lock", &lock.version).await {
            tracing::debug!(%error, "the collection's lock was not removed");
        }
    }

    fn due(&self) -> std::sync::MutexGuard<'_, HashMap<Namespace, Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(marked: &Marked, dry_run: bool, removed: &Removed) -> CollectReport {
    CollectReport {
        dry_run,
        seen: marked.seen,
        held: marked.seen.saturating_sub(removed.blobs),
        removed: removed.blobs,
        removed_bytes: removed.bytes,
        kept_bytes: marked.bytes.saturating_sub(removed.bytes),
    }
}
