//! The same module with instructions that count.

use super::COUNTERS;
use super::plan::{CLOCK, COUNTER, FunctionPlan, Plan, SLOT, SLOTS};
use crate::CompileError;
use crate::flow::{Counters, EdgeKey};
use crate::module::{Body, Module, narrow};
use wasm_encoder::{BlockType, Encode as _, Function, InstructionSink, MemArg, RawSection, Section as _, SectionId, ValType};
use wasmparser::{Operator, Parser, Payload};

/// Writes the module with the counters that are planned.
pub(super) fn rewrite(source: &[u8], module: &Module<'_>, bodies: &[Body<'_>], plan: &Plan) -> Result<Vec<u8>, CompileError> {
    if module.exports.iter().any(|export| export.name == COUNTERS) {
        return Err(CompileError::Limit { what: format!("the name of an export: `{COUNTERS}` is taken") });
    }
    let functions = narrow(module.functions.len(), "the functions")?;
    let memory = narrow(module.memories.len(), "the memories")?;
    let places = Places { memory, record: functions };

    let pages = plan.size.div_ceil(0x1_0000);
    let mut memory_type = Vec::new();
    // It has a maximum.
    memory_type.push(1);
    pages.encode(&mut memory_type);
    pages.encode(&mut memory_type);
    let mut export = Vec::new();
    COUNTERS.encode(&mut export);
    export.push(2);
    memory.encode(&mut export);
    let mut record_type = vec![0x60, 2];
    ValType::I32.encode(&mut record_type);
    ValType::I32.encode(&mut record_type);
    record_type.push(0);
    let types = narrow(module.type_numbers.len(), "the types")?;
    let mut of_record = Vec::new();
    types.encode(&mut of_record);

    let mut code = wasm_encoder::CodeSection::new();
    for (body, function) in bodies.iter().zip(&plan.functions) {
        code.function(&count_in(module, body, function, places)?);
    }
    code.function(&record(places));

    // What is added to each section, which is made if it is not there.
    let mut added: Vec<(SectionId, Vec<u8>)> = vec![
        (SectionId::Type, record_type),
        (SectionId::Function, of_record),
        (SectionId::Memory, memory_type),
        (SectionId::Export, export),
    ];
    let mut wasm = wasm_encoder::Module::HEADER.to_vec();
    let mut coded = false;
    for payload in Parser::new(0).parse_all(source) {
        let payload = payload?;
        let Some((id, range)) = payload.as_section() else { continue };
        if id != SectionId::Custom as u8 {
            // What should have come before it.
            while added.first().is_some_and(|(first, _)| before(*first as u8, id)) {
                let (first, entry) = added.remove(0);
                append(&mut wasm, first as u8, 1, &[], &entry);
            }
        }
        if id == SectionId::Data as u8 && !coded {
            code.append_to(&mut wasm);
            coded = true;
        }
        match payload {
            Payload::CodeSectionStart { .. } => {
                code.append_to(&mut wasm);
                coded = true;
            }
            _ if added.first().is_some_and(|(first, _)| *first as u8 == id) => {
                let (_, entry) = added.remove(0);
                let bytes = &source[range.clone()];
                let mut reader = wasmparser::BinaryReader::new(bytes, range.start);
                let count = reader.read_var_u32()?;
                append(&mut wasm, id, count + 1, &bytes[reader.original_position() - range.start..], &entry);
            }
            _ => RawSection { id, data: &source[range] }.append_to(&mut wasm),
        }
    }
    for (id, entry) in added {
        append(&mut wasm, id as u8, 1, &[], &entry);
    }
    if !coded {
        code.append_to(&mut wasm);
    }
    Ok(wasm)
}

/// Whether a section of the first kind has to be before one of the second.
fn before(one: u8, other: u8) -> bool {
    // Tags are behind memories, the number of data segments is before the code. All others are in the order of their numbers.
    let place = |id: u8| match id {
        13 => 11,
        12 => 19,
        id => 2 * id,
    };
    place(one) < place(other)
}

/// Appends a section with `count` entries: those in `entries`, and `last`.
fn append(wasm: &mut Vec<u8>, id: u8, count: u32, entries: &[u8], last: &[u8]) {
    let mut data = Vec::with_capacity(entries.len() + last.len() + 5);
    count.encode(&mut data);
    data.extend_from_slice(entries);
    data.extend_from_slice(last);
    RawSection { id, data: &data }.append_to(wasm);
}

/// What is added to the module.
#[derive(Clone, Copy)]
struct Places {
    /// The memory of the counters.
    memory: u32,
    /// The function that notes which entry of a table is called.
    record: u32,
}

impl Places {
    fn at(self, offset: u32) -> MemArg {
        MemArg { offset: offset.into(), align: 3, memory_index: self.memory }
    }

    /// Adds what `more` pushes, an i64, to the counter at `place`.
    fn add(self, sink: &mut InstructionSink<'_>, place: u32, more: impl FnOnce(&mut InstructionSink<'_>)) {
        sink.i32_const(0).i32_const(0).i64_load(self.at(place));
        more(sink);
        sink.i64_add().i64_store(self.at(place));
    }

    /// Adds one to the counter at `place`.
    fn count(self, sink: &mut InstructionSink<'_>, place: u32) {
        self.add(sink, place, |sink| {
            sink.i64_const(1);
        });
    }
}

/// A body with instructions that count.
fn count_in(module: &Module<'_>, body: &Body<'_>, plan: &FunctionPlan, places: Places) -> Result<Function, CompileError> {
    let start = body.body.range().start;
    let bytes = body.body.as_bytes();
    let mut locals = Vec::new();
    let ty = module.functions[body.to_validate.index as usize];
    let mut count = narrow(module.types[ty as usize].params.len(), "the parameters")?;
    let mut reader = body.body.get_locals_reader()?;
    for _ in 0..reader.get_count() {
        let (number, ty) = reader.read()?;
        count += number;
        locals.push((number, val_type(ty)?));
    }
    // One more, for conditions and indices that are looked at twice.
    let scratch = count;
    locals.push((1, ValType::I32));
    let mut function = Function::new(locals);

    // It is called for the first time, or once more.
    let mut sink = function.instructions();
    sink.i32_const(0).i64_load(places.at(plan.counter(Counters::ENTRY))).i64_eqz().if_(BlockType::Empty);
    places.count(&mut sink, CLOCK);
    sink.i32_const(0).i32_const(0).i64_load(places.at(CLOCK)).i64_store(places.at(plan.first));
    sink.end();
    places.count(&mut sink, plan.counter(Counters::ENTRY));

    let counter = |offset: u32, arm: u32| {
        let counters = plan.counters.as_ref()?;
        counters.of_edge(EdgeKey { offset, arm }).map(|number| plan.counter(number))
    };
    let mut reader = body.body.get_operators_reader()?;
    while !reader.eof() {
        let (operator, position) = reader.read_with_offset()?;
        let offset = narrow(position - start, "a function body")?;
        let original = &bytes[position - start..reader.original_position() - start];
        let mut sink = function.instructions();
        match operator {
            Operator::BrIf { .. } | Operator::If { .. } => {
                let (otherwise, taken) = (counter(offset, 0), counter(offset, 1));
                if taken.is_some() || otherwise.is_some() {
                    sink.local_tee(scratch);
                }
                if let Some(place) = taken {
                    places.add(&mut sink, place, |sink| {
                        sink.local_get(scratch).i32_const(0).i32_ne().i64_extend_i32_u();
                    });
                }
                if let Some(place) = otherwise {
                    places.add(&mut sink, place, |sink| {
                        sink.local_get(scratch).i32_eqz().i64_extend_i32_u();
                    });
                }
            }
            Operator::BrTable { .. } => {
                if let Some((place, arms)) = plan.tables.get(&offset) {
                    // The default is taken for every index that is too large.
                    let last = (arms - 1).cast_signed();
                    sink.local_tee(scratch);
                    let address = |sink: &mut InstructionSink<'_>| {
                        sink.local_get(scratch).i32_const(last).local_get(scratch).i32_const(last).i32_lt_u().select();
                        sink.i32_const(COUNTER.trailing_zeros().cast_signed()).i32_shl();
                    };
                    address(&mut sink);
                    address(&mut sink);
                    sink.i64_load(places.at(*place)).i64_const(1).i64_add().i64_store(places.at(*place));
                }
            }
            Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => {
                if let Some((place, _)) = plan.calls.get(&offset) {
                    // What was called first is mostly called again.
                    sink.local_tee(scratch).i32_const(0).i64_load(places.at(*place));
                    sink.local_get(scratch).i64_extend_i32_u().i64_const(1).i64_add().i64_eq().if_(BlockType::Empty);
                    places.count(&mut sink, place + COUNTER);
                    sink.else_().i32_const(place.cast_signed()).local_get(scratch).call(places.record).end();
                }
                if let Some(place) = counter(offset, 0) {
                    places.count(&mut sink, place);
                }
            }
            // All others have one edge at most, and no other way on.
            _ => {
                if let Some(place) = counter(offset, 0) {
                    places.count(&mut sink, place);
                }
            }
        }
        function.raw(original.iter().copied());
    }
    Ok(function)
}

/// The type of a local.
fn val_type(ty: wasmparser::ValType) -> Result<ValType, CompileError> {
    use preheat_image::abi::ValueType;
    Ok(match crate::signature::value_type(ty).ok_or_else(|| crate::module::impossible("an unknown local"))? {
        ValueType::I32 => ValType::I32,
        ValueType::I64 => ValType::I64,
        ValueType::F32 => ValType::F32,
        ValueType::F64 => ValType::F64,
        ValueType::V128 => ValType::V128,
        ValueType::FuncRef => ValType::FUNCREF,
        ValueType::ExternRef => ValType::EXTERNREF,
        ValueType::ExnRef => ValType::EXNREF,
    })
}

/// The function that notes in the slots at its first parameter that the table's entry of its second was called.
fn record(places: Places) -> Function {
    let (slots, entry, key) = (0, 1, 2);
    let mut function = Function::new([(1, ValType::I64)]);
    let mut sink = function.instructions();
    sink.local_get(entry).i64_extend_i32_u().i64_const(1).i64_add().local_set(key);
    for slot in 0..SLOTS {
        let (number, count) = (places.at(slot * SLOT), places.at(slot * SLOT + COUNTER));
        sink.local_get(slots).i64_load(number).i64_eqz().if_(BlockType::Empty);
        sink.local_get(slots).local_get(key).i64_store(number);
        sink.end();
        sink.local_get(slots).i64_load(number).local_get(key).i64_eq().if_(BlockType::Empty);
        sink.local_get(slots).local_get(slots).i64_load(count).i64_const(1).i64_add().i64_store(count);
        sink.return_().end();
    }
    // All are taken: the last one loses what it won, and its place in the end.
    let (number, count) = (places.at((SLOTS - 1) * SLOT), places.at((SLOTS - 1) * SLOT + COUNTER));
    sink.local_get(slots).local_get(slots).i64_load(count).i64_const(1).i64_sub().i64_store(count);
    sink.local_get(slots).i64_load(count).i64_eqz().if_(BlockType::Empty);
    sink.local_get(slots).i64_const(0).i64_store(number);
    sink.end().end();
    function
}
