//! Pages that were swapped out were written. Needs swap space, or the right to add some; without it these tests say so and do nothing.

use preheat_loader::map::{MappedFile, Method, PAGE, PoolLimits, Run, Scanner, SlotPool, Template};
use rustix::mm::{Advice, madvise};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::Arc;

/// Swap space in a file, until this is dropped. Empty where the machine has some anyway.
struct Swap {
    file: Option<tempfile::TempPath>,
}

impl Swap {
    fn new() -> Option<Self> {
        if std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1) {
            return Some(Self { file: None });
        }
        Self::add().inspect_err(|why| say(&format!("there is no swap space, and none can be added ({why})"))).ok()
    }

    fn add() -> Result<Self, String> {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
        // Swap space must not have holes.
        file.write_all(&vec![0; 8 << 20]).and_then(|()| file.as_file().sync_all()).map_err(|error| error.to_string())?;
        let file = file.into_temp_path();
        for tool in ["mkswap", "swapon"] {
            let output = Command::new(tool).arg(&*file).output().map_err(|error| format!("{tool}: {error}"))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
        }
        Ok(Self { file: Some(file) })
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = Command::new("swapoff").arg(&**file).status();
        }
    }
}

/// Not `eprintln!`, which the test harness swallows.
fn say(why: &str) {
    let _ = writeln!(std::io::stderr(), "not tested: {why}");
}

/// The kernel's word of which of `pages` pages from `base` on are swapped out.
fn swapped_out(base: usize, pages: usize) -> Vec<usize> {
    let mut entries = vec![0; 8 * pages];
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut entries, (base / PAGE * 8) as u64).unwrap();
    let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_ne_bytes(*entry));
    entries.enumerate().filter(|(_, entry)| entry & 1 << 62 != 0).map(|(page, _)| page).collect()
}

/// Has `pages` pages from `base` on swapped out; whether `written` ones were.
fn swap_out(base: usize, pages: usize, written: &[usize]) -> bool {
    for _ in 0..100 {
        // SAFETY: where a page is changes nothing of what is in it.
        unsafe { madvise(std::ptr::with_exposed_provenance_mut(base), pages * PAGE, Advice::LinuxPageOut) }.unwrap();
        if swapped_out(base, pages) == written {
            return true;
        }
    }
    false
}

#[test]
fn a_page_that_was_swapped_out_counts_as_written() {
    const PAGES: usize = 20;
    const WRITTEN: [usize; 4] = [0, 2, 3, 15];
    let Some(_swap) = Swap::new() else { return };
    let bytes: Vec<u8> = (1..=8).flat_map(|page| [page; PAGE]).collect();
    let file = Arc::new(MappedFile::of_bytes(&bytes).unwrap());
    let template = Arc::new(Template::new(PAGES * PAGE, vec![Run { at: PAGE, len: 8 * PAGE, file, offset: 0 }], 1).unwrap());
    let mut initial = vec![0; PAGES * PAGE];
    initial[PAGE..9 * PAGE].copy_from_slice(&bytes);

    for method in [Method::Scan, Method::Pagemap, Method::Remap] {
        for kept in [0, 2, 512] {
            let scanner = Arc::new(Scanner::new(Some(method)));
            let pool = SlotPool::new(64 * PAGE, PoolLimits { pages: kept, ..PoolLimits::default() }, scanner.clone());
            let mut slot = pool.take(&template).unwrap();
            let base = slot.base().as_ptr().expose_provenance();
            for page in WRITTEN {
                slot.bytes_mut()[page * PAGE + 100] = 0xee;
            }
            if !swap_out(base, PAGES, &WRITTEN) {
                return say(&format!("of the written pages {WRITTEN:?} only {:?} are swapped out", swapped_out(base, PAGES)));
            }
            if method != Method::Remap {
                let mut found = Vec::new();
                let count = scanner.written(base..base + PAGES * PAGE, PAGES, |run| found.extend(run.step_by(PAGE)));
                let found: Vec<_> = found.iter().map(|address| (address - base) / PAGE).collect();
                assert_eq!((count, &*found), (Some(WRITTEN.len()), &WRITTEN[..]), "{method:?}");
            }
            assert_eq!(swapped_out(base, PAGES), WRITTEN, "looking must not bring them back");
            pool.give(slot);
            let slot = pool.take(&template).unwrap();
            assert_eq!(slot.base().as_ptr().addr(), base);
            assert_eq!(slot.bytes(), initial, "{method:?}, {kept} pages kept");
        }
    }
}
