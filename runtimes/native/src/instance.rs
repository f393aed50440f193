//! Instances.

use crate::error::Error;
use crate::frozen::Frozen;
use crate::func::{Func, Kind, TypedFunc, WasmResults};
use crate::module::Module;
use crate::objects::{Global, Memory, Place, Table, Tag};
use crate::store::{AsStore, StoreInner};
use crate::sys::cells::Cells;
use crate::types::GlobalType;
use crate::value::WasmParams;
use preheat_image::abi::ImportedFunction;
use preheat_image::native::ExternKind;
use preheat_loader::map::MappedCode;
use std::sync::Arc;

/// What a module's imports are, by kind and index.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    pub(crate) functions: Vec<Func>,
    pub(crate) memories: Vec<u32>,
    pub(crate) tables: Vec<u32>,
    pub(crate) globals: Vec<Global>,
    pub(crate) tags: Vec<Tag>,
}

/// An instance in its store.
#[derive(Debug)]
pub(crate) struct InstanceData {
    pub(crate) module: Module,
    /// Its context.
    pub(crate) cells: Cells,
    pub(crate) imports: Arc<Imports>,
    /// Which of the store's memories and tables its first own ones are.
    pub(crate) first_memory: u32,
    pub(crate) first_table: u32,
    /// The frozen state from which it woke.
    pub(crate) frozen: Option<Frozen>,
    /// Whether its frozen call stack goes on, or has gone on, already.
    pub(crate) resumed: bool,
}

impl InstanceData {
    /// Which of the store's memories its memory `index` is.
    pub(crate) fn memory(&self, index: u32) -> Option<u32> {
        let imported = self.module.native().layout.counts.imported_memories;
        let own = self.module.native().layout.counts.memories;
        if index < imported { self.imports.memories.get(index as usize).copied() } else { own_of(index, imported, own, self.first_memory) }
    }

    /// Which of the store's tables its table `index` is.
    pub(crate) fn table(&self, index: u32) -> Option<u32> {
        let imported = self.module.native().layout.counts.imported_tables;
        let own = self.module.native().layout.counts.tables;
        if index < imported { self.imports.tables.get(index as usize).copied() } else { own_of(index, imported, own, self.first_table) }
    }

    /// The code objects of which code may run in its context.
    pub(crate) fn codes(&self) -> impl Iterator<Item = &MappedCode> {
        let resume = self.frozen.as_ref().and_then(|frozen| frozen.inner.frames.as_ref());
        std::iter::once(self.module.code()).chain(resume.map(|frames| frames.resume().code()))
    }

    /// The function `index`; an imported one is what it was imported from. `instance` is the number of this instance.
    pub(crate) fn func(&self, store: u64, instance: u32, index: u32) -> Option<Func> {
        if let Some(import) = self.imports.functions.get(index as usize) {
            return Some(import.clone());
        }
        self.module.native().functions.get(index as usize)?;
        Some(Func(Kind::Guest { store, instance, index }))
    }

    /// The addresses of the code of function `index` and of the context that it is called with.
    pub(crate) fn code_and_context(&self, index: u32) -> Option<(u64, u64)> {
        if let Some(place) = self.module.native().layout.imported_function(index) {
            let import: ImportedFunction = self.cells.get(place);
            return Some((import.code, import.context));
        }
        let code = self.module.native().functions.get(index as usize)?.code.get();
        Some((self.module.text_address(code)?, self.cells.base()))
    }

    /// The global `index`. `instance` is the number of this instance.
    pub(crate) fn global(&self, store: u64, instance: u32, index: u32) -> Option<Global> {
        if let Some(import) = self.imports.globals.get(index as usize) {
            return Some(*import);
        }
        let native = self.module.native();
        let own = index - native.layout.counts.imported_globals;
        let record = native.globals.get(own as usize)?;
        let value = crate::module::value_type(record.ty.get().into()).ok()?;
        let place = Place::Instance { instance, offset: native.layout.global(own)? };
        Some(Global { store, place, ty: GlobalType { value, mutable: record.mutable.get() != 0 } })
    }

    /// The identity of the tag `index`: the address of its place.
    pub(crate) fn tag_identity(&self, index: u32) -> Option<u64> {
        let layout = &self.module.native().layout;
        if let Some(place) = layout.imported_tag(index) {
            return Some(self.cells.get(place));
        }
        Some(self.cells.address(layout.tag(index.checked_sub(layout.counts.imported_tags)?)?))
    }

    /// The tag `index`. `instance` is the number of this instance.
    fn tag(&self, store: u64, instance: u32, index: u32) -> Option<Tag> {
        if let Some(import) = self.imports.tags.get(index as usize) {
            return Some(import.clone());
        }
        let native = self.module.native();
        let own = index - native.layout.counts.imported_tags;
        let ty = native.types.get(native.tags.get(own as usize)?.get() as usize)?;
        let place = Place::Instance { instance, offset: native.layout.tag(own)? };
        Some(Tag { store, place, ty: crate::module::func_type(native, ty).ok()? })
    }
}

fn own_of(index: u32, imported: u32, own: u32, first: u32) -> Option<u32> {
    let own_index = index.checked_sub(imported).filter(|index| *index < own)?;
    first.checked_add(own_index)
}

/// An instance of a module in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    pub(crate) store: u64,
    pub(crate) index: u32,
}

/// Something that an instance exports, or that can be imported.
#[derive(Debug, Clone)]
pub enum Extern {
    /// A function.
    Func(Func),
    /// A table.
    Table(Table),
    /// A memory.
    Memory(Memory),
    /// A global.
    Global(Global),
    /// A tag.
    Tag(Tag),
}

impl Extern {
    /// The function, if it is one.
    #[must_use]
    pub fn into_func(self) -> Option<Func> {
        if let Self::Func(func) = self { Some(func) } else { None }
    }

    /// The memory, if it is one.
    #[must_use]
    pub fn into_memory(self) -> Option<Memory> {
        if let Self::Memory(memory) = self { Some(memory) } else { None }
    }

    /// The table, if it is one.
    #[must_use]
    pub fn into_table(self) -> Option<Table> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    /// The global, if it is one.
    #[must_use]
    pub fn into_global(self) -> Option<Global> {
        if let Self::Global(global) = self { Some(global) } else { None }
    }
}

impl Instance {
    pub(crate) fn data<S: AsStore>(self, store: &S) -> (&StoreInner, &InstanceData) {
        let inner = store.pointer().get();
        assert!(inner.id == self.store, "an instance of another store");
        (inner, &inner.instances[self.index as usize])
    }

    /// Its module.
    ///
    /// # Panics
    /// When it is of another store, as all methods do.
    #[must_use]
    pub fn module<S: AsStore>(self, store: &S) -> &Module {
        &self.data(store).1.module
    }

    /// The export with this name, found without a look at the others.
    #[must_use]
    pub fn export(self, store: impl AsStore, name: &str) -> Option<Extern> {
        let (inner, data) = self.data(&store);
        let export = data.module.native().export(name).ok()??;
        self.extern_of(inner, data, export.kind.get(), export.index.get())
    }

    fn extern_of(self, inner: &StoreInner, data: &InstanceData, kind: u32, index: u32) -> Option<Extern> {
        Some(match ExternKind::from_number(kind)? {
            ExternKind::Function => Extern::Func(data.func(inner.id, self.index, index)?),
            ExternKind::Table => Extern::Table(Table { store: inner.id, index: data.table(index)? }),
            ExternKind::Memory => Extern::Memory(Memory { store: inner.id, index: data.memory(index)? }),
            ExternKind::Global => Extern::Global(data.global(inner.id, self.index, index)?),
            ExternKind::Tag => Extern::Tag(data.tag(inner.id, self.index, index)?),
        })
    }

    /// All exports, ordered by name.
    #[must_use]
    pub fn exports(self, store: impl AsStore) -> Vec<(String, Extern)> {
        let (inner, data) = self.data(&store);
        let native = data.module.native();
        let of = |export: &preheat_image::native::ExportRecord| {
            let value = self.extern_of(inner, data, export.kind.get(), export.index.get())?;
            Some((native.string(export.name).ok()?.to_owned(), value))
        };
        native.exports.iter().filter_map(of).collect()
    }

    /// The exported function with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn func(self, store: impl AsStore, name: &str) -> Result<Func, Error> {
        let func = self.export(store, name).and_then(Extern::into_func);
        func.ok_or_else(|| Error::Type(format!("the instance exports no function `{name}`")))
    }

    /// The exported function with this name, with a type that Rust knows.
    ///
    /// # Errors
    /// When there is none, or it is of another type.
    pub fn typed_func<P: WasmParams, R: WasmResults>(self, store: impl AsStore, name: &str) -> Result<TypedFunc<P, R>, Error> {
        self.func(&store, name)?.typed(&store)
    }

    /// The exported memory with this name.
    #[must_use]
    pub fn memory(self, store: impl AsStore, name: &str) -> Option<Memory> {
        self.export(store, name)?.into_memory()
    }
}
