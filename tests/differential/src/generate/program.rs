//! Programs in which each operator is about as likely as every other.
//!
//! A program has a few functions of random statements. A statement applies an operator to expressions of constants that are border cases,
//! of locals and of globals, and puts the result where it is seen in the end; or it is control flow, a call, an exception, or something
//! with a memory or table as a whole. Loops are counted, and fuel bounds how many functions begin, so that all end.

use super::table::{self, OPERATORS, Operator, RELAXED};
use crate::random::Random;
use crate::script::{interesting, interesting_f32, interesting_f64};
use anyhow::{Context as _, Result};
use std::fmt::Write as _;

/// Number types by the letters of the table.
pub(super) const TYPES: [(char, &str); 5] = [('i', "i32"), ('l', "i64"), ('f', "f32"), ('d', "f64"), ('v', "v128")];

pub(super) fn type_of(letter: char) -> &'static str {
    TYPES.iter().find(|(known, _)| *known == letter).map_or("i32", |(_, name)| name)
}

/// The types that functions have, as operands and results.
const SIGNATURES: [(&str, &str); 6] = [("", ""), ("i", "i"), ("ld", "lf"), ("fv", "v"), ("ilfdv", "idvlf"), ("iiiiiiiiddddddddddll", "d")];

/// The tags' values.
const TAGS: [&str; 3] = ["", "id", "vlfiv"];

/// A program.
///
/// # Errors
/// When the program is not valid, which is a mistake here.
pub(super) fn module(random: &mut Random) -> Result<Vec<u8>> {
    let mut operators: Vec<_> = table::operators(OPERATORS).collect();
    // Those without a result are chosen as statements only.
    (0..2).for_each(|_| operators.extend(table::operators(OPERATORS).filter(|operator| operator.result.is_none())));
    if random.chance(1, 4) {
        // Often enough that they come as often as the others.
        (0..4).for_each(|_| operators.extend(table::operators(RELAXED)));
    }
    let text = Program { random, operators, text: String::new(), functions: Vec::new(), depth: 0, stores: 0, result: "" }.module();
    wat::parse_str(&text).with_context(|| text.clone())
}

struct Program<'a> {
    random: &'a mut Random,
    operators: Vec<Operator>,
    text: String,
    // The signatures of the functions that are done.
    functions: Vec<usize>,
    // How deep statements are in each other.
    depth: usize,
    stores: usize,
    // What the current function returns.
    result: &'static str,
}

impl Program<'_> {
    fn module(mut self) -> String {
        self.text.push_str("(module\n");
        for (number, (params, results)) in SIGNATURES.iter().enumerate() {
            let _ = writeln!(self.text, "(type $t{number} (func {} {}))", list("param", params), list("result", results));
        }
        for (number, params) in TAGS.iter().enumerate() {
            let _ = writeln!(self.text, "(tag $e{number} {})", list("param", params));
        }
        self.text.push_str("(import \"host\" \"give\" (func $give (result externref)))\n");
        self.text.push_str("(import \"host\" \"take\" (func $take (param i32 externref v128 funcref f64 i64) (result i64)))\n");
        // Each is imported or the module's own. Imports come first.
        let mut all = [
            ("memory", "m0", "1 3"),
            ("memory", "m1", "1 2"),
            ("table", "tf", "8 12 funcref"),
            ("table", "tg", "8 10 funcref"),
            ("table", "tx", "5 9 externref"),
            ("global", "gi", "(mut i32)"),
            ("global", "gv", "(mut v128)"),
        ]
        .map(|item| (self.random.chance(1, 3), item));
        all.sort_by_key(|(imported, _)| !imported);
        for (imported, (kind, name, ty)) in all {
            let import = if imported { format!("(import \"host\" \"{name}\") ") } else { String::new() };
            let value = match name {
                _ if imported => String::new(),
                "gi" => self.constant('i'),
                "gv" => self.constant('v'),
                _ => String::new(),
            };
            let _ = writeln!(self.text, "({kind} ${name} (export \"{name}\") {import}{ty} {value})");
        }
        for (letter, ty) in [('l', "i64"), ('f', "f32"), ('d', "f64")] {
            let value = self.constant(letter);
            let _ = writeln!(self.text, "(global $g{letter} (export \"g{letter}\") (mut {ty}) {value})");
        }
        self.text.push_str(
            "(global $gr (export \"gr\") (mut funcref) (ref.null func)) (global $gx (export \"gx\") (mut externref) (ref.null extern))\n",
        );
        let count = 4 + self.random.below(4);
        for number in 0..count {
            self.function(number);
        }
        let functions = (0..count).map(|number| format!("$f{number}")).collect::<Vec<_>>().join(" ");
        // At first a function is called only from those behind it; what tables and fuel do to that, see `of_table` and `function`.
        let _ = writeln!(self.text, "(elem (table $tf) (i32.const 0) func {functions}) (elem (table $tg) (i32.const 0) func {functions})");
        let _ = writeln!(self.text, "(global $fuel (mut i32) (i32.const 2000))");
        let _ = writeln!(self.text, "(elem $passive func {functions}) (elem $nulls externref (ref.null extern) (ref.null extern))");
        for memory in 0..2 {
            let bytes = self.random.bytes(600).iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "\\{byte:02x}");
                text
            });
            let _ = writeln!(self.text, "(data (memory $m{memory}) (i32.const {}) \"{bytes}\")", 32 * memory);
        }
        self.text.push_str("(data $passive \"a passive segment of some bytes\"))\n");
        self.text
    }

    /// A function; the functions before it can be called.
    fn function(&mut self, number: usize) {
        let signature = self.random.below(SIGNATURES.len());
        let (params, results) = SIGNATURES[signature];
        self.result = results;
        let _ = write!(
            self.text,
            "(func $f{number} (export \"f{number}\") (type $t{signature}) {} {}",
            list("param", params),
            list("result", results)
        );
        for (letter, ty) in TYPES {
            let _ = write!(self.text, " (local ${letter}0 {ty}) (local ${letter}1 {ty}) (local ${letter}2 {ty})");
        }
        self.text.push_str(" (local $n0 i32) (local $n1 i32) (local $n2 i32) (local $r funcref) (local $x externref) (local $e exnref)\n");
        // So that functions that call others in loops, or themselves, end soon.
        let values: String = results.chars().map(|letter| self.constant(letter)).collect();
        let _ = writeln!(
            self.text,
            "(if (i32.eqz (global.get $fuel)) (then (return {values}))) (global.set $fuel (i32.sub (global.get $fuel) (i32.const 1)))"
        );
        // So that what is passed is used.
        for (index, letter) in params.char_indices().take(5) {
            let _ = writeln!(self.text, "(local.set ${letter}{} (local.get {index}))", index % 3);
        }
        for _ in 0..6 + self.random.below(8) {
            self.statement();
        }
        for (letter, _) in TYPES {
            for local in 0..3 {
                let value = format!("(local.get ${letter}{local})");
                self.keep(letter, &value);
            }
        }
        self.leave(results);
        self.text.push_str(")\n");
        self.functions.push(signature);
    }

    /// The end of a function.
    fn leave(&mut self, results: &'static str) {
        let same: Vec<usize> = (0..self.functions.len()).filter(|function| SIGNATURES[self.functions[*function]].1 == results).collect();
        if !same.is_empty() && self.random.chance(1, 2) {
            let callee = *self.random.choose(&same);
            let signature = self.functions[callee];
            let arguments = self.list_of(SIGNATURES[signature].0);
            if self.random.chance(1, 2) {
                let _ = writeln!(self.text, "(return_call $f{callee} {arguments})");
            } else {
                let table = self.functions_table();
                let _ = writeln!(self.text, "(return_call_indirect {table} (type $t{signature}) {arguments} (i32.const {callee}))");
            }
        } else if self.random.chance(1, 12) {
            let values = self.list_of(results);
            let condition = self.letter_expression('i', 1);
            let _ = writeln!(self.text, "(if {condition} (then unreachable)) {values}");
        } else {
            let values = self.list_of(results);
            self.text.push_str(&values);
        }
    }

    /// An expression of each type.
    fn list_of(&mut self, letters: &str) -> String {
        letters.chars().map(|letter| self.letter_expression(letter, 1) + " ").collect()
    }

    /// Puts a value where it is seen.
    fn keep(&mut self, letter: char, value: &str) {
        self.stores += 1;
        let (at, memory) = (8192 + self.stores * 16, self.random.below(2));
        let text = match self.random.below(8) {
            0 => format!("(global.set $g{letter} {value})\n"),
            1 | 2 => format!("(local.set ${letter}{} {value})\n", self.random.below(3)),
            3 => format!("(drop (local.tee ${letter}{} {value}))\n", self.random.below(3)),
            _ => format!("({}.store $m{memory} offset={at} (i32.const 0) {value})\n", type_of(letter)),
        };
        self.text.push_str(&text);
    }

    fn statement(&mut self) {
        self.depth += 1;
        let kinds = if self.depth > 3 { 12 } else { 22 };
        match self.random.below(kinds) {
            0..=9 => {
                let operator = *self.random.choose(&self.operators);
                let value = self.apply(operator, 2);
                match operator.result {
                    Some(letter) => self.keep(letter, &value),
                    None => self.text.push_str(&(value + "\n")),
                }
            }
            10 => self.of_memory(),
            11 => self.of_table(),
            12 => self.conditional(),
            13 => self.counted_loop(),
            14 => self.switch(),
            15 => self.call(),
            16 => self.indirect(),
            17 => self.catch(),
            18 => self.catch_all(),
            19 => self.rethrow(),
            20 => self.references(),
            _ => self.rare(),
        }
        self.depth -= 1;
    }

    /// One of those that do little.
    fn rare(&mut self) {
        match self.random.below(5) {
            0 => self.text.push_str("nop\n"),
            1 => {
                let condition = self.letter_expression('i', 1);
                let values = self.list_of(self.result);
                let _ = writeln!(self.text, "(if (i32.eqz {condition}) (then (return {values})))");
            }
            2 => {
                let _ = writeln!(self.text, "(block (br 0) unreachable)");
            }
            3 => {
                let letter = self.random.choose(&TYPES).0;
                let value = format!(
                    "(select (result {}) {} {} {})",
                    type_of(letter),
                    self.letter_expression(letter, 1),
                    self.letter_expression(letter, 1),
                    self.letter_expression('i', 1)
                );
                self.keep(letter, &value);
            }
            _ => {
                let condition = self.letter_expression('i', 1);
                let _ = writeln!(self.text, "(if (i32.eq (i32.const 0x55) {condition}) (then unreachable))");
            }
        }
    }

    fn statements(&mut self, most: usize) {
        for _ in 0..1 + self.random.below(most) {
            self.statement();
        }
    }

    fn conditional(&mut self) {
        let condition = self.letter_expression('i', 2);
        let _ = writeln!(self.text, "(if {condition} (then");
        self.statements(2);
        if self.random.chance(2, 3) {
            self.text.push_str(") (else\n");
            self.statements(2);
        }
        self.text.push_str("))\n");
    }

    fn counted_loop(&mut self) {
        if self.depth > 3 {
            return;
        }
        let (counter, times) = (self.depth - 1, 1 + self.random.below(4));
        let _ = writeln!(self.text, "(local.set $n{counter} (i32.const {times})) (block (loop");
        self.statements(2);
        let condition = self.letter_expression('i', 1);
        let _ = writeln!(
            self.text,
            "(br_if 1 (i32.eq {condition} (i32.const 7))) (br_if 0 (local.tee $n{counter} (i32.sub (local.get $n{counter}) (i32.const 1))))))"
        );
    }

    fn switch(&mut self) {
        let index = self.letter_expression('i', 1);
        let letter = self.random.choose(&TYPES).0;
        let (value, ty) = (self.letter_expression(letter, 1), type_of(letter));
        let _ = writeln!(self.text, "(block (result {ty}) (block (result {ty}) (block (result {ty})");
        let _ = writeln!(self.text, "(br_table 0 1 2 1 {value} (i32.and {index} (i32.const 7))))");
        let _ = writeln!(self.text, "(local.set ${letter}0)");
        self.statements(1);
        let _ = writeln!(self.text, "(local.get ${letter}1)) (local.set ${letter}1) (local.get ${letter}0))");
        let _ = writeln!(self.text, "(local.set ${letter}2)");
    }

    /// Takes results from the stack.
    fn take(&mut self, letters: &str) {
        for letter in letters.chars().rev() {
            let _ = write!(self.text, "(local.set ${letter}{})", self.random.below(3));
        }
        self.text.push('\n');
    }

    fn call(&mut self) {
        if self.functions.is_empty() {
            return;
        }
        let callee = self.random.below(self.functions.len());
        let (params, results) = SIGNATURES[self.functions[callee]];
        let arguments = self.list_of(params);
        let _ = writeln!(self.text, "(call $f{callee} {arguments})");
        self.take(results);
    }

    fn indirect(&mut self) {
        if self.functions.is_empty() {
            return;
        }
        // Mostly a function before this one. Seldom with the wrong type.
        let callee = self.random.below(self.functions.len());
        let signature = if self.random.chance(1, 30) { self.random.below(SIGNATURES.len()) } else { self.functions[callee] };
        let (params, results) = SIGNATURES[signature];
        let arguments = self.list_of(params);
        let index = if self.random.chance(1, 30) { 7 + self.random.below(9) } else { callee };
        let table = self.functions_table();
        let _ = writeln!(self.text, "(call_indirect {table} (type $t{signature}) {arguments} (i32.const {index}))");
        self.take(results);
    }

    fn throw(&mut self, tag: usize) -> String {
        let (values, condition) = (self.list_of(TAGS[tag]), self.letter_expression('i', 1));
        if self.random.chance(1, 2) {
            format!("(throw $e{tag} {values})")
        } else {
            format!("(if {condition} (then (throw $e{tag} {values})))")
        }
    }

    /// An exception that is caught by its tag, perhaps from a called function.
    fn catch(&mut self) {
        let tag = self.random.below(TAGS.len());
        let types = list("result", TAGS[tag]);
        let (throw, values) = (self.throw(tag), self.list_of(TAGS[tag]));
        if self.random.chance(1, 2) {
            let _ = writeln!(self.text, "(block $caught {types} (try_table (catch $e{tag} $caught)");
            self.statements(2);
            let _ = writeln!(self.text, "{throw}) {values})");
        } else {
            let types = types.strip_suffix(')').map_or("(result exnref)".into(), |types| format!("{types} exnref)"));
            let _ = writeln!(self.text, "(block $caught {types} (try_table (catch_ref $e{tag} $caught)");
            self.statements(2);
            let _ = writeln!(self.text, "{throw}) {values} (local.get $e)) (local.set $e)");
        }
        self.take(TAGS[tag]);
    }

    fn catch_all(&mut self) {
        let tag = self.random.below(TAGS.len());
        let throw = self.throw(tag);
        if self.random.chance(1, 2) {
            let _ = writeln!(self.text, "(block $caught (try_table (catch_all $caught)");
            self.statements(2);
            let _ = writeln!(self.text, "{throw}))");
        } else {
            let _ = writeln!(self.text, "(block $caught (result exnref) (try_table (catch_all_ref $caught)");
            self.statements(2);
            let _ = writeln!(self.text, "{throw}) (ref.null exn)) (local.set $e)");
        }
    }

    /// An exception that is caught, thrown again and caught again.
    fn rethrow(&mut self) {
        let tag = self.random.below(TAGS.len());
        let throw = self.throw(tag);
        let values = self.list_of(TAGS[tag]);
        let types = list("result", TAGS[tag]);
        let _ = writeln!(self.text, "(block $again {types} (try_table (catch $e{tag} $again)");
        let _ = writeln!(self.text, "(block $caught (result exnref) (try_table (catch_all_ref $caught)");
        let _ = writeln!(self.text, "{throw}) (local.get $e)) (local.set $e)");
        let _ = writeln!(self.text, "(if (i32.eqz (ref.is_null (local.get $e))) (then (throw_ref (local.get $e))))) {values})");
        self.take(TAGS[tag]);
        if self.random.chance(1, 20) {
            self.text.push_str("(throw_ref (ref.null exn))\n");
        }
    }

    fn references(&mut self) {
        let letter = [
            "(ref.is_null (local.get $r))",
            "(ref.is_null (local.get $x))",
            "(ref.is_null (global.get $gr))",
            "(ref.is_null (local.get $e))",
        ];
        let value = (*self.random.choose(&letter)).to_owned();
        self.keep('i', &value);
        let text = match self.random.below(9) {
            0 => format!("(local.set $r (ref.func $f{}))", self.random.below(4)),
            6 => "(local.set $x (call $give))".into(),
            7 => "(global.set $gx (local.get $x))".into(),
            8 => {
                let (number, vector, wide) =
                    (self.letter_expression('i', 1), self.letter_expression('v', 1), self.letter_expression('l', 1));
                let double = self.letter_expression('d', 1);
                let call = format!("(call $take {number} (local.get $x) {vector} (local.get $r) {double} {wide})");
                self.keep('l', &call);
                return;
            }
            1 => "(global.set $gr (local.get $r))".into(),
            2 => "(local.set $x (global.get $gx))".into(),
            3 => format!("(local.set $r (select (result funcref) (local.get $r) (ref.null func) {}))", self.letter_expression('i', 1)),
            4 => "(local.set $x (ref.null extern))".into(),
            _ => "(local.set $r (global.get $gr))".into(),
        };
        self.text.push_str(&(text + "\n"));
    }

    /// One of the tables of functions.
    fn functions_table(&mut self) -> &'static str {
        if self.random.chance(2, 3) { "$tf" } else { "$tg" }
    }

    /// A number that is seldom too large.
    fn small(&mut self, end: usize) -> String {
        if self.random.chance(1, 100) { self.letter_expression('i', 1) } else { format!("(i32.const {})", self.random.below(end)) }
    }

    fn of_memory(&mut self) {
        let (memory, other) = (self.random.below(2), self.random.below(2));
        let (at, from) = (self.small(8000), self.small(8000));
        match self.random.below(7) {
            0 => {
                let pages = self.letter_expression('i', 1);
                let pages = if self.random.chance(1, 2) { pages } else { format!("(i32.const {})", self.random.below(2)) };
                self.keep('i', &format!("(memory.grow $m{memory} {pages})"));
            }
            1 => self.keep('i', &format!("(memory.size $m{memory})")),
            2 => {
                let (value, len) = (self.letter_expression('i', 1), self.small(100));
                let _ = writeln!(self.text, "(memory.fill $m{memory} {at} {value} {len})");
            }
            3 => {
                let len = self.small(700);
                let _ = writeln!(self.text, "(memory.copy $m{memory} $m{other} {at} {from} {len})");
            }
            4 | 5 => {
                // Dropped segments are empty; none may be read from them.
                let _ = writeln!(self.text, "(memory.init $m{memory} $passive {at} (i32.const 0) (i32.const 0))");
                let (from, len) = (self.small(20), self.small(10));
                let _ = writeln!(
                    self.text,
                    "(if (i32.and (i32.const 15) (global.get $gi)) (then (memory.init $m{memory} $passive {at} {from} {len})))"
                );
            }
            _ => self.text.push_str("(data.drop $passive)\n"),
        }
    }

    fn of_table(&mut self) {
        let (at, from, table) = (self.small(5), self.small(5), self.functions_table());
        // Entries of functions that are called are seldom replaced: most calls should still be of the right type.
        let entry = if self.random.chance(1, 8) { self.random.below(8) } else { 5 + self.random.below(3) };
        match self.random.below(13) {
            0 => self.keep('i', &format!("(table.size {table})")),
            1 => self.keep('i', "(table.size $tx)"),
            2 => {
                let count = self.small(3);
                self.keep('i', &format!("(table.grow {table} (local.get $r) {count})"));
            }
            3 => {
                let count = self.small(3);
                self.keep('i', &format!("(table.grow $tx (local.get $x) {count})"));
            }
            4 => {
                let _ = writeln!(self.text, "(local.set $r (table.get {table} {at}))");
            }
            5 => {
                let _ = writeln!(self.text, "(local.set $x (table.get $tx {at}))");
            }
            6 => {
                let _ = writeln!(self.text, "(table.set $tx {at} (local.get $x))");
                let _ = writeln!(self.text, "(table.set {table} (i32.const {entry}) (local.get $r))");
            }
            7 => {
                let len = self.small(2);
                let _ = writeln!(self.text, "(table.fill $tx {at} (global.get $gx) {len})");
            }
            8 => {
                let len = self.small(3);
                let _ = writeln!(self.text, "(table.copy $tx $tx {at} {from} {len})");
            }
            9 => {
                let (to, len) = (self.functions_table(), self.random.below(4));
                let _ = writeln!(self.text, "(table.copy {to} {table} (i32.const {entry}) {from} (i32.const {len}))");
            }
            12 => {
                let _ = writeln!(self.text, "(table.fill {table} (i32.const {entry}) (local.get $r) (i32.const {}))", self.random.below(3));
            }
            10 => {
                let _ = writeln!(
                    self.text,
                    "(table.init $tx $nulls {at} (i32.const 0) (i32.const {})) (table.init {table} $passive (i32.const {entry}) (i32.const {}) (i32.const {}))",
                    self.random.below(2),
                    self.random.below(3),
                    self.random.below(2)
                );
            }
            _ => {
                let name = self.random.choose(&["passive", "nulls"]);
                let _ = writeln!(self.text, "(elem.drop ${name})");
            }
        }
    }

    /// An expression for a letter of the table.
    fn letter_expression(&mut self, letter: char, depth: usize) -> String {
        match letter {
            'a' => match self.random.below(100) {
                0 => self.expression('i', depth),
                1 => format!("(i32.const {})", 0x1_0000 - self.random.below(24)),
                2..=20 => format!("(i32.and (i32.const 0x3fff) {})", self.expression('i', depth)),
                _ => format!("(i32.const {})", self.random.below(700)),
            },
            'z' | 'Z' => {
                let letter = if letter == 'z' { 'i' } else { 'l' };
                let value = self.expression(letter, depth);
                // Seldom 0.
                let ty = type_of(letter);
                if self.random.chance(1, 12) { value } else { format!("({ty}.or ({ty}.const {}) {value})", 1 + self.random.below(9)) }
            }
            'F' | 'D' => {
                let letter = letter.to_ascii_lowercase();
                if self.random.chance(1, 12) {
                    return self.expression(letter, depth);
                }
                // Between -1 and 2^31, within all types.
                let (ty, number) = (type_of(letter), self.random.next() >> (33 + self.random.below(24)));
                let fraction = ["", ".5", ".25", ".75"][self.random.below(4)];
                if self.random.chance(1, 8) { format!("({ty}.const -0{fraction})") } else { format!("({ty}.const {number}{fraction})") }
            }
            _ => self.expression(letter, depth),
        }
    }

    /// An expression of a number type.
    fn expression(&mut self, letter: char, depth: usize) -> String {
        match self.random.below(if depth == 0 { 10 } else { 20 }) {
            0..=3 => self.constant(letter),
            4..=8 => format!("(local.get ${letter}{})", self.random.below(3)),
            9 => format!("(global.get $g{letter})"),
            10 => {
                let (left, right) = (self.expression(letter, depth - 1), self.expression(letter, depth - 1));
                format!("(select {left} {right} {})", self.expression('i', depth - 1))
            }
            11 => format!("(local.tee ${letter}{} {})", self.random.below(3), self.expression(letter, depth - 1)),
            12 => {
                let (ty, condition) = (type_of(letter), self.expression('i', depth - 1));
                let (left, right) = (self.expression(letter, depth - 1), self.expression(letter, depth - 1));
                format!("(if (result {ty}) {condition} (then {left}) (else {right}))")
            }
            _ => {
                let all: Vec<Operator> = self.operators.iter().filter(|operator| operator.result == Some(letter)).copied().collect();
                let operator = *self.random.choose(&all);
                self.apply(operator, depth - 1)
            }
        }
    }

    /// An operator applied to expressions.
    fn apply(&mut self, operator: Operator, depth: usize) -> String {
        let (name, lanes) = operator.name.split_once('#').map_or((operator.name, 0), |(name, lanes)| (name, lanes.parse().unwrap_or(1)));
        let mut text = format!("({}", name.trim_end_matches('@'));
        let mut extreme = false;
        if name.ends_with('@') {
            const LARGE: [u64; 7] = [0xffff, 0x1_0000, 0x1ff_fff8, 0x200_0000, 0x7fff_ffff, 0xffff_0000, 0xffff_ffff];
            // The largest indices with any offset, too.
            extreme = self.random.chance(1, 200);
            let offset = if self.random.chance(1, 150) { *self.random.choose(&LARGE) } else { [0, 0, 1, 3, 16, 500][self.random.below(6)] };
            extreme = extreme || offset > 500 && self.random.chance(1, 2);
            let _ = write!(text, " $m{} offset={offset}", self.random.below(2));
        }
        if lanes > 0 {
            let _ = write!(text, " {}", self.random.below(lanes));
        }
        if name == "i8x16.shuffle" {
            (0..16).for_each(|_| {
                let _ = write!(text, " {}", self.random.below(32));
            });
        }
        for letter in operator.operands.chars() {
            text.push(' ');
            match letter {
                'a' if extreme => {
                    let end: usize = [0x1_0000_0000, 0x8000_0000, 0xfe00_0000, 0x8_0000][self.random.below(4)];
                    let index = end - 1 - self.random.below(20);
                    let _ = write!(text, "(i32.const {index})");
                }
                _ => text.push_str(&self.letter_expression(letter, depth)),
            }
        }
        text.push(')');
        text
    }

    /// A constant, often a border case.
    fn constant(&mut self, letter: char) -> String {
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        match letter {
            'i' => format!("(i32.const {})", interesting(self.random) as i32),
            'l' => format!("(i64.const {})", interesting(self.random).cast_signed()),
            'f' => {
                let bits = interesting_f32(self.random);
                format!(
                    "(f32.const {})",
                    float(f64::from(f32::from_bits(bits)), &format!("{:?}", f32::from_bits(bits)), u64::from(bits & 0x7f_ffff))
                )
            }
            'd' => {
                let bits = interesting_f64(self.random);
                let number = f64::from_bits(bits);
                format!("(f64.const {})", float(number, &format!("{number:?}"), bits & 0xf_ffff_ffff_ffff))
            }
            _ => match self.random.below(3) {
                0 => format!("(v128.const i64x2 {} {})", interesting(self.random), interesting(self.random)),
                1 => {
                    let lanes = [(); 4].map(|()| interesting_f32(self.random));
                    format!("(v128.const i32x4 {} {} {} {})", lanes[0], lanes[1], lanes[2], lanes[3])
                }
                _ => format!("(v128.const i64x2 {} {})", interesting_f64(self.random), interesting_f64(self.random)),
            },
        }
    }
}

/// A number in the text format, given also as Rust writes it and by the payload that it has if it is a NaN.
fn float(number: f64, text: &str, payload: u64) -> String {
    let sign = if number.is_sign_negative() { "-" } else { "" };
    if number.is_nan() {
        format!("{sign}nan:{payload:#x}")
    } else if number.is_infinite() {
        format!("{sign}inf")
    } else {
        text.into()
    }
}

/// Types of parameters or results.
pub(super) fn list(what: &str, letters: &str) -> String {
    if letters.is_empty() {
        return String::new();
    }
    letters.chars().fold(format!("({what}"), |text, letter| text + " " + type_of(letter)) + ")"
}
