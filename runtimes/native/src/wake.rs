//! Instances that wake from a frozen state.

use crate::error::Error;
use crate::frozen::Frozen;
use crate::instance::Instance;
use crate::instantiate::{allocate, check_import};
use crate::linker::InstancePre;
use crate::store::{AsStoreMut as _, Store, StoreInner};
use crate::sys::wake::resume;
use crate::value::Val;

impl<T: 'static> InstancePre<T> {
    /// Makes an instance that is in the state `frozen`: nothing of its initialisation is done again.
    ///
    /// # Errors
    /// When the state is of another module, an import is of another store or type, limits are reached, or the operating system refuses.
    pub fn wake(&self, store: &mut Store<T>, frozen: &Frozen) -> Result<Instance, Error> {
        if !self.module().is(frozen.module()) {
            return Err(Error::Frozen("it is of another module".into()));
        }
        let pointer = store.pointer_mut();
        if let Some(id) = self.store() {
            let inner = pointer.get();
            if inner.id != id {
                return Err(Error::Link("an import is of another store".into()));
            }
            check_import(inner, self.module(), self.imports())?;
        }
        let address = pointer.address();
        let store = pointer.get_mut();
        let index = allocate(store, address, self.module(), self.imports(), frozen.inner.beginning())?;
        restore(store, index, frozen)?;
        Ok(Instance { store: store.id, index })
    }
}

impl Instance {
    /// Lets the function that was running when its state was frozen go on, and gives what the outermost one returns.
    ///
    /// # Errors
    /// When it did not wake from a state with a call stack, or was resumed before; or it traps, or a host function fails.
    ///
    /// # Panics
    /// When the instance is of another store, or a host function panics.
    pub fn resume<T: 'static>(self, store: &mut Store<T>) -> Result<Vec<Val>, Error> {
        let pointer = store.pointer_mut();
        let inner = pointer.get_mut();
        assert!(inner.id == self.store, "an instance of another store");
        let data = &mut inner.instances[self.index as usize];
        let frozen = data.frozen.clone();
        let frames = frozen.as_ref().and_then(|frozen| frozen.inner.frames.as_ref());
        let frames = frames.ok_or_else(|| Error::Type("the instance has no frozen call stack".into()))?;
        if std::mem::replace(&mut data.resumed, true) {
            return Err(Error::Type("the instance was resumed before".into()));
        }
        let mut values = vec![0; frames.results().len().max(1)];
        resume(pointer, self.index, frames, &mut values)?;
        let inner = pointer.get();
        Ok(frames.results().iter().zip(values).map(|(ty, slot)| Val::of_slot(inner, *ty, slot)).collect())
    }
}

/// Does what is not in templates: flags of segments, and functions, which are not the same for every instance.
fn restore(store: &mut StoreInner, index: u32, frozen: &Frozen) -> Result<(), Error> {
    let inner = &*frozen.inner;
    let layout = &inner.module.native().layout;
    let data = &mut store.instances[index as usize];
    data.frozen = Some(frozen.clone());
    data.cells.copy(layout.dropped_data, &inner.dropped_data);
    data.cells.copy(layout.dropped_elements, &inner.dropped_elements);
    let first_table = data.first_table;
    let missing = |function: u32| Error::Frozen(format!("there is no function {function}"));
    for (own, function) in &inner.function_globals {
        let reference = store.reference(index, *function).ok_or_else(|| missing(*function))?;
        if let Some(place) = layout.global(*own) {
            store.instances[index as usize].cells.set(place, u128::from(reference));
        }
    }
    for (own, entry, function) in &inner.function_entries {
        let reference = store.reference(index, *function).ok_or_else(|| missing(*function))?;
        if let Some(place) = store.tables[(first_table + own) as usize].entries_mut().get_mut(*entry) {
            *place = reference.to_ne_bytes();
        }
    }
    Ok(())
}
