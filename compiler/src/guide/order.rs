//! In which order functions stand in the text.

use super::Guide;

/// A function that was called less often than this is not hot, in shares of all that was counted.
const HOT: f64 = 1e-5;

/// The positions of `count` own functions, of which the first has the index `imported`, in the order in which their code stands in the text: first
/// those that were called, in the order of their first calls, so that a start finds what it needs side by side; then those that nothing is known
/// of. Of the called ones, those that much time was spent in stand before those that were called once and not again.
pub(crate) fn order(guide: &Guide<'_>, imported: u32, count: usize) -> Vec<usize> {
    let summary = guide.summary();
    let least = (summary.total() as f64 * HOT).max(1.0);
    let key = |position: usize| {
        let index = imported.saturating_add(u32::try_from(position).unwrap_or(u32::MAX));
        match summary.function(index) {
            Some(function) if function.weight() > 0 || function.entries > 0 => {
                let rare = (function.weight() as f64) < least;
                (u8::from(rare), function.first.unwrap_or(u32::MAX))
            }
            _ => (2, 0),
        }
    };
    let mut positions: Vec<usize> = (0..count).collect();
    positions.sort_by_key(|position| (key(*position), *position));
    positions
}
