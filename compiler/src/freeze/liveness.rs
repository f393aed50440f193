//! Which locals are live behind calls: a backward pass over the instructions, repeated until nothing changes at the headers of loops.
//!
//! Forward branches lead to what a backward pass has seen already, so only branches to loops need another pass. What a pass finds at a
//! header only grows, and it takes at most two passes more than loops are nested (Kam and Ullman 1976: the problem is rapid).
//!
//! The result is part of what frozen programs depend on; `docs/image-format.md` defines it without this algorithm.

use std::ops::Range;
use wasmparser::{Catch, Operator};

/// From this product of locals, bytes of the body, and depth of loops plus two on, every local counts as live everywhere.
const MAX_WORK: u128 = 1 << 33;

/// A set of locals.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn empty(locals: usize) -> Self {
        Self(vec![0; locals.div_ceil(64)])
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn set(&mut self, local: u32, live: bool) {
        let (word, bit) = (local as usize / 64, local % 64);
        self.0[word] = self.0[word] & !(1 << bit) | u64::from(live) << bit;
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        (0u32..).step_by(64).zip(&self.0).flat_map(|(first, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(first + bit)
            })
        })
    }
}

/// A block around the current position.
struct Frame<'o, 'a> {
    /// What begins it; `None` for the function.
    opener: Option<&'o Operator<'a>>,
    /// What is live where branches to it go.
    label: Set,
    /// What is live where the second part of a condition begins.
    otherwise: Option<Set>,
    /// What is live where exceptions that come out of calls go: of this block and those around it. `None` without `try_table`.
    catch: Option<Set>,
    /// Which loop.
    number: usize,
}

/// For each of the `calls`, given as positions in `operators`, ascending: which locals are live behind it, as a range of a common list. `None`
/// if that list would be longer than `max`. `size` is that of the body in bytes.
pub(super) fn live_behind(
    operators: &[(Operator<'_>, u32)],
    size: usize,
    locals: usize,
    calls: &[usize],
    max: usize,
) -> Option<(Vec<Range<usize>>, Vec<u32>)> {
    let (openers, loops, depth) = nesting(operators);
    let work = locals as u128 * size as u128 * (depth as u128 + 2);
    if work >= MAX_WORK {
        if locals.checked_mul(calls.len()).is_none_or(|count| count > max) {
            return None;
        }
        let all: Vec<u32> = (0..calls.len()).flat_map(|_| (0u32..).take(locals)).collect();
        return Some(((0..calls.len()).map(|call| call * locals..(call + 1) * locals).collect(), all));
    }
    let mut headers = vec![Set::empty(locals); loops];
    loop {
        let mut pass =
            Pass { locals, openers: &openers, headers: &mut headers, changed: false, found: Vec::new(), ranges: Vec::new(), max };
        pass.run(operators, calls)?;
        if !pass.changed {
            let (mut ranges, mut found) = (pass.ranges, pass.found);
            // Both were found from the end.
            let count = found.len();
            found.reverse();
            ranges.iter_mut().for_each(|range| *range = count - range.end..count - range.start);
            ranges.reverse();
            return Some((ranges, found));
        }
    }
}

/// For each `end` the position of what it ends (`None` for the function), then how many loops there are, and how deep they are nested.
fn nesting(operators: &[(Operator<'_>, u32)]) -> (Vec<Option<usize>>, usize, usize) {
    let (mut openers, mut open) = (vec![None; operators.len()], Vec::new());
    let (mut loops, mut depth, mut deepest) = (0, 0, 0);
    for (position, (operator, _)) in operators.iter().enumerate() {
        match operator {
            Operator::Loop { .. } => {
                open.push(position);
                loops += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => open.push(position),
            Operator::End => {
                openers[position] = open.pop();
                if openers[position].is_some_and(|opener| matches!(operators[opener].0, Operator::Loop { .. })) {
                    depth -= 1;
                }
            }
            _ => {}
        }
    }
    (openers, loops, deepest)
}

struct Pass<'p> {
    locals: usize,
    openers: &'p [Option<usize>],
    /// What the last pass found live at the header of each loop, numbered from the end of the function.
    headers: &'p mut [Set],
    changed: bool,
    /// Locals behind calls, the last call first, each highest first.
    found: Vec<u32>,
    ranges: Vec<Range<usize>>,
    max: usize,
}

impl Pass<'_> {
    /// One pass from the end. `None` if more is found than is allowed.
    fn run(&mut self, operators: &[(Operator<'_>, u32)], calls: &[usize]) -> Option<()> {
        let mut calls = calls.iter().rev().copied().peekable();
        let mut live = Set::empty(self.locals);
        let mut frames: Vec<Frame<'_, '_>> = Vec::new();
        let mut next_loop = 0;
        for (position, (operator, _)) in operators.iter().enumerate().rev() {
            match operator {
                Operator::LocalGet { local_index } => live.set(*local_index, true),
                Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => live.set(*local_index, false),
                Operator::End => {
                    let opener = self.openers[position].map(|opener| &operators[opener].0);
                    let mut number = 0;
                    let label = match opener {
                        None => Set::empty(self.locals),
                        Some(Operator::Loop { .. }) => {
                            number = next_loop;
                            next_loop += 1;
                            self.headers[number].clone()
                        }
                        Some(_) => live.clone(),
                    };
                    let outer = frames.last().and_then(|frame| frame.catch.clone());
                    let catch = match opener {
                        Some(Operator::TryTable { try_table }) => {
                            let mut catch = outer.unwrap_or_else(|| Set::empty(self.locals));
                            for clause in &try_table.catches {
                                catch.add(&target(&frames, label_of(clause)).label);
                            }
                            Some(catch)
                        }
                        _ => outer,
                    };
                    frames.push(Frame { opener, label, otherwise: None, catch, number });
                }
                Operator::Else => {
                    if let Some(frame) = frames.last_mut() {
                        frame.otherwise = Some(std::mem::replace(&mut live, frame.label.clone()));
                    }
                }
                Operator::Block { .. } | Operator::TryTable { .. } => drop(frames.pop()),
                Operator::If { .. } => {
                    if let Some(frame) = frames.pop() {
                        live.add(&frame.otherwise.unwrap_or(frame.label));
                    }
                }
                Operator::Loop { .. } => {
                    if let Some(frame) = frames.pop() {
                        debug_assert!(matches!(frame.opener, Some(Operator::Loop { .. })), "blocks are balanced");
                        if self.headers[frame.number] != live {
                            self.headers[frame.number].clone_from(&live);
                            self.changed = true;
                        }
                    }
                }
                Operator::Br { relative_depth } => live.clone_from(&target(&frames, *relative_depth).label),
                Operator::BrIf { relative_depth } => live.add(&target(&frames, *relative_depth).label),
                Operator::BrTable { targets } => {
                    live.clone_from(&target(&frames, targets.default()).label);
                    // Validation has read them all.
                    targets.targets().flatten().for_each(|depth| live.add(&target(&frames, depth).label));
                }
                Operator::Return | Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } | Operator::Unreachable => {
                    live.clear()
                }
                Operator::Throw { .. } | Operator::ThrowRef => {
                    live.clear();
                    add_catch(&mut live, &frames);
                }
                Operator::Call { .. } | Operator::CallIndirect { .. } => {
                    add_catch(&mut live, &frames);
                    if calls.next_if_eq(&position).is_some() {
                        let first = self.found.len();
                        self.found.extend(live.iter());
                        self.found[first..].reverse();
                        if self.found.len() > self.max {
                            return None;
                        }
                        self.ranges.push(first..self.found.len());
                    }
                }
                _ => {}
            }
        }
        Some(())
    }
}

fn target<'f, 'o, 'a>(frames: &'f [Frame<'o, 'a>], depth: u32) -> &'f Frame<'o, 'a> {
    &frames[frames.len() - 1 - depth as usize]
}

fn add_catch(live: &mut Set, frames: &[Frame<'_, '_>]) {
    if let Some(catch) = frames.last().and_then(|frame| frame.catch.as_ref()) {
        live.add(catch);
    }
}

pub(super) fn label_of(clause: &Catch) -> u32 {
    match *clause {
        Catch::One { label, .. } | Catch::OneRef { label, .. } | Catch::All { label } | Catch::AllRef { label } => label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use wasmparser::{BinaryReader, OperatorsReader};

    const LOCALS: u8 = 70;

    /// Instructions in Wasm's binary format. Their operands do not matter here.
    fn read(bytes: &[u8]) -> Vec<(Operator<'_>, u32)> {
        let reader = OperatorsReader::new(BinaryReader::new(bytes, 0));
        reader
            .into_iter_with_offsets()
            .map(|operator| operator.map(|(operator, at)| (operator, u32::try_from(at).unwrap())).unwrap())
            .collect()
    }

    fn calls(operators: &[(Operator<'_>, u32)]) -> Vec<usize> {
        let is_call = |operator: &Operator<'_>| matches!(operator, Operator::Call { .. });
        (0..operators.len()).filter(|position| is_call(&operators[*position].0)).collect()
    }

    fn live(bytes: &[u8]) -> Vec<Vec<u32>> {
        let operators = read(bytes);
        let (ranges, locals) = live_behind(&operators, bytes.len(), usize::from(LOCALS), &calls(&operators), usize::MAX).unwrap();
        ranges.into_iter().map(|range| locals[range].to_vec()).collect()
    }

    /// The same by searching paths: where does each instruction lead, and which `local.get` is reached before the local is set?
    fn searched(bytes: &[u8]) -> Vec<Vec<u32>> {
        let operators = read(bytes);
        // For each instruction the blocks around it, outermost first: where they begin, their `else`, and their `end`.
        let mut blocks: Vec<(usize, Option<usize>, usize)> = Vec::new();
        let mut around: Vec<Vec<usize>> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        for (position, (operator, _)) in operators.iter().enumerate() {
            around.push(open.clone());
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                    open.push(blocks.len());
                    blocks.push((position, None, 0));
                }
                Operator::Else => blocks[*open.last().unwrap()].1 = Some(position),
                Operator::End => {
                    if let Some(block) = open.pop() {
                        blocks[block].2 = position;
                    }
                }
                _ => {}
            }
        }
        let end = operators.len();
        let target = |around: &[usize], depth: u32| match around.len().checked_sub(1 + depth as usize) {
            None => end,
            Some(at) => {
                let (begin, _, last) = blocks[around[at]];
                if matches!(operators[begin].0, Operator::Loop { .. }) { begin } else { last }
            }
        };
        let caught = |position: usize| {
            let around = &around[position];
            let mut places = Vec::new();
            for (at, block) in around.iter().enumerate() {
                if let Operator::TryTable { try_table } = &operators[blocks[*block].0].0 {
                    places.extend(try_table.catches.iter().map(|clause| target(&around[..at], label_of(clause))));
                }
            }
            places
        };
        let next = |position: usize| -> Vec<usize> {
            let inside = &around[position];
            match &operators[position].0 {
                Operator::Br { relative_depth } => vec![target(inside, *relative_depth)],
                Operator::BrIf { relative_depth } => vec![target(inside, *relative_depth), position + 1],
                Operator::BrTable { targets } => {
                    let all = targets.targets().map(Result::unwrap).chain([targets.default()]);
                    all.map(|depth| target(inside, depth)).collect()
                }
                Operator::Return | Operator::Unreachable | Operator::ReturnCall { .. } => vec![end],
                Operator::Throw { .. } => caught(position),
                Operator::Call { .. } => [caught(position), vec![position + 1]].concat(),
                Operator::If { .. } => {
                    let (_, second, last) = *blocks.iter().find(|block| block.0 == position).unwrap();
                    vec![position + 1, second.map_or(last, |second| second + 1)]
                }
                Operator::Else => vec![blocks[*inside.last().unwrap()].2],
                _ => vec![position + 1],
            }
        };
        let is_live = |call: usize, local: u32| {
            let (mut seen, mut rest) = (BTreeSet::new(), next(call));
            while let Some(position) = rest.pop() {
                if position >= end || !seen.insert(position) {
                    continue;
                }
                match operators[position].0 {
                    Operator::LocalGet { local_index } if local_index == local => return true,
                    Operator::LocalSet { local_index } | Operator::LocalTee { local_index } if local_index == local => {}
                    _ => rest.extend(next(position)),
                }
            }
            false
        };
        calls(&operators).into_iter().map(|call| (0..u32::from(LOCALS)).filter(|local| is_live(call, *local)).collect()).collect()
    }

    /// Instructions from numbers: whatever they are, blocks are balanced and labels exist.
    fn generate(choices: &[(u8, u8, u8)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        // For each block whether it may get an `else`.
        let mut open: Vec<bool> = Vec::new();
        for (kind, a, b) in choices {
            let depth = u8::try_from(open.len()).unwrap();
            let label = |number: u8| number % (depth + 1);
            match kind % 16 {
                0 | 1 => bytes.extend([0x20, a % LOCALS]),
                2 => bytes.extend([0x21, a % LOCALS]),
                3 => bytes.extend([0x22, a % LOCALS]),
                4 | 5 => bytes.extend([0x10, 0]),
                6 if depth < 9 => {
                    bytes.extend([0x02, 0x40]);
                    open.push(false);
                }
                7 if depth < 9 => {
                    bytes.extend([0x03, 0x40]);
                    open.push(false);
                }
                8 if depth < 9 => {
                    bytes.extend([0x04, 0x40]);
                    open.push(true);
                }
                9 if depth < 9 => {
                    // A tag and everything.
                    bytes.extend([0x1f, 0x40, 2, 0, 0, label(*a), 2, label(*b)]);
                    open.push(false);
                }
                10 if open.last() == Some(&true) => {
                    bytes.push(0x05);
                    open.pop();
                    open.push(false);
                }
                11 | 12 => {
                    if open.pop().is_some() {
                        bytes.push(0x0b);
                    }
                }
                13 => bytes.extend([0x0d, label(*a)]),
                14 if a % 4 == 0 => bytes.extend([0x0e, 1, label(*a / 4), label(*b)]),
                14 if a % 4 == 1 => bytes.extend([0x0c, label(*b)]),
                15 => match a % 4 {
                    0 => bytes.push(0x0f),
                    1 => bytes.push(0x00),
                    2 => bytes.extend([0x08, 0]),
                    _ => bytes.extend([0x12, 0]),
                },
                _ => bytes.extend([0x20, b % LOCALS]),
            }
        }
        bytes.extend(std::iter::repeat_n(0x0b, open.len() + 1));
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn a_pass_finds_what_a_search_of_all_paths_finds(choices in prop::collection::vec(any::<(u8, u8, u8)>(), 0..120)) {
            let bytes = generate(&choices);
            prop_assert_eq!(live(&bytes), searched(&bytes));
        }
    }

    #[test]
    fn a_local_that_only_an_outer_loop_reads_is_live_in_the_inner_one() {
        // loop { local.get 3; loop { loop { call; br_if 0; br_if 1 }; br_if 2 } }
        let bytes = [0x03, 0x40, 0x20, 3, 0x03, 0x40, 0x03, 0x40, 0x10, 0, 0x0d, 0, 0x0d, 1, 0x0b, 0x0d, 1, 0x0b, 0x0b, 0x0b];
        assert_eq!(live(&bytes), [[3]]);
        // Nothing reads it again if no branch leads back to the outer loop.
        let bytes = [0x03, 0x40, 0x20, 3, 0x03, 0x40, 0x10, 0, 0x0d, 0, 0x0b, 0x0b, 0x0b];
        assert_eq!(live(&bytes), [[0u32; 0]]);
    }

    #[test]
    fn what_is_set_first_is_not_live() {
        // call; local.get 1; local.set 2; local.get 2
        assert_eq!(live(&[0x10, 0, 0x20, 1, 0x21, 2, 0x20, 2, 0x0b]), [[1]]);
        // In one part of a condition only.
        assert_eq!(live(&[0x10, 0, 0x04, 0x40, 0x21, 2, 0x05, 0x20, 65, 0x0b, 0x20, 2, 0x0b]), [[2, 65]]);
    }

    #[test]
    fn where_it_would_take_too_long_all_locals_are_live() {
        let bytes = [0x10, 0, 0x20, 1, 0x10, 0, 0x0b];
        let operators = read(&bytes);
        let (ranges, locals) = live_behind(&operators, 1 << 33, 3, &[0, 2], 6).unwrap();
        assert_eq!((ranges, locals), (vec![0..3, 3..6], vec![0, 1, 2, 0, 1, 2]));
        assert_eq!(live_behind(&operators, 1 << 33, 3, &[0, 2], 5), None);
        // The first call has one live local already.
        assert_eq!(live_behind(&operators, 7, 3, &[0, 2], 0), None);
    }
}
