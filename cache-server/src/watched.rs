//! Files that an operator may replace while the service runs: tokens, keys of issuers, certificates.

use preheat_image::Digest;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Largest file that is read.
const MAX_SIZE: u64 = 16 * 1024 * 1024;
/// How often at most the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A file younger than this may change again without looking different: timestamps are only as fine as the kernel's tick.
const SETTLED_NANOSECONDS: i128 = 1_000_000_000;

/// A file as it was read.
pub(crate) struct Source {
    /// Its path, for messages.
    pub(crate) path: PathBuf,
    /// What is in it.
    pub(crate) bytes: Vec<u8>,
    /// Its permission bits.
    pub(crate) mode: u32,
    /// Whether it was not there, which only [`Watched::optional`] allows.
    pub(crate) missing: bool,
}

/// What a file looked like.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: i128,
    changed: i128,
    mode: u32,
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode() & 0o7777,
        }
    }
}

/// What was seen at the last look.
struct Seen {
    stamps: Vec<Option<Stamp>>,
    /// Whether the files were old enough to be trusted to look different when changed.
    settled: bool,
    /// Of what is in the files, so that the same bytes again are the same value.
    contents: Vec<Digest>,
}

type Parse<T> = dyn Fn(&[Source]) -> Result<T, String> + Send + Sync;

/// What some files say, together. When they change they are read again; when what is there now can't be used, the last that could stays, and
/// the log says so.
pub(crate) struct Watched<T> {
    paths: Vec<PathBuf>,
    parse: Box<Parse<T>>,
    value: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
    started: Instant,
    interval: Duration,
    /// Milliseconds after `started`.
    next: AtomicU64,
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only where, never what: it may be secret.
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Reads `paths` and remembers how.
    ///
    /// # Errors
    /// When a file can't be read or `parse` refuses what is there.
    pub(crate) fn open(
        paths: Vec<PathBuf>,
        parse: impl Fn(&[Source]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        Self::with(paths, parse, INTERVAL, false)
    }

    /// Like [`Watched::open`], for files that may not be there yet. Once they have been there they must not go away: what is no longer to
    /// count has to be taken out of a file.
    pub(crate) fn optional(
        paths: Vec<PathBuf>,
        parse: impl Fn(&[Source]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        Self::with(paths, parse, INTERVAL, true)
    }

    /// The same value, looked at as often as `interval` says.
    #[cfg(test)]
    pub(crate) fn every(self, interval: Duration) -> Self {
        Self { interval, next: AtomicU64::new(millis(interval)), ..self }
    }

    fn with(
        paths: Vec<PathBuf>,
        parse: impl Fn(&[Source]) -> Result<T, String> + Send + Sync + 'static,
        interval: Duration,
        optional: bool,
    ) -> Result<Self, String> {
        // Stamps first: a change between the two is then seen at the next look.
        let stamps = stamps(&paths);
        let sources = read(&paths, optional)?;
        let value = parse(&sources)?;
        Ok(Self {
            seen: Mutex::new(Seen { settled: settled(&stamps), stamps, contents: contents(&sources) }),
            paths,
            parse: Box::new(parse),
            value: RwLock::new(Arc::new(value)),
            started: Instant::now(),
            interval,
            next: AtomicU64::new(millis(interval)),
        })
    }

    /// What the files say.
    pub(crate) fn get(&self) -> Arc<T> {
        let now = millis(self.started.elapsed());
        let next = self.next.load(Relaxed);
        if now >= next && self.next.compare_exchange(next, now.saturating_add(millis(self.interval)), Relaxed, Relaxed).is_ok() {
            self.look();
        }
        self.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the files say now, whenever they were looked at last: for what was not found, since it may be new.
    pub(crate) fn get_now(&self) -> Arc<T> {
        self.look();
        self.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.paths);
        let changed = seen.stamps != stamps;
        if !changed && seen.settled {
            return;
        }
        let mode_changed = changed && modes(&seen.stamps) != modes(&stamps);
        seen.settled = settled(&stamps);
        seen.stamps = stamps;
        let read = read(&self.paths, false);
        if let Ok(sources) = &read {
            let contents = contents(sources);
            if seen.contents == contents && !mode_changed {
                return;
            }
            seen.contents = contents;
        }
        match read.and_then(|sources| (self.parse)(&sources)) {
            Ok(value) => *self.value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value),
            Err(error) => tracing::error!(%error, "a changed file can't be used; what it said before stays"),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))).collect()
}

fn modes(stamps: &[Option<Stamp>]) -> Vec<Option<u32>> {
    stamps.iter().map(|stamp| stamp.as_ref().map(|stamp| stamp.mode)).collect()
}

fn contents(sources: &[Source]) -> Vec<Digest> {
    sources.iter().map(|source| Digest::of(&source.bytes)).collect()
}

fn settled(stamps: &[Option<Stamp>]) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX));
    stamps.iter().flatten().all(|stamp| now - stamp.changed > SETTLED_NANOSECONDS)
}

fn read(paths: &[PathBuf], optional: bool) -> Result<Vec<Source>, String> {
    paths.iter().map(|path| read_one(path, optional)).collect()
}

fn read_one(path: &Path, optional: bool) -> Result<Source, String> {
    let failed = |error: std::io::Error| format!("can't read {}: {error}", path.display());
    let file = match std::fs::File::open(path) {
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Source { path: path.to_owned(), bytes: Vec::new(), mode: 0, missing: true });
        }
        opened => opened.map_err(failed)?,
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("{} has more than {MAX_SIZE} bytes", path.display()));
    }
    Ok(Source { path: path.to_owned(), bytes, mode, missing: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(path: &Path) -> Watched<u32> {
        let parse = |sources: &[Source]| {
            String::from_utf8_lossy(&sources[0].bytes).trim().parse().map_err(|_| format!("{} is no number", sources[0].path.display()))
        };
        Watched::open(vec![path.to_owned()], parse).unwrap().every(Duration::ZERO)
    }

    #[test]
    fn a_changed_file_is_read_again_even_when_it_has_the_same_size_and_age() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let watched = watch(&path);
        for n in 2..9 {
            std::fs::write(&path, n.to_string()).unwrap();
            assert_eq!(*watched.get(), n);
        }
    }

    #[test]
    fn a_damaged_or_missing_file_keeps_the_last_good_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let watched = watch(&path);
        std::fs::write(&path, "rubbish").unwrap();
        assert_eq!(*watched.get(), 1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*watched.get(), 1);
        std::fs::write(&path, "2").unwrap();
        assert_eq!(*watched.get(), 2);
    }

    #[test]
    fn an_optional_file_may_come_later_and_must_then_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let parse = |sources: &[Source]| Ok::<_, String>(if sources[0].missing { None } else { Some(sources[0].bytes.clone()) });
        let watched = Watched::optional(vec![path.clone()], parse).unwrap().every(Duration::ZERO);
        assert_eq!(*watched.get(), None);
        std::fs::write(&path, "x").unwrap();
        assert_eq!(*watched.get(), Some(b"x".to_vec()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*watched.get(), Some(b"x".to_vec()));
    }

    #[test]
    fn files_are_looked_at_only_once_an_interval() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let parse = |sources: &[Source]| String::from_utf8_lossy(&sources[0].bytes).parse::<u32>().map_err(|error| error.to_string());
        let watched = Watched::open(vec![path.clone()], parse).unwrap().every(Duration::from_secs(3600));
        std::fs::write(&path, "2").unwrap();
        assert_eq!(*watched.get(), 1);
    }

    #[test]
    fn a_file_that_is_damaged_at_the_start_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let parse = |_: &[Source]| Ok(1);
        assert!(Watched::open(vec![path.clone()], parse).unwrap_err().contains("can't read"));
        std::fs::write(&path, vec![b'1'; usize::try_from(MAX_SIZE).unwrap() + 1]).unwrap();
        assert!(Watched::open(vec![path], parse).unwrap_err().contains("more than"));
    }
}
