//! What an embedder does with a context: end waits, replace the host, list what is open.

mod common;

use common::*;
use preheat_wasi::{Access, Context, Described, Grants, Host, Input, Interrupt, Observation, Origin, Output, Stop};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A subscription to a clock after so many nanoseconds, or to a descriptor.
fn subscription(kind: u8, fd_or_id: u32, timeout: u64) -> Vec<u8> {
    let mut bytes = [0x11_u64.to_le_bytes(), u64::from(kind).to_le_bytes()].concat();
    bytes.extend(u64::from(fd_or_id).to_le_bytes());
    bytes.extend(timeout.to_le_bytes());
    bytes.resize(48, 0);
    bytes
}

const HOUR: u64 = 3_600_000_000_000;

/// The ways in which a guest can wait for ever, with the arguments.
fn waits(guest: &mut Bare) -> [(&'static str, Vec<u64>); 4] {
    let [iovs, count] = guest.iovs(&[(0x8000, 100)]);
    guest.put(DATA, &[subscription(0, 1, HOUR), subscription(1, 0, 0)].concat());
    [
        ("poll_oneoff", vec![DATA, DATA + 0x1000, 1, OUT]),
        ("poll_oneoff", vec![DATA, DATA + 0x1000, 2, OUT]),
        ("poll_oneoff", vec![DATA + 48, DATA + 0x1000, 1, OUT]),
        ("fd_read", vec![0, iovs, count, OUT]),
    ]
}

#[test]
fn a_deadline_ends_every_wait() {
    let (reader, _writer) = io::pipe().unwrap();
    let mut guest = Bare::new(Grants::new());
    guest.context.set_stdin(Input::open(reader));
    for (name, args) in waits(&mut guest) {
        let deadline = Instant::now() + Duration::from_millis(30);
        guest.context.set_interrupt(Interrupt::never().at(deadline));
        assert_eq!(guest.run(name, &args), Err(Stop::Interrupted));
        let late = Instant::now().checked_duration_since(deadline).expect("it waited until the deadline");
        assert!(late < Duration::from_millis(10) || busy(), "{name}: {late:?} late");
        // What is over stays over until there is another deadline.
        assert_eq!(guest.run(name, &args), Err(Stop::Interrupted));
    }
    guest.context.set_interrupt(Interrupt::never());
    guest.put(DATA, &subscription(0, 1, 1000));
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x1000, 1, OUT]), Outcome::Errno(0));
}

/// So many things at once that looking at all of them takes long.
#[test]
fn a_deadline_ends_long_lists() {
    let tree = Tree::new();
    let grants = Arc::new(tree.grants());
    let mut memory = vec![0; 100 << 20];
    let start = memory.as_ptr().align_offset(8);
    let memory = &mut memory[start..];
    let mut guest = Bare::new(Grants::new());
    guest.context = Context::new(grants);
    guest.open(3, "file", 0, READ).unwrap();
    for subscription in memory.chunks_exact_mut(48) {
        subscription[8] = 1;
        subscription[16] = 5;
    }
    let deadline = Instant::now() + Duration::from_millis(20);
    guest.context.set_interrupt(Interrupt::never().at(deadline));
    let mut memory = preheat_wasi::GuestMemory::Unshared(memory);
    let poll = preheat_wasi::find("poll_oneoff").unwrap();
    assert_eq!(poll.call(&mut guest.context, &mut memory, &[0, 0, 1_500_000, 0]), Err(Stop::Interrupted));
    assert!(deadline.elapsed() < Duration::from_millis(20) || busy(), "{:?} late", deadline.elapsed());
}

#[test]
fn a_flag_ends_every_wait() {
    let (reader, _writer) = io::pipe().unwrap();
    let mut guest = Bare::new(Grants::new());
    guest.context.set_stdin(Input::open(reader));
    for (name, args) in waits(&mut guest) {
        let flag = Arc::new(AtomicBool::new(false));
        guest.context.set_interrupt(Interrupt::never().when(Arc::clone(&flag)));
        let setter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            flag.store(true, Ordering::Relaxed);
            Instant::now()
        });
        assert_eq!(guest.run(name, &args), Err(Stop::Interrupted));
        let late = setter.join().unwrap().elapsed();
        assert!(late < Duration::from_millis(10) || busy(), "{name}: {late:?} late");
    }
}

/// Whether this machine has more to do than it can, so that threads wait for a processor.
fn busy() -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    load > 0.5 * std::thread::available_parallelism().unwrap().get() as f64
}

#[test]
fn streams_wake_a_poll() {
    let (reader, mut writer) = io::pipe().unwrap();
    let (out_reader, out) = io::pipe().unwrap();
    let mut guest = Bare::new(Grants::new());
    guest.context.set_stdin(Input::open(reader));
    guest.context.set_stdout(Output::open(out));
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        io::Write::write_all(&mut writer, b"late").unwrap();
    });
    guest.put(DATA, &[subscription(0, 1, HOUR), subscription(1, 0, 0)].concat());
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x1000, 2, OUT]), Outcome::Errno(0));
    assert_eq!((guest.u32(OUT), guest.get(DATA + 0x1000 + 10, 1)), (1, vec![1]));
    assert_eq!(guest.read(0, 100).unwrap(), b"late");
    writer.join().unwrap();
    // Standard output has room. Standard input is at its end, which a read tells.
    guest.put(DATA, &[subscription(2, 1, 0), subscription(1, 0, 0)].concat());
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x1000, 2, OUT]), Outcome::Errno(0));
    assert_eq!(guest.u32(OUT), 2);
    assert_eq!(guest.read(0, 100).unwrap(), b"");
    assert_eq!(guest.write(1, b"out").unwrap(), 3);
    drop(guest);
    assert_eq!(io::read_to_string(out_reader).unwrap(), "out");
}

/// A host that answers the same every time and remembers what it was asked.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Host for Recorder {
    fn realtime(&mut self) -> u64 {
        1_000_000_000_000_000_000
    }

    fn monotonic(&mut self) -> u64 {
        500
    }

    fn resolution(&mut self) -> u64 {
        1000
    }

    fn random(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.lock().unwrap().push(format!("random {}", buffer.len()));
        buffer.fill(7);
        Ok(())
    }

    fn observe(&mut self, observation: Observation<'_>) {
        let path = |origin: Option<&Origin>| origin.map_or("?".to_owned(), |origin| format!("{}:{}", origin.preopen, origin.path));
        self.0.lock().unwrap().push(match observation {
            Observation::Path { directory, path: name } => format!("path {} {name}", path(directory)),
            Observation::Attributes(origin) => format!("attributes {}", path(origin)),
            Observation::Contents { file, offset, len } => format!("contents {} {offset}+{len}", path(file)),
            Observation::Names(origin) => format!("names {}", path(origin)),
            other => format!("{other:?}"),
        });
    }
}

#[test]
fn all_that_comes_from_outside_comes_from_the_host() {
    let tree = Tree::new();
    let recorder = Recorder::default();
    let mut guest = Bare::new(Grants::new());
    guest.context = Context::with_host(Arc::new(tree.grants()), Box::new(recorder.clone()));
    guest.context.set_stdin(Input::Bytes("in".into()));

    guest.call("clock_time_get", &[0, 0, OUT]);
    assert_eq!(guest.u64(OUT), 1_000_000_000_000_000_000);
    guest.call("clock_time_get", &[1, 0, OUT]);
    assert_eq!(guest.u64(OUT), 1);
    guest.context.set_monotonic(77_000);
    guest.call("clock_time_get", &[1, 0, OUT]);
    assert_eq!(guest.u64(OUT), 77_000);
    guest.call("clock_res_get", &[1, OUT]);
    assert_eq!(guest.u64(OUT), 1000);
    assert_eq!(*recorder.0.lock().unwrap(), Vec::<String>::new());

    guest.call("args_sizes_get", &[OUT, OUT + 4]);
    guest.call("environ_get", &[OUT, DATA]);
    guest.call("random_get", &[DATA, 3]);
    assert_eq!(guest.get(DATA, 4), [7, 7, 7, guest.memory()[usize::try_from(DATA).unwrap() + 3]]);
    guest.call("fd_prestat_dir_name", &[3, DATA, 10]);
    guest.read(0, 10).unwrap();
    let sub = guest.open(3, "sub", DIRECTORY, READ).unwrap();
    let file = guest.open(sub, "inner", 0, READ).unwrap();
    guest.read(file, 4).unwrap();
    guest.read(file, 4).unwrap();
    guest.call("fd_filestat_get", &[file, OUT]);
    guest.call("fd_readdir", &[sub, DATA, 100, 0, OUT]);
    assert_eq!(guest.open(3, "missing", 0, READ), Err(Outcome::Errno(44)));
    // The present is the host's, too.
    let [at, len] = guest.path("file");
    guest.call("path_filestat_set_times", &[3, 1, at, len, 0, 0, 10]);
    let modified = std::fs::metadata(tree.path("rw/file")).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap(), Duration::from_secs(1_000_000_000));
    assert_eq!(
        *recorder.0.lock().unwrap(),
        [
            "Arguments",
            "Environment",
            "random 3",
            "Preopen(\"/rw\")",
            "Stdin",
            "path 0: sub",
            "path 0:sub inner",
            "contents 0:sub/inner 0+4",
            "contents 0:sub/inner 4+4",
            "attributes 0:sub/inner",
            "names 0:sub",
            "path 0: missing",
            "path 0: file",
        ]
    );
}

#[test]
fn what_is_open_can_be_listed() {
    let tree = Tree::new();
    let mut guest = Bare::new(tree.grants());
    let describe = |guest: &Bare| -> Vec<(u32, String)> {
        guest
            .context
            .descriptors()
            .map(|(fd, described)| (fd, format!("{described:?}").split([' ', '{']).next().unwrap().to_owned()))
            .collect()
    };
    let names = |names: &[&str]| -> Vec<(u32, String)> { (0..).zip(names.iter().map(|name| (*name).to_owned())).collect() };
    assert_eq!(describe(&guest), names(&["Stdin", "Stdout", "Stderr", "Directory", "Directory"]));
    assert!(guest.context.is_stdin(0) && !guest.context.is_stdin(1) && !guest.context.is_stdin(99));
    let sub = guest.open(4, "sub", DIRECTORY, READ).unwrap();
    let file = guest.open(sub, "deep/../inner", 0, READ).unwrap();
    guest.read(file, 3).unwrap();
    guest.call("fd_fdstat_set_flags", &[file, 5]);
    guest.call("fd_close", &[1]);
    guest.call("fd_renumber", &[0, 2]);
    let open: Vec<_> = guest.context.descriptors().collect();
    let rw = Access { read: true, write: true, follow: true };
    let read = Access { write: false, ..rw };
    let origin = |preopen, path: &str| Origin { preopen, path: path.to_owned() };
    let (root, other) = (origin(0, ""), origin(1, ""));
    let (dir, inner) = (origin(1, "sub"), origin(1, "sub/deep/../inner"));
    assert_eq!(
        open,
        [
            (2, Described::Stdin),
            (3, Described::Directory { origin: Some(&root), access: rw, preopen: true }),
            (4, Described::Directory { origin: Some(&other), access: read, preopen: true }),
            (5, Described::Directory { origin: Some(&dir), access: read, preopen: false }),
            (6, Described::File { origin: Some(&inner), access: read, append: true, nonblock: true, position: 3 }),
        ]
    );
    assert!(guest.context.is_stdin(2) && !guest.context.is_stdin(0));
}

#[test]
fn a_context_can_go_to_another_thread() {
    let mut guest = Bare::new(Grants::new().args(["x"]));
    let guest = std::thread::spawn(move || {
        assert_eq!(guest.call("args_sizes_get", &[OUT, OUT + 4]), Outcome::Errno(0));
        guest
    });
    assert_eq!(guest.join().unwrap().u32(OUT), 1);
}
