//! Systems that are commands: a fresh process for each run.

use crate::harness::{Failure, Sample, System};
use crate::workload::Workload;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

type Prepare<'a> = dyn FnMut(&Workload) -> Result<Vec<PathBuf>, Failure> + 'a;
type Line<'a> = dyn Fn(&Workload) -> Command + 'a;

/// A command that runs a workload.
pub struct ProcessSystem<'a> {
    name: String,
    version: String,
    prepare: Box<Prepare<'a>>,
    command: Box<Line<'a>>,
    files: Vec<PathBuf>,
}

impl<'a> ProcessSystem<'a> {
    /// A system `name`. `prepare` does what is not measured and names the files that a run reads; `command` gives the command.
    pub fn new(
        name: impl Into<String>,
        version: impl Into<String>,
        prepare: impl FnMut(&Workload) -> Result<Vec<PathBuf>, Failure> + 'a,
        command: impl Fn(&Workload) -> Command + 'a,
    ) -> Self {
        Self { name: name.into(), version: version.into(), prepare: Box::new(prepare), command: Box::new(command), files: Vec::new() }
    }
}

impl System for ProcessSystem<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare(&mut self, workload: &Workload) -> Result<(), Failure> {
        self.files = (self.prepare)(workload)?;
        Ok(())
    }

    fn measure(&mut self, workload: &Workload, limit: Duration) -> Result<Sample, Failure> {
        let mut command = (self.command)(workload);
        let stdin = File::open(&workload.stdin).map_err(|error| Failure::Unfit(format!("{}: {error}", workload.stdin.display())))?;
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null());
        time_command(&mut command, limit)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }
}

/// Runs a command whose standard output is piped, from just before it is made to its end.
fn time_command(command: &mut Command, limit: Duration) -> Result<Sample, Failure> {
    // A runtime may capture stacks where this is set, and what that costs is not what is measured.
    command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    // A group of its own, so that what the command starts ends with it.
    command.process_group(0);
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| Failure::Absent(format!("{}: {error}", command.get_program().display())))?;
    let stdout = child.stdout.take();
    let id = child.id();
    let (done, is_done) = mpsc::channel::<()>();
    // A thread that ends the child if it takes too long. Made after the child, so that it is not part of the child's start.
    let watchdog = std::thread::spawn(move || {
        let late = is_done.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        if late && let Some(pid) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
            // The child has not been waited for, so its number is still its own.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        late
    });
    let mut output = Vec::new();
    let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut output));
    let seconds_to_end = started.elapsed();
    drop(done);
    let late = watchdog.join().unwrap_or(false);
    let status = child.wait();
    read.map_err(|error| Failure::Failed(error.to_string()))?;
    let status = status.map_err(|error| Failure::Failed(error.to_string()))?;
    if late {
        return Err(Failure::Timeout(limit.as_secs_f64().to_string()));
    }
    match (status.code(), status.signal()) {
        (Some(exit), _) => Ok(Sample { seconds: seconds_to_end.as_secs_f64(), exit, output }),
        (None, signal) => Err(Failure::Crash(format!("signal {}", signal.unwrap_or(0)))),
    }
}
