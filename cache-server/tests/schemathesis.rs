//! schemathesis, which nobody here wrote, asks what the OpenAPI document allows and what it does not, thousands of times, and holds the
//! answers against it: no status, type or body that is not in the document, no junk that is taken, no way round the credentials, no failure.
//!
//! One of its checks is off: that whatever fits the schema is taken. No schema says what a signature is.

#![allow(missing_docs, reason = "tests")]

use http::StatusCode;
use http::header::IF_NONE_MATCH;
use preheat_cache_server::{Config, Server};
use preheat_image::api::{NamespaceConfig, NamespaceKind};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Delegation, Role, Root, SignedRoot};
use preheat_image::statement::Kind;
use preheat_image::{Digest, KeyFields, Statement, media};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

const END: u64 = 1 << 40;
/// Seconds that each run gets beyond what it does in any case.
const SECONDS: &str = "45";

/// A body that is too large is refused as such.
const CHECKS: &str = "[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]
";

/// The tool. Without it nothing is tested, unless `PREHEAT_INTEROP=required` is set.
fn tool() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("schemathesis")).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var("PREHEAT_INTEROP").as_deref() != Ok("required"), "schemathesis is not installed");
        eprintln!("schemathesis is not installed: nothing is tested");
    }
    found
}

struct Service {
    server: Server,
    directory: TempDir,
}

impl Service {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), directory: directory.path().join("cache"), ..Config::default() };
        config.namespaces.insert("team".into(), NamespaceConfig::new(NamespaceKind::Preheat));
        config.namespaces.insert("raw".into(), NamespaceConfig::new(NamespaceKind::Raw));
        let server = Server::start(config).await.unwrap();
        Self { server, directory }
    }

    async fn put(&self, path: &str, body: Vec<u8>) {
        let url = format!("http://{}{path}", self.server.addr());
        let request = reqwest::Client::new().put(url).bearer_auth(self.server.admin_token().unwrap()).header(IF_NONE_MATCH, "*");
        assert_eq!(request.body(body).send().await.unwrap().status(), StatusCode::CREATED, "{path}");
    }

    /// Runs the tool, with more arguments and a configuration, and fails with what it found.
    async fn examine(&self, tool: PathBuf, settings: &str, more: &[&str]) {
        let file = self.directory.path().join("schemathesis.toml");
        std::fs::write(&file, format!("{settings}\n{CHECKS}")).unwrap();
        let mut command = Command::new(tool);
        command.current_dir(self.directory.path()).arg("--config-file").arg(file);
        command.args(["run", &format!("http://{}/v1/openapi.json", self.server.addr())]);
        command.arg("--header").arg(format!("Authorization: Bearer {}", self.server.admin_token().unwrap()));
        command.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--warnings", "off", "--no-color"]);
        command.args(["--seed", "1", "--max-time", SECONDS, "--continue-on-failure"]).args(more);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let Some(tool) = tool() else { return };
    let service = Service::start().await;
    service.examine(tool, "", &[]).await;
    service.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_where_there_is_something() {
    let Some(tool) = tool() else { return };
    let service = Service::start().await;
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
    service.put("/v1/root", SignedRoot::new(root).unwrap().sign(&key(1)).unwrap().to_bytes()).await;
    let list = RevocationList { version: 1, installation: "here".into(), number: 1, issued: 0, expires: END, ..RevocationList::default() };
    service.put("/v1/revocations", SignedRevocations::new(list).unwrap().sign(&key(4)).unwrap().to_bytes()).await;
    let code = Digest::of(b"code");
    service.put(&format!("/team/cas/{}", code.hex()), b"code".to_vec()).await;
    let fields = KeyFields::new().with(field::KIND, "code-object");
    let envelope = Statement::new(Kind::CodeObject, "team", fields, vec![Descriptor::of(media::CODE, b"code")]).sign(&key(2));
    let entry = envelope.unverified().key.hex();
    service.put(&format!("/team/ac/{entry}"), envelope.to_bytes()).await;
    let mut names = Names::first("team", 1, END);
    names.set(MoveKind::Push, "app:v1", Some(code)).unwrap();
    service.put("/v1/namespaces/team/names", SignedNames::new(names).unwrap().sign(&key(3)).unwrap().to_bytes()).await;
    let settings = format!(
        "[parameters]\n\"path.namespace\" = \"team\"\n\"path.digest\" = \"{0}\"\n\"path.source\" = \"{0}\"\n\"path.key\" = \"{entry}\"\n\"path.number\" = 1\n",
        code.hex()
    );
    let kept = ["putNamespace", "deleteNamespace", "deleteBlob", "deleteEntry"];
    let more: Vec<&str> = kept.iter().flat_map(|operation| ["--exclude-operation-id", operation]).collect();
    service.examine(tool, &settings, &more).await;
    service.server.shutdown().await.unwrap();
}
