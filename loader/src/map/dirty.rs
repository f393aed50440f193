//! Finding the pages that were written.
//!
//! In a private mapping a page that was written is anonymous memory, and one that was not is a page of the file or none at all. So the
//! page tables themselves say what was written, whoever wrote it, guest or kernel, without anything being recorded. A page that
//! was swapped out was written too.

#![allow(unsafe_code)]

use super::region::PAGE;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How written pages are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The kernel's `PAGEMAP_SCAN` (Linux 6.7).
    Scan,
    /// Reading `/proc/self/pagemap`, 8 bytes a page, where pages are likely to have been written (older kernels).
    Pagemap,
    /// Not at all: everything is mapped anew (no `/proc`).
    Remap,
}

impl Method {
    /// The one that `PREHEAT_WRITTEN_PAGES` names (`scan`, `pagemap` or `remap`), if it does.
    fn from_environment() -> Option<Self> {
        match std::env::var("PREHEAT_WRITTEN_PAGES").ok()?.as_str() {
            "scan" => Some(Self::Scan),
            "pagemap" => Some(Self::Pagemap),
            "remap" => Some(Self::Remap),
            _ => None,
        }
    }
}

/// Finds the pages of this process that were written.
#[derive(Debug)]
pub struct Scanner {
    // Found when it is first needed: a process that runs one function may never look.
    method: OnceLock<Method>,
    // The file shows the memory of the process that opened it, also to its children.
    pagemap: Mutex<Option<(u32, Arc<File>)>>,
}

impl Scanner {
    /// With `method`, or else with what `PREHEAT_WRITTEN_PAGES` says, or else with the best that this kernel has.
    #[must_use]
    pub fn new(method: Option<Method>) -> Self {
        Self { method: method.map_or_else(OnceLock::new, OnceLock::from), pagemap: Mutex::new(None) }
    }

    /// How it finds them.
    #[must_use]
    pub fn method(&self) -> Method {
        *self.method.get_or_init(|| {
            Method::from_environment().unwrap_or_else(|| {
                let probe = [0u8; PAGE];
                let start = probe.as_ptr().addr() / PAGE * PAGE;
                match self.pagemap() {
                    Ok(file) if scan(&file, start..start + PAGE, 1, &mut |_| ()).is_ok() => Method::Scan,
                    Ok(_) => Method::Pagemap,
                    Err(_) => Method::Remap,
                }
            })
        })
    }

    fn pagemap(&self) -> io::Result<Arc<File>> {
        let process = std::process::id();
        let mut pagemap = self.pagemap.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pagemap {
            Some((opened_by, file)) if *opened_by == process => Ok(file.clone()),
            _ => {
                let file = Arc::new(File::open("/proc/self/pagemap")?);
                *pagemap = Some((process, file.clone()));
                Ok(file)
            }
        }
    }

    /// Calls `found` for each run of written pages in `range`, addresses of whole pages, in ascending order. Pages that read as zero and
    /// were never written may be among them. `None` when there are more than `most` pages, or they can't be found: then `found`
    /// was called for some of them only.
    pub fn written(&self, range: Range<usize>, most: usize, mut found: impl FnMut(Range<usize>)) -> Option<usize> {
        let mut pages = 0;
        let mut found = |run: Range<usize>| {
            pages += run.len() / PAGE;
            found(run);
        };
        // One more than are wanted tells that there are more.
        match self.method() {
            _ if range.is_empty() => {}
            Method::Scan => scan(&*self.pagemap().ok()?, range, most + 1, &mut found).ok()?,
            Method::Pagemap => read_pagemap(&*self.pagemap().ok()?, range, most + 1, &mut found).ok()?,
            Method::Remap => return None,
        }
        (pages <= most).then_some(pages)
    }
}

/// `struct pm_scan_arg` of the kernel's `linux/fs.h`.
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of the kernel's `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// The request `PAGEMAP_SCAN`, which writes up to `regions.len()` regions and how far it came.
struct ScanRequest<'a> {
    argument: &'a mut ScanArgument,
    regions: &'a mut [PageRegion],
}

// SAFETY: the request's number goes with the argument's layout, which is the kernel's; the kernel writes the argument and as many regions
// as `vec_len` says, which `as_ptr` takes from the slice that it may write to.
unsafe impl Ioctl for ScanRequest<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<ScanArgument>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.argument.vec = self.regions.as_mut_ptr().expose_provenance() as u64;
        self.argument.vec_len = self.regions.len() as u64;
        std::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<usize> {
        usize::try_from(out).map_err(|_| rustix::io::Errno::INVAL)
    }
}

fn scan(pagemap: &File, range: Range<usize>, most: usize, found: &mut impl FnMut(Range<usize>)) -> io::Result<()> {
    let mut regions = [PageRegion::default(); 96];
    let (mut start, end) = (range.start as u64, range.end as u64);
    let mut left = most as u64;
    while start < end && left > 0 {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: 0,
            vec_len: 0,
            max_pages: left,
            // In memory or swapped out, and neither of a file nor the page of zeros.
            category_inverted: PAGE_IS_FILE | PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_FILE | PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
        };
        // SAFETY: the kernel writes to the argument and the regions only, as the request says.
        let count = unsafe { ioctl(pagemap, ScanRequest { argument: &mut argument, regions: &mut regions }) }?;
        for region in regions.get(..count).unwrap_or(&regions) {
            let run = usize::try_from(region.start).unwrap_or(usize::MAX)..usize::try_from(region.end).unwrap_or(usize::MAX);
            left = left.saturating_sub((run.len() / PAGE) as u64);
            found(run);
        }
        if argument.walk_end <= start {
            return Err(io::ErrorKind::InvalidData.into());
        }
        start = argument.walk_end;
    }
    Ok(())
}

const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;

/// Whether the page of an entry of the pagemap was written.
fn was_written(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
}

fn read_pagemap(pagemap: &File, range: Range<usize>, most: usize, found: &mut impl FnMut(Range<usize>)) -> io::Result<()> {
    let mut entries = [0u8; 16384];
    let mut address = range.start;
    let mut run: Option<Range<usize>> = None;
    let mut left = most;
    while address < range.end && left > 0 {
        let len = entries.len().min((range.end - address) / PAGE * 8);
        let part = &mut entries[..len];
        pagemap.read_exact_at(part, (address / PAGE * 8) as u64)?;
        for entry in part.as_chunks::<8>().0 {
            let entry = u64::from_ne_bytes(*entry);
            let written = was_written(entry);
            match &mut run {
                Some(run) if written => run.end = address + PAGE,
                None if written => run = Some(address..address + PAGE),
                _ => {
                    if let Some(run) = run.take() {
                        found(run);
                    }
                }
            }
            left = left.saturating_sub(usize::from(written));
            address += PAGE;
        }
    }
    if let Some(run) = run {
        found(run);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::region::{Access, Region};
    use super::*;

    #[test]
    fn every_method_finds_what_was_written_and_no_more() {
        let mut region = Region::reserve(64 * PAGE).unwrap();
        region.protect(0..64 * PAGE, Access::ReadWrite).unwrap();
        let base = region.base().as_ptr().addr();
        // SAFETY: the pages are accessible and nobody else knows of them.
        let bytes = unsafe { region.bytes_mut(64 * PAGE) };
        for page in [3, 4, 9, 63] {
            bytes[page * PAGE + 17] = 1;
        }
        for method in [Method::Scan, Method::Pagemap] {
            let scanner = Scanner::new(Some(method));
            let mut runs = Vec::new();
            let written = scanner.written(base..base + 64 * PAGE, 10, |run| runs.push((run.start - base) / PAGE..(run.end - base) / PAGE));
            assert_eq!((written, &*runs), (Some(4), &[3..5, 9..10, 63..64][..]), "{method:?}");
            assert_eq!(scanner.written(base..base + 64 * PAGE, 3, |_| ()), None, "{method:?}");
            assert_eq!(scanner.written(base + 10 * PAGE..base + 63 * PAGE, 3, |_| ()), Some(0), "{method:?}");
        }
        assert_eq!(Scanner::new(Some(Method::Remap)).written(base..base + PAGE, 3, |_| ()), None);
    }

    #[test]
    fn entries_of_the_pagemap_say_what_was_written() {
        // Whatever the other bits are: frame or place in the swap space, soft-dirty, exclusive.
        for rest in [0, 0x5b, 1 << 55, 1 << 56 | 0x7f_ffff_ffff_ffff] {
            assert!(was_written(PRESENT | rest) && was_written(SWAPPED | rest));
            assert!(!was_written(PRESENT | OF_FILE | rest) && !was_written(SWAPPED | OF_FILE | rest));
            assert!(!was_written(rest) && !was_written(OF_FILE | rest));
        }
    }

    #[test]
    fn more_runs_than_one_request_returns_are_all_found() {
        let mut region = Region::reserve(1024 * PAGE).unwrap();
        region.protect(0..1024 * PAGE, Access::ReadWrite).unwrap();
        let base = region.base().as_ptr().addr();
        // SAFETY: the pages are accessible and nobody else knows of them.
        let bytes = unsafe { region.bytes_mut(1024 * PAGE) };
        (0..1024).step_by(2).for_each(|page| bytes[page * PAGE] = 1);
        for method in [Method::Scan, Method::Pagemap] {
            let mut runs = 0;
            let written = Scanner::new(Some(method)).written(base..base + 1024 * PAGE, 2000, |run| {
                assert!(run.len() == PAGE && ((run.start - base) / PAGE).is_multiple_of(2));
                runs += 1;
            });
            assert_eq!((written, runs), (Some(512), 512), "{method:?}");
        }
    }
}
