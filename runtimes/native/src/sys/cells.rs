//! Memory that compiled code and the runtime share.
//!
//! Compiled code has its address and reads and writes it while it runs; the runtime does so in between. No Rust reference to it is ever
//! made, so that it does not matter what code does with it.

use preheat_image::abi::{ContextHeader, FuncRef, HostFunction, ImportedFunction, ImportedTable, MemoryRecord, TableRecord};
use preheat_loader::map::{PAGE, Region};
use rustix::io;
use rustix::mm::{MprotectFlags, mprotect};
use std::sync::Arc;

/// Types of which every pattern of bytes is a value, and all bytes of a value are initialised.
///
/// # Safety
/// Only for such types.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($ty:ty),*) => {$(
        // SAFETY: integers, and structs of integers without padding.
        unsafe impl Plain for $ty {}
    )*};
}
plain!(u8, u32, u64, u128, ContextHeader, MemoryRecord, TableRecord, ImportedTable, ImportedFunction, HostFunction, FuncRef);

/// A block of such memory, behind an interrupt page.
#[derive(Debug)]
pub(crate) struct Cells {
    region: Arc<Region>,
}

impl Cells {
    /// How many bytes a region for `len` bytes of cells has.
    pub(crate) fn region_size(len: usize) -> Option<usize> {
        len.max(1).checked_next_multiple_of(PAGE)?.checked_add(PAGE)
    }

    /// A new block of at least `len` bytes, all zero.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let size = Self::region_size(len).ok_or(io::Errno::NOMEM)?;
        Ok(Self { region: Arc::new(Region::zeroed(size)?) })
    }

    /// How many bytes its region has.
    pub(crate) fn size(&self) -> usize {
        self.region.len()
    }

    /// The address of the first byte. The page before it is the interrupt page.
    pub(crate) fn base(&self) -> u64 {
        self.region.base().as_ptr().expose_provenance() as u64 + PAGE as u64
    }

    /// The address of what is at `offset`.
    pub(crate) fn address(&self, offset: u32) -> u64 {
        self.base() + u64::from(offset)
    }

    /// The interrupt page.
    pub(crate) fn interrupt_page(&self) -> InterruptPage {
        InterruptPage(self.region.clone())
    }

    fn place<T>(&self, offset: u32, count: usize) -> *mut T {
        let end = count.checked_mul(size_of::<T>()).and_then(|size| size.checked_add(offset as usize + PAGE));
        assert!(
            end.is_some_and(|end| end <= self.region.len()) && (offset as usize).is_multiple_of(align_of::<T>()),
            "no cell at {offset}"
        );
        self.region.base().as_ptr().wrapping_add(PAGE + offset as usize).cast()
    }

    /// Reads what is at `offset`.
    ///
    /// # Panics
    /// When it is out of bounds or unaligned, which would be a mistake of this crate.
    pub(crate) fn get<T: Plain>(&self, offset: u32) -> T {
        let place = self.place::<T>(offset, 1);
        // SAFETY: within the region and aligned, as `place` checked; readable and initialised like all memory from the kernel; any bytes
        // are a `T`. Guests write to it only while they run, and then nothing of the runtime does, on the one thread that has the store.
        unsafe { place.read() }
    }

    /// Writes to what is at `offset`.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub(crate) fn set<T: Plain>(&mut self, offset: u32, value: T) {
        let place = self.place::<T>(offset, 1);
        // SAFETY: within the region and aligned, as `place` checked; writable; no reference to it exists.
        unsafe { place.write(value) }
    }

    /// Writes bytes at `offset`.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub(crate) fn copy(&mut self, offset: u32, bytes: &[u8]) {
        let place = self.place::<u8>(offset, bytes.len());
        // SAFETY: the target is within the region, as `place` checked, and no slice can be of it.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// All words of it.
    pub(crate) fn words(&self) -> impl Iterator<Item = u64> {
        let end = u32::try_from(self.region.len() - PAGE).unwrap_or(u32::MAX);
        (0..end / 8).map(|word| self.get(word * 8))
    }

    /// Makes the first `len` bytes zero.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub(crate) fn zero(&mut self, len: usize) {
        let place = self.place::<u8>(0, len);
        // SAFETY: within the region, as `place` checked; writable; no reference to it exists.
        unsafe { place.write_bytes(0, len) }
    }
}

/// The page at which code looks whether it shall stop.
#[derive(Debug)]
pub(crate) struct InterruptPage(Arc<Region>);

impl InterruptPage {
    /// Lets code run on, or stops it at its next look.
    pub(crate) fn set(&self, run: bool) -> io::Result<()> {
        let flags = if run { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::empty() };
        // SAFETY: the first page of a region that lives as long as this value; nothing has cells in it, so nobody but compiled code looks
        // at it, and for that the fault is a trap.
        unsafe { mprotect(self.0.base().as_ptr().cast(), PAGE, flags) }
    }
}
