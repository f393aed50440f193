//! Memory follows the budget, not the number of requests.

mod common;

use common::{Cache, cas, content};
use preheat_image::Digest;
use reqwest::Method;
use reqwest::header::CONTENT_ENCODING;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MIB: u64 = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_a_small_budget() {
    let cache = Cache::with(|config| config.limits.bytes_in_flight = 2 * MIB).await;
    let bytes = Arc::new(content(1_000_000, 1));
    let digest = cache.store("team", &bytes).await;
    let cache = Arc::new(cache);
    let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let watch = tokio::spawn({
        let (cache, stop, most) = (cache.clone(), stop.clone(), most.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(cache.metric("preheat_cache_in_flight_bytes").await, Ordering::Relaxed);
            }
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..120u32 {
        let (cache, bytes) = (cache.clone(), bytes.clone());
        tasks.spawn(async move {
            match number % 3 {
                0 => {
                    let packed = zstd::encode_all(content(200_000, number).as_slice(), 3).unwrap();
                    let path = cas("team", &Digest::of(&content(200_000, number)));
                    let put = cache.request(Method::PUT, &path).header(CONTENT_ENCODING, "zstd").body(packed).send().await.unwrap();
                    assert!(put.status().is_success(), "{}", put.status());
                }
                1 => drop(cache.store("team", &content(300_000, number)).await),
                _ => assert!(cache.get(&cas("team", &digest)).send().await.unwrap().bytes().await.unwrap() == *bytes),
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    watch.await.unwrap();
    let most = most.load(Ordering::Relaxed);
    assert!(most > 0 && most <= 2 * MIB, "{most}");
    assert_eq!(cache.metric("preheat_cache_in_flight_bytes").await, 0, "all of it came back");
}

#[tokio::test]
async fn clients_that_stop_reading_hold_a_piece_each_and_give_it_back_when_they_go() {
    let cache = Cache::with(|config| config.limits.bytes_in_flight = 8 * MIB).await;
    let bytes = content(20_000_000, 2);
    let digest = cache.store("team", &bytes).await;
    let request = format!("GET {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", cas("team", &digest), cache.token);
    let mut stopped = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(cache.server.addr()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut begin = [0; 1000];
        stream.read_exact(&mut begin).await.unwrap();
        stopped.push(stream);
    }
    let held = cache.metric("preheat_cache_in_flight_bytes").await;
    assert!(held <= 20 * 256 * 1024, "{held}");
    // There is room for others.
    assert!(cache.get(&cas("team", &digest)).send().await.unwrap().bytes().await.unwrap() == bytes);
    drop(stopped);
    while cache.metric("preheat_cache_in_flight_bytes").await > 0 {
        tokio::task::yield_now().await;
    }
}
