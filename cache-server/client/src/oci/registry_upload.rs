//! Bringing a blob to a registry: in one request where the registry takes it so, in several where it does not.

use super::auth::Right;
use super::registry::{Ask, Registry};
use crate::blob::{Blob, Progress};
use crate::error::ClientError;
use crate::http::shown;
use crate::retry::Tries;
use crate::upload::{Shared, Source, body, never, pieces, watch};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use preheat_image::Digest;
use reqwest::{Response, Url};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes in one request when a blob goes in several: what proxies take that take least.
const CHUNK: u64 = 1024 * 1024;
/// The largest chunk that a registry may ask for: it is held in memory.
const MAX_CHUNK: u64 = 64 * 1024 * 1024;
const MIN_LENGTH: &str = "oci-chunk-min-length";

/// An upload that the registry has begun.
struct Begun {
    url: Url,
    chunk: u64,
}

impl Registry {
    pub(super) async fn upload(&self, blob: &Blob, source: &Source, progress: &dyn Progress) -> Result<(), ClientError> {
        let mut tries = Tries::new(self.patience());
        let chunked = AtomicBool::new(self.config.chunked);
        let mut broken = 0;
        loop {
            let tried = if chunked.load(Ordering::Relaxed) {
                self.in_chunks(blob, source, progress).await
            } else {
                self.in_one(blob, source, progress, &chunked).await
            };
            match tried {
                Ok(true) => {
                    progress.finished(blob);
                    return Ok(());
                }
                Ok(false) => progress.moved(blob, 0),
                Err(error) => {
                    progress.moved(blob, 0);
                    broken += u32::from(matches!(error, ClientError::Unreachable { .. }));
                    // A proxy that takes no large bodies may end the connection before anybody has read that it said so.
                    if broken >= 2 && blob.size > CHUNK {
                        chunked.store(true, Ordering::Relaxed);
                    }
                    tries.again(error).await?;
                }
            }
        }
    }

    async fn begin(&self) -> Result<Begun, ClientError> {
        let url = self.url("blobs/uploads", "")?;
        let until = self.answer_by();
        let mut ask = Ask::new(Method::POST, url, Right::Push);
        ask.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        let response = self.send(&ask, until).await?;
        if !response.status().is_success() {
            return Err(self.refusal(&ask.url, response, until).await);
        }
        let least = response.headers().get(MIN_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
        if least > MAX_CHUNK {
            let what = format!("it wants chunks of {least} bytes, at most {MAX_CHUNK} are held in memory");
            return Err(ClientError::BadAnswer { url: shown(&ask.url), what });
        }
        Ok(Begun { url: self.led_to(&ask.url, &response)?, chunk: CHUNK.max(least) })
    }

    /// In one request. `Ok(false)`: to be tried again at once, in chunks where `chunked` says so now.
    async fn in_one(&self, blob: &Blob, source: &Source, progress: &dyn Progress, chunked: &AtomicBool) -> Result<bool, ClientError> {
        let begun = self.begin().await?;
        let mut ask = Ask::new(Method::PUT, finished(begun.url, &blob.digest), Right::Push);
        ask.headers = octets(blob.size);
        let used = self.authorization(ask.right).await;
        let shared = Arc::new(Shared::default());
        let body = body(Arc::clone(source), blob.size, false, Arc::clone(&shared));
        let sending = self.send_once(&ask, body, used.as_ref(), never());
        let response = shared.or_failed(watch(self.patience(), &ask.url, blob, sending, &shared, progress).await)?;
        let until = self.answer_by();
        match response.status() {
            status if status.is_success() => self.same_digest(&ask.url, &response, &blob.digest).map(|()| true),
            // The token ended meanwhile.
            StatusCode::UNAUTHORIZED if self.is_own(&ask.url) => {
                self.renewed(&response, ask.right, used.as_ref(), until).await?;
                let what = "the token ended meanwhile".to_owned();
                Err(ClientError::Unreachable { url: shown(&ask.url), what })
            }
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::METHOD_NOT_ALLOWED | StatusCode::LENGTH_REQUIRED | StatusCode::NOT_IMPLEMENTED => {
                let error = self.refusal(&ask.url, response, until).await;
                tracing::debug!(%error, "the registry takes the blob not in one request; in several");
                chunked.store(true, Ordering::Relaxed);
                Ok(false)
            }
            _ => Err(self.refusal(&ask.url, response, until).await),
        }
    }

    async fn in_chunks(&self, blob: &Blob, source: &Source, progress: &dyn Progress) -> Result<bool, ClientError> {
        let Begun { mut url, chunk } = self.begin().await?;
        let shared = Arc::new(Shared::default());
        let mut pieces = pieces(Arc::clone(source), blob.size, false, Arc::clone(&shared));
        let mut held = BytesMut::new();
        let mut done = 0u64;
        loop {
            let piece = pieces.recv().await;
            let ended = piece.is_none();
            match piece {
                Some(Ok(piece)) => held.extend_from_slice(&piece),
                Some(Err(_)) => return shared.or_failed(Err(ClientError::Invalid("a source that failed does not say why".into()))),
                None => {}
            }
            while held.len() as u64 >= chunk || ended && !held.is_empty() {
                let size = usize::try_from(chunk).unwrap_or(usize::MAX).min(held.len());
                let sent = held.split_to(size).freeze();
                let end = done + sent.len() as u64;
                url = self.patch(url, done, sent).await?;
                done = end;
                progress.moved(blob, done);
            }
            if ended {
                break;
            }
        }
        shared.or_failed(Ok(()))?;
        let until = self.answer_by();
        let mut ask = Ask::new(Method::PUT, finished(url, &blob.digest), Right::Push);
        ask.headers = octets(0);
        let response = self.send(&ask, until).await?;
        if !response.status().is_success() {
            return Err(self.refusal(&ask.url, response, until).await);
        }
        self.same_digest(&ask.url, &response, &blob.digest).map(|()| true)
    }

    /// Brings one chunk that begins at `from`; the next goes to the address that comes back.
    async fn patch(&self, url: Url, from: u64, bytes: Bytes) -> Result<Url, ClientError> {
        let last = from + bytes.len() as u64 - 1;
        let mut ask = Ask::new(Method::PATCH, url, Right::Push);
        ask.headers = octets(bytes.len() as u64);
        let range = HeaderValue::try_from(format!("{from}-{last}")).map_err(|e| ClientError::Invalid(e.to_string()))?;
        ask.headers.insert(CONTENT_RANGE, range);
        ask.body = bytes;
        let until = tokio::time::Instant::now() + self.patience().stall.max(self.patience().answer);
        let response = self.send(&ask, until).await?;
        if !response.status().is_success() {
            return Err(self.refusal(&ask.url, response, until).await);
        }
        if taken(&response).is_some_and(|taken| taken != last) {
            // Something got lost on the way; the next try begins another upload.
            return Err(ClientError::Unreachable { url: shown(&ask.url), what: "it has not taken the chunk whole".into() });
        }
        self.led_to(&ask.url, &response)
    }
}

/// The last byte that the registry has, where it says so: `Range: 0-…`.
fn taken(response: &Response) -> Option<u64> {
    response.headers().get(RANGE)?.to_str().ok()?.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()
}

fn octets(size: u64) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")), (CONTENT_LENGTH, HeaderValue::from(size))])
}

/// The address that ends an upload.
fn finished(mut url: Url, digest: &Digest) -> Url {
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}
