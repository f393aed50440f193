//! How a cache is reached: address, credentials, trust in its certificate, and how patient to be.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What proves to a cache who asks, beside a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// A token of the cache, or an identity token of a CI system.
    Token(Secret),
}

/// A certificate that proves to a cache who asks (mutual TLS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// File with the certificate and those between it and the CA, in PEM.
    pub certificates: PathBuf,
    /// File with its private key, in PEM.
    pub key: PathBuf,
}

/// Whether blobs travel compressed by zstd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Where a network is in between, but not on loopback, where it costs more than it saves.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How long to wait and how often to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Longest time to connect.
    pub connect: Duration,
    /// Longest time for one try of a small request, and for the head of a blob's answer.
    pub answer: Duration,
    /// Longest time for all tries of a small request, and longest time of a blob's transfer in which nothing arrives.
    pub total: Duration,
    /// How often to try at most: without a repeat, 1. A blob's transfer that moved forward starts counting anew.
    pub attempts: u32,
    /// The time over which a transfer is judged.
    pub stall: Duration,
    /// The bytes that a transfer must move in that time, or it counts as broken.
    pub stall_bytes: u64,
    /// Longest wait before the second try; doubles with each. The wait is a random part of it.
    pub backoff: Duration,
    /// Longest wait between two tries.
    pub longest_backoff: Duration,
}

impl Patience {
    /// For somebody who asked for a transfer and waits for it: `push`, `pull`.
    #[must_use]
    pub const fn patient() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(20),
            total: Duration::from_secs(60),
            attempts: 6,
            stall: Duration::from_secs(30),
            stall_bytes: 16 * 1024,
            backoff: Duration::from_millis(200),
            longest_backoff: Duration::from_secs(10),
        }
    }

    /// For a build or a run, which can do without: a cache that does not answer costs 3 seconds.
    #[must_use]
    pub const fn impatient() -> Self {
        Self {
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(2),
            total: Duration::from_secs(3),
            attempts: 2,
            stall: Duration::from_secs(3),
            stall_bytes: 64 * 1024,
            backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(1),
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::patient()
    }
}

/// A cache and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// What people call it; in messages.
    pub name: String,
    /// Its address: `https://host[:port]`, with a path in front of its own if it is behind a proxy that adds one.
    pub url: String,
    /// What proves who asks.
    pub credentials: Credentials,
    /// File with the only CA certificates, in PEM, that its certificate may come from; without one the machine's count.
    pub ca_file: Option<PathBuf>,
    /// A certificate to show.
    pub client_identity: Option<ClientIdentity>,
    /// Whether a token may be sent over plain HTTP to another machine, where everybody on the way can read it.
    pub allow_plain_http: bool,
    /// How patient to be.
    pub patience: Patience,
    /// Whether blobs travel compressed.
    pub compression: Compression,
}

impl CacheConfig {
    /// A cache at `url`, called by that, without credentials.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let url = url.into();
        Self {
            name: name_of(&url),
            url,
            credentials: Credentials::None,
            ca_file: None,
            client_identity: None,
            allow_plain_http: false,
            patience: Patience::patient(),
            compression: Compression::Auto,
        }
    }
}

/// What is called by its address: without the scheme, and without credentials that somebody wrote into it.
fn name_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let config =
            CacheConfig { credentials: Credentials::Token(Secret::new("hunter2")), ..CacheConfig::new("https://cache.example:8080/") };
        assert_eq!(config.name, "cache.example:8080");
        assert_eq!(CacheConfig::new("https://user:hunter2@cache.example").name, "cache.example");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
