//! Programs that are frozen at some call of the host and wake again: they must come to the same end as when they run through.
//!
//! A program, the call at which it is frozen and how it is compiled follow from a seed: `cargo run --release -p preheat-freezing -- --seeds
//! 0..50_000`, and with `--nests` for programs with many loops in loops. Some programs are frozen once more after they woke, and again. Compared are the results or the trap, all calls of the host with
//! their arguments, and the state in the end: memories, globals, tables, dropped segments.

#![deny(unsafe_code)]

mod nests;
mod program;
mod random;
#[allow(unsafe_code, reason = "the one file for it")]
mod sys;

use crate::random::Random;
use crate::sys::CompiledHere;
use anyhow::{Context as _, Result, bail};
use preheat_compiler::{CompileOptions, Compiler, Optimize, Site};
use preheat_image::CpuLevel;
use preheat_image::abi::{NONE, TrapCode, ValueType};
use preheat_native::{
    Caller, CapturedStack, Engine, Error, Frozen, Func, FuncType, HeapFile, Instance, InstancePre, Linker, Module, ResumeCode,
    SnapshotParts, Store, Val,
};
use std::num::NonZeroUsize;

/// What became of a program.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// How many calls of the host it makes when it runs through.
    pub host_calls: usize,
    /// How often it was frozen.
    pub frozen: usize,
    /// How many frames were frozen, in all.
    pub frames: usize,
    /// How many values these had.
    pub values: usize,
    /// Whether it ended with a trap or an exception.
    pub trapped: bool,
    /// What was not the same.
    pub difference: Option<String>,
}

/// What the host of a program knows.
#[derive(Debug, Default)]
struct Host {
    /// Each call with its arguments.
    trace: Vec<String>,
    /// At which call the program is frozen.
    freeze_at: Option<usize>,
    stack: Option<CapturedStack>,
    /// Decides the results.
    seed: u64,
}

/// The program is stopped since it is frozen.
#[derive(Debug, thiserror::Error)]
#[error("frozen")]
struct Stopped;

/// How a program ended, with its calls of the host and its state.
#[derive(Debug, PartialEq, Eq)]
struct End {
    /// The results, or the trap.
    results: Result<Vec<String>, TrapCode>,
    trace: Vec<String>,
    state: Vec<u8>,
}

/// A program as it was frozen.
struct Image {
    bytes: Vec<u8>,
    stack: CapturedStack,
}

fn types(letters: &str) -> Vec<ValueType> {
    let of = |letter| match letter {
        'i' => ValueType::I32,
        'l' => ValueType::I64,
        'f' => ValueType::F32,
        'd' => ValueType::F64,
        'v' => ValueType::V128,
        'r' => ValueType::FuncRef,
        _ => ValueType::ExternRef,
    };
    letters.chars().map(of).collect()
}

/// A value as text that means the same in another store.
fn shown(store: &Store<Host>, value: &Val) -> String {
    match value {
        Val::FuncRef(Some(function)) => function.ty(store).map_or("?".into(), |ty| format!("function {ty}")),
        other => format!("{other:?}"),
    }
}

fn linker() -> Result<Linker<Host>> {
    let mut linker = Linker::new();
    for (number, (params, results)) in program::HOST.iter().enumerate() {
        let results = types(results);
        let ty = FuncType::new(types(params), results.iter().copied());
        let function = Func::new(ty, move |caller: &mut Caller<'_, Host>, params| {
            let host = caller.data();
            if host.freeze_at == Some(host.trace.len()) {
                let stack = caller.capture()?;
                caller.data_mut().stack = Some(stack);
                return Err(Error::host(Stopped));
            }
            let shown = params.iter().map(|value| match value {
                Val::FuncRef(Some(function)) => function.ty(&*caller).map(|ty| format!("function {ty}")),
                other => Ok(format!("{other:?}")),
            });
            let call = format!("h{number} {:?}", shown.collect::<Result<Vec<_>, _>>()?);
            let host = caller.data_mut();
            host.trace.push(call);
            let mut random = Random::new(host.seed, host.trace.len() as u64);
            Ok(results.iter().map(|ty| result(&mut random, *ty)).collect())
        });
        linker.define("host", &format!("h{number}"), preheat_native::Extern::Func(function))?;
    }
    Ok(linker)
}

#[expect(clippy::cast_possible_truncation, reason = "any number will do")]
fn result(random: &mut Random, ty: ValueType) -> Val {
    match ty {
        ValueType::I32 => Val::I32(random.number() as i32),
        ValueType::I64 => Val::I64(random.number().cast_signed()),
        ValueType::F32 => Val::F32(random.number() as u32),
        ValueType::F64 => Val::F64(random.number()),
        ValueType::V128 => Val::V128(u128::from(random.number()) << 64 | u128::from(random.number())),
        ValueType::FuncRef => Val::FuncRef(None),
        ValueType::ExternRef => Val::ExternRef(None),
        ValueType::ExnRef => Val::ExnRef(None),
    }
}

/// A program with what it is compiled to.
struct Program {
    wasm: Vec<u8>,
    options: CompileOptions,
    seed: u64,
}

impl Program {
    fn of_seed(seed: u64, nests: bool) -> Result<Self> {
        let text = program::program(&mut Random::new(seed, 20), nests);
        let wasm = wat::parse_str(&text).with_context(|| text.clone())?;
        let mut random = Random::new(seed, 21);
        let host = CpuLevel::of_host().unwrap_or(CpuLevel::V1);
        let levels: Vec<_> = CpuLevel::ALL.into_iter().filter(|level| *level <= host).collect();
        let mut options = CompileOptions::new(*random.choose(&levels));
        options.optimize = *random.choose(&[Optimize::Speed, Optimize::None, Optimize::None, Optimize::Size]);
        options.interruptible = random.chance(3, 4);
        options.verify = random.chance(1, 8);
        options.threads = NonZeroUsize::new(1);
        Ok(Self { wasm, options, seed })
    }

    fn compiler(&self, capture: bool) -> Result<Compiler> {
        let mut options = self.options;
        options.capture = capture;
        Ok(Compiler::new(options)?)
    }

    fn host(&self, freeze_at: Option<usize>, trace: &[String]) -> Host {
        Host { trace: trace.to_vec(), freeze_at, stack: None, seed: self.seed }
    }

    /// A resume object for all that is on a stack.
    fn resume(&self, base: &CompiledHere, module: &Module, stack: &CapturedStack, capture: bool) -> Result<ResumeCode> {
        let mut sites: Vec<Site> =
            stack.frames().iter().map(|frame| Site { function: frame.function, offset: frame.site.unwrap_or(NONE) }).collect();
        sites.sort_unstable();
        sites.dedup();
        let code = CompiledHere::resume(&self.compiler(capture)?, &self.wasm, base, &sites)?;
        Ok(ResumeCode::load(module, code.trusted()?)?)
    }
}

/// What is left of a run: its end, or what it was frozen as.
enum Left {
    End(End),
    Image(Image),
}

fn left(mut store: Store<Host>, instance: Instance, result: Result<Vec<Val>, Error>, layers: &[HeapFile]) -> Result<Left> {
    if result.as_ref().is_err_and(|error| error.downcast_host::<Stopped>().is_some()) {
        let stack = store.data_mut().stack.take().context("it was stopped and not captured")?;
        let parts = SnapshotParts { layers, stack: Some(&stack), ..SnapshotParts::default() };
        return Ok(Left::Image(Image { bytes: instance.capture(&store)?.to_snapshot(&parts)?, stack }));
    }
    let results = match result {
        Ok(values) => Ok(values.iter().map(|value| shown(&store, value)).collect()),
        Err(Error::Trap(trap)) => Err(trap.code),
        Err(other) => bail!("{other}"),
    };
    let state = instance.capture(&store)?.to_snapshot(&SnapshotParts::default())?;
    Ok(Left::End(End { results, trace: std::mem::take(&mut store.data_mut().trace), state }))
}

/// Runs from the beginning.
fn begin(engine: &Engine, pre: &InstancePre<Host>, host: Host) -> Result<Left> {
    let mut store = Store::new(engine, host)?;
    let instance = pre.instantiate(&mut store)?;
    let result = instance.func(&store, "main")?.call(&mut store, &[]);
    left(store, instance, result, &[])
}

/// Runs from where it was frozen.
fn go_on(engine: &Engine, pre: &InstancePre<Host>, host: Host, frozen: &Frozen, layers: &[HeapFile]) -> Result<Left> {
    let mut store = Store::new(engine, host)?;
    let instance = pre.wake(&mut store, frozen)?;
    let result = instance.resume(&mut store);
    left(store, instance, result, layers)
}

/// Makes the program of a seed, lets it run through, freezes it at a call of the host that the seed chooses (some programs once more after
/// they woke), and lets it wake. With `nests` the program has many loops in loops.
///
/// # Errors
/// When anything fails that should not, with whatever made sense of it.
pub fn check(engine: &Engine, seed: u64, nests: bool) -> Result<Verdict> {
    let program = Program::of_seed(seed, nests)?;
    let mut random = Random::new(seed, 22);
    let linker = linker()?;
    let base = CompiledHere::compile(&program.compiler(false)?, &program.wasm)?;
    let module = Module::load(engine, base.trusted()?)?;
    let pre = linker.instantiate_pre(&module)?;
    let Left::End(expected) = begin(engine, &pre, program.host(None, &[]))? else { bail!("it was frozen unasked") };
    let mut verdict = Verdict { host_calls: expected.trace.len(), trapped: expected.results.is_err(), ..Verdict::default() };
    if expected.trace.is_empty() || expected.results == Err(TrapCode::StackOverflow) {
        return Ok(verdict);
    }
    let capture = CompiledHere::compile(&program.compiler(true)?, &program.wasm)?;
    let capture_module = Module::load(engine, capture.trusted()?)?;
    let capture_pre = linker.instantiate_pre(&capture_module)?;
    let mut at = random.below(expected.trace.len());
    let Left::Image(mut image) = begin(engine, &capture_pre, program.host(Some(at), &[]))? else { bail!("it was not frozen at call {at}") };
    let note = |verdict: &mut Verdict, image: &Image| {
        verdict.frozen += 1;
        verdict.frames += image.stack.frames().len();
        verdict.values += image.stack.frames().iter().map(|frame| frame.values.len()).sum::<usize>();
    };
    note(&mut verdict, &image);
    let mut layers = vec![HeapFile::of_bytes(&image.bytes)?];
    while verdict.frozen < 4 && at + 1 < expected.trace.len() && random.chance(1, 3) {
        let resume = program.resume(&capture, &capture_module, &image.stack, true)?;
        let frozen = Frozen::load(&capture_module, &layers, Some(&resume))?;
        let next = at + 1 + random.below(expected.trace.len() - at - 1);
        let host = program.host(Some(next), &expected.trace[..at]);
        match go_on(engine, &capture_pre, host, &frozen, &layers)? {
            Left::Image(next) => image = next,
            Left::End(end) => {
                verdict.difference =
                    Some(format!("woken at call {at} it was not frozen at call {next} but ended: {}", compared(&expected, &end)));
                return Ok(verdict);
            }
        }
        at = next;
        note(&mut verdict, &image);
        layers.push(HeapFile::of_bytes(&image.bytes)?);
    }
    let resume = program.resume(&base, &module, &image.stack, false)?;
    let frozen = Frozen::load(&module, &layers, Some(&resume))?;
    for _ in 0..2 {
        let Left::End(end) = go_on(engine, &pre, program.host(None, &expected.trace[..at]), &frozen, &layers)? else {
            bail!("it was frozen unasked")
        };
        if end != expected {
            verdict.difference = Some(format!("frozen at call {at}: {}", compared(&expected, &end)));
        }
    }
    Ok(verdict)
}

/// The program of a seed as Wasm, to look at.
///
/// # Errors
/// When the generator made something that is not valid.
pub fn program_of(seed: u64, nests: bool) -> Result<Vec<u8>> {
    Program::of_seed(seed, nests).map(|program| program.wasm)
}

fn compared(expected: &End, found: &End) -> String {
    if expected.results != found.results {
        return format!("{:?} instead of {:?}", found.results, expected.results);
    }
    let calls = expected.trace.iter().zip(&found.trace).position(|(one, other)| one != other);
    match calls {
        Some(call) => format!("call {call} of the host is {} instead of {}", found.trace[call], expected.trace[call]),
        None if expected.trace.len() != found.trace.len() => format!("{} calls, not {}", found.trace.len(), expected.trace.len()),
        None => "another state at the end".into(),
    }
}
