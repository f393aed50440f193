//! Reads blobs for answers: nothing leaves before the chunk it is in was verified.

use crate::budget::Buffer;
use crate::error::ApiError;
use crate::state::App;
use crate::storage::{Namespace, OpenBlob, Seal, StorageError};
use crate::verified::Chunks;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use preheat_image::Digest;
use preheat_image::chunks::{CHUNK_SIZE, ChunkList};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

const CHUNK: u64 = CHUNK_SIZE as u64;

/// Whether the file system can say that a read would have to wait.
static NOWAIT: AtomicBool = AtomicBool::new(true);

/// Why bytes of a blob can't be had.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// They are not those that were put there.
    Damaged(String),
    /// The storage failed, or there is no room in memory.
    Failed(ApiError),
}

impl From<ApiError> for ReadError {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<StorageError> for ReadError {
    fn from(error: StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// An open blob that verifies what it reads.
pub(crate) struct Reader {
    app: Arc<App>,
    namespace: Namespace,
    digest: Digest,
    size: u64,
    seal: Seal,
    file: Arc<File>,
    chunks: Option<Bytes>,
    verified: Arc<Chunks>,
    /// One piece at a time: the next is read when the connection has written the last, so a slow client holds one, not all it asked for.
    turns: Arc<Semaphore>,
}

impl Reader {
    pub(crate) fn new(app: &Arc<App>, namespace: &Namespace, digest: &Digest, blob: OpenBlob) -> Self {
        let verified = app.verified.of(digest, &blob.seal);
        let OpenBlob { file, size, seal, chunks } = blob;
        let (file, turns) = (Arc::new(file), Arc::new(Semaphore::new(1)));
        Self { app: app.clone(), namespace: namespace.clone(), digest: *digest, size, seal, file, chunks, verified, turns }
    }

    /// Reads and verifies bytes, at most a piece, once the piece before is gone.
    pub(crate) async fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|error| StorageError::Other(error.to_string()))?;
        let (mut buffer, part) = self.read_piece(&range).await?;
        buffer.set_turn(turn);
        Ok(buffer.slice_in(part))
    }

    /// The bytes of `range`, of which `first` was read already. An error ends it; damage puts the blob aside.
    pub(crate) fn stream(self, first: Bytes, range: Range<u64>) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
        let at = range.start + first.len() as u64;
        let rest = stream::try_unfold((self, at), move |(reader, at)| async move {
            if at >= range.end {
                return Ok(None);
            }
            let end = reader.piece_end(at).min(range.end);
            match reader.read(at..end).await {
                Ok(bytes) => Ok(Some((bytes, (reader, end)))),
                Err(error) => Err(reader.failed(error).await),
            }
        });
        stream::iter([Ok(first)]).chain(rest)
    }

    /// Where a piece that begins at `at` should end: at the border of a chunk.
    pub(crate) fn piece_end(&self, at: u64) -> u64 {
        let piece = self.app.budget.piece() as u64;
        (at / CHUNK * CHUNK + piece).min(self.size)
    }

    /// Puts a damaged blob aside, and says that there is no more to come. What the error says stays here: the headers are sent already.
    async fn failed(&self, error: ReadError) -> io::Error {
        match error {
            ReadError::Damaged(why) => {
                self.quarantine(&why).await;
                io::Error::other("the blob is damaged")
            }
            ReadError::Failed(error) => io::Error::other(error.message),
        }
    }

    /// Puts the blob aside, unless another has taken its place.
    pub(crate) async fn quarantine(&self, why: &str) {
        self.app.metrics.verification_failures.inc();
        let (namespace, digest) = (&self.namespace, &self.digest);
        tracing::error!(%namespace, %digest, why, "a blob is damaged: it is put aside");
        // Whoever noticed the damage before may have put it aside, and a whole blob may have been uploaded since.
        let same = match self.app.blobs.open(namespace, digest).await {
            Ok(Some(blob)) => blob.seal == self.seal,
            Ok(None) => false,
            Err(_) => true,
        };
        if same && let Err(error) = self.app.blobs.quarantine(namespace, digest, why).await {
            tracing::error!(%namespace, %digest, %error, "a damaged blob can't be put aside");
        }
    }

    async fn read_piece(&self, range: &Range<u64>) -> Result<(Buffer, Range<usize>), ReadError> {
        let chunks = index(range.start / CHUNK)..index(range.end.div_ceil(CHUNK));
        // Whole chunks, if one of them has to be verified.
        let all = chunks.clone().all(|chunk| self.verified.has(chunk)) && !chunks.is_empty();
        let from = if all { range.start } else { range.start / CHUNK * CHUNK };
        let to = if all { range.end } else { (range.end.div_ceil(CHUNK) * CHUNK).min(self.size) };
        let buffer = self.app.budget.buffer(index(to - from)).await?;
        let buffer = fill(&self.file, buffer, from).await?;
        if !all {
            self.verify(buffer.as_ref(), chunks)?;
        }
        Ok((buffer, index(range.start - from)..index(range.end - from)))
    }

    /// Checks those of the chunks in `bytes` that were not verified before.
    fn verify(&self, bytes: &[u8], chunks: Range<usize>) -> Result<(), ReadError> {
        let damaged = |what: String| Err(ReadError::Damaged(what));
        if self.size <= CHUNK {
            if Digest::of(bytes) != self.digest {
                return damaged("it does not have its digest".into());
            }
            self.verified.set(0);
            return Ok(());
        }
        let Some(list) = &self.chunks else { return damaged("its chunk list is lost".into()) };
        let list = match ChunkList::parse(list) {
            Ok(list) if list.blob_size() == self.size => list,
            Ok(list) => return damaged(format!("it has {} bytes, its chunk list says {}", self.size, list.blob_size())),
            Err(error) => return damaged(error.to_string()),
        };
        for (chunk, bytes) in chunks.zip(bytes.chunks(CHUNK_SIZE)) {
            if !self.verified.has(chunk) {
                if list.digest(chunk) != Some(Digest::of(bytes)) {
                    return damaged(format!("chunk {chunk} does not have its digest"));
                }
                self.verified.set(chunk);
            }
        }
        Ok(())
    }
}

/// Offsets within a piece and numbers of chunks fit; what does not is caught as a short read.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Fills `buffer` from `offset` on: at once if the bytes are in memory, else on a thread that may wait.
async fn fill(file: &Arc<File>, mut buffer: Buffer, offset: u64) -> Result<Buffer, ReadError> {
    let mut done = 0;
    while NOWAIT.load(Ordering::Relaxed) && done < buffer.as_ref().len() {
        let rest = buffer.as_mut().get_mut(done..).unwrap_or_default();
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(rest)], offset + done as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(ReadError::Damaged("it is shorter than it was".into())),
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => NOWAIT.store(false, Ordering::Relaxed),
            Err(_) => break,
        }
    }
    if done == buffer.as_ref().len() {
        return Ok(buffer);
    }
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let rest = buffer.as_mut().get_mut(done..).unwrap_or_default();
        file.read_exact_at(rest, offset + done as u64).map(|()| buffer)
    });
    match read.await {
        Ok(Ok(buffer)) => Ok(buffer),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ReadError::Damaged("it is shorter than it was".into())),
        Ok(Err(error)) => Err(StorageError::Unavailable(error.to_string()).into()),
        Err(error) => Err(StorageError::Other(error.to_string()).into()),
    }
}
