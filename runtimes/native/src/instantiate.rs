//! Making an instance.

use crate::error::Error;
use crate::func::{Func, Kind};
use crate::instance::{Imports, Instance, InstanceData};
use crate::libcalls;
use crate::module::{Module, maximum, value_type};
use crate::objects::{MemoryData, Place, TableData};
use crate::store::StoreInner;
use crate::sys::border;
use crate::sys::cells::Cells;
use crate::sys::enter::{Callee, call};
use crate::sys::owner::StorePointer;
use crate::trap::Trap;
use crate::value::Slot as Value;
use preheat_image::FormatError;
use preheat_image::abi::{ContextHeader, HostFunction, ImportedFunction, ImportedTable, TrapCode, VALUE_SIZE};
use preheat_image::native::{ConstKind, Expression, ExternKind, ImportRecord, NativeCode, SegmentMode};
use preheat_loader::map::Template;
use std::sync::Arc;

fn damaged(what: &str) -> Error {
    Error::Format(FormatError::Damaged { format: "native code object", what: what.into() })
}

fn incompatible(native: &NativeCode<'_>, record: &ImportRecord, what: &str) -> Error {
    let name = |range| native.string(range).unwrap_or("?");
    Error::Link(format!("incompatible import type: {}::{} {what}", name(record.module), name(record.name)))
}

/// Whether a size and maximum are at least and at most what an import needs.
fn fits(record: &ImportRecord, size: u64, max: Option<u64>) -> bool {
    size >= record.min.get() && maximum(record.max.get()).is_none_or(|limit| max.is_some_and(|max| max <= limit))
}

/// Checks the types of imports of this store.
pub(crate) fn check_import(store: &StoreInner, module: &Module, imports: &Imports) -> Result<(), Error> {
    let native = module.native();
    let mut next = [0usize; 5];
    for record in native.imports {
        let kind = ExternKind::from_number(record.kind.get()).ok_or_else(|| damaged("an import of unknown kind"))?;
        let index = next[kind as usize];
        next[kind as usize] += 1;
        let type_id = || module.type_ids().get(record.ty.get() as usize).copied();
        let fits = match kind {
            ExternKind::Function => imports.functions.get(index).is_some_and(|func| func.type_id(store) == type_id()),
            ExternKind::Table => imports.tables.get(index).and_then(|table| store.tables.get(*table as usize)).is_some_and(|table| {
                value_type(record.ty.get()).is_ok_and(|element| element == table.element) && fits(record, table.len, table.max)
            }),
            ExternKind::Memory => {
                let memory = imports.memories.get(index).and_then(|memory| store.memories.get(*memory as usize));
                memory.is_some_and(|memory| fits(record, memory.pages, memory.max))
            }
            ExternKind::Global => imports.globals.get(index).is_some_and(|global| {
                value_type(record.ty.get()).is_ok_and(|ty| ty == global.ty.value) && (record.mutable.get() != 0) == global.ty.mutable
            }),
            ExternKind::Tag => imports.tags.get(index).is_some_and(|tag| Some(tag.ty.id()) == type_id()),
        };
        if !fits {
            return Err(incompatible(native, record, "does not fit"));
        }
    }
    Ok(())
}

/// Makes an instance of a module with imports that were checked.
pub(crate) fn instantiate(pointer: &mut StorePointer, module: &Module, imports: &Arc<Imports>) -> Result<Instance, Error> {
    let address = pointer.address();
    let store = pointer.get_mut();
    let index = allocate(store, address, module, imports, module.beginning())?;
    initialise(store, module, index)?;
    let native = module.native();
    let start = native.header.start.get();
    if start != preheat_image::abi::NONE {
        let data = &store.instances[index as usize];
        match data.func(store.id, index, start).ok_or_else(|| damaged("no start function"))?.0 {
            Kind::Host(function) => border::call_directly(pointer, &function, Some(index), &mut [])?,
            Kind::Guest { instance, index, .. } => {
                let callee = Callee::of(store.id, &store.instances[instance as usize], index);
                call(pointer, &callee.ok_or_else(|| damaged("a start function that can't be called"))?, &mut [])?;
            }
        }
    }
    Ok(Instance { store: pointer.get().id, index })
}

/// How the memories, tables and globals of an instance begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning<'a> {
    /// Own memories, each with its size in Wasm pages.
    pub(crate) memories: &'a [(Arc<Template>, u64)],
    /// Own tables, each with how many entries it has.
    pub(crate) tables: &'a [(Arc<Template>, u64)],
    /// Own globals.
    pub(crate) globals: &'a [[u8; VALUE_SIZE as usize]],
}

/// Takes what an instance needs and fills its context.
pub(crate) fn allocate(
    store: &mut StoreInner,
    address: u64,
    module: &Module,
    imports: &Arc<Imports>,
    beginning: Beginning<'_>,
) -> Result<u32, Error> {
    let native = module.native();
    let limits = store.limits;
    let over = |what: &str, count: usize| Err(Error::Limit(format!("{count} {what} in one store")));
    if store.instances.len() >= limits.instances {
        return over("instances", store.instances.len() + 1);
    }
    if store.memories.len() + native.memories.len() > limits.memories {
        return over("memories", store.memories.len() + native.memories.len());
    }
    if store.tables.len() + native.tables.len() > limits.tables {
        return over("tables", store.tables.len() + native.tables.len());
    }
    if let Some((_, pages)) = beginning.memories.iter().find(|(_, pages)| *pages > limits.memory_pages()) {
        return Err(Error::Limit(format!("a memory of {pages} pages")));
    }
    if let Some((_, entries)) = beginning.tables.iter().find(|(_, entries)| *entries > limits.table_entries) {
        return Err(Error::Limit(format!("a table of {entries} entries")));
    }
    let narrow = |count: usize| u32::try_from(count).map_err(|_| Error::Limit(format!("{count} objects in one store")));
    let index = narrow(store.instances.len())?;
    let (first_memory, first_table) = (narrow(store.memories.len())?, narrow(store.tables.len())?);
    let layout = &native.layout;
    // Behind what code knows of: a record for each function that may be the host's.
    let records = layout.size as usize;
    let mut cells = store.engine.take_cells(records + imports.functions.len() * size_of::<HostFunction>())?;
    cells.copy(layout.globals, beginning.globals.as_flattened());
    if let Err(error) = fill(store, &mut cells, address, module, imports, index) {
        store.engine.give_cells(cells);
        return Err(error);
    }
    // From here on what was taken is the store's, and goes with it if something fails.
    let interruptible = module.interruptible();
    if interruptible {
        store.interrupt.add(cells.interrupt_page());
    }
    store.instances.push(InstanceData {
        module: module.clone(),
        cells,
        imports: imports.clone(),
        first_memory,
        first_table,
        frozen: None,
        resumed: false,
    });
    for (own, (plan, (template, pages))) in (0..).zip(native.memories.iter().zip(beginning.memories)) {
        let slot = store.engine.memories().take(template).map_err(Error::system("reserve a memory"))?;
        let offset = layout.memory(own).ok_or_else(|| damaged("a memory without place"))?;
        let data = MemoryData::new(slot, Place::Instance { instance: index, offset }, *pages, maximum(plan.max.get()));
        store.instances[index as usize].cells.set(offset, data.record());
        store.memories.push(data);
    }
    for (own, (plan, (template, entries))) in (0..).zip(native.tables.iter().zip(beginning.tables)) {
        let slot = store.engine.tables().take(template).map_err(Error::system("reserve a table"))?;
        let offset = layout.table(own).ok_or_else(|| damaged("a table without place"))?;
        let place = Place::Instance { instance: index, offset };
        let element = value_type(plan.element.get())?;
        let data = TableData::new(slot, place, element, *entries, maximum(plan.max.get()), Some(index));
        store.instances[index as usize].cells.set(offset, data.record());
        store.tables.push(data);
    }
    Ok(index)
}

/// Writes the header and the imports.
fn fill(store: &StoreInner, cells: &mut Cells, address: u64, module: &Module, imports: &Arc<Imports>, index: u32) -> Result<(), Error> {
    let native = module.native();
    let layout = &native.layout;
    let header = ContextHeader {
        text_base: module.code().text().start as u64,
        type_ids: module.type_ids().as_ptr().expose_provenance() as u64,
        store: address,
        runtime: u64::from(index),
    };
    cells.set(0, header);
    let mut record = layout.size;
    for (import, func) in (0..).zip(&imports.functions) {
        let place = layout.imported_function(import).ok_or_else(|| damaged("an import without place"))?;
        let imported = match &func.0 {
            Kind::Guest { instance, index, .. } => {
                let data = store.instances.get(*instance as usize);
                let found = data.and_then(|data| data.code_and_context(*index));
                let (code, context) = found.ok_or_else(|| damaged("an imported function is not there"))?;
                ImportedFunction { code, context }
            }
            Kind::Host(function) => {
                let captures = if native.captures() { border::CAPTURE } else { 0 };
                let host = HostFunction {
                    entry: border::host_entry(),
                    store: address,
                    context: u64::from(index) | captures,
                    runtime: Arc::as_ptr(function).expose_provenance() as u64,
                };
                cells.set(record, host);
                let code = module.text_address(native.type_of(import)?.host.get());
                let context = cells.address(record);
                ImportedFunction { code: code.ok_or_else(|| damaged("an import has no trampoline"))?, context }
            }
        };
        cells.set(place, imported);
        record += u32::try_from(size_of::<HostFunction>()).unwrap_or(u32::MAX);
    }
    for (import, memory) in (0..).zip(&imports.memories) {
        let place = layout.imported_memory(import).ok_or_else(|| damaged("an import without place"))?;
        cells.set(place, store.address(store.memories[*memory as usize].record));
    }
    for (import, table) in (0..).zip(&imports.tables) {
        let place = layout.imported_table(import).ok_or_else(|| damaged("an import without place"))?;
        let table = &store.tables[*table as usize];
        let owner = table.owner.and_then(|owner| store.instances.get(owner as usize));
        let context = owner.map_or_else(|| cells.base(), |owner| owner.cells.base());
        cells.set(place, ImportedTable { record: store.address(table.record), context });
    }
    for (import, global) in (0..).zip(&imports.globals) {
        let place = layout.imported_global(import).ok_or_else(|| damaged("an import without place"))?;
        cells.set(place, store.address(global.place));
    }
    for (import, tag) in (0..).zip(&imports.tags) {
        let place = layout.imported_tag(import).ok_or_else(|| damaged("an import without place"))?;
        cells.set(place, store.address(tag.place));
    }
    Ok(())
}

/// Does what is not the same for every instance: globals and table entries that depend on imports, and segments.
fn initialise(store: &mut StoreInner, module: &Module, index: u32) -> Result<(), Error> {
    let native = module.native();
    for (own, global) in (0..).zip(native.globals).filter(|(_, global)| global.init.count.get() > 0) {
        let value = evaluate(store, index, global.init)?;
        let place = native.layout.global(own).ok_or_else(|| damaged("a global without place"))?;
        store.instances[index as usize].cells.set(place, value);
    }
    for fixup in native.table_fixups {
        let reference = store.reference(index, fixup.function.get()).ok_or_else(|| damaged("a table entry of no function"))?;
        let first = store.instances[index as usize].first_table;
        let table = (fixup.table.get() as usize) < native.tables.len();
        let table = store.tables.get_mut(first as usize + fixup.table.get() as usize).filter(|_| table);
        let entry = table.and_then(|table| table.entries_mut().get_mut(fixup.index.get() as usize));
        *entry.ok_or_else(|| damaged("a table entry out of bounds"))? = reference.to_ne_bytes();
    }
    let trap = |code: TrapCode| Error::Trap(Trap::outside(code));
    for (number, segment) in (0..).zip(native.element_segments) {
        if segment.mode.get() == SegmentMode::Active as u32 {
            let at = offset(evaluate(store, index, segment.at)?);
            let (table, count) = (segment.table.get(), u64::from(segment.count.get()));
            libcalls::table_init(store, index, (table, at), (number, 0), count).map_err(trap)?;
            drop_segment(store, index, native.layout.dropped_element(number));
        }
    }
    for (number, segment) in (0..).zip(native.data_segments) {
        if segment.mode.get() == SegmentMode::Active as u32 {
            let at = offset(evaluate(store, index, segment.at)?);
            let (memory, len) = (segment.memory.get(), u64::from(segment.len.get()));
            libcalls::memory_init(store, index, (memory, at), (number, 0), len).map_err(trap)?;
            drop_segment(store, index, native.layout.dropped_data(number));
        }
    }
    Ok(())
}

/// An i32 as an index.
#[expect(clippy::cast_possible_truncation, reason = "the rest of the slot means nothing")]
fn offset(value: Value) -> u64 {
    u64::from(value as u32)
}

fn drop_segment(store: &mut StoreInner, instance: u32, flag: Option<u32>) {
    if let Some(flag) = flag {
        store.instances[instance as usize].cells.set(flag, 1u8);
    }
}

/// The value of a constant expression.
pub(crate) fn evaluate(store: &mut StoreInner, instance: u32, expression: Expression) -> Result<Value, Error> {
    let module = store.instances[instance as usize].module.clone();
    let ops = module.native().expression(expression)?;
    let mut stack: Vec<Value> = Vec::new();
    for op in ops {
        let kind = ConstKind::from_number(op.kind.get()).ok_or_else(|| damaged("an unknown constant instruction"))?;
        let value = match kind {
            ConstKind::Value => Value::from_le_bytes(op.value),
            ConstKind::RefNull => 0,
            ConstKind::RefFunc => {
                Value::from(store.reference(instance, op.index.get()).ok_or_else(|| damaged("a reference to no function"))?)
            }
            ConstKind::GlobalGet => {
                let global = store.instances[instance as usize].global(store.id, instance, op.index.get());
                let (cells, offset) = store.cells(global.ok_or_else(|| damaged("no such global"))?.place);
                cells.get(offset)
            }
            ConstKind::I32Add | ConstKind::I32Sub | ConstKind::I32Mul | ConstKind::I64Add | ConstKind::I64Sub | ConstKind::I64Mul => {
                let (Some(second), Some(first)) = (stack.pop(), stack.pop()) else {
                    return Err(damaged("a constant instruction without operands"));
                };
                arithmetic(kind, first, second)
            }
        };
        stack.push(value);
    }
    match (stack.pop(), stack.is_empty()) {
        (Some(value), true) => Ok(value),
        _ => Err(damaged("a constant expression does not leave one value")),
    }
}

/// Two's complement arithmetic is the same for signed and unsigned numbers; the low bits are right whatever is above.
#[expect(clippy::cast_possible_truncation, reason = "the rest of the slots means nothing")]
fn arithmetic(kind: ConstKind, first: Value, second: Value) -> Value {
    let wide = match kind {
        ConstKind::I32Add | ConstKind::I64Add => (first as u64).wrapping_add(second as u64),
        ConstKind::I32Sub | ConstKind::I64Sub => (first as u64).wrapping_sub(second as u64),
        _ => (first as u64).wrapping_mul(second as u64),
    };
    match kind {
        ConstKind::I32Add | ConstKind::I32Sub | ConstKind::I32Mul => Value::from(wide as u32),
        _ => Value::from(wide),
    }
}

const _: () = assert!(VALUE_SIZE as usize == size_of::<Value>());

impl Func {
    /// Whether it is one of the host's.
    #[must_use]
    pub fn is_host(&self) -> bool {
        matches!(self.0, Kind::Host(_))
    }
}
