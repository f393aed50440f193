//! Waking: what was open is open again, on another host too, or there is a reason why not.

mod common;

use common::*;
use preheat_wasi::{
    Access, Context, Described, FileDigest, Grants, Host, HostState, Input, Interrupt, Origin, Output, Preopen, Recording, Stop, Streams,
    SystemHost, Wake, WakeError,
};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEED: [u8; 32] = [5; 32];
const BEGIN: u64 = 1_700_000_000_000_000_000;

fn recorded(grants: Grants) -> Bare {
    with_host(grants, Box::new(Recording::new(SEED, BEGIN)))
}

fn with_host(grants: Grants, host: Box<dyn Host>) -> Bare {
    let mut guest = Bare::new(Grants::new());
    guest.context = Context::with_host(Arc::new(grants), host);
    guest
}

/// The state of a guest, by way of its bytes.
fn freeze(guest: &Bare) -> Arc<HostState> {
    let state = guest.context.host_state().unwrap();
    let bytes = state.encode();
    let parsed = HostState::parse(&bytes).unwrap();
    assert_eq!(parsed, state);
    assert_eq!(parsed.encode(), bytes);
    Arc::new(parsed)
}

fn wake_with(state: &Arc<HostState>, grants: Grants, streams: Streams) -> Result<Bare, WakeError> {
    let wake = Wake::new(Arc::clone(state), grants)?;
    let mut guest = Bare::new(Grants::new());
    guest.context = Context::wake(&wake, Box::new(SystemHost), streams)?;
    Ok(guest)
}

fn wake(state: &Arc<HostState>, grants: Grants) -> Result<Bare, WakeError> {
    wake_with(state, grants, Streams::default())
}

/// The directories of a tree and nothing else, read-only or not.
fn directories(tree: &Tree, writable: bool) -> Grants {
    Grants::new()
        .preopen(Preopen::open(&tree.path("rw"), "/rw", writable).unwrap())
        .preopen(Preopen::open(&tree.path("ro"), "/ro", false).unwrap())
}

fn described(guest: &Bare) -> Vec<(u32, String)> {
    guest.context.descriptors().map(|(fd, described)| (fd, format!("{described:?}"))).collect()
}

fn clock(guest: &mut Bare, id: u64) -> u64 {
    assert_eq!(guest.call("clock_time_get", &[id, 0, OUT]), Outcome::Errno(0));
    guest.u64(OUT)
}

/// Everything that a table can have, at numbers that are not the usual ones.
#[test]
fn the_table_is_made_again() {
    let (tree, other) = (Tree::new(), Tree::new());
    let mut guest = recorded(tree.grants());
    let sub = guest.open(3, "sub", DIRECTORY, READ).unwrap();
    let inner = guest.open(sub, "inner", 0, READ).unwrap();
    assert_eq!(guest.read(inner, 2).unwrap(), b"in");
    let [at, len] = guest.path("file");
    // For reading and writing, at the end, non-blocking.
    assert_eq!(guest.call("path_open", &[3, 1, at, len, 0, READ | WRITE, 0, 5, OUT]), Outcome::Errno(0));
    let append = u64::from(guest.u32(OUT));
    let link = guest.open(4, "linkdir/../link", 0, READ).unwrap();
    assert_eq!(guest.call("fd_seek", &[link, 100, 0, OUT]), Outcome::Errno(0));
    let extra = [(); 4].map(|()| guest.open(4, "empty", 0, READ).unwrap());
    for fd in [1, extra[3], extra[1]] {
        assert_eq!(guest.call("fd_close", &[fd]), Outcome::Errno(0));
    }
    assert_eq!(guest.call("fd_renumber", &[0, extra[2]]), Outcome::Errno(0));
    assert_eq!(guest.call("fd_renumber", &[4, extra[0]]), Outcome::Errno(0));

    let state = freeze(&guest);
    assert_eq!(state.preopens().collect::<Vec<_>>(), ["/rw", "/ro"]);
    let digests: Vec<_> = state.files().collect();
    let digest = FileDigest::of(b"inner");
    let expected = [("/rw/sub/inner", Some(digest)), ("/rw/file", None), ("/ro/linkdir/../link", None)];
    assert_eq!(digests, expected.map(|(path, digest)| (path.to_owned(), digest)));

    // The other tree's directories are elsewhere, and granted in the other order.
    let grants = Grants::new()
        .preopen(Preopen::open(&other.path("ro"), "/ro", false).unwrap())
        .preopen(Preopen::open(&other.path("rw"), "/rw", true).unwrap());
    let mut woken = wake(&state, grants).unwrap();
    assert_eq!(described(&woken), described(&guest));
    let read_write = Access { read: true, write: true, follow: true };
    let origin = Origin { preopen: 0, path: "file".to_owned() };
    let file = Described::File { origin: Some(&origin), access: read_write, append: true, nonblock: true, position: 0 };
    assert!(woken.context.descriptors().any(|each| each == (u32::try_from(append).unwrap(), file)));
    assert_eq!(woken.read(inner, 100).unwrap(), b"ner");
    assert_eq!(woken.read(link, 100).unwrap(), b"");
    assert_eq!(woken.write(append, b"more\n").unwrap(), 5);
    assert!(holds(&other.path("rw/file"), "hello, world\nmore\n") && holds(&tree.path("rw/file"), "hello, world\n"));
    assert_eq!(woken.open(sub, "deep/deepest", 0, READ), guest.open(sub, "deep/deepest", 0, READ));
    assert_eq!(woken.open(extra[0], "file", 0, WRITE), Err(Outcome::Errno(63)));
    // Freed numbers are used in the same order.
    for _ in 0..6 {
        assert_eq!(woken.open(3, "file", 0, READ).unwrap(), guest.open(3, "file", 0, READ).unwrap());
    }
    // Standard input is where it was moved to.
    woken.context.set_stdin(Input::Bytes("event".into()));
    assert_eq!(woken.read(extra[2], 100).unwrap(), b"event");
    assert_eq!(woken.write(1, b"x").unwrap_err(), Outcome::Errno(8));
}

#[test]
fn a_table_as_at_the_beginning_opens_nothing() {
    let tree = Tree::new();
    let guest = recorded(tree.grants());
    let state = freeze(&guest);
    let mut woken = wake(&state, directories(&tree, false)).unwrap();
    assert_eq!(described(&woken).len(), 5);
    assert_eq!(woken.open(4, "file", 0, READ), Ok(5));
    // What the host grants now is what counts.
    assert_eq!(woken.open(3, "file", 0, WRITE), Err(Outcome::Errno(63)));
    // All descriptors closed is a table of its own.
    let mut guest = recorded(tree.grants());
    for fd in 0..5 {
        guest.call("fd_close", &[fd]);
    }
    let mut woken = wake(&freeze(&guest), directories(&tree, false)).unwrap();
    assert_eq!(described(&woken), []);
    assert_eq!(woken.call("fd_prestat_get", &[3, OUT]), Outcome::Errno(8));
    assert_eq!(woken.read(0, 1), Err(Outcome::Errno(8)));
}

#[test]
fn a_directory_that_was_being_listed_goes_on() {
    let (tree, other) = (Tree::on_disk(), Tree::new());
    for tree in [&tree, &other] {
        for number in 0..50 {
            fs::write(tree.path("ro").join(format!("{}-many", number * 7 % 50)), "").unwrap();
        }
    }
    let names = |guest: &mut Bare, mut cookie: u64, max: usize| {
        let mut names = Vec::new();
        while names.len() < max {
            assert_eq!(guest.call("fd_readdir", &[4, DATA, 300, cookie, OUT]), Outcome::Errno(0));
            let len = guest.u32(OUT) as usize;
            let list = guest.get(DATA, len);
            let mut rest = &list[..];
            while let Some((entry, tail)) = rest.split_at_checked(24) {
                let len = u32::from_le_bytes(entry[16..20].try_into().unwrap()) as usize;
                let Some((name, tail)) = tail.split_at_checked(len) else { break };
                cookie = u64::from_le_bytes(entry[..8].try_into().unwrap());
                names.push(String::from_utf8(name.to_vec()).unwrap());
                rest = tail;
            }
            if len < 300 {
                break;
            }
        }
        (names, cookie)
    };
    let mut guest = recorded(tree.grants());
    let (begun, cookie) = names(&mut guest, 0, 20);
    assert!(begun.len() >= 20 && begun.len() < 50);
    let mut woken = wake(&freeze(&guest), directories(&other, false)).unwrap();
    let (rest, _) = names(&mut woken, cookie, usize::MAX);
    let mut all = [begun, rest].concat();
    assert!(all[2..].is_sorted());
    all.dedup();
    let mut expected: Vec<_> = fs::read_dir(other.path("ro")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    expected.extend([".".to_owned(), "..".to_owned()]);
    expected.sort();
    all.sort();
    assert_eq!(all, expected);
}

#[test]
fn a_file_that_was_read_must_be_the_same() {
    let (tree, other) = (Tree::new(), Tree::new());
    let mut guest = recorded(tree.grants());
    let fd = guest.open(4, "sub/inner", 0, READ).unwrap();
    guest.read(fd, 1).unwrap();
    // One that was only opened, and one that was read and closed, may change: what was read of the latter is in the program's memory.
    guest.open(4, "file", 0, READ).unwrap();
    let closed = guest.open(4, "sub/deep/deepest", 0, READ).unwrap();
    guest.read(closed, 1).unwrap();
    guest.call("fd_close", &[closed]);
    let state = freeze(&guest);
    fs::write(other.path("ro/file"), "anything").unwrap();
    fs::remove_file(other.path("ro/sub/deep/deepest")).unwrap();
    let mut woken = wake(&state, directories(&other, false)).unwrap();
    assert_eq!(woken.read(fd, 100).unwrap(), b"nner");

    fs::write(other.path("ro/sub/inner"), "Inner").unwrap();
    let error = wake(&state, directories(&other, false)).unwrap_err();
    let WakeError::Changed { fd: 5, path, expected, found } = &error else { panic!("{error}") };
    assert_eq!((path.as_str(), *expected, *found), ("/ro/sub/inner", FileDigest::of(b"inner"), FileDigest::of(b"Inner")));
    let text = error.to_string();
    for part in ["descriptor 5", "`/ro/sub/inner`", &expected.to_string(), &found.to_string(), "build the image anew"] {
        assert!(text.contains(part), "{text}");
    }
}

/// Also when the file changes between two wakes of one `Wake`, however fast and whatever its times say.
#[test]
fn a_change_between_two_wakes_is_noticed() {
    let tree = Tree::new();
    let mut guest = recorded(tree.grants());
    let fd = guest.open(4, "sub/inner", 0, READ).unwrap();
    guest.read(fd, 1).unwrap();
    let wake = Wake::new(freeze(&guest), directories(&tree, false)).unwrap();
    let woken = || Context::wake(&wake, Box::new(SystemHost), Streams::default());
    let path = tree.path("ro/sub/inner");
    for round in 0..20 {
        drop(woken().unwrap());
        fs::write(&path, "other").unwrap();
        assert!(matches!(woken(), Err(WakeError::Changed { .. })), "{round}");
        fs::write(&path, "inner").unwrap();
    }
    // Old times do not hide that it is another file.
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let set = |path: &std::path::Path| fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    set(&path);
    // An interrupt that is due ends the hashing, so that it shows whether there was one: only once the file was left alone for a while.
    let hurried =
        || Context::wake(&wake, Box::new(SystemHost), Streams { interrupt: Interrupt::never().at(Instant::now()), ..Streams::default() });
    drop(woken().unwrap());
    assert!(matches!(hurried(), Err(WakeError::Interrupted)));
    std::thread::sleep(Duration::from_millis(3100));
    assert!(matches!(hurried(), Err(WakeError::Interrupted)));
    drop(woken().unwrap());
    drop(hurried().unwrap());
    fs::write(tree.path("ro/sub/new"), "other").unwrap();
    set(&tree.path("ro/sub/new"));
    fs::rename(tree.path("ro/sub/new"), &path).unwrap();
    assert!(matches!(woken(), Err(WakeError::Changed { .. })));
}

#[test]
fn what_is_not_there_refuses_with_its_name() {
    let tree = Tree::new();
    let mut guest = recorded(tree.grants());
    guest.open(3, "sub", DIRECTORY, READ).unwrap();
    guest.open(3, "file", 0, READ | WRITE).unwrap();
    let state = freeze(&guest);
    let error = |grants: Grants| {
        let error = wake(&state, grants).unwrap_err();
        (error.to_string(), error)
    };
    let (text, found) = error(Grants::new().preopen(Preopen::open(&tree.path("ro"), "/ro", false).unwrap()));
    assert!(matches!(&found, WakeError::DirectoryMissing { name } if name == "/rw"), "{text}");
    assert!(text.contains("`/rw`") && text.contains("grant"), "{text}");
    let (text, found) = error(tree_and(&tree, "/more"));
    assert!(matches!(&found, WakeError::DirectoryUnknown { name } if name == "/more"), "{text}");
    let (text, found) = error(directories(&tree, true).wake_directory());
    assert!(matches!(found, WakeError::NoWakeDirectory) && text.contains("--wake-dir"), "{text}");
    let (text, found) = error(directories(&tree, false));
    assert!(matches!(&found, WakeError::ReadOnly { fd: 6, path } if path == "/rw/file"), "{text}");
    assert!(text.contains("writable"), "{text}");

    let other = Tree::new();
    fs::remove_file(other.path("rw/file")).unwrap();
    let (text, found) = error(directories(&other, true));
    assert!(matches!(&found, WakeError::Open { fd: 6, path, .. } if path == "/rw/file"), "{text}");
    fs::create_dir(other.path("rw/file")).unwrap();
    assert!(matches!(error(directories(&other, true)).1, WakeError::Open { fd: 6, .. }));
    fs::remove_dir_all(other.path("rw/sub")).unwrap();
    let (text, found) = error(directories(&other, true));
    assert!(matches!(&found, WakeError::Open { fd: 5, path, .. } if path == "/rw/sub"), "{text}");
    fs::write(other.path("rw/sub"), "").unwrap();
    assert!(matches!(error(directories(&other, true)).1, WakeError::Open { fd: 5, .. }));
    // A device in a file's place: nothing is read from it.
    fs::remove_dir(other.path("rw/file")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, other.path("rw/file"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    fs::remove_file(other.path("rw/sub")).unwrap();
    fs::create_dir(other.path("rw/sub")).unwrap();
    assert!(matches!(error(directories(&other, true)).1, WakeError::Open { fd: 6, .. }));
}

fn tree_and(tree: &Tree, name: &str) -> Grants {
    directories(tree, true).preopen(Preopen::open(&tree.path("ro"), name, false).unwrap())
}

/// Nothing that a state says leads out of what is granted.
#[test]
fn a_hostile_state_opens_nothing_outside() {
    let tree = Tree::new();
    let mut guest = recorded(tree.grants());
    guest.open(3, "placeholder-for-a-path", CREAT, READ).unwrap();
    let mut guest = recorded(tree.grants());
    guest.open(3, "placeholder-for-a-path", 0, READ).unwrap();
    let text = String::from_utf8(guest.context.host_state().unwrap().encode()).unwrap();
    assert_eq!(text.matches("placeholder-for-a-path").count(), 1);
    for path in ["../outside/secret", "/etc/passwd", "out", "outdir/secret", "sub/up/../outside/secret", "abs", "proc/etc/passwd", ""] {
        for preopen in [0, 1] {
            let hostile = text.replace("placeholder-for-a-path", path);
            let hostile = hostile.replace(r#""kind":"file","preopen":0"#, &format!(r#""kind":"file","preopen":{preopen}"#));
            let state = Arc::new(HostState::parse(hostile.as_bytes()).unwrap());
            let error = wake(&state, directories(&tree, true)).unwrap_err();
            assert!(matches!(error, WakeError::Open { fd: 5, .. }), "{path}: {error}");
            let directory = hostile.replace(r#","append":false,"nonblock":false,"position":0,"digest":null"#, "");
            let directory = directory.replace(r#""kind":"file""#, r#""kind":"directory""#);
            let state = Arc::new(HostState::parse(directory.as_bytes()).unwrap());
            let woken = wake(&state, directories(&tree, true));
            // The empty path is the granted directory itself.
            assert!(path.is_empty() && woken.is_ok() || matches!(woken, Err(WakeError::Open { fd: 5, .. })), "{path}");
        }
    }
}

#[test]
fn arguments_and_early_variables_are_those_of_the_build() {
    let grants = || Grants::new().args(["program", "one"]).env("HOME", "/rw").env("EMPTY", "");
    let mut guest = recorded(grants().late_env("KEY"));
    assert_eq!(guest.call("environ_sizes_get", &[OUT, OUT + 4]), Outcome::Errno(0));
    let state = freeze(&guest);
    for same in [Grants::new(), grants(), Grants::new().env("HOME", "/rw"), grants().late_env("KEY")] {
        let mut woken = wake(&state, same).unwrap();
        assert_eq!(woken.call("args_get", &[OUT, DATA]), Outcome::Errno(0));
        assert_eq!(woken.get(DATA, 13), b"program\0one\0\0");
        assert_eq!(woken.call("environ_get", &[OUT, DATA]), Outcome::Errno(0));
        assert_eq!(woken.get(DATA, 17), b"HOME=/rw\0EMPTY=\0\0");
    }
    let error = |grants| wake(&state, grants).unwrap_err();
    let found = error(Grants::new().args(["program", "two"]));
    assert!(matches!(found, WakeError::Arguments { .. }));
    let text = found.to_string();
    assert!(text.contains(r#"["program", "one"]"#) && text.contains(r#"["program", "two"]"#), "{text}");
    let found = error(Grants::new().env("HOME", "secret"));
    assert!(matches!(&found, WakeError::Variable { name, known: true } if name == "HOME"));
    let text = found.to_string();
    assert!(text.contains("another value") && text.contains("--late-env HOME") && !text.contains("secret"), "{text}");
    let found = error(Grants::new().env("NEW", "secret"));
    assert!(matches!(&found, WakeError::Variable { name, known: false } if name == "NEW"));
    let text = found.to_string();
    assert!(text.contains("without") && text.contains("--late-env NEW") && !text.contains("secret"), "{text}");
}

#[test]
fn early_output_comes_first_each_time() {
    let mut guest = recorded(Grants::new());
    guest.write(1, b"out 1\n").unwrap();
    guest.write(2, b"err\n").unwrap();
    guest.write(1, b"out 2\n").unwrap();
    let state = freeze(&guest);
    for _ in 0..2 {
        let ((stdout, out), (stderr, err)) = (Output::buffer(100), Output::buffer(100));
        let mut woken = wake_with(&state, Grants::new(), Streams { stdout, stderr, ..Streams::default() }).unwrap();
        assert_eq!((out.contents(), err.contents()), (b"out 1\nout 2\n".to_vec(), b"err\n".to_vec()));
        // It is not what the woken program wrote.
        assert_eq!(woken.context.counters().output_bytes, 0);
        woken.write(1, b"late\n").unwrap();
        assert_eq!(out.contents(), b"out 1\nout 2\nlate\n");
    }
    // In order, where both streams are one file.
    let file = tempfile::tempfile().unwrap();
    let stream = || Output::open(file.try_clone().unwrap());
    wake_with(&state, Grants::new(), Streams { stdout: stream(), stderr: stream(), ..Streams::default() }).unwrap();
    let mut all = String::new();
    std::io::Seek::rewind(&mut &file).unwrap();
    std::io::Read::read_to_string(&mut &file, &mut all).unwrap();
    assert_eq!(all, "out 1\nerr\nout 2\n");
    // Streams that do not take it, or not in time.
    let (stdout, out) = Output::buffer(3);
    let error = wake_with(&state, Grants::new(), Streams { stdout, ..Streams::default() }).unwrap_err();
    assert!(matches!(error, WakeError::Output(_)), "{error}");
    assert_eq!(out.contents(), b"out");
    let (_reader, writer) = std::io::pipe().unwrap();
    let interrupt = Interrupt::never().at(Instant::now());
    let error = wake_with(&state, Grants::new(), Streams { stdout: Output::open(writer), interrupt, ..Streams::default() }).unwrap_err();
    assert!(matches!(error, WakeError::Interrupted), "{error}");
}

#[test]
fn the_monotonic_clock_goes_on_and_realtime_is_the_hosts() {
    const HOUR: u64 = 3_600_000_000_000;
    // A clock that is far behind the builder's.
    struct Behind;
    impl Host for Behind {
        fn realtime(&mut self) -> u64 {
            1_000
        }
        fn monotonic(&mut self) -> u64 {
            7
        }
        fn resolution(&mut self) -> u64 {
            1
        }
        fn random(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
            buffer.fill(0);
            Ok(())
        }
    }
    fn subscription(id: u32, timeout: u64) -> Vec<u8> {
        let parts = [0x11, 0, u64::from(id), timeout, 0, 1];
        parts.into_iter().flat_map(u64::to_le_bytes).collect()
    }
    let mut guest = recorded(Grants::new());
    // An hour passes before the freeze.
    guest.put(DATA, &subscription(1, HOUR));
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x1000, 1, OUT]), Outcome::Errno(0));
    let last = clock(&mut guest, 1);
    let state = freeze(&guest);
    assert!(state.monotonic() >= last && last > HOUR);
    let wake = Wake::new(state, Grants::new()).unwrap();
    let mut guest = Bare::new(Grants::new());
    for host in [Box::new(Behind) as Box<dyn Host>, Box::new(SystemHost)] {
        guest.context = Context::wake(&wake, host, Streams::default()).unwrap();
        let now = clock(&mut guest, 1);
        assert!((last..last + HOUR).contains(&now), "{now}");
        // What was due before the freeze is due at once, though nobody waited.
        guest.context.set_interrupt(Interrupt::never().at(Instant::now() + Duration::from_secs(600)));
        for deadline in [1, HOUR, now] {
            guest.put(DATA, &subscription(1, deadline));
            assert_eq!(guest.run("poll_oneoff", &[DATA, DATA + 0x1000, 1, OUT]), Ok(0));
            assert_eq!(guest.u32(OUT), 1);
        }
        // What is due in an hour is not.
        guest.context.set_interrupt(Interrupt::never().at(Instant::now() + Duration::from_millis(20)));
        guest.put(DATA, &subscription(1, now + HOUR));
        assert_eq!(guest.run("poll_oneoff", &[DATA, DATA + 0x1000, 1, OUT]), Err(Stop::Interrupted));
    }
    guest.context = Context::wake(&wake, Box::new(Behind), Streams::default()).unwrap();
    assert_eq!(clock(&mut guest, 0), 1_000);
    guest.context = Context::wake(&wake, Box::new(SystemHost), Streams::default()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let since = Duration::from_nanos(clock(&mut guest, 0)).saturating_sub(now);
    assert!(since < Duration::from_secs(60), "{since:?}");
}

/// A base image's program is woken, given the source of a handler, and frozen once more where it wants the next input.
#[test]
fn a_woken_program_is_frozen_once_more() {
    let tree = Tree::new();
    let mut guest = recorded(tree.grants().late_env("KEY"));
    guest.context.set_freeze(true);
    let fd = guest.open(4, "file", 0, READ).unwrap();
    guest.read(fd, 5).unwrap();
    guest.write(1, b"base\n").unwrap();
    let [iovs, count] = guest.iovs(&[(DATA, 100)]);
    let read = [0, iovs, count, OUT];
    assert_eq!(guest.run("fd_read", &read), Err(Stop::Freeze));
    let [at, len] = guest.path("empty");
    assert_eq!(guest.call("path_filestat_get", &[3, 1, at, len, DATA]), Outcome::Errno(0));
    let (base_number, base_clock) = (guest.u64(DATA + 8), clock(&mut guest, 1));
    let base = freeze(&guest);
    let base_record = {
        let recording = Recording::new(SEED, BEGIN);
        let mut again = with_host(tree.grants().late_env("KEY"), Box::new(recording.clone()));
        let fd = again.open(4, "file", 0, READ).unwrap();
        again.read(fd, 5).unwrap();
        recording.record()
    };

    let twice = |seed| {
        let recording = Recording::new(seed, BEGIN).upon(base_record.clone());
        let wake = Wake::new(Arc::clone(&base), directories(&tree, false)).unwrap();
        let mut guest = Bare::new(Grants::new());
        let streams = Streams { stdin: Input::Bytes("handler".into()), ..Streams::default() };
        guest.context = Context::wake(&wake, Box::new(recording.clone()), streams).unwrap();
        guest.context.set_freeze(true);
        // The same call as that in which it was frozen.
        let [iovs, count] = guest.iovs(&[(DATA, 100)]);
        assert_eq!(guest.run("fd_read", &[0, iovs, count, OUT]), Ok(0));
        assert_eq!(guest.get(DATA, 7), b"handler");
        let now = clock(&mut guest, 1);
        assert!(now > base_clock && clock(&mut guest, 0) > BEGIN);
        // Files keep apart, before and after.
        let [at, len] = guest.path("sub/inner");
        assert_eq!(guest.call("path_filestat_get", &[3, 1, at, len, DATA]), Outcome::Errno(0));
        assert!(guest.u64(DATA + 8) > base_number);
        let inner = guest.open(4, "sub/inner", 0, READ).unwrap();
        guest.read(inner, 2).unwrap();
        guest.write(1, b"layer\n").unwrap();
        guest.call("random_get", &[DATA, 8]);
        assert_eq!(guest.run("fd_read", &[0, iovs, count, OUT]), Err(Stop::Freeze));
        (freeze(&guest), recording.record(), guest.get(DATA, 8))
    };
    // What must not be in an image is not given to a program of which one is made.
    let late = Wake::new(Arc::clone(&base), directories(&tree, false).env("KEY", "secret")).unwrap();
    let error = Context::wake(&late, Box::new(Recording::new(SEED, BEGIN)), Streams::default()).unwrap_err();
    assert!(matches!(error, WakeError::LateVariables), "{error}");
    let (state, record, random) = twice([9; 32]);
    assert_eq!((state.encode(), record.clone(), random.clone()), {
        let (state, record, random) = twice([9; 32]);
        (state.encode(), record, random)
    });
    assert_ne!(twice([10; 32]).2, random);
    // All of both.
    assert_eq!(record.files.iter().map(|file| file.guest_path()).collect::<Vec<_>>(), ["/ro/file", "/ro/sub/inner"]);
    assert_eq!(record.random_bytes, 8);
    assert_eq!(state.late(), ["KEY"]);
    assert!(state.monotonic() > base.monotonic());
    let (stdout, out) = Output::buffer(100);
    let mut woken = wake_with(&state, directories(&tree, false), Streams { stdout, ..Streams::default() }).unwrap();
    assert_eq!(out.contents(), b"base\nlayer\n");
    assert_eq!(woken.read(fd, 100).unwrap(), b", world\n");
    assert_eq!(woken.read(fd + 1, 100).unwrap(), b"ner");
}

/// One `Wake` serves many threads.
#[test]
fn contexts_are_woken_on_many_threads() {
    let tree = Tree::new();
    let mut guest = recorded(tree.grants());
    let fd = guest.open(4, "file", 0, READ).unwrap();
    guest.read(fd, 7).unwrap();
    let wake = Wake::new(freeze(&guest), directories(&tree, false)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut guest = Bare::new(Grants::new());
                    guest.context = Context::wake(&wake, Box::new(SystemHost), Streams::default()).unwrap();
                    assert_eq!(guest.read(fd, 100).unwrap(), b"world\n");
                }
            });
        }
    });
}

/// A directory that is granted twice under one name is two.
#[test]
fn names_that_are_there_twice_are_matched_in_order() {
    let tree = Tree::new();
    let grants = || {
        let preopen = |root| Preopen::open(&tree.path(root), "/same", false).unwrap();
        Grants::new().preopen(preopen("ro/sub")).preopen(preopen("ro/void"))
    };
    let guest = recorded(grants());
    let mut woken = wake(&freeze(&guest), grants()).unwrap();
    assert!(woken.open(3, "inner", 0, READ).is_ok() && woken.open(4, "inner", 0, READ).is_err());
    let one = Grants::new().preopen(Preopen::open(&tree.path("ro"), "/same", false).unwrap());
    let guest = recorded(grants());
    assert!(matches!(wake(&freeze(&guest), one), Err(WakeError::DirectoryMissing { .. })));
}
