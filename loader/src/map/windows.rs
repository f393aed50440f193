//! Which parts of files a slot maps.
//!
//! A slot begins as runs of pages of files. To map each would be right, but mappings are limited and cost more than copying a few
//! pages. So a *window* is mapped: one part of one file over some of its runs and what is between them; what it gets wrong is copied over it. A
//! snapshot in layers is like that: long runs of the base with single pages of the layer in them.

use super::region::PAGE;
use super::template::Run;
use std::ops::Range;
use std::sync::Arc;

/// Whether one mapping can show both.
fn same(one: &Run, other: &Run) -> bool {
    Arc::ptr_eq(&one.file, &other.file) && one.offset.wrapping_sub(one.at) == other.offset.wrapping_sub(other.at)
}

/// At most `most` windows for ascending runs that do not overlap.
pub(super) fn choose(runs: &[Run], most: usize) -> Vec<Run> {
    if most == 0 {
        return Vec::new();
    }
    let all = runs.last().map_or(0, Run::end);
    let (mut best, mut least) = (Vec::new(), usize::MAX);
    let mut tolerance = PAGE;
    loop {
        let mut windows = tolerant(runs, tolerance);
        let fits = windows.len() <= most;
        if !fits {
            windows.sort_by_key(|window| std::cmp::Reverse(window.len));
            windows.truncate(most);
            windows.sort_by_key(|window| window.at);
        }
        let copied = left(runs, &windows).iter().map(Range::len).sum();
        if copied < least {
            (best, least) = (windows, copied);
        }
        if fits || tolerance > all {
            return best;
        }
        tolerance *= 2;
    }
}

/// Windows that go over less than `tolerance` bytes of other contents, and have at least so many themselves.
fn tolerant(runs: &[Run], tolerance: usize) -> Vec<Run> {
    let mut windows: Vec<Run> = Vec::new();
    for run in runs {
        match windows.last_mut() {
            Some(last) if same(last, run) && run.at - last.end() < tolerance => last.len = run.end() - last.at,
            // A short run of other contents does not end a window.
            Some(last) if run.len < tolerance && run.at - last.end() < tolerance => {}
            _ => {
                // What turned out too short makes room.
                windows.pop_if(|last| last.len < tolerance);
                windows.push(run.clone());
            }
        }
    }
    windows.retain(|window| window.len >= tolerance);
    windows
}

/// A window of so many bytes is copied instead, if there is room for it.
const SHORT: usize = 16 * PAGE;
/// No more than this is copied for want of windows, in bytes: each instance has it for itself.
const COPIED: usize = 32 * PAGE;

/// Of `windows` those that are worth a mapping.
pub(super) fn long(runs: &[Run], mut windows: Vec<Run>) -> Vec<Run> {
    loop {
        let shortest = windows.iter().enumerate().filter(|(_, window)| window.len <= SHORT).min_by_key(|(_, window)| window.len);
        let Some((shortest, _)) = shortest else { return windows };
        let mut fewer = windows.clone();
        fewer.remove(shortest);
        if left(runs, &fewer).iter().map(Range::len).sum::<usize>() > COPIED {
            return windows;
        }
        windows = fewer;
    }
}

/// What is not as it should be once windows are mapped, in whole pages: runs that no window shows, and what windows show between runs.
pub(super) fn left(runs: &[Run], windows: &[Run]) -> Vec<Range<usize>> {
    let mut windows = windows.iter().peekable();
    let mut previous = 0;
    let mut parts = Vec::new();
    for run in runs {
        if let Some(window) = windows.peek()
            && window.at < previous
        {
            // Zeros between two runs, which a window is over.
            parts.push(previous..run.at.min(window.end()));
        }
        while windows.next_if(|window| window.end() <= run.at).is_some() {}
        let shown = windows.peek().is_some_and(|window| window.at <= run.at && same(window, run));
        if !shown {
            parts.push(run.at..run.end());
        }
        previous = run.end();
    }
    joined(parts.into_iter().filter(|part| part.start < part.end))
}

/// Ascending ranges with those joined that touch or overlap.
pub(super) fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}
