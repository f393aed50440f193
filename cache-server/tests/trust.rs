//! Who gets what into the cache, over TCP: honest builders, and those who try what they may not.

#![allow(missing_docs, reason = "tests")]

use http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use preheat_cache_server::tokens::{self, NewToken};
use preheat_cache_server::{Config, Right, Server};
use preheat_image::api::{
    Contribution, ContributionList, ErrorBody, MAX_CONTRIBUTION, NamespaceBuilder, NamespaceConfig, NamespaceKind, NamespaceList,
    StatementList, Statistics,
};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::{Artefact, Descriptor};
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::profile::{BodyDigest, FunctionProfile, Profile, ShapeDigest};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Delegation, Role, Root, SignedRoot};
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{Digest, KeyFields, Manifest, Statement, media, profile};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use std::collections::HashMap;
use tempfile::TempDir;

/// Far away, so that no clock matters.
const END: u64 = 1 << 40;
const BUILDER: u8 = 101;
const NAMER: u8 = 102;
const REVOKER: u8 = 103;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// A root with builders and namers for `prod` alone.
fn root(number: u64, keys: &[u8], threshold: u32) -> Root {
    let delegation = |role, seed, namespace: &str| Delegation {
        role,
        name: "x".into(),
        key: key(seed).public(),
        namespaces: vec![namespace.into()],
        expires: END,
    };
    Root {
        version: 1,
        installation: "here".into(),
        number,
        issued: 0,
        expires: END,
        threshold,
        keys: keys.iter().map(|seed| key(*seed).public()).collect(),
        delegations: vec![
            delegation(Role::Builder, BUILDER, "prod"),
            delegation(Role::Namer, NAMER, "prod"),
            delegation(Role::Revoker, REVOKER, "*"),
        ],
    }
}

fn signed_root(root: Root, by: &[u8]) -> Vec<u8> {
    by.iter().fold(SignedRoot::new(root).unwrap(), |root, seed| root.sign(&key(*seed)).unwrap()).to_bytes()
}

fn statement(namespace: &str, salt: &str) -> Statement {
    let fields = KeyFields::new()
        .with(field::KIND, "code-object")
        .with(field::SOURCE, Digest::of(b"wasm"))
        .with(field::BUILD_ID, "build-1")
        .with(field::ARGS, salt);
    Statement::new(Kind::CodeObject, namespace, fields, vec![Descriptor::of(media::CODE, b"code")])
}

fn signed_names(names: Names) -> SignedNames {
    SignedNames::new(names).unwrap().sign(&key(NAMER)).unwrap()
}

fn ac(namespace: &str, key: &Digest) -> String {
    format!("/{namespace}/ac/{}", key.hex())
}

fn cas(namespace: &str, digest: &Digest) -> String {
    format!("/{namespace}/cas/{}", digest.hex())
}

/// A service with a root, the namespaces `prod` and `team`, `pr` over `prod`, `raw`, and a token for everybody in these tests.
struct Service {
    server: Server,
    client: reqwest::Client,
    tokens: HashMap<&'static str, String>,
    _directory: TempDir,
}

impl Service {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokens");
        let mut tokens = HashMap::new();
        for (name, scopes, rights) in [
            ("operator", &["*"][..], &Right::ALL[..]),
            ("builder", &["prod"], &[Right::Read, Right::WriteBlob, Right::WriteKey, Right::Name]),
            ("pull-request", &["pr"], &[Right::Read, Right::WriteBlob, Right::WriteKey, Right::Name, Right::Admin]),
            ("pull-request-with-base", &["pr", "prod"], &[Right::Read]),
            ("tenant", &["team"], &[Right::Read, Right::WriteBlob, Right::WriteKey]),
            ("node", &["prod"], &[Right::Read]),
        ] {
            let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            let new = NewToken { name: name.into(), scopes, rights: rights.to_vec(), expires: None };
            tokens.insert(name, tokens::add(&file, new).unwrap().1.expose().to_owned());
        }
        let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), directory: directory.path().join("cache"), ..Config::default() };
        config.auth.tokens = Some(file);
        let root_file = directory.path().join("root.json");
        std::fs::write(&root_file, signed_root(root(1, &[1, 2, 3], 2), &[1, 2])).unwrap();
        config.root = Some(root_file);
        let preheat = NamespaceConfig::new(NamespaceKind::Preheat);
        let own = NamespaceBuilder { name: "pr".into(), key: key(50).public(), expires: None };
        let namer = NamespaceBuilder { name: "pr".into(), key: key(51).public(), expires: None };
        config.namespaces.insert("prod".into(), preheat.clone());
        config.namespaces.insert("team".into(), preheat.clone());
        config.namespaces.insert("raw".into(), NamespaceConfig::new(NamespaceKind::Raw));
        config
            .namespaces
            .insert("pr".into(), NamespaceConfig { base: Some("prod".into()), builders: vec![own], namers: vec![namer], ..preheat });
        let server = Server::start(config).await.unwrap();
        Self { server, client: reqwest::Client::new(), tokens, _directory: directory }
    }

    fn ask(&self, who: &str, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.server.addr()));
        match self.tokens.get(who) {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn get(&self, who: &str, path: &str) -> Response {
        self.ask(who, Method::GET, path).send().await.unwrap()
    }

    async fn put(&self, who: &str, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.ask(who, Method::PUT, path).body(body).send().await.unwrap()
    }

    async fn blob(&self, who: &str, namespace: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let answer = self.put(who, &cas(namespace, &digest), bytes.to_vec()).await;
        assert!(answer.status().is_success(), "{}", answer.status());
        digest
    }

    async fn put_statement(&self, who: &str, namespace: &str, envelope: &Envelope) -> Response {
        self.put(who, &ac(namespace, &envelope.unverified().key), envelope.to_bytes()).await
    }

    async fn statements(&self, who: &str, path: &str) -> Vec<Vec<u8>> {
        let answer = self.get(who, path).await;
        match answer.status() {
            StatusCode::NOT_FOUND => Vec::new(),
            StatusCode::OK => answer.json::<StatementList>().await.unwrap().envelopes().unwrap(),
            status => panic!("{status}"),
        }
    }

    async fn put_names(&self, who: &str, namespace: &str, old: Option<&SignedNames>, new: &SignedNames) -> Response {
        let request = self.ask(who, Method::PUT, &format!("/v1/namespaces/{namespace}/names")).body(new.to_bytes());
        let request = match old {
            Some(old) => request.header(IF_MATCH, format!("\"{}\"", Digest::of(&old.to_bytes()))),
            None => request.header(IF_NONE_MATCH, "*"),
        };
        request.send().await.unwrap()
    }
}

async fn refused(answer: Response, status: u16, code: &str) {
    let found = answer.status().as_u16();
    let error: ErrorBody = answer.json().await.unwrap();
    assert_eq!((found, error.error.as_str()), (status, code), "{}", error.message);
}

#[tokio::test]
async fn a_builder_brings_an_image_and_a_node_finds_it_by_key_by_subject_and_by_name() {
    let service = Service::start().await;
    let mut artefact = Artefact::of(Descriptor::of("application/vnd.openjdk.cds", b"cds"));
    artefact.chunks = Some(Descriptor::of(media::CHUNKS, b"chunks"));
    let manifest = Manifest::new(None, None, vec![artefact]).to_bytes();
    let fields = KeyFields::new().with(field::KIND, "image").with(field::SOURCE, Digest::of(b"wasm"));
    let outputs = vec![Descriptor::of(media::MANIFEST, &manifest), Descriptor::of("application/vnd.openjdk.cds", b"cds")];
    let envelope = Statement::new(Kind::Image, "prod", fields, outputs).sign(&key(BUILDER));
    service.blob("builder", "prod", &manifest).await;
    service.blob("builder", "prod", b"cds").await;
    refused(service.put_statement("builder", "prod", &envelope).await, 422, "output-missing").await;
    service.blob("builder", "prod", b"chunks").await;
    assert_eq!(service.put_statement("builder", "prod", &envelope).await.status(), StatusCode::CREATED);
    assert_eq!(service.put_statement("builder", "prod", &envelope).await.status(), StatusCode::OK);
    let image = Digest::of(&manifest);
    let by_key = service.statements("node", &ac("prod", &envelope.unverified().key)).await;
    let by_subject = service.statements("node", &format!("/v1/namespaces/prod/statements/{}", image.hex())).await;
    assert_eq!((by_key, by_subject), (vec![envelope.to_bytes()], vec![envelope.to_bytes()]));
    let mut names = Names::first("prod", 1, END);
    names.set(MoveKind::Push, "app:v1", Some(image)).unwrap();
    let names = signed_names(names);
    refused(service.get("node", "/v1/namespaces/prod/names").await, 404, "no-names").await;
    assert_eq!(service.put_names("builder", "prod", None, &names).await.status(), StatusCode::CREATED);
    let answer = service.get("node", "/v1/namespaces/prod/names").await;
    assert_eq!(answer.headers()[CONTENT_TYPE], media::ENVELOPE);
    let tag = answer.headers()[ETAG].clone();
    assert_eq!(answer.bytes().await.unwrap(), names.to_bytes());
    let same = service.ask("node", Method::GET, "/v1/namespaces/prod/names").header(IF_NONE_MATCH, tag).send().await.unwrap();
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn whoever_writes_an_overlay_gets_nothing_into_its_base() {
    let service = Service::start().await;
    service.blob("builder", "prod", b"code").await;
    let code = service.blob("pull-request", "pr", b"code").await;
    // The base itself is not theirs, nor to be seen.
    let theirs = statement("prod", "a").sign(&key(50));
    refused(service.put_statement("pull-request", "prod", &theirs).await, 404, "no-namespace").await;
    refused(service.put("pull-request", &cas("prod", &Digest::of(b"x")), "x").await, 404, "no-namespace").await;
    let delete = service.ask("pull-request", Method::DELETE, &cas("prod", &code)).send().await.unwrap();
    refused(delete, 404, "no-namespace").await;
    // By way of the overlay: a statement for the base, by whichever key.
    for seed in [50, BUILDER] {
        let envelope = statement("prod", "a").sign(&key(seed));
        refused(service.put_statement("pull-request", "pr", &envelope).await, 422, "other-namespace").await;
    }
    // An honest statement for the overlay stays there. Not even a builder of the base may build for it.
    refused(service.put_statement("pull-request", "pr", &statement("pr", "a").sign(&key(BUILDER))).await, 422, "signer-not-trusted").await;
    let own = statement("pr", "a").sign(&key(50));
    assert_eq!(service.put_statement("pull-request", "pr", &own).await.status(), StatusCode::CREATED);
    let own_key = own.unverified().key;
    assert_eq!(service.statements("pull-request", &ac("pr", &own_key)).await.len(), 1);
    assert!(service.statements("node", &ac("prod", &own_key)).await.is_empty());
    let about = |namespace: &str| format!("/v1/namespaces/{namespace}/statements/{}", code.hex());
    assert!(service.statements("node", &about("prod")).await.is_empty());
    // Nor do its names lead there, nor its namer's signature.
    let mut names = Names::first("prod", 1, END);
    names.set(MoveKind::Push, "app:v1", Some(code)).unwrap();
    let names = SignedNames::new(names).unwrap().sign(&key(51)).unwrap();
    refused(service.put_names("pull-request", "prod", None, &names).await, 404, "no-namespace").await;
    refused(service.put_names("pull-request", "pr", None, &names).await, 422, "names-refused").await;
    refused(service.put_names("builder", "prod", None, &names).await, 422, "names-refused").await;
    // Being admin of the overlay is not being admin.
    let config = serde_json::to_vec(&NamespaceConfig::new(NamespaceKind::Preheat)).unwrap();
    for namespace in ["pr", "prod", "new"] {
        refused(service.put("pull-request", &format!("/v1/namespaces/{namespace}"), config.clone()).await, 403, "forbidden").await;
    }
    refused(service.put("pull-request", "/v1/root", signed_root(root(2, &[1], 1), &[1, 2])).await, 403, "forbidden").await;
    refused(service.put("pull-request", "/v1/revocations", "{}").await, 403, "forbidden").await;
}

#[tokio::test]
async fn an_overlay_shows_its_base_only_to_those_who_may_read_that_too() {
    let service = Service::start().await;
    service.blob("builder", "prod", b"code").await;
    let envelope = statement("prod", "a").sign(&key(BUILDER));
    assert_eq!(service.put_statement("builder", "prod", &envelope).await.status(), StatusCode::CREATED);
    let path = ac("pr", &envelope.unverified().key);
    assert!(service.statements("pull-request", &path).await.is_empty());
    assert_eq!(service.statements("pull-request-with-base", &path).await, [envelope.to_bytes()]);
    // Outputs in the base count for a statement only if whoever brings it may know that they are there.
    let own = statement("pr", "a").sign(&key(50));
    refused(service.put_statement("pull-request", "pr", &own).await, 422, "output-missing").await;
    assert_eq!(service.put_statement("operator", "pr", &own).await.status(), StatusCode::CREATED);
    let row = service.get("pull-request", "/v1/namespaces").await.json::<NamespaceList>().await.unwrap();
    assert_eq!(row.namespaces.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["pr"]);
}

#[tokio::test]
async fn a_valid_statement_is_not_taken_under_another_key_nor_for_another_tenant() {
    let service = Service::start().await;
    service.blob("builder", "prod", b"code").await;
    service.blob("tenant", "team", b"code").await;
    let envelope = statement("prod", "a").sign(&key(BUILDER));
    let other = statement("prod", "b").key;
    refused(service.put("builder", &ac("prod", &other), envelope.to_bytes()).await, 422, "other-key").await;
    assert!(service.statements("node", &ac("prod", &other)).await.is_empty());
    refused(service.put_statement("tenant", "team", &envelope).await, 422, "other-namespace").await;
    let for_them = statement("team", "a").sign(&key(BUILDER));
    refused(service.put_statement("tenant", "team", &for_them).await, 422, "signer-not-trusted").await;
    let mut forged = statement("prod", "a");
    forged.key = other;
    refused(service.put_statement("builder", "prod", &forged.sign(&key(BUILDER))).await, 422, "statement-refused").await;
    let mut larger = statement("prod", "a");
    larger.outputs[0].size = 5;
    refused(service.put_statement("builder", "prod", &larger.sign(&key(BUILDER))).await, 422, "size-mismatch").await;
}

/// All of an answer but what is different each time; what was asked for is written as `D`.
async fn seen(answer: Response, digest: &Digest) -> (u16, Vec<(String, String)>, String) {
    let mine = |name: &str| !["date", "x-request-id", "traceparent"].contains(&name);
    let headers = answer.headers().iter().filter(|(name, _)| mine(name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().replace(&digest.hex(), "D"))).collect();
    (answer.status().as_u16(), headers, answer.text().await.unwrap().replace(&digest.hex(), "D"))
}

/// A digest is no capability: whoever knows or guesses one learns nothing from it about what others have. Only how long answers take is not
/// looked at here.
#[tokio::test]
async fn probing_finds_out_nothing_about_what_others_have() {
    let service = Service::start().await;
    let secret = b"a secret of prod";
    let (theirs, nobodys) = (service.blob("builder", "prod", secret).await, Digest::of(b"what nobody has!"));
    service.blob("builder", "prod", b"code").await;
    let envelope = statement("prod", "a").sign(&key(BUILDER));
    assert_eq!(service.put_statement("builder", "prod", &envelope).await.status(), StatusCode::CREATED);
    let code = Digest::of(b"code");
    for (who, namespaces) in [("tenant", ["team", "prod"]), ("pull-request", ["pr", "prod"]), ("anybody", ["team", "prod"])] {
        for namespace in namespaces {
            let ask = async |method: &Method, path: &str, body: &str, digest: &Digest| {
                let (path, body) = (path.replace("{D}", &digest.hex()), body.replace("{D}", &digest.hex()));
                let request = service.ask(who, method.clone(), &path.replace("{ns}", namespace)).header("range", "bytes=0-1");
                seen(request.body(body).send().await.unwrap(), digest).await
            };
            for (method, path, body, there) in [
                (Method::GET, "/{ns}/cas/{D}", "", &theirs),
                (Method::HEAD, "/{ns}/cas/{D}", "", &theirs),
                (Method::DELETE, "/{ns}/cas/{D}", "", &theirs),
                (Method::PUT, "/{ns}/cas/{D}", "other bytes", &theirs),
                (Method::PUT, "/{ns}/cas/{D}", "", &theirs),
                (Method::GET, "/{ns}/ac/{D}", "", &envelope.unverified().key),
                (Method::HEAD, "/{ns}/ac/{D}", "", &envelope.unverified().key),
                (Method::GET, "/v1/namespaces/{ns}/statements/{D}", "", &code),
                (Method::GET, "/v1/namespaces/{ns}/profiles/{D}", "", &theirs),
                (Method::POST, "/v1/namespaces/{ns}/find-missing", r#"{"digests":["sha256:{D}"]}"#, &theirs),
            ] {
                let (there, absent) = (ask(&method, path, body, there).await, ask(&method, path, body, &nobodys).await);
                assert_eq!(there, absent, "{who}: {method} {path} in {namespace}");
            }
        }
    }
    // Whoever has the bytes brings them anew: in their namespace nobody has them.
    for (who, namespace) in [("tenant", "team"), ("pull-request", "pr")] {
        for (digest, bytes) in [(&theirs, secret), (&nobodys, b"what nobody has!")] {
            let answer = service.put(who, &cas(namespace, digest), bytes.to_vec()).await;
            assert_eq!(answer.status(), StatusCode::CREATED, "{who}");
        }
    }
    assert_eq!(service.get("builder", &cas("prod", &theirs)).await.bytes().await.unwrap(), secret.as_slice());
    // A statement is no probe either: what it names has to be in the namespace itself.
    for part in [b"code".as_slice(), b"edoc"] {
        let fields = KeyFields::new().with(field::KIND, "code-object").with(field::SOURCE, Digest::of(part));
        let probe = Statement::new(Kind::CodeObject, "pr", fields, vec![Descriptor::of(media::CODE, part)]).sign(&key(50));
        refused(service.put_statement("pull-request", "pr", &probe).await, 422, "output-missing").await;
    }
}

#[tokio::test]
async fn names_do_not_go_back_nor_fork_and_of_two_movers_one_wins() {
    let service = Service::start().await;
    let code = service.blob("builder", "prod", b"code").await;
    let step = |old: Option<&SignedNames>, name: &str| {
        let mut names = old.map_or_else(|| Names::first("prod", 1, END), |old| Names::after(old, 1, END));
        names.set(MoveKind::Push, name, Some(code)).unwrap();
        signed_names(names)
    };
    let first = step(None, "app:v1");
    let unconditional = service.put("builder", "/v1/namespaces/prod/names", first.to_bytes()).await;
    refused(unconditional, 428, "precondition-required").await;
    refused(service.put_names("node", "prod", None, &first).await, 403, "forbidden").await;
    assert_eq!(service.put_names("builder", "prod", None, &first).await.status(), StatusCode::CREATED);
    let second = step(Some(&first), "app:v2");
    assert_eq!(service.put_names("builder", "prod", Some(&first), &second).await.status(), StatusCode::OK);
    refused(service.put_names("builder", "prod", Some(&second), &first).await, 422, "names-refused").await;
    let fork = step(Some(&step(Some(&first), "evil:v1")), "evil:v2");
    refused(service.put_names("builder", "prod", Some(&second), &fork).await, 422, "names-refused").await;
    // Two at once, over and over: one wins each time, and the other is told.
    let mut last = second;
    for round in 0..10 {
        let movers = [step(Some(&last), &format!("a:v{round}")), step(Some(&last), &format!("b:v{round}"))];
        let (one, two) = tokio::join!(
            service.put_names("builder", "prod", Some(&last), &movers[0]),
            service.put_names("operator", "prod", Some(&last), &movers[1])
        );
        let statuses = [one.status().as_u16(), two.status().as_u16()];
        let winner = statuses.iter().position(|status| *status == 200).unwrap_or_else(|| panic!("{statuses:?}"));
        assert_eq!(statuses[1 - winner], 412);
        let old = last;
        last = movers.into_iter().nth(winner).unwrap();
        assert_eq!(service.get("node", "/v1/namespaces/prod/names").await.bytes().await.unwrap(), last.to_bytes());
        let number = old.unverified().number;
        let history = service.get("node", &format!("/v1/namespaces/prod/names/{number}")).await;
        assert_eq!(history.bytes().await.unwrap(), old.to_bytes());
    }
    let newest = format!("/v1/namespaces/prod/names/{}", last.unverified().number);
    assert_eq!(service.get("node", &newest).await.bytes().await.unwrap(), last.to_bytes());
    refused(service.get("node", "/v1/namespaces/prod/names/99").await, 404, "no-names").await;
    refused(service.get("node", "/v1/namespaces/prod/names/01").await, 400, "bad-number").await;
}

#[tokio::test]
async fn not_even_an_operator_takes_the_root_over_without_its_keys() {
    let service = Service::start().await;
    let first = signed_root(root(1, &[1, 2, 3], 2), &[1, 2]);
    assert_eq!(service.get("node", "/v1/root").await.bytes().await.unwrap(), first);
    for (number, keys, by) in [(2, &[9][..], &[9][..]), (2, &[9], &[1, 9]), (2, &[9], &[1, 2]), (3, &[9], &[1, 2, 9])] {
        let mut attack = root(number, keys, 1);
        attack.delegations[0].key = key(10).public();
        refused(service.put("operator", "/v1/root", signed_root(attack, by)).await, 422, "root-refused").await;
    }
    let twin = signed_root(root(1, &[9], 1), &[9]);
    refused(service.put("operator", "/v1/root", twin).await, 412, "precondition-failed").await;
    assert_eq!(service.get("node", "/v1/root").await.bytes().await.unwrap(), first);
    let second = signed_root(root(2, &[4, 5], 2), &[1, 2, 4, 5]);
    assert_eq!(service.put("operator", "/v1/root", second.clone()).await.status(), StatusCode::OK);
    assert_eq!(service.get("node", "/v1/root").await.bytes().await.unwrap(), second);
    assert_eq!(service.get("node", "/v1/root/1").await.bytes().await.unwrap(), first);
    assert_eq!(service.get("node", "/v1/root/2").await.bytes().await.unwrap(), second);
    refused(service.get("nobody", "/v1/root").await, 401, "unauthorized").await;
}

#[tokio::test]
async fn what_is_revoked_is_neither_taken_nor_given_out_any_more() {
    let service = Service::start().await;
    let code = service.blob("builder", "prod", b"code").await;
    let envelope = statement("prod", "a").sign(&key(BUILDER));
    let (by_key, by_subject) = (ac("prod", &envelope.unverified().key), format!("/v1/namespaces/prod/statements/{}", code.hex()));
    assert_eq!(service.put_statement("builder", "prod", &envelope).await.status(), StatusCode::CREATED);
    assert_eq!(service.statements("node", &by_key).await.len(), 1);
    let mut list =
        RevocationList { version: 1, installation: "here".into(), number: 1, issued: 0, expires: END, ..RevocationList::default() };
    list.build_ids.insert("build-1".into());
    let signed = |list: &RevocationList, seed| SignedRevocations::new(list.clone()).unwrap().sign(&key(seed)).unwrap().to_bytes();
    for stranger in [BUILDER, NAMER, 1, 9] {
        refused(service.put("operator", "/v1/revocations", signed(&list, stranger)).await, 422, "revocations-refused").await;
    }
    assert_eq!(service.statements("node", &by_key).await.len(), 1);
    assert_eq!(service.put("operator", "/v1/revocations", signed(&list, REVOKER)).await.status(), StatusCode::CREATED);
    assert!(service.statements("node", &by_key).await.is_empty());
    assert!(service.statements("node", &by_subject).await.is_empty());
    assert_eq!(service.ask("node", Method::HEAD, &by_key).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    refused(service.put_statement("builder", "prod", &statement("prod", "b").sign(&key(BUILDER))).await, 422, "revoked").await;
    assert_eq!(service.get("node", "/v1/revocations").await.bytes().await.unwrap(), signed(&list, REVOKER));
    // Nothing is taken back.
    let shorter = RevocationList { number: 2, build_ids: Default::default(), ..list.clone() };
    refused(service.put("operator", "/v1/revocations", signed(&shorter, REVOKER)).await, 422, "revocations-refused").await;
    // A name can't lead to what is revoked.
    let mut more = RevocationList { number: 2, ..list };
    more.blobs.insert(code);
    assert_eq!(service.put("operator", "/v1/revocations", signed(&more, REVOKER)).await.status(), StatusCode::OK);
    let mut names = Names::first("prod", 1, END);
    names.set(MoveKind::Push, "app:v1", Some(code)).unwrap();
    refused(service.put_names("builder", "prod", None, &signed_names(names)).await, 422, "revoked").await;
}

#[tokio::test]
async fn contributions_to_profiles_are_kept_once_and_stay_in_their_namespace() {
    let service = Service::start().await;
    let source = Digest::of(b"wasm").hex();
    let path = |namespace: &str| format!("/v1/namespaces/{namespace}/profiles/{source}");
    let post =
        async |who: &str, namespace: &str, body: Vec<u8>| service.ask(who, Method::POST, &path(namespace)).body(body).send().await.unwrap();
    let profile = |calls: u64, functions: u32| {
        let of = |index: u32| FunctionProfile {
            index,
            body: BodyDigest::of(&index.to_le_bytes()),
            shape: ShapeDigest::of(b""),
            first: None,
            entries: 1,
            sites: Vec::new(),
        };
        let (contributor, functions) = ("somebody else".to_owned(), (0..functions).map(of).collect());
        let method = profile::Method::Counted;
        let one = profile::Contribution { contributor, at: 1, method, origin: String::new(), calls, functions };
        let mut profile = Profile::new(Digest::of(b"wasm"));
        profile.insert(one).unwrap();
        profile.to_bytes()
    };
    let (small, large) = (profile(1, 1), profile(2, 10_000));
    for (body, status) in [(&small, 201), (&small, 200), (&large, 201)] {
        let answer = post("builder", "prod", body.clone()).await;
        assert_eq!(answer.status().as_u16(), status);
        let contribution: Contribution = answer.json().await.unwrap();
        assert_eq!((contribution.size, contribution.by.as_str()), (body.len() as u64, "builder"));
    }
    let list: ContributionList = service.get("node", &path("prod")).await.json().await.unwrap();
    let mut expected = [Digest::of(&small), Digest::of(&large)];
    expected.sort_unstable();
    assert_eq!(list.contributions.iter().map(|one| one.digest).collect::<Vec<_>>(), expected);
    assert_eq!(list.next, None);
    let after: ContributionList = service.get("node", &format!("{}?after={}", path("prod"), expected[0].hex())).await.json().await.unwrap();
    assert_eq!(after.contributions.len(), 1);
    let one = service.get("node", &format!("{}/{}", path("prod"), Digest::of(&large).hex())).await;
    assert_eq!(one.bytes().await.unwrap(), large);
    refused(service.get("node", &format!("{}?more=1", path("prod"))).await, 400, "bad-query").await;
    refused(post("node", "prod", small.clone()).await, 403, "forbidden").await;
    refused(post("tenant", "prod", small.clone()).await, 404, "no-namespace").await;
    refused(post("builder", "prod", vec![0; MAX_CONTRIBUTION + 1]).await, 413, "too-large").await;
    refused(post("builder", "prod", Vec::new()).await, 422, "empty").await;
    refused(post("operator", "raw", small.clone()).await, 404, "raw-namespace").await;
    // An overlay does not show what was contributed below it, nor what that says together.
    let above: ContributionList = service.get("operator", &path("pr")).await.json().await.unwrap();
    assert!(above.contributions.is_empty());
    refused(service.get("operator", &format!("{}/{}", path("pr"), Digest::of(&small).hex())).await, 404, "not-found").await;
    refused(service.get("operator", &format!("{}/summary", path("pr"))).await, 404, "no-profile").await;
    // Who may read gets the summary, and only who has every right takes a contribution away.
    let summary = || format!("{}/summary", path("prod"));
    for may in ["node", "builder", "operator"] {
        assert_eq!(service.get(may, &summary()).await.status(), StatusCode::OK, "{may}");
    }
    refused(service.get("tenant", &summary()).await, 404, "no-namespace").await;
    refused(service.get("nobody", &summary()).await, 401, "unauthorized").await;
    refused(service.get("operator", &format!("{}/summary", path("raw"))).await, 404, "raw-namespace").await;
    let remove = format!("{}/{}", path("prod"), Digest::of(&small).hex());
    refused(service.ask("builder", Method::DELETE, &remove).send().await.unwrap(), 403, "forbidden").await;
    assert_eq!(service.ask("operator", Method::DELETE, &remove).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let left: ContributionList = service.get("node", &path("prod")).await.json().await.unwrap();
    assert_eq!(left.contributions.len(), 1);
}

#[tokio::test]
async fn an_operator_makes_changes_and_removes_namespaces() {
    let service = Service::start().await;
    let put =
        async |name: &str, config: serde_json::Value| service.put("operator", &format!("/v1/namespaces/{name}"), config.to_string()).await;
    assert_eq!(put("new", serde_json::json!({ "kind": "preheat" })).await.status(), StatusCode::CREATED);
    assert_eq!(put("new", serde_json::json!({ "kind": "preheat", "anonymousRead": true })).await.status(), StatusCode::OK);
    for bad in [r#"{"kind":"preheat","more":1}"#, r#"{"kind":"other"}"#, "[]", "junk", r#"{"kind":"preheat","builders":[["a","b"]]}"#, ""] {
        refused(service.put("operator", "/v1/namespaces/new", bad).await, 400, "bad-json").await;
    }
    refused(put("new", serde_json::json!({ "kind": "preheat", "base": "nowhere" })).await, 422, "namespace-refused").await;
    refused(put("v1", serde_json::json!({ "kind": "preheat" })).await, 404, "no-namespace").await;
    let code = service.blob("operator", "new", b"code").await;
    refused(put("new", serde_json::json!({ "kind": "raw" })).await, 409, "not-empty").await;
    let delete = async |name: &str| service.ask("operator", Method::DELETE, &format!("/v1/namespaces/{name}")).send().await.unwrap();
    refused(delete("prod").await, 409, "is-base").await;
    assert_eq!(delete("new").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(delete("new").await.status(), StatusCode::NO_CONTENT);
    refused(service.get("operator", &cas("new", &code)).await, 404, "no-namespace").await;
    assert_eq!(put("new", serde_json::json!({ "kind": "raw" })).await.status(), StatusCode::CREATED);
    refused(service.get("operator", &cas("new", &code)).await, 404, "not-found").await;
    // One with names stays until they are removed.
    let code = service.blob("builder", "prod", b"code").await;
    let mut names = Names::first("prod", 1, END);
    names.set(MoveKind::Push, "app:v1", Some(code)).unwrap();
    service.put_names("builder", "prod", None, &signed_names(names)).await.error_for_status().unwrap();
    refused(delete("prod").await, 409, "names-live").await;
    let statistics: Statistics = service.get("tenant", "/v1/statistics").await.json().await.unwrap();
    assert_eq!(statistics.namespaces.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["team"]);
    refused(service.get("nobody", "/v1/namespaces").await, 401, "unauthorized").await;
}

#[tokio::test]
async fn junk_is_refused_and_never_more_than_that() {
    let service = Service::start().await;
    let good = statement("prod", "a").sign(&key(BUILDER)).to_bytes();
    let deep = "[".repeat(100_000);
    let entry = ac("prod", &statement("prod", "a").key);
    for path in [entry.as_str(), "/v1/root", "/v1/revocations", "/v1/namespaces/prod/names", "/v1/namespaces/prod"] {
        for (index, body) in
            [&b""[..], b"{}", b"null", b"\xff\xfe", deep.as_bytes(), &good[..good.len() / 2], &good].into_iter().enumerate()
        {
            let request = service.ask("operator", Method::PUT, path).header(IF_NONE_MATCH, "*").body(body.to_vec());
            let answer = request.send().await.unwrap();
            let status = answer.status();
            assert!(status.is_client_error(), "{path} {index}: {status}");
            assert!(!answer.json::<ErrorBody>().await.unwrap().message.is_empty());
        }
        let wrong_type = service.ask("operator", Method::PUT, path).header(IF_NONE_MATCH, "*").header(CONTENT_TYPE, "text/plain");
        refused(wrong_type.body("x").send().await.unwrap(), 415, "unsupported-media-type").await;
        let encoded = service.ask("operator", Method::PUT, path).header(IF_NONE_MATCH, "*").header("content-encoding", "zstd");
        assert_eq!(encoded.body("x").send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
    }
    let large = vec![b' '; 1024 * 1024 + 1];
    refused(service.put("operator", &entry, large.clone()).await, 413, "too-large").await;
    refused(service.put("operator", "/v1/root", large).await, 413, "too-large").await;
    assert_eq!(service.get("operator", "/readyz").await.status(), StatusCode::OK);
}
