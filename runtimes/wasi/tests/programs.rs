//! Real programs on our functions, linked into wasmtime: the output that they must give, whatever else WASI they run on.
//!
//! `preheat bench fetch` gets the programs. One that is not there is skipped with the reason, unless `PREHEAT_CORPUS=required` is set.

mod common;

use common::{engine, link};
use preheat_bench::corpus::Corpus;
use preheat_bench::workload::Workload;
use preheat_wasi::{Context, Grants, Input, Output, Preopen, Stop};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasmtime::{Linker, Module, Store};

fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Runs one and compares its output.
fn run(name: &str) {
    let corpus = Corpus::load(&repo("benches/corpus.toml")).unwrap();
    let fetched = repo("benches/fetched");
    let (workloads, missing) = corpus.workloads(&fetched).unwrap();
    let Some(workload) = workloads.into_iter().find(|workload| workload.name == name) else {
        assert!(std::env::var_os("PREHEAT_CORPUS").is_none_or(|value| value != "required"), "{missing:?}");
        eprintln!("skipped: {missing:?}");
        return;
    };
    let Workload { wasm, args, stdin, dirs, expected, .. } = workload;
    let module = Module::from_file(engine(), wasm).unwrap();
    let mut linker = Linker::new(engine());
    link(&mut linker);
    let linked = linker.instantiate_pre(&module).unwrap();
    let mut grants = Grants::new().args([name.to_owned()]).args(args);
    for (guest, host) in dirs {
        grants = grants.preopen(Preopen::open(&host, guest, false).unwrap());
    }
    let grants = Arc::new(grants);
    // From memory and from a file, each in a context of its own on the same grants.
    for input in [Input::Bytes(std::fs::read(&stdin).unwrap().into()), Input::open(std::fs::File::open(&stdin).unwrap())] {
        let mut context = Context::new(Arc::clone(&grants));
        let ((out, stdout), (err, stderr)) = (Output::buffer(1 << 26), Output::buffer(1 << 20));
        context.set_stdin(input);
        context.set_stdout(out);
        context.set_stderr(err);
        let mut store = Store::new(engine(), context);
        let instance = linked.instantiate(&mut store).unwrap();
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
        if let Err(error) = start.call(&mut store, ()) {
            assert_eq!(error.downcast_ref(), Some(&Stop::Exit(0)), "{error:?}\n{}", String::from_utf8_lossy(&stderr.contents()));
        }
        assert!(stdout.contents() == expected, "{}", String::from_utf8_lossy(&stdout.contents()));
        assert_eq!(String::from_utf8_lossy(&stderr.contents()), "");
    }
}

macro_rules! programs {
    ($($test:ident: $name:literal;)*) => { $(
        #[test]
        fn $test() {
            run($name);
        }
    )* };
}

programs! {
    json_in_c: "json-c";
    json_in_c_large: "json-c-large";
    json_in_go: "json-go";
    json_in_assemblyscript: "json-as";
    quickjs: "quickjs";
    cpython: "cpython";
    esbuild: "esbuild";
}
