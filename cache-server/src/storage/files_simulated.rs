//! Files on a disk that can fail, and whose power can be cut. For tests.
//!
//! Everything is done to real files and written down. From what is written down, [`after_power_loss`] makes what a disk may hold when the power
//! goes between any two steps: of what was not synced, any part may be lost, in any order. It is stricter than the file systems that people
//! use: the two names of a rename are kept or lost one by one, and syncing a file does not make its name durable.

use super::files::{FileInfo, FileLayer, RealFiles};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What was done, with paths below the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create(PathBuf, u64),
    Write(u64, Vec<u8>),
    Sync(u64),
    Rename(PathBuf, PathBuf),
    SyncDir(PathBuf),
    Unlink(PathBuf),
    MakeDir(PathBuf),
    /// Something that the test wants to know later.
    Note(&'static str, usize),
}

/// A sync that is forgotten, to see whether a test notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forget {
    Nothing,
    Files,
    Dirs,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    /// The number of the operation that fails, from 0.
    pub(super) at: usize,
    /// Whether those after it fail too.
    pub(super) lasting: bool,
    pub(super) error: Errno,
}

#[derive(Debug)]
struct State {
    forget: Forget,
    steps: Vec<Step>,
    operations: usize,
    failure: Option<Failure>,
    /// What failed.
    failed: Vec<&'static str>,
    inodes: u64,
}

/// The files.
#[derive(Debug, Clone)]
pub(super) struct Simulated {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

pub(super) struct SimulatedFile {
    inode: u64,
    file: File,
}

impl Simulated {
    pub(super) fn new(root: &Path) -> Self {
        let state = State { forget: Forget::Nothing, steps: Vec::new(), operations: 0, failure: None, failed: Vec::new(), inodes: 0 };
        Self { root: root.to_owned(), state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn note(&self, what: &'static str, of: usize) {
        self.state.lock().unwrap().steps.push(Step::Note(what, of));
    }

    pub(super) fn forget(&self, forget: Forget) {
        self.state.lock().unwrap().forget = forget;
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        self.state.lock().unwrap().steps.clone()
    }

    /// Lets an operation fail, counted from now; says what has failed before.
    pub(super) fn fail(&self, failure: Option<Failure>) -> Vec<&'static str> {
        let mut state = self.state.lock().unwrap();
        let now = state.operations;
        state.failure = failure.map(|failure| Failure { at: now + failure.at, ..failure });
        std::mem::take(&mut state.failed)
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).expect("all paths are below the directory").to_owned()
    }

    /// Does something, unless it is its turn to fail, and writes it down if it worked. One at a time, so that the order is the real one.
    fn step<T>(&self, what: &'static str, work: impl FnOnce(&mut State, Option<Errno>) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock().unwrap();
        let number = state.operations;
        state.operations += 1;
        let failure = state.failure.filter(|failure| number == failure.at || (failure.lasting && number > failure.at));
        // A full disk is in nobody's way who reads or removes.
        let takes_space = !matches!(what, "unlink" | "open" | "stat" | "list" | "free_bytes");
        let failure = failure.filter(|failure| failure.error != Errno::NOSPC || takes_space);
        if failure.is_some() {
            state.failed.push(what);
        }
        work(&mut state, failure.map(|failure| failure.error))
    }
}

fn unless<T>(error: Option<Errno>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    error.map_or_else(work, |error| Err(error.into()))
}

impl FileLayer for Simulated {
    type File = SimulatedFile;

    fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        self.step("create", |state, error| {
            let file = unless(error, || RealFiles.create(path))?;
            state.inodes += 1;
            let (inode, path) = (state.inodes, self.relative(path));
            state.steps.push(Step::Create(path, inode));
            Ok(SimulatedFile { inode, file })
        })
    }

    fn write(&self, file: &mut SimulatedFile, bytes: &[u8]) -> io::Result<()> {
        self.step("write", |state, error| {
            // A write that fails may have written something.
            let written = if error.is_some() { &bytes[..bytes.len() / 2] } else { bytes };
            RealFiles.write(&mut file.file, written)?;
            state.steps.push(Step::Write(file.inode, written.to_vec()));
            unless(error, || Ok(()))
        })
    }

    fn sync(&self, file: &SimulatedFile) -> io::Result<()> {
        self.step("sync", |state, error| {
            unless(error, || Ok(()))?;
            if state.forget != Forget::Files {
                state.steps.push(Step::Sync(file.inode));
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", |state, error| {
            unless(error, || RealFiles.rename(from, to))?;
            state.steps.push(Step::Rename(self.relative(from), self.relative(to)));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step("sync_dir", |state, error| {
            // One that is not there can't be synced.
            unless(error, || std::fs::read_dir(dir).map(drop))?;
            if state.forget != Forget::Dirs {
                state.steps.push(Step::SyncDir(self.relative(dir)));
            }
            Ok(())
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.step("unlink", |state, error| {
            unless(error, || RealFiles.unlink(path))?;
            state.steps.push(Step::Unlink(self.relative(path)));
            Ok(())
        })
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.step("make_dir", |state, error| {
            unless(error, || RealFiles.make_dir(path))?;
            state.steps.push(Step::MakeDir(self.relative(path)));
            Ok(())
        })
    }

    fn open(&self, path: &Path) -> io::Result<Option<File>> {
        self.step("open", |_, error| unless(error, || RealFiles.open(path)))
    }

    fn stat(&self, path: &Path) -> io::Result<Option<FileInfo>> {
        self.step("stat", |_, error| unless(error, || RealFiles.stat(path)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.step("list", |_, error| unless(error, || RealFiles.list(dir)))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.step("free_bytes", |_, error| unless(error, || RealFiles.free_bytes(dir)))
    }
}

#[derive(Debug, Clone, Copy)]
enum Target {
    File(u64),
    Dir,
}

#[derive(Debug, Default)]
struct Inode {
    synced: Vec<u8>,
    /// Writes since: where, and what.
    after: Vec<(usize, Vec<u8>)>,
    size: usize,
}

impl Inode {
    /// What may be left of it.
    fn left(&self, keep: &mut dyn FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for (at, written) in &self.after {
            let end = at + written.len();
            let (keep_size, keep_bytes) = (keep(), keep());
            if keep_size && bytes.len() < end {
                bytes.resize(end, 0);
            }
            if keep_bytes && bytes.len() >= end {
                bytes[*at..end].copy_from_slice(written);
            }
        }
        bytes
    }
}

/// Makes in `to` what is left when the power goes after `steps`; `keep` says of each thing that was not synced whether it is there.
pub(super) fn after_power_loss(steps: &[Step], to: &Path, keep: &mut dyn FnMut() -> bool) {
    let mut inodes: BTreeMap<u64, Inode> = BTreeMap::new();
    // Names as programs saw them, names that are durable, and what was done to names since their directory was synced.
    let mut seen: BTreeMap<&Path, Target> = BTreeMap::new();
    let mut durable: BTreeMap<&Path, Target> = BTreeMap::new();
    let mut pending: Vec<(&Path, Option<Target>)> = Vec::new();
    for step in steps {
        match step {
            Step::Create(path, inode) => {
                inodes.insert(*inode, Inode::default());
                seen.insert(path, Target::File(*inode));
                pending.push((path, Some(Target::File(*inode))));
            }
            Step::Write(inode, bytes) => {
                let inode = inodes.get_mut(inode).unwrap();
                inode.after.push((inode.size, bytes.clone()));
                inode.size += bytes.len();
            }
            Step::Sync(inode) => {
                let inode = inodes.get_mut(inode).unwrap();
                inode.synced = inode.left(&mut || true);
                inode.after.clear();
            }
            Step::Rename(from, to) => {
                let target = seen.remove(from.as_path()).unwrap();
                seen.insert(to, target);
                pending.push((to, Some(target)));
                pending.push((from, None));
            }
            Step::Unlink(path) => {
                seen.remove(path.as_path());
                pending.push((path, None));
            }
            Step::MakeDir(path) => {
                seen.insert(path, Target::Dir);
                pending.push((path, Some(Target::Dir)));
            }
            Step::SyncDir(dir) => pending.retain(|(path, target)| {
                let synced = path.parent() == Some(dir);
                if synced {
                    set(&mut durable, path, *target);
                }
                !synced
            }),
            Step::Note(..) => {}
        }
    }
    for (path, target) in pending {
        if keep() {
            set(&mut durable, path, target);
        }
    }
    // Parents come before what is in them; what is in a directory that was lost is lost.
    for (path, target) in durable {
        let path = to.join(path);
        if path.parent().is_some_and(Path::is_dir) {
            match target {
                Target::Dir => std::fs::create_dir(&path).unwrap(),
                Target::File(inode) => std::fs::write(&path, inodes[&inode].left(keep)).unwrap(),
            }
        }
    }
}

fn set<'a>(names: &mut BTreeMap<&'a Path, Target>, path: &'a Path, target: Option<Target>) {
    match target {
        Some(target) => names.insert(path, target),
        None => names.remove(path),
    };
}
