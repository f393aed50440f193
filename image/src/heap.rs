//! Heap snapshots: what a function's state was at one moment. Engine-neutral: memories, globals and tables of the Wasm module, with
//! functions by their index; and for a frozen program its call stack, in Wasm terms.
//!
//! A snapshot may be a layer over a base snapshot; it then holds only the pages that differ from the base's. Pages that are all zero in a
//! snapshot without base, or equal to the base's, need not be there. Page contents are aligned to the page size in the file, so that a
//! loader can map them from there. `docs/image-format.md` gives the bytes.

mod build;
mod layers;

pub use build::{HeapBuilder, with_written};
pub use layers::{Piece, flatten};

use crate::abi::ValueType;
use crate::{Digest, FormatError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a page in bytes, and alignment of page contents in the file.
pub const PAGE: usize = 4096;

/// In place of a site: the frame is that of the imported function inside which the program was frozen.
pub const NO_SITE: u32 = u32::MAX;

const FORMAT: &str = "heap snapshot";
const MAGIC: [u8; 8] = *b"PREHHEAP";
const VERSION: u32 = 2;
const WASM_PAGE: u64 = 65536;

/// The header: 192 bytes at offset 0.
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
    range_count: U32,
    element_count: U32,
    data_segment_count: U32,
    element_segment_count: U32,
    frame_count: U32,
    value_count: U32,
    written_count: U32,
    pages_at: U64,
    host_size: U64,
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
    /// Where its contents begin in the file, a multiple of [`PAGE`]. 0 in a layer: the pages are zero, which the base's are not.
    pub offset: U64,
}

impl Run {
    /// Whether its pages are zero and have no contents in the file.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.offset.get() == 0
    }
}

/// The value of a global.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Global {
    /// Index in the module's global index space.
    pub index: U32,
    /// What it is worth.
    pub value: Value,
}

/// A value: of a global, a local or an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Value {
    /// Number of its [`ValueType`].
    pub kind: U32,
    /// Its bytes, little-endian, unused ones zero. A funcref is the function's index plus one in 4 bytes, 0 for null; other references are
    /// null, which is 0.
    pub bytes: [u8; 16],
}

impl Value {
    /// A value of type `ty`, of which the first bytes of `bytes` count as many as the type has.
    #[must_use]
    pub fn new(ty: ValueType, mut bytes: [u8; 16]) -> Self {
        bytes[width(ty)..].fill(0);
        Self { kind: u32::from(ty.number()).into(), bytes }
    }

    /// A funcref.
    #[must_use]
    pub fn function(index: Option<u32>) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&element(index).to_le_bytes());
        Self::new(ValueType::FuncRef, bytes)
    }

    /// Its type.
    #[must_use]
    pub fn ty(&self) -> Option<ValueType> {
        u8::try_from(self.kind.get()).ok().and_then(ValueType::from_number)
    }

    /// The function, if it is a funcref and not null.
    #[must_use]
    pub fn as_function(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.bytes;
        (self.ty()? == ValueType::FuncRef).then(|| function(u32::from_le_bytes([a, b, c, d])))?
    }

    /// Whether it is of a known type, and what is not of that type's width is zero.
    fn is_valid(&self) -> bool {
        self.ty().is_some_and(|ty| self.bytes[width(ty)..].iter().all(|byte| *byte == 0))
    }
}

/// How many bytes of a value count.
fn width(ty: ValueType) -> usize {
    match ty {
        ValueType::I32 | ValueType::F32 | ValueType::FuncRef => 4,
        ValueType::I64 | ValueType::F64 => 8,
        ValueType::V128 => 16,
        ValueType::ExternRef | ValueType::ExnRef => 0,
    }
}

/// The function that an element of a table stands for: none for null.
#[must_use]
pub fn function(element: u32) -> Option<u32> {
    element.checked_sub(1)
}

/// The element of a table that stands for a function, or for null. There is no function with the largest number of 32 bits.
#[must_use]
pub fn element(function: Option<u32>) -> u32 {
    function.map_or(0, |index| index.saturating_add(1))
}

/// A table: its number in the module and its size.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// Index in the module's table index space.
    pub index: U32,
    /// How many elements it has.
    pub len: U32,
    /// How many ranges it has in the list of ranges.
    pub ranges: U32,
}

/// Consecutive elements of a table.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// The first.
    pub first: U32,
    /// How many.
    pub count: U32,
}

/// An activation of a function that was going on.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Frame {
    /// Index of the function in the module.
    pub function: U32,
    /// Where in the module's bytes the call instruction is in which it waits; [`NO_SITE`] for the last frame.
    pub site: U32,
    /// How many values it has in the list of values.
    pub count: U32,
}

/// Consecutive pages of one memory that whoever goes on from this state writes soon.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Written {
    /// Position in the list of memories.
    pub memory: U32,
    /// How many pages.
    pub pages: U32,
    /// Number of the first page in the memory.
    pub first: U64,
}

/// A snapshot in the bytes it was read from, checked: every run lies within its memory and within the file, runs are in order and do
/// not overlap, ranges of elements lie within their tables, and lengths add up.
#[derive(Debug, Clone, Copy)]
pub struct HeapSnapshot<'a> {
    bytes: &'a [u8],
    source: Digest,
    base: Option<Digest>,
    memories: &'a [Memory],
    runs: &'a [Run],
    globals: &'a [Global],
    tables: &'a [Table],
    ranges: &'a [Range],
    elements: &'a [U32],
    dropped_data: &'a [u8],
    dropped_elements: &'a [u8],
    frames: &'a [Frame],
    values: &'a [Value],
    written: &'a [Written],
    host: &'a [u8],
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

/// Whether each index is larger than the one before.
fn ascending(indices: impl Iterator<Item = u32>) -> bool {
    let mut next = 0;
    indices.into_iter().all(|index| {
        let fits = u64::from(index) >= next;
        next = u64::from(index) + 1;
        fits
    })
}

impl<'a> HeapSnapshot<'a> {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// When the bytes are no snapshot of this version, or something in it is out of bounds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let prefix: Option<(&[u8; 8], &[u8; 4])> = bytes.split_first_chunk().and_then(|(magic, rest)| Some((magic, rest.first_chunk()?)));
        let truncated = |need: u64| FormatError::Truncated { format: FORMAT, need, have: bytes.len() as u64 };
        let (magic, version) = prefix.ok_or_else(|| truncated(size_of::<Header>() as u64))?;
        if *magic != MAGIC {
            return Err(FormatError::NotThisFormat { format: FORMAT, found: "other magic".into() });
        }
        if u32::from_le_bytes(*version) != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: u32::from_le_bytes(*version), supported: VERSION });
        }
        let (header, mut rest) = Header::ref_from_prefix(bytes).map_err(|_| truncated(size_of::<Header>() as u64))?;
        let reserved = header.reserved != [0; 40];
        if header.header_size.get() as usize != size_of::<Header>() || reserved || header.page_size.get() as usize != PAGE {
            return Err(damaged("the header is not that of version 2".into()));
        }
        if header.file_size.get() != bytes.len() as u64 {
            return Err(truncated(header.file_size.get()));
        }
        let snapshot = Self {
            bytes,
            source: Digest::from_bytes(header.source),
            base: (header.base != [0; 32]).then(|| Digest::from_bytes(header.base)),
            memories: list(&mut rest, header.memory_count, "memories")?,
            runs: list(&mut rest, header.run_count, "page runs")?,
            globals: list(&mut rest, header.global_count, "globals")?,
            tables: list(&mut rest, header.table_count, "tables")?,
            ranges: list(&mut rest, header.range_count, "ranges of elements")?,
            elements: list(&mut rest, header.element_count, "table elements")?,
            frames: list(&mut rest, header.frame_count, "frames")?,
            values: list(&mut rest, header.value_count, "values of frames")?,
            written: list(&mut rest, header.written_count, "runs of pages that will be written")?,
            dropped_data: list(&mut rest, header.data_segment_count, "data segments")?,
            dropped_elements: list(&mut rest, header.element_segment_count, "element segments")?,
            host: &[],
        };
        let host = usize::try_from(header.host_size.get()).ok().and_then(|size| rest.split_at_checked(size));
        let (host, rest) = host.ok_or_else(|| damaged(format!("{} bytes of the host do not fit into the file", header.host_size)))?;
        let snapshot = Self { host, ..snapshot };
        let lists_end = (bytes.len() - rest.len()) as u64;
        let pages_at = header.pages_at.get();
        if pages_at % PAGE as u64 != 0 || pages_at < lists_end {
            return Err(damaged(format!("page contents at {pages_at:#x}, in or before the lists or not aligned")));
        }
        snapshot.check_pages(pages_at)?;
        snapshot.check_state()?;
        snapshot.check_frames()?;
        Ok(snapshot)
    }

    fn check_pages(&self, pages_at: u64) -> Result<(), FormatError> {
        if !ascending(self.memories.iter().map(|memory| memory.index.get())) {
            return Err(damaged("the memories are out of order".into()));
        }
        for (index, memory) in self.memories.iter().enumerate() {
            if memory.reserved.get() != 0 || memory.size.get() % WASM_PAGE != 0 {
                return Err(damaged(format!("memory {index} has size {}", memory.size)));
            }
        }
        let mut previous = (0, 0);
        for (index, run) in self.runs.iter().enumerate() {
            let memory =
                self.memories.get(run.memory.get() as usize).ok_or_else(|| damaged(format!("run {index} is of memory {}", run.memory)))?;
            let pages = u64::from(run.pages.get());
            let place = (run.memory.get(), run.first.get());
            let end = run.first.get().checked_add(pages).filter(|end| *end <= memory.size.get() / PAGE as u64);
            let end = end.filter(|_| pages > 0).ok_or_else(|| damaged(format!("run {index} is not within its memory")))?;
            if place < previous {
                return Err(damaged(format!("run {index} is out of order or overlaps")));
            }
            previous = (place.0, end);
            if run.is_zero() && self.base.is_some() {
                continue;
            }
            let fits = |end: u64| end <= self.bytes.len() as u64;
            let offset = run.offset.get();
            if offset < pages_at || offset % PAGE as u64 != 0 || !offset.checked_add(pages * PAGE as u64).is_some_and(fits) {
                return Err(damaged(format!("the contents of run {index} at {offset:#x} are not within the file")));
            }
        }
        let mut previous = (0, 0);
        for written in self.written {
            let memory = self.memories.get(written.memory.get() as usize);
            let end = written.first.get().checked_add(u64::from(written.pages.get()));
            let end = end.filter(|end| memory.is_some_and(|memory| *end <= memory.size.get() / PAGE as u64));
            match end {
                Some(end) if (written.memory.get(), written.first.get()) >= previous => previous = (written.memory.get(), end),
                _ => return Err(damaged("a run of pages that will be written is out of order or bounds".into())),
            }
        }
        Ok(())
    }

    fn check_state(&self) -> Result<(), FormatError> {
        if !ascending(self.globals.iter().map(|global| global.index.get())) || !ascending(self.tables.iter().map(|table| table.index.get()))
        {
            return Err(damaged("the globals or tables are out of order".into()));
        }
        if let Some(global) = self.globals.iter().find(|global| !global.value.is_valid()) {
            return Err(damaged(format!("global {} has no value of a known type", global.index)));
        }
        let mut ranges = self.ranges.iter();
        let mut elements = 0;
        for table in self.tables {
            let mut end = 0;
            for _ in 0..table.ranges.get() {
                let range = ranges.next().ok_or_else(|| damaged("tables have more ranges than are there".into()))?;
                let (first, count) = (u64::from(range.first.get()), u64::from(range.count.get()));
                if first < end || first + count > u64::from(table.len.get()) {
                    return Err(damaged(format!("a range of table {} is out of order or bounds", table.index)));
                }
                end = first + count;
                elements += count;
            }
        }
        if ranges.next().is_some() || elements != self.elements.len() as u64 {
            return Err(damaged(format!("ranges of {elements} elements, but {} elements are there, or more ranges", self.elements.len())));
        }
        // Some modules have tens of thousands: all of them together rather than one after the other.
        let all = |flags: &[u8]| flags.iter().fold(0, |all, flag| all | flag);
        if all(self.dropped_data) | all(self.dropped_elements) > 1 {
            return Err(damaged("a segment is neither dropped nor not".into()));
        }
        Ok(())
    }

    fn check_frames(&self) -> Result<(), FormatError> {
        let values: u64 = self.frames.iter().map(|frame| u64::from(frame.count.get())).sum();
        if values != self.values.len() as u64 {
            return Err(damaged(format!("frames of {values} values, but {} are there", self.values.len())));
        }
        if let Some((last, outer)) = self.frames.split_last()
            && (last.site.get() != NO_SITE || outer.is_empty() || outer.iter().any(|frame| frame.site.get() == NO_SITE))
        {
            return Err(damaged("the call stack is not one of functions that wait for an imported one".into()));
        }
        if self.values.iter().any(|value| !value.is_valid()) {
            return Err(damaged("a frame has a value of no known type".into()));
        }
        Ok(())
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

    /// The memories, ordered by index.
    #[must_use]
    pub fn memories(&self) -> &'a [Memory] {
        self.memories
    }

    /// The page runs, ordered by memory and page.
    #[must_use]
    pub fn runs(&self) -> &'a [Run] {
        self.runs
    }

    /// The globals, ordered by index.
    #[must_use]
    pub fn globals(&self) -> &'a [Global] {
        self.globals
    }

    /// The tables, ordered by index, each with the elements that are not as they were when the module had been instantiated: the first
    /// one's number, and function indices plus one, 0 for null.
    pub fn tables(&self) -> impl Iterator<Item = (&'a Table, Vec<(u32, &'a [U32])>)> {
        let (mut ranges, mut elements) = (self.ranges, self.elements);
        self.tables.iter().map(move |table| {
            // The counts were checked to add up.
            let (these, others) = ranges.split_at_checked(table.ranges.get() as usize).unwrap_or_default();
            ranges = others;
            let of_range = |range: &Range| {
                let (of_range, others) = elements.split_at_checked(range.count.get() as usize).unwrap_or_default();
                elements = others;
                (range.first.get(), of_range)
            };
            (table, these.iter().map(of_range).collect())
        })
    }

    /// For each data segment of the module, 1 if it was dropped.
    #[must_use]
    pub fn dropped_data(&self) -> &'a [u8] {
        self.dropped_data
    }

    /// For each element segment of the module, 1 if it was dropped.
    #[must_use]
    pub fn dropped_elements(&self) -> &'a [u8] {
        self.dropped_elements
    }

    /// The call stack, outermost function first, each frame with its values. The last is that of the imported function inside which the
    /// program was frozen; its values are the parameters. Empty for a state in which no function was running.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = (&'a Frame, &'a [Value])> {
        let mut values = self.values;
        self.frames.iter().map(move |frame| {
            // The counts were checked to add up.
            let (these, others) = values.split_at_checked(frame.count.get() as usize).unwrap_or_default();
            values = others;
            (frame, these)
        })
    }

    /// The pages that whoever goes on from this state writes soon, as was seen when it was made; ordered by memory and page. They are a hint.
    #[must_use]
    pub fn written(&self) -> &'a [Written] {
        self.written
    }

    /// What the host noted of its own state, in its own format.
    #[must_use]
    pub fn host(&self) -> &'a [u8] {
        self.host
    }

    /// The contents of a run of this snapshot; empty for one of zeros.
    #[must_use]
    pub fn contents(&self, run: &Run) -> &'a [u8] {
        if run.is_zero() {
            return &[];
        }
        let start = usize::try_from(run.offset.get()).unwrap_or(usize::MAX);
        self.bytes.get(start..).and_then(|rest| rest.get(..run.pages.get() as usize * PAGE)).unwrap_or_default()
    }

    /// Writes this snapshot's pages of the memory at `position` in the list over `target`, which holds the base's pages or zeros.
    /// Pages beyond the end of `target` are passed over.
    pub fn write_into(&self, position: u32, target: &mut [u8]) {
        for run in self.runs.iter().filter(|run| run.memory.get() == position) {
            let start = usize::try_from(run.first.get()).ok().and_then(|first| first.checked_mul(PAGE));
            let Some(target) = start.and_then(|start| target.get_mut(start..)) else { continue };
            let len = (run.pages.get() as usize).saturating_mul(PAGE).min(target.len());
            match self.contents(run).get(..len) {
                Some(contents) => target[..len].copy_from_slice(contents),
                None => target[..len].fill(0),
            }
        }
    }
}
