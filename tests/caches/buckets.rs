//! Two servers over one bucket of a real S3 server: what one takes, the other gives.

use crate::common::Home;
use crate::common::service::{Service, build};
use crate::s3_server::{BUCKET, KEY, S3, SECRET};
use std::net::SocketAddr;
use std::path::Path;

/// How people call the two.
const HOST: &str = "cache.example";

/// The settings of a server over the bucket at an address.
pub(crate) fn settings(s3: SocketAddr, tokens: &Path, more: &str) -> String {
    format!(
        r#"
        [bucket]
        url = "s3://{BUCKET}/fleet"
        options = {{ endpoint = "http://{s3}", allow_http = "true", region = "us-east-1", access_key_id = "{KEY}", secret_access_key = "{SECRET}" }}
        {more}
        [auth]
        tokens = "{}"
        "#,
        tokens.display()
    )
}

/// Two servers with one bucket and one file of tokens.
struct Fleet {
    one: Service,
    two: Service,
    _homes: [Home; 2],
    _s3: S3,
}

impl Fleet {
    fn start() -> Option<Self> {
        let s3 = S3::start()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(s3.assert_refuses_stale_writes());
        let homes = [Home::new(), Home::new()];
        let settings = settings(s3.addr, &homes[0].path().join("tokens.json"), "");
        let (one, two) = (Service::configured(&homes[0], &settings), Service::configured(&homes[1], &settings));
        assert!(!one.token.is_empty() && two.token.is_empty(), "the second has the tokens of the first");
        Some(Self { one, two, _homes: homes, _s3: s3 })
    }

    /// A home for which one of the servers is the cache.
    fn client(&self, of: &Service) -> Home {
        let home = Home::new();
        self.login(&home, of);
        home
    }

    fn login(&self, home: &Home, of: &Service) {
        let ran = home.run_with(["login", HOST, "--url", &of.url], self.one.token.as_bytes());
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

fn place(name: &str) -> String {
    format!("{HOST}/default/{name}")
}

fn make_root(builder: &Home) -> String {
    builder.json(["cache", "init", HOST])["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_pushed_through_one_is_pulled_and_run_through_the_other() {
    let Some(fleet) = Fleet::start() else { return };
    let builder = fleet.client(&fleet.one);
    let fingerprint = make_root(&builder);
    let first = build(&builder, "over the bucket", "one");
    let second = build(&builder, "over it again", "two");
    assert_eq!(builder.ok(["push", "one", &place("app:v1")]), first);

    let node = fleet.client(&fleet.two);
    node.ok(["trust", "add", "--from", HOST, "--fingerprint", &fingerprint]);
    let ran = node.run(["run", &place("app:v1")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "over the bucket"), "{ran:?}");
    // Names that are moved through one are seen through the other at once.
    builder.ok(["push", "two", &place("app:v2")]);
    builder.ok(["promote", &place("app:stable"), "app:v1"]);
    assert_eq!(node.ok(["pull", &place("app:stable")]), first);
    builder.ok(["promote", &place("app:stable"), "app:v2"]);
    assert_eq!(node.ok(["pull", &place("app:stable")]), second);
    builder.ok(["rollback", &place("app:stable")]);
    assert_eq!(node.ok(["pull", &place("app:stable")]), first);
    let names = |home: &Home| home.json(["names", &format!("{HOST}/default")]);
    assert_eq!(names(&builder), names(&node));
    node.assert_whole();

    // One of them dies; the other has all there is, and takes more.
    let Fleet { one, two, _homes, _s3 } = fleet;
    let token = one.token.clone();
    drop(one);
    let ran = builder.run_with(["login", HOST, "--url", &two.url], token.as_bytes());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let third = build(&builder, "through the one that is left", "three");
    builder.ok(["push", "three", &place("app:v3")]);
    let late = Home::new();
    let ran = late.run_with(["login", HOST, "--url", &two.url], token.as_bytes());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    late.ok(["trust", "add", "--from", HOST, "--fingerprint", &fingerprint]);
    for (name, digest) in [("app:v1", &first), ("app:v2", &second), ("app:v3", &third)] {
        assert_eq!(late.ok(["pull", &place(name)]), *digest);
    }
}

#[test]
fn two_who_move_one_name_at_once_through_both_lose_no_move() {
    const MOVES: usize = 8;
    let Some(fleet) = Fleet::start() else { return };
    let builder = fleet.client(&fleet.one);
    let fingerprint = make_root(&builder);
    let images = [build(&builder, "of one", "one"), build(&builder, "of two", "two")];
    builder.ok(["push", "one", &place("app:one")]);
    builder.ok(["push", "two", &place("app:two")]);
    // The second namer has the same right, on a machine of its own.
    let other = fleet.client(&fleet.two);
    other.ok(["trust", "add", "--from", HOST, "--fingerprint", &fingerprint]);
    std::fs::create_dir_all(other.root().join("keys")).unwrap();
    std::fs::copy(builder.root().join("keys/namer.json"), other.root().join("keys/namer.json")).unwrap();
    let before = builder.json(["names", &format!("{HOST}/default")])["snapshot"]["number"].as_u64().unwrap();
    std::thread::scope(|scope| {
        for (home, image) in [&builder, &other].into_iter().zip(&images) {
            scope.spawn(move || (0..MOVES).for_each(|_| drop(home.ok(["promote", &place("app:stable"), image]))));
        }
    });
    let names = other.json(["names", &format!("{HOST}/default")]);
    assert_eq!(names, builder.json(["names", &format!("{HOST}/default")]));
    let snapshot = &names["snapshot"];
    assert_eq!(snapshot["number"].as_u64(), Some(before + 2 * MOVES as u64), "each move made one snapshot");
    let moves: Vec<_> = snapshot["moves"].as_array().unwrap().iter().filter(|one| one["name"] == "app:stable").collect();
    for image in &images {
        assert_eq!(moves.iter().filter(|one| one["to"] == image.as_str()).count(), MOVES);
    }
    // Each begins where the one before it ended.
    assert!(moves.windows(2).all(|pair| pair[0]["to"] == pair[1]["from"]), "{moves:?}");
    assert_eq!(snapshot["names"]["app:stable"], moves.last().unwrap()["to"]);
}
