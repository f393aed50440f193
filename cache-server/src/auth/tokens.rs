//! Tokens: `phc_<id>_<secret>`. The service keeps only a hash of the secret.
//!
//! The secret is 32 random bytes, so that a plain SHA-256 of it is enough: slow hashes protect what people choose and others can guess. Nobody
//! guesses 256 bits, and a slow hash for each request would only help whoever wants to keep the service busy.

use super::rights::{Right, Scope};
use super::{Grant, Kind, Refusal};
use crate::clock::{Clock, SystemClock};
use crate::watched::{Source, Watched};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use preheat_image::Digest;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// What every token begins with; scanners for lost secrets can look for it.
pub(crate) const PREFIX: &str = "phc_";
const VERSION: u32 = 1;
/// Hexadecimal digits of an id.
const ID_LENGTH: usize = 16;
/// Characters of a secret: 32 bytes as base64.
const SECRET_LENGTH: usize = 43;

/// The file of tokens.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenFile {
    version: u32,
    tokens: Vec<TokenRecord>,
}

/// A token as the service keeps it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRecord {
    /// Which one: 16 hexadecimal digits, the middle part of the token. Not secret.
    pub id: String,
    /// What people call it. Several may have the same name, while one replaces the other.
    pub name: String,
    hash: Digest,
    /// Namespaces; `*` for all.
    pub scopes: Vec<String>,
    /// What its holder may do there.
    pub rights: Vec<Right>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it begins to count, in seconds since 1970; at once if not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// When it ends, in seconds since 1970; never if not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// When it was revoked, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a token is made for.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// Namespaces; `*` for all.
    pub scopes: Vec<String>,
    /// What its holder may do there.
    pub rights: Vec<Right>,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
}

/// A token as its holder keeps it. It is nowhere else.
pub struct Secret(String);

impl Secret {
    /// The text.
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

/// Why the file of tokens can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// It can't be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is in it is not what should be.
    #[error("{0}")]
    Damaged(String),
    /// The new token would have no meaning.
    #[error("{0}")]
    BadToken(String),
    /// No such token.
    #[error("no token has the id `{0}`")]
    Unknown(String),
}

/// A token as requests look it up.
struct Held {
    hash: [u8; 32],
    not_before: u64,
    expires: Option<u64>,
    revoked: bool,
    grant: Arc<Grant>,
}

/// All tokens by id.
pub(crate) struct Tokens(HashMap<String, Held>);

impl Tokens {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut held = HashMap::new();
        for record in parse_file(bytes)?.tokens {
            let scope = record.check()?;
            let grant = Arc::new(Grant::new(Kind::Token, record.name, &format!("token {}", record.id), vec![scope]));
            let one = Held {
                hash: *record.hash.as_bytes(),
                not_before: record.not_before.unwrap_or(0),
                expires: record.expires,
                revoked: record.revoked.is_some(),
                grant,
            };
            if held.insert(record.id.clone(), one).is_some() {
                return Err(format!("two tokens have the id `{}`", record.id));
            }
        }
        Ok(Self(held))
    }

    /// Watches the file at `path`; while there is none there are no tokens.
    pub(crate) fn watch(path: &Path) -> Result<Watched<Self>, String> {
        let parse = |sources: &[Source]| {
            let [source] = sources else { return Err("one file of tokens".into()) };
            if source.missing {
                return Ok(Self(HashMap::new()));
            }
            // Whoever can write it can give themselves any right.
            if source.mode & 0o022 != 0 {
                return Err(format!("{} can be written by others than its owner (mode {:o})", source.path.display(), source.mode));
            }
            Self::parse(&source.bytes).map_err(|error| format!("{}: {error}", source.path.display()))
        };
        Watched::optional(vec![path.to_owned()], parse)
    }

    /// Whose token it is. The secret is hashed before anything is known about the id, and hashes are compared in constant time.
    pub(crate) fn find(&self, token: &str, clock: &dyn Clock, skew: u64) -> Result<Arc<Grant>, Refusal> {
        let (id, secret) = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(Refusal::Unknown)?;
        if id.len() != ID_LENGTH || secret.len() != SECRET_LENGTH {
            return Err(Refusal::Unknown);
        }
        let hash = Digest::of(secret.as_bytes());
        let held = self.0.get(id).ok_or(Refusal::Unknown)?;
        if !bool::from(held.hash.ct_eq(hash.as_bytes())) {
            return Err(Refusal::Unknown);
        }
        // From here on it is the holder who asks: they may know why.
        let now = clock.now();
        if held.revoked {
            return Err(Refusal::Revoked);
        }
        if now.saturating_add(skew) < held.not_before {
            return Err(Refusal::NotYet);
        }
        if held.expires.is_some_and(|expires| now >= expires.saturating_add(skew)) {
            return Err(Refusal::Expired);
        }
        Ok(held.grant.clone())
    }
}

impl TokenRecord {
    fn check(&self) -> Result<Scope, String> {
        let is_id = self.id.len() == ID_LENGTH && self.id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        if !is_id {
            return Err(format!("`{}` is not the id of a token", self.id.escape_default()));
        }
        check_name(&self.name)?;
        Scope::new(&self.scopes, &self.rights).map_err(|error| format!("token `{}`: {error}", self.id))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if (1..=128).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("`{}` can't be the name of a token: 1 to 128 bytes, no control characters", name.escape_default()))
}

fn parse_file(bytes: &[u8]) -> Result<TokenFile, String> {
    let file: TokenFile = serde_json::from_slice(bytes).map_err(|error| format!("not a file of tokens: {error}"))?;
    if file.version != VERSION {
        return Err(format!("version {} of the file of tokens is not known", file.version));
    }
    Ok(file)
}

/// Makes a token and writes its hash to the file at `path`, which is made if it is not there.
///
/// # Errors
/// [`TokenFileError`].
pub fn add(path: &Path, new: NewToken) -> Result<(TokenRecord, Secret), TokenFileError> {
    let mut random = [0; ID_LENGTH / 2 + 32];
    getrandom::fill(&mut random).map_err(|error| io_error(path, io::Error::other(error)))?;
    let (id, secret) = random.split_at(ID_LENGTH / 2);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let secret = URL_SAFE_NO_PAD.encode(secret);
    let record = TokenRecord {
        hash: Digest::of(secret.as_bytes()),
        name: new.name,
        scopes: new.scopes,
        rights: new.rights,
        created: SystemClock.now(),
        not_before: None,
        expires: new.expires,
        revoked: None,
        id,
    };
    record.check().map_err(TokenFileError::BadToken)?;
    change(path, |file| {
        file.tokens.push(record.clone());
        Ok(())
    })?;
    let secret = Secret(format!("{PREFIX}{}_{secret}", record.id));
    Ok((record, secret))
}

/// Makes a token that may do everything, if there is no file of tokens at `path` yet.
///
/// # Errors
/// [`TokenFileError`].
pub fn first(path: &Path) -> Result<Option<Secret>, TokenFileError> {
    match path.try_exists() {
        Ok(true) => Ok(None),
        Ok(false) => {
            let all = NewToken { name: "first-admin".into(), scopes: vec!["*".into()], rights: Right::ALL.to_vec(), expires: None };
            Ok(Some(add(path, all)?.1))
        }
        Err(error) => Err(io_error(path, error)),
    }
}

/// The tokens of the file at `path`, without their secrets, which nobody knows.
///
/// # Errors
/// [`TokenFileError`].
pub fn list(path: &Path) -> Result<Vec<TokenRecord>, TokenFileError> {
    Ok(load(path)?.tokens)
}

/// Makes a token not count any more: within a second on servers that run.
///
/// # Errors
/// [`TokenFileError`].
pub fn revoke(path: &Path, id: &str) -> Result<TokenRecord, TokenFileError> {
    change(path, |file| {
        let unknown = || TokenFileError::Unknown(id.chars().take(100).collect());
        let record = file.tokens.iter_mut().find(|record| record.id == id).ok_or_else(unknown)?;
        record.revoked.get_or_insert_with(|| SystemClock.now());
        Ok(record.clone())
    })
}

fn io_error(path: &Path, error: io::Error) -> TokenFileError {
    TokenFileError::Io { path: path.to_owned(), error }
}

fn load(path: &Path) -> Result<TokenFile, TokenFileError> {
    match std::fs::read(path) {
        Ok(bytes) => parse_file(&bytes).map_err(|error| TokenFileError::Damaged(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(TokenFile { version: VERSION, tokens: Vec::new() }),
        Err(error) => Err(io_error(path, error)),
    }
}

/// Reads, changes and replaces the file as one step, also when several do so at once.
fn change<T>(path: &Path, edit: impl FnOnce(&mut TokenFile) -> Result<T, TokenFileError>) -> Result<T, TokenFileError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error| io_error(path, error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    // The file itself is replaced, so that the lock has to be on another.
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(path.with_extension("lock")).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let mut file = load(path)?;
    let answer = edit(&mut file)?;
    let text = serde_json::to_vec_pretty(&file).map_err(|error| failed(io::Error::other(error)))?;
    // Temporary files of this kind are 0600.
    let mut temporary = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    temporary.write_all(&text).and_then(|()| temporary.as_file().sync_all()).map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::storage::Namespace;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    fn new(name: &str) -> NewToken {
        NewToken { name: name.into(), scopes: vec!["prod".into()], rights: vec![Right::Read], expires: None }
    }

    fn read(path: &Path) -> Tokens {
        Tokens::parse(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_token_is_printed_once_and_only_its_hash_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/tokens.json");
        let (record, secret) = add(&path, new("ci")).unwrap();
        assert_eq!(secret.expose().len(), PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH);
        let hidden = secret.expose().rsplit_once(&format!("{}_", record.id)).unwrap().1;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(&record.id) && !text.contains(hidden), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{record:?}{secret:?}").contains(hidden));
        let grant = read(&path).find(secret.expose(), &SystemClock, 0).unwrap();
        assert_eq!(grant.name, "ci");
        assert!(grant.may(Right::Read, &Namespace::new("prod").unwrap()));
        assert!(!grant.may(Right::Read, &Namespace::new("other").unwrap()));
    }

    #[test]
    fn two_tokens_count_at_once_until_the_old_one_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let (old, old_secret) = add(&path, new("ci")).unwrap();
        let (_, new_secret) = add(&path, new("ci")).unwrap();
        let watched = Tokens::watch(&path).unwrap().every(Duration::ZERO);
        let find = |secret: &Secret| watched.get().find(secret.expose(), &SystemClock, 30).map(|grant| grant.name.clone());
        assert_eq!(find(&old_secret).unwrap(), "ci");
        assert_eq!(find(&new_secret).unwrap(), "ci");
        revoke(&path, &old.id).unwrap();
        assert_eq!(find(&old_secret).unwrap_err(), Refusal::Revoked);
        assert_eq!(find(&new_secret).unwrap(), "ci");
        assert!(list(&path).unwrap()[0].revoked.is_some());
        assert!(matches!(revoke(&path, "0000000000000000"), Err(TokenFileError::Unknown(_))));
    }

    #[test]
    fn a_token_that_was_just_made_is_found_by_whoever_looks_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        add(&path, new("first")).unwrap();
        let watched = Tokens::watch(&path).unwrap().every(Duration::from_secs(3600));
        let (_, secret) = add(&path, new("second")).unwrap();
        let find = |tokens: Arc<Tokens>| tokens.find(secret.expose(), &SystemClock, 30).map(|grant| grant.name.clone());
        assert_eq!(find(watched.get()).unwrap_err(), Refusal::Unknown);
        assert_eq!(find(watched.get_now()).unwrap(), "second");
    }

    #[test]
    fn clocks_may_differ_by_the_skew_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let (_, secret) = add(&path, NewToken { expires: Some(2000), ..new("ci") }).unwrap();
        change(&path, |file| {
            file.tokens[0].not_before = Some(1000);
            Ok(())
        })
        .unwrap();
        let tokens = read(&path);
        let at = |now: u64, skew| tokens.find(secret.expose(), &ManualClock::at(now), skew).map(|_| ());
        for (now, skew, wanted) in [
            (999, 0, Err(Refusal::NotYet)),
            (1000, 0, Ok(())),
            (969, 30, Err(Refusal::NotYet)),
            (970, 30, Ok(())),
            (1999, 0, Ok(())),
            (2000, 0, Err(Refusal::Expired)),
            (2029, 30, Ok(())),
            (2030, 30, Err(Refusal::Expired)),
        ] {
            assert_eq!(at(now, skew), wanted, "at {now} with {skew}");
        }
    }

    #[test]
    fn nearly_right_tokens_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let (one, secret) = add(&path, new("one")).unwrap();
        let (two, _) = add(&path, new("two")).unwrap();
        let tokens = read(&path);
        let text = secret.expose();
        let last = if text.ends_with('A') { "B" } else { "A" };
        let wrong = [
            text[1..].to_owned(),
            format!("{text} "),
            format!("{text}="),
            text.to_uppercase(),
            format!("{}{last}", &text[..text.len() - 1]),
            text[..text.len() - 1].to_owned(),
            text.replace(&one.id, &two.id),
            format!("{PREFIX}{}_", one.id),
            format!("{PREFIX}_{}", &text[text.len() - SECRET_LENGTH..]),
            // The hash is not the secret.
            format!("{PREFIX}{}_{}", one.id, URL_SAFE_NO_PAD.encode(one.hash.as_bytes())),
            String::new(),
        ];
        for wrong in wrong {
            assert_eq!(tokens.find(&wrong, &SystemClock, 30).map(|_| ()), Err(Refusal::Unknown), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_or_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        assert!(Tokens::watch(&path).unwrap().get().0.is_empty());
        add(&path, new("ci")).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        assert!(Tokens::watch(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o622)).unwrap();
        assert!(Tokens::watch(&path).unwrap_err().contains("written by others"));
        for (old, new) in [
            ("\"version\": 1", "\"version\": 2"),
            ("\"read\"", "\"root\""),
            ("\"prod\"", "\"../x\""),
            ("\"created\"", "\"onlyFrom\": \"10.0.0.1\", \"created\""),
            ("\"name\": \"ci\"", "\"name\": \"\""),
            ("sha256:", "md5:"),
            ("{", ""),
        ] {
            assert!(good.contains(old), "{old}");
            assert!(Tokens::parse(good.replacen(old, new, 1).as_bytes()).is_err(), "{new}");
        }
        let token = serde_json::from_str::<serde_json::Value>(&good).unwrap()["tokens"][0].clone();
        let twice = serde_json::json!({ "version": 1, "tokens": [token, token] });
        assert!(Tokens::parse(twice.to_string().as_bytes()).map(|_| ()).unwrap_err().contains("two tokens"));
    }

    #[test]
    fn the_first_token_may_do_everything_and_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let secret = first(&path).unwrap().unwrap();
        let grant = read(&path).find(secret.expose(), &SystemClock, 0).unwrap();
        assert!(Right::ALL.iter().all(|right| grant.scopes.iter().any(|scope| scope.allows_all(*right))));
        assert!(first(&path).unwrap().is_none());
    }

    #[test]
    fn tokens_made_at_once_are_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let made = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        add(&path, new("ci")).unwrap();
                        made.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(list(&path).unwrap().len() as u64, made.into_inner());
    }

    #[test]
    fn tokens_without_a_meaning_are_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        for bad in [
            NewToken { name: String::new(), ..new("x") },
            NewToken { name: "a\nb".into(), ..new("x") },
            NewToken { scopes: vec![], ..new("x") },
            NewToken { rights: vec![], ..new("x") },
            NewToken { scopes: vec!["a/b".into()], ..new("x") },
        ] {
            assert!(matches!(add(&path, bad.clone()), Err(TokenFileError::BadToken(_))), "{bad:?}");
        }
        assert!(!path.exists());
    }
}
