//! Native code objects in the engine: whatever parses is mapped, linked and instantiated, and all that the instance has is read. No code of
//! it runs, so the text may be anything: modules with a start function are left out, and nothing is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::abi::{NONE, ValueType};
use preheat_image::native::NativeCode;
use preheat_loader::TrustedCode;
use preheat_native::{
    Caller, Config, Engine, Extern, ExternType, Func, Global, Limits, Linker, Memory, Module, Store, Table, Tag, Val,
};
use std::hint::black_box;
use std::sync::LazyLock;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    // What reading all of it takes is bounded.
    let limits = Limits { memory_bytes: 1 << 20, table_entries: 4096, instances: 1, memories: 20, tables: 20 };
    Engine::new(Config { table_reservation: 8192, limits, ..Config::default() }).expect("the native engine can run here")
});

/// Something that fits an import, if that can be made.
fn import(store: &mut Store<()>, ty: ExternType) -> Option<Extern> {
    Some(match ty {
        ExternType::Func(ty) => {
            Extern::Func(Func::new(ty, |_: &mut Caller<'_, ()>, _| Err(preheat_native::Error::Type("not to be called".into()))))
        }
        ExternType::Table(ty) => Extern::Table(Table::new(&mut *store, ty).ok()?),
        ExternType::Memory(ty) => Extern::Memory(Memory::new(&mut *store, ty).ok()?),
        ExternType::Global(ty) => {
            let value = match ty.value {
                ValueType::I32 => Val::I32(1),
                ValueType::I64 => Val::I64(1),
                ValueType::F32 => Val::F32(1),
                ValueType::F64 => Val::F64(1),
                ValueType::V128 => Val::V128(1),
                ValueType::FuncRef => Val::FuncRef(None),
                ValueType::ExternRef => Val::ExternRef(None),
                ValueType::ExnRef => Val::ExnRef(None),
            };
            Extern::Global(Global::new(&mut *store, ty.mutable, &value).ok()?)
        }
        ExternType::Tag(ty) => Extern::Tag(Tag::new(&mut *store, ty.params().iter().copied()).ok()?),
    })
}

fuzz_target!(|data: &[u8]| {
    match NativeCode::parse(data) {
        Ok(code) if code.header.start.get() == NONE => {}
        _ => return,
    }
    // SAFETY: nothing of it is executed: it has no start function, and none is called here. The file is sealed, so it stays as it was parsed.
    let Ok(code) = (unsafe { TrustedCode::vouch(data, "native") }) else { return };
    let Ok(module) = Module::load(&ENGINE, code) else { return };
    let _ = module.exports().is_ok();
    let Ok(imports) = module.imports() else { return };
    let mut store = Store::new(&ENGINE, ()).expect("an empty store");
    let mut linker = Linker::new();
    for wanted in imports {
        let Some(item) = import(&mut store, wanted.ty) else { return };
        // Two imports may have one name; then the first is what both get.
        let _ = linker.define(wanted.module, wanted.name, item).is_ok();
    }
    let Ok(instance) = linker.instantiate(&mut store, &module) else { return };
    for (_, item) in instance.exports(&store) {
        match item {
            Extern::Func(function) => drop(function.ty(&store)),
            Extern::Table(table) => (0..table.size(&store)).for_each(|index| drop(table.get(&mut store, index))),
            Extern::Memory(memory) => {
                assert_eq!(memory.bytes(&store).len() as u64, memory.size(&store) << 16);
                black_box(memory.bytes(&store).iter().fold(0, |sum: u8, byte| sum ^ byte));
            }
            Extern::Global(global) => drop(global.get(&store)),
            Extern::Tag(tag) => drop(tag.ty().clone()),
        }
    }
});
