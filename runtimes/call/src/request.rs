//! What one call of a function is given: arguments, environment, streams, directories, limits.

use crate::output::Output;
use crate::watch::InputWatch;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where a guest's standard input comes from.
#[derive(Debug, Clone, Default)]
pub enum Input {
    /// Nowhere: it is at its end.
    #[default]
    Empty,
    /// From memory.
    Bytes(Bytes),
    /// From the process's own standard input.
    Inherit,
}

/// A directory that a guest may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The directory on the host.
    pub host: PathBuf,
    /// Its name in the guest.
    pub guest: String,
    /// Whether the guest may change what is in it.
    pub writable: bool,
}

/// One call. By default a guest gets nothing: no input, no output, no directory, no variable, no limit beyond those of Wasm.
///
/// ```
/// use preheat_call::{Output, Request};
/// let (stdout, buffer) = Output::buffer(1 << 20);
/// let request = Request::new().args(["--json"]).stdin("[]").stdout(stdout).timeout(std::time::Duration::from_secs(1));
/// assert!(buffer.contents().is_empty());
/// # let _ = request;
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
#[non_exhaustive]
pub struct Request {
    /// The guest's first argument, its own name; by default the name under which the image was built.
    pub program: Option<String>,
    /// Arguments behind those of the image.
    pub args: Vec<String>,
    /// Environment variables; those of the image are there too unless they are set here.
    pub env: BTreeMap<String, String>,
    /// Standard input.
    pub stdin: Input,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// Directories.
    pub dirs: Vec<Directory>,
    /// How long the call may take.
    pub timeout: Option<Duration>,
    /// Most bytes that each memory may have.
    pub max_memory: Option<usize>,
    /// Most bytes that the body of an HTTP answer may have.
    pub max_response: Option<usize>,
    /// Whom to tell when the guest comes to its input.
    pub input_watch: Option<InputWatch>,
}

impl Request {
    /// A call with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The guest's first argument, its own name; by default the name under which the image was built.
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.program = Some(name.into());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Gives standard input from memory.
    pub fn stdin(self, bytes: impl Into<Bytes>) -> Self {
        self.input(Input::Bytes(bytes.into()))
    }

    /// Gives standard input.
    pub fn input(mut self, input: Input) -> Self {
        self.stdin = input;
        self
    }

    /// Notes when the guest first asks for its standard input.
    pub fn input_watch(mut self, watch: InputWatch) -> Self {
        self.input_watch = Some(watch);
        self
    }

    /// Takes standard output.
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Takes standard error.
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// Grants a directory. Nothing outside of it can be reached through it, neither by `..` nor by symbolic links.
    pub fn dir(mut self, directory: Directory) -> Self {
        self.dirs.push(directory);
        self
    }

    /// Ends the call after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Most bytes that each memory may have. Growing beyond answers -1 to the guest; a function that begins with more is not instantiated.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// Most bytes that the body of an HTTP answer may have, 64 MiB unless set; a longer one is an error.
    pub fn max_response(mut self, bytes: usize) -> Self {
        self.max_response = Some(bytes);
        self
    }
}
