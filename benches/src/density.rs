//! How many functions fit into a store and into a process: generated Python handlers over one base, and what is told of them.

use crate::report::Machine;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// What each handler uses some of: a module of Python's library, and an expression over `text`, in which `NUMBER` is the handler's number and
/// `SMALL` one from 1 to 9.
const PARTS: [(&str, &str); 20] = [
    ("json", "json.dumps({\"number\": NUMBER, \"text\": text}, sort_keys=True)"),
    ("re", "re.sub(r\"[aeiou]{1,SMALL}\", \"*\", text)"),
    ("datetime", "(datetime.date(2024, 1, 1) + datetime.timedelta(days=NUMBER)).isoformat()"),
    ("random", "random.Random(NUMBER).randrange(10**6)"),
    ("hashlib", "hashlib.sha256(f\"NUMBER:{text}\".encode()).hexdigest()"),
    ("collections", "collections.Counter(text).most_common(SMALL)"),
    ("itertools", "list(itertools.islice(itertools.cycle(text), NUMBER % 50))"),
    ("base64", "base64.b64encode(text.encode() * SMALL).decode()"),
    ("textwrap", "textwrap.wrap(text, 5 + SMALL)"),
    ("math", "math.factorial(NUMBER % 30) // SMALL"),
    ("string", "string.capwords(text) + string.digits[:SMALL]"),
    ("html", "html.escape(f\"<NUMBER>{text}\")"),
    ("urllib.parse", "urllib.parse.urlencode({\"n\": NUMBER, \"text\": text})"),
    ("calendar", "calendar.monthrange(2000 + NUMBER % 100, SMALL)"),
    ("difflib", "difflib.SequenceMatcher(None, text, \"handler NUMBER\").ratio()"),
    ("fractions", "str(fractions.Fraction(NUMBER, SMALL))"),
    ("statistics", "statistics.mean([len(word) for word in text.split()] or [SMALL])"),
    ("bisect", "bisect.bisect(sorted(text), \"abcdefghij\"[SMALL])"),
    ("csv", "next(csv.reader([text + \",NUMBER\"]))"),
    ("uuid", "str(uuid.uuid5(uuid.NAMESPACE_URL, f\"{text}NUMBER\"))"),
];

/// What a handler is called with.
pub const EVENT: &[u8] = br#"{"text": "the quick brown fox jumps over the lazy dog"}"#;

/// The source of the handler with this number: a function of its own, which answers with its number among other things.
#[must_use]
pub fn handler(number: usize) -> String {
    // Steps that have no divisor in common with the number of parts: all combinations come up.
    let parts = [number, number / 20 + 7 * number + 1, number / 400 + 3 * number + 2].map(|at| PARTS[at % PARTS.len()]);
    let mut text = String::new();
    for (module, _) in parts {
        let _ = writeln!(text, "import {module}");
    }
    let _ = writeln!(text, "\nTABLE = {{");
    for row in 0..number % 60 {
        let _ = writeln!(text, "    \"key {row} of {number}\": {},", row * number);
    }
    let _ = writeln!(
        text,
        "}}\n\n\ndef handle(event):\n    text = event[\"text\"]\n    answer = {{\"handler\": {number}, \"table\": sum(TABLE.values())}}"
    );
    for (at, (_, expression)) in parts.into_iter().enumerate() {
        let expression = expression.replace("NUMBER", &number.to_string()).replace("SMALL", &(number % 9 + 1).to_string());
        let _ = writeln!(text, "    answer[\"part {at}\"] = {expression}");
    }
    text.push_str("    return answer\n");
    text
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Density {
    /// Where.
    pub machine: Machine,
    /// How many handlers.
    pub handlers: usize,
    /// The store with the base, and with all handlers, in bytes as the file system counts them.
    pub store: [u64; 2],
    /// Seconds that building the base took.
    pub base_seconds: f64,
    /// The heap layer of the base in bytes.
    pub base_layer: u64,
    /// Seconds that building each handler took, ascending.
    pub seconds: Vec<f64>,
    /// The heap layer of each in bytes, ascending.
    pub layers: Vec<u64>,
    /// How many different code objects all images have, for one CPU level.
    pub code_objects: usize,
    /// How many different resume objects.
    pub resume_objects: usize,
    /// The process that has them, step by step.
    pub process: Vec<Step>,
}

/// A process at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// When.
    pub what: String,
    /// Seconds since the step before.
    pub seconds: f64,
    /// Proportional set size in bytes.
    pub pss: u64,
    /// Of it what is no file's.
    pub anonymous: u64,
    /// How many mappings.
    pub mappings: u64,
}

impl Step {
    /// This process now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn now(what: impl Into<String>, seconds: f64) -> anyhow::Result<Self> {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        let field = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).and_then(|line| line.split_whitespace().next());
            let kib: Option<u64> = line.and_then(|kib| kib.parse().ok());
            kib.map(|kib| kib << 10).ok_or_else(|| anyhow::anyhow!("the kernel does not say {name}"))
        };
        let mappings = std::fs::read_to_string("/proc/self/maps")?.lines().count() as u64;
        Ok(Self { what: what.into(), seconds, pss: field("Pss:")?, anonymous: field("Pss_Anon:")?, mappings })
    }
}

impl Density {
    /// Bytes in the store for each handler, on the average.
    #[must_use]
    pub fn each(&self) -> u64 {
        self.store[1].saturating_sub(self.store[0]) / self.handlers.max(1) as u64
    }

    /// As Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mib = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
        let kib = |bytes: u64| format!("{:.0} KiB", bytes as f64 / 1024.0);
        let mut text = String::from("| what | figure |\n|---|---|\n");
        let mut row = |what: &str, figure: String| {
            let _ = writeln!(text, "| {what} | {figure} |");
        };
        row("handlers", self.handlers.to_string());
        row("code objects, resume objects of all of them", format!("{}, {}", self.code_objects, self.resume_objects));
        row("store with the base alone", mib(self.store[0]));
        row("store with all", mib(self.store[1]));
        row("store, each handler", kib(self.each()));
        row("heap layer of the base", mib(self.base_layer));
        if let (Some(most), Some(median)) = (self.layers.last(), self.layers.get(self.layers.len() / 2)) {
            row("heap layer of a handler, median, largest", format!("{}, {}", kib(*median), kib(*most)));
        }
        row("building the base", format!("{:.1} s", self.base_seconds));
        if let (Some(most), Some(median)) = (self.seconds.last(), self.seconds.get(self.seconds.len() / 2)) {
            row("building a handler, median, longest", format!("{median:.3} s, {most:.3} s"));
        }
        text.push_str("\n| one process | seconds | proportional set size | anonymous | mappings |\n|---|---|---|---|---|\n");
        for Step { what, seconds, pss, anonymous, mappings } in &self.process {
            let _ = writeln!(text, "| {what} | {seconds:.2} | {} | {} | {mappings} |", mib(*pss), mib(*anonymous));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn handlers_differ() {
        let handlers: BTreeSet<String> = (0..1000).map(handler).collect();
        assert_eq!(handlers.len(), 1000);
        let imports = |number| handler(number).lines().filter(|line| line.starts_with("import")).map(str::to_owned).collect::<Vec<_>>();
        let combinations: BTreeSet<_> = (0..1000).map(imports).collect();
        assert!(combinations.len() > 300, "{}", combinations.len());
        assert!(handler(7).contains("\"handler\": 7"));
    }
}
