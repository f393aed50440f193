//! Whoever signs what is built here: a key in a file, or a command that asks one in a KMS or an HSM.

use crate::store::files::{self, Publish};
use crate::store::lock;
use crate::trust::Builder;
use crate::{Home, StoreError, TrustPolicy};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use preheat_image::FormatError;
use preheat_image::keys::{KeyId, PublicKey, SecretKey, SignError, Signer};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const FORMAT: &str = "builder key";
const VERSION: u32 = 1;
/// How long a command may take to sign.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of a command's output that are looked at.
const MAX_OUTPUT: u64 = 64 * 1024;

/// A key that is somewhere else: a command gets the bytes to be signed on standard input and answers with the signature on standard output,
/// its 64 bytes as they are or in base64.
#[derive(Debug, Clone)]
pub struct CommandSigner {
    public: PublicKey,
    command: Vec<String>,
    time_limit: Duration,
}

/// A key file without a secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandFile {
    version: u32,
    algorithm: String,
    public: PublicKey,
    command: Vec<String>,
}

/// What a key file holds.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyFile {
    /// The secret itself.
    Secret(SecretKey),
    /// The command that has it.
    Command(CommandSigner),
}

impl CommandSigner {
    /// A signer that asks `command`, a program and its arguments; no shell takes part.
    ///
    /// # Errors
    /// When the command is empty.
    pub fn new(public: PublicKey, command: Vec<String>) -> Result<Self, FormatError> {
        if command.first().is_none_or(String::is_empty) {
            return Err(FormatError::Damaged { format: FORMAT, what: "the command is empty".into() });
        }
        Ok(Self { public, command, time_limit: TIME_LIMIT })
    }

    /// Gives the command another time to answer than 30 seconds.
    #[must_use]
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }

    /// The key file that leads to this signer.
    #[must_use]
    pub fn to_file(&self) -> Vec<u8> {
        let (public, command) = (self.public.clone(), self.command.clone());
        let file = CommandFile { version: VERSION, algorithm: "ed25519".into(), public, command };
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    fn ask(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let [program, args @ ..] = self.command.as_slice() else { return Err("the command is empty".into()) };
        let shown = format!("`{}`", self.command.join(" ").escape_debug());
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Of its own, so that what it started ends with it.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("can't start {shown}: {error}"))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(format!("{shown} has no pipes"));
        };
        // Each pipe has its thread: a command may do things in any order. None is joined, since what the command leaves behind may hold them.
        let message = message.to_vec();
        std::thread::spawn(move || drop(stdin.write_all(&message)));
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        let deadline = Instant::now() + self.time_limit;
        let late = || format!("{shown} gave no signature within {:?}", self.time_limit);
        let answer = stdout.recv_timeout(self.time_limit);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if answer.is_ok() && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                _ => {
                    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                        let _ = kill_process_group(group, Signal::KILL);
                    }
                    let _ = child.wait();
                    return Err(late());
                }
            }
        };
        let answer = answer.map_err(|_| late())?;
        if !status.success() {
            let said = stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            return Err(format!("{shown} failed ({status}): {}", last.trim().escape_debug()));
        }
        if answer.len() == 64 {
            return Ok(answer);
        }
        let text: Vec<u8> = answer.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        match BASE64.decode(&text) {
            Ok(signature) if signature.len() == 64 => Ok(signature),
            _ => Err(format!("{shown} answered {} bytes that are no signature: 64 bytes are expected, or their base64", answer.len())),
        }
    }
}

/// Reads all of a pipe, up to a limit, in a thread.
fn collect(pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut pipe = pipe.take(MAX_OUTPUT);
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

impl Signer for CommandSigner {
    fn public(&self) -> PublicKey {
        self.public.clone()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let failed = |what: String| SignError { key: self.public.id(), what };
        let signature = self.ask(message).map_err(failed)?;
        // A wrong key or a broken command must be noticed here, not by whoever gets the image.
        if !self.public.verifies(message, &signature) {
            return Err(failed(format!("`{}` signed with another key, or something else", self.command.join(" ").escape_debug())));
        }
        signature.try_into().map_err(|_| failed("the signature has not 64 bytes".into()))
    }
}

impl KeyFile {
    /// Reads a key file: one with a secret, or one with a command.
    ///
    /// # Errors
    /// When the bytes are neither. The error never shows a secret.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Either {
            command: Option<serde::de::IgnoredAny>,
        }
        if !serde_json::from_slice::<Either>(bytes).is_ok_and(|either| either.command.is_some()) {
            return SecretKey::from_file(bytes).map(Self::Secret);
        }
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        // Without the text of the error: a file with a command and a secret must not show the latter.
        let file: CommandFile = serde_json::from_slice(bytes).map_err(|e| damaged(format!("line {}, column {}", e.line(), e.column())))?;
        if file.version != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: file.version, supported: VERSION });
        }
        if file.algorithm != "ed25519" {
            return Err(damaged("the algorithm is not ed25519".into()));
        }
        CommandSigner::new(file.public, file.command).map(Self::Command)
    }

    /// Reads the key file at `path`.
    ///
    /// # Errors
    /// When it can't be read or is none.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
        Self::parse(&bytes).map_err(|source| StoreError::Format { path: path.to_owned(), source })
    }

    /// Makes a key from the operating system's random bytes.
    ///
    /// # Errors
    /// When it gives none.
    pub fn generate() -> Result<Self, StoreError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| StoreError::Io {
            action: "draw random bytes from",
            path: "the operating system".into(),
            source: io::Error::other(error.to_string()),
        })?;
        Ok(Self::Secret(SecretKey::from_seed(seed)))
    }

    /// The bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Secret(key) => key.to_file(),
            Self::Command(signer) => signer.to_file(),
        }
    }

    /// Writes a new file that only its owner can read.
    ///
    /// # Errors
    /// When the file is there already, or can't be written.
    pub fn write_new(&self, path: &Path) -> Result<(), StoreError> {
        let there = || StoreError::io("create the key file", path)(io::Error::from(io::ErrorKind::AlreadyExists));
        let path = &std::path::absolute(path).map_err(StoreError::io("find", path))?;
        if path.exists() {
            return Err(there());
        }
        let bytes = self.to_bytes();
        files::publish(path, &bytes, 0o600, Publish::UnlessThere)?;
        // Somebody may have been faster, and then this key is nowhere.
        if std::fs::read(path).map_err(StoreError::io("read", path))? == bytes { Ok(()) } else { Err(there()) }
    }
}

impl Signer for KeyFile {
    fn public(&self) -> PublicKey {
        match self {
            Self::Secret(key) => key.public(),
            Self::Command(signer) => signer.public(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        match self {
            Self::Secret(key) => Ok(key.sign(message)),
            Self::Command(signer) => signer.sign(message),
        }
    }
}

/// What a rotation of the builder's key did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rotated {
    /// The key before.
    pub old: PublicKey,
    /// The key from now on.
    pub new: PublicKey,
    /// When what the old one signed ends to count here, in seconds since 1970.
    pub old_expires: u64,
    /// Where the old key's file is kept.
    pub retired: PathBuf,
    /// Whether a root delegates the old key: then the new one has to be delegated as well, or nobody else trusts it.
    pub delegated: bool,
}

impl Home {
    fn key_path(&self) -> PathBuf {
        self.keys_dir().join("builder.json")
    }

    /// Who signs what is built here: read from `keys/builder.json`, or made on first use and then trusted here. Of several processes at
    /// once, one makes it.
    ///
    /// # Errors
    /// When it can't be read or made, or the operating system gives no random bytes.
    pub fn builder_signer(&self) -> Result<Box<dyn Signer + Send + Sync>, StoreError> {
        Ok(Box::new(self.builder_key_file()?))
    }

    /// The builder's key, if the file has the key itself. Made on first use as by [`Home::builder_signer`].
    ///
    /// # Errors
    /// As [`Home::builder_signer`], and when a command has the key.
    pub fn builder_key(&self) -> Result<SecretKey, StoreError> {
        match self.builder_key_file()? {
            KeyFile::Secret(key) => Ok(key),
            KeyFile::Command(_) => {
                let source = FormatError::NotThisFormat { format: FORMAT, found: "a command has the secret".into() };
                Err(StoreError::Format { path: self.key_path(), source })
            }
        }
    }

    /// Whether a key is this builder's own: the one that signs now, or one that was retired here.
    ///
    /// # Errors
    /// When the key that signs now can't be read.
    pub fn is_own_key(&self, key: &KeyId) -> Result<bool, StoreError> {
        let current = match KeyFile::read(&self.key_path()) {
            Err(error) if error.is_missing() => false,
            current => current?.public().id() == *key,
        };
        Ok(current || self.retired_path(key).exists())
    }

    fn retired_path(&self, key: &KeyId) -> PathBuf {
        self.keys_dir().join("retired").join(format!("{}.json", key.hex()))
    }

    fn builder_key_file(&self) -> Result<KeyFile, StoreError> {
        let path = self.key_path();
        let there = |path: &Path| match KeyFile::read(path) {
            Err(error) if error.is_missing() => Ok(None),
            read => read.map(Some),
        };
        let key = match there(&path)? {
            Some(key) => key,
            None => {
                files::make_private_dir(&self.keys_dir())?;
                files::publish(&path, &KeyFile::generate()?.to_bytes(), 0o600, Publish::UnlessThere)?;
                KeyFile::read(&path)?
            }
        };
        // Not only for a key that was just made: the process that made it may have been killed in between.
        if !self.trust_path().exists() {
            self.write_trust(&TrustPolicy::trusting("local builder", key.public()), Publish::UnlessThere)?;
        }
        Ok(key)
    }

    /// Puts `new` in the place of the builder's key. What the old one signed counts here until `now + overlap` (seconds); its file is kept
    /// under `keys/retired/`, for whoever has to prove what it was.
    ///
    /// # Errors
    /// When the files can't be read or written. A rotation that was cut off is safe to do again.
    pub fn rotate_key(&self, new: &KeyFile, overlap: u64, now: u64) -> Result<Rotated, StoreError> {
        files::make_private_dir(&self.keys_dir())?;
        let _rotating = lock::wait(&self.keys_dir().join("lock"), FlockOperation::LockExclusive)?;
        let path = self.key_path();
        let (old, new_public) = (self.builder_key_file()?, new.public());
        let old_public = old.public();
        let retired = self.retired_path(&old_public.id());
        let old_expires = now.saturating_add(overlap);
        if old_public == new_public {
            let source = FormatError::Damaged { format: FORMAT, what: "the new key is the old one".into() };
            return Err(StoreError::Format { path, source });
        }
        // Trusted before it is used, ended after it is not used any more: at no moment is something signed that does not count.
        let delegated = self.change_trust(|policy| {
            let own: Vec<Builder> = policy.builders.iter().filter(|builder| builder.key == old_public).cloned().collect();
            for builder in own.iter().filter(|builder| builder.root.is_none()) {
                if !policy.builders.iter().any(|known| known.key == new_public && known.root.is_none()) {
                    policy.builders.push(Builder { key: new_public.clone(), expires: None, ..builder.clone() });
                }
            }
            Ok::<_, StoreError>(own.iter().any(|builder| builder.root.is_some()))
        })?;
        files::make_private_dir(&self.keys_dir().join("retired"))?;
        files::publish(&retired, &old.to_bytes(), 0o600, Publish::Replacing)?;
        files::publish(&path, &new.to_bytes(), 0o600, Publish::Replacing)?;
        self.change_trust(|policy| {
            for builder in policy.builders.iter_mut().filter(|builder| builder.key == old_public && builder.root.is_none()) {
                builder.expires = Some(builder.expires.map_or(old_expires, |before| before.min(old_expires)));
            }
            Ok::<_, StoreError>(())
        })?;
        Ok(Rotated { old: old_public, new: new_public, old_expires, retired, delegated })
    }
}
