//! A service over real TCP, and what tests ask of it.

#![allow(dead_code, missing_docs, reason = "each test file uses what it needs")]

use preheat_cache_server::{Config, Server};
use preheat_image::Digest;
use preheat_image::api::{ErrorBody, NamespaceConfig, NamespaceKind};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use std::path::PathBuf;
use std::sync::Once;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Cache {
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
    pub(crate) client: reqwest::Client,
    pub(crate) token: String,
}

/// Bytes that do not repeat within a chunk and are compressible a little.
pub(crate) fn content(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    std::iter::repeat_with(|| (next() & 0x3f3f_3f3f).to_le_bytes()).flatten().take(len).collect()
}

impl Cache {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Namespaces: `team` and `prod` of kind preheat, `over` over `prod`, `raw`.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), directory: directory.path().join("cache"), ..Config::default() };
        let preheat = NamespaceConfig::new(NamespaceKind::Preheat);
        config.namespaces.insert("team".into(), preheat.clone());
        config.namespaces.insert("prod".into(), preheat.clone());
        config.namespaces.insert("over".into(), NamespaceConfig { base: Some("prod".into()), ..preheat.clone() });
        config.namespaces.insert("open".into(), NamespaceConfig { anonymous_read: true, base: Some("prod".into()), ..preheat });
        config.namespaces.insert("raw".into(), NamespaceConfig::new(NamespaceKind::Raw));
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        let token = server.admin_token().unwrap_or_default().to_owned();
        Self { server, directory, client: reqwest::Client::new(), token }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addr())
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(&self.token)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::PUT, path).body(body).send().await.unwrap()
    }

    /// Stores a blob and returns its digest.
    pub(crate) async fn store(&self, namespace: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let response = self.put(&cas(namespace, &digest), bytes.to_vec()).await;
        assert!(response.status().is_success(), "{}", response.status());
        digest
    }

    /// Where the local storage keeps a blob.
    pub(crate) fn blob_path(&self, namespace: &str, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.directory.path().join("cache/ns").join(namespace).join("cas").join(&hex[..2]).join(&hex[2..])
    }

    /// Sends bytes as they are, and reads all that comes back until the connection ends.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.server.addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn metrics(&self) -> String {
        self.get("/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{name} in {text}"));
        line.parse().unwrap()
    }
}

pub(crate) fn cas(namespace: &str, digest: &Digest) -> String {
    format!("/{namespace}/cas/{}", digest.hex())
}

pub(crate) async fn error_code(response: Response, status: StatusCode) -> String {
    assert_eq!(response.status(), status);
    response.json::<ErrorBody>().await.unwrap().error
}
