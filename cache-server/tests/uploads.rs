//! Uploads that are not what they should be, and what happens to those that are.

mod common;

use common::{Cache, cas, content, error_code};
use futures_util::stream;
use preheat_image::Digest;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use reqwest::{Body, Method, StatusCode};
use std::io::Write as _;
use std::time::Duration;
use tokio::sync::oneshot;

const MIB: usize = 1024 * 1024;

async fn is_missing(cache: &Cache, digest: &Digest) -> bool {
    cache.get(&cas("team", digest)).send().await.unwrap().status() == StatusCode::NOT_FOUND
}

/// Puts `body` as a compressed blob with this digest.
async fn put_zstd(cache: &Cache, digest: &Digest, body: Vec<u8>) -> reqwest::Response {
    cache.request(Method::PUT, &cas("team", digest)).header(CONTENT_ENCODING, "zstd").body(body).send().await.unwrap()
}

#[tokio::test]
async fn other_content_than_the_digest_says_is_refused() {
    let cache = Cache::start().await;
    let digest = Digest::of(b"right");
    for wrong in [b"wrong".to_vec(), b"right\0".to_vec(), b"righ".to_vec(), vec![], content(300_000, 1)] {
        let response = cache.put(&cas("team", &digest), wrong).await;
        assert_eq!(error_code(response, StatusCode::UNPROCESSABLE_ENTITY).await, "digest-mismatch");
        assert!(is_missing(&cache, &digest).await);
    }
    // A blob that is there protects nobody from being checked.
    cache.store("team", b"right").await;
    let response = cache.put(&cas("team", &digest), "wrong").await;
    assert_eq!(error_code(response, StatusCode::UNPROCESSABLE_ENTITY).await, "digest-mismatch");
    assert_eq!(cache.get(&cas("team", &digest)).send().await.unwrap().text().await.unwrap(), "right");
}

#[tokio::test]
async fn too_large_is_refused_with_and_without_a_length() {
    let cache = Cache::with(|config| config.limits.max_blob_bytes = 100_000).await;
    let fits = content(100_000, 2);
    cache.store("team", &fits).await;
    let bytes = content(100_001, 2);
    let digest = Digest::of(&bytes);
    let path = cas("team", &digest);
    assert_eq!(error_code(cache.put(&path, bytes.clone()).await, StatusCode::PAYLOAD_TOO_LARGE).await, "too-large");
    let pieces: Vec<_> = bytes.chunks(10_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let chunked = cache.put(&path, Body::wrap_stream(stream::iter(pieces))).await;
    assert_eq!(error_code(chunked, StatusCode::PAYLOAD_TOO_LARGE).await, "too-large");
    let packed = zstd::encode_all(bytes.as_slice(), 3).unwrap();
    assert_eq!(error_code(put_zstd(&cache, &digest, packed).await, StatusCode::PAYLOAD_TOO_LARGE).await, "too-large");
    assert!(is_missing(&cache, &digest).await);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let cache = Cache::start().await;
    let bytes = content(200_000, 3);
    let digest = Digest::of(&bytes);
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        cas("team", &digest),
        cache.token,
        bytes.len()
    );
    for sent in [0, 1, 70_000, bytes.len() - 1] {
        let answer = cache.raw(&[head.as_bytes(), &bytes[..sent]].concat()).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        assert!(is_missing(&cache, &digest).await, "{sent} bytes were sent");
    }
    // More than the length says: the rest is another request, and no good one.
    let answer = cache.raw(&[head.as_bytes(), &bytes, b"GARBAGE"].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(cache.get(&cas("team", &digest)).send().await.unwrap().bytes().await.unwrap() == bytes);
    let left: Vec<_> = walk(&cache.directory.path().join("cache/tmp"));
    assert!(left.is_empty(), "{left:?}");
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

#[tokio::test]
async fn compressed_uploads_are_checked_by_what_they_contain() {
    let cache = Cache::start().await;
    for size in [0, 1, 1000, 65_536, 65_537, 262_144, 5_000_000] {
        let bytes = content(size, 4);
        let digest = Digest::of(&bytes);
        // In one go, whose window is the content, and as a stream, which says nothing about its size.
        let bulk = zstd::bulk::compress(&bytes, 3).unwrap();
        assert_eq!(put_zstd(&cache, &digest, bulk).await.status(), StatusCode::CREATED, "{size}");
        let streamed = zstd::encode_all(bytes.as_slice(), 6).unwrap();
        assert_eq!(put_zstd(&cache, &digest, streamed).await.status(), StatusCode::OK, "{size}");
        assert!(cache.get(&cas("team", &digest)).send().await.unwrap().bytes().await.unwrap() == bytes);
    }
    // The strongest of the usual levels, whose window is the largest that is taken.
    let bytes = content(70_000, 10);
    let mut encoder = zstd::Encoder::new(Vec::new(), 19).unwrap();
    encoder.write_all(&bytes).unwrap();
    assert_eq!(put_zstd(&cache, &Digest::of(&bytes), encoder.finish().unwrap()).await.status(), StatusCode::CREATED);
    // Several frames are one content.
    let (one, two) = (content(100_000, 5), content(50_000, 6));
    let whole = [one.as_slice(), &two].concat();
    let packed = [zstd::encode_all(one.as_slice(), 3).unwrap(), zstd::encode_all(two.as_slice(), 3).unwrap()].concat();
    assert_eq!(put_zstd(&cache, &Digest::of(&whole), packed).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn damaged_compression_is_refused() {
    let cache = Cache::start().await;
    let bytes = content(300_000, 7);
    let digest = Digest::of(&bytes);
    let packed = zstd::encode_all(bytes.as_slice(), 3).unwrap();
    for cut in [1, 3, 10, packed.len() / 2, packed.len() - 1] {
        let response = put_zstd(&cache, &digest, packed[..cut].to_vec()).await;
        assert_eq!(error_code(response, StatusCode::UNPROCESSABLE_ENTITY).await, "truncated", "{cut}");
    }
    assert_eq!(error_code(put_zstd(&cache, &digest, bytes.clone()).await, StatusCode::UNPROCESSABLE_ENTITY).await, "bad-compression");
    let tail = [packed.as_slice(), b"and more"].concat();
    assert_eq!(error_code(put_zstd(&cache, &digest, tail).await, StatusCode::UNPROCESSABLE_ENTITY).await, "bad-compression");
    assert_eq!(put_zstd(&cache, &Digest::of(b""), vec![]).await.status(), StatusCode::UNPROCESSABLE_ENTITY, "nothing is no frame");
    let twice = cache.request(Method::PUT, &cas("team", &digest)).header(CONTENT_ENCODING, "zstd, zstd").body(packed.clone());
    assert_eq!(error_code(twice.send().await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE).await, "unsupported-encoding");
    let gzip = cache.request(Method::PUT, &cas("team", &digest)).header(CONTENT_ENCODING, "gzip").body(packed);
    assert_eq!(error_code(gzip.send().await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE).await, "unsupported-encoding");
    assert!(is_missing(&cache, &digest).await);
}

#[tokio::test]
async fn a_zstd_bomb_is_refused_before_it_goes_off() {
    let cache = Cache::start().await;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    let zeros = vec![0; MIB];
    for _ in 0..200 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let response = put_zstd(&cache, &Digest::of(b"whatever"), bomb.clone()).await;
    assert_eq!(error_code(response, StatusCode::UNPROCESSABLE_ENTITY).await, "compression-ratio");
    // The same behind something that does not shrink: the ratio is that of all so far.
    let mut noise = vec![0; 50_000];
    getrandom::fill(&mut noise).unwrap();
    let hidden = [zstd::encode_all(noise.as_slice(), 3).unwrap(), bomb].concat();
    let response = put_zstd(&cache, &Digest::of(b"whatever"), hidden).await;
    assert_eq!(error_code(response, StatusCode::UNPROCESSABLE_ENTITY).await, "compression-ratio");
    // A frame that asks for a window of 128 MiB.
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&noise).unwrap();
    let wide = encoder.finish().unwrap();
    let response = put_zstd(&cache, &Digest::of(&noise), wide).await;
    assert_eq!(error_code(response, StatusCode::UNPROCESSABLE_ENTITY).await, "bad-compression");
}

#[tokio::test]
async fn a_later_frame_gets_no_larger_window_than_the_first_one_asked_for() {
    let cache = Cache::start().await;
    let (small, large) = (content(1000, 11), content(3_000_000, 12));
    let first = zstd::bulk::compress(&small, 3).unwrap();
    let with_window = |log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&large).unwrap();
        encoder.finish().unwrap()
    };
    let whole = [small.as_slice(), &large].concat();
    let digest = Digest::of(&whole);
    // The memory for the window was taken out of the budget when the first frame was seen.
    for log in [20, 23, 27] {
        let response = put_zstd(&cache, &digest, [first.as_slice(), &with_window(log)].concat()).await;
        assert_eq!(error_code(response, StatusCode::UNPROCESSABLE_ENTITY).await, "bad-compression", "{log}");
        assert!(is_missing(&cache, &digest).await);
    }
    assert_eq!(put_zstd(&cache, &digest, [first.as_slice(), &with_window(10)].concat()).await.status(), StatusCode::CREATED);
    // The larger one first is fine.
    let other = [large.as_slice(), &small].concat();
    assert_eq!(put_zstd(&cache, &Digest::of(&other), [with_window(20), first].concat()).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_little_that_compresses_well_is_no_bomb() {
    let cache = Cache::start().await;
    let zeros = vec![0; MIB];
    let packed = zstd::bulk::compress(&zeros, 19).unwrap();
    assert_eq!(put_zstd(&cache, &Digest::of(&zeros), packed).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_shutdown_lets_uploads_finish() {
    let cache = Cache::start().await;
    let bytes = content(400_000, 8);
    let digest = Digest::of(&bytes);
    let (finish, finished) = oneshot::channel::<()>();
    let (begun, has_begun) = oneshot::channel::<()>();
    let (one, two) = (bytes[..200_000].to_vec(), bytes[200_000..].to_vec());
    let pieces = stream::unfold((0, Some(begun), Some(finished)), move |(step, begun, finished)| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            match step {
                0 => Some((Ok::<_, std::io::Error>(one), (1, begun, finished))),
                1 => {
                    let _ = begun?.send(());
                    let _ = finished?.await;
                    Some((Ok(two), (2, None, None)))
                }
                _ => None,
            }
        }
    });
    let upload = cache.request(Method::PUT, &cas("team", &digest)).header(CONTENT_LENGTH, bytes.len()).body(Body::wrap_stream(pieces));
    let upload = tokio::spawn(upload.send());
    has_begun.await.unwrap();
    let addr = cache.server.addr();
    let Cache { server, directory: _directory, client, .. } = cache;
    let shutdown = tokio::spawn(server.shutdown());
    // It takes no more connections from now on.
    let refused = async {
        while tokio::net::TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    assert!(!shutdown.is_finished());
    finish.send(()).unwrap();
    assert_eq!(upload.await.unwrap().unwrap().status(), StatusCode::CREATED);
    drop(client);
    tokio::time::timeout(Duration::from_secs(20), shutdown).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended_and_leaves_nothing() {
    let cache = Cache::with(|config| config.limits.request_seconds = 1).await;
    let bytes = content(100_000, 9);
    let digest = Digest::of(&bytes);
    let begin = stream::iter([Ok::<_, std::io::Error>(bytes[..50_000].to_vec())]);
    let never = futures_util::StreamExt::chain(begin, stream::pending());
    let upload = cache.request(Method::PUT, &cas("team", &digest)).header(CONTENT_LENGTH, bytes.len()).body(Body::wrap_stream(never));
    assert_eq!(error_code(upload.send().await.unwrap(), StatusCode::REQUEST_TIMEOUT).await, "request-timeout");
    assert!(is_missing(&cache, &digest).await);
    assert_eq!(cache.metric("preheat_cache_in_flight_bytes").await, 0);
}
