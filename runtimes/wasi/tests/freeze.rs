//! The run up to the freeze: where it stops, what is recorded, that it is the same each time, what can't be frozen.

mod common;

use common::*;
use preheat_wasi::{
    Cause, Context, EarlyOutput, FileDigest, FreezeRefusal, Grants, HostState, Input, OutputStream, Preopen, Recording, Stop,
};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

const SEED: [u8; 32] = [5; 32];
const BEGIN: u64 = 1_700_000_000_000_000_000;

/// A guest that is recorded and stops where it wants input.
fn recorded(grants: Grants) -> (Bare, Recording) {
    seeded(grants, SEED)
}

fn seeded(grants: Grants, seed: [u8; 32]) -> (Bare, Recording) {
    let recording = Recording::new(seed, BEGIN);
    let mut guest = Bare::new(Grants::new());
    guest.context = Context::with_host(Arc::new(grants), Box::new(recording.clone()));
    guest.context.set_freeze(true);
    (guest, recording)
}

fn subscription(kind: u8, fd_or_id: u32, timeout: u64, absolute: bool) -> Vec<u8> {
    let mut bytes = [0x11_u64.to_le_bytes(), u64::from(kind).to_le_bytes(), u64::from(fd_or_id).to_le_bytes()].concat();
    bytes.extend(timeout.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(u64::from(absolute).to_le_bytes());
    assert_eq!(bytes.len(), 48);
    bytes
}

fn clock(guest: &mut Bare, id: u64) -> u64 {
    assert_eq!(guest.call("clock_time_get", &[id, 0, OUT]), Outcome::Errno(0));
    guest.u64(OUT)
}

fn refusal(guest: &Bare) -> (Option<u32>, Option<String>, Cause) {
    let FreezeRefusal { fd, path, cause } = guest.context.host_state().unwrap_err();
    (fd, path, cause)
}

#[test]
fn the_first_read_of_standard_input_stops_and_does_nothing() {
    let (mut guest, _) = recorded(Grants::new());
    let [iovs, count] = guest.iovs(&[(DATA, 100)]);
    let before = guest.memory().to_vec();
    let args = [0, iovs, count, OUT];
    assert_eq!(guest.run("fd_read", &args), Err(Stop::Freeze));
    assert_eq!(guest.run("fd_read", &args), Err(Stop::Freeze));
    assert!(guest.memory() == before);
    // The same call goes on once there is input, and then stops again.
    guest.context.set_stdin(Input::Bytes("event".into()));
    assert_eq!(guest.run("fd_read", &args), Ok(0));
    assert_eq!((guest.u32(OUT), guest.get(DATA, 5)), (5, b"event".to_vec()));
    assert_eq!(guest.run("fd_read", &args), Err(Stop::Freeze));
    // Unless nobody asks for it.
    guest.context.set_freeze(false);
    assert_eq!(guest.run("fd_read", &args), Ok(0));
    assert_eq!(guest.u32(OUT), 0);
}

#[test]
fn open_input_stops_too_and_nothing_is_taken_from_it() {
    let (mut guest, _) = recorded(Grants::new());
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"event").unwrap();
    guest.context.set_stdin(Input::open(reader));
    let [iovs, count] = guest.iovs(&[(DATA, 100)]);
    assert_eq!(guest.run("fd_read", &[0, iovs, count, OUT]), Err(Stop::Freeze));
    guest.context.set_freeze(false);
    assert_eq!(guest.read(0, 100).unwrap(), b"event");
}

#[test]
fn a_poll_for_standard_input_stops_before_it_reads_a_clock() {
    let (mut guest, recording) = recorded(Grants::new());
    let subscriptions = [subscription(0, 1, 5, true), subscription(2, 1, 0, false), subscription(1, 0, 0, false)].concat();
    guest.put(DATA, &subscriptions);
    assert_eq!(guest.run("poll_oneoff", &[DATA, DATA + 0x1000, 3, OUT]), Err(Stop::Freeze));
    assert_eq!(recording.record().clocks, preheat_wasi::ClockReads::default());
    assert!(guest.get(DATA + 0x1000, 96) == [0; 96]);
    // Without it, and for the others only, it does not.
    assert_eq!(guest.run("poll_oneoff", &[DATA, DATA + 0x1000, 2, OUT]), Ok(0));
    // With input that is there, the poll says so.
    guest.context.set_stdin(Input::Bytes("event".into()));
    assert_eq!(guest.run("poll_oneoff", &[DATA, DATA + 0x1000, 3, OUT]), Ok(0));
}

#[test]
fn what_does_not_read_standard_input_does_not_stop() {
    let (mut guest, _) = recorded(Grants::new());
    let [iovs, count] = guest.iovs(&[(DATA, 100)]);
    assert_eq!(guest.run("fd_pread", &[0, iovs, count, 0, OUT]), Ok(70));
    assert_eq!(guest.run("fd_fdstat_get", &[0, OUT]), Ok(0));
    assert_eq!(guest.run("fd_filestat_get", &[0, DATA]), Ok(0));
    assert_eq!(guest.run("fd_seek", &[0, 0, 0, OUT]), Ok(70));
    // Wherever it is, it is standard input.
    assert_eq!(guest.run("fd_renumber", &[0, 2]), Ok(0));
    assert_eq!(guest.run("fd_read", &[2, iovs, count, OUT]), Err(Stop::Freeze));
    assert_eq!(guest.run("fd_read", &[0, iovs, count, OUT]), Ok(8));
    // Who closes it never reads it: such a program runs to its end.
    assert_eq!(guest.run("fd_close", &[2]), Ok(0));
    assert_eq!(guest.run("fd_read", &[2, iovs, count, OUT]), Ok(8));
    guest.put(DATA, &subscription(1, 2, 0, false));
    assert_eq!(guest.run("poll_oneoff", &[DATA, DATA + 0x1000, 1, OUT]), Ok(8));
}

#[test]
fn time_is_what_the_guest_makes_of_it() {
    let (mut guest, recording) = recorded(Grants::new());
    // The monotonic clock begins at 1; each reading of either clock is a step for both.
    assert_eq!(clock(&mut guest, 1), 1);
    assert_eq!(clock(&mut guest, 1), 1 + Recording::CLOCK_STEP);
    assert_eq!(clock(&mut guest, 0), BEGIN + 2 * Recording::CLOCK_STEP);
    assert_eq!(clock(&mut guest, 1), 1 + 3 * Recording::CLOCK_STEP);
    guest.call("clock_res_get", &[0, OUT]);
    assert_eq!(guest.u64(OUT), Recording::CLOCK_RESOLUTION);
    // A day is over at once, and a deadline that is over as well.
    const DAY: u64 = 86_400_000_000_000;
    guest.put(DATA, &[subscription(0, 1, 2 * DAY, false), subscription(0, 0, DAY, false)].concat());
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x1000, 2, OUT]), Outcome::Errno(0));
    assert_eq!(guest.u32(OUT), 1);
    assert_eq!(clock(&mut guest, 1), 1 + 4 * Recording::CLOCK_STEP + DAY);
    guest.put(DATA, &subscription(0, 1, 3 * DAY, true));
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x1000, 1, OUT]), Outcome::Errno(0));
    assert_eq!(guest.u32(OUT), 1);
    let now = clock(&mut guest, 1);
    assert!((3 * DAY..3 * DAY + 10 * Recording::CLOCK_STEP).contains(&now), "{now}");
    // What is over already takes no time.
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x1000, 1, OUT]), Outcome::Errno(0));
    assert!(clock(&mut guest, 1) - now <= 4 * Recording::CLOCK_STEP);
    let clocks = recording.record().clocks;
    assert_eq!((clocks.realtime, clocks.resolution, clocks.sleeps), (1, 1, 3));
    // Looking at the state is no reading.
    let state = guest.context.host_state().unwrap();
    assert_eq!(guest.context.host_state().unwrap(), state);
    assert_eq!(clock(&mut guest, 1), state.monotonic());
}

#[test]
fn seeds_make_random_numbers() {
    let bytes = |seed, lens: &[u64]| {
        let (mut guest, recording) = seeded(Grants::new(), seed);
        let mut at = DATA;
        for len in lens {
            assert_eq!(guest.call("random_get", &[at, *len]), Outcome::Errno(0));
            at += len;
        }
        assert_eq!(recording.record().random_bytes, lens.iter().sum::<u64>());
        guest.get(DATA, usize::try_from(at - DATA).unwrap())
    };
    let all = bytes(SEED, &[1000]);
    // A stream of bytes, however it is cut.
    assert_eq!(bytes(SEED, &[1, 31, 32, 33, 0, 903]), all);
    assert_ne!(bytes([6; 32], &[1000]), all);
    // Not the same block again and again.
    assert!(all.chunks_exact(32).all(|block| all.windows(32).filter(|window| *window == block).count() == 1));
}

/// A program that looks at everything, and stops.
fn curious(guest: &mut Bare) {
    for (name, args) in [
        ("args_sizes_get", &[OUT, OUT + 4][..]),
        ("args_get", &[OUT, DATA]),
        ("environ_sizes_get", &[OUT, OUT + 4]),
        ("environ_get", &[OUT + 0x100, DATA + 0x100]),
        ("fd_prestat_dir_name", &[3, DATA + 0x200, 10]),
        ("random_get", &[DATA + 0x300, 40]),
        ("clock_time_get", &[0, 0, DATA + 0x400]),
        ("fd_readdir", &[3, DATA + 0x1000, 0x1000, 0, OUT]),
        ("fd_filestat_get", &[3, DATA + 0x500]),
    ] {
        assert_eq!(guest.call(name, args), Outcome::Errno(0), "{name}");
    }
    let sub = guest.open(3, "sub", DIRECTORY, READ).unwrap();
    let inner = guest.open(sub, "inner", 0, READ).unwrap();
    let [iovs, count] = guest.iovs(&[(DATA + 0x600, 3)]);
    assert_eq!(guest.call("fd_pread", &[inner, iovs, count, 1, OUT]), Outcome::Errno(0));
    assert_eq!(guest.call("fd_filestat_get", &[inner, DATA + 0x700]), Outcome::Errno(0));
    assert_eq!(guest.call("fd_close", &[inner]), Outcome::Errno(0));
    let file = guest.open(4, "link", 0, READ).unwrap();
    let [iovs, count] = guest.iovs(&[(DATA + 0x680, 5)]);
    assert_eq!(guest.call("fd_read", &[file, iovs, count, OUT]), Outcome::Errno(0));
    guest.open(4, "empty", 0, READ).unwrap();
    assert_eq!(guest.open(3, "missing", 0, READ), Err(Outcome::Errno(44)));
    let [at, len] = guest.path("sub/deep/deepest");
    assert_eq!(guest.call("path_filestat_get", &[3, 1, at, len, DATA + 0x800]), Outcome::Errno(0));
    assert_eq!(guest.call("fd_write", &[1, iovs, count, OUT]), Outcome::Errno(0));
    assert_eq!(guest.call("fd_write", &[1, iovs, count, OUT]), Outcome::Errno(0));
    assert_eq!(guest.call("fd_write", &[2, iovs, count, OUT]), Outcome::Errno(0));
    assert_eq!(guest.call("fd_write", &[1, iovs, count, OUT]), Outcome::Errno(0));
    assert_eq!(guest.run("fd_read", &[0, iovs, count, OUT]), Err(Stop::Freeze));
}

#[test]
fn what_was_learned_is_recorded() {
    let tree = Tree::new();
    let (mut guest, recording) = recorded(tree.grants());
    assert!(!recording.record().arguments && recording.record().environment.is_none());
    curious(&mut guest);
    let record = recording.record();
    assert!(record.arguments);
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(record.environment, Some(set(&["HOME", "EMPTY", "Z"])));
    assert_eq!((record.clocks.realtime, record.clocks.monotonic), (1, 0));
    assert_eq!(record.random_bytes, 40);
    assert_eq!(record.preopens, set(&["/rw"]));
    assert_eq!(record.listed, set(&["/rw"]));
    let looked_at = ["/rw", "/rw/sub", "/rw/sub/inner", "/rw/missing", "/rw/sub/deep/deepest", "/ro/link", "/ro/empty"];
    assert_eq!(record.looked_at, set(&looked_at));
    let files: Vec<_> = record.files.iter().map(|file| (file.guest_path(), file.digest, file.size)).collect();
    assert_eq!(
        files,
        [("/ro/link".to_owned(), FileDigest::of(b"hello, world\n"), 13), ("/rw/sub/inner".to_owned(), FileDigest::of(b"inner"), 5)]
    );
    assert_eq!(preheat_wasi::Record::parse(&record.encode()).unwrap(), record);
    // Output in order, one piece where one follows the other on the same stream.
    let output = |stream, bytes: &str| EarlyOutput { stream, bytes: bytes.into() };
    let expected =
        [output(OutputStream::Stdout, "hellohello"), output(OutputStream::Stderr, "hello"), output(OutputStream::Stdout, "hello")];
    assert_eq!(recording.output(), expected);
    let state = guest.context.host_state().unwrap();
    assert_eq!(state.output(), expected);
    // The files are what they were.
    record.check_files(&tree.grants()).unwrap();
    fs::write(tree.path("ro/file"), "hello, World\n").unwrap();
    let stale = record.check_files(&tree.grants()).unwrap_err().to_string();
    assert!(stale.contains("`/ro/link`") && stale.contains(&FileDigest::of(b"hello, World\n").to_string()), "{stale}");
    fs::remove_file(tree.path("ro/file")).unwrap();
    let stale = record.check_files(&tree.grants()).unwrap_err().to_string();
    assert!(stale.contains("`/ro/link`") && stale.contains("can't be read"), "{stale}");
    let stale = record.check_files(&Grants::new()).unwrap_err().to_string();
    assert!(stale.contains("`/ro/link`") && stale.contains("not granted"), "{stale}");
}

#[test]
fn a_guest_that_looks_at_nothing_has_an_empty_record() {
    let tree = Tree::new();
    let (mut guest, recording) = recorded(tree.grants().wake_directory());
    let [iovs, count] = guest.iovs(&[(DATA, 10)]);
    assert_eq!(guest.run("fd_read", &[0, iovs, count, OUT]), Err(Stop::Freeze));
    guest.context.host_state().unwrap();
    assert_eq!(recording.record(), preheat_wasi::Record::default());
}

/// Two copies of a tree, made in different orders and at different times: other inodes, times, orders of names, sizes of directories.
#[test]
fn two_recordings_are_equal_byte_for_byte() {
    let run = |tree: &Tree, seed| {
        let (mut guest, recording) = seeded(tree.grants(), seed);
        curious(&mut guest);
        let state = guest.context.host_state().unwrap().encode();
        (state, recording.record().encode(), guest.memory().to_vec())
    };
    let (first, second) = (Tree::on_disk(), Tree::new());
    for root in ["rw", "ro"] {
        // Made and removed: the same names in another order, and a larger directory.
        for number in 0..200 {
            fs::write(second.path(root).join(format!("{number}-filler-to-make-the-directory-longer")), "").unwrap();
        }
        fs::remove_file(second.path(root).join("file")).unwrap();
        fs::write(second.path(root).join("file"), "hello, world\n").unwrap();
        for number in 0..200 {
            fs::remove_file(second.path(root).join(format!("{number}-filler-to-make-the-directory-longer"))).unwrap();
        }
        fs::hard_link(second.path(root).join("sub/inner"), second.path("outside").join(root)).unwrap();
    }
    let (state, record, memory) = run(&first, SEED);
    for (tree, what) in [(&first, "again"), (&second, "elsewhere")] {
        let other = run(tree, SEED);
        assert!(other.0 == state && other.1 == record, "{what}: {}", String::from_utf8_lossy(&other.0));
        let differs = other.2.iter().zip(&memory).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}: memory at {differs:x?}");
    }
    // Another seed is another memory, and the same state of the host.
    let other = run(&first, [6; 32]);
    assert!(other.2 != memory && other.0 == state && other.1 == record);
}

/// The numbers of files are the same by whatever way the guest finds them, and differ where the files do.
#[test]
fn files_keep_their_identity_in_a_recording() {
    let tree = Tree::new();
    let (mut guest, _) = recorded(tree.grants());
    let mut number = |path: &str| {
        let [at, len] = guest.path(path);
        assert_eq!(guest.call("path_filestat_get", &[3, 1, at, len, DATA]), Outcome::Errno(0), "{path}");
        guest.u64(DATA + 8)
    };
    let file = number("file");
    assert_eq!([number("link"), number("chain"), number("sub/up/file"), number("file")], [file; 4]);
    assert_ne!(number("empty"), file);
    assert_eq!(number("sub/up"), number("."));
    // A list has them too.
    assert_eq!(guest.call("fd_readdir", &[3, DATA, 0x2000, 0, OUT]), Outcome::Errno(0));
    let len = guest.u32(OUT) as usize;
    let list = guest.get(DATA, len);
    let mut names = Vec::new();
    let mut rest = &list[..];
    while let Some((entry, tail)) = rest.split_at_checked(24) {
        let len = u32::from_le_bytes(entry[16..20].try_into().unwrap()) as usize;
        let name = String::from_utf8(tail[..len].to_vec()).unwrap();
        if name == "file" {
            assert_eq!(u64::from_le_bytes(entry[8..16].try_into().unwrap()), file);
        }
        names.push(name);
        rest = &tail[len..];
    }
    assert!(names.starts_with(&[".".to_owned(), "..".to_owned()]) && names[2..].is_sorted() && names.len() > 10, "{names:?}");
}

#[test]
fn a_context_that_nobody_records_is_refused() {
    let guest = Bare::new(Grants::new());
    assert_eq!(refusal(&guest), (None, None, Cause::NotRecorded));
}

/// Whatever changes the file system, with the path by which the guest did it.
#[test]
fn changes_are_refused() {
    type Change = fn(&mut Bare);
    fn errno(guest: &mut Bare, name: &str, args: &[u64]) {
        assert_eq!(guest.call(name, args), Outcome::Errno(0), "{name}");
    }
    let changes: [(&str, Option<u32>, Change); 14] = [
        ("/rw/new", None, |guest| {
            // Also one that was closed since.
            let fd = guest.open(3, "new", CREAT, WRITE).unwrap();
            errno(guest, "fd_close", &[fd]);
        }),
        ("/rw/sub/new", None, |guest| {
            let sub = guest.open(3, "sub", DIRECTORY, READ).unwrap();
            guest.open(sub, "new", CREAT | EXCL, WRITE).unwrap();
        }),
        ("/rw/dangling", None, |guest| assert_eq!(guest.open(3, "dangling", CREAT, WRITE), Ok(5))),
        ("/rw/file", None, |guest| assert_eq!(guest.open(3, "file", TRUNC, WRITE), Ok(5))),
        ("/rw/file", Some(5), |guest| {
            let fd = guest.open(3, "file", 0, WRITE).unwrap();
            guest.write(fd, b"x").unwrap();
        }),
        ("/rw/file", Some(5), |guest| {
            let fd = guest.open(3, "file", 0, WRITE).unwrap();
            let [iovs, count] = guest.iovs(&[(DATA, 1)]);
            errno(guest, "fd_pwrite", &[fd, iovs, count, 3, OUT]);
        }),
        ("/rw/file", Some(5), |guest| {
            let fd = guest.open(3, "file", 0, WRITE).unwrap();
            errno(guest, "fd_filestat_set_size", &[fd, 3]);
        }),
        ("/rw/file", Some(5), |guest| {
            let fd = guest.open(3, "file", 0, WRITE).unwrap();
            errno(guest, "fd_filestat_set_times", &[fd, 0, 0, 10]);
        }),
        ("/rw/made", None, |guest| assert_eq!(guest.at("path_create_directory", 3, "made"), Outcome::Errno(0))),
        ("/rw/void", None, |guest| assert_eq!(guest.at("path_remove_directory", 3, "void"), Outcome::Errno(0))),
        ("/rw/empty", None, |guest| assert_eq!(guest.at("path_unlink_file", 3, "empty"), Outcome::Errno(0))),
        ("/rw/file", None, |guest| {
            let ([old, old_len], [new, new_len]) = (guest.path("file"), guest.path2("moved"));
            errno(guest, "path_rename", &[3, old, old_len, 3, new, new_len]);
        }),
        ("/rw/hard", None, |guest| {
            let ([old, old_len], [new, new_len]) = (guest.path("file"), guest.path2("hard"));
            errno(guest, "path_link", &[3, 0, old, old_len, 3, new, new_len]);
        }),
        ("/rw/soft", None, |guest| {
            let ([old, old_len], [new, new_len]) = (guest.path("file"), guest.path2("soft"));
            errno(guest, "path_symlink", &[old, old_len, 3, new, new_len]);
        }),
    ];
    for (index, (path, fd, change)) in changes.into_iter().enumerate() {
        let tree = Tree::new();
        let (mut guest, _) = recorded(tree.grants());
        guest.context.host_state().unwrap();
        change(&mut guest);
        let found = refusal(&guest);
        assert_eq!(found, (fd, Some(path.to_owned()), Cause::Written), "{index}");
        let text = guest.context.host_state().unwrap_err().to_string();
        assert!(text.contains(&format!("`{path}`")) && text.contains("read-only"), "{text}");
    }
}

#[test]
fn times_by_path_are_refused() {
    let tree = Tree::new();
    let (mut guest, _) = recorded(tree.grants());
    let [at, len] = guest.path("sub/inner");
    assert_eq!(guest.call("path_filestat_set_times", &[3, 1, at, len, 0, 0, 10]), Outcome::Errno(0));
    assert_eq!(refusal(&guest), (None, Some("/rw/sub/inner".to_owned()), Cause::Written));
}

/// What was tried and failed, or changed nothing, is no reason.
#[test]
fn attempts_are_not_refused() {
    let tree = Tree::new();
    let (mut guest, _) = recorded(tree.grants());
    assert_eq!(guest.at("path_create_directory", 3, "sub"), Outcome::Errno(20));
    assert_eq!(guest.at("path_create_directory", 4, "made"), Outcome::Errno(63));
    assert_eq!(guest.at("path_unlink_file", 3, "missing"), Outcome::Errno(44));
    assert!(guest.open(4, "file", CREAT, WRITE).is_err());
    assert!(guest.open(3, "file", CREAT | EXCL, WRITE).is_err());
    // One that is there already is not made by being opened, and what is not written is not changed.
    let fd = guest.open(3, "file", CREAT, READ | WRITE).unwrap();
    let [iovs, count] = guest.iovs(&[(DATA, 0)]);
    assert_eq!(guest.call("fd_write", &[fd, iovs, count, OUT]), Outcome::Errno(0));
    guest.context.host_state().unwrap();
}

#[test]
fn what_is_not_at_its_path_any_more_is_refused() {
    for (open, replace) in [(0, false), (0, true), (DIRECTORY, false), (DIRECTORY, true)] {
        let tree = Tree::new();
        let (mut guest, _) = recorded(tree.grants());
        let name = if open == 0 { "file" } else { "void" };
        let fd = guest.open(4, name, open, READ).unwrap();
        guest.context.host_state().unwrap();
        fs::rename(tree.path("ro").join(name), tree.path("ro/elsewhere")).unwrap();
        if replace && open == 0 {
            fs::write(tree.path("ro/file"), "hello, world\n").unwrap();
        } else if replace {
            fs::create_dir(tree.path("ro/void")).unwrap();
        }
        assert_eq!(refusal(&guest), (Some(5), Some(format!("/ro/{name}")), Cause::Gone));
        assert_eq!(fd, 5);
        // What is closed is not missed.
        guest.call("fd_close", &[fd]);
        guest.context.host_state().unwrap();
    }
}

#[test]
fn contents_that_change_meanwhile_are_refused() {
    let tree = Tree::new();
    let (mut guest, _) = recorded(tree.grants());
    let fd = guest.open(4, "file", 0, READ).unwrap();
    guest.read(fd, 3).unwrap();
    guest.context.host_state().unwrap();
    fs::write(tree.path("ro/file"), "hello, World\n").unwrap();
    assert_eq!(refusal(&guest), (Some(5), Some("/ro/file".to_owned()), Cause::Altered));
    // Also between two times that it is opened and closed.
    let tree = Tree::new();
    let (mut guest, _) = recorded(tree.grants());
    for contents in ["one", "two"] {
        fs::write(tree.path("ro/file"), contents).unwrap();
        let fd = guest.open(4, "file", 0, READ).unwrap();
        guest.read(fd, 1).unwrap();
        guest.call("fd_close", &[fd]);
    }
    assert_eq!(refusal(&guest), (Some(5), Some("/ro/file".to_owned()), Cause::Altered));
}

#[test]
fn what_is_no_file_is_refused() {
    let tree = Tree::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.path("ro/fifo"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let (mut guest, _) = recorded(tree.grants());
    guest.open(4, "fifo", 0, READ).unwrap();
    assert_eq!(refusal(&guest), (Some(5), Some("/ro/fifo".to_owned()), Cause::Special));
    // A device gives what nobody knows: reading it is refused, also if it was closed then, and its endless contents are not hashed.
    let grants = Grants::new().preopen(Preopen::open(std::path::Path::new("/dev"), "/dev", false).unwrap());
    let (mut guest, _) = recorded(grants);
    let fd = guest.open(3, "zero", 0, READ).unwrap();
    assert_eq!(guest.read(fd, 8).unwrap(), [0; 8]);
    guest.call("fd_close", &[fd]);
    assert_eq!(refusal(&guest), (Some(4), Some("/dev/zero".to_owned()), Cause::Special));
}

#[test]
fn paths_that_are_too_long_to_be_kept_are_refused() {
    let tree = Tree::new();
    let (mut guest, _) = recorded(tree.grants());
    // Each opens one from the one before, so that only the whole is too long.
    let dots = "./".repeat(1000);
    let mut fd = 4;
    for _ in 0..2 {
        fd = guest.open(fd, &dots, DIRECTORY, READ).unwrap();
    }
    guest.context.host_state().unwrap();
    guest.open(fd, &dots, DIRECTORY, READ).unwrap();
    assert_eq!(refusal(&guest), (Some(7), None, Cause::PathTooLong));
    guest.call("fd_close", &[7]);
    guest.context.host_state().unwrap();
    // Looking at something from there can't be recorded.
    let deep = guest.open(fd, &dots, DIRECTORY, READ).unwrap();
    let [at, len] = guest.path("file");
    assert_eq!(guest.call("path_filestat_get", &[deep, 1, at, len, OUT]), Outcome::Errno(0));
    guest.call("fd_close", &[deep]);
    assert_eq!(refusal(&guest), (None, Some("file".to_owned()), Cause::PathTooLong));
}

#[test]
fn output_and_record_have_limits() {
    let recording = Recording::new(SEED, BEGIN).max_output(8);
    let mut guest = Bare::new(Grants::new());
    guest.context = Context::with_host(Arc::default(), Box::new(recording.clone()));
    guest.write(1, b"12345").unwrap();
    guest.write(2, b"678").unwrap();
    let state = guest.context.host_state().unwrap();
    assert_eq!(state.output().iter().map(|early| early.bytes.len()).sum::<usize>(), 8);
    // The guest does not see it.
    assert_eq!(guest.write(1, b"9").unwrap(), 1);
    assert_eq!(refusal(&guest), (None, None, Cause::Output { max: 8 }));
    assert_eq!(recording.output(), state.output());

    let tree = Tree::new();
    let (mut guest, recording) = recorded(tree.grants());
    for number in 0..3000 {
        let path = format!("{number:04000}");
        assert!(guest.open(3, &path, 0, READ).is_err());
    }
    assert_eq!(refusal(&guest), (None, None, Cause::Record { max: Recording::MAX_RECORD }));
    assert!(recording.record().encode().len() < Recording::MAX_RECORD + 100_000);
}

/// An interrupt ends the hashing of a file that is too large to wait for.
#[test]
fn hashing_can_be_interrupted() {
    let tree = Tree::new();
    let file = fs::File::create(tree.path("ro/huge")).unwrap();
    file.set_len(1 << 42).unwrap();
    let (mut guest, _) = recorded(tree.grants());
    let fd = guest.open(4, "huge", 0, READ).unwrap();
    let soon = std::time::Instant::now() + std::time::Duration::from_millis(50);
    guest.context.set_interrupt(preheat_wasi::Interrupt::never().at(soon));
    let [iovs, count] = guest.iovs(&[(DATA, 10)]);
    assert_eq!(guest.run("fd_read", &[fd, iovs, count, OUT]), Err(Stop::Interrupted));
}

/// Late variables are not there, whether they were granted before or after they were declared.
#[test]
fn late_variables_are_absent() {
    let grants = Grants::new().env("A", "1").env("KEY", "secret").late_env("KEY").late_env("TOKEN").env("TOKEN", "secret").env("B", "2");
    assert!(grants.has_wake_directory());
    let (mut guest, recording) = recorded(grants);
    assert_eq!(guest.call("environ_sizes_get", &[OUT, OUT + 4]), Outcome::Errno(0));
    assert_eq!((guest.u32(OUT), guest.u32(OUT + 4)), (2, 8));
    assert_eq!(guest.call("environ_get", &[OUT, DATA]), Outcome::Errno(0));
    assert_eq!(guest.get(DATA, 9), b"A=1\0B=2\0\0");
    assert_eq!(recording.record().environment, Some(["A".to_owned(), "B".to_owned()].into()));
    let state = guest.context.host_state().unwrap();
    assert!(!String::from_utf8(state.encode()).unwrap().contains("secret"));
    assert_eq!(state.late(), ["KEY", "TOKEN"]);
    assert_eq!(HostState::parse(&state.encode()).unwrap(), state);
}

/// A second look at the symbolic link's directory: where a link leads is part of what is opened.
#[test]
fn a_link_that_leads_elsewhere_is_noticed() {
    let tree = Tree::new();
    let (mut guest, _) = recorded(tree.grants());
    guest.open(4, "link", 0, READ).unwrap();
    guest.context.host_state().unwrap();
    fs::remove_file(tree.path("ro/link")).unwrap();
    symlink("empty", tree.path("ro/link")).unwrap();
    assert_eq!(refusal(&guest), (Some(5), Some("/ro/link".to_owned()), Cause::Gone));
}
