//! Steady state of real programs: the time in `_start`, given standard input and arguments, in fresh instances.

use crate::kernels::{SYSTEMS, systems};
use crate::wasi::Wasi;
use crate::{Options, Row};
use std::path::{Path, PathBuf};

/// A program that `preheat bench fetch` gets, with its input.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) wasm: PathBuf,
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

/// The programs that are there.
pub(crate) fn programs(options: &Options) -> Vec<Program> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let input = |name: &str| std::fs::read(root.join("examples/inputs").join(name)).unwrap_or_default();
    let program = |name: &'static str, args: &[&str], stdin: Vec<u8>| Program {
        name,
        wasm: if name == "json-c" { root.join("examples/json-c/json.wasm") } else { options.corpus.join(format!("{name}.wasm")) },
        args: std::iter::once(name).chain(args.iter().copied()).map(str::to_owned).collect(),
        stdin,
    };
    let all = [
        program("json-c", &[], input("orders-large.json")),
        program("json-as", &[], input("orders-large.json")),
        program("json-go", &[], input("orders-large.json")),
        program("quickjs", &["-e", SCRIPT], vec![]),
        program("esbuild", &["--loader=ts"], input("sample.ts").repeat(4)),
        program("cpython", &["-S", "-c", PYTHON], vec![]),
    ];
    all.into_iter().filter(|program| options.wants_name(program.name) && program.wasm.exists()).collect()
}

pub(crate) fn measure(options: &Options, add: &mut dyn FnMut(Row)) -> Result<(), String> {
    let systems = systems();
    for program in programs(options) {
        let wasm = std::fs::read(&program.wasm).map_err(|error| format!("{}: {error}", program.wasm.display()))?;
        let mut runs = Vec::new();
        for system in &systems {
            runs.push(system.program(&system.compile(&wasm)?));
        }
        let run = |system: usize| {
            runs[system](Wasi::new(&program.args, &program.stdin))
                .map_err(|error| format!("{} on {}: {error}", program.name, SYSTEMS[system]))
        };
        let (time, expected) = run(0)?;
        if expected.is_empty() {
            return Err(format!("{} wrote nothing", program.name));
        }
        let mut row = Row::new("corpus", program.name, "ms", &SYSTEMS);
        // Long programs are less noisy.
        let rounds = if time.as_millis() > 200 { options.rounds.div_ceil(3) } else { options.rounds };
        for round in 0..=rounds {
            for turn in 0..runs.len() {
                let system = (turn + round) % runs.len();
                let (time, output) = run(system)?;
                if output != expected {
                    return Err(format!("{}: {} writes something else", program.name, SYSTEMS[system]));
                }
                // The first round warms up.
                if round > 0 {
                    row.push(system, time.as_secs_f64() * 1e3);
                }
            }
        }
        add(row);
    }
    Ok(())
}
