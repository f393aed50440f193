//! What proves to a registry who asks, also from where other tools keep it.

use crate::config::Secret;
use crate::error::ClientError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Most bytes of a configuration of Docker.
const MAX_FILE: u64 = 1024 * 1024;

/// What proves to a registry who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryCredentials {
    /// Nothing: what everybody may read.
    #[default]
    Anonymous,
    /// User and password, or a token as the password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// They are where only a program of Docker's (`docker-credential-…`) gets at them, which is not run: asked without, and the name of the
    /// program said when the registry wants some.
    Helper(String),
}

/// The configuration of Docker, as far as it holds credentials.
#[derive(Debug, Default)]
pub struct DockerConfig {
    entries: BTreeMap<String, RegistryCredentials>,
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
}

impl DockerConfig {
    /// Where Docker keeps it: `$DOCKER_CONFIG/config.json`, by default `~/.docker/config.json`.
    #[must_use]
    pub fn default_path() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))?;
        Some(directory.join("config.json"))
    }

    /// Reads the file at `path`; one that is not there holds nothing.
    ///
    /// # Errors
    /// [`ClientError::Configuration`] when it can't be read or is not what Docker writes.
    pub fn read(path: &Path) -> Result<Self, ClientError> {
        let wrong = |what: String| ClientError::Configuration { name: path.display().to_string(), what };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(wrong(e.to_string())),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
        Self::parse(&bytes).map_err(wrong)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!("it has more than {MAX_FILE} bytes"));
        }
        // The place of an error, but not what is there: it may be a password.
        let file: File =
            serde_json::from_slice(bytes).map_err(|e| format!("not as Docker writes it, at line {} column {}", e.line(), e.column()))?;
        let mut entries = BTreeMap::new();
        for (name, helper) in file.cred_helpers {
            entries.insert(place(&name), RegistryCredentials::Helper(helper));
        }
        for (name, entry) in file.auths {
            let place = place(&name);
            if let Some(found) = entry.credentials().map_err(|what| format!("the entry for {place}: {what}"))? {
                entries.insert(place, found);
            }
        }
        Ok(Self { entries, store: file.creds_store.filter(|store| !store.is_empty()) })
    }

    /// The credentials for a repository at `host`: those of the longest part of its path that has some.
    #[must_use]
    pub fn lookup(&self, host: &str, repository: &str) -> RegistryCredentials {
        let host = if host == "docker.io" { "index.docker.io" } else { host };
        let whole = format!("{host}/{repository}");
        let mut part = whole.as_str();
        loop {
            if let Some(found) = self.entries.get(part) {
                return found.clone();
            }
            match part.rsplit_once('/') {
                Some((shorter, _)) => part = shorter,
                None => return self.store.clone().map_or(RegistryCredentials::Anonymous, RegistryCredentials::Helper),
            }
        }
    }
}

impl Entry {
    fn credentials(self) -> Result<Option<RegistryCredentials>, &'static str> {
        let (user, password) = if self.auth.is_empty() {
            (self.username, self.password)
        } else {
            let decoded = BASE64.decode(self.auth.trim_end_matches(['\n', '\0'])).map_err(|_| "`auth` is not base64")?;
            let text = String::from_utf8(decoded).map_err(|_| "`auth` is not text")?;
            let (user, password) = text.split_once(':').ok_or("`auth` has no colon in it")?;
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        // An empty entry says that there are credentials elsewhere.
        Ok((!user.is_empty() && !password.is_empty()).then(|| RegistryCredentials::Basic { user, password: Secret::new(password) }))
    }
}

/// The host of an entry, with the part of the path if there is one: Docker writes `host`, `https://host/v1/` and the like.
fn place(name: &str) -> String {
    let bare = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name).trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    match bare.strip_prefix("docker.io") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("index.docker.io{rest}"),
        _ => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> RegistryCredentials {
        RegistryCredentials::Basic { user: user.into(), password: Secret::new(password) }
    }

    #[test]
    fn finds_what_docker_and_podman_wrote() {
        let config = DockerConfig::parse(
            br#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOnBhc3M6d29yZA=="},
                "localhost:5000": {"username": "u", "password": "p"},
                "quay.example/team": {"auth": "dGVhbTpw"},
                "quay.example": {"auth": "YWxsOnA="},
                "desktop.example": {}
            }, "credHelpers": {"ecr.example": "ecr-login"}, "HttpHeaders": {"x": "y"}}"#,
        )
        .unwrap();
        assert_eq!(config.lookup("docker.io", "library/x"), basic("hub", "pass:word"));
        assert_eq!(config.lookup("localhost:5000", "a/b"), basic("u", "p"));
        assert_eq!(config.lookup("localhost", "a/b"), RegistryCredentials::Anonymous);
        assert_eq!(config.lookup("quay.example", "team/x"), basic("team", "p"));
        assert_eq!(config.lookup("quay.example", "team2/x"), basic("all", "p"));
        assert_eq!(config.lookup("desktop.example", "x"), RegistryCredentials::Anonymous);
        assert_eq!(config.lookup("ecr.example", "x"), RegistryCredentials::Helper("ecr-login".into()));
        let stored = DockerConfig::parse(br#"{"auths": {"h": {}}, "credsStore": "desktop"}"#).unwrap();
        assert_eq!(stored.lookup("h", "x"), RegistryCredentials::Helper("desktop".into()));
    }

    #[test]
    fn damage_is_said_without_what_is_secret() {
        for bad in [r#"{"auths": {"h": {"auth": "hunter2!"}}}"#, r#"{"auths": {"h": {"auth": "hunter2"#, r#"{"auths": "hunter2"}"#] {
            let error = DockerConfig::parse(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(DockerConfig::parse(&vec![b' '; 1 << 21]).is_err());
        let config = DockerConfig::parse(br#"{"auths": {"h": {"auth": "dTpodW50ZXIy"}}}"#).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn no_file_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let config = DockerConfig::read(&directory.path().join("config.json")).unwrap();
        assert_eq!(config.lookup("h", "x"), RegistryCredentials::Anonymous);
    }
}
