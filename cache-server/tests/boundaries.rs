//! Paths that lead nowhere, namespaces that are nobody's business, methods that are none.

mod common;

use common::{Cache, cas, content, error_code};
use preheat_image::Digest;
use preheat_image::api::FindMissing;
use reqwest::{Method, StatusCode};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Everything that is asked of the service in this file, with and without credentials; sent as it is, since a client would tidy it up.
async fn first_line(cache: &Cache, method: &str, path: &str, token: Option<&str>) -> String {
    let authorization = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{authorization}content-length: 0\r\n\r\n");
    cache.raw(request.as_bytes()).await.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn tricks_in_paths_lead_nowhere() {
    let cache = Cache::start().await;
    let digest = cache.store("team", b"secret").await;
    let hex = digest.hex();
    let upper = hex.to_uppercase();
    let outside = cache.directory.path().join("outside");
    for path in [
        format!("/../team/cas/{hex}"),
        format!("/%2e%2e/cas/{hex}"),
        format!("/team%2f..%2fteam/cas/{hex}"),
        format!("/team/../team/cas/{hex}"),
        format!("/team%00/cas/{hex}"),
        format!("/.team/cas/{hex}"),
        format!("/te..am/cas/{hex}"),
        format!("/team/cas/..%2f{}", &hex[3..]),
        format!("/team/cas/{upper}"),
        format!("/team/cas/{}", &hex[1..]),
        format!("/team/cas/{hex}0"),
        format!("/team/cas/{hex}%20"),
        format!("/team/cas/sha256:{hex}"),
        format!("/team/cas/{}%2f{}", &hex[..2], &hex[3..]),
        format!("/team/cas//{hex}"),
        format!("//team/cas/{hex}"),
        format!("/team/CAS/{hex}"),
        format!("/v1/cas/{hex}"),
        format!("/livez/cas/{hex}"),
        "/team/cas/..%2f..%2f..%2f..%2fetc%2fpasswd".to_owned(),
        "/team/ac/..%2fcas".to_owned(),
        format!("/{}/cas/{hex}", "a".repeat(129)),
        format!("/%ff/cas/{hex}"),
        format!("/team/cas/{hex}/../{hex}"),
    ] {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let line = first_line(&cache, method, &path, Some(&cache.token)).await;
            assert!(line.starts_with("HTTP/1.1 4"), "{method} {path}: {line}");
        }
    }
    assert!(!outside.exists());
    assert_eq!(cache.get(&cas("team", &digest)).send().await.unwrap().text().await.unwrap(), "secret");
}

#[tokio::test]
async fn without_credentials_everything_looks_the_same() {
    let cache = Cache::start().await;
    let digest = cache.store("team", b"secret").await;
    for namespace in ["team", "nowhere", "raw"] {
        for path in [cas(namespace, &digest), format!("/{namespace}/ac/{}", digest.hex())] {
            for method in [Method::GET, Method::PUT, Method::DELETE] {
                let response = cache.client.request(method, cache.url(&path)).send().await.unwrap();
                assert_eq!(error_code(response, StatusCode::UNAUTHORIZED).await, "unauthorized", "{path}");
            }
        }
        let path = format!("/v1/namespaces/{namespace}/find-missing");
        let response = cache.client.post(cache.url(&path)).json(&FindMissing { digests: vec![digest] }).send().await.unwrap();
        assert_eq!(error_code(response, StatusCode::UNAUTHORIZED).await, "unauthorized");
    }
}

#[tokio::test]
async fn anonymous_reading_takes_two_switches_and_opens_no_base() {
    for allowed in [false, true] {
        let cache = Cache::with(|config| config.auth.anonymous = allowed).await;
        let public = cache.store("open", b"for everybody").await;
        let base = cache.store("prod", b"of the base").await;
        let get =
            async |namespace: &str, digest: &Digest| cache.client.get(cache.url(&cas(namespace, digest))).send().await.unwrap().status();
        let expected = if allowed { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(get("open", &public).await, expected);
        let expected = if allowed { StatusCode::NOT_FOUND } else { StatusCode::UNAUTHORIZED };
        assert_eq!(get("open", &base).await, expected, "the base is not open");
        assert_eq!(get("team", &public).await, StatusCode::UNAUTHORIZED);
        let put = cache.client.put(cache.url(&cas("open", &public))).body("for everybody").send().await.unwrap();
        assert_eq!(put.status(), StatusCode::UNAUTHORIZED, "never writing");
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_a_404_for_whoever_may_do_everything() {
    let cache = Cache::start().await;
    let digest = Digest::of(b"x");
    assert_eq!(error_code(cache.get(&cas("nowhere", &digest)).send().await.unwrap(), StatusCode::NOT_FOUND).await, "no-namespace");
    assert_eq!(error_code(cache.put(&cas("nowhere", &digest), "x").await, StatusCode::NOT_FOUND).await, "no-namespace");
}

#[tokio::test]
async fn other_methods_and_pages_are_errors_in_json() {
    let cache = Cache::start().await;
    let digest = cache.store("team", b"x").await;
    let patch = cache.request(Method::PATCH, &cas("team", &digest)).send().await.unwrap();
    assert_eq!(error_code(patch, StatusCode::METHOD_NOT_ALLOWED).await, "method-not-allowed");
    assert_eq!(error_code(cache.get("/nothing").send().await.unwrap(), StatusCode::NOT_FOUND).await, "no-such-page");
    assert_eq!(cache.get("/livez").send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(cache.get("/readyz").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn every_answer_says_which_request_it_is_for() {
    let cache = Cache::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let response = cache.get("/livez").header("traceparent", trace).send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "0af7651916cd43dd8448eb211c80319c");
    let response = cache.client.get(cache.url("/team/cas/0")).send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"].len(), 32, "errors too");
}

#[tokio::test]
async fn a_client_that_goes_away_is_no_error_of_the_service() {
    let cache = Cache::start().await;
    for number in 0..50u32 {
        let bytes = content(10_000, number);
        let (path, sent) = (cas("team", &Digest::of(&bytes)), if number % 2 == 0 { 10_000 } else { 5000 });
        let head = format!("PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 10000\r\n\r\n", cache.token);
        // Gone while its bytes are made durable, or before they are all there.
        let mut stream = TcpStream::connect(cache.server.addr()).await.unwrap();
        stream.write_all(&[head.as_bytes(), &bytes[..sent]].concat()).await.unwrap();
    }
    let over = async {
        // The question itself is one.
        while cache.metric("preheat_cache_requests_running").await > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over).await.unwrap();
    let text = cache.metrics().await;
    assert!(text.contains("status=\"499\""), "some did not wait for the answer: {text}");
    assert_eq!(cache.metric("preheat_cache_errors_total").await, 0, "{text}");
}

#[tokio::test]
async fn hits_misses_and_bytes_are_counted() {
    let cache = Cache::start().await;
    let digest = cache.store("team", &[1; 1000]).await;
    cache.get(&cas("team", &digest)).send().await.unwrap().bytes().await.unwrap();
    cache.get(&cas("team", &Digest::of(b"other"))).send().await.unwrap();
    let text = cache.metrics().await;
    for line in [
        "preheat_cache_hits_total{kind=\"blob\"} 1",
        "preheat_cache_misses_total{kind=\"blob\"} 1",
        "preheat_cache_errors_total 0",
        "preheat_cache_received_bytes_total 1000",
        "preheat_cache_requests_total{method=\"GET\",route=\"/{namespace}/cas/{digest}\",status=\"404\"} 1",
        "preheat_cache_in_flight_bytes 0",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} in {text}");
    }
}
