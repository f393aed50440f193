//! Code objects of the native engine in the hands of other people's tools: they show the functions' names. What is not installed, or may not look
//! into other processes, is not tested, unless `PREHEAT_INTEROP=required` is set.

mod common;

use common::Home;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Says "!" and is busy from then on, in a function that another one called.
const BUSY: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\08\00\00\00\02\00\00\00!\0a")
    (func $inner_loop (param i32) (result i32)
        (loop (i32.store (i32.const 16) (local.get 0)) (br 0))
        unreachable)
    (func $outer_caller (param i32) (result i32)
        (i32.add (call $inner_loop (local.get 0)) (i32.const 1)))
    (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 4)))
        (drop (call $outer_caller (i32.const 7)))))"#;

/// The code object of [`BUSY`], as `preheat build` puts it into the store.
fn code_object(home: &Home) -> PathBuf {
    home.write("busy.wat", BUSY);
    home.ok(["build", "--engine", "native", "--cpu", "v2", "--tag", "busy", "busy.wat"]);
    let image = home.json(["inspect", "busy"]);
    let artefact = &image["manifest"]["artefacts"][0];
    assert_eq!(artefact["variant"]["engine"], "native", "{image}");
    home.blob(artefact["digest"].as_str().unwrap()).canonicalize().unwrap()
}

/// What a tool says, or `None` where it is not installed.
fn said(tool: &str, args: &[&str], file: &Path) -> Option<String> {
    match Command::new(tool).args(args).arg(file).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            assert!(output.status.success(), "{tool}: {text}");
            Some(text)
        }
        Err(error) => {
            not_tested(&format!("{tool}: {error}"));
            None
        }
    }
}

fn not_tested(why: &str) {
    assert!(std::env::var("PREHEAT_INTEROP").as_deref() != Ok("required"), "{why}");
    // Not `eprintln!`, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "not tested: {why}");
}

/// The lines of a disassembly from the one with `name` up to the next empty one.
fn function<'a>(disassembly: &'a str, name: &str) -> &'a str {
    let start = disassembly.find(name).unwrap_or_else(|| panic!("no {name} in {disassembly}"));
    disassembly[start..].split("\n\n").next().unwrap_or_default()
}

#[test]
fn objdump_names_functions_and_what_they_call() {
    let home = Home::new();
    let file = code_object(&home);
    let Some(text) = said("objdump", &["-d"], &file) else { return };
    assert!(function(&text, "<outer_caller>:").lines().any(|line| line.contains("call") && line.ends_with("<inner_loop>")), "{text}");
    assert!(function(&text, "<_start>:").lines().any(|line| line.contains("call") && line.ends_with("<outer_caller>")), "{text}");
    assert!(!text.contains("(bad)"), "{text}");
    let Some(table) = said("objdump", &["-t"], &file) else { return };
    for name in ["inner_loop", "outer_caller", "_start"] {
        assert!(table.lines().any(|line| line.contains(" F .text") && line.ends_with(&format!(" {name}"))), "{name}: {table}");
    }
}

#[test]
fn gdb_disassembles_functions_by_name() {
    let home = Home::new();
    let file = code_object(&home);
    let commands = ["-q", "-batch", "-nx", "-ex", "info functions", "-ex", "disassemble outer_caller", "-ex", "info symbol inner_loop"];
    let Some(text) = said("gdb", &commands, &file) else { return };
    assert!(text.contains("Dump of assembler code for function outer_caller"), "{text}");
    assert!(text.lines().any(|line| line.contains("call") && line.ends_with("<inner_loop>")), "{text}");
    assert!(text.contains("inner_loop in section .text"), "{text}");
}

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn gdb_names_the_frames_of_a_guest_that_runs() {
    let home = Home::new();
    let file = code_object(&home);
    let mut command = home.command(["run", "--timeout", "10m", "busy"]);
    let mut guest = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(guest.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "!\n");

    let maps = std::fs::read_to_string(format!("/proc/{}/maps", guest.0.id())).unwrap();
    let mapping = |line: &&str| line.ends_with(file.to_str().unwrap()) && line.split_ascii_whitespace().nth(2) == Some("00000000");
    let start = maps.lines().find(mapping).and_then(|line| line.split('-').next()).unwrap_or_else(|| panic!("{maps}"));
    let add = format!("add-symbol-file {} -o 0x{start}", file.display());
    let attach = format!("attach {}", guest.0.id());
    let mut text = String::new();
    // The guest may still be on its way back from writing.
    for _ in 0..10 {
        let args = ["-q", "-batch", "-nx", "-ex", &attach, "-ex", &add, "-ex", "thread apply all backtrace 40", "-ex", "detach"];
        match Command::new("gdb").args(args).output() {
            Ok(output) => text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat(),
            Err(error) => return not_tested(&format!("gdb: {error}")),
        }
        if text.contains("ptrace: Operation not permitted") || text.contains("Could not attach to process") {
            return not_tested(&format!("gdb may not look into other processes here: {text}"));
        }
        if text.contains("inner_loop") {
            break;
        }
    }
    let frames: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    let first = frames.iter().position(|frame| frame.contains("inner_loop")).unwrap_or_else(|| panic!("{text}"));
    assert!(frames[first + 1].contains("outer_caller") && frames[first + 2].contains("_start"), "{text}");
    // And out of the guest's stack into the host's.
    assert!(frames[first + 3..].iter().any(|frame| frame.contains("preheat")), "{text}");
}
