//! The server is killed while hundreds of uploads are under way: what it acknowledged is there and whole, what it did not is there whole or
//! not at all, and the next start answers at once.

#![allow(missing_docs, reason = "tests")]

mod common;
#[path = "common/process.rs"]
mod process;

use bytes::Bytes;
use common::content;
use futures_util::stream::{self, StreamExt as _};
use preheat_image::Digest;
use preheat_image::api::{FindMissing, Missing};
use process::{Running, client, token};
use reqwest::{Body, Client, StatusCode};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Uploads that have to be under way when the server is killed.
const IN_FLIGHT: usize = 500;
/// Those who upload, one thing after the other: more, since each is between two uploads now and then.
const UPLOADERS: usize = 520;
/// After how many more acknowledged uploads the server is killed, and how many milliseconds after hundreds of them began to end at once.
const KILLS: [(usize, u64); 4] = [(0, 0), (50, 1), (300, 5), (600, 20)];
const SIZES: [usize; 8] = [0, 1, 700, 5_000, 65_536, 70_000, 150_000, 300_000];
const PIECE: usize = 16 * 1024;

/// Something to be uploaded; its number says all about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Thing(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Blob(&'static str),
    /// An entry of a raw namespace, of its own.
    Entry,
    /// The one entry that many write.
    Contended,
}

impl Thing {
    fn place(self) -> Place {
        match self.0 % 8 {
            0..=3 => Place::Blob("team"),
            4 | 5 => Place::Blob("raw"),
            6 => Place::Entry,
            _ => Place::Contended,
        }
    }

    fn bytes(self) -> Vec<u8> {
        // Entries are small, and each of another size.
        let size = match self.place() {
            Place::Blob(_) => SIZES[self.0 as usize / 8 % SIZES.len()],
            _ => 100 + self.0 as usize % 3_000,
        };
        let mut bytes = content(size, self.0 + 1);
        // Also the smallest are all different.
        bytes.extend_from_slice(&self.0.to_le_bytes());
        bytes
    }

    fn path(self, bytes: &[u8]) -> String {
        match self.place() {
            Place::Blob(namespace) => common::cas(namespace, &Digest::of(bytes)),
            Place::Entry => format!("/raw/ac/{}", Digest::of(&self.0.to_le_bytes()).hex()),
            Place::Contended => format!("/raw/ac/{}", Digest::of(b"contended").hex()),
        }
    }
}

struct Log {
    next: AtomicU32,
    in_flight: AtomicUsize,
    begun: Mutex<Vec<Thing>>,
    acknowledged: Mutex<Vec<Thing>>,
    /// Whether the last piece of each upload waits.
    held: watch::Sender<bool>,
}

impl Log {
    fn new() -> Self {
        Self {
            next: 0.into(),
            in_flight: 0.into(),
            begun: Mutex::default(),
            acknowledged: Mutex::default(),
            held: watch::Sender::new(false),
        }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}

/// Sends one thing in pieces; the last one when nobody holds it back.
async fn upload(client: &Client, url: &str, token: &str, thing: Thing, held: watch::Receiver<bool>) -> Result<StatusCode, reqwest::Error> {
    let bytes = Bytes::from(thing.bytes());
    let request = client.put(format!("{url}{}", thing.path(&bytes))).bearer_auth(token);
    let pieces: Vec<Bytes> = bytes.chunks(PIECE).map(|piece| bytes.slice_ref(piece)).collect();
    let last = pieces.len() - 1;
    let body = stream::iter(pieces.into_iter().enumerate()).then(move |(number, piece)| {
        let mut held = held.clone();
        async move {
            if number == last {
                held.wait_for(|held| !held).await.map_err(std::io::Error::other)?;
            }
            Ok::<_, std::io::Error>(piece)
        }
    });
    Ok(request.body(Body::wrap_stream(body)).send().await?.status())
}

/// Uploads one thing after the other until the server is gone.
async fn upload_on(log: Arc<Log>, client: Client, url: String, token: String) {
    loop {
        let thing = Thing(log.next.fetch_add(1, Ordering::Relaxed));
        log.begun.lock().unwrap().push(thing);
        log.in_flight.fetch_add(1, Ordering::SeqCst);
        let answer = upload(&client, &url, &token, thing, log.held.subscribe()).await;
        log.in_flight.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Ok(StatusCode::OK | StatusCode::CREATED) => log.acknowledged.lock().unwrap().push(thing),
            Ok(status) => panic!("{thing:?}: {status}"),
            Err(_) => return,
        }
    }
}

async fn requests_running(client: &Client, url: &str) -> usize {
    let text = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("preheat_cache_requests_running ")).unwrap();
    line.parse().unwrap()
}

/// Loads the server, waits until `acknowledged` more uploads were acknowledged, then until at least [`IN_FLIGHT`] are under way by the client's
/// count and by the server's, lets all of them end at once, and kills it that many milliseconds later.
async fn load_and_kill(server: Running, token: &str, log: &Arc<Log>, (acknowledged, milliseconds): (usize, u64)) {
    let client = client();
    let before = log.acknowledged();
    log.held.send_replace(acknowledged == 0);
    let uploaders: Vec<_> =
        (0..UPLOADERS).map(|_| tokio::spawn(upload_on(log.clone(), client.clone(), server.url.clone(), token.to_owned()))).collect();
    let pause = || {
        assert!(uploaders.iter().all(|task| !task.is_finished()), "an upload failed with the server still there");
        tokio::time::sleep(Duration::from_millis(1))
    };
    while log.acknowledged() - before < acknowledged {
        pause().await;
    }
    log.held.send_replace(true);
    // The question itself is one more.
    while requests_running(&client, &server.url).await <= IN_FLIGHT {
        pause().await;
    }
    if milliseconds > 0 {
        log.held.send_replace(false);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
    while log.in_flight.load(Ordering::SeqCst) < IN_FLIGHT {
        pause().await;
    }
    let in_flight = log.in_flight.load(Ordering::SeqCst);
    let done = log.acknowledged() - before;
    server.kill();
    assert!(in_flight >= IN_FLIGHT, "{in_flight}");
    println!("killed with {in_flight} uploads under way, {done} acknowledged in this run");
    log.held.send_replace(false);
    for uploader in uploaders {
        uploader.await.unwrap();
    }
}

/// Starts the server again. That takes no longer than it does on nothing: whatever is there is not looked through.
async fn restart(directory: &Path, config: &str) -> Running {
    let began = Instant::now();
    let server = Running::start(directory, &["--config", config]);
    assert_eq!(client().get(format!("{}/livez", server.url)).send().await.unwrap().status(), StatusCode::OK);
    let took = began.elapsed();
    println!("answered {} ms after the start", took.as_millis());
    // A second is what is promised, of a release build on an idle machine.
    assert!(took < Duration::from_secs(10), "{took:?}");
    server
}

/// Asks for all that was begun, from the `first` on.
async fn assert_nothing_is_lost_or_partial(server: &Running, token: &str, log: &Log, first: usize) {
    let client = client();
    let acknowledged: HashSet<Thing> = log.acknowledged.lock().unwrap().iter().copied().collect();
    let begun = log.begun.lock().unwrap()[first..].to_vec();
    let contended = |thing: &Thing| thing.place() == Place::Contended;
    let unacknowledged_but_there = AtomicUsize::new(0);
    stream::iter(begun.iter().filter(|thing| !contended(thing)))
        .for_each_concurrent(32, |thing| {
            let (client, acknowledged, there) = (&client, &acknowledged, &unacknowledged_but_there);
            async move {
                let bytes = thing.bytes();
                let answer = client.get(format!("{}{}", server.url, thing.path(&bytes))).bearer_auth(token).send().await.unwrap();
                match (answer.status(), acknowledged.contains(thing)) {
                    (StatusCode::OK, known) => {
                        assert!(answer.bytes().await.unwrap() == bytes, "{thing:?} of {} bytes is not whole", bytes.len());
                        there.fetch_add(usize::from(!known), Ordering::Relaxed);
                    }
                    (StatusCode::NOT_FOUND, false) => {}
                    (status, known) => panic!("{thing:?} of {} bytes, acknowledged: {known}: {status}", bytes.len()),
                }
            }
        })
        .await;
    let known = begun.iter().filter(|thing| acknowledged.contains(thing)).count();
    let others = unacknowledged_but_there.into_inner();
    println!("{known} acknowledged are whole; of {} others {others} are, the rest is not there", begun.len() - known);
    // One of all values that were ever sent, and not none after one was acknowledged.
    let answer = client.get(format!("{}{}", server.url, Thing(7).path(b""))).bearer_auth(token).send().await.unwrap();
    if acknowledged.iter().any(contended) {
        assert_eq!(answer.status(), StatusCode::OK);
    }
    if answer.status() == StatusCode::OK {
        let value = answer.bytes().await.unwrap();
        let mut sent = log.begun.lock().unwrap().clone().into_iter().filter(contended);
        assert!(sent.any(|thing| thing.bytes() == value), "{} bytes that nobody sent", value.len());
    }
    // What is said to be there is there.
    let in_team: Vec<Digest> =
        begun.iter().filter(|thing| thing.place() == Place::Blob("team")).map(|thing| Digest::of(&thing.bytes())).collect();
    let question = FindMissing { digests: in_team.clone() };
    let url = format!("{}/v1/namespaces/team/find-missing", server.url);
    let missing: Missing = client.post(url).bearer_auth(token).json(&question).send().await.unwrap().json().await.unwrap();
    let missing: HashSet<Digest> = missing.missing.into_iter().collect();
    stream::iter(in_team)
        .for_each_concurrent(32, |digest| {
            let head = client.head(format!("{}{}", server.url, common::cas("team", &digest))).bearer_auth(token);
            let wanted = if missing.contains(&digest) { StatusCode::NOT_FOUND } else { StatusCode::OK };
            async move { assert_eq!(head.send().await.unwrap().status(), wanted, "{digest}") }
        })
        .await;
}

/// Looks at the files themselves: under a digest there are its bytes, whether anybody asks for them or not. How many there are.
fn assert_files_are_what_they_are_called(directory: &Path) -> usize {
    let mut folders = vec![directory.join("ns")];
    let mut blobs = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.ends_with(".chunks") {
                let shard = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
                assert_eq!(Digest::of(&std::fs::read(&path).unwrap()).hex(), format!("{shard}{name}"), "{}", path.display());
                blobs += 1;
            }
        }
    }
    blobs
}

/// What uploads left that were not done goes away by itself.
async fn assert_leftovers_go(directory: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let left = std::fs::read_dir(directory.join("tmp")).unwrap().count();
        if left == 0 {
            return;
        }
        assert!(Instant::now() < until, "{left} files are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill_during_hundreds_of_uploads() {
    let files = tempfile::tempdir().unwrap();
    let directory = files.path().join("cache");
    let config = files.path().join("cache.toml");
    // Without lines of requests: nobody reads standard error meanwhile.
    std::fs::write(&config, "[log]\naccess = false\n[namespaces.team]\nkind = \"preheat\"\n[namespaces.raw]\nkind = \"raw\"\n").unwrap();
    let config = config.to_str().unwrap();
    let (_, _, err) = Running::start(&directory, &["--config", config]).stop();
    let token = token(&err).unwrap().to_owned();

    let log = Arc::new(Log::new());
    for kill in KILLS {
        let first = log.begun.lock().unwrap().len();
        let server = restart(&directory, config).await;
        load_and_kill(server, &token, &log, kill).await;
        let files = assert_files_are_what_they_are_called(&directory);
        let blobs = log.acknowledged.lock().unwrap().iter().filter(|thing| matches!(thing.place(), Place::Blob(_))).count();
        assert!(files >= blobs, "{files} files for {blobs} blobs");
        let server = restart(&directory, config).await;
        assert_nothing_is_lost_or_partial(&server, &token, &log, first).await;
        assert_leftovers_go(&directory).await;
        server.stop();
    }
    // Later kills took nothing of before either, and what was not done can be done again.
    let server = restart(&directory, config).await;
    assert_nothing_is_lost_or_partial(&server, &token, &log, 0).await;
    let acknowledged: HashSet<Thing> = log.acknowledged.lock().unwrap().iter().copied().collect();
    let again: Vec<Thing> = log.begun.lock().unwrap().iter().copied().filter(|thing| !acknowledged.contains(thing)).take(50).collect();
    assert_eq!(again.len(), 50);
    for thing in again {
        assert!(upload(&client(), &server.url, &token, thing, log.held.subscribe()).await.unwrap().is_success(), "{thing:?}");
    }
    assert!(server.stop().0.success());
}
