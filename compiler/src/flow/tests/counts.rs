//! Which edges are counted, and what follows from the counts.

use super::{bodies, function, operators};
use crate::flow::{Counters, EdgeKey, Graph, SiteCounts, sites, solve};

/// The edges of a function that are counted: the instruction with its arm.
fn counted(instructions: &str) -> Vec<String> {
    let wasm = function(instructions);
    let body = bodies(&wasm).remove(0);
    let operators = operators(&body);
    let counters = Counters::new(&Graph::new(&body).unwrap());
    let name = |key: &EdgeKey| {
        let (operator, _) = operators.iter().find(|(_, offset)| *offset == key.offset).unwrap();
        format!("{} {}", format!("{operator:?}").split(' ').next().unwrap(), key.arm)
    };
    counters.edges().iter().map(name).collect()
}

#[test]
fn a_function_without_conditions_counts_its_entries() {
    assert_eq!(counted("call $f block loop nop end end"), Vec::<String>::new());
}

#[test]
fn of_two_arms_one_is_counted() {
    assert_eq!(counted("local.get 0 if nop else nop end"), ["If 1"]);
    assert_eq!(counted("local.get 0 if nop end local.get 0 if nop end").len(), 2);
}

#[test]
fn a_loop_is_counted_once_and_where_it_is_left_rather_than_within() {
    // One of two ways out is counted besides the way around.
    let text = "block loop local.get 0 br_if 1 nop local.get 0 br_if 1 nop br 0 end end";
    let within = ["BrIf 0", "Br 0"];
    let edges = counted(text);
    assert_eq!(edges.len(), 2);
    assert_eq!(edges.iter().filter(|edge| within.contains(&edge.as_str())).count(), 1, "{edges:?}");
}

#[test]
fn what_follows_a_loop_is_not_in_it_even_before_its_end() {
    // The condition behind the branch back is not in the loop, that before it is: each has one arm counted, and so has the way around.
    let text = "loop local.get 0 if nop end local.get 0 br_if 0 local.get 0 if return end end";
    let wasm = function(text);
    let body = bodies(&wasm).remove(0);
    let graph = Graph::new(&body).unwrap();
    let depths = crate::flow::loops::edge_depths(&graph);
    // Into the loop, the arms and the end of a condition, out of it and around, the arms of the other condition, and the ends.
    assert_eq!(depths, [0, 1, 1, 1, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn loops_in_loops_are_deeper() {
    let wasm = function("loop loop local.get 0 br_if 0 end local.get 0 br_if 0 end");
    let body = bodies(&wasm).remove(0);
    // Into each loop; on from the inner one and around it; on from the outer one and around it; and the end.
    assert_eq!(crate::flow::loops::edge_depths(&Graph::new(&body).unwrap()), [0, 1, 1, 2, 0, 1, 0]);
}

#[test]
fn clauses_are_counted_as_there_is_no_way_to_know() {
    assert_eq!(counted("block try_table (catch $e 0) (catch_all 1) call $f end end"), ["TryTable 0", "TryTable 1"]);
}

#[test]
fn counters_are_numbered_from_the_entry() {
    let wasm = function("local.get 0 if nop else nop end");
    let body = bodies(&wasm).remove(0);
    let counters = Counters::new(&Graph::new(&body).unwrap());
    assert_eq!((Counters::ENTRY, counters.count()), (0, 2));
    assert_eq!(counters.of_edge(counters.edges()[0]), Some(1));
    assert_eq!(counters.of_edge(EdgeKey { offset: 0, arm: 0 }), None);
}

#[test]
fn counts_of_other_counters_are_refused() {
    let wasm = function("local.get 0 if nop end");
    let body = bodies(&wasm).remove(0);
    let graph = Graph::new(&body).unwrap();
    assert!(solve(&graph, &[]).is_none());
    assert!(solve(&graph, &[1]).is_none());
    assert!(solve(&graph, &[1, 1]).is_some());
    assert!(solve(&graph, &[1, 1, 1]).is_none());
}

#[test]
fn counts_that_can_not_be_are_made_what_can() {
    let wasm = function("block loop local.get 0 br_if 1 local.get 0 br_if 0 end end");
    let body = bodies(&wasm).remove(0);
    let graph = Graph::new(&body).unwrap();
    let counts = vec![u64::MAX; Counters::new(&graph).count() as usize];
    let flow = solve(&graph, &counts).unwrap();
    assert_eq!(flow.entries(), u64::MAX);
    // More often out of the loop than into it.
    let mut counts = vec![0; counts.len()];
    counts[1] = 5;
    let flow = solve(&graph, &counts).unwrap();
    assert!(graph.edges().iter().all(|edge| flow.edge(edge.key) <= 5));
}

#[test]
fn a_function_that_never_returns_has_run() {
    let wasm = function("loop local.get 0 if call $f end br 0 end");
    let body = bodies(&wasm).remove(0);
    let graph = Graph::new(&body).unwrap();
    let counters = Counters::new(&graph);
    // Entered once, 10 times around, and ended in the call, which was reached 3 times.
    let [way_in, skipped, called, end, back] = [0, 1, 2, 3, 4].map(|position| graph.edges()[position].key);
    let truth = |key| [(way_in, 1), (skipped, 8), (called, 3), (end, 2), (back, 10)].iter().find(|(other, _)| *other == key).unwrap().1;
    let counts: Vec<u64> = [1].into_iter().chain(counters.edges().iter().map(|key| truth(*key))).collect();
    let flow = solve(&graph, &counts).unwrap();
    assert_eq!((flow.entries(), flow.edge(way_in)), (1, 1));
    for edge in graph.edges() {
        assert!(flow.edge(edge.key).abs_diff(truth(edge.key)) <= 1, "{edge:?}");
    }
}

#[test]
fn sites_have_their_counts() {
    let wasm = function(
        "block loop local.get 0 if call $f end local.get 0 call_indirect $t local.get 0 br_if 0
        local.get 0 br_table 0 1 2 end end",
    );
    let body = bodies(&wasm).remove(0);
    let graph = Graph::new(&body).unwrap();
    // Entered 2 times; 5 times around by `br_if`, 3 times by the table; left once by each of the other arms.
    let operators = operators(&body);
    let truth = |key: &EdgeKey| {
        let (operator, _) = operators.iter().find(|(_, offset)| *offset == key.offset).unwrap();
        match (format!("{operator:?}").split(' ').next().unwrap(), key.arm) {
            ("Loop", 0) => 2,
            ("If", 0) => 6,
            ("If", 1) | ("BrTable", 0) => {
                if key.arm == 1 {
                    4
                } else {
                    3
                }
            }
            ("BrIf", 0) | ("BrIf", 1) => 5,
            ("BrTable", _) => 1,
            // That of the condition, and that of the function.
            ("End", 0) => {
                if operators.last().unwrap().1 == key.offset {
                    1
                } else {
                    4
                }
            }
            other => panic!("{other:?}"),
        }
    };
    let counts: Vec<u64> = [2].into_iter().chain(Counters::new(&graph).edges().iter().map(truth)).collect();
    let flow = solve(&graph, &counts).unwrap();
    let found: Vec<SiteCounts> = sites(&graph, &flow).into_iter().map(|site| site.counts).collect();
    assert_eq!(
        found,
        [
            SiteCounts::Reached(10),
            SiteCounts::Branch { reached: 10, taken: 4 },
            SiteCounts::Reached(4),
            SiteCounts::Indirect { reached: 10 },
            SiteCounts::Branch { reached: 10, taken: 5 },
            SiteCounts::Table { arms: vec![3, 1, 1] },
        ]
    );
}
