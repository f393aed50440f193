//! Takes uploads: hashed while they stream, undone from zstd if they are, and refused unless they are what they should be.

use crate::budget::LARGE_PIECE;
use crate::error::ApiError;
use crate::state::App;
use crate::storage::{Committed, Namespace, Upload};
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use preheat_image::chunks::{Builder, CHUNK_SIZE};
use preheat_image::{Digest, DigestHasher};
use std::time::Duration;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// A compressed upload may always become this large, in bytes, whatever its size.
const RATIO_FROM: u64 = 1024 * 1024;
/// Largest window of a compressed upload, as a power of two: 8 MiB, which is what `zstd -19` uses.
const MAX_WINDOW_LOG: u32 = 23;
/// Memory of a decoder beside its window, and of what it makes of a piece, in bytes.
const DECODER: usize = LARGE_PIECE + 384 * 1024;
/// Most bytes of an upload that are taken and thrown away so that the client gets to read why it was refused.
const DRAIN: usize = 1024 * 1024;

/// A blob that is in storage now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) created: bool,
}

/// Takes a body into storage. With `expected`, it must have that digest.
///
/// # Errors
/// 413 when it is too large, 415 for an encoding other than zstd, 422 when it is not what it should be, 400 when it ends too early. Nothing is
/// left then.
pub(crate) async fn receive(
    app: &App,
    namespace: &Namespace,
    headers: &HeaderMap,
    mut body: Body,
    expected: Option<Digest>,
) -> Result<Received, ApiError> {
    let received = take(app, namespace, headers, &mut body, expected).await;
    if received.is_err() {
        drain(&mut body).await;
    }
    received
}

async fn take(
    app: &App,
    namespace: &Namespace,
    headers: &HeaderMap,
    body: &mut Body,
    expected: Option<Digest>,
) -> Result<Received, ApiError> {
    let max = app.config.limits.max_blob_bytes;
    let compressed = is_compressed(headers)?;
    // A compressed body is not larger than what it contains, but for some bytes.
    if content_length(headers).is_some_and(|length| length > max.saturating_add(if compressed { max / 128 + 1024 } else { 0 })) {
        return Err(too_large(max));
    }
    let mut intake =
        Intake { storage: app.blobs.begin(namespace).await?, hasher: DigestHasher::new(), chunks: Builder::new(), size: 0, max };
    match compressed {
        false => take_plain(app, body, &mut intake).await?,
        true => take_compressed(app, body, &mut intake).await?,
    }
    intake.finish(expected).await
}

/// An upload that was refused before any of it was read: takes what little there is of it, so that the client reads the answer rather than
/// losing the connection while it writes.
pub(crate) async fn drain(body: &mut Body) {
    let read = async {
        let mut left = DRAIN;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // A client that waits for `100 Continue` sends nothing any more once it has the answer.
    let _ = tokio::time::timeout(Duration::from_millis(500), read).await;
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_compressed(headers: &HeaderMap) -> Result<bool, ApiError> {
    let mut compressed = false;
    for value in headers.get_all(CONTENT_ENCODING) {
        for coding in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match coding {
                b"" => {}
                _ if coding.eq_ignore_ascii_case(b"identity") => {}
                _ if coding.eq_ignore_ascii_case(b"zstd") && !compressed => compressed = true,
                _ => {
                    return Err(ApiError::new(
                        StatusCode::UNSUPPORTED_MEDIA_TYPE,
                        "unsupported-encoding",
                        "uploads may be compressed with zstd, once",
                    ));
                }
            }
        }
    }
    Ok(compressed)
}

fn too_large(max: u64) -> ApiError {
    ApiError::too_large(format!("a blob may have at most {max} bytes here")).hint("the operator can raise `limits.max-blob-bytes`")
}

/// What is known of an upload so far.
struct Intake {
    storage: Box<dyn Upload>,
    hasher: DigestHasher,
    chunks: Builder,
    size: u64,
    max: u64,
}

impl Intake {
    async fn take(&mut self, bytes: Bytes) -> Result<(), ApiError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.max {
            return Err(too_large(self.max));
        }
        // Hashed here and not on another thread: a piece takes less time than handing it over and back, and the writing below gives way.
        self.hasher.update(&bytes);
        self.chunks.update(&bytes);
        Ok(self.storage.write(bytes).await?)
    }

    async fn finish(self, expected: Option<Digest>) -> Result<Received, ApiError> {
        let digest = self.hasher.finalize();
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(ApiError::refused("digest-mismatch", format!("the content has digest {digest}, not {expected}")));
        }
        let chunks = (self.size > CHUNK_SIZE as u64).then(|| Bytes::from(self.chunks.finish()));
        let Committed { created } = self.storage.commit(&digest, chunks).await?;
        Ok(Received { digest, size: self.size, created })
    }
}

/// The next bytes of a body; none at its end.
async fn next(app: &App, body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data()
                    && !bytes.is_empty()
                {
                    app.metrics.bytes_received.inc_by(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "an upload broke off");
                return Err(ApiError::bad_request("truncated", "the body ended before its end"));
            }
        }
    }
}

async fn take_plain(app: &App, body: &mut Body, intake: &mut Intake) -> Result<(), ApiError> {
    while let Some(bytes) = next(app, body).await? {
        // Taken when the bytes are here, not before: a slow client holds none of the budget.
        let _permit = app.budget.acquire(bytes.len()).await?;
        intake.take(bytes).await?;
    }
    Ok(())
}

async fn take_compressed(app: &App, body: &mut Body, intake: &mut Intake) -> Result<(), ApiError> {
    let bad = |error: std::io::Error| ApiError::refused("bad-compression", format!("the body is not zstd: {error}"));
    let ratio = u64::from(app.config.limits.max_decompression_ratio);
    let mut bytes = next(app, body).await?.unwrap_or_default();
    // What the first frame asks for is the most that later ones get.
    let window_log = window_log(&bytes).map_or(MAX_WINDOW_LOG, |log| log.clamp(10, MAX_WINDOW_LOG));
    let _memory = app.budget.acquire_coder(DECODER + (1 << window_log)).await?;
    let mut decoder = Decoder::new().map_err(bad)?;
    decoder.set_parameter(DParameter::WindowLogMax(window_log)).map_err(bad)?;
    let mut scratch = app.budget.covered_buffer(LARGE_PIECE);
    let mut taken = 0u64;
    // Whether the body may end here: after a frame.
    let mut whole = false;
    while !bytes.is_empty() {
        let mut input = InBuffer::around(&bytes);
        loop {
            let mut output = OutBuffer::around(scratch.as_mut());
            let before = input.pos();
            let hint = decoder.run(&mut input, &mut output).map_err(bad)?;
            let written = output.pos();
            let full = written == output.capacity();
            taken += (input.pos() - before) as u64;
            if let Some(written) = scratch.as_ref().get(..written).filter(|written| !written.is_empty()) {
                // A copy of its size: storage may keep it for a while, and counts what it keeps.
                intake.take(Bytes::copy_from_slice(written)).await?;
            }
            if intake.size > RATIO_FROM.saturating_add(taken.saturating_mul(ratio)) {
                return Err(ApiError::refused("compression-ratio", format!("the body becomes more than {ratio} times as large"))
                    .hint("send it uncompressed"));
            }
            whole = hint == 0;
            if input.pos() == bytes.len() && (!full || whole) {
                break;
            }
        }
        bytes = next(app, body).await?.unwrap_or_default();
    }
    if whole { Ok(()) } else { Err(ApiError::refused("truncated", "the compressed body ends before its end")) }
}

/// The window that the frame at the beginning of `bytes` asks for, as a power of two rounded up; none if that can't be seen.
///
/// RFC 8878, section 3.1.1.1.
fn window_log(bytes: &[u8]) -> Option<u32> {
    let rest = bytes.strip_prefix(&0xFD2F_B528u32.to_le_bytes())?;
    let (descriptor, rest) = rest.split_first()?;
    let window = if descriptor & 0x20 == 0 {
        let window = rest.first()?;
        let base = 1u64 << (10 + (window >> 3));
        base + base / 8 * u64::from(window & 7)
    } else {
        // The window is the content. Its size follows the number of a dictionary.
        let skip = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let field = |length: usize| -> Option<u64> {
            let mut le = [0; 8];
            le.get_mut(..length)?.copy_from_slice(rest.get(skip..skip + length)?);
            Some(u64::from_le_bytes(le))
        };
        match descriptor >> 6 {
            0 => field(1)?,
            1 => field(2)? + 256,
            2 => field(4)?,
            _ => field(8)?,
        }
    };
    Some(window.max(1).checked_next_power_of_two()?.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_read_as_the_encoder_wrote_it() {
        use std::io::Write as _;
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.write_all(&[7; 10]).unwrap();
        // Nothing was said about the size: a window descriptor, that of level 3.
        assert_eq!(window_log(&encoder.finish().unwrap()), Some(21));
        for (size, log) in [(1, 0), (100, 7), (256, 8), (257, 9), (70_000, 17), (1 << 20, 20)] {
            assert_eq!(window_log(&zstd::bulk::compress(&vec![7; size], 3).unwrap()), Some(log), "{size}");
        }
        assert_eq!(window_log(b""), None);
        assert_eq!(window_log(b"\x28\xb5\x2f\xfd"), None);
        assert_eq!(window_log(b"something else"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_the_window_overflow(tail: Vec<u8>) {
            let bytes = [&0xFD2F_B528u32.to_le_bytes(), tail.as_slice()].concat();
            proptest::prop_assert!(window_log(&bytes).is_none_or(|log| log < 64));
        }
    }
}
