//! One case on both engines.

use crate::generate::Case;
use crate::oracle::{Oracle, STACK};
use crate::outcome::Outcome;
use crate::rewrite;
use crate::script::Script;
use crate::{native, operators, profile};
use anyhow::{Context as _, Result, anyhow, ensure};
use preheat_compiler::{CompileError, Compiler, Instrumented, Passes};
use preheat_image::profile::Summary;
use preheat_native::{Config, Engine};
use std::sync::Arc;
use wasmparser::Operator;

/// What a check found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The first difference, or an error that only one engine gave.
    pub difference: Option<String>,
    /// Why the two runs could not be compared.
    pub skipped: Option<&'static str>,
    /// How the instantiation, if it failed, and the calls of exports ended.
    pub endings: Vec<String>,
    /// How many calls returned.
    pub returned: usize,
    /// How often each operator was executed, if it was counted.
    pub executed: Option<Vec<u64>>,
    /// Whether a profile put functions in place of their calls: a random one, and the true one. Only if that was looked for.
    pub inlined: Option<[bool; 2]>,
    /// Whether a module that counts has counted what was executed, if that is known.
    pub exact: bool,
}

/// What came of code that profiles steer.
#[derive(Default)]
struct Steered {
    difference: Option<String>,
    inlined: Option<[bool; 2]>,
}

/// Both engines.
pub struct Checker {
    engine: Engine,
    oracle: Oracle,
    profiles: bool,
}

impl Checker {
    /// Makes the engines.
    ///
    /// # Errors
    /// When the native engine can't run here.
    pub fn new() -> Result<Self> {
        let config = Config { stack: STACK, table_reservation: 4096, ..Config::default() };
        Ok(Self { engine: Engine::new(config)?, oracle: Oracle::default(), profiles: false })
    }

    /// Also compares code that counts, and code that profiles steer: a random one, and the true one.
    #[must_use]
    pub fn with_profiles(self) -> Self {
        Self { profiles: true, ..self }
    }

    /// Compares the code of a case that profiles steer with the oracle. With `look` it is also found out what they put in place of calls.
    fn steered(&self, case: &Case, script: &Script, oracle: &Outcome, look: bool) -> Result<Steered> {
        let compare = |what: &str, compiler: &Compiler, wasm: &[u8]| -> Result<(Option<String>, Option<Vec<u8>>)> {
            Ok(match native::run_compiled(&self.engine, compiler, wasm, script) {
                Err(error) => (Some(format!("{what}: only the native engine fails: {error:#}")), None),
                Ok(None) => (Some(format!("{what}: a feature is lacking")), None),
                Ok(Some((native, counters))) => (native.difference(oracle).map(|why| format!("{what}: {why}")), counters),
            })
        };
        let passes = profile::passes(case.seed);
        let steer =
            |profile: &Arc<Summary>, passes| Ok::<_, anyhow::Error>(Compiler::new(case.native)?.with_profile(profile.clone(), passes));
        let inlines = |profile: &Arc<Summary>| -> Result<bool> {
            let without = Passes { inline: false, ..passes };
            Ok(passes.inline && look && !native::same_code(&steer(profile, passes)?, &steer(profile, without)?, &case.wasm)?)
        };
        let mut found = Steered::default();
        let random = profile::random(&case.wasm, case.seed)?;
        (found.difference, _) = compare("with a random profile", &steer(&random, passes)?, &case.wasm)?;
        if found.difference.is_some() {
            return Ok(found);
        }
        let counting = match Instrumented::new(&case.wasm) {
            Ok(counting) => counting,
            Err(CompileError::Limit { .. }) => return Ok(found),
            Err(error) => return Err(error).context("a module that counts"),
        };
        let (difference, counters) = compare("counting", &Compiler::new(case.native)?, counting.wasm())?;
        found.difference = difference;
        if let Some(counters) = counters.filter(|_| found.difference.is_none()) {
            let own = profile::truthful(counting.source(), counting.read(&counters, None)?)?;
            (found.difference, _) = compare("with its own profile", &steer(&own, passes)?, &case.wasm)?;
            if look && found.difference.is_none() {
                found.inlined = Some([inlines(&random)?, inlines(&own)?]);
            }
        }
        Ok(found)
    }

    /// Whether a module counts something else than wasmtime executes. `None` if that can't be told: where a call fails or something is thrown, what was
    /// begun there may count or not, so that only the calls that return are made, and sometimes there are none.
    fn counts_differ(&self, case: &Case, script: &Script, oracle: &Outcome) -> Result<Option<Option<String>>> {
        let counted = rewrite::count_operators(&case.wasm)?;
        let (mut script, mut outcome, mut memory) = (script.clone(), oracle.clone(), None);
        for _ in 0..3 {
            if outcome.instance.is_err() || outcome.returned() == 0 {
                return Ok(None);
            }
            let mut ends = outcome.calls.iter();
            script.calls.retain(|_| ends.next().is_some_and(Result::is_ok));
            (outcome, memory) = self.oracle.run(case.oracle_cpu, false, &counted.wasm, &script)?;
            if outcome.instance.is_ok() && outcome.returned() == outcome.calls.len() {
                break;
            }
        }
        let Some(memory) = memory.filter(|_| outcome.returned() == outcome.calls.len()) else { return Ok(None) };
        let executed = rewrite::executed_in(&counted, &memory);
        let throws = [Operator::Throw { tag_index: 0 }, Operator::ThrowRef].map(|operator| operators::number(&operator));
        if executed.iter().any(|((_, operator), count)| throws.contains(operator) && *count > 0) {
            return Ok(None);
        }
        let Ok(counting) = Instrumented::new(&case.wasm) else { return Ok(None) };
        let ran = native::run_compiled(&self.engine, &Compiler::new(case.native)?, counting.wasm(), &script)?;
        let Some((native, Some(counters))) = ran else { return Ok(None) };
        if let Some(difference) = native.difference(&outcome) {
            return Ok(Some(Some(format!("counting: {difference}"))));
        }
        let claimed = profile::executed(&case.wasm, &counting.read(&counters, None)?)?;
        let wrong = claimed.into_iter().find(|(what, count)| executed.get(what).copied().unwrap_or(0) != *count);
        Ok(Some(wrong.map(|((function, operator), count)| {
            let (name, executed) = (operators::name(operator), executed.get(&(function, operator)).copied().unwrap_or(0));
            format!("own function {function} executed {name} {executed} times and counted {count}")
        })))
    }

    /// Runs a case on both engines. With `count`, once more on wasmtime with counters, which must not change the outcome either.
    ///
    /// Wants a thread with a [large stack](on_large_stack).
    ///
    /// # Errors
    /// When wasmtime can't run the module, or what is in common fails: then nothing was tested.
    pub fn check(&self, case: &Case, count: bool) -> Result<Verdict> {
        let script = match Script::new(&case.wasm, case.seed) {
            Ok(script) => script,
            Err(error) if error.to_string().contains("two imports") => {
                return Ok(Verdict { skipped: Some("two imports of one name"), ..Verdict::default() });
            }
            Err(error) => return Err(error),
        };
        let (oracle, _) = self.oracle.run(case.oracle_cpu, case.oracle_optimizes, &case.wasm, &script)?;
        let mut verdict = Verdict { endings: oracle.endings(), returned: oracle.returned(), ..Verdict::default() };
        if oracle.is_out_of_stack() {
            verdict.skipped = Some("out of stack");
            return Ok(verdict);
        }
        match native::run(&self.engine, case.native, &case.wasm, &script) {
            Err(error) => verdict.difference = Some(format!("only the native engine fails: {error:#}")),
            Ok(None) => verdict.skipped = Some("a feature that the native engine lacks"),
            Ok(Some(native)) => verdict.difference = native.difference(&oracle),
        }
        if self.profiles && verdict.difference.is_none() && verdict.skipped.is_none() {
            let steered = self.steered(case, &script, &oracle, count)?;
            (verdict.difference, verdict.inlined) = (steered.difference, steered.inlined);
            if count && verdict.difference.is_none() {
                let differs = self.counts_differ(case, &script, &oracle)?;
                verdict.exact = differs.is_some();
                verdict.difference = differs.flatten();
            }
        }
        if count && verdict.difference.is_none() && verdict.skipped.is_none() {
            let counted = rewrite::count_operators(&case.wasm)?;
            let (again, memory) = self.oracle.run(case.oracle_cpu, false, &counted.wasm, &script)?;
            ensure!(again == oracle, "counters change what a module does: {:?}", again.difference(&oracle));
            verdict.executed =
                Some(memory.map_or_else(|| vec![0; operators::count()], |memory| rewrite::executed(&counted.counters, &memory)));
        }
        Ok(verdict)
    }
}

/// Runs something on a thread whose stack is large enough for [`Checker::check`].
///
/// # Errors
/// When there can't be such a thread, or `run` panics.
pub fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(3 * STACK).spawn_scoped(scope, run).context("start a thread")?;
        thread.join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            anyhow!("a panic: {}", text.unwrap_or("without text"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The difference between what the native engine makes of one module and wasmtime of another.
    fn difference(native: &str, oracle: &str) -> Option<String> {
        let checker = Checker::new().unwrap();
        let run = || {
            let [native, oracle] = [native, oracle].map(|text| {
                let text = format!(r#"(module (import "a" "f" (func $f (param i32))) {text})"#);
                Case::new(&wat::parse_str(text).unwrap(), 7).unwrap()
            });
            let script = Script::new(&oracle.wasm, 7).unwrap();
            let (expected, _) = checker.oracle.run(oracle.oracle_cpu, true, &oracle.wasm, &script).unwrap();
            native::run(&checker.engine, native.native, &native.wasm, &script).unwrap().unwrap().difference(&expected)
        };
        on_large_stack(run).unwrap()
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let f = |body: &str| {
            format!(
                r#"(memory (export "m") 1 2) (table (export "t") 2 4 funcref) (global (export "g") (mut i64) (i64.const 5)) (tag $e) (elem declare func $f) (func (export "f") (result f32) {body} (f32.const 1))"#
            )
        };
        assert_eq!(difference(&f(""), &f("")), None);
        for (native, oracle, expected) in [
            ("(return (f32.const -0))", "(return (f32.const 0))", "call 0: native Ok([F32(2147483648)]), wasmtime Ok([F32(0)])"),
            ("", "unreachable", "call 0: native Ok([F32(1065353216)]), wasmtime Err(Trap(Unreachable))"),
            (
                "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
                "unreachable",
                "native Err(Trap(DivisionByZero)), wasmtime Err(Trap(Unreachable))",
            ),
            ("(throw $e)", "unreachable", "native Err(Trap(UncaughtException)), wasmtime Err(Trap(Unreachable))"),
            ("(call $f (i32.const 1))", "(call $f (i32.const 2))", "host call 0: native HostCall { import: 0, arguments: [I32(1)] }"),
            ("(call $f (i32.const 1))", "", "numbers of calls, host calls, and states"),
            ("(global.set 0 (i64.const 6))", "", "export \"g\": native Global(I64(6)), wasmtime Global(I64(5))"),
            ("(i32.store8 (i32.const 9) (i32.const 3))", "", "export \"m\" at 0x9: native [3], wasmtime []"),
            ("(drop (memory.grow (i32.const 1)))", "", "length of export \"m\": native 131072, wasmtime 65536"),
            ("(table.set (i32.const 1) (ref.func $f))", "", "export \"t\"[1]: native Func(Some(\"[I32] -> []\")), wasmtime Func(None)"),
            ("(drop (table.grow (ref.null func) (i32.const 1)))", "", "export \"t\""),
        ] {
            let found = difference(&f(native), &f(oracle)).unwrap();
            assert!(found.contains(expected), "{native} and {oracle}: {found}");
        }
        let start = r#"(func $s unreachable) (start $s)"#;
        let found = difference(start, "").unwrap();
        assert!(found.contains("instantiation: native Err(Trap(Unreachable)), wasmtime Ok"), "{found}");
    }

    #[test]
    fn a_module_that_uses_up_the_stack_is_not_compared() {
        let text = r#"(module (func $f (export "f") (result i64) (i64.add (i64.const 1) (call $f))))"#;
        let checker = Checker::new().unwrap();
        let case = Case::new(&wat::parse_str(text).unwrap(), 1).unwrap();
        let verdict = on_large_stack(|| checker.check(&case, true)).unwrap().unwrap();
        assert_eq!(verdict.skipped, Some("out of stack"));
    }
}
