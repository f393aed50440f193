use super::{read_input, summary};
use crate::commands::{Global, directories};
use crate::{exit, ui};
use anyhow::Context as _;
use clap::Args;
use preheat::evidence::{Evidence, Ratio, WHOLE};
use preheat::{Applied, Apply as Applying, BuildError, Outcome, RecordedRequest, Reference, Verdict};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Compile an image again with a profile, and let it take the image's place if it does the same and is faster
#[derive(Args)]
#[command(
    after_help = "Requests are replayed on both images in turns, with clocks and random numbers that are the same each time and directories that can't
be changed. Ends with 0 when the new image was promoted, with 1 when it is not clearly faster, and with 122 when it answered otherwise; then all
names lead where they led. What the name led to is kept under the same name with `-previous` behind its tag.

Examples:
  preheat profile apply app:v1 --profile app.profile --requests ./requests --tag app:v1
  preheat profile apply app:v1 --profile app.profile --requests ./requests --wasm app.wasm --min-gain 3
  preheat tag app:v1-previous app:v1                and back again"
)]
pub(crate) struct Apply {
    /// Name or digest of an image of the native engine in the local store
    image: String,
    /// Profile of the module, or of another build of it
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,
    /// Directory with recorded requests: each file is the standard input of one; names that begin with a dot are left out
    #[arg(long, value_name = "DIR")]
    requests: PathBuf,
    /// Wasm file that the image was built from, if it did not keep it
    #[arg(long, value_name = "FILE")]
    wasm: Option<PathBuf>,
    /// Name that is moved to the new image
    #[arg(long, short, value_name = "REFERENCE")]
    tag: Option<Reference>,
    /// How often all requests are replayed and measured, at least 6
    #[arg(long, default_value_t = 31, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(6..=100_000))]
    rounds: u32,
    /// By how many percent of its time the new image has to be faster; negative: it may be slower
    #[arg(long, default_value = "1", value_name = "PERCENT", allow_negative_numbers = true, value_parser = parse_percent)]
    min_gain: i64,
    /// Directory that the guest sees; it can change nothing in it while requests are replayed; repeatable
    #[arg(long, value_name = "HOST[::GUEST]")]
    dir: Vec<String>,
    /// The same
    #[arg(long, value_name = "HOST[::GUEST]")]
    ro_dir: Vec<String>,
    /// Longest time that a request may take, such as 500ms or 2s
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME", default_value = "60s")]
    timeout: Duration,
}

/// Percent, in millionths.
fn parse_percent(text: &str) -> Result<i64, String> {
    const MOST: f64 = 1e9;
    let percent: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of percent"))?;
    if !(-MOST..100.0).contains(&percent) {
        return Err("a gain is less than 100 %".into());
    }
    #[allow(clippy::cast_possible_truncation, reason = "it is in the range")]
    Ok((percent * 10_000.0).round() as i64)
}

/// The files in a directory, by their names.
fn recorded(dir: &Path) -> anyhow::Result<Vec<RecordedRequest>> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read(dir))? {
        let path = entry.map_err(read(dir))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && std::fs::metadata(&path).map_err(read(&path))?.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(BuildError::Usage(format!(
            "there are no requests in {}: put the standard input of each into a file there",
            dir.display()
        ))
        .into());
    }
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(RecordedRequest { name, stdin: std::fs::read(&path).map_err(read(&path))? })
        })
        .collect()
}

impl Apply {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let image = home.store()?.resolve_text(&self.image)?;
        let profile = summary(&self.profile)?;
        let requests = recorded(&self.requests)?;
        let count = requests.len();
        let mut apply =
            Applying::new(&home, image, Arc::new(profile), requests).timeout(self.timeout).rounds(self.rounds).min_gain(self.min_gain);
        // A replay changes nothing, whatever is granted.
        for directory in directories(&[], &[&self.dir[..], &self.ro_dir].concat()) {
            apply = apply.dir(directory);
        }
        if let Some(path) = &self.wasm {
            apply = apply.wasm(path.display().to_string(), read_input(path)?);
        }
        if let Some(tag) = &self.tag {
            apply = apply.tag(tag.clone());
        }
        let spinner = ui::spinner(format!("compiling {}", image.short()));
        let applied = apply.run(&|round, rounds| spinner.set_message(format!("replaying {count} requests, {round} of {rounds}")));
        spinner.finish_and_clear();
        let applied = applied.with_context(|| format!("the profile was not applied to {}", self.image.escape_debug()))?;
        if global.json {
            ui::print_json(&report(&image, &applied));
        } else {
            self.tell(count, &applied);
        }
        Ok(ExitCode::from(match applied.outcome {
            Outcome::Promoted(_) => 0,
            Outcome::Different(_) => exit::REFUSED,
            // Not clearly faster, or nothing to be faster than.
            _ => exit::NOT_CLEAR,
        }))
    }

    fn tell(&self, count: usize, applied: &Applied) {
        if applied.carried.share < 1.0 {
            eprintln!("{:.1} % of the profile is of use for this module", applied.carried.share * 100.0);
        }
        match &applied.outcome {
            Outcome::Promoted(promoted) => {
                eprintln!("{count} requests, {} rounds, all answers the same: {}", self.rounds, shown(&promoted.evidence.ratio));
                if let Some((name, digest)) = &promoted.previous {
                    eprintln!("{name}  {digest}");
                }
                if let Some(name) = &promoted.tag {
                    eprintln!("{name}");
                }
                ui::say!("{}", promoted.image);
            }
            Outcome::NotClear(verdict) => {
                let asked = self.min_gain as f64 / 10_000.0;
                let faster = if self.min_gain < 0 { "or at least not slower" } else { "faster" };
                ui::say!("{count} requests, {} rounds, all answers the same: {}", self.rounds, shown(&verdict.ratio));
                ui::say!("not clear: it would have to be {faster} by more than {asked} % with the whole interval; nothing was changed");
            }
            Outcome::Different(differences) => {
                differences.iter().for_each(|difference| ui::say!("{difference}"));
                ui::say!("not the same: {} differences; nothing was changed", differences.len());
            }
            _ => ui::say!("its code is what this compiler makes with this profile already; nothing was changed"),
        }
    }
}

/// A ratio for people.
pub(in crate::commands) fn shown(ratio: &Ratio) -> String {
    let share = |millionths: u64| millionths as f64 / WHOLE as f64;
    let (median, low, high) = (share(ratio.median), share(ratio.low), share(ratio.high));
    format!("{median:.3} of the CPU time ({low:.3} to {high:.3} with 95 % confidence)")
}

/// What `--json` says of times.
fn times(verdict: &Verdict) -> serde_json::Value {
    json!({ "ratio": verdict.ratio, "controlNanoseconds": verdict.control, "candidateNanoseconds": verdict.candidate, "requests": verdict.requests })
}

fn times_of(evidence: &Evidence) -> serde_json::Value {
    let requests: Vec<u64> = evidence.requests.iter().map(|request| request.ratio).collect();
    let (control, candidate) = (evidence.control.nanoseconds, evidence.candidate.nanoseconds);
    json!({ "ratio": evidence.ratio, "controlNanoseconds": control, "candidateNanoseconds": candidate, "requests": requests })
}

/// What `--json` says.
fn report(control: &preheat::Digest, applied: &Applied) -> serde_json::Value {
    let carried = applied.carried;
    let mut report = json!({
        "control": control,
        "candidate": applied.candidate,
        "carriedOver": { "share": carried.share, "sameBody": carried.same_body, "sameShape": carried.same_shape },
        "image": null, "evidence": null, "tag": null, "previous": null, "times": null, "differences": [],
    });
    report["outcome"] = json!(match &applied.outcome {
        Outcome::Promoted(promoted) => {
            report["image"] = json!(promoted.image);
            report["evidence"] = json!(promoted.evidence_digest);
            report["tag"] = json!(promoted.tag);
            report["previous"] = json!(promoted.previous.as_ref().map(|(name, digest)| json!({ "name": name, "image": digest })));
            report["times"] = times_of(&promoted.evidence);
            "promoted"
        }
        Outcome::NotClear(verdict) => {
            report["times"] = times(verdict);
            "not-clear"
        }
        Outcome::Different(differences) => {
            let rows = differences.iter().map(|difference| json!({ "request": difference.request, "what": difference.to_string() }));
            report["differences"] = rows.collect();
            "different"
        }
        _ => "unchanged",
    });
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_are_read_as_millionths() {
        let read = |text| parse_percent(text).ok();
        assert_eq!((read("1"), read("0.5"), read("-1000"), read("99")), (Some(10_000), Some(5_000), Some(-10_000_000), Some(990_000)));
        assert_eq!((read("100"), read("NaN"), read("x"), read("-1e300"), read("inf")), (None, None, None, None, None));
    }
}
