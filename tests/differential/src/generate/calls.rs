//! Programs of small functions that call each other again and again: what a profile has put in place of calls.
//!
//! Half of the functions call none, the others any, also themselves: directly, through a table whose entries change, as their last act. Some
//! throw, some catch, some trap. Fuel bounds how many of those that call begin.

use super::program::{TYPES, list, type_of};
use crate::random::Random;
use crate::script::FUEL_EXPORT;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;

/// The types that functions have, as operands and results.
const SIGNATURES: [(&str, &str); 8] =
    [("i", "i"), ("i", "i"), ("ii", "i"), ("l", "l"), ("d", "d"), ("vi", "iv"), ("", "i"), ("ildf", "fdli")];

/// A program.
///
/// # Errors
/// When the program is not valid, which is a mistake here.
pub(super) fn module(random: &mut Random) -> Result<Vec<u8>> {
    let functions = (0..4 + random.below(9)).map(|_| Kind::new(random)).collect();
    let text = Program { random, text: String::new(), functions, current: 0, depth: 0 }.module();
    wat::parse_str(&text).with_context(|| text.clone())
}

/// What a function is like.
struct Kind {
    signature: usize,
    /// It calls others.
    calls: bool,
    /// It catches what they throw.
    catches: bool,
}

impl Kind {
    fn new(random: &mut Random) -> Self {
        let calls = random.chance(1, 2);
        Self { signature: random.below(SIGNATURES.len()), calls, catches: calls && random.chance(1, 6) }
    }

    fn types(&self) -> (&'static str, &'static str) {
        SIGNATURES[self.signature]
    }
}

struct Program<'a> {
    random: &'a mut Random,
    text: String,
    functions: Vec<Kind>,
    /// The function that is being written.
    current: usize,
    /// How deep statements are in each other.
    depth: usize,
}

impl Program<'_> {
    fn module(mut self) -> String {
        self.text.push_str("(module\n");
        for (number, (params, results)) in SIGNATURES.iter().enumerate() {
            let _ = writeln!(self.text, "(type $t{number} (func {} {}))", list("param", params), list("result", results));
        }
        self.text.push_str("(import \"host\" \"note\" (func $note (param i32) (result i32)))\n");
        let table = if self.random.chance(1, 3) { "(import \"host\" \"table\")" } else { "" };
        let _ = writeln!(self.text, "(table $tab (export \"table\") {table} 20 20 funcref) (memory (export \"memory\") 1 2)");
        self.text.push_str("(tag $e (param i32)) (tag $other)\n");
        let _ = writeln!(self.text, "(global $fuel (export \"{FUEL_EXPORT}\") (mut i32) (i32.const 0))");
        for (letter, ty) in TYPES {
            let zero = if letter == 'v' { "v128.const i64x2 0 0".to_owned() } else { format!("{ty}.const 0") };
            let _ = writeln!(self.text, "(global $g{letter} (export \"g{letter}\") (mut {ty}) ({zero}))");
        }
        let names: String = (0..self.functions.len()).map(|number| format!(" $f{number}")).collect();
        let _ = writeln!(self.text, "(elem (i32.const 0) func{names} $note) (elem declare func{names})");
        for number in 0..self.functions.len() {
            self.function(number);
        }
        self.text.push_str(")\n");
        self.text
    }

    fn function(&mut self, number: usize) {
        self.current = number;
        let Kind { signature, calls, catches } = self.functions[number];
        let (params, results) = SIGNATURES[signature];
        let _ = write!(self.text, "(func $f{number} (export \"f{number}\") (type $t{signature}) {}", list("param", params));
        let _ = write!(self.text, " {}", list("result", results));
        for (letter, ty) in TYPES {
            let _ = write!(self.text, " (local ${letter} {ty})");
        }
        self.text.push_str(" (local $n0 i32) (local $n1 i32)\n");
        for (index, letter) in params.char_indices() {
            let _ = writeln!(self.text, "(local.set ${letter} (local.get {index}))");
        }
        if calls {
            let values = self.list_of(results, 0);
            let _ = writeln!(self.text, "(if (i32.le_s (global.get $fuel) (i32.const 0)) (then (return {values})))");
            self.text.push_str("(global.set $fuel (i32.sub (global.get $fuel) (i32.const 1)))\n");
        }
        for _ in 0..self.random.below(if calls { 5 } else { 3 }) {
            self.statement();
        }
        if catches {
            self.catch();
        }
        self.leave(results, calls);
        self.text.push_str(")\n");
    }

    /// The end of a function.
    fn leave(&mut self, results: &'static str, calls: bool) {
        let same: Vec<usize> = (0..self.functions.len()).filter(|callee| self.functions[*callee].types().1 == results).collect();
        if calls && self.random.chance(1, 3) {
            // It has the same results itself.
            let callee = *self.random.choose(&same);
            let arguments = self.list_of(self.functions[callee].types().0, 1);
            let signature = self.functions[callee].signature;
            if self.random.chance(1, 2) {
                let _ = writeln!(self.text, "(return_call $f{callee} {arguments})");
            } else {
                let _ = writeln!(self.text, "(return_call_indirect $tab (type $t{signature}) {arguments} (i32.const {callee}))");
            }
        } else {
            let values = self.list_of(results, 2);
            self.text.push_str(&values);
        }
    }

    /// An expression of each type.
    fn list_of(&mut self, letters: &str, depth: usize) -> String {
        letters.chars().map(|letter| self.expression(letter, depth) + " ").collect()
    }

    fn expression(&mut self, letter: char, depth: usize) -> String {
        let ty = type_of(letter);
        if depth == 0 || self.random.chance(1, 3) {
            let number = self.random.below(9);
            return match self.random.below(4) {
                0 if letter == 'v' => format!("(v128.const i32x4 {number} 1 -1 {number})"),
                0 => format!("({ty}.const {number})"),
                1 => format!("(global.get $g{letter})"),
                _ => format!("(local.get ${letter})"),
            };
        }
        if self.functions[self.current].calls && self.random.chance(1, 2) {
            let wanted = letter.to_string();
            let callees: Vec<usize> = (0..self.functions.len()).filter(|callee| self.functions[*callee].types().1 == wanted).collect();
            if !callees.is_empty() {
                let callee = *self.random.choose(&callees);
                return self.call_of(callee, depth - 1);
            }
        }
        let [a, b] = [0, 1].map(|_| self.expression(letter, depth - 1));
        match letter {
            'i' => {
                let address = format!("(i32.and {a} (i32.const 0x7ff8))");
                match self.random.below(12) {
                    0 => format!("(i32.load offset=8 {address})"),
                    1 => format!("(i32.eqz {a})"),
                    2 => format!("(i32.lt_s {a} {b})"),
                    3 => format!("(i32.div_u {a} (i32.or {b} (i32.const 1)))"),
                    // These trap now and then.
                    4 if self.random.chance(1, 4) => format!("(i32.rem_s {a} {b})"),
                    5 if self.random.chance(1, 4) => format!("(i32.load8_u (i32.mul {a} (i32.const 999)))"),
                    6 => format!("(i32.wrap_i64 {})", self.expression('l', depth - 1)),
                    7 => format!("(i32.trunc_sat_f64_s {})", self.expression('d', depth - 1)),
                    8 => format!("(i32x4.extract_lane 2 {})", self.expression('v', depth - 1)),
                    9 => format!("(i32.xor {a} {b})"),
                    10 => format!("(i32.mul {a} {b})"),
                    _ => format!("(i32.add {a} {b})"),
                }
            }
            'l' => match self.random.below(4) {
                0 => format!("(i64.extend_i32_s {})", self.expression('i', depth - 1)),
                1 => format!("(i64.rotl {a} {b})"),
                2 => format!("(i64.load (i32.and {} (i32.const 0xff8)))", self.expression('i', depth - 1)),
                _ => format!("(i64.add {a} {b})"),
            },
            'v' => match self.random.below(3) {
                0 => format!("(i32x4.splat {})", self.expression('i', depth - 1)),
                1 => format!("(v128.xor {a} {b})"),
                _ => format!("(i32x4.add {a} {b})"),
            },
            _ => match self.random.below(3) {
                0 => format!("({ty}.convert_i32_s {})", self.expression('i', depth - 1)),
                1 => format!("({ty}.mul {a} {b})"),
                _ => format!("({ty}.sub {a} {b})"),
            },
        }
    }

    /// A call, with arguments: directly, or through the table, which mostly has it where it was in the beginning.
    fn call_of(&mut self, callee: usize, depth: usize) -> String {
        let arguments = self.list_of(self.functions[callee].types().0, depth);
        let signature = self.functions[callee].signature;
        if self.random.chance(1, 2) {
            return format!("(call $f{callee} {arguments})");
        }
        let entry = match self.random.below(8) {
            0 => format!("(i32.const {})", self.random.below(20)),
            1 => format!("(i32.and {} (i32.const 3))", self.expression('i', 0)),
            2 => format!("(select (i32.const {callee}) (i32.const {}) {})", self.random.below(13), self.expression('i', 0)),
            _ => format!("(i32.const {callee})"),
        };
        // Seldom with the wrong type.
        let (params, results) = SIGNATURES[signature];
        let fits = |other: &(usize, &(&str, &str))| *other.1 == (params, results);
        let types: Vec<usize> = SIGNATURES.iter().enumerate().filter(fits).map(|(number, _)| number).collect();
        format!("(call_indirect $tab (type $t{}) {arguments} {entry})", self.random.choose(&types))
    }

    fn statement(&mut self) {
        self.depth += 1;
        let calls = self.functions[self.current].calls;
        match self.random.below(if self.depth > 2 { 4 } else { 11 }) {
            0..=2 => {
                let letter = self.random.choose(&TYPES).0;
                let value = self.expression(letter, 2);
                let kind = if self.random.chance(1, 2) { "global.set $g" } else { "local.set $" };
                let _ = writeln!(self.text, "({kind}{letter} {value})");
            }
            3 => {
                let (address, value) = (self.expression('i', 1), self.expression('i', 1));
                let _ = writeln!(self.text, "(i32.store offset=16 (i32.and {address} (i32.const 0x3ffc)) {value})");
            }
            4 => {
                let condition = self.expression('i', 1);
                let _ = writeln!(self.text, "(if {condition} (then");
                self.statement();
                self.text.push_str(") (else\n");
                self.statement();
                self.text.push_str("))\n");
            }
            5 | 6 if calls => {
                let (counter, times) = (self.depth - 1, 2 + self.random.below(6));
                let _ = writeln!(self.text, "(local.set $n{counter} (i32.const {times})) (loop");
                self.statement();
                self.call();
                let _ = writeln!(self.text, "(br_if 0 (local.tee $n{counter} (i32.sub (local.get $n{counter}) (i32.const 1)))))");
            }
            7 => {
                let index = self.expression('i', 1);
                let _ = writeln!(self.text, "(block (block (block (br_table 0 1 2 1 2 (i32.and {index} (i32.const 7))))");
                self.statement();
                self.text.push_str("(br 1))\n");
                self.statement();
                self.text.push_str(")\n");
            }
            8 => self.seldom(),
            _ if calls => self.call(),
            _ => {}
        }
        self.depth -= 1;
    }

    /// A call as a statement.
    fn call(&mut self) {
        let callee = self.random.below(self.functions.len());
        let call = self.call_of(callee, 1);
        let _ = writeln!(self.text, "{call}");
        for letter in self.functions[callee].types().1.chars().rev() {
            let _ = write!(self.text, "(local.set ${letter})");
        }
        self.text.push('\n');
    }

    fn seldom(&mut self) {
        let condition = self.expression('i', 1);
        let number = self.random.below(self.functions.len());
        let what = match self.random.below(8) {
            0 => format!("(throw $e {})", self.expression('i', 1)),
            1 => "(throw $other)".into(),
            2 => "unreachable".into(),
            3 => format!("(return {})", self.list_of(self.functions[self.current].types().1, 1)),
            4 => format!("(table.set $tab (i32.const {}) (ref.func $f{number}))", self.random.below(14)),
            5 => format!("(table.set $tab (i32.const {number}) (ref.null func))"),
            6 => "(drop (memory.grow (i32.const 1)))".into(),
            _ => "(local.set $i (call $note (local.get $i)))".into(),
        };
        let _ = writeln!(self.text, "(if (i32.eq {condition} (i32.const {})) (then {what}))", self.random.below(4));
    }

    /// Calls something, and catches what it throws.
    fn catch(&mut self) {
        self.text.push_str("(block $caught (result i32) (block $all (try_table (catch $e $caught) (catch_all $all)\n");
        self.call();
        self.text.push_str(")) (i32.const 3)) (global.set $gi)\n");
    }
}
