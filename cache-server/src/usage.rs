//! When blobs were last used, beyond their leases: what eviction goes by.
//!
//! Records of touches whose leases are over are folded into one record for each sixteenth of a namespace's blobs: `use/{ns}/{digit}`, sorted
//! entries of 32 bytes of digest and 4 bytes of time, little-endian, in minutes since 1970. There is at most one entry for each blob that is
//! there.

use crate::leases::{Leases, batch_prefix, digests};
use crate::storage::{Expect, Meta, Namespace, PutError, StorageError};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use preheat_image::Digest;
use std::collections::{BTreeMap, HashMap};

/// Bytes of an entry.
const ENTRY: usize = 36;
/// How often a record is written anew because somebody else was faster.
const ATTEMPTS: usize = 5;
/// Records of touches that are folded in one go.
const MAX_BATCHES: usize = 1000;

fn key(namespace: &Namespace, shard: u8) -> String {
    format!("use/{namespace}/{shard:x}")
}

fn shard(digest: &Digest) -> u8 {
    digest.as_bytes()[0] >> 4
}

fn decode(bytes: &[u8]) -> impl Iterator<Item = (Digest, u32)> {
    bytes.as_chunks::<ENTRY>().0.iter().filter_map(|entry| {
        let (digest, time) = entry.split_first_chunk::<32>()?;
        Some((Digest::from_bytes(*digest), u32::from_le_bytes(time.try_into().ok()?)))
    })
}

fn encode(entries: &BTreeMap<Digest, u32>) -> Bytes {
    let entry = |(digest, time): (&Digest, &u32)| digest.as_bytes().iter().copied().chain(time.to_le_bytes()).collect::<Vec<u8>>();
    entries.iter().flat_map(entry).collect::<Vec<u8>>().into()
}

/// When the blobs of a namespace were last used, in minutes since 1970, as far as that was folded.
///
/// # Errors
/// When the storage fails.
pub(crate) async fn read(meta: &dyn Meta, namespace: &Namespace) -> Result<HashMap<Digest, u32>, StorageError> {
    let records: Vec<Option<Bytes>> = stream::iter(0..16u8)
        .map(|shard| async move { Ok::<_, StorageError>(meta.get(&key(namespace, shard)).await?.map(|(bytes, _)| bytes)) })
        .buffer_unordered(8)
        .try_collect()
        .await?;
    Ok(records.iter().flatten().flat_map(|bytes| decode(bytes)).collect())
}

/// The records of touches whose leases are over, with their times; at most so many as are folded in one go.
///
/// # Errors
/// When the storage fails.
pub(crate) async fn over(leases: &Leases, namespace: &Namespace, now: u64) -> Result<Vec<(String, u64)>, StorageError> {
    let over = leases.batches(namespace).await?.into_iter().filter(|(_, time)| time + leases.period() < now);
    Ok(over.take(MAX_BATCHES).collect())
}

/// Folds records of touches whose leases are [over]. Blobs that `there` does not have are left out.
///
/// # Errors
/// When the storage fails; what was folded may be folded again.
pub(crate) async fn fold(
    meta: &dyn Meta,
    namespace: &Namespace,
    over: Vec<(String, u64)>,
    there: &(dyn Fn(&Digest) -> bool + Sync),
) -> Result<(), StorageError> {
    let mut latest: Vec<BTreeMap<Digest, u32>> = vec![BTreeMap::new(); 16];
    for (batch, time) in &over {
        let Some((bytes, _)) = meta.get(batch).await? else { continue };
        let minutes = u32::try_from(time / 60).unwrap_or(u32::MAX);
        for digest in digests(&bytes).filter(|digest| there(digest)) {
            let known = latest[usize::from(shard(&digest))].entry(digest).or_default();
            *known = minutes.max(*known);
        }
    }
    for (shard, new) in (0u8..).zip(&latest).filter(|(_, new)| !new.is_empty()) {
        merge(meta, &key(namespace, shard), new, there).await?;
    }
    // Not before: then they are folded again, to the same.
    for (batch, _) in &over {
        meta.delete(batch).await?;
    }
    Ok(())
}

async fn merge(
    meta: &dyn Meta,
    key: &str,
    new: &BTreeMap<Digest, u32>,
    there: &(dyn Fn(&Digest) -> bool + Sync),
) -> Result<(), StorageError> {
    for _ in 0..ATTEMPTS {
        let found = meta.get(key).await?;
        let expect = found.as_ref().map_or(Expect::Absent, |(_, version)| Expect::Version(version.clone()));
        let mut merged: BTreeMap<Digest, u32> = match &found {
            Some((bytes, _)) => decode(bytes).filter(|(digest, _)| there(digest)).collect(),
            None => BTreeMap::new(),
        };
        for (digest, time) in new {
            let known = merged.entry(*digest).or_default();
            *known = (*time).max(*known);
        }
        match meta.put(key, encode(&merged), expect).await {
            Ok(_) => return Ok(()),
            Err(PutError::Conflict) => {}
            Err(PutError::Storage(error)) => return Err(error),
        }
    }
    Err(StorageError::Unavailable(format!("`{key}` was written by others all the time")))
}

/// Removes all that is known about the use of a namespace, its leases too.
///
/// # Errors
/// When the storage fails.
pub(crate) async fn forget(meta: &dyn Meta, namespace: &Namespace) -> Result<(), StorageError> {
    for prefix in [format!("use/{namespace}/"), batch_prefix(namespace)] {
        for key in meta.list(&prefix).await? {
            meta.delete(&key).await?;
        }
    }
    Ok(())
}
