//! Guests that try to leave their directories, or to change what they may only read.

mod common;

use common::*;
use preheat_wasi::{Grants, Preopen};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PERM: Outcome = Outcome::Errno(63);
const EXIST: Outcome = Outcome::Errno(20);
const ISDIR: Outcome = Outcome::Errno(31);
const NOENT: Outcome = Outcome::Errno(44);
const LOOP: Outcome = Outcome::Errno(32);
const INVAL: Outcome = Outcome::Errno(28);
const NOTDIR: Outcome = Outcome::Errno(54);
const BADF: Outcome = Outcome::Errno(8);

/// Everything outside of the granted directories.
fn outside(tree: &Tree) -> BTreeMap<String, String> {
    tree.list().into_iter().filter(|(path, _)| path.starts_with("outside")).collect()
}

/// Paths out of `rw`, by every way there is. None of them leads to anything inside.
const WAYS_OUT: [&str; 25] = [
    "..",
    "../",
    "../outside",
    "../outside/secret",
    "./../outside/secret",
    "sub/../../outside/secret",
    "sub/deep/../../../outside/secret",
    "linkdir/../../outside/secret",
    "sub/up/../outside/secret",
    "sub/up/sub/up/../outside/secret",
    "/",
    "//",
    "/etc/passwd",
    "//etc/passwd",
    "/proc/self/root/etc/passwd",
    "out",
    "outdir",
    "outdir/",
    "outdir/secret",
    "outdir/dir/../secret",
    "inout",
    "abs",
    "absdir/etc/passwd",
    "proc/etc/passwd",
    "sub/upout",
];

#[test]
fn no_path_leads_out() {
    let tree = Tree::new();
    let before = tree.list();
    let mut guest = Bare::new(tree.grants());
    for path in WAYS_OUT {
        for oflags in [0, CREAT, CREAT | EXCL, TRUNC, DIRECTORY] {
            for rights in [0, READ, WRITE, READ | WRITE] {
                let result = guest.open(3, path, oflags, rights);
                // What exists already, or is called a directory, is refused before it is followed.
                let before = if path.ends_with('/') { ISDIR } else { EXIST };
                assert!(result == Err(PERM) || oflags & CREAT != 0 && result == Err(before), "{path} {oflags}: {result:?}");
            }
        }
        let [at, len] = guest.path(path);
        assert_eq!(guest.call("path_filestat_get", &[3, 1, at, len, OUT]), PERM, "{path}");
        assert_eq!(guest.call("path_filestat_set_times", &[3, 1, at, len, 1, 1, 5]), PERM, "{path}");
    }
    assert_eq!(tree.list(), before);
}

/// The same paths with a new name at their end: nothing is made, moved or linked outside.
#[test]
fn nothing_is_made_outside() {
    let tree = Tree::new();
    let before = outside(&tree);
    let mut guest = Bare::new(tree.grants());
    for way in ["..", "../outside", "outdir", "outdir/dir", "sub/up/../outside", "absdir/tmp", "proc/tmp", "/tmp", "linkdir/../../outside"]
    {
        let path = format!("{way}/preheat-escape");
        assert_eq!(guest.open(3, &path, CREAT, WRITE), Err(PERM), "{path}");
        assert_eq!(guest.at("path_create_directory", 3, &path), PERM, "{path}");
        let [old, old_len] = guest.path("file");
        let [new, new_len] = guest.path2(&path);
        assert_eq!(guest.call("path_rename", &[3, old, old_len, 3, new, new_len]), PERM, "{path}");
        assert_eq!(guest.call("path_link", &[3, 0, old, old_len, 3, new, new_len]), PERM, "{path}");
        assert_eq!(guest.call("path_symlink", &[old, old_len, 3, new, new_len]), PERM, "{path}");
        assert!(!Path::new("/tmp/preheat-escape").exists());
    }
    assert_eq!(outside(&tree), before);
    assert!(holds(&tree.path("rw/file"), "hello, world\n"));
}

#[test]
fn nothing_outside_is_moved_in_linked_or_removed() {
    let tree = Tree::new();
    let before = outside(&tree);
    let mut guest = Bare::new(tree.grants());
    for path in
        ["../outside/secret", "outdir/secret", "sub/../../outside/secret", "sub/up/../outside/secret", "absdir/etc/passwd", "/etc/passwd"]
    {
        let [old, old_len] = guest.path(path);
        let [new, new_len] = guest.path2("loot");
        assert_eq!(guest.call("path_rename", &[3, old, old_len, 3, new, new_len]), PERM, "{path}");
        assert_eq!(guest.call("path_link", &[3, 0, old, old_len, 3, new, new_len]), PERM, "{path}");
        assert_eq!(guest.at("path_unlink_file", 3, path), PERM, "{path}");
        assert_eq!(guest.at("path_remove_directory", 3, path), PERM, "{path}");
        assert_eq!(guest.call("path_readlink", &[3, old, old_len, DATA, 100, OUT]), PERM, "{path}");
        assert_eq!(guest.call("path_filestat_get", &[3, 0, old, old_len, OUT]), PERM, "{path}");
        assert_eq!(guest.call("path_filestat_set_times", &[3, 0, old, old_len, 1, 1, 5]), PERM, "{path}");
    }
    assert_eq!(guest.at("path_remove_directory", 3, "../outside/dir"), PERM);
    // Removing a link removes the link.
    assert_eq!(guest.at("path_unlink_file", 3, "out"), Outcome::Errno(0));
    assert_eq!(guest.at("path_unlink_file", 3, "outdir"), Outcome::Errno(0));
    assert_eq!(outside(&tree), before);
    assert!(!tree.path("rw/loot").exists());
}

/// A hard link to a link is the link, which still leads nowhere.
#[test]
fn linking_a_link_does_not_follow_it() {
    let tree = Tree::new();
    let mut guest = Bare::new(tree.grants());
    let [old, old_len] = guest.path("out");
    let [new, new_len] = guest.path2("loot");
    assert_eq!(guest.call("path_link", &[3, 1, old, old_len, 3, new, new_len]), INVAL);
    assert_eq!(guest.call("path_link", &[3, 0, old, old_len, 3, new, new_len]), Outcome::Errno(0));
    assert!(fs::symlink_metadata(tree.path("rw/loot")).unwrap().is_symlink());
    assert_eq!(guest.open(3, "loot", 0, READ), Err(PERM));
    let [old, old_len] = guest.path("outdir");
    let [new, new_len] = guest.path2("moved");
    assert_eq!(guest.call("path_rename", &[3, old, old_len, 3, new, new_len]), Outcome::Errno(0));
    assert_eq!(guest.open(3, "moved/secret", 0, READ), Err(PERM));
}

/// A link that the guest makes itself helps it no more than one that was there.
#[test]
fn links_that_the_guest_makes_lead_nowhere() {
    let tree = Tree::new();
    let mut guest = Bare::new(tree.grants());
    for (contents, expected) in [("/etc/passwd", PERM), ("/", PERM), ("", NOENT)] {
        let [old, old_len] = guest.path(contents);
        let [new, new_len] = guest.path2("made");
        assert_eq!(guest.call("path_symlink", &[old, old_len, 3, new, new_len]), expected, "{contents}");
    }
    for (number, contents) in
        ["../outside/secret", "../../../../../../etc/passwd", "sub/up/../outside/secret", "outdir/secret"].iter().enumerate()
    {
        let [old, old_len] = guest.path(contents);
        let [new, new_len] = guest.path2(&format!("made{number}"));
        assert_eq!(guest.call("path_symlink", &[old, old_len, 3, new, new_len]), Outcome::Errno(0));
        assert_eq!(guest.open(3, &format!("made{number}"), 0, READ), Err(PERM));
        assert_eq!(guest.open(3, &format!("made{number}"), CREAT, WRITE), Err(PERM));
    }
}

/// Links inside work, in chains, and end where a chain is too long or has no end.
#[test]
fn links_inside_work() {
    let tree = Tree::new();
    for number in 0..100 {
        symlink(if number == 0 { "file".to_owned() } else { format!("l{}", number - 1) }, tree.path(&format!("rw/l{number}"))).unwrap();
    }
    let mut guest = Bare::new(tree.grants());
    for path in
        ["file", "link", "chain", "back", "sub/upfile", "sub/up/file", "linkdir/up/link", "l0", "l20", "./sub/../file", "sub/..//file"]
    {
        let fd = guest.open(3, path, 0, READ).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert_eq!(guest.read(fd, 100).unwrap(), b"hello, world\n", "{path}");
    }
    for path in ["loop", "loop1", "loop/", "loop1/x", "l99"] {
        assert_eq!(guest.open(3, path, 0, READ), Err(LOOP), "{path}");
    }
    assert_eq!(guest.open(3, "dangling", 0, READ), Err(NOENT));
    // A link to nothing may be written through, to a place inside.
    assert!(guest.open(3, "dangling", CREAT, WRITE).is_ok());
    assert!(tree.path("rw/nowhere").exists());
    assert_eq!(guest.open(3, "dangling", CREAT | EXCL, WRITE), Err(EXIST));
}

#[test]
fn odd_paths_are_refused() {
    let tree = Tree::new();
    let mut guest = Bare::new(tree.grants());
    let long = "x/".repeat(2000) + "x";
    let name = "n".repeat(256);
    for (path, expected) in [
        ("", NOENT),
        ("file\0", INVAL),
        ("\0", INVAL),
        ("sub\0/../file", INVAL),
        ("file/", NOTDIR),
        ("file/.", NOTDIR),
        ("file/..", NOTDIR),
        ("file/../file", NOTDIR),
        ("link/", NOTDIR),
        (name.as_str(), Outcome::Errno(37)),
        (long.as_str(), NOENT),
    ] {
        assert_eq!(guest.open(3, path, 0, READ), Err(expected), "{path:?}");
    }
    // Not text.
    guest.put(PATH, b"\xff\xfe");
    assert_eq!(guest.call("path_open", &[3, 1, PATH, 2, 0, READ, 0, 0, OUT]), Outcome::Errno(25));
    for fd in [0, 1, 2, 5, 0xffff_ffff] {
        assert_eq!(guest.open(fd, "file", 0, READ), Err(BADF));
    }
    let file = guest.open(3, "file", 0, READ).unwrap();
    assert_eq!(guest.open(file, "x", 0, READ), Err(NOTDIR));
}

/// A directory opened in a directory is no way out either, also when it is moved elsewhere meanwhile.
#[test]
fn a_directory_in_a_directory_is_a_border() {
    let tree = Tree::new();
    let mut guest = Bare::new(tree.grants());
    let sub = guest.open(3, "sub", DIRECTORY, READ).unwrap();
    for path in ["..", "../file", "up/file", "upfile", "deep/../../file"] {
        assert_eq!(guest.open(sub, path, 0, READ), Err(PERM), "{path}");
    }
    assert!(guest.open(sub, "deep/../inner", 0, READ).is_ok());
    fs::rename(tree.path("rw/sub"), tree.path("outside/dir/sub")).unwrap();
    for path in ["..", "../../secret", "upout", "up/secret"] {
        assert_eq!(guest.open(sub, path, 0, READ), Err(PERM), "{path}");
    }
    assert!(guest.open(sub, "inner", 0, READ).is_ok());
}

/// While a guest opens a path, somebody else keeps exchanging a directory on it for a link that leads out.
#[test]
fn a_link_that_appears_during_the_call_is_not_followed_out() {
    let tree = Tree::new();
    fs::create_dir(tree.path("rw/race")).unwrap();
    fs::write(tree.path("rw/race/secret"), "inside").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (stop, root) = (Arc::clone(&stop), tree.path("rw"));
        move || {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(root.join("race"), root.join("kept")).unwrap();
                symlink("../outside", root.join("race")).unwrap();
                fs::remove_file(root.join("race")).unwrap();
                fs::rename(root.join("kept"), root.join("race")).unwrap();
            }
        }
    });
    let mut guest = Bare::new(tree.grants());
    let (mut opened, mut refused) = (0, 0);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while std::time::Instant::now() < end {
        match guest.open(3, "race/secret", 0, READ) {
            Ok(fd) => {
                assert_eq!(guest.read(fd, 100).unwrap(), b"inside");
                guest.call("fd_close", &[fd]);
                opened += 1;
            }
            Err(error) => {
                assert!([PERM, NOENT, NOTDIR, LOOP].contains(&error), "{error:?}");
                refused += 1;
            }
        }
        assert_ne!(guest.at("path_unlink_file", 3, "race/stolen"), Outcome::Errno(0));
        let [at, len] = guest.path("race/made");
        guest.call("path_symlink", &[at, len, 3, at, len]);
        guest.at("path_unlink_file", 3, "race/made");
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
    assert_eq!(outside(&tree).len(), 3);
    assert!(holds(&tree.path("outside/secret"), "secret"));
}

/// In a directory that is for reading only, nothing changes, whatever is tried.
#[test]
fn what_is_for_reading_stays_as_it_is() {
    let tree = Tree::new();
    let before = tree.list();
    let mut guest = Bare::new(tree.grants());
    for oflags in 0..16 {
        for rights in [0, READ, WRITE, READ | WRITE, u64::MAX >> 34] {
            for path in ["file", "new", "sub", "link"] {
                let result = guest.open(4, path, oflags, rights);
                if rights & WRITE != 0 || oflags & (CREAT | TRUNC) != 0 {
                    assert!(matches!(result, Err(PERM | INVAL)), "{path} {oflags} {rights}: {result:?}");
                }
            }
        }
    }
    let file = guest.open(4, "file", 0, READ).unwrap();
    let sub = guest.open(4, "sub", DIRECTORY, READ).unwrap();
    assert_eq!(guest.write(file, b"x"), Err(BADF));
    assert_eq!(guest.call("fd_fdstat_set_flags", &[file, 1]), Outcome::Errno(0));
    assert_eq!(guest.write(file, b"x"), Err(BADF));
    assert_eq!(guest.call("fd_filestat_set_size", &[file, 0]), PERM);
    for fd in [4, file, sub] {
        assert_eq!(guest.call("fd_filestat_set_times", &[fd, 1, 1, 5]), PERM);
    }
    for fd in [4, sub] {
        for path in ["file", "inner", "new"] {
            assert_eq!(guest.at("path_create_directory", fd, path), PERM);
            assert_eq!(guest.at("path_unlink_file", fd, path), PERM);
            assert_eq!(guest.at("path_remove_directory", fd, path), PERM);
            let [at, len] = guest.path(path);
            let [new, new_len] = guest.path2("new");
            assert_eq!(guest.call("path_filestat_set_times", &[fd, 1, at, len, 1, 1, 5]), PERM);
            assert_eq!(guest.call("path_symlink", &[at, len, fd, new, new_len]), PERM);
            for (from, to) in [(fd, fd), (3, fd), (fd, 3)] {
                assert_eq!(guest.call("path_rename", &[from, at, len, to, new, new_len]), PERM);
                assert_eq!(guest.call("path_link", &[from, 0, at, len, to, new, new_len]), PERM);
            }
        }
    }
    assert_eq!(tree.list(), before);
}

/// Opening a pipe without another end does not block the host.
#[test]
fn pipes_in_a_directory_do_not_block() {
    let tree = Tree::new();
    rustix::fs::mknodat(rustix::fs::CWD, tree.path("rw/pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    let mut guest = Bare::new(tree.grants());
    let fd = guest.open(3, "pipe", 0, READ).unwrap();
    assert_eq!(guest.read(fd, 10), Err(Outcome::Errno(70)));
    assert_eq!(guest.open(3, "pipe", 0, WRITE), Ok(6));
    let [at, len] = guest.path("pipe");
    assert_eq!(guest.call("path_filestat_set_times", &[3, 1, at, len, 1, 1, 5]), Outcome::Errno(0));
}

/// Contexts that share a directory do not share its position or anything else.
#[test]
fn guests_that_share_grants_do_not_meet() {
    let tree = Tree::new();
    let grants = Arc::new(Grants::new().preopen(Preopen::open(&tree.path("rw"), "/", true).unwrap()));
    let mut guests = [Bare::new(Grants::new()), Bare::new(Grants::new())];
    for guest in &mut guests {
        guest.context = preheat_wasi::Context::new(Arc::clone(&grants));
        assert_eq!(guest.call("fd_readdir", &[3, DATA, 4096, 0, OUT]), Outcome::Errno(0));
    }
    let [first, second] = guests.each_mut().map(|guest| (guest.u32(OUT), guest.get(DATA, 4096)));
    assert_eq!(first, second);
    let [one, two] = &mut guests;
    assert_eq!(one.open(3, "file", 0, READ), Ok(4));
    assert_eq!(one.read(4, 5).unwrap(), b"hello");
    assert_eq!(two.read(4, 5), Err(BADF));
    assert_eq!(one.call("fd_close", &[3]), Outcome::Errno(0));
    assert_eq!(two.open(3, "file", 0, READ), Ok(4));
    assert_eq!(two.read(4, 5).unwrap(), b"hello");
}
