//! Everything that a guest learns from outside passes here, so that it can be recorded, or answered by something else.

use crate::descriptor::Origin;
use crate::recording::Recording;
use std::io;
use std::time::{Instant, SystemTime};

/// Clocks and random numbers, and a word on everything else that a guest looks at.
///
/// [`SystemHost`] asks the system. Another implementation may record what a program saw while it initialised, or answer the same every time.
pub trait Host: Send {
    /// Nanoseconds since 1970.
    fn realtime(&mut self) -> u64;

    /// Nanoseconds since some moment; never goes back. A context subtracts what the clock showed when it was made.
    fn monotonic(&mut self) -> u64;

    /// The resolution of both clocks in nanoseconds.
    fn resolution(&mut self) -> u64;

    /// Fills `buffer` with random bytes fit for keys.
    ///
    /// # Errors
    ///
    /// If there are none; the guest's call fails.
    fn random(&mut self, buffer: &mut [u8]) -> io::Result<()>;

    /// The guest is about to see this. By default nobody is interested.
    fn observe(&mut self, observation: Observation<'_>) {
        let _ = observation;
    }

    /// The recording that this is, if it is one: then the context tells it more, and time passes as it says.
    fn recording(&self) -> Option<Recording> {
        None
    }
}

/// What a guest looks at besides clocks and random numbers. An `origin` is absent where a path grew too long to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Observation<'a> {
    /// The arguments.
    Arguments,
    /// The environment.
    Environment,
    /// The name of a preopened directory.
    Preopen(&'a str),
    /// Standard input.
    Stdin,
    /// What is at a path: a file's attributes or a link's contents, or that there is nothing.
    Path {
        /// The directory.
        directory: Option<&'a Origin>,
        /// The path from there, as the guest gave it.
        path: &'a str,
    },
    /// The attributes of something open.
    Attributes(Option<&'a Origin>),
    /// Bytes of an open file.
    Contents {
        /// The file.
        file: Option<&'a Origin>,
        /// The first byte.
        offset: u64,
        /// How many at most.
        len: usize,
    },
    /// The names in an open directory.
    Names(Option<&'a Origin>),
}

/// The system's clocks and its source of random numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemHost;

impl Host for SystemHost {
    fn realtime(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic(&mut self) -> u64 {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn resolution(&mut self) -> u64 {
        let resolution = rustix::time::clock_getres(rustix::time::ClockId::Monotonic);
        u64::try_from(resolution.tv_nsec).unwrap_or(1).max(1)
    }

    fn random(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        getrandom::fill(buffer).map_err(io::Error::from)
    }
}
