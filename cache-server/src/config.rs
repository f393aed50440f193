//! How the service is set up: a TOML file, flags over it, and defaults that need neither.

use crate::auth::AuthConfig;
use crate::collect::CollectConfig;
use crate::listen::ConnectionLimits;
use crate::storage::bucket::BucketConfig;
use crate::tls::TlsConfig;
use anyhow::Context as _;
use clap::Args;
use preheat_image::api::NamespaceConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen: address and port. Port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Directory of blobs, records, tokens; of the tier before a bucket, if there is one. Made when it is not there.
    pub directory: PathBuf,
    /// A bucket for blobs and records, which several servers may share; without it they are in the directory.
    pub bucket: Option<BucketConfig>,
    /// Root of the installation to begin with: an envelope, as `preheat root` writes it. Only read while the service knows no root.
    pub root: Option<PathBuf>,
    /// Namespaces to make at the start if they are not there, by name; what is there already stays as it is. Without any, and with none
    /// there, a namespace `default` of kind `preheat` is made.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub namespaces: BTreeMap<String, NamespaceConfig>,
    /// Who may do what.
    pub auth: AuthConfig,
    /// TLS; without it the service speaks plain HTTP, which is for loopback and for proxies that end TLS.
    pub tls: Option<TlsConfig>,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// Limits of requests and memory.
    pub limits: Limits,
    /// When and how blobs are removed.
    pub collect: CollectConfig,
    /// The log.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7433)),
            directory: PathBuf::from("preheat-cache"),
            bucket: None,
            root: None,
            namespaces: BTreeMap::new(),
            auth: AuthConfig::default(),
            tls: None,
            connections: ConnectionLimits::default(),
            limits: Limits::default(),
            collect: CollectConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// The file of tokens.
    #[must_use]
    pub fn tokens_file(&self) -> PathBuf {
        self.auth.tokens.clone().unwrap_or_else(|| self.directory.join("tokens.json"))
    }
}

/// Limits of requests and memory.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Largest blob, in bytes, as it is stored.
    pub max_blob_bytes: u64,
    /// Bytes of blobs that may be in memory at once, over all requests.
    pub bytes_in_flight: u64,
    /// Bytes of uploads that may wait to be written to the disk, over all requests; beside `bytes-in-flight`.
    pub bytes_to_write: u64,
    /// Uploads are refused while fewer bytes than this are free on the disk of the directory: what is there stays readable.
    pub min_free_bytes: u64,
    /// How many times its size a compressed upload may become, beyond its first MiB.
    pub max_decompression_ratio: u32,
    /// How long a request may take from its first byte to the last of its answer, in seconds.
    pub request_seconds: u64,
    /// How long a verified chunk is not verified again while its file looks the same, in seconds.
    pub verified_seconds: u64,
    /// Memory for remembering verified chunks, in bytes.
    pub verified_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_blob_bytes: 4 << 30,
            bytes_in_flight: 128 << 20,
            bytes_to_write: 32 << 20,
            min_free_bytes: 256 << 20,
            max_decompression_ratio: 100,
            request_seconds: 3600,
            verified_seconds: 24 * 3600,
            verified_bytes: 32 << 20,
        }
    }
}

impl Limits {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.bytes_in_flight < 1 << 20 {
            return Err(format!("limits.bytes-in-flight is {}, at least {} are needed", self.bytes_in_flight, 1 << 20));
        }
        if self.max_decompression_ratio == 0 || self.request_seconds == 0 || self.max_blob_bytes == 0 {
            return Err("max-decompression-ratio, request-seconds and max-blob-bytes of limits can't be 0".into());
        }
        // Clocks count in 64 bits of nanoseconds, and nobody waits for a year.
        if self.request_seconds > 366 * 24 * 3600 || self.verified_seconds > 366 * 24 * 3600 {
            return Err("request-seconds and verified-seconds of limits are a year at most".into());
        }
        Ok(())
    }
}

/// The log. It goes to standard error, one JSON object a line; it never has tokens, queries or headers in it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LogConfig {
    /// Whether each request gets a line.
    pub access: bool,
    /// Least severity: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { access: true, level: "info".into() }
    }
}

/// Run a shared cache that builders push to and nodes pull from
#[derive(Args, Debug, Clone, Default)]
#[command(after_help = "Examples:
  preheat cache serve                            a cache in ./preheat-cache, on loopback
  preheat cache serve /srv/preheat --listen 0.0.0.0:7433
  preheat cache serve --config cache.toml

The first start on an empty directory makes an admin token and shows it once, on standard error.")]
pub struct ServeArgs {
    /// Directory of the cache; made when it is not there
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:7433]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Root of the installation to begin with
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
    /// Settings, TOML; flags go before them
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ServeArgs {
    /// The settings of the file, with the flags over them.
    ///
    /// # Errors
    /// When the file can't be read, or is not what it should be.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("{} is not a configuration", path.display()))?
            }
            None => Config::default(),
        };
        if let Some(directory) = &self.directory {
            config.directory.clone_from(directory);
        }
        if self.root.is_some() {
            config.root.clone_from(&self.root);
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        Ok(config)
    }
}
