//! Puts everything together: text with all references resolved, and the tables of the code object.

use crate::codegen::{Compiled, Target};
use crate::constants::Init;
use crate::module::{Elements, ImportType, Module, Placement, narrow};
use crate::parallel::{Called, ModuleCode};
use crate::signature::FunctionType;
use crate::{CompileError, CompileOptions, segments};
use preheat_image::abi::NONE;
use preheat_image::native::{
    AddressRecord, CallSite, ConstKind, ConstOp, DataSegment, ElementSegment, ExportRecord, Expression, ExternKind, FunctionRange,
    FunctionRecord, GlobalRecord, HandlerRecord, ImportRecord, NameRecord, NativeParts, RangeKind, SegmentMode, SiteRecord, StringRange,
    TypeRecord,
};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use zerocopy::little_endian::U32;

/// What fills the gaps between functions: a trap.
const INT3: u8 = 0xcc;
/// Displacements in the text are signed 32-bit numbers.
const MAX_TEXT: usize = i32::MAX as usize;

/// Links the code of a module. `bodies` says where the bodies of its own functions are in the Wasm, `order` which of them stands where in the
/// text.
pub(crate) fn link(
    module: &Module<'_>,
    mut code: ModuleCode,
    bodies: &[(u32, u32)],
    order: &[usize],
    options: &CompileOptions,
) -> Result<NativeParts, CompileError> {
    let mut parts =
        NativeParts { interruptible: options.interruptible, capture: options.capture, start: module.start, ..NativeParts::default() };
    let counts = module.imported();
    parts.imported_functions = counts.imported_functions;
    parts.imported_memories = counts.imported_memories;
    parts.imported_globals = counts.imported_globals;
    parts.imported_tables = counts.imported_tables;
    parts.imported_tags = counts.imported_tags;

    let mut text = Text::new(&mut parts);
    let imported = counts.imported_functions;
    let mut functions = vec![NONE; code.functions.len()];
    for position in order {
        let compiled = std::mem::take(&mut code.functions[*position]);
        let index = imported + narrow(*position, "the functions")?;
        functions[*position] =
            text.place(compiled, RangeKind::Function, index, bodies[*position], |parts| function_name(parts, module, index))?;
    }
    let mut enter = HashMap::new();
    for (ty, compiled) in code.enter {
        enter.insert(ty, text.place(compiled, RangeKind::Enter, ty, (0, 0), |parts| name(parts, &format!("enter[{ty}]")))?);
    }
    let mut host = HashMap::new();
    for (ty, compiled) in code.host {
        host.insert(ty, text.place(compiled, RangeKind::Host, ty, (0, 0), |parts| name(parts, &format!("host[{ty}]")))?);
    }
    text.place_called(code.called)?;
    text.resolve()?;

    types(&mut parts, &module.types, &enter, &host)?;
    parts.functions = functions_by_index(module, &functions);
    imports_and_exports(&mut parts, module)?;
    // They were written down in the order of the text.
    parts.names.sort_by_key(|name| name.function.get());
    names(&mut parts, module);
    globals(&mut parts, module);
    parts.tags = module.tags[counts.imported_tags as usize..].iter().map(|ty| U32::new(*ty)).collect();

    parts.const_ops.clone_from(&module.constants.ops);
    let tables = segments::tables(module, &parts.functions)?;
    let memories = segments::memories(module, &tables)?;
    element_segments(&mut parts, module, &tables.modes)?;
    data_segments(&mut parts, module, &memories.modes)?;
    (parts.tables, parts.table_fixups, parts.table_image) = (tables.plans, tables.fixups, tables.image);
    (parts.memories, parts.memory_runs, parts.memory_image) = (memories.plans, memories.runs, memories.image);
    Ok(parts)
}

/// Text that is being put together.
pub(crate) struct Text<'p> {
    parts: &'p mut NativeParts,
    places: HashMap<Target, u32>,
    relocations: Vec<(u32, Target, i64)>,
}

impl<'p> Text<'p> {
    pub(crate) fn new(parts: &'p mut NativeParts) -> Self {
        // The empty name, to which symbols without name lead.
        parts.strings.push(0);
        Self { parts, places: HashMap::new(), relocations: Vec::new() }
    }

    /// Appends stubs and helpers.
    pub(crate) fn place_called(&mut self, called: Called) -> Result<(), CompileError> {
        for (libcall, compiled) in called.libcalls {
            let number = u32::from(libcall.number());
            self.place(compiled, RangeKind::Libcall, number, (0, 0), |parts| name(parts, &format!("libcall.{}", libcall.name())))?;
        }
        for (helper, compiled) in called.helpers {
            self.place(compiled, RangeKind::Helper, helper.number(), (0, 0), |parts| name(parts, &format!("helper.{}", helper.name())))?;
        }
        Ok(())
    }

    /// Appends code and its records; gives where it begins.
    pub(crate) fn place(
        &mut self,
        compiled: Compiled,
        kind: RangeKind,
        index: u32,
        (body, body_size): (u32, u32),
        name: impl FnOnce(&mut NativeParts) -> Result<u32, CompileError>,
    ) -> Result<u32, CompileError> {
        let target = match kind {
            RangeKind::Function => Some(Target::Function(index)),
            RangeKind::Libcall => Some(Target::Libcall(index)),
            RangeKind::Helper => Some(Target::Helper(index)),
            RangeKind::Enter | RangeKind::Host | RangeKind::Import => None,
        };
        let name = name(self.parts)?;
        let parts = &mut *self.parts;
        let start = parts.text.len().next_multiple_of(compiled.alignment.max(1) as usize);
        if start.checked_add(compiled.code.len()).is_none_or(|end| end > MAX_TEXT) {
            return Err(CompileError::Limit { what: "the text".into() });
        }
        parts.text.resize(start, INT3);
        parts.text.extend_from_slice(&compiled.code);
        let start = narrow(start, "the text")?;
        if let Some(target) = target {
            self.places.insert(target, start);
        }
        self.relocations.extend(compiled.relocations.iter().map(|at| (start + at.offset, at.target, at.addend)));
        for (offset, code) in &compiled.traps {
            parts.trap_offsets.push((start + offset).into());
            parts.trap_codes.push(code.number());
        }
        parts
            .addresses
            .extend(compiled.addresses.iter().map(|(offset, wasm)| AddressRecord { code: (start + offset).into(), wasm: (*wasm).into() }));
        for site in compiled.call_sites {
            let first = narrow(parts.handlers.len(), "the exception handlers")?;
            parts.call_sites.push(CallSite {
                return_to: (start + site.return_to).into(),
                frame_size: site.frame_size.into(),
                first: first.into(),
                count: narrow(site.handlers.len(), "the exception handlers")?.into(),
            });
            parts.handlers.extend(site.handlers.into_iter().map(|(tag, landing, context)| HandlerRecord {
                tag: tag.into(),
                target: (start + landing).into(),
                context: context.into(),
            }));
        }
        for site in compiled.sites {
            let first = narrow(parts.site_values.len(), "what must be kept at calls")?;
            parts.sites.push(SiteRecord {
                return_to: (start + site.return_to).into(),
                function: site.function.into(),
                site: site.site.into(),
                frame: site.frame.into(),
                first: first.into(),
                count: narrow(site.values.len(), "what must be kept at calls")?.into(),
            });
            parts.site_values.extend(site.values);
        }
        parts.ranges.push(FunctionRange {
            start: start.into(),
            size: narrow(compiled.code.len(), "a function")?.into(),
            kind: (kind as u32).into(),
            index: index.into(),
            body: body.into(),
            body_size: body_size.into(),
        });
        parts.symbol_names.push(name.into());
        Ok(start)
    }

    /// Writes the distances to all targets.
    pub(crate) fn resolve(self) -> Result<(), CompileError> {
        for (offset, target, addend) in self.relocations {
            let failed = |what: &str| CompileError::Codegen { what: "the text".into(), message: format!("{what} {target:?}") };
            let place = self.places.get(&target).ok_or_else(|| failed("there is no"))?;
            let distance = i64::from(*place) + addend - i64::from(offset);
            let distance = i32::try_from(distance).map_err(|_| failed("too far away:"))?;
            let at = self.parts.text.get_mut(offset as usize..).and_then(|rest| rest.first_chunk_mut());
            *at.ok_or_else(|| failed("a reference beyond the end to"))? = distance.to_le_bytes();
        }
        Ok(())
    }
}

/// Appends a symbol's name; gives where it is.
pub(crate) fn name(parts: &mut NativeParts, name: &str) -> Result<u32, CompileError> {
    let at = narrow(parts.strings.len(), "the names of functions")?;
    parts.strings.extend_from_slice(name.as_bytes());
    parts.strings.push(0);
    Ok(at)
}

/// Appends the name of a function, with a record if it has one of its own.
fn function_name(parts: &mut NativeParts, module: &Module<'_>, index: u32) -> Result<u32, CompileError> {
    let Some(own) = module.name(index) else { return name(parts, &format!("function[{index}]")) };
    let at = name(parts, own)?;
    let len = narrow(own.len(), "the name of a function")?;
    parts.names.push(NameRecord { function: index.into(), name: StringRange { offset: at.into(), len: len.into() } });
    Ok(at)
}

/// Names of imported functions, before those of own ones.
fn names(parts: &mut NativeParts, module: &Module<'_>) {
    let mut imported = Vec::new();
    for index in 0..module.imported().imported_functions {
        if let Some(own) = module.name(index)
            && let (Ok(at), Ok(len)) = (name(parts, own), narrow(own.len(), "the name of a function"))
        {
            imported.push(NameRecord { function: index.into(), name: StringRange { offset: at.into(), len: len.into() } });
        }
    }
    parts.names.splice(0..0, imported);
}

pub(crate) fn types(
    parts: &mut NativeParts,
    types: &[FunctionType],
    enter: &HashMap<u32, u32>,
    host: &HashMap<u32, u32>,
) -> Result<(), CompileError> {
    for (number, ty) in (0u32..).zip(types) {
        let first = narrow(parts.value_types.len(), "the type section")?;
        parts.value_types.extend(ty.params.iter().chain(&ty.results).map(|ty| ty.number()));
        parts.types.push(TypeRecord {
            first: first.into(),
            params: narrow(ty.params.len(), "a function type")?.into(),
            results: narrow(ty.results.len(), "a function type")?.into(),
            enter: enter.get(&number).copied().unwrap_or(NONE).into(),
            host: host.get(&number).copied().unwrap_or(NONE).into(),
            reserved: 0.into(),
            hash: hash(ty).into(),
        });
    }
    Ok(())
}

/// See [`TypeRecord::hash`].
fn hash(ty: &FunctionType) -> u64 {
    let mut hash = Sha256::new();
    hash.update(u32::try_from(ty.params.len()).unwrap_or(u32::MAX).to_le_bytes());
    hash.update(ty.params.iter().chain(&ty.results).map(|ty| ty.number()).collect::<Vec<u8>>());
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().copied().map_or(0, u64::from_le_bytes)
}

fn functions_by_index(module: &Module<'_>, own: &[u32]) -> Vec<FunctionRecord> {
    let imported = module.imported().imported_functions as usize;
    let places = std::iter::repeat_n(&NONE, imported).chain(own);
    module.functions.iter().zip(places).map(|(ty, code)| FunctionRecord { code: (*code).into(), ty: (*ty).into() }).collect()
}

fn imports_and_exports<'m>(parts: &mut NativeParts, module: &Module<'m>) -> Result<(), CompileError> {
    let mut known: HashMap<&'m str, StringRange> = HashMap::new();
    let strings = &mut parts.module_strings;
    let mut string = |text: &'m str| -> Result<StringRange, CompileError> {
        if let Some(range) = known.get(text) {
            return Ok(*range);
        }
        let offset = narrow(strings.len(), "the names of imports and exports")?.into();
        let range = StringRange { offset, len: narrow(text.len(), "the name of an import or export")?.into() };
        strings.extend_from_slice(text.as_bytes());
        known.insert(text, range);
        Ok(range)
    };
    for import in &module.imports {
        let (kind, ty, mutable, min, max) = match import.ty {
            ImportType::Function(ty) => (ExternKind::Function, ty, false, 0, None),
            ImportType::Tag(ty) => (ExternKind::Tag, ty, false, 0, None),
            ImportType::Table(ty) => (ExternKind::Table, ty.element.number().into(), false, ty.min, ty.max),
            ImportType::Memory(ty) => (ExternKind::Memory, 0, false, ty.min, ty.max),
            ImportType::Global(ty) => (ExternKind::Global, ty.ty.number().into(), ty.mutable, 0, None),
        };
        let sized = matches!(kind, ExternKind::Table | ExternKind::Memory);
        parts.imports.push(ImportRecord {
            module: string(import.module)?,
            name: string(import.name)?,
            kind: (kind as u32).into(),
            ty: ty.into(),
            mutable: u32::from(mutable).into(),
            reserved: 0.into(),
            min: min.into(),
            max: max.unwrap_or(if sized { u64::MAX } else { 0 }).into(),
        });
    }
    let mut exports: Vec<_> = module.exports.iter().collect();
    exports.sort_by_key(|export| export.name);
    for export in exports {
        parts.exports.push(ExportRecord { name: string(export.name)?, kind: (export.kind as u32).into(), index: export.index.into() });
    }
    Ok(())
}

fn globals(parts: &mut NativeParts, module: &Module<'_>) {
    let own = &module.globals[module.imported().imported_globals as usize..];
    for (ty, init) in own.iter().zip(&module.global_inits) {
        let (value, init) = match init {
            Init::Value(value) => (*value, Expression::default()),
            Init::Expression(expression) => ([0; 16], *expression),
        };
        parts.global_values.push(value);
        parts.globals.push(GlobalRecord { ty: u16::from(ty.ty.number()).into(), mutable: u16::from(ty.mutable).into(), init });
    }
}

/// A value as an expression.
fn expression(parts: &mut NativeParts, init: Init) -> Result<Expression, CompileError> {
    match init {
        Init::Expression(expression) => Ok(expression),
        Init::Value(value) => {
            let first = narrow(parts.const_ops.len(), "constant expressions")?;
            parts.const_ops.push(ConstOp { kind: (ConstKind::Value as u32).into(), index: 0.into(), value });
            Ok(Expression { first: first.into(), count: 1.into() })
        }
    }
}

fn element_segments(parts: &mut NativeParts, module: &Module<'_>, modes: &[SegmentMode]) -> Result<(), CompileError> {
    for (segment, mode) in module.elements.iter().zip(modes) {
        let (table, at) = match segment.placement {
            Placement::Active(table, at) if *mode == SegmentMode::Active => (table, expression(parts, at)?),
            Placement::Active(table, _) => (table, Expression::default()),
            _ => (0, Expression::default()),
        };
        let dropped = matches!(mode, SegmentMode::Initial | SegmentMode::Declared);
        let (expressions, first, count) = match &segment.elements {
            _ if dropped => (0, 0, 0),
            Elements::Functions(functions) => {
                let first = narrow(parts.elements.len(), "the element section")?;
                parts.elements.extend(functions.iter().map(|function| U32::new(function.unwrap_or(NONE))));
                (0, first, functions.len())
            }
            Elements::Expressions(inits) => {
                let first = narrow(parts.element_expressions.len(), "the element section")?;
                for init in inits {
                    let init = reference(parts, *init)?;
                    parts.element_expressions.push(init);
                }
                (1, first, inits.len())
            }
        };
        parts.element_segments.push(ElementSegment {
            mode: (*mode as u32).into(),
            table: table.into(),
            at,
            element: u32::from(segment.element.number()).into(),
            expressions: expressions.into(),
            first: first.into(),
            count: narrow(count, "the element section")?.into(),
        });
    }
    Ok(())
}

/// An element as an expression. The only reference that is known now is null.
fn reference(parts: &mut NativeParts, init: Init) -> Result<Expression, CompileError> {
    let expression = expression(parts, init)?;
    if matches!(init, Init::Value(_))
        && let Some(op) = parts.const_ops.last_mut()
    {
        op.kind = (ConstKind::RefNull as u32).into();
    }
    Ok(expression)
}

fn data_segments(parts: &mut NativeParts, module: &Module<'_>, modes: &[SegmentMode]) -> Result<(), CompileError> {
    for (segment, mode) in module.data.iter().zip(modes) {
        let (memory, at) = match segment.placement {
            Placement::Active(memory, at) if *mode == SegmentMode::Active => (memory, expression(parts, at)?),
            Placement::Active(memory, _) => (memory, Expression::default()),
            _ => (0, Expression::default()),
        };
        let bytes = if *mode == SegmentMode::Initial { &[] } else { segment.bytes };
        let offset = narrow(parts.data.len(), "the data section")?;
        parts.data.extend_from_slice(bytes);
        parts.data_segments.push(DataSegment {
            mode: (*mode as u32).into(),
            memory: memory.into(),
            at,
            offset: offset.into(),
            len: narrow(bytes.len(), "the data section")?.into(),
        });
    }
    Ok(())
}
