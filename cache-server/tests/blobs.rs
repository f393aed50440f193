//! Blobs over HTTP: whole, in parts, on condition, compressed.

mod common;

use common::{Cache, cas, content, error_code};
use preheat_image::Digest;
use preheat_image::api::{FindMissing, Missing};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};
use reqwest::{Method, StatusCode};

const CHUNK: usize = 65_536;

#[tokio::test]
async fn what_is_put_comes_back() {
    let cache = Cache::start().await;
    for size in [0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK - 1, 4 * CHUNK, 4 * CHUNK + 1, 5_000_003] {
        let bytes = content(size, 1);
        let digest = Digest::of(&bytes);
        let path = cas("team", &digest);
        assert_eq!(error_code(cache.get(&path).send().await.unwrap(), StatusCode::NOT_FOUND).await, "not-found");
        assert_eq!(cache.put(&path, bytes.clone()).await.status(), StatusCode::CREATED, "{size}");
        assert_eq!(cache.put(&path, bytes.clone()).await.status(), StatusCode::OK, "{size} is there already");
        // Twice: the second read finds it verified.
        for _ in 0..2 {
            let response = cache.get(&path).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[ETAG], format!("\"{digest}\""));
            assert_eq!(response.headers()[CONTENT_LENGTH], size.to_string());
            assert!(response.bytes().await.unwrap() == bytes, "{size}");
        }
        let head = cache.request(Method::HEAD, &path).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers()[CONTENT_LENGTH], size.to_string());
        assert_eq!(head.headers()[ETAG], format!("\"{digest}\""));
    }
}

#[tokio::test]
async fn ranges_at_every_edge() {
    let cache = Cache::start().await;
    let size = 9 * CHUNK + 77;
    let bytes = content(size, 2);
    let digest = cache.store("team", &bytes).await;
    let edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK - 1, 4 * CHUNK, 4 * CHUNK + 1, 9 * CHUNK - 1, 9 * CHUNK, size - 1];
    for first in edges {
        for last in edges.into_iter().filter(|last| *last >= first) {
            let response = cache.get(&cas("team", &digest)).header(RANGE, format!("bytes={first}-{last}")).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(response.headers()[CONTENT_RANGE], format!("bytes {first}-{last}/{size}"));
            assert_eq!(response.headers()[CONTENT_LENGTH], (last - first + 1).to_string());
            assert!(response.bytes().await.unwrap() == bytes[first..=last], "{first}-{last}");
        }
    }
    let ask = async |range: String| cache.get(&cas("team", &digest)).header(RANGE, range).send().await.unwrap();
    assert!(ask("bytes=-100".into()).await.bytes().await.unwrap() == bytes[size - 100..]);
    assert!(ask(format!("bytes={CHUNK}-")).await.bytes().await.unwrap() == bytes[CHUNK..]);
    let beyond = ask(format!("bytes={size}-")).await;
    assert_eq!(beyond.headers()[CONTENT_RANGE], format!("bytes */{size}"));
    assert_eq!(error_code(beyond, StatusCode::RANGE_NOT_SATISFIABLE).await, "bad-range");
    assert_eq!(ask("bytes=0-1,5-6".into()).await.status(), StatusCode::OK, "several ranges are answered by the whole");
}

#[tokio::test]
async fn conditions_save_transfers() {
    let cache = Cache::start().await;
    let bytes = content(1000, 3);
    let digest = cache.store("team", &bytes).await;
    let tag = format!("\"{digest}\"");
    for method in [Method::GET, Method::HEAD] {
        let same = cache.request(method.clone(), &cas("team", &digest)).header(IF_NONE_MATCH, &tag).send().await.unwrap();
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        let other = cache.request(method, &cas("team", &digest)).header(IF_NONE_MATCH, "\"x\"").send().await.unwrap();
        assert_eq!(other.status(), StatusCode::OK);
    }
    let ranged = |condition: String| cache.get(&cas("team", &digest)).header(RANGE, "bytes=1-2").header(IF_RANGE, condition);
    assert_eq!(ranged(tag).send().await.unwrap().status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(ranged("\"x\"".into()).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn large_blobs_are_compressed_for_whoever_asks() {
    let cache = Cache::start().await;
    for size in [CHUNK + 1, 4 * CHUNK, 3_000_001] {
        let bytes = content(size, 4);
        let digest = cache.store("team", &bytes).await;
        let response = cache.get(&cas("team", &digest)).header(ACCEPT_ENCODING, "gzip, zstd").send().await.unwrap();
        assert_eq!(response.headers()[CONTENT_ENCODING], "zstd");
        assert_ne!(response.headers()[ETAG], format!("\"{digest}\""), "another coding is another entity");
        let packed = response.bytes().await.unwrap();
        assert!(packed.len() < size, "{} of {size}", packed.len());
        assert!(zstd::decode_all(packed.as_ref()).unwrap() == bytes, "{size}");
        let ranged = cache.get(&cas("team", &digest)).header(ACCEPT_ENCODING, "zstd").header(RANGE, "bytes=5-9").send().await.unwrap();
        assert_eq!(ranged.headers().get(CONTENT_ENCODING), None);
        assert!(ranged.bytes().await.unwrap() == bytes[5..10]);
    }
    let small = cache.store("team", &[7; 1000]).await;
    let response = cache.get(&cas("team", &small)).header(ACCEPT_ENCODING, "zstd").send().await.unwrap();
    assert_eq!(response.headers().get(CONTENT_ENCODING), None, "not worth it");
    let mut noise = vec![0; 3 * CHUNK];
    getrandom::fill(&mut noise).unwrap();
    let digest = cache.store("team", &noise).await;
    let response = cache.get(&cas("team", &digest)).header(ACCEPT_ENCODING, "zstd").send().await.unwrap();
    assert_eq!(response.headers().get(CONTENT_ENCODING), None, "it gains nothing");
    assert!(response.bytes().await.unwrap() == noise);
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_may_be_deleted_again() {
    let cache = Cache::start().await;
    let digest = cache.store("team", b"to go").await;
    for _ in 0..2 {
        let response = cache.request(Method::DELETE, &cas("team", &digest)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(cache.get(&cas("team", &digest)).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn find_missing_names_what_is_not_there_in_order() {
    let cache = Cache::start().await;
    let mut digests = Vec::new();
    for number in 0..20u32 {
        let bytes = content(100, number);
        digests.push(Digest::of(&bytes));
        if number % 3 == 0 {
            cache.store("team", &bytes).await;
        }
    }
    let ask = async |namespace: &str, digests: &[Digest]| {
        let path = format!("/v1/namespaces/{namespace}/find-missing");
        cache.request(Method::POST, &path).json(&FindMissing { digests: digests.to_vec() }).send().await.unwrap()
    };
    let missing: Missing = ask("team", &digests).await.json().await.unwrap();
    let expected: Vec<_> = digests.iter().enumerate().filter(|(number, _)| number % 3 != 0).map(|(_, digest)| *digest).collect();
    assert_eq!(missing.missing, expected);
    let elsewhere: Missing = ask("prod", &digests).await.json().await.unwrap();
    assert_eq!(elsewhere.missing, digests, "a digest that another namespace has is missing here");
    let many = vec![digests[0]; 10_001];
    assert_eq!(error_code(ask("team", &many).await, StatusCode::PAYLOAD_TOO_LARGE).await, "too-large");
    let bad = cache.request(Method::POST, "/v1/namespaces/team/find-missing").body("{\"digests\":[\"x\"]}").send().await.unwrap();
    assert_eq!(error_code(bad, StatusCode::BAD_REQUEST).await, "bad-json");
}

#[tokio::test]
async fn an_overlay_reads_its_base_and_writes_to_itself() {
    let cache = Cache::start().await;
    let below = cache.store("prod", b"of the base").await;
    let above = cache.store("over", b"of the overlay").await;
    let get = async |namespace: &str, digest| cache.get(&cas(namespace, digest)).send().await.unwrap().status();
    assert_eq!(get("over", &below).await, StatusCode::OK);
    assert_eq!(get("over", &above).await, StatusCode::OK);
    assert_eq!(get("prod", &above).await, StatusCode::NOT_FOUND, "the base sees nothing of what lies over it");
    assert_eq!(get("team", &below).await, StatusCode::NOT_FOUND);
    let question = FindMissing { digests: vec![below, above, Digest::of(b"nowhere")] };
    let answer = cache.request(Method::POST, "/v1/namespaces/over/find-missing").json(&question).send().await.unwrap();
    assert_eq!(answer.json::<Missing>().await.unwrap().missing, vec![Digest::of(b"nowhere")]);
    let head = cache.request(Method::HEAD, &cas("over", &below)).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(cache.put(&cas("over", &below), "of the base").await.status(), StatusCode::CREATED, "it was not in the overlay itself");
    cache.request(Method::DELETE, &cas("over", &below)).send().await.unwrap();
    assert_eq!(get("prod", &below).await, StatusCode::OK, "what is deleted in the overlay stays in the base");
}

#[tokio::test]
async fn raw_entries_are_whatever_was_put_last() {
    let cache = Cache::start().await;
    let key = Digest::of(b"key").hex();
    let path = format!("/raw/ac/{key}");
    assert_eq!(cache.get(&path).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(cache.put(&path, "one").await.status(), StatusCode::CREATED);
    assert_eq!(cache.put(&path, "two").await.status(), StatusCode::OK);
    let response = cache.get(&path).send().await.unwrap();
    assert_eq!(response.headers()[ETAG], format!("\"{}\"", Digest::of(b"two")));
    assert_eq!(response.text().await.unwrap(), "two");
    let head = cache.request(Method::HEAD, &path).send().await.unwrap();
    assert_eq!((head.status(), &head.headers()[CONTENT_LENGTH]), (StatusCode::OK, &"3".parse().unwrap()));
    assert_eq!(cache.request(Method::DELETE, &path).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(cache.get(&path).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    // An entry whose value was evicted is a miss.
    assert_eq!(cache.put(&path, "three").await.status(), StatusCode::CREATED);
    cache.request(Method::DELETE, &cas("raw", &Digest::of(b"three"))).send().await.unwrap();
    assert_eq!(error_code(cache.get(&path).send().await.unwrap(), StatusCode::NOT_FOUND).await, "not-found");
}
