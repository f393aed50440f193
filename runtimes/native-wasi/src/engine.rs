//! The engine: what all images of a process share.

use crate::context::State;
use crate::error::cause;
use crate::link;
use crate::loaded::Loaded;
use crate::wake::FrozenFiles;
use preheat_call::{HostFunction, RunError};
use preheat_image::manifest::Function;
use preheat_loader::{TrustedCode, TrustedImage};
use preheat_native::{Config, Engine, Error, Linker, PoolLimits};
use std::sync::{Arc, OnceLock};

/// The name of this engine in manifests and keys.
pub const ENGINE: &str = "native";
/// The target whose code it runs.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Options of an engine.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct EngineOptions {
    /// How many memories can be in use at once, and how many of their slots are kept for the next call. `None`: as many as addresses allow.
    pub slots: Option<u32>,
    /// Functions that modules may import.
    pub host_functions: Vec<HostFunction>,
}

/// An engine. Clones share everything; all of it may be used from many threads.
#[derive(Debug, Clone)]
pub struct NativeEngine {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Engine,
    host_functions: Vec<HostFunction>,
    linker: OnceLock<Linker<State>>,
}

impl Inner {
    /// The embedder's functions, to be linked.
    pub(crate) fn linker(&self) -> Result<&Linker<State>, Error> {
        if let Some(linker) = self.linker.get() {
            return Ok(linker);
        }
        let linker = link::linker(&self.host_functions)?;
        Ok(self.linker.get_or_init(|| linker))
    }
}

impl NativeEngine {
    /// Makes an engine. The first one of the process installs signal handlers, see [`preheat_native`].
    ///
    /// # Errors
    /// When the operating system refuses, or this is no x86-64.
    pub fn new(options: EngineOptions) -> Result<Self, RunError> {
        let mut config = Config::default();
        if let Some(slots) = options.slots {
            let slots = usize::try_from(slots).unwrap_or(usize::MAX);
            config.memories = PoolLimits { slots, idle: slots, ..config.memories };
            let tables = slots.saturating_mul(2);
            config.tables = PoolLimits { slots: tables, idle: tables, ..config.tables };
        }
        let engine = Engine::new(config).map_err(|error| RunError::Instantiate(cause(error)))?;
        Ok(Self { inner: Arc::new(Inner { engine, host_functions: options.host_functions, linker: OnceLock::new() }) })
    }

    /// Maps a code object and links its function.
    ///
    /// # Errors
    /// When the code object is not for this engine or CPU, or the function imports what is not offered.
    pub fn load(&self, code: TrustedCode, function: &Function) -> Result<Loaded, RunError> {
        Loaded::new(self, code, function, None)
    }

    /// Maps what `image` has beside `code`, if it is frozen, and links its function. `code` is one of its code objects.
    ///
    /// # Errors
    /// As [`NativeEngine::load`], and when something of a frozen image is missing or does not fit the rest of it.
    pub fn load_image(&self, image: &TrustedImage, code: TrustedCode, function: &Function) -> Result<Loaded, RunError> {
        let Some(frozen) = &function.frozen else { return self.load(code, function) };
        let has_stack = image.manifest().artefacts.iter().any(preheat_image::manifest::Artefact::is_resume);
        let files = FrozenFiles {
            resume: if has_stack { Some(image.resume(&code)?) } else { None },
            layers: frozen.layers.iter().map(|layer| image.artefact(layer)).collect::<Result<_, _>>()?,
        };
        Loaded::new(self, code, function, Some(files))
    }
}
