//! Compiles a module into a code object, to look at with `objdump -d`:
//! `cargo run -p preheat-compiler --example compile -- app.wasm app.code [v1|v2|v3|v4]`.

use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (input, output) = args.next().zip(args.next()).ok_or("give a module and where the code object goes")?;
    let cpu = match args.next() {
        Some(level) => level.to_string_lossy().parse()?,
        None => CpuLevel::V3,
    };
    let bytes = std::fs::read(input)?;
    let wasm = if bytes.starts_with(b"\0asm") { bytes.into() } else { wat::parse_bytes(&bytes)? };
    let options = CompileOptions { verify: cfg!(debug_assertions), ..CompileOptions::new(cpu) };
    let begin = Instant::now();
    let code = Compiler::new(options)?.compile(&wasm, Digest::ZERO)?;
    eprintln!("{} bytes of Wasm, {} bytes of code object, {:?}", wasm.len(), code.len(), begin.elapsed());
    std::fs::write(output, code)?;
    Ok(())
}
