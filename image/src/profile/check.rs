//! What a contribution may say: what is checked when one is made, and again when one is read.

use super::{
    Contribution, FunctionProfile, MAX_ARMS, MAX_CONTRIBUTOR, MAX_FUNCTIONS, MAX_ORIGIN, MAX_SITES, MAX_TARGETS, Method, Site, SiteCounts,
};

/// Whether a text is printable: whoever shows it need not escape it.
fn printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// That a contribution is as its description says.
pub(super) fn contribution(contribution: &Contribution) -> Result<(), String> {
    let Contribution { contributor, method, origin, calls, functions, .. } = contribution;
    ensure((1..=MAX_CONTRIBUTOR).contains(&contributor.len()) && printable(contributor), || {
        format!("a contributor is named by 1 to {MAX_CONTRIBUTOR} printable characters of ASCII")
    })?;
    ensure(origin.len() <= MAX_ORIGIN && printable(origin), || {
        format!("an origin has at most {MAX_ORIGIN} printable characters of ASCII")
    })?;
    ensure(*calls > 0, || "a contribution covers no request".into())?;
    ensure(*method != Method::Sampled { interval_us: 0 }, || "samples without a time between them".into())?;
    ensure(functions.is_sorted_by(|one, next| one.index < next.index), || "the functions are out of order".into())?;
    functions.iter().try_for_each(function)
}

/// That a function is as its description says.
pub(super) fn function(function: &FunctionProfile) -> Result<(), String> {
    let index = function.index;
    ensure(index < MAX_FUNCTIONS, || format!("a function with the index {index}, which is not below {MAX_FUNCTIONS}"))?;
    sites(&function.sites).map_err(|what| format!("function {index}: {what}"))
}

/// That the sites of a function are in order, and each is as its description says.
pub(super) fn sites(sites: &[Site]) -> Result<(), String> {
    ensure(sites.len() <= MAX_SITES, || format!("{} sites, at most {MAX_SITES} allowed", sites.len()))?;
    ensure(sites.is_sorted_by(|one, next| one.offset < next.offset), || "the sites are out of order".into())?;
    sites.iter().try_for_each(|site| counts(&site.counts).map_err(|what| format!("site {}: {what}", site.offset)))
}

fn counts(counts: &SiteCounts) -> Result<(), String> {
    match counts {
        SiteCounts::Reached(_) | SiteCounts::Samples(_) => Ok(()),
        SiteCounts::Branch { reached, taken } => ensure(taken <= reached, || format!("taken {taken} times of {reached}")),
        SiteCounts::Table { arms } => {
            ensure((1..=MAX_ARMS).contains(&arms.len()), || format!("a table of {} arms, 1 to {MAX_ARMS} allowed", arms.len()))
        }
        SiteCounts::Indirect { reached, targets } => {
            ensure(targets.len() <= MAX_TARGETS, || format!("{} targets, at most {MAX_TARGETS} allowed", targets.len()))?;
            let sorted = targets.is_sorted_by(|one, next| (next.1, one.0) < (one.1, next.0));
            let mut indices: Vec<u32> = targets.iter().map(|target| target.0).collect();
            indices.sort_unstable();
            ensure(sorted && indices.is_sorted_by(|one, next| one < next), || {
                "the targets are out of order, or one is there twice".into()
            })?;
            let known = targets.iter().all(|(index, count)| *index < MAX_FUNCTIONS && *count > 0);
            ensure(known, || "a target that can't be there, or was never called".into())?;
            let sum = targets.iter().fold(0, |sum: u128, target| sum + u128::from(target.1));
            ensure(sum <= u128::from(*reached), || format!("targets were called {sum} times of {reached}"))
        }
    }
}
