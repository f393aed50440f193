//! What all modules and stores of an engine share.

use crate::config::Config;
use crate::error::Error;
use crate::module;
use crate::resume;
use crate::sharing::Shared;
use crate::stack::{Stack, StackPool};
use crate::sys::cells::Cells;
use preheat_image::CpuLevel;
use preheat_image::abi::{MEMORY_GUARD, MEMORY_RESERVATION};
use preheat_loader::map::{MappedFile, PAGE, Scanner, SlotPool};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// An engine: pools of memory slots, tables, stacks and contexts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    cpu: CpuLevel,
    memories: SlotPool,
    tables: SlotPool,
    stacks: StackPool,
    // Idle contexts by size.
    contexts: Mutex<HashMap<usize, Vec<Cells>>>,
    sharing: Sharing,
}

/// What is loaded and may be shared.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    pub(crate) modules: Shared<module::Inner>,
    pub(crate) resumes: Shared<resume::Inner>,
    pub(crate) heaps: Shared<MappedFile>,
}

/// The highest level that the CPU under this process has; `None` where it is no x86-64. With the feature `cpu-of-libc` the C library is asked,
/// else the CPU.
#[must_use]
pub fn host_cpu() -> Option<CpuLevel> {
    #[cfg(all(feature = "cpu-of-libc", target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
    return Some(crate::sys::cpu::level());
    #[cfg(not(all(feature = "cpu-of-libc", target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
    CpuLevel::of_host()
}

/// Most idle stacks, and idle contexts of one size.
const IDLE: usize = 1024;

impl Engine {
    /// An engine. The first one of the process installs the signal handlers.
    ///
    /// # Errors
    /// What the operating system says, or when this is no x86-64.
    pub fn new(config: Config) -> Result<Self, Error> {
        crate::sys::signal::install().map_err(|source| Error::System { action: "install signal handlers", source })?;
        let cpu = host_cpu().ok_or_else(|| Error::Code("the native engine needs an x86-64 CPU".into()))?;
        let scanner = Arc::new(Scanner::new(config.written_pages));
        let bytes = |size: u64| usize::try_from(size).map_err(|_| Error::Limit(format!("{size} bytes of address space")));
        let memory = bytes(MEMORY_RESERVATION + MEMORY_GUARD)?;
        let table = bytes(config.table_reservation.saturating_mul(8).max(1))?;
        let table = table.checked_next_multiple_of(PAGE).ok_or_else(|| Error::Limit(format!("{table} bytes of address space")))?;
        let inner = Inner {
            cpu,
            memories: SlotPool::new(memory, config.memories, scanner.clone()),
            tables: SlotPool::new(table, config.tables, scanner),
            stacks: StackPool::new(config.stack, config.host_stack, IDLE),
            contexts: Mutex::default(),
            sharing: Sharing::default(),
            config,
        };
        let prepared = inner.config.prepared;
        inner.memories.prepare(prepared).map_err(Error::system("reserve memories"))?;
        inner.tables.prepare(prepared).map_err(Error::system("reserve tables"))?;
        inner.stacks.prepare(prepared).map_err(Error::system("reserve stacks"))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What the CPU can run.
    #[must_use]
    pub fn cpu(&self) -> CpuLevel {
        self.inner.cpu
    }

    /// How many memory slots there are: in use and idle, and of these idle.
    #[must_use]
    pub fn memory_slots(&self) -> (usize, usize) {
        self.inner.memories.count()
    }

    pub(crate) fn sharing(&self) -> &Sharing {
        &self.inner.sharing
    }

    pub(crate) fn memories(&self) -> &SlotPool {
        &self.inner.memories
    }

    pub(crate) fn tables(&self) -> &SlotPool {
        &self.inner.tables
    }

    pub(crate) fn take_stack(&self) -> Result<Stack, Error> {
        self.inner.stacks.take().map_err(Error::system("reserve a stack"))
    }

    pub(crate) fn give_stack(&self, stack: Stack) {
        self.inner.stacks.give(stack);
    }

    /// Cells of which the first `len` bytes are zero.
    pub(crate) fn take_cells(&self, len: usize) -> Result<Cells, Error> {
        let size = Cells::region_size(len).ok_or_else(|| Error::Limit(format!("a context of {len} bytes")))?;
        let idle = self.inner.contexts.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&size).and_then(Vec::pop);
        match idle {
            Some(mut cells) => {
                cells.zero(len);
                Ok(cells)
            }
            None => Cells::new(len).map_err(Error::system("reserve a context")),
        }
    }

    pub(crate) fn give_cells(&self, cells: Cells) {
        let mut contexts = self.inner.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = contexts.entry(cells.size()).or_default();
        if idle.len() < IDLE {
            idle.push(cells);
        }
    }
}
