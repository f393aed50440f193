use super::Global;
use crate::{exit, ui};
use clap::Args;
use preheat::{CpuLevel, DEFAULT_ENGINE, Engine, EngineChoice, TARGET};
use rustix::process::Resource;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// Check what of preheat works on this machine, and say what to change
#[derive(Args)]
#[command(after_help = "Ends with 123 when something that preheat needs is missing.")]
pub(crate) struct Doctor {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    Slower,
    Broken,
}

struct Check {
    name: &'static str,
    state: State,
    found: String,
    advice: String,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Good, found: found.into(), advice: String::new() }
    }

    fn bad(name: &'static str, state: State, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), advice: advice.into() }
    }
}

impl Doctor {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let mut checks = vec![kernel(), cpu(), maps(), address_space(), descriptors(), page_scan()];
        checks.extend(store(&home));
        checks.push(trust(&home));
        let broken = checks.iter().any(|check| check.state == State::Broken);
        if global.json {
            let rows: Vec<_> = checks
                .iter()
                .map(|check| {
                    let state = match check.state {
                        State::Good => "good",
                        State::Slower => "slower",
                        State::Broken => "broken",
                    };
                    json!({ "check": check.name, "state": state, "found": check.found, "advice": check.advice })
                })
                .collect();
            let engines =
                Engine::ALL.map(|engine| json!({ "engine": engine.name(), "compiler": engine.compiler(), "buildId": engine.build_id() }));
            let default = match DEFAULT_ENGINE {
                EngineChoice::Only(engine) => engine,
                EngineChoice::Auto => Engine::ALL[0],
            };
            ui::print_json(&json!({
                "engine": default.name(), "target": TARGET, "compiler": default.compiler(), "buildId": default.build_id(),
                "engines": engines, "checks": rows,
            }));
        } else {
            for engine in Engine::ALL {
                ui::say!("{} (build {})", engine.compiler(), &engine.build_id()[..12]);
            }
            let mark = |state| match state {
                State::Good => "ok",
                State::Slower => "slower",
                State::Broken => "BROKEN",
            };
            let rows: Vec<Vec<String>> = checks
                .iter()
                .map(|check| vec![mark(check.state).into(), check.name.into(), check.found.clone(), check.advice.clone()])
                .collect();
            ui::print(&ui::table(&rows));
        }
        Ok(if broken { ExitCode::from(exit::UNSUPPORTED) } else { ExitCode::SUCCESS })
    }
}

fn kernel_version() -> (String, u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, major, minor)
}

fn kernel() -> Check {
    let (release, major, minor) = kernel_version();
    if (major, minor) >= (5, 10) {
        Check::good("kernel", format!("Linux {release}"))
    } else {
        Check::bad("kernel", State::Slower, format!("Linux {release}"), "preheat is tested on 5.10 and newer")
    }
}

fn cpu() -> Check {
    match CpuLevel::of_host() {
        Some(level) if level >= CpuLevel::V2 => Check::good("CPU level", level.name()),
        Some(level) => {
            Check::bad("CPU level", State::Slower, level.name(), "build with `--cpu v1`; images of others have no code for this CPU")
        }
        None => Check::bad("CPU level", State::Broken, "not x86-64", "preheat runs on x86-64 only"),
    }
}

fn maps() -> Check {
    let path = "/proc/sys/vm/max_map_count";
    let limit: Option<u64> = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    match limit {
        Some(limit) if limit >= 65_530 => Check::good("mappings", format!("{limit} a process")),
        Some(limit) => Check::bad(
            "mappings",
            State::Slower,
            format!("{limit} a process"),
            "raise vm.max_map_count to 65530: it bounds the instances in one process",
        ),
        None => Check::bad("mappings", State::Slower, "unknown", format!("{path} can't be read")),
    }
}

fn address_space() -> Check {
    match rustix::process::getrlimit(Resource::As).current {
        // A memory reserves 4 GiB and guards; 256 slots of it are a little more than 1 TiB.
        Some(limit) if limit < 2 << 40 => Check::bad(
            "address space",
            State::Broken,
            ui::bytes(limit),
            "run `ulimit -v unlimited`: each memory reserves 4 GiB of addresses",
        ),
        Some(limit) => Check::good("address space", ui::bytes(limit)),
        None => Check::good("address space", "unlimited"),
    }
}

fn descriptors() -> Check {
    match rustix::process::getrlimit(Resource::Nofile).current {
        Some(limit) if limit < 256 => Check::bad("open files", State::Slower, limit.to_string(), "run `ulimit -n 1024`"),
        limit => Check::good("open files", limit.map_or("unlimited".into(), |limit| limit.to_string())),
    }
}

fn page_scan() -> Check {
    let (release, major, minor) = kernel_version();
    if (major, minor) >= (6, 7) {
        Check::good("page scan", "PAGEMAP_SCAN resets slots")
    } else {
        Check::bad("page scan", State::Slower, format!("Linux {release} lacks PAGEMAP_SCAN"), "Linux 6.7 and newer reset slots faster")
    }
}

fn store(home: &preheat::Home) -> Vec<Check> {
    let dir = home.store_dir();
    let shown = dir.display().to_string();
    let mut checks = Vec::new();
    let store = match home.store() {
        Ok(store) => store,
        Err(error) => return vec![Check::bad("store", State::Broken, shown, error.to_string())],
    };
    match store.publish() {
        Ok(publication) => {
            drop(publication);
            checks.push(Check::good("store", shown));
        }
        Err(error) => checks.push(Check::bad("store", State::Slower, shown, format!("images run, but none can be built: {error}"))),
    }
    checks.push(file_system(&dir));
    checks
}

fn file_system(dir: &Path) -> Check {
    const NAMES: [(i64, &str); 7] = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x794c_7630, "overlayfs"),
        (0x6969, "nfs"),
        (0x2fc1_2fc1, "zfs"),
    ];
    let status = match rustix::fs::statfs(dir) {
        Ok(status) => status,
        Err(error) => return Check::bad("file system", State::Broken, "unknown", error.to_string()),
    };
    let name = NAMES.iter().find(|(magic, _)| *magic == status.f_type).map_or("another", |(_, name)| name);
    let free = status.f_bavail.saturating_mul(u64::try_from(status.f_bsize).unwrap_or(0));
    let found = format!("{name}, {} free", ui::bytes(free));
    match name {
        "nfs" => {
            Check::bad("file system", State::Slower, found, "locks and durable renames on NFS depend on the server; a local disk is safer")
        }
        "tmpfs" => Check::bad("file system", State::Slower, found, "what is in memory is gone after a restart"),
        _ if free < 1 << 30 => Check::bad("file system", State::Slower, found, "little space is left; `preheat gc` frees what is not used"),
        _ => Check::good("file system", found),
    }
}

fn trust(home: &preheat::Home) -> Check {
    match home.trust() {
        Ok(policy) if policy.builders.is_empty() => Check::good("trust", "nobody yet; the first build makes a key and trusts it"),
        Ok(policy) => Check::good("trust", policy.builders.iter().map(|builder| builder.name.as_str()).collect::<Vec<_>>().join(", ")),
        Err(error) => Check::bad("trust", State::Broken, "trust.json", error.to_string()),
    }
}
