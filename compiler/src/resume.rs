//! Resume objects: the functions through which a frozen program wakes.
//!
//! A resume object belongs to a code object of the same module, its *base*. Its text has a function for each site, what those call of stubs
//! and helpers, and enter trampolines; everything else they reach through the context of an instance of the base.

use crate::codegen::Compiled;
use crate::freeze::Site;
use crate::link::{self, Text};
use crate::module::{self, Body, Module, impossible, narrow};
use crate::parallel::{self, Called, Resumed, Worker};
use crate::signature::FunctionType;
use crate::translate::{Environment, resume_type};
use crate::{CompileError, CompileOptions, Compiler, body_range, features, target, trampolines};
use cranelift_codegen::isa::TargetIsa;
use preheat_image::Digest;
use preheat_image::abi::{NONE, ValueType};
use preheat_image::native::{NameRecord, NativeCode, NativeParts, RangeKind, ResumeParts, ResumeRecord, StringRange};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The functions of a resume object, before they have places.
struct Functions {
    /// For each function of the module its resume functions, and where its body is in the Wasm.
    own: Vec<(u32, (u32, u32), Vec<Resumed>)>,
    /// Calls of imported functions.
    imported: Vec<(u32, Compiled)>,
    /// Trampolines for the types with these results.
    enter: Vec<(Vec<ValueType>, Compiled)>,
    called: Called,
}

impl Compiler {
    /// Makes the resume object of `sites` under the build key `key`. `base` are the bytes of the code object of `wasm` to which it is to belong.
    /// The order of the sites does not matter. Only the functions in which they are get validated.
    ///
    /// # Errors
    /// When the bytes are no valid Wasm as far as they are read, or `base` is no code object of it for the same CPU level, or a site is none.
    pub fn resume(&self, wasm: &[u8], base: &[u8], sites: &[Site], key: Digest) -> Result<Vec<u8>, CompileError> {
        let base_code = base_of(wasm, base, &self.options)?;
        let parts = || {
            // What resume functions are made from is checked, whatever the options say: few are made, and production runs them.
            let options = CompileOptions { verify: true, ..self.options };
            let isa = target::target(&options)?;
            let (module, bodies) = module::parse(wasm)?;
            if module.functions.len() != base_code.functions.len() {
                return Err(wrong_base("the code object has another number of functions".into()));
            }
            let env = Environment { base: Some(base_code.functions), ..Environment::new(&module, &options, &*isa) };
            let functions = compile(env, bodies, sites, &options, &*isa)?;
            link(&module, functions, Digest::of(base), &options)
        };
        let parts = parts().map_err(|error| features::classify(wasm, error))?;
        Ok(parts.encode(base_code.object.source, key, self.options.cpu)?)
    }

    /// The resume function of a site as CLIF in text form, before optimisation: for people and tests.
    ///
    /// # Errors
    /// As for [`Self::resume`].
    pub fn resume_clif(&self, wasm: &[u8], base: &[u8], site: Site) -> Result<String, CompileError> {
        let base_code = base_of(wasm, base, &self.options)?;
        let (module, bodies) = module::parse(wasm)?;
        let env = Environment { base: Some(base_code.functions), ..Environment::new(&module, &self.options, &*self.isa) };
        let body = bodies.into_iter().find(|body| body.to_validate.index == site.function);
        let body = body.ok_or_else(|| no_site(&module, site))?;
        Worker::new(env, &self.options, &*self.isa).resume_clif(body, site.offset)
    }
}

/// Reads the base, which must be for this module and these options.
fn base_of<'b>(wasm: &[u8], base: &'b [u8], options: &CompileOptions) -> Result<NativeCode<'b>, CompileError> {
    let code = NativeCode::parse(base)?;
    if code.object.source != Digest::of(wasm) {
        return Err(wrong_base("the code object was made from other Wasm".into()));
    }
    if code.object.cpu != options.cpu {
        return Err(wrong_base(format!("the code object is for {}, not for {}", code.object.cpu, options.cpu)));
    }
    if code.resume.is_some() {
        return Err(wrong_base("the code object is a resume object itself".into()));
    }
    Ok(code)
}

fn wrong_base(message: String) -> CompileError {
    CompileError::Base { message }
}

fn no_site(module: &Module<'_>, site: Site) -> CompileError {
    CompileError::NoSite { function: module.describe(site.function), offset: site.offset }
}

fn compile(
    env: Environment<'_>,
    bodies: Vec<Body<'_>>,
    sites: &[Site],
    options: &CompileOptions,
    isa: &dyn TargetIsa,
) -> Result<Functions, CompileError> {
    let module = env.module;
    let imports = module.imported().imported_functions;
    let mut offsets: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut imported = Vec::new();
    let mut worker = Worker::new(env, options, isa);
    for site in BTreeSet::from_iter(sites) {
        if site.function >= imports {
            offsets.entry(site.function).or_default().push(site.offset);
            continue;
        }
        if site.offset != NONE {
            return Err(no_site(module, *site));
        }
        let ty = &module.types[module.functions[site.function as usize] as usize];
        let place = module.layout.imported_function(site.function).and_then(|place| i32::try_from(place).ok());
        let place = place.ok_or_else(|| impossible("an import without a place"))?;
        imported.push((site.function, worker.other(trampolines::import(ty, place, env.frontend), "the call of an import")?));
    }
    let mut tasks = Vec::new();
    for body in bodies {
        if let Some(offsets) = offsets.remove(&body.to_validate.index) {
            tasks.push((body, offsets));
        }
    }
    if let Some((function, offsets)) = offsets.pop_first() {
        let offset = offsets.first().copied().unwrap_or(NONE);
        return Err(CompileError::NoSite { function: format!("function {function}"), offset });
    }
    let new_worker = || Worker::new(env, options, isa);
    let own = parallel::run(tasks, options, new_worker, |worker, (body, offsets): (Body<'_>, Vec<u32>)| {
        let function = body.to_validate.index;
        let range = body_range(&body.body)?;
        Ok((function, range, worker.resume(body, &offsets)?))
    })?;
    let results = own.iter().map(|(function, ..)| module.types[module.functions[*function as usize] as usize].results.clone());
    let mut enter = Vec::new();
    let mut known = std::collections::HashSet::new();
    for results in results.filter(|results| known.insert(results.clone())) {
        let trampoline = worker.other(trampolines::enter(&resume_type(&results), env.frontend), "an enter trampoline")?;
        enter.push((results, trampoline));
    }
    let all = own.iter().flat_map(|(.., resumed)| resumed).map(|resumed| &resumed.code);
    let called = parallel::called(all, &mut worker)?;
    Ok(Functions { own, imported, enter, called })
}

/// The function types of a resume object, by their results.
#[derive(Default)]
struct Types {
    types: Vec<FunctionType>,
    numbers: HashMap<Vec<ValueType>, u32>,
}

impl Types {
    fn number(&mut self, results: &[ValueType]) -> Result<u32, CompileError> {
        if let Some(number) = self.numbers.get(results) {
            return Ok(*number);
        }
        let number = narrow(self.types.len(), "the types of a resume object")?;
        self.types.push(resume_type(results));
        self.numbers.insert(results.to_vec(), number);
        Ok(number)
    }
}

fn link(module: &Module<'_>, functions: Functions, base: Digest, options: &CompileOptions) -> Result<NativeParts, CompileError> {
    let mut parts = NativeParts { interruptible: options.interruptible, capture: options.capture, ..NativeParts::default() };
    let mut resume = ResumeParts { base, records: Vec::new(), value_types: Vec::new() };
    let mut types = Types::default();
    let mut text = Text::new(&mut parts);
    let type_of = |function: u32| &module.types[module.functions[function as usize] as usize];
    for (function, compiled) in functions.imported {
        let name = |parts: &mut NativeParts| function_name(parts, module, function, "import");
        let code = text.place(compiled, RangeKind::Import, function, (0, 0), name)?;
        let ty = type_of(function);
        record(&mut resume, (function, NONE), code, (types.number(&ty.results)?, NONE), &ty.params)?;
    }
    for (function, body, resumed) in functions.own {
        for resumed in resumed {
            let name = |parts: &mut NativeParts| function_name(parts, module, function, "resumed");
            let code = text.place(resumed.code, RangeKind::Function, function, body, name)?;
            let ty = types.number(&type_of(function).results)?;
            let callee = types.number(&module.types[resumed.called as usize].results)?;
            record(&mut resume, (function, resumed.site), code, (ty, callee), &resumed.values)?;
        }
    }
    let mut enter = HashMap::new();
    for (results, compiled) in functions.enter {
        let number = types.number(&results)?;
        enter.insert(
            number,
            text.place(compiled, RangeKind::Enter, number, (0, 0), |parts| link::name(parts, &format!("enter[{number}]")))?,
        );
    }
    text.place_called(functions.called)?;
    text.resolve()?;
    link::types(&mut parts, &types.types, &enter, &HashMap::new())?;
    parts.resume = Some(resume);
    Ok(parts)
}

fn record(
    resume: &mut ResumeParts,
    (function, site): (u32, u32),
    code: u32,
    (ty, callee): (u32, u32),
    values: &[ValueType],
) -> Result<(), CompileError> {
    let first = narrow(resume.value_types.len(), "what must be kept at calls")?;
    resume.value_types.extend(values.iter().map(|ty| ty.number()));
    resume.records.push(ResumeRecord {
        function: function.into(),
        site: site.into(),
        code: code.into(),
        ty: ty.into(),
        callee: callee.into(),
        first: first.into(),
        count: narrow(values.len(), "what must be kept at calls")?.into(),
    });
    Ok(())
}

/// Appends the name of a function with what is made of it, as a symbol; its own name is the record's, once.
fn function_name(parts: &mut NativeParts, module: &Module<'_>, function: u32, what: &str) -> Result<u32, CompileError> {
    let Some(own) = module.name(function) else { return link::name(parts, &format!("function[{function}] ({what})")) };
    let at = link::name(parts, &format!("{own} ({what})"))?;
    if parts.names.last().is_none_or(|name| name.function.get() != function) {
        let len = narrow(own.len(), "the name of a function")?;
        parts.names.push(NameRecord { function: function.into(), name: StringRange { offset: at.into(), len: len.into() } });
    }
    Ok(at)
}
