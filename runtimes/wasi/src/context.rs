//! What one request's guest has: its grants, streams, descriptors, clock.

use crate::descriptor::{Described, Descriptors, Kind};
use crate::grants::Grants;
use crate::host::{Host, SystemHost};
use crate::interrupt::Interrupt;
use crate::stream::{Input, Output};
use std::fmt;
use std::sync::Arc;

/// Most bytes of guest memory that one call may handle at once; beyond it fails with `nomem`, as under wasmtime.
const BUDGET: usize = 128 << 20;

/// The state of one guest. Making it opens and allocates nothing. By default there is no input, and output is thrown away.
pub struct Context {
    pub(crate) grants: Arc<Grants>,
    pub(crate) host: Box<dyn Host>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) interrupt: Interrupt,
    pub(crate) descriptors: Descriptors,
    /// What the guest's monotonic clock shows when the host's shows `epoch`.
    clock: u64,
    epoch: u64,
    budget: usize,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("grants", &self.grants).field("descriptors", &self.descriptors).finish_non_exhaustive()
    }
}

impl Context {
    /// A context on the system's clocks.
    #[must_use]
    pub fn new(grants: Arc<Grants>) -> Self {
        // A value without a size takes no allocation.
        Self::with_host(grants, Box::new(SystemHost))
    }

    /// A context that learns from this host what it learns from outside.
    #[must_use]
    pub fn with_host(grants: Arc<Grants>, mut host: Box<dyn Host>) -> Self {
        let epoch = host.monotonic();
        Self {
            grants,
            host,
            stdin: Input::Empty,
            stdout: Output::Discard,
            stderr: Output::Discard,
            interrupt: Interrupt::never(),
            descriptors: Descriptors::default(),
            // Go's runtime takes a clock that shows 0 for broken.
            clock: 1,
            epoch,
            budget: BUDGET,
        }
    }

    /// Gives standard input.
    pub fn set_stdin(&mut self, stdin: Input) {
        self.stdin = stdin;
    }

    /// Takes standard output.
    pub fn set_stdout(&mut self, stdout: Output) {
        self.stdout = stdout;
    }

    /// Takes standard error.
    pub fn set_stderr(&mut self, stderr: Output) {
        self.stderr = stderr;
    }

    /// Sets what ends the guest's waits. A wait that it ends answers [`Stop::Interrupted`](crate::Stop::Interrupted).
    pub fn set_interrupt(&mut self, interrupt: Interrupt) {
        self.interrupt = interrupt;
    }

    /// Lets the guest's monotonic clock go on from here, in nanoseconds: a program that is woken must not see it go back.
    pub fn set_monotonic(&mut self, now: u64) {
        self.epoch = self.host.monotonic();
        self.clock = now;
    }

    /// What the guest's monotonic clock shows, in nanoseconds. It begins at 1 when the context is made.
    pub fn monotonic(&mut self) -> u64 {
        self.clock.saturating_add(self.host.monotonic().saturating_sub(self.epoch))
    }

    /// What the guest has open, by number.
    pub fn descriptors(&self) -> impl Iterator<Item = (u32, Described<'_>)> {
        self.descriptors.describe(&self.grants)
    }

    /// Whether this descriptor is the guest's standard input: an engine that stops a program before it first reads it asks at each call.
    #[must_use]
    pub fn is_stdin(&self, fd: u32) -> bool {
        self.descriptors.kind(&self.grants, fd) == Ok(Kind::Stdin)
    }

    /// What the guest was granted.
    #[must_use]
    pub fn grants(&self) -> &Arc<Grants> {
        &self.grants
    }

    /// Begins a call.
    pub(crate) fn refill(&mut self) {
        self.budget = BUDGET;
    }

    /// Whether the call may handle so many bytes more.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), crate::Errno> {
        self.budget = self.budget.checked_sub(bytes).ok_or(crate::Errno::Nomem)?;
        Ok(())
    }
}
