//! Running a module on wasmtime.

use crate::outcome::{Failure, HostCall, Outcome, Refused, State, Value};
use crate::rewrite;
use crate::script::{self, Argument, Import, Script};
use crate::sys;
use anyhow::{Context as _, Result, anyhow, bail};
use preheat_image::CpuLevel;
use preheat_native::{TrapCode, ValueType};
use std::sync::OnceLock;
use wasmtime::{
    AsContextMut, Caller, Config, Engine, Extern, ExternRef, ExternType, Func, FuncType, Global, GlobalType, HeapType, Instance, Memory,
    MemoryType, Module, Mutability, OptLevel, Ref, RefType, Store, Table, TableType, Tag, TagType, ThrownException, Trap, Val, ValType,
};

/// What host functions know.
type Calls = Vec<HostCall>;

/// Bytes of stack that a guest may use. Threads that run it need more.
pub(crate) const STACK: usize = 32 << 20;

/// wasmtime in all configurations that are used.
#[derive(Default)]
pub(crate) struct Oracle {
    // By CPU level, and whether it optimises.
    engines: [[OnceLock<Engine>; 2]; 4],
}

impl Oracle {
    fn engine(&self, cpu: CpuLevel, optimize: bool) -> Result<&Engine> {
        let number = CpuLevel::ALL.iter().position(|level| *level == cpu).unwrap_or(0);
        let place = &self.engines[number][usize::from(optimize)];
        if place.get().is_none() {
            let mut config = Config::new();
            config.target("x86_64-unknown-linux-gnu").map_err(anyhow::Error::from)?;
            sys::enable_cpu_features(&mut config, cpu);
            config.cranelift_opt_level(if optimize { OptLevel::Speed } else { OptLevel::None });
            config.max_wasm_stack(STACK).async_stack_size(2 * STACK);
            config.wasm_exceptions(true).wasm_multi_memory(true).wasm_tail_call(true).wasm_extended_const(true).wasm_relaxed_simd(true);
            // Not needed, and dear for modules that run once.
            config.memory_init_cow(false).native_unwind_info(false).wasm_backtrace_max_frames(None);
            let engine = Engine::new(&config).map_err(anyhow::Error::from)?;
            // Another thread may have been first.
            let _ = place.set(engine);
        }
        place.get().context("an engine")
    }

    /// Compiles `wasm` and does with it what `script` says. If it exports counters, they are returned too.
    ///
    /// # Errors
    /// When wasmtime can't compile it.
    pub(crate) fn run(&self, cpu: CpuLevel, optimize: bool, wasm: &[u8], script: &Script) -> Result<(Outcome, Option<Vec<u8>>)> {
        let module = Module::new(self.engine(cpu, optimize)?, wasm).map_err(anyhow::Error::from).context("wasmtime can't compile it")?;
        let mut store = Store::new(module.engine(), Calls::new());
        let mut items = Vec::new();
        let mut imported = Vec::new();
        for (number, ((_, _, ty), import)) in script.imports.iter().zip(module.imports()).enumerate() {
            let item = self::import(&mut store, number, ty, &import.ty())?;
            items.push(item.clone());
            imported.push((format!("import {number}"), item));
        }
        let mut outcome = Outcome { instance: Ok(()), calls: Vec::new(), host: Vec::new(), states: Vec::new() };
        let mut counters = None;
        match Instance::new(&mut store, &module, &items) {
            Ok(instance) => {
                for call in &script.calls {
                    outcome.calls.push(self::call(&mut store, instance, call)?);
                }
                for name in &script.states {
                    let item = instance.get_export(&mut store, name).with_context(|| format!("no export {name:?}"))?;
                    imported.push((format!("export {name:?}"), item));
                }
                counters = instance.get_memory(&mut store, rewrite::COUNTERS).map(|memory| memory.data(&store).to_vec());
            }
            Err(error) => outcome.instance = Err(failure(&mut store, &error)),
        }
        for (name, item) in imported {
            if let Some(state) = state(&mut store, item)? {
                outcome.states.push((name, state));
            }
        }
        outcome.host = std::mem::take(store.data_mut());
        Ok((outcome, counters))
    }
}

fn call(store: &mut Store<Calls>, instance: Instance, call: &script::Call) -> Result<Result<Vec<Value>, Failure>> {
    let function = |store: &mut Store<Calls>, name: &str| instance.get_func(store, name).with_context(|| format!("no function {name:?}"));
    let callee = function(store, &call.export)?;
    let ty = callee.ty(&*store);
    let mut arguments = Vec::new();
    for argument in &call.arguments {
        arguments.push(match argument {
            Argument::Value(value) => val(&mut *store, value)?,
            Argument::Function(name) => Val::FuncRef(Some(function(store, name)?)),
        });
    }
    if let Some(fuel) = instance.get_global(&mut *store, script::FUEL_EXPORT) {
        fuel.set(&mut *store, Val::I32(script::FUEL)).map_err(anyhow::Error::from)?;
    }
    let mut results = vec![Val::I32(0); ty.results().len()];
    match callee.call(&mut *store, &arguments, &mut results) {
        Ok(()) => Ok(Ok(results.iter().map(|result| value(&mut *store, result)).collect::<Result<_>>()?)),
        Err(error) => Ok(Err(failure(store, &error))),
    }
}

fn import(store: &mut Store<Calls>, number: usize, import: &Import, ty: &ExternType) -> Result<Extern> {
    Ok(match (import, ty) {
        (Import::Func(_, results), ExternType::Func(ty)) => Extern::Func(host_function(store, number, ty.clone(), results.clone())),
        (Import::Table(..), ExternType::Table(ty)) => {
            let null = Ref::null(ty.element().heap_type());
            Extern::Table(Table::new(&mut *store, TableType::clone(ty), null).map_err(anyhow::Error::from)?)
        }
        (Import::Memory(..), ExternType::Memory(ty)) => {
            Extern::Memory(Memory::new(&mut *store, MemoryType::clone(ty)).map_err(anyhow::Error::from)?)
        }
        (Import::Global(value_type, mutable), ExternType::Global(ty)) => {
            let value = val(&mut *store, &script::global(number, *value_type))?;
            let mutability = if *mutable { Mutability::Var } else { Mutability::Const };
            let ty = GlobalType::new(ty.content().clone(), mutability);
            Extern::Global(Global::new(&mut *store, ty, value).map_err(anyhow::Error::from)?)
        }
        (Import::Tag(_), ExternType::Tag(ty)) => Extern::Tag(Tag::new(&mut *store, &TagType::clone(ty)).map_err(anyhow::Error::from)?),
        other => bail!("an import of type {other:?}"),
    })
}

fn host_function(store: &mut Store<Calls>, number: usize, ty: FuncType, results: Vec<ValueType>) -> Func {
    Func::new(store, ty, move |mut caller: Caller<'_, Calls>, arguments, returned| {
        let seen = arguments.iter().map(|argument| value(&mut caller, argument)).collect::<Result<_>>();
        let calls = caller.data_mut();
        calls.push(HostCall { import: number, arguments: seen.map_err(|error| wasmtime::Error::msg(error.to_string()))? });
        let count = calls.len();
        let values = script::host_results(count, &results).ok_or_else(|| wasmtime::Error::new(Refused))?;
        for (place, value) in returned.iter_mut().zip(&values) {
            *place = val(&mut caller, value).map_err(|error| wasmtime::Error::msg(error.to_string()))?;
        }
        Ok(())
    })
}

fn state(store: &mut Store<Calls>, item: Extern) -> Result<Option<State>> {
    Ok(Some(match item {
        Extern::Memory(memory) => State::memory(memory.data(&*store)),
        Extern::Global(global) => {
            let found = global.get(&mut *store);
            State::Global(value(&mut *store, &found)?)
        }
        Extern::Table(table) => {
            let mut values = Vec::new();
            for index in 0..table.size(&*store) {
                let found = table.get(&mut *store, index).context("an entry within the table")?;
                values.push(value(&mut *store, &found.into())?);
            }
            State::Table(values)
        }
        _ => return Ok(None),
    }))
}

fn failure(store: &mut Store<Calls>, error: &wasmtime::Error) -> Failure {
    if error.is::<Refused>() {
        return Failure::Host;
    }
    if error.is::<ThrownException>() {
        store.take_pending_exception();
        return Failure::Trap(TrapCode::UncaughtException);
    }
    let code = match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => TrapCode::Unreachable,
        Some(Trap::MemoryOutOfBounds) => TrapCode::MemoryOutOfBounds,
        Some(Trap::TableOutOfBounds) => TrapCode::TableOutOfBounds,
        Some(Trap::IndirectCallToNull) => TrapCode::NullEntry,
        Some(Trap::BadSignature) => TrapCode::BadSignature,
        Some(Trap::NullReference) => TrapCode::NullReference,
        Some(Trap::IntegerOverflow) => TrapCode::IntegerOverflow,
        Some(Trap::IntegerDivisionByZero) => TrapCode::DivisionByZero,
        Some(Trap::BadConversionToInteger) => TrapCode::BadConversion,
        Some(Trap::StackOverflow) => TrapCode::StackOverflow,
        _ => return Failure::Other(format!("{error:#}")),
    };
    Failure::Trap(code)
}

fn value(mut store: impl AsContextMut, val: &Val) -> Result<Value> {
    Ok(match val {
        Val::I32(value) => Value::I32(*value),
        Val::I64(value) => Value::I64(*value),
        Val::F32(bits) => Value::F32(*bits),
        Val::F64(bits) => Value::F64(*bits),
        Val::V128(value) => Value::V128(value.as_u128()),
        Val::FuncRef(None) => Value::Func(None),
        Val::FuncRef(Some(function)) => {
            let ty = function.ty(&store);
            let params = ty.params().map(value_type).collect::<Result<Vec<_>>>()?;
            let results = ty.results().map(value_type).collect::<Result<Vec<_>>>()?;
            Value::Func(Some(script::signature(&params, &results)))
        }
        Val::ExternRef(None) => Value::Extern(None),
        Val::ExternRef(Some(reference)) => {
            let data = reference.data(store.as_context_mut()).map_err(anyhow::Error::from)?;
            Value::Extern(Some(*data.and_then(|data| data.downcast_ref()).context("an externref of ours")?))
        }
        Val::ExnRef(reference) => Value::Exn(reference.is_some()),
        other => return Err(anyhow!("a value {other:?}")),
    })
}

fn val(store: impl AsContextMut, value: &Value) -> Result<Val> {
    Ok(match value {
        Value::I32(value) => Val::I32(*value),
        Value::I64(value) => Val::I64(*value),
        Value::F32(bits) => Val::F32(*bits),
        Value::F64(bits) => Val::F64(*bits),
        Value::V128(value) => Val::V128((*value).into()),
        Value::Func(_) => Val::FuncRef(None),
        Value::Extern(None) => Val::ExternRef(None),
        Value::Extern(Some(number)) => Val::ExternRef(Some(ExternRef::new(store, *number).map_err(anyhow::Error::from)?)),
        Value::Exn(_) => Val::ExnRef(None),
    })
}

fn value_type(ty: ValType) -> Result<ValueType> {
    Ok(match ty {
        ValType::I32 => ValueType::I32,
        ValType::I64 => ValueType::I64,
        ValType::F32 => ValueType::F32,
        ValType::F64 => ValueType::F64,
        ValType::V128 => ValueType::V128,
        ValType::Ref(ty) if RefType::eq(&ty, &RefType::FUNCREF) => ValueType::FuncRef,
        ValType::Ref(ty) if RefType::eq(&ty, &RefType::EXTERNREF) => ValueType::ExternRef,
        ValType::Ref(ty) if ty.is_nullable() && matches!(ty.heap_type(), HeapType::Exn) => ValueType::ExnRef,
        other => bail!("a value of type {other}"),
    })
}
