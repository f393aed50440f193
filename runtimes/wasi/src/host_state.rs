//! What the host keeps for a frozen program: a part of the heap snapshot, in JSON. `docs/image-format.md` specifies it.

use crate::descriptor::{Access, MAX_DESCRIPTORS, MAX_ORIGIN};
use crate::digest::FileDigest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of the format.
const VERSION: u32 = 1;

/// What the host kept for a program when it was frozen: enough for a [`Context`](crate::Context) in which it goes on, on this machine or another.
///
/// It is made by [`Context::host_state`](crate::Context::host_state). One that was parsed names nothing that it does not have, but may ask for
/// any path below the granted directories.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostState {
    /// The version of the format: 1.
    pub(crate) version: u32,
    pub(crate) arguments: Vec<String>,
    /// Names and values.
    pub(crate) environment: Vec<(String, String)>,
    /// Whether the program has asked for its environment already.
    pub(crate) environment_read: bool,
    /// The names of the variables that it gets when it wakes up.
    pub(crate) late: Vec<String>,
    pub(crate) preopens: Vec<FrozenPreopen>,
    /// The table, by number; none if the streams and the preopened directories are all that is in it, at their places.
    pub(crate) descriptors: Option<Vec<FrozenDescriptor>>,
    /// What its monotonic clock showed, in nanoseconds.
    pub(crate) monotonic: u64,
    /// What its real-time clock showed. Only another freeze goes on from here.
    pub(crate) realtime: u64,
    /// The next number of a file. Only another freeze goes on from here.
    pub(crate) next_number: u64,
    /// What it had written to its standard streams, in order.
    pub(crate) output: Vec<EarlyOutput>,
}

/// A preopened directory of a frozen program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FrozenPreopen {
    pub(crate) name: String,
    /// Whether it is the wake directory.
    pub(crate) wake: bool,
}

/// One number of the table of descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub(crate) enum FrozenDescriptor {
    /// It was open once.
    Closed {},
    Stdin {},
    Stdout {},
    Stderr {},
    Preopen {
        preopen: usize,
    },
    Directory {
        preopen: usize,
        path: String,
        access: FrozenAccess,
    },
    File {
        preopen: usize,
        path: String,
        access: FrozenAccess,
        append: bool,
        nonblock: bool,
        position: u64,
        /// Of its contents, if the program has seen some of them.
        digest: Option<FileDigest>,
    },
}

/// [`Access`] in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FrozenAccess {
    read: bool,
    write: bool,
    follow: bool,
}

impl From<Access> for FrozenAccess {
    fn from(Access { read, write, follow }: Access) -> Self {
        Self { read, write, follow }
    }
}

impl From<FrozenAccess> for Access {
    fn from(FrozenAccess { read, write, follow }: FrozenAccess) -> Self {
        Self { read, write, follow }
    }
}

/// Something that a program wrote to a standard stream before it was frozen.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EarlyOutput {
    /// Where to.
    pub stream: OutputStream,
    /// What.
    #[serde(serialize_with = "write_base64", deserialize_with = "read_base64")]
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for EarlyOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EarlyOutput").field("stream", &self.stream).field("len", &self.bytes.len()).finish()
    }
}

/// A stream for output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

fn write_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn read_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    BASE64.decode(String::deserialize(deserializer)?).map_err(|_| D::Error::custom("not base64"))
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Another version.
    #[error("the {format} has version {found}; this program reads version {supported}")]
    Version {
        /// What was read.
        format: &'static str,
        /// The version that it has.
        found: u32,
        /// The version that is known.
        supported: u32,
    },
    /// Something is wrong with it.
    #[error("the {format} is damaged: {what}")]
    Damaged {
        /// What was read.
        format: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// Reads JSON of a version.
pub(crate) fn parse_json<T: DeserializeOwned>(
    format: &'static str,
    supported: u32,
    bytes: &[u8],
    version: impl FnOnce(&T) -> u32,
) -> Result<T, FormatError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    if bytes.len() > HostState::MAX_SIZE {
        let what = format!("{} bytes, at most {} allowed", bytes.len(), HostState::MAX_SIZE);
        return Err(FormatError::Damaged { format, what });
    }
    let parsed = serde_json::from_slice(bytes);
    // A newer version may have fields that this reader does not know: then the version is what is worth saying.
    let found = match &parsed {
        Ok(parsed) => Some(version(parsed)),
        Err(_) => serde_json::from_slice::<Versioned>(bytes).ok().map(|versioned| versioned.version),
    };
    match found {
        Some(found) if found != supported => Err(FormatError::Version { format, found, supported }),
        _ => parsed.map_err(|error| FormatError::Damaged { format, what: error.to_string() }),
    }
}

impl std::fmt::Debug for HostState {
    /// Without values and output, which may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.environment.iter().map(|(name, _)| name).collect::<Vec<_>>();
        f.debug_struct("HostState")
            .field("environment", &names)
            .field("late", &self.late)
            .field("preopens", &self.preopens)
            .field("descriptors", &self.descriptors)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

impl HostState {
    /// The longest that is read, in bytes.
    pub const MAX_SIZE: usize = 16 << 20;

    pub(crate) const VERSION: u32 = VERSION;

    /// The arguments, the program's name first.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The names and values of the variables that the program has had from the beginning.
    pub fn environment(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names of the variables that it gets when it wakes up.
    #[must_use]
    pub fn late(&self) -> &[String] {
        &self.late
    }

    /// The guest's names of the directories that must be granted to wake it, without the wake directory.
    pub fn preopens(&self) -> impl Iterator<Item = &str> {
        self.preopens.iter().filter(|preopen| !preopen.wake).map(|preopen| preopen.name.as_str())
    }

    /// Whether it has the wake directory.
    #[must_use]
    pub fn has_wake_directory(&self) -> bool {
        self.preopens.iter().any(|preopen| preopen.wake)
    }

    /// The guest's paths of the files that are opened again when it wakes up, and for those that it has read the digests that they must have.
    pub fn files(&self) -> impl Iterator<Item = (String, Option<FileDigest>)> {
        self.descriptors.iter().flatten().filter_map(|descriptor| match descriptor {
            FrozenDescriptor::File { preopen, path, digest, .. } if !self.preopens[*preopen].wake => {
                Some((crate::grants::guest_path(&self.preopens[*preopen].name, path), *digest))
            }
            _ => None,
        })
    }

    /// What it had written before it was frozen, in order.
    #[must_use]
    pub fn output(&self) -> &[EarlyOutput] {
        &self.output
    }

    /// What its monotonic clock showed, in nanoseconds.
    #[must_use]
    pub fn monotonic(&self) -> u64 {
        self.monotonic
    }

    /// As compact JSON; the same state has the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Numbers, text and lists: nothing that JSON can't say.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a state.
    ///
    /// # Errors
    ///
    /// If it is longer than [`MAX_SIZE`](Self::MAX_SIZE), no state, of another version, or names directories that it does not have.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let state = parse_json("host state", VERSION, bytes, |state: &Self| state.version)?;
        state.check().map_err(|what| FormatError::Damaged { format: "host state", what })?;
        Ok(state)
    }

    fn check(&self) -> Result<(), String> {
        if self.preopens.iter().filter(|preopen| preopen.wake).count() > 1 {
            return Err("two wake directories".to_owned());
        }
        if !self.late.is_empty() && !self.has_wake_directory() {
            return Err("late variables without a wake directory".to_owned());
        }
        let descriptors = self.descriptors.as_deref().unwrap_or_default();
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(format!("{} descriptors, at most {MAX_DESCRIPTORS} allowed", descriptors.len()));
        }
        for (fd, descriptor) in descriptors.iter().enumerate() {
            let (preopen, path) = match descriptor {
                FrozenDescriptor::Closed {} | FrozenDescriptor::Stdin {} | FrozenDescriptor::Stdout {} | FrozenDescriptor::Stderr {} => {
                    continue;
                }
                FrozenDescriptor::Preopen { preopen } => (*preopen, ""),
                FrozenDescriptor::Directory { preopen, path, .. } | FrozenDescriptor::File { preopen, path, .. } => {
                    (*preopen, path.as_str())
                }
            };
            if preopen >= self.preopens.len() {
                return Err(format!("descriptor {fd} is in directory {preopen} of {}", self.preopens.len()));
            }
            if path.len() > MAX_ORIGIN {
                return Err(format!("descriptor {fd} has a path of {} bytes, at most {MAX_ORIGIN} allowed", path.len()));
            }
        }
        Ok(())
    }
}
