//! What the runtime does on behalf of an instruction. Indices are those of the instance's module; everything is checked here.

use crate::instantiate::evaluate;
use crate::store::StoreInner;
use preheat_image::abi::{Entry, NONE, TrapCode, ValueType, local_entry};
use preheat_image::native::Elements;
use std::ops::Range;

/// Bytes or entries, if they are within a length.
fn range(at: u64, len: u64, within: usize) -> Option<Range<usize>> {
    let end = at.checked_add(len).filter(|end| *end <= within as u64)?;
    Some(usize::try_from(at).ok()?..usize::try_from(end).ok()?)
}

fn memory_of(store: &StoreInner, instance: u32, memory: u32) -> Result<usize, TrapCode> {
    let index = store.instances[instance as usize].memory(memory).ok_or(TrapCode::MemoryOutOfBounds)?;
    Ok(index as usize)
}

fn table_of(store: &StoreInner, instance: u32, table: u32) -> Result<usize, TrapCode> {
    let index = store.instances[instance as usize].table(table).ok_or(TrapCode::TableOutOfBounds)?;
    Ok(index as usize)
}

pub(crate) fn memory_grow(store: &mut StoreInner, instance: u32, memory: u32, pages: u64) -> u64 {
    let memory = store.instances[instance as usize].memory(memory);
    memory.and_then(|memory| store.grow_memory(memory, pages)).unwrap_or(u64::MAX)
}

pub(crate) fn memory_copy(
    store: &mut StoreInner,
    instance: u32,
    (to, to_at): (u32, u64),
    (from, from_at): (u32, u64),
    len: u64,
) -> Result<(), TrapCode> {
    let (to, from) = (memory_of(store, instance, to)?, memory_of(store, instance, from)?);
    let source = range(from_at, len, store.memories[from].bytes().len()).ok_or(TrapCode::MemoryOutOfBounds)?;
    let target = range(to_at, len, store.memories[to].bytes().len()).ok_or(TrapCode::MemoryOutOfBounds)?;
    if to == from {
        store.memories[to].bytes_mut().copy_within(source, target.start);
    } else if let Ok([to, from]) = store.memories.get_disjoint_mut([to, from]) {
        to.bytes_mut()[target].copy_from_slice(&from.bytes()[source]);
    }
    Ok(())
}

pub(crate) fn memory_fill(store: &mut StoreInner, instance: u32, memory: u32, at: u64, byte: u8, len: u64) -> Result<(), TrapCode> {
    let memory = memory_of(store, instance, memory)?;
    let bytes = store.memories[memory].bytes_mut();
    let target = range(at, len, bytes.len()).ok_or(TrapCode::MemoryOutOfBounds)?;
    bytes[target].fill(byte);
    Ok(())
}

pub(crate) fn memory_init(
    store: &mut StoreInner,
    instance: u32,
    (memory, to): (u32, u64),
    (segment, from): (u32, u64),
    len: u64,
) -> Result<(), TrapCode> {
    let memory = memory_of(store, instance, memory)?;
    let data = &store.instances[instance as usize];
    let native = data.module.native();
    let dropped = native.layout.dropped_data(segment).is_none_or(|flag| data.cells.get::<u8>(flag) != 0);
    let contents: &[u8] = match native.data_segments.get(segment as usize) {
        Some(segment) if !dropped => native.data(segment).map_err(|_| TrapCode::OutOfResources)?,
        _ => &[],
    };
    let source = range(from, len, contents.len()).ok_or(TrapCode::MemoryOutOfBounds)?;
    let bytes = store.memories[memory].bytes_mut();
    let target = range(to, len, bytes.len()).ok_or(TrapCode::MemoryOutOfBounds)?;
    bytes[target].copy_from_slice(&contents[source]);
    Ok(())
}

pub(crate) fn table_grow(store: &mut StoreInner, instance: u32, table: u32, entries: u64, value: u64) -> u64 {
    let table = store.instances[instance as usize].table(table);
    table.and_then(|table| store.grow_table(table, entries, value)).unwrap_or(u64::MAX)
}

pub(crate) fn table_copy(
    store: &mut StoreInner,
    instance: u32,
    (to, to_at): (u32, u64),
    (from, from_at): (u32, u64),
    len: u64,
) -> Result<(), TrapCode> {
    let (to, from) = (table_of(store, instance, to)?, table_of(store, instance, from)?);
    let source = range(from_at, len, store.tables[from].entries().len()).ok_or(TrapCode::TableOutOfBounds)?;
    let target = range(to_at, len, store.tables[to].entries().len()).ok_or(TrapCode::TableOutOfBounds)?;
    if to == from {
        store.tables[to].entries_mut().copy_within(source, target.start);
        return Ok(());
    }
    // Local entries mean the functions of the table's owner.
    let foreign = store.tables[from].element == ValueType::FuncRef && store.tables[from].owner != store.tables[to].owner;
    if foreign {
        let number = u32::try_from(from).map_err(|_| TrapCode::OutOfResources)?;
        for (from_index, to_index) in source.zip(target) {
            let entry = u64::from_ne_bytes(store.tables[from].entries()[from_index]);
            let value = match Entry::of(entry) {
                Entry::Local { .. } => store.entry_reference(number, entry).ok_or(TrapCode::OutOfResources)?,
                _ => entry,
            };
            store.tables[to].entries_mut()[to_index] = value.to_ne_bytes();
        }
    } else if let Ok([to, from]) = store.tables.get_disjoint_mut([to, from]) {
        to.entries_mut()[target].copy_from_slice(&from.entries()[source]);
    }
    Ok(())
}

pub(crate) fn table_fill(store: &mut StoreInner, instance: u32, table: u32, at: u64, value: u64, len: u64) -> Result<(), TrapCode> {
    let table = table_of(store, instance, table)?;
    let entries = store.tables[table].entries_mut();
    let target = range(at, len, entries.len()).ok_or(TrapCode::TableOutOfBounds)?;
    entries[target].fill(value.to_ne_bytes());
    Ok(())
}

pub(crate) fn table_init(
    store: &mut StoreInner,
    instance: u32,
    (table, to): (u32, u64),
    (segment, from): (u32, u64),
    len: u64,
) -> Result<(), TrapCode> {
    let table = table_of(store, instance, table)?;
    let data = &store.instances[instance as usize];
    let module = data.module.clone();
    let native = module.native();
    let dropped = native.layout.dropped_element(segment).is_none_or(|flag| data.cells.get::<u8>(flag) != 0);
    let elements = match native.element_segments.get(segment as usize) {
        Some(segment) if !dropped => native.elements(segment).map_err(|_| TrapCode::OutOfResources)?,
        _ => Elements::Functions(&[]),
    };
    let count = match elements {
        Elements::Functions(functions) => functions.len(),
        Elements::Expressions(expressions) => expressions.len(),
    };
    let source = range(from, len, count).ok_or(TrapCode::TableOutOfBounds)?;
    let target = range(to, len, store.tables[table].entries().len()).ok_or(TrapCode::TableOutOfBounds)?;
    let own_table = store.tables[table].owner == Some(instance);
    for (index, place) in source.zip(target) {
        let entry = match elements {
            Elements::Functions(functions) if functions[index].get() == NONE => 0,
            Elements::Functions(functions) => {
                let function = functions[index].get();
                let own = own_table && function >= native.layout.counts.imported_functions;
                let record = native.functions.get(function as usize).filter(|_| own);
                match record.and_then(|record| local_entry(record.code.get(), record.ty.get())) {
                    Some(entry) => entry,
                    None => store.reference(instance, function).ok_or(TrapCode::OutOfResources)?,
                }
            }
            Elements::Expressions(expressions) => {
                let value = evaluate(store, instance, expressions[index]).map_err(|_| TrapCode::OutOfResources)?;
                #[expect(clippy::cast_possible_truncation, reason = "references have 64 bits")]
                let value = value as u64;
                value
            }
        };
        store.tables[table].entries_mut()[place] = entry.to_ne_bytes();
    }
    Ok(())
}

pub(crate) fn entry_reference(store: &mut StoreInner, instance: u32, table: u32, entry: u64) -> u64 {
    let table = store.instances[instance as usize].table(table);
    table.and_then(|table| store.entry_reference(table, entry)).unwrap_or(0)
}

/// A new exception, or 0 if there are too many.
pub(crate) fn exception_new(store: &mut StoreInner, instance: u32, tag: u32, count: u32) -> u64 {
    let identity = store.instances[instance as usize].tag_identity(tag);
    identity.and_then(|identity| store.exceptions.add(identity, count)).unwrap_or(0)
}

pub(crate) fn function_reference(store: &mut StoreInner, instance: u32, function: u32) -> u64 {
    store.reference(instance, function).unwrap_or(0)
}
