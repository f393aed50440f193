//! The OpenAPI document says what the service does, all of it and nothing else.

#![allow(missing_docs, reason = "tests")]

use preheat_cache_server::{Config, Server};
use preheat_image::api::{NamespaceConfig, NamespaceKind};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::profile::{Contribution, Method as How, Profile, Summary};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Delegation, Role, Root, SignedRoot};
use preheat_image::statement::Kind;
use preheat_image::{Digest, KeyFields, Statement, media};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use tempfile::TempDir;

const DOCUMENT: &str = include_str!("../src/routes/openapi.json");
const END: u64 = 1 << 40;

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

struct Service {
    server: Server,
    client: reqwest::Client,
    document: Value,
    _directory: TempDir,
}

impl Service {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), directory: directory.path().join("cache"), ..Config::default() };
        config.namespaces.insert("team".into(), NamespaceConfig::new(NamespaceKind::Preheat));
        config.namespaces.insert("raw".into(), NamespaceConfig::new(NamespaceKind::Raw));
        let server = Server::start(config).await.unwrap();
        Self { server, client: reqwest::Client::new(), document: document(), _directory: directory }
    }

    async fn send(&self, method: &Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Response {
        let token = self.server.admin_token().unwrap();
        let request = self.client.request(method.clone(), format!("http://{}{path}", self.server.addr())).bearer_auth(token).body(body);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
    }

    /// Follows a reference within the document.
    fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        match value["$ref"].as_str() {
            Some(pointer) => self.document.pointer(pointer.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{pointer}")),
            None => value,
        }
    }

    /// Asks, and holds the answer against what the document says about it. Gives back the status and the body.
    async fn ask(&self, method: Method, template: &str, parameters: &[(&str, &str)], body: impl Into<Vec<u8>>) -> (u16, Vec<u8>) {
        self.ask_with(method, template, parameters, &[], body.into()).await
    }

    async fn ask_with(
        &self,
        method: Method,
        template: &str,
        parameters: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, Vec<u8>) {
        let path = parameters.iter().fold(template.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value));
        let answer = self.send(&method, &path, headers, body).await;
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().split(';').next().unwrap().to_owned());
        let tag = answer.headers().contains_key("etag");
        let body = answer.bytes().await.unwrap().to_vec();
        let what = format!("{method} {path}: {status}");
        let operation = &self.document["paths"][template][method.as_str().to_ascii_lowercase()];
        assert!(operation.is_object(), "{what}: no such operation");
        let said = self.resolve(&operation["responses"][status.to_string()]);
        assert!(said.is_object(), "{what}: no such answer; {}", String::from_utf8_lossy(&body));
        assert!(!tag || said["headers"]["ETag"].is_object(), "{what}: an entity tag");
        if body.is_empty() {
            return (status, body);
        }
        let content = &said["content"][kind.as_deref().unwrap_or_default()];
        assert!(content.is_object(), "{what}: no such type {kind:?}");
        if kind.is_some_and(|kind| kind.ends_with("json")) {
            let schema = json!({ "allOf": [content["schema"]], "components": self.document["components"] });
            let validator = jsonschema::validator_for(&schema).unwrap();
            let instance = serde_json::from_slice(&body).unwrap();
            let errors: Vec<String> = validator.iter_errors(&instance).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{what}: {errors:?} in {instance}");
        }
        (status, body)
    }
}

fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_everything_is_referred_to() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for pointer in &found {
        assert!(document.pointer(pointer.strip_prefix('#').unwrap()).is_some(), "{pointer}");
    }
    for kind in ["parameters", "responses", "schemas"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(found.contains(format!("#/components/{kind}/{name}").as_str()), "{kind}/{name} is not used");
        }
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        let named: BTreeSet<&str> = path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}')).collect();
        let list = item["parameters"].as_array().cloned().unwrap_or_default();
        let described: Vec<String> =
            list.iter().map(|one| one["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_lowercase()).collect();
        assert_eq!(described.iter().map(String::as_str).collect::<BTreeSet<_>>(), named, "{path}");
    }
}

#[test]
fn the_routes_are_those_of_the_document() {
    let mut routes = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/routes")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            routes.extend(text.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    let documented: BTreeSet<String> = document()["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(routes, documented);
}

#[tokio::test]
async fn the_methods_are_those_of_the_document() {
    let service = Service::start().await;
    for (template, item) in document()["paths"].as_object().unwrap() {
        let hex = "0".repeat(64);
        let path = [("namespace", "nowhere"), ("digest", &hex), ("key", &hex), ("source", &hex), ("id", &hex), ("number", "1")]
            .iter()
            .fold(template.clone(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value));
        for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::HEAD] {
            // HEAD is the answer to GET without its body.
            let name = if method == Method::HEAD { "get".to_owned() } else { method.as_str().to_ascii_lowercase() };
            let answer = service.send(&method, &path, &[], Vec::new()).await;
            let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
            assert_eq!(status != 405, item[&name].is_object(), "{method} {path}: {status}");
            assert!(!body.contains("no-such-page"), "{method} {path}");
            assert!(status < 500, "{method} {path}: {status}");
        }
    }
    let answer = service.send(&Method::GET, "/v1/openapi.json", &[], Vec::new()).await;
    assert_eq!(answer.text().await.unwrap(), DOCUMENT);
}

#[tokio::test]
async fn answers_are_what_the_document_says() {
    let key = |seed| SecretKey::from_seed([seed; 32]);
    let delegation =
        |role, seed| Delegation { role, name: "x".into(), key: key(seed).public(), namespaces: vec!["*".into()], expires: END };
    let root = Root {
        version: 1,
        installation: "here".into(),
        number: 1,
        issued: 0,
        expires: END,
        threshold: 1,
        keys: vec![key(1).public()],
        delegations: vec![delegation(Role::Builder, 2), delegation(Role::Namer, 3), delegation(Role::Revoker, 4)],
    };
    let root = SignedRoot::new(root).unwrap().sign(&key(1)).unwrap().to_bytes();
    let code = Digest::of(b"code");
    let fields = KeyFields::new().with(field::KIND, "code-object");
    let envelope = Statement::new(Kind::CodeObject, "team", fields, vec![Descriptor::of(media::CODE, b"code")]).sign(&key(2));
    let (hex, entry, none) = (code.hex(), envelope.unverified().key.hex(), "0".repeat(64));
    let mut names = Names::first("team", 1, END);
    names.set(MoveKind::Push, "app:v1", Some(code)).unwrap();
    let names = SignedNames::new(names).unwrap().sign(&key(3)).unwrap().to_bytes();
    let list = RevocationList { version: 1, installation: "here".into(), number: 1, issued: 0, expires: END, ..RevocationList::default() };
    let revocations = SignedRevocations::new(list).unwrap().sign(&key(4)).unwrap().to_bytes();

    let service = Service::start().await;
    let team = ("namespace", "team");
    let status = async |method: Method, template: &str, parameters: &[(&str, &str)], body: &[u8]| {
        service.ask(method, template, parameters, body).await.0
    };
    let (get, put, post, delete) = (Method::GET, Method::PUT, Method::POST, Method::DELETE);
    // Before anything is there.
    assert_eq!(status(get.clone(), "/v1/root", &[], b"").await, 404);
    assert_eq!(status(get.clone(), "/v1/revocations", &[], b"").await, 404);
    assert_eq!(status(put.clone(), "/v1/revocations", &[], &revocations).await, 409);
    // Trust.
    assert_eq!(status(put.clone(), "/v1/root", &[], b"{}").await, 422);
    assert_eq!(status(put.clone(), "/v1/root", &[], &root).await, 201);
    assert_eq!(status(put.clone(), "/v1/root", &[], &root).await, 200);
    assert_eq!(status(get.clone(), "/v1/root", &[], b"").await, 200);
    assert_eq!(status(get.clone(), "/v1/root/{number}", &[("number", "1")], b"").await, 200);
    assert_eq!(status(get.clone(), "/v1/root/{number}", &[("number", "2")], b"").await, 404);
    assert_eq!(status(get.clone(), "/v1/root/{number}", &[("number", "x")], b"").await, 400);
    assert_eq!(status(put.clone(), "/v1/revocations", &[], &revocations).await, 201);
    assert_eq!(status(get.clone(), "/v1/revocations", &[], b"").await, 200);
    // Blobs.
    let blob = "/{namespace}/cas/{digest}";
    assert_eq!(status(put.clone(), blob, &[team, ("digest", &hex)], b"code").await, 201);
    assert_eq!(status(put.clone(), blob, &[team, ("digest", &hex)], b"code").await, 200);
    assert_eq!(status(put.clone(), blob, &[team, ("digest", &none)], b"code").await, 422);
    assert_eq!(status(get.clone(), blob, &[team, ("digest", &hex)], b"").await, 200);
    assert_eq!(status(Method::HEAD, blob, &[team, ("digest", &hex)], b"").await, 200);
    assert_eq!(status(get.clone(), blob, &[team, ("digest", &none)], b"").await, 404);
    assert_eq!(status(get.clone(), blob, &[team, ("digest", "x")], b"").await, 400);
    let part = |range: &'static str| {
        let (service, hex) = (&service, hex.as_str());
        async move { service.ask_with(Method::GET, blob, &[team, ("digest", hex)], &[("range", range)], Vec::new()).await }
    };
    assert_eq!(part("bytes=1-2").await, (206, b"od".to_vec()));
    assert_eq!(part("bytes=9-").await.0, 416);
    let tag = format!("\"{code}\"");
    assert_eq!(service.ask_with(get.clone(), blob, &[team, ("digest", &hex)], &[("if-none-match", &tag)], Vec::new()).await.0, 304);
    let missing = "/v1/namespaces/{namespace}/find-missing";
    let question = json!({ "digests": [code, Digest::ZERO] }).to_string();
    let (found, answer) = service.ask(post.clone(), missing, &[team], question).await;
    assert_eq!((found, serde_json::from_slice::<Value>(&answer).unwrap()), (200, json!({ "missing": [Digest::ZERO] })));
    assert_eq!(status(post.clone(), missing, &[team], b"[]").await, 400);
    // Entries.
    let ac = "/{namespace}/ac/{key}";
    assert_eq!(status(put.clone(), ac, &[team, ("key", &entry)], &envelope.to_bytes()).await, 201);
    assert_eq!(status(put.clone(), ac, &[team, ("key", &none)], &envelope.to_bytes()).await, 422);
    assert_eq!(status(get.clone(), ac, &[team, ("key", &entry)], b"").await, 200);
    assert_eq!(status(Method::HEAD, ac, &[team, ("key", &entry)], b"").await, 200);
    assert_eq!(status(get.clone(), ac, &[team, ("key", &none)], b"").await, 404);
    let statements = "/v1/namespaces/{namespace}/statements/{digest}";
    assert_eq!(status(get.clone(), statements, &[team, ("digest", &hex)], b"").await, 200);
    assert_eq!(status(get.clone(), statements, &[team, ("digest", &none)], b"").await, 404);
    let raw = ("namespace", "raw");
    assert_eq!(status(put.clone(), ac, &[raw, ("key", &none)], b"anything").await, 201);
    assert_eq!(status(get.clone(), ac, &[raw, ("key", &none)], b"").await, 200);
    assert_eq!(status(delete.clone(), ac, &[raw, ("key", &none)], b"").await, 204);
    // Names.
    let path = "/v1/namespaces/{namespace}/names";
    assert_eq!(status(get.clone(), path, &[team], b"").await, 404);
    assert_eq!(status(put.clone(), path, &[team], &names).await, 428);
    assert_eq!(service.ask_with(put.clone(), path, &[team], &[("if-match", "\"x\"")], names.clone()).await.0, 412);
    assert_eq!(service.ask_with(put.clone(), path, &[team], &[("if-none-match", "*")], names).await.0, 201);
    assert_eq!(status(get.clone(), path, &[team], b"").await, 200);
    assert_eq!(status(get.clone(), "/v1/namespaces/{namespace}/names/{number}", &[team, ("number", "1")], b"").await, 200);
    // Namespaces.
    let one = "/v1/namespaces/{namespace}";
    let config = json!({ "kind": "preheat", "base": "team", "builders": [{ "name": "x", "key": key(9).public() }], "maxBytes": 1 });
    assert_eq!(status(put.clone(), one, &[("namespace", "new")], config.to_string().as_bytes()).await, 201);
    assert_eq!(status(put.clone(), one, &[("namespace", "new")], config.to_string().as_bytes()).await, 200);
    assert_eq!(status(get.clone(), one, &[("namespace", "new")], b"").await, 200);
    assert_eq!(status(get.clone(), "/v1/namespaces", &[], b"").await, 200);
    assert_eq!(status(delete.clone(), one, &[team], b"").await, 409);
    assert_eq!(status(delete.clone(), one, &[("namespace", "new")], b"").await, 204);
    assert_eq!(status(get.clone(), one, &[("namespace", "new")], b"").await, 404);
    // Profiles.
    let profile = "/v1/namespaces/{namespace}/profiles/{source}";
    let wasm = ("source", none.as_str());
    let mut one = Profile::new(Digest::ZERO);
    let (contributor, origin) = ("x".to_owned(), String::new());
    one.insert(Contribution { contributor, at: 1, method: How::Counted, origin, calls: 1, functions: Vec::new() }).unwrap();
    let one = one.to_bytes();
    assert_eq!(status(post.clone(), profile, &[team, wasm], b"profile").await, 422);
    assert_eq!(status(get.clone(), &format!("{profile}/summary"), &[team, wasm], b"").await, 404);
    assert_eq!(status(post.clone(), profile, &[team, wasm], &one).await, 201);
    assert_eq!(status(post.clone(), profile, &[team, wasm], &one).await, 200);
    assert_eq!(status(get.clone(), profile, &[team, wasm], b"").await, 200);
    let contribution = format!("{profile}/{{id}}");
    let id = Digest::of(&one).hex();
    assert_eq!(status(get.clone(), &contribution, &[team, wasm, ("id", &id)], b"").await, 200);
    let (found, summary) = service.ask(get.clone(), &format!("{profile}/summary"), &[team, wasm], b"").await;
    assert_eq!((found, Summary::parse(&summary).unwrap().provenance().calls), (200, 1));
    let tag = format!("\"{}\"", Digest::of(&summary));
    let unless = [("if-none-match", tag.as_str())];
    assert_eq!(service.ask_with(get.clone(), &format!("{profile}/summary"), &[team, wasm], &unless, Vec::new()).await.0, 304);
    assert_eq!(status(get.clone(), &format!("{profile}/summary.json"), &[team, wasm], b"").await, 200);
    assert_eq!(status(delete.clone(), &contribution, &[team, wasm, ("id", &id)], b"").await, 204);
    assert_eq!(status(get.clone(), &format!("{profile}/summary.json"), &[team, wasm], b"").await, 404);
    // Operation.
    assert_eq!(status(post.clone(), "/v1/namespaces/{namespace}/collect", &[team], br#"{"dryRun":true}"#).await, 200);
    for page in ["/v1/statistics", "/v1/openapi.json", "/livez", "/readyz", "/metrics"] {
        assert_eq!(status(get.clone(), page, &[], b"").await, 200, "{page}");
    }
    assert_eq!(status(delete.clone(), blob, &[team, ("digest", &hex)], b"").await, 204);
}
