//! Leases: what was read or asked for a short while ago stays; and what is about to be removed counts as missing.
//!
//! A lease lasts an hour from the last touch, on all servers over one storage. Touches are kept in memory and written every ten seconds, at
//! most one for each blob in five minutes: a lease that was written is counted five minutes longer instead.
//!
//! Whoever collects publishes a list of condemned blobs and waits until every server has acknowledged it. A server that acknowledges says two
//! things: its touches from before it knew the list are written, and from now on it tells nobody that one of these blobs is there. So no
//! touch falls between the last look at the leases and the removal. A server that ended without saying so may have had touches that were
//! not written: until its leases are over in any case, nobody collects.
//!
//! | record | value |
//! |---|---|
//! | `leases/batch/{ns}/{time:012}-{server}-{number}` | digests of blobs that were touched, 32 bytes each |
//! | `leases/server/{server}` | [`Heartbeat`] |
//! | `gc/condemned/{expires:012}-{id}` | [`CondemnedList`] |

use crate::clock::Clock;
use crate::storage::{Expect, Meta, Namespace, PutError, StorageError};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use preheat_image::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often leases are written and condemned lists read.
const TICK: Duration = Duration::from_secs(10);
/// A blob that was touched is not written again for this long, in seconds; its lease counts as much longer.
const WINDOW: u64 = 300;
/// For clocks that differ and writes that take a while, in seconds.
pub(crate) const SLACK: u64 = 120;
/// A server that has nothing to write says this often, in seconds, that it is there.
const HEARTBEAT: u64 = 60;
/// A server that could write nothing for this long, in seconds, promises nothing any more.
const SILENT: u64 = 600;
/// Most touches that are remembered so that they are not written twice.
const MAX_WINDOW: usize = 256 * 1024;
/// Most touches that wait to be written.
const MAX_PENDING: usize = 256 * 1024;
/// Touches that are worth writing before the next tick.
const EARLY: usize = 64 * 1024;
/// Most digests in a record.
const BATCH: usize = 32 * 1024;

/// What a server says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Heartbeat {
    /// All touches before this time are written; seconds since 1970.
    pub(crate) flushed_at: u64,
    /// The condemned lists that it acts on.
    pub(crate) seen: BTreeSet<String>,
    /// When it last had to forget touches that it could not write.
    pub(crate) lost_at: Option<u64>,
}

/// Blobs that are about to be removed, by namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CondemnedList(pub(crate) BTreeMap<String, Vec<Digest>>);

/// Whether all servers act on a condemned list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// They do.
    All,
    /// This one does not yet.
    Not(String),
}

/// The leases of this server.
pub(crate) struct Leases {
    meta: Arc<dyn Meta>,
    clock: Arc<dyn Clock>,
    server: String,
    lease: u64,
    state: Mutex<State>,
    /// Held while leases are written, so that an acknowledgement never overtakes the touches that it is about.
    writing: tokio::sync::Mutex<Writing>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    namespaces: Vec<Namespace>,
    numbers: HashMap<Namespace, u32>,
    window: HashSet<(u32, Digest)>,
    window_from: u64,
    pending: Vec<(u32, Digest)>,
    lost_at: Option<u64>,
    condemned: BTreeMap<String, HashMap<Namespace, HashSet<Digest>>>,
    /// Goes up whenever `condemned` changes.
    generation: u64,
    written_at: u64,
}

#[derive(Default)]
struct Writing {
    number: u64,
    last: Heartbeat,
}

fn server_key(server: &str) -> String {
    format!("leases/server/{server}")
}

fn random_id() -> Result<String, StorageError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StorageError::Other(format!("no randomness: {error}")))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

impl Leases {
    /// Registers this server. When this returns, every collection that begins later waits for this server, and this server knows all that
    /// began before. A server that is `alone` over its storage ends those that an earlier run left unfinished.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn start(
        meta: Arc<dyn Meta>,
        clock: Arc<dyn Clock>,
        lease_seconds: u64,
        alone: bool,
    ) -> Result<Arc<Self>, StorageError> {
        if alone {
            for key in meta.list("gc/").await? {
                meta.delete(&key).await?;
            }
        }
        let leases = Self {
            meta,
            clock,
            server: random_id()?,
            lease: lease_seconds.max(3600),
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        };
        leases.flush().await?;
        leases.tick().await?;
        Ok(Arc::new(leases))
    }

    /// Reads condemned lists and writes leases every ten seconds, until `stopping`; then writes what is left and signs off.
    pub(crate) async fn run(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            if let Err(error) = self.tick().await {
                tracing::warn!(%error, "leases were not written; nothing is collected meanwhile");
                // Not at once again because it was woken for many touches.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        if let Err(error) = self.sign_off().await {
            tracing::warn!(%error, "the last leases were not written; nothing is collected until they are over in any case");
        }
    }

    /// Renews the leases of `digests`. Cheap; never waits.
    pub(crate) fn touch(&self, namespace: &Namespace, digests: &[Digest]) {
        let now = self.clock.now();
        let mut state = self.state();
        if now.abs_diff(state.window_from) >= WINDOW || state.window.len() >= MAX_WINDOW {
            state.window.clear();
            state.window_from = now;
        }
        let number = state.number(namespace);
        for digest in digests {
            if !state.window.insert((number, *digest)) {
                continue;
            }
            if state.pending.len() < MAX_PENDING {
                state.pending.push((number, *digest));
            } else {
                // Memory does not grow while the storage is away. Nobody collects until a forgotten lease would be over.
                state.lost_at = Some(now);
            }
        }
        if state.pending.len() >= EARLY {
            self.wake.notify_one();
        }
    }

    /// Whether a collection is about to remove the blob: it counts as missing.
    pub(crate) fn condemned(&self, namespace: &Namespace, digest: &Digest) -> bool {
        self.state().is_condemned(namespace, digest)
    }

    /// Changes whenever what is condemned does.
    pub(crate) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Whether this server may promise that a blob stays: not after it could not write leases for a long time, because others may count it
    /// as gone.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`].
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        let silent = self.clock.now().saturating_sub(self.state().written_at);
        if silent < SILENT {
            return Ok(());
        }
        Err(StorageError::Unavailable(format!("leases could not be written for {silent} seconds")))
    }

    /// Seconds since leases were last written.
    pub(crate) fn age(&self) -> u64 {
        self.clock.now().saturating_sub(self.state().written_at)
    }

    /// One tick: reads condemned lists, writes leases, acknowledges.
    ///
    /// # Errors
    /// When the storage fails; what was not written waits.
    pub(crate) async fn tick(&self) -> Result<(), StorageError> {
        self.poll().await?;
        self.flush().await
    }

    /// Reads the condemned lists.
    async fn poll(&self) -> Result<(), StorageError> {
        let keys = self.meta.list("gc/condemned/").await?;
        let now = self.clock.now();
        let mut fresh = Vec::new();
        let mut current = BTreeSet::new();
        for key in keys {
            // A list whose end is past is of a collector that is gone: it removes nothing any more.
            let Some(id) = key.strip_prefix("gc/condemned/").filter(|id| list_expires(id).is_some_and(|end| end + SLACK > now)) else {
                continue;
            };
            if !self.state().condemned.contains_key(id) {
                let Some((bytes, _)) = self.meta.get(&key).await? else { continue };
                let list: CondemnedList =
                    serde_json::from_slice(&bytes).map_err(|error| StorageError::Damaged(format!("condemned list `{id}`: {error}")))?;
                fresh.push((id.to_owned(), list));
            }
            current.insert(id.to_owned());
        }
        let mut state = self.state();
        // A list of this server's own may be newer than what was read: it goes by its end.
        let own = |id: &str| id.ends_with(&self.server) && list_expires(id).is_some_and(|end| end + SLACK > now);
        let gone: Vec<String> = state.condemned.keys().filter(|id| !current.contains(*id) && !own(id)).cloned().collect();
        for id in gone {
            state.forget(&id);
        }
        for (id, list) in fresh {
            state.condemn(id, &list);
        }
        Ok(())
    }

    /// Writes the touches that wait, then says so.
    ///
    /// # Errors
    /// When the storage fails; what was not written waits.
    pub(crate) async fn flush(&self) -> Result<(), StorageError> {
        let mut writing = self.writing.lock().await;
        let now = self.clock.now();
        let (pending, beat) = {
            let mut state = self.state();
            let pending = std::mem::take(&mut state.pending);
            (pending, Heartbeat { flushed_at: now, seen: state.condemned.keys().cloned().collect(), lost_at: state.lost_at })
        };
        let idle = pending.is_empty() && beat.seen == writing.last.seen && beat.lost_at == writing.last.lost_at;
        if idle && now.saturating_sub(writing.last.flushed_at) < HEARTBEAT {
            return Ok(());
        }
        let written = self.write(&mut writing, pending.clone(), &beat).await;
        let mut state = self.state();
        match &written {
            Ok(()) => state.written_at = now,
            Err(_) => {
                let room = MAX_PENDING.saturating_sub(state.pending.len());
                if pending.len() > room {
                    state.lost_at = Some(now);
                }
                state.pending.extend(pending.into_iter().take(room));
            }
        }
        written
    }

    async fn write(&self, writing: &mut Writing, pending: Vec<(u32, Digest)>, beat: &Heartbeat) -> Result<(), StorageError> {
        let mut by_namespace: HashMap<u32, Vec<Digest>> = HashMap::new();
        for (number, digest) in pending {
            by_namespace.entry(number).or_default().push(digest);
        }
        let mut puts = Vec::new();
        for (number, digests) in by_namespace {
            let namespace = self.state().namespaces[number as usize].clone();
            for batch in digests.chunks(BATCH) {
                writing.number += 1;
                let key = format!("{}{:012}-{}-{:08}", batch_prefix(&namespace), beat.flushed_at, self.server, writing.number);
                let value: Vec<u8> = batch.iter().flat_map(|digest| *digest.as_bytes()).collect();
                puts.push((key, Bytes::from(value)));
            }
        }
        let mut results =
            stream::iter(puts).map(|(key, value)| async move { self.meta.put(&key, value, Expect::Any).await }).buffer_unordered(8);
        while let Some(result) = results.next().await {
            result.map_err(storage_error)?;
        }
        let value = serde_json::to_vec(beat).map_err(|error| StorageError::Other(error.to_string()))?;
        self.meta.put(&server_key(&self.server), value.into(), Expect::Any).await.map_err(storage_error)?;
        writing.last = beat.clone();
        Ok(())
    }

    /// Writes what is left and says that this server has ended.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn sign_off(&self) -> Result<(), StorageError> {
        self.flush().await?;
        // After touches that were lost, the record is what keeps others from collecting.
        if self.state().lost_at.is_none() {
            self.meta.delete(&server_key(&self.server)).await?;
        }
        Ok(())
    }

    /// Publishes a list. This server acts on it at once. Says under which name.
    ///
    /// # Errors
    /// When the storage fails: then the list may be there, and this server acts on it until it ends.
    pub(crate) async fn condemn(&self, list: &CondemnedList, expires: u64) -> Result<String, StorageError> {
        let id = format!("{expires:012}-{}-{}", random_id()?, self.server);
        self.state().condemn(id.clone(), list);
        let value = serde_json::to_vec(list).map_err(|error| StorageError::Other(error.to_string()))?;
        let put = self.meta.put(&format!("gc/condemned/{id}"), value.into(), Expect::Absent).await;
        match put {
            Ok(_) => Ok(id),
            Err(error) => {
                // Nothing of it is removed: no need to go on as if it were.
                self.state().forget(&id);
                Err(storage_error(error))
            }
        }
    }

    /// Takes a list back, after its blobs were removed or spared.
    ///
    /// # Errors
    /// When the storage fails; then other servers act on it until it ends.
    pub(crate) async fn pardon(&self, id: &str) -> Result<(), StorageError> {
        let deleted = self.meta.delete(&format!("gc/condemned/{id}")).await;
        self.state().forget(id);
        deleted.map(drop)
    }

    /// Whether all servers act on the list `id` and have written the touches from before.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn acknowledged(&self, id: &str) -> Result<Acknowledged, StorageError> {
        self.flush().await?;
        for (server, beat) in self.servers().await? {
            if let Some(reason) = self.hinders(&server, &beat) {
                return Ok(Acknowledged::Not(reason));
            }
            if !beat.seen.contains(id) {
                return Ok(Acknowledged::Not(format!("server {server} has not acknowledged")));
            }
        }
        Ok(Acknowledged::All)
    }

    /// Why nobody may collect now, if that is so.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn hindrance(&self) -> Result<Option<String>, StorageError> {
        let now = self.clock.now();
        for (server, beat) in self.servers().await? {
            if let Some(reason) = self.hinders(&server, &beat) {
                return Ok(Some(reason));
            }
            let silent = now.saturating_sub(beat.flushed_at);
            if silent > 2 * HEARTBEAT {
                return Ok(Some(format!(
                    "server {server} has not been heard of for {silent} seconds; blobs that it promised to keep are kept until {}",
                    beat.flushed_at + self.period()
                )));
            }
        }
        Ok(None)
    }

    fn hinders(&self, server: &str, beat: &Heartbeat) -> Option<String> {
        let lost = beat.lost_at?;
        (self.clock.now() < lost + self.period())
            .then(|| format!("server {server} lost leases; what it promised is over at {}", lost + self.period()))
    }

    /// The servers that have leases. Records of those that ended so long ago that all their leases are over are removed.
    async fn servers(&self) -> Result<Vec<(String, Heartbeat)>, StorageError> {
        let now = self.clock.now();
        let mut servers = Vec::new();
        for key in self.meta.list("leases/server/").await? {
            let Some((bytes, _)) = self.meta.get(&key).await? else { continue };
            let beat: Heartbeat =
                serde_json::from_slice(&bytes).map_err(|error| StorageError::Damaged(format!("record `{key}`: {error}")))?;
            let server = key.trim_start_matches("leases/server/").to_owned();
            if server != self.server && beat.flushed_at + self.period() < now {
                self.meta.delete(&key).await?;
            } else {
                servers.push((server, beat));
            }
        }
        Ok(servers)
    }

    /// How long a touch that was written holds, in seconds.
    pub(crate) fn period(&self) -> u64 {
        self.lease + WINDOW + SLACK
    }

    /// The blobs of a namespace that are leased now, and until when at least.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn held(&self, namespace: &Namespace) -> Result<HashMap<Digest, u64>, StorageError> {
        let now = self.clock.now();
        let batches = self.batches(namespace).await?.into_iter().filter(|(_, time)| time + self.period() >= now);
        let mut held: HashMap<Digest, u64> = HashMap::new();
        let mut read = stream::iter(batches)
            .map(|(key, time)| async move { self.meta.get(&key).await.map(|found| found.map(|(bytes, _)| (bytes, time))) })
            .buffer_unordered(16);
        while let Some(found) = read.next().await {
            let Some((bytes, time)) = found? else { continue };
            for digest in digests(&bytes) {
                let latest = held.entry(digest).or_default();
                *latest = time.max(*latest);
            }
        }
        Ok(held)
    }

    /// The records of touches in a namespace, with their times.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn batches(&self, namespace: &Namespace) -> Result<Vec<(String, u64)>, StorageError> {
        let prefix = batch_prefix(namespace);
        let keys = self.meta.list(&prefix).await?;
        Ok(keys
            .into_iter()
            .filter_map(|key| {
                let time = key.strip_prefix(&prefix)?.split('-').next()?.parse().ok()?;
                Some((key, time))
            })
            .collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self, namespace: &Namespace) -> u32 {
        if let Some(number) = self.numbers.get(namespace) {
            return *number;
        }
        let number = u32::try_from(self.namespaces.len()).unwrap_or(u32::MAX);
        self.namespaces.push(namespace.clone());
        self.numbers.insert(namespace.clone(), number);
        number
    }

    fn is_condemned(&self, namespace: &Namespace, digest: &Digest) -> bool {
        self.condemned.values().any(|list| list.get(namespace).is_some_and(|digests| digests.contains(digest)))
    }

    fn condemn(&mut self, id: String, list: &CondemnedList) {
        let by_namespace = list.0.iter().filter_map(|(name, digests)| Some((Namespace::new(name)?, digests.iter().copied().collect())));
        self.condemned.insert(id, by_namespace.collect());
        self.generation += 1;
    }

    fn forget(&mut self, id: &str) {
        if self.condemned.remove(id).is_some() {
            self.generation += 1;
        }
    }
}

/// Under which the records of touches in a namespace are.
pub(crate) fn batch_prefix(namespace: &Namespace) -> String {
    format!("leases/batch/{namespace}/")
}

/// When a condemned list ends: its name begins with that.
fn list_expires(id: &str) -> Option<u64> {
    id.split('-').next()?.parse().ok()
}

/// The digests in a record of touches. What is not whole at its end is left out.
pub(crate) fn digests(bytes: &[u8]) -> impl Iterator<Item = Digest> {
    bytes.as_chunks::<32>().0.iter().map(|digest| Digest::from_bytes(*digest))
}

fn storage_error(error: PutError) -> StorageError {
    match error {
        PutError::Storage(error) => error,
        PutError::Conflict => StorageError::Other("a record of this server's own was there already".into()),
    }
}
