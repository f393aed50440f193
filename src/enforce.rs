//! Trust in images that are loaded: a policy that changes must reach what runs already.

use preheat_call::RunError;
use preheat_image::Digest;
use preheat_loader::trust::{self, Refusal};
use preheat_loader::{Home, StoreError, TrustPolicy, TrustedImage};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a loaded image asks before each call.
pub(crate) struct Guard {
    image: TrustedImage,
    /// The code object that is mapped.
    code: Digest,
    /// All that a call looks at while the image is trusted.
    refused: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

/// The images of a runtime.
#[derive(Default)]
pub(crate) struct Enforced(Mutex<Vec<Weak<Guard>>>);

/// Follows a home's trust policy until it is dropped; see [`Runtime::watch_trust`](crate::Runtime::watch_trust).
#[must_use]
pub struct TrustWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Nothing that is done under these locks can leave half a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    pub(crate) fn image(&self) -> &TrustedImage {
        &self.image
    }

    /// Whether calls may go on.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        if !self.refused.load(Ordering::Acquire) {
            return Ok(());
        }
        match locked(&self.refusal).clone() {
            Some(refusal) => Err(self.error(refusal).into()),
            // Accepted again in between.
            None => Ok(()),
        }
    }

    fn error(&self, refusal: Refusal) -> StoreError {
        StoreError::Refused { digest: self.image.digest(), refusal }
    }

    fn judge(&self, policy: &TrustPolicy, now: u64) -> Option<StoreError> {
        let refusal = self.image.check_at(policy, Some(&self.code), now).err();
        let mut kept = locked(&self.refusal);
        kept.clone_from(&refusal);
        self.refused.store(refusal.is_some(), Ordering::Release);
        drop(kept);
        refusal.map(|refusal| self.error(refusal))
    }
}

impl Enforced {
    pub(crate) fn add(&self, image: TrustedImage, code: Digest) -> Arc<Guard> {
        let guard = Arc::new(Guard { image, code, refused: AtomicBool::new(false), refusal: Mutex::new(None) });
        let mut images = locked(&self.0);
        // Those that are gone are swept now and then, so that neither this list nor the time for it grows with the images ever loaded.
        if images.len() == images.capacity() {
            images.retain(|image| image.strong_count() > 0);
        }
        images.push(Arc::downgrade(&guard));
        guard
    }

    /// Judges all, and says what is refused.
    pub(crate) fn enforce(&self, policy: &TrustPolicy, now: u64) -> Vec<StoreError> {
        let images: Vec<Arc<Guard>> = locked(&self.0).iter().filter_map(Weak::upgrade).collect();
        images.iter().filter_map(|image| image.judge(policy, now)).collect()
    }
}

/// Follows the policy of `home` in a thread of its own.
pub(crate) fn watch(images: &Arc<Enforced>, home: &Home, interval: Duration) -> Result<TrustWatch, StoreError> {
    let (images, home) = (Arc::downgrade(images), home.clone());
    let mut policy = home.trust()?;
    if let Some(images) = images.upgrade() {
        images.enforce(&policy, trust::now());
    }
    let interval = interval.max(Duration::from_millis(10));
    let (stop, stopped) = channel::<()>();
    let follow = move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
            let Some(images) = images.upgrade() else { break };
            // One small file: reading it is simpler than telling whether it changed, and misses nothing.
            if let Ok(now) = home.trust() {
                policy = now;
            }
            images.enforce(&policy, trust::now());
        }
    };
    let thread = std::thread::Builder::new().name("preheat-trust".into()).spawn(follow).map_err(|source| StoreError::Io {
        action: "start a thread for",
        path: "trust.json".into(),
        source,
    })?;
    Ok(TrustWatch { stop: Some(stop), thread: Some(thread) })
}

impl Drop for TrustWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
