//! Programs that can be frozen anywhere: structured control flow of all kinds, with calls of the host in every position.
//!
//! All is typed expressions and statements, nested at random, so that calls have locals of every type, operands below them and blocks around
//! them. Loops go back, and functions begin, only while there is fuel, so that all programs end. Floating-point values are moved about and
//! not computed with: which NaN comes out is left open by the specification.

use crate::random::Random;
use std::fmt::Write as _;

/// Types of values by letters.
const TYPES: [(char, &str); 7] =
    [('i', "i32"), ('l', "i64"), ('f', "f32"), ('d', "f64"), ('v', "v128"), ('r', "funcref"), ('x', "externref")];

/// Functions of the host, with the letters of their parameters and results.
pub(super) const HOST: [(&str, &str); 6] = [("i", "i"), ("ldv", "l"), ("", ""), ("ri", "f"), ("i", "vi"), ("fx", "dl")];

/// How many of each type a function has as locals.
const LOCALS: usize = 2;

/// Operators, as operands and result: none whose result may be a NaN that was not there.
const OPERATORS: [(&str, &str, char); 30] = [
    ("i32.add", "ii", 'i'),
    ("i32.sub", "ii", 'i'),
    ("i32.mul", "ii", 'i'),
    ("i32.xor", "ii", 'i'),
    ("i32.rotl", "ii", 'i'),
    ("i32.eqz", "i", 'i'),
    ("i32.lt_s", "ii", 'i'),
    ("i32.wrap_i64", "l", 'i'),
    ("i32.reinterpret_f32", "f", 'i'),
    ("i32x4.extract_lane 2", "v", 'i'),
    ("i64.eq", "ll", 'i'),
    ("ref.is_null", "r", 'i'),
    ("ref.is_null", "x", 'i'),
    ("i64.add", "ll", 'l'),
    ("i64.xor", "ll", 'l'),
    ("i64.extend_i32_s", "i", 'l'),
    ("i64.reinterpret_f64", "d", 'l'),
    ("i64x2.extract_lane 1", "v", 'l'),
    ("f32.neg", "f", 'f'),
    ("f32.copysign", "ff", 'f'),
    ("f32.convert_i32_s", "i", 'f'),
    ("f32.reinterpret_i32", "i", 'f'),
    ("f64.abs", "d", 'd'),
    ("f64.copysign", "dd", 'd'),
    ("f64.convert_i64_u", "l", 'd'),
    ("f64.reinterpret_i64", "l", 'd'),
    ("i32x4.add", "vv", 'v'),
    ("v128.xor", "vv", 'v'),
    ("i64x2.replace_lane 0", "vl", 'v'),
    ("i8x16.swizzle", "vv", 'v'),
];

fn name(letter: char) -> &'static str {
    TYPES.iter().find(|(known, _)| *known == letter).map_or("i32", |(_, name)| name)
}

pub(super) fn list(what: &str, letters: &str) -> String {
    letters.chars().fold(String::new(), |text, letter| text + "(" + what + " " + name(letter) + ") ")
}

/// A label that can be branched to.
pub(super) struct Label {
    pub(super) types: String,
    pub(super) is_loop: bool,
    /// A loop that looks itself whether there is fuel.
    pub(super) free: bool,
}

pub(super) struct Program<'a> {
    pub(super) random: &'a mut Random,
    /// Parameters and results of own functions.
    signatures: Vec<(String, String)>,
    pub(super) labels: Vec<Label>,
    /// What the current function has and returns.
    params: String,
    results: String,
    /// How many nodes the current function may still have.
    budget: usize,
    /// Make many loops in loops.
    nests: bool,
}

/// A program in the text format, with many loops in loops if `nests`. Its export `main` takes nothing.
pub(super) fn program(random: &mut Random, nests: bool) -> String {
    let types: Vec<char> = TYPES.iter().map(|(letter, _)| *letter).collect();
    let count = 3 + random.below(4);
    let mut signatures = Vec::new();
    for function in 0..count {
        let mut letters = |most: usize| (0..random.below(most + 1)).map(|_| types[random.below(types.len())]).collect::<String>();
        signatures.push(if function == 0 { (String::new(), letters(3)) } else { (letters(4), letters(3)) });
    }
    let mut program = Program { random, signatures, labels: Vec::new(), params: String::new(), results: String::new(), budget: 0, nests };
    program.module()
}

impl Program<'_> {
    fn module(&mut self) -> String {
        let mut text = String::from("(module\n");
        for (number, (params, results)) in HOST.iter().enumerate() {
            let _ = writeln!(text, "(type $h{number} (func {} {}))", list("param", params), list("result", results));
        }
        for (number, (params, results)) in self.signatures.iter().enumerate() {
            let _ = writeln!(text, "(type $t{number} (func {} {}))", list("param", params), list("result", results));
        }
        for number in 0..HOST.len() {
            let _ = writeln!(text, "(import \"host\" \"h{number}\" (func $h{number} (type $h{number})))");
        }
        for (letter, ty) in TYPES {
            let _ = writeln!(text, "(tag $e{letter} (param {ty}))");
        }
        text.push_str("(memory $m0 1 3) (memory $m1 1) (table $t 20 24 funcref)\n(global $fuel (mut i32) (i32.const 60))\n");
        for (letter, ty) in TYPES {
            let _ = writeln!(text, "(global $g{letter} (mut {ty}) {})", self.constant(letter));
        }
        let own: String = (0..self.signatures.len()).map(|number| format!("$f{number} ")).collect();
        let host: String = (0..HOST.len()).map(|number| format!("$h{number} ")).collect();
        let _ = writeln!(text, "(elem (table $t) (i32.const 0) func {own}) (elem (table $t) (i32.const 10) func {host})");
        let _ = writeln!(text, "(elem $passive func {own}) (data $passive \"some bytes of a passive segment\")");
        text.push_str("(data (memory $m0) (i32.const 0) \"bytes\\ff\\00that are there at first\\80\")\n");
        for number in 0..self.signatures.len() {
            self.function(&mut text, number);
        }
        text.push(')');
        text
    }

    fn function(&mut self, text: &mut String, number: usize) {
        (self.params, self.results) = self.signatures[number].clone();
        self.budget = 60 + self.random.below(160);
        let export = if number == 0 { "(export \"main\")" } else { "" };
        let _ = write!(text, "(func $f{number} {export} (type $t{number})");
        // The type says what the parameters are; these are the locals behind them.
        for (_, ty) in TYPES {
            (0..LOCALS).for_each(|_| {
                let _ = write!(text, " (local {ty})");
            });
        }
        let _ = writeln!(text, "\n{}", self.fuel_or_return());
        self.labels = vec![Label { types: self.results.clone(), is_loop: false, free: false }];
        for _ in 0..2 + self.random.below(5) {
            let statement = self.statement(0);
            text.push_str(&statement);
        }
        let results = self.results.clone();
        let same: Vec<usize> = (0..self.signatures.len()).filter(|callee| self.signatures[*callee].1 == results).collect();
        if self.random.chance(1, 5) {
            let callee = *self.random.choose(&same);
            let arguments = self.values(&self.signatures[callee].0.clone(), 1);
            let how = if self.random.chance(1, 2) { "return_call" } else { "return_call_indirect" };
            let _ = match how {
                "return_call" => writeln!(text, "(return_call $f{callee} {arguments})"),
                _ => writeln!(text, "(return_call_indirect $t (type $t{callee}) {arguments} (i32.const {callee}))"),
            };
        } else {
            let values = self.values(&results, 2);
            text.push_str(&values);
        }
        text.push_str(")\n");
    }

    fn zero(&self, letter: char) -> String {
        match letter {
            'v' => "(v128.const i64x2 0 0)".into(),
            'r' => "(ref.null func)".into(),
            'x' => "(ref.null extern)".into(),
            _ => format!("({}.const 0)", name(letter)),
        }
    }

    fn constant(&mut self, letter: char) -> String {
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        match letter {
            'i' => format!("(i32.const {})", self.random.number() as i32),
            'l' => format!("(i64.const {})", self.random.number().cast_signed()),
            'f' | 'd' => format!("({}.const {}.5)", name(letter), self.random.below(1000)),
            'v' => format!("(v128.const i64x2 {} {})", self.random.number(), self.random.number()),
            _ => self.zero(letter),
        }
    }

    /// The index of a local of a type: a parameter or one behind them.
    pub(super) fn local(&mut self, letter: char) -> usize {
        let of_type: Vec<usize> = self.params.chars().enumerate().filter(|(_, ty)| *ty == letter).map(|(index, _)| index).collect();
        let place = TYPES.iter().position(|(known, _)| *known == letter).unwrap_or(0);
        let own = self.params.len() + place * LOCALS + self.random.below(LOCALS);
        if !of_type.is_empty() && self.random.chance(1, 3) { *self.random.choose(&of_type) } else { own }
    }

    pub(super) fn values(&mut self, letters: &str, depth: usize) -> String {
        letters.chars().map(|letter| self.expression(letter, depth) + " ").collect()
    }

    /// Whether there is room for something with parts.
    fn room(&mut self, depth: usize) -> bool {
        self.budget = self.budget.saturating_sub(1);
        self.budget > 0 && depth < 7
    }

    /// A call of something with these results; `None` if there is nothing.
    pub(super) fn call(&mut self, results: &str, depth: usize) -> Option<String> {
        let host: Vec<(String, usize)> =
            HOST.iter().enumerate().filter(|(_, (_, of))| *of == results).map(|(number, _)| (format!("h{number}"), 10 + number)).collect();
        let own = self.signatures.iter().enumerate().filter(|(_, (_, of))| *of == results);
        let own: Vec<(String, usize)> = own.map(|(number, _)| (format!("f{number}"), number)).collect();
        let from = if own.is_empty() || (!host.is_empty() && self.random.chance(2, 3)) { &host } else { &own };
        let (callee, entry) = from.get(self.random.below(from.len().max(1)))?.clone();
        let number = entry % 10;
        let params = if entry < 10 { self.signatures[number].0.clone() } else { HOST[number].0.to_owned() };
        let arguments = self.values(&params, depth + 2);
        Some(if self.random.chance(1, 4) {
            let ty = if entry < 10 { format!("t{number}") } else { callee };
            let index = if self.random.chance(1, 40) { self.expression('i', depth + 2) } else { format!("(i32.const {entry})") };
            format!("(call_indirect $t (type ${ty}) {arguments} {index})")
        } else {
            format!("(call ${callee} {arguments})")
        })
    }

    /// With a label around it.
    pub(super) fn within(&mut self, types: &str, is_loop: bool, body: impl FnOnce(&mut Self) -> String) -> String {
        self.labels.push(Label { types: types.into(), is_loop, free: false });
        let text = body(self);
        self.labels.pop();
        text
    }

    fn body(&mut self, letter: char, depth: usize) -> String {
        let mut text = String::new();
        for _ in 0..self.random.below(3) {
            text += &self.statement(depth + 1);
        }
        text + &self.expression(letter, depth + 1)
    }

    /// One that is as it is only sometimes.
    pub(super) fn condition(&mut self, depth: usize) -> String {
        format!("(i32.and (i32.const {}) {})", [1, 2, 3, 5][self.random.below(4)], self.expression('i', depth + 2))
    }

    /// Takes fuel, and whether there was some.
    pub(super) fn fuel(&self) -> &'static str {
        "(block (result i32) (global.set $fuel (i32.sub (global.get $fuel) (i32.const 1))) (i32.gt_s (global.get $fuel) (i32.const 0)))"
    }

    /// Takes fuel, and returns if there is none.
    pub(super) fn fuel_or_return(&self) -> String {
        let zeros: String = self.results.chars().map(|letter| self.zero(letter)).collect();
        format!(
            "(global.set $fuel (i32.sub (global.get $fuel) (i32.const 1)))\n(if (i32.le_s (global.get $fuel) (i32.const 0)) (then (return {zeros})))"
        )
    }

    /// An expression of a type.
    pub(super) fn expression(&mut self, letter: char, depth: usize) -> String {
        let kinds = if self.room(depth) { 24 } else { 6 };
        match self.random.below(kinds) {
            0 => self.constant(letter),
            1..=4 => format!("(local.get {})", self.local(letter)),
            5 => format!("(global.get $g{letter})"),
            6 => format!("(local.tee {} {})", self.local(letter), self.expression(letter, depth + 1)),
            7..=10 => self.operator(letter, depth),
            11..=14 => {
                let call = self.call(&letter.to_string(), depth);
                call.unwrap_or_else(|| format!("(local.get {})", self.local(letter)))
            }
            15 => {
                let body = self.within(&letter.to_string(), false, |this| this.body(letter, depth));
                format!("(block (result {}) {body})", name(letter))
            }
            16 => {
                let condition = self.condition(depth);
                let then = self.within(&letter.to_string(), false, |this| this.body(letter, depth));
                let other = self.within(&letter.to_string(), false, |this| this.body(letter, depth));
                format!("(if (result {}) {condition} (then {then}) (else {other}))", name(letter))
            }
            17 => {
                let body = self.within("", true, |this| {
                    let body = this.body(letter, depth);
                    let again = this.condition(depth);
                    format!("{body} (br_if 0 (i32.and {} (i32.ne (i32.const 0) {again})))", this.fuel())
                });
                format!("(loop (result {}) {body})", name(letter))
            }
            18 => {
                // A block, and a loop, that take a value from the stack.
                let other = TYPES[self.random.below(TYPES.len())].0;
                let types = other.to_string();
                let is_loop = self.random.chance(1, 3);
                let label = if is_loop { types } else { letter.to_string() };
                let inner = self.within(&letter.to_string(), false, |this| {
                    let (value, local) = (this.expression(other, depth + 1), this.local(other));
                    let body = this.within(&label, is_loop, |this| format!("(local.set {local}) {}", this.body(letter, depth)));
                    let kind = if is_loop { "loop" } else { "block" };
                    format!("{value} ({kind} (param {}) (result {}) {body})", name(other), name(letter))
                });
                format!("(block (result {}) {inner})", name(letter))
            }
            19 => {
                let (one, other) = (self.expression(letter, depth + 1), self.expression(letter, depth + 1));
                format!("(select (result {}) {one} {other} {})", name(letter), self.condition(depth))
            }
            20 | 21 => {
                let body = self.within(&letter.to_string(), false, |this| {
                    let body = this.within(&letter.to_string(), false, |this| this.body(letter, depth));
                    format!("(try_table (result {ty}) (catch $e{letter} 0) {body})", ty = name(letter))
                });
                format!("(block (result {}) {body})", name(letter))
            }
            22 => match letter {
                'r' if self.random.chance(1, 2) => format!("(ref.func $f{})", self.random.below(self.signatures.len())),
                'r' => format!("(table.get $t (i32.const {}))", self.random.below(20)),
                'x' => self.zero('x'),
                _ => format!("({}.load $m{} (i32.const {}))", name(letter), self.random.below(2), self.random.below(4000)),
            },
            _ => match letter {
                'r' => format!("(ref.func $h{})", self.random.below(HOST.len())),
                'x' => self.zero('x'),
                _ => {
                    let place = self.expression('i', depth + 1);
                    format!("({}.load $m0 (i32.and (i32.const 0xffff) {place}))", name(letter))
                }
            },
        }
    }

    fn operator(&mut self, letter: char, depth: usize) -> String {
        let all: Vec<_> = OPERATORS.iter().filter(|(_, _, result)| *result == letter).collect();
        if all.is_empty() {
            return format!("(local.get {})", self.local(letter));
        }
        let (operator, operands, _) = **self.random.choose(&all);
        format!("({operator} {})", self.values(operands, depth + 1))
    }

    pub(super) fn letter(&mut self) -> char {
        TYPES[self.random.below(TYPES.len())].0
    }

    fn statements(&mut self, depth: usize) -> String {
        (0..1 + self.random.below(3)).map(|_| self.statement(depth + 1)).collect()
    }

    pub(super) fn statement(&mut self, depth: usize) -> String {
        let kinds = match self.room(depth) {
            true if self.nests => 28,
            true => 24,
            false => 4,
        };
        let text = match self.random.below(kinds) {
            0..=2 => {
                let letter = self.letter();
                format!("(local.set {} {})", self.local(letter), self.expression(letter, depth + 1))
            }
            3 => {
                let letter = self.letter();
                format!("(global.set $g{letter} {})", self.expression(letter, depth + 1))
            }
            4 | 5 => {
                let letter = ['i', 'l', 'f', 'd', 'v'][self.random.below(5)];
                let (memory, at) = (self.random.below(2), self.random.below(8000));
                format!("({}.store $m{memory} (i32.const {at}) {})", name(letter), self.expression(letter, depth + 1))
            }
            6..=9 => {
                // A call with any results, which are taken from the stack.
                let host = self.random.chance(1, 2);
                let results = if host {
                    HOST[self.random.below(HOST.len())].1.to_owned()
                } else {
                    self.signatures[self.random.below(self.signatures.len())].1.clone()
                };
                let call = self.call(&results, depth).unwrap_or_default();
                let take: Vec<String> = results.chars().rev().map(|letter| format!("(local.set {})", self.local(letter))).collect();
                format!("{call} {}", take.join(" "))
            }
            10 => {
                let body = self.within("", false, |this| this.statements(depth));
                format!("(block {body})")
            }
            11 | 12 => {
                let body = self.within("", true, |this| {
                    let body = this.statements(depth);
                    let again = this.expression('i', depth + 2);
                    format!("{body} (br_if 0 (i32.and {} (i32.ne (i32.const 0) {again})))", this.fuel())
                });
                format!("(loop {body})")
            }
            13 | 14 => {
                let condition = self.condition(depth);
                let then = self.within("", false, |this| this.statements(depth));
                let other = if self.random.chance(1, 2) { self.within("", false, |this| this.statements(depth)) } else { String::new() };
                format!("(if {condition} (then {then}) (else {other}))")
            }
            15 | 16 => self.branch_if(depth),
            17 => {
                let condition = self.condition(depth);
                let branch = self.within("", false, |this| this.branch(depth));
                format!("(if {condition} (then {branch}))")
            }
            18 => {
                let body = self.within("", false, |this| {
                    let index = this.expression('i', depth + 1);
                    let plain = this.plain_labels();
                    let targets: Vec<String> = (0..3).map(|_| this.random.choose(&plain).to_string()).collect();
                    format!("(br_table {} {index})", targets.join(" "))
                });
                format!("(block {body})")
            }
            19 => {
                let condition = self.condition(depth);
                let letter = self.letter();
                let body = self.within("", false, |this| format!("(throw $e{letter} {})", this.expression(letter, depth + 1)));
                format!("(if {condition} (then {body}))")
            }
            20 => {
                let body = self.within("", false, |this| this.within("", false, |this| this.statements(depth)));
                format!("(block (try_table (catch_all 0) {body}))")
            }
            21 => self.of_memory(depth),
            22 => self.of_table(depth),
            23 => {
                let condition = self.expression('i', depth + 1);
                format!("(if (i32.eq (i32.const 0x55) {condition}) (then unreachable))")
            }
            _ => {
                let levels = 2 + self.random.below(3);
                self.nest(levels, depth)
            }
        };
        text + "\n"
    }

    /// Labels without values that lead forward.
    fn plain_labels(&self) -> Vec<usize> {
        let depths = self.labels.iter().rev().enumerate();
        depths.filter(|(_, label)| !label.is_loop && label.types.is_empty()).map(|(depth, _)| depth).collect()
    }

    pub(super) fn branch_if(&mut self, depth: usize) -> String {
        let target = self.random.below(self.labels.len());
        let label = &self.labels[self.labels.len() - 1 - target];
        let (types, is_loop) = (label.types.clone(), label.is_loop);
        let values = self.values(&types, depth + 1);
        let condition = self.condition(depth);
        let condition = if is_loop { format!("(i32.and {} (i32.ne (i32.const 0) {condition}))", self.fuel()) } else { condition };
        let drops = "(drop) ".repeat(types.len());
        format!("(br_if {target} {values} {condition}) {drops}")
    }

    fn branch(&mut self, depth: usize) -> String {
        if self.random.chance(1, 4) {
            let results = self.results.clone();
            return format!("(return {})", self.values(&results, depth + 1));
        }
        let target = self.random.below(self.labels.len());
        let label = &self.labels[self.labels.len() - 1 - target];
        if label.is_loop {
            return self.branch_if(depth);
        }
        let types = label.types.clone();
        format!("(br {target} {})", self.values(&types, depth + 1))
    }

    fn of_memory(&mut self, depth: usize) -> String {
        let (at, from, len) = (self.random.below(60_000), self.random.below(60_000), self.random.below(600));
        match self.random.below(6) {
            0 => format!("(local.set {} (memory.grow $m{} (i32.const {})))", self.local('i'), self.random.below(2), self.random.below(3)),
            1 => format!("(memory.fill $m{} (i32.const {at}) {} (i32.const {len}))", self.random.below(2), self.expression('i', depth + 1)),
            2 => format!("(memory.copy $m0 $m{} (i32.const {at}) (i32.const {from}) (i32.const {len}))", self.random.below(2)),
            3 => format!("(memory.init $m1 $passive (i32.const {at}) (i32.const 3) (i32.const {}))", self.random.below(9)),
            4 if self.random.chance(1, 3) => "(data.drop $passive)".into(),
            _ => format!("(local.set {} (memory.size $m0))", self.local('i')),
        }
    }

    fn of_table(&mut self, depth: usize) -> String {
        // Entries that are called are seldom replaced.
        let entry = if self.random.chance(1, 10) { self.random.below(20) } else { 16 + self.random.below(4) };
        match self.random.below(5) {
            0 | 1 => format!("(table.set $t (i32.const {entry}) {})", self.expression('r', depth + 1)),
            2 => format!("(local.set {} (table.grow $t {} (i32.const 1)))", self.local('i'), self.expression('r', depth + 1)),
            3 => format!("(table.init $t $passive (i32.const {entry}) (i32.const 1) (i32.const {}))", self.random.below(3)),
            _ if self.random.chance(1, 3) => "(elem.drop $passive)".into(),
            _ => format!("(table.copy $t $t (i32.const {entry}) (i32.const {}) (i32.const 1))", self.random.below(20)),
        }
    }
}
