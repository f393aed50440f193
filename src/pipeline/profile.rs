//! Profiles while building: recording them, and carrying them over to the module that is compiled.

use super::engine::Steer;
use super::{BuildError, Builder, Engine, EngineChoice};
use preheat_call::{Request, RunError};
use preheat_compiler::{COMPILER, COUNTERS, Instrumented, Passes};
use preheat_image::profile::{Contribution, How, Method, Profile, Summary, match_functions, remap};
use preheat_image::{CpuLevel, Digest};
use std::collections::HashMap;
use std::sync::Arc;
use wasmparser::{KnownCustom, Name, Parser, Payload};

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The module that counts could not be made or built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A call failed.
    #[error("call {number} of the function that counts failed")]
    Run {
        /// Which of the calls, from 1.
        number: usize,
        /// Why.
        source: RunError,
    },
    /// What was counted fits no profile.
    #[error(transparent)]
    Profile(#[from] preheat_image::profile::ProfileError),
}

/// How much of a profile is of use for another build of the module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Carried {
    /// The share of what was counted that is in functions which were found again, between 0 and 1.
    pub share: f64,
    /// How many functions were found again: with the same body, and with another of the same shape.
    pub same_body: usize,
    /// See there.
    pub same_shape: usize,
}

/// The Wasm in `bytes`, which are Wasm or its text form; `shown` names them in errors.
///
/// # Errors
/// [`BuildError::Input`] when they are neither.
pub fn wasm_of(shown: &str, bytes: &[u8]) -> Result<Vec<u8>, BuildError> {
    match super::wasm::read(bytes) {
        Ok(source) => Ok(source.wasm.into_owned()),
        Err(what) => Err(BuildError::Input { name: shown.to_owned(), what }),
    }
}

/// The names of the functions of a core module by index, as far as its name section has them.
#[must_use]
pub fn function_names(wasm: &[u8]) -> HashMap<u32, String> {
    let mut found = HashMap::new();
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Name(names) = section.as_known() else { continue };
        for names in names.into_iter().map_while(Result::ok) {
            if let Name::Function(names) = names {
                found.extend(names.into_iter().map_while(Result::ok).map(|naming| (naming.index, naming.name.to_owned())));
            }
        }
    }
    found
}

/// Carries a profile of another build over to the module `wasm`. With the profile of this very module nothing is left to do.
///
/// # Errors
/// When the bytes are no valid Wasm, or what comes out fits no profile.
pub fn carry_over(profile: &Summary, wasm: &[u8]) -> Result<(Summary, Carried), String> {
    let source = Digest::of(wasm);
    if profile.source() == source {
        return Ok((profile.clone(), Carried { share: 1.0, same_body: profile.functions().len(), same_shape: 0 }));
    }
    let functions = preheat_compiler::functions(wasm).map_err(|error| error.to_string())?;
    let new: Vec<_> = functions.iter().map(|function| (function.index, function.body, function.shape)).collect();
    let matched = match_functions(profile, &new);
    let found = |how: &[How]| matched.pairs.iter().filter(|pair| how.contains(&pair.how)).count();
    let carried = Carried {
        share: if matched.total == 0 { 0.0 } else { matched.weight as f64 / matched.total as f64 },
        same_body: found(&[How::Same, How::Body]),
        same_shape: found(&[How::Shape]),
    };
    let offsets = |index: u32| {
        let position = functions.binary_search_by_key(&index, |function| function.index).ok()?;
        Some(functions[position].sites.clone())
    };
    let summary = remap(profile, &matched, source, offsets).map_err(|error| error.to_string())?;
    Ok((summary, carried))
}

impl Builder {
    /// Compiles as a profile of the module, or of another build of it, says, in these passes. What the function does stays the same. Only the
    /// native engine follows it.
    pub fn profile(mut self, profile: Arc<Summary>, passes: Passes) -> Self {
        self.steer = Some(Steer { profile, passes });
        self
    }

    /// What steers the compiler for the module `wasm`.
    pub(super) fn steer_for(&self, wasm: &[u8], shown: &str) -> Result<Option<Steer>, BuildError> {
        let Some(steer) = &self.steer else { return Ok(None) };
        let carried = carry_over(&steer.profile, wasm);
        let (summary, _) = carried.map_err(|what| BuildError::Input { name: shown.to_owned(), what })?;
        Ok(Some(Steer { profile: Arc::new(summary), passes: steer.passes }))
    }

    /// Builds a command that counts what it does out of the module `wasm`, calls it with each of `requests`, and says what it did: a contribution for
    /// each. With [`Builder::freeze`] it is frozen first, and what it did before does not count. `contributor` is who says so, `now` the time
    /// in seconds since 1970.
    ///
    /// # Errors
    /// When it can't be built, one of the calls fails, or what it did fits no profile.
    pub fn record(&self, name: &str, wasm: &[u8], requests: &[Request], contributor: &str, now: u64) -> Result<Profile, RecordError> {
        let input = |error: preheat_compiler::CompileError| BuildError::Input { name: name.to_owned(), what: error.to_string() };
        let counting = Instrumented::new(wasm).map_err(input)?;
        let level = CpuLevel::of_host().unwrap_or(CpuLevel::V1).min(CpuLevel::V3);
        let mut builder = self.clone().engine(EngineChoice::Only(Engine::Native)).levels([level]).keep_source(false);
        builder.steer = None;
        builder.tags.clear();
        let built = builder.build_bytes(name, counting.wasm())?;
        let run = |number: usize| move |source: RunError| RecordError::Run { number, source };
        let runtime = crate::Runtime::new().map_err(run(1))?;
        let image = runtime.load(&self.home, &built.digest).map_err(run(1))?;
        let mut profile = Profile::new(counting.source());
        for (number, request) in (1..).zip(requests) {
            let looked = image.run_and_look(request, COUNTERS).map_err(run(number))?;
            let functions = counting.read(&looked.after, Some(&looked.before)).map_err(input)?;
            profile.insert(Contribution {
                contributor: contributor.to_owned(),
                at: now,
                method: Method::Counted,
                origin: COMPILER.to_owned(),
                calls: 1,
                functions,
            })?;
        }
        Ok(profile)
    }
}
