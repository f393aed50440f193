//! All code of a module, compiled on several threads.

use crate::codegen::{self, Compiled, Target};
use crate::helpers::Helper;
use crate::module::{Body, Module};
use crate::translate::{self, Environment};
use crate::{CompileError, CompileOptions, trampolines};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{Function, UserFuncName};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use preheat_image::abi::Libcall;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use wasmparser::FuncValidatorAllocations;

/// The code of a module. Trampolines are paired with the number of their type, stubs and helpers with their own.
#[derive(Debug)]
pub(crate) struct ModuleCode {
    /// Own functions in order.
    pub(crate) functions: Vec<Compiled>,
    pub(crate) enter: Vec<(u32, Compiled)>,
    pub(crate) host: Vec<(u32, Compiled)>,
    pub(crate) libcalls: Vec<(Libcall, Compiled)>,
    pub(crate) helpers: Vec<(Helper, Compiled)>,
}

/// Compiles the functions of a module and the trampolines that it needs.
pub(crate) fn compile(
    module: &Module<'_>,
    bodies: Vec<Body<'_>>,
    options: &CompileOptions,
    isa: &dyn TargetIsa,
) -> Result<ModuleCode, CompileError> {
    let env = Environment::new(module, options, isa);
    let functions = compile_bodies(env, bodies, options, isa)?;
    let mut worker = Worker::new(env, options, isa);
    let mut rest = |function: Function, what: &str| {
        worker.context.clear();
        worker.context.func = function;
        worker.finish(&|| what.to_owned())
    };
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
    let referenced = |wanted: Target| functions.iter().flat_map(|code: &Compiled| &code.relocations).any(|at| at.target == wanted);
    let mut libcalls = Vec::new();
    for libcall in Libcall::ALL.into_iter().filter(|libcall| referenced(Target::Libcall(libcall.number().into()))) {
        libcalls.push((libcall, rest(trampolines::libcall(libcall, module, frontend), libcall.name())?));
    }
    let mut helpers = Vec::new();
    for helper in Helper::ALL.into_iter().filter(|helper| referenced(Target::Helper(helper.number()))) {
        helpers.push((helper, rest(helper.build(frontend), helper.name())?));
    }
    Ok(ModuleCode { functions, enter, host, libcalls, helpers })
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
        worker.translate(body)?;
        text.push_str(&worker.context.func.display().to_string());
        text.push('\n');
    }
    Ok(text)
}

/// Compiles functions on several threads. Of several errors, that of the first function is given.
fn compile_bodies(
    env: Environment<'_>,
    bodies: Vec<Body<'_>>,
    options: &CompileOptions,
    isa: &dyn TargetIsa,
) -> Result<Vec<Compiled>, CompileError> {
    let count = bodies.len();
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, std::num::NonZero::get);
    let threads = threads.min(count.div_ceil(16)).max(1);
    let bodies: Vec<Mutex<Option<Body<'_>>>> = bodies.into_iter().map(|body| Mutex::new(Some(body))).collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(usize::MAX);
    let run = || {
        let mut worker = Worker::new(env, options, isa);
        let mut results = Vec::new();
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            // Functions behind a failed one do not matter, those before it do.
            if position >= count || position > failed.load(Ordering::Relaxed) {
                return results;
            }
            let body = bodies[position].lock().ok().and_then(|mut body| body.take());
            let Some(body) = body else { return results };
            let result = worker.function(body);
            if result.is_err() {
                failed.fetch_min(position, Ordering::Relaxed);
            }
            results.push((position, result));
        }
    };
    let mut results: Vec<(usize, Result<Compiled, CompileError>)> = std::thread::scope(|scope| {
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

/// What a thread uses again for each function.
struct Worker<'a> {
    env: Environment<'a>,
    options: &'a CompileOptions,
    isa: &'a dyn TargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
    validator: FuncValidatorAllocations,
    control: ControlPlane,
}

impl<'a> Worker<'a> {
    fn new(env: Environment<'a>, options: &'a CompileOptions, isa: &'a dyn TargetIsa) -> Self {
        Self {
            env,
            options,
            isa,
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            validator: FuncValidatorAllocations::default(),
            control: ControlPlane::default(),
        }
    }

    /// Validates, translates and compiles a function.
    fn function(&mut self, body: Body<'_>) -> Result<Compiled, CompileError> {
        let index = body.to_validate.index;
        self.translate(body)?;
        let module = self.env.module;
        self.finish(&|| match module.name(index) {
            Some(name) => format!("function {index} ({name})"),
            None => format!("function {index}"),
        })
    }

    /// Validates a function and translates it into the CLIF of the context.
    fn translate(&mut self, body: Body<'_>) -> Result<(), CompileError> {
        let index = body.to_validate.index;
        let module = self.env.module;
        self.context.clear();
        self.context.func.signature = module.signatures[module.functions[index as usize] as usize].clone();
        self.context.func.name = UserFuncName::user(translate::namespace::FUNCTION, index);
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

    fn finish(&mut self, what: &dyn Fn() -> String) -> Result<Compiled, CompileError> {
        codegen::compile(&mut self.context, self.isa, &mut self.control, self.options.address_map, what)
    }
}
