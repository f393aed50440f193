//! What a function is given, the same for every request that shares it: arguments, environment, directories.

use crate::descriptor::{Access, Directory, Origin, Place};
use crate::late::WAKE_DIRECTORY;
use cap_std::fs::Dir;
use std::io;
use std::path::Path;

/// Arguments, environment and directories. By default there are none. Made once, shared by [`Context`](crate::Context)s.
#[derive(Debug, Default)]
#[must_use]
pub struct Grants {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) preopens: Vec<Preopen>,
    /// Names of variables that arrive only when the program wakes up.
    pub(crate) late: Vec<String>,
    /// Those that have arrived, for a program that has not asked for its environment before.
    pub(crate) arrived: Vec<(String, String)>,
    /// What the file `env` of the wake directory holds.
    pub(crate) late_contents: Vec<u8>,
}

impl Grants {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds arguments; the first of all is the program's name.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable behind those that are there.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Declares a variable that a program which is going to be frozen must not see before it wakes up. Whatever is granted under this name is
    /// left out until then; afterwards it is in the file `env` of the [wake directory](Self::wake_directory), which this grants too.
    pub fn late_env(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if !self.late.contains(&name) {
            self.late.push(name);
        }
        self.wake_directory()
    }

    /// Adds the wake directory, which guests know as [`WAKE_DIRECTORY`], behind those that are there. It is on no disk and can't be
    /// changed. In it are the files `env`, which is empty until the program wakes up, and `random`, which never ends.
    pub fn wake_directory(mut self) -> Self {
        if !self.has_wake_directory() {
            let access = Access { read: true, write: false, follow: true };
            let directory = Directory { place: Place::Wake, writable: false, access, origin: None };
            self = self.preopen(Preopen { name: WAKE_DIRECTORY.to_owned(), directory });
        }
        self
    }

    /// Whether the wake directory is among the directories.
    #[must_use]
    pub fn has_wake_directory(&self) -> bool {
        self.preopens.iter().any(Preopen::is_wake_directory)
    }

    /// The variables that are not late.
    pub(crate) fn early_env(&self) -> impl Iterator<Item = &(String, String)> + Clone {
        self.env.iter().filter(|(name, _)| self.late.is_empty() || !self.late.contains(name))
    }

    /// The variables that a guest gets with its environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = &(String, String)> + Clone {
        self.early_env().chain(&self.arrived)
    }

    /// The path by which a guest would name what is there.
    pub(crate) fn guest_path(&self, origin: &Origin) -> String {
        guest_path(self.preopens.get(origin.preopen).map_or("?", |preopen| &preopen.name), &origin.path)
    }

    /// Adds a directory. The guest finds the first one as descriptor 3, and so on.
    pub fn preopen(mut self, mut preopen: Preopen) -> Self {
        let number = self.preopens.len();
        preopen.directory.origin = Some(Origin { preopen: number, path: String::new() });
        self.preopens.push(preopen);
        self
    }
}

/// An open directory that guests may use. All contexts use this one handle; it keeps no position, so they do not disturb each other.
#[derive(Debug)]
pub struct Preopen {
    pub(crate) name: String,
    pub(crate) directory: Directory,
}

impl Preopen {
    /// Opens `host`, a directory, for guests that know it as `guest`. What they can reach through it is what is in it: neither `..` nor
    /// absolute paths nor symbolic links lead out. Unless it is `writable`, they can change neither contents nor names nor times.
    ///
    /// # Errors
    ///
    /// If it can't be opened.
    pub fn open(host: &Path, guest: impl Into<String>, writable: bool) -> io::Result<Self> {
        let dir = Dir::open_ambient_dir(host, cap_std::ambient_authority())?;
        let access = Access { read: true, write: writable, follow: true };
        Ok(Self { name: guest.into(), directory: Directory { place: Place::Host(dir), writable, access, origin: None } })
    }

    /// The name by which guests know it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_wake_directory(&self) -> bool {
        matches!(self.directory.place, Place::Wake)
    }
}

/// A path below a preopened directory with the directory's name in front.
pub(crate) fn guest_path(preopen: &str, path: &str) -> String {
    let separator = if path.is_empty() || preopen.ends_with('/') { "" } else { "/" };
    format!("{preopen}{separator}{path}")
}
