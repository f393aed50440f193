//! The embedder's functions in wasmtime's linker.

use crate::state::State;
use crate::value::{from_wasmtime, to_wasmtime, type_to_wasmtime};
use preheat_call::{GuestMemory, HostFunction, Value, ValueType};
use wasmtime::{Caller, Extern, FuncType, Linker};

struct Guest<'a>(Caller<'a, State>);

impl GuestMemory for Guest<'_> {
    fn memory(&mut self) -> Option<&mut [u8]> {
        match self.0.get_export("memory") {
            Some(Extern::Memory(memory)) => Some(memory.data_mut(&mut self.0)),
            _ => None,
        }
    }
}

pub(crate) fn define(function: &HostFunction, linker: &mut Linker<State>) -> Result<(), wasmtime::Error> {
    let kinds = |kinds: &[ValueType]| kinds.iter().map(|kind| type_to_wasmtime(*kind)).collect::<Vec<_>>();
    let kind = FuncType::new(linker.engine(), kinds(function.params()), kinds(function.results()));
    let body = function.clone();
    linker.func_new(function.module(), function.name(), kind, move |caller, params, results| {
        // The function's type has no other kinds of values, so none is lost here.
        let params: Vec<Value> = params.iter().filter_map(from_wasmtime).collect();
        let values = body.call(&mut Guest(caller), &params).map_err(wasmtime::Error::from_boxed)?;
        for (result, value) in results.iter_mut().zip(values) {
            *result = to_wasmtime(value);
        }
        Ok(())
    })?;
    Ok(())
}
