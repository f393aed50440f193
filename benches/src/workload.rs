//! What is measured: a program, what it is given, and what it must answer.

use std::path::PathBuf;

/// One program with one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// What people call it.
    pub name: String,
    /// The Wasm file.
    pub wasm: PathBuf,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Standard input.
    pub stdin: PathBuf,
    /// Directories that the guest may read: name in the guest, directory on the host.
    pub dirs: Vec<(String, PathBuf)>,
    /// What it must write to standard output.
    pub expected: Vec<u8>,
}
