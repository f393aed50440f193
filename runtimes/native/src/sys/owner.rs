//! The pointer to a store.

use crate::store::StoreInner;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A pointer to a store through which it may be used. One owns the store. Others exist while the guest has called the host: then the
/// owner is in a call, and what the host function has is the only one in use.
#[derive(Debug)]
pub struct StorePointer {
    inner: NonNull<StoreInner>,
}

impl StorePointer {
    /// The pointer with which the host is called.
    ///
    /// # Safety
    /// `address` is what [`Self::address`] of a living store gave, and all other pointers to the store are in calls that will not go on
    /// before this one is gone.
    pub(crate) unsafe fn alias(address: u64) -> Self {
        let inner = std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
        // SAFETY: the caller promises that it is the address of a store.
        Self { inner: unsafe { NonNull::new_unchecked(inner) } }
    }

    /// Another pointer for a callee.
    ///
    /// # Safety
    /// This one is not used before that one is gone.
    pub(crate) unsafe fn lend(&mut self) -> Self {
        Self { inner: self.inner }
    }

    /// The store.
    pub(crate) fn get(&self) -> &StoreInner {
        // SAFETY: it lives as long as its owner, which no alias outlives; of all pointers only this one is in use, and it is borrowed.
        unsafe { self.inner.as_ref() }
    }

    /// The store, to be changed.
    pub(crate) fn get_mut(&mut self) -> &mut StoreInner {
        // SAFETY: as in `get`.
        unsafe { self.inner.as_mut() }
    }

    pub(super) fn as_ptr(&self) -> *mut StoreInner {
        self.inner.as_ptr()
    }

    /// Its address, which is that of the store's `StoreRecord`.
    pub(crate) fn address(&self) -> u64 {
        self.inner.as_ptr().expose_provenance() as u64
    }
}

/// The owner of a store with data of type `T`.
#[derive(Debug)]
pub(crate) struct Owner<T> {
    pointer: StorePointer,
    data: PhantomData<T>,
}

// SAFETY: a store owns all that it has, but for what its engine shares, and nothing of it is bound to a thread while no guest of it runs:
// then the owner is borrowed. Its data may be sent.
unsafe impl<T: Send> Send for Owner<T> {}
// SAFETY: what a shared reference to a store gives is only read, and its data may be shared.
unsafe impl<T: Sync> Sync for Owner<T> {}

impl<T> Owner<T> {
    /// Puts a store where it stays. Its data is of type `T`.
    pub(crate) fn new(inner: StoreInner) -> Self {
        let inner = Box::into_raw(Box::new(inner));
        inner.expose_provenance();
        // SAFETY: a box is not null.
        let inner = unsafe { NonNull::new_unchecked(inner) };
        Self { pointer: StorePointer { inner }, data: PhantomData }
    }

    pub(crate) fn pointer(&self) -> &StorePointer {
        &self.pointer
    }

    pub(crate) fn pointer_mut(&mut self) -> &mut StorePointer {
        &mut self.pointer
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `new`. The owner is borrowed while a guest of it or a host function runs, so no alias is left.
        drop(unsafe { Box::from_raw(self.pointer.inner.as_ptr()) });
    }
}
