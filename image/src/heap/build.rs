//! Writing a snapshot.

use super::{
    Frame, Global, Header, HeapSnapshot, MAGIC, Memory, NO_SITE, PAGE, Piece, Range, Run, Table, VERSION, Value, WASM_PAGE, Written,
    damaged, flatten,
};
use crate::{Digest, FormatError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes as _, IntoBytes};

/// Most zero pages between two runs of a snapshot without base that are written nevertheless: one mapping more costs more than they do.
const GAP: usize = 4;

/// Gathers a state and writes it as a snapshot. The same state gives the same bytes.
#[derive(Debug, Default)]
pub struct HeapBuilder<'a> {
    base: Option<Digest>,
    below: Vec<HeapSnapshot<'a>>,
    memories: Vec<(u32, &'a [u8])>,
    globals: Vec<Global>,
    tables: Vec<Table>,
    ranges: Vec<Range>,
    elements: Vec<U32>,
    dropped_data: Vec<u8>,
    dropped_elements: Vec<u8>,
    frames: Vec<Frame>,
    values: Vec<Value>,
    written: Vec<(u32, u64, u32)>,
    host: Vec<u8>,
}

/// The same snapshot, which says that whoever goes on from it writes these pages: index of a memory, first page, and how many. Ascending, in
/// place of what it said before. Pages behind the end of their memory are left out: it has grown when they are written.
///
/// # Errors
/// When the bytes are no snapshot, or the pages are not ascending or of no memory.
pub fn with_written(snapshot: &[u8], written: &[(u32, u64, u32)]) -> Result<Vec<u8>, FormatError> {
    let parsed = HeapSnapshot::parse(snapshot)?;
    let narrow = |value: usize| u32::try_from(value).map(U32::new).map_err(|_| damaged("more than 2^32 elements".into()));
    let records = written.iter().map(|(memory, first, pages)| {
        let position = parsed.memories.iter().position(|known| known.index.get() == *memory);
        let position = position.ok_or_else(|| damaged(format!("there is no memory {memory} to be written")))?;
        let there = (parsed.memories[position].size.get() / PAGE as u64).saturating_sub(*first);
        let pages = u32::try_from(there).unwrap_or(u32::MAX).min(*pages);
        Ok(Written { memory: narrow(position)?, pages: pages.into(), first: U64::new(*first) })
    });
    // What is left of a run behind the end has no pages.
    let records = records.filter(|record| record.as_ref().map_or(true, |written| written.pages.get() > 0));
    let records = records.collect::<Result<Vec<Written>, FormatError>>()?;
    let (header, _) = Header::ref_from_prefix(snapshot).map_err(|_| damaged("it has no header".into()))?;
    let pages_at = header.pages_at.get();
    let pages = usize::try_from(pages_at).ok().and_then(|at| snapshot.get(at..));
    let pages = pages.ok_or_else(|| damaged("the page contents are not within the file".into()))?;
    let mut runs = parsed.runs.to_vec();
    for run in runs.iter_mut().filter(|run| !(run.is_zero() && parsed.base.is_some())) {
        run.offset = U64::new(run.offset.get() - pages_at + PAGE as u64);
    }
    HeapSnapshot { written: &records, ..parsed }.write(&runs, &[pages])
}

impl HeapSnapshot<'_> {
    /// A snapshot of these lists, but with `runs`, whose offsets count from a page before the contents, so that 0 still stands for zero
    /// pages; and with these contents.
    fn write(&self, runs: &[Run], contents: &[&[u8]]) -> Result<Vec<u8>, FormatError> {
        let narrow = |value: usize| u32::try_from(value).map(U32::new).map_err(|_| damaged("more than 2^32 elements".into()));
        let front = |runs: &[Run]| -> Vec<u8> {
            let lists: [&[u8]; 12] = [
                self.memories.as_bytes(),
                runs.as_bytes(),
                self.globals.as_bytes(),
                self.tables.as_bytes(),
                self.ranges.as_bytes(),
                self.elements.as_bytes(),
                self.frames.as_bytes(),
                self.values.as_bytes(),
                self.written.as_bytes(),
                self.dropped_data,
                self.dropped_elements,
                self.host,
            ];
            lists.concat()
        };
        let pages_at = (size_of::<Header>() + front(runs).len()).next_multiple_of(PAGE);
        let mut placed = runs.to_vec();
        for run in placed.iter_mut().filter(|run| !run.is_zero()) {
            run.offset = U64::new(run.offset.get() - PAGE as u64 + pages_at as u64);
        }
        let size = pages_at + contents.iter().map(|part| part.len()).sum::<usize>();
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            header_size: narrow(size_of::<Header>())?,
            source: *self.source.as_bytes(),
            base: *self.base.unwrap_or(Digest::ZERO).as_bytes(),
            file_size: U64::new(size as u64),
            page_size: narrow(PAGE)?,
            memory_count: narrow(self.memories.len())?,
            run_count: narrow(runs.len())?,
            global_count: narrow(self.globals.len())?,
            table_count: narrow(self.tables.len())?,
            range_count: narrow(self.ranges.len())?,
            element_count: narrow(self.elements.len())?,
            data_segment_count: narrow(self.dropped_data.len())?,
            element_segment_count: narrow(self.dropped_elements.len())?,
            frame_count: narrow(self.frames.len())?,
            value_count: narrow(self.values.len())?,
            written_count: narrow(self.written.len())?,
            pages_at: U64::new(pages_at as u64),
            host_size: U64::new(self.host.len() as u64),
            reserved: [0; 40],
        };
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&front(&placed));
        bytes.resize(pages_at, 0);
        contents.iter().for_each(|part| bytes.extend_from_slice(part));
        // What is out of order is found here, not by whoever reads it.
        HeapSnapshot::parse(&bytes)?;
        Ok(bytes)
    }
}

/// A run in the making, and whether its pages are written.
struct Open {
    first: usize,
    pages: usize,
    zero: bool,
}

impl<'a> HeapBuilder<'a> {
    /// A snapshot without base.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer over the snapshot with the digest `base`, which is the last of `layers`; each of them is over the one before.
    #[must_use]
    pub fn over(base: Digest, layers: &[HeapSnapshot<'a>]) -> Self {
        Self { base: Some(base), below: layers.to_vec(), ..Self::default() }
    }

    /// Adds the memory of module index `index`. Memories, globals and tables are added in the order of their indices.
    #[must_use]
    pub fn memory(mut self, index: u32, contents: &'a [u8]) -> Self {
        self.memories.push((index, contents));
        self
    }

    /// Adds a global.
    #[must_use]
    pub fn global(mut self, index: u32, value: Value) -> Self {
        self.globals.push(Global { index: index.into(), value });
        self
    }

    /// Adds a table of `len` elements, of which `ranges` (each its first element's number, and function indices plus one, 0 for null) are
    /// not as they were when the module had been instantiated. Ranges are ascending.
    #[must_use]
    pub fn table<E: AsRef<[u32]>>(mut self, index: u32, len: u32, ranges: impl IntoIterator<Item = (u32, E)>) -> Self {
        let before = self.ranges.len();
        for (first, elements) in ranges {
            let elements = elements.as_ref();
            // More than 2^32 would not fit into the table, which `encode` finds.
            let count = u32::try_from(elements.len()).unwrap_or(u32::MAX);
            self.ranges.push(Range { first: first.into(), count: count.into() });
            self.elements.extend(elements.iter().copied().map(U32::new));
        }
        let ranges = u32::try_from(self.ranges.len() - before).unwrap_or(u32::MAX);
        self.tables.push(Table { index: index.into(), len: len.into(), ranges: ranges.into() });
        self
    }

    /// Says of each data segment and of each element segment of the module whether it was dropped.
    #[must_use]
    pub fn dropped(mut self, data: &[bool], elements: &[bool]) -> Self {
        self.dropped_data = data.iter().copied().map(u8::from).collect();
        self.dropped_elements = elements.iter().copied().map(u8::from).collect();
        self
    }

    /// Adds a frame to the call stack, which begins with the outermost function. The last one has no site.
    #[must_use]
    pub fn frame(mut self, function: u32, site: Option<u32>, values: &[Value]) -> Self {
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        self.frames.push(Frame { function: function.into(), site: site.unwrap_or(NO_SITE).into(), count: count.into() });
        self.values.extend_from_slice(values);
        self
    }

    /// Says that whoever goes on from this state writes `pages` pages from page `first` on, of the memory with index `memory`. Ascending.
    #[must_use]
    pub fn written(mut self, memory: u32, first: u64, pages: u32) -> Self {
        self.written.push((memory, first, pages));
        self
    }

    /// Adds what the host notes of its own state, in its own format.
    #[must_use]
    pub fn host(mut self, bytes: &[u8]) -> Self {
        self.host = bytes.to_vec();
        self
    }

    /// Writes the snapshot of the module `source`.
    ///
    /// # Errors
    /// When a memory is not a multiple of 65,536 bytes long, something is not in its order, or has more than 2^32 elements.
    pub fn encode(self, source: Digest) -> Result<Vec<u8>, FormatError> {
        let narrow = |value: usize| u32::try_from(value).map(U32::new).map_err(|_| damaged("more than 2^32 elements".into()));
        let mut memories = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut pages: Vec<&[u8]> = Vec::new();
        for (position, (index, contents)) in self.memories.iter().enumerate() {
            if !(contents.len() as u64).is_multiple_of(WASM_PAGE) {
                return Err(damaged(format!("memory {index} has {} bytes", contents.len())));
            }
            memories.push(Memory { index: (*index).into(), reserved: 0.into(), size: U64::new(contents.len() as u64) });
            for open in self.runs(*index, contents) {
                let bytes = &contents[open.first * PAGE..][..open.pages * PAGE];
                let offset = if open.zero { 0 } else { (pages.len() as u64 + 1) * PAGE as u64 };
                pages.extend(bytes.chunks_exact(PAGE).filter(|_| !open.zero));
                let (memory, count) = (narrow(position)?, narrow(open.pages)?);
                runs.push(Run { memory, pages: count, first: U64::new(open.first as u64), offset: U64::new(offset) });
            }
        }
        let position = |index: u32| self.memories.iter().position(|(memory, _)| *memory == index);
        let written = self.written.iter().map(|(memory, first, pages)| {
            let position = position(*memory).ok_or_else(|| damaged(format!("there is no memory {memory} to be written")))?;
            Ok(Written { memory: narrow(position)?, pages: (*pages).into(), first: U64::new(*first) })
        });
        let written = written.collect::<Result<Vec<Written>, FormatError>>()?;
        let snapshot = HeapSnapshot {
            bytes: &[],
            source,
            base: self.base,
            memories: &memories,
            runs: &[],
            globals: &self.globals,
            tables: &self.tables,
            ranges: &self.ranges,
            elements: &self.elements,
            dropped_data: &self.dropped_data,
            dropped_elements: &self.dropped_elements,
            frames: &self.frames,
            values: &self.values,
            written: &written,
            host: &self.host,
        };
        snapshot.write(&runs, &pages)
    }

    /// The runs of a memory, in order, as long as possible.
    fn runs(&self, index: u32, contents: &[u8]) -> Vec<Open> {
        let below = flatten(&self.below, index);
        let mut before = Pages { layers: &self.below, pieces: &below };
        let zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
        let mut runs: Vec<Open> = Vec::new();
        for (number, page) in contents.chunks_exact(PAGE).enumerate() {
            let old = before.page(number as u64);
            if old.map_or_else(|| zero(page), |old| old == page) {
                continue;
            }
            let zero = self.base.is_some() && zero(page);
            let gap = if self.base.is_some() { 0 } else { GAP };
            match runs.last_mut() {
                Some(run) if run.zero == zero && number - (run.first + run.pages) <= gap => run.pages = number + 1 - run.first,
                _ => runs.push(Open { first: number, pages: 1, zero }),
            }
        }
        runs
    }
}

/// The pages of the base, in ascending order.
struct Pages<'a, 'b> {
    layers: &'b [HeapSnapshot<'a>],
    pieces: &'b [Piece],
}

impl<'a> Pages<'a, '_> {
    /// A page; `None` if it is zero.
    fn page(&mut self, number: u64) -> Option<&'a [u8]> {
        while self.pieces.first().is_some_and(|piece| piece.first + piece.pages <= number) {
            self.pieces = &self.pieces[1..];
        }
        let piece = self.pieces.first().filter(|piece| piece.first <= number)?;
        let start = usize::try_from(piece.offset + (number - piece.first) * PAGE as u64).ok()?;
        self.layers.get(piece.layer)?.bytes.get(start..)?.get(..PAGE)
    }
}
