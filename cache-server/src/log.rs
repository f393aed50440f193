//! The log: JSON lines on standard error.
//!
//! A line for each request would cost a system call each; so lines are gathered for a moment. Warnings and errors are written at once, with
//! all that was gathered before them.

use crate::config::LogConfig;
use anyhow::Context as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines are gathered for this long at most.
const DELAY: Duration = Duration::from_millis(100);
/// And up to this many bytes.
const GATHERED: usize = 64 * 1024;

/// Writes what is gathered when it is dropped.
pub(crate) struct Log(Lines);

impl Drop for Log {
    fn drop(&mut self) {
        flush(&mut self.0.gathered());
    }
}

/// Begins to log, unless the program that this runs in does already.
///
/// # Errors
/// When the level is none.
pub(crate) fn begin(config: &LogConfig) -> anyhow::Result<Log> {
    let filter = EnvFilter::try_new(&config.level).with_context(|| format!("`log.level`: `{}` is no level", config.level))?;
    let lines = Lines(Arc::default());
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false).with_span_list(false);
    let installed = subscriber.with_env_filter(filter).with_writer(lines.clone()).finish();
    if tracing::subscriber::set_global_default(installed).is_ok() {
        let gathered = Arc::downgrade(&lines.0);
        std::thread::Builder::new().name("log".into()).spawn(move || write_now_and_then(&gathered)).context("can't start a thread")?;
    }
    Ok(Log(lines))
}

fn write_now_and_then(gathered: &Weak<Mutex<Vec<u8>>>) {
    loop {
        std::thread::sleep(DELAY);
        let Some(gathered) = gathered.upgrade() else { return };
        // What is written is taken out first: nobody waits for a slow reader of the log but this thread.
        let mut lines = std::mem::take(&mut *gathered.lock().unwrap_or_else(PoisonError::into_inner));
        flush(&mut lines);
    }
}

fn flush(lines: &mut Vec<u8>) {
    if !lines.is_empty() {
        // There is nobody to tell that the log can't be written.
        let _ = io::stderr().write_all(lines);
        lines.clear();
    }
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn gathered(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer<'a> {
    gathered: MutexGuard<'a, Vec<u8>>,
    at_once: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Writer<'a>;

    fn make_writer(&'a self) -> Writer<'a> {
        Writer { gathered: self.gathered(), at_once: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Writer<'a> {
        Writer { gathered: self.gathered(), at_once: *meta.level() <= Level::WARN }
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(line);
        if self.at_once || self.gathered.len() > GATHERED {
            flush(&mut self.gathered);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
