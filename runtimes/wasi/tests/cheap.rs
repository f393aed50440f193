//! What a context costs, counted in allocations. Alone in its process: the counter counts everything.

use preheat_wasi::{Context, Grants, GuestMemory, Input, Output, Preopen, Recording, Streams, SystemHost, Wake, find};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Calls a function that must succeed.
fn call(context: &mut Context, memory: &mut GuestMemory<'_>, name: &str, args: &[u64]) {
    assert_eq!(find(name).unwrap().call(context, memory, args), Ok(0), "{name}");
}

/// One test: the counter counts all threads.
#[test]
fn nothing_is_allocated_that_the_guest_has_not_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "contents").unwrap();
    let preopen = Preopen::open(dir.path(), "/", true).unwrap();
    let grants = Arc::new(Grants::new().args(["program", "argument"]).env("NAME", "value").preopen(preopen));
    let input = bytes::Bytes::from_static(&[b'x'; 1000]);
    let (mut output, buffer) = (Output::Discard, Output::buffer(1 << 20).1);
    let mut memory = vec![0_u8; 1 << 16];
    let start = memory.as_ptr().align_offset(8);
    let mut memory = GuestMemory::Unshared(&mut memory[start..(1 << 16) - 8]);
    // Other threads of the test runner open some too, but not below our directory.
    let open_files = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| link.starts_with(dir.path())).count()
    };
    let files = open_files();

    // A list of one buffer: 1000 bytes at 0x1000. The clock's start and the like are made once in a process.
    memory.write(wiggle::GuestPtr::<u32>::new(0), 0x1000).unwrap();
    memory.write(wiggle::GuestPtr::<u32>::new(4), 1000).unwrap();
    drop(Context::new(Arc::clone(&grants)));

    // A program that asks for its arguments, its directories and its streams, reads, computes and writes.
    let whole = Region::new(ALLOCATOR);
    let mut context = Context::new(Arc::clone(&grants));
    context.set_stdin(Input::Bytes(input.clone()));
    context.set_stdout(std::mem::take(&mut output));
    let region = Region::new(ALLOCATOR);
    for (name, args) in [
        ("args_sizes_get", &[0x10, 0x14][..]),
        ("args_get", &[0x20, 0x100]),
        ("environ_sizes_get", &[0x10, 0x14]),
        ("environ_get", &[0x20, 0x100]),
        ("fd_prestat_get", &[3, 0x10]),
        ("fd_prestat_dir_name", &[3, 0x10, 1]),
        ("fd_fdstat_get", &[1, 0x40]),
        ("fd_fdstat_get", &[3, 0x40]),
        ("clock_time_get", &[0, 0, 0x10]),
        ("clock_time_get", &[1, 0, 0x10]),
        ("random_get", &[0x100, 16]),
        ("fd_read", &[0, 0, 1, 0x10]),
        ("fd_read", &[0, 0, 1, 0x10]),
        ("fd_write", &[1, 0, 1, 0x10]),
        ("sched_yield", &[]),
    ] {
        call(&mut context, &mut memory, name, args);
        assert_eq!(region.change().allocations, 0, "{name}: {:?}", region.change());
    }
    // Errors that the guest sees cost nothing either.
    assert_eq!(find("fd_prestat_get").unwrap().call(&mut context, &mut memory, &[4, 0x10]), Ok(8));
    assert_eq!(find("fd_seek").unwrap().call(&mut context, &mut memory, &[1, 0, 0, 0x10]), Ok(70));
    assert_eq!(region.change().allocations, 0, "{:?}", region.change());
    drop(context);
    assert_eq!(whole.change().allocations, 0, "{:?}", whole.change());

    // With output that is kept: the bytes and nothing else.
    let (stdout, kept) = Output::buffer(1 << 20);
    let region = Region::new(ALLOCATOR);
    let mut context = Context::new(Arc::clone(&grants));
    context.set_stdout(stdout);
    call(&mut context, &mut memory, "fd_write", &[1, 0, 1, 0x10]);
    assert_eq!(region.change().allocations, 1, "{:?}", region.change());
    assert_eq!(kept.take().len(), 1000);
    drop((context, buffer));

    // A program that is woken with nothing open, and reads its late variables and random bytes: what it opens is allocated.
    let recorded = Context::with_host(Arc::new(Grants::new().args(["program"]).late_env("KEY")), Box::new(Recording::new([0; 32], 0)));
    let state = Arc::new(recorded.host_state().unwrap());
    let wake = Wake::new(state, Grants::new().env("KEY", "value")).unwrap();
    let region = Region::new(ALLOCATOR);
    let mut context = Context::wake(&wake, Box::new(SystemHost), Streams::default()).unwrap();
    call(&mut context, &mut memory, "clock_time_get", &[1, 0, 0x10]);
    call(&mut context, &mut memory, "environ_get", &[0x20, 0x100]);
    call(&mut context, &mut memory, "random_get", &[0x100, 16]);
    assert_eq!(region.change().allocations, 0, "{:?}", region.change());
    memory.copy_from_slice(b"random", wiggle::GuestPtr::<[u8]>::new((0x200, 6))).unwrap();
    call(&mut context, &mut memory, "path_open", &[3, 1, 0x200, 6, 0, 2, 0, 0, 0x10]);
    let region = Region::new(ALLOCATOR);
    call(&mut context, &mut memory, "fd_read", &[4, 0, 1, 0x10]);
    assert_eq!(region.change().allocations, 0, "{:?}", region.change());
    drop(context);

    // Nothing was opened so far; a guest that opens a file has one more.
    assert_eq!(open_files(), files);
    let mut context = Context::new(Arc::clone(&grants));
    memory.copy_from_slice(b"file", wiggle::GuestPtr::<[u8]>::new((0x200, 4))).unwrap();
    call(&mut context, &mut memory, "path_open", &[3, 1, 0x200, 4, 0, 2, 0, 0, 0x10]);
    assert_eq!(open_files(), files + 1);
    drop(context);
    assert_eq!(open_files(), files);

    // What a guest only claims is not allocated.
    let mut context = Context::new(grants);
    let region = Region::new(ALLOCATOR);
    for (name, args) in [
        ("fd_read", &[0, 0, 0xffff_ffff, 0x10][..]),
        ("fd_read", &[0, 0, 0x0100_0000, 0x10]),
        ("fd_write", &[1, 0, 0xffff_ffff, 0x10]),
        ("fd_readdir", &[3, 0x1000, 0xffff_ffff, 0, 0x10]),
        ("fd_readdir", &[3, 0x1000, 100, u64::MAX, 0x10]),
        ("poll_oneoff", &[0, 0, 0xffff_ffff, 0x10]),
        ("poll_oneoff", &[0x1000, 0x1000, 1 << 20, 0x10]),
        ("random_get", &[0x100, 0xffff_ffff]),
        ("random_get", &[0x100, 1 << 26]),
        ("path_open", &[3, 1, 0, 0xffff_ffff, 0, 2, 0, 0, 0x10]),
        ("path_readlink", &[3, 0x200, 4, 0x1000, 0xffff_ffff, 0x10]),
        ("path_symlink", &[0, 0x0700_0000, 3, 0, 0x0700_0000]),
    ] {
        let _ = find(name).unwrap().call(&mut context, &mut memory, args);
    }
    // Listing a directory takes the system's buffer, traps have messages.
    assert!(region.change().bytes_allocated < 200_000, "{:?}", region.change());
}
