//! What one call of a function is given: arguments, environment, streams, directories, limits.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};

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

/// Where a guest's output goes.
#[derive(Debug, Clone, Default)]
pub enum Output {
    /// Nowhere.
    #[default]
    Discard,
    /// Into the process's own stream.
    Inherit,
    /// Into memory, see [`Output::buffer`].
    Buffer(OutputBuffer),
}

/// Output kept in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct OutputBuffer(pub(crate) MemoryOutputPipe);

impl Output {
    /// An output that is kept in memory, and the buffer to read it from afterwards. What a guest writes beyond `max` bytes is refused with an
    /// error that it sees.
    #[must_use]
    pub fn buffer(max: usize) -> (Self, OutputBuffer) {
        let buffer = OutputBuffer(MemoryOutputPipe::new(max));
        (Self::Buffer(buffer.clone()), buffer)
    }
}

impl OutputBuffer {
    /// What was written so far.
    #[must_use]
    pub fn contents(&self) -> Bytes {
        self.0.contents()
    }
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
/// use preheat_wasmtime::{Output, Request};
/// let (stdout, buffer) = Output::buffer(1 << 20);
/// let request = Request::new().args(["--json"]).stdin("[]").stdout(stdout).timeout(std::time::Duration::from_secs(1));
/// assert!(buffer.contents().is_empty());
/// # let _ = request;
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Request {
    pub(crate) program: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) dirs: Vec<Directory>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_memory: Option<usize>,
    pub(crate) max_response: Option<usize>,
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

    pub(crate) fn apply_streams(&self, wasi: &mut wasmtime_wasi::WasiCtxBuilder) -> std::io::Result<()> {
        use std::os::fd::AsFd as _;
        use wasmtime_wasi::cli::{InputFile, OutputFile};
        let duplicate = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(std::fs::File::from);
        match &self.stdin {
            Input::Empty => {}
            Input::Bytes(bytes) => drop(wasi.stdin(MemoryInputPipe::new(bytes.clone()))),
            Input::Inherit => {
                let file = duplicate(std::io::stdin().as_fd())?;
                // Reading a file never waits, so it needs no thread of its own; a pipe or a terminal may be polled.
                if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    wasi.stdin(InputFile::new(file));
                } else {
                    wasi.inherit_stdin();
                }
            }
        }
        let is_terminal = |fd: std::os::fd::BorrowedFd<'_>| std::io::IsTerminal::is_terminal(&fd);
        match &self.stdout {
            Output::Discard => {}
            Output::Buffer(buffer) => drop(wasi.stdout(buffer.0.clone())),
            // A guest asks whether it writes to a terminal, which a bare file does not tell.
            Output::Inherit if is_terminal(std::io::stdout().as_fd()) => drop(wasi.inherit_stdout()),
            Output::Inherit => drop(wasi.stdout(OutputFile::new(duplicate(std::io::stdout().as_fd())?))),
        }
        match &self.stderr {
            Output::Discard => {}
            Output::Buffer(buffer) => drop(wasi.stderr(buffer.0.clone())),
            Output::Inherit if is_terminal(std::io::stderr().as_fd()) => drop(wasi.inherit_stderr()),
            Output::Inherit => drop(wasi.stderr(OutputFile::new(duplicate(std::io::stderr().as_fd())?))),
        }
        Ok(())
    }
}
