//! What the tests of capture code and resume objects have in common.

use preheat_compiler::{CompileOptions, Compiler, Site};
use preheat_image::CpuLevel;
use wasmparser::{Operator, Parser, Payload, TypeRef};

/// A compiler with the code generator's verifier on.
pub(crate) fn compiler(cpu: CpuLevel, capture: bool) -> Compiler {
    Compiler::new(CompileOptions { verify: true, capture, ..CompileOptions::new(cpu) }).unwrap()
}

/// All calls of a module by offset, with the functions in which they are; then how many functions are imported.
pub(crate) fn calls(wasm: &[u8]) -> (Vec<Site>, u32) {
    let (mut sites, mut imported, mut function) = (Vec::new(), 0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::ImportSection(imports) => {
                let functions = imports.into_imports().filter(|import| matches!(import.as_ref().unwrap().ty, TypeRef::Func(_)));
                imported = u32::try_from(functions.count()).unwrap();
                function = imported;
            }
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().unwrap().into_iter_with_offsets() {
                    let (operator, offset) = operator.unwrap();
                    if matches!(operator, Operator::Call { .. } | Operator::CallIndirect { .. }) {
                        sites.push(Site { function, offset: u32::try_from(offset).unwrap() });
                    }
                }
                function += 1;
            }
            _ => {}
        }
    }
    (sites, imported)
}

/// A module with these functions, and what they may use.
pub(crate) fn module(functions: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (type $f (func (param i32))) (type $g (func (result i32)))
            (import "m" "f" (func $f (type $f))) (import "m" "g" (func $g (type $g))) (import "m" "x" (func $x (param externref)))
            (table $t 4 funcref) (memory 1) (memory $m 1) (global (mut i64) (i64.const 0)) (tag $e (param i32)) (elem declare func $own)
            (func $own (param i32)) {functions})"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
