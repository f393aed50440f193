//! The wake directory: what arrives after a program was frozen, as two files that are on no disk.
//!
//! A program that was frozen has read its environment already and holds the state of its random generators. What must be new at each
//! wake-up, it reads from here: variables from `env`, bytes from `random`. `docs/freezing.md` shows how, language by language.

use crate::abi::types::{Errno, Filestat, Filetype};
use crate::grants::Grants;

/// The name under which guests know the wake directory.
pub const WAKE_DIRECTORY: &str = "/preheat";

/// A file of the wake directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LateFile {
    /// The late variables, as `NAME=VALUE`, each with a NUL behind it.
    Env,
    /// Random bytes without end.
    Random,
}

/// What is at a path in the wake directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Directory,
    File(LateFile),
}

impl LateFile {
    pub(crate) const ALL: [Self; 2] = [Self::Env, Self::Random];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Random => "random",
        }
    }

    pub(crate) fn len(self, grants: &Grants) -> u64 {
        match self {
            Self::Env => u64::try_from(grants.late_contents.len()).unwrap_or(u64::MAX),
            Self::Random => 0,
        }
    }

    pub(crate) fn filetype(self) -> Filetype {
        match self {
            Self::Env => Filetype::RegularFile,
            Self::Random => Filetype::CharacterDevice,
        }
    }
}

impl Found {
    /// The number that guests see, as of a file of a disk.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Directory => 1,
            Self::File(LateFile::Env) => 2,
            Self::File(LateFile::Random) => 3,
        }
    }

    pub(crate) fn filestat(self, grants: &Grants) -> Filestat {
        let (filetype, size) = match self {
            Self::Directory => (Filetype::Directory, 0),
            Self::File(file) => (file.filetype(), file.len(grants)),
        };
        Filestat { dev: 1, ino: self.number(), filetype, nlink: 1, size, atim: 0, mtim: 0, ctim: 0 }
    }
}

/// Follows a path from the wake directory. There are no links and no directories in it; what leads out is refused as everywhere.
pub(crate) fn find(path: &str) -> Result<Found, Errno> {
    if path.is_empty() {
        return Err(Errno::Noent);
    }
    if path.starts_with('/') {
        return Err(Errno::Perm);
    }
    let mut found = Found::Directory;
    for component in path.split('/') {
        found = match (found, component) {
            // A slash behind a file demands a directory.
            (Found::File(_), _) => return Err(Errno::Notdir),
            (Found::Directory, "" | ".") => Found::Directory,
            (Found::Directory, "..") => return Err(Errno::Perm),
            (Found::Directory, name) => LateFile::ALL.into_iter().find(|file| file.name() == name).map(Found::File).ok_or(Errno::Noent)?,
        };
    }
    Ok(found)
}

/// What `env` holds for these variables. A value can't hold a NUL, so nothing needs quoting.
pub(crate) fn contents<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in variables {
        for part in [name, "=", value, "\0"] {
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_wake_directory() {
        let env = Ok(Found::File(LateFile::Env));
        for (path, expected) in [
            (".", Ok(Found::Directory)),
            ("././", Ok(Found::Directory)),
            ("env", env),
            ("./env", env),
            (".//env", env),
            ("random", Ok(Found::File(LateFile::Random))),
            ("", Err(Errno::Noent)),
            ("ENV", Err(Errno::Noent)),
            ("env\0", Err(Errno::Noent)),
            ("env/", Err(Errno::Notdir)),
            ("env/..", Err(Errno::Notdir)),
            ("env/../random", Err(Errno::Notdir)),
            ("nothing/../env", Err(Errno::Noent)),
            ("..", Err(Errno::Perm)),
            ("../preheat/env", Err(Errno::Perm)),
            ("./..", Err(Errno::Perm)),
            ("/", Err(Errno::Perm)),
            ("/env", Err(Errno::Perm)),
            ("/etc/passwd", Err(Errno::Perm)),
        ] {
            assert_eq!(find(path), expected, "{path:?}");
        }
    }

    #[test]
    fn variables_are_ended_by_nul() {
        let variables = [("A", "1"), ("EMPTY", ""), ("LINES", "x=1\ny=\"2\"\n")];
        assert_eq!(contents(variables.into_iter()), b"A=1\0EMPTY=\0LINES=x=1\ny=\"2\"\n\0");
        assert_eq!(contents([].into_iter()), b"");
    }
}
