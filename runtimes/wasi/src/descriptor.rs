//! The table of descriptors: standard streams, directories, open files.

use crate::abi::types::{Errno, Filetype};
use crate::grants::Grants;
use crate::late::LateFile;
use cap_std::fs::Dir;
use std::fs::File;
use std::io;

/// Most descriptors that a guest may have at a time: they are the process's own, and other guests need some too.
pub(crate) const MAX_DESCRIPTORS: usize = 4096;

/// Longest path of an [`Origin`] in bytes; a guest that opens deeper and deeper must not fill the host's memory.
pub(crate) const MAX_ORIGIN: usize = 4096;

/// From where something was opened, enough to find it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The number of the preopened directory in its [`Grants`].
    pub preopen: usize,
    /// The path from there as the guest gave it; if it opened a directory first and a file in it, both joined by `/`. Empty for the
    /// preopened directory itself. It may have been renamed since.
    pub path: String,
}

impl Origin {
    /// The origin of what is at `path` from here; none if that is too long to be kept.
    fn join(&self, path: &str) -> Option<Self> {
        (self.path.len() + path.len() < MAX_ORIGIN).then(|| {
            let separator = if self.path.is_empty() { "" } else { "/" };
            Self { preopen: self.preopen, path: format!("{}{separator}{path}", self.path) }
        })
    }
}

/// How something was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Following a symbolic link at the end of the path.
    pub follow: bool,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) place: Place,
    /// Whether anything below may be changed.
    pub(crate) writable: bool,
    pub(crate) access: Access,
    pub(crate) origin: Option<Origin>,
}

/// Where a directory is.
#[derive(Debug)]
pub(crate) enum Place {
    /// On the host.
    Host(Dir),
    /// Nowhere: the wake directory, whose files are made up here.
    Wake,
}

impl Directory {
    pub(crate) fn origin_of(&self, path: &str) -> Option<Origin> {
        self.origin.as_ref().and_then(|origin| origin.join(path))
    }
}

/// An open file. The position is ours: the system's is not used, so that handles may be shared and positions be restored.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) contents: Contents,
    pub(crate) filetype: Filetype,
    pub(crate) writable: bool,
    pub(crate) access: Access,
    pub(crate) append: bool,
    /// Reported, and otherwise without meaning: files never wait for somebody else.
    pub(crate) nonblock: bool,
    pub(crate) position: u64,
    /// Whether the guest has seen bytes of it.
    pub(crate) read: bool,
    pub(crate) origin: Option<Origin>,
}

/// What is in a file.
#[derive(Debug)]
pub(crate) enum Contents {
    /// What the host's has.
    Host(File),
    /// What the wake directory's has. Nobody can write to it.
    Late(LateFile),
}

impl OpenFile {
    /// The host's file, if it is one.
    pub(crate) fn host(&self) -> Option<&File> {
        if let Contents::Host(file) = &self.contents { Some(file) } else { None }
    }

    /// Its size in bytes.
    pub(crate) fn len(&self, grants: &Grants) -> io::Result<u64> {
        match &self.contents {
            Contents::Host(file) => Ok(file.metadata()?.len()),
            Contents::Late(file) => Ok(file.len(grants)),
        }
    }

    /// Whether there is nothing to read at its position.
    pub(crate) fn is_over(&self, grants: &Grants) -> io::Result<bool> {
        Ok(!matches!(self.contents, Contents::Late(LateFile::Random)) && self.len(grants)? <= self.position)
    }
}

#[derive(Debug)]
pub(crate) enum Slot {
    Stdin,
    Stdout,
    Stderr,
    /// A directory of the grants, by number.
    Preopen(usize),
    Directory(Box<Directory>),
    File(Box<OpenFile>),
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stdin,
    Stdout,
    Stderr,
    Directory,
    File,
}

/// What [`Context::descriptors`](crate::Context::descriptors) tells about a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Described<'a> {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A directory.
    Directory {
        /// From where it was opened, unless that is too long to be kept.
        origin: Option<&'a Origin>,
        /// How it was opened.
        access: Access,
        /// Whether it is the preopened directory itself.
        preopen: bool,
    },
    /// A file.
    File {
        /// From where it was opened, unless that is too long to be kept.
        origin: Option<&'a Origin>,
        /// How it was opened.
        access: Access,
        /// Whether writes go to its end.
        append: bool,
        /// Whether the guest called it non-blocking.
        nonblock: bool,
        /// The position of the next read or write.
        position: u64,
    },
}

/// The table. Until the guest first changes it, it is not there: descriptors 0 to 2 are the streams and those from 3 the preopened directories.
///
/// A freed number is used again, the highest first, and else the next one: programs see the same numbers under wasmtime.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    slots: Option<Vec<Option<Slot>>>,
    free: usize,
}

const FIRST_PREOPEN: usize = 3;

impl Descriptors {
    fn initial(grants: &Grants, index: usize) -> Option<Slot> {
        match index {
            0 => Some(Slot::Stdin),
            1 => Some(Slot::Stdout),
            2 => Some(Slot::Stderr),
            _ => (index - FIRST_PREOPEN < grants.preopens.len()).then(|| Slot::Preopen(index - FIRST_PREOPEN)),
        }
    }

    fn slots_mut(&mut self, grants: &Grants) -> &mut Vec<Option<Slot>> {
        self.slots.get_or_insert_with(|| (0..FIRST_PREOPEN + grants.preopens.len()).map(|index| Self::initial(grants, index)).collect())
    }

    fn slot(&self, fd: u32) -> Option<&Slot> {
        self.slots.as_ref()?.get(usize::try_from(fd).ok()?)?.as_ref()
    }

    pub(crate) fn kind(&self, grants: &Grants, fd: u32) -> Result<Kind, Errno> {
        let initial;
        let slot = if self.slots.is_some() {
            self.slot(fd)
        } else {
            initial = usize::try_from(fd).ok().and_then(|index| Self::initial(grants, index));
            initial.as_ref()
        };
        match slot {
            None => Err(Errno::Badf),
            Some(Slot::Stdin) => Ok(Kind::Stdin),
            Some(Slot::Stdout) => Ok(Kind::Stdout),
            Some(Slot::Stderr) => Ok(Kind::Stderr),
            Some(Slot::Preopen(_) | Slot::Directory(_)) => Ok(Kind::Directory),
            Some(Slot::File(_)) => Ok(Kind::File),
        }
    }

    /// The number of the preopened directory that this descriptor is.
    pub(crate) fn preopen(&self, grants: &Grants, fd: u32) -> Option<usize> {
        let index = if self.slots.is_some() {
            let Some(Slot::Preopen(index)) = self.slot(fd) else { return None };
            *index
        } else {
            usize::try_from(fd).ok()?.checked_sub(FIRST_PREOPEN)?
        };
        (index < grants.preopens.len()).then_some(index)
    }

    /// The directory that this descriptor is; `badf` if it is anything else.
    pub(crate) fn directory<'a>(&'a self, grants: &'a Grants, fd: u32) -> Result<&'a Directory, Errno> {
        if let Some(index) = self.preopen(grants, fd) {
            return Ok(&grants.preopens[index].directory);
        }
        if let Some(Slot::Directory(directory)) = self.slot(fd) { Ok(directory) } else { Err(Errno::Badf) }
    }

    /// The file that this descriptor is; `badf` if it is anything else.
    pub(crate) fn file(&self, fd: u32) -> Result<&OpenFile, Errno> {
        if let Some(Slot::File(file)) = self.slot(fd) { Ok(file) } else { Err(Errno::Badf) }
    }

    /// See [`file`](Self::file).
    pub(crate) fn file_mut(&mut self, fd: u32) -> Result<&mut OpenFile, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::Badf)?;
        match self.slots.as_mut().and_then(|slots| slots.get_mut(index)) {
            Some(Some(Slot::File(file))) => Ok(file),
            _ => Err(Errno::Badf),
        }
    }

    /// The whole table, with what is closed; none if it is as it was at the beginning.
    pub(crate) fn slots(&self) -> Option<&[Option<Slot>]> {
        self.slots.as_deref()
    }

    /// A table that is not as at the beginning.
    pub(crate) fn from_slots(slots: Vec<Option<Slot>>) -> Self {
        let free = slots.iter().filter(|slot| slot.is_none()).count();
        Self { slots: Some(slots), free }
    }

    /// Whether there is room for one more.
    pub(crate) fn has_room(&self) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.len() - self.free < MAX_DESCRIPTORS)
    }

    pub(crate) fn insert(&mut self, grants: &Grants, slot: Slot) -> Result<u32, Errno> {
        if !self.has_room() {
            return Err(Errno::Mfile);
        }
        let free = self.free;
        let slots = self.slots_mut(grants);
        let index = if free > 0 { slots.iter().rposition(Option::is_none) } else { None };
        let index = match index {
            Some(index) => {
                slots[index] = Some(slot);
                self.free -= 1;
                index
            }
            None => {
                slots.push(Some(slot));
                slots.len() - 1
            }
        };
        u32::try_from(index).map_err(|_| Errno::Mfile)
    }

    pub(crate) fn remove(&mut self, grants: &Grants, fd: u32) -> Result<Slot, Errno> {
        self.kind(grants, fd)?;
        let index = usize::try_from(fd).map_err(|_| Errno::Badf)?;
        let slot = self.slots_mut(grants).get_mut(index).and_then(Option::take).ok_or(Errno::Badf)?;
        self.free += 1;
        Ok(slot)
    }

    /// Makes `to`, which must be open, what `from` was, and closes `from`.
    pub(crate) fn renumber(&mut self, grants: &Grants, from: u32, to: u32) -> Result<(), Errno> {
        self.kind(grants, from)?;
        self.kind(grants, to)?;
        if from != to {
            let slot = self.remove(grants, from)?;
            let index = usize::try_from(to).map_err(|_| Errno::Badf)?;
            if let Some(target) = self.slots_mut(grants).get_mut(index) {
                *target = Some(slot);
            }
        }
        Ok(())
    }

    pub(crate) fn describe<'a>(&'a self, grants: &'a Grants) -> impl Iterator<Item = (u32, Described<'a>)> {
        let len = self.slots.as_ref().map_or(FIRST_PREOPEN + grants.preopens.len(), Vec::len);
        (0..u32::try_from(len).unwrap_or(u32::MAX)).filter_map(|fd| {
            let described = match self.kind(grants, fd).ok()? {
                Kind::Stdin => Described::Stdin,
                Kind::Stdout => Described::Stdout,
                Kind::Stderr => Described::Stderr,
                Kind::Directory => {
                    let directory = self.directory(grants, fd).ok()?;
                    let preopen = self.preopen(grants, fd).is_some();
                    Described::Directory { origin: directory.origin.as_ref(), access: directory.access, preopen }
                }
                Kind::File => {
                    let file = self.file(fd).ok()?;
                    let OpenFile { access, append, nonblock, position, .. } = *file;
                    Described::File { origin: file.origin.as_ref(), access, append, nonblock, position }
                }
            };
            Some((fd, described))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_numbers_are_used_again_from_the_highest() {
        let grants = Grants::new();
        let mut table = Descriptors::default();
        assert_eq!(table.insert(&grants, Slot::Stdin), Ok(3));
        assert_eq!(table.insert(&grants, Slot::Stdin), Ok(4));
        for fd in [0, 3, 1] {
            table.remove(&grants, fd).unwrap();
        }
        assert!(matches!(table.remove(&grants, 3), Err(Errno::Badf)));
        for fd in [3, 1, 0, 5] {
            assert_eq!(table.insert(&grants, Slot::Stderr), Ok(fd));
        }
    }

    #[test]
    fn renumbering_closes_both_ends() {
        let grants = Grants::new();
        let mut table = Descriptors::default();
        assert_eq!(table.renumber(&grants, 0, 3), Err(Errno::Badf));
        assert_eq!(table.renumber(&grants, 3, 0), Err(Errno::Badf));
        assert_eq!(table.renumber(&grants, 2, 2), Ok(()));
        assert_eq!(table.renumber(&grants, 0, 2), Ok(()));
        assert_eq!(table.kind(&grants, 2), Ok(Kind::Stdin));
        assert_eq!(table.kind(&grants, 0), Err(Errno::Badf));
        assert_eq!(table.insert(&grants, Slot::Stdin), Ok(0));
    }

    #[test]
    fn there_is_a_limit() {
        let grants = Grants::new();
        let mut table = Descriptors::default();
        for _ in 3..MAX_DESCRIPTORS {
            table.insert(&grants, Slot::Stdin).unwrap();
        }
        assert_eq!(table.insert(&grants, Slot::Stdin), Err(Errno::Mfile));
        table.remove(&grants, 17).unwrap();
        assert_eq!(table.insert(&grants, Slot::Stdin), Ok(17));
    }

    #[test]
    fn an_origin_does_not_grow_without_end() {
        let mut origin = Origin { preopen: 0, path: String::new() };
        let path = "x".repeat(1000);
        for _ in 0..4 {
            origin = origin.join(&path).unwrap();
        }
        assert_eq!(origin.path.len(), 4003);
        assert_eq!(origin.join(&path), None);
    }
}
