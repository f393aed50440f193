//! A thousand malformed requests of each kind, over plain TCP: none is more than refused, and afterwards the service is whole.

mod common;

use common::{Cache, cas, content};
use futures_util::{StreamExt as _, stream};
use http::header::IF_NONE_MATCH;
use preheat_image::api::{FindMissing, NamespaceBuilder, NamespaceConfig, NamespaceKind, StatementList};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::profile::{BodyDigest, Contribution, FunctionProfile, Method as How, Profile, ShapeDigest, Site, SiteCounts};
use preheat_image::statement::Kind;
use preheat_image::{Digest, KeyFields, Statement, media};
use reqwest::{Method, StatusCode};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const EACH: usize = 1000;
const AT_ONCE: usize = 32;
/// Far away, so that no clock matters.
const END: u64 = 1 << 40;

/// Random numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Something else than `good`, but not by much.
    fn spoil(&mut self, good: &[u8]) -> Vec<u8> {
        loop {
            let mut bad = good.to_vec();
            for _ in 0..=self.below(3) {
                let at = self.below(bad.len() + 1);
                let to = at + self.below(bad.len() + 1 - at);
                match self.below(6) {
                    0 => bad.truncate(at),
                    1 if at < bad.len() => bad[at] ^= 1 << self.below(8),
                    2 => drop(bad.drain(at..to)),
                    3 => {
                        let twice = bad[at..to].to_vec();
                        bad.splice(at..at, twice).for_each(drop);
                    }
                    4 => {
                        let noise = self.bytes(20);
                        bad.splice(at..at, noise).for_each(drop);
                    }
                    _ => {
                        let strange = [
                            "\0",
                            "\r\n",
                            "../",
                            "%2e%2e%2f",
                            "%00",
                            "//",
                            "?",
                            "\"",
                            "\\ud800",
                            "\u{202e}",
                            "-1",
                            "1e999",
                            "99999999999999999999",
                            "null",
                            "{}",
                            "[[[[[[[[",
                            ",",
                        ];
                        let strange = self.pick(&strange).bytes();
                        bad.splice(at..to, strange).for_each(drop);
                    }
                }
            }
            if bad != good {
                return bad;
            }
        }
    }

    /// A spoiled text that can be in a head.
    fn spoil_head(&mut self, good: &str) -> String {
        loop {
            let bad: String = self.spoil(good.as_bytes()).into_iter().filter(u8::is_ascii_graphic).map(char::from).collect();
            if bad != good {
                return bad;
            }
        }
    }

    /// The same where other bytes are escaped, as in a path.
    fn spoil_path(&mut self, good: &str) -> String {
        let escaped = |byte: u8| if byte.is_ascii_graphic() { char::from(byte).to_string() } else { format!("%{byte:02x}") };
        self.spoil(good.as_bytes()).into_iter().map(escaped).collect()
    }
}

/// What is there, and must be there afterwards.
struct World {
    cache: Cache,
    blob: Vec<u8>,
    statement: Vec<u8>,
    key: Digest,
    names: Vec<u8>,
}

impl World {
    async fn new() -> Self {
        let (builder, namer) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let holder = |key: &SecretKey| vec![NamespaceBuilder { name: "x".into(), key: key.public(), expires: None }];
        let (builders, namers) = (holder(&builder), holder(&namer));
        let cache = Cache::with(|config| {
            // Else all but the first hundred would be told to wait, whatever they try.
            config.auth.failures.burst = 1_000_000;
            config.limits.bytes_in_flight = 16 << 20;
            let namespace = NamespaceConfig { builders, namers, ..NamespaceConfig::new(NamespaceKind::Preheat) };
            config.namespaces.insert("team".into(), namespace);
        })
        .await;
        let blob = content(300_000, 1);
        cache.store("team", &blob).await;
        let code = cache.store("team", b"code").await;
        let fields = KeyFields::new().with(field::KIND, "code-object").with(field::SOURCE, Digest::of(b"wasm"));
        let statement = Statement::new(Kind::CodeObject, "team", fields, vec![Descriptor::of(media::CODE, b"code")]);
        let (key, statement) = (statement.key, statement.sign(&builder).to_bytes());
        assert!(cache.put(&format!("/team/ac/{}", key.hex()), statement.clone()).await.status().is_success());
        let mut names = Names::first("team", 1, END);
        names.set(MoveKind::Push, "app:v1", Some(code)).unwrap();
        let names = SignedNames::new(names).unwrap().sign(&namer).unwrap().to_bytes();
        let request = cache.request(Method::PUT, "/v1/namespaces/team/names").header(IF_NONE_MATCH, "*");
        assert_eq!(request.body(names.clone()).send().await.unwrap().status(), StatusCode::CREATED);
        assert!(cache.put(&format!("/raw/ac/{}", key.hex()), "value").await.status().is_success());
        Self { cache, blob, statement, key, names }
    }

    fn path(&self) -> String {
        cas("team", &Digest::of(&self.blob))
    }

    /// A request that HTTP has nothing against.
    fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let (token, length) = (&self.cache.token, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    /// The status of the answer; none if the connection was ended without one. What may not be a whole request ends with the connection.
    async fn send(&self, request: &[u8], whole: bool) -> Option<u16> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.cache.server.addr()).await.unwrap();
            // Either may fail when the service has had enough.
            let _ = stream.write_all(request).await;
            if !whole {
                let _ = stream.shutdown().await;
            }
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let answer = tokio::time::timeout(Duration::from_secs(60), exchange).await.expect("an end");
        let shown = || String::from_utf8_lossy(request).into_owned();
        match answer.strip_prefix(b"HTTP/1.1 ") {
            Some(rest) => Some(std::str::from_utf8(&rest[..3]).unwrap().parse().unwrap()),
            None => {
                assert!(answer.is_empty(), "{:?}: {:?}", shown(), String::from_utf8_lossy(&answer));
                None
            }
        }
    }

    /// All is there as it was, nothing else that is not what its name says, and nothing is held.
    async fn assert_whole(&self, after: &str) {
        let cache = &self.cache;
        assert!(cache.get(&self.path()).send().await.unwrap().bytes().await.unwrap() == self.blob, "{after}");
        let list = cache.get(&format!("/team/ac/{}", self.key.hex())).send().await.unwrap().json::<StatementList>().await.unwrap();
        assert_eq!(list.envelopes().unwrap(), std::slice::from_ref(&self.statement), "{after}");
        assert_eq!(cache.get("/v1/namespaces/team/names").send().await.unwrap().bytes().await.unwrap(), self.names, "{after}");
        assert_eq!(cache.get(&format!("/raw/ac/{}", self.key.hex())).send().await.unwrap().text().await.unwrap(), "value", "{after}");
        assert_eq!(cache.get("/readyz").send().await.unwrap().status(), StatusCode::OK, "{after}");
        let storage = cache.directory.path().join("cache");
        for file in files(&storage.join("ns")).iter().filter(|file| file.extension().is_none()) {
            let name: PathBuf = file.iter().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
            let hex = name.to_str().unwrap().replace('/', "");
            assert_eq!(Digest::of(&std::fs::read(file).unwrap()).hex(), hex, "{after}");
        }
        // Uploads whose clients are gone are given up in a moment.
        let held = async || cache.metric("preheat_cache_in_flight_bytes").await > 0 || !files(&storage.join("tmp")).is_empty();
        let given_back = async {
            while held().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), given_back).await.unwrap_or_else(|_| panic!("{after}: something is held"));
        assert_eq!(cache.metric("preheat_cache_errors_total").await, 0, "{after}");
        assert_eq!(cache.metric("preheat_cache_verification_failures_total").await, 0, "{after}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Memory of this process, the service among it, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What may come back.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    /// An error of the client.
    Refused,
    /// Any answer that is not the service's fault: what is sent may happen to be good.
    Any,
    /// That, or none: it may not even be HTTP.
    AnyOrNone,
}

async fn a_thousand(world: &World, kind: &str, expected: Answer, make: impl Fn(&mut Dice) -> Vec<u8>) {
    let mut dice = Dice(kind.bytes().fold(0x9e37_79b9_7f4a_7c15, |seed, byte| seed.rotate_left(9) ^ u64::from(byte)));
    let requests: Vec<Vec<u8>> = (0..EACH).map(|_| make(&mut dice)).collect();
    let answers = stream::iter(&requests)
        .map(async |request| (request, world.send(request, expected != Answer::AnyOrNone).await))
        .buffer_unordered(AT_ONCE);
    let mut refused = 0;
    let mut answers = std::pin::pin!(answers);
    while let Some((request, status)) = answers.next().await {
        let shown = || format!("{kind}: {:?} got {status:?}", String::from_utf8_lossy(&request[..request.len().min(2000)]));
        match status {
            Some(400..=499) => refused += 1,
            Some(200..=399) => assert!(expected != Answer::Refused, "{}", shown()),
            Some(_) => panic!("{}", shown()),
            None => assert!(expected == Answer::AnyOrNone, "{}", shown()),
        }
    }
    assert!(refused > EACH / 10, "{kind}: only {refused} were refused");
    world.assert_whole(kind).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_malformed_requests_of_each_kind_are_only_refused() {
    let world = World::new().await;
    world.assert_whole("the beginning").await;
    let before = resident();
    let (stored, absent) = (world.path(), cas("team", &Digest::of(b"absent")));
    let entry = format!("/team/ac/{}", world.key.hex());
    let strange = format!("/team/ac/{}", Digest::of(b"absent").hex());
    let packed = zstd::encode_all(&world.blob[..100_000], 3).unwrap();

    a_thousand(&world, "reads of blobs", Answer::Any, |dice| {
        let path = dice.spoil_path(&stored);
        world.request(dice.pick(&["GET", "HEAD"]), &path, "", b"")
    })
    .await;
    a_thousand(&world, "writes of blobs", Answer::Any, |dice| {
        let path = dice.spoil_path(&absent);
        world.request(dice.pick(&["PUT", "DELETE"]), &path, "", &dice.bytes(30))
    })
    .await;
    a_thousand(&world, "reads of entries", Answer::Any, |dice| {
        let path = dice.spoil_path(&entry);
        world.request(dice.pick(&["GET", "HEAD"]), &path, "", b"")
    })
    .await;
    a_thousand(&world, "writes of entries", Answer::Any, |dice| {
        let path = dice.spoil_path(&strange);
        world.request(dice.pick(&["PUT", "DELETE"]), &path, "", &dice.bytes(30))
    })
    .await;
    a_thousand(&world, "other paths", Answer::Any, |dice| {
        let good = dice.pick(&[
            "/v1/namespaces/team/names/1",
            "/v1/namespaces/team/statements/0000000000000000000000000000000000000000000000000000000000000000",
            "/v1/namespaces/team/profiles/0000000000000000000000000000000000000000000000000000000000000000",
            "/v1/root/1",
            "/v1/namespaces/team",
        ]);
        let path = dice.spoil_path(good);
        world.request(dice.pick(&["GET", "HEAD", "POST", "PATCH", "OPTIONS"]), &path, "", b"")
    })
    .await;
    a_thousand(&world, "statements", Answer::Refused, |dice| {
        let statement = dice.spoil(&world.statement);
        world.request("PUT", &entry, "", &statement)
    })
    .await;
    a_thousand(&world, "names", Answer::Refused, |dice| {
        let condition = match dice.below(3) {
            0 => "if-none-match: *\r\n".to_owned(),
            1 => format!("if-match: {}\r\n", dice.spoil_head(&format!("\"{}\"", Digest::of(&world.names)))),
            _ => format!("if-match: \"{}\"\r\n", Digest::of(&world.names)),
        };
        let names = dice.spoil(&world.names);
        world.request("PUT", "/v1/namespaces/team/names", &condition, &names)
    })
    .await;
    let question = serde_json::to_vec(&FindMissing { digests: vec![Digest::of(b"a"), Digest::of(b"b")] }).unwrap();
    a_thousand(&world, "find-missing", Answer::Any, |dice| {
        let mut question = dice.spoil(&question);
        if dice.below(50) == 0 {
            question = "[".repeat(200_000).into_bytes();
        }
        world.request("POST", "/v1/namespaces/team/find-missing", "", &question)
    })
    .await;
    let mut profile = Profile::new(Digest::of(b"wasm"));
    let sites = vec![Site { offset: 3, counts: SiteCounts::Branch { reached: 300, taken: 200 } }];
    let (body, shape) = (BodyDigest::of(b"b"), ShapeDigest::of(b"s"));
    let functions = vec![FunctionProfile { index: 1, body, shape, first: Some(0), entries: 500, sites }];
    let (contributor, origin) = ("a".to_owned(), "b".to_owned());
    profile.insert(Contribution { contributor, at: 1, method: How::Counted, origin, calls: 1, functions }).unwrap();
    let profile = profile.to_bytes();
    a_thousand(&world, "contributions and summaries of them", Answer::Any, |dice| {
        let path = format!("/v1/namespaces/team/profiles/{}", Digest::of(b"wasm").hex());
        match dice.below(20) {
            0 => world.request("GET", &format!("{path}/summary?{}", dice.spoil_head("half-life=7200&cap=5")), "", b""),
            _ => world.request("POST", &path, "", &dice.spoil(&profile)),
        }
    })
    .await;
    a_thousand(&world, "profiles", Answer::Any, |dice| {
        let path = dice.spoil_path(&format!("/v1/namespaces/team/profiles/{}", Digest::of(b"wasm").hex()));
        world.request("POST", &path, &format!("content-type: {}\r\n", dice.spoil_head("application/json")), &dice.bytes(200))
    })
    .await;
    a_thousand(&world, "roots, revocations, namespaces", Answer::Any, |dice| {
        let path = dice.pick(&["/v1/root", "/v1/revocations", "/v1/namespaces/new", "/v1/namespaces/team/collect"]);
        let good = match path {
            "/v1/namespaces/new" => br#"{"kind":"raw","anonymousRead":false,"maxBytes":100}"#.to_vec(),
            "/v1/namespaces/team/collect" => br#"{"dryRun":true}"#.to_vec(),
            _ => world.statement.clone(),
        };
        let method = if path.ends_with("collect") { "POST" } else { "PUT" };
        world.request(method, path, "if-none-match: *\r\n", &dice.spoil(&good))
    })
    .await;
    a_thousand(&world, "credentials", Answer::Refused, |dice| {
        let token = dice.spoil_head(&world.cache.token);
        let line = match dice.below(4) {
            0 => format!("authorization: Bearer {token}\r\n"),
            1 => format!("authorization: {} {token}\r\n", dice.pick(&["Basic", "Digest", "Token", "bearer,", ""])),
            2 => format!("authorization: Bearer {token}\r\nauthorization: Bearer {}\r\n", world.cache.token),
            _ => format!("authorization: Basic {}==\r\n", dice.spoil_head("eDpwaGNfeA")),
        };
        format!("GET {stored} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{line}\r\n").into_bytes()
    })
    .await;
    a_thousand(&world, "ranges", Answer::Any, |dice| {
        // Those that are no ranges are passed over, as HTTP has it; what can't be given is refused.
        let range = match dice.below(3) {
            0 => format!("bytes={}-", 300_000 + dice.below(1_000_000)),
            1 => format!("bytes={}-{}", dice.next(), dice.next()),
            _ => dice.spoil_head("bytes=100-200"),
        };
        world.request("GET", &stored, &format!("range: {range}\r\n"), b"")
    })
    .await;
    a_thousand(&world, "encodings", Answer::Any, |dice| match dice.below(3) {
        0 => world.request("GET", &stored, &format!("accept-encoding: {}\r\n", dice.spoil_head("gzip;q=0.5,zstd")), b""),
        1 => world.request("PUT", &absent, &format!("content-encoding: {}\r\n", dice.spoil_head("zstd")), &packed),
        _ => {
            let spoiled = dice.spoil(&packed);
            world.request("PUT", &absent, "content-encoding: zstd\r\n", &spoiled)
        }
    })
    .await;
    a_thousand(&world, "conditions", Answer::Any, |dice| {
        let name = dice.pick(&["if-match", "if-none-match", "if-range", "if-modified-since", "expect", "content-type"]);
        let value = dice.spoil_head(&format!("\"{}\"", Digest::of(&world.blob)));
        let (method, path) = if dice.below(2) == 0 { ("GET", &stored) } else { ("PUT", &absent) };
        world.request(method, path, &format!("{name}: {value}\r\n"), b"")
    })
    .await;
    a_thousand(&world, "uploads", Answer::AnyOrNone, |dice| {
        let token = &world.cache.token;
        let framing = match dice.below(4) {
            0 => format!("content-length: {}", dice.spoil_head("5000")),
            1 => format!("content-length: {}", 5001 + dice.below(1 << 30)),
            2 => format!("content-length: {}\r\ntransfer-encoding: chunked", dice.below(5000)),
            _ => "transfer-encoding: chunked".to_owned(),
        };
        let head = format!("PUT {absent} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{framing}\r\n\r\n");
        let chunked = [b"1388\r\n".as_slice(), &world.blob[..5000], b"\r\n0\r\n\r\n"].concat();
        let good = if dice.below(2) == 0 { &chunked } else { &world.blob[..5000] };
        let body = dice.spoil(good);
        [head.as_bytes(), &body].concat()
    })
    .await;
    a_thousand(&world, "bytes", Answer::AnyOrNone, |dice| match dice.below(3) {
        0 => dice.bytes(500),
        1 => dice.spoil(&world.request("GET", &absent, "range: bytes=0-10\r\n", b"")),
        _ => dice.spoil(b"POST /v1/namespaces/team/find-missing HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"),
    })
    .await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
}
