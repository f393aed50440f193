//! Two services over one bucket of a real S3 server process.

#![allow(missing_docs, reason = "tests")]

#[path = "common/s3_server.rs"]
mod s3_server;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HOST, LOCATION, RANGE, RETRY_AFTER, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use preheat_cache_server::storage::bucket::Bucket;
use preheat_cache_server::storage::{Expect, Meta as _, PutError};
use preheat_cache_server::{BucketConfig, Config, Server};
use preheat_image::Digest;
use preheat_image::api::{FindMissing, Missing, NamespaceConfig, NamespaceKind};
use s3_server::{BUCKET, KEY, S3, SECRET};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

fn bucket_at(addr: SocketAddr) -> BucketConfig {
    let options = [
        ("endpoint", format!("http://{addr}")),
        ("allow_http", "true".into()),
        ("region", "us-east-1".into()),
        ("access_key_id", KEY.into()),
        ("secret_access_key", SECRET.into()),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value)).into();
    BucketConfig { url: format!("s3://{BUCKET}/fleet"), options, request_seconds: 5, attempts: 4, ..BucketConfig::default() }
}

fn client() -> reqwest::Client {
    // Whoever came first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// A service.
struct Cache {
    server: Server,
    token: String,
    client: reqwest::Client,
    _directory: TempDir,
}

impl Cache {
    async fn start(bucket: BucketConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            directory: directory.path().join("cache"),
            bucket: Some(bucket),
            ..Config::default()
        };
        config.namespaces.insert("team".into(), NamespaceConfig::new(NamespaceKind::Preheat));
        config.namespaces.insert("raw".into(), NamespaceConfig::new(NamespaceKind::Raw));
        let server = Server::start(config).await.unwrap();
        let token = server.admin_token().unwrap_or_default().to_owned();
        Self { server, token, client: client(), _directory: directory }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.server.addr())).bearer_auth(&self.token)
    }

    async fn put(&self, path: &str, bytes: &[u8]) -> StatusCode {
        self.request(Method::PUT, path).body(bytes.to_vec()).send().await.unwrap().status()
    }

    async fn get(&self, path: &str) -> (StatusCode, Vec<u8>) {
        let response = self.request(Method::GET, path).send().await.unwrap();
        (response.status(), response.bytes().await.unwrap().to_vec())
    }
}

fn cas(namespace: &str, bytes: &[u8]) -> String {
    format!("/{namespace}/cas/{}", Digest::of(bytes).hex())
}

fn content(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|at| ((at / 251 + at * 7 + seed) % 256).to_le_bytes()[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_refuses_stale_conditional_writes() {
    let Some(s3) = S3::start() else { return };
    s3.assert_refuses_stale_writes().await;
    Bucket::open(&bucket_at(s3.addr)).unwrap().check_conditional_writes().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_to_one_service_is_served_by_another() {
    let Some(s3) = S3::start() else { return };
    let (one, two) = (Cache::start(bucket_at(s3.addr)).await, Cache::start(bucket_at(s3.addr)).await);
    for size in [0, 1, 70_000, 20 << 20] {
        let bytes = content(size, 1);
        let path = cas("team", &bytes);
        assert_eq!(two.get(&path).await.0, StatusCode::NOT_FOUND);
        assert_eq!(one.put(&path, &bytes).await, StatusCode::CREATED);
        assert_eq!(two.put(&path, &bytes).await, StatusCode::OK);
        let (status, found) = two.get(&path).await;
        assert!(status == StatusCode::OK && found == bytes);
    }
    let bytes = content(20 << 20, 1);
    let third = Cache::start(bucket_at(s3.addr)).await;
    let range = third.request(Method::GET, &cas("team", &bytes)).header(RANGE, "bytes=1000000-1999999").send().await.unwrap();
    assert_eq!(range.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(range.headers()[CONTENT_RANGE], "bytes 1000000-1999999/20971520");
    assert!(range.bytes().await.unwrap() == bytes[1_000_000..2_000_000]);
    // A wrong digest is refused, and nobody sees it.
    let lie = cas("team", b"something else");
    assert_eq!(one.put(&lie, b"this").await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(two.get(&lie).await.0, StatusCode::NOT_FOUND);
    // Entries of other tools.
    let entry = format!("/raw/ac/{}", Digest::of(b"key").hex());
    assert!(one.put(&entry, b"value").await.is_success());
    assert_eq!(two.get(&entry).await, (StatusCode::OK, b"value".to_vec()));
    assert!(two.put(&entry, b"newer").await.is_success());
    assert_eq!(one.get(&entry).await, (StatusCode::OK, b"newer".to_vec()));
    // What is missing.
    let question = FindMissing { digests: vec![Digest::of(&bytes), Digest::of(b"never")] };
    let asked = two.request(Method::POST, "/v1/namespaces/team/find-missing").json(&question).send().await.unwrap();
    assert_eq!(asked.json::<Missing>().await.unwrap().missing, [Digest::of(b"never")]);
    for cache in [one, two, third] {
        cache.server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_move_one_name_one_wins() {
    let Some(s3) = S3::start() else { return };
    let open = || Bucket::open(&bucket_at(s3.addr)).unwrap().meta();
    let (one, two) = (open(), open());
    let first = one.put("names/team/current", "first".into(), Expect::Absent).await.unwrap();
    assert!(matches!(two.put("names/team/current", "mine".into(), Expect::Absent).await, Err(PutError::Conflict)));
    let seen = [one.get("names/team/current").await.unwrap().unwrap().1, two.get("names/team/current").await.unwrap().unwrap().1];
    assert_eq!(seen, [first.clone(), first]);
    let [from_one, from_two] = seen;
    let won = one.put("names/team/current", "by one".into(), Expect::Version(from_one)).await.unwrap();
    assert!(matches!(two.put("names/team/current", "by two".into(), Expect::Version(from_two.clone())).await, Err(PutError::Conflict)));
    assert!(matches!(two.delete_version("names/team/current", &from_two).await, Err(PutError::Conflict)));
    assert_eq!(two.get("names/team/current").await.unwrap().unwrap(), ("by one".into(), won.clone()));
    assert_eq!(two.list("names/").await.unwrap(), ["names/team/current"]);
    two.delete_version("names/team/current", &won).await.unwrap();
    assert_eq!((one.get("names/team/current").await.unwrap(), one.list("names/").await.unwrap().len()), (None, 0));
    one.put("names/team/current", "anew".into(), Expect::Absent).await.unwrap();
    assert!(two.delete("names/team/current").await.unwrap() && !one.delete("names/team/current").await.unwrap());
}

/// Passes requests on, but for every third, to which it answers as an overloaded S3 does.
async fn pass(State((to, count)): State<(SocketAddr, Arc<AtomicU64>)>, request: Request) -> Response {
    if count.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
        return (StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>SlowDown</Code></Error>").into_response();
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST.into_response() };
    let url = format!("http://{to}{}", parts.uri);
    // The signature covers the host: it stays that of the client.
    let mut request = client().request(parts.method, url).header(HOST, &parts.headers[HOST]).body(body);
    for (name, value) in parts.headers.iter().filter(|(name, _)| **name != HOST && **name != CONTENT_LENGTH) {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| **name != TRANSFER_ENCODING && **name != CONTENT_ENCODING) {
        response = response.header(name, value);
    }
    let bytes: Bytes = answer.bytes().await.unwrap();
    response.body(Body::from(bytes)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_third_request_to_the_bucket_failing_nothing_is_lost() {
    let Some(s3) = S3::start() else { return };
    let count = Arc::new(AtomicU64::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = listener.local_addr().unwrap();
    let router = Router::new().fallback(pass).with_state((s3.addr, count.clone()));
    tokio::spawn(axum::serve(listener, router).into_future());
    let (one, two) = (Cache::start(bucket_at(between)).await, Cache::start(bucket_at(between)).await);
    // The larger is written in parts.
    for (size, seed) in [(100, 1), (70_000, 2), (1 << 20, 3), (40 << 20, 4)] {
        let bytes = content(size, seed);
        let path = cas("team", &bytes);
        assert_eq!(one.put(&path, &bytes).await, StatusCode::CREATED);
        let (status, found) = two.get(&path).await;
        assert!(status == StatusCode::OK && found == bytes, "{status}");
        let entry = format!("/raw/ac/{}", Digest::of(&bytes).hex());
        assert!(one.put(&entry, b"value").await.is_success());
        assert_eq!(two.get(&entry).await, (StatusCode::OK, b"value".to_vec()));
    }
    assert!(count.load(Ordering::Relaxed) > 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_the_service_says_so() {
    let Some(s3) = S3::start() else { return };
    let config = BucketConfig { request_seconds: 1, attempts: 2, ..bucket_at(s3.addr) };
    let (one, two) = (Cache::start(config.clone()).await, Cache::start(config.clone()).await);
    let bytes = content(100_000, 1);
    let path = cas("team", &bytes);
    assert_eq!(one.put(&path, &bytes).await, StatusCode::CREATED);
    assert_eq!(one.get("/readyz").await.0, StatusCode::OK);
    drop(s3);
    // From the tier, as long as it is known who may read.
    let (status, found) = one.get(&path).await;
    assert!((status == StatusCode::OK && found == bytes) || status == StatusCode::SERVICE_UNAVAILABLE, "{status}");
    let missing = two.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::SERVICE_UNAVAILABLE, "a failure is no miss");
    assert!(missing.headers().contains_key(RETRY_AFTER));
    assert_eq!(two.put(&cas("team", b"new"), b"new").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(two.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(two.get("/livez").await.0, StatusCode::OK);
    let refused = Server::start(Config { listen: "127.0.0.1:0".parse().unwrap(), bucket: Some(config), ..Config::default() }).await;
    assert!(refused.is_err(), "nor does one start without it");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_large_blobs_are_sent_to_the_bucket_by_an_address_that_is_good_by_itself() {
    let Some(s3) = S3::start() else { return };
    let bucket = BucketConfig { redirect: true, redirect_from_bytes: 1 << 20, redirect_seconds: 60, ..bucket_at(s3.addr) };
    let cache = Cache::start(bucket).await;
    let (large, small) = (content(20 << 20, 1), content(1 << 19, 2));
    for bytes in [&large, &small] {
        assert_eq!(cache.put(&cas("team", bytes), bytes).await, StatusCode::CREATED);
    }
    let here = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let url = |bytes: &[u8]| format!("http://{}{}", cache.server.addr(), cas("team", bytes));
    let answer = here.get(url(&large)).bearer_auth(&cache.token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
    let location = answer.headers()[LOCATION].to_str().unwrap().to_owned();
    assert!(location.starts_with(&format!("http://{}/{BUCKET}/fleet/", s3.addr)), "{location}");
    assert!(location.contains("X-Amz-Signature=") && location.contains("X-Amz-Expires=60"), "{location}");
    assert!(!location.contains(SECRET) && !location.contains(&cache.token), "{location}");
    // For anybody, without credentials, in whole and in part.
    let direct = here.get(&location).send().await.unwrap();
    assert_eq!(direct.status(), StatusCode::OK);
    assert!(direct.bytes().await.unwrap() == large);
    let part = here.get(&location).header(RANGE, "bytes=1000000-1999999").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert!(part.bytes().await.unwrap() == large[1_000_000..2_000_000]);
    // A client that follows gets the same.
    let (status, found) = cache.get(&cas("team", &large)).await;
    assert!(status == StatusCode::OK && found == large, "{status}");
    // What is small comes from here, and so does what is not there; whoever may not read gets no address.
    let answer = here.get(url(&small)).bearer_auth(&cache.token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.bytes().await.unwrap() == small);
    assert_eq!(here.get(url(b"never")).bearer_auth(&cache.token).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let nobody = here.get(url(&large)).send().await.unwrap();
    assert_eq!((nobody.status(), nobody.headers().get(LOCATION)), (StatusCode::UNAUTHORIZED, None));
}
