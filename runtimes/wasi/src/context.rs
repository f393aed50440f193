//! What one request's guest has: its grants, streams, descriptors, clock.

use crate::descriptor::{Described, Descriptors, Kind};
use crate::grants::Grants;
use crate::host::{Host, SystemHost};
use crate::host_state::OutputStream;
use crate::interrupt::Interrupt;
use crate::recording::Recording;
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
    /// What `host` is, if the guest is going to be frozen.
    pub(crate) recording: Option<Recording>,
    /// Whether the guest stops where it wants standard input that is not there.
    pub(crate) freeze: bool,
    /// Whether the guest has asked for its environment.
    pub(crate) environment_read: bool,
    /// Whether names in directories come in order, so that a list that was begun before a freeze goes on behind it.
    pub(crate) sorted_names: bool,
    pub(crate) counters: Counters,
    /// What the guest's monotonic clock shows when the host's shows `epoch`.
    clock: u64,
    epoch: u64,
    budget: usize,
}

/// What a guest did since its context was made: whoever builds an image sees here whether the program renewed its secrets after waking.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Random bytes that it drew, by `random_get` or from the wake directory.
    pub random_bytes: u64,
    /// Those that it drew before it wrote a first byte to standard output or standard error.
    pub random_bytes_before_output: u64,
    /// How often it read from the file `env` of the wake directory.
    pub late_env_reads: u64,
    /// Bytes that it wrote to standard output and standard error.
    pub output_bytes: u64,
}

impl Counters {
    /// Draws random bytes and counts them.
    pub(crate) fn draw(&mut self, host: &mut dyn Host, buffer: &mut [u8]) -> std::io::Result<()> {
        host.random(buffer)?;
        let len = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        self.random_bytes = self.random_bytes.saturating_add(len);
        if self.output_bytes == 0 {
            self.random_bytes_before_output = self.random_bytes;
        }
        Ok(())
    }
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
        let recording = host.recording();
        if let Some(recording) = &recording {
            recording.attach(&grants);
        }
        // That the clock begins is not the guest's doing.
        let epoch = recording.as_ref().map_or_else(|| host.monotonic(), Recording::elapsed);
        let sorted_names = recording.is_some();
        Self {
            grants,
            host,
            stdin: Input::Empty,
            stdout: Output::Discard,
            stderr: Output::Discard,
            interrupt: Interrupt::never(),
            descriptors: Descriptors::default(),
            recording,
            freeze: false,
            environment_read: false,
            sorted_names,
            counters: Counters::default(),
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

    /// Whether a call that wants standard input which is not there ends with [`Stop::Freeze`](crate::Stop::Freeze) instead of waiting or
    /// answering that this is the end. Input from memory is there until it was read; input from something open never is.
    pub fn set_freeze(&mut self, freeze: bool) {
        self.freeze = freeze;
    }

    /// What the guest did since the context was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Lets the guest's monotonic clock go on from here, in nanoseconds: a program that is woken must not see it go back.
    pub fn set_monotonic(&mut self, now: u64) {
        self.epoch = self.recording.as_ref().map_or_else(|| self.host.monotonic(), Recording::elapsed);
        self.clock = now;
    }

    /// What the guest's monotonic clock shows, in nanoseconds. It begins at 1 when the context is made.
    pub fn monotonic(&mut self) -> u64 {
        let now = self.host.monotonic();
        self.monotonic_at(now)
    }

    /// What the guest's monotonic clock shows when the host's shows `now`.
    pub(crate) fn monotonic_at(&self, now: u64) -> u64 {
        self.clock.saturating_add(now.saturating_sub(self.epoch))
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

    /// Whether the guest would have to wait for standard input, or see its end, where it shall be frozen instead.
    pub(crate) fn freezes_at_stdin(&self) -> bool {
        self.freeze && !self.stdin.has_bytes()
    }

    /// The guest has written to a standard stream.
    pub(crate) fn written(&mut self, stream: OutputStream, bytes: &[u8]) {
        if let Some(recording) = &self.recording {
            recording.write(stream, bytes);
        }
        self.counters.output_bytes = self.counters.output_bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    /// The guest has changed what is at `path` below a directory.
    pub(crate) fn changed(&self, fd: u32, path: &str) {
        if let (Some(recording), Ok(directory)) = (&self.recording, self.descriptors.directory(&self.grants, fd)) {
            recording.changed(None, directory.origin_of(path).map(|origin| self.grants.guest_path(&origin)));
        }
    }

    /// The guest has changed something that it has open.
    pub(crate) fn changed_open(&self, fd: u32) {
        if let Some(recording) = &self.recording {
            let file = self.descriptors.file(fd).ok().and_then(|file| file.origin.as_ref());
            let directory = || self.descriptors.directory(&self.grants, fd).ok().and_then(|directory| directory.origin.as_ref());
            recording.changed(Some(fd), file.or_else(directory).map(|origin| self.grants.guest_path(origin)));
        }
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
