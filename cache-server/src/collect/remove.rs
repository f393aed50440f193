//! Removes what was chosen: condemned, waited for, looked at again.

use super::mark::{self, Marked, Namespaces, Row};
use super::{CollectError, Collector, Held};
use crate::leases::{Acknowledged, CondemnedList};
use crate::records::{RawEntry, entry_key, statements_key};
use crate::storage::{Expect, Namespace, PutError, StorageError, Version};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use preheat_image::Digest;
use preheat_image::api::{NamespaceKind, StatementList};
use preheat_image::statement::Envelope;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

/// Blobs that are condemned at once.
const ROUND: usize = 20_000;
/// Requests at once.
const AT_ONCE: usize = 32;
/// A list counts this long after its wait, in seconds, and nothing is removed in its last minute.
const LIST_LASTS: u64 = 240;
const LAST_MINUTE: u64 = 60;
/// How often a record is changed anew because somebody else was faster.
const ATTEMPTS: usize = 10;

/// What is to go, in this order.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    rows: Vec<(Namespace, Row)>,
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

impl Removed {
    pub(super) fn add(&mut self, other: &Self) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
    }
}

impl Chosen {
    /// All that nothing holds, and statements about what is not there.
    pub(super) fn all(namespace: &Namespace, marked: &Marked) -> Self {
        let ghosts = marked.ghosts.iter().map(|digest| Row { digest: *digest, size: 0, used: 0, depth: 0 });
        Self { rows: ghosts.chain(marked.dead.iter().copied()).map(|row| (namespace.clone(), row)).collect() }
    }

    /// What was unused for longest, as far as `surplus` bytes go; and statements about what is not there.
    pub(super) fn oldest(marked: &[(Namespace, Marked)], surplus: u64) -> Self {
        let mut rows: Vec<(Namespace, Row)> = Vec::new();
        for (namespace, marked) in marked {
            rows.extend(Self::all(namespace, marked).rows);
        }
        rows.sort_by_key(|(_, row)| (row.used, row.depth));
        let mut bytes = 0u64;
        let enough = rows.iter().position(|(_, row)| {
            let enough = bytes >= surplus;
            bytes = bytes.saturating_add(row.size);
            enough
        });
        rows.truncate(enough.unwrap_or(rows.len()));
        Self { rows }
    }
}

/// A list that is published.
pub(super) struct Round {
    id: String,
    rows: Vec<(Namespace, Row)>,
    /// Those of an overlay that are also below it: statements about them stay.
    below: HashSet<(Namespace, Digest)>,
    expires: u64,
}

#[cfg(test)]
impl Round {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Collector {
    pub(super) async fn remove(&self, all: &Namespaces, chosen: Chosen, lock: &mut Held) -> Result<Removed, CollectError> {
        let mut removed = Removed::default();
        for rows in chosen.rows.chunks(ROUND) {
            self.renew(lock).await?;
            let round = self.condemn(all, rows.to_vec()).await?;
            let result = match self.wait(&round).await {
                Ok(()) => self.finish(all, &round).await,
                Err(error) => Err(error),
            };
            // Whatever became of it, uploads of these blobs need not wait any longer.
            let pardoned = self.leases.pardon(&round.id).await;
            removed.add(&result?);
            pardoned?;
        }
        Ok(removed)
    }

    /// Publishes a list.
    ///
    /// A statement in an overlay may be about a blob that is below it. Where that blob is not there, it is condemned there too, though nothing
    /// is removed: so nobody brings it, and then the statement again, while the statement is being removed.
    pub(super) async fn condemn(&self, all: &Namespaces, rows: Vec<(Namespace, Row)>) -> Result<Round, CollectError> {
        let mut of: BTreeMap<&Namespace, Vec<Digest>> = BTreeMap::new();
        for (namespace, row) in &rows {
            of.entry(namespace).or_default().push(row.digest);
        }
        let mut list = CondemnedList::default();
        let mut below = HashSet::new();
        for (namespace, digests) in of {
            list.0.entry(namespace.as_str().to_owned()).or_default().extend(&digests);
            for layer in mark::chain(all, namespace).iter().skip(1) {
                let sizes = self.blobs.sizes(layer, &digests).await?;
                for (digest, size) in digests.iter().zip(sizes) {
                    if size.is_some() {
                        below.insert((namespace.clone(), *digest));
                    } else {
                        list.0.entry(layer.as_str().to_owned()).or_default().push(*digest);
                    }
                }
            }
        }
        let expires = self.clock.now() + self.config.wait_seconds + LIST_LASTS;
        let id = self.leases.condemn(&list, expires).await?;
        Ok(Round { id, rows, below, expires })
    }

    async fn wait(&self, round: &Round) -> Result<(), CollectError> {
        let until = Instant::now() + std::time::Duration::from_secs(self.config.wait_seconds);
        loop {
            match self.leases.acknowledged(&round.id).await? {
                Acknowledged::All => return Ok(()),
                Acknowledged::Not(why) if Instant::now() >= until => return Err(CollectError::Hindered(why)),
                Acknowledged::Not(_) => tokio::select! {
                    () = tokio::time::sleep(self.pause) => {}
                    () = self.stopping.cancelled() => return Err(CollectError::Hindered("the service ends".into())),
                },
            }
        }
    }

    /// Looks again and removes. All servers must have acknowledged the list.
    pub(super) async fn finish(&self, all: &Namespaces, round: &Round) -> Result<Removed, CollectError> {
        let mut doomed: BTreeMap<&Namespace, Vec<Row>> = BTreeMap::new();
        for (namespace, row) in &round.rows {
            doomed.entry(namespace).or_default().push(*row);
        }
        let mut removed = Removed::default();
        for (namespace, mut rows) in doomed {
            let held = mark::held(self.sources(), all, namespace).await?;
            rows.retain(|row| !held.contains(&row.digest));
            removed.add(&self.remove_rows(all, namespace, rows, round).await?);
        }
        Ok(removed)
    }

    async fn remove_rows(
        &self,
        all: &Namespaces,
        namespace: &Namespace,
        mut rows: Vec<Row>,
        round: &Round,
    ) -> Result<Removed, CollectError> {
        rows.sort_by_key(|row| row.depth);
        match all.get(namespace).map(|config| config.kind) {
            Some(NamespaceKind::Raw) => {
                let digests = rows.iter().map(|row| row.digest).collect();
                self.remove_entries(namespace, &digests).await?;
            }
            _ => {
                let gone = rows.iter().map(|row| row.digest).filter(|digest| !round.below.contains(&(namespace.clone(), *digest)));
                self.remove_statements(namespace, &gone.collect()).await?;
            }
        }
        let mut removed = Removed::default();
        // By depth, so that at no time a part is gone and what needs it is there.
        for same in rows.chunk_by(|one, next| one.depth == next.depth) {
            for some in same.chunks(500) {
                if self.clock.now() + LAST_MINUTE > round.expires {
                    return Err(CollectError::Hindered("the removal took too long; the rest is left for the next time".into()));
                }
                let mut deleted = stream::iter(some.to_vec())
                    .map(|row| async move { Ok::<_, StorageError>((row.size, self.blobs.delete(namespace, &row.digest).await?)) })
                    .buffer_unordered(AT_ONCE);
                while let Some((size, was_there)) = deleted.try_next().await? {
                    removed.add(&Removed { blobs: u64::from(was_there), bytes: if was_there { size } else { 0 } });
                }
            }
        }
        Ok(removed)
    }

    /// Removes the entries of a raw namespace whose values are `digests`.
    async fn remove_entries(&self, namespace: &Namespace, digests: &HashSet<Digest>) -> Result<(), StorageError> {
        let keys = self.meta.list(&format!("ac/{namespace}/")).await?;
        stream::iter(keys)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |key| async move {
                let Some((bytes, version)) = self.meta.get(&key).await? else { return Ok(()) };
                match serde_json::from_slice::<RawEntry>(&bytes) {
                    Ok(entry) if !digests.contains(&entry.digest) => Ok(()),
                    // What can't be read leads nowhere.
                    _ => unless_changed(self.meta.delete_version(&key, &version).await),
                }
            })
            .await
    }

    /// Removes the statements about `subjects`: first where they are found by their keys, then where by what they are about.
    async fn remove_statements(&self, namespace: &Namespace, subjects: &HashSet<Digest>) -> Result<(), StorageError> {
        let prefix = format!("st/{namespace}/");
        let known: BTreeSet<String> = self.meta.list(&prefix).await?.into_iter().collect();
        for subject in subjects {
            let key = statements_key(namespace, subject);
            if !known.contains(&key) {
                continue;
            }
            let Some((_, version)) = self.meta.get(&key).await? else { continue };
            for envelope in mark::envelopes(&*self.meta, &key).await? {
                self.remove_statement(namespace, &envelope.unverified().key, subjects).await?;
            }
            unless_changed(self.meta.delete_version(&key, &version).await)?;
        }
        Ok(())
    }

    /// Removes from one entry the statements about `subjects`.
    async fn remove_statement(&self, namespace: &Namespace, key: &Digest, subjects: &HashSet<Digest>) -> Result<(), StorageError> {
        let record = entry_key(namespace, key);
        for _ in 0..ATTEMPTS {
            let Some((_, version)) = self.meta.get(&record).await? else { return Ok(()) };
            let all = mark::envelopes(&*self.meta, &record).await?;
            let about = |envelope: &Envelope| envelope.unverified().outputs.first().is_some_and(|output| subjects.contains(&output.digest));
            let kept: Vec<Vec<u8>> = all.iter().filter(|envelope| !about(envelope)).map(|envelope| envelope.to_bytes()).collect();
            if kept.len() == all.len() {
                return Ok(());
            }
            match self.replace(&record, version, &kept).await {
                Ok(()) => return Ok(()),
                Err(PutError::Conflict) => {}
                Err(PutError::Storage(error)) => return Err(error),
            }
        }
        Err(StorageError::Unavailable(format!("`{record}` was written by others all the time")))
    }

    async fn replace(&self, record: &str, version: Version, envelopes: &[Vec<u8>]) -> Result<(), PutError> {
        if envelopes.is_empty() {
            return self.meta.delete_version(record, &version).await;
        }
        let list = StatementList::new(envelopes);
        let value = serde_json::to_vec(&list).map_err(|error| StorageError::Other(error.to_string()))?;
        self.meta.put(record, value.into(), Expect::Version(version)).await.map(drop)
    }
}

/// A record that somebody else wrote meanwhile stays.
fn unless_changed(result: Result<(), PutError>) -> Result<(), StorageError> {
    match result {
        Ok(()) | Err(PutError::Conflict) => Ok(()),
        Err(PutError::Storage(error)) => Err(error),
    }
}
