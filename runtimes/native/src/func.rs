//! Functions, to be called.

use crate::error::Error;
use crate::host::{HostFunc, IntoFunc};
use crate::store::{AsStore, AsStoreMut, StoreInner};
use crate::sys::border::call_directly;
use crate::sys::enter::{Callee, call};
use crate::types::FuncType;
use crate::value::{Val, WasmParams};
use std::marker::PhantomData;
use std::sync::Arc;

/// A function of an instance or of the host.
#[derive(Debug, Clone)]
pub struct Func(pub(crate) Kind);

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A function that an instance defines.
    Guest { store: u64, instance: u32, index: u32 },
    /// A function of the host, in any store with data of its type.
    Host(Arc<HostFunc>),
}

/// Results of a typed call: what [`WasmParams`] are.
pub trait WasmResults: WasmParams {}
impl<T: WasmParams> WasmResults for T {}

impl Func {
    /// A host function for stores with data of type `T`.
    pub fn wrap<T: 'static, Params, Results>(function: impl IntoFunc<T, Params, Results>) -> Self {
        Self(Kind::Host(Arc::new(function.into_func().0)))
    }

    /// A host function of any type for stores with data of type `T`. It must return as many results as its type has, of their types.
    pub fn new<T: 'static>(
        ty: FuncType,
        function: impl Fn(&mut crate::Caller<'_, T>, &[Val]) -> Result<Vec<Val>, Error> + Send + Sync + 'static,
    ) -> Self {
        Self(Kind::Host(Arc::new(HostFunc::dynamic(ty, function))))
    }

    /// A host function over slots, for stores with data of type `T`: it finds its parameters in the first slots, each in the slot's first
    /// bytes, with the rest of any value, and leaves its results there. A call allocates nothing.
    ///
    /// # Errors
    /// When its type has references: what is in a slot is not checked.
    pub fn over_slots<T: 'static>(
        ty: FuncType,
        function: impl Fn(&mut crate::Caller<'_, T>, &mut [u128]) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        if let Some(reference) = ty.params().iter().chain(ty.results()).find(|ty| ty.is_reference()) {
            return Err(Error::Type(format!("a function over slots can't have values of type {}", crate::types::name(*reference))));
        }
        Ok(Self(Kind::Host(Arc::new(HostFunc::over_slots(ty, function)))))
    }

    /// Its type.
    ///
    /// # Errors
    /// When it is of another store, or its module's tables are damaged.
    pub fn ty(&self, store: impl AsStore) -> Result<FuncType, Error> {
        self.ty_in(store.pointer().get())
    }

    pub(crate) fn ty_in(&self, store: &StoreInner) -> Result<FuncType, Error> {
        match &self.0 {
            Kind::Guest { store: id, instance, index } => {
                if *id != store.id {
                    return Err(Error::Type("a function of another store".into()));
                }
                Ok(store.instances[*instance as usize].module.func_type(*index)?)
            }
            Kind::Host(function) => Ok(function.ty().clone()),
        }
    }

    /// The process-wide number of its type.
    pub(crate) fn type_id(&self, store: &StoreInner) -> Option<u32> {
        match &self.0 {
            Kind::Guest { instance, index, .. } => store.instances.get(*instance as usize)?.module.type_id_of(*index),
            Kind::Host(function) => Some(function.type_id()),
        }
    }

    fn callee(&self, store: &StoreInner) -> Result<Option<Callee>, Error> {
        let Kind::Guest { store: id, instance, index } = self.0 else { return Ok(None) };
        if id != store.id {
            return Err(Error::Type("a function of another store".into()));
        }
        let callee = Callee::of(store.id, &store.instances[instance as usize], index);
        callee.map(Some).ok_or_else(|| Error::Type("a function that can't be called from outside".into()))
    }

    /// Whether both are one function.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Host(one), Kind::Host(other)) => Arc::ptr_eq(one, other),
            (Kind::Guest { store, instance, index }, Kind::Guest { store: other_store, instance: other_instance, index: other_index }) => {
                (store, instance, index) == (other_store, other_instance, other_index)
            }
            _ => false,
        }
    }

    /// An instance that has this function in its index space, and its index there.
    pub(crate) fn place(&self, store: &StoreInner) -> Result<(u32, u32), Error> {
        match &self.0 {
            Kind::Guest { store: id, instance, index } if *id == store.id => Ok((*instance, *index)),
            Kind::Guest { .. } => Err(Error::Type("a function of another store".into())),
            Kind::Host(function) => {
                let imports = |instance: &crate::instance::InstanceData| {
                    instance
                        .imports
                        .functions
                        .iter()
                        .position(|import| matches!(&import.0, Kind::Host(other) if Arc::ptr_eq(other, function)))
                };
                let found = store.instances.iter().enumerate().find_map(|(instance, data)| Some((instance, imports(data)?)));
                let found = found.and_then(|(instance, index)| Some((u32::try_from(instance).ok()?, u32::try_from(index).ok()?)));
                found.ok_or_else(|| Error::Type("a host function that no instance of the store imports can't be a reference".into()))
            }
        }
    }

    /// Calls it.
    ///
    /// # Errors
    /// When arguments do not fit its type, it traps, or a host function fails.
    ///
    /// # Panics
    /// When a host function panics.
    pub fn call(&self, mut store: impl AsStoreMut, params: &[Val]) -> Result<Vec<Val>, Error> {
        let pointer = store.pointer_mut();
        let ty = self.ty_in(pointer.get())?;
        if params.len() != ty.params().len() {
            return Err(Error::Type(format!("{} arguments for a function of type {ty}", params.len())));
        }
        let mut slots = vec![0; ty.params().len().max(ty.results().len())];
        for ((param, ty), slot) in params.iter().zip(ty.params()).zip(&mut slots) {
            *slot = param.to_slot(pointer.get_mut(), *ty)?;
        }
        match &self.0 {
            Kind::Host(function) => self.call_host(function, &mut store, &mut slots)?,
            Kind::Guest { .. } => {
                if let Some(callee) = self.callee(pointer.get())? {
                    call(pointer, &callee, &mut slots)?;
                }
            }
        }
        let inner = store.pointer_mut().get_mut();
        Ok(ty.results().iter().zip(slots).map(|(ty, slot)| Val::of_slot(inner, *ty, slot)).collect())
    }

    fn call_host(&self, function: &HostFunc, store: &mut impl AsStoreMut, slots: &mut [u128]) -> Result<(), Error> {
        let pointer = store.pointer_mut();
        if !function.fits(pointer.get().data_type()) {
            return Err(Error::Type("a host function for stores with other data".into()));
        }
        call_directly(pointer, function, None, slots)
    }

    /// This function with a type that Rust knows: calls of it check nothing.
    ///
    /// # Errors
    /// When its type is another, or it is the host's or another store's.
    pub fn typed<Params: WasmParams, Results: WasmResults>(&self, store: impl AsStore) -> Result<TypedFunc<Params, Results>, Error> {
        let inner = store.pointer().get();
        let ty = self.ty_in(inner)?;
        if ty.params() != Params::TYPES || ty.results() != Results::TYPES {
            let wanted = FuncType::new(Params::TYPES.iter().copied(), Results::TYPES.iter().copied());
            return Err(Error::Type(format!("a function of type {ty}, not {wanted}")));
        }
        let callee = self.callee(inner)?.ok_or_else(|| Error::Type("a host function".into()))?;
        Ok(TypedFunc { callee, types: PhantomData })
    }
}

/// A function of an instance whose type was checked.
#[derive(Debug, Clone, Copy)]
pub struct TypedFunc<Params, Results> {
    callee: Callee,
    types: PhantomData<fn(Params) -> Results>,
}

impl<Params: WasmParams, Results: WasmResults> TypedFunc<Params, Results> {
    /// Calls it.
    ///
    /// # Errors
    /// When it traps, or a host function fails.
    ///
    /// # Panics
    /// When it is of another store, or a host function panics.
    pub fn call(&self, mut store: impl AsStoreMut, params: Params) -> Result<Results, Error> {
        let mut slots = [0u128; 16];
        params.write(&mut slots);
        call(store.pointer_mut(), &self.callee, &mut slots)?;
        Ok(Results::read(&slots))
    }
}
