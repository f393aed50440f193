//! Instances that wake from a frozen state.

use crate::error::Error;
use crate::frozen::Frozen;
use crate::instance::Instance;
use crate::instantiate::{allocate, check_import};
use crate::linker::InstancePre;
use crate::store::{AsStoreMut as _, Store, StoreInner};

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
