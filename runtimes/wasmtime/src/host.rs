//! Functions that the embedder gives to core modules.

use crate::state::State;
use crate::value::{Value, ValueType};
use std::sync::Arc;
use wasmtime::{Caller, Extern, FuncType, Linker};

/// Why a host function fails; the call of the guest ends with it.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

type Body = dyn Fn(&mut HostCall<'_>, &[Value]) -> Result<Vec<Value>, HostError> + Send + Sync;

/// A function that guests may import.
#[derive(Clone)]
pub struct HostFunction {
    pub(crate) module: String,
    pub(crate) name: String,
    pub(crate) params: Vec<ValueType>,
    pub(crate) results: Vec<ValueType>,
    pub(crate) body: Arc<Body>,
}

/// A guest's call of a host function: the way to the guest's memory.
pub struct HostCall<'a> {
    caller: Caller<'a, State>,
}

impl HostCall<'_> {
    /// The guest's exported memory `memory`, if it has one.
    pub fn memory(&mut self) -> Option<&mut [u8]> {
        match self.caller.get_export("memory") {
            Some(Extern::Memory(memory)) => Some(memory.data_mut(&mut self.caller)),
            _ => None,
        }
    }
}

impl HostFunction {
    /// A function `module`.`name` of the given type.
    pub fn new(
        module: &str,
        name: &str,
        params: &[ValueType],
        results: &[ValueType],
        body: impl Fn(&mut HostCall<'_>, &[Value]) -> Result<Vec<Value>, HostError> + Send + Sync + 'static,
    ) -> Self {
        Self { module: module.to_owned(), name: name.to_owned(), params: params.to_vec(), results: results.to_vec(), body: Arc::new(body) }
    }

    pub(crate) fn define(&self, linker: &mut Linker<State>) -> Result<(), wasmtime::Error> {
        let kinds = |kinds: &[ValueType]| kinds.iter().map(|kind| kind.to_wasmtime()).collect::<Vec<_>>();
        let kind = FuncType::new(linker.engine(), kinds(&self.params), kinds(&self.results));
        let Self { body, results: result_kinds, name, .. } = self.clone();
        linker.func_new(&self.module, &self.name, kind, move |caller, params, results| {
            // The function's type has no other kinds of values, so none is lost here.
            let params: Vec<Value> = params.iter().filter_map(Value::from_wasmtime).collect();
            let values = body(&mut HostCall { caller }, &params).map_err(wasmtime::Error::from_boxed)?;
            if !values.iter().map(Value::kind).eq(result_kinds.iter().copied()) {
                return Err(wasmtime::format_err!("host function {name} returned {values:?}, expected {result_kinds:?}"));
            }
            for (result, value) in results.iter_mut().zip(values) {
                *result = value.to_wasmtime();
            }
            Ok(())
        })?;
        Ok(())
    }
}

impl std::fmt::Debug for HostFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}{:?} -> {:?}", self.module, self.name, self.params, self.results)
    }
}
