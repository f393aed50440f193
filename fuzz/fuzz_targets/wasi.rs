//! Any calls of WASI preview 1 with any arguments over any memory: no panic, no wait without an end, nothing outside of the granted directory
//! seen or changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_wasi::{Context, FUNCTIONS, Grants, GuestMemory, Input, Interrupt, Output, Preopen};
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a guest must never have in its memory. Another one each time, or the fuzzer would learn it from the comparisons.
fn secret() -> [u8; 16] {
    u128::to_le_bytes(u128::from(RandomState::new().hash_one(1)) << 64 | u128::from(RandomState::new().hash_one(2)))
}

/// Most bytes of the guest's memory.
const MEMORY: usize = 0x1_0000;

const PATHS: [&str; 24] = [
    "",
    ".",
    "..",
    "/",
    "file",
    "new",
    "sub",
    "sub/file",
    "sub/..",
    "link",
    "out",
    "outdir",
    "outdir/secret",
    "../outside/secret",
    "up/secret",
    "sub/up",
    "sub/up/../outside/secret",
    "loop",
    "abs",
    "abs/etc/passwd",
    "/etc/passwd",
    "file/",
    "new/",
    "a/b/c",
];

struct Tree(TempDir);

impl Tree {
    /// A granted directory, which is made anew, beside one that is not granted.
    fn fresh(&self) -> &Path {
        let granted = self.0.path().join("granted");
        let _ = fs::remove_dir_all(&granted);
        fs::create_dir_all(granted.join("sub")).unwrap();
        fs::write(granted.join("file"), "hello").unwrap();
        fs::write(granted.join("sub/file"), "below").unwrap();
        for (link, target) in [
            ("link", "file"),
            ("out", "../outside/secret"),
            ("outdir", "../outside"),
            ("up", ".."),
            ("sub/up", ".."),
            ("loop", "loop"),
            ("abs", "/"),
        ] {
            symlink(target, granted.join(link)).unwrap();
        }
        self.0.path()
    }
}

static TREE: LazyLock<Tree> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    Tree(dir)
});

/// The rest of the input.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// An argument: a small number, a path or its length, a place in memory, or anything.
    fn argument(&mut self, path: &mut usize) -> Option<u64> {
        Some(match self.next()? {
            byte @ 0..32 => u64::from(byte),
            byte @ 32..64 => {
                *path = usize::from(byte - 32) % PATHS.len();
                0x100 + 0x20 * *path as u64
            }
            64..96 => PATHS[*path].len() as u64,
            byte @ 96..160 => 0x1000 + 8 * u64::from(byte - 96),
            byte @ 160..224 => MEMORY as u64 - 32 + u64::from(byte - 160),
            byte @ 224..250 => 1 << (byte - 224),
            _ => (0..8).try_fold(0, |value, _| Some(value << 8 | u64::from(self.next()?)))?,
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let dir = TREE.fresh();
    let secret = secret();
    fs::write(dir.join("outside/secret"), secret).unwrap();
    let grants = Grants::new()
        .args(["program", "argument"])
        .env("NAME", "value")
        .preopen(Preopen::open(&dir.join("granted"), "/", true).unwrap())
        .preopen(Preopen::open(&dir.join("granted/sub"), "/read-only", false).unwrap());
    let mut context = Context::new(Arc::new(grants));
    context.set_stdin(Input::Bytes(b"standard input".as_slice().into()));
    context.set_stdout(Output::buffer(1000).0);
    context.set_interrupt(Interrupt::never().at(Instant::now() + Duration::from_millis(2)));

    let mut memory = vec![0; MEMORY + 8];
    let start = memory.as_ptr().align_offset(8);
    let memory = &mut memory[start..][..MEMORY];
    for (index, path) in PATHS.iter().enumerate() {
        memory[0x100 + 0x20 * index..][..path.len()].copy_from_slice(path.as_bytes());
    }
    let mut input = Bytes(input);
    let len = usize::from(input.next().unwrap_or_default()).min(input.0.len());
    let (data, calls) = input.0.split_at(len);
    memory[0x1000..][..len].copy_from_slice(data);
    input.0 = calls;
    let mut path = 0;
    'calls: while let Some(function) = input.next() {
        let function = &FUNCTIONS[usize::from(function) % FUNCTIONS.len()];
        let mut args = Vec::new();
        for _ in function.params() {
            let Some(argument) = input.argument(&mut path) else { break 'calls };
            args.push(argument);
        }
        let _ = function.call(&mut context, &mut GuestMemory::Unshared(memory), &args);
    }
    // What is open can be told.
    assert!(context.descriptors().all(|(fd, _)| fd < 4096));

    assert!(memory.windows(secret.len()).all(|window| window != secret), "the guest has seen the secret");
    assert_eq!(fs::read(dir.join("outside/secret")).unwrap(), secret);
    assert_eq!(fs::read_dir(dir.join("outside")).unwrap().count(), 1);
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["granted", "outside"]);
});
