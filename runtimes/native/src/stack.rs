//! Stacks for guests.

use preheat_loader::map::{Access, PAGE, Region};
use rustix::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Inaccessible bytes below a stack. Code touches the pages of a frame in turn; host functions of Rust do so too.
const GUARD: usize = 16 * PAGE;

/// A stack: guard, room for host functions, room for the guest, from low to high addresses.
#[derive(Debug)]
pub(crate) struct Stack {
    region: Region,
    limit: u64,
}

impl Stack {
    fn base(&self) -> u64 {
        self.region.base().as_ptr().expose_provenance() as u64
    }

    /// The address behind its last byte.
    pub(crate) fn top(&self) -> u64 {
        self.base() + self.region.len() as u64
    }

    /// The lowest stack pointer with which the host may be called.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The accessible part.
    pub(crate) fn range(&self) -> Range<u64> {
        self.base() + GUARD as u64..self.top()
    }

    /// The guard.
    pub(crate) fn guard(&self) -> Range<u64> {
        self.base()..self.base() + GUARD as u64
    }
}

/// Stacks between two uses. What is on them stays: compiled code reads of its stack only what it wrote.
#[derive(Debug)]
pub(crate) struct StackPool {
    guest: usize,
    host: usize,
    idle: Mutex<Vec<Stack>>,
    keep: usize,
}

impl StackPool {
    /// Of stacks with `guest` bytes and `host` more for host functions.
    pub(crate) fn new(guest: usize, host: usize, keep: usize) -> Self {
        let pages = |len: usize| len.clamp(PAGE, 1 << 40).next_multiple_of(PAGE);
        Self { guest: pages(guest), host: pages(host), idle: Mutex::default(), keep }
    }

    fn reserve(&self) -> io::Result<Stack> {
        let size = GUARD + self.host + self.guest;
        let mut region = Region::reserve(size)?;
        region.protect(GUARD..size, Access::ReadWrite)?;
        let limit = region.base().as_ptr().addr() as u64 + (GUARD + self.host) as u64;
        Ok(Stack { region, limit })
    }

    pub(crate) fn take(&self) -> io::Result<Stack> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.reserve(), Ok)
    }

    pub(crate) fn give(&self, stack: Stack) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.keep {
            idle.push(stack);
        }
    }

    pub(crate) fn prepare(&self, count: usize) -> io::Result<()> {
        let stacks = (0..count.min(self.keep)).map(|_| self.reserve()).collect::<io::Result<Vec<_>>>()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(stacks);
        Ok(())
    }
}
