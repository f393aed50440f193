//! Small file systems of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory; unmounted at the end.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts one at `dir`. `None`, and a line that says so, where that is not allowed.
    pub(crate) fn mount(dir: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir).status();
        if mounted.is_ok_and(|status| status.success()) {
            Some(Self(dir.to_owned()))
        } else {
            eprintln!("skipped: no right to mount a small file system here");
            None
        }
    }

    /// From now on nothing can be written.
    pub(crate) fn read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
