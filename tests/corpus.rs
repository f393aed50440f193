//! Real programs: built, run, compared byte by byte; the second run compiles nothing.
//!
//! `preheat bench fetch` gets them. Here they are fetched as well; a program that can't be had is skipped with the reason on standard
//! error, unless `PREHEAT_CORPUS=required` is set.

mod common;

use common::Home;
use common::corpus::{corpus, fetched, program};
use preheat_bench::workload::Workload;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::OnceLock;

/// One home for all, so that what one test compiled the next finds.
fn home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    HOME.get_or_init(Home::new)
}

fn workload(name: &str) -> Option<Workload> {
    // Each workload here has the name of its program.
    program(name)?;
    let (workloads, missing) = corpus().workloads(&fetched()).unwrap();
    let found = workloads.into_iter().find(|workload| workload.name == name);
    assert!(found.is_some(), "{missing:?}");
    found
}

/// Runs a workload on both engines, and compares.
fn check(name: &str) {
    for engine in ["native", "wasmtime"] {
        check_on(engine, name);
    }
}

/// Runs a workload twice through the command line and compares.
fn check_on(engine: &str, name: &str) {
    let Some(workload) = workload(name) else { return };
    let run = || {
        let mut args = vec!["run".to_owned(), "--json".to_owned(), format!("--engine={engine}")];
        args.extend(workload.dirs.iter().map(|(guest, host)| format!("--ro-dir={}::{guest}", host.display())));
        args.push(workload.wasm.display().to_string());
        args.extend(workload.args.iter().cloned());
        let stdin = std::fs::File::open(&workload.stdin).unwrap();
        let output = home().command(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name} on {engine}: {stderr}");
        assert!(output.stdout == workload.expected, "{name} on {engine}: {}", String::from_utf8_lossy(&output.stdout));
        let report: serde_json::Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        report
    };
    let first = run();
    assert_eq!(first["compiled"], 2, "{name} on {engine}: {first}");
    let second = run();
    assert_eq!(second["compiled"], 0, "{name} on {engine}: {second}");
    assert_eq!(first["image"], second["image"]);
}

#[test]
fn c_transforms_json() {
    check("json-c");
}

#[test]
fn go_transforms_json() {
    check("json-go");
}

#[test]
fn assemblyscript_transforms_json() {
    check("json-as");
}

#[test]
fn the_component_runs() {
    check_on("auto", "json-component");
}

#[test]
fn esbuild_transforms_typescript() {
    check("esbuild");
}

#[test]
fn cpython_runs_a_script_with_json_and_hashlib() {
    check("cpython");
}

#[test]
fn quickjs_runs_a_script() {
    check("quickjs");
}

#[test]
fn an_http_component_answers_a_request_through_the_library() {
    let Some(wasm) = program("http-python") else { return };
    let home = home().library();
    let built = preheat::Builder::new(&home).unwrap().levels([preheat::CpuLevel::V2]).build_file(&wasm).unwrap();
    let runtime = preheat::Runtime::new().unwrap();
    let image = runtime.load(&home, &built.digest).unwrap();
    assert_eq!(image.manifest().function.as_ref().unwrap().kind, preheat::manifest::FunctionKind::ComponentHttp);
    for body in ["first", "second"] {
        let request = preheat::http_types::Request::post("http://localhost/a/path?q=1").body(body.as_bytes().to_vec()).unwrap();
        let response = image.http(&preheat::Request::new().timeout(std::time::Duration::from_secs(60)), request).unwrap();
        assert_eq!(response.status(), 200);
        let answer: BTreeMap<String, serde_json::Value> = serde_json::from_slice(response.body()).unwrap();
        assert!(answer.values().any(|value| value == "POST" || value == "post"), "{answer:?}");
        assert!(answer.values().any(|value| value == body), "{answer:?}");
    }
    let request = preheat::http_types::Request::get("http://localhost/").body(Vec::new()).unwrap();
    let error = image.http(&preheat::Request::new().max_response(3), request).unwrap_err();
    assert!(error.to_string().contains("body broke off"), "{error}");
}
