//! Real programs up to the freeze, linked into wasmtime, and with the wake directory as a woken program has it.
//!
//! `preheat bench fetch` gets the programs. One that is not there is skipped with the reason, unless `PREHEAT_CORPUS=required` is set.

mod common;

use common::{engine, link};
use preheat_bench::corpus::Corpus;
use preheat_bench::workload::Workload;
use preheat_wasi::{Context, Counters, Grants, Input, Output, Preopen, Record, Recording, Stop, Streams, SystemHost, Wake};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use wasmtime::{Linker, Module, Store};

const BEGIN: u64 = 1_700_000_000_000_000_000;

fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A workload and its program, compiled once.
fn program(name: &str) -> Option<(Workload, Module)> {
    static MODULES: LazyLock<Mutex<BTreeMap<String, Module>>> = LazyLock::new(Mutex::default);
    let corpus = Corpus::load(&repo("benches/corpus.toml")).unwrap();
    let (workloads, missing) = corpus.workloads(&repo("benches/fetched")).unwrap();
    let Some(workload) = workloads.into_iter().find(|workload| workload.name == name) else {
        assert!(std::env::var_os("PREHEAT_CORPUS").is_none_or(|value| value != "required"), "{missing:?}");
        eprintln!("skipped: {missing:?}");
        return None;
    };
    let mut modules = MODULES.lock().unwrap();
    let module = modules.entry(name.to_owned()).or_insert_with(|| Module::from_file(engine(), &workload.wasm).unwrap());
    let module = module.clone();
    Some((workload, module))
}

/// Runs `_start` and returns how it ended, the context and the memory.
fn start(module: &Module, context: Context) -> (Result<(), Stop>, Context, Vec<u8>) {
    let mut linker = Linker::new(engine());
    link(&mut linker);
    let mut store = Store::new(engine(), context);
    let instance = linker.instantiate(&mut store, module).unwrap();
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
    let ended = start.call(&mut store, ()).map_err(|error| error.downcast_ref::<Stop>().unwrap_or_else(|| panic!("{error:?}")).clone());
    let memory = instance.get_memory(&mut store, "memory").unwrap().data(&store).to_vec();
    (ended, store.into_data(), memory)
}

/// Runs a workload to its first read of standard input, twice, and compares the states. Returns the record.
fn freeze(name: &str) -> Option<Record> {
    let (workload, module) = program(name)?;
    let run = || {
        let mut grants = Grants::new().args([name.to_owned()]).args(workload.args.clone()).env("PYTHONHASHSEED", "0");
        for (guest, host) in &workload.dirs {
            grants = grants.preopen(Preopen::open(host, guest, false).unwrap());
        }
        let recording = Recording::new([1; 32], BEGIN);
        let mut context = Context::with_host(Arc::new(grants.late_env("KEY")), Box::new(recording.clone()));
        context.set_freeze(true);
        let (ended, context, memory) = start(&module, context);
        assert_eq!(ended, Err(Stop::Freeze));
        let state = context.host_state().unwrap_or_else(|refusal| panic!("{refusal}"));
        (state.encode(), recording.record(), memory)
    };
    let first = run();
    let second = run();
    assert!(first.0 == second.0 && first.1 == second.1);
    assert_eq!(first.2.iter().zip(&second.2).position(|(a, b)| a != b), None);
    Some(first.1)
}

macro_rules! freezes {
    ($($test:ident: $name:literal, $check:expr;)*) => { $(
        #[test]
        fn $test() {
            if let Some(record) = freeze($name) {
                let check: fn(Record) = $check;
                check(record);
            }
        }
    )* };
}

freezes! {
    json_in_c_freezes: "json-c", |record| assert_eq!(record, Record::default());
    json_in_assemblyscript_freezes: "json-as", |record| assert!(record.files.is_empty());
    // The runtime seeds its hashes before anything else.
    json_in_go_freezes: "json-go", |record| assert!(record.random_bytes > 0 && record.clocks.monotonic > 0);
    cpython_freezes: "cpython", |record| {
        assert!(record.environment.is_some_and(|names| names.contains("PYTHONHASHSEED")));
        assert!(record.files.iter().any(|file| file.guest_path() == "/inputs/script.py"), "{:?}", record.files);
    };
    esbuild_freezes: "esbuild", |record| assert!(record.random_bytes > 0);
}

/// Runs a script in a context as a woken program has it, with `KEY` as a late variable, and returns what it printed and did.
fn late(name: &str, file: &str, script: &str, flags: &[&str]) -> Option<(String, Counters)> {
    let (_, module) = program(name)?;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(file), script).unwrap();
    let preopen = || Preopen::open(dir.path(), "/app", false).unwrap();
    let args = [name].into_iter().chain(flags.iter().copied()).map(str::to_owned).chain([format!("/app/{file}")]);
    let grants = Grants::new().args(args).env("PYTHONHASHSEED", "0").preopen(preopen()).late_env("KEY");
    // Frozen before its first instruction.
    let state = Context::with_host(Arc::new(grants), Box::new(Recording::new([1; 32], BEGIN))).host_state().unwrap();
    let wake = Wake::new(Arc::new(state), Grants::new().preopen(preopen()).env("KEY", "s3cr=t\nline")).unwrap();
    let ((stdout, out), (stderr, err)) = (Output::buffer(1 << 16), Output::buffer(1 << 16));
    let streams = Streams { stdin: Input::Bytes("event".into()), stdout, stderr, ..Streams::default() };
    let (ended, context, _) = start(&module, Context::wake(&wake, Box::new(SystemHost), streams).unwrap());
    let out = String::from_utf8(out.take()).unwrap();
    assert!(matches!(ended, Ok(()) | Err(Stop::Exit(0))), "{ended:?}: {out}{}", String::from_utf8_lossy(&err.take()));
    Some((out, context.counters()))
}

/// As `docs/freezing.md` shows it, in each language: two wakes get the variable, and different numbers.
fn check_late(name: &str, file: &str, script: &str, flags: &[&str]) {
    let Some((first, counters)) = late(name, file, script, flags) else { return };
    assert!(counters.late_env_reads > 0 && counters.random_bytes_before_output >= 16, "{counters:?}");
    let (second, _) = late(name, file, script, flags).unwrap();
    let fields = |out: &str| out.split('|').map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (fields(&first), fields(&second));
    assert_eq!((first.len(), first[0].as_str(), second[0].as_str()), (3, "s3cr=t\nline", "s3cr=t\nline"), "{first:?}");
    assert!(first[1] != first[2] && first[1..].iter().all(|number| !second.contains(number)), "{first:?} {second:?}");
}

/// The block of the documentation that shows how it is done in this language.
fn snippet(language: &str) -> String {
    let text = std::fs::read_to_string(repo("docs/freezing.md")).unwrap();
    let mut blocks = text.split("\n```").filter_map(|block| block.strip_prefix(language));
    blocks.find(|block| block.contains("reseed()")).map(str::to_owned).expect("a block that reseeds")
}

#[test]
fn python_reads_late_variables_and_reseeds() {
    let work = r#"
import sys
event = sys.stdin.read()
late_env()
reseed()
print(os.environ["KEY"], random.random(), random.random(), sep="|")
"#;
    check_late("cpython", "late.py", &(snippet("python\n") + work), &["-S"]);
}

#[test]
fn quickjs_reads_late_variables_and_reseeds() {
    let work = r#"
std.in.readAsString();
reseed();
std.out.puts([lateEnv().KEY, Math.random(), Math.random()].join("|"));
"#;
    check_late("quickjs", "late.mjs", &(snippet("js\n") + work), &[]);
}
