//! Arguments and pointers that mean nothing: errors or traps, never a panic, and the context goes on.

mod common;

use common::*;
use preheat_wasi::{FUNCTIONS, Function, Interrupt, Stop, ValueType};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Everything open that there may be, and buffer lists and paths in memory.
fn guest(tree: &Tree) -> Bare {
    let mut guest = Bare::new(tree.grants());
    guest.context.set_interrupt(Interrupt::never().at(Instant::now() + Duration::from_secs(1)));
    guest.open(3, "file", 0, READ | WRITE).unwrap();
    guest.open(4, "file", 0, READ).unwrap();
    guest.open(3, "sub", DIRECTORY, READ).unwrap();
    guest.path("file");
    guest.path2("new");
    guest.iovs(&[(DATA, 100), (DATA + 50, 100), (0xffff_ff00, 0x200)]);
    guest
}

/// Works after whatever was done.
fn still_works(guest: &mut Bare) {
    assert_eq!(guest.call("sched_yield", &[]), Outcome::Errno(0));
    assert_eq!(guest.call("args_sizes_get", &[OUT, OUT + 4]), Outcome::Errno(0));
    assert_eq!(guest.u32(OUT), u32::try_from(ARGS.len()).unwrap());
}

/// Each argument of each function in turn is each of these, while the others are right.
#[test]
fn one_wrong_argument() {
    const WRONG: [u64; 16] = [
        0,
        1,
        2,
        3,
        7,
        0x1_fff0,
        0x1_ffff,
        0x2_0000,
        0x2_0001,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fff8,
        0xffff_ffff,
        1 << 32,
        1 << 63,
        u64::MAX,
    ];
    for function in &FUNCTIONS {
        let tree = Tree::new();
        let mut guest = guest(&tree);
        for index in 0..function.params().len() {
            for wrong in WRONG {
                let mut args = right(function);
                args[index] = wrong;
                let _ = guest.run(function.name(), &args);
            }
        }
        still_works(&mut guest);
    }
}

/// Arguments that work, more or less: a descriptor, then small numbers and places in memory.
fn right(function: &Function) -> Vec<u64> {
    let args: &[u64] = match function.name() {
        "fd_read" | "fd_write" => &[5, IOVS, 2, OUT],
        "fd_pread" | "fd_pwrite" => &[5, IOVS, 2, 0, OUT],
        "fd_readdir" => &[7, DATA, 1000, 0, OUT],
        "path_open" => &[3, 1, PATH, 4, 0, READ, 0, 0, OUT],
        "path_filestat_get" => &[3, 1, PATH, 4, OUT],
        "path_filestat_set_times" => &[3, 1, PATH, 4, 0, 0, 5],
        "path_link" => &[3, 0, PATH, 4, 3, PATH2, 3],
        "path_rename" => &[3, PATH, 4, 3, PATH2, 3],
        "path_symlink" => &[PATH, 4, 3, PATH2, 3],
        "path_readlink" => &[3, PATH, 4, DATA, 100, OUT],
        "path_create_directory" | "path_remove_directory" | "path_unlink_file" => &[3, PATH2, 3],
        "poll_oneoff" => &[DATA + 0x1000, DATA, 1, OUT],
        "random_get" => &[DATA, 16],
        "fd_prestat_dir_name" => &[3, DATA, 3],
        _ => &[5, OUT, DATA, OUT, OUT, OUT],
    };
    args[..function.params().len()].to_vec()
}

/// Memory too small for anything.
#[test]
fn hardly_any_memory() {
    let tree = Tree::new();
    for size in [0, 1, 4, 8] {
        let mut guest = guest(&tree);
        for function in &FUNCTIONS {
            let mut memory = [0_u8; 16];
            let start = memory.as_ptr().align_offset(8).min(8);
            let mut memory = preheat_wasi::GuestMemory::Unshared(&mut memory[start..start + size]);
            for fill in [0, 1, 4, 8, 0xffff_ffff] {
                let args = vec![fill; function.params().len()];
                let _ = function.call(&mut guest.context, &mut memory, &args);
            }
        }
        still_works(&mut guest);
    }
}

/// Buffers that overlap each other, the list of them, or the result.
#[test]
fn overlapping_buffers() {
    let tree = Tree::new();
    let mut guest = guest(&tree);
    // The data go over the list and over the place of the count, which is written last.
    guest.iovs(&[(IOVS, 13)]);
    assert_eq!(guest.call("fd_read", &[5, IOVS, 1, IOVS]), Outcome::Errno(0));
    assert_eq!(guest.u32(IOVS), 13);
    assert_eq!(guest.get(IOVS + 4, 9), b"o, world\n");
    // A path that is also the result.
    guest.path("file");
    assert_eq!(guest.call("path_open", &[3, 1, PATH, 4, 0, READ, 0, 0, PATH]), Outcome::Errno(0));
    assert_eq!(guest.u32(PATH), 8);
    // Events over subscriptions: three clocks that are over.
    guest.put(DATA, &[0; 3 * 48]);
    assert_eq!(guest.call("poll_oneoff", &[DATA, DATA, 3, OUT]), Outcome::Errno(0));
    assert_eq!(guest.u32(OUT), 3);
}

/// Counts that can't be true end at the first thing that is not there.
#[test]
fn huge_counts() {
    let tree = Tree::new();
    let mut guest = guest(&tree);
    for (name, args, expected) in [
        ("fd_read", vec![5, 0, 0xffff_ffff, OUT], Outcome::Errno(48)),
        ("fd_write", vec![5, 0, 0xffff_ffff, OUT], Outcome::Errno(48)),
        // As many empty buffers as there is room for, and one more.
        ("fd_read", vec![5, DATA + 0x1000, 1 << 20, OUT], Outcome::Trap),
        ("poll_oneoff", vec![0, DATA, 0xffff_ffff, OUT], Outcome::Errno(48)),
        ("random_get", vec![DATA, 0xffff_ffff], Outcome::Trap),
        ("path_open", vec![3, 1, PATH, 0xffff_ffff, 0, READ, 0, 0, OUT], Outcome::Errno(48)),
        ("path_open", vec![3, 1, PATH, 1 << 20, 0, READ, 0, 0, OUT], Outcome::Trap),
        ("fd_readdir", vec![3, DATA, 0xffff_ffff, 0, OUT], Outcome::Errno(0)),
    ] {
        assert_eq!(guest.call(name, &args), expected, "{name} {args:x?}");
        still_works(&mut guest);
    }
}

/// The trap says what was wrong.
#[test]
fn traps_have_messages() {
    let tree = Tree::new();
    let mut guest = guest(&tree);
    for (name, args, part) in [
        ("fd_fdstat_get", vec![3, 0x2_0000], "out of bounds"),
        ("fd_fdstat_get", vec![3, 1], "not aligned"),
        ("fd_seek", vec![5, 0, 7, OUT], "Invalid enum value"),
        ("proc_exit", vec![200], "exit status 200"),
        ("random_get", vec![0, 1 << 30], "random bytes"),
    ] {
        match guest.run(name, &args) {
            Err(Stop::Trap(message)) => assert!(message.contains(part), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any function with any arguments, one after the other, over memory that holds anything.
    #[test]
    fn any_arguments(
        calls in prop::collection::vec((0..46usize, prop::collection::vec(slot(), 9)), 1..60),
        garbage in prop::collection::vec(any::<u8>(), 0..4096),
    ) {
        let tree = Tree::new();
        let outside = tree.list();
        let mut guest = guest(&tree);
        guest.context.set_interrupt(Interrupt::never().at(Instant::now() + Duration::from_millis(50)));
        guest.put(DATA, &garbage);
        for (index, args) in calls {
            let function = &FUNCTIONS[index];
            prop_assert!(function.params().iter().all(|param| matches!(param, ValueType::I32 | ValueType::I64)));
            if function.name() == "fd_filestat_set_size" {
                continue;
            }
            let _ = guest.run(function.name(), &args[..function.params().len()]);
        }
        still_works(&mut guest);
        for (path, what) in outside.into_iter().filter(|(path, _)| !path.starts_with("rw")) {
            let now = tree.list();
            prop_assert_eq!(now.get(&path), Some(&what), "{}", path);
        }
    }
}

fn slot() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..12_u64,
        4 => prop::sample::select(vec![PATH, PATH2, IOVS, OUT, DATA, DATA + 8, 0x1_fff8, 0x2_0000]),
        1 => any::<u64>(),
        1 => any::<u32>().prop_map(u64::from),
    ]
}
