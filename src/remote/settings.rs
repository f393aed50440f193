//! Which caches this user knows, and what lets them in: `caches.json`, and `credentials.json` that only its owner can read.

use super::RemoteError;
use preheat_cache_client::{CacheConfig, ClientIdentity, Credentials, Secret};
use preheat_image::Reference;
use preheat_loader::Home;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const CACHES: &str = "caches.json";
const CREDENTIALS: &str = "credentials.json";
/// Most bytes of a token's file.
const MAX_TOKEN: u64 = 64 * 1024;

/// A cache that `build` and `run` ask, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheEntry {
    /// `host` or `host:port`: how references name it.
    pub host: String,
    /// Where it is; by default `https://HOST`, and `http://HOST` on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Certificates of the authorities that may vouch for it, PEM; those of the system if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// This client's certificate and its private key, PEM, in one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_file: Option<PathBuf>,
    /// File from which each command reads the token, for tokens that are replaced from time to time; without one the token is kept with the
    /// other credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Whether `build` and `run` ask it for what they would otherwise compile.
    #[serde(default)]
    pub builds: bool,
    /// Whether `build` pushes to it what it compiled.
    #[serde(default)]
    pub push: bool,
}

impl CacheEntry {
    /// A cache with nothing set but its host.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), url: None, ca_file: None, identity_file: None, token_file: None, builds: false, push: false }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CachesFile {
    version: u32,
    caches: Vec<CacheEntry>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CredentialsFile {
    version: u32,
    tokens: BTreeMap<String, String>,
}

/// What a home knows of caches.
#[derive(Debug, Clone)]
pub struct Settings {
    home: Home,
    caches: Vec<CacheEntry>,
}

impl Settings {
    /// Reads the settings of a home; none while there are none.
    ///
    /// # Errors
    /// When `caches.json` is there and can't be read, or is of another version.
    pub fn of(home: &Home) -> Result<Self, RemoteError> {
        let file: CachesFile = read(&home.root().join(CACHES), |file: &CachesFile| file.version)?.unwrap_or_default();
        Ok(Self { home: home.clone(), caches: file.caches })
    }

    /// The caches, in the order in which they are asked.
    #[must_use]
    pub fn caches(&self) -> &[CacheEntry] {
        &self.caches
    }

    /// The cache that references call `host`, whether it is in the file or not.
    #[must_use]
    pub fn cache(&self, host: &str) -> CacheEntry {
        self.caches.iter().find(|cache| cache.host == host).cloned().unwrap_or_else(|| CacheEntry::new(host))
    }

    /// Adds a cache, or puts it in the place of the one with the same host.
    ///
    /// # Errors
    /// When `caches.json` can't be written.
    pub fn set(&mut self, entry: CacheEntry) -> Result<(), RemoteError> {
        match self.caches.iter_mut().find(|cache| cache.host == entry.host) {
            Some(known) => *known = entry,
            None => self.caches.push(entry),
        }
        self.write_caches()
    }

    /// Forgets a cache and its token. Says whether it was known.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn forget(&mut self, host: &str) -> Result<bool, RemoteError> {
        let before = self.caches.len();
        self.caches.retain(|cache| cache.host != host);
        self.write_caches()?;
        let had_token = self.set_token(host, None)?;
        Ok(before != self.caches.len() || had_token)
    }

    /// Keeps the token for a host, or forgets it. Says whether there was one.
    ///
    /// # Errors
    /// When `credentials.json` can't be read or written.
    pub fn set_token(&self, host: &str, token: Option<&str>) -> Result<bool, RemoteError> {
        let mut file = self.credentials()?;
        file.version = VERSION;
        let old = match token {
            Some(token) => file.tokens.insert(host.to_owned(), token.to_owned()),
            None => file.tokens.remove(host),
        };
        self.home.write_file(CREDENTIALS, &to_json(&file), 0o600)?;
        Ok(old.is_some())
    }

    fn write_caches(&self) -> Result<(), RemoteError> {
        let file = CachesFile { version: VERSION, caches: self.caches.clone() };
        Ok(self.home.write_file(CACHES, &to_json(&file), 0o644)?)
    }

    fn credentials(&self) -> Result<CredentialsFile, RemoteError> {
        Ok(read(&self.home.root().join(CREDENTIALS), |file: &CredentialsFile| file.version)?.unwrap_or_default())
    }

    /// How to reach the cache that references call `host`: what the file says, with the token of `$PREHEAT_TOKEN`, else of the entry's token
    /// file, else the one that `preheat login` kept. A host that is not in the file gets no token: whoever writes a reference would else
    /// choose who sees it.
    ///
    /// # Errors
    /// When the files can't be read, or the host is none.
    pub fn config(&self, host: &str) -> Result<CacheConfig, RemoteError> {
        match self.caches.iter().find(|cache| cache.host == host) {
            Some(entry) => self.config_of(entry, None),
            None => config_without_token(&CacheEntry::new(host)),
        }
    }

    /// How to reach a cache that may not be in the file yet. A `token` given here goes before all others.
    ///
    /// # Errors
    /// As [`Settings::config`].
    pub fn config_of(&self, entry: &CacheEntry, token: Option<&str>) -> Result<CacheConfig, RemoteError> {
        let mut config = config_without_token(entry)?;
        let from_environment = || std::env::var("PREHEAT_TOKEN").ok().filter(|token| !token.is_empty());
        let token = match token.map(str::to_owned).or_else(from_environment) {
            Some(token) => Some(token),
            None => match &entry.token_file {
                Some(path) => Some(read_token(path)?),
                None => self.credentials()?.tokens.remove(&entry.host),
            },
        };
        config.credentials = token.map_or(Credentials::None, |token| Credentials::Token(Secret::new(token)));
        Ok(config)
    }
}

fn config_without_token(entry: &CacheEntry) -> Result<CacheConfig, RemoteError> {
    let host = &entry.host;
    if !is_host(host) {
        return Err(RemoteError::Usage(format!("`{}` is no host with an optional port", host.escape_default())));
    }
    let url = entry.url.clone().unwrap_or_else(|| format!("{}://{host}", if is_loopback(host) { "http" } else { "https" }));
    let mut config = CacheConfig::new(url);
    config.ca_file = entry.ca_file.clone();
    config.client_identity = entry.identity_file.clone().map(|file| ClientIdentity { certificates: file.clone(), key: file });
    Ok(config)
}

/// The token in a file: all that is in it, but for the space around.
fn read_token(path: &Path) -> Result<String, RemoteError> {
    let wrong = |what: String| RemoteError::Settings { path: path.to_owned(), what };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| wrong(format!("the token can't be read: {error}")))?;
    file.take(MAX_TOKEN).read_to_string(&mut text).map_err(|error| wrong(format!("the token can't be read: {error}")))?;
    match text.trim() {
        "" => Err(wrong("there is no token in it".into())),
        token => Ok(token.to_owned()),
    }
}

/// Whether `text` is a host as references have it.
fn is_host(text: &str) -> bool {
    format!("{text}/namespace/name").parse::<Reference>().is_ok()
}

/// Whether a host is this machine: there, plain HTTP gives nothing away.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path, version: fn(&T) -> u32) -> Result<Option<T>, RemoteError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RemoteError::Settings { path: path.to_owned(), what: source.to_string() }),
    };
    // Never the text that does not fit: it may be a token.
    let wrong = |what: String| RemoteError::Settings { path: path.to_owned(), what };
    let file: T = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("not of its format at line {}, column {}", error.line(), error.column())))?;
    match version(&file) {
        VERSION => Ok(Some(file)),
        other => Err(wrong(format!("it is of version {other}, and this preheat reads version {VERSION}"))),
    }
}

fn to_json<T: Serialize>(file: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(file).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_and_tokens_are_kept_apart_and_the_token_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let mut settings = Settings::of(&home).unwrap();
        assert!(settings.caches().is_empty());
        settings.set(CacheEntry { builds: true, ..CacheEntry::new("cache.example:7433") }).unwrap();
        settings.set_token("cache.example:7433", Some("phc_secret")).unwrap();
        let read = Settings::of(&home).unwrap();
        assert!(read.cache("cache.example:7433").builds);
        assert!(!read.cache("other.example").builds);
        let config = read.config("cache.example:7433").unwrap();
        assert_eq!(config.url, "https://cache.example:7433");
        assert!(!format!("{config:?}").contains("phc_secret"));
        assert!(!std::fs::read_to_string(dir.path().join("caches.json")).unwrap().contains("phc_secret"));
        let mode = std::fs::metadata(dir.path().join("credentials.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(settings.forget("cache.example:7433").unwrap());
        assert!(!std::fs::read_to_string(dir.path().join("credentials.json")).unwrap().contains("phc_secret"));
    }

    #[test]
    fn a_token_file_is_read_each_time_and_a_useless_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let mut settings = Settings::of(&Home::at(dir.path())).unwrap();
        settings.set(CacheEntry { token_file: Some(file.clone()), ..CacheEntry::new("cache.example") }).unwrap();
        settings.set_token("cache.example", Some("kept")).unwrap();
        let credentials = || Settings::of(&Home::at(dir.path())).unwrap().config("cache.example").map(|config| config.credentials);
        for (text, token) in [("first\n", "first"), (" second ", "second")] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(credentials().unwrap(), Credentials::Token(Secret::new(token)));
        }
        for useless in [&b" \n"[..], b"secret\xff"] {
            std::fs::write(&file, useless).unwrap();
            let error = credentials().unwrap_err().to_string();
            assert!(error.contains(file.to_str().unwrap()) && !error.contains("secret"), "{error}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(credentials().unwrap_err().to_string().contains(file.to_str().unwrap()), "the kept one is not sent instead");
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::of(&Home::at(dir.path())).unwrap();
        for (host, url) in [
            ("127.0.0.1:7433", "http://127.0.0.1:7433"),
            ("localhost", "http://localhost"),
            ("127.0.0.1.example.org", "https://127.0.0.1.example.org"),
            ("localhost.example", "https://localhost.example"),
            ("10.0.0.1:7433", "https://10.0.0.1:7433"),
        ] {
            assert_eq!(settings.config(host).unwrap().url, url);
        }
        for bad in ["", "a/b", "host:0", "user@host", "host?x"] {
            assert!(settings.config(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("credentials.json"), r#"{"version":1,"tokens":{"h":phc_secret}}"#).unwrap();
        std::fs::write(dir.path().join("caches.json"), r#"{"version":1,"caches":[{"host":"h"}]}"#).unwrap();
        let error = Settings::of(&Home::at(dir.path())).unwrap().config("h").unwrap_err().to_string();
        assert!(error.contains("credentials.json") && !error.contains("phc_secret"), "{error}");
    }
}
