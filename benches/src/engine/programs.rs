//! Steady state of the corpus: the thread's time in `_start`, given standard input and arguments but no files, in fresh instances.

use super::guest::Guest;
use super::report::{Kind, Report, Row};
use super::{Options, Ours, Part, Program, engine, turns};
use anyhow::{Context as _, Result, ensure};
use std::path::PathBuf;

/// A program of the corpus with its input.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) wasm: PathBuf,
    args: Vec<String>,
    stdin: Vec<u8>,
}

/// QuickJS does some of everything that scripts do.
const SCRIPT: &str = "
    let words = {}, sum = 0;
    for (let i = 0; i < 60000; i++) { let w = 'w' + (i * 7919 % 997); words[w] = (words[w] || 0) + i; }
    for (let w of Object.keys(words).sort()) sum = (sum * 31 + words[w]) % 1000003;
    let a = []; for (let i = 0; i < 20000; i++) a.push((i * 16807) % 65537);
    a.sort((x, y) => x - y); let text = JSON.stringify(a.map(x => ({ x, y: x / 3 })));
    console.log(sum, JSON.parse(text).length, text.replace(/\\d+/g, d => d.length).length);
";

/// And so does CPython.
const PYTHON: &str = "
words = {}
for i in range(200000):
    w = 'w%d' % (i * 7919 % 997)
    words[w] = words.get(w, 0) + i
total = 0
for w in sorted(words):
    total = (total * 31 + words[w]) % 1000003
class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y
    def norm(self):
        return self.x * self.x + self.y * self.y
print(total, sum(Point(i, i / 3).norm() for i in range(100000)))
";

/// The programs that are there and wanted. Others that are wanted are reported.
pub(super) fn entries(options: &Options, report: &mut Report) -> Result<Vec<Entry>> {
    let input = |name: &str| {
        let path = options.examples.join("inputs").join(name);
        std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))
    };
    let entry = |name: &'static str, args: &[&str], stdin: Vec<u8>| Entry {
        name,
        wasm: if name == "json-c" { options.examples.join("json-c/json.wasm") } else { options.fetched.join(format!("{name}.wasm")) },
        args: std::iter::once(name).chain(args.iter().copied()).map(str::to_owned).collect(),
        stdin,
    };
    let all = [
        entry("json-c", &[], input("orders-large.json")?),
        entry("json-as", &[], input("orders-large.json")?),
        entry("json-go", &[], input("orders-large.json")?),
        entry("quickjs", &["-e", SCRIPT], vec![]),
        entry("esbuild", &["--loader=ts"], input("sample.ts")?.repeat(4)),
        entry("cpython", &["-S", "-c", PYTHON], vec![]),
    ];
    let (there, absent): (Vec<_>, Vec<_>) =
        all.into_iter().filter(|entry| options.wants_name(entry.name)).partition(|entry| entry.wasm.exists());
    for entry in absent {
        let why = format!("{} is not there; `preheat bench fetch` gets it", entry.wasm.display());
        if !report.absent.iter().any(|absent| absent.why == why) {
            report.is_absent(entry.name, why);
        }
    }
    Ok(there)
}

pub(super) fn measure(options: &Options, ours: &dyn Ours, report: &mut Report, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let systems = options.steady_systems(Part::Corpus);
    for entry in entries(options, report)? {
        progress(entry.name);
        let wasm = std::fs::read(&entry.wasm).with_context(|| format!("can't read {}", entry.wasm.display()))?;
        let programs = systems.iter().map(|system| engine(ours, *system)?.program(&wasm)).collect::<Result<Vec<Program>>>()?;
        let run = |system: usize| {
            programs[system](Guest::new(&entry.args, &entry.stdin)).with_context(|| format!("{} on {}", entry.name, systems[system].name()))
        };
        let (time, expected) = run(0)?;
        ensure!(!expected.is_empty(), "{} wrote nothing", entry.name);
        let mut row = Row::new(Kind::Corpus, entry.name, &systems);
        // Long programs are less noisy.
        let rounds = if time.as_millis() > 200 { options.rounds.div_ceil(3) } else { options.rounds };
        for round in 0..=rounds {
            for system in turns(programs.len(), round) {
                let (time, output) = run(system)?;
                ensure!(output == expected, "{}: {} writes something else", entry.name, systems[system].name());
                // The first round warms up.
                if round > 0 {
                    row.push(system, time.as_secs_f64() * 1e3);
                }
            }
        }
        report.add(row);
    }
    Ok(())
}
