//! Which segments can be applied now, and what memories and tables then begin with.
//!
//! Instantiation applies active segments in order, elements before data, and stops at the first that does not fit. So those can be applied
//! now that come before any that must wait for instantiation: because its place depends on an import, or it goes to another
//! instance's memory or table, or it does not fit. What is applied now may not be much larger than the segments themselves.

use crate::CompileError;
use crate::module::{Elements, Module, Placement, narrow};
use preheat_image::abi::{NONE, PAGE, ValueType, WASM_PAGE, local_entry};
use preheat_image::native::{FunctionRecord, MemoryPlan, MemoryRun, SegmentMode, TableFixup, TablePlan};
use std::collections::BTreeMap;

/// [`PAGE`] as a length in memory.
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE);
/// Runs that are at most this many zero pages apart become one: a mapping costs more than they do.
const MERGED_GAP: u32 = 4;
/// How much larger than the segments what is made of them may be, in bytes, beyond a small multiple.
const ALLOWANCE: u64 = 4 << 20;

/// What memories begin with.
#[derive(Debug, Default)]
pub(crate) struct InitialMemories {
    pub(crate) plans: Vec<MemoryPlan>,
    pub(crate) runs: Vec<MemoryRun>,
    pub(crate) image: Vec<u8>,
    /// The mode of each data segment.
    pub(crate) modes: Vec<SegmentMode>,
}

/// What tables begin with.
#[derive(Debug, Default)]
pub(crate) struct InitialTables {
    pub(crate) plans: Vec<TablePlan>,
    pub(crate) fixups: Vec<TableFixup>,
    pub(crate) image: Vec<u8>,
    /// The mode of each element segment.
    pub(crate) modes: Vec<SegmentMode>,
}

impl InitialTables {
    /// Whether an element segment is left for instantiation.
    fn unfinished(&self) -> bool {
        self.modes.contains(&SegmentMode::Active)
    }
}

/// Applies the element segments that can be. `functions` says where code is.
pub(crate) fn tables(module: &Module<'_>, functions: &[FunctionRecord]) -> Result<InitialTables, CompileError> {
    let mut initial = InitialTables::default();
    let imported = module.imported().imported_tables;
    let mut contents: Vec<Vec<Option<u32>>> = vec![Vec::new(); module.tables.len() - imported as usize];
    let mut total = 0u64;
    for segment in &module.elements {
        let mode = match segment.placement {
            Placement::Passive => SegmentMode::Passive,
            Placement::Declared => SegmentMode::Declared,
            Placement::Active(..) if initial.unfinished() => SegmentMode::Active,
            Placement::Active(table, at) => {
                let own = table.checked_sub(imported);
                let (Some(own), Some(at), Elements::Functions(elements)) = (own, at.as_u32(), &segment.elements) else {
                    initial.modes.push(SegmentMode::Active);
                    continue;
                };
                let end = u64::from(at) + elements.len() as u64;
                total += elements.len() as u64;
                if end > module.tables[table as usize].min || end * 8 > ALLOWANCE + 128 * total {
                    SegmentMode::Active
                } else {
                    let contents = &mut contents[own as usize];
                    let (at, end) = (at as usize, at as usize + elements.len());
                    contents.resize(contents.len().max(end), None);
                    contents[at..end].copy_from_slice(elements);
                    SegmentMode::Initial
                }
            }
        };
        initial.modes.push(mode);
    }
    for (own, contents) in contents.iter().enumerate() {
        let ty = module.tables[own + imported as usize];
        let own = narrow(own, "the table section")?;
        let offset = initial.image.len() as u64;
        let functions_only = ty.element == ValueType::FuncRef;
        let used = contents.iter().rposition(Option::is_some).filter(|_| functions_only).map_or(0, |last| last + 1);
        for (index, function) in contents[..used].iter().enumerate() {
            let entry = match function {
                None => 0,
                Some(function) => {
                    let record = &functions[*function as usize];
                    if record.code.get() == NONE {
                        let index = narrow(index, "a table")?;
                        initial.fixups.push(TableFixup { table: own.into(), index: index.into(), function: (*function).into() });
                        0
                    } else {
                        local_entry(record.code.get(), record.ty.get())
                            .ok_or_else(|| CompileError::Limit { what: "the type section".into() })?
                    }
                }
            };
            initial.image.extend_from_slice(&entry.to_le_bytes());
        }
        pad(&mut initial.image);
        initial.plans.push(TablePlan {
            element: u32::from(ty.element.number()).into(),
            entries: narrow(used, "a table")?.into(),
            offset: offset.into(),
            min: ty.min.into(),
            max: ty.max.unwrap_or(u64::MAX).into(),
        });
    }
    Ok(initial)
}

fn pad(image: &mut Vec<u8>) {
    image.resize(image.len().next_multiple_of(PAGE_BYTES), 0);
}

/// Pages of a memory that are not zero.
type Pages = BTreeMap<u32, Box<[u8; PAGE_BYTES]>>;

/// Applies the data segments that can be, unless an element segment has to come first.
pub(crate) fn memories(module: &Module<'_>, tables: &InitialTables) -> Result<InitialMemories, CompileError> {
    let mut initial = InitialMemories::default();
    let imported = module.imported().imported_memories;
    let own_memories = &module.memories[imported as usize..];
    let mut contents: Vec<Pages> = own_memories.iter().map(|_| Pages::new()).collect();
    let mut budget = ALLOWANCE;
    let mut later = tables.unfinished();
    for segment in &module.data {
        let mode = match segment.placement {
            Placement::Passive | Placement::Declared => SegmentMode::Passive,
            Placement::Active(memory, at) => {
                budget = budget.saturating_add(16 * segment.bytes.len() as u64);
                let place = memory.checked_sub(imported).zip(at.as_u32()).filter(|(own, at)| {
                    let size = own_memories[*own as usize].min.saturating_mul(WASM_PAGE);
                    u64::from(*at) + segment.bytes.len() as u64 <= size
                });
                let cost = (segment.bytes.len() as u64).div_ceil(PAGE) + 1;
                match place.filter(|_| !later) {
                    Some((own, at)) if cost * PAGE <= budget => {
                        budget -= write(&mut contents[own as usize], at, segment.bytes) * PAGE;
                        SegmentMode::Initial
                    }
                    _ => {
                        later = true;
                        SegmentMode::Active
                    }
                }
            }
        };
        initial.modes.push(mode);
    }
    for (ty, pages) in own_memories.iter().zip(contents) {
        let first_run = narrow(initial.runs.len(), "the data section")?;
        append(&mut initial, pages);
        let runs = narrow(initial.runs.len(), "the data section")? - first_run;
        initial.plans.push(MemoryPlan {
            min: ty.min.into(),
            max: ty.max.unwrap_or(u64::MAX).into(),
            first_run: first_run.into(),
            runs: runs.into(),
        });
    }
    Ok(initial)
}

/// Writes bytes over pages. Zeros make no page. Gives how many pages were made.
fn write(pages: &mut Pages, at: u32, bytes: &[u8]) -> u64 {
    let before = pages.len();
    let page = u32::try_from(PAGE).unwrap_or(u32::MAX);
    let (mut number, mut within) = (at / page, (at % page) as usize);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (part, others) = rest.split_at(rest.len().min(PAGE_BYTES - within));
        if part.iter().any(|byte| *byte != 0) || pages.contains_key(&number) {
            let page = pages.entry(number).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            page[within..within + part.len()].copy_from_slice(part);
        }
        (rest, number, within) = (others, number.wrapping_add(1), 0);
    }
    (pages.len() - before) as u64
}

/// Appends the runs of a memory and their contents.
fn append(initial: &mut InitialMemories, pages: Pages) {
    let mut open: Option<MemoryRun> = None;
    for (number, page) in pages {
        let end = open.map(|run| run.first.get() + run.pages.get());
        match (&mut open, end.and_then(|end| number.checked_sub(end))) {
            (Some(run), Some(gap)) if gap <= MERGED_GAP => {
                initial.image.resize(initial.image.len() + gap as usize * PAGE_BYTES, 0);
                run.pages += gap + 1;
            }
            _ => {
                initial.runs.extend(open.take());
                open = Some(MemoryRun { first: number.into(), pages: 1.into(), offset: (initial.image.len() as u64).into() });
            }
        }
        initial.image.extend_from_slice(&*page);
    }
    initial.runs.extend(open);
}
