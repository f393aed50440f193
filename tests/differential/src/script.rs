//! What is done with a module: how its exports are called, and what its imports are.

use crate::outcome::Value;
use crate::random::Random;
use anyhow::{Result, bail};
use preheat_native::ValueType;
use std::collections::HashSet;
use wasmparser::{ExternalKind, FuncType, GlobalType, MemoryType, Parser, Payload, RefType, TableType, TypeRef, ValType};

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    /// A value.
    Value(Value),
    /// A reference to the exported function of this name.
    Function(String),
}

/// A call of an export.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) export: String,
    /// With what.
    pub(crate) arguments: Vec<Argument>,
}

/// The type of something imported.
#[derive(Debug, Clone)]
pub(crate) enum Import {
    /// A function by parameters and results.
    Func(Vec<ValueType>, Vec<ValueType>),
    /// A table by elements and limits.
    Table(ValueType, u64, Option<u64>),
    /// A memory by limits.
    Memory(u64, Option<u64>),
    /// A global, and whether it can change.
    Global(ValueType, bool),
    /// A tag.
    Tag(Vec<ValueType>),
}

/// What is done with a module.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// Its imports with their names.
    pub(crate) imports: Vec<(String, String, Import)>,
    /// Its exports that are no functions or tags, which are looked at in the end.
    pub(crate) states: Vec<String>,
    /// The calls, in order.
    pub(crate) calls: Vec<Call>,
}

/// The name under which modules export the global that counts how many functions and iterations of loops may still begin.
pub(crate) const FUEL_EXPORT: &str = "fuel that is left";

/// What that global is set to before each call.
pub(crate) const FUEL: i32 = 1000;

/// Most calls of one module.
const CALLS: usize = 24;

impl Script {
    /// For a module, with arguments that `seed` determines.
    ///
    /// # Errors
    /// When the module is not valid, or imports something twice, which a linker can't tell apart.
    pub(crate) fn new(wasm: &[u8], seed: u64) -> Result<Self> {
        let mut script = Self { imports: Vec::new(), states: Vec::new(), calls: Vec::new() };
        let (mut types, mut functions, mut exported) = (Vec::<FuncType>::new(), Vec::<u32>::new(), Vec::new());
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for ty in section.into_iter_err_on_gc_types() {
                        types.push(ty?);
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        let ty = match import.ty {
                            TypeRef::Func(ty) => {
                                functions.push(ty);
                                let ty = &types[ty as usize];
                                Import::Func(value_types(ty.params())?, value_types(ty.results())?)
                            }
                            TypeRef::Table(TableType { element_type, initial, maximum, .. }) => {
                                Import::Table(value_type(ValType::Ref(element_type))?, initial, maximum)
                            }
                            TypeRef::Memory(MemoryType { initial, maximum, .. }) => Import::Memory(initial, maximum),
                            TypeRef::Global(GlobalType { content_type, mutable, .. }) => Import::Global(value_type(content_type)?, mutable),
                            TypeRef::Tag(tag) => Import::Tag(value_types(types[tag.func_type_idx as usize].params())?),
                            other => bail!("an import of type {other:?}"),
                        };
                        script.imports.push((import.module.into(), import.name.into(), ty));
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        functions.push(ty?);
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        match export.kind {
                            ExternalKind::Func => exported.push((export.name.to_owned(), export.index)),
                            ExternalKind::Tag => {}
                            _ => script.states.push(export.name.to_owned()),
                        }
                    }
                }
                _ => {}
            }
        }
        let names: HashSet<_> = script.imports.iter().map(|(module, name, _)| (module, name)).collect();
        if names.len() < script.imports.len() {
            bail!("two imports of one name");
        }
        let mut random = Random::new(seed, 1);
        let twice = exported.iter().chain(&exported).take(CALLS);
        for (name, index) in twice {
            let ty = &types[functions[*index as usize] as usize];
            let mut argument = |ty| match ty {
                ValueType::FuncRef if random.chance(1, 2) => Argument::Function(random.choose(&exported).0.clone()),
                ty => Argument::Value(value(&mut random, ty)),
            };
            let arguments = value_types(ty.params())?.into_iter().map(&mut argument).collect();
            script.calls.push(Call { export: name.clone(), arguments });
        }
        Ok(script)
    }
}

fn value_types(types: &[ValType]) -> Result<Vec<ValueType>> {
    types.iter().map(|ty| value_type(*ty)).collect()
}

fn value_type(ty: ValType) -> Result<ValueType> {
    Ok(match ty {
        ValType::I32 => ValueType::I32,
        ValType::I64 => ValueType::I64,
        ValType::F32 => ValueType::F32,
        ValType::F64 => ValueType::F64,
        ValType::V128 => ValueType::V128,
        ValType::Ref(ty) if ty == RefType::FUNCREF => ValueType::FuncRef,
        ValType::Ref(ty) if ty == RefType::EXTERNREF => ValueType::ExternRef,
        ValType::Ref(ty) if ty == RefType::EXNREF => ValueType::ExnRef,
        other => bail!("a value of type {other}"),
    })
}

/// 64 bits that are likely to be a border case of something.
pub(crate) fn interesting(random: &mut Random) -> u64 {
    const ALL: [u64; 20] = [
        0,
        1,
        2,
        7,
        8,
        31,
        32,
        63,
        64,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0x8000_0000,
        0x7fff_ffff_ffff_ffff,
        0x8000_0000_0000_0000,
    ];
    match random.below(8) {
        0 => random.next(),
        1 => random.next() >> random.below(64),
        2 => u64::MAX - random.choose(&ALL),
        3 => 1 << random.below(64),
        _ => *random.choose(&ALL),
    }
}

/// The bits of a number in single precision, often a border case.
pub(crate) fn interesting_f32(random: &mut Random) -> u32 {
    const ALL: [f32; 18] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        127.0,
        255.5,
        -128.5,
        65536.0,
        2_147_483_648.0,
        -2_147_483_648.0,
        4_294_967_296.0,
        9_223_372_036_854_775_808.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    match random.below(10) {
        0 => f32::from_bits((random.next() >> 32) as u32).to_bits(),
        1 => 0x7fc0_0000,
        2 => 1,
        3 => f32::MAX.to_bits(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any number will do")]
        4 => ((random.next() as i32) as f32 / 256.0).to_bits(),
        _ => random.choose(&ALL).to_bits(),
    }
}

/// The same in double precision.
pub(crate) fn interesting_f64(random: &mut Random) -> u64 {
    const ALL: [f64; 18] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        127.0,
        255.5,
        -128.5,
        65536.0,
        2_147_483_647.0,
        -2_147_483_648.0,
        4_294_967_295.0,
        9_223_372_036_854_775_808.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    match random.below(10) {
        0 => random.next(),
        1 => 0x7ff8_0000_0000_0000,
        2 => 1,
        3 => f64::MAX.to_bits(),
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        4 => (f64::from(random.next() as i32) / 256.0).to_bits(),
        _ => random.choose(&ALL).to_bits(),
    }
}

/// A value that `random` determines. Functions and exceptions are null.
#[expect(clippy::cast_possible_truncation, reason = "any number will do")]
pub(crate) fn value(random: &mut Random, ty: ValueType) -> Value {
    match ty {
        ValueType::I32 => Value::I32(interesting(random) as i32),
        ValueType::I64 => Value::I64(interesting(random).cast_signed()),
        ValueType::F32 => Value::F32(interesting_f32(random)),
        ValueType::F64 => Value::F64(interesting_f64(random)),
        ValueType::V128 => Value::V128(u128::from(interesting(random)) << 64 | u128::from(interesting(random))),
        ValueType::FuncRef => Value::Func(None),
        ValueType::ExternRef => Value::Extern((random.below(3) > 0).then_some(random.below(1000) as u32)),
        ValueType::ExnRef => Value::Exn(false),
    }
}

/// What a host function returns in the `number`-th call that the guest makes of the host; `None` if it refuses.
#[must_use]
pub(crate) fn host_results(number: usize, results: &[ValueType]) -> Option<Vec<Value>> {
    let mut random = Random::new(number as u64, 2);
    (!random.chance(1, 40)).then(|| results.iter().map(|ty| value(&mut random, *ty)).collect())
}

/// The value of an imported global.
#[must_use]
pub(crate) fn global(import: usize, ty: ValueType) -> Value {
    value(&mut Random::new(import as u64, 3), ty)
}

/// The type of a function in words, the same for both engines.
#[must_use]
pub(crate) fn signature(params: &[ValueType], results: &[ValueType]) -> String {
    format!("{params:?} -> {results:?}")
}
