//! Programs of the corpus, fetched when a test wants one. One that can't be had is skipped with the reason on standard error, unless
//! `PREHEAT_CORPUS=required` is set.

use super::repo;
use preheat_bench::corpus::{Corpus, Outcome};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Where they are.
pub(crate) fn fetched() -> PathBuf {
    repo("benches/fetched")
}

pub(crate) fn corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| Corpus::load(&repo("benches/corpus.toml")).unwrap())
}

/// Whether a program that can't be had is a failure.
pub(crate) fn required() -> bool {
    std::env::var_os("PREHEAT_CORPUS").is_some_and(|value| value == "required")
}

/// The program's file, or `None` with the reason said.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    // One at a time: two tests may want the same archive.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _fetching = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let fetched = corpus().fetch(&fetched(), &[name.to_owned()], &mut |_| {});
    match &fetched[0].outcome {
        Outcome::Available(path) => Some(path.clone()),
        Outcome::Unavailable { why } => {
            assert!(!required(), "{name} could not be had: {why}");
            eprintln!("skipped: {name} could not be had: {why}");
            None
        }
    }
}
