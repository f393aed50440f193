//! Changes to modules: results that a Wasm engine may choose are made one, and executed operators are counted.

use crate::operators;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::ops::Range;
use wasm_encoder::{Encode as _, Instruction, MemArg, RawSection, SectionId};
use wasmparser::{BinaryReader, CompositeInnerType, FunctionBody, Operator, Parser, Payload};

/// The bits of a NaN that stands for all.
const NAN_32: u32 = 0x7fc0_0000;
const NAN_64: u64 = 0x7ff8_0000_0000_0000;

/// The name under which the counters of [`count_operators`] are exported.
pub(crate) const COUNTERS: &str = "executed operators";

#[derive(Clone, Copy, PartialEq)]
enum Float {
    F32,
    F64,
    F32x4,
    F64x2,
}

/// Of what kind the result is if the operator may return any of several NaNs.
fn nan_result(operator: &Operator<'_>) -> Option<Float> {
    use Operator as O;
    Some(match operator {
        O::F32Add | O::F32Sub | O::F32Mul | O::F32Div | O::F32Min | O::F32Max | O::F32Sqrt => Float::F32,
        O::F32Ceil | O::F32Floor | O::F32Trunc | O::F32Nearest | O::F32DemoteF64 => Float::F32,
        O::F64Add | O::F64Sub | O::F64Mul | O::F64Div | O::F64Min | O::F64Max | O::F64Sqrt => Float::F64,
        O::F64Ceil | O::F64Floor | O::F64Trunc | O::F64Nearest | O::F64PromoteF32 => Float::F64,
        O::F32x4Add | O::F32x4Sub | O::F32x4Mul | O::F32x4Div | O::F32x4Min | O::F32x4Max | O::F32x4Sqrt => Float::F32x4,
        O::F32x4Ceil | O::F32x4Floor | O::F32x4Trunc | O::F32x4Nearest | O::F32x4DemoteF64x2Zero => Float::F32x4,
        O::F32x4RelaxedMadd | O::F32x4RelaxedNmadd | O::F32x4RelaxedMin | O::F32x4RelaxedMax => Float::F32x4,
        O::F64x2Add | O::F64x2Sub | O::F64x2Mul | O::F64x2Div | O::F64x2Min | O::F64x2Max | O::F64x2Sqrt => Float::F64x2,
        O::F64x2Ceil | O::F64x2Floor | O::F64x2Trunc | O::F64x2Nearest | O::F64x2PromoteLowF32x4 => Float::F64x2,
        O::F64x2RelaxedMadd | O::F64x2RelaxedNmadd | O::F64x2RelaxedMin | O::F64x2RelaxedMax => Float::F64x2,
        _ => return None,
    })
}

/// Whether the result does not depend on which NaN the operator gets, once [`nan_result`]s are made one. Then the NaN before it can stay,
/// and chains of operations reach the compiler as chains.
fn takes_any_nan(operator: &Operator<'_>, kind: Float) -> bool {
    use Operator as O;
    match operator {
        O::F32Eq | O::F32Ne | O::F32Lt | O::F32Gt | O::F32Le | O::F32Ge | O::I32TruncSatF32S | O::I64TruncSatF32U => kind == Float::F32,
        O::F64Eq | O::F64Ne | O::F64Lt | O::F64Gt | O::F64Le | O::F64Ge | O::I32TruncSatF64S | O::I64TruncSatF64U => kind == Float::F64,
        O::F32x4Eq | O::F32x4Ne | O::F32x4Lt | O::F32x4Gt | O::F32x4Le | O::F32x4Ge => kind == Float::F32x4,
        O::F64x2Eq | O::F64x2Ne | O::F64x2Lt | O::F64x2Gt | O::F64x2Le | O::F64x2Ge => kind == Float::F64x2,
        // These return one of their operands.
        O::F32x4RelaxedMin | O::F32x4RelaxedMax | O::F64x2RelaxedMin | O::F64x2RelaxedMax => false,
        O::F32DemoteF64 => kind == Float::F64,
        O::F64PromoteF32 => kind == Float::F32,
        O::F32x4DemoteF64x2Zero => kind == Float::F64x2,
        O::F64x2PromoteLowF32x4 => kind == Float::F32x4,
        _ => nan_result(operator) == Some(kind),
    }
}

/// `wasm` with all results that may be any NaN made one NaN.
///
/// # Errors
/// When `wasm` is not valid.
pub(crate) fn canonicalize_nans(wasm: &[u8]) -> Result<Vec<u8>> {
    let params = parameter_counts(wasm)?;
    let rewrite = |index: usize, body: &FunctionBody<'_>| {
        let operators = body.get_operators_reader()?.into_iter_with_offsets().collect::<wasmparser::Result<Vec<_>>>()?;
        if !operators.iter().any(|(operator, _)| nan_result(operator).is_some()) {
            return Ok(None);
        }
        let mut locals = params.get(index).copied().context("a body without function")?;
        for group in body.get_locals_reader()? {
            locals += group?.0;
        }
        let mut output = more_locals(wasm, body, &[0x7d, 0x7c, 0x7b])?;
        for (number, (operator, offset)) in operators.iter().enumerate() {
            let next = operators.get(number + 1);
            output.extend_from_slice(&wasm[*offset..next.map_or(body.range().end, |(_, offset)| *offset)]);
            if let Some(kind) = nan_result(operator)
                && next.is_none_or(|(next, _)| !takes_any_nan(next, kind))
            {
                canonicalize(kind, locals, &mut output);
            }
        }
        Ok(Some(output))
    };
    rewrite_bodies(wasm, rewrite).map(|bodies| replace(wasm, &[(SectionId::Code, &section_of(&bodies))]))?
}

/// Makes the NaN on the stack the one that stands for all. The locals from `first` on are one of each type.
fn canonicalize(kind: Float, first: u32, output: &mut Vec<u8>) {
    let (n32, n64) = (u128::from(NAN_32), u128::from(NAN_64));
    #[expect(clippy::cast_possible_wrap, reason = "the encoder wants the bits as a signed number")]
    let (local, nan, equal, choose) = match kind {
        Float::F32 => (first, Instruction::F32Const(f32::from_bits(NAN_32).into()), Instruction::F32Eq, Instruction::Select),
        Float::F64 => (first + 1, Instruction::F64Const(f64::from_bits(NAN_64).into()), Instruction::F64Eq, Instruction::Select),
        Float::F32x4 => {
            let nans = n32 | n32 << 32 | n32 << 64 | n32 << 96;
            (first + 2, Instruction::V128Const(nans as i128), Instruction::F32x4Eq, Instruction::V128Bitselect)
        }
        Float::F64x2 => (first + 2, Instruction::V128Const((n64 | n64 << 64) as i128), Instruction::F64x2Eq, Instruction::V128Bitselect),
    };
    for instruction in [Instruction::LocalTee(local), nan, Instruction::LocalGet(local), Instruction::LocalGet(local), equal, choose] {
        instruction.encode(output);
    }
}

/// A module that counts what it executes, and what its counters mean.
#[derive(Debug)]
pub(crate) struct Counted {
    /// The module, which exports a memory of 64-bit counters as [`COUNTERS`].
    pub(crate) wasm: Vec<u8>,
    /// For each counter the numbers of the operators that are executed once whenever it is incremented.
    pub(crate) counters: Vec<Vec<usize>>,
    /// For each counter the own function that it is in, from 0.
    pub(crate) functions: Vec<usize>,
}

/// `wasm` with counters. An operator counts when it was executed without a trap; `unreachable` and those that leave count when they are
/// reached.
///
/// # Errors
/// When `wasm` is not valid.
pub(crate) fn count_operators(wasm: &[u8]) -> Result<Counted> {
    let memory = memories(wasm)?;
    let mut counters: Vec<Vec<usize>> = Vec::new();
    let mut functions = Vec::new();
    let bodies = rewrite_bodies(wasm, |function, body| {
        let operators = body.get_operators_reader()?.into_iter_with_offsets().collect::<wasmparser::Result<Vec<_>>>()?;
        let mut output = more_locals(wasm, body, &[])?;
        let mut pending = Vec::new();
        let mut flush = |pending: &mut Vec<usize>, output: &mut Vec<u8>| {
            if !pending.is_empty() {
                increment(counters.len(), memory, output);
                counters.push(std::mem::take(pending));
                functions.push(function);
            }
        };
        for (number, (operator, offset)) in operators.iter().enumerate() {
            let bytes = &wasm[*offset..operators.get(number + 1).map_or(body.range().end, |(_, offset)| *offset)];
            // Counted before control may leave, and behind what may trap.
            pending.push(operators::number(operator));
            if changes_control(operator) {
                flush(&mut pending, &mut output);
            }
            output.extend_from_slice(bytes);
            if may_trap(operator) {
                flush(&mut pending, &mut output);
            }
        }
        Ok(Some(output))
    })?;
    let pages = (counters.len() * 8).div_ceil(0x1_0000).max(1);
    let mut memory_entry = vec![0];
    pages.encode(&mut memory_entry);
    let memory_section = with_entry(section(wasm, SectionId::Memory)?.map(|range| &wasm[range]), &memory_entry)?;
    let export_section = with_export(wasm, COUNTERS, 2, memory)?;
    let replacements =
        [(SectionId::Memory, &*memory_section), (SectionId::Export, &export_section), (SectionId::Code, &section_of(&bodies))];
    Ok(Counted { wasm: replace(wasm, &replacements)?, counters, functions })
}

/// How often each operator was executed, by number, from the memory of counters.
#[must_use]
pub(crate) fn executed(counters: &[Vec<usize>], memory: &[u8]) -> Vec<u64> {
    let mut executed = vec![0; operators::count()];
    for (operators, count) in counters.iter().zip(memory.as_chunks().0) {
        for operator in operators {
            executed[*operator] += u64::from_le_bytes(*count);
        }
    }
    executed
}

/// How often each own function, from 0, executed each operator, by number.
#[must_use]
pub(crate) fn executed_in(counted: &Counted, memory: &[u8]) -> BTreeMap<(usize, usize), u64> {
    let mut executed = BTreeMap::new();
    for ((operators, function), count) in counted.counters.iter().zip(&counted.functions).zip(memory.as_chunks().0) {
        for operator in operators {
            *executed.entry((*function, *operator)).or_default() += u64::from_le_bytes(*count);
        }
    }
    executed
}

/// `wasm` with one more export, of the global `index`.
///
/// # Errors
/// When `wasm` is not valid.
pub(crate) fn export_global(wasm: &[u8], name: &str, index: u32) -> Result<Vec<u8>> {
    replace(wasm, &[(SectionId::Export, &with_export(wasm, name, 3, index)?)])
}

/// The contents of the export section with one more export of a kind.
fn with_export(wasm: &[u8], name: &str, kind: u8, index: u32) -> Result<Vec<u8>> {
    let mut entry = Vec::new();
    name.encode(&mut entry);
    entry.push(kind);
    index.encode(&mut entry);
    with_entry(section(wasm, SectionId::Export)?.map(|range| &wasm[range]), &entry)
}

/// Emits an increment of a counter.
fn increment(counter: usize, memory: u32, output: &mut Vec<u8>) {
    let place = MemArg { offset: counter as u64 * 8, align: 3, memory_index: memory };
    for instruction in [
        Instruction::I32Const(0),
        Instruction::I32Const(0),
        Instruction::I64Load(place),
        Instruction::I64Const(1),
        Instruction::I64Add,
        Instruction::I64Store(place),
    ] {
        instruction.encode(output);
    }
}

/// Whether something else than the next operator in the body may be executed next.
fn changes_control(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::Block { .. }
            | O::Loop { .. }
            | O::If { .. }
            | O::Else
            | O::End
            | O::TryTable { .. }
            | O::Br { .. }
            | O::BrIf { .. }
            | O::BrTable { .. }
            | O::Return
            | O::Unreachable
            | O::Throw { .. }
            | O::ThrowRef
            | O::ReturnCall { .. }
            | O::ReturnCallIndirect { .. }
    )
}

/// Whether an operator may end the function although it is not made for that.
fn may_trap(operator: &Operator<'_>) -> bool {
    use Operator as O;
    match operator {
        O::Call { .. } | O::CallIndirect { .. } | O::I32DivS | O::I32DivU | O::I32RemS | O::I32RemU => true,
        O::I64DivS | O::I64DivU | O::I64RemS | O::I64RemU => true,
        other => {
            let name = operators::name(operators::number(other));
            let has = |part: &str| name.contains(part);
            has(".load") || has(".store") || has(".trunc_f") || (has("table.") || has("memory.")) && !has("size") && !has("grow")
        }
    }
}

/// The bodies of all functions, rewritten if `rewrite` has something for them.
fn rewrite_bodies(wasm: &[u8], mut rewrite: impl FnMut(usize, &FunctionBody<'_>) -> Result<Option<Vec<u8>>>) -> Result<Vec<Vec<u8>>> {
    let mut bodies = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CodeSectionEntry(body) = payload? {
            bodies.push(rewrite(bodies.len(), &body)?.unwrap_or_else(|| wasm[body.range()].to_vec()));
        }
    }
    Ok(bodies)
}

/// The contents of a code section.
pub(crate) fn section_of(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut section = Vec::new();
    bodies.len().encode(&mut section);
    bodies.iter().for_each(|body| body.encode(&mut section));
    section
}

/// The bodies of all functions.
///
/// # Errors
/// When `wasm` is not valid.
pub(crate) fn bodies(wasm: &[u8]) -> Result<Vec<Vec<u8>>> {
    rewrite_bodies(wasm, |_, _| Ok(None))
}

/// `wasm` with other bodies.
///
/// # Errors
/// When `wasm` is not valid.
pub(crate) fn with_bodies(wasm: &[u8], bodies: &[Vec<u8>]) -> Result<Vec<u8>> {
    replace(wasm, &[(SectionId::Code, &section_of(bodies))])
}

/// The beginning of a body: its locals, and one more of each of `types`.
fn more_locals(wasm: &[u8], body: &FunctionBody<'_>, types: &[u8]) -> Result<Vec<u8>> {
    let mut reader = body.get_binary_reader();
    let groups = reader.read_var_u32()? as usize;
    let mut output = Vec::new();
    (groups + types.len()).encode(&mut output);
    output.extend_from_slice(&wasm[reader.original_position()..body.get_operators_reader()?.original_position()]);
    types.iter().for_each(|ty| output.extend_from_slice(&[1, *ty]));
    Ok(output)
}

/// How many parameters the functions have that are not imported.
fn parameter_counts(wasm: &[u8]) -> Result<Vec<u32>> {
    let (mut types, mut functions) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        let CompositeInnerType::Func(ty) = ty.composite_type.inner else { bail!("a type of no function") };
                        types.push(u32::try_from(ty.params().len())?);
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    functions.push(*types.get(ty? as usize).context("a function without type")?);
                }
            }
            _ => {}
        }
    }
    Ok(functions)
}

/// How many memories there are.
fn memories(wasm: &[u8]) -> Result<u32> {
    let mut count = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    count += u32::from(matches!(import?.ty, wasmparser::TypeRef::Memory(_)));
                }
            }
            Payload::MemorySection(section) => count += section.count(),
            _ => {}
        }
    }
    Ok(count)
}

/// Where the contents of a section are.
fn section(wasm: &[u8], id: SectionId) -> Result<Option<Range<usize>>> {
    for payload in Parser::new(0).parse_all(wasm) {
        match payload?.as_section() {
            Some((found, range)) if found == id as u8 => return Ok(Some(range)),
            _ => {}
        }
    }
    Ok(None)
}

/// The contents of a section with one more entry at the end.
fn with_entry(contents: Option<&[u8]>, entry: &[u8]) -> Result<Vec<u8>> {
    let mut reader = BinaryReader::new(contents.unwrap_or(&[0]), 0);
    let count = reader.read_var_u32()? as usize;
    let mut output = Vec::new();
    (count + 1).encode(&mut output);
    output.extend_from_slice(contents.map_or(&[][..], |contents| &contents[reader.original_position()..]));
    output.extend_from_slice(entry);
    Ok(output)
}

/// The order of sections.
fn rank(id: u8) -> Option<usize> {
    [1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11].iter().position(|known| *known == id)
}

/// `wasm` with other contents of some sections, or with new sections. They are in the order of the format.
fn replace(wasm: &[u8], sections: &[(SectionId, &[u8])]) -> Result<Vec<u8>> {
    let mut output = wasm_encoder::Module::new();
    let mut waiting = sections;
    for payload in Parser::new(0).parse_all(wasm) {
        let Some((id, range)) = payload?.as_section() else { continue };
        while let Some(((new, data), rest)) = waiting.split_first()
            && rank(*new as u8) < rank(id)
        {
            output.section(&RawSection { id: *new as u8, data });
            waiting = rest;
        }
        match waiting.split_first() {
            Some(((new, data), rest)) if *new as u8 == id => {
                output.section(&RawSection { id, data });
                waiting = rest;
            }
            _ => {
                output.section(&RawSection { id, data: &wasm[range] });
            }
        }
    }
    for (id, data) in waiting {
        output.section(&RawSection { id: *id as u8, data });
    }
    Ok(output.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(wasm: &[u8]) {
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(wasm).unwrap();
    }

    #[test]
    fn nans_are_made_one_where_they_can_be_seen() {
        let wasm = wat::parse_str(
            r#"(module
                (func (param f32 f32) (result i32) (local i32)
                    (i32.reinterpret_f32 (f32.add (local.get 0) (f32.mul (local.get 0) (local.get 1)))))
                (func (param v128) (result v128) (f64x2.sqrt (local.get 0)))
                (func))"#,
        );
        let wasm = canonicalize_nans(&wasm.unwrap()).unwrap();
        valid(&wasm);
        let all: Vec<String> = bodies_of(&wasm);
        // The product goes straight into the sum; the sum does not go straight into the bits.
        assert_eq!(
            all[0],
            "local.get local.get local.get f32.mul f32.add local.tee f32.const local.get local.get f32.eq select i32.reinterpret_f32 end"
        );
        assert_eq!(all[1], "local.get f64x2.sqrt local.tee v128.const local.get local.get f64x2.eq v128.bitselect end");
        assert_eq!(all[2], "end");
    }

    fn bodies_of(wasm: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                let names =
                    body.get_operators_reader().unwrap().into_iter().map(|operator| operators::name(operators::number(&operator.unwrap())));
                all.push(names.collect::<Vec<_>>().join(" "));
            }
        }
        all
    }

    #[test]
    fn counters_count_what_was_executed() {
        for memories in ["", "(memory 1) (export \"m\" (memory 0))", "(import \"a\" \"m\" (memory 1)) (memory 2)"] {
            let wat = format!(
                r#"(module {memories} (tag $t)
                    (func (export "f") (param i32) (result i32)
                        (if (i32.eqz (local.get 0)) (then (return (i32.div_u (i32.const 1) (local.get 0)))))
                        (drop (i32.clz (local.get 0)))
                        (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                        (i32.popcnt (local.get 0))))"#
            );
            let counted = count_operators(&wat::parse_str(wat).unwrap()).unwrap();
            valid(&counted.wasm);
            let engine = wasmtime::Engine::default();
            let module = wasmtime::Module::new(&engine, &counted.wasm).unwrap();
            for (argument, expected) in [(5, [1, 5, 1, 0]), (0, [0, 0, 0, 0])] {
                let mut store = wasmtime::Store::new(&engine, ());
                let imports =
                    module.imports().map(|_| wasmtime::Memory::new(&mut store, wasmtime::MemoryType::new(1, None)).unwrap().into());
                let imports: Vec<_> = imports.collect();
                let instance = wasmtime::Instance::new(&mut store, &module, &imports).unwrap();
                let f = instance.get_typed_func::<i32, i32>(&mut store, "f").unwrap();
                assert_eq!(f.call(&mut store, argument).is_ok(), argument != 0);
                let memory = instance.get_memory(&mut store, COUNTERS).unwrap();
                let executed = executed(&counted.counters, memory.data(&store));
                let of = |name: &str| operators::supported().find(|number| operators::name(*number) == name).map(|number| executed[number]);
                let found = ["i32.clz", "i32.sub", "i32.popcnt", "i32.div_u"].map(|name| of(name).unwrap());
                assert_eq!(found, expected, "{memories} {argument}");
            }
        }
    }
}
