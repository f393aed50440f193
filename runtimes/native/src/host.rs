//! Host functions.

use crate::error::Error;
use crate::instance::{Extern, Instance};
use crate::objects::Memory;
use crate::store::{AsStore, AsStoreMut};
use crate::sys::owner::StorePointer;
use crate::types::FuncType;
use crate::value::{Slot, Val, WasmParams, WasmTy};
use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::time::Instant;

type Closure = dyn Fn(StorePointer, Option<u32>, &mut [Slot]) -> Result<(), Error> + Send + Sync;

/// A function of the host.
pub(crate) struct HostFunc {
    ty: FuncType,
    // Found when it is first asked for: most are only compared with what a module says, type by type.
    type_id: OnceLock<u32>,
    slots: usize,
    // The type of the data of stores that it can be used in.
    data: TypeId,
    closure: Box<Closure>,
}

impl fmt::Debug for HostFunc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostFunc").field("ty", &self.ty).finish_non_exhaustive()
    }
}

impl HostFunc {
    pub(crate) fn ty(&self) -> &FuncType {
        &self.ty
    }

    pub(crate) fn type_id(&self) -> u32 {
        *self.type_id.get_or_init(|| self.ty.id())
    }

    /// How many slots it needs for parameters and results.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Whether it may be used in stores with data of this type.
    pub(crate) fn fits(&self, data: TypeId) -> bool {
        self.data == data
    }

    pub(crate) fn call(&self, store: StorePointer, instance: Option<u32>, values: &mut [Slot]) -> Result<(), Error> {
        (self.closure)(store, instance, values)
    }

    fn from_closure<T: 'static>(ty: FuncType, closure: Box<Closure>) -> Self {
        let slots = ty.params().len().max(ty.results().len());
        Self { type_id: OnceLock::new(), slots, data: TypeId::of::<T>(), ty, closure }
    }

    /// From a closure over slots. The function's type has only numbers.
    pub(crate) fn over_slots<T: 'static>(
        ty: FuncType,
        function: impl Fn(&mut Caller<'_, T>, &mut [Slot]) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        let closure = move |store: StorePointer, instance: Option<u32>, values: &mut [Slot]| {
            function(&mut Caller { store, instance, data: PhantomData }, values)
        };
        Self::from_closure::<T>(ty, Box::new(closure))
    }

    /// From a closure over values of any types. Those that it returns must be of the results' types.
    pub(crate) fn dynamic<T: 'static>(
        ty: FuncType,
        function: impl Fn(&mut Caller<'_, T>, &[Val]) -> Result<Vec<Val>, Error> + Send + Sync + 'static,
    ) -> Self {
        let signature = ty.clone();
        let closure = move |store: StorePointer, instance: Option<u32>, values: &mut [Slot]| {
            let mut caller = Caller { store, instance, data: PhantomData };
            let params: Vec<Val> =
                signature.params().iter().zip(&*values).map(|(ty, slot)| Val::of_slot(caller.store.get(), *ty, *slot)).collect();
            let results = function(&mut caller, &params)?;
            if results.len() != signature.results().len() {
                let (found, needed) = (results.len(), signature.results().len());
                return Err(Error::Type(format!("a host function returned {found} results instead of {needed}")));
            }
            for ((result, ty), slot) in results.iter().zip(signature.results()).zip(values) {
                *slot = result.to_slot(caller.store.get_mut(), *ty)?;
            }
            Ok(())
        };
        Self::from_closure::<T>(ty, Box::new(closure))
    }
}

/// The calling instance, as a host function sees it, and its store.
#[derive(Debug)]
pub struct Caller<'a, T> {
    store: StorePointer,
    instance: Option<u32>,
    data: PhantomData<&'a mut T>,
}

impl<T: 'static> Caller<'_, T> {
    /// The store's data.
    #[must_use]
    pub fn data(&self) -> &T {
        self.store.get().data()
    }

    /// The store's data, to be changed.
    pub fn data_mut(&mut self) -> &mut T {
        self.store.get_mut().data_mut()
    }

    /// The instance that called, unless the host did.
    #[must_use]
    pub fn instance(&self) -> Option<Instance> {
        self.instance.map(|index| Instance { store: self.store.get().id, index })
    }

    /// An export of the calling instance.
    pub fn export(&mut self, name: &str) -> Option<Extern> {
        self.instance()?.export(self, name)
    }

    /// The calling instance's first memory, whether it exports it or not.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let store = self.store.get();
        let index = store.instances.get(self.instance? as usize)?.memory(0)?;
        Some(Memory { store: store.id, index })
    }

    /// The bytes of a memory together with the data.
    ///
    /// # Panics
    /// When the memory is of another store.
    pub fn memory_and_data(&mut self, memory: Memory) -> (&mut [u8], &mut T) {
        assert_eq!(memory.store, self.store.get().id, "the memory is of another store");
        self.store.get_mut().memory_and_data(memory.index)
    }

    /// Until when the call of the guest may last, if it has a deadline. A host function that waits has to look at it.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.store.get().deadline
    }

    /// Whether the guest will stop as soon as this function returns, since its deadline passed or it was interrupted.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.store.get().interrupt.interrupted()
    }
}

impl<T> AsStore for Caller<'_, T> {
    fn pointer(&self) -> &StorePointer {
        &self.store
    }
}

impl<T> AsStoreMut for Caller<'_, T> {
    fn pointer_mut(&mut self) -> &mut StorePointer {
        &mut self.store
    }
}

/// What a host function may return: a value, a tuple of values, or a `Result` of that, whose error ends the call of the guest.
pub trait IntoResults {
    /// The values.
    type Values: WasmParams;
    /// As a result.
    ///
    /// # Errors
    /// What the function returned.
    fn into_results(self) -> Result<Self::Values, Error>;
}

impl<V: WasmTy> IntoResults for V {
    type Values = V;
    fn into_results(self) -> Result<V, Error> {
        Ok(self)
    }
}

impl<V: WasmParams, E: Into<Error>> IntoResults for Result<V, E> {
    type Values = V;
    fn into_results(self) -> Result<V, Error> {
        self.map_err(Into::into)
    }
}

macro_rules! results {
    ($(($($name:ident),*))*) => {$(
        impl<$($name: WasmTy),*> IntoResults for ($($name,)*) {
            type Values = Self;
            fn into_results(self) -> Result<Self, Error> {
                Ok(self)
            }
        }
    )*};
}
results! { () (A) (A, B) (A, B, C) (A, B, C, D) }

/// A closure that can be a host function: its first parameter is a [`Caller`], and all others are values.
pub trait IntoFunc<T, Params, Results> {
    #[doc(hidden)]
    fn into_func(self) -> HostFuncBox;
}

/// A host function in the making.
#[doc(hidden)]
#[derive(Debug)]
pub struct HostFuncBox(pub(crate) HostFunc);

macro_rules! functions {
    ($($name:ident)*) => {
        impl<T, F, R, $($name),*> IntoFunc<T, ($($name,)*), R> for F
        where
            T: 'static,
            R: IntoResults + 'static,
            $($name: WasmTy,)*
            F: Fn(Caller<'_, T>, $($name),*) -> R + Send + Sync + 'static,
        {
            #[allow(non_snake_case, reason = "the types' names serve as the values'")]
            fn into_func(self) -> HostFuncBox {
                let params = <($($name,)*) as WasmParams>::TYPES;
                let ty = FuncType::new(params.iter().copied(), R::Values::TYPES.iter().copied());
                let closure = move |store: StorePointer, instance: Option<u32>, values: &mut [Slot]| {
                    let ($($name,)*) = <($($name,)*) as WasmParams>::read(values);
                    let caller = Caller::<T> { store, instance, data: PhantomData };
                    self(caller, $($name),*).into_results()?.write(values);
                    Ok(())
                };
                HostFuncBox(HostFunc::from_closure::<T>(ty, Box::new(closure)))
            }
        }
    };
}

functions!();
functions!(A1);
functions!(A1 A2);
functions!(A1 A2 A3);
functions!(A1 A2 A3 A4);
functions!(A1 A2 A3 A4 A5);
functions!(A1 A2 A3 A4 A5 A6);
functions!(A1 A2 A3 A4 A5 A6 A7);
functions!(A1 A2 A3 A4 A5 A6 A7 A8);
functions!(A1 A2 A3 A4 A5 A6 A7 A8 A9);
functions!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10);
functions!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11);
functions!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12);
