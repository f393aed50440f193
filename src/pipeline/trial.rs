//! Running a command that was just built, because somebody asked for it: would it pay to freeze it?

use super::Builder;
use preheat_call::{Directory, InputWatch, Request, RunError};
use preheat_image::Digest;
use preheat_image::frozen::FreezePoint;
use preheat_image::manifest::FunctionKind;
use std::time::{Duration, Instant};

/// From which share of its time on initialisation is called the larger part: half of it.
const LARGE_PART: u32 = 2;
/// Less than this is not worth freezing: waking costs some of it.
const LEAST: Duration = Duration::from_millis(1);

/// How a command ran once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trial {
    /// How long it ran until it first asked for its standard input; none if it never did.
    pub until_input: Option<Duration>,
    /// How long it ran in all.
    pub took: Duration,
    /// How it ended.
    pub exit_code: i32,
    /// Where it should be frozen, if most of its time passed before that.
    pub suggestion: Option<FreezePoint>,
}

impl Trial {
    fn of(kind: FunctionKind, until_input: Option<Duration>, took: Duration, exit_code: i32) -> Self {
        // Only these can be frozen there.
        let pays = kind == FunctionKind::Command && until_input.is_some_and(|until| until >= LEAST && until * LARGE_PART >= took);
        Self { until_input, took, exit_code, suggestion: pays.then_some(FreezePoint::Stdin) }
    }
}

impl Builder {
    /// Runs the command of an image once, with this input and these directories, and tells how much of its time passed before it asked for
    /// its input. Its output is dropped. It begins in a process where its code was not used before, as in a cold start.
    ///
    /// # Errors
    /// When the image is not there, is no command, or does not come to its end in this time.
    pub fn try_out(&self, image: &Digest, dirs: &[Directory], input: &[u8], time: Duration) -> Result<Trial, RunError> {
        let runtime = crate::Runtime::builder().slots(1).build()?;
        let loaded = runtime.load(&self.home, image)?;
        let watch = InputWatch::default();
        let mut request = Request::new().stdin(input.to_vec()).input_watch(watch.clone()).timeout(time);
        request.dirs = dirs.to_vec();
        let started = Instant::now();
        let exit_code = loaded.run(&request)?;
        let took = started.elapsed();
        // What was run is a function.
        let kind = loaded.manifest().function.as_ref().map_or(FunctionKind::Command, |function| function.kind);
        Ok(Trial::of(kind, watch.first().map(|first| first - started), took, exit_code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_initialises_most_of_the_time_is_worth_freezing() {
        let ms = Duration::from_millis;
        let suggested = |kind, until: Option<u64>, took| Trial::of(kind, until.map(ms), ms(took), 0).suggestion.is_some();
        assert!(suggested(FunctionKind::Command, Some(70), 80));
        assert!(suggested(FunctionKind::Command, Some(40), 80));
        assert!(!suggested(FunctionKind::Command, Some(39), 80));
        assert!(!suggested(FunctionKind::Command, Some(0), 0), "too little to matter");
        assert!(!suggested(FunctionKind::Command, None, 80), "it never came to its input");
        assert!(!suggested(FunctionKind::ComponentCommand, Some(70), 80), "it can't be frozen there");
    }
}
