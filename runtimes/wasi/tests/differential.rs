//! The same calls under wasmtime with its own WASI and with ours: the same error numbers, traps, bytes in memory, output and files.

mod common;

use common::*;
use std::collections::BTreeSet;

/// Both machines, each in a tree of its own.
struct Pair {
    trees: [Tree; 2],
    machines: [Box<dyn Machine>; 2],
    called: BTreeSet<String>,
    log: Vec<String>,
}

/// Times since this moment are of this test, and differ.
fn recent() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    u64::try_from(since).unwrap() - 3_600_000_000_000
}

impl Pair {
    fn new() -> Self {
        Self::with([Tree::new(), Tree::new()])
    }

    fn on_disk() -> Self {
        Self::with([Tree::on_disk(), Tree::on_disk()])
    }

    fn with(trees: [Tree; 2]) -> Self {
        let machines: [Box<dyn Machine>; 2] = [Box::new(Theirs::new(&trees[0])), Box::new(Ours::new(&trees[1]))];
        Self { trees, machines, called: BTreeSet::new(), log: Vec::new() }
    }

    /// Calls in both and compares; `mask` hides in each memory what must differ.
    fn call_masked(&mut self, name: &str, args: &[u64], mask: impl Fn(&mut [u8])) -> Outcome {
        self.called.insert(name.to_owned());
        let outcomes = self.machines.each_mut().map(|machine| machine.call(name, args));
        self.log.push(format!("{name} {args:x?}: {outcomes:?}"));
        assert_eq!(outcomes[0], outcomes[1], "wasmtime's and ours\n{}", self.log.join("\n"));
        for machine in &mut self.machines {
            if outcomes[0] == Outcome::Errno(0) {
                mask(machine.memory());
            } else if name == "fd_readdir" {
                // What a listing wrote before it failed is nobody's business.
                machine.memory()[usize::try_from(DATA).unwrap()..].fill(0);
            }
        }
        let [theirs, ours] = &mut self.machines;
        let (theirs, ours) = (theirs.memory(), ours.memory());
        if theirs == ours {
            return outcomes[0];
        }
        if let Some(at) = theirs.iter().zip(ours.iter()).position(|(theirs, ours)| theirs != ours) {
            let range = at..(at + 32).min(theirs.len());
            panic!("memory at {at:#x}: {:x?} and ours {:x?}\n{}", &theirs[range.clone()], &ours[range], self.log.join("\n"));
        }
        outcomes[0]
    }

    fn call(&mut self, name: &str, args: &[u64]) -> Outcome {
        match name {
            "path_filestat_get" => self.call_masked(name, args, |memory| mask_filestat(memory, args[4])),
            "fd_filestat_get" => self.call_masked(name, args, |memory| mask_filestat(memory, args[1])),
            "fd_readdir" => self.call_masked(name, args, |memory| mask_entries(memory, args[1], args[4])),
            "clock_time_get" => self.call_masked(name, args, |memory| mask(memory, args[2], 8)),
            "random_get" => self.call_masked(name, args, |memory| mask(memory, args[0], args[1])),
            _ => self.call_masked(name, args, |_| {}),
        }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        for machine in &mut self.machines {
            machine.put(at, bytes);
        }
        self.log.push(format!("put {at:x} {:?}", String::from_utf8_lossy(bytes)));
    }

    fn finish(mut self) -> BTreeSet<String> {
        assert_eq!(self.machines[0].stdout(), self.machines[1].stdout(), "{}", self.log.join("\n"));
        assert_eq!(self.machines[0].stderr(), self.machines[1].stderr(), "{}", self.log.join("\n"));
        assert_eq!(self.trees[0].list(), self.trees[1].list(), "{}", self.log.join("\n"));
        std::mem::take(&mut self.called)
    }
}

/// So that the helpers for a machine work on both.
impl Machine for Pair {
    fn call(&mut self, name: &str, args: &[u64]) -> Outcome {
        self.call(name, args)
    }

    fn memory(&mut self) -> &mut [u8] {
        self.machines[1].memory()
    }

    fn stdout(&self) -> Vec<u8> {
        self.machines[1].stdout()
    }

    fn stderr(&self) -> Vec<u8> {
        self.machines[1].stderr()
    }
}

impl Pair {
    fn paths(&mut self, path: &str, path2: &str) -> [u64; 4] {
        self.put(PATH, path.as_bytes());
        self.put(PATH2, path2.as_bytes());
        [PATH, path.len() as u64, PATH2, path2.len() as u64]
    }

    fn open_with(&mut self, fd: u64, lookup: u64, path: &str, oflags: u64, rights: u64, fdflags: u64) -> Outcome {
        let [at, len, ..] = self.paths(path, "");
        self.call("path_open", &[fd, lookup, at, len, oflags, rights, u64::MAX >> 34, fdflags, OUT])
    }

    fn with_path(&mut self, name: &str, fd: u64, path: &str) -> Outcome {
        let [at, len, ..] = self.paths(path, "");
        self.call(name, &[fd, at, len])
    }

    fn buffers(&mut self, iovs: &[(u32, u32)]) -> [u64; 2] {
        let bytes: Vec<u8> = iovs.iter().flat_map(|(at, len)| [at.to_le_bytes(), len.to_le_bytes()].concat()).collect();
        self.put(IOVS, &bytes);
        [IOVS, iovs.len() as u64]
    }
}

fn mask(memory: &mut [u8], at: u64, len: u64) {
    if len == 0 {
        // A pointer to nothing may point anywhere.
        return;
    }
    memory[usize::try_from(at).unwrap()..][..usize::try_from(len).unwrap()].fill(0);
}

/// Hides the file's number, and times that are of this test.
fn mask_filestat(memory: &mut [u8], at: u64) {
    let at = at & 0xffff_ffff;
    let recent = recent();
    for offset in [8, 40, 48, 56] {
        let place = usize::try_from(at).unwrap() + offset;
        let value = u64::from_le_bytes(memory[place..][..8].try_into().unwrap());
        if offset == 8 || value > recent {
            mask(memory, place as u64, 8);
        }
    }
}

/// Hides the files' numbers in the entries of a directory.
fn mask_entries(memory: &mut [u8], at: u64, used: u64) {
    let (at, used) = (usize::try_from(at & 0xffff_ffff).unwrap(), usize::try_from(used & 0xffff_ffff).unwrap());
    let len = usize::try_from(u32::from_le_bytes(memory[used..][..4].try_into().unwrap())).unwrap();
    let Some(mut entries) = memory.get_mut(at..at + len) else {
        assert_eq!(len, 0);
        return;
    };
    while entries.len() > 8 {
        let end = entries.len().min(16);
        entries[8..end].fill(0);
        if entries.len() < 24 {
            break;
        }
        let name = u32::from_le_bytes(entries[16..20].try_into().unwrap()) as usize;
        entries = entries.get_mut(24 + name..).unwrap_or_default();
    }
}

/// Every descriptor that means something different: streams, both directories, files of all kinds, a directory in a directory, nothing.
fn every_descriptor(pair: &mut Pair) -> Vec<u64> {
    assert_eq!(pair.open_with(3, 1, "file", 0, READ | WRITE, 0), Outcome::Errno(0));
    assert_eq!(pair.open_with(3, 1, "file", 0, READ, 0), Outcome::Errno(0));
    assert_eq!(pair.open_with(3, 1, "file", 0, WRITE, 1), Outcome::Errno(0));
    assert_eq!(pair.open_with(4, 1, "file", 0, READ, 4), Outcome::Errno(0));
    assert_eq!(pair.open_with(3, 1, "sub", DIRECTORY, READ, 0), Outcome::Errno(0));
    assert_eq!(pair.open_with(4, 1, "sub", DIRECTORY, 0, 0), Outcome::Errno(0));
    (0..=10).chain([11, 4096, 0x7fff_ffff, 0xffff_ffff]).collect()
}

#[test]
fn arguments_and_environment() {
    let mut pair = Pair::new();
    for name in ["args_sizes_get", "environ_sizes_get"] {
        for args in [[OUT, OUT + 4], [OUT, OUT], [OUT + 1, OUT + 4], [0xffff_fff0, OUT], [OUT, 0x2_0000]] {
            pair.call(name, &args);
        }
    }
    for name in ["args_get", "environ_get"] {
        for args in [[OUT, DATA], [OUT, 0x1_fffd], [0x1_fff8, DATA], [OUT + 2, DATA], [OUT, OUT], [0x2_0000, DATA], [0xffff_fffc, DATA]] {
            pair.call(name, &args);
        }
    }
    pair.finish();
}

#[test]
fn clocks() {
    let mut pair = Pair::new();
    for id in [0, 1, 2, 3, 4, 0xffff_ffff] {
        for out in [OUT, OUT + 4, 0x1_fffc, 0x2_0000] {
            pair.call("clock_res_get", &[id, out]);
            pair.call("clock_time_get", &[id, 0, out]);
        }
    }
    pair.finish();
}

#[test]
fn exits_signals_yields_random_numbers_and_sockets() {
    let mut pair = Pair::new();
    for status in [0, 1, 125, 126, 127, 255, 256, 0xffff_ffff] {
        pair.call("proc_exit", &[status]);
    }
    for signal in [0, 1, 9, 30, 31, 256] {
        pair.call("proc_raise", &[signal]);
    }
    pair.call("sched_yield", &[]);
    for (at, len) in
        [(DATA, 1000), (DATA + 1, 0), (0x1_ffff, 1), (0x1_ffff, 2), (0xffff_ffff, 0), (0, 0x2_0000), (0, 64 << 20), (0, 0x0400_0001)]
    {
        pair.call("random_get", &[at, len]);
    }
    for fd in every_descriptor(&mut pair) {
        pair.call("sock_accept", &[fd, 0, OUT]);
        pair.call("sock_accept", &[fd, 0xffff, OUT]);
        pair.call("sock_recv", &[fd, IOVS, 0xffff_ffff, 0, OUT, OUT + 4]);
        pair.call("sock_recv", &[fd, IOVS, 1, 4, OUT, OUT + 4]);
        pair.call("sock_send", &[fd, IOVS, 0xffff_ffff, 0, OUT]);
        pair.call("sock_send", &[fd, IOVS, 1, 0xffff, OUT]);
        pair.call("sock_shutdown", &[fd, 3]);
        pair.call("sock_shutdown", &[fd, 4]);
    }
    pair.finish();
}

#[test]
fn what_a_descriptor_is() {
    let mut pair = Pair::new();
    for fd in every_descriptor(&mut pair) {
        for out in [OUT, OUT + 4, OUT + 1, 0x1_fff8] {
            pair.call("fd_fdstat_get", &[fd, out]);
            pair.call("fd_filestat_get", &[fd, out]);
            pair.call("fd_prestat_get", &[fd, out]);
        }
        for len in [0, 2, 3, 4, 0xffff_ffff] {
            pair.call("fd_prestat_dir_name", &[fd, DATA, len]);
        }
        pair.call("fd_prestat_dir_name", &[fd, 0x1_fffe, 3]);
        pair.call("fd_fdstat_set_rights", &[fd, 0, 0]);
        pair.call("fd_fdstat_set_rights", &[fd, u64::MAX, 0]);
        for flags in [0, 1, 4, 5, 2, 8, 16, 31, 32, 0xffff_ffff] {
            pair.call("fd_fdstat_set_flags", &[fd, flags]);
            pair.call("fd_fdstat_get", &[fd, OUT]);
        }
    }
    pair.finish();
}

#[test]
fn advice_space_and_durability() {
    let mut pair = Pair::new();
    for fd in every_descriptor(&mut pair) {
        for (offset, len) in [(0, 0), (0, 10), (5, u64::MAX), (u64::MAX, 1), (1 << 63, 0)] {
            for advice in 0..=6 {
                pair.call("fd_advise", &[fd, offset, len, advice]);
            }
            pair.call("fd_allocate", &[fd, offset, len]);
        }
        pair.call("fd_datasync", &[fd]);
        pair.call("fd_sync", &[fd]);
    }
    pair.finish();
}

#[test]
fn reading_and_seeking() {
    let mut pair = Pair::new();
    for tree in &pair.trees {
        std::fs::write(tree.path("rw/big"), (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    }
    assert_eq!(pair.open_with(3, 1, "big", 0, READ, 0), Outcome::Errno(0));
    let mut fds = every_descriptor(&mut pair);
    fds.push(11);
    for fd in fds {
        for whence in 0..=3 {
            for offset in [0, 5, -3_i64, i64::MAX, i64::MIN, 1 << 40] {
                pair.call("fd_seek", &[fd, offset.cast_unsigned(), whence, OUT]);
                pair.call("fd_tell", &[fd, OUT]);
                let [iovs, count] = pair.buffers(&[(0x4000, 0), (0x4001, 7), (0x5000, 100)]);
                pair.call("fd_read", &[fd, iovs, count, OUT]);
            }
        }
        pair.call("fd_seek", &[fd, 0, 0, OUT]);
        for iovs in
            [vec![], vec![(0, 0)], vec![(0x4000, 0xffff)], vec![(0x4000, 0x1_c000)], vec![(0x4000, 0x1_c001)], vec![(0x4000, 9 << 28)]]
        {
            let [iovs, count] = pair.buffers(&iovs);
            pair.call("fd_read", &[fd, iovs, count, OUT]);
            for offset in [0, 3, 12, 13, 100, 399_999, 400_000, u64::MAX, 1 << 63] {
                pair.call("fd_pread", &[fd, iovs, count, offset, OUT]);
            }
        }
        for (iovs, count, out) in
            [(IOVS + 1, 1, OUT), (0x1_fffc, 1, OUT), (IOVS, 1, OUT + 1), (IOVS, 1, 0x2_0000), (0, 0xffff_ffff, OUT), (0, 1 << 25, OUT)]
        {
            pair.call("fd_read", &[fd, iovs, count, out]);
            pair.call("fd_pread", &[fd, iovs, count, 0, out]);
        }
        pair.call("fd_seek", &[fd, 0, 0, 0x2_0000]);
        pair.call("fd_tell", &[fd, OUT + 4]);
    }
    pair.finish();
}

#[test]
fn standard_input_to_its_end() {
    let mut pair = Pair::new();
    for len in [0, 5, 0, 10, 1000, 0, 10] {
        let [iovs, count] = pair.buffers(&[(0x4000, len)]);
        pair.call("fd_read", &[0, iovs, count, OUT]);
    }
    pair.finish();
}

#[test]
fn writing() {
    let mut pair = Pair::new();
    for fd in every_descriptor(&mut pair) {
        pair.put(DATA, b"0123456789abcdef");
        for iovs in [vec![(0x4000, 4)], vec![(0, 0), (0x4004, 3), (0x4000, 2)], vec![], vec![(0, 0)], vec![(0x1_fff0, 0x11)]] {
            let [iovs, count] = pair.buffers(&iovs);
            pair.call("fd_write", &[fd, iovs, count, OUT]);
            pair.call("fd_tell", &[fd, OUT]);
            for offset in [0, 20, 1 << 63, u64::MAX] {
                pair.call("fd_pwrite", &[fd, iovs, count, offset, OUT]);
                pair.call("fd_tell", &[fd, OUT]);
            }
        }
        pair.call("fd_fdstat_set_flags", &[fd, 1]);
        let [iovs, count] = pair.buffers(&[(0x4000, 4)]);
        pair.call("fd_write", &[fd, iovs, count, OUT]);
        pair.call("fd_pwrite", &[fd, iovs, count, 1, OUT]);
        pair.call("fd_tell", &[fd, OUT]);
        pair.call("fd_fdstat_set_flags", &[fd, 0]);
        pair.call("fd_write", &[fd, iovs, count, OUT]);
        for size in [0, 3, 100, u64::MAX, 1 << 63] {
            pair.call("fd_filestat_set_size", &[fd, size]);
            pair.call("fd_filestat_get", &[fd, OUT]);
        }
    }
    pair.finish();
}

#[test]
fn more_output_than_is_taken() {
    let mut pair = Pair::new();
    for len in [4096, 4095, 1000, 5000, 1] {
        let [iovs, count] = pair.buffers(&[(0x4000, len)]);
        pair.call("fd_write", &[1, iovs, count, OUT]);
    }
    let [iovs, count] = pair.buffers(&[(0x4000, 0x8000)]);
    pair.call("fd_write", &[2, iovs, count, OUT]);
    pair.finish();
}

#[test]
fn closing_and_renumbering() {
    let mut pair = Pair::new();
    let fds = every_descriptor(&mut pair);
    for from in &fds {
        for to in &fds {
            pair.call("fd_renumber", &[*from, *to]);
            for fd in 0..12 {
                pair.call("fd_fdstat_get", &[fd, OUT]);
            }
        }
    }
    pair.finish();
    let mut pair = Pair::new();
    every_descriptor(&mut pair);
    for fd in [5, 7, 1, 7, 99, 0, 10] {
        pair.call("fd_close", &[fd]);
    }
    for _ in 0..8 {
        pair.open_with(3, 1, "file", 0, READ, 0);
    }
    pair.call("fd_close", &[3]);
    pair.open_with(3, 1, "file", 0, READ, 0);
    pair.open_with(4, 1, "file", 0, READ, 0);
    pair.call("fd_prestat_get", &[3, OUT]);
    pair.finish();
}

#[test]
fn opening() {
    for path in PATHS {
        let mut pair = Pair::new();
        for fd in [3, 4] {
            for lookup in [0, 1] {
                for oflags in 0..16 {
                    for rights in [0, READ, WRITE, READ | WRITE] {
                        if pair.open_with(fd, lookup, path, oflags, rights, 0) == Outcome::Errno(0) {
                            let opened = u64::from(pair.u32(OUT));
                            pair.call("fd_fdstat_get", &[opened, DATA]);
                            pair.call("fd_filestat_get", &[opened, DATA]);
                            let [iovs, count] = pair.buffers(&[(0x4000, 16)]);
                            pair.call("fd_read", &[opened, iovs, count, OUT]);
                            pair.call("fd_write", &[opened, iovs, count, OUT]);
                            pair.call("fd_close", &[opened]);
                        }
                    }
                }
            }
        }
        pair.finish();
    }
    let mut pair = Pair::new();
    for fd in every_descriptor(&mut pair) {
        pair.open_with(fd, 1, "inner", 0, READ, 0);
        pair.open_with(fd, 2, "inner", 0, READ, 0);
        pair.open_with(fd, 1, "inner", 16, READ, 0);
        pair.open_with(fd, 1, "inner", 0, 1 << 30, 0);
        for flags in 0..=32 {
            pair.open_with(fd, 1, "inner", 0, READ, flags);
        }
    }
    pair.finish();
}

/// Paths that lead somewhere, nowhere, around and out.
const PATHS: [&str; 60] = [
    "",
    ".",
    "..",
    "/",
    "./",
    "../",
    "//",
    "file",
    "file/",
    "file/.",
    "./file",
    "file/..",
    "new",
    "new/",
    "new/.",
    "sub",
    "sub/",
    "sub/.",
    "sub/..",
    "sub/../..",
    "sub/inner",
    "sub//inner",
    "sub/inner/",
    "sub/../file",
    "sub/../../rw/file",
    "sub/../../outside/secret",
    "void",
    "void/",
    "void/..",
    "empty",
    "link",
    "link/",
    "link/.",
    "linkdir",
    "linkdir/",
    "linkdir/inner",
    "linkslash",
    "linkslash/inner",
    "chain",
    "dangling",
    "dangling/",
    "loop",
    "loop/",
    "loop1",
    "out",
    "outdir",
    "outdir/",
    "outdir/secret",
    "inout",
    "abs",
    "absdir",
    "absdir/etc/passwd",
    "proc",
    "sub/up",
    "sub/up/file",
    "sub/upout",
    "back",
    "/etc/passwd",
    "file\0",
    "nowhere/below",
];

#[test]
fn attributes_of_paths() {
    for path in PATHS {
        let mut pair = Pair::new();
        for fd in [3, 4] {
            for lookup in 0..=2 {
                let [at, len, ..] = pair.paths(path, "");
                pair.call("path_filestat_get", &[fd, lookup, at, len, OUT]);
                for (atim, mtim, flags) in
                    [(5_000_000_007, 6, 5), (1, 2, 10), (1, 2, 1), (9, u64::MAX, 4), (1, 2, 3), (1, 2, 12), (1, 2, 0), (1, 2, 16)]
                {
                    pair.call("path_filestat_set_times", &[fd, lookup, at, len, atim, mtim, flags]);
                    pair.call("path_filestat_get", &[fd, lookup, at, len, OUT]);
                }
            }
            let [at, len, ..] = pair.paths(path, "");
            for size in [0, 1, 3, 4000] {
                pair.call("path_readlink", &[fd, at, len, DATA, size, OUT]);
            }
        }
        pair.finish();
    }
    let mut pair = Pair::new();
    for fd in every_descriptor(&mut pair) {
        let [at, len, ..] = pair.paths("inner", "");
        pair.call("path_filestat_get", &[fd, 1, at, len, OUT]);
        pair.call("path_filestat_get", &[fd, 1, at, len, OUT + 4]);
        pair.call("path_filestat_set_times", &[fd, 1, at, len, 0, 0, 5]);
        pair.call("path_readlink", &[fd, at, len, DATA, 100, OUT]);
        for flags in 0..=16 {
            pair.call("fd_filestat_set_times", &[fd, 1_000_000_000, 2_000_000_001, flags]);
            pair.call("fd_filestat_get", &[fd, OUT]);
        }
    }
    pair.finish();
}

#[test]
fn making_and_removing() {
    for name in ["path_create_directory", "path_remove_directory", "path_unlink_file"] {
        for path in PATHS {
            let mut pair = Pair::new();
            pair.with_path(name, 4, path);
            pair.with_path(name, 3, path);
            pair.with_path(name, 3, path);
            pair.finish();
        }
        let mut pair = Pair::new();
        for fd in every_descriptor(&mut pair) {
            pair.with_path(name, fd, "inner");
            pair.with_path(name, fd, "made");
        }
        pair.finish();
    }
}

/// Pairs of paths for what takes two.
const TARGETS: [&str; 15] = [
    "",
    "new",
    "new/",
    "file",
    "sub",
    "void",
    "void/",
    "sub/new",
    "link",
    "linkdir",
    "linkdir/new",
    "dangling",
    "outdir/new",
    "../new",
    "/new",
];

#[test]
fn renaming_and_linking() {
    for old in PATHS {
        let mut pair = Pair::new();
        for new in TARGETS {
            let [at, len, at2, len2] = pair.paths(old, new);
            pair.call("path_rename", &[4, at, len, 3, at2, len2]);
            pair.call("path_rename", &[3, at, len, 4, at2, len2]);
            for lookup in 0..=2 {
                pair.call("path_link", &[3, lookup, at, len, 3, at2, len2]);
                pair.call("path_link", &[4, lookup, at, len, 3, at2, len2]);
            }
            pair.call("path_symlink", &[at, len, 4, at2, len2]);
            pair.call("path_symlink", &[at, len, 3, at2, len2]);
        }
        pair.finish();
        // With nothing changed before.
        for new in ["new", "new/", "void", "linkdir/new", "dangling"] {
            let mut pair = Pair::new();
            let [at, len, at2, len2] = pair.paths(old, new);
            pair.call("path_rename", &[3, at, len, 3, at2, len2]);
            pair.finish();
        }
    }
    let mut pair = Pair::new();
    for fd in every_descriptor(&mut pair) {
        let [at, len, at2, len2] = pair.paths("sub/inner", "renamed");
        pair.call("path_rename", &[fd, at, len, 3, at2, len2]);
        pair.call("path_rename", &[3, at, len, fd, at2, len2]);
        pair.call("path_link", &[fd, 0, at, len, 3, at2, len2]);
        pair.call("path_link", &[3, 0, at, len, fd, at2, len2]);
        pair.call("path_symlink", &[at, len, fd, at2, len2]);
    }
    pair.finish();
}

#[test]
fn listing() {
    let mut pair = Pair::on_disk();
    for name in 0..200 {
        for tree in &pair.trees {
            std::fs::write(tree.path("rw/void").join(format!("entry number {name}")), "").unwrap();
        }
    }
    pair.open_with(3, 1, "void", DIRECTORY, READ, 0);
    for fd in every_descriptor(&mut pair).into_iter().chain([11]) {
        for len in [0, 1, 23, 24, 25, 26, 49, 100, 4096, 0x1_0000] {
            for cookie in [0, 1, 2, 3, 10, 201, 202, 203, 1000, u64::MAX] {
                pair.call("fd_readdir", &[fd, DATA, len, cookie, OUT]);
            }
        }
        pair.call("fd_readdir", &[fd, 0x1_ffff, 100, 0, OUT]);
        pair.call("fd_readdir", &[fd, 0xffff_ffff, 0, 0, OUT]);
    }
    // A name that is no text.
    use std::os::unix::ffi::OsStrExt as _;
    for tree in &pair.trees {
        std::fs::write(tree.path("rw/void").join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    }
    pair.call("fd_readdir", &[5, DATA, 100, 0, OUT]);
    pair.finish();
}

const HOUR: u64 = 3_600_000_000_000;

fn clock(userdata: u64, id: u32, timeout: u64, flags: u16) -> Vec<u8> {
    let mut bytes = [userdata.to_le_bytes(), [0; 8]].concat();
    bytes.extend([id.to_le_bytes(), [0; 4]].concat());
    bytes.extend([timeout.to_le_bytes(), [0; 8]].concat());
    bytes.extend([flags.to_le_bytes().as_slice(), &[0; 6]].concat());
    bytes
}

fn stream(userdata: u64, kind: u8, fd: u64) -> Vec<u8> {
    let mut bytes = userdata.to_le_bytes().to_vec();
    bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(fd.to_le_bytes());
    bytes.resize(48, 0);
    bytes
}

#[test]
fn polling() {
    let mut pair = Pair::new();
    let mut sets: Vec<Vec<Vec<u8>>> = vec![
        vec![],
        vec![clock(7, 0, 1000, 0)],
        vec![clock(7, 1, 1000, 0), clock(8, 1, HOUR, 0)],
        vec![clock(7, 1, 1, 1), clock(8, 0, 1, 1), clock(9, 1, HOUR, 0)],
        vec![clock(7, 2, 0, 0)],
        vec![clock(7, 3, 0, 1)],
        vec![clock(7, 4, 0, 1)],
        vec![clock(7, 1, 0, 2)],
        vec![stream(1, 0, 0), stream(2, 1, 0), stream(3, 2, 1), stream(4, 2, 2), clock(5, 1, HOUR, 0)],
        vec![stream(1, 3, 0)],
        vec![clock(5, 1, 0, 0), stream(1, 1, 0), clock(5, 1, HOUR, 0)],
    ];
    for fd in every_descriptor(&mut pair) {
        sets.push(vec![stream(fd, 1, fd)]);
        sets.push(vec![stream(fd, 2, fd)]);
        sets.push(vec![clock(3, 1, HOUR, 0), stream(fd, 1, fd)]);
    }
    for set in sets {
        pair.put(DATA, &set.concat());
        pair.call("poll_oneoff", &[DATA, DATA + 0x2000, set.len() as u64, OUT]);
        // Events where the subscriptions are.
        pair.put(DATA, &set.concat());
        pair.call("poll_oneoff", &[DATA, DATA, set.len() as u64, OUT]);
        pair.put(DATA, &set.concat());
        pair.call("poll_oneoff", &[DATA + 1, DATA + 0x2000, set.len() as u64, OUT]);
        pair.put(DATA, &set.concat());
        pair.call("poll_oneoff", &[DATA, 0x1_fff8, set.len() as u64, OUT]);
    }
    pair.call("poll_oneoff", &[0x1_ffc0, DATA, 3, OUT]);
    pair.call("poll_oneoff", &[0, DATA, 0xffff_ffff, OUT]);
    pair.finish();
}

/// The numbers of files and all times, which the tests above can't compare: both look at one tree that nobody changes.
#[test]
fn numbers_and_times_of_files() {
    let tree = Tree::on_disk();
    let mut machines: [Box<dyn Machine>; 2] = [Box::new(Theirs::new(&tree)), Box::new(Ours::new(&tree))];
    // Looking at a link may change when it was last looked at, once.
    for path in PATHS {
        for machine in &mut machines {
            let [at, len] = machine.path(path);
            machine.call("path_filestat_get", &[3, 1, at, len, OUT]);
            machine.put(OUT, &[0; 64]);
        }
    }
    let mut seen = 0;
    for path in PATHS.into_iter().filter(|path| !path.contains("new")) {
        for lookup in [0, 1] {
            let stats = machines.each_mut().map(|machine| {
                let [at, len] = machine.path(path);
                let outcome = machine.call("path_filestat_get", &[3, lookup, at, len, OUT]);
                let opened = machine.open(3, path, 0, READ).inspect(|fd| {
                    machine.call("fd_filestat_get", &[*fd, DATA]);
                });
                (outcome, machine.get(OUT, 64), opened, machine.get(DATA, 64))
            });
            seen += usize::from(stats[0].0 == Outcome::Errno(0));
            assert_eq!(stats[0], stats[1], "{path}");
        }
    }
    assert!(seen > 20);
    for fd in [3, 4] {
        let entries = machines.each_mut().map(|machine| {
            assert_eq!(machine.call("fd_readdir", &[fd, DATA, 4096, 0, OUT]), Outcome::Errno(0));
            assert_eq!(machine.call("fd_filestat_get", &[fd, OUT]), Outcome::Errno(0));
            (machine.get(DATA, 4096), machine.get(OUT, 64))
        });
        assert_eq!(entries[0], entries[1]);
    }
}

/// Sequences of calls that nobody thought of.
#[test]
fn random_calls() {
    let rounds: u64 = std::env::var("PREHEAT_WASI_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
    let mut called = BTreeSet::new();
    for seed in 0..rounds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        let mut pair = if seed % 20 == 0 { Pair::on_disk() } else { Pair::new() };
        for _ in 0..80 {
            let function = &preheat_wasi::FUNCTIONS[random.below(46)];
            let old = PATHS[random.below(PATHS.len())];
            let new = if random.below(2) == 0 { PATHS[random.below(PATHS.len())] } else { TARGETS[random.below(TARGETS.len())] };
            let [at, len, at2, len2] = pair.paths(old, new);
            let iovs: Vec<(u32, u32)> = (0..random.below(4))
                .map(|_| (u32::try_from(DATA).unwrap() + random.pick(&[0, 1, 100]), random.pick(&[0, 1, 10, 5000])))
                .collect();
            let [iovs, count] = pair.buffers(&iovs);
            let fd =
                |random: &mut Random| random.pick(&[0, 1, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 10, 11, 12, 0xffff_ffff_u64]);
            let offset = |random: &mut Random| random.pick(&[0, 1, 5, 13, 4096, 1 << 40, 1 << 63, u64::MAX]);
            let fds = [fd(&mut random), fd(&mut random)];
            let (a, b) = (offset(&mut random), offset(&mut random));
            let lookup = random.pick(&[0, 1, 1, 1, 2_u64]);
            let small = random.below(18) as u64;
            let args = match function.name() {
                "args_get" | "environ_get" => vec![OUT, DATA],
                "args_sizes_get" | "environ_sizes_get" => vec![OUT, OUT + 4],
                "clock_res_get" => vec![small / 3, OUT],
                "clock_time_get" => vec![small / 3, a, OUT],
                "fd_advise" => vec![fds[0], a, b, small / 2],
                "fd_allocate" => vec![fds[0], a, b],
                "fd_close" | "fd_datasync" | "fd_sync" => vec![fds[0]],
                "fd_fdstat_get" | "fd_filestat_get" | "fd_prestat_get" | "fd_tell" => vec![fds[0], OUT],
                "fd_fdstat_set_flags" => vec![fds[0], random.pick(&[0, 1, 1, 4, 5, 2, 32])],
                "fd_fdstat_set_rights" => vec![fds[0], small, 0],
                // Small: the machine's disk is not to be filled.
                "fd_filestat_set_size" => vec![fds[0], random.pick(&[0, 1, 5, 100_000])],
                "fd_filestat_set_times" => vec![fds[0], a >> 4, b >> 4, small],
                "fd_pread" => vec![fds[0], iovs, count, a, OUT],
                "fd_pwrite" => vec![fds[0], iovs, count, random.pick(&[0, 1, 5, 100_000, u64::MAX]), OUT],
                "fd_prestat_dir_name" => vec![fds[0], DATA, small],
                "fd_read" | "fd_write" => vec![fds[0], iovs, count, OUT],
                "fd_readdir" => vec![fds[0], DATA, random.pick(&[0, 30, 100, 4096]), small, OUT],
                "fd_renumber" => vec![fds[0], fds[1]],
                "fd_seek" => vec![fds[0], random.pick(&[0, 1, 7, 100_000, 0_u64.wrapping_sub(3), 1 << 63]), small % 4, OUT],
                "path_create_directory" | "path_remove_directory" | "path_unlink_file" => vec![fds[0], at, len],
                "path_filestat_get" => vec![fds[0], lookup, at, len, OUT],
                "path_filestat_set_times" => vec![fds[0], lookup, at, len, a >> 4, b >> 4, small],
                "path_link" => vec![fds[0], lookup / 2, at, len, fds[1], at2, len2],
                "path_open" => vec![
                    fds[0],
                    lookup,
                    at,
                    len,
                    random.pick(&[0, 0, 1, 2, 5, 8, 9, 16]),
                    random.pick(&[0, READ, WRITE, READ | WRITE]),
                    0,
                    random.pick(&[0, 0, 1, 4, 2]),
                    OUT,
                ],
                "path_readlink" => vec![fds[0], at, len, DATA, small, OUT],
                "path_rename" => vec![fds[0], at, len, fds[1], at2, len2],
                "path_symlink" => vec![at, len, fds[0], at2, len2],
                "poll_oneoff" => {
                    // Alone the clock must end; beside others it must not be over while wasmtime looks at them.
                    let time = if small % 4 == 1 { 1 } else { HOUR };
                    pair.put(DATA, &[clock(1, 1, time, 0), stream(2, 1, fds[0]), stream(3, 2, fds[1])].concat());
                    vec![DATA, DATA + 0x1000, small % 4, OUT]
                }
                "proc_exit" => vec![small * 10],
                "proc_raise" | "sock_shutdown" => vec![small, small % 5],
                "random_get" => vec![DATA, small],
                "sched_yield" => vec![],
                "sock_accept" => vec![fds[0], small, OUT],
                "sock_recv" => vec![fds[0], iovs, count, small % 5, OUT, OUT + 4],
                "sock_send" => vec![fds[0], iovs, count, small, OUT],
                other => panic!("{other}"),
            };
            pair.call(function.name(), &args[..function.params().len()]);
        }
        called.extend(pair.finish());
    }
    assert!(rounds < 60 || called.len() == 46);
}

/// Small, and the same everywhere (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 32) % end as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// The signatures are those that wasmtime gives its own functions.
#[test]
fn signatures() {
    let tree = Tree::new();
    let mut linker = wasmtime::Linker::new(engine());
    wasmtime_wasi::p1::add_to_linker_sync(&mut linker, |context: &mut wasmtime_wasi::p1::WasiP1Ctx| context).unwrap();
    let mut store = wasmtime::Store::new(engine(), wasmtime_wasi::WasiCtx::builder().build_p1());
    let mut theirs: Vec<String> = linker
        .iter(&mut store)
        .map(|(module, name, item)| (format!("{module} {name}"), item))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|(name, item)| format!("{name} {}", item.into_func().unwrap().ty(&store)))
        .collect();
    let mut ours_linker = wasmtime::Linker::new(engine());
    link(&mut ours_linker);
    let mut store = wasmtime::Store::new(engine(), preheat_wasi::Context::new(std::sync::Arc::new(tree.grants())));
    let mut ours: Vec<String> = ours_linker
        .iter(&mut store)
        .map(|(module, name, item)| (format!("{module} {name}"), item))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|(name, item)| format!("{name} {}", item.into_func().unwrap().ty(&store)))
        .collect();
    theirs.sort();
    ours.sort();
    assert_eq!(theirs, ours);
}
