//! The sum of many checks.

use crate::check::Verdict;
use crate::generate::Generator;
use crate::operators;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// A seed for which the engines differ.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The generator.
    pub generator: Generator,
    /// The seed.
    pub seed: u64,
    /// What differs.
    pub what: String,
    /// A file with a smaller module that differs.
    pub module: Option<String>,
}

/// What many checks came to.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How many modules were compared.
    pub modules: u64,
    /// Of these, how many had an export that returned.
    pub returned: u64,
    /// How many calls of exports, and instantiations that failed, ended in which way.
    pub endings: BTreeMap<String, u64>,
    /// How many seeds gave no module.
    pub no_module: u64,
    /// How many modules could not be compared, and why.
    pub skipped: BTreeMap<String, u64>,
    /// How many modules were run with counters.
    pub counted: u64,
    /// How often each operator was executed in those.
    pub executed: BTreeMap<String, u64>,
    /// Of how many it was found out whether profiles put functions in place of their calls.
    pub looked_at: u64,
    /// In how many of these a random profile did.
    pub inlined_by_random: u64,
    /// In how many of these their own profile did.
    pub inlined_by_own: u64,
    /// How many modules counted exactly what was executed, in the calls that returned. Where something is thrown, that can't be told.
    pub counted_exactly: u64,
    /// Seeds for which the engines differ.
    pub differences: Vec<Difference>,
    /// Seeds that could not be tested at all.
    pub errors: Vec<String>,
}

impl Report {
    /// Adds what a check found, but for a difference.
    pub fn add(&mut self, verdict: &Verdict) {
        if let Some(why) = verdict.skipped {
            *self.skipped.entry(why.into()).or_default() += 1;
            return;
        }
        self.modules += 1;
        self.returned += u64::from(verdict.returned > 0);
        for ending in &verdict.endings {
            *self.endings.entry(ending.clone()).or_default() += 1;
        }
        if let Some([random, own]) = verdict.inlined {
            self.looked_at += 1;
            self.inlined_by_random += u64::from(random);
            self.inlined_by_own += u64::from(own);
        }
        self.counted_exactly += u64::from(verdict.exact);
        if let Some(executed) = &verdict.executed {
            self.counted += 1;
            for operator in operators::supported() {
                *self.executed.entry(operators::name(operator)).or_default() += executed[operator];
            }
        }
    }

    /// Adds another report.
    pub fn merge(&mut self, other: Self) {
        self.modules += other.modules;
        self.returned += other.returned;
        self.no_module += other.no_module;
        self.counted += other.counted;
        self.looked_at += other.looked_at;
        self.inlined_by_random += other.inlined_by_random;
        self.inlined_by_own += other.inlined_by_own;
        self.counted_exactly += other.counted_exactly;
        for (why, count) in other.skipped {
            *self.skipped.entry(why).or_default() += count;
        }
        for (ending, count) in other.endings {
            *self.endings.entry(ending).or_default() += count;
        }
        for (name, count) in other.executed {
            *self.executed.entry(name).or_default() += count;
        }
        self.differences.extend(other.differences);
        self.errors.extend(other.errors);
    }

    /// The operators that were executed less than `least` times.
    #[must_use]
    pub fn rarer_than(&self, least: u64) -> Vec<(String, u64)> {
        let counts = operators::supported().map(operators::name);
        let counts = counts.map(|name| (self.executed.get(&name).copied().unwrap_or(0), name));
        let mut rare: Vec<_> = counts.filter(|(count, _)| *count < least).map(|(count, name)| (name, count)).collect();
        rare.sort_by_key(|(_, count)| *count);
        rare
    }

    /// The share of modules of which an export returned, from 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    pub fn share_returned(&self) -> f64 {
        self.returned as f64 / self.modules.max(1) as f64
    }

    /// The report in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let (modules, share) = (self.modules, 100.0 * self.share_returned());
        format!(
            "{modules} modules compared, {share:.1} % returned from an export, {} differences, {} errors",
            self.differences.len(),
            self.errors.len()
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        let endings: Vec<_> = self.endings.iter().map(|(ending, count)| format!("{ending} {count}")).collect();
        writeln!(f, "calls of exports: {}", endings.join(", "))?;
        for (why, count) in &self.skipped {
            writeln!(f, "{count} modules not compared: {why}")?;
        }
        if self.no_module > 0 {
            writeln!(f, "{} seeds without a module", self.no_module)?;
        }
        if self.counted > 0 {
            let least =
                operators::supported().map(operators::name).map(|name| (self.executed.get(&name).copied().unwrap_or(0), name)).min();
            if let Some((count, name)) = least {
                writeln!(f, "operators counted in {} modules; the rarest is {name}, executed {count} times", self.counted)?;
            }
            let rare = self.rarer_than(1000);
            if !rare.is_empty() {
                let rare: Vec<_> = rare.iter().map(|(name, count)| format!("{name} {count}")).collect();
                writeln!(f, "executed less than 1,000 times: {}", rare.join(", "))?;
            }
        }
        if self.looked_at > 0 {
            let Self { looked_at, inlined_by_random, inlined_by_own, counted_exactly, .. } = self;
            writeln!(
                f,
                "profiles put functions in place of calls in {inlined_by_random} (random profiles) and {inlined_by_own} (their own) of {looked_at} modules; {counted_exactly} counted exactly what was executed"
            )?;
        }
        for Difference { generator, seed, what, module } in &self.differences {
            writeln!(f, "DIFFERENCE with {generator:?} seed {seed}: {what}")?;
            if let Some(module) = module {
                writeln!(f, "  reduced: {module}")?;
            }
        }
        for error in &self.errors {
            writeln!(f, "ERROR {error}")?;
        }
        Ok(())
    }
}
