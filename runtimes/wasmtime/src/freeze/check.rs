//! Which components can be frozen, before any time is spent on one.

use super::INITIALIZER;
use wasmparser::{CanonicalFunction, ComponentExternalKind, Encoding, MemoryType, Parser, Payload, TypeRef, ValType};

/// The name of the export that initialises a component.
///
/// # Errors
/// In words, when there is none, or something in it could not be kept.
pub(super) fn check(wasm: &[u8], init: Option<&str>) -> Result<String, String> {
    let seen = Seen::of(wasm).map_err(|error| format!("invalid Wasm: {error}"))?;
    let init = init.unwrap_or(INITIALIZER);
    let there = match init.split_once('#') {
        None => seen.functions.iter().any(|name| name == init),
        Some((interface, _)) => seen.interfaces.iter().any(|name| name == interface),
    };
    if !there {
        let list = |names: &[String]| names.iter().map(|name| format!("`{}`", name.escape_debug())).collect::<Vec<_>>().join(", ");
        let functions = match &seen.functions[..] {
            [] => "it exports no function by itself".to_owned(),
            names => format!("its functions are {}", list(names)),
        };
        let interfaces = match &seen.interfaces[..] {
            [] => String::new(),
            names => format!(", its interfaces {} (a function of one is `INTERFACE#NAME`)", list(names)),
        };
        return Err(format!(
            "it does not export `{}`; {functions}{interfaces}; say with --init-export what initialises it",
            init.escape_debug()
        ));
    }
    match seen.unfit {
        Some(what) => Err(format!("{what}, which can't be kept")),
        None => Ok(init.to_owned()),
    }
}

/// What is in a component.
#[derive(Default)]
struct Seen {
    functions: Vec<String>,
    interfaces: Vec<String>,
    unfit: Option<String>,
}

/// What is in a core module of it.
#[derive(Default)]
struct Module {
    exports: bool,
    state: bool,
}

impl Seen {
    fn of(wasm: &[u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut seen = Self::default();
        // The components and modules around what is looked at; a component is none.
        let mut around: Vec<Option<Module>> = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::Version { encoding, .. } => around.push((encoding == Encoding::Module).then(Module::default)),
                Payload::End(_) => {
                    if let Some(Some(Module { exports: false, state: true })) = around.pop() {
                        seen.refuse("it has a core module with a memory or a variable and no exports");
                    }
                }
                Payload::ComponentExportSection(exports) if around.len() == 1 => {
                    for export in exports {
                        let export = export?;
                        match export.kind {
                            ComponentExternalKind::Func => seen.functions.push(export.name.name.to_owned()),
                            ComponentExternalKind::Instance => seen.interfaces.push(export.name.name.to_owned()),
                            _ => {}
                        }
                    }
                }
                // Handles are in tables of the engine, which nobody can read.
                Payload::ComponentCanonicalSection(functions) => {
                    for function in functions {
                        if matches!(function?, CanonicalFunction::ResourceNew { .. }) {
                            seen.refuse("it makes resources of its own, whose handles are the engine's");
                        }
                    }
                }
                payload => {
                    if let Some(Some(module)) = around.last_mut() {
                        seen.look(module, payload)?;
                    }
                }
            }
        }
        if seen.interfaces.iter().any(|name| name.starts_with("wasmtime:wizer/")) {
            seen.refuse("it is itself made to be initialised by another tool");
        }
        Ok(seen)
    }

    fn look(&mut self, module: &mut Module, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        match payload {
            Payload::ExportSection(exports) => module.exports |= exports.count() > 0,
            Payload::MemorySection(memories) => {
                for memory in memories {
                    module.state = true;
                    self.memory(memory?);
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let kind = global?.ty;
                    module.state |= kind.mutable;
                    if kind.mutable && matches!(kind.content_type, ValType::V128 | ValType::Ref(_)) {
                        self.refuse("it has a variable of a type other than integers and floating-point numbers");
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if matches!(import?.ty, TypeRef::Tag(_) | TypeRef::FuncExact(_)) {
                        self.refuse("its core modules share exceptions");
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn memory(&mut self, kind: MemoryType) {
        if kind.memory64 {
            self.refuse("it has a memory with addresses of 64 bits");
        }
        if kind.shared {
            self.refuse("it has a memory that threads share");
        }
        if kind.page_size_log2.is_some_and(|log2| log2 != 16) {
            self.refuse("it has a memory with pages of an unusual size");
        }
    }

    fn refuse(&mut self, what: &str) {
        self.unfit.get_or_insert_with(|| what.to_owned());
    }
}
