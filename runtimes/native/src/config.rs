//! What an engine may use.

use preheat_image::abi::{MEMORY_RESERVATION, WASM_PAGE};
use preheat_loader::map::{Method, PoolLimits};

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stack for guest frames in bytes. Rounded up to whole pages.
    pub stack: usize,
    /// Stack that a host function has at least, in bytes, wherever it is called. It runs on the guest's stack; one that uses more ends the
    /// process.
    pub host_stack: usize,
    /// The largest number of entries that any table can have. Each table takes 8 bytes of address space for each.
    pub table_reservation: u64,
    /// Slots for memories.
    pub memories: PoolLimits,
    /// Slots for tables.
    pub tables: PoolLimits,
    /// How many slots and stacks are reserved when the engine is made, so that the first instances need not wait for it.
    pub prepared: usize,
    /// How written pages are found when a slot is given back; `None` for the best that the kernel has.
    pub written_pages: Option<Method>,
    /// What a store may have unless it says otherwise.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stack: 1 << 20,
            host_stack: 512 << 10,
            table_reservation: 1 << 24,
            memories: PoolLimits::default(),
            tables: PoolLimits { pages: 64, ..PoolLimits::default() },
            prepared: 0,
            written_pages: None,
            limits: Limits::default(),
        }
    }
}

/// What the instances of a store may have. A module that needs more at first can't be instantiated; a guest that wants to grow beyond is
/// told that it can't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each memory.
    pub memory_bytes: u64,
    /// Entries of each table.
    pub table_entries: u64,
    /// Instances in one store.
    pub instances: usize,
    /// Memories in one store.
    pub memories: usize,
    /// Tables in one store.
    pub tables: usize,
}

impl Default for Limits {
    /// 4 GiB, 10 million entries, 10,000 of each.
    fn default() -> Self {
        Self { memory_bytes: MEMORY_RESERVATION, table_entries: 10_000_000, instances: 10_000, memories: 10_000, tables: 10_000 }
    }
}

impl Limits {
    /// How many Wasm pages a memory may have.
    pub(crate) fn memory_pages(&self) -> u64 {
        self.memory_bytes.min(MEMORY_RESERVATION) / WASM_PAGE
    }
}
