//! What the disk did to blobs is never sent.

mod common;

use common::{Cache, cas, content};
use preheat_image::Digest;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT_ENCODING, RANGE};
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

const CHUNK: usize = 65_536;

/// Flips a bit of a blob where it is stored.
fn flip(cache: &Cache, digest: &Digest, at: usize) {
    let path = cache.blob_path("team", digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at as u64).unwrap();
}

async fn status(cache: &Cache, digest: &Digest) -> StatusCode {
    cache.get(&cas("team", digest)).send().await.unwrap().status()
}

/// A blob that was found damaged: it is a miss, put aside, counted, and may be uploaded again.
async fn is_put_aside(cache: &Cache, digest: &Digest, bytes: &[u8]) {
    assert_eq!(status(cache, digest).await, StatusCode::NOT_FOUND);
    assert!(!cache.blob_path("team", digest).exists());
    assert_eq!(cache.metric("preheat_cache_verification_failures_total").await, 1);
    assert_eq!(cache.put(&cas("team", digest), bytes.to_vec()).await.status(), StatusCode::CREATED);
    assert!(cache.get(&cas("team", digest)).send().await.unwrap().bytes().await.unwrap() == bytes);
}

#[tokio::test]
async fn damage_at_the_beginning_is_a_miss() {
    for size in [1, 1000, CHUNK, CHUNK + 1, 20 * CHUNK] {
        let cache = Cache::start().await;
        let bytes = content(size, 1);
        let digest = cache.store("team", &bytes).await;
        flip(&cache, &digest, size.min(CHUNK) - 1);
        is_put_aside(&cache, &digest, &bytes).await;
    }
}

#[tokio::test]
async fn damage_further_on_ends_the_connection() {
    let cache = Cache::start().await;
    let bytes = content(20 * CHUNK, 2);
    let digest = cache.store("team", &bytes).await;
    flip(&cache, &digest, 15 * CHUNK + 5);
    let response = cache.get(&cas("team", &digest)).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.bytes().await.is_err(), "the client sees that something is lacking");
    is_put_aside(&cache, &digest, &bytes).await;
}

#[tokio::test]
async fn damage_in_a_compressed_answer_leaves_the_frame_open() {
    let cache = Cache::start().await;
    let bytes = content(20 * CHUNK, 3);
    let digest = cache.store("team", &bytes).await;
    flip(&cache, &digest, 15 * CHUNK + 5);
    let response = cache.get(&cas("team", &digest)).header(ACCEPT_ENCODING, "zstd").send().await.unwrap();
    assert!(response.bytes().await.is_err());
    is_put_aside(&cache, &digest, &bytes).await;
}

#[tokio::test]
async fn a_range_sees_damage_in_the_chunks_it_touches() {
    let cache = Cache::start().await;
    let bytes = content(20 * CHUNK, 4);
    let digest = cache.store("team", &bytes).await;
    flip(&cache, &digest, 10 * CHUNK);
    let range = async |first: usize, last: usize| {
        cache.get(&cas("team", &digest)).header(RANGE, format!("bytes={first}-{last}")).send().await.unwrap()
    };
    let whole = range(0, 10 * CHUNK - 1).await;
    assert_eq!(whole.status(), StatusCode::PARTIAL_CONTENT);
    assert!(whole.bytes().await.unwrap() == bytes[..10 * CHUNK], "chunks beside it are whole");
    // Not the byte that is damaged, but one in its chunk.
    assert_eq!(range(11 * CHUNK - 1, 11 * CHUNK - 1).await.status(), StatusCode::NOT_FOUND);
    is_put_aside(&cache, &digest, &bytes).await;
}

#[tokio::test]
async fn what_was_verified_is_verified_again_once_the_file_changed() {
    for size in [1000, 3 * CHUNK] {
        let cache = Cache::start().await;
        let bytes = content(size, 5);
        let digest = cache.store("team", &bytes).await;
        assert_eq!(status(&cache, &digest).await, StatusCode::OK);
        flip(&cache, &digest, 500);
        is_put_aside(&cache, &digest, &bytes).await;
    }
}

#[tokio::test]
async fn a_file_that_lost_its_end_is_a_miss() {
    let cache = Cache::start().await;
    let bytes = content(3 * CHUNK, 6);
    let digest = cache.store("team", &bytes).await;
    let path = cache.blob_path("team", &digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * CHUNK as u64).unwrap();
    is_put_aside(&cache, &digest, &bytes).await;
}
