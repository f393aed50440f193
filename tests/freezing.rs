//! Frozen programs: real ones and small ones, built and run by the command, compared with the same program that starts from the beginning on
//! wasmtime.

mod common;

use common::{Home, Ran, repo};
use preheat_bench::corpus::{Corpus, Outcome};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

/// The program's file, or `None` with the reason said.
fn program(name: &str) -> Option<PathBuf> {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    // One at a time: two tests may want the same archive.
    static FETCHING: Mutex<()> = Mutex::new(());
    let corpus = CORPUS.get_or_init(|| Corpus::load(&repo("benches/corpus.toml")).unwrap());
    let _fetching = FETCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let fetched = corpus.fetch(&repo("benches/fetched"), &[name.to_owned()], &mut |_| {});
    match &fetched[0].outcome {
        Outcome::Available(path) => Some(path.clone()),
        Outcome::Unavailable { why } => {
            let required = std::env::var_os("PREHEAT_CORPUS").is_some_and(|value| value == "required");
            assert!(!required, "{name} could not be had: {why}");
            eprintln!("skipped: {name} could not be had: {why}");
            None
        }
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(repo(path)).unwrap()
}

/// A program, frozen and not, in one home.
struct Frozen {
    home: Home,
    wasm: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
}

impl Frozen {
    /// Builds the frozen image `frozen:latest` with these options of `build`.
    fn new(wasm: &Path, options: &[&str], env: &[&str], args: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let this = Self { home: Home::new(), wasm: wasm.to_owned(), args: owned(args), env: owned(env) };
        let built = this.build(options);
        assert_eq!(built.code, Some(0), "{built:?}");
        this
    }

    fn build(&self, options: &[&str]) -> Ran {
        let mut command = vec!["build".to_owned(), "--tag=frozen".to_owned(), "--cpu=v2".to_owned()];
        command.extend(options.iter().map(|option| (*option).to_owned()));
        command.extend(self.env.iter().map(|variable| format!("--env={variable}")));
        command.push(self.wasm.display().to_string());
        command.push("--".to_owned());
        command.extend(self.args.iter().cloned());
        self.home.run(command)
    }

    fn wake(&self, options: &[&str], input: &[u8]) -> Ran {
        self.home.run_with(["run"].iter().chain(options).chain(&["frozen"]), input)
    }

    /// The same program from the beginning, on wasmtime.
    fn start(&self, options: &[&str], input: &[u8]) -> Ran {
        let mut command = vec!["run".to_owned(), "--engine=wasmtime".to_owned(), "--cpu=v2".to_owned()];
        command.extend(options.iter().map(|option| (*option).to_owned()));
        command.extend(self.env.iter().map(|variable| format!("--env={variable}")));
        command.push(self.wasm.display().to_string());
        command.push("--".to_owned());
        command.extend(self.args.iter().cloned());
        self.home.run_with(command, input)
    }

    /// Wakes and starts with each input, and compares all that can be seen.
    fn assert_same(&self, options: &[&str], inputs: &[&[u8]]) {
        for input in inputs {
            let (woken, started) = (self.wake(options, input), self.start(options, input));
            let shown = String::from_utf8_lossy(&input[..input.len().min(200)]);
            assert_eq!(woken.stdout, started.stdout, "{shown}: {woken:?}");
            assert_eq!(woken.code, started.code, "{shown}: {woken:?} {started:?}");
            assert_eq!(woken.stderr, started.stderr, "{shown}");
        }
    }
}

const EVENTS: [&[u8]; 6] = [
    br#"{"name":"Ada","lang":"de","text":"the quick brown fox's jump"}"#,
    br#"{"name":"Grace","lang":"fr","text":""}"#,
    b"{}",
    br#"{"name":"\u00e9\u4e2d","lang":"xx","text":"a bb ccc dddd eeeee ffffff"}"#,
    b"not json",
    b"",
];

fn orders() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> =
        ["orders", "orders-empty", "orders-large"].iter().map(|name| text(&format!("examples/inputs/{name}.json")).into_bytes()).collect();
    inputs.extend([b"[]".to_vec(), b"".to_vec(), b"[{\"customer\":".to_vec(), vec![b' '; 200_000]]);
    inputs
}

fn check_orders(name: &str) {
    let Some(wasm) = program(name) else { return };
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--allow-frozen-random"], &[], &[]);
    let inputs = orders();
    frozen.assert_same(&[], &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn c_wakes_where_it_reads() {
    check_orders("json-c");
}

#[test]
fn go_wakes_where_it_reads() {
    check_orders("json-go");
}

#[test]
fn assemblyscript_wakes_where_it_reads() {
    check_orders("json-as");
}

#[test]
fn esbuild_wakes_where_it_reads() {
    let Some(wasm) = program("esbuild") else { return };
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--allow-frozen-random"], &[], &["--loader=ts"]);
    let sample = text("examples/inputs/sample.ts");
    let inputs: [&[u8]; 5] =
        [sample.as_bytes(), b"const x: number = 1", b"", b"const = ;", b"enum A { B, C = 'x' }\nexport default A satisfies unknown"];
    frozen.assert_same(&[], &inputs);
}

#[test]
fn quickjs_wakes_where_it_reads() {
    let Some(wasm) = program("quickjs") else { return };
    let handler = text("examples/frozen-javascript/handler.js");
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--wake-dir"], &[], &["--std", "-e", &handler]);
    // The program that starts from the beginning is given what the frozen one finds in its wake directory.
    let random = frozen.home.write("wake/random", [7; 64]);
    let dir = format!("--ro-dir={}::/preheat", random.parent().unwrap().display());
    for event in EVENTS {
        let (woken, started) = (frozen.wake(&[], event), frozen.start(&[&dir], event));
        assert_eq!((woken.stdout, woken.code, woken.stderr), (started.stdout, started.code, started.stderr));
    }
    let pick = || frozen.wake(&[], br#"{"random":true,"text":"a b"}"#).stdout;
    let (first, second) = (pick(), pick());
    assert!(first.contains("pick") && first != second, "{first}{second}");
}

#[test]
fn cpython_wakes_where_it_reads() {
    let Some(wasm) = program("cpython") else { return };
    let handler = text("examples/frozen-python/handler.py");
    let frozen = Frozen::new(&wasm, &["--freeze=stdin"], &["PYTHONHASHSEED=0"], &["-c", &handler]);
    let mut events = EVENTS.to_vec();
    events.push(br#"{"date":"2024-02-29"}"#);
    frozen.assert_same(&[], &events);
    let pick = || frozen.wake(&[], br#"{"random":true,"text":"a b c d e f g h"}"#).stdout;
    let (first, second) = (pick(), pick());
    assert!(first.contains("\"id\"") && first != second, "{first}{second}");
}

#[test]
fn go_draws_anew_after_waking() {
    let Some(wasm) = program("frozen-go") else { return };
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--wake-dir"], &[], &[]);
    let pick = || frozen.wake(&[], br#"{"random":true,"text":"a b"}"#).stdout;
    let (first, second) = (pick(), pick());
    assert!(first.contains("pick") && first != second, "{first}{second}");
}

#[test]
fn random_numbers_are_not_frozen_unless_that_is_allowed() {
    let Some(wasm) = program("json-go") else { return };
    let frozen = Frozen { home: Home::new(), wasm, args: Vec::new(), env: Vec::new() };
    let refused = frozen.build(&["--freeze=stdin"]);
    refused.assert_fails(121, "random bytes before it was frozen and none after waking");
    assert!(frozen.home.run(["run", "frozen"]).code == Some(120), "a refused image has no name");
    assert_eq!(frozen.build(&["--freeze=stdin", "--allow-frozen-random"]).code, Some(0));
    let shown = frozen.home.ok(["inspect", "frozen"]);
    assert!(shown.contains("frozen    at stdin") && shown.contains("risk "), "{shown}");
}
