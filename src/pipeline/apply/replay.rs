//! Replaying requests on two images in turns, comparing what they answer and taking the time.

use super::ApplyError;
use preheat_call::{Directory, Output, OutputBuffer, Request, RunError};
use preheat_image::Digest;
use preheat_native_wasi::Loaded;
use std::fmt;
use std::time::Duration;

/// How often all requests are replayed before times count.
pub(super) const WARMUP: u32 = 3;

/// Most bytes of each output of a request: more is refused, with an error that the guest sees.
const MAX_OUTPUT: usize = 64 * 1024 * 1024;

/// Most differences that are kept: the first ones say what there is to say.
const MAX_DIFFERENCES: usize = 100;

/// Of each request of a round, the time of the control and that of the candidate, in nanoseconds.
pub(super) type Times = Vec<(u64, u64)>;

/// A request that was recorded: what a command reads from its standard input.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    /// What people call it.
    pub name: String,
    /// What is read.
    pub stdin: Vec<u8>,
}

/// How a call ended that was replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// With an exit code.
    Exit(i32),
    /// With this kind of trap.
    Trap(String),
    /// At its deadline.
    Timeout,
    /// It could not be run.
    Failed(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Trap(kind) => write!(f, "trap: {kind}"),
            Self::Timeout => f.write_str("the deadline passed"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// All that can be seen of a call from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) ended: Ended,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// An answer of which only digests are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) ended: Ended,
    pub(super) stdout: Digest,
    pub(super) stderr: Digest,
}

impl Answer {
    fn keep(&self) -> Kept {
        Kept { ended: self.ended.clone(), stdout: Digest::of(&self.stdout), stderr: Digest::of(&self.stderr) }
    }
}

/// In what two answers to a request differ. There is nothing in it of what was answered but an exit code or a trap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The request.
    pub request: String,
    /// What differs.
    pub what: Differing,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Differing {
    /// How the calls ended.
    End {
        /// On the present image.
        control: String,
        /// On the one that was compiled with the profile.
        candidate: String,
    },
    /// What was written.
    Output {
        /// Whether that was to standard error.
        stderr: bool,
        /// The first byte that differs.
        at: usize,
        /// How many bytes the present image wrote.
        control: usize,
        /// How many the one did that was compiled with the profile.
        candidate: usize,
    },
    /// The present image answers the same request now one way, now another: then nothing can be compared.
    Unsteady,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.request.escape_debug();
        match &self.what {
            Differing::End { control, candidate } => write!(f, "request `{request}`: {control} now, and {candidate} with the profile"),
            Differing::Output { stderr, at, control, candidate } => {
                let stream = if *stderr { "standard error" } else { "standard output" };
                write!(f, "request `{request}`: {stream} differs from byte {at} on, {control} bytes now and {candidate} with the profile")
            }
            Differing::Unsteady => {
                write!(f, "request `{request}`: the present image does not answer it the same each time, so that nothing can be compared")
            }
        }
    }
}

/// In what two answers differ.
pub(super) fn compare(control: &Answer, candidate: &Answer) -> Vec<Differing> {
    let mut differing = Vec::new();
    if control.ended != candidate.ended {
        differing.push(Differing::End { control: control.ended.to_string(), candidate: candidate.ended.to_string() });
    }
    for (stderr, one, other) in [(false, &control.stdout, &candidate.stdout), (true, &control.stderr, &candidate.stderr)] {
        if one != other {
            let at = one.iter().zip(other).position(|(one, other)| one != other).unwrap_or(one.len().min(other.len()));
            differing.push(Differing::Output { stderr, at, control: one.len(), candidate: other.len() });
        }
    }
    differing
}

/// One of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Control,
    Candidate,
}

/// What came of a replay.
#[derive(Debug)]
pub(super) enum Replay {
    /// Answers differ.
    Different(Vec<Difference>),
    /// All answers are the same.
    Same {
        /// The times of each round.
        rounds: Vec<Times>,
        /// The answers.
        answers: Vec<Kept>,
    },
}

/// Replays requests on both images, [`WARMUP`] times and then `rounds` times, and asks `answer` for the answer of an image to a request and how long that
/// took. Which image goes first changes with each request and each round. `progress` is told the round, from 1, and how many there are.
pub(super) fn replay(
    names: &[&str],
    rounds: u32,
    progress: &dyn Fn(u32, u32),
    mut answer: impl FnMut(Which, usize) -> Result<(Answer, u64), RunError>,
) -> Result<Replay, ApplyError> {
    let mut measured = Vec::new();
    let mut expected: Vec<Kept> = Vec::new();
    for round in 0..WARMUP.saturating_add(rounds) {
        progress(round + 1, WARMUP.saturating_add(rounds));
        let mut times = Vec::with_capacity(names.len());
        let mut differences = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let control_first = (round as usize + number).is_multiple_of(2);
            let order = if control_first { [Which::Control, Which::Candidate] } else { [Which::Candidate, Which::Control] };
            let [mut control, mut candidate] = [None, None];
            for which in order {
                let answered = answer(which, number);
                match which {
                    Which::Control => {
                        control = Some(answered.map_err(|source| ApplyError::Run { request: (*name).to_owned(), source: source.into() })?)
                    }
                    // A candidate that can't be run is no failure of what is there.
                    Which::Candidate => candidate = Some(answered.unwrap_or_else(|error| (failed(&error), 0))),
                }
            }
            let (Some((control, control_time)), Some((candidate, candidate_time))) = (control, candidate) else { continue };
            if (&control.ended, &candidate.ended) == (&Ended::Timeout, &Ended::Timeout) {
                return Err(ApplyError::Deadline((*name).to_owned()));
            }
            let kept = control.keep();
            let mut differing = compare(&control, &candidate);
            match expected.get(number) {
                None => expected.push(kept),
                Some(expected) if *expected != kept => differing = vec![Differing::Unsteady],
                Some(_) => {}
            }
            differences.extend(differing.into_iter().map(|what| Difference { request: (*name).to_owned(), what }));
            times.push((control_time, candidate_time));
        }
        if !differences.is_empty() {
            differences.truncate(MAX_DIFFERENCES);
            return Ok(Replay::Different(differences));
        }
        if round >= WARMUP {
            measured.push(times);
        }
    }
    Ok(Replay::Same { rounds: measured, answers: expected })
}

fn failed(error: &RunError) -> Answer {
    Answer { ended: Ended::Failed(error.to_string()), stdout: Vec::new(), stderr: Vec::new() }
}

/// What a replayed call may see and take.
#[derive(Debug)]
pub(super) struct Granted<'a> {
    pub(super) dirs: &'a [Directory],
    pub(super) timeout: Duration,
}

/// Replays one request in a fresh instance, and says how much CPU time the thread took for it. Clocks and random bytes are those of every other
/// replay of the request, and nothing outside can be changed.
///
/// # Errors
/// When it could not be run at all.
pub(super) fn answer(loaded: &Loaded, recorded: &RecordedRequest, granted: &Granted<'_>) -> Result<(Answer, u64), RunError> {
    let (stdout, out) = Output::buffer(MAX_OUTPUT);
    let (stderr, err) = Output::buffer(MAX_OUTPUT);
    let mut request = Request::new().stdin(recorded.stdin.clone()).stdout(stdout).stderr(stderr).timeout(granted.timeout);
    request.dirs = granted.dirs.iter().map(|dir| Directory { writable: false, ..dir.clone() }).collect();
    let seed = *Digest::of(&recorded.stdin).as_bytes();
    let before = thread_nanoseconds();
    let result = loaded.replay(&request, seed);
    let took = thread_nanoseconds().saturating_sub(before);
    let ended = match result {
        Ok(code) => Ended::Exit(code),
        // The frames behind the first line say where that is in this code.
        Err(RunError::Trap { message }) => Ended::Trap(message.lines().next().unwrap_or_default().to_owned()),
        Err(RunError::Timeout(_)) => Ended::Timeout,
        Err(error) => return Err(error),
    };
    let contents = |buffer: &OutputBuffer| buffer.contents().to_vec();
    Ok((Answer { ended, stdout: contents(&out), stderr: contents(&err) }, took))
}

/// The thread's CPU time.
fn thread_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: i32, stdout: &str, stderr: &str) -> Answer {
        Answer { ended: Ended::Exit(code), stdout: stdout.into(), stderr: stderr.into() }
    }

    fn ended(ended: Ended) -> Answer {
        Answer { ended, ..answered(0, "", "") }
    }

    #[test]
    fn everything_that_can_be_seen_is_compared() {
        let one = answered(0, "hello", "");
        assert_eq!(compare(&one, &one), []);
        let text = |other: &Answer| {
            let what = compare(&one, other);
            what.into_iter().map(|what| Difference { request: "a.json".into(), what }.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(text(&answered(1, "hello", "")), ["request `a.json`: exit code 0 now, and exit code 1 with the profile"]);
        let out = "request `a.json`: standard output differs from byte 3 on, 5 bytes now and 5 with the profile";
        assert_eq!(text(&answered(0, "help!", "")), [out]);
        let shorter = "request `a.json`: standard output differs from byte 2 on, 5 bytes now and 2 with the profile";
        assert_eq!(text(&answered(0, "he", "")), [shorter]);
        let err = "request `a.json`: standard error differs from byte 0 on, 0 bytes now and 1 with the profile";
        assert_eq!(text(&answered(0, "hello", "x")), [err]);
        assert_eq!(text(&answered(2, "", "x")).len(), 3, "all of them are told");
        let trapped = ended(Ended::Trap("unreachable".into()));
        assert!(text(&trapped)[0].contains("exit code 0 now, and trap: unreachable with the profile"));
        assert!(text(&ended(Ended::Timeout))[0].contains("the deadline passed with the profile"));
        assert_eq!(compare(&trapped, &trapped.clone()), [], "a trap is an answer like another");
        assert_eq!(compare(&trapped, &ended(Ended::Trap("integer overflow".into()))).len(), 1);
    }

    /// Replays two requests, `a` and `b`, in ten rounds.
    fn replayed(answer: impl FnMut(Which, usize) -> Result<(Answer, u64), RunError>) -> Result<Replay, ApplyError> {
        replay(&["a", "b"], 10, &|_, _| {}, answer)
    }

    fn differences(replay: Result<Replay, ApplyError>) -> Vec<String> {
        match replay.unwrap() {
            Replay::Different(differences) => differences.iter().map(ToString::to_string).collect(),
            Replay::Same { .. } => panic!("they are the same"),
        }
    }

    #[test]
    fn they_take_turns_and_each_round_counts() {
        let mut calls = Vec::new();
        let replay = replayed(|which, request| {
            calls.push((which, request));
            Ok((answered(0, ["a", "b"][request], ""), if which == Which::Control { 10 } else { 9 }))
        });
        let Ok(Replay::Same { rounds, answers }) = replay else { panic!("{replay:?}") };
        assert_eq!(rounds, vec![vec![(10, 9); 2]; 10], "without the warm-up");
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[1].stdout, Digest::of(b"b"));
        assert_eq!(calls.len(), 13 * 4);
        let first: Vec<_> = calls.iter().step_by(2).map(|(which, _)| *which).collect();
        assert_eq!(first.iter().filter(|which| **which == Which::Control).count(), 13, "each goes first as often as the other");
        assert_eq!(first[..4], [Which::Control, Which::Candidate, Which::Candidate, Which::Control]);
    }

    #[test]
    fn a_candidate_that_answers_otherwise_is_told_for_each_request() {
        let found =
            differences(replayed(|which, request| Ok((answered(i32::from(which == Which::Candidate), "", ""), 1 + request as u64))));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("request `a`:") && found[1].starts_with("request `b`:"), "{found:?}");
    }

    #[test]
    fn a_difference_in_a_later_round_is_one_too() {
        let mut calls = 0;
        let found = differences(replayed(|which, request| {
            calls += 1;
            let late = calls > 40 && which == Which::Candidate && request == 1;
            Ok((answered(0, if late { "late" } else { "" }, ""), 1))
        }));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`b`: standard output"), "{found:?}");
    }

    #[test]
    fn what_traps_hangs_or_fails_on_one_side_only_is_a_difference() {
        for bad in [Ended::Trap("unreachable".into()), Ended::Timeout] {
            for side in [Which::Control, Which::Candidate] {
                let found = differences(replayed(|which, _| Ok((if which == side { ended(bad.clone()) } else { answered(0, "", "") }, 1))));
                assert!(found[0].contains(&bad.to_string()), "{found:?}");
            }
        }
        let refuse = |side: Which| {
            replayed(move |which, _| if which == side { Err(RunError::Usage("no".into())) } else { Ok((answered(0, "", ""), 1)) })
        };
        assert!(differences(refuse(Which::Candidate))[0].contains("exit code 0 now, and no with the profile"));
        assert!(matches!(refuse(Which::Control), Err(ApplyError::Run { request, .. }) if request == "a"));
    }

    #[test]
    fn what_hangs_on_both_sides_shows_nothing() {
        let replay = replayed(|_, request| Ok((if request == 1 { ended(Ended::Timeout) } else { answered(0, "", "") }, 1)));
        assert!(matches!(replay, Err(ApplyError::Deadline(request)) if request == "b"));
    }

    #[test]
    fn a_present_image_that_is_not_steady_is_told_from_a_candidate_that_differs() {
        let mut calls = 0;
        let found = differences(replayed(|_, _| {
            calls += 1;
            // Both answer the same in each round, and something else in the next.
            Ok((answered(0, &((calls - 1) / 4).to_string(), ""), 1))
        }));
        assert!(found.iter().all(|found| found.contains("does not answer it the same each time")), "{found:?}");
    }
}
