//! Waking: a [`HostState`] and what another host grants become contexts in which the program goes on.

use crate::abi::types::Filetype;
use crate::context::Context;
use crate::descriptor::{Access, Contents, Descriptors, Directory, OpenFile, Origin, Place, Slot};
use crate::digest::{self, FileDigest};
use crate::error::{Failure, Stop};
use crate::grants::Grants;
use crate::host::Host;
use crate::host_state::{FrozenDescriptor, FrozenPreopen, HostState, OutputStream};
use crate::interrupt::Interrupt;
use crate::late::{self, Found};
use crate::reopen;
use crate::stream::{Input, Output};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a file must have been left alone when it is hashed, so that a later change surely shows in its times.
const SETTLED: Duration = Duration::from_secs(2);

/// A frozen program's host state fitted to what a host grants. Made once, it wakes any number of contexts.
///
/// The files that the program has read and has still open are hashed when a context is woken, and not again while their attributes stay.
#[derive(Debug)]
pub struct Wake {
    state: Arc<HostState>,
    /// The arguments, variables and order of directories of the state, and the directories of this host.
    grants: Arc<Grants>,
    /// For each descriptor the attributes of the file that had the right digest.
    known: Mutex<Vec<Option<Stamp>>>,
}

/// The streams of a woken program, and what ends its waits.
#[derive(Debug, Default)]
pub struct Streams {
    /// Its standard input.
    pub stdin: Input,
    /// Its standard output, which first gets what it wrote there before it was frozen.
    pub stdout: Output,
    /// Its standard error, likewise.
    pub stderr: Output,
    /// What ends its waits. It also ends the waking.
    pub interrupt: Interrupt,
}

/// Why a program can't be woken with what is granted, and what can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WakeError {
    /// Other arguments than those of the build.
    #[error(
        "the program was frozen with the arguments {frozen:?}, which it has read already, so it can't be run with {given:?}; build an image with those, or pass what differs on standard input"
    )]
    Arguments {
        /// Those of the build.
        frozen: Vec<String>,
        /// Those that were granted.
        given: Vec<String>,
    },
    /// A variable that the build did not have, or had with another value.
    #[error(
        "the program was frozen {} the environment variable `{name}`; build the image with --late-env {name} to give it at each wake-up",
        if *.known { "with another value of" } else { "without" }
    )]
    Variable {
        /// Its name.
        name: String,
        /// Whether the build had it.
        known: bool,
    },
    /// Late variables for a program that is going to be frozen again.
    #[error(
        "late variables were given to a program that is woken to be frozen once more, which would keep them; give them at the final wake-up"
    )]
    LateVariables,
    /// A directory is missing.
    #[error("the program was frozen with the directory `{name}`, which is not granted; grant some directory under this name")]
    DirectoryMissing {
        /// The guest's name.
        name: String,
    },
    /// A directory is too many.
    #[error("the program was frozen without the directory `{name}` and would never find it; grant it when building the image")]
    DirectoryUnknown {
        /// The guest's name.
        name: String,
    },
    /// The wake directory is granted to a program that does not know it, or its name to something else.
    #[error("the program was frozen without the wake directory; build the image with --late-env NAME or --wake-dir")]
    NoWakeDirectory,
    /// A file that was open for writing is in a directory that may only be read now.
    #[error("descriptor {fd}, `{path}`: it is open for writing, but its directory is granted read-only; grant it writable")]
    ReadOnly {
        /// The descriptor.
        fd: u32,
        /// The guest's path.
        path: String,
    },
    /// Something that was open can't be opened.
    #[error(
        "descriptor {fd}, `{path}`: the program was frozen while it was open, and it can't be opened again: {why}; put it in its place"
    )]
    Open {
        /// The descriptor.
        fd: u32,
        /// The guest's path.
        path: String,
        /// Why.
        why: io::Error,
    },
    /// A file that the program has read is another one.
    #[error(
        "descriptor {fd}, `{path}`: the program has read some of it, but it has changed: it was {expected} and is {found}; put the old one in its place, or build the image anew"
    )]
    Changed {
        /// The descriptor.
        fd: u32,
        /// The guest's path.
        path: String,
        /// The digest when it was frozen.
        expected: FileDigest,
        /// The digest now.
        found: FileDigest,
    },
    /// The state names something that does not exist.
    #[error("descriptor {fd} of the host state is nothing that there is")]
    Damaged {
        /// The descriptor.
        fd: u32,
    },
    /// What the program wrote before it was frozen can't be written.
    #[error("what the program wrote before it was frozen can't be written: {0}")]
    Output(String),
    /// The interrupt ended the waking.
    #[error("interrupted while it was woken")]
    Interrupted,
}

/// Attributes that change whenever contents do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change is long ago: times of files are coarse.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let last = Duration::from_secs(u64::try_from(self.changed.0.max(self.modified.0)).unwrap_or(0));
        now.checked_sub(last).is_some_and(|since| since > SETTLED)
    }
}

impl Wake {
    /// Fits `state` to `grants`. The directories are matched by the guest's names, whatever they are on the host and in whatever order they
    /// were granted. No arguments, or those of the build, are granted; a variable is one that was declared as late, or has the value of the
    /// build. The wake directory need not be granted: a program that knows it has it.
    ///
    /// # Errors
    ///
    /// If something is missing or can't be given to a program that is past its beginning.
    pub fn new(state: Arc<HostState>, grants: Grants) -> Result<Self, WakeError> {
        let Grants { args, env, preopens, .. } = grants;
        if !args.is_empty() && args != state.arguments {
            return Err(WakeError::Arguments { frozen: state.arguments.clone(), given: args });
        }
        let mut late: Vec<(String, String)> = Vec::new();
        for (name, value) in env {
            if state.late.contains(&name) {
                // The last value counts, as for whoever reads an environment into a map.
                late.retain(|(other, _)| *other != name);
                late.push((name, value));
            } else if !state.environment.contains(&(name.clone(), value)) {
                let known = state.environment.iter().any(|(other, _)| *other == name);
                return Err(WakeError::Variable { name, known });
            }
        }
        let mut granted = Grants::new();
        granted.args = state.arguments.clone();
        granted.env = state.environment.clone();
        granted.late = state.late.clone();
        granted.late_contents = late::contents(late.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if !state.environment_read {
            // It will ask for all of them.
            granted.arrived = late;
        }
        let mut preopens: Vec<_> = preopens.into_iter().map(Some).collect();
        for FrozenPreopen { name, wake } in &state.preopens {
            let fits = |preopen: &Option<crate::Preopen>| {
                preopen.as_ref().is_some_and(|preopen| preopen.name() == name && preopen.is_wake_directory() == *wake)
            };
            let found = preopens.iter_mut().find(|preopen| fits(preopen)).and_then(Option::take);
            granted = match found {
                Some(preopen) => granted.preopen(preopen),
                None if *wake => granted.wake_directory(),
                None => return Err(WakeError::DirectoryMissing { name: name.clone() }),
            };
        }
        if let Some(preopen) = preopens.into_iter().flatten().next() {
            if preopen.is_wake_directory() {
                return Err(WakeError::NoWakeDirectory);
            }
            return Err(WakeError::DirectoryUnknown { name: preopen.name().to_owned() });
        }
        let known = Mutex::new(vec![None; state.descriptors.as_ref().map_or(0, Vec::len)]);
        Ok(Self { grants: Arc::new(granted), state, known })
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &Arc<HostState> {
        &self.state
    }

    /// Opens again all that was open.
    fn descriptors(&self, interrupt: &Interrupt) -> Result<Descriptors, WakeError> {
        let Some(descriptors) = &self.state.descriptors else { return Ok(Descriptors::default()) };
        let slots = (0..).zip(descriptors).map(|(fd, descriptor)| self.open(fd, descriptor, interrupt));
        Ok(Descriptors::from_slots(slots.collect::<Result<_, _>>()?))
    }

    fn open(&self, fd: u32, descriptor: &FrozenDescriptor, interrupt: &Interrupt) -> Result<Option<Slot>, WakeError> {
        Ok(Some(match descriptor {
            FrozenDescriptor::Closed {} => return Ok(None),
            FrozenDescriptor::Stdin {} => Slot::Stdin,
            FrozenDescriptor::Stdout {} => Slot::Stdout,
            FrozenDescriptor::Stderr {} => Slot::Stderr,
            FrozenDescriptor::Preopen { preopen } => {
                self.directory(fd, *preopen)?;
                Slot::Preopen(*preopen)
            }
            FrozenDescriptor::Directory { preopen, path, access } => {
                let directory = self.directory(fd, *preopen)?;
                let origin = Origin { preopen: *preopen, path: path.clone() };
                let access = Access::from(*access);
                let place = match &directory.place {
                    Place::Wake if late::find(path) == Ok(Found::Directory) => Place::Wake,
                    Place::Wake => return Err(WakeError::Damaged { fd }),
                    Place::Host(_) => {
                        let opened = reopen::directory(directory, path, access);
                        Place::Host(opened.map_err(|why| WakeError::Open { fd, path: self.grants.guest_path(&origin), why })?)
                    }
                };
                Slot::Directory(Box::new(Directory { place, writable: directory.writable, access, origin: Some(origin) }))
            }
            FrozenDescriptor::File { preopen, path, access, append, nonblock, position, digest } => {
                let directory = self.directory(fd, *preopen)?;
                let origin = Origin { preopen: *preopen, path: path.clone() };
                let access = Access::from(*access);
                let (contents, filetype) = match (&directory.place, late::find(path)) {
                    (Place::Wake, Ok(Found::File(file))) => (Contents::Late(file), file.filetype()),
                    (Place::Wake, _) => return Err(WakeError::Damaged { fd }),
                    (Place::Host(_), _) => {
                        let path = || self.grants.guest_path(&origin);
                        if access.write && !directory.writable {
                            return Err(WakeError::ReadOnly { fd, path: path() });
                        }
                        let file = self.file(fd, directory, &origin, access, *digest, interrupt)?;
                        (Contents::Host(file), Filetype::RegularFile)
                    }
                };
                let (writable, read) = (directory.writable, digest.is_some());
                let (append, nonblock, position, origin) = (*append, *nonblock, *position, Some(origin));
                Slot::File(Box::new(OpenFile { contents, filetype, writable, access, append, nonblock, position, read, origin }))
            }
        }))
    }

    fn directory(&self, fd: u32, preopen: usize) -> Result<&Directory, WakeError> {
        self.grants.preopens.get(preopen).map(|preopen| &preopen.directory).ok_or(WakeError::Damaged { fd })
    }

    /// Opens a file and checks that it is the one which the program has read.
    fn file(
        &self,
        fd: u32,
        directory: &Directory,
        origin: &Origin,
        access: Access,
        digest: Option<FileDigest>,
        interrupt: &Interrupt,
    ) -> Result<File, WakeError> {
        let path = || self.grants.guest_path(origin);
        let failed = |why| WakeError::Open { fd, path: path(), why };
        let file = reopen::file(directory, &origin.path, access).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no file any more")));
        }
        let Some(expected) = digest else { return Ok(file) };
        let stamp = Stamp::of(&metadata);
        let index = usize::try_from(fd).unwrap_or(usize::MAX);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known().get(index) == Some(&Some(stamp)) {
            return Ok(file);
        }
        let (found, _) = digest::of_file(&file, interrupt).map_err(|_| WakeError::Interrupted)?.map_err(failed)?;
        if found != expected {
            return Err(WakeError::Changed { fd, path: path(), expected, found });
        }
        if stamp.is_settled()
            && let Some(place) = known().get_mut(index)
        {
            *place = Some(stamp);
        }
        Ok(file)
    }
}

impl Context {
    /// A context in which a frozen program goes on: its descriptors, its monotonic clock, its environment. What it had written to its
    /// standard streams is written to those of `streams` before anything else. If nothing is open beside streams and preopened directories,
    /// at their places, this opens and allocates nothing.
    ///
    /// # Errors
    ///
    /// If something that was open is not there or is not what it was, or the streams do not take what must be written.
    pub fn wake(wake: &Wake, host: Box<dyn Host>, streams: Streams) -> Result<Self, WakeError> {
        let Wake { state, grants, .. } = wake;
        let mut context = Self::with_host(Arc::clone(grants), host);
        let Streams { stdin, stdout, stderr, interrupt } = streams;
        context.descriptors = wake.descriptors(&interrupt)?;
        (context.stdin, context.stdout, context.stderr, context.interrupt) = (stdin, stdout, stderr, interrupt);
        context.environment_read = state.environment_read;
        context.sorted_names = true;
        context.set_monotonic(state.monotonic);
        if let Some(recording) = &context.recording {
            if !grants.late_contents.is_empty() {
                return Err(WakeError::LateVariables);
            }
            recording.adopt(state);
        }
        for early in &state.output {
            let output = if early.stream == OutputStream::Stdout { &mut context.stdout } else { &mut context.stderr };
            output.write_all(&early.bytes, &context.interrupt).map_err(|failure| match failure {
                Failure::Stop(Stop::Interrupted) => WakeError::Interrupted,
                Failure::Stop(stop) => WakeError::Output(stop.to_string()),
                Failure::Errno(errno) => WakeError::Output(format!("the stream answers {errno:?}")),
            })?;
        }
        Ok(context)
    }
}
