//! An instance whose exports are called one by one.

use crate::error::{cause, of_call};
use crate::loaded::Loaded;
use crate::state::State;
use crate::value::{from_wasmtime, to_wasmtime, type_from_wasmtime, type_name};
use preheat_call::{RunError, Value, ValueType, parse_arguments};
use std::time::Duration;
use wasmtime::{Store, Val, component};

/// A live instance. It may move between threads, but only one call at a time can be in it.
pub struct Instance {
    pub(crate) loaded: Loaded,
    pub(crate) store: Store<State>,
    pub(crate) exports: Exports,
    pub(crate) timeout: Option<Duration>,
}

pub(crate) enum Exports {
    Core(wasmtime::Instance),
    Component(component::Instance),
}

impl Instance {
    fn core(&mut self, name: &str) -> Result<wasmtime::Func, RunError> {
        let Exports::Core(instance) = &self.exports else {
            return Err(RunError::Usage("this is a component: its functions take and return text, use `call_text`".into()));
        };
        instance.get_func(&mut self.store, name).ok_or_else(|| RunError::Usage(format!("there is no exported function `{name}`")))
    }

    /// The parameter types of an exported function of a core module.
    ///
    /// # Errors
    /// When there is no such function, or it takes values that are no numbers.
    pub fn params(&mut self, name: &str) -> Result<Vec<ValueType>, RunError> {
        let params = self.core(name)?.ty(&self.store);
        params
            .params()
            .map(|kind| {
                let other = || RunError::Usage(format!("`{name}` takes a {}; only numbers can be given", type_name(&kind)));
                type_from_wasmtime(&kind).ok_or_else(other)
            })
            .collect()
    }

    /// Calls an exported function of a core module. Dropping the future cancels the call; the instance can't be used again then.
    ///
    /// # Errors
    /// When there is no such function, the arguments do not fit, it traps, or the deadline of the request, which counts for each call,
    /// passes.
    pub async fn call(&mut self, name: &str, args: &[Value]) -> Result<Vec<Value>, RunError> {
        let function = self.core(name)?;
        let expected = self.params(name)?;
        if !args.iter().map(Value::kind).eq(expected.iter().copied()) {
            return Err(RunError::Usage(format!("`{name}` takes {expected:?}, not {args:?}")));
        }
        let args: Vec<Val> = args.iter().map(|value| to_wasmtime(*value)).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        let call = async { function.call_async(&mut self.store, &args, &mut results).await.map_err(of_call) };
        self.loaded.within(self.timeout, call).await?;
        results
            .iter()
            .map(|value| from_wasmtime(value).ok_or_else(|| RunError::Usage(format!("`{name}` returned what is no number"))))
            .collect()
    }

    /// Calls an exported function with arguments in their text form, and returns its results in theirs: numbers for core modules,
    /// [WAVE](https://github.com/bytecodealliance/wasm-tools/tree/main/crates/wasm-wave) for components.
    ///
    /// # Errors
    /// As [`Instance::call`], and when a text is no value of the parameter's type.
    pub async fn call_text(&mut self, name: &str, args: &[String]) -> Result<Vec<String>, RunError> {
        let Exports::Component(instance) = &self.exports else {
            let values = parse_arguments(name, &self.params(name)?, args)?;
            return Ok(self.call(name, &values).await?.iter().map(ToString::to_string).collect());
        };
        let function =
            find(*instance, &mut self.store, name).ok_or_else(|| RunError::Usage(format!("there is no exported function `{name}`")))?;
        let kind = function.ty(&self.store);
        let params: Vec<_> = kind.params().collect();
        if params.len() != args.len() {
            return Err(RunError::Usage(format!("`{name}` takes {} arguments, {} were given", params.len(), args.len())));
        }
        let mut values = Vec::new();
        for ((param, kind), text) in params.iter().zip(args) {
            let value = component::Val::from_wave(kind, text)
                .map_err(|error| RunError::Usage(format!("`{text}` does not fit parameter `{param}` of `{name}`: {error}")))?;
            values.push(value);
        }
        let mut results = vec![component::Val::Bool(false); kind.results().len()];
        let call = async { function.call_async(&mut self.store, &values, &mut results).await.map_err(of_call) };
        self.loaded.within(self.timeout, call).await?;
        results.iter().map(|value| value.to_wave().map_err(|error| RunError::Host(cause(error)))).collect()
    }
}

/// `name`, or `interface#name` for a function of an exported interface.
pub(crate) fn find<T>(instance: component::Instance, store: &mut Store<T>, name: &str) -> Option<component::Func> {
    match name.split_once('#') {
        None => instance.get_func(store, name),
        Some((interface, name)) => {
            let interface = instance.get_export_index(&mut *store, None, interface)?;
            let function = instance.get_export_index(&mut *store, Some(&interface), name)?;
            instance.get_func(store, function)
        }
    }
}
