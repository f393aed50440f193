//! An engine's speed beside wasmtime's, in one process and in turns, with the same Cranelift settings.
//!
//! | file | what it measures |
//! |---|---|
//! | [`starts`] | from the file of a code object to an instance; an instance taken from a slot and given back |
//! | [`kernels`] | steady state of small programs that do one thing |
//! | [`programs`] | steady state of the corpus |
//! | [`steered`] | steady state of code that a profile steers |
//! | [`compile`] | time and peak memory of compiling the corpus |
//!
//! Times in steady state are of the thread, not of the clock on the wall. Ratios are medians over rounds in which both sides ran, see
//! [`crate::stats`]. What a part lacks on this machine is in the report with the reason.

pub mod compile;
pub mod guest;
pub mod kernels;
pub mod programs;
pub mod report;
pub mod starts;
pub mod steered;
pub mod wasmtime;

use anyhow::Result;
use guest::Guest;
use preheat_image::profile::Summary;
use report::Report;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// From the file of a code object to an instance that is ready to be called.
    Open,
    /// An instance taken from a slot and given back.
    Slots,
    /// Steady state of small programs that do one thing.
    Kernels,
    /// Steady state of the corpus.
    Corpus,
    /// Time and peak memory of compiling.
    Compile,
    /// What interrupt checks cost, in the kernels and in the corpus.
    Interrupt,
    /// Steady state of code that a profile steers.
    Profile,
    /// What each use of a profile brings.
    Passes,
}

impl Part {
    /// All of them, in order.
    pub const ALL: [Self; 8] =
        [Self::Open, Self::Slots, Self::Kernels, Self::Corpus, Self::Compile, Self::Interrupt, Self::Profile, Self::Passes];
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// The native engine as it is.
    Native,
    /// The native engine, its code loaded from the store.
    FromStore,
    /// The native engine with code that can't be interrupted.
    Unchecked,
    /// The native engine without `PAGEMAP_SCAN`, as on kernels before Linux 6.7.
    Pagemap,
    /// The native engine without a way to find written pages.
    Remap,
    /// Wasmtime as it is: its code can't be interrupted.
    Wasmtime,
    /// Wasmtime with epoch interruption.
    Epochs,
    /// Wasmtime with its inliner.
    Inlining,
    /// The native engine with code that counts what it does.
    Counting,
    /// The native engine with code that a profile steers.
    Steered,
    /// The same, but functions stand in the text as in the Wasm.
    WithoutLayout,
    /// The same, but rare blocks stay where they are.
    WithoutBlocks,
    /// The same, but nothing comes in place of calls.
    WithoutInline,
    /// The same, and callees of indirect calls are expected.
    WithCalls,
    /// The same, but no arm of a jump table is tried first.
    WithoutTables,
}

impl System {
    /// Those that lack one use of the profile, or have one more.
    pub const OTHERWISE: [Self; 5] = [Self::WithoutLayout, Self::WithoutBlocks, Self::WithoutInline, Self::WithCalls, Self::WithoutTables];

    /// Whether a profile steers it.
    #[must_use]
    pub fn is_steered(self) -> bool {
        self == Self::Steered || Self::OTHERWISE.contains(&self)
    }

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::FromStore => "native, from the store",
            Self::Unchecked => "native, not interruptible",
            Self::Pagemap => "native, reading pagemap",
            Self::Remap => "native, mapping anew",
            Self::Wasmtime => "wasmtime",
            Self::Epochs => "wasmtime, epochs",
            Self::Inlining => "wasmtime, inlining",
            Self::Counting => "native, counting",
            Self::Steered => "native, with a profile",
            Self::WithoutLayout => "without layout",
            Self::WithoutBlocks => "without blocks",
            Self::WithoutInline => "without inline",
            Self::WithCalls => "with calls",
            Self::WithoutTables => "without tables",
        }
    }
}

/// A kernel's exported function `run`, in an instance of its own.
pub type Kernel = Box<dyn FnMut(i32) -> Result<i64>>;
/// A program, run in a fresh instance each time: gives the thread's time in `_start`, and what it wrote.
pub type Program = Box<dyn Fn(Guest) -> Result<(Duration, Vec<u8>)>>;
/// Opens code and makes an instance; gives the time that took.
pub type Opening = Box<dyn FnMut() -> Result<Duration>>;
/// Takes an instance, has it write to as many pages as are asked for, and gives it back; gives the time without the writing.
pub type Slot = Box<dyn FnMut(i32) -> Result<Duration>>;

/// An engine for this host's CPU, as it is set up for a [`System`].
pub trait Engine {
    /// Makes a kernel ready.
    ///
    /// # Errors
    /// When it can't be compiled or instantiated.
    fn kernel(&self, wasm: &[u8]) -> Result<Kernel>;

    /// Makes a program ready, whose imports are those of [`Guest`].
    ///
    /// # Errors
    /// As [`Self::kernel`].
    fn program(&self, wasm: &[u8]) -> Result<Program>;

    /// Compiles a module of [`starts`] to a file, `scratch` or one of its own.
    ///
    /// # Errors
    /// As [`Self::kernel`].
    fn opening(&self, wasm: &[u8], scratch: &Path) -> Result<Opening>;

    /// Compiles and loads a module of [`starts`].
    ///
    /// # Errors
    /// As [`Self::kernel`].
    fn slot(&self, wasm: &[u8]) -> Result<Slot>;

    /// Compiles, and says how many bytes that gives.
    ///
    /// # Errors
    /// When it can't be compiled.
    fn code_size(&self, wasm: &[u8]) -> Result<usize>;
}

/// The systems that are not wasmtime: this crate must not know them.
pub trait Ours {
    /// Sets up the engine for a system.
    ///
    /// # Errors
    /// When the machine can't have it.
    fn engine(&self, system: System) -> Result<Box<dyn Engine>>;

    /// Makes a profile of what a module does.
    ///
    /// # Errors
    /// When it can't be compiled, or fails.
    fn train(&self, wasm: &[u8], lesson: &steered::Lesson<'_>) -> Result<Summary>;

    /// Sets up the engine for a system that this profile steers.
    ///
    /// # Errors
    /// As [`Self::engine`].
    fn steered(&self, system: System, profile: Arc<Summary>) -> Result<Box<dyn Engine>>;

    /// Compiles for this host and does nothing else.
    ///
    /// # Errors
    /// When it can't be compiled.
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>>;

    /// The arguments with which this very program, as a process of its own, calls [`compile::child`].
    fn child_arguments(&self, system: System, wasm: &Path) -> Vec<std::ffi::OsString>;
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which parts.
    pub parts: BTreeSet<Part>,
    /// Only rows of these names, if there are any.
    pub names: Vec<String>,
    /// Rounds; in each every system runs once. Slow programs get fewer, quick parts more.
    pub rounds: usize,
    /// Where the programs of the corpus are.
    pub fetched: PathBuf,
    /// Where the examples are, of which some programs and inputs are used.
    pub examples: PathBuf,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn wants_name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    /// The systems of a part in steady state: those that it compares, and those that the interrupt check needs.
    fn steady_systems(&self, part: Part) -> Vec<System> {
        let mut systems = vec![System::Native];
        systems.extend(self.wants(part).then_some([System::Wasmtime, System::Epochs]).into_iter().flatten());
        systems.extend(self.wants(Part::Interrupt).then_some(System::Unchecked));
        systems
    }
}

/// The thread's own time.
#[must_use]
pub fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Sets up a system.
fn engine(ours: &dyn Ours, system: System) -> Result<Box<dyn Engine>> {
    match system {
        System::Wasmtime => Ok(Box::new(wasmtime::Wasmtime::new(false, false)?)),
        System::Epochs => Ok(Box::new(wasmtime::Wasmtime::new(true, false)?)),
        System::Inlining => Ok(Box::new(wasmtime::Wasmtime::new(false, true)?)),
        _ => ours.engine(system),
    }
}

/// Measures; `progress` is told what.
///
/// # Errors
/// When a system fails, or two of them compute different things.
pub fn run(options: &Options, ours: &dyn Ours, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut report = Report::new(options.rounds);
    if options.wants(Part::Open) {
        starts::open(options, ours, &mut report, progress)?;
    }
    if options.wants(Part::Slots) {
        starts::slots(options, ours, &mut report, progress)?;
    }
    if options.wants(Part::Kernels) || options.wants(Part::Interrupt) {
        kernels::measure(options, ours, &mut report, progress)?;
    }
    if options.wants(Part::Corpus) || options.wants(Part::Interrupt) {
        programs::measure(options, ours, &mut report, progress)?;
    }
    if options.wants(Part::Compile) {
        compile::measure(options, ours, &mut report, progress)?;
    }
    for part in [Part::Profile, Part::Passes] {
        if options.wants(part) {
            steered::measure(part, options, ours, &mut report, progress)?;
        }
    }
    Ok(report)
}

/// Systems in turns: the order of `count` systems in a round, which begins with another one each time.
fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (turn + round) % count)
}
