//! Small records on a local disk, in redb.
//!
//! One thread writes: it takes all writes that wait, tries each in turn, and commits them together, so that many writers share one sync. A
//! commit saves what redb needs to open the file again at once after a kill.
//!
//! redb trusts its file: over one that something else has changed it may give wrong bytes, miss records or panic. Against that, in this order:
//!
//! 1. A file that is small enough to be read within the time of a start has all its checksums verified when it is opened.
//! 2. A larger one is walked through once in the background: every record, their order and their number.
//! 3. Every record has a sum of its own, over key, version and value, that is checked whenever it is read.
//! 4. What redb panics over is caught.
//!
//! Damage found by the first, second or last ends the use of the file: every request for a record is an error from then on, and the service
//! is not ready. Records are not made anew from anything: they come from a backup.

use super::{Expect, Meta, PutError, StorageError, Version};
use ::redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, TableDefinition, TableError,
};
use async_trait::async_trait;
use bytes::Bytes;
use preheat_image::DigestHasher;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Key → version and sum (8 bytes each, little-endian), then the value.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// The version that was given last; one line, without a key.
const LAST_VERSION: TableDefinition<'_, (), u64> = TableDefinition::new("last-version");

/// Bytes before the value.
const HEADER: usize = 16;
/// Files up to this size in bytes are verified when they are opened; that takes about 100 ms.
const VERIFIED_UP_TO: u64 = 64 << 20;
/// Memory for pages in bytes; the system keeps the file's pages too.
const CACHE: usize = 32 << 20;
/// Writes that wait.
const QUEUE: usize = 1024;
/// Bytes of values in one commit at most; one value may be more.
const COMMIT_BYTES: usize = 8 << 20;

/// Records in a file of a directory.
pub struct RedbMeta {
    records: Arc<Records>,
    queue: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Change {
    Put(Bytes, Expect),
    Delete(Expect),
}

/// A write that waits.
#[derive(Debug)]
struct Request {
    key: String,
    change: Change,
    /// The version that a record got or had; none if there was none to delete.
    done: oneshot::Sender<Answer>,
}

impl Request {
    fn bytes(&self) -> usize {
        match &self.change {
            Change::Put(value, _) => value.len(),
            Change::Delete(_) => 0,
        }
    }
}

#[derive(Debug)]
struct Records {
    path: PathBuf,
    /// None between a failed write and the next attempt to open the file again.
    database: RwLock<Option<Database>>,
    damage: OnceLock<String>,
    commits: AtomicU64,
}

type Answer = Result<Option<Version>, PutError>;

impl RedbMeta {
    /// Opens the records of a directory, or makes the file for them.
    ///
    /// # Errors
    /// When the file is damaged, another process uses it, or it can't be written.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        Self::open_verifying(directory, VERIFIED_UP_TO)
    }

    fn open_verifying(directory: &Path, up_to: u64) -> Result<Self, StorageError> {
        let path = directory.join("meta.redb");
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => Some(metadata.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(StorageError::Unavailable(format!("can't look at {}: {error}", path.display()))),
        };
        let verified = size.is_none_or(|size| size <= up_to);
        let records = Arc::new(Records::new(&path, None));
        records.guard(|| records.open(verified))?;
        if size.is_none() {
            let synced = std::fs::File::open(directory).and_then(|dir| dir.sync_all());
            synced.map_err(|error| StorageError::Unavailable(format!("can't sync {}: {error}", directory.display())))?;
        }
        let (queue, requests) = mpsc::channel(QUEUE);
        let writer = {
            let records = records.clone();
            spawn("records", move || records.write_all(requests))?
        };
        if !verified {
            let records = records.clone();
            spawn("records-check", move || match records.walk() {
                Ok(()) => tracing::debug!("all records are whole"),
                Err(error @ StorageError::Damaged(_)) => tracing::error!(%error, "the records are damaged"),
                Err(error) => tracing::warn!(%error, "the records were not looked through"),
            })?;
        }
        Ok(Self { records, queue: Some(queue), writer: Some(writer) })
    }

    async fn change(&self, key: &str, change: Change) -> Result<Option<Version>, PutError> {
        let stopped = || StorageError::Unavailable("the writer of records has stopped".into());
        let (done, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(Request { key: key.to_owned(), change, done }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for RedbMeta {
    /// Waits for the writes that were taken, so that the file can be opened again.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // A panic in it has been said already.
            let _ = writer.join();
        }
        // A walk through the records ends with this.
        drop(self.records.database.write().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StorageError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| StorageError::Unavailable(format!("can't start a thread: {error}")))
}

fn encode(key: &str, version: u64, value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + value.len());
    record.extend_from_slice(&version.to_le_bytes());
    record.extend_from_slice(&sum(key, version, value));
    record.extend_from_slice(value);
    record
}

fn sum(key: &str, version: u64, value: &[u8]) -> [u8; 8] {
    let mut hasher = DigestHasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(&version.to_le_bytes());
    hasher.update(value);
    let digest = hasher.finalize();
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    [a, b, c, d, e, f, g, h]
}

fn decode<'a>(key: &str, record: &'a [u8]) -> Result<(u64, &'a [u8]), StorageError> {
    let read = || {
        let (version, rest) = record.split_first_chunk()?;
        let (expected, value) = rest.split_first_chunk::<8>()?;
        let version = u64::from_le_bytes(*version);
        (sum(key, version, value) == *expected).then_some((version, value))
    };
    read().ok_or_else(|| StorageError::Damaged(format!("the record `{key}` does not have its sum")))
}

fn wrong(error: impl Into<::redb::Error>) -> StorageError {
    use ::redb::Error;
    match error.into() {
        Error::Io(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            StorageError::Full(format!("can't write the records: {error}"))
        }
        Error::Io(error) => StorageError::Unavailable(format!("can't read or write the records: {error}")),
        error @ Error::PreviousIo => StorageError::Unavailable(format!("the records: {error}")),
        Error::DatabaseAlreadyOpen => StorageError::Unavailable("another process uses the records".into()),
        Error::Corrupted(what) => StorageError::Damaged(what),
        error => StorageError::Other(format!("the records: {error}")),
    }
}

impl Records {
    fn new(path: &Path, database: Option<Database>) -> Self {
        Self { path: path.to_owned(), database: RwLock::new(database), damage: OnceLock::new(), commits: AtomicU64::new(0) }
    }

    /// Does something with the file, unless it is known to be damaged; what redb panics over is damage.
    fn guard<T>(&self, work: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
        if let Some(what) = self.damage.get() {
            return Err(self.damaged(what));
        }
        // The database is not used any more after a panic, so it does not matter in what state that leaves it.
        let result =
            catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(StorageError::Damaged("redb could not make sense of it".into())));
        result.map_err(|error| match error {
            StorageError::Damaged(what) => {
                let error = self.damaged(&what);
                let _ = self.damage.set(what);
                error
            }
            error => error,
        })
    }

    fn damaged(&self, what: &str) -> StorageError {
        StorageError::Damaged(format!("{}: {what}; put a backup in its place", self.path.display()))
    }

    /// Opens the file, again if it was open.
    fn open(&self, verifying: bool) -> Result<(), StorageError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Only one may be open.
        drop(database.take());
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(verifying);
        let opened = builder.create(&self.path).map_err(|error| match error {
            DatabaseError::UpgradeRequired(version) => StorageError::Other(format!("{} has version {version}", self.path.display())),
            // It is not one of redb's.
            DatabaseError::Storage(::redb::StorageError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                StorageError::Damaged(error.to_string())
            }
            error => wrong(error),
        })?;
        *database = Some(opened);
        Ok(())
    }

    /// Reads something.
    fn read<T>(&self, work: impl FnOnce(&Database) -> Result<T, StorageError>) -> Result<T, StorageError> {
        self.guard(|| self.read_unguarded(work))
    }

    fn read_unguarded<T>(&self, work: impl FnOnce(&Database) -> Result<T, StorageError>) -> Result<T, StorageError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        work(database.as_ref().ok_or_else(|| StorageError::Unavailable("the records are not open".into()))?)
    }

    fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StorageError> {
        self.read(|database| {
            let read = database.begin_read().map_err(wrong)?;
            let Some(table) = records_in(&read)? else { return Ok(None) };
            let Some(record) = table.get(key).map_err(wrong)? else { return Ok(None) };
            let (version, value) = decode(key, record.value())?;
            Ok(Some((Bytes::copy_from_slice(value), Version(version.to_string()))))
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.read(|database| {
            let read = database.begin_read().map_err(wrong)?;
            let Some(table) = records_in(&read)? else { return Ok(Vec::new()) };
            let mut keys = Vec::new();
            for row in table.range(prefix..).map_err(wrong)? {
                let (key, _) = row.map_err(wrong)?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                keys.push(key.value().to_owned());
            }
            Ok(keys)
        })
    }

    /// Looks at every record, as they are now.
    fn walk(&self) -> Result<(), StorageError> {
        // The transaction does not keep the file open: whoever has to open it again does not wait for this.
        let read = self.read(|database| database.begin_read().map_err(wrong))?;
        self.guard(|| {
            let Some(table) = records_in(&read)? else { return Ok(()) };
            let (mut last, mut count) = (String::new(), 0u64);
            for row in table.iter().map_err(wrong)? {
                let (key, record) = row.map_err(wrong)?;
                let key = key.value();
                decode(key, record.value())?;
                if count > 0 && key <= last.as_str() {
                    return Err(StorageError::Damaged(format!("the record `{key}` is out of order")));
                }
                last.clear();
                last.push_str(key);
                count += 1;
            }
            match table.len().map_err(wrong)? {
                expected if expected != count => Err(StorageError::Damaged(format!("there are {count} records, not {expected}"))),
                _ => Ok(()),
            }
        })
    }

    /// Takes writes until nobody can send any more.
    fn write_all(&self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut bytes = first.bytes();
            let mut batch = vec![first];
            while bytes < COMMIT_BYTES
                && batch.len() < QUEUE
                && let Ok(next) = requests.try_recv()
            {
                bytes += next.bytes();
                batch.push(next);
            }
            self.write(batch);
        }
    }

    /// Tries some writes in turn, makes them durable together, and answers.
    fn write(&self, batch: Vec<Request>) {
        match self.guard(|| self.commit(&batch)) {
            Ok(answers) => {
                for (request, answer) in batch.into_iter().zip(answers) {
                    // Whoever asked may have gone.
                    let _ = request.done.send(answer);
                }
            }
            Err(error) => {
                for request in batch {
                    let _ = request.done.send(Err(PutError::Storage(again(&error))));
                }
            }
        }
    }

    fn commit(&self, batch: &[Request]) -> Result<Vec<Answer>, StorageError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.open(false)?;
        }
        let result = self.read_unguarded(|database| self.transaction(database, batch));
        if matches!(result, Err(StorageError::Full(_) | StorageError::Unavailable(_))) {
            // After a failed write redb takes nothing more until the file is opened again; if that fails now, the next write tries.
            if let Err(error) = self.open(false) {
                tracing::warn!(%error, "the records can't be opened again");
            }
        }
        result
    }

    fn transaction(&self, database: &Database, batch: &[Request]) -> Result<Vec<Answer>, StorageError> {
        let mut write = database.begin_write().map_err(wrong)?;
        write.set_durability(Durability::Immediate).map_err(wrong)?;
        write.set_quick_repair(true);
        let mut answers = Vec::with_capacity(batch.len());
        let mut changed = false;
        {
            let mut records = write.open_table(RECORDS).map_err(wrong)?;
            let mut last_version = write.open_table(LAST_VERSION).map_err(wrong)?;
            let mut version = last_version.get(()).map_err(wrong)?.map_or(0, |last| last.value());
            for Request { key, change, .. } in batch {
                let old = match records.get(key.as_str()).map_err(wrong)? {
                    Some(record) => Some(decode(key, record.value())?.0),
                    None => None,
                };
                let answer = match change {
                    Change::Put(_, expect) | Change::Delete(expect) if !fits(expect, old) => Err(PutError::Conflict),
                    Change::Delete(_) => {
                        if old.is_some() {
                            records.remove(key.as_str()).map_err(wrong)?;
                            changed = true;
                        }
                        Ok(old)
                    }
                    Change::Put(value, _) => {
                        version += 1;
                        records.insert(key.as_str(), encode(key, version, value).as_slice()).map_err(wrong)?;
                        changed = true;
                        Ok(Some(version))
                    }
                };
                answers.push(answer.map(|version| version.map(|version| Version(version.to_string()))));
            }
            last_version.insert((), version).map_err(wrong)?;
        }
        if changed {
            write.commit().map_err(wrong)?;
            self.commits.fetch_add(1, Ordering::Relaxed);
        } else {
            write.abort().map_err(wrong)?;
        }
        Ok(answers)
    }
}

fn fits(expect: &Expect, old: Option<u64>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => old.is_none(),
        Expect::Version(version) => old.is_some_and(|old| old.to_string() == version.0),
    }
}

fn records_in(read: &ReadTransaction) -> Result<Option<ReadOnlyTable<&'static str, &'static [u8]>>, StorageError> {
    match read.open_table(RECORDS) {
        Ok(table) => Ok(Some(table)),
        // Nothing was written yet.
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(wrong(error)),
    }
}

/// The same error for another of those it concerns.
fn again(error: &StorageError) -> StorageError {
    match error {
        StorageError::Full(what) => StorageError::Full(what.clone()),
        StorageError::Unavailable(what) => StorageError::Unavailable(what.clone()),
        StorageError::Damaged(what) => StorageError::Damaged(what.clone()),
        StorageError::Other(what) => StorageError::Other(what.clone()),
    }
}

#[async_trait]
impl Meta for RedbMeta {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StorageError> {
        // On the thread that asks: a page or two, most of the time from memory.
        self.records.get(key)
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Version, PutError> {
        let version = self.change(key, Change::Put(value, expect)).await?;
        version.ok_or_else(|| StorageError::Other("the writer of records gave no version".into()).into())
    }

    async fn delete(&self, key: &str) -> Result<bool, StorageError> {
        match self.change(key, Change::Delete(Expect::Any)).await {
            Ok(old) => Ok(old.is_some()),
            Err(PutError::Storage(error)) => Err(error),
            Err(PutError::Conflict) => Err(StorageError::Other("a removal can't be in conflict".into())),
        }
    }

    async fn delete_version(&self, key: &str, version: &Version) -> Result<(), PutError> {
        self.change(key, Change::Delete(Expect::Version(version.clone()))).await.map(drop)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let (records, prefix) = (self.records.clone(), prefix.to_owned());
        tokio::task::spawn_blocking(move || records.list(&prefix)).await.map_err(|error| StorageError::Other(error.to_string()))?
    }
}

#[cfg(test)]
#[path = "redb_power_tests.rs"]
mod power_tests;
#[cfg(test)]
#[path = "redb_tests.rs"]
mod tests;
