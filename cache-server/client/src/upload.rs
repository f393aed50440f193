//! Bringing a blob: read off the async threads, a few pieces ahead of the network, again from the beginning when a try fails.

use crate::blob::{Blob, COMPRESSED_FROM, Progress};
use crate::cache::{Cache, PutOutcome};
use crate::config::Patience;
use crate::error::ClientError;
use crate::http::shown;
use crate::retry::Tries;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Body, Response, Url};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Opens the bytes of a blob from their beginning; once for each try.
pub type Source = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// Bytes in one piece.
const PIECE: usize = 128 * 1024;
/// Pieces that wait for the network.
const AHEAD: usize = 4;
/// Fast; a machine's disk and a builder's network are seldom slower than that.
const LEVEL: i32 = 3;
/// Answers to a compressed upload after which the blob is sent as it is. The last is what services say that have no words of their own.
const UNCOMPRESSED_INSTEAD: [&str; 3] = ["compression-ratio", "unsupported-encoding", "415"];

/// What the reading thread and the sending task know of each other.
#[derive(Default)]
pub(crate) struct Shared {
    /// Bytes of the blob that were given to the network.
    sent: AtomicU64,
    /// Whether all were.
    ended: AtomicBool,
    /// Why reading failed.
    failed: Mutex<Option<io::Error>>,
}

impl Shared {
    /// The answer, unless reading failed: a source that fails ends the connection too; that is the reason then, not the network.
    pub(crate) fn or_failed<T>(&self, answer: Result<T, ClientError>) -> Result<T, ClientError> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(source) => Err(ClientError::Local { what: "read what is to be sent", source }),
            None => answer,
        }
    }
}

/// The end of a request that [`watch`] ends: it is not known before.
pub(crate) fn never() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

impl Cache {
    /// Brings a blob. The service refuses it when the bytes are not those of the digest.
    ///
    /// # Errors
    /// [`ClientError`]: [`ClientError::Local`] when the source fails or has another length.
    pub async fn put_blob(
        &self,
        namespace: &str,
        blob: &Blob,
        source: &Source,
        progress: &dyn Progress,
    ) -> Result<PutOutcome, ClientError> {
        let url = self.blob_url(namespace, &blob.digest)?;
        let mut tries = Tries::new(self.patience());
        let mut compressed = self.transport().compresses() && blob.size >= COMPRESSED_FROM;
        loop {
            match self.put_once(&url, blob, source, compressed, progress).await {
                Ok(outcome) => {
                    progress.finished(blob);
                    return Ok(outcome);
                }
                // A heap of zeros looks like a bomb; and not every service takes zstd.
                Err(ClientError::Refused { code, .. }) if compressed && UNCOMPRESSED_INSTEAD.contains(&code.as_str()) => {
                    progress.moved(blob, 0);
                    compressed = false;
                }
                Err(error) => {
                    progress.moved(blob, 0);
                    tries.again(error).await?;
                }
            }
        }
    }

    async fn put_once(
        &self,
        url: &Url,
        blob: &Blob,
        source: &Source,
        compressed: bool,
        progress: &dyn Progress,
    ) -> Result<PutOutcome, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if compressed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        } else {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        }
        let shared = Arc::new(Shared::default());
        let body = body(Arc::clone(source), blob.size, compressed, Arc::clone(&shared));
        let sending = self.transport().send(Method::PUT, url.clone(), headers, body, never());
        let response = shared.or_failed(watch(self.patience(), url, blob, sending, &shared, progress).await)?;
        match response.status() {
            StatusCode::CREATED => Ok(PutOutcome::Created),
            status if status.is_success() => Ok(PutOutcome::WasThere),
            _ => Err(self.transport().refusal(&shown(url), response, Instant::now() + self.patience().answer).await),
        }
    }
}

/// Waits for the answer to a request that is being sent, tells how far it is, and gives up when too little moves.
pub(crate) async fn watch(
    patience: &Patience,
    url: &Url,
    blob: &Blob,
    sending: impl Future<Output = Result<Response, ClientError>>,
    shared: &Shared,
    progress: &dyn Progress,
) -> Result<Response, ClientError> {
    tokio::pin!(sending);
    let (mut sent, mut since) = (0, Instant::now());
    let tick = (patience.stall.min(patience.answer) / 4).min(Duration::from_millis(100));
    loop {
        match tokio::time::timeout(tick, &mut sending).await {
            Ok(answer) => return answer,
            Err(_) => {
                let now = shared.sent.load(Ordering::Acquire);
                progress.moved(blob, now.min(blob.size));
                let ended = shared.ended.load(Ordering::Acquire);
                if now - sent >= patience.stall_bytes || ended && now > sent {
                    (sent, since) = (now, Instant::now());
                }
                let longest = if ended { patience.answer.max(patience.stall) } else { patience.stall };
                if since.elapsed() > longest {
                    let what = if ended { "no answer came" } else { "too few bytes are taken" };
                    return Err(ClientError::TimedOut { url: shown(url), what: what.into() });
                }
            }
        }
    }
}

/// A body that a thread for blocking work reads.
pub(crate) fn body(source: Source, size: u64, compressed: bool, shared: Arc<Shared>) -> Body {
    let receiver = pieces(source, size, compressed, shared);
    Body::wrap_stream(futures_util::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) },
    ))
}

/// The pieces of a source, read by a thread for blocking work.
pub(crate) fn pieces(source: Source, size: u64, compressed: bool, shared: Arc<Shared>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(&source, size, compressed, &shared, &sender) {
            *shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            // Breaks the connection, so that the service does not take a part for the whole.
            let _ = sender.blocking_send(Err(io::Error::other("the source failed")));
        }
    });
    receiver
}

/// Reads and sends all; a receiver that is gone is no error.
fn read(source: &Source, size: u64, compressed: bool, shared: &Shared, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    // One byte more than there should be, to notice when the source has grown.
    let mut counted = Counted { inner: source()?.take(size.saturating_add(1)), shared };
    {
        let mut reader: Box<dyn Read + '_> =
            if compressed { Box::new(zstd::stream::read::Encoder::new(&mut counted, LEVEL)?) } else { Box::new(&mut counted) };
        loop {
            let mut piece = vec![0; PIECE];
            let mut filled = 0;
            while filled < PIECE {
                match reader.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            piece.truncate(filled);
            if filled == 0 {
                break;
            }
            // The last pieces of a source of the wrong length are not sent: HTTP would refuse them only when the length is given.
            if shared.sent.load(Ordering::Acquire) > size {
                return Err(io::Error::other(format!("it has more than {size} bytes")));
            }
            if sender.blocking_send(Ok(piece.into())).is_err() {
                return Ok(());
            }
        }
    }
    match shared.sent.load(Ordering::Acquire) {
        read if read == size => {
            shared.ended.store(true, Ordering::Release);
            Ok(())
        }
        read => Err(io::Error::other(format!("it has {read} bytes instead of {size}"))),
    }
}

/// Counts what is read.
struct Counted<'s> {
    inner: io::Take<Box<dyn Read + Send>>,
    shared: &'s Shared,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.shared.sent.fetch_add(read as u64, Ordering::AcqRel);
        Ok(read)
    }
}
