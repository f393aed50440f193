//! Functions that the embedder gives to core modules.

use crate::value::{Value, ValueType};
use std::sync::Arc;

/// Why a host function fails; the call of the guest ends with it.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

type Body = dyn Fn(&mut HostCall<'_>, &[Value]) -> Result<Vec<Value>, HostError> + Send + Sync;

/// A function that guests may import.
#[derive(Clone)]
pub struct HostFunction {
    module: String,
    name: String,
    params: Vec<ValueType>,
    results: Vec<ValueType>,
    body: Arc<Body>,
}

/// The calling guest's memory, as an engine gives it.
pub trait GuestMemory {
    /// The guest's exported memory `memory`, if it has one.
    fn memory(&mut self) -> Option<&mut [u8]>;
}

/// A guest's call of a host function: the way to the guest's memory.
pub struct HostCall<'a> {
    guest: &'a mut dyn GuestMemory,
}

impl<'a> HostCall<'a> {
    /// A call by `guest`, for engines.
    pub fn new(guest: &'a mut dyn GuestMemory) -> Self {
        Self { guest }
    }

    /// The guest's exported memory `memory`, if it has one.
    pub fn memory(&mut self) -> Option<&mut [u8]> {
        self.guest.memory()
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

    /// The module from which guests import it.
    #[must_use]
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The name under which guests import it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of its parameters.
    #[must_use]
    pub fn params(&self) -> &[ValueType] {
        &self.params
    }

    /// The types of its results.
    #[must_use]
    pub fn results(&self) -> &[ValueType] {
        &self.results
    }

    /// Calls it with arguments of its parameters' types, for engines.
    ///
    /// # Errors
    /// What it returned, or when it returned values of other types than it said.
    pub fn call(&self, guest: &mut dyn GuestMemory, args: &[Value]) -> Result<Vec<Value>, HostError> {
        let values = (self.body)(&mut HostCall::new(guest), args)?;
        if values.iter().map(Value::kind).eq(self.results.iter().copied()) {
            Ok(values)
        } else {
            Err(format!("host function {} returned {values:?}, expected {:?}", self.name, self.results).into())
        }
    }
}

impl std::fmt::Debug for HostFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}{:?} -> {:?}", self.module, self.name, self.params, self.results)
    }
}
