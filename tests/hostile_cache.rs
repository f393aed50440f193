//! A cache in the hands of an attacker, in front of honest builders and nodes: it may keep things from them, and nothing more. It has no key
//! but its own, knows all that was ever pushed, and answers whatever it likes.

mod common;

use common::{Home, Ran, hello};
use preheat_cache_server::{Config, Server};
use preheat_image::api::StatementList;
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::root::{Root, SignedRoot};
use preheat_image::statement::Kind;
use preheat_image::{Digest, KeyFields, Statement, media};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Makes of an honest answer to a path what is said instead.
type Lie = Arc<dyn Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync>;

/// Between the nodes and an honest service.
struct Attacker {
    host: String,
    lie: Arc<Mutex<Lie>>,
    /// The last honest answer to each path.
    heard: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

fn honest() -> Lie {
    Arc::new(|_, answer| answer)
}

/// An answer with this body.
fn says(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn has_nothing() -> Vec<u8> {
    let body = r#"{"error":"not-found","message":"nothing"}"#;
    format!("HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// The body of an answer that has it as it is.
fn body_of(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    &answer[end..]
}

impl Attacker {
    fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let attacker = Self { host, lie: Arc::new(Mutex::new(honest())), heard: Arc::default() };
        let (lie, heard) = (attacker.lie.clone(), attacker.heard.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (lie, heard) = (lie.clone(), heard.clone());
                // A client that goes away ends it.
                std::thread::spawn(move || drop(Self::answer(client.unwrap(), upstream, &lie, &heard)));
            }
        });
        attacker
    }

    /// Takes one request, asks the honest service, and answers.
    fn answer(
        mut client: TcpStream,
        upstream: SocketAddr,
        lie: &Mutex<Lie>,
        heard: &Mutex<BTreeMap<String, Vec<u8>>>,
    ) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let (mut head, mut length, mut path) = (String::new(), 0, String::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let lower = line.to_ascii_lowercase();
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            if !lower.starts_with("connection:") && !lower.starts_with("accept-encoding:") {
                head.push_str(&line);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut service = TcpStream::connect(upstream)?;
        service.write_all(&[head.as_bytes(), b"connection: close\r\n\r\n", &body].concat())?;
        let mut answer = Vec::new();
        service.read_to_end(&mut answer)?;
        heard.lock().unwrap().insert(path.clone(), answer.clone());
        let lie = lie.lock().unwrap().clone();
        client.write_all(&lie(&path, answer))
    }

    fn tell(&self, lie: impl Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static) {
        *self.lie.lock().unwrap() = Arc::new(lie);
    }

    fn be_honest(&self) {
        *self.lie.lock().unwrap() = honest();
    }

    /// What the honest service said to this path last.
    fn heard(&self, path: &str) -> Vec<u8> {
        self.heard.lock().unwrap().get(path).unwrap_or_else(|| panic!("{path}")).clone()
    }
}

/// An honest service with its root and its builder, and the attacker before it, whom all nodes take for the service.
struct World {
    builder: Home,
    attacker: Attacker,
    host: String,
    token: String,
    fingerprint: String,
    _server: Server,
    _runtime: tokio::runtime::Runtime,
    _home: Home,
}

const NAMES: &str = "/v1/namespaces/default/names";

impl World {
    fn new() -> Self {
        let home = Home::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), directory: home.path().join("cache"), ..Config::default() };
        config.log.access = false;
        let server = runtime.block_on(Server::start(config)).unwrap();
        let (host, token) = (server.addr().to_string(), server.admin_token().unwrap().to_owned());
        let builder = Home::new();
        assert_eq!(builder.run_with(["login", &host, "--push"], token.as_bytes()).code, Some(0));
        let fingerprint = builder.json(["cache", "init", &host])["fingerprint"].as_str().unwrap().to_owned();
        let attacker = Attacker::start(server.addr());
        Self { builder, attacker, host, token, fingerprint, _server: server, _runtime: runtime, _home: home }
    }

    /// Builds a program that says `text` and pushes it under that name. Its digest.
    fn push(&self, text: &str, name: &str) -> Digest {
        let file = self.builder.write(&format!("{text}.wat"), hello(text, 0));
        let digest = self.builder.ok(["build", file.to_str().unwrap(), "--tag", text, "--cpu", "v2"]);
        self.builder.ok(["push", text, &format!("{}/default/{name}", self.host)]);
        digest.parse().unwrap()
    }

    /// The digest of the only code object of what was pushed.
    fn code(&self, text: &str) -> Digest {
        self.builder.json(["inspect", text])["manifest"]["artefacts"][0]["digest"].as_str().unwrap().parse().unwrap()
    }

    fn blob(&self, digest: &Digest) -> Vec<u8> {
        std::fs::read(self.builder.blob(&digest.to_string())).unwrap()
    }

    /// A machine that trusts the root and asks the attacker.
    fn node(&self, login: &[&str]) -> Home {
        let node = Home::new();
        let args = ["login", &self.attacker.host].into_iter().chain(login.iter().copied());
        assert_eq!(node.run_with(args, self.token.as_bytes()).code, Some(0));
        node.ok(["trust", "add", "--from", &self.attacker.host, "--fingerprint", &self.fingerprint]);
        node
    }

    fn place(&self, name: &str) -> String {
        format!("{}/default/{name}", self.attacker.host)
    }

    /// Signs with the namer's key what its holder never published.
    fn by_the_namer(&self, names: Names) -> Vec<u8> {
        let key = preheat::KeyFile::read(&self.builder.root().join("keys/namer.json")).unwrap();
        SignedNames::new(names).unwrap().sign(&key).unwrap().to_bytes()
    }
}

#[track_caller]
fn assert_refused(ran: &Ran, what: &str) {
    assert!(ran.code.is_some_and(|code| code != 0), "{what}: {ran:?}");
    assert!(ran.stdout.is_empty() && !ran.stderr.contains("panicked"), "{what}: {ran:?}");
}

#[test]
fn lies_about_what_there_is_end_a_pull_and_leave_nothing_of_theirs() {
    let world = World::new();
    let (good, evil) = (world.push("good", "app:v1"), world.push("evil", "evil:v1"));
    let (good_code, evil_code) = (world.code("good"), world.code("evil"));
    let path = |digest: &Digest| format!("/default/cas/{}", digest.hex());
    let about = |digest: &Digest| format!("/v1/namespaces/default/statements/{}", digest.hex());
    // All that is honest about both is known.
    let other = world.node(&[]);
    other.ok(["pull", &world.place("app:v1")]);
    other.ok(["pull", &world.place("evil:v1")]);
    let their_key = SecretKey::from_seed([66; 32]);
    let fields = KeyFields::new().with(field::KIND, "image").with(field::SOURCE, Digest::of(b"wasm"));
    let manifest = world.blob(&good);
    let outputs = vec![Descriptor::of(media::MANIFEST, &manifest), Descriptor::of(media::CODE_WASMTIME, &world.blob(&evil_code))];
    let by_them = Statement::new(Kind::Image, "default", fields, outputs).sign(&their_key).to_bytes();
    // The same in the builder's name: its key is public, and so is its id.
    let builder = world.builder.json(["key", "show"])["id"].as_str().unwrap().to_owned();
    let in_its_name = String::from_utf8(by_them.clone()).unwrap().replace(&their_key.public().id().to_string(), &builder);
    assert_ne!(in_its_name.as_bytes(), by_them);
    let known = SignedNames::parse(body_of(&world.attacker.heard(NAMES))).unwrap();
    let mut moved = Names::after(&known, preheat::trust::now(), preheat::trust::now() + 3600);
    moved.set(MoveKind::Push, "app:v1", Some(evil)).unwrap();
    let moved = SignedNames::new(moved).unwrap().sign(&their_key).unwrap().to_bytes();

    let half = world.blob(&good_code);
    let half = half[..half.len() / 2].to_vec();
    let replaced: Vec<(&str, String, Vec<u8>)> = vec![
        ("another image's manifest", path(&good), says(world.blob(&evil))),
        ("other code", path(&good_code), says(world.blob(&evil_code))),
        ("half of the code", path(&good_code), says(half)),
        ("no code", path(&good_code), says("")),
        ("the code is gone", path(&good_code), has_nothing()),
        ("a statement about another image", about(&good), world.attacker.heard(&about(&evil))),
        ("a statement by the attacker", about(&good), says(serde_json::to_vec(&StatementList::new([&by_them])).unwrap())),
        ("a statement in the builder's name", about(&good), says(serde_json::to_vec(&StatementList::new([&in_its_name])).unwrap())),
        ("no statement", about(&good), says(r#"{"statements":[]}"#)),
        ("junk for statements", about(&good), says("[[[[")),
        ("names by the attacker", NAMES.to_owned(), says(moved)),
        ("names that are none", NAMES.to_owned(), says("{}")),
    ];
    for (what, where_, answer) in replaced {
        let node = world.node(&[]);
        world.attacker.tell(move |path, honest| if path == where_ { answer.clone() } else { honest });
        assert_refused(&node.run(["pull", &world.place("app:v1")]), what);
        assert_refused(&node.run(["run", &world.place("app:v1")]), what);
        assert_eq!(node.run(["run", &good.to_string()]).code, Some(120), "{what}: it is not there");
        for theirs in [&evil, &evil_code] {
            assert!(!node.blob(&theirs.to_string()).exists(), "{what}");
        }
        node.assert_whole();
        // The same node, once it gets honest answers.
        world.attacker.be_honest();
        assert_eq!(node.run(["run", &world.place("app:v1")]).stdout, "good", "{what}");
    }
}

#[test]
fn names_are_never_older_mixed_or_frozen_for_whoever_has_seen_better() {
    let world = World::new();
    let one = world.push("one", "app:v1");
    let (node, place) = (world.node(&[]), world.place("app:v1"));
    assert_eq!(node.ok(["pull", &place]), one.to_string());
    let old = world.attacker.heard(NAMES);
    let two = world.push("two", "app:v1");
    assert_eq!(node.ok(["pull", &place]), two.to_string());
    let new = SignedNames::parse(body_of(&world.attacker.heard(NAMES))).unwrap();
    let (number, now) = (new.unverified().number, preheat::trust::now());
    let to_one = |mut names: Names| {
        names.set(MoveKind::Push, "app:v1", Some(one)).unwrap();
        world.by_the_namer(names)
    };
    let first = SignedNames::parse(body_of(&old)).unwrap();
    let mixed: Vec<(&str, Vec<u8>)> = vec![
        ("the ones before", old),
        ("others with the same number", says(to_one(Names { number, ..Names::after(&first, now, now + 3600) }))),
        ("the next ones of another history", says(to_one(Names { number: number + 1, ..Names::after(&first, now, now + 3600) }))),
        ("a new beginning", says(to_one(Names::first("default", now, now + 3600)))),
        (
            "those of another namespace",
            says(to_one(Names { number: number + 1, previous: Some(new.digest()), ..Names::first("other", now, now + 3600) })),
        ),
        ("ones whose time is over", says(to_one(Names::after(&new, now - 7200, now - 3600)))),
        ("none at all", has_nothing()),
    ];
    for (what, answer) in mixed {
        world.attacker.tell(move |path, honest| if path == NAMES { answer.clone() } else { honest });
        assert_refused(&node.run(["pull", &place]), what);
        assert_refused(&node.run(["run", &place, "--pull", "always"]), what);
        assert_refused(&node.run(["names", &format!("{}/default", world.attacker.host)]), what);
        assert_eq!(node.run(["run", &place]).stdout, "two", "{what}: what was seen stays");
    }
    // A real move by the namer goes on from what was seen.
    world.attacker.be_honest();
    let three = world.push("three", "app:v1");
    assert_eq!(node.ok(["pull", &place]), three.to_string());
}

#[test]
fn what_was_built_under_another_key_is_no_build_hit_whatever_the_cache_says() {
    let world = World::new();
    let (good, evil) = (world.push("good", "good:v1"), world.push("evil", "evil:v1"));
    let key = |text: &str| world.builder.json(["inspect", text])["statements"][0]["key"].as_str().unwrap().parse::<Digest>().unwrap();
    let path = |key: &Digest| format!("/default/ac/{}", key.hex());
    let build = |node: &Home| {
        let file = node.write("good.wat", hello("good", 0));
        let built = node.json(["build", file.to_str().unwrap(), "--cpu", "v2", "--tag", "app"]);
        assert_eq!(node.run(["run", "app"]).stdout, "good", "{built}");
        node.assert_whole();
        built
    };
    let builds = |login: &[&str]| world.node(&[&["--builds"], login].concat());
    let honest = build(&builds(&[]));
    assert_eq!((honest["compiled"].as_u64(), honest["image"].as_str()), (Some(0), Some(good.to_string().as_str())), "so hits are possible");
    // A valid statement by a trusted builder, under a key that it is not for: first for the image, then for whatever is asked.
    let node = builds(&[]);
    let file = node.write("evil.wat", hello("evil", 0));
    node.ok(["build", file.to_str().unwrap(), "--cpu", "v2"]);
    let (of_evil, of_good) = (world.attacker.heard(&path(&key("evil"))), path(&key("good")));
    let (good_code, evil_code) = (world.code("good").hex(), world.blob(&world.code("evil")));
    let (good_manifest, evil_manifest) = (good.hex(), world.blob(&evil));
    let other = of_evil.clone();
    // What is compiled here: nothing where only the image's entry is bad, and its code can still be had.
    let lies: Vec<(&str, u64, Lie)> = vec![
        ("another image's entry", 0, Arc::new(move |path, honest| if path == of_good { of_evil.clone() } else { honest })),
        ("one entry for all", 1, Arc::new(move |path, honest| if path.contains("/ac/") { other.clone() } else { honest })),
        ("other bytes", 1, Arc::new(move |path, honest| if path.ends_with(&good_code) { says(&evil_code) } else { honest })),
        ("another manifest", 1, Arc::new(move |path, honest| if path.ends_with(&good_manifest) { says(&evil_manifest) } else { honest })),
        ("junk", 1, Arc::new(|_, _| says("junk"))),
    ];
    for (what, compiled, lie) in lies {
        let node = builds(&[]);
        *world.attacker.lie.lock().unwrap() = lie;
        assert_eq!(build(&node)["compiled"], compiled, "{what}");
        world.attacker.be_honest();
    }
}

#[test]
fn roots_by_others_are_left_at_the_first_one() {
    let world = World::new();
    world.push("app", "app:v1");
    let (node, place) = (world.node(&[]), world.place("app:v1"));
    let before = node.json(["trust", "ls"]);
    let theirs = SecretKey::from_seed([66; 32]);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    world.attacker.tell(move |path, honest| {
        let Some(number) = path.strip_prefix("/v1/root/").and_then(|number| number.parse().ok()) else { return honest };
        counted.fetch_add(1, Ordering::Relaxed);
        let now = preheat::trust::now();
        let root = Root {
            version: 1,
            installation: "home".into(),
            number,
            issued: now,
            expires: now + 3600,
            threshold: 1,
            keys: vec![theirs.public()],
            delegations: Vec::new(),
        };
        says(SignedRoot::new(root).unwrap().sign(&theirs).unwrap().to_bytes())
    });
    node.run(["trust", "update"]).assert_fails(122, "signature");
    assert_refused(&node.run(["pull", &place]), "a pull");
    assert_eq!(asked.load(Ordering::Relaxed), 2, "one for each, however many there are");
    assert_eq!(node.json(["trust", "ls"]), before);
    world.attacker.be_honest();
    assert_eq!(node.run(["run", &place]).stdout, "app");
}

#[test]
fn a_revocation_that_was_seen_is_not_taken_back_by_showing_an_older_list_or_none() {
    const LIST: &str = "/v1/revocations";
    let world = World::new();
    world.push("app", "app:v1");
    let (node, place) = (world.node(&[]), world.place("app:v1"));
    let keys = world.builder.root().join("keys/root.json");
    let root = world.builder.root().join("trust/roots").join(world.fingerprint.strip_prefix("sha256:").unwrap()).join("1.json");
    let [root, keys] = [&root, &keys].map(|path| path.to_str().unwrap());
    let publish = |file: &str, what: &[&str]| {
        let out = world.builder.path().join(file);
        let common = ["root", "revoke", "--root", root, "--key", keys, "--out", out.to_str().unwrap()];
        world.builder.ok(common.iter().chain(what));
        world.builder.ok(["cache", "publish", &world.host, out.to_str().unwrap()]);
        out.to_str().unwrap().to_owned()
    };
    let first = publish("1.revocations.json", &["--build-id", "another build"]);
    assert_eq!(node.run(["run", &place]).stdout, "app");
    let old = world.attacker.heard(LIST);
    let build_id = world.builder.json(["doctor"])["buildId"].as_str().unwrap().to_owned();
    publish("2.revocations.json", &["--list", &first, "--build-id", &build_id]);
    node.ok(["trust", "update"]);
    node.run(["run", &place]).assert_fails(122, "revoked");
    for (what, answer) in [("the list before", old), ("none", has_nothing()), ("junk", says("{}"))] {
        world.attacker.tell(move |path, honest| if path == LIST { answer.clone() } else { honest });
        let _ = node.run(["trust", "update"]);
        assert_refused(&node.run(["run", &place]), what);
        assert_refused(&node.run(["run", &place, "--pull", "always"]), what);
    }
}
