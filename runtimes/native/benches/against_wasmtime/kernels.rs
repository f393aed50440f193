//! Steady state of compute kernels.

use crate::engines::{Kernel, Native, System, Wasmtime, thread_time};
use crate::{Options, Row};
use std::path::Path;
use std::process::Command;

/// The kernels and what they are called with, some 10 ms each.
const KERNELS: [(&str, i32); 20] = [
    ("blur", 700),
    ("copies", 300_000),
    ("crc32", 60),
    ("dot", 220),
    ("fannkuch", 9),
    ("fft", 40),
    ("fib", 33),
    ("floyd", 18),
    ("gemm", 28),
    ("hash", 50),
    ("interpreter", 200_000),
    ("jacobi", 260),
    ("levenshtein", 20),
    ("lu", 48),
    ("mandelbrot", 400),
    ("nbody", 150_000),
    ("quicksort", 5),
    ("sha256", 600),
    ("sieve", 20),
    ("trees", 300),
];

/// The systems in the order of their columns.
pub(crate) const SYSTEMS: [&str; 4] = ["native", "unchecked", "wasmtime", "wasmtime-epoch"];

/// Makes the systems. The second is the native engine without interrupt checks.
pub(crate) fn systems() -> [Box<dyn System>; 4] {
    [
        Box::new(Native::new(true, None)),
        Box::new(Native::new(false, None)),
        Box::new(Wasmtime::new(false, true)),
        Box::new(Wasmtime::new(true, true)),
    ]
}

/// Compiles a kernel. Linked by hand, since clang as a driver runs wasm-opt where it finds it. Loops stay scalar unless the source says SIMD.
fn build(source: &Path, scratch: &Path) -> Result<Vec<u8>, String> {
    let run = |command: &mut Command| match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error} (Debian's packages clang-14 and lld-14 have it)")),
    };
    let (object, module) = (scratch.join("kernel.o"), scratch.join("kernel.wasm"));
    let flags = "--target=wasm32 -O2 -fno-vectorize -fno-slp-vectorize -msimd128 -mbulk-memory -c";
    run(Command::new("clang-14").args(flags.split(' ')).arg("-o").args([&object, source]))?;
    run(Command::new("wasm-ld-14").args(["--no-entry", "--strip-debug", "-o"]).args([&module, &object]))?;
    std::fs::read(&module).map_err(|error| format!("{}: {error}", module.display()))
}

pub(crate) fn measure(options: &Options, add: &mut dyn FnMut(Row)) -> Result<(), String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kernels");
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let systems = systems();
    for (name, times) in KERNELS.into_iter().filter(|(name, _)| options.wants_name(name)) {
        let wasm = build(&sources.join(format!("{name}.c")), scratch.path())?;
        let compile = |system: &dyn System| Ok(system.kernel(&system.compile(&wasm)?));
        let mut kernels: Vec<Kernel> = systems.iter().map(|system| compile(&**system)).collect::<Result<_, String>>()?;
        let expected = kernels[0](times);
        let mut row = Row::new("kernels", name, "ms", &SYSTEMS);
        for round in 0..options.rounds {
            for turn in 0..kernels.len() {
                let system = (turn + round) % kernels.len();
                let before = thread_time();
                let sum = kernels[system](times);
                row.push(system, (thread_time() - before).as_secs_f64() * 1e3);
                if sum != expected {
                    return Err(format!("{name}: {} gives {sum}, not {expected}", SYSTEMS[system]));
                }
            }
        }
        add(row);
    }
    Ok(())
}
