//! A home of its own for each test, and the `preheat` command in it.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod corpus;
pub(crate) mod disk;
pub(crate) mod service;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// The directory for a test's own files.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `$PREHEAT_HOME`.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub(crate) fn library(&self) -> preheat::Home {
        preheat::Home::at(self.root())
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }

    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preheat"));
        command.args(args).current_dir(self.path()).env("PREHEAT_HOME", self.root());
        command.env_remove("RUST_BACKTRACE").env_remove("PREHEAT_TOKEN");
        command
    }

    /// Runs `preheat` with `args` and nothing on standard input.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run_with(args, b"")
    }

    pub(crate) fn run_with<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>, stdin: &[u8]) -> Ran {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let stdin = stdin.to_vec();
        // A guest need not read its input.
        let writer = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.into()
    }

    /// Runs `preheat` with a token in its environment.
    pub(crate) fn run_as<S: AsRef<std::ffi::OsStr>>(&self, token: &str, args: impl IntoIterator<Item = S>) -> Ran {
        self.command(args).env("PREHEAT_TOKEN", token).stdin(Stdio::null()).output().unwrap().into()
    }

    /// Runs `preheat`, which must end with 0, and returns the trimmed standard output.
    pub(crate) fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.stdout.trim().to_owned()
    }

    /// Runs `preheat --json`, which must end with 0.
    pub(crate) fn json<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> serde_json::Value {
        let mut command = self.command(["--json"]);
        let ran: Ran = command.args(args).output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        serde_json::from_str(ran.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// The file of a blob, by its `sha256:…` text.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.root().join("store/blobs/sha256").join(&hex[..2]).join(&hex[2..])
    }

    pub(crate) fn assert_whole(&self) {
        let report = self.json(["verify"]);
        assert_eq!(report["whole"], true, "{report}");
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Asserts that the command line was not understood.
    pub(crate) fn assert_usage(&self) {
        assert_eq!(self.code, Some(2), "{self:?}");
    }

    /// Asserts that the command failed as it should: with this code, one clear message, and no panic.
    pub(crate) fn assert_fails(&self, code: u8, message: &str) {
        assert_eq!(self.code, Some(i32::from(code)), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("preheat: ")).collect();
        assert_eq!(lines.len(), 1, "one message: {self:?}");
        assert!(lines[0].contains(message), "{message:?} expected: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}

/// Path of a file in the repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A command that writes `text` and ends with `code`.
pub(crate) fn hello(text: &str, code: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\08\00\00\00\{len:02x}\00\00\00{text}")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 4)))
                (call $exit (i32.const {code}))))"#,
        len = text.len(),
    )
}
