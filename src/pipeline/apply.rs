//! Compiling an image's function again with a profile, and letting the result take the image's place if a replay of recorded requests shows that
//! it does the same and is faster.
//!
//! Nothing that is there is changed before that is shown: the candidate is an image of its own, without a name.

mod candidate;
mod decide;
mod replay;

pub use decide::Verdict;
pub use replay::{Difference, Differing, RecordedRequest};

use super::engine::Steer;
use super::{BuildError, Carried, Engine, carry_over};
use candidate::{Candidate, Control};
use preheat_call::{Directory, RunError};
use preheat_compiler::Passes;
use preheat_image::evidence::{Evidence, MAX_REQUESTS, MIN_ROUNDS, Replayed, Side};
use preheat_image::key::field;
use preheat_image::manifest::{Artefact, Descriptor, FunctionKind};
use preheat_image::profile::Summary;
use preheat_image::statement::Envelope;
use preheat_image::{CpuLevel, Digest, Reference, media};
use preheat_loader::{Home, LoadOptions, StoreError, TrustedCode, TrustedImage};
use preheat_native_wasi::{EngineOptions, Loaded, NativeEngine};
use preheat_wasmtime::TARGET;
use replay::{Ended, Granted, Kept, Replay, WARMUP};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes that all recorded requests may have together: they are in memory while they are replayed.
const MAX_REQUEST_BYTES: usize = 1024 * 1024 * 1024;

/// Why a profile was not applied, other than that it would not pay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The candidate could not be built, or the image is none that can be compiled again.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// One of the images can't be loaded.
    #[error("{image} can't be loaded to be replayed")]
    Load {
        /// The image.
        image: Digest,
        /// Why.
        source: Box<RunError>,
    },
    /// The image that is there could not answer.
    #[error("the present image can't be called with request `{}`", request.escape_debug())]
    Run {
        /// The request.
        request: String,
        /// Why.
        source: Box<RunError>,
    },
    /// A request that does not come to its end shows nothing.
    #[error("request `{}` does not come to its end in time on either image; give it more with --timeout, or leave it out", .0.escape_debug())]
    Deadline(String),
    /// The name leads elsewhere than when the replay began.
    #[error(
        "`{name}` was moved by somebody else while requests were replayed, to {now}; nothing was moved: apply the profile to what it leads to now"
    )]
    Moved {
        /// The name.
        name: String,
        /// Where it leads now, in words.
        now: String,
    },
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        Self::Build(error.into())
    }
}

/// A profile to be applied to an image.
#[derive(Debug, Clone)]
#[must_use]
pub struct Apply {
    home: Home,
    image: Digest,
    steer: Steer,
    wasm: Option<(String, Vec<u8>)>,
    requests: Vec<RecordedRequest>,
    dirs: Vec<Directory>,
    timeout: Duration,
    rounds: u32,
    min_gain: i64,
    tag: Option<Reference>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Applied {
    /// How much of the profile was of use.
    pub carried: Carried,
    /// The image that was compiled with the profile and has no name. None if nothing had to be compiled.
    pub candidate: Option<Digest>,
    /// The rest.
    pub outcome: Outcome,
}

/// What became of an image.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outcome {
    /// The candidate answered all requests alike and is clearly faster: it took the image's place.
    Promoted(Box<Promoted>),
    /// The candidate answered all requests alike and is not clearly faster by as much as was asked for.
    NotClear(Verdict),
    /// The candidate answered otherwise.
    Different(Vec<Difference>),
    /// The image's code is what this compiler makes with this profile already.
    Unchanged,
}

/// An image that took the place of another.
#[derive(Debug, Clone)]
pub struct Promoted {
    /// The image.
    pub image: Digest,
    /// For what it did.
    pub evidence: Evidence,
    /// The digest of the artefact with that.
    pub evidence_digest: Digest,
    /// The name that was moved to it.
    pub tag: Option<String>,
    /// The name under which what that led to before is kept, and its digest.
    pub previous: Option<(String, Digest)>,
}

impl Apply {
    /// Applies a profile to the image `image` of a home, for these requests: of each what a command reads from its standard input.
    pub fn new(home: &Home, image: Digest, profile: Arc<Summary>, requests: Vec<RecordedRequest>) -> Self {
        Self {
            home: home.clone(),
            image,
            steer: Steer { profile, passes: Passes::USUAL },
            wasm: None,
            requests,
            dirs: Vec::new(),
            timeout: Duration::from_secs(60),
            rounds: 31,
            min_gain: 10_000,
            tag: None,
        }
    }

    /// The image's source, Wasm or its text form, if it did not keep it.
    pub fn wasm(mut self, name: impl Into<String>, bytes: Vec<u8>) -> Self {
        self.wasm = Some((name.into(), bytes));
        self
    }

    /// A directory that the function sees while it is replayed. It can change nothing there.
    pub fn dir(mut self, directory: Directory) -> Self {
        self.dirs.push(directory);
        self
    }

    /// How long a request may take; a minute unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often all requests are replayed for their times; 31 times unless set.
    pub fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds;
        self
    }

    /// By how much of its time the candidate has to be faster, in millionths; 10,000, 1 %, unless set. Negative: it may be slower.
    pub fn min_gain(mut self, millionths: i64) -> Self {
        self.min_gain = millionths;
        self
    }

    /// A name for the new image. What it leads to is kept under [`previous_name`].
    pub fn tag(mut self, reference: Reference) -> Self {
        self.tag = Some(reference);
        self
    }

    /// Compiles, replays, and if that shows what it should, lets the new image take its place. `progress` is told the round of the replay, from 1, and how
    /// many there are.
    ///
    /// # Errors
    /// When the image can't be compiled again or replayed. Whatever the error, all names lead where they led.
    pub fn run(&self, progress: &dyn Fn(u32, u32)) -> Result<Applied, ApplyError> {
        self.check()?;
        let led_to = self.led_to()?;
        let control = Control::new(&self.home, &self.image, self.wasm.as_ref())?;
        if control.function.kind != FunctionKind::Command {
            let kind = control.function.kind.name();
            return Err(usage(format!("{} is a {kind}; only commands can be replayed, requests are their standard input", self.image)));
        }
        let carried = self.carried(&control)?;
        if control.has_code_of(&self.steer)? {
            return Ok(Applied { carried, candidate: None, outcome: Outcome::Unchanged });
        }
        let candidate = control.compile(&self.steer)?;
        let (present, present_code) = load(&control.image)?;
        let (new, new_code) = load(&candidate.image)?;
        let names: Vec<&str> = self.requests.iter().map(|request| request.name.as_str()).collect();
        let granted = Granted { dirs: &self.dirs, timeout: self.timeout };
        let replayed = replay::replay(&names, self.rounds, progress, |which, request| {
            let loaded = if which == replay::Which::Control { &present } else { &new };
            replay::answer(loaded, &self.requests[request], &granted)
        })?;
        let applied = |outcome| Applied { carried, candidate: Some(candidate.image.digest()), outcome };
        let (rounds, answers) = match replayed {
            Replay::Different(differences) => return Ok(applied(Outcome::Different(differences))),
            Replay::Same { rounds, answers } => (rounds, answers),
        };
        let verdict = Verdict::of(&rounds).ok_or_else(|| usage("this system does not tell how much CPU time a thread took".into()))?;
        if !verdict.ratio.is_below(self.min_gain) {
            return Ok(applied(Outcome::NotClear(verdict)));
        }
        let (level, codes) = (new_code.1, [present_code.0, new_code.0]);
        let evidence = self.evidence(&control, &candidate, level, codes, &verdict, &answers);
        let promoted = match self.promote(&control, &candidate, evidence.clone(), led_to) {
            // What was compiled has no name and was collected meanwhile: the same comes out again.
            Err(ApplyError::Build(BuildError::Store(StoreError::Missing(_)))) => {
                let again = control.compile(&self.steer)?;
                if again.image.digest() != candidate.image.digest() {
                    return Err(usage(format!(
                        "{} was collected while it was replayed; apply the profile again",
                        candidate.image.digest()
                    )));
                }
                self.promote(&control, &again, evidence, led_to)
            }
            promoted => promoted,
        }?;
        Ok(applied(Outcome::Promoted(Box::new(promoted))))
    }

    /// Whether what was asked for makes sense, before anything is done.
    fn check(&self) -> Result<(), ApplyError> {
        if self.requests.is_empty() {
            return Err(usage(
                "there are no requests to replay; without them nothing shows that the code does the same and is faster".into(),
            ));
        }
        if self.requests.len() > MAX_REQUESTS {
            return Err(usage(format!("{} requests, and at most {MAX_REQUESTS} can be replayed; take some of them", self.requests.len())));
        }
        if self.requests.iter().map(|request| request.stdin.len()).sum::<usize>() > MAX_REQUEST_BYTES {
            return Err(usage(format!("the requests have more than {MAX_REQUEST_BYTES} bytes together; take some of them")));
        }
        if self.rounds < MIN_ROUNDS {
            return Err(usage(format!("{} rounds show nothing: an interval of 95 % confidence needs at least {MIN_ROUNDS}", self.rounds)));
        }
        match &self.tag {
            Some(tag) if tag.name().is_none() || tag.digest().is_some() => Err(usage(format!("`{tag}` can't be moved: it has a digest"))),
            Some(tag) => previous_name(tag).map(drop),
            None => Ok(()),
        }
    }

    /// Where the name leads that will be moved.
    fn led_to(&self) -> Result<Option<Digest>, ApplyError> {
        let Some(tag) = &self.tag else { return Ok(None) };
        match self.home.store()?.resolve(tag) {
            Ok(digest) => Ok(Some(digest)),
            Err(StoreError::UnknownName(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn carried(&self, control: &Control) -> Result<Carried, ApplyError> {
        let (_, carried) = carry_over(&self.steer.profile, &control.wasm)
            .map_err(|what| BuildError::Input { name: control.function.name.clone(), what })?;
        if carried.share == 0.0 {
            let (of, source) = (self.steer.profile.source(), Digest::of(&control.wasm));
            let what = format!("nothing in the profile is of use: it is of the module {of}, this is {source}, and no function is the same");
            return Err(usage(what));
        }
        Ok(carried)
    }

    fn evidence(
        &self,
        control: &Control,
        candidate: &Candidate,
        cpu: CpuLevel,
        codes: [Digest; 2],
        verdict: &Verdict,
        answers: &[Kept],
    ) -> Evidence {
        let replayed = |((request, kept), ratio): ((&RecordedRequest, &Kept), &u64)| {
            let (exit, trap) = match &kept.ended {
                Ended::Exit(code) => (Some(*code), None),
                other => (None, Some(other.to_string().trim_start_matches("trap: ").to_owned())),
            };
            Replayed { request: Digest::of(&request.stdin), exit, trap, stdout: kept.stdout, stderr: kept.stderr, ratio: *ratio }
        };
        Evidence {
            version: Evidence::VERSION,
            source: Digest::of(&control.wasm),
            profile: candidate.profile,
            passes: self.steer.passes.to_text(),
            compiler: Engine::Native.compiler().to_owned(),
            build_id: Engine::Native.build_id().to_owned(),
            cpu,
            control: Side { image: self.image, code: codes[0], nanoseconds: verdict.control },
            candidate: Side { image: candidate.image.digest(), code: codes[1], nanoseconds: verdict.candidate },
            warmup: WARMUP,
            rounds: self.rounds,
            min_gain: self.min_gain,
            ratio: verdict.ratio,
            requests: self.requests.iter().zip(answers).zip(&verdict.requests).map(replayed).collect(),
        }
    }

    /// Publishes the candidate with its evidence, and moves the names.
    fn promote(
        &self,
        control: &Control,
        candidate: &Candidate,
        evidence: Evidence,
        led_to: Option<Digest>,
    ) -> Result<Promoted, ApplyError> {
        let builder = control.builder()?;
        let store = self.home.store()?;
        let bytes = evidence.to_bytes();
        let digest = Digest::of(&bytes);
        let fields = fields_of(&store, &candidate.image)?.with(field::EVIDENCE, digest);
        let mut manifest = candidate.image.manifest().clone();
        let fields = match &control.kept_source {
            Some(kept) if !manifest.artefacts.contains(kept) => {
                manifest.artefacts.push(kept.clone());
                fields.with(field::ARTEFACTS, super::json(&[media::WASM]))
            }
            _ => fields,
        };
        manifest.artefacts.push(Artefact::of(Descriptor::of(media::EVIDENCE, &bytes)));

        let signer = self.home.builder_signer()?;
        let mut publication = store.publish()?;
        publication.shares_blobs_of(&candidate.image.digest());
        publication.put(media::EVIDENCE, &bytes)?;
        let image = builder.publish_image(&mut publication, &*signer, fields, &manifest)?;
        // What a policy refuses that was changed meanwhile gets no name.
        store.load(&image, &self.home.trust()?, LoadOptions::default())?;
        // Before the publication ends, so that no collection comes between the image and its name.
        let (tag, previous) = match &self.tag {
            Some(tag) => self.move_name(tag, &image, led_to)?,
            None => (None, None),
        };
        publication.finish()?;
        Ok(Promoted { image, evidence, evidence_digest: digest, tag, previous })
    }

    /// Moves the name, and first lets another lead to where it led: whoever is interrupted in between has lost nothing.
    #[allow(clippy::type_complexity, reason = "two of the fields of what is made of it")]
    fn move_name(
        &self,
        tag: &Reference,
        image: &Digest,
        led_to: Option<Digest>,
    ) -> Result<(Option<String>, Option<(String, Digest)>), ApplyError> {
        let now = self.led_to()?;
        if now != led_to {
            let now = now.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
            return Err(ApplyError::Moved { name: tag.name().unwrap_or_default(), now });
        }
        let store = self.home.store()?;
        let previous = match led_to {
            Some(digest) => {
                let name = previous_name(tag)?;
                store.tag(&name, &digest)?;
                name.name().map(|name| (name, digest))
            }
            None => None,
        };
        store.tag(tag, image)?;
        Ok((tag.name(), previous))
    }
}

/// The name under which what `tag` led to is kept: `-previous` behind its tag.
fn previous_name(tag: &Reference) -> Result<Reference, ApplyError> {
    let name = tag.name().unwrap_or_default();
    format!("{name}-previous").parse().map_err(|error| ApplyError::from(StoreError::Reference(error)))
}

fn usage(what: String) -> ApplyError {
    ApplyError::Build(BuildError::Usage(what))
}

/// Maps an image in an engine of its own, and says which of its code objects this host runs, and for which CPU level that is.
fn load(image: &TrustedImage) -> Result<(Loaded, (Digest, CpuLevel)), ApplyError> {
    let failed = |source: RunError| ApplyError::Load { image: image.digest(), source: source.into() };
    let level = CpuLevel::of_host().ok_or_else(|| usage("this host is no x86-64".into()))?;
    let code: TrustedCode = image.code(Engine::Native.name(), TARGET, level)?;
    let digest = code.file().artefact().digest;
    let cpu = code.file().artefact().variant.as_ref().map_or(level, |variant| variant.cpu);
    let function = image.manifest().function.clone().ok_or_else(|| usage(format!("{} is of no function", image.digest())))?;
    let engine = NativeEngine::new(EngineOptions::default()).map_err(failed)?;
    Ok((engine.load_image(image, code, &function).map_err(failed)?, (digest, cpu)))
}

/// The fields from which an image was built, as the statement says by which it was loaded.
fn fields_of(store: &preheat_loader::Store, image: &TrustedImage) -> Result<preheat_image::KeyFields, ApplyError> {
    let bytes = store.read_blob(&image.statement().statement, preheat_image::statement::MAX_SIZE)?;
    let envelope = Envelope::parse(&bytes).map_err(|source| StoreError::Statement { subject: image.digest(), source })?;
    Ok(envelope.unverified().fields.clone())
}
