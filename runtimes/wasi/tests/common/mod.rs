//! A directory tree to try things in, and two machines that do the same calls in one of their own: wasmtime's WASI and ours.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]

use preheat_wasi::{Context, FUNCTIONS, Grants, GuestMemory, Input, MODULE, Output, OutputBuffer, Preopen, Stop, ValueType};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;
use wasmtime::{Engine, Extern, Func, Instance, Linker, Memory, Module, Store, Val, ValType};
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_sync};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, WasiCtx};

pub const STDIN: &[u8] = b"what the guest reads from its standard input";
pub const ARGS: [&str; 3] = ["program", "", "-x \u{e9}"];
pub const ENV: [(&str, &str); 3] = [("HOME", "/rw"), ("EMPTY", ""), ("Z", "a=b")];

/// Guests know `rw` as descriptor 3 and may write; `ro` is 4 and they may not; `outside` is not granted.
pub struct Tree(pub TempDir);

impl Tree {
    /// In memory if there is such a place: some tests make thousands.
    pub fn new() -> Self {
        Self::fill(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    /// On the disk, whose file system has orders, sizes and times of its own.
    pub fn on_disk() -> Self {
        Self::fill(tempfile::tempdir().unwrap())
    }

    fn fill(dir: TempDir) -> Self {
        let tree = Self(dir);
        let outside = tree.path("outside");
        fs::create_dir_all(outside.join("dir")).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        for root in ["rw", "ro"] {
            let root = tree.path(root);
            fs::create_dir_all(root.join("sub/deep")).unwrap();
            fs::create_dir(root.join("void")).unwrap();
            fs::write(root.join("file"), "hello, world\n").unwrap();
            fs::write(root.join("empty"), "").unwrap();
            fs::write(root.join("sub/inner"), "inner").unwrap();
            fs::write(root.join("sub/deep/deepest"), "deepest").unwrap();
            for (link, target) in [
                ("link", "file"),
                ("linkdir", "sub"),
                ("linkslash", "sub/"),
                ("chain", "linkdir/../link"),
                ("dangling", "nowhere"),
                ("loop", "loop"),
                ("loop1", "loop2"),
                ("loop2", "loop1"),
                ("out", "../outside/secret"),
                ("outdir", "../outside"),
                ("inout", "sub/../../outside/secret"),
                ("abs", "/etc/passwd"),
                ("absdir", "/"),
                ("proc", "/proc/self/root"),
                ("sub/up", ".."),
                ("sub/upfile", "../file"),
                ("sub/upout", "../../outside/secret"),
                ("back", "sub/up/file"),
            ] {
                symlink(target, root.join(link)).unwrap();
            }
        }
        tree
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub fn grants(&self) -> Grants {
        let mut grants = Grants::new().args(ARGS);
        for (name, value) in ENV {
            grants = grants.env(name, value);
        }
        grants
            .preopen(Preopen::open(&self.path("rw"), "/rw", true).unwrap())
            .preopen(Preopen::open(&self.path("ro"), "/ro", false).unwrap())
    }

    /// Everything below: kinds, permissions, sizes, links, contents.
    pub fn list(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut dirs = vec![self.0.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let mut what = format!("{:o} {}", metadata.mode(), metadata.nlink());
                if metadata.is_symlink() {
                    write!(what, " -> {}", fs::read_link(&path).unwrap().display()).unwrap();
                } else if metadata.is_dir() {
                    dirs.push(path.clone());
                } else {
                    write!(what, " {:?}", fs::read(&path).unwrap()).unwrap();
                }
                all.insert(path.strip_prefix(self.0.path()).unwrap().to_string_lossy().into_owned(), what);
            }
        }
        all
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Errno(i32),
    Exit(i32),
    Trap,
}

pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(Engine::default)
}

/// A module that exports a memory and, for each function of preview 1, one that does nothing but call it.
fn calls() -> &'static Module {
    static MODULE_: OnceLock<Module> = OnceLock::new();
    MODULE_.get_or_init(|| {
        let mut wat = String::from("(module\n");
        let mut bodies = String::new();
        for function in &FUNCTIONS {
            let name = function.name();
            let params: String =
                function.params().iter().map(|param| if *param == ValueType::I32 { " (param i32)" } else { " (param i64)" }).collect();
            let result = if function.result().is_some() { " (result i32)" } else { "" };
            writeln!(wat, "(import {MODULE:?} {name:?} (func ${name}{params}{result}))").unwrap();
            let gets: String = (0..function.params().len()).map(|index| format!(" (local.get {index})")).collect();
            writeln!(bodies, "(func (export {name:?}){params}{result} (call ${name}{gets}))").unwrap();
        }
        writeln!(wat, "(memory (export \"memory\") 2)\n{bodies})").unwrap();
        Module::new(engine(), wat::parse_str(wat).unwrap()).unwrap()
    })
}

/// Links our functions for a store whose data is a context: what the native engine does, on wasmtime.
pub fn link(linker: &mut Linker<Context>) {
    for function in &FUNCTIONS {
        let types = |types: &[ValueType]| {
            types.iter().map(|each| if *each == ValueType::I32 { ValType::I32 } else { ValType::I64 }).collect::<Vec<_>>()
        };
        let signature = wasmtime::FuncType::new(linker.engine(), types(function.params()), function.result().map(|_| ValType::I32));
        linker
            .func_new(MODULE, function.name(), signature, |mut caller, params, results| {
                let args: Vec<u64> = params
                    .iter()
                    .map(|param| match param {
                        // The upper half of an argument's slot means nothing.
                        Val::I32(value) => u64::from(value.cast_unsigned()) | 0xdead_beef_0000_0000,
                        Val::I64(value) => value.cast_unsigned(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                let memory = caller.get_export("memory").and_then(Extern::into_memory).expect("a memory");
                let (bytes, context) = memory.data_and_store_mut(&mut caller);
                let errno = function.call(context, &mut GuestMemory::Unshared(bytes), &args)?;
                if let Some(result) = results.first_mut() {
                    *result = Val::I32(errno);
                }
                Ok(())
            })
            .unwrap();
    }
}

pub fn outcome(result: wasmtime::Result<i32>) -> Outcome {
    match result {
        Ok(errno) => Outcome::Errno(errno),
        Err(error) => {
            if let Some(wasmtime_wasi::I32Exit(status)) = error.downcast_ref() {
                return Outcome::Exit(*status);
            }
            match error.downcast_ref() {
                Some(Stop::Exit(status)) => Outcome::Exit(i32::try_from(*status).unwrap()),
                Some(Stop::Interrupted) => panic!("interrupted"),
                Some(Stop::Trap(_) | Stop::Freeze) | None => Outcome::Trap,
            }
        }
    }
}

/// Something that does the calls of one guest.
pub trait Machine {
    fn call(&mut self, name: &str, args: &[u64]) -> Outcome;
    fn memory(&mut self) -> &mut [u8];
    fn stdout(&self) -> Vec<u8>;
    fn stderr(&self) -> Vec<u8>;
}

struct Instantiated<T: 'static> {
    store: Store<T>,
    instance: Instance,
    memory: Memory,
}

impl<T: 'static> Instantiated<T> {
    fn new(linker: &Linker<T>, data: T) -> Self {
        let mut store = Store::new(engine(), data);
        let instance = linker.instantiate(&mut store, calls()).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        Self { store, instance, memory }
    }

    fn call(&mut self, name: &str, args: &[u64]) -> Outcome {
        let func: Func = self.instance.get_func(&mut self.store, name).unwrap();
        let ty = func.ty(&self.store);
        #[allow(clippy::cast_possible_truncation, reason = "the lower half is the argument")]
        let args: Vec<Val> = ty
            .params()
            .zip(args)
            .map(|(ty, arg)| if matches!(ty, ValType::I32) { Val::I32(*arg as i32) } else { Val::I64(arg.cast_signed()) })
            .collect();
        let mut results = vec![Val::I32(0); ty.results().len()];
        let result = func.call(&mut self.store, &args, &mut results);
        outcome(result.map(|()| results.first().map_or(0, Val::unwrap_i32)))
    }
}

/// wasmtime with its own WASI.
pub struct Theirs {
    machine: Instantiated<WasiP1Ctx>,
    stdout: MemoryOutputPipe,
    stderr: MemoryOutputPipe,
}

/// What both may write to standard output.
pub const OUTPUT: usize = 10_000;

impl Theirs {
    pub fn new(tree: &Tree) -> Self {
        let mut linker = Linker::new(engine());
        add_to_linker_sync(&mut linker, |context| context).unwrap();
        let (stdout, stderr) = (MemoryOutputPipe::new(OUTPUT), MemoryOutputPipe::new(OUTPUT));
        let mut wasi = WasiCtx::builder();
        wasi.args(&ARGS).envs(&ENV).stdin(MemoryInputPipe::new(STDIN)).stdout(stdout.clone()).stderr(stderr.clone());
        wasi.preopened_dir(tree.path("rw"), "/rw", FsPerms::ReadWrite).unwrap();
        wasi.preopened_dir(tree.path("ro"), "/ro", FsPerms::ReadOnly).unwrap();
        Self { machine: Instantiated::new(&linker, wasi.build_p1()), stdout, stderr }
    }
}

impl Machine for Theirs {
    fn call(&mut self, name: &str, args: &[u64]) -> Outcome {
        self.machine.call(name, args)
    }

    fn memory(&mut self) -> &mut [u8] {
        self.machine.memory.data_mut(&mut self.machine.store)
    }

    fn stdout(&self) -> Vec<u8> {
        self.stdout.contents().to_vec()
    }

    fn stderr(&self) -> Vec<u8> {
        self.stderr.contents().to_vec()
    }
}

/// wasmtime with our WASI.
pub struct Ours {
    machine: Instantiated<Context>,
    stdout: OutputBuffer,
    stderr: OutputBuffer,
}

impl Ours {
    pub fn new(tree: &Tree) -> Self {
        let mut linker = Linker::new(engine());
        link(&mut linker);
        let mut context = Context::new(Arc::new(tree.grants()));
        let ((out, stdout), (err, stderr)) = (Output::buffer(OUTPUT), Output::buffer(OUTPUT));
        context.set_stdin(Input::Bytes(STDIN.into()));
        context.set_stdout(out);
        context.set_stderr(err);
        Self { machine: Instantiated::new(&linker, context), stdout, stderr }
    }

    pub fn context(&mut self) -> &mut Context {
        self.machine.store.data_mut()
    }
}

impl Machine for Ours {
    fn call(&mut self, name: &str, args: &[u64]) -> Outcome {
        self.machine.call(name, args)
    }

    fn memory(&mut self) -> &mut [u8] {
        self.machine.memory.data_mut(&mut self.machine.store)
    }

    fn stdout(&self) -> Vec<u8> {
        self.stdout.contents()
    }

    fn stderr(&self) -> Vec<u8> {
        self.stderr.contents()
    }
}

/// Our functions on a byte array, without an engine.
pub struct Bare {
    pub context: Context,
    memory: Vec<u8>,
    start: usize,
}

impl std::fmt::Debug for Bare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.context.fmt(f)
    }
}

impl Bare {
    pub const SIZE: usize = 1 << 17;

    pub fn new(grants: Grants) -> Self {
        let memory = vec![0; Self::SIZE + 8];
        let start = memory.as_ptr().align_offset(8);
        Self { context: Context::new(Arc::new(grants)), memory, start }
    }

    /// Calls and tells everything about the end.
    pub fn run(&mut self, name: &str, args: &[u64]) -> Result<i32, Stop> {
        let memory = &mut self.memory[self.start..][..Self::SIZE];
        preheat_wasi::find(name).unwrap().call(&mut self.context, &mut GuestMemory::Unshared(memory), args)
    }
}

impl Machine for Bare {
    fn call(&mut self, name: &str, args: &[u64]) -> Outcome {
        match self.run(name, args) {
            Ok(errno) => Outcome::Errno(errno),
            Err(Stop::Exit(status)) => Outcome::Exit(i32::try_from(status).unwrap()),
            Err(_) => Outcome::Trap,
        }
    }

    fn memory(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..Self::SIZE]
    }

    fn stdout(&self) -> Vec<u8> {
        Vec::new()
    }

    fn stderr(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Where tests put paths, buffer lists, data and results.
pub const PATH: u64 = 0x100;
pub const PATH2: u64 = 0x1100;
pub const IOVS: u64 = 0x2800;
pub const OUT: u64 = 0x3000;
pub const DATA: u64 = 0x4000;

pub const CREAT: u64 = 1;
pub const DIRECTORY: u64 = 2;
pub const EXCL: u64 = 4;
pub const TRUNC: u64 = 8;
pub const READ: u64 = 1 << 1;
pub const WRITE: u64 = 1 << 6;

/// What tests do often.
pub trait MachineExt: Machine {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.memory()[usize::try_from(at).unwrap()..][..bytes.len()].copy_from_slice(bytes);
    }

    fn get(&mut self, at: u64, len: usize) -> Vec<u8> {
        self.memory()[usize::try_from(at).unwrap()..][..len].to_vec()
    }

    fn u32(&mut self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at, 4).try_into().unwrap())
    }

    fn u64(&mut self, at: u64) -> u64 {
        u64::from_le_bytes(self.get(at, 8).try_into().unwrap())
    }

    /// Writes a path and returns the two arguments.
    fn path(&mut self, path: &str) -> [u64; 2] {
        self.put(PATH, path.as_bytes());
        [PATH, path.len() as u64]
    }

    fn path2(&mut self, path: &str) -> [u64; 2] {
        self.put(PATH2, path.as_bytes());
        [PATH2, path.len() as u64]
    }

    fn iovs(&mut self, iovs: &[(u64, u64)]) -> [u64; 2] {
        for (index, (at, len)) in iovs.iter().enumerate() {
            let mut iov = u32::try_from(*at).unwrap().to_le_bytes().to_vec();
            iov.extend(u32::try_from(*len).unwrap().to_le_bytes());
            self.put(IOVS + 8 * index as u64, &iov);
        }
        [IOVS, iovs.len() as u64]
    }

    /// Opens, following links.
    fn open(&mut self, fd: u64, path: &str, oflags: u64, rights: u64) -> Result<u64, Outcome> {
        let [at, len] = self.path(path);
        match self.call("path_open", &[fd, 1, at, len, oflags, rights, 0, 0, OUT]) {
            Outcome::Errno(0) => Ok(self.u32(OUT).into()),
            other => Err(other),
        }
    }

    fn read(&mut self, fd: u64, len: u64) -> Result<Vec<u8>, Outcome> {
        let [iovs, count] = self.iovs(&[(DATA, len)]);
        match self.call("fd_read", &[fd, iovs, count, OUT]) {
            Outcome::Errno(0) => {
                let len = self.u32(OUT) as usize;
                Ok(self.get(DATA, len))
            }
            other => Err(other),
        }
    }

    fn write(&mut self, fd: u64, bytes: &[u8]) -> Result<u32, Outcome> {
        self.put(DATA, bytes);
        let [iovs, count] = self.iovs(&[(DATA, bytes.len() as u64)]);
        match self.call("fd_write", &[fd, iovs, count, OUT]) {
            Outcome::Errno(0) => Ok(self.u32(OUT)),
            other => Err(other),
        }
    }

    /// Calls a function that takes a directory and a path and nothing else.
    fn at(&mut self, name: &str, fd: u64, path: &str) -> Outcome {
        let [at, len] = self.path(path);
        self.call(name, &[fd, at, len])
    }
}

impl<M: Machine + ?Sized> MachineExt for M {}

/// Whether a file at this path on the host is a file with these contents.
pub fn holds(path: &Path, contents: &str) -> bool {
    fs::read(path).is_ok_and(|found| found == contents.as_bytes())
}
