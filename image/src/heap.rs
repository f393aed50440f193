//! Heap snapshots: what a function's state was at one moment, in pages. Engine-neutral: memories, globals and tables of the Wasm module,
//! with functions by their index.
//!
//! A snapshot may be a layer over a base snapshot; it then holds only the pages that differ from the base's. Pages that are all zero in a
//! snapshot without base, or equal to the base's, are left out. Page contents are aligned to the page size in the file, so that a loader
//! can map them from there. `docs/image-format.md` gives the bytes.

use crate::{Digest, FormatError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a page in bytes, and alignment of page contents in the file.
pub const PAGE: usize = 4096;

const FORMAT: &str = "heap snapshot";
const MAGIC: [u8; 8] = *b"PREHHEAP";
const VERSION: u32 = 1;

/// The header: 160 bytes at offset 0.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    header_size: U32,
    source: [u8; 32],
    base: [u8; 32],
    file_size: U64,
    page_size: U32,
    memory_count: U32,
    run_count: U32,
    global_count: U32,
    table_count: U32,
    element_count: U32,
    pages_at: U64,
    reserved: [u8; 40],
}

/// A memory: its number in the module and its size.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Memory {
    /// Index in the module's memory index space.
    pub index: U32,
    /// Zero.
    pub reserved: U32,
    /// Size in bytes, a multiple of 65,536.
    pub size: U64,
}

/// Consecutive pages of one memory.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Run {
    /// Position in the list of memories.
    pub memory: U32,
    /// How many pages.
    pub pages: U32,
    /// Number of the first page in the memory.
    pub first: U64,
    /// Where its contents begin in the file, a multiple of [`PAGE`].
    pub offset: U64,
}

/// The value of a global.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Global {
    /// Index in the module's global index space.
    pub index: U32,
    /// 1 i32, 2 i64, 3 f32, 4 f64, 5 v128, 6 funcref (function index plus one, 0 for null).
    pub kind: U32,
    /// The value, little-endian, unused bytes zero.
    pub value: [u8; 16],
}

/// A table of functions: its number in the module and its part of the element list.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// Index in the module's table index space.
    pub index: U32,
    /// How many elements it has.
    pub len: U32,
}

/// A snapshot in the bytes it was read from, checked: every run lies within its memory and within the file, runs are in order and do
/// not overlap, the tables' lengths add up to the element list.
#[derive(Debug, Clone, Copy)]
pub struct HeapSnapshot<'a> {
    bytes: &'a [u8],
    source: Digest,
    base: Option<Digest>,
    memories: &'a [Memory],
    runs: &'a [Run],
    globals: &'a [Global],
    tables: &'a [Table],
    elements: &'a [U32],
}

fn damaged(what: String) -> FormatError {
    FormatError::Damaged { format: FORMAT, what }
}

fn list<'a, T: FromBytes + Immutable + KnownLayout>(bytes: &mut &'a [u8], count: U32, what: &str) -> Result<&'a [T], FormatError> {
    let (list, rest) = <[T]>::ref_from_prefix_with_elems(bytes, count.get() as usize)
        .map_err(|_| damaged(format!("{count} {what} do not fit into the file")))?;
    *bytes = rest;
    Ok(list)
}

impl<'a> HeapSnapshot<'a> {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// When the bytes are no snapshot of this version, or something in it is out of bounds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (header, mut rest) = Header::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated {
            format: FORMAT,
            need: size_of::<Header>() as u64,
            have: bytes.len() as u64,
        })?;
        if header.magic != MAGIC {
            return Err(FormatError::NotThisFormat { format: FORMAT, found: "other magic".into() });
        }
        if header.version.get() != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: header.version.get(), supported: VERSION });
        }
        if header.header_size.get() as usize != size_of::<Header>() || header.reserved != [0; 40] || header.page_size.get() as usize != PAGE
        {
            return Err(damaged("the header is not that of version 1".into()));
        }
        if header.file_size.get() != bytes.len() as u64 {
            return Err(FormatError::Truncated { format: FORMAT, need: header.file_size.get(), have: bytes.len() as u64 });
        }
        let memories: &[Memory] = list(&mut rest, header.memory_count, "memories")?;
        let runs: &[Run] = list(&mut rest, header.run_count, "page runs")?;
        let globals: &[Global] = list(&mut rest, header.global_count, "globals")?;
        let tables: &[Table] = list(&mut rest, header.table_count, "tables")?;
        let elements: &[U32] = list(&mut rest, header.element_count, "table elements")?;

        let tables_end = (bytes.len() - rest.len()) as u64;
        let pages_at = header.pages_at.get();
        if pages_at % PAGE as u64 != 0 || pages_at < tables_end {
            return Err(damaged(format!("page contents at {pages_at:#x}, in or before the tables or not aligned")));
        }
        for (index, memory) in memories.iter().enumerate() {
            if memory.reserved.get() != 0 || memory.size.get() % 65536 != 0 {
                return Err(damaged(format!("memory {index} has size {}", memory.size)));
            }
        }
        let mut previous = (0, 0);
        for (index, run) in runs.iter().enumerate() {
            let memory =
                memories.get(run.memory.get() as usize).ok_or_else(|| damaged(format!("run {index} is of memory {}", run.memory)))?;
            let pages = u64::from(run.pages.get());
            let place = (run.memory.get(), run.first.get());
            let end = run.first.get().checked_add(pages).filter(|end| *end <= memory.size.get() / PAGE as u64);
            let end = end.filter(|_| pages > 0).ok_or_else(|| damaged(format!("run {index} is not within its memory")))?;
            if place < previous {
                return Err(damaged(format!("run {index} is out of order or overlaps")));
            }
            previous = (place.0, end);
            let fits = |end: u64| end <= bytes.len() as u64;
            let offset = run.offset.get();
            if offset < pages_at || offset % PAGE as u64 != 0 || !offset.checked_add(pages * PAGE as u64).is_some_and(fits) {
                return Err(damaged(format!("the contents of run {index} at {offset:#x} are not within the file")));
            }
        }
        for (index, global) in globals.iter().enumerate() {
            if !(1..=6).contains(&global.kind.get()) {
                return Err(damaged(format!("global {index} is of unknown kind {}", global.kind)));
            }
        }
        let lengths: u64 = tables.iter().map(|table| u64::from(table.len.get())).sum();
        if lengths != elements.len() as u64 {
            return Err(damaged(format!("tables of {lengths} elements, but {} are there", elements.len())));
        }
        let base = (header.base != [0; 32]).then(|| Digest::from_bytes(header.base));
        Ok(Self { bytes, source: Digest::from_bytes(header.source), base, memories, runs, globals, tables, elements })
    }

    /// Digest of the Wasm module whose state this is.
    #[must_use]
    pub fn source(&self) -> Digest {
        self.source
    }

    /// The snapshot over which this one is a layer.
    #[must_use]
    pub fn base(&self) -> Option<Digest> {
        self.base
    }

    /// The memories.
    #[must_use]
    pub fn memories(&self) -> &'a [Memory] {
        self.memories
    }

    /// The page runs, ordered by memory and page.
    #[must_use]
    pub fn runs(&self) -> &'a [Run] {
        self.runs
    }

    /// The globals.
    #[must_use]
    pub fn globals(&self) -> &'a [Global] {
        self.globals
    }

    /// The tables, each with its elements: function index plus one, 0 for null.
    pub fn tables(&self) -> impl Iterator<Item = (&'a Table, &'a [U32])> {
        let mut rest = self.elements;
        self.tables.iter().map(move |table| {
            let (these, others) = rest.split_at(table.len.get() as usize);
            rest = others;
            (table, these)
        })
    }

    /// The contents of a run of this snapshot.
    #[must_use]
    pub fn contents(&self, run: &Run) -> &'a [u8] {
        let start = usize::try_from(run.offset.get()).unwrap_or(usize::MAX);
        self.bytes.get(start..).and_then(|rest| rest.get(..run.pages.get() as usize * PAGE)).unwrap_or_default()
    }

    /// Writes this snapshot's pages of the memory at `position` in the list over `target`, which holds the base's pages or zeros.
    /// Pages beyond the end of `target` are passed over.
    pub fn write_into(&self, position: u32, target: &mut [u8]) {
        for run in self.runs.iter().filter(|run| run.memory.get() == position) {
            let contents = self.contents(run);
            let start = usize::try_from(run.first.get()).ok().and_then(|first| first.checked_mul(PAGE));
            if let Some(target) = start.and_then(|start| target.get_mut(start..)) {
                let len = contents.len().min(target.len());
                target[..len].copy_from_slice(&contents[..len]);
            }
        }
    }
}

/// Gathers a state and writes it as a snapshot.
#[derive(Debug, Default)]
pub struct HeapBuilder<'a> {
    base: Option<Digest>,
    memories: Vec<(u32, &'a [u8], &'a [u8])>,
    globals: Vec<Global>,
    tables: Vec<(u32, &'a [u32])>,
}

impl<'a> HeapBuilder<'a> {
    /// A snapshot without base.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer over the snapshot `base`.
    #[must_use]
    pub fn over(base: Digest) -> Self {
        Self { base: Some(base), ..Self::default() }
    }

    /// Adds the memory of module index `index` with `contents`, of which `before` is what the base has (empty without base; pages that
    /// the base lacks count as zero).
    #[must_use]
    pub fn memory(mut self, index: u32, contents: &'a [u8], before: &'a [u8]) -> Self {
        self.memories.push((index, contents, before));
        self
    }

    /// Adds a global; see [`Global`] for `kind`.
    #[must_use]
    pub fn global(mut self, index: u32, kind: u32, value: [u8; 16]) -> Self {
        self.globals.push(Global { index: index.into(), kind: kind.into(), value });
        self
    }

    /// Adds a table: function indices plus one, 0 for null.
    #[must_use]
    pub fn table(mut self, index: u32, elements: &'a [u32]) -> Self {
        self.tables.push((index, elements));
        self
    }

    /// Writes the snapshot of the module `source`.
    ///
    /// # Errors
    /// When a memory is not a multiple of 65,536 bytes long, or something has more than 2^32 elements.
    pub fn encode(self, source: Digest) -> Result<Vec<u8>, FormatError> {
        let narrow = |value: usize| u32::try_from(value).map(U32::new).map_err(|_| damaged("more than 2^32 elements".into()));
        let mut memories = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut pages: Vec<&[u8]> = Vec::new();
        for (position, (index, contents, before)) in self.memories.iter().enumerate() {
            if contents.len() % 65536 != 0 {
                return Err(damaged(format!("memory {index} has {} bytes", contents.len())));
            }
            memories.push(Memory { index: (*index).into(), reserved: 0.into(), size: U64::new(contents.len() as u64) });
            let mut open: Option<Run> = None;
            for (number, page) in contents.chunks_exact(PAGE).enumerate() {
                let old = before.get(number * PAGE..(number + 1) * PAGE);
                let same = old.map_or_else(|| page.iter().all(|byte| *byte == 0), |old| old == page);
                if same {
                    runs.extend(open.take());
                    continue;
                }
                match &mut open {
                    Some(run) => run.pages += 1,
                    // The offset counts pages until it is known where they begin.
                    None => {
                        open = Some(Run {
                            memory: narrow(position)?,
                            pages: 1.into(),
                            first: U64::new(number as u64),
                            offset: U64::new(pages.len() as u64),
                        });
                    }
                }
                pages.push(page);
            }
            runs.extend(open);
        }
        let tables: Result<Vec<Table>, FormatError> =
            self.tables.iter().map(|(index, elements)| Ok(Table { index: (*index).into(), len: narrow(elements.len())? })).collect();
        let tables = tables?;
        let elements: Vec<U32> = self.tables.iter().flat_map(|(_, elements)| elements.iter().map(|element| U32::new(*element))).collect();
        let front = size_of::<Header>()
            + size_of_val(&*memories)
            + size_of_val(&*runs)
            + size_of_val(&*self.globals)
            + size_of_val(&*tables)
            + size_of_val(&*elements);
        let pages_at = front.next_multiple_of(PAGE);
        for run in &mut runs {
            run.offset = U64::new(run.offset.get() * PAGE as u64 + pages_at as u64);
        }
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            header_size: narrow(size_of::<Header>())?,
            source: *source.as_bytes(),
            base: *self.base.unwrap_or(Digest::ZERO).as_bytes(),
            file_size: U64::new((pages_at + pages.len() * PAGE) as u64),
            page_size: narrow(PAGE)?,
            memory_count: narrow(memories.len())?,
            run_count: narrow(runs.len())?,
            global_count: narrow(self.globals.len())?,
            table_count: narrow(tables.len())?,
            element_count: narrow(elements.len())?,
            pages_at: U64::new(pages_at as u64),
            reserved: [0; 40],
        };
        let mut bytes = Vec::with_capacity(pages_at + pages.len() * PAGE);
        for part in
            [header.as_bytes(), memories.as_bytes(), runs.as_bytes(), self.globals.as_bytes(), tables.as_bytes(), elements.as_bytes()]
        {
            bytes.extend_from_slice(part);
        }
        bytes.resize(pages_at, 0);
        for page in pages {
            bytes.extend_from_slice(page);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WASM_PAGE: usize = 65536;

    fn memory(pages: usize, written: &[(usize, u8)]) -> Vec<u8> {
        let mut memory = vec![0; pages * WASM_PAGE];
        for (at, value) in written {
            let len = memory.len();
            memory[at % len] = *value;
        }
        memory
    }

    #[test]
    fn zero_and_equal_pages_are_left_out() {
        let source = Digest::of(b"wasm");
        let old = memory(2, &[(0, 1), (4096, 2), (8192, 3), (100_000, 4)]);
        let base =
            HeapBuilder::new().memory(0, &old, &[]).global(1, 1, [9; 16]).table(0, &[0, 5, 7]).table(1, &[1]).encode(source).unwrap();
        let snapshot = HeapSnapshot::parse(&base).unwrap();
        assert_eq!(snapshot.runs().iter().map(|run| (run.first.get(), run.pages.get())).collect::<Vec<_>>(), [(0, 3), (24, 1)]);
        assert_eq!(snapshot.tables().map(|(_, elements)| elements.len()).collect::<Vec<_>>(), [3, 1]);
        assert_eq!((snapshot.source(), snapshot.base(), snapshot.globals().len()), (source, None, 1));

        let mut new = old.clone();
        new[4096] = 0;
        new.resize(3 * WASM_PAGE, 0);
        let layer = HeapBuilder::over(Digest::of(&base)).memory(0, &new, &old).encode(source).unwrap();
        let layer = HeapSnapshot::parse(&layer).unwrap();
        assert_eq!(layer.base(), Some(Digest::of(&base)));
        assert_eq!(layer.runs().iter().map(|run| (run.first.get(), run.pages.get())).collect::<Vec<_>>(), [(1, 1)]);
        let mut both = vec![0; 3 * WASM_PAGE];
        snapshot.write_into(0, &mut both);
        layer.write_into(0, &mut both);
        assert!(both == new);
    }

    #[test]
    fn names_what_is_wrong() {
        let bytes = HeapBuilder::new().memory(0, &memory(1, &[(5000, 1)]), &[]).encode(Digest::ZERO).unwrap();
        assert_eq!(size_of::<Header>(), 160);
        assert!(HeapSnapshot::parse(&bytes).is_ok());
        assert!(matches!(HeapSnapshot::parse(&bytes[..bytes.len() - 1]), Err(FormatError::Truncated { .. })));
        let error = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            HeapSnapshot::parse(&bytes).unwrap_err()
        };
        assert!(matches!(error(0, 0), FormatError::NotThisFormat { .. }));
        assert_eq!(error(8, 3), FormatError::Version { format: FORMAT, found: 3, supported: 1 });
        let run = 160 + 16;
        assert!(error(run, 1).to_string().contains("run 0 is of memory 1"));
        assert!(error(run + 8, 200).to_string().contains("not within its memory"));
        assert!(error(run + 17, 0x20).to_string().contains("not within the file"));
        assert!(error(run + 4, 0).to_string().contains("not within its memory"));
    }

    proptest! {
        #[test]
        fn base_and_layer_make_the_state(
            old in proptest::collection::vec((0usize..4 * WASM_PAGE, any::<u8>()), 0..40),
            new in proptest::collection::vec((0usize..4 * WASM_PAGE, any::<u8>()), 0..40),
            grown in 0usize..2,
        ) {
            let old = memory(2, &old);
            let new = memory(2 + grown, &new);
            let base = HeapBuilder::new().memory(0, &old, &[]).encode(Digest::ZERO).unwrap();
            let layer = HeapBuilder::over(Digest::of(&base)).memory(0, &new, &old).encode(Digest::ZERO).unwrap();
            let mut both = vec![0; new.len()];
            HeapSnapshot::parse(&base).unwrap().write_into(0, &mut both);
            HeapSnapshot::parse(&layer).unwrap().write_into(0, &mut both);
            prop_assert!(both == new);
        }

        #[test]
        fn damage_never_panics(flips in proptest::collection::vec((0usize..400, any::<u8>()), 1..6)) {
            let contents = memory(1, &[(5000, 1), (60000, 2)]);
            let mut bytes = HeapBuilder::new().memory(0, &contents, &[]).table(0, &[1, 2]).encode(Digest::ZERO).unwrap();
            for (at, value) in flips {
                bytes[at] = value;
            }
            if let Ok(snapshot) = HeapSnapshot::parse(&bytes) {
                let mut target = vec![0; WASM_PAGE];
                for position in 0..2 {
                    snapshot.write_into(position, &mut target);
                }
                prop_assert!(snapshot.tables().all(|(table, elements)| table.len.get() as usize == elements.len()));
            }
        }
    }
}
