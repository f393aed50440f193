//! Frozen states, ready to wake.
//!
//! What is the same for all instances that wake from a state is prepared here, once: templates of memories and tables, and the bytes of
//! globals. What a snapshot says is checked here against the module, so that nothing of it is believed later.

use crate::engine::Engine;
use crate::error::Error;
use crate::instantiate::Beginning;
use crate::module::{Module, maximum, table_template, value_type, windows};
use crate::resume::ResumeCode;
use crate::sys::wake::WakeFrames;
use preheat_image::abi::{MEMORY_RESERVATION, VALUE_SIZE, ValueType, WASM_PAGE, local_entry};
use preheat_image::heap::{self, HeapSnapshot, Value, flatten};
use preheat_image::native::{NativeCode, SegmentMode};
use preheat_image::{Digest, FormatError};
use preheat_loader::TrustedFile;
use preheat_loader::map::{MappedFile, PAGE, Run, Template};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A heap snapshot in memory. Cheap to clone; images that share a base share its file.
#[derive(Debug, Clone)]
pub struct HeapFile {
    digest: Digest,
    file: Arc<MappedFile>,
}

impl HeapFile {
    /// Maps a snapshot of the store.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn map(file: TrustedFile) -> Result<Self, Error> {
        Ok(Self { digest: file.artefact().digest, file: Arc::new(MappedFile::map(file)?) })
    }

    /// The same, or what `engine` mapped of the same snapshot in this way, if somebody still has it.
    ///
    /// # Errors
    /// As [`HeapFile::map`].
    pub fn shared(engine: &Engine, file: TrustedFile) -> Result<Self, Error> {
        let digest = file.artefact().digest;
        let map = || Ok(MappedFile::map(file)?);
        Ok(Self { digest, file: engine.sharing().heaps.get(digest, |_| true, map)? })
    }

    /// Takes a snapshot that was just made.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Ok(Self { digest: Digest::of(bytes), file: Arc::new(MappedFile::of_bytes(bytes)?) })
    }

    /// Digest of the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What is in it.
    ///
    /// # Errors
    /// When it is no heap snapshot of this version, or damaged.
    pub fn snapshot(&self) -> Result<HeapSnapshot<'_>, FormatError> {
        HeapSnapshot::parse(self.file.bytes())
    }
}

/// A frozen state of a module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Frozen {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    engine: Engine,
    pub(crate) module: Module,
    top: HeapFile,
    memories: Vec<(Arc<Template>, u64)>,
    tables: Vec<(Arc<Template>, u64)>,
    globals: Vec<[u8; VALUE_SIZE as usize]>,
    /// Own globals that are functions: which, and which function.
    pub(crate) function_globals: Vec<(u32, u32)>,
    /// Entries of own tables that are not the same for every instance: table, entry, and which function.
    pub(crate) function_entries: Vec<(u32, usize, u32)>,
    /// Whether each data segment and each element segment was dropped.
    pub(crate) dropped_data: Vec<u8>,
    pub(crate) dropped_elements: Vec<u8>,
    /// The call stack, if a function was running.
    pub(crate) frames: Option<WakeFrames>,
    /// The host's own state.
    host: Vec<u8>,
}

fn unfit(what: String) -> Error {
    Error::Frozen(what)
}

/// Whether element segments are copied into a table at instantiation, to places that the code object does not know.
pub(crate) fn has_active_elements(native: &NativeCode<'_>, table: u32) -> bool {
    let active = |mode: u32| SegmentMode::from_number(mode) == Some(SegmentMode::Active);
    native.element_segments.iter().any(|segment| active(segment.mode.get()) && segment.table.get() == table)
}

impl Frozen {
    /// Prepares the state in `layers` of instances of `module`: each layer is over the one before, the first over nothing, and the last
    /// is the state. `resume` is needed if it has a call stack.
    ///
    /// # Errors
    /// When a layer is damaged, not over the one before, or of another module; or the state is not one that the module can have; or the resume
    /// object is not the module's or does not have what the call stack needs.
    pub fn load(module: &Module, layers: &[HeapFile], resume: Option<&ResumeCode>) -> Result<Self, Error> {
        let native = module.native();
        let snapshots = layers.iter().map(HeapFile::snapshot).collect::<Result<Vec<_>, _>>()?;
        let (Some(top), Some(top_file)) = (snapshots.last(), layers.last()) else {
            return Err(unfit("there is no heap snapshot".into()));
        };
        let mut below = None;
        for (snapshot, layer) in snapshots.iter().zip(layers) {
            if snapshot.source() != native.object.source {
                let (of, other) = (snapshot.source(), native.object.source);
                return Err(unfit(format!("heap snapshot {} is of module {of}, not {other}", layer.digest())));
            }
            if snapshot.base() != below {
                let named = |base: Option<Digest>| base.map_or("no base".into(), |base| base.to_string());
                let (over, found) = (named(snapshot.base()), named(below));
                return Err(unfit(format!("heap snapshot {} is over {over}, not {found}", layer.digest())));
            }
            below = Some(layer.digest());
        }
        if layers.len() > 1 {
            // What it is over is shared, and this is its own.
            top_file.file.copy_by_reading();
        }
        let (globals, function_globals) = globals(native, top)?;
        let mut function_entries = Vec::new();
        let dropped = [
            ("data", native.data_segments.len(), top.dropped_data().len()),
            ("element", native.element_segments.len(), top.dropped_elements().len()),
        ];
        for (kind, count, found) in dropped {
            if count != found {
                return Err(unfit(format!("it has {found} {kind} segments, the module {count}")));
            }
        }
        let frames = match (resume, top.frames().len()) {
            (_, 0) => None,
            (Some(resume), _) if resume.module().is(module) => Some(WakeFrames::new(resume, top.frames())?),
            (Some(_), _) => return Err(unfit("the resume object is of another module".into())),
            (None, _) => return Err(unfit("there is no resume object for its call stack".into())),
        };
        let inner = Inner {
            frames,
            engine: module.engine().clone(),
            memories: memories(native, layers, &snapshots, top)?,
            tables: tables(module, top, &mut function_entries)?,
            globals,
            function_globals,
            function_entries,
            dropped_data: top.dropped_data().to_vec(),
            dropped_elements: top.dropped_elements().to_vec(),
            host: top.host().to_vec(),
            module: module.clone(),
            top: top_file.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The module.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.inner.module
    }

    /// Makes slots for `count` instances ahead, so that the first ones need not wait for it.
    ///
    /// # Errors
    /// When the engine's slots are used up, or the operating system refuses.
    pub fn prepare(&self, count: usize) -> Result<(), Error> {
        let engine = &self.inner.engine;
        for (templates, pool) in [(&self.inner.memories, engine.memories()), (&self.inner.tables, engine.tables())] {
            for (template, _) in templates {
                pool.prepare_for(template, count).map_err(Error::system("prepare a slot"))?;
            }
        }
        Ok(())
    }

    /// Whether a function was running, which [`Instance::resume`](crate::Instance::resume) lets go on.
    #[must_use]
    pub fn has_stack(&self) -> bool {
        self.inner.frames.is_some()
    }

    /// What the host noted of its own state when it was frozen.
    #[must_use]
    pub fn host(&self) -> &[u8] {
        &self.inner.host
    }

    /// Gives up what was looked at of a layer of its own while it was loaded: instances get its pages from the file.
    pub fn settle(&self) {
        self.inner.top.file.forget();
    }

    /// Digest of the snapshot that is the state.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.top.digest()
    }
}

impl Inner {
    /// How instances begin.
    pub(crate) fn beginning(&self) -> Beginning<'_> {
        Beginning { memories: &self.memories, tables: &self.tables, globals: &self.globals }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No instance that woke from it is left: they would have it.
        self.memories.iter().for_each(|(template, _)| self.engine.memories().forget(template));
        self.tables.iter().for_each(|(template, _)| self.engine.tables().forget(template));
    }
}

/// Whether `found` are the indices of all own things of one kind.
fn all_own(what: &str, imported: u32, own: u32, found: impl Iterator<Item = u32>) -> Result<(), Error> {
    let found: Vec<u32> = found.collect();
    if found.iter().copied().eq(imported..imported.saturating_add(own)) {
        return Ok(());
    }
    Err(unfit(format!("it has the {what} {found:?}, the module has {own} of its own from {imported} on")))
}

fn memories(
    native: &NativeCode<'_>,
    layers: &[HeapFile],
    snapshots: &[HeapSnapshot<'_>],
    top: &HeapSnapshot<'_>,
) -> Result<Vec<(Arc<Template>, u64)>, Error> {
    let counts = &native.layout.counts;
    all_own("memories", counts.imported_memories, counts.memories, top.memories().iter().map(|memory| memory.index.get()))?;
    let mut windows = windows(native);
    let of_memory = |(plan, memory): (&preheat_image::native::MemoryPlan, &heap::Memory)| {
        let (index, size) = (memory.index.get(), memory.size.get());
        let most = maximum(plan.max.get()).unwrap_or(u64::MAX).min(MEMORY_RESERVATION / WASM_PAGE);
        let pages = Some(size / WASM_PAGE).filter(|pages| (plan.min.get()..=most).contains(pages));
        let pages = pages.ok_or_else(|| unfit(format!("memory {index} has {size} bytes, which the module's can't have")))?;
        let bytes = |pages: u64| pages.checked_mul(PAGE as u64).and_then(|bytes| usize::try_from(bytes).ok());
        let run = |piece: &heap::Piece| {
            let (at, len, offset) = (bytes(piece.first)?, bytes(piece.pages)?, usize::try_from(piece.offset).ok()?);
            Some(Run { at, len, file: layers.get(piece.layer)?.file.clone(), offset })
        };
        let damaged = || unfit(format!("the pages of memory {index} are out of bounds"));
        let runs = flatten(snapshots, index).iter().map(run).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let template = Template::new(usize::try_from(size).map_err(|_| damaged())?, runs, windows).map_err(|_| damaged())?;
        let written = top.written().iter().filter(|run| top.memories().get(run.memory.get() as usize) == Some(memory));
        let written = written.filter_map(|run| Some(bytes(run.first.get())?..bytes(run.first.get() + u64::from(run.pages.get()))?));
        let template = template.with_short_copied().with_written(written);
        windows -= template.windows();
        Ok((Arc::new(template), pages))
    };
    native.memories.iter().zip(top.memories()).map(of_memory).collect()
}

/// The bytes of own globals, and which of them are functions.
#[expect(clippy::type_complexity, reason = "used once")]
fn globals(native: &NativeCode<'_>, top: &HeapSnapshot<'_>) -> Result<(Vec<[u8; 16]>, Vec<(u32, u32)>), Error> {
    let counts = &native.layout.counts;
    all_own("globals", counts.imported_globals, counts.globals, top.globals().iter().map(|global| global.index.get()))?;
    let (mut bytes, mut functions) = (Vec::new(), Vec::new());
    for (own, (record, global)) in (0..).zip(native.globals.iter().zip(top.globals())) {
        let ty = value_type(record.ty.get().into())?;
        if global.value.ty() != Some(ty) {
            return Err(unfit(format!("global {} has a value of kind {}, not {}", global.index, global.value.kind, ty.name())));
        }
        if let Some(function) = global.value.as_function() {
            functions.push((own, known_function(native, function)?));
        }
        bytes.push(plain_bytes(&global.value));
    }
    Ok((bytes, functions))
}

/// The bytes of a value that are the same for every instance.
fn plain_bytes(value: &Value) -> [u8; 16] {
    if value.ty() == Some(ValueType::FuncRef) { [0; 16] } else { value.bytes }
}

fn known_function(native: &NativeCode<'_>, function: u32) -> Result<u32, Error> {
    let known = (function as usize) < native.functions.len();
    known.then_some(function).ok_or_else(|| unfit(format!("it has function {function}, the module only {}", native.functions.len())))
}

fn tables(
    module: &Module,
    top: &HeapSnapshot<'_>,
    function_entries: &mut Vec<(u32, usize, u32)>,
) -> Result<Vec<(Arc<Template>, u64)>, Error> {
    let native = module.native();
    let counts = &native.layout.counts;
    all_own("tables", counts.imported_tables, counts.tables, top.tables().map(|(table, _)| table.index.get()))?;
    let mut tables = Vec::new();
    for (own, (plan, (table, ranges))) in (0..).zip(native.tables.iter().zip(top.tables())) {
        let (index, len) = (table.index.get(), u64::from(table.len.get()));
        let most = maximum(plan.max.get()).unwrap_or(u64::MAX).min(module.engine().config().table_reservation);
        if !(plan.min.get()..=most).contains(&len) {
            return Err(unfit(format!("table {index} has {len} entries, which the module's can't have")));
        }
        let covered: usize = ranges.iter().map(|(_, elements)| elements.len()).sum();
        if has_active_elements(native, index) && covered as u64 != len {
            return Err(unfit(format!("table {index} is not there as a whole")));
        }
        let element = value_type(plan.element.get())?;
        // Imported functions: as the module begins, unless the state has something else there.
        let mut imported: BTreeMap<usize, u32> = BTreeMap::new();
        for fixup in native.table_fixups.iter().filter(|fixup| fixup.table.get() == own && u64::from(fixup.index.get()) < plan.min.get()) {
            imported.insert(fixup.index.get() as usize, known_function(native, fixup.function.get())?);
        }
        let mut patches: Vec<(usize, Box<[u8]>)> = Vec::new();
        for (first, elements) in ranges {
            let first = first as usize;
            let mut bytes = Vec::with_capacity(elements.len() * 8);
            for (entry, function) in (first..).zip(elements.iter().map(|element| heap::function(element.get()))) {
                imported.remove(&entry);
                if function.is_some() && element != ValueType::FuncRef {
                    return Err(unfit(format!("table {index} is not one of functions")));
                }
                let function = function.map(|function| known_function(native, function)).transpose()?;
                let record = function.and_then(|function| native.functions.get(function as usize));
                let local =
                    record.and_then(|record| module.text_address(record.code.get()).and(local_entry(record.code.get(), record.ty.get())));
                if let (Some(function), None) = (function, local) {
                    imported.insert(entry, function);
                }
                bytes.extend_from_slice(&local.unwrap_or(0).to_ne_bytes());
            }
            patches.push((first * 8, bytes.into()));
        }
        function_entries.extend(imported.into_iter().map(|(entry, function)| (own, entry, function)));
        let template = table_template(module.code(), plan, len)?.with_patches(patches);
        let template = template.map_err(|_| unfit(format!("the entries of table {index} are out of bounds")))?;
        tables.push((Arc::new(template), len));
    }
    Ok(tables)
}
