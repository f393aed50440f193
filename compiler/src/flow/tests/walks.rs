//! Random walks through random functions, in which everything is counted.
//!
//! The walk knows nothing of blocks and edges: it goes from one instruction to another, as each of them says.

use super::{bodies, function, operators};
use crate::flow::{Counters, EdgeKey, Graph, SiteCounts, sites, solve};
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use wasmparser::{Catch, FunctionBody, Operator};

/// Writes random instructions. When there is no more randomness, it ends everything.
struct Writer<'r> {
    random: std::slice::Iter<'r, u8>,
    text: String,
}

impl Writer<'_> {
    fn next(&mut self) -> u32 {
        self.random.next().copied().unwrap_or(0).into()
    }

    /// Up to the end of a block that has so many around it.
    fn block(&mut self, depth: u32) {
        loop {
            let label = self.next() % (depth + 1);
            let (within, nested) = (depth > 0, depth < 7);
            match self.next() % 32 {
                1..=4 => self.text.push_str("call $f\n"),
                5 => self.text.push_str("nop\n"),
                6..=9 => _ = writeln!(self.text, "local.get 0 br_if {label}"),
                10..=12 if within => {
                    self.leave(depth);
                    // What follows can't be reached.
                    if !self.next().is_multiple_of(4) {
                        return;
                    }
                }
                13..=16 if nested => self.nested("block", depth),
                17..=20 if nested => self.nested("loop", depth),
                21..=22 if nested => self.nested("local.get 0 if", depth),
                23..=25 if nested => {
                    self.text.push_str("local.get 0 if\n");
                    self.block(depth + 1);
                    self.nested("else", depth);
                }
                26..=28 if nested => {
                    let clauses: Vec<String> = (0..self.next() % 4).map(|_| self.clause(depth)).collect();
                    self.nested(&format!("try_table {}", clauses.join(" ")), depth);
                }
                _ if within || self.random.as_slice().is_empty() => return,
                _ => {}
            }
        }
    }

    /// Goes somewhere in any case.
    fn leave(&mut self, depth: u32) {
        let label = self.next() % (depth + 1);
        match self.next() % 8 {
            0..=2 => {
                let labels: Vec<String> = (0..=self.next() % 5).map(|_| (self.next() % (depth + 1)).to_string()).collect();
                _ = writeln!(self.text, "local.get 0 br_table {}", labels.join(" "));
            }
            3 => self.text.push_str("return\n"),
            4 => self.text.push_str("return_call $f\n"),
            5 => self.text.push_str("unreachable\n"),
            6 => self.text.push_str("throw $e\n"),
            _ => _ = writeln!(self.text, "br {label}"),
        }
    }

    fn clause(&mut self, depth: u32) -> String {
        let kind = if self.next().is_multiple_of(4) { "catch_all" } else { "catch $e" };
        format!("({kind} {})", self.next() % (depth + 1))
    }

    fn nested(&mut self, begin: &str, depth: u32) {
        _ = writeln!(self.text, "{begin}");
        self.block(depth + 1);
        self.text.push_str("end\n");
    }
}

/// What may happen at an instruction.
struct Step {
    /// The edges that are taken.
    edges: Vec<EdgeKey>,
    /// The next instruction; `None` if the function is left.
    to: Option<usize>,
    /// A call throws.
    abrupt: bool,
}

/// What may happen at each instruction.
struct Program<'a> {
    operators: Vec<(Operator<'a>, u32)>,
    steps: Vec<Vec<Step>>,
    /// How many steps it takes at least to leave the function without an abrupt end, if it can be left.
    distances: Vec<Option<usize>>,
}

impl<'a> Program<'a> {
    fn new(body: &FunctionBody<'a>) -> Self {
        let operators = operators(body);
        // For each instruction those that begin the blocks around it; for those where the block ends and its second part begins.
        let mut around: Vec<Vec<usize>> = Vec::new();
        let (mut ends, mut elses) = (HashMap::new(), HashMap::new());
        let mut open = Vec::new();
        for (index, (operator, _)) in operators.iter().enumerate() {
            around.push(open.clone());
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => open.push(index),
                Operator::Else => _ = elses.insert(*open.last().unwrap(), index),
                Operator::End => _ = open.pop().map(|begin| ends.insert(begin, index)),
                _ => {}
            }
        }
        let target = |index: usize, depth: u32| {
            let around = &around[index];
            let begin = around[around.len().checked_sub(1 + depth as usize)?];
            Some(if matches!(operators[begin].0, Operator::Loop { .. }) { begin } else { ends[&begin] } + 1)
        };
        let caught = |index: usize| {
            let mut landings = Vec::new();
            for begin in around[index].iter().rev() {
                let (Operator::TryTable { try_table }, offset) = &operators[*begin] else { continue };
                for (arm, catch) in (0..).zip(&try_table.catches) {
                    let (Catch::One { label, .. } | Catch::All { label }) = catch else { unreachable!("it is not written") };
                    landings.push((Some(EdgeKey { offset: *offset, arm }), target(*begin, *label)));
                    if matches!(catch, Catch::All { .. }) {
                        return landings;
                    }
                }
            }
            landings.push((None, None));
            landings
        };
        let steps = operators.iter().enumerate().map(|(index, (operator, offset))| {
            let offset = *offset;
            let edge = |arm, to| Step { edges: vec![EdgeKey { offset, arm }], to, abrupt: false };
            let next = Some(index + 1).filter(|next| *next < operators.len());
            match operator {
                Operator::Loop { .. } => vec![edge(0, next)],
                Operator::If { .. } => vec![edge(0, Some(elses.get(&index).unwrap_or(&ends[&index]) + 1)), edge(1, next)],
                Operator::Else => vec![edge(0, Some(ends[around[index].last().unwrap()] + 1))],
                Operator::End => vec![edge(0, next)],
                Operator::Br { relative_depth } => vec![edge(0, target(index, *relative_depth))],
                Operator::BrIf { relative_depth } => vec![edge(0, next), edge(1, target(index, *relative_depth))],
                Operator::BrTable { targets } => {
                    let depths = targets.targets().map(Result::unwrap).chain([targets.default()]);
                    (0..).zip(depths).map(|(arm, depth)| edge(arm, target(index, depth))).collect()
                }
                Operator::Return | Operator::Unreachable | Operator::ReturnCall { .. } => vec![edge(0, None)],
                Operator::Throw { .. } => {
                    let step = |(landing, to)| Step {
                        edges: [EdgeKey { offset, arm: 0 }].into_iter().chain(landing).collect(),
                        to,
                        abrupt: false,
                    };
                    caught(index).into_iter().map(step).collect()
                }
                Operator::Call { .. } => {
                    let thrown = |(landing, to): (Option<EdgeKey>, _)| Step { edges: landing.into_iter().collect(), to, abrupt: true };
                    let normal = Step { edges: Vec::new(), to: next, abrupt: false };
                    [normal].into_iter().chain(caught(index).into_iter().map(thrown)).collect()
                }
                _ => vec![Step { edges: Vec::new(), to: next, abrupt: false }],
            }
        });
        let steps: Vec<Vec<Step>> = steps.collect();
        let distances = distances(&steps);
        Self { operators, steps, distances }
    }

    /// Which instructions can be reached.
    fn reachable(&self) -> Vec<bool> {
        let mut seen = vec![false; self.steps.len()];
        let mut pending = vec![0];
        while let Some(index) = pending.pop() {
            if !std::mem::replace(&mut seen[index], true) {
                pending.extend(self.steps[index].iter().filter_map(|step| step.to));
            }
        }
        seen
    }

    /// The way on from an instruction that leads out of the function in the fewest steps.
    fn shortest(&self, index: usize) -> &Step {
        let steps = self.steps[index].iter().filter(|step| !step.abrupt);
        steps.filter(|step| self.leads_out(step)).min_by_key(|step| step.to.map(|to| self.distances[to])).unwrap()
    }

    fn leads_out(&self, step: &Step) -> bool {
        step.to.is_none_or(|to| self.distances[to].is_some())
    }
}

fn distances(steps: &[Vec<Step>]) -> Vec<Option<usize>> {
    let mut sources = vec![Vec::new(); steps.len()];
    let mut distances = vec![None; steps.len()];
    let mut pending = VecDeque::new();
    for (index, steps) in steps.iter().enumerate() {
        for step in steps.iter().filter(|step| !step.abrupt) {
            match step.to {
                Some(to) => sources[to].push(index),
                None => pending.push_back((index, 1)),
            }
        }
    }
    while let Some((index, distance)) = pending.pop_front() {
        if distances[index].is_none() {
            distances[index] = Some(distance);
            pending.extend(sources[index].iter().map(|source| (*source, distance + 1)));
        }
    }
    distances
}

/// What has truly happened.
#[derive(Default)]
struct Truth {
    entries: u64,
    edges: HashMap<EdgeKey, u64>,
    /// How often each instruction was reached.
    reached: Vec<u64>,
    /// How many exceptions were thrown by calls, and activations ended in the middle.
    abrupt: u64,
}

impl Truth {
    /// Enters the function and goes through it at random, and out of it after some steps.
    fn walk(&mut self, program: &Program<'_>, random: &mut impl FnMut() -> usize, abrupt: bool) {
        self.entries += 1;
        self.reached.resize(program.steps.len(), 0);
        let limit = 1 + random() % 300;
        let (mut place, mut count) = (Some(0), 0);
        while let Some(index) = place {
            self.reached[index] += 1;
            count += 1;
            if abrupt && (count > 1000 || random().is_multiple_of(100)) {
                // A trap, say.
                self.abrupt += 1;
                return;
            }
            let step = if count > limit && program.distances[index].is_some() {
                program.shortest(index)
            } else {
                let allowed = |step: &&Step| abrupt || (!step.abrupt && program.leads_out(step));
                let mut steps: Vec<&Step> = program.steps[index].iter().filter(allowed).collect();
                if steps.iter().any(|step| step.to.is_some()) && !random().is_multiple_of(8) {
                    // Most functions would be left at once.
                    steps.retain(|step| step.to.is_some());
                }
                steps[random() % steps.len()]
            };
            self.abrupt += u64::from(step.abrupt);
            step.edges.iter().for_each(|edge| *self.edges.entry(*edge).or_default() += 1);
            place = step.to;
        }
    }

    fn edge(&self, key: EdgeKey) -> u64 {
        self.edges.get(&key).copied().unwrap_or(0)
    }

    /// What the counters say.
    fn counts(&self, counters: &Counters) -> Vec<u64> {
        [self.entries].into_iter().chain(counters.edges().iter().map(|key| self.edge(*key))).collect()
    }
}

/// A source of numbers.
fn numbers(mut seed: u64) -> impl FnMut() -> usize {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 40).unwrap()
    }
}

/// A random function.
fn random_function(random: &[u8]) -> Vec<u8> {
    let mut writer = Writer { random: random.iter(), text: String::new() };
    writer.block(0);
    function(&writer.text)
}

/// The edges that a graph has are those that can be taken, and its blocks have what can be reached. There are no more counters than needed.
fn check_graph(graph: &Graph, program: &Program<'_>) {
    let reachable = program.reachable();
    for (index, (operator, offset)) in program.operators.iter().enumerate() {
        assert_eq!(graph.block_at(*offset).is_some(), reachable[index], "{operator:?}");
        if reachable[index] {
            for key in program.steps[index].iter().flat_map(|step| &step.edges) {
                assert!(graph.edge(*key).is_some() || matches!(operator, Operator::End), "{operator:?} {}", key.arm);
            }
        }
    }
    let keys: Vec<EdgeKey> = graph.edges().iter().map(|edge| edge.key).collect();
    assert!(keys.is_sorted_by(|one, next| one < next));
    let counters = Counters::new(graph);
    assert!(counters.edges().is_sorted());
    let clauses = graph.edges().iter().filter(|edge| edge.from.is_none()).count();
    let exits = graph.edges().iter().any(|edge| edge.to.is_none() && edge.from.is_some());
    // With the entry as an edge and the exit as a block, these are one more each.
    let needed = graph.edges().len() - graph.blocks().len() + 1;
    let count = counters.count() as usize;
    if clauses == 0 && exits {
        assert_eq!(count, needed);
    } else {
        assert!(count <= needed + clauses + usize::from(!exits));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn counts_of_counters_give_all_counts(random in prop::collection::vec(any::<u8>(), 0..400), seed: u64, entries in 0..20) {
        let wasm = random_function(&random);
        let body = bodies(&wasm).remove(0);
        let (graph, program) = (Graph::new(&body).unwrap(), Program::new(&body));
        check_graph(&graph, &program);
        let mut truth = Truth { reached: vec![0; program.steps.len()], ..Truth::default() };
        let mut random = numbers(seed);
        if program.distances[0].is_some() {
            (0..entries).for_each(|_| truth.walk(&program, &mut random, false));
        }
        let flow = solve(&graph, &truth.counts(&Counters::new(&graph))).unwrap();
        prop_assert_eq!(flow.entries(), truth.entries);
        for edge in graph.edges() {
            prop_assert_eq!(flow.edge(edge.key), truth.edge(edge.key), "{:?}", edge);
        }
        for ((operator, offset), reached) in program.operators.iter().zip(&truth.reached) {
            prop_assert_eq!(flow.block_at(*offset), *reached, "{:?}", operator);
        }
        let sites = sites(&graph, &flow);
        prop_assert!(sites.is_sorted_by_key(|site| site.offset));
        for site in sites {
            let index = program.operators.iter().position(|(_, offset)| *offset == site.offset).unwrap();
            match site.counts {
                SiteCounts::Reached(count) if matches!(program.operators[index].0, Operator::Loop { .. }) => {
                    prop_assert_eq!(count, truth.reached[index + 1]);
                }
                SiteCounts::Reached(reached) | SiteCounts::Branch { reached, .. } | SiteCounts::Indirect { reached } => {
                    prop_assert_eq!(reached, truth.reached[index]);
                }
                SiteCounts::Table { arms } => prop_assert_eq!(arms.iter().sum::<u64>(), truth.reached[index]),
            }
        }
    }

    #[test]
    fn no_count_is_off_by_more_than_ended_abruptly(random in prop::collection::vec(any::<u8>(), 0..400), seed: u64, entries in 0..20) {
        let wasm = random_function(&random);
        let body = bodies(&wasm).remove(0);
        let (graph, program) = (Graph::new(&body).unwrap(), Program::new(&body));
        let mut truth = Truth { reached: vec![0; program.steps.len()], ..Truth::default() };
        let mut random = numbers(seed);
        (0..entries).for_each(|_| truth.walk(&program, &mut random, true));
        let flow = solve(&graph, &truth.counts(&Counters::new(&graph))).unwrap();
        prop_assert_eq!(flow.entries(), truth.entries);
        for edge in graph.edges() {
            prop_assert!(flow.edge(edge.key).abs_diff(truth.edge(edge.key)) <= truth.abrupt, "{:?}", edge);
        }
        for ((operator, offset), reached) in program.operators.iter().zip(&truth.reached) {
            if graph.blocks().iter().any(|block| block.start == *offset) {
                prop_assert!(flow.block_at(*offset).abs_diff(*reached) <= truth.abrupt, "{:?}", operator);
            }
        }
    }
}
