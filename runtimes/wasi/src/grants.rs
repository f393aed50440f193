//! What a function is given, the same for every request that shares it: arguments, environment, directories.

use crate::descriptor::{Access, Directory, Origin};
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
        Ok(Self { name: guest.into(), directory: Directory { dir, writable, access, origin: None } })
    }
}
