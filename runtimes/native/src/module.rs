//! Code that is loaded.

use crate::engine::Engine;
use crate::error::Error;
use crate::instantiate::Beginning;
use crate::registry::TEXTS;
use crate::types::{ExternType, FuncType, GlobalType, MemoryType, TableType, type_ids};
use preheat_image::abi::{MEMORY_RESERVATION, NONE, PAGE, ValueType, WASM_PAGE};
use preheat_image::native::{ExternKind, ImportRecord, NativeCode, TablePlan, TypeRecord};
use preheat_image::{Digest, FormatError};
use preheat_loader::TrustedCode;
use preheat_loader::map::{MappedCode, Run, Template};
use std::sync::Arc;

/// A module that is ready to be instantiated. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    engine: Engine,
    code: Box<MappedCode>,
    digest: Digest,
    // By number of the type.
    type_ids: Vec<u32>,
    // Own ones, with their sizes in Wasm pages and entries.
    memories: Vec<(Arc<Template>, u64)>,
    tables: Vec<(Arc<Template>, u64)>,
    registered: usize,
}

/// Most mappings of an instance: 24. Its context and its stack with guard need three, each table up to three and each memory two; what is
/// left is for pages of the image in memories, at two a run.
const MAPPINGS: usize = 24;

/// How many parts of files can be mapped in the memories of an instance.
pub(crate) fn windows(native: &NativeCode<'_>) -> usize {
    MAPPINGS.saturating_sub(3 + 3 * native.tables.len() + 2 * native.memories.len()) / 2
}

/// How a table of `len` entries begins that is like `plan` in its first ones.
pub(crate) fn table_template(code: &MappedCode, plan: &TablePlan, len: u64) -> Result<Template, FormatError> {
    let bytes = len.checked_mul(8).and_then(|len| len.checked_next_multiple_of(PAGE));
    let bytes = size(bytes.ok_or_else(|| damaged(format!("a table of {len} entries")))?)?;
    let entries = code.native().initial_entries(plan)?;
    let run = Run {
        at: 0,
        len: size(entries.end.next_multiple_of(PAGE) - entries.start)?,
        file: code.file().clone(),
        offset: size(entries.start)?,
    };
    let runs = if entries.is_empty() { vec![] } else { vec![run] };
    let template = Template::new(bytes, runs, 1).map_err(|_| damaged("a table's entries are out of bounds".into()))?;
    Ok(template.with_short_copied())
}

fn damaged(what: String) -> FormatError {
    FormatError::Damaged { format: "native code object", what }
}

fn size(bytes: u64) -> Result<usize, FormatError> {
    usize::try_from(bytes).map_err(|_| damaged(format!("a size of {bytes} bytes")))
}

impl Inner {
    fn load(engine: &Engine, code: TrustedCode) -> Result<Self, Error> {
        if code.engine() != "native" {
            return Err(Error::Code(format!("a code object of the engine {}", code.engine())));
        }
        let digest = code.file().artefact().digest;
        let code = Box::new(MappedCode::map(code)?);
        let native = code.native();
        if native.object.cpu > engine.cpu() {
            return Err(Error::Code(format!("code for {}, but this CPU is {}", native.object.cpu.name(), engine.cpu().name())));
        }
        let types = native.types.iter().map(|ty| native.signature(ty).map(|(params, results)| (ty.hash.get(), params, results)));
        let type_ids = type_ids(types.collect::<Result<Vec<_>, _>>()?.into_iter());
        let mut windows = windows(native);
        let memories = native.memories.iter().map(|plan| {
            let pages = Some(plan.min.get()).filter(|pages| *pages <= MEMORY_RESERVATION / WASM_PAGE);
            let len = pages.map(|pages| pages * WASM_PAGE).ok_or_else(|| damaged(format!("a memory of {} pages", plan.min)))?;
            let of_run = |run: &preheat_image::native::MemoryRun| {
                Ok(Run {
                    at: size(u64::from(run.first.get()) * PAGE)?,
                    len: size(u64::from(run.pages.get()) * PAGE)?,
                    file: code.file().clone(),
                    offset: size(native.memory_image.offset + run.offset.get())?,
                })
            };
            let all = native.runs(plan)?.iter().filter(|run| run.pages.get() > 0).map(of_run).collect::<Result<Vec<_>, FormatError>>()?;
            let template = Template::new(size(len)?, all, windows).map_err(|_| damaged("a memory's pages are out of bounds".into()))?;
            let template = template.with_short_copied();
            windows -= template.windows();
            Ok((Arc::new(template), plan.min.get()))
        });
        let memories = memories.collect::<Result<Vec<_>, FormatError>>()?;
        let table = |plan: &TablePlan| Ok((Arc::new(table_template(&code, plan, plan.min.get())?), plan.min.get()));
        let tables = native.tables.iter().map(table);
        let tables = tables.collect::<Result<Vec<_>, FormatError>>()?;
        check_imports(native)?;
        let text = code.text();
        let registered = TEXTS.add(&text, &raw const *code).ok_or_else(|| Error::Limit("a million modules in one process".into()))?;
        Ok(Self { engine: engine.clone(), code, digest, type_ids, memories, tables, registered })
    }
}

impl Module {
    /// Maps a code object. What that costs depends on how many types and memories the module has, not on its size.
    ///
    /// # Errors
    /// When it is not the native engine's, is damaged or of another version, needs another CPU, or the operating system refuses.
    pub fn load(engine: &Engine, code: TrustedCode) -> Result<Self, Error> {
        Ok(Self { inner: Arc::new(Inner::load(engine, code)?) })
    }

    /// The same, or what `engine` loaded of the same code object in this way, if somebody still has it.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn shared(engine: &Engine, code: TrustedCode) -> Result<Self, Error> {
        let digest = code.file().artefact().digest;
        let native = code.engine() == "native";
        Ok(Self { inner: engine.sharing().modules.get(digest, |_| native, || Inner::load(engine, code))? })
    }

    /// The engine that loaded it.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Digest of the code object.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// Whether it is this very module, not only the same code loaded again.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn code(&self) -> &MappedCode {
        &self.inner.code
    }

    pub(crate) fn native(&self) -> &NativeCode<'_> {
        self.inner.code.native()
    }

    /// The process-wide numbers of its types.
    pub(crate) fn type_ids(&self) -> &[u32] {
        &self.inner.type_ids
    }

    /// The process-wide number of a function's type.
    pub(crate) fn type_id_of(&self, function: u32) -> Option<u32> {
        let record = self.native().functions.get(function as usize)?;
        self.inner.type_ids.get(record.ty.get() as usize).copied()
    }

    /// How its instances begin.
    pub(crate) fn beginning(&self) -> Beginning<'_> {
        Beginning { memories: &self.inner.memories, tables: &self.inner.tables, globals: self.native().global_values }
    }

    /// The address of a place in the text.
    pub(crate) fn text_address(&self, offset: u32) -> Option<u64> {
        let text = self.inner.code.text();
        let address = (text.start as u64).checked_add(u64::from(offset)).filter(|_| offset != NONE)?;
        (address < text.end as u64).then_some(address)
    }

    /// Whether its code can be interrupted, and so have a deadline.
    #[must_use]
    pub fn interruptible(&self) -> bool {
        self.native().interruptible()
    }

    /// The type of a function.
    pub(crate) fn func_type(&self, function: u32) -> Result<FuncType, FormatError> {
        let native = self.native();
        func_type(native, native.type_of(function)?)
    }

    /// What it imports, in its order.
    ///
    /// # Errors
    /// When the tables are damaged.
    pub fn imports(&self) -> Result<Vec<ImportType<'_>>, Error> {
        let native = self.native();
        let import = |record: &ImportRecord| {
            Ok(ImportType { module: native.string(record.module)?, name: native.string(record.name)?, ty: import_type(native, record)? })
        };
        Ok(native.imports.iter().map(import).collect::<Result<_, FormatError>>()?)
    }

    /// What it exports, ordered by name.
    ///
    /// # Errors
    /// When the tables are damaged.
    pub fn exports(&self) -> Result<Vec<ExportType<'_>>, Error> {
        let native = self.native();
        let export = |record: &preheat_image::native::ExportRecord| {
            Ok(ExportType { name: native.string(record.name)?, ty: self.extern_type(record.kind.get(), record.index.get())? })
        };
        Ok(native.exports.iter().map(export).collect::<Result<_, FormatError>>()?)
    }

    /// The type of something by its index.
    fn extern_type(&self, kind: u32, index: u32) -> Result<ExternType, FormatError> {
        let native = self.native();
        let kind = ExternKind::from_number(kind).ok_or_else(|| damaged(format!("an export of kind {kind}")))?;
        let imported = native.imports.iter().filter(|import| import.kind.get() == kind as u32);
        let count = u32::try_from(imported.clone().count()).unwrap_or(u32::MAX);
        if let Some(import) = imported.clone().nth(index as usize) {
            return import_type(native, import);
        }
        let own = (index - count) as usize;
        let missing = || damaged(format!("an export of what is not there: {index} of kind {kind:?}"));
        Ok(match kind {
            ExternKind::Function => ExternType::Func(self.func_type(index)?),
            ExternKind::Table => {
                let plan = native.tables.get(own).ok_or_else(missing)?;
                ExternType::Table(TableType { element: value_type(plan.element.get())?, min: plan.min.get(), max: maximum(plan.max.get()) })
            }
            ExternKind::Memory => {
                let plan = native.memories.get(own).ok_or_else(missing)?;
                ExternType::Memory(MemoryType { min: plan.min.get(), max: maximum(plan.max.get()) })
            }
            ExternKind::Global => {
                let global = native.globals.get(own).ok_or_else(missing)?;
                ExternType::Global(GlobalType { value: value_type(global.ty.get().into())?, mutable: global.mutable.get() != 0 })
            }
            ExternKind::Tag => {
                let ty = native.tags.get(own).and_then(|ty| native.types.get(ty.get() as usize)).ok_or_else(missing)?;
                ExternType::Tag(func_type(native, ty)?)
            }
        })
    }
}

/// The imports of each kind have to be as many as the header says: their places in the context follow from it.
fn check_imports(native: &NativeCode<'_>) -> Result<(), FormatError> {
    let counts = &native.layout.counts;
    let expected = [
        (ExternKind::Function, counts.imported_functions),
        (ExternKind::Table, counts.imported_tables),
        (ExternKind::Memory, counts.imported_memories),
        (ExternKind::Global, counts.imported_globals),
        (ExternKind::Tag, counts.imported_tags),
    ];
    for (kind, count) in expected {
        let found = native.imports.iter().filter(|import| import.kind.get() == kind as u32).count();
        if found != count as usize {
            return Err(damaged(format!("{found} imports of kind {kind:?}, not {count}")));
        }
    }
    Ok(())
}

pub(crate) fn func_type(native: &NativeCode<'_>, ty: &TypeRecord) -> Result<FuncType, FormatError> {
    native.signature(ty).map(|(params, results)| FuncType::of_numbers(params, results))
}

pub(crate) fn value_type(number: u32) -> Result<ValueType, FormatError> {
    u8::try_from(number).ok().and_then(ValueType::from_number).ok_or_else(|| damaged(format!("value type {number}")))
}

pub(crate) fn maximum(max: u64) -> Option<u64> {
    (max != u64::MAX).then_some(max)
}

fn import_type(native: &NativeCode<'_>, record: &ImportRecord) -> Result<ExternType, FormatError> {
    let signature = || {
        let ty = native.types.get(record.ty.get() as usize).ok_or_else(|| damaged(format!("an import of type {}", record.ty)))?;
        func_type(native, ty)
    };
    let (min, max) = (record.min.get(), maximum(record.max.get()));
    Ok(match ExternKind::from_number(record.kind.get()) {
        Some(ExternKind::Function) => ExternType::Func(signature()?),
        Some(ExternKind::Table) => ExternType::Table(TableType { element: value_type(record.ty.get())?, min, max }),
        Some(ExternKind::Memory) => ExternType::Memory(MemoryType { min, max }),
        Some(ExternKind::Global) => {
            ExternType::Global(GlobalType { value: value_type(record.ty.get())?, mutable: record.mutable.get() != 0 })
        }
        Some(ExternKind::Tag) => ExternType::Tag(signature()?),
        None => return Err(damaged(format!("an import of kind {}", record.kind))),
    })
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No instance of it is left: they would have it.
        TEXTS.remove(self.registered);
        self.memories.iter().for_each(|(template, _)| self.engine.memories().forget(template));
        self.tables.iter().for_each(|(template, _)| self.engine.tables().forget(template));
    }
}

/// Something that a module imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportType<'a> {
    /// From which module.
    pub module: &'a str,
    /// Under which name.
    pub name: &'a str,
    /// What it must be.
    pub ty: ExternType,
}

/// Something that a module exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportType<'a> {
    /// Under which name.
    pub name: &'a str,
    /// What it is.
    pub ty: ExternType,
}
