//! Adds up what was contributed to a profile, and keeps the sum.
//!
//! Who brought a contribution and when it came is taken from its record, whatever the contribution claims. The sum follows from the set of
//! contributions and the rules alone: it is evaluated as of the newest contribution, not as of when somebody asks, so that a compiler's inputs
//! change only when something was contributed. A record per profile says which set was added up last; it is replaced only by whoever has listed the
//! set after reading it, so that of several servers none goes back to a set that another has gone beyond.

use crate::error::ApiError;
use crate::records::{ContributionRecord, Generation, contribution_key, generation_key};
use crate::routes::profiles::{ids, keep_blob, read_record};
use crate::state::App;
use crate::storage::{Expect, Namespace, PutError, StorageError, Version};
use crate::trust::now;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use preheat_image::api::{MAX_CONTRIBUTION, ProfileReport};
use preheat_image::profile::{ContributionId, Evaluator, Header, Plan, Profile, ProfileError, Rules};
use preheat_image::{Digest, DigestHasher};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};
use tokio::sync::SemaphorePermit;

/// Most bytes of contributions that are added up to one summary.
const MAX_MERGED: u64 = 512 << 20;
/// Sums by other rules that are kept beside those by the usual ones.
const KEPT: usize = 8;
/// Records that are read at once.
const AT_ONCE: usize = 16;
/// Blobs that are asked for at once.
const PAGE: usize = 1000;
/// How often it is tried again because somebody else was faster.
const RACES: usize = 8;
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(20);
/// Times are rounded to this, in seconds.
const HOUR: u64 = 3600;
/// Longest half-life that can be asked for, in seconds.
const MAX_HALF_LIFE: u64 = 10 * 365 * 24 * HOUR;
/// Largest cap that can be asked for.
const MAX_CAP: u64 = 1 << 40;

/// How contributions are to be weighed, as a query says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Weighing {
    #[serde(default = "usual_half_life")]
    half_life: u64,
    #[serde(default = "usual_cap")]
    cap: u64,
}

fn usual_half_life() -> u64 {
    Rules::new(0).half_life_s
}

fn usual_cap() -> u64 {
    Rules::new(0).cap
}

impl Weighing {
    const fn usual() -> Self {
        let Rules { half_life_s, cap, .. } = Rules::new(0);
        Self { half_life: half_life_s, cap }
    }

    /// # Errors
    /// 400 for numbers that make no sense.
    pub(crate) fn check(self) -> Result<Self, ApiError> {
        if self.half_life != 0 && !(HOUR..=MAX_HALF_LIFE).contains(&self.half_life) {
            let what = format!("a half-life is 0, for none, or {HOUR} to {MAX_HALF_LIFE} seconds");
            return Err(ApiError::bad_request("bad-query", what));
        }
        if self.cap > MAX_CAP {
            return Err(ApiError::bad_request("bad-query", format!("a cap is 0, for none, or at most {MAX_CAP} requests")));
        }
        Ok(self)
    }

    fn made(self, report: &ProfileReport) -> bool {
        (report.half_life, report.cap) == (self.half_life, self.cap)
    }
}

/// Nothing was contributed, or nothing of it is left.
fn nothing() -> ApiError {
    ApiError::not_found("no-profile", "nothing was contributed to this profile, or nothing of it is left")
}

fn too_much(error: &ProfileError) -> ApiError {
    ApiError::refused("too-much", format!("the contributions can't be added up: {error}"))
        .hint("an admin can list the contributions with who brought them, and DELETE those that are made up")
}

async fn ended<T>(task: tokio::task::JoinHandle<T>) -> Result<T, StorageError> {
    task.await.map_err(|_| StorageError::Other("a task ended early".into()))
}

/// What stands for a set of contributions: a digest over their names, in their order.
fn digest_of(ids: &[Digest]) -> Digest {
    let mut hasher = DigestHasher::new();
    hasher.update(b"preheat-contributions-v1\0");
    ids.iter().for_each(|id| hasher.update(id.as_bytes()));
    hasher.finalize()
}

/// What is known of a profile.
struct Known {
    generation: Option<(Generation, Version)>,
    ids: Vec<Digest>,
    set: Digest,
}

impl Known {
    async fn read(app: &App, namespace: &Namespace, source: &Digest) -> Result<Self, ApiError> {
        // In this order: what is listed is at least what the record was made of, or the record is replaced meanwhile.
        let generation = read(app, namespace, source).await?;
        let ids = ids(app, namespace, source, None).await?;
        if ids.is_empty() {
            return Err(nothing());
        }
        Ok(Self { generation, set: digest_of(&ids), ids })
    }

    /// The sum, if this set was added up before and it is still there.
    async fn kept(&self, app: &App, namespace: &Namespace, weighing: Weighing) -> Result<Option<ProfileReport>, ApiError> {
        let same = self.generation.iter().map(|(generation, _)| generation).find(|generation| generation.set == self.set);
        let Some(report) = same.and_then(|generation| generation.sums.iter().find(|sum| weighing.made(sum))) else { return Ok(None) };
        Ok(app.blobs.size(namespace, &report.digest).await?.map(|_| report.clone()))
    }

    /// The record with this sum in it, and the sum with its generation.
    fn next(&self, weighing: Weighing, mut report: ProfileReport) -> (Generation, ProfileReport) {
        let old = self.generation.as_ref().map(|(generation, _)| generation);
        let mut sums = old.filter(|old| old.set == self.set).map(|old| old.sums.clone()).unwrap_or_default();
        // The sum was evicted, and some of its contributions as well.
        if sums.iter().any(|sum| weighing.made(sum) && sum.digest != report.digest) {
            sums.clear();
        }
        let same = !sums.is_empty();
        report.generation = old.map_or(0, |old| old.number) + u64::from(!same);
        sums.retain(|sum| !weighing.made(sum));
        sums.push(report.clone());
        let others = sums.iter().filter(|sum| !Weighing::usual().made(sum)).count();
        if others > KEPT
            && let Some(oldest) = sums.iter().position(|sum| !Weighing::usual().made(sum))
        {
            sums.remove(oldest);
        }
        (Generation { number: report.generation, set: self.set, sums }, report)
    }

    fn expected(&self) -> Expect {
        self.generation.as_ref().map_or(Expect::Absent, |(_, version)| Expect::Version(version.clone()))
    }
}

async fn read(app: &App, namespace: &Namespace, source: &Digest) -> Result<Option<(Generation, Version)>, StorageError> {
    let key = generation_key(namespace, source);
    let Some((bytes, version)) = app.meta.get(&key).await? else { return Ok(None) };
    let generation = serde_json::from_slice(&bytes).map_err(|error| StorageError::Damaged(format!("{key}: {error}")))?;
    Ok(Some((generation, version)))
}

async fn write(app: &App, namespace: &Namespace, source: &Digest, generation: &Generation, expect: Expect) -> Result<(), PutError> {
    let value = serde_json::to_vec(generation).map_err(|error| StorageError::Other(error.to_string()))?;
    app.meta.put(&generation_key(namespace, source), value.into(), expect).await.map(drop)
}

/// Has the contributions added up anew when somebody asks next, though the set may have the same names as before.
pub(crate) async fn forget(app: &App, namespace: &Namespace, source: &Digest) -> Result<(), ApiError> {
    for _ in 0..RACES {
        let Some((generation, version)) = read(app, namespace, source).await? else { return Ok(()) };
        let next = Generation { number: generation.number, set: Digest::ZERO, sums: Vec::new() };
        match write(app, namespace, source, &next, Expect::Version(version)).await {
            Err(PutError::Conflict) => {}
            done => return Ok(done?),
        }
    }
    Err(ApiError::overloaded("the profile is being added up all the time"))
}

/// One merge at a time, since each takes memory for its sums.
async fn turn(app: &App) -> Result<SemaphorePermit<'_>, ApiError> {
    match tokio::time::timeout(PATIENCE, app.merging.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(ApiError::overloaded("other profiles are being added up")),
    }
}

/// How the summary of a profile came about; its bytes are a blob of the namespace. It is made if it was not made of these contributions before.
///
/// # Errors
/// 404 when there are no contributions, 422 when they are too much, 503 when there is too much to do.
pub(crate) async fn summary(app: &App, namespace: &Namespace, source: &Digest, weighing: Weighing) -> Result<ProfileReport, ApiError> {
    if let Some(report) = Known::read(app, namespace, source).await?.kept(app, namespace, weighing).await? {
        app.metrics.profiles_looked_up(1, 0);
        return Ok(report);
    }
    let _turn = turn(app).await?;
    for _ in 0..RACES {
        let known = Known::read(app, namespace, source).await?;
        if let Some(report) = known.kept(app, namespace, weighing).await? {
            app.metrics.profiles_looked_up(1, 0);
            return Ok(report);
        }
        let began = Instant::now();
        let (report, bytes) = merge(app, namespace, source, &known.ids, weighing).await?;
        keep_blob(app, namespace, report.digest, bytes.into()).await?;
        let (generation, report) = known.next(weighing, report);
        match write(app, namespace, source, &generation, known.expected()).await {
            Ok(()) => {
                app.metrics.profiles_looked_up(0, 1);
                app.metrics.profile_merge_seconds.observe(began.elapsed().as_secs_f64());
                tracing::info!(%namespace, %source, generation = report.generation, contributions = report.contributions, "a profile was added up");
                return Ok(report);
            }
            Err(PutError::Conflict) => {}
            Err(PutError::Storage(error)) => return Err(error.into()),
        }
    }
    Err(ApiError::overloaded("the profile changes all the time"))
}

/// A contribution that may be added up.
#[derive(Debug, Clone)]
struct Row {
    id: Digest,
    size: u64,
    at: u64,
    by: String,
    calls: u64,
}

impl Row {
    /// What the plan calls it. It is not the contribution's own id: what that claims of itself does not count.
    fn planned(&self) -> ContributionId {
        let mut half = [0; 16];
        half.copy_from_slice(&self.id.as_bytes()[..16]);
        ContributionId::from_bytes(half)
    }
}

/// What was found on the way.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    skipped: u32,
    evicted: u32,
    out: u32,
}

/// Brings those to the front that are to be added up first: of each contributor the newest, then of each the next, and of the same turn small ones
/// first. So nobody who brings much keeps others out. Cuts off what is beyond `most` bytes, and says how many that were.
fn choose(rows: &mut Vec<Row>, most: u64) -> u32 {
    rows.sort_by(|one, other| (&one.by, other.at, one.id).cmp(&(&other.by, one.at, other.id)));
    let mut turns: BTreeMap<&str, u32> = BTreeMap::new();
    let numbered: Vec<u32> = rows
        .iter()
        .map(|row| {
            let turn = turns.entry(&row.by).or_default();
            *turn += 1;
            *turn
        })
        .collect();
    let mut ordered: Vec<(u32, Row)> = numbered.into_iter().zip(std::mem::take(rows)).collect();
    ordered.sort_by(|(turn, one), (other_turn, other)| (turn, one.size, one.id).cmp(&(other_turn, other.size, other.id)));
    let mut bytes = 0u64;
    let all = ordered.len();
    rows.extend(ordered.into_iter().map(|(_, row)| row).take_while(|row| {
        bytes = bytes.saturating_add(row.size);
        bytes <= most
    }));
    u32::try_from(all - rows.len()).unwrap_or(u32::MAX)
}

/// The end of the hour in which the newest came; of what comes from the future, that of this hour.
fn as_of(rows: &[Row], now: u64) -> u64 {
    let newest = rows.iter().map(|row| row.at).max().unwrap_or_default().min(now);
    newest.checked_next_multiple_of(HOUR).unwrap_or(newest)
}

async fn merge(
    app: &App,
    namespace: &Namespace,
    source: &Digest,
    ids: &[Digest],
    weighing: Weighing,
) -> Result<(ProfileReport, Vec<u8>), ApiError> {
    let (mut rows, mut left) = gather(app, namespace, source, ids).await?;
    left.out = choose(&mut rows, MAX_MERGED);
    loop {
        if rows.is_empty() {
            return Err(nothing());
        }
        let rules = Rules { now: as_of(&rows, now()), half_life_s: weighing.half_life, cap: weighing.cap };
        let mut plan = Plan::new(rules);
        for row in &rows {
            let header = Header { id: row.planned(), contributor: row.by.clone(), at: row.at, calls: row.calls };
            plan.add(&header).map_err(|error| too_much(&error))?;
        }
        let mut evaluator = Evaluator::new(*source, plan);
        let mut lost = HashSet::new();
        for row in &rows {
            let added;
            (evaluator, added) = add(app, namespace, source, row, evaluator).await?;
            if !added {
                lost.insert(row.id);
            }
        }
        if !lost.is_empty() {
            // They were weighed with the others: once more without them. Each time there are fewer.
            left.skipped = left.skipped.saturating_add(u32::try_from(lost.len()).unwrap_or(u32::MAX));
            rows.retain(|row| !lost.contains(&row.id));
            continue;
        }
        let finished = ended(tokio::task::spawn_blocking(move || evaluator.finish().map(|summary| (summary.to_bytes(), summary)))).await?;
        let (bytes, summary) = finished.map_err(|error| too_much(&error))?;
        let origin = summary.provenance();
        let (called, functions) = summary.coverage();
        let report = ProfileReport {
            source: *source,
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            generation: 0,
            now: rules.now,
            half_life: rules.half_life_s,
            cap: rules.cap,
            contributors: origin.contributors,
            contributions: origin.contributions,
            skipped: left.skipped,
            evicted: left.evicted,
            left_out: left.out,
            calls: origin.calls,
            counted: origin.counted,
            oldest: origin.oldest,
            newest: origin.newest,
            called: called as u64,
            functions: functions as u64,
        };
        return Ok((report, bytes));
    }
}

/// All contributions that are there, with what their records say.
async fn gather(app: &App, namespace: &Namespace, source: &Digest, ids: &[Digest]) -> Result<(Vec<Row>, Left), ApiError> {
    let (mut rows, mut left) = (Vec::new(), Left::default());
    for ids in ids.chunks(PAGE) {
        let sizes = app.blobs.sizes(namespace, ids).await?;
        let there: Vec<Digest> = ids.iter().zip(&sizes).filter(|(_, size)| size.is_some()).map(|(id, _)| *id).collect();
        left.evicted = left.evicted.saturating_add(u32::try_from(ids.len() - there.len()).unwrap_or(u32::MAX));
        let read: Vec<(Digest, Option<ContributionRecord>)> = stream::iter(there)
            .map(|id| async move { Ok::<_, StorageError>((id, read_record(app, &contribution_key(namespace, source, &id)).await?)) })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (id, record) in read {
            // Removed since it was listed.
            let Some(ContributionRecord { size, at, by, calls }) = record else { continue };
            let calls = match calls {
                Some(calls) => Some(calls),
                // Brought before contributions were looked at.
                None => calls_of(app, namespace, source, &id).await?,
            };
            match calls {
                Some(calls) => rows.push(Row { id, size, at, by, calls }),
                None => left.skipped = left.skipped.saturating_add(1),
            }
        }
    }
    Ok((rows, left))
}

/// How many requests a contribution covers whose record does not say it; None if it is no contribution to this profile.
async fn calls_of(app: &App, namespace: &Namespace, source: &Digest, id: &Digest) -> Result<Option<u64>, ApiError> {
    let Some((bytes, permit)) = whole(app, namespace, id).await? else { return Ok(None) };
    let source = *source;
    let read = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        check(&bytes, &source).ok()
    });
    Ok(ended(read).await?)
}

/// Adds one contribution. Says whether it could be read.
async fn add(
    app: &App,
    namespace: &Namespace,
    source: &Digest,
    row: &Row,
    mut evaluator: Evaluator,
) -> Result<(Evaluator, bool), ApiError> {
    let Some((bytes, permit)) = whole(app, namespace, &row.id).await? else { return Ok((evaluator, false)) };
    let (source, planned) = (*source, row.planned());
    let added = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let one = match Profile::encoded(&bytes) {
            Ok((of, contributions)) if of == source && contributions.len() == 1 => contributions.into_iter().next(),
            _ => None,
        };
        let added = one.map_or(Ok(false), |one| match evaluator.add_encoded(planned, &one) {
            Ok(()) => Ok(true),
            Err(ProfileError::Invalid(_)) => Ok(false),
            Err(error) => Err(error),
        });
        (evaluator, added)
    });
    let (evaluator, added) = ended(added).await?;
    Ok((evaluator, added.map_err(|error| too_much(&error))?))
}

/// Reads a contribution, with the permit for its memory; None if it is not there, or not as it was brought.
async fn whole(app: &App, namespace: &Namespace, id: &Digest) -> Result<Option<(Vec<u8>, crate::budget::Permit)>, ApiError> {
    let Some(blob) = app.blobs.open(namespace, id).await? else { return Ok(None) };
    let size = match usize::try_from(blob.size) {
        Ok(size) if size <= MAX_CONTRIBUTION => size,
        _ => return Ok(None),
    };
    let permit = app.budget.acquire(size).await?;
    let wanted = *id;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; size];
        blob.file.read_exact_at(&mut bytes, 0)?;
        Ok::<_, std::io::Error>((Digest::of(&bytes) == wanted).then_some(bytes))
    });
    match ended(read).await? {
        Ok(Some(bytes)) => Ok(Some((bytes, permit))),
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(StorageError::Unavailable(error.to_string()).into()),
        Ok(None) | Err(_) => {
            app.metrics.verification_failures.inc();
            app.blobs.quarantine(namespace, id, "a contribution does not have its digest").await?;
            Ok(None)
        }
    }
}

/// That `bytes` are one contribution to the profile of `source`, as the format wants it. Says how many requests it covers.
///
/// # Errors
/// 422 with what is wrong.
pub(crate) fn check(bytes: &[u8], source: &Digest) -> Result<u64, ApiError> {
    let wrong = |error| ApiError::refused("not-a-profile", format!("the body is no profile: {error}"));
    let (of, contributions) = Profile::encoded(bytes).map_err(wrong)?;
    if of != *source {
        return Err(ApiError::refused("other-source", format!("the profile is of {of}, not of {source}")));
    }
    let [one] = &contributions[..] else {
        let what = format!("the profile has {} contributions, and one is brought at a time", contributions.len());
        return Err(ApiError::refused("not-one-contribution", what).hint("`preheat profile push` brings each by itself"));
    };
    one.functions().try_for_each(|function| function.map(drop)).map_err(wrong)?;
    Ok(one.header().calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(by: &str, at: u64, size: u64) -> Row {
        Row { id: Digest::of(format!("{by} {at}").as_bytes()), size, at, by: by.into(), calls: 1 }
    }

    #[test]
    fn who_brings_much_keeps_nobody_out() {
        let mut rows: Vec<Row> = (0..100).map(|at| row("a", 1000 + at, 50)).collect();
        rows.extend([row("b", 1, 10), row("c", 2, 10), row("c", 3, 20)]);
        let left = choose(&mut rows, 150);
        let who: Vec<(&str, u64)> = rows.iter().map(|row| (row.by.as_str(), row.at)).collect();
        assert_eq!(who, [("b", 1), ("c", 3), ("a", 1099), ("c", 2), ("a", 1098)]);
        assert_eq!(left, 98);
        let mut all = rows.clone();
        all.reverse();
        assert_eq!(choose(&mut all, 1000), 0);
        assert_eq!(all.iter().map(|row| row.id).collect::<Vec<_>>(), rows.iter().map(|row| row.id).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_contributed_later_is_weighed_as_of_its_hour() {
        assert_eq!(as_of(&[row("a", 1, 1), row("b", 3601, 1)], 1 << 40), 7200);
        assert_eq!(as_of(&[row("a", 7200, 1)], 1 << 40), 7200);
        assert_eq!(as_of(&[row("a", 1 << 50, 1)], 7201), 10800, "from the future");
        assert_eq!(as_of(&[row("a", u64::MAX, 1)], u64::MAX), u64::MAX);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let check = |half_life, cap| Weighing { half_life, cap }.check().is_ok();
        assert!(check(0, 0) && check(3600, 1) && check(MAX_HALF_LIFE, MAX_CAP));
        assert!(!check(1, 0) && !check(3599, 0) && !check(MAX_HALF_LIFE + 1, 0) && !check(0, MAX_CAP + 1));
    }

    fn report(half_life: u64, digest: &[u8]) -> ProfileReport {
        ProfileReport {
            source: Digest::ZERO,
            digest: Digest::of(digest),
            size: 1,
            generation: 0,
            now: 0,
            half_life,
            cap: Weighing::usual().cap,
            contributors: 1,
            contributions: 1,
            skipped: 0,
            evicted: 0,
            left_out: 0,
            calls: 1,
            counted: 1,
            oldest: 0,
            newest: 0,
            called: 1,
            functions: 1,
        }
    }

    #[test]
    fn generations_count_sets_and_keep_few_sums_of_each() {
        let weighing = |half_life| Weighing { half_life, ..Weighing::usual() };
        let usual = Weighing::usual();
        let set = |name: &[u8], old: Option<Generation>| {
            let generation = old.map(|old| (old, Version("1".into())));
            Known { generation, ids: Vec::new(), set: Digest::of(name) }
        };
        let (mut last, first) = set(b"one", None).next(usual, report(usual.half_life, b"x"));
        assert_eq!(first.generation, 1);
        for days in 1..20u64 {
            let half_life = days * 24 * HOUR + 1;
            let (next, report) = set(b"one", Some(last)).next(weighing(half_life), report(half_life, &days.to_le_bytes()));
            assert_eq!(report.generation, 1);
            assert!(next.sums.len() <= KEPT + 1 && next.sums.iter().any(|sum| usual.made(sum)));
            last = next;
        }
        let (again, report_again) = set(b"one", Some(last.clone())).next(usual, report(usual.half_life, b"x"));
        assert_eq!((again.number, report_again.generation, again.sums.len()), (1, 1, KEPT + 1));
        let (other, _) = set(b"one", Some(last.clone())).next(usual, report(usual.half_life, b"y"));
        assert_eq!((other.number, other.sums.len()), (2, 1), "another sum of the same names is another generation");
        let (more, _) = set(b"two", Some(last)).next(usual, report(usual.half_life, b"x"));
        assert_eq!((more.number, more.sums.len()), (2, 1));
    }
}
