//! Loops in loops, with all that a resume function must get right between them: operands below them, parameters and results, conditions,
//! blocks, catch clauses, and branches to any of them.

use crate::program::{HOST, Label, Program, list};
use std::fmt::Write as _;

impl Program<'_> {
    /// Letters of up to `most` types.
    fn letters(&mut self, most: usize) -> String {
        (0..self.random.below(most + 1)).map(|_| self.letter()).collect()
    }

    /// Takes values from the stack.
    fn take(&mut self, letters: &str) -> String {
        letters.chars().rev().map(|letter| format!("(local.set {}) ", self.local(letter))).collect()
    }

    /// Loops in loops, each with operands below it and something around it, and a call of the host in the innermost.
    pub(super) fn nest(&mut self, levels: usize, depth: usize) -> String {
        let (below, params, results) = (self.letters(2), self.letters(1), self.letters(1));
        let mut text = self.values(&below, depth + 2);
        let types = format!("{} {}", list("param", &params), list("result", &results));
        text += &self.values(&params, depth + 2);
        match self.random.below(6) {
            0 | 1 => text += &self.looped(levels, &params, &results, depth),
            2 => {
                let body = self.within(&results, false, |this| this.looped(levels, &params, &results, depth));
                let _ = write!(text, "(block {types} {body})");
            }
            3 | 4 => {
                // The loop is in the first part, in the second, or in both.
                let condition = self.condition(depth);
                let place = self.random.below(3);
                let parts = [0, 1].map(|part| {
                    self.within(&results, false, |this| {
                        if part == place || place == 2 {
                            return this.looped(levels, &params, &results, depth);
                        }
                        this.take(&params) + &this.statement(depth + 1) + &this.values(&results, depth + 2)
                    })
                });
                let _ = write!(text, "(if {types} {condition} (then {}) (else {}))", parts[0], parts[1]);
            }
            _ => {
                // What is caught goes to any label that can be branched to without asking.
                let free = self.free_labels();
                let label = free.get(self.random.below(free.len().max(1)));
                let catch = label.map_or(String::new(), |label| format!("(catch_all {label})"));
                let body = self.within(&results, false, |this| this.looped(levels, &params, &results, depth));
                let _ = write!(text, "(try_table {types} {catch} {body})");
            }
        }
        text += &self.take(&results);
        text + &self.take(&below)
    }

    /// A loop of a nest, which takes its parameters from the stack.
    fn looped(&mut self, levels: usize, params: &str, results: &str, depth: usize) -> String {
        let free = self.random.chance(1, 2);
        self.labels.push(Label { types: params.into(), is_loop: true, free });
        let mut body = self.take(params);
        if free {
            body += &self.fuel_or_return();
        }
        if self.random.chance(1, 2) {
            body += &self.statement(depth + 1);
        }
        if levels > 1 {
            body += &self.nest(levels - 1, depth + 1);
        } else {
            let host = HOST[self.random.below(HOST.len())].1;
            body += &self.call(host, depth).unwrap_or_default();
            body += &self.take(host);
        }
        match self.random.below(4) {
            0 => body += &self.statement(depth + 1),
            1 => body += &self.branch_if(depth + 1),
            2 => {
                let free = self.free_labels();
                let condition = self.condition(depth);
                // Within the condition all labels are one further out.
                let targets: Vec<String> =
                    (0..4).filter_map(|_| free.get(self.random.below(free.len().max(1)))).map(|label| (label + 1).to_string()).collect();
                if !targets.is_empty() {
                    let index = self.within("", false, |this| this.expression('i', depth + 2));
                    let _ = write!(body, "(if {condition} (then (br_table {} (i32.rem_u {index} (i32.const 5)))))", targets.join(" "));
                }
            }
            _ => {}
        }
        let (values, again) = (self.values(params, depth + 2), self.condition(depth));
        let _ =
            write!(body, "(br_if 0 {values} (i32.and {} (i32.ne (i32.const 0) {again}))) {}", self.fuel(), "(drop) ".repeat(params.len()));
        body += &self.values(results, depth + 2);
        self.labels.pop();
        format!("(loop {} {} {body})", list("param", params), list("result", results))
    }

    /// Labels without values to which may be branched without asking for fuel.
    fn free_labels(&self) -> Vec<usize> {
        let depths = self.labels.iter().rev().enumerate();
        depths.filter(|(_, label)| (!label.is_loop || label.free) && label.types.is_empty()).map(|(depth, _)| depth).collect()
    }
}
