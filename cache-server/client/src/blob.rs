//! Fetching a blob: hashed while it streams, continued where a connection broke, never more than was asked for.

use crate::cache::Cache;
use crate::config::Patience;
use crate::error::ClientError;
use crate::http::{broken, shown};
use crate::retry::Tries;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use preheat_image::{Digest, DigestHasher};
use reqwest::{Response, Url};
use std::io;
use tokio::time::{Instant, timeout_at};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// Blobs smaller than this in bytes travel as they are.
pub(crate) const COMPRESSED_FROM: u64 = 16 * 1024;
/// Largest window of zstd that is decoded, as a power of two: 8 MiB, as the format's specification asks of everybody.
const WINDOW_LOG_MAX: u32 = 23;

/// A blob by its digest and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// Takes the bytes of a blob. What it took is worth nothing until the transfer has ended well: only then is the digest known to be right.
pub trait BlobSink: Send {
    /// Takes the next bytes: up to some hundred thousand. Called between reads from the network, so it should not take long.
    ///
    /// # Errors
    /// What went wrong; it ends the transfer.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets all bytes so far: the blob begins anew.
    ///
    /// # Errors
    /// What went wrong; it ends the transfer.
    fn restart(&mut self) -> io::Result<()>;
}

impl BlobSink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl BlobSink for std::fs::File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(self, bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.set_len(0)?;
        io::Seek::rewind(self)
    }
}

/// Is told how transfers go, for a progress bar. All methods do nothing unless they are written.
pub trait Progress: Send + Sync {
    /// So many blobs with so many bytes in all are about to be moved.
    fn begin(&self, blobs: usize, bytes: u64) {
        let _ = (blobs, bytes);
    }

    /// So many bytes of a blob are done; fewer than before when it had to begin anew.
    fn moved(&self, blob: &Blob, done: u64) {
        let _ = (blob, done);
    }

    /// A blob is there, verified.
    fn finished(&self, blob: &Blob) {
        let _ = blob;
    }
}

impl Progress for () {}

/// How far a blob has come.
pub(crate) struct Arriving<'a> {
    pub(crate) blob: Blob,
    sink: &'a mut dyn BlobSink,
    progress: &'a dyn Progress,
    hasher: DigestHasher,
    pub(crate) done: u64,
    /// What the bytes so far belong to, for going on after a break.
    pub(crate) etag: Option<HeaderValue>,
    /// Whether they came in more than one piece.
    pub(crate) pieced: bool,
}

impl<'a> Arriving<'a> {
    pub(crate) fn new(blob: &Blob, sink: &'a mut dyn BlobSink, progress: &'a dyn Progress) -> Self {
        Self { blob: *blob, sink, progress, hasher: DigestHasher::new(), done: 0, etag: None, pieced: false }
    }

    /// The digest of the bytes so far.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finalize()
    }

    pub(crate) fn take(&mut self, url: &str, bytes: &[u8]) -> Result<(), ClientError> {
        let more = self.done.saturating_add(bytes.len() as u64);
        if more > self.blob.size {
            return Err(bad(url, format!("more than the {} bytes that the blob has", self.blob.size)));
        }
        self.hasher.update(bytes);
        self.sink.write(bytes).map_err(local)?;
        self.done = more;
        self.progress.moved(&self.blob, more);
        Ok(())
    }

    pub(crate) fn restart(&mut self) -> Result<(), ClientError> {
        if self.done > 0 {
            self.sink.restart().map_err(local)?;
            self.progress.moved(&self.blob, 0);
        }
        self.hasher = DigestHasher::new();
        self.done = 0;
        self.etag = None;
        self.pieced = false;
        Ok(())
    }
}

fn bad(url: &str, what: impl Into<String>) -> ClientError {
    ClientError::BadAnswer { url: url.to_owned(), what: what.into() }
}

fn local(source: io::Error) -> ClientError {
    ClientError::Local { what: "write what arrives", source }
}

impl Cache {
    /// Fetches a blob into `sink`, which has to be empty. Only after success are its bytes those of the digest; after an error nothing may be
    /// used of what the sink took. A broken connection is taken up again where it broke.
    ///
    /// # Errors
    /// [`ClientError`]: [`ClientError::DigestMismatch`] when the service has other bytes, [`ClientError::Local`] when the sink fails.
    pub async fn get_blob(
        &self,
        namespace: &str,
        blob: &Blob,
        sink: &mut dyn BlobSink,
        progress: &dyn Progress,
    ) -> Result<(), ClientError> {
        let url = self.blob_url(namespace, &blob.digest)?;
        let patience = self.patience();
        let mut tries = Tries::new(patience);
        let mut arriving = Arriving::new(blob, sink, progress);
        let mut begun_anew = false;
        loop {
            let before = arriving.done;
            let error = match self.get_once(&url, &mut arriving).await {
                Ok(()) => {
                    let found = arriving.digest();
                    if found == blob.digest {
                        progress.finished(blob);
                        return Ok(());
                    }
                    if !arriving.pieced || begun_anew {
                        return Err(ClientError::DigestMismatch { url: shown(&url), wanted: blob.digest, found });
                    }
                    // Put together from pieces that may be of different bytes: once more, in one.
                    begun_anew = true;
                    arriving.restart()?;
                    continue;
                }
                Err(error) => error,
            };
            // A service that gives one byte each time would keep us forever: only a real step forward counts.
            if arriving.done.saturating_sub(before) >= patience.stall_bytes {
                tries.moved();
            }
            tries.again(error).await?;
        }
    }

    async fn get_once(&self, url: &Url, arriving: &mut Arriving<'_>) -> Result<(), ClientError> {
        let mut headers = HeaderMap::new();
        if arriving.done == 0 {
            let compressed = self.transport().compresses() && arriving.blob.size >= COMPRESSED_FROM;
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(if compressed { "zstd" } else { "identity" }));
        } else {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.insert(RANGE, HeaderValue::try_from(format!("bytes={}-", arriving.done)).map_err(|e| bad("", e.to_string()))?);
            if let Some(etag) = &arriving.etag {
                headers.insert(IF_RANGE, etag.clone());
            }
        }
        let until = Instant::now() + self.patience().answer;
        let response = self.transport().get_following(url.clone(), headers, until).await?;
        let url = shown(url);
        match response.status() {
            StatusCode::OK => arriving.restart()?,
            StatusCode::PARTIAL_CONTENT if arriving.done > 0 => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
                let Blob { size, .. } = arriving.blob;
                if range != format!("bytes {}-{}/{size}", arriving.done, size - 1) {
                    return Err(bad(&url, "another range than the one that was asked for"));
                }
                arriving.pieced = true;
            }
            StatusCode::RANGE_NOT_SATISFIABLE if arriving.done > 0 => {
                arriving.restart()?;
                return Err(ClientError::Unreachable { url, what: "the rest is not to be had; from the beginning".into() });
            }
            status if status.is_success() => return Err(bad(&url, format!("status {status} for a blob"))),
            _ => return Err(self.transport().refusal(&url, response, until).await),
        }
        match response.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity") => plain(self.patience(), &url, response, arriving).await,
            Some(b"zstd") if arriving.done == 0 => self.compressed(&url, response, arriving).await,
            Some(_) => Err(bad(&url, "a content encoding that was not asked for")),
        }
    }

    async fn compressed(&self, url: &str, mut response: Response, arriving: &mut Arriving<'_>) -> Result<(), ClientError> {
        // After a break the rest is asked for as it is. Then the tag is the one that the plain blob has.
        arriving.etag = HeaderValue::try_from(format!("\"{}\"", arriving.blob.digest)).ok();
        let size = arriving.blob.size;
        // What zstd needs for what can't be compressed (`ZSTD_COMPRESSBOUND`), and room for small frames.
        let most = size + size / 128 + 64 * 1024;
        let mut came = 0u64;
        let damaged = |e: io::Error| bad(url, format!("damaged zstd: {e}"));
        let mut decoder = Decoder::new().map_err(damaged)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(damaged)?;
        let mut decoded = vec![0; 128 * 1024];
        let mut watch = Watch::new(self.patience());
        while let Some(piece) = watch.next(url, &mut response).await? {
            came += piece.len() as u64;
            if came > most {
                return Err(bad(url, "more compressed bytes than the blob can have"));
            }
            let mut input = InBuffer::around(&piece);
            loop {
                let mut output = OutBuffer::around(decoded.as_mut_slice());
                decoder.run(&mut input, &mut output).map_err(damaged)?;
                let (produced, full) = (output.pos(), output.pos() == output.capacity());
                arriving.take(url, &decoded[..produced])?;
                if input.pos() == piece.len() && !full {
                    break;
                }
            }
        }
        whole(url, arriving)
    }
}

/// Takes a body as it is.
pub(crate) async fn plain(patience: &Patience, url: &str, mut response: Response, arriving: &mut Arriving<'_>) -> Result<(), ClientError> {
    let left = arriving.blob.size - arriving.done;
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length.filter(|length| *length != left) {
        return Err(bad(url, format!("{length} bytes of the {left} that are to come")));
    }
    // A weak tag says nothing about single bytes.
    arriving.etag = response.headers().get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).cloned();
    let mut watch = Watch::new(patience);
    while let Some(piece) = watch.next(url, &mut response).await? {
        arriving.take(url, &piece)?;
    }
    whole(url, arriving)
}

/// An answer that ends early is like one that breaks.
fn whole(url: &str, arriving: &Arriving<'_>) -> Result<(), ClientError> {
    let Blob { size, .. } = arriving.blob;
    if arriving.done < size {
        let what = format!("the answer ended after {} of {size} bytes", arriving.done);
        return Err(ClientError::Unreachable { url: url.to_owned(), what });
    }
    Ok(())
}

/// Reads a body and notices when too little comes.
struct Watch<'p> {
    patience: &'p Patience,
    until: Instant,
    came: u64,
}

impl<'p> Watch<'p> {
    fn new(patience: &'p Patience) -> Self {
        Self { patience, until: Instant::now() + patience.stall, came: 0 }
    }

    async fn next(&mut self, url: &str, response: &mut Response) -> Result<Option<bytes::Bytes>, ClientError> {
        let piece = match timeout_at(self.until, response.chunk()).await {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => return Err(broken(url, &error)),
            Err(_) => return Err(ClientError::TimedOut { url: url.to_owned(), what: "too few bytes come".into() }),
        };
        self.came += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if self.came >= self.patience.stall_bytes {
            self.came = 0;
            self.until = Instant::now() + self.patience.stall;
        }
        Ok(piece)
    }
}
