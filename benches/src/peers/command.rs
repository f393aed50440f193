//! Peers that are commands on this machine: the wasmtime command line, a native program.

use crate::harness::{Failure, System};
use crate::process::ProcessSystem;
use crate::workload::Workload;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// `wasmtime run --allow-precompiled` on what `wasmtime compile` made before. Its module goes to `scratch`.
#[must_use]
pub fn wasmtime_cli(program: &Path, scratch: &Path) -> Box<dyn System> {
    let program = program.to_owned();
    let version = Command::new(&program).arg("--version").output();
    let version = version.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let module: Rc<RefCell<PathBuf>> = Rc::default();
    let (scratch, compiler, compiled) = (scratch.to_owned(), program.clone(), Rc::clone(&module));
    Box::new(ProcessSystem::new(
        "wasmtime run --allow-precompiled",
        version,
        move |workload| {
            let target = scratch.join(format!("{}.cwasm", workload.name));
            let output = Command::new(&compiler).arg("compile").arg("-o").arg(&target).arg(&workload.wasm).output();
            let output = output.map_err(|error| Failure::Absent(format!("{}: {error}", compiler.display())))?;
            if !output.status.success() {
                return Err(Failure::Unfit(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
            }
            compiled.replace(target.clone());
            Ok(vec![compiler.clone(), target])
        },
        move |workload| {
            let mut command = Command::new(&program);
            command.args(["run", "--allow-precompiled"]);
            for (guest, host) in &workload.dirs {
                command.arg(format!("--dir={}::{guest}", host.display()));
            }
            command.arg(&*module.borrow()).args(&workload.args);
            command
        },
    ))
}

/// A native program that does what the workload does, run directly: the least that a fresh process can take.
#[must_use]
pub fn native(program: &Path) -> Box<dyn System> {
    let program = program.to_owned();
    let file = program.clone();
    Box::new(ProcessSystem::new(
        "exec of the native program",
        "",
        move |_: &Workload| if file.is_file() { Ok(vec![file.clone()]) } else { Err(Failure::Absent(file.display().to_string())) },
        move |workload| {
            let mut command = Command::new(&program);
            command.args(&workload.args);
            command
        },
    ))
}
