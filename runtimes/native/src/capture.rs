//! The state of an instance, taken out of it.

use crate::callstack::CapturedStack;
use crate::error::Error;
use crate::frozen::{HeapFile, has_active_elements};
use crate::instance::{Instance, InstanceData};
use crate::module::value_type;
use crate::store::{AsStore, StoreInner};
use preheat_image::abi::{Entry, ValueType};
use preheat_image::heap::{self, HeapBuilder, Value};
use preheat_image::native::{ExternKind, RangeKind, SegmentMode};
use preheat_image::{Digest, FormatError};
use std::collections::HashMap;

/// The state of an instance at one moment: what its module defines itself. The memories' bytes are still the instance's.
#[derive(Debug)]
pub struct CapturedState<'a> {
    source: Digest,
    memories: Vec<(u32, &'a [u8])>,
    globals: Vec<(u32, Value)>,
    tables: Vec<(u32, u32, Ranges)>,
    dropped_data: Vec<bool>,
    dropped_elements: Vec<bool>,
}

/// First elements, and function indices plus one.
type Ranges = Vec<(u32, Vec<u32>)>;

fn refused(what: String) -> Error {
    Error::Freeze(what)
}

impl Instance {
    /// Takes the state of this instance: own memories, globals and tables, whether they are exported or not, and which segments were dropped.
    ///
    /// # Errors
    /// When its state lies in an imported memory, table or variable global as well, or it holds what can't be named in a snapshot: a reference
    /// to something of the host, an exception, or a function of another instance.
    ///
    /// # Panics
    /// When it is of another store.
    pub fn capture<S: AsStore>(self, store: &S) -> Result<CapturedState<'_>, Error> {
        let (inner, data) = self.data(store);
        let native = data.module.native();
        let counts = &native.layout.counts;
        for import in native.imports {
            let what = match ExternKind::from_number(import.kind.get()) {
                Some(ExternKind::Memory) => "the memory",
                Some(ExternKind::Table) => "the table",
                Some(ExternKind::Global) if import.mutable.get() != 0 => "the variable global",
                _ => continue,
            };
            let (module, name) = (native.string(import.module)?, native.string(import.name)?);
            return Err(refused(format!("the module imports {what} {module}::{name}, which is not its own")));
        }
        let mut memories = Vec::new();
        for own in 0..counts.memories {
            let memory = &inner.memories[(data.first_memory + own) as usize];
            memories.push((counts.imported_memories + own, memory.bytes()));
        }
        let mut globals = Vec::new();
        for (own, record) in (0..).zip(native.globals) {
            let index = counts.imported_globals + own;
            let bytes = native.layout.global(own).map_or([0; 16], |place| data.cells.get::<u128>(place).to_le_bytes());
            let value = captured(inner, self.index, value_type(record.ty.get().into())?, bytes);
            globals.push((index, value.map_err(|what| refused(format!("global {index} is {what}")))?));
        }
        let mut tables = Vec::new();
        for own in 0..counts.tables {
            let index = counts.imported_tables + own;
            let table = &inner.tables[(data.first_table + own) as usize];
            let len = u32::try_from(table.len).map_err(|_| refused(format!("table {index} has {} entries", table.len)))?;
            tables.push((index, len, ranges(inner, self.index, data, own)?));
        }
        let flag = |place: Option<u32>| place.is_some_and(|place| data.cells.get::<u8>(place) != 0);
        let dropped = |mode: u32, flag: bool| {
            flag || matches!(SegmentMode::from_number(mode), Some(SegmentMode::Initial | SegmentMode::Declared | SegmentMode::Active))
        };
        let data_segments = (0..).zip(native.data_segments);
        let element_segments = (0..).zip(native.element_segments);
        Ok(CapturedState {
            source: native.object.source,
            memories,
            globals,
            tables,
            dropped_data: data_segments
                .map(|(number, segment)| dropped(segment.mode.get(), flag(native.layout.dropped_data(number))))
                .collect(),
            dropped_elements: element_segments
                .map(|(number, segment)| dropped(segment.mode.get(), flag(native.layout.dropped_element(number))))
                .collect(),
        })
    }
}

impl Instance {
    /// The pages of its own memories that were written since it was instantiated or woke, or that were written in its slots before and
    /// restored. `None` if the operating system does not tell.
    ///
    /// # Panics
    /// When the instance is of another store.
    pub fn written<S: AsStore>(self, store: &S) -> Option<Vec<WrittenMemory>> {
        let (inner, data) = self.data(store);
        let counts = &data.module.native().layout.counts;
        let of_memory = |own: u32| {
            let memory = &inner.memories[(data.first_memory + own) as usize];
            let runs = inner.engine.memories().written(&memory.slot)?;
            let page = |at: usize| (at / heap::PAGE) as u64;
            Some((counts.imported_memories + own, runs.into_iter().map(|run| page(run.start)..page(run.end)).collect()))
        };
        (0..counts.memories).map(of_memory).collect()
    }
}

/// A value as a snapshot has it, or what is in the way.
pub(crate) fn captured(store: &StoreInner, instance: u32, ty: ValueType, bytes: [u8; 16]) -> Result<Value, &'static str> {
    let [a, b, c, d, e, f, g, h, ..] = bytes;
    let reference = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    match ty {
        ValueType::FuncRef if reference == 0 => Ok(Value::function(None)),
        ValueType::FuncRef => {
            let index = store.function_in(instance, reference);
            index.map(|index| Value::function(Some(index))).ok_or("a function that is not the instance's")
        }
        ValueType::ExternRef if reference != 0 => Err("a reference to something of the host"),
        ValueType::ExnRef if reference != 0 => Err("an exception"),
        ty => Ok(Value::new(ty, bytes)),
    }
}

/// What in an own table is not as it was when the module had been instantiated; all of it, where that can't be told.
fn ranges(store: &StoreInner, instance: u32, data: &InstanceData, own: u32) -> Result<Ranges, Error> {
    let native = data.module.native();
    let index = native.layout.counts.imported_tables + own;
    let damaged = |what: &str| Error::Format(FormatError::Damaged { format: "native code object", what: what.into() });
    let plan = native.tables.get(own as usize).ok_or_else(|| damaged("a table without plan"))?;
    let table = &store.tables[(data.first_table + own) as usize];
    let begin = native.initial_entries(plan)?;
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let initial = data.module.code().file().bytes().get(place(begin.start)..place(begin.end)).unwrap_or_default().as_chunks::<8>().0;
    let fixups: HashMap<u32, u32> = native
        .table_fixups
        .iter()
        .filter(|fixup| fixup.table.get() == own)
        .map(|fixup| (fixup.index.get(), fixup.function.get()))
        .collect();
    let whole = has_active_elements(native, index);
    let mut ranges: Ranges = Vec::new();
    for (number, bytes) in (0..).zip(table.entries()) {
        let entry = u64::from_ne_bytes(*bytes);
        let fixup = fixups.get(&number);
        let before = initial.get(number as usize).map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        if !whole && fixup.is_none() && entry == before {
            continue;
        }
        let local = |offset: u32| {
            let range = native.range(offset).filter(|range| range.start.get() == offset);
            let range = range.filter(|range| RangeKind::from_number(range.kind.get()) == Some(RangeKind::Function));
            Ok::<_, Error>(range.ok_or_else(|| damaged("a table entry that is no function"))?.index.get())
        };
        let function = match Entry::of(entry) {
            Entry::Null => None,
            _ if table.element != ValueType::FuncRef => {
                return Err(refused(format!("entry {number} of table {index} refers to something of the host or an exception")));
            }
            Entry::Local { offset, .. } => Some(local(offset)?),
            Entry::Reference(value) => {
                let function = store.function_in(instance, value);
                Some(function.ok_or_else(|| refused(format!("entry {number} of table {index} is a function that is not the instance's")))?)
            }
        };
        // The same function may be there as another entry: what was taken out and put back is a reference.
        let begun = match (fixup, Entry::of(before)) {
            (Some(function), _) => Some(*function),
            (None, Entry::Local { offset, .. }) => Some(local(offset)?),
            (None, _) => None,
        };
        if !whole && begun == function {
            continue;
        }
        let element = heap::element(function);
        match ranges.last_mut() {
            Some((first, elements)) if *first as usize + elements.len() == number as usize => elements.push(element),
            _ => ranges.push((number, vec![element])),
        }
    }
    Ok(ranges)
}

/// What a snapshot has beside the state of the instance. By default nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SnapshotParts<'a> {
    /// Snapshots that it is over, base first, of which each is over the one before.
    pub layers: &'a [HeapFile],
    /// The call stack, if a function was running.
    pub stack: Option<&'a CapturedStack>,
    /// What the host notes of its own state.
    pub host: &'a [u8],
    /// What will be written soon: what [`Instance::written`] said of an instance that woke from this state.
    pub written: &'a [WrittenMemory],
}

/// Index of a memory, and pages of 4,096 bytes in it, ascending.
pub type WrittenMemory = (u32, Vec<std::ops::Range<u64>>);

impl CapturedState<'_> {
    /// The state as a snapshot.
    ///
    /// # Errors
    /// When a layer is no heap snapshot, or what is added does not go with the state.
    pub fn to_snapshot(&self, parts: &SnapshotParts<'_>) -> Result<Vec<u8>, Error> {
        let layers = parts.layers;
        let below = layers.iter().map(HeapFile::snapshot).collect::<Result<Vec<_>, _>>()?;
        let builder = layers.last().map_or_else(HeapBuilder::new, |last| HeapBuilder::over(last.digest(), &below));
        let builder = self.memories.iter().fold(builder, |builder, (index, bytes)| builder.memory(*index, bytes));
        let builder = self.globals.iter().fold(builder, |builder, (index, value)| builder.global(*index, *value));
        let tables = self.tables.iter();
        let builder = tables.fold(builder, |builder, (index, len, ranges)| {
            builder.table(*index, *len, ranges.iter().map(|(first, elements)| (*first, elements)))
        });
        let frames = parts.stack.map_or(&[][..], CapturedStack::frames).iter();
        let builder = frames.fold(builder, |builder, frame| builder.frame(frame.function, frame.site, &frame.values));
        let builder = parts.written.iter().fold(builder, |builder, (memory, pages)| {
            let runs = pages.iter().map(|run| (run.start, u32::try_from(run.end - run.start).unwrap_or(u32::MAX)));
            runs.fold(builder, |builder, (first, pages)| builder.written(*memory, first, pages))
        });
        Ok(builder.dropped(&self.dropped_data, &self.dropped_elements).host(parts.host).encode(self.source)?)
    }
}
