//! Files in memory.

#![allow(unsafe_code)]

use super::region::{PAGE, Region};
use crate::StoreError;
use crate::load::{TrustedCode, TrustedFile};
use preheat_image::manifest::{Artefact, Descriptor};
use preheat_image::native::NativeCode;
use preheat_image::{Digest, media};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file of the store in memory, all of it, to be read. It stays mapped as long as this value lives, and pages of it can be mapped
/// elsewhere.
///
/// Its bytes don't change: the store writes no blob again (mode 0444, replaced only by rename), see `docs/security.md`.
#[derive(Debug)]
pub struct MappedFile {
    region: Region,
    size: usize,
    file: File,
    // Whether pages are copied by reading the file.
    read: AtomicBool,
}

impl MappedFile {
    /// Maps a file through the descriptor through which it was checked.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn map(trusted: TrustedFile) -> Result<Self, StoreError> {
        let size = trusted.artefact().size;
        let path = trusted.path().to_owned();
        Self::new(trusted.into_file(), size, &path)
    }

    /// A file in memory with these contents, which can't be changed any more.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let path = Path::new("memfd:preheat");
        let file = sealed(bytes).map_err(StoreError::io("make", path))?;
        Self::new(file, bytes.len() as u64, path)
    }

    /// `size` is what the file has: a mapping beyond its end would end the process on the first look there. Of a trusted file that was
    /// seen when it was opened, and it is not written again.
    fn new(file: File, size: u64, path: &Path) -> Result<Self, StoreError> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let region = Region::of_file(file.as_fd(), size).map_err(StoreError::io("map", path))?;
        Ok(Self { region, size, file, read: AtomicBool::new(false) })
    }

    /// Its contents.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: all of a file's mapping is readable and never made writable; a file that was checked is not written again.
        unsafe { self.region.bytes(self.size) }
    }

    /// From now on pages are copied out of it by reading the file: for one that belongs to one image. What is looked at in the mapping stays in
    /// this process's memory, beside the copies; of a file that many share that is little.
    pub fn copy_by_reading(&self) {
        self.read.store(true, Ordering::Relaxed);
    }

    /// Gives up what is in this process's memory of a file that is copied by reading. It is still in the file.
    pub fn forget(&self) {
        if self.read.load(Ordering::Relaxed) {
            // What is not given up only stays in memory.
            // SAFETY: all of the region is the file, which is not written again; the mapping is never made writable.
            let _ = unsafe { self.region.forget() };
        }
    }

    /// Copies from byte `from` on to `target` what is there, and says how many bytes that were.
    pub(super) fn copy(&self, from: usize, target: &mut [u8]) -> usize {
        let contents = self.bytes().get(from..).unwrap_or_default();
        let len = contents.len().min(target.len());
        let mut done = 0;
        while self.read.load(Ordering::Relaxed) && done < len {
            match rustix::io::pread(&self.file, &mut target[done..len], (from + done) as u64) {
                // The mapping has it as well.
                Ok(0) | Err(_) => break,
                Ok(count) => done += count,
            }
        }
        target[done..len].copy_from_slice(&contents[done..len]);
        len
    }

    /// The file.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A file in memory that nobody can write to.
fn sealed(bytes: &[u8]) -> std::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("preheat", flags)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

impl TrustedCode {
    /// Takes `bytes` for a code object of `engine` that is trusted, without store, statement and policy: for a process that compiles
    /// what it runs, and for tests. They are copied into a sealed file in memory.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Safety
    /// The bytes are what the compiler of `engine` made from some module: they will be executed.
    pub unsafe fn vouch(bytes: &[u8], engine: &str) -> Result<Self, StoreError> {
        let path = Path::new("memfd:preheat");
        let file = sealed(bytes).map_err(StoreError::io("make", path))?;
        let blob = Descriptor { media_type: media::CODE.into(), digest: Digest::of(bytes), size: bytes.len() as u64 };
        Ok(Self::new(TrustedFile::new(file, path.to_owned(), Artefact::of(blob)), engine.to_owned()))
    }
}

/// A code object of the native engine in memory, its text executable.
#[derive(Debug)]
pub struct MappedCode {
    // Borrows from `file`; declared first, dropped first.
    native: NativeCode<'static>,
    text: usize,
    file: Arc<MappedFile>,
}

impl MappedCode {
    /// Maps a code object: two system calls whatever its size, and no more of it is read than its headers.
    ///
    /// # Errors
    /// When it is no code object of this version of the native engine, or the operating system refuses.
    pub fn map(code: TrustedCode) -> Result<Self, StoreError> {
        let path = code.file().path().to_owned();
        let size = code.file().artefact().size;
        let mut file = MappedFile::new(code.into_file(), size, &path)?;
        let bytes: *const [u8] = file.bytes();
        // SAFETY: the bytes are those of the mapping that `file` owns, which does not move with it. They outlive `native`, since both
        // are private to this value, `native` is dropped first, and `native()` gives it out for no longer than a borrow of this value.
        // Making a part of them executable changes no byte, and they stay readable.
        let bytes: &'static [u8] = unsafe { &*bytes };
        let native = NativeCode::parse(bytes).map_err(|source| StoreError::Format { path: path.clone(), source })?;
        // The container was checked: the section is within the file.
        let start = usize::try_from(native.text.offset).unwrap_or(usize::MAX);
        let end = usize::try_from(native.text.offset + native.text.size).unwrap_or(usize::MAX);
        if start < end {
            let executable = start..end.next_multiple_of(PAGE).min(file.region.len());
            file.region.make_executable(executable).map_err(StoreError::io("make executable", &path))?;
        }
        // Behind that, for what is mapped already would have to be changed.
        // SAFETY: the region is the file, and was made as long as that is.
        unsafe { file.region.touch() };
        Ok(Self { native, text: file.region.base().as_ptr().addr() + start, file: Arc::new(file) })
    }

    /// Its tables.
    #[must_use]
    pub fn native(&self) -> &NativeCode<'_> {
        &self.native
    }

    /// Where its text is: addresses.
    #[must_use]
    pub fn text(&self) -> std::ops::Range<usize> {
        self.text..self.text + usize::try_from(self.native.text.size).unwrap_or(0)
    }

    /// The file, from which memories and tables begin.
    #[must_use]
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }
}
