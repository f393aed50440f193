//! A reservation of address space, and all that may be done to it.

#![allow(unsafe_code)]

use rustix::io;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Page size in bytes.
pub const PAGE: usize = 4096;

/// A file of at most so many bytes is small.
const SMALL: usize = 64 * PAGE;
/// What the kernel maps of a file that it has in memory when one page of it is looked at: `fault_around_bytes`, by default.
const AROUND: usize = 16 * PAGE;

/// What may be done with pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Reading and writing.
    ReadWrite,
}

/// Address space that belongs to its owner alone, inaccessible at first. It is unmapped when it is dropped.
///
/// The owner decides who has addresses in it. Its methods may be called only while nobody else uses the part that they change: that is
/// what `&mut` stands for here, also where guests hold addresses that no borrow knows of.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is memory that belongs to its owner, in whatever thread that is.
unsafe impl Send for Region {}
// SAFETY: through a shared reference a region gives only its address and what is read of it.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `len` bytes, a multiple of [`PAGE`] and not zero. Nothing is allocated.
    ///
    /// # Errors
    /// What the operating system says: [`io::Errno::NOMEM`] when address space or mappings are used up.
    pub fn reserve(len: usize) -> io::Result<Self> {
        if len == 0 || !len.is_multiple_of(PAGE) {
            return Err(io::Errno::INVAL);
        }
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
        NonNull::new(base.cast()).map(|base| Self { base, len }).ok_or(io::Errno::NOMEM)
    }

    /// `len` bytes, a multiple of [`PAGE`] and not zero, that are zero and can be read and written.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub fn zeroed(len: usize) -> io::Result<Self> {
        if len == 0 || !len.is_multiple_of(PAGE) {
            return Err(io::Errno::INVAL);
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        NonNull::new(base.cast()).map(|base| Self { base, len }).ok_or(io::Errno::NOMEM)
    }

    /// Maps all of `file`, whose size is `size` bytes, to be read.
    pub(super) fn of_file(file: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let len = size.checked_next_multiple_of(PAGE).filter(|len| *len > 0).ok_or(io::Errno::INVAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }?;
        NonNull::new(base.cast()).map(|base| Self { base, len }).ok_or(io::Errno::NOMEM)
    }

    /// Looks at pages of a small file here and there, so that the kernel maps what is around them: most will be used, and one page fault for sixteen
    /// costs less than to have each of them looked up (`MAP_POPULATE`).
    ///
    /// # Safety
    /// All of the region is a file that is as long.
    pub(super) unsafe fn touch(&self) {
        if self.len <= SMALL {
            for at in (0..self.len).step_by(AROUND) {
                // SAFETY: within the region, whose pages are readable, as the caller promises.
                unsafe { self.base.as_ptr().wrapping_add(at).read_volatile() };
            }
        }
    }

    /// The address of its first byte.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes, which no region has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of a part, if it consists of whole pages of this region.
    fn part(&self, range: &Range<usize>) -> io::Result<*mut std::ffi::c_void> {
        let fits = range.start <= range.end && range.end <= self.len && range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
        fits.then(|| self.base.as_ptr().wrapping_add(range.start).cast()).ok_or(io::Errno::INVAL)
    }

    /// Changes what may be done with the pages in `range`, given in bytes. Their contents stay.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn protect(&mut self, range: Range<usize>, access: Access) -> io::Result<()> {
        let start = self.part(&range)?;
        let flags = match access {
            Access::None => MprotectFlags::empty(),
            Access::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: the part is within this region, which nobody else uses during the call.
        unsafe { mprotect(start, range.len(), flags) }
    }

    /// Makes text in `range` executable and no longer anything but that and readable.
    pub(super) fn make_executable(&mut self, range: Range<usize>) -> io::Result<()> {
        let start = self.part(&range)?;
        // SAFETY: the part is within this region, which nobody else uses during the call.
        unsafe { mprotect(start, range.len(), MprotectFlags::READ | MprotectFlags::EXEC) }
    }

    /// Puts pages of `file` from `offset` on into `range`, to be read and written; what is written stays here (copy on write).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn map_file(&mut self, range: Range<usize>, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        let start = self.part(&range)?;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the part is within this region, which nobody else uses during the call: what it replaces is not missed.
        unsafe { mmap(start, range.len(), ProtFlags::READ | ProtFlags::WRITE, flags, file, offset) }.map(drop)
    }

    /// Replaces whatever is in `range` by inaccessible pages.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn clear(&mut self, range: Range<usize>) -> io::Result<()> {
        let start = self.part(&range)?;
        if range.is_empty() {
            return Ok(());
        }
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the part is within this region, which nobody else uses during the call: what it replaces is not missed.
        unsafe { mmap_anonymous(start, range.len(), ProtFlags::empty(), flags) }.map(drop)
    }

    /// Forgets what was written in `range`: pages of files are as in the file again, others zero.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn discard(&mut self, range: Range<usize>) -> io::Result<()> {
        let start = self.part(&range)?;
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: the part is within this region, which nobody else uses during the call: what it forgets is not missed.
        unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) }
    }

    /// Gives up the pages in memory. They come back from the file when they are looked at.
    ///
    /// # Safety
    /// All of the region is a file that does not change, and was never written to.
    pub(super) unsafe fn forget(&self) -> io::Result<()> {
        // SAFETY: whoever reads meanwhile finds the same bytes, as the caller promises.
        unsafe { madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxDontNeed) }
    }

    /// The first `len` bytes, which must be readable.
    ///
    /// # Safety
    /// The pages are accessible, and nobody writes to them while the slice lives.
    pub(super) unsafe fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.len, "a region of {} bytes has no {len}", self.len);
        // SAFETY: within the region; the caller promises the rest. Whatever bytes there are, they are bytes.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), len) }
    }

    /// The first `len` bytes, which must be writable.
    ///
    /// # Safety
    /// The pages are accessible, and nobody else uses them while the slice lives.
    pub(super) unsafe fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.len, "a region of {} bytes has no {len}", self.len);
        // SAFETY: within the region; the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region belongs to this value, and nobody can have kept a borrow of it. An error leaves the address space used up.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
