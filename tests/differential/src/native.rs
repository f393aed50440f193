//! Running a module on the native engine.

use crate::outcome::{Failure, HostCall, Outcome, Refused, State, Value};
use crate::script::{self, Argument, Import, Script};
use crate::sys::{self, CompiledHere};
use anyhow::{Context as _, Result};
use preheat_compiler::{COUNTERS, CompileOptions, Compiler};
use preheat_native::{
    AsStoreMut, Caller, Engine, Error, Extern, ExternRef, Func, FuncType, Global, Instance, Linker, Memory, MemoryType, Module, Store,
    Table, TableType, Tag, Val,
};

/// What host functions know.
type Calls = Vec<HostCall>;

/// Compiles `wasm` and does with it what `script` says. `None` if the engine lacks a feature that it needs.
///
/// # Errors
/// When the engine can't compile or load it, which it should.
pub(crate) fn run(engine: &Engine, options: CompileOptions, wasm: &[u8], script: &Script) -> Result<Option<Outcome>> {
    Ok(run_compiled(engine, &Compiler::new(options)?, wasm, script)?.map(|(outcome, _)| outcome))
}

/// The same with a compiler; also gives the memory [`COUNTERS`], if the module exports one and could be instantiated.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_compiled(
    engine: &Engine,
    compiler: &Compiler,
    wasm: &[u8],
    script: &Script,
) -> Result<Option<(Outcome, Option<Vec<u8>>)>> {
    let code = match CompiledHere::compile(compiler, wasm) {
        Err(preheat_compiler::CompileError::Unsupported { .. }) => return Ok(None),
        code => code.context("the native engine can't compile it")?,
    };
    let module = Module::load(engine, sys::trust(&code)?)?;
    let mut store = Store::new(engine, Calls::new())?;
    let mut linker = Linker::new();
    let mut imported = Vec::new();
    for (number, (from, name, ty)) in script.imports.iter().enumerate() {
        let item = import(&mut store, number, ty)?;
        linker.define(from, name, item.clone())?;
        imported.push((format!("import {number}"), item));
    }
    let instance = linker.instantiate(&mut store, &module);
    let mut counters = None;
    let mut outcome = Outcome { instance: Ok(()), calls: Vec::new(), host: Vec::new(), states: Vec::new() };
    match instance {
        Ok(instance) => {
            for call in &script.calls {
                outcome.calls.push(self::call(&mut store, instance, call)?);
            }
            counters = instance.memory(&store, COUNTERS).map(|memory| memory.bytes(&store).to_vec());
            for name in &script.states {
                let item = instance.export(&store, name).with_context(|| format!("no export {name:?}"))?;
                imported.push((format!("export {name:?}"), item));
            }
        }
        Err(error) => outcome.instance = Err(failure(error)),
    }
    for (name, item) in imported {
        if let Some(state) = state(&mut store, item)? {
            outcome.states.push((name, state));
        }
    }
    outcome.host = std::mem::take(store.data_mut());
    Ok(Some((outcome, counters)))
}

/// Whether two compilers make the same code of `wasm`.
///
/// # Errors
/// When one of them can't compile it.
pub(crate) fn same_code(one: &Compiler, other: &Compiler, wasm: &[u8]) -> Result<bool> {
    Ok(CompiledHere::compile(one, wasm)? == CompiledHere::compile(other, wasm)?)
}

fn call(store: &mut Store<Calls>, instance: Instance, call: &script::Call) -> Result<Result<Vec<Value>, Failure>> {
    let mut arguments = Vec::new();
    for argument in &call.arguments {
        arguments.push(match argument {
            Argument::Value(value) => val(&mut *store, value),
            Argument::Function(name) => Val::FuncRef(Some(instance.func(&*store, name)?)),
        });
    }
    if let Some(Extern::Global(fuel)) = instance.export(&*store, script::FUEL_EXPORT) {
        fuel.set(&mut *store, &Val::I32(script::FUEL))?;
    }
    match instance.func(&*store, &call.export)?.call(&mut *store, &arguments) {
        Ok(results) => Ok(Ok(results.iter().map(|result| value(&mut *store, result)).collect::<Result<_>>()?)),
        Err(error) => Ok(Err(failure(error))),
    }
}

fn import(store: &mut Store<Calls>, number: usize, ty: &Import) -> Result<Extern> {
    Ok(match ty {
        Import::Func(params, results) => {
            let ty = FuncType::new(params.iter().copied(), results.iter().copied());
            let results = results.clone();
            Extern::Func(Func::new(ty, move |caller: &mut Caller<'_, Calls>, arguments| {
                let seen = arguments.iter().map(|argument| value(&mut *caller, argument)).collect::<Result<_>>();
                let calls = caller.data_mut();
                calls.push(HostCall { import: number, arguments: seen.map_err(|error| Error::Type(error.to_string()))? });
                let count = calls.len();
                let returned = script::host_results(count, &results).ok_or_else(|| Error::host(Refused))?;
                Ok(returned.iter().map(|result| val(&mut *caller, result)).collect())
            }))
        }
        Import::Table(element, min, max) => Extern::Table(Table::new(&mut *store, TableType { element: *element, min: *min, max: *max })?),
        Import::Memory(min, max) => Extern::Memory(Memory::new(&mut *store, MemoryType { min: *min, max: *max })?),
        Import::Global(ty, mutable) => {
            let value = val(&mut *store, &script::global(number, *ty));
            Extern::Global(Global::new(&mut *store, *mutable, &value)?)
        }
        Import::Tag(params) => Extern::Tag(Tag::new(&mut *store, params.iter().copied())?),
    })
}

fn state(store: &mut Store<Calls>, item: Extern) -> Result<Option<State>> {
    Ok(Some(match item {
        Extern::Memory(memory) => State::memory(memory.bytes(&*store)),
        Extern::Global(global) => {
            let found = global.get(&*store);
            State::Global(value(&mut *store, &found)?)
        }
        Extern::Table(table) => {
            let mut values = Vec::new();
            for index in 0..table.size(&*store) {
                let found = table.get(&mut *store, index).context("an entry within the table")?;
                values.push(value(&mut *store, &found)?);
            }
            State::Table(values)
        }
        Extern::Func(_) | Extern::Tag(_) => return Ok(None),
    }))
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Trap(trap) => Failure::Trap(trap.code),
        error if error.downcast_host::<Refused>().is_some() => Failure::Host,
        error => Failure::Other(error.to_string()),
    }
}

fn value(store: impl AsStoreMut, val: &Val) -> Result<Value> {
    Ok(match val {
        Val::I32(value) => Value::I32(*value),
        Val::I64(value) => Value::I64(*value),
        Val::F32(bits) => Value::F32(*bits),
        Val::F64(bits) => Value::F64(*bits),
        Val::V128(value) => Value::V128(*value),
        Val::FuncRef(None) => Value::Func(None),
        Val::FuncRef(Some(function)) => {
            let ty = function.ty(&store)?;
            Value::Func(Some(script::signature(ty.params(), ty.results())))
        }
        Val::ExternRef(None) => Value::Extern(None),
        Val::ExternRef(Some(reference)) => Value::Extern(Some(*reference.value(&store).downcast_ref().context("an externref of ours")?)),
        Val::ExnRef(reference) => Value::Exn(reference.is_some()),
    })
}

fn val(store: impl AsStoreMut, value: &Value) -> Val {
    match value {
        Value::I32(value) => Val::I32(*value),
        Value::I64(value) => Val::I64(*value),
        Value::F32(bits) => Val::F32(*bits),
        Value::F64(bits) => Val::F64(*bits),
        Value::V128(value) => Val::V128(*value),
        Value::Func(_) => Val::FuncRef(None),
        Value::Extern(number) => Val::ExternRef(number.map(|number| ExternRef::new(store, number))),
        Value::Exn(_) => Val::ExnRef(None),
    }
}
