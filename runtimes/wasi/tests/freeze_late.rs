//! The wake directory, by the calls that a program makes.

mod common;

use common::*;
use preheat_wasi::{Context, Grants, Host, HostState, Output, Preopen, Recording, Stop, Streams, WAKE_DIRECTORY, Wake, WakeError};
use std::sync::Arc;

const RIGHTS: u64 = READ | WRITE;
const PERM: Outcome = Outcome::Errno(63);
const NOENT: Outcome = Outcome::Errno(44);
const NOTDIR: Outcome = Outcome::Errno(54);
const INVAL: Outcome = Outcome::Errno(28);
const BADF: Outcome = Outcome::Errno(8);
const OK: Outcome = Outcome::Errno(0);

/// A host whose random bytes count up.
struct Counting(u8);

impl Host for Counting {
    fn realtime(&mut self) -> u64 {
        0
    }
    fn monotonic(&mut self) -> u64 {
        0
    }
    fn resolution(&mut self) -> u64 {
        1
    }
    fn random(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        for byte in buffer {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
        Ok(())
    }
}

fn recorded(grants: Grants) -> (Bare, Recording) {
    let recording = Recording::new([1; 32], 0);
    let mut guest = Bare::new(Grants::new());
    guest.context = Context::with_host(Arc::new(grants), Box::new(recording.clone()));
    (guest, recording)
}

fn wake(guest: &Bare, grants: Grants) -> Result<Bare, WakeError> {
    let state = HostState::parse(&guest.context.host_state().unwrap().encode()).unwrap();
    let wake = Wake::new(Arc::new(state), grants)?;
    let mut woken = Bare::new(Grants::new());
    woken.context = Context::wake(&wake, Box::new(Counting(0)), Streams::default())?;
    Ok(woken)
}

/// One with two variables, frozen without having asked for anything.
fn woken() -> Bare {
    let (guest, _) = recorded(Grants::new().env("EARLY", "1").late_env("KEY").late_env("LINES").late_env("UNUSED"));
    wake(&guest, Grants::new().env("KEY", "old").env("LINES", "a=1\nb\n").env("KEY", "s3cr=t")).unwrap()
}

const CONTENTS: &[u8] = b"LINES=a=1\nb\n\0KEY=s3cr=t\0";

#[test]
fn a_program_finds_the_directory_and_reads_the_variables() {
    let mut guest = woken();
    // As wasi-libc does: names of preopened directories, from 3 on.
    assert_eq!(guest.call("fd_prestat_get", &[3, OUT]), OK);
    assert_eq!((guest.get(OUT, 1)[0], guest.u32(OUT + 4)), (0, u32::try_from(WAKE_DIRECTORY.len()).unwrap()));
    assert_eq!(guest.call("fd_prestat_dir_name", &[3, DATA, WAKE_DIRECTORY.len() as u64]), OK);
    assert_eq!(guest.get(DATA, WAKE_DIRECTORY.len()), WAKE_DIRECTORY.as_bytes());
    assert_eq!(guest.call("fd_prestat_get", &[4, OUT]), BADF);
    assert_eq!(guest.call("fd_fdstat_get", &[3, OUT]), OK);
    assert_eq!(guest.get(OUT, 1), [3]);

    let env = guest.open(3, "env", 0, READ).unwrap();
    assert_eq!(guest.call("fd_fdstat_get", &[env, OUT]), OK);
    assert_eq!(guest.get(OUT, 1), [4]);
    assert_eq!(guest.call("fd_filestat_get", &[env, OUT]), OK);
    assert_eq!((guest.get(OUT + 16, 1), guest.u64(OUT + 32)), (vec![4], CONTENTS.len() as u64));
    let [at, len] = guest.path("./env");
    assert_eq!(guest.call("path_filestat_get", &[3, 0, at, len, OUT + 0x100]), OK);
    // All but the padding behind the kind of file.
    for (at, len) in [(0, 17), (24, 40)] {
        assert_eq!(guest.get(OUT + at, len), guest.get(OUT + 0x100 + at, len));
    }

    assert_eq!(guest.read(env, 10).unwrap(), CONTENTS[..10]);
    assert_eq!(guest.call("fd_tell", &[env, OUT]), OK);
    assert_eq!(guest.u64(OUT), 10);
    assert_eq!(guest.read(env, 1000).unwrap(), CONTENTS[10..]);
    assert_eq!(guest.read(env, 1000).unwrap(), b"");
    // Ready to be read, and at its end.
    guest.put(DATA, &[0x11_u64, 1, env, 0, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>());
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x100, 1, OUT]), OK);
    assert_eq!(guest.get(DATA + 0x100 + 24, 1), [1]);
    assert_eq!(guest.call("fd_seek", &[env, (-2_i64).cast_unsigned(), 2, OUT]), OK);
    assert_eq!(guest.read(env, 1000).unwrap(), b"t\0");
    let [iovs, count] = guest.iovs(&[(DATA, 5)]);
    assert_eq!(guest.call("fd_pread", &[env, iovs, count, 13, OUT]), OK);
    assert_eq!(guest.get(DATA, 5), b"KEY=s");
    assert_eq!(guest.call("fd_pread", &[env, iovs, count, u64::MAX, OUT]), OK);
    assert_eq!(guest.u32(OUT), 0);
    for (name, args) in
        [("fd_advise", &[env, 0, 0, 0][..]), ("fd_sync", &[env]), ("fd_datasync", &[env]), ("fd_fdstat_set_flags", &[env, 4])]
    {
        assert_eq!(guest.call(name, args), OK, "{name}");
    }
    assert_eq!(guest.context.counters().late_env_reads, 6);
    assert_eq!(guest.call("fd_close", &[env]), OK);
}

#[test]
fn a_program_that_asks_late_for_its_environment_gets_it_there_too() {
    let mut guest = woken();
    assert_eq!(guest.call("environ_sizes_get", &[OUT, OUT + 4]), OK);
    assert_eq!((guest.u32(OUT), guest.u32(OUT + 4)), (3, 8 + u32::try_from(CONTENTS.len()).unwrap()));
    assert_eq!(guest.call("environ_get", &[OUT, DATA]), OK);
    assert_eq!(guest.get(DATA, 8), b"EARLY=1\0");
    assert_eq!(guest.get(DATA + 8, CONTENTS.len()), CONTENTS);
    // One that has asked gets the same as before.
    let (mut guest, _) = recorded(Grants::new().env("EARLY", "1").late_env("KEY"));
    assert_eq!(guest.call("environ_get", &[OUT, DATA]), OK);
    let mut woken = wake(&guest, Grants::new().env("KEY", "secret")).unwrap();
    assert_eq!(woken.call("environ_sizes_get", &[OUT, OUT + 4]), OK);
    assert_eq!((woken.u32(OUT), woken.u32(OUT + 4)), (1, 8));
    let env = woken.open(3, "env", 0, READ).unwrap();
    assert_eq!(woken.read(env, 100).unwrap(), b"KEY=secret\0");
}

#[test]
fn the_file_is_empty_before_the_freeze_and_without_variables() {
    let (mut guest, recording) = recorded(Grants::new().late_env("KEY").env("KEY", "secret"));
    let env = guest.open(3, "env", 0, READ).unwrap();
    assert_eq!(guest.read(env, 100).unwrap(), b"");
    let record = recording.record();
    assert_eq!((record.late_env_reads, record.files.len(), record.random_bytes), (1, 0, 0));
    assert!(record.looked_at.contains("/preheat/env"));
    // A file that was open then has the variables now, from where the program was.
    let mut woken = wake(&guest, Grants::new().env("KEY", "secret")).unwrap();
    assert_eq!(woken.read(env, 100).unwrap(), b"KEY=secret\0");
    let mut woken = wake(&guest, Grants::new()).unwrap();
    assert_eq!(woken.read(env, 100).unwrap(), b"");
}

#[test]
fn random_bytes_never_end_and_are_the_hosts() {
    let mut guest = woken();
    let random = guest.open(3, "random", 0, READ).unwrap();
    assert_eq!(guest.call("fd_fdstat_get", &[random, OUT]), OK);
    assert_eq!(guest.get(OUT, 1), [2]);
    assert_eq!(guest.read(random, 4).unwrap(), [0, 1, 2, 3]);
    let [iovs, count] = guest.iovs(&[(DATA, 2)]);
    assert_eq!(guest.call("fd_pread", &[random, iovs, count, 0, OUT]), OK);
    assert_eq!(guest.get(DATA, 2), [4, 5]);
    assert_eq!(guest.read(random, 0x1_0000).unwrap().len(), 0x1_0000);
    assert_eq!(guest.call("random_get", &[DATA, 2]), OK);
    assert_eq!(guest.get(DATA, 2), [6, 7]);
    let counters = guest.context.counters();
    assert_eq!((counters.random_bytes, counters.random_bytes_before_output), (0x1_0008, 0x1_0008));
    // Ready, and never at its end.
    guest.put(DATA, &[0x11_u64, 1, random, 0, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>());
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA + 0x100, 1, OUT]), OK);
    assert_eq!(guest.get(DATA + 0x100 + 24, 1), [0]);
    // After the first output the bytes come too late to renew what it may have shown.
    guest.context.set_stdout(Output::Discard);
    guest.write(1, b"x").unwrap();
    guest.read(random, 8).unwrap();
    let counters = guest.context.counters();
    assert_eq!((counters.random_bytes, counters.random_bytes_before_output, counters.output_bytes), (0x1_0010, 0x1_0008, 1));
    // Before the freeze it is a draw like others.
    let (mut guest, recording) = recorded(Grants::new().wake_directory());
    let random = guest.open(3, "random", 0, READ).unwrap();
    let bytes = guest.read(random, 8).unwrap();
    assert_eq!(recording.record().random_bytes, 8);
    let mut woken = wake(&guest, Grants::new()).unwrap();
    assert_eq!(woken.read(random, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_ne!(bytes, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn the_directory_can_be_listed_and_opened() {
    let mut guest = woken();
    let names = |guest: &mut Bare, fd: u64, cookie: u64| {
        assert_eq!(guest.call("fd_readdir", &[fd, DATA, 1000, cookie, OUT]), OK);
        let len = guest.u32(OUT) as usize;
        let list = guest.get(DATA, len);
        let mut rest = &list[..];
        let mut names = Vec::new();
        while let Some((entry, tail)) = rest.split_at_checked(24) {
            let len = u32::from_le_bytes(entry[16..20].try_into().unwrap()) as usize;
            names.push((u64::from_le_bytes(entry[..8].try_into().unwrap()), entry[20], String::from_utf8(tail[..len].to_vec()).unwrap()));
            rest = &tail[len..];
        }
        names
    };
    let entry = |cookie, kind, name: &str| (cookie, kind, name.to_owned());
    let all = [entry(1, 3, "."), entry(2, 3, ".."), entry(3, 4, "env"), entry(4, 2, "random")];
    assert_eq!(names(&mut guest, 3, 0), all);
    assert_eq!(names(&mut guest, 3, 3), all[3..]);
    assert_eq!(names(&mut guest, 3, u64::MAX), []);
    // A short buffer has a part of an entry.
    assert_eq!(guest.call("fd_readdir", &[3, DATA, 30, 0, OUT]), OK);
    assert_eq!(guest.u32(OUT), 30);
    let again = guest.open(3, ".", DIRECTORY, READ).unwrap();
    assert_eq!(names(&mut guest, again, 0), all);
    assert!(guest.open(again, "env", 0, READ).is_ok());
    assert_eq!(guest.call("fd_prestat_get", &[again, OUT]), BADF);
    assert_eq!(guest.call("fd_filestat_get", &[again, OUT]), OK);
    assert_eq!(guest.get(OUT + 16, 1), [3]);
    // It goes over a freeze, too.
    let (mut guest, _) = recorded(Grants::new().wake_directory());
    let again = guest.open(3, ".", DIRECTORY, READ).unwrap();
    let mut woken = wake(&guest, Grants::new()).unwrap();
    assert_eq!(names(&mut woken, again, 0), all);
}

/// Beside a directory of the host, so that there is somewhere to go.
#[test]
fn nothing_leads_out_and_nothing_can_be_changed() {
    let tree = Tree::new();
    let before = tree.list();
    let mut guest = Bare::new(tree.grants().wake_directory());
    for path in ["..", "../", "../rw/file", "../outside/secret", "/", "/etc/passwd", "/preheat/env", "./..", "//env", ".././env"] {
        for oflags in [0, DIRECTORY] {
            assert_eq!(guest.open(5, path, oflags, READ), Err(PERM), "{path}");
        }
        let [at, len] = guest.path(path);
        assert_eq!(guest.call("path_filestat_get", &[5, 1, at, len, OUT]), PERM, "{path}");
        assert_eq!(guest.call("path_readlink", &[5, at, len, DATA, 100, OUT]), PERM, "{path}");
    }
    for (path, errno) in [("", NOENT), ("x", NOENT), ("x/../env", NOENT), ("env/", NOTDIR), ("env/..", NOTDIR), ("random/x", NOTDIR)] {
        assert_eq!(guest.open(5, path, 0, READ), Err(errno), "{path}");
        let [at, len] = guest.path(path);
        assert_eq!(guest.call("path_filestat_get", &[5, 1, at, len, OUT]), errno, "{path}");
    }
    assert_eq!(guest.open(5, "env", DIRECTORY, READ), Err(NOTDIR));
    for path in ["env", "random", ".", "new", "../new", "/new"] {
        for (oflags, rights) in [(0, WRITE), (0, RIGHTS), (CREAT, READ), (CREAT | EXCL, WRITE), (TRUNC, WRITE)] {
            assert_eq!(guest.open(5, path, oflags, rights), Err(PERM), "{path}");
        }
        for name in ["path_create_directory", "path_remove_directory", "path_unlink_file"] {
            assert_eq!(guest.at(name, 5, path), PERM, "{name} {path}");
        }
        let ([old, old_len], [new, new_len]) = (guest.path(path), guest.path2("file"));
        assert_eq!(guest.call("path_filestat_set_times", &[5, 1, old, old_len, 0, 0, 10]), PERM);
        for (from, to) in [(5, 3), (3, 5), (5, 5)] {
            assert_eq!(guest.call("path_rename", &[from, old, old_len, to, new, new_len]), PERM, "{path}");
            assert_eq!(guest.call("path_link", &[from, 0, old, old_len, to, new, new_len]), PERM, "{path}");
        }
        assert_eq!(guest.call("path_symlink", &[new, new_len, 5, old, old_len]), PERM);
    }
    let [at, len] = guest.path("env");
    assert_eq!(guest.call("path_readlink", &[5, at, len, DATA, 100, OUT]), INVAL);
    for name in ["env", "random"] {
        let fd = guest.open(5, name, 0, READ).unwrap();
        assert_eq!(guest.write(fd, b"x"), Err(BADF));
        let [iovs, count] = guest.iovs(&[(DATA, 1)]);
        assert_eq!(guest.call("fd_pwrite", &[fd, iovs, count, 0, OUT]), BADF);
        assert_eq!(guest.call("fd_filestat_set_size", &[fd, 0]), PERM);
        assert_eq!(guest.call("fd_filestat_set_times", &[fd, 0, 0, 10]), PERM);
        assert_eq!(guest.call("fd_allocate", &[fd, 0, 10]), Outcome::Errno(58));
        assert_eq!(guest.open(fd, "x", 0, READ), Err(NOTDIR));
    }
    assert_eq!(guest.call("fd_filestat_set_times", &[5, 0, 0, 10]), PERM);
    assert_eq!(tree.list(), before);
}

#[test]
fn variables_that_were_not_declared_are_refused() {
    let (guest, _) = recorded(Grants::new().wake_directory());
    assert!(matches!(wake(&guest, Grants::new().env("KEY", "x")), Err(WakeError::Variable { name, .. }) if name == "KEY"));
    // A directory of the host under the name is another one.
    let tree = Tree::new();
    let real = || Grants::new().preopen(Preopen::open(&tree.path("ro"), WAKE_DIRECTORY, false).unwrap());
    assert!(matches!(wake(&guest, real()), Err(WakeError::DirectoryUnknown { name }) if name == WAKE_DIRECTORY));
    let (guest, _) = recorded(real());
    assert!(matches!(wake(&guest, Grants::new()), Err(WakeError::DirectoryMissing { .. })));
    assert!(matches!(wake(&guest, Grants::new().wake_directory()), Err(WakeError::DirectoryMissing { .. })));
    assert!(wake(&guest, real()).is_ok());
}

/// A recorded program that does not read standard input is stopped by nothing here.
#[test]
fn the_wake_directory_is_no_standard_input() {
    let (mut guest, _) = recorded(Grants::new().wake_directory());
    guest.context.set_freeze(true);
    let random = guest.open(3, "random", 0, READ).unwrap();
    assert_eq!(guest.read(random, 3).unwrap().len(), 3);
    let [iovs, count] = guest.iovs(&[(DATA, 10)]);
    assert_eq!(guest.run("fd_read", &[0, iovs, count, OUT]), Err(Stop::Freeze));
}
