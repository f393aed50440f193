//! All code of a module, compiled on several threads.

use crate::codegen::{self, Captured, Compiled, Target};
use crate::freeze::{self, CheckedBody, FunctionSites, Shadow, SiteLayout};
use crate::guide::{Chosen, Guide, Library};
use crate::helpers::Helper;
use crate::module::{Body, Module, impossible};
use crate::translate::{self, Environment};
use crate::{CompileError, CompileOptions, trampolines};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{Function, Signature, StackSlot, UserFuncName};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use preheat_image::abi::{Libcall, ValueType};
use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use wasmparser::FuncValidatorAllocations;

/// How many functions are worth a thread.
const TASKS_OF_A_THREAD: usize = 4;

/// A resume function.
#[derive(Debug)]
pub(crate) struct Resumed {
    /// Offset of the call in the Wasm.
    pub(crate) site: u32,
    /// The number of the type of what is called there.
    pub(crate) called: u32,
    /// Types of the site layout.
    pub(crate) values: Vec<ValueType>,
    pub(crate) code: Compiled,
}

/// The code of a module. Trampolines are paired with the number of their type.
#[derive(Debug)]
pub(crate) struct ModuleCode {
    /// Own functions in order.
    pub(crate) functions: Vec<Compiled>,
    pub(crate) enter: Vec<(u32, Compiled)>,
    pub(crate) host: Vec<(u32, Compiled)>,
    pub(crate) called: Called,
}

/// What the code of functions calls in the same text.
#[derive(Debug, Default)]
pub(crate) struct Called {
    pub(crate) libcalls: Vec<(Libcall, Compiled)>,
    pub(crate) helpers: Vec<(Helper, Compiled)>,
}

/// Compiles the functions of a module and the trampolines that it needs.
pub(crate) fn compile(
    module: &Module<'_>,
    bodies: Vec<Body<'_>>,
    options: &CompileOptions,
    isa: &dyn TargetIsa,
    guide: Option<&Guide<'_>>,
) -> Result<ModuleCode, CompileError> {
    let env = Environment { guide, ..Environment::new(module, options, isa) };
    let chosen = match guide.filter(|guide| guide.passes().inline) {
        Some(guide) => Chosen::new(guide, module, &bodies)?,
        None => Chosen::default(),
    };
    let library = Library::new(chosen, &bodies);
    let new_worker = || Worker { library: Some(&library), ..Worker::new(env, options, isa) };
    let functions = run(bodies, options, new_worker, |worker, body: Body<'_>| worker.function(body))?;
    let mut worker = new_worker();
    let mut rest = |function: Function, what: &str| worker.other(function, what);
    let frontend = env.frontend;

    let imported = module.imported().imported_functions as usize;
    let types_of = |numbers: &mut dyn Iterator<Item = u32>| numbers.collect::<BTreeSet<u32>>();
    let entered = types_of(&mut module.functions.iter().zip(&module.escaping).filter(|(_, escapes)| **escapes).map(|(ty, _)| *ty));
    let hosted = types_of(&mut module.functions[..imported].iter().copied());
    let mut enter = Vec::new();
    for number in entered {
        enter.push((number, rest(trampolines::enter(&module.types[number as usize], frontend), "an enter trampoline")?));
    }
    let mut host = Vec::new();
    for number in hosted {
        host.push((number, rest(trampolines::host(&module.types[number as usize], frontend), "a host trampoline")?));
    }
    let called = called(functions.iter(), &mut worker)?;
    Ok(ModuleCode { functions, enter, host, called })
}

/// Compiles the stubs and helpers that `functions` call.
pub(crate) fn called<'c>(functions: impl Iterator<Item = &'c Compiled>, worker: &mut Worker<'_>) -> Result<Called, CompileError> {
    let (module, frontend) = (worker.env.module, worker.env.frontend);
    let targets: HashSet<Target> = functions.flat_map(|code| &code.relocations).map(|at| at.target).collect();
    let referenced = |wanted: Target| targets.contains(&wanted);
    let mut called = Called::default();
    for libcall in Libcall::ALL.into_iter().filter(|libcall| referenced(Target::Libcall(libcall.number().into()))) {
        called.libcalls.push((libcall, worker.other(trampolines::libcall(libcall, module, frontend), libcall.name())?));
    }
    for helper in Helper::ALL.into_iter().filter(|helper| referenced(Target::Helper(helper.number()))) {
        called.helpers.push((helper, worker.other(helper.build(frontend), helper.name())?));
    }
    Ok(called)
}

/// The CLIF of all functions as text, before optimisation.
pub(crate) fn clif(
    module: &Module<'_>,
    bodies: Vec<Body<'_>>,
    options: &CompileOptions,
    isa: &dyn TargetIsa,
) -> Result<String, CompileError> {
    let mut worker = Worker::new(Environment::new(module, options, isa), options, isa);
    let mut text = String::new();
    for body in bodies {
        if options.capture {
            let index = body.to_validate.index;
            let (body, sites) = worker.check(body, &[])?;
            worker.capture(index, &body, &sites, &Shadow::new(&sites).ok_or_else(|| too_large(module, index))?)?;
        } else {
            worker.translate(body)?;
        }
        text.push_str(&worker.context.func.display().to_string());
        text.push('\n');
    }
    Ok(text)
}

/// Does `tasks` on several threads, with a worker each. Gives the results in order; of several errors, that of the first task.
pub(crate) fn run<'a, T: Send, R: Send>(
    tasks: Vec<T>,
    options: &CompileOptions,
    new_worker: impl Fn() -> Worker<'a> + Sync,
    work: impl Fn(&mut Worker<'a>, T) -> Result<R, CompileError> + Sync,
) -> Result<Vec<R>, CompileError> {
    let count = tasks.len();
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, std::num::NonZero::get);
    let threads = threads.min(count.div_ceil(TASKS_OF_A_THREAD)).max(1);
    let tasks: Vec<Mutex<Option<T>>> = tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(usize::MAX);
    let run = || {
        let mut worker = new_worker();
        let mut results = Vec::new();
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            // What is behind a failed one does not matter, what is before it does.
            if position >= count || position > failed.load(Ordering::Relaxed) {
                return results;
            }
            let task = tasks[position].lock().ok().and_then(|mut task| task.take());
            let Some(task) = task else { return results };
            let result = work(&mut worker, task);
            if result.is_err() {
                failed.fetch_min(position, Ordering::Relaxed);
            }
            results.push((position, result));
        }
    };
    let mut results: Vec<(usize, Result<R, CompileError>)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut results = run();
        for other in others {
            match other.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The error for a function whose shadow frame would be too large.
fn too_large(module: &Module<'_>, function: u32) -> CompileError {
    CompileError::Limit { what: format!("the shadow frame of {}", module.describe(function)) }
}

/// What a thread uses again for each function.
pub(crate) struct Worker<'a> {
    env: Environment<'a>,
    options: &'a CompileOptions,
    isa: &'a dyn TargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
    validator: FuncValidatorAllocations,
    control: ControlPlane,
    /// What comes into others in place of calls.
    library: Option<&'a Library<'a>>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(env: Environment<'a>, options: &'a CompileOptions, isa: &'a dyn TargetIsa) -> Self {
        Self {
            env,
            options,
            isa,
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            validator: FuncValidatorAllocations::default(),
            control: ControlPlane::default(),
            library: None,
        }
    }

    /// Validates, translates and compiles a function.
    fn function(&mut self, body: Body<'_>) -> Result<Compiled, CompileError> {
        let index = body.to_validate.index;
        let module = self.env.module;
        if !self.options.capture {
            self.translate(body)?;
            self.put_in(index)?;
            return self.finish(None, &|| module.describe(index));
        }
        let (body, sites) = self.check(body, &[])?;
        let shadow = Shadow::new(&sites).ok_or_else(|| too_large(module, index))?;
        let slot = self.capture(index, &body, &sites, &shadow)?;
        self.finish(Some(&Captured { function: index, sites: &sites, shadow: &shadow, slot }), &|| module.describe(index))
    }

    /// Validates a function, translates all that is behind `offsets`, sites of it, and compiles it.
    pub(crate) fn resume(&mut self, body: Body<'_>, offsets: &[u32]) -> Result<Vec<Resumed>, CompileError> {
        let function = body.to_validate.index;
        let module = self.env.module;
        let (body, sites) = self.check(body, offsets)?;
        let shadow = self.options.capture.then(|| Shadow::new(&sites).ok_or_else(|| too_large(module, function))).transpose()?;
        let mut resumed = Vec::new();
        for offset in offsets {
            let site = sites.at(*offset).ok_or_else(|| CompileError::NoSite { function: module.describe(function), offset: *offset })?;
            let called = module.called_type(&body.operators[site.operator].0).ok_or_else(|| impossible("a site that is no call"))?;
            let slot = self.translate_resumed(function, &body, &sites, site, shadow.as_ref())?;
            let captured = slot.zip(shadow.as_ref()).map(|(slot, shadow)| Captured { function, sites: &sites, shadow, slot });
            let code = self.finish(captured.as_ref(), &|| format!("{} resumed at {offset:#x}", module.describe(function)))?;
            resumed.push(Resumed { site: *offset, called, values: sites.types(site), code });
        }
        Ok(resumed)
    }

    /// The CLIF of a resume function as text, before optimisation.
    pub(crate) fn resume_clif(&mut self, body: Body<'_>, offset: u32) -> Result<String, CompileError> {
        let function = body.to_validate.index;
        let module = self.env.module;
        let (body, sites) = self.check(body, &[offset])?;
        let shadow = self.options.capture.then(|| Shadow::new(&sites).ok_or_else(|| too_large(module, function))).transpose()?;
        let site = sites.at(offset).ok_or_else(|| CompileError::NoSite { function: module.describe(function), offset })?;
        self.translate_resumed(function, &body, &sites, site, shadow.as_ref())?;
        Ok(self.context.func.display().to_string())
    }

    /// Compiles what is no function of the module.
    pub(crate) fn other(&mut self, function: Function, what: &str) -> Result<Compiled, CompileError> {
        self.context.clear();
        self.context.func = function;
        self.finish(None, &|| what.to_owned())
    }

    /// Validates a function and finds its sites.
    fn check<'b>(&mut self, body: Body<'b>, wanted: &[u32]) -> Result<(CheckedBody<'b>, FunctionSites), CompileError> {
        let index = body.to_validate.index;
        let mut validator = body.to_validate.into_validator(std::mem::take(&mut self.validator));
        let checked = freeze::read(self.env.module, index, &body.body, &mut validator, wanted)?;
        self.validator = validator.into_allocations();
        Ok(checked)
    }

    /// Begins the CLIF of the function with this index.
    fn begin(&mut self, index: u32, signature: Signature) {
        self.context.clear();
        self.context.func.signature = signature;
        self.context.func.name = UserFuncName::user(translate::namespace::FUNCTION, index);
    }

    /// Translates a function into capture code.
    fn capture(&mut self, index: u32, body: &CheckedBody<'_>, sites: &FunctionSites, shadow: &Shadow) -> Result<StackSlot, CompileError> {
        let module = self.env.module;
        self.begin(index, module.signatures[module.functions[index as usize] as usize].clone());
        let builder = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let translated = translate::capturing(self.env, builder, body, sites, shadow);
        if translated.is_err() {
            self.builder = FunctionBuilderContext::new();
        }
        translated
    }

    /// Translates what is behind a site.
    fn translate_resumed(
        &mut self,
        index: u32,
        body: &CheckedBody<'_>,
        sites: &FunctionSites,
        site: SiteLayout<'_>,
        shadow: Option<&Shadow>,
    ) -> Result<Option<StackSlot>, CompileError> {
        let module = self.env.module;
        let ty = &module.types[module.functions[index as usize] as usize];
        self.begin(index, translate::resume_type(&ty.results).guest());
        let builder = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let translated = translate::resuming(self.env, builder, body, sites, site, shadow);
        if translated.is_err() {
            self.builder = FunctionBuilderContext::new();
        }
        translated
    }

    /// Validates a function and translates it into the CLIF of the context.
    fn translate(&mut self, body: Body<'_>) -> Result<(), CompileError> {
        let index = body.to_validate.index;
        let module = self.env.module;
        self.begin(index, module.signatures[module.functions[index as usize] as usize].clone());
        let mut validator = body.to_validate.into_validator(std::mem::take(&mut self.validator));
        let builder = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let translated = translate::function(self.env, builder, &body.body, &mut validator);
        if translated.is_err() {
            // What was begun is of no use.
            self.builder = FunctionBuilderContext::new();
        }
        translated?;
        self.validator = validator.into_allocations();
        Ok(())
    }

    /// Puts into the function in the context what comes into it in place of calls.
    fn put_in(&mut self, index: u32) -> Result<(), CompileError> {
        let module = self.env.module;
        match self.library.filter(|library| library.comes_into(index)) {
            Some(library) => {
                let mut context = std::mem::replace(&mut self.context, Context::new());
                let result = library.put_into(&mut context, &mut |body| self.make_inlined(body), &|| module.describe(index));
                self.context = context;
                result
            }
            None => Ok(()),
        }
    }

    /// A function as it comes into others.
    fn make_inlined(&mut self, body: Body<'_>) -> Result<Function, CompileError> {
        let index = body.to_validate.index;
        let outside = std::mem::replace(&mut self.env.inside, true);
        let translated = self.translate(body).and_then(|()| self.put_in(index));
        self.env.inside = outside;
        translated.map(|()| std::mem::replace(&mut self.context.func, Function::new()))
    }

    fn finish(&mut self, captured: Option<&Captured<'_>>, what: &dyn Fn() -> String) -> Result<Compiled, CompileError> {
        codegen::compile(&mut self.context, self.isa, &mut self.control, self.options.address_map, captured, what)
    }
}
