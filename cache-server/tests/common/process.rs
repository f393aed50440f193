//! The `preheat-cache-server` command as a process, for tests.

#![allow(dead_code, reason = "each test file uses its part")]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

pub(crate) struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    pub(crate) url: String,
}

impl Running {
    /// Starts it, and returns when it says where it listens.
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_preheat-cache-server"))
            .arg(directory)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let line = line.trim();
        let url = match line.strip_prefix("listening on ") {
            Some(url) => url.to_owned(),
            None => serde_json::from_str::<serde_json::Value>(line).unwrap()["listening"].as_str().unwrap().to_owned(),
        };
        Self { child, out, url }
    }

    /// Ends it as an operator does. How it ended, the rest of its standard output, its standard error.
    pub(crate) fn stop(mut self) -> (ExitStatus, String, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap(), out, err)
    }

    /// Ends it by SIGKILL, whatever it is doing.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) fn client() -> reqwest::Client {
    // Only the first of the tests in a process does it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// The token in what a first start says.
pub(crate) fn token(err: &str) -> Option<&str> {
    err.lines().find_map(|line| line.split_whitespace().find(|word| word.starts_with("phc_")))
}
