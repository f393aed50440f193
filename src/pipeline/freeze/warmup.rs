//! Waking what was frozen before it is published, to see what it does.

use super::Freeze;
use crate::pipeline::{BuildError, Builder, Engine};
use preheat_image::{CpuLevel, Digest};
use preheat_loader::LoadOptions;
use preheat_native_wasi::{EngineOptions, FreezeError, Loaded, NativeEngine};
use preheat_wasmtime::TARGET;
use std::collections::BTreeMap;

impl Builder {
    /// Loads a trial image in an engine of its own.
    pub(super) fn load_trial(&self, trial: &Digest, shown: &str) -> Result<Loaded, BuildError> {
        let failed = |source: FreezeError| BuildError::Freeze { name: shown.to_owned(), source: source.into() };
        let image = self.store.load(trial, &self.home.trust()?, LoadOptions::default())?;
        let level = CpuLevel::of_host().ok_or_else(|| BuildError::Usage("this host is no x86-64".into()))?;
        let code = image.code(Engine::Native.name(), TARGET, level)?;
        let engine = NativeEngine::new(EngineOptions::default()).map_err(|error| failed(error.into()))?;
        let function = image.manifest().function.clone().ok_or_else(|| BuildError::Usage("the image is of no function".into()))?;
        engine.load_image(&image, code, &function).map_err(|error| failed(error.into()))
    }

    /// The pages that at least half of the sample requests write: index of the memory, first page, and how many.
    pub(super) fn written_by_requests(&self, freeze: &Freeze, trial: &Digest, shown: &str) -> Result<Vec<(u32, u64, u32)>, BuildError> {
        let mut times: BTreeMap<(u32, u64), usize> = BTreeMap::new();
        for (number, input) in (1..).zip(&freeze.warmup) {
            // Slots that were used before do not tell who wrote to them.
            let loaded = self.load_trial(trial, shown)?;
            let written = loaded.written_by(&freeze.dirs, input, freeze.limits.time);
            let written = written.map_err(|error| {
                let source = FreezeError::Refused(format!("woken with sample request {number}: {error}")).into();
                BuildError::Freeze { name: shown.to_owned(), source }
            })?;
            for (memory, runs) in written {
                runs.into_iter().flatten().for_each(|page| *times.entry((memory, page)).or_default() += 1);
            }
        }
        let often = times.into_iter().filter(|(_, times)| times * 2 >= freeze.warmup.len());
        Ok(runs(often.map(|(page, _)| page)))
    }
}

/// Ascending pages of memories as runs.
fn runs(pages: impl Iterator<Item = (u32, u64)>) -> Vec<(u32, u64, u32)> {
    let mut runs: Vec<(u32, u64, u32)> = Vec::new();
    for (memory, page) in pages {
        match runs.last_mut() {
            Some((of, first, count)) if *of == memory && *first + u64::from(*count) == page => *count += 1,
            _ => runs.push((memory, page, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_next_to_each_other_are_one_run() {
        let pages = [(0, 1), (0, 2), (0, 3), (0, 5), (1, 6), (1, 7)];
        assert_eq!(runs(pages.into_iter()), [(0, 1, 3), (0, 5, 1), (1, 6, 2)]);
        assert!(runs(std::iter::empty()).is_empty());
    }
}
