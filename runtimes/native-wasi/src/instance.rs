//! An instance whose exports are called one by one.

use crate::cancel::Cancellation;
use crate::context::State;
use crate::error::ended;
use crate::link::{from_native, from_native_type, to_native};
use crate::loaded::begin;
use preheat_call::{RunError, Value, ValueType, parse_arguments};
use preheat_native::{Func, Store, Val};
use std::time::Duration;

/// A live instance. It may move between threads, but only one call at a time can be in it.
#[derive(Debug)]
pub struct Instance {
    pub(crate) store: Store<State>,
    pub(crate) instance: preheat_native::Instance,
    pub(crate) timeout: Option<Duration>,
}

impl Instance {
    fn func(&self, name: &str) -> Result<Func, RunError> {
        let export = self.instance.export(&self.store, name).and_then(preheat_native::Extern::into_func);
        export.ok_or_else(|| RunError::Usage(format!("there is no exported function `{name}`")))
    }

    /// The parameter types of an exported function.
    ///
    /// # Errors
    /// When there is no such function, or it takes values that are no numbers.
    pub fn params(&self, name: &str) -> Result<Vec<ValueType>, RunError> {
        let ty = self.func(name)?.ty(&self.store).map_err(|error| RunError::Usage(error.to_string()))?;
        let number = |kind: &preheat_native::ValueType| {
            let other = || RunError::Usage(format!("`{name}` takes a {}; only numbers can be given", kind.name()));
            from_native_type(*kind).ok_or_else(other)
        };
        ty.params().iter().map(number).collect()
    }

    /// Calls an exported function. After a cancellation the instance can't be used again.
    ///
    /// # Errors
    /// When there is no such function, the arguments do not fit, it traps, the deadline of the request, which counts for each call, passes, or
    /// it is cancelled.
    pub fn call(&mut self, name: &str, args: &[Value], cancellation: Option<&Cancellation>) -> Result<Vec<Value>, RunError> {
        let func = self.func(name)?;
        let expected = self.params(name)?;
        if !args.iter().map(Value::kind).eq(expected.iter().copied()) {
            return Err(RunError::Usage(format!("`{name}` takes {expected:?}, not {args:?}")));
        }
        let args: Vec<Val> = args.iter().map(|value| to_native(*value)).collect();
        begin(&mut self.store, self.timeout, cancellation);
        let results = func.call(&mut self.store, &args).map_err(|error| match ended(error, self.timeout) {
            Ok(code) => RunError::Host(format!("the guest ended with exit code {code}").into()),
            Err(error) => error,
        })?;
        let number = |value: &Val| from_native(value).ok_or_else(|| RunError::Usage(format!("`{name}` returned what is no number")));
        results.iter().map(number).collect()
    }

    /// Calls an exported function with arguments in their text form, and returns its results in theirs.
    ///
    /// # Errors
    /// As [`Instance::call`], and when a text is no value of the parameter's type.
    pub fn call_text(&mut self, name: &str, args: &[String], cancellation: Option<&Cancellation>) -> Result<Vec<String>, RunError> {
        let values = parse_arguments(name, &self.params(name)?, args)?;
        Ok(self.call(name, &values, cancellation)?.iter().map(ToString::to_string).collect())
    }
}
