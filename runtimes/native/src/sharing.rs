//! What is loaded once for all that have it in common.
//!
//! A thousand images over one base have its code, its resume object and its heap. Each loaded by itself would map them a thousand times, and
//! mappings are limited. So files are known by their digests here for as long as somebody has them.

use crate::error::Error;
use preheat_image::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Loaded things by the digests of their files. They go when the last one who has them lets go.
#[derive(Debug)]
pub(crate) struct Shared<T>(Mutex<HashMap<Digest, Weak<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Shared<T> {
    /// What is known under `digest` and fits, else what `load` gives.
    pub(crate) fn get(&self, digest: Digest, fits: impl Fn(&T) -> bool, load: impl FnOnce() -> Result<T, Error>) -> Result<Arc<T>, Error> {
        let find = |known: &HashMap<Digest, Weak<T>>| known.get(&digest).and_then(Weak::upgrade).filter(|found| fits(found));
        if let Some(found) = find(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(found);
        }
        // Others need not wait for it. Who was faster is taken.
        let loaded = Arc::new(load()?);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = find(&known) {
            return Ok(found);
        }
        if known.len() == known.capacity() {
            known.retain(|_, held| held.strong_count() > 0);
        }
        known.insert(digest, Arc::downgrade(&loaded));
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_loaded_once_while_somebody_has_it() {
        let shared = Shared::<u32>::default();
        let digest = Digest::of(b"a");
        let get = |value: u32| shared.get(digest, |_| true, || Ok(value)).unwrap();
        let first = get(1);
        assert!(Arc::ptr_eq(&first, &get(2)));
        drop(first);
        assert_eq!(*get(3), 3, "nobody had the first one any more");
        let held = get(4);
        assert_eq!(*shared.get(digest, |value| *value != 4, || Ok(5)).unwrap(), 5, "what does not fit is loaded anew");
        assert_eq!(*held, 4);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let shared = Shared::<u32>::default();
        let failed = shared.get(Digest::of(b"a"), |_| true, || Err(Error::Frozen("broken".into())));
        assert!(failed.is_err());
        assert_eq!(*shared.get(Digest::of(b"a"), |_| true, || Ok(1)).unwrap(), 1);
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let shared = Shared::<u32>::default();
        for number in 0..10_000u32 {
            shared.get(Digest::of(&number.to_le_bytes()), |_| true, || Ok(number)).unwrap();
        }
        assert!(shared.0.lock().unwrap().len() < 100);
    }
}
