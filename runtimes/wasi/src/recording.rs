//! The host of a program that is going to be frozen: its clocks and random numbers are the same each time, and everything else that the
//! program learns is written down.
//!
//! Time stands still but for what the program does: each reading of a clock moves both on by [`Recording::CLOCK_STEP`], and a wait for time to
//! pass is over at once and moves both on by that time. What file systems add by chance is hidden: names in a directory come in the order of
//! their bytes, files are numbered in the order in which the program meets them, all their times are the moment at which the recording
//! began, and directories have the size 0. So the same program with the same inputs ends in the same state, byte for byte.

use crate::abi::types::{Filestat, Filetype};
use crate::descriptor::Origin;
use crate::digest;
use crate::error::Failure;
use crate::freeze::{Cause, FreezeRefusal};
use crate::grants::{Grants, guest_path};
use crate::host::{Host, Observation};
use crate::host_state::{EarlyOutput, HostState, OutputStream};
use crate::interrupt::Interrupt;
use crate::record::{FileRead, Record};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the random numbers are hashed with, so that no other use of a seed gives the same.
const RANDOM_DOMAIN: &[u8] = b"preheat recording: random v1\0";

/// The first number for a file; those below are the wake directory's.
const FIRST_NUMBER: u64 = 16;

/// A [`Host`] that answers the same every time and remembers what it was asked. Clones are the same recording: one is given to the
/// [`Context`](crate::Context), another is asked afterwards.
#[derive(Clone)]
pub struct Recording {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    /// Whether it remembers what the program learned.
    keeps: bool,
    record: Record,
    /// The bytes of all paths in the record.
    size: usize,
    /// The names of the preopened directories.
    preopens: Vec<String>,
    /// What the guest was offered as its environment, names only.
    environment: Vec<String>,
    random: Random,
    /// What the real-time clock showed when `elapsed` was 0.
    realtime: u64,
    /// The times of all files.
    file_time: u64,
    /// Nanoseconds that have passed for the program.
    elapsed: u64,
    output: Vec<EarlyOutput>,
    /// How many more bytes of output there is room for.
    room: usize,
    max_output: usize,
    /// The numbers of the files that the guest has met, by those that it would have seen otherwise.
    numbers: HashMap<u64, u64>,
    next_number: u64,
    /// The first thing that can't be frozen.
    refusal: Option<FreezeRefusal>,
}

/// Blocks of SHA-256 over the seed and a counter.
struct Random {
    seed: [u8; 32],
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Random {
    fn fill(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            if self.used == self.block.len() {
                let hash = Sha256::new().chain_update(RANDOM_DOMAIN).chain_update(self.seed).chain_update(self.counter.to_le_bytes());
                self.block = hash.finalize().into();
                self.counter += 1;
                self.used = 0;
            }
            let len = buffer.len().min(self.block.len() - self.used);
            buffer[..len].copy_from_slice(&self.block[self.used..][..len]);
            self.used += len;
            buffer = &mut buffer[len..];
        }
    }
}

impl fmt::Debug for Recording {
    /// Without the seed and the output, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Recording").field("record", &inner.record).field("refusal", &inner.refusal).finish_non_exhaustive()
    }
}

impl Recording {
    /// By how many nanoseconds each reading of a clock moves both clocks on.
    pub const CLOCK_STEP: u64 = 1_000;

    /// What the clocks' resolution is in nanoseconds: that of Linux, so that it does not change when the program wakes up.
    pub const CLOCK_RESOLUTION: u64 = 1;

    /// How many bytes of output before the freeze are kept by default.
    pub const MAX_OUTPUT: usize = 1 << 20;

    /// Most bytes of paths in the record.
    pub const MAX_RECORD: usize = 4 << 20;

    /// A recording whose random numbers come from `seed`, and whose real-time clock begins at `realtime`, in nanoseconds since 1970.
    #[must_use]
    pub fn new(seed: [u8; 32], realtime: u64) -> Self {
        let inner = Inner {
            keeps: true,
            record: Record::default(),
            size: 0,
            preopens: Vec::new(),
            environment: Vec::new(),
            random: Random { seed, counter: 0, block: [0; 32], used: 32 },
            realtime,
            file_time: realtime,
            elapsed: 0,
            output: Vec::new(),
            room: Self::MAX_OUTPUT,
            max_output: Self::MAX_OUTPUT,
            numbers: HashMap::new(),
            next_number: FIRST_NUMBER,
            refusal: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Sets how many bytes of output before the freeze are kept. A program that writes more can't be frozen.
    #[must_use]
    pub fn max_output(self, max: usize) -> Self {
        {
            let mut inner = self.lock();
            inner.max_output = max;
            inner.room = max;
        }
        self
    }

    /// From now on remembers nothing of what the program learns and writes: for a program that is replayed and not frozen, which shall take as long as
    /// without a recording. It answers the same.
    #[must_use]
    pub fn forgetful(self) -> Self {
        self.lock().keeps = false;
        self
    }

    /// Goes on with the record of the image whose program is woken now to be frozen once more.
    #[must_use]
    pub fn upon(self, record: Record) -> Self {
        {
            let mut inner = self.lock();
            let files = record.files.iter().map(|file| file.preopen.len() + file.path.len());
            inner.size = files.chain(record.listed.iter().chain(&record.looked_at).map(String::len)).sum();
            inner.record = record;
        }
        self
    }

    /// What the program has learned so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.lock().record.clone()
    }

    /// What the program has written so far to its standard streams, in order. A program that ended before it could be frozen has said there why.
    #[must_use]
    pub fn output(&self) -> Vec<EarlyOutput> {
        self.lock().output.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest is offered: directories, by name, and variables. A [`Context`](crate::Context) that gets this recording as its host says so itself.
    pub fn attach(&self, grants: &Grants) {
        let mut inner = self.lock();
        inner.preopens = grants.preopens.iter().map(|preopen| preopen.name.clone()).collect();
        inner.environment = grants.environment().map(|(name, _)| name.clone()).collect();
    }

    /// A context goes on from a state in which it was frozen.
    pub(crate) fn adopt(&self, state: &HostState) {
        let mut inner = self.lock();
        inner.realtime = inner.realtime.max(state.realtime);
        inner.next_number = inner.next_number.max(state.next_number);
        for early in &state.output {
            inner.write(early.stream, &early.bytes);
        }
    }

    /// What the monotonic clock would show, without reading it.
    #[must_use]
    pub fn elapsed(&self) -> u64 {
        self.lock().elapsed
    }

    /// What the real-time clock would show, without reading it.
    pub(crate) fn now(&self) -> u64 {
        self.lock().now()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.lock().next_number
    }

    pub(crate) fn refusal(&self) -> Option<FreezeRefusal> {
        self.lock().refusal.clone()
    }

    /// Time passes, and nobody waits for it.
    pub fn sleep(&self, time: Duration) {
        let mut inner = self.lock();
        inner.record.clocks.sleeps += 1;
        inner.elapsed = inner.elapsed.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The guest has written to a standard stream.
    pub(crate) fn write(&self, stream: OutputStream, bytes: &[u8]) {
        self.lock().write(stream, bytes);
    }

    /// The guest has read the file `env` of the wake directory.
    pub(crate) fn read_late_env(&self) {
        self.lock().record.late_env_reads += 1;
    }

    /// The guest has changed something on the host, which waking can't do again.
    pub(crate) fn changed(&self, fd: Option<u32>, path: Option<String>) {
        self.refuse(fd, path, Cause::Written);
    }

    /// The guest has read something of a file for the first time since it opened it.
    ///
    /// # Errors
    ///
    /// If the interrupt ends the hashing of its contents.
    pub(crate) fn read_file(&self, fd: u32, from: (Option<&Origin>, Filetype), file: &File, interrupt: &Interrupt) -> Result<(), Failure> {
        if !self.lock().keeps {
            return Ok(());
        }
        let (origin, filetype) = from;
        let Some(origin) = origin else {
            self.refuse(Some(fd), None, Cause::PathTooLong);
            return Ok(());
        };
        let preopen = self.lock().preopen(origin);
        let path = guest_path(&preopen, &origin.path);
        if filetype != Filetype::RegularFile {
            self.refuse(Some(fd), Some(path), Cause::Special);
            return Ok(());
        }
        match digest::of_file(file, interrupt)? {
            Ok((digest, size)) => {
                let read = FileRead { preopen, path: origin.path.clone(), digest, size };
                let altered = self.lock().add_file(read);
                if altered {
                    self.refuse(Some(fd), Some(path), Cause::Altered);
                }
            }
            Err(error) => self.refuse(Some(fd), Some(path), Cause::Unreadable(error.to_string())),
        }
        Ok(())
    }

    fn refuse(&self, fd: Option<u32>, path: Option<String>, cause: Cause) {
        self.lock().refusal.get_or_insert(FreezeRefusal { fd, path, cause });
    }

    /// Attributes as the guest shall see them.
    pub(crate) fn settle(&self, stat: Filestat) -> Filestat {
        let mut inner = self.lock();
        let time = inner.file_time;
        let size = if stat.filetype == Filetype::Directory { 0 } else { stat.size };
        Filestat { ino: inner.number(stat.ino), nlink: 1, size, atim: time, mtim: time, ctim: time, ..stat }
    }

    /// The number of a file as the guest shall see it.
    pub(crate) fn number(&self, number: u64) -> u64 {
        self.lock().number(number)
    }
}

impl Inner {
    fn now(&self) -> u64 {
        self.realtime.saturating_add(self.elapsed)
    }

    fn number(&mut self, number: u64) -> u64 {
        let Self { numbers, next_number, .. } = self;
        *numbers.entry(number).or_insert_with(|| {
            *next_number += 1;
            *next_number - 1
        })
    }

    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        if !self.keeps {
            return;
        }
        let fits = bytes.len().min(self.room);
        if fits < bytes.len() {
            self.refusal.get_or_insert(FreezeRefusal { fd: None, path: None, cause: Cause::Output { max: self.max_output } });
        }
        self.room -= fits;
        match self.output.last_mut() {
            Some(last) if last.stream == stream => last.bytes.extend_from_slice(&bytes[..fits]),
            _ if fits == 0 => {}
            _ => self.output.push(EarlyOutput { stream, bytes: bytes[..fits].to_vec() }),
        }
    }

    fn preopen(&self, origin: &Origin) -> String {
        self.preopens.get(origin.preopen).cloned().unwrap_or_default()
    }

    /// Whether there is room for so many bytes of paths.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.size = self.size.saturating_add(bytes);
        let fits = self.size <= Recording::MAX_RECORD;
        if !fits {
            self.refusal.get_or_insert(FreezeRefusal { fd: None, path: None, cause: Cause::Record { max: Recording::MAX_RECORD } });
        }
        fits
    }

    /// Returns whether the same file was read before and was another one.
    fn add_file(&mut self, read: FileRead) -> bool {
        match self.record.files.binary_search_by(|each| (&each.preopen, &each.path).cmp(&(&read.preopen, &read.path))) {
            Ok(index) => self.record.files[index] != read,
            Err(index) => {
                if self.has_room(read.preopen.len() + read.path.len()) {
                    self.record.files.insert(index, read);
                }
                false
            }
        }
    }

    /// The guest has looked at what is at `path` from a directory, or at the directory.
    fn look(&mut self, origin: Option<&Origin>, path: &str, lists: bool) {
        let Some(origin) = origin else {
            self.refusal.get_or_insert(FreezeRefusal { fd: None, path: Some(path.to_owned()), cause: Cause::PathTooLong });
            return;
        };
        let mut whole = guest_path(&self.preopen(origin), &origin.path);
        if !path.is_empty() {
            whole = guest_path(&whole, path);
        }
        let known = if lists { &self.record.listed } else { &self.record.looked_at };
        if known.contains(&whole) || !self.has_room(whole.len()) {
            return;
        }
        let known = if lists { &mut self.record.listed } else { &mut self.record.looked_at };
        known.insert(whole);
    }
}

impl Host for Recording {
    fn realtime(&mut self) -> u64 {
        let mut inner = self.lock();
        inner.record.clocks.realtime += 1;
        let now = inner.now();
        inner.elapsed = inner.elapsed.saturating_add(Self::CLOCK_STEP);
        now
    }

    fn monotonic(&mut self) -> u64 {
        let mut inner = self.lock();
        inner.record.clocks.monotonic += 1;
        let now = inner.elapsed;
        inner.elapsed = now.saturating_add(Self::CLOCK_STEP);
        now
    }

    fn resolution(&mut self) -> u64 {
        self.lock().record.clocks.resolution += 1;
        Self::CLOCK_RESOLUTION
    }

    fn random(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.record.random_bytes = inner.record.random_bytes.saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        inner.random.fill(buffer);
        Ok(())
    }

    fn observe(&mut self, observation: Observation<'_>) {
        let mut inner = self.lock();
        if !inner.keeps {
            return;
        }
        match observation {
            Observation::Arguments => inner.record.arguments = true,
            Observation::Environment => {
                let names = inner.environment.clone();
                inner.record.environment.get_or_insert_default().extend(names);
            }
            Observation::Preopen(name) => {
                inner.record.preopens.insert(name.to_owned());
            }
            Observation::Path { directory, path } => inner.look(directory, path, false),
            Observation::Attributes(origin) => inner.look(origin, "", false),
            Observation::Names(origin) => inner.look(origin, "", true),
            // Contents are hashed where they are read; what standard input gives after the freeze is the event.
            Observation::Contents { .. } | Observation::Stdin => {}
        }
    }

    fn recording(&self) -> Option<Recording> {
        Some(self.clone())
    }
}
