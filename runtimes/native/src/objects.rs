//! Memories, tables, globals, tags, exceptions and externrefs of a store.

use crate::engine::Engine;
use crate::error::Error;
use crate::func::Func;
use crate::store::{AsStore, AsStoreMut, StoreInner};
use crate::types::{FuncType, GlobalType, MemoryType, TableType};
use crate::value::{Slot as Value, Val};
use preheat_image::abi::{Entry, MEMORY_RESERVATION, MemoryRecord, TableRecord, ValueType, WASM_PAGE};
use preheat_image::native::RangeKind;
use preheat_loader::map::{PAGE, Slot, Template};
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// Where something is that compiled code reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In an instance's context.
    Instance { instance: u32, offset: u32 },
    /// In a block of the store's own cells.
    Host { block: u32, offset: u32 },
}

fn check(store: &StoreInner, id: u64) {
    assert!(store.id == id, "a handle of another store");
}

/// A memory of a store.
#[derive(Debug)]
pub(crate) struct MemoryData {
    pub(crate) slot: Slot,
    /// Where its record is.
    pub(crate) record: Place,
    /// Wasm pages.
    pub(crate) pages: u64,
    /// As declared.
    pub(crate) max: Option<u64>,
    // If no module has it: nobody will ask for it again.
    template: Option<Arc<Template>>,
}

impl MemoryData {
    pub(crate) fn new(slot: Slot, record: Place, pages: u64, max: Option<u64>) -> Self {
        Self { slot, record, pages, max, template: None }
    }

    fn len(&self) -> usize {
        // At most the slot, see `grow`.
        usize::try_from(self.pages * WASM_PAGE).unwrap_or(usize::MAX)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.slot.bytes()[..self.len()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        &mut self.slot.bytes_mut()[..len]
    }

    pub(crate) fn reservation(&self) -> Range<u64> {
        let base = self.slot.base().as_ptr().addr() as u64;
        base..base + self.slot.reservation() as u64
    }

    pub(crate) fn record(&self) -> MemoryRecord {
        MemoryRecord { base: self.slot.base().as_ptr().expose_provenance() as u64, length: self.pages * WASM_PAGE }
    }

    pub(crate) fn give_back(self, engine: &Engine) {
        engine.memories().give(self.slot);
        if let Some(template) = self.template {
            engine.memories().forget(&template);
        }
    }
}

/// A table of a store.
#[derive(Debug)]
pub(crate) struct TableData {
    pub(crate) slot: Slot,
    /// Where its record is.
    pub(crate) record: Place,
    pub(crate) element: ValueType,
    /// How many entries.
    pub(crate) len: u64,
    /// As declared.
    pub(crate) max: Option<u64>,
    /// The instance whose functions local entries are.
    pub(crate) owner: Option<u32>,
    template: Option<Arc<Template>>,
}

impl TableData {
    pub(crate) fn new(slot: Slot, record: Place, element: ValueType, len: u64, max: Option<u64>, owner: Option<u32>) -> Self {
        Self { slot, record, element, len, max, owner, template: None }
    }

    pub(crate) fn entries(&self) -> &[[u8; 8]] {
        &self.slot.bytes().as_chunks::<8>().0[..usize::try_from(self.len).unwrap_or(0)]
    }

    pub(crate) fn entries_mut(&mut self) -> &mut [[u8; 8]] {
        let len = usize::try_from(self.len).unwrap_or(0);
        &mut self.slot.bytes_mut().as_chunks_mut::<8>().0[..len]
    }

    pub(crate) fn record(&self) -> TableRecord {
        TableRecord { base: self.slot.base().as_ptr().expose_provenance() as u64, length: self.len }
    }

    pub(crate) fn give_back(self, engine: &Engine) {
        engine.tables().give(self.slot);
        if let Some(template) = self.template {
            engine.tables().forget(&template);
        }
    }
}

impl StoreInner {
    /// Grows a memory by Wasm pages. Its old size, or `None` if it can't grow.
    pub(crate) fn grow_memory(&mut self, memory: u32, by: u64) -> Option<u64> {
        let limit = self.limits.memory_pages();
        let data = &mut self.memories[memory as usize];
        let old = data.pages;
        let new = old.checked_add(by).filter(|new| *new <= data.max.unwrap_or(u64::MAX) && *new <= MEMORY_RESERVATION / WASM_PAGE)?;
        if by > 0 {
            if new > limit {
                return None;
            }
            data.slot.grow(usize::try_from(new * WASM_PAGE).ok()?).ok()?;
            data.pages = new;
            let (record, place) = (data.record(), data.record);
            let (cells, offset) = self.cells_mut(place);
            cells.set(offset, record);
        }
        Some(old)
    }

    /// Grows a table by entries with `value`, a reference. Its old size, or `None` if it can't grow.
    pub(crate) fn grow_table(&mut self, table: u32, by: u64, value: u64) -> Option<u64> {
        let limit = self.limits.table_entries;
        let data = &mut self.tables[table as usize];
        let old = data.len;
        let new = old.checked_add(by).filter(|new| *new <= data.max.unwrap_or(u64::from(u32::MAX)))?;
        if by > 0 {
            if new > limit {
                return None;
            }
            let len = usize::try_from(new.checked_mul(8)?).ok()?.checked_next_multiple_of(PAGE)?;
            data.slot.grow(len).ok()?;
            data.len = new;
            // What is new is null already.
            if value != 0 {
                data.entries_mut()[usize::try_from(old).ok()?..].fill(value.to_ne_bytes());
            }
            let (record, place) = (data.record(), data.record);
            let (cells, offset) = self.cells_mut(place);
            cells.set(offset, record);
        }
        Some(old)
    }

    /// The reference in a table's entry. `None` beyond its end, or if memory is used up.
    pub(crate) fn table_get(&mut self, table: u32, index: u64) -> Option<u64> {
        let data = &self.tables[table as usize];
        let entry = u64::from_ne_bytes(*data.entries().get(usize::try_from(index).ok()?)?);
        self.entry_reference(table, entry)
    }

    /// The reference that an entry of a table stands for.
    pub(crate) fn entry_reference(&mut self, table: u32, entry: u64) -> Option<u64> {
        let data = &self.tables[table as usize];
        match Entry::of(entry) {
            Entry::Local { offset, .. } if data.element == ValueType::FuncRef => {
                let owner = data.owner?;
                let range = self.instances.get(owner as usize)?.module.native().range(offset)?;
                let function = range.index.get();
                let is_function = RangeKind::from_number(range.kind.get()) == Some(RangeKind::Function) && range.start.get() == offset;
                is_function.then(|| self.reference(owner, function)).flatten()
            }
            _ => Some(entry),
        }
    }
}

/// A memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub(crate) store: u64,
    pub(crate) index: u32,
}

impl Memory {
    /// A new memory that belongs to no instance.
    ///
    /// # Errors
    /// When it is more than the store's limits, or than 4 GiB, or the operating system refuses.
    pub fn new(mut store: impl AsStoreMut, ty: MemoryType) -> Result<Self, Error> {
        let inner = store.pointer_mut().get_mut();
        let too_large = || Error::Limit(format!("a memory of {} pages", ty.min));
        if ty.min > inner.limits.memory_pages() || inner.memories.len() >= inner.limits.memories {
            return Err(too_large());
        }
        let len = usize::try_from(ty.min * WASM_PAGE).map_err(|_| too_large())?;
        let template = Arc::new(Template::new(len, Vec::new(), 0).map_err(Error::system("lay out a memory"))?);
        let record = inner.host_cell()?;
        let slot = inner.engine.memories().take(&template).map_err(Error::system("reserve a memory"))?;
        let data = MemoryData { template: Some(template), ..MemoryData::new(slot, record, ty.min, ty.max) };
        let contents = data.record();
        inner.memories.push(data);
        let (cells, offset) = inner.cells_mut(record);
        cells.set(offset, contents);
        let index = u32::try_from(inner.memories.len() - 1).map_err(|_| too_large())?;
        Ok(Self { store: inner.id, index })
    }

    fn data<S: AsStore>(self, store: &S) -> &MemoryData {
        let inner = store.pointer().get();
        check(inner, self.store);
        &inner.memories[self.index as usize]
    }

    /// Its type: the size that it has now, and the maximum that it was declared with.
    ///
    /// # Panics
    /// When it is of another store, as all methods do.
    #[must_use]
    pub fn ty(self, store: impl AsStore) -> MemoryType {
        let data = self.data(&store);
        MemoryType { min: data.pages, max: data.max }
    }

    /// Its size in Wasm pages.
    #[must_use]
    pub fn size(self, store: impl AsStore) -> u64 {
        self.data(&store).pages
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes<S: AsStore>(self, store: &S) -> &[u8] {
        self.data(store).bytes()
    }

    /// Its bytes, to be written.
    #[must_use]
    pub fn bytes_mut<S: AsStoreMut>(self, store: &mut S) -> &mut [u8] {
        let inner = store.pointer_mut().get_mut();
        check(inner, self.store);
        inner.memories[self.index as usize].bytes_mut()
    }

    /// Grows it by Wasm pages. Its old size.
    ///
    /// # Errors
    /// When its maximum or the store's limits do not allow it, or memory is used up.
    pub fn grow(self, mut store: impl AsStoreMut, pages: u64) -> Result<u64, Error> {
        let inner = store.pointer_mut().get_mut();
        check(inner, self.store);
        inner.grow_memory(self.index, pages).ok_or_else(|| Error::Limit(format!("a memory can't grow by {pages} pages")))
    }
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    pub(crate) store: u64,
    pub(crate) index: u32,
}

impl Table {
    /// A new table that belongs to no instance, of null references.
    ///
    /// # Errors
    /// When it is more than the store's limits, or the operating system refuses.
    pub fn new(mut store: impl AsStoreMut, ty: TableType) -> Result<Self, Error> {
        let inner = store.pointer_mut().get_mut();
        let too_large = || Error::Limit(format!("a table of {} entries", ty.min));
        if !matches!(ty.element, ValueType::FuncRef | ValueType::ExternRef | ValueType::ExnRef) {
            return Err(Error::Type("a table of what is no reference".into()));
        }
        if ty.min > inner.limits.table_entries || inner.tables.len() >= inner.limits.tables {
            return Err(too_large());
        }
        let len = ty.min.checked_mul(8).and_then(|len| usize::try_from(len).ok()?.checked_next_multiple_of(PAGE));
        let template = Template::new(len.ok_or_else(too_large)?, Vec::new(), 0).map_err(Error::system("lay out a table"))?;
        let template = Arc::new(template);
        let record = inner.host_cell()?;
        let slot = inner.engine.tables().take(&template).map_err(Error::system("reserve a table"))?;
        let data = TableData { template: Some(template), ..TableData::new(slot, record, ty.element, ty.min, ty.max, None) };
        let contents = data.record();
        inner.tables.push(data);
        let (cells, offset) = inner.cells_mut(record);
        cells.set(offset, contents);
        let index = u32::try_from(inner.tables.len() - 1).map_err(|_| too_large())?;
        Ok(Self { store: inner.id, index })
    }

    fn data<S: AsStore>(self, store: &S) -> &TableData {
        let inner = store.pointer().get();
        check(inner, self.store);
        &inner.tables[self.index as usize]
    }

    /// Its type: the size that it has now, and the maximum that it was declared with.
    ///
    /// # Panics
    /// When it is of another store, as all methods do.
    #[must_use]
    pub fn ty(self, store: impl AsStore) -> TableType {
        let data = self.data(&store);
        TableType { element: data.element, min: data.len, max: data.max }
    }

    /// How many entries it has.
    #[must_use]
    pub fn size(self, store: impl AsStore) -> u64 {
        self.data(&store).len
    }

    /// An entry; `None` beyond the end.
    #[must_use]
    pub fn get(self, mut store: impl AsStoreMut, index: u64) -> Option<Val> {
        let inner = store.pointer_mut().get_mut();
        check(inner, self.store);
        let value = inner.table_get(self.index, index)?;
        Some(Val::of_slot(inner, inner.tables[self.index as usize].element, Value::from(value)))
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// When there is no such entry, or the value is of another type or store.
    pub fn set(self, mut store: impl AsStoreMut, index: u64, value: &Val) -> Result<(), Error> {
        let inner = store.pointer_mut().get_mut();
        check(inner, self.store);
        let element = inner.tables[self.index as usize].element;
        let value = reference(inner, element, value)?;
        let entries = inner.tables[self.index as usize].entries_mut();
        let entry = usize::try_from(index).ok().and_then(|index| entries.get_mut(index));
        *entry.ok_or_else(|| Error::Type(format!("a table has no entry {index}")))? = value.to_ne_bytes();
        Ok(())
    }

    /// Grows it by entries with `value`. Its old size.
    ///
    /// # Errors
    /// When its maximum or the store's limits do not allow it, or the value is of another type or store.
    pub fn grow(self, mut store: impl AsStoreMut, entries: u64, value: &Val) -> Result<u64, Error> {
        let inner = store.pointer_mut().get_mut();
        check(inner, self.store);
        let value = reference(inner, inner.tables[self.index as usize].element, value)?;
        inner.grow_table(self.index, entries, value).ok_or_else(|| Error::Limit(format!("a table can't grow by {entries} entries")))
    }
}

/// A reference as code has it.
fn reference(store: &mut StoreInner, element: ValueType, value: &Val) -> Result<u64, Error> {
    #[expect(clippy::cast_possible_truncation, reason = "references have 64 bits")]
    value.to_slot(store, element).map(|slot| slot as u64)
}

/// A global.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Global {
    pub(crate) store: u64,
    pub(crate) place: Place,
    pub(crate) ty: GlobalType,
}

impl Global {
    /// A new global that belongs to no instance.
    ///
    /// # Errors
    /// When the value is of another store, or memory is used up.
    pub fn new(mut store: impl AsStoreMut, mutable: bool, value: &Val) -> Result<Self, Error> {
        let inner = store.pointer_mut().get_mut();
        let slot = value.to_slot(inner, value.ty())?;
        let place = inner.host_cell()?;
        let (cells, offset) = inner.cells_mut(place);
        cells.set(offset, slot);
        Ok(Self { store: inner.id, place, ty: GlobalType { value: value.ty(), mutable } })
    }

    /// Its type.
    #[must_use]
    pub fn ty(self) -> GlobalType {
        self.ty
    }

    /// Its value.
    ///
    /// # Panics
    /// When it is of another store.
    #[must_use]
    pub fn get(self, store: impl AsStore) -> Val {
        let inner = store.pointer().get();
        check(inner, self.store);
        let (cells, offset) = inner.cells(self.place);
        Val::of_slot(inner, self.ty.value, cells.get(offset))
    }

    /// Sets its value.
    ///
    /// # Errors
    /// When it is constant, or the value is of another type or store.
    ///
    /// # Panics
    /// When the global is of another store.
    pub fn set(self, mut store: impl AsStoreMut, value: &Val) -> Result<(), Error> {
        let inner = store.pointer_mut().get_mut();
        check(inner, self.store);
        if !self.ty.mutable {
            return Err(Error::Type("a constant global can't be set".into()));
        }
        let slot = value.to_slot(inner, self.ty.value)?;
        let (cells, offset) = inner.cells_mut(self.place);
        cells.set(offset, slot);
        Ok(())
    }
}

/// A tag: a kind of exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub(crate) store: u64,
    // Its identity is its address.
    pub(crate) place: Place,
    pub(crate) ty: FuncType,
}

impl Tag {
    /// A new tag of exceptions with these values.
    ///
    /// # Errors
    /// When memory is used up.
    pub fn new(mut store: impl AsStoreMut, params: impl IntoIterator<Item = ValueType>) -> Result<Self, Error> {
        let inner = store.pointer_mut().get_mut();
        let place = inner.host_cell()?;
        Ok(Self { store: inner.id, place, ty: FuncType::new(params, []) })
    }

    /// The types of its exceptions' values, as parameters.
    #[must_use]
    pub fn ty(&self) -> &FuncType {
        &self.ty
    }
}

/// Something of the host in the hands of a guest, which can only keep it and give it back. It lives as long as its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExternRef {
    store: u64,
    // One more than its position in the store's list, so that it is not null.
    handle: u64,
}

impl ExternRef {
    /// Gives `value` to a store.
    #[must_use]
    pub fn new(mut store: impl AsStoreMut, value: impl Any + Send + Sync) -> Self {
        let inner = store.pointer_mut().get_mut();
        inner.externs.push(Arc::new(value));
        Self { store: inner.id, handle: inner.externs.len() as u64 }
    }

    /// The value.
    ///
    /// # Panics
    /// When it is of another store.
    #[must_use]
    pub fn value<S: AsStore>(self, store: &S) -> &(dyn Any + Send + Sync) {
        let inner = store.pointer().get();
        check(inner, self.store);
        &*inner.externs[usize::try_from(self.handle - 1).unwrap_or(usize::MAX)]
    }

    pub(crate) fn handle(self, store: &StoreInner) -> Result<u64, Error> {
        if self.store == store.id { Ok(self.handle) } else { Err(Error::Type("an externref of another store".into())) }
    }

    pub(crate) fn of_handle(store: &StoreInner, handle: u64) -> Option<Self> {
        (handle != 0).then_some(Self { store: store.id, handle })
    }
}

/// An exception. One that the host has seen lives as long as its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExnRef {
    store: u64,
    address: u64,
}

impl ExnRef {
    pub(crate) fn address(self, store: &StoreInner) -> Result<u64, Error> {
        if self.store == store.id { Ok(self.address) } else { Err(Error::Type("an exception of another store".into())) }
    }

    pub(crate) fn of_address(store: &StoreInner, address: u64) -> Option<Self> {
        (address != 0).then(|| {
            store.exceptions.hold(address);
            Self { store: store.id, address }
        })
    }
}

impl Func {
    /// Its funcref value.
    pub(crate) fn reference(&self, store: &mut StoreInner) -> Result<u64, Error> {
        let (instance, index) = self.place(store)?;
        store.reference(instance, index).ok_or_else(|| Error::Type("there is no such function".into()))
    }
}
