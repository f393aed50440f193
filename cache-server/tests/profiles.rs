//! What many contribute to a profile, added up by the service, over TCP.

#![allow(missing_docs, reason = "tests")]

#[path = "common/s3_server.rs"]
mod s3_server;

use preheat_cache_server::tokens::{self, NewToken};
use preheat_cache_server::{BucketConfig, Config, Right, Server};
use preheat_image::api::{ContributionList, ErrorBody, MAX_CONTRIBUTION, NamespaceConfig, NamespaceKind, ProfileReport};
use preheat_image::profile::{
    BodyDigest, Contribution, FunctionProfile, Method as How, Profile, Rules, ShapeDigest, Site, SiteCounts, Summary,
};
use preheat_image::{Digest, media};
use reqwest::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use reqwest::{Method, Response, StatusCode};
use s3_server::{BUCKET, KEY, S3, SECRET};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tempfile::TempDir;

fn source() -> Digest {
    Digest::of(b"module")
}

fn path(more: &str) -> String {
    format!("/v1/namespaces/team/profiles/{}{more}", source().hex())
}

/// A service with the namespaces `team` and `raw`, and a token for everybody.
struct Service {
    server: Server,
    client: reqwest::Client,
    tokens: BTreeMap<String, String>,
    directory: TempDir,
}

impl Service {
    async fn start(names: &[&str]) -> Self {
        Self::with(names, |_| {}).await
    }

    async fn with(names: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        // Whoever came first has installed the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokens");
        let mut tokens = BTreeMap::new();
        for name in names {
            let rights = if *name == "operator" { Right::ALL.to_vec() } else { vec![Right::Read, Right::WriteBlob] };
            let new = NewToken { name: (*name).to_owned(), scopes: vec!["*".into()], rights, expires: None };
            tokens.insert((*name).to_owned(), tokens::add(&file, new).unwrap().1.expose().to_owned());
        }
        let server = Self::open(directory.path(), change).await;
        Self { server, client: reqwest::Client::new(), tokens, directory }
    }

    async fn open(directory: &Path, change: impl FnOnce(&mut Config)) -> Server {
        let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), directory: directory.join("cache"), ..Config::default() };
        config.auth.tokens = Some(directory.join("tokens"));
        config.namespaces.insert("team".into(), NamespaceConfig::new(NamespaceKind::Preheat));
        config.namespaces.insert("raw".into(), NamespaceConfig::new(NamespaceKind::Raw));
        change(&mut config);
        Server::start(config).await.unwrap()
    }

    fn ask(&self, who: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.server.addr())).bearer_auth(&self.tokens[who])
    }

    async fn post(&self, who: &str, body: Vec<u8>) -> Response {
        self.ask(who, Method::POST, &path("")).body(body).send().await.unwrap()
    }

    /// Brings contributions, which have to be new or not.
    async fn bring(&self, who: &str, contributions: &[Contribution]) {
        for contribution in contributions {
            let answer = self.post(who, alone(contribution)).await;
            assert!(answer.status().is_success(), "{}", answer.status());
        }
    }

    async fn get(&self, path: &str) -> Response {
        let who = self.tokens.keys().next().unwrap();
        self.ask(who, Method::GET, path).send().await.unwrap()
    }

    async fn summary(&self, query: &str) -> (Summary, ProfileReport, Vec<u8>) {
        let answer = self.get(&path(&format!("/summary{query}"))).await;
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
        assert_eq!(answer.headers()[CONTENT_TYPE], media::PROFILE_SUMMARY);
        let (tag, generation) = (answer.headers()[ETAG].clone(), answer.headers()["preheat-generation"].clone());
        let bytes = answer.bytes().await.unwrap().to_vec();
        let report: ProfileReport = self.get(&path(&format!("/summary.json{query}"))).await.json().await.unwrap();
        assert_eq!(report.digest, Digest::of(&bytes));
        assert_eq!(
            (tag.to_str().unwrap(), generation.to_str().unwrap()),
            (&*format!("\"{}\"", report.digest), &*report.generation.to_string())
        );
        assert_eq!((report.size, report.source), (bytes.len() as u64, source()));
        (Summary::parse(&bytes).unwrap(), report, bytes)
    }

    async fn contributions(&self) -> ContributionList {
        self.get(&path("")).await.json().await.unwrap()
    }
}

/// The profile that has this contribution alone.
fn alone(contribution: &Contribution) -> Vec<u8> {
    let mut profile = Profile::new(source());
    profile.insert(contribution.clone()).unwrap();
    profile.to_bytes()
}

fn function(index: u32, count: u64) -> FunctionProfile {
    let name = index.to_le_bytes();
    let sites = vec![Site { offset: 3, counts: SiteCounts::Reached(count) }];
    FunctionProfile { index, body: BodyDigest::of(&name), shape: ShapeDigest::of(&name), first: Some(index), entries: count, sites }
}

/// What a node saw that claims another name and another time than it has.
fn seen(number: u64, calls: u64, counts: &[u64]) -> Contribution {
    let functions = (0..).zip(counts).map(|(index, count)| function(index, *count)).collect();
    let (contributor, origin) = ("whoever".to_owned(), format!("run {number}"));
    Contribution { contributor, at: number, method: How::Counted, origin, calls, functions }
}

async fn refused(answer: Response, status: u16, code: &str) {
    let found = answer.status().as_u16();
    let error: ErrorBody = answer.json().await.unwrap();
    assert_eq!((found, error.error.as_str()), (status, code), "{}", error.message);
}

fn hottest(summary: &Summary) -> Vec<u32> {
    summary.shares().iter().take(5).map(|(index, _)| *index).collect()
}

#[tokio::test]
async fn what_two_brought_is_added_up_as_anybody_would_with_who_brought_it_and_when() {
    let service = Service::start(&["alice", "bob"]).await;
    let (by_alice, by_bob) = ([seen(1, 10, &[5, 1, 0]), seen(2, 30, &[9, 1])], [seen(3, 80, &[1, 7, 2])]);
    service.bring("alice", &by_alice).await;
    service.bring("bob", &by_bob).await;
    let (summary, report, bytes) = service.summary("").await;
    let expected = |half_life_s, cap, now, list: &ContributionList| {
        let mut profile = Profile::new(source());
        for contribution in by_alice.iter().chain(&by_bob) {
            let digest = Digest::of(&alone(contribution));
            let known = list.contributions.iter().find(|known| known.digest == digest).unwrap();
            profile.insert(Contribution { contributor: known.by.clone(), at: known.at, ..contribution.clone() }).unwrap();
        }
        profile.evaluate(&Rules { now, half_life_s, cap }).unwrap().to_bytes()
    };
    let list = service.contributions().await;
    assert_eq!(bytes, expected(report.half_life, report.cap, report.now, &list));
    assert!(report.now.is_multiple_of(3600) && report.now >= report.newest && report.now - report.newest < 3600, "{report:?}");
    assert_eq!((report.half_life, report.cap), (Rules::new(0).half_life_s, Rules::new(0).cap));
    let all = (report.contributors, report.contributions, report.calls, report.counted, report.called, report.functions);
    assert_eq!(all, (2, 3, 120, 120, 3, 3));
    assert_eq!((report.skipped, report.evicted, report.left_out, report.generation), (0, 0, 0, 1));
    assert_eq!((summary.provenance().oldest, summary.provenance().newest), (report.oldest, report.newest));
    // By other rules, which are kept beside.
    let (_, capped, other) = service.summary("?cap=20&half-life=0").await;
    assert_eq!(other, expected(0, 20, report.now, &list));
    assert_eq!((capped.half_life, capped.cap, capped.generation), (0, 20, 1));
    assert_ne!(other, bytes);
    for bad in ["?cap=-1", "?half-life=5", "?cap=x", "?more=1", "?half-life=99999999999", "?cap=1&cap=2"] {
        refused(service.get(&path(&format!("/summary{bad}"))).await, 400, "bad-query").await;
    }
    // Who has it gets no bytes.
    let again = service.ask("bob", Method::GET, &path("/summary")).header(IF_NONE_MATCH, format!("\"{}\"", report.digest));
    let again = again.send().await.unwrap();
    assert_eq!((again.status(), again.headers().contains_key("preheat-generation")), (StatusCode::NOT_MODIFIED, true));
    // What is known already changes nothing, whoever brings it again; what is new does.
    service.bring("bob", &by_alice).await;
    let (_, same, same_bytes) = service.summary("").await;
    assert_eq!((same.generation, &same_bytes), (1, &bytes));
    service.bring("bob", &[seen(4, 1, &[1])]).await;
    let (_, next, next_bytes) = service.summary("").await;
    assert_eq!((next.generation, next.contributions, next.contributors), (2, 4, 2));
    assert_ne!(next_bytes, bytes);
    // A restart forgets nothing.
    let Service { server, client, tokens, directory } = service;
    server.shutdown().await.unwrap();
    let service = Service { server: Service::open(directory.path(), |_| {}).await, client, tokens, directory };
    let (_, after, after_bytes) = service.summary("").await;
    assert_eq!((after, after_bytes), (next, next_bytes));
    let metrics = service.get("/metrics").await.text().await.unwrap();
    assert!(
        metrics.contains(r#"preheat_cache_hits_total{kind="profile"}"#) && metrics.contains("preheat_cache_profile_merge_seconds"),
        "{metrics}"
    );
}

#[tokio::test]
async fn the_order_in_which_it_comes_does_not_matter() {
    let contributions: Vec<Contribution> = (0..12).map(|number| seen(number, number % 5 + 1, &[number, 50 - number, 7])).collect();
    let mut sums = BTreeSet::new();
    for shift in [0, 5, 9] {
        let service = Service::start(&["alice"]).await;
        let mut order = contributions.clone();
        order.rotate_left(shift);
        if shift == 9 {
            order.reverse();
            order.extend(contributions.clone());
        }
        service.bring("alice", &order).await;
        // Without ageing: it does not come in the same second each time.
        let (summary, report, _) = service.summary("?half-life=0").await;
        assert_eq!(report.contributions, 12);
        sums.insert(summary.functions().values().map(|function| (function.entries, function.first)).collect::<Vec<_>>());
    }
    assert_eq!(sums.len(), 1);
}

#[tokio::test]
async fn one_who_counts_to_the_largest_number_under_one_token_changes_nothing_at_the_top() {
    let names: Vec<String> = (0..20).map(|number| format!("node-{number}")).chain(["mallory".to_owned()]).collect();
    let service = Service::start(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (number, name) in (0..).zip(&names[..20]) {
        let counts: Vec<u64> = (0..30u64).map(|index| (1 << 30) >> index | (number + index)).collect();
        service.bring(name, &[seen(number, 100 + number, &counts)]).await;
    }
    let (honest, _, _) = service.summary("").await;
    assert_eq!(hottest(&honest), [0, 1, 2, 3, 4]);
    // Under many names, of all times, of more requests than anybody: it is one token.
    for number in 0..40 {
        let mut counts = vec![0; 30];
        counts[29] = u64::MAX;
        counts[28] = u64::MAX - number;
        let lie = Contribution { contributor: format!("node-{number}"), at: u64::MAX - number, ..seen(number, u64::MAX, &counts) };
        service.bring("mallory", &[lie]).await;
    }
    let (summary, report, _) = service.summary("").await;
    assert_eq!((report.contributors, report.contributions), (21, 60));
    assert_eq!(hottest(&summary)[..3], [0, 1, 2], "{:?}", summary.shares());
    assert_eq!(summary.function(0).unwrap().first, Some(0));
    // Nor can he take what others brought for his own: who came first has brought it.
    service.bring("mallory", &[seen(0, 100, &(0..30u64).map(|index| (1 << 30) >> index | index).collect::<Vec<_>>())]).await;
    let list = service.contributions().await;
    assert_eq!(list.contributions.iter().filter(|one| one.by == "mallory").count(), 40);
}

#[tokio::test]
async fn what_is_no_contribution_to_this_profile_is_refused_and_leaves_nothing() {
    let service = Service::start(&["alice", "operator"]).await;
    let good = alone(&seen(1, 1, &[1, 2, 3]));
    refused(service.post("alice", b"not a profile".to_vec()).await, 422, "not-a-profile").await;
    for end in [1, 8, 12, 44, 45, good.len() / 2, good.len() - 1] {
        refused(service.post("alice", good[..end].to_vec()).await, 422, "not-a-profile").await;
    }
    refused(service.post("alice", [&good[..], b"\0"].concat()).await, 422, "not-a-profile").await;
    let mut other = Profile::new(Digest::of(b"another module"));
    other.insert(seen(1, 1, &[1])).unwrap();
    refused(service.post("alice", other.to_bytes()).await, 422, "other-source").await;
    let mut two = Profile::new(source());
    two.insert(seen(1, 1, &[1])).unwrap();
    two.insert(seen(2, 1, &[1])).unwrap();
    refused(service.post("alice", two.to_bytes()).await, 422, "not-one-contribution").await;
    refused(service.post("alice", Profile::new(source()).to_bytes()).await, 422, "not-one-contribution").await;
    refused(service.post("alice", vec![0; MAX_CONTRIBUTION + 1]).await, 413, "too-large").await;
    // A summary is no contribution.
    let summary = Profile::new(source()).evaluate(&Rules::new(0)).unwrap().to_bytes();
    refused(service.post("alice", summary).await, 422, "not-a-profile").await;
    let raw = path("").replace("/team/", "/raw/");
    refused(service.ask("alice", Method::POST, &raw).body(good.clone()).send().await.unwrap(), 404, "raw-namespace").await;
    assert!(service.contributions().await.contributions.is_empty());
    for what in ["/summary", "/summary.json"] {
        refused(service.get(&path(what)).await, 404, "no-profile").await;
    }
    // By its own type, and by none.
    let typed = service.ask("alice", Method::POST, &path("")).header(CONTENT_TYPE, media::PROFILE).body(good.clone());
    assert_eq!(typed.send().await.unwrap().status(), StatusCode::CREATED);
    let (_, report, _) = service.summary("").await;
    assert_eq!((report.generation, report.contributions), (1, 1));
    // What an operator takes away counts no more, and comes back as what it is then: of another.
    let one = path(&format!("/{}", Digest::of(&good).hex()));
    assert_eq!(service.ask("operator", Method::DELETE, &one).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    refused(service.get(&path("/summary")).await, 404, "no-profile").await;
    assert_eq!(service.post("operator", good.clone()).await.status(), StatusCode::CREATED);
    assert_eq!(service.summary("").await.1.generation, 2);
    assert_eq!(service.contributions().await.contributions[0].by, "operator");
}

#[tokio::test]
async fn what_was_brought_before_anybody_looked_and_what_was_damaged_is_skipped_and_counted() {
    let service = Service::start(&["alice"]).await;
    service.bring("alice", &[seen(1, 10, &[5, 1]), seen(2, 10, &[5, 2]), seen(3, 10, &[5, 3])]).await;
    let damaged = Digest::of(&alone(&seen(1, 10, &[5, 1])));
    let gone = Digest::of(&alone(&seen(2, 10, &[5, 2])));
    let file = |digest: &Digest| {
        let hex = digest.hex();
        service.directory.path().join("cache/ns/team/cas").join(&hex[..2]).join(&hex[2..])
    };
    let mut bytes = std::fs::read(file(&damaged)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::remove_file(file(&damaged)).unwrap();
    std::fs::write(file(&damaged), bytes).unwrap();
    std::fs::remove_file(file(&gone)).unwrap();
    let (_, report, bytes) = service.summary("").await;
    assert_eq!((report.contributions, report.skipped, report.evicted, report.generation), (1, 1, 1, 1));
    let (_, again, same) = service.summary("").await;
    assert_eq!((again, &same), (report.clone(), &bytes));
    // It comes back, and counts.
    service.bring("alice", &[seen(2, 10, &[5, 2])]).await;
    let (_, report, _) = service.summary("").await;
    assert_eq!((report.contributions, report.generation), (2, 2));
}

fn bucket_at(addr: std::net::SocketAddr) -> BucketConfig {
    let options = [
        ("endpoint", format!("http://{addr}")),
        ("allow_http", "true".into()),
        ("region", "us-east-1".into()),
        ("access_key_id", KEY.into()),
        ("secret_access_key", SECRET.into()),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value)).into();
    BucketConfig { url: format!("s3://{BUCKET}/fleet"), options, request_seconds: 20, attempts: 4, ..BucketConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_over_one_bucket_lose_nothing_and_never_go_back() {
    let Some(s3) = S3::start() else { return };
    s3.assert_refuses_stale_writes().await;
    let bucket = bucket_at(s3.addr);
    let one = Service::with(&["alice"], |config| config.bucket = Some(bucket.clone())).await;
    let two = Service::with(&["bob"], |config| config.bucket = Some(bucket.clone())).await;
    let bring = async |service: &Service, who: &str, from: u64| {
        let mut last = 0;
        for number in from..from + 8 {
            service.bring(who, &[seen(number, number + 1, &[number, 1, 2])]).await;
            // Between two questions the other one may bring more.
            let report: ProfileReport = service.get(&path("/summary.json")).await.json().await.unwrap();
            assert!(report.generation > last && report.contributions as u64 > number - from, "{report:?} after {last}");
            last = report.generation;
        }
    };
    tokio::join!(bring(&one, "alice", 0), bring(&two, "bob", 100));
    let (_, by_one, one_bytes) = one.summary("").await;
    let (_, by_two, two_bytes) = two.summary("").await;
    assert_eq!((&by_one, one_bytes), (&by_two, two_bytes));
    assert_eq!((by_one.contributions, by_one.contributors), (16, 2));
    assert!((8..=16).contains(&by_one.generation), "{by_one:?}");
}
