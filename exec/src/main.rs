//! Runs an image of the native engine, and is nothing else: no compiler, no cache client, no other engine. For use as a container's entry
//! point. Trust is judged as everywhere: what no builder vouches for whom the home's policy trusts is not run.

#![forbid(unsafe_code)]

mod arguments;

use arguments::{Arguments, Parsed};
use preheat_call::{Input, Output, Request, RunError, exit};
use preheat_loader::{Home, LoadOptions, StoreError};
use preheat_native_wasi::{ENGINE, EngineOptions, Loaded, NativeEngine, TARGET, host_cpu};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// The exit code for a command line that can't be understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Help) => print(arguments::HELP),
        Ok(Parsed::Version) => print(concat!("preheat-exec ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Parsed::Run(arguments)) => match run(*arguments) {
            Ok(code) => ExitCode::from(exit::of_guest(code)),
            Err(error) => fail(&error),
        },
        Err(what) => {
            eprintln!("preheat-exec: {what}\n\n{}", arguments::HELP.lines().next().unwrap_or_default());
            ExitCode::from(USAGE)
        }
    }
}

fn fail(error: &RunError) -> ExitCode {
    eprintln!("preheat: {}", exit::message(error));
    ExitCode::from(exit::of_run(error))
}

/// Writes to standard output. Nobody may read it any more.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(exit::FAILED),
    }
}

fn run(arguments: Arguments) -> Result<i32, RunError> {
    let loaded = load(&arguments)?;
    let mut request = Request::new().input(Input::Inherit).stdout(Output::Inherit).stderr(Output::Inherit);
    for dir in arguments.dirs {
        request = request.dir(dir);
    }
    for (name, value) in arguments.env {
        request = request.env(name, value);
    }
    if let Some(timeout) = arguments.timeout {
        request = request.timeout(timeout);
        watch(timeout);
    }
    if let Some(max) = arguments.max_memory {
        request = request.max_memory(usize::try_from(max).unwrap_or(usize::MAX));
    }
    let Some(export) = arguments.invoke else { return loaded.run_last(&request.args(arguments.args)) };
    let mut instance = loaded.instantiate(&request, None)?;
    let results = instance.call_text(&export, &arguments.args, None)?;
    let text: String = results.iter().flat_map(|result| [result, "\n"]).collect();
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| RunError::Host(error.into()))?;
    Ok(0)
}

fn load(arguments: &Arguments) -> Result<Loaded, RunError> {
    let home = match &arguments.home {
        Some(root) => Home::at(std::path::absolute(root).unwrap_or_else(|_| root.clone())),
        None => Home::from_env()?,
    };
    let store = home.store()?;
    let digest = store.resolve_text(&arguments.image)?;
    let image = store.load(&digest, &home.trust()?, LoadOptions { rehash: arguments.verify })?;
    let Some(function) = image.manifest().function.clone() else {
        return Err(RunError::Usage(format!("{digest} is the image of no Wasm function")));
    };
    let level = host_cpu().ok_or_else(|| RunError::Usage("this host is no x86-64".into()))?;
    let code = image.code(ENGINE, TARGET, level).map_err(|error| match error {
        error @ StoreError::NoVariant { .. } if image.manifest().code().all(|(_, variant)| variant.engine != ENGINE) => {
            // The error names what there is; this is what to do about it.
            eprintln!("preheat: preheat-exec has the native engine only; build the image with `--engine native`, or use `preheat run`");
            error
        }
        error => error,
    })?;
    NativeEngine::new(EngineOptions::default())?.load_image(&image, code, &function)
}

/// Ends the process a little after the deadline. The engine ends a guest in its loops and its waits, but an inherited output may be
/// something that blocks whatever was asked of it.
fn watch(timeout: Duration) {
    const GRACE: Duration = Duration::from_millis(300);
    let Some(late) = timeout.checked_add(GRACE) else { return };
    std::thread::spawn(move || {
        std::thread::sleep(late);
        let _ = fail(&RunError::Timeout(timeout));
        std::process::exit(i32::from(exit::TIMEOUT));
    });
}
