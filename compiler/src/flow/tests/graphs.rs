//! The graph of each construct.

use super::{bodies, function, operators};
use crate::flow::{Graph, site_offsets};

/// The edges of a function: the instruction with its arm, from which block, to which.
fn edges(instructions: &str) -> Vec<String> {
    let wasm = function(instructions);
    let body = bodies(&wasm).remove(0);
    let operators = operators(&body);
    let graph = Graph::new(&body).unwrap();
    let mut lines = Vec::new();
    for edge in graph.edges() {
        let (operator, _) = operators.iter().find(|(_, offset)| *offset == edge.key.offset).unwrap();
        let text = format!("{operator:?}");
        let name = text.split(' ').next().unwrap();
        let block = |block: Option<u32>, none: &str| block.map_or(none.to_owned(), |block| block.to_string());
        lines.push(format!("{name} {}: {} to {}", edge.key.arm, block(edge.from, "thrown"), block(edge.to, "exit")));
    }
    lines
}

/// The names of the instructions of each block.
fn blocks(instructions: &str) -> Vec<String> {
    let wasm = function(instructions);
    let body = bodies(&wasm).remove(0);
    let operators = operators(&body);
    let graph = Graph::new(&body).unwrap();
    let names = |block: &std::ops::Range<u32>| {
        let inside = operators.iter().filter(|(_, offset)| block.contains(offset));
        inside.map(|(operator, _)| format!("{operator:?}").split(' ').next().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    graph.blocks().iter().map(names).collect()
}

#[test]
fn what_only_goes_on_is_one_block() {
    assert_eq!(edges("nop"), ["End 0: 0 to exit"]);
    assert_eq!(edges("block nop call $f end"), ["End 0: 0 to exit"]);
    assert_eq!(blocks("block nop call $f end"), ["Block Nop Call End End"]);
}

#[test]
fn branches_to_the_end_of_a_block_join_what_falls_through() {
    assert_eq!(edges("block local.get 0 br_if 0 nop end"), ["BrIf 0: 0 to 1", "BrIf 1: 0 to 2", "End 0: 1 to 2", "End 0: 2 to exit"]);
    assert_eq!(blocks("block local.get 0 br_if 0 nop end"), ["Block LocalGet BrIf", "Nop End", "End"]);
    // Nothing falls through, so the end has no edge, and the instructions before it no block.
    assert_eq!(edges("block br 0 nop end"), ["Br 0: 0 to 1", "End 0: 1 to exit"]);
    assert_eq!(blocks("block br 0 nop end"), ["Block Br", "End"]);
    // Only what is in a block that can be reached branches.
    assert_eq!(edges("block block br 1 block local.get 0 br_if 1 end end end"), ["Br 0: 0 to 1", "End 0: 1 to exit"]);
}

#[test]
fn loops_have_a_header() {
    assert_eq!(edges("loop nop end"), ["Loop 0: 0 to 1", "End 0: 1 to exit"]);
    assert_eq!(edges("loop local.get 0 br_if 0 end"), ["Loop 0: 0 to 1", "BrIf 0: 1 to 2", "BrIf 1: 1 to 1", "End 0: 2 to exit"]);
    assert_eq!(blocks("loop local.get 0 br_if 0 end"), ["Loop", "LocalGet BrIf", "End End"]);
    assert_eq!(edges("loop br 0 end"), ["Loop 0: 0 to 1", "Br 0: 1 to 1"]);
}

#[test]
fn conditions_have_two_arms() {
    assert_eq!(edges("local.get 0 if nop end"), ["If 0: 0 to 2", "If 1: 0 to 1", "End 0: 1 to 2", "End 0: 2 to exit"]);
    assert_eq!(
        edges("local.get 0 if nop else nop end"),
        ["If 0: 0 to 2", "If 1: 0 to 1", "Else 0: 1 to 3", "End 0: 2 to 3", "End 0: 3 to exit"]
    );
    assert_eq!(blocks("local.get 0 if nop else nop end"), ["LocalGet If", "Nop Else", "Nop End", "End"]);
    // A part that ends elsewhere joins nothing.
    assert_eq!(edges("local.get 0 if return else nop end"), ["If 0: 0 to 2", "If 1: 0 to 1", "Return 0: 1 to exit", "End 0: 2 to exit"]);
    assert_eq!(blocks("local.get 0 if return else nop end"), ["LocalGet If", "Return", "Nop End End"]);
    assert_eq!(
        edges("local.get 0 if nop else return end"),
        ["If 0: 0 to 2", "If 1: 0 to 1", "Else 0: 1 to 3", "Return 0: 2 to exit", "End 0: 3 to exit"]
    );
    assert_eq!(edges("local.get 0 if return end"), ["If 0: 0 to 2", "If 1: 0 to 1", "Return 0: 1 to exit", "End 0: 2 to exit"]);
    assert_eq!(
        edges("local.get 0 if return else return end nop"),
        ["If 0: 0 to 2", "If 1: 0 to 1", "Return 0: 1 to exit", "Return 0: 2 to exit"]
    );
}

#[test]
fn each_entry_of_a_table_is_an_edge() {
    assert_eq!(
        edges("block block local.get 0 br_table 0 1 0 2 end nop end"),
        ["BrTable 0: 0 to 1", "BrTable 1: 0 to 2", "BrTable 2: 0 to 1", "BrTable 3: 0 to exit", "End 0: 1 to 2", "End 0: 2 to exit"]
    );
}

#[test]
fn what_leaves_the_function_goes_to_the_exit() {
    let call = "local.get 0 return_call_indirect $t";
    assert_eq!(edges("local.get 0 br_if 0"), ["BrIf 0: 0 to 1", "BrIf 1: 0 to exit", "End 0: 1 to exit"]);
    assert_eq!(edges("br 0"), ["Br 0: 0 to exit"]);
    assert_eq!(edges("return"), ["Return 0: 0 to exit"]);
    assert_eq!(edges("unreachable"), ["Unreachable 0: 0 to exit"]);
    assert_eq!(edges("throw $e"), ["Throw 0: 0 to exit"]);
    assert_eq!(edges("ref.null exn throw_ref"), ["ThrowRef 0: 0 to exit"]);
    assert_eq!(edges("return_call $f"), ["ReturnCall 0: 0 to exit"]);
    assert_eq!(edges(call), ["ReturnCallIndirect 0: 0 to exit"]);
}

#[test]
fn catch_clauses_have_edges_if_something_may_be_caught() {
    assert_eq!(
        edges("block try_table (catch $e 0) (catch_all 1) call $f end end"),
        ["TryTable 0: thrown to 1", "TryTable 1: thrown to exit", "End 0: 0 to 1", "End 0: 1 to exit"]
    );
    assert_eq!(edges("block try_table (catch $e 0) nop end end"), ["End 0: 0 to exit"]);
    assert_eq!(edges("block try_table (catch $e 0) return_call $f end end"), ["ReturnCall 0: 0 to exit"]);
    assert_eq!(edges("block try_table (catch $e 0) return call $f end end"), ["Return 0: 0 to exit"]);
    assert_eq!(
        edges("block try_table (catch $e 0) throw $e end end"),
        ["TryTable 0: thrown to 1", "Throw 0: 0 to exit", "End 0: 1 to exit"]
    );
    assert_eq!(edges("loop try_table (catch $e 0) call $f end end"), ["Loop 0: 0 to 1", "TryTable 0: thrown to 1", "End 0: 1 to exit"]);
    // A branch to the block itself makes its end a join.
    assert_eq!(
        edges("block try_table (catch_all 0) local.get 0 br_if 0 call $f end end"),
        ["TryTable 0: thrown to 3", "BrIf 0: 0 to 1", "BrIf 1: 0 to 2", "End 0: 1 to 2", "End 0: 2 to 3", "End 0: 3 to exit"]
    );
    // What catches everything lets nothing through to the clauses around it, but what is outside of it does.
    let inner = "try_table (catch_all 1) call $f end";
    assert_eq!(
        edges(&format!("block try_table (catch $e 0) {inner} end end")),
        ["TryTable 0: thrown to 1", "End 0: 0 to 1", "End 0: 1 to exit"]
    );
    assert_eq!(
        edges(&format!("block try_table (catch $e 0) {inner} call $f end end")),
        ["TryTable 0: thrown to 1", "TryTable 0: thrown to 1", "End 0: 0 to 1", "End 0: 1 to exit"]
    );
}

#[test]
fn sites_are_those_that_can_be_reached() {
    let text = "loop local.get 0 if call $f end local.get 0 br_if 0 local.get 0 call_indirect $t
        local.get 0 br_table 0 1 call $f loop local.get 0 br_if 0 end end";
    let wasm = function(text);
    let body = bodies(&wasm).remove(0);
    let operators = operators(&body);
    let found = site_offsets(&body).unwrap();
    let name = |offset: &u32| {
        let (operator, _) = operators.iter().find(|(_, other)| other == offset).unwrap();
        format!("{operator:?}").split(' ').next().unwrap().to_owned()
    };
    assert_eq!(found.iter().map(name).collect::<Vec<_>>(), ["Loop", "If", "Call", "BrIf", "CallIndirect", "BrTable"]);
}

#[test]
fn offsets_count_from_the_declaration_of_locals() {
    let wasm = function("(local i32 i64 i32) return");
    let body = bodies(&wasm).remove(0);
    let graph = Graph::new(&body).unwrap();
    // The number of runs of locals, and three runs of two bytes.
    assert_eq!(graph.edges()[0].key.offset, 7);
    assert_eq!((graph.block_at(6), graph.block_at(7), graph.block_at(8)), (None, Some(0), None));
}
