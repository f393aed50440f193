//! Host states and records of frozen programs: what is accepted names only what it has, is the same when it is written and read again, opens
//! nothing outside of what is granted, and gives a context that takes calls.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_wasi::{Context, Grants, GuestMemory, HostState, Interrupt, Preopen, Record, Streams, SystemHost, Wake, find};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SECRET: &[u8] = b"what no guest may have in its memory";

static TREE: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("granted/sub")).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), SECRET).unwrap();
    fs::write(dir.path().join("granted/file"), "hello").unwrap();
    for (link, target) in [("link", "file"), ("out", "../outside/secret"), ("outdir", "../outside"), ("abs", "/")] {
        symlink(target, dir.path().join("granted").join(link)).unwrap();
    }
    dir
});

#[repr(align(8))]
struct Memory([u8; 0x1000]);

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::parse(data) {
        assert_eq!(Record::parse(&record.encode()).expect("what was written is a record"), record);
    }
    let Ok(state) = HostState::parse(data) else { return };
    assert_eq!(HostState::parse(&state.encode()).expect("what was written is a state"), state);
    assert!(state.files().count() <= 4096);
    let mut grants = Grants::new();
    for name in state.preopens().take(4) {
        grants = grants.preopen(Preopen::open(&TREE.path().join("granted"), name, false).unwrap());
    }
    let Ok(wake) = Wake::new(Arc::new(state), grants) else { return };
    let streams = Streams { interrupt: Interrupt::never().at(Instant::now() + Duration::from_secs(1)), ..Streams::default() };
    let Ok(mut context) = Context::wake(&wake, Box::new(SystemHost), streams) else { return };
    let mut memory = Memory([0; 0x1000]);
    memory.0[..8].copy_from_slice(&[0, 1, 0, 0, 0, 8, 0, 0]);
    memory.0[0x10..0x14].copy_from_slice(b"file");
    let open: Vec<_> = context.descriptors().map(|(fd, _)| u64::from(fd)).take(32).collect();
    for fd in open {
        for (name, args) in [
            ("fd_fdstat_get", &[fd, 0x20][..]),
            ("fd_filestat_get", &[fd, 0x40]),
            ("fd_prestat_get", &[fd, 0x20]),
            ("fd_pread", &[fd, 0, 1, 0, 0x20]),
            ("fd_read", &[fd, 0, 1, 0x20]),
            ("fd_readdir", &[fd, 0x100, 0x800, 0, 0x20]),
            ("path_open", &[fd, 1, 0x10, 4, 0, 2, 0, 0, 0x20]),
            ("fd_close", &[fd]),
        ] {
            let _ = find(name).unwrap().call(&mut context, &mut GuestMemory::Unshared(&mut memory.0), args);
            assert!(memory.0.windows(SECRET.len()).all(|window| window != SECRET), "the guest has seen the secret");
        }
    }
});
