//! What a module declares: everything but the bodies of its functions.

use crate::constants::{Constants, Init};
use crate::signature::{FunctionType, clif_type, reference_type, value_type};
use crate::{CompileError, features};
use cranelift_codegen::ir::Signature;
use preheat_image::abi::{ContextCounts, ContextLayout, MAX_TYPE, ValueType};
use preheat_image::native::ExternKind;
use std::collections::HashMap;
use wasmparser::{
    DataKind, ElementItems, ElementKind, ExternalKind, FuncToValidate, FunctionBody, Name, Operator, Parser, Payload, TypeRef,
    ValidPayload, Validator, ValidatorResources,
};

/// A table, imported or own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableType {
    pub(crate) element: ValueType,
    pub(crate) min: u64,
    pub(crate) max: Option<u64>,
}

/// A memory, imported or own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryType {
    /// In Wasm pages.
    pub(crate) min: u64,
    pub(crate) max: Option<u64>,
}

/// A global, imported or own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GlobalType {
    pub(crate) ty: ValueType,
    pub(crate) mutable: bool,
}

/// What is imported, with the number of its type.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ImportType {
    Function(u32),
    Table(TableType),
    Memory(MemoryType),
    Global(GlobalType),
    Tag(u32),
}

/// An import.
#[derive(Debug)]
pub(crate) struct Import<'a> {
    pub(crate) module: &'a str,
    pub(crate) name: &'a str,
    pub(crate) ty: ImportType,
}

/// An export.
#[derive(Debug)]
pub(crate) struct Export<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: ExternKind,
    pub(crate) index: u32,
}

/// Where a segment goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Placement {
    Passive,
    Declared,
    /// To the memory or table with this index, at the place that the initialiser gives.
    Active(u32, Init),
}

/// An element of an element segment.
#[derive(Debug)]
pub(crate) enum Elements {
    /// Functions by index, `None` for null.
    Functions(Vec<Option<u32>>),
    /// Anything else.
    Expressions(Vec<Init>),
}

/// An element segment.
#[derive(Debug)]
pub(crate) struct ElementSegment {
    pub(crate) placement: Placement,
    pub(crate) element: ValueType,
    pub(crate) elements: Elements,
}

/// A data segment.
#[derive(Debug)]
pub(crate) struct DataSegment<'a> {
    pub(crate) placement: Placement,
    pub(crate) bytes: &'a [u8],
}

/// The body of a function, not yet validated.
pub(crate) struct Body<'a> {
    pub(crate) to_validate: FuncToValidate<ValidatorResources>,
    pub(crate) body: FunctionBody<'a>,
}

impl<'a> Body<'a> {
    /// The same once more.
    pub(crate) fn again(&self) -> Self {
        let FuncToValidate { resources, index, ty, features } = &self.to_validate;
        let to_validate = FuncToValidate { resources: resources.clone(), index: *index, ty: *ty, features: *features };
        Self { to_validate, body: self.body.clone() }
    }
}

/// A module. Index spaces have imports first.
pub(crate) struct Module<'a> {
    /// Function types, each once.
    pub(crate) types: Vec<FunctionType>,
    /// Their signatures as guest functions.
    pub(crate) signatures: Vec<Signature>,
    /// From type indices of the module to positions in `types`.
    pub(crate) type_numbers: Vec<u32>,
    pub(crate) imports: Vec<Import<'a>>,
    pub(crate) exports: Vec<Export<'a>>,
    /// The number of the type of each function.
    pub(crate) functions: Vec<u32>,
    pub(crate) tables: Vec<TableType>,
    pub(crate) memories: Vec<MemoryType>,
    pub(crate) globals: Vec<GlobalType>,
    /// The number of the type of each tag.
    pub(crate) tags: Vec<u32>,
    /// Initialisers of own globals.
    pub(crate) global_inits: Vec<Init>,
    pub(crate) constants: Constants,
    pub(crate) elements: Vec<ElementSegment>,
    pub(crate) data: Vec<DataSegment<'a>>,
    pub(crate) start: Option<u32>,
    /// Functions that may be called by way of a reference or from outside.
    pub(crate) escaping: Vec<bool>,
    /// Names from the name section.
    pub(crate) names: HashMap<u32, &'a str>,
    pub(crate) layout: ContextLayout,
}

/// Reads and validates `wasm` except for the bodies of its functions.
pub(crate) fn parse(wasm: &[u8]) -> Result<(Module<'_>, Vec<Body<'_>>), CompileError> {
    let mut reader = Reader { types_by_value: HashMap::new(), module: Module::empty(), counts: ContextCounts::default() };
    let mut validator = Validator::new_with_features(features::SUPPORTED);
    let mut bodies = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if let ValidPayload::Func(to_validate, body) = validator.payload(&payload)? {
            bodies.push(Body { to_validate, body });
        } else {
            reader.payload(payload)?;
        }
    }
    let mut module = reader.finish()?;
    for global in &module.global_inits {
        module.constants.functions(*global).for_each(|function| module.escaping[function as usize] = true);
    }
    Ok((module, bodies))
}

/// An error for what validation has excluded, so that a wrong belief about it is an error and no panic.
pub(crate) fn impossible(what: &str) -> CompileError {
    CompileError::Codegen { what: "a module".into(), message: format!("validation let {what} through") }
}

impl Module<'_> {
    fn empty() -> Self {
        Self {
            types: Vec::new(),
            signatures: Vec::new(),
            type_numbers: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            functions: Vec::new(),
            tables: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
            tags: Vec::new(),
            global_inits: Vec::new(),
            constants: Constants::default(),
            elements: Vec::new(),
            data: Vec::new(),
            start: None,
            escaping: Vec::new(),
            names: HashMap::new(),
            layout: ContextLayout::EMPTY,
        }
    }

    /// The CLIF type of a global.
    pub(crate) fn global_type(&self, global: u32) -> cranelift_codegen::ir::Type {
        clif_type(self.globals[global as usize].ty)
    }

    /// How many functions are imported, and so on: what an index is less than if it is an import.
    pub(crate) fn imported(&self) -> &ContextCounts {
        &self.layout.counts
    }

    /// The number of the type of what a `call` or `call_indirect` calls.
    pub(crate) fn called_type(&self, call: &Operator<'_>) -> Option<u32> {
        match *call {
            Operator::Call { function_index } => Some(self.functions[function_index as usize]),
            Operator::CallIndirect { type_index, .. } => Some(self.type_numbers[type_index as usize]),
            _ => None,
        }
    }

    /// A function for messages.
    pub(crate) fn describe(&self, function: u32) -> String {
        match self.name(function) {
            Some(name) => format!("function {function} ({name})"),
            None => format!("function {function}"),
        }
    }

    /// The name of a function for messages: from the name section, else that of an export.
    pub(crate) fn name(&self, function: u32) -> Option<&str> {
        self.names.get(&function).copied()
    }
}

struct Reader<'a> {
    types_by_value: HashMap<FunctionType, u32>,
    module: Module<'a>,
    counts: ContextCounts,
}

impl<'a> Reader<'a> {
    fn payload(&mut self, payload: Payload<'a>) -> Result<(), CompileError> {
        let module = &mut self.module;
        match payload {
            Payload::TypeSection(types) => {
                for ty in types.into_iter_err_on_gc_types() {
                    let ty = ty?;
                    let convert = |types: &[wasmparser::ValType]| types.iter().map(|ty| value_type(*ty)).collect::<Option<Vec<_>>>();
                    let ty = convert(ty.params()).zip(convert(ty.results())).map(|(params, results)| FunctionType { params, results });
                    let ty = ty.ok_or_else(|| impossible("an unknown value type"))?;
                    let number = match self.types_by_value.get(&ty) {
                        Some(number) => *number,
                        None => {
                            let number = narrow(module.types.len(), "the type section")?;
                            if number > MAX_TYPE {
                                return Err(CompileError::Limit { what: "the type section".into() });
                            }
                            module.signatures.push(ty.guest());
                            module.types.push(ty.clone());
                            self.types_by_value.insert(ty, number);
                            number
                        }
                    };
                    module.type_numbers.push(number);
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    let ty = self.import(import.ty)?;
                    self.module.imports.push(Import { module: import.module, name: import.name, ty });
                }
            }
            Payload::FunctionSection(functions) => {
                for ty in functions {
                    let number = module.type_numbers[ty? as usize];
                    module.functions.push(number);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    let table = table?;
                    if !matches!(table.init, wasmparser::TableInit::RefNull) {
                        return Err(impossible("a table with an initialiser"));
                    }
                    module.tables.push(table_type(&table.ty)?);
                    self.counts.tables += 1;
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory?;
                    module.memories.push(MemoryType { min: memory.initial, max: memory.maximum });
                    self.counts.memories += 1;
                }
            }
            Payload::TagSection(tags) => {
                for tag in tags {
                    module.tags.push(module.type_numbers[tag?.func_type_idx as usize]);
                    self.counts.tags += 1;
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let global = global?;
                    module.globals.push(global_type(global.ty)?);
                    let init = module.constants.read(&global.init_expr)?;
                    module.global_inits.push(init);
                    self.counts.globals += 1;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => ExternKind::Function,
                        ExternalKind::Table => ExternKind::Table,
                        ExternalKind::Memory => ExternKind::Memory,
                        ExternalKind::Global => ExternKind::Global,
                        ExternalKind::Tag => ExternKind::Tag,
                    };
                    module.exports.push(Export { name: export.name, kind, index: export.index });
                }
            }
            Payload::StartSection { func, .. } => module.start = Some(func),
            Payload::ElementSection(segments) => {
                for segment in segments {
                    let segment = segment?;
                    let placement = match segment.kind {
                        ElementKind::Passive => Placement::Passive,
                        ElementKind::Declared => Placement::Declared,
                        ElementKind::Active { table_index, offset_expr } => {
                            Placement::Active(table_index.unwrap_or(0), module.constants.read(&offset_expr)?)
                        }
                    };
                    let (element, elements) = elements(&mut module.constants, segment.items)?;
                    module.elements.push(ElementSegment { placement, element, elements });
                }
            }
            Payload::DataSection(segments) => {
                for segment in segments {
                    let segment = segment?;
                    let placement = match segment.kind {
                        DataKind::Passive => Placement::Passive,
                        DataKind::Active { memory_index, offset_expr } => {
                            Placement::Active(memory_index, module.constants.read(&offset_expr)?)
                        }
                    };
                    module.data.push(DataSegment { placement, bytes: segment.data });
                }
            }
            Payload::CustomSection(section) => {
                // Names are for people: what is wrong with them is no error.
                if let wasmparser::KnownCustom::Name(names) = section.as_known() {
                    for names in names {
                        let Ok(Name::Function(names)) = names else { continue };
                        for name in names.into_iter().flatten() {
                            module.names.insert(name.index, name.name);
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, ty: TypeRef) -> Result<ImportType, CompileError> {
        let module = &mut self.module;
        Ok(match ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                let number = module.type_numbers[ty as usize];
                module.functions.push(number);
                self.counts.imported_functions += 1;
                ImportType::Function(number)
            }
            TypeRef::Table(ty) => {
                let ty = table_type(&ty)?;
                module.tables.push(ty);
                self.counts.imported_tables += 1;
                ImportType::Table(ty)
            }
            TypeRef::Memory(ty) => {
                let ty = MemoryType { min: ty.initial, max: ty.maximum };
                module.memories.push(ty);
                self.counts.imported_memories += 1;
                ImportType::Memory(ty)
            }
            TypeRef::Global(ty) => {
                let ty = global_type(ty)?;
                module.globals.push(ty);
                self.counts.imported_globals += 1;
                ImportType::Global(ty)
            }
            TypeRef::Tag(ty) => {
                let number = module.type_numbers[ty.func_type_idx as usize];
                module.tags.push(number);
                self.counts.imported_tags += 1;
                ImportType::Tag(number)
            }
        })
    }

    fn finish(mut self) -> Result<Module<'a>, CompileError> {
        let module = &mut self.module;
        self.counts.data_segments = narrow(module.data.len(), "the data section")?;
        self.counts.element_segments = narrow(module.elements.len(), "the element section")?;
        let limit = || CompileError::Limit { what: "the instance context".into() };
        module.layout = ContextLayout::new(self.counts).ok_or_else(limit)?;
        let count = narrow(module.functions.len(), "the function section")?;
        module.names.retain(|function, _| *function < count);
        module.escaping = vec![false; module.functions.len()];
        for export in module.exports.iter().filter(|export| export.kind == ExternKind::Function) {
            module.escaping[export.index as usize] = true;
            module.names.entry(export.index).or_insert(export.name);
        }
        if let Some(start) = module.start {
            module.escaping[start as usize] = true;
        }
        for segment in &module.elements {
            match &segment.elements {
                Elements::Functions(functions) => {
                    for function in functions.iter().flatten() {
                        module.escaping[*function as usize] = true;
                    }
                }
                Elements::Expressions(inits) => {
                    for init in inits {
                        module.constants.functions(*init).for_each(|function| module.escaping[function as usize] = true);
                    }
                }
            }
        }
        Ok(self.module)
    }
}

fn elements(constants: &mut Constants, items: ElementItems<'_>) -> Result<(ValueType, Elements), CompileError> {
    match items {
        ElementItems::Functions(functions) => {
            let functions: Result<Vec<_>, _> = functions.into_iter().map(|function| function.map(Some)).collect();
            Ok((ValueType::FuncRef, Elements::Functions(functions?)))
        }
        ElementItems::Expressions(ty, expressions) => {
            let ty = reference_type(ty).ok_or_else(|| impossible("an unknown reference type"))?;
            let mut inits = Vec::new();
            for expression in expressions {
                inits.push(constants.read(&expression?)?);
            }
            let functions: Option<Vec<_>> = inits.iter().map(|init| constants.function(*init)).collect();
            Ok((ty, functions.map_or(Elements::Expressions(inits), Elements::Functions)))
        }
    }
}

fn table_type(ty: &wasmparser::TableType) -> Result<TableType, CompileError> {
    let element = reference_type(ty.element_type).ok_or_else(|| impossible("an unknown element type"))?;
    Ok(TableType { element, min: ty.initial, max: ty.maximum })
}

fn global_type(ty: wasmparser::GlobalType) -> Result<GlobalType, CompileError> {
    let value = value_type(ty.content_type).ok_or_else(|| impossible("an unknown global type"))?;
    Ok(GlobalType { ty: value, mutable: ty.mutable })
}

/// A number as 32 bits.
pub(crate) fn narrow(number: usize, what: &str) -> Result<u32, CompileError> {
    u32::try_from(number).map_err(|_| CompileError::Limit { what: what.into() })
}
