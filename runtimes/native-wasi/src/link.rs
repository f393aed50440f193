//! What guests may import: WASI preview 1 and the embedder's functions.

use crate::context::State;
use preheat_call::{GuestMemory as HostMemory, HostFunction, Value, ValueType};
use preheat_image::frozen::FreezePoint;
use preheat_native::{Caller, Error, Extern, ExternType, Func, FuncType, InstancePre, Linker, Memory, Module, Val};
use preheat_wasi::{FUNCTIONS, Function, GuestMemory, MODULE, Stop};
use std::sync::OnceLock;

/// Most parameters that a function of preview 1 has.
const MAX_PARAMS: usize = 9;

/// An import at which a program stops to be frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark<'a> {
    pub(crate) module: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Mark<'a> {
    /// The import of a freeze point that is one.
    pub(crate) fn of(point: &'a FreezePoint) -> Option<Self> {
        match point {
            FreezePoint::Import { module, name } => Some(Self { module, name }),
            FreezePoint::Stdin | FreezePoint::Init => None,
        }
    }
}

/// Finds what `module` imports: the embedder's functions, and those of preview 1 that they do not replace.
pub(crate) fn link(module: &Module, embedder: &Linker<State>) -> Result<InstancePre<State>, Error> {
    link_but(module, embedder, None)
}

/// The same for a run up to the freeze point. At `mark`, if there is one, the state is taken and the run ends.
pub(crate) fn link_to_freeze(module: &Module, embedder: &Linker<State>, mark: Option<Mark<'_>>) -> Result<InstancePre<State>, Error> {
    let Some(mark) = mark else { return link(module, embedder) };
    let stop = Func::new(marked(module, mark)?, |caller: &mut Caller<'_, State>, _: &[Val]| {
        caller.data_mut().stack = Some(caller.capture()?);
        Err(Error::host(Stop::Freeze))
    });
    link_but(module, embedder, Some((mark, stop)))
}

/// The same for a program that was frozen at `mark`. If nobody offers that import and it returns nothing, it does nothing: it was there to
/// say where to freeze.
pub(crate) fn link_to_wake(module: &Module, embedder: &Linker<State>, mark: Mark<'_>) -> Result<InstancePre<State>, Error> {
    let ty = marked(module, mark)?;
    if embedder.get(mark.module, mark.name).is_some() || mark.module == MODULE || !ty.results().is_empty() {
        return link(module, embedder);
    }
    let nothing = Func::new(ty, |_: &mut Caller<'_, State>, _: &[Val]| Ok(Vec::new()));
    link_but(module, embedder, Some((mark, nothing)))
}

/// Finds what `module` imports, with another function at a mark.
fn link_but(module: &Module, embedder: &Linker<State>, other: Option<(Mark<'_>, Func)>) -> Result<InstancePre<State>, Error> {
    InstancePre::new(module, |from, name| match (&other, embedder.get(from, name)) {
        (Some((mark, func)), _) if (mark.module, mark.name) == (from, name) => Ok(Some(Extern::Func(func.clone()))),
        (_, Some(own)) => Ok(Some(own.clone())),
        (_, None) if from == MODULE => Ok(preview1(name)?.map(Extern::Func)),
        (_, None) => Ok(None),
    })
}

/// The type of the imported function at a mark.
fn marked(module: &Module, mark: Mark<'_>) -> Result<FuncType, Error> {
    let found = module.imports()?.into_iter().find(|found| (found.module, found.name) == (mark.module, mark.name));
    match found.map(|found| found.ty) {
        Some(ExternType::Func(ty)) => Ok(ty),
        _ => Err(Error::Link(format!("the module imports no function `{}` from `{}`", mark.name, mark.module))),
    }
}

/// The embedder's functions.
pub(crate) fn linker(host_functions: &[HostFunction]) -> Result<Linker<State>, Error> {
    let mut linker = Linker::new();
    for function in host_functions {
        linker.define(function.module(), function.name(), Extern::Func(embedder(function)))?;
    }
    Ok(linker)
}

/// A function of preview 1. It keeps nothing between calls, so all modules of the process share it.
fn preview1(name: &str) -> Result<Option<Func>, Error> {
    static MADE: [OnceLock<Func>; FUNCTIONS.len()] = [const { OnceLock::new() }; FUNCTIONS.len()];
    let Ok(place) = FUNCTIONS.binary_search_by(|function| function.name().cmp(name)) else { return Ok(None) };
    if let Some(func) = MADE[place].get() {
        return Ok(Some(func.clone()));
    }
    let func = wasi(&FUNCTIONS[place])?;
    Ok(Some(MADE[place].get_or_init(|| func).clone()))
}

/// The guest's memory. Preview 1 says that it is exported under this name; it is looked up at an instance's first call.
fn memory(caller: &mut Caller<'_, State>) -> Option<Memory> {
    if caller.data().memory.is_none() {
        caller.data_mut().memory = caller.export("memory").and_then(Extern::into_memory);
    }
    caller.data().memory
}

fn wasi(function: &'static Function) -> Result<Func, Error> {
    let native = |ty: &preheat_wasi::ValueType| match ty {
        preheat_wasi::ValueType::I32 => preheat_native::ValueType::I32,
        preheat_wasi::ValueType::I64 => preheat_native::ValueType::I64,
    };
    let ty = FuncType::new(function.params().iter().map(native), function.result().iter().map(native));
    Func::over_slots(ty, move |caller: &mut Caller<'_, State>, slots| {
        let memory = memory(caller).ok_or_else(|| Error::host(Stop::Trap("missing required memory export".into())))?;
        let mut args = [0; MAX_PARAMS];
        let args = &mut args[..function.params().len()];
        for (arg, slot) in args.iter_mut().zip(&*slots) {
            *arg = low(*slot);
        }
        let (bytes, state) = caller.memory_and_data(memory);
        let errno = match function.call(&mut state.wasi, &mut GuestMemory::Unshared(bytes), args) {
            Ok(errno) => errno,
            Err(stop) => {
                if stop == Stop::Freeze {
                    caller.data_mut().stack = Some(caller.capture()?);
                }
                return Err(if matches!(stop, Stop::Exit(_)) { Error::end(stop) } else { Error::host(stop) });
            }
        };
        if function.result().is_some() {
            slots[0] = u128::from(errno.cast_unsigned());
        }
        Ok(())
    })
}

/// A number of at most 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "the rest of the slot means nothing")]
fn low(slot: u128) -> u64 {
    slot as u64
}

struct Guest<'a, 'b>(&'a mut Caller<'b, State>);

impl HostMemory for Guest<'_, '_> {
    fn memory(&mut self) -> Option<&mut [u8]> {
        let memory = memory(self.0)?;
        Some(self.0.memory_and_data(memory).0)
    }
}

fn embedder(function: &HostFunction) -> Func {
    let types = |kinds: &[ValueType]| kinds.iter().map(|kind| to_native_type(*kind)).collect::<Vec<_>>();
    let ty = FuncType::new(types(function.params()), types(function.results()));
    let function = function.clone();
    Func::new(ty, move |caller: &mut Caller<'_, State>, params| {
        // The function's type has no other kinds of values, so none is lost here.
        let params: Vec<Value> = params.iter().filter_map(from_native).collect();
        let results = function.call(&mut Guest(caller), &params).map_err(Error::host)?;
        Ok(results.into_iter().map(to_native).collect())
    })
}

fn to_native_type(kind: ValueType) -> preheat_native::ValueType {
    match kind {
        ValueType::I32 => preheat_native::ValueType::I32,
        ValueType::I64 => preheat_native::ValueType::I64,
        ValueType::F32 => preheat_native::ValueType::F32,
        ValueType::F64 => preheat_native::ValueType::F64,
    }
}

pub(crate) fn from_native_type(kind: preheat_native::ValueType) -> Option<ValueType> {
    match kind {
        preheat_native::ValueType::I32 => Some(ValueType::I32),
        preheat_native::ValueType::I64 => Some(ValueType::I64),
        preheat_native::ValueType::F32 => Some(ValueType::F32),
        preheat_native::ValueType::F64 => Some(ValueType::F64),
        _ => None,
    }
}

pub(crate) fn to_native(value: Value) -> Val {
    match value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(value) => Val::F32(value.to_bits()),
        Value::F64(value) => Val::F64(value.to_bits()),
    }
}

pub(crate) fn from_native(value: &Val) -> Option<Value> {
    match value {
        Val::I32(value) => Some(Value::I32(*value)),
        Val::I64(value) => Some(Value::I64(*value)),
        Val::F32(bits) => Some(Value::F32(f32::from_bits(*bits))),
        Val::F64(bits) => Some(Value::F64(f64::from_bits(*bits))),
        _ => None,
    }
}
