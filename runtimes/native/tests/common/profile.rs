//! Programs that count what they do, and programs that are compiled by what they counted.

use super::{compile, engine, load};
use preheat_compiler::{COUNTERS, CompileOptions, Compiler, Instrumented, Passes};
use preheat_image::native::NativeCode;
use preheat_image::profile::{Contribution, FunctionProfile, Method, Profile, Rules, SiteCounts, Summary};
use preheat_image::{CpuLevel, Digest};
use preheat_native::{Engine, Error, Instance, Linker, Store, Val};
use std::sync::Arc;

fn options() -> CompileOptions {
    CompileOptions { verify: true, ..CompileOptions::new(CpuLevel::of_host().unwrap()) }
}

pub(crate) fn compile_steered(wasm: &[u8], profile: &Arc<Summary>, passes: Passes) -> Vec<u8> {
    let compiler = Compiler::new(options()).unwrap().with_profile(Arc::clone(profile), passes);
    compiler.compile(wasm, Digest::of(b"test")).unwrap()
}

/// Lets a module count while `run` uses it, and gives what it counted.
pub(crate) fn count(text: &str, run: impl FnOnce(&mut Store<()>, Instance)) -> Vec<FunctionProfile> {
    count_with(text, (), |_| Linker::new(), run)
}

/// The same for a module that imports something.
pub(crate) fn count_with<T: 'static>(
    text: &str,
    data: T,
    imports: impl FnOnce(&mut Store<T>) -> Linker<T>,
    run: impl FnOnce(&mut Store<T>, Instance),
) -> Vec<FunctionProfile> {
    let wasm = wat::parse_str(text).unwrap();
    let counting = Instrumented::new(&wasm).unwrap();
    let engine = engine();
    let mut store = Store::new(&engine, data).unwrap();
    let module = load(&engine, &compile(counting.wasm()).unwrap()).unwrap();
    let instance = imports(&mut store).instantiate(&mut store, &module).unwrap();
    run(&mut store, instance);
    let counters = instance.memory(&store, COUNTERS).unwrap().bytes(&store).to_vec();
    counting.read(&counters, None).unwrap()
}

/// A profile of which these counts are the only contribution.
pub(crate) fn summary(text: &str, functions: Vec<FunctionProfile>) -> Arc<Summary> {
    let mut profile = Profile::new(Digest::of(&wat::parse_str(text).unwrap()));
    let (contributor, origin) = ("test".to_owned(), "test".to_owned());
    profile.insert(Contribution { contributor, at: 0, method: Method::Counted, origin, calls: 1, functions }).unwrap();
    Arc::new(profile.evaluate(&Rules::new(0)).unwrap())
}

pub(crate) fn call(store: &mut Store<()>, instance: Instance, name: &str, arguments: &[i32]) -> Result<Vec<Val>, Error> {
    let arguments: Vec<Val> = arguments.iter().map(|argument| Val::I32(*argument)).collect();
    let function = instance.func(&*store, name).unwrap();
    function.call(store, &arguments)
}

pub(crate) fn result(store: &mut Store<()>, instance: Instance, name: &str, argument: i32) -> i32 {
    match call(store, instance, name, &[argument]).unwrap()[..] {
        [Val::I32(value)] => value,
        ref other => panic!("{other:?}"),
    }
}

/// All counts of the sites of a function in order.
pub(crate) fn sites(functions: &[FunctionProfile], index: u32) -> Vec<SiteCounts> {
    let function = functions.iter().find(|function| function.index == index).unwrap();
    function.sites.iter().map(|site| site.counts.clone()).collect()
}

/// An instance of the module with a profile of what `run` did, in these passes.
pub(crate) fn steered(engine: &Engine, text: &str, passes: Passes, run: impl FnOnce(&mut Store<()>, Instance)) -> (Store<()>, Instance) {
    let profile = summary(text, count(text, run));
    let code = compile_steered(&wat::parse_str(text).unwrap(), &profile, passes);
    let mut store = Store::new(engine, ()).unwrap();
    let instance = Linker::new().instantiate(&mut store, &load(engine, &code).unwrap()).unwrap();
    (store, instance)
}

/// Each pass alone, all, and none.
pub(crate) fn all_passes() -> Vec<Passes> {
    let alone = Passes::NAMES.map(|name| Passes::NONE.with(name, true).unwrap());
    alone.into_iter().chain([Passes::ALL, Passes::NONE]).collect()
}

/// The text of functions by index: where they are, and their bytes.
pub(crate) fn texts(code: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let native = NativeCode::parse(code).unwrap();
    let text = usize::try_from(native.text.offset).unwrap();
    let own = native.functions.iter().filter_map(|function| {
        let range = native.range(function.code.get())?;
        let start = text + range.start.get() as usize;
        Some((range.start.get(), code[start..start + range.size.get() as usize].to_vec()))
    });
    own.collect()
}

/// Whether a function calls another directly.
pub(crate) fn calls(texts: &[(u32, Vec<u8>)], from: usize, to: usize) -> bool {
    let (start, text) = &texts[from];
    let calls = (*start..).zip(text.windows(5)).filter(|(_, bytes)| bytes[0] == 0xe8);
    calls.into_iter().any(|(place, bytes)| {
        let distance = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        (place + 5).checked_add_signed(distance) == Some(texts[to].0)
    })
}
