//! Tests with functions in text form.

mod counts;
mod digests;
mod graphs;
mod walks;

use super::Signatures;
use wasmparser::{CompositeInnerType, FuncType, FunctionBody, Operator, Parser, Payload, TypeRef, ValType, Validator};

/// The Wasm of a module in text form, which must be valid.
fn module(text: &str) -> Vec<u8> {
    let wasm = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    if let Err(error) = Validator::new().validate_all(&wasm) {
        panic!("{error}\n{text}");
    }
    wasm
}

/// A module with something to call and to throw, and with a function that does `instructions` with a condition as parameter.
fn function(instructions: &str) -> Vec<u8> {
    module(&format!(
        "(module (import \"\" \"f\" (func $f)) (import \"\" \"t\" (table $t 1 funcref)) (tag $e) (func (param i32)\n{instructions}))"
    ))
}

/// The bodies of a module.
fn bodies(wasm: &[u8]) -> Vec<FunctionBody<'_>> {
    let payloads = Parser::new(0).parse_all(wasm).map(Result::unwrap);
    payloads.filter_map(|payload| if let Payload::CodeSectionEntry(body) = payload { Some(body) } else { None }).collect()
}

/// The instructions of a body with their offsets in it.
fn operators<'a>(body: &FunctionBody<'a>) -> Vec<(Operator<'a>, u32)> {
    let reader = body.get_operators_reader().unwrap();
    let relative = |offset: usize| u32::try_from(offset - body.range().start).unwrap();
    reader.into_iter_with_offsets().map(|operator| operator.map(|(operator, offset)| (operator, relative(offset))).unwrap()).collect()
}

/// The signatures of a module as it declares them.
struct Declared {
    types: Vec<FuncType>,
    functions: Vec<u32>,
}

impl Declared {
    fn of(wasm: &[u8]) -> Self {
        let mut declared = Self { types: Vec::new(), functions: Vec::new() };
        for payload in Parser::new(0).parse_all(wasm).map(Result::unwrap) {
            match payload {
                Payload::TypeSection(groups) => {
                    for ty in groups.into_iter().flat_map(|group| group.unwrap().into_types().collect::<Vec<_>>()) {
                        let CompositeInnerType::Func(ty) = ty.composite_type.inner else { panic!("not a function type") };
                        declared.types.push(ty);
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports().map(Result::unwrap) {
                        if let TypeRef::Func(ty) = import.ty {
                            declared.functions.push(ty);
                        }
                    }
                }
                Payload::FunctionSection(functions) => declared.functions.extend(functions.into_iter().map(Result::unwrap)),
                _ => {}
            }
        }
        declared
    }
}

impl Signatures for Declared {
    fn of_type(&self, index: u32) -> (Vec<u8>, Vec<u8>) {
        let number = |ty: &ValType| match ty {
            ValType::I32 => 1,
            ValType::I64 => 2,
            _ => panic!("no other type is in these tests"),
        };
        let ty = &self.types[index as usize];
        (ty.params().iter().map(number).collect(), ty.results().iter().map(number).collect())
    }

    fn of_function(&self, index: u32) -> (Vec<u8>, Vec<u8>) {
        self.of_type(self.functions[index as usize])
    }
}
