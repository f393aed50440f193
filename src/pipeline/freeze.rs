//! Building a frozen image: the program runs up to its freeze point, and the image is its state there.
//!
//! Three images are made on the way. The *base* is the ordinary image of the module: its code objects are what the frozen one runs on too. The
//! *capture image* has code that can say where each of its values is, is run once, here, and never again. The frozen image has the base's
//! code, resume objects, and the heap.
//!
//! Components are frozen in another way: `component.rs`.

mod component;
mod options;
mod warmup;

pub use options::{Baked, Freeze};

use super::engine::{CompileError, Compiler};
use super::layer::LayerBase;
use super::{BuildError, Builder, Built, Engine, EngineChoice, found_code, json, sign, wasm};
use preheat_image::frozen::{FreezePoint, Frozen};
use preheat_image::key::field;
use preheat_image::keys::Signer;
use preheat_image::manifest::{Artefact, Descriptor, Function, FunctionKind, Variant};
use preheat_image::statement::Kind;
use preheat_image::{CpuLevel, Digest, KeyFields, Manifest, Statement, media};
use preheat_loader::store::Publication;
use preheat_loader::{LoadOptions, TrustedImage};
use preheat_native_wasi::{
    EngineOptions, FreezeError, FreezeOptions, FreezeRecord, Frost, MAX_FREEZE_RECORD, NativeEngine, check_frozen_files,
};
use preheat_wasmtime::TARGET;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is particular to a frozen image.
#[derive(Debug, Clone)]
pub struct BuiltFrozen {
    /// Where the program was stopped.
    pub point: FreezePoint,
    /// How many frames its stack had.
    pub frames: usize,
    /// The size of its own heap layer in bytes; of a component, that of the component that it became.
    pub heap: u64,
    /// Over how many layers of other images that is.
    pub layers_below: usize,
    /// How many pages of its memories a call with the sample requests has for itself: those that it writes, and those that are copied anyway.
    pub written: u64,
    /// The size of its largest resume object in bytes; 0 if it needs none.
    pub resume: u64,
    /// The component that a component became, which has its state in itself.
    pub component: Option<Digest>,
    /// How long the program ran until it was frozen.
    pub ran_for: Duration,
    /// What is baked in and might better not be, in words.
    pub risks: Vec<String>,
}

impl Builder {
    /// Builds the frozen image of a function.
    pub(super) fn build_frozen(&self, freeze: &Freeze, name: &str, shown: &str, source: &wasm::Source<'_>) -> Result<Built, BuildError> {
        self.check_freeze(freeze, shown, source.kind)?;
        if source.kind.is_component() {
            return self.build_frozen_component(freeze, name, shown, source);
        }
        match self.layer_base(freeze, shown, &source.digest())? {
            // What goes on has been called already.
            Some(base) if freeze.base_input.is_some() => {
                let function = base.function();
                let this = Self { args: function.args.clone(), env: function.env.clone(), ..self.clone() };
                let freeze = Freeze { late_env: base.frozen().late_env.clone(), ..freeze.clone() };
                this.build_frozen_over(&freeze, Some(&base), &function.name, shown, source)
            }
            base => self.build_frozen_over(freeze, base.as_ref(), name, shown, source),
        }
    }

    fn build_frozen_over(
        &self,
        freeze: &Freeze,
        over: Option<&LayerBase>,
        name: &str,
        shown: &str,
        source: &wasm::Source<'_>,
    ) -> Result<Built, BuildError> {
        let plain = self.plain();
        let base = plain.build_for(Engine::Native, None, name, shown, source)?;
        let function = self.function(source.kind, name);

        let capture = Self { capture: true, levels: self.levels.first().copied().into_iter().collect(), ..plain.clone() };
        let capturing = capture.build_for(Engine::Native, None, name, shown, source)?;
        let capturing = match over {
            Some(over) if freeze.base_input.is_some() => capture.wakeable(over, &capturing.digest, shown, source)?,
            _ => capturing.digest,
        };
        let capturing = self.store.load(&capturing, &self.home.trust()?, LoadOptions::default())?;
        let started = Instant::now();
        let frost = self.run_to_the_point(freeze, over, &function, &capturing, shown)?;
        let ran_for = started.elapsed();
        check_baked(freeze, &frost.record, frost.wrote_output, shown)?;

        let fields = self.frozen_fields(freeze, &function, &base, &frost, &source.descriptor());
        if !self.anew
            && let Some(built) = self.find_key(&fields.key())?
        {
            self.name(&built.digest)?;
            return Ok(built);
        }
        let mut artefacts = self.code_of(&base.digest)?;
        let resumes = self.resume_objects(&artefacts, source, &frost.sites, shown)?;
        let signer = self.home.builder_signer()?;
        let mut publication = self.store.publish()?;
        if let Some(over) = over {
            publication.shares_blobs_of(&over.digest());
        }
        let resumes = self.put_resumes(&mut publication, &*signer, resumes)?;
        let largest = resumes.iter().map(|resume| resume.size).max().unwrap_or(0);
        artefacts.extend(resumes);
        let below = over.map_or(&[][..], LayerBase::layers);
        artefacts.extend_from_slice(below);
        let record = self.put_large(&mut publication, media::FREEZE_RECORD, &frost.record.encode())?;
        let risks = risks(&frost.record, frost.wrote_output, freeze);
        if self.keep_source {
            artefacts.push(self.put_large(&mut publication, media::WASM, &source.wasm)?);
        }
        let with_heap = |layer: Artefact| {
            let frozen = Frozen {
                point: freeze.point.clone(),
                layers: below.iter().map(|layer| layer.digest).chain([layer.digest]).collect(),
                component: None,
                late_env: freeze.late_env.clone(),
                record: record.digest,
                risks: risks.clone(),
            };
            let function = Function { frozen: Some(Box::new(frozen)), ..function.clone() };
            Manifest::new(Some(source.descriptor()), Some(function), artefacts.iter().cloned().chain([layer, record.clone()]).collect())
        };
        let mut layer = self.put_large(&mut publication, media::HEAP, &frost.heap)?;
        let reseeds = frost.record.random_bytes > 0 && !freeze.allow_frozen_random;
        let mut written = 0;
        if reseeds || !freeze.warmup.is_empty() {
            // A trial is another image: the frozen one exists only if it may.
            let mut manifest = with_heap(layer.clone());
            manifest.annotations.insert(TRIAL.to_owned(), "made to see what the program does when it wakes".to_owned());
            let trial = self.publish_image(&mut publication, &*signer, fields.clone().with(TRIAL, "yes"), &manifest)?;
            if reseeds {
                self.try_reseed(freeze, &trial, frost.record.random_bytes, shown)?;
            }
            if !freeze.warmup.is_empty() {
                let pages = self.written_by_requests(freeze, &trial, shown)?;
                let input = |error: preheat_image::FormatError| BuildError::Input { name: shown.to_owned(), what: error.to_string() };
                let heap = preheat_image::heap::with_written(&frost.heap, &pages).map_err(input)?;
                let snapshot = preheat_image::heap::HeapSnapshot::parse(&heap).map_err(input)?;
                written = snapshot.written().iter().map(|run| u64::from(run.pages.get())).sum();
                layer = self.put_large(&mut publication, media::HEAP, &heap)?;
            }
        }
        let heap = layer.size;
        let manifest = with_heap(layer);
        let digest = self.publish_image(&mut publication, &*signer, fields.clone(), &manifest)?;
        self.name(&digest)?;
        publication.finish()?;
        let (point, frames, layers_below) = (freeze.point.clone(), frost.frames, below.len());
        let frozen = BuiltFrozen { point, frames, heap, layers_below, written, resume: largest, component: None, ran_for, risks };
        Ok(Built {
            digest,
            key: fields.key(),
            cached: false,
            engine: Some(Engine::Native),
            engine_reason: None,
            code: base.code,
            frozen: Some(frozen),
        })
    }

    /// Whether what an image's program read before it was frozen is the same now. What is not frozen has read nothing.
    pub(super) fn read_the_same(&self, image: &Digest) -> bool {
        let Some(freeze) = &self.freeze else { return true };
        let manifest = self.store.read_blob(image, preheat_image::manifest::MAX_SIZE).ok().and_then(|bytes| Manifest::parse(&bytes).ok());
        let frozen = manifest.and_then(|manifest| manifest.function?.frozen);
        let record = frozen.and_then(|frozen| self.store.read_blob(&frozen.record, MAX_FREEZE_RECORD).ok());
        let record = record.and_then(|bytes| FreezeRecord::parse(&bytes).ok());
        record.is_some_and(|record| check_frozen_files(&record, &freeze.dirs).is_ok())
    }

    /// A builder of the ordinary image of the same function.
    fn plain(&self) -> Self {
        Self { freeze: None, tags: Vec::new(), keep_source: false, ..self.clone() }
    }

    fn check_freeze(&self, freeze: &Freeze, shown: &str, kind: FunctionKind) -> Result<(), BuildError> {
        let usage = |what: String| Err(BuildError::Usage(what));
        if kind.is_component() {
            return self.check_freeze_component(freeze, shown);
        }
        if self.engine == EngineChoice::Only(Engine::Wasmtime) {
            return usage("only the native engine freezes core modules; leave --engine out, or say --engine native".into());
        }
        if freeze.init_export.is_some() && freeze.point != FreezePoint::Init {
            return usage("an export to run belongs to `--freeze init`".into());
        }
        if !freeze.warmup.is_empty() && freeze.point == FreezePoint::Init {
            return usage(
                "a sample request is for a program that reads it when it wakes, and nothing is running after `--freeze init`".into(),
            );
        }
        match (&freeze.point, kind) {
            (FreezePoint::Init, FunctionKind::Command) => {
                usage(format!("{shown} is a command, which initialises itself in `_start`: freeze it at `stdin`"))
            }
            (FreezePoint::Stdin | FreezePoint::Import { .. }, FunctionKind::Module) => {
                usage(format!("{shown} has no `_start` that could be frozen: freeze it at `init`"))
            }
            _ => Ok(()),
        }
    }

    fn run_to_the_point(
        &self,
        freeze: &Freeze,
        over: Option<&LayerBase>,
        function: &Function,
        capturing: &TrustedImage,
        shown: &str,
    ) -> Result<Frost, BuildError> {
        let level = CpuLevel::of_host().ok_or_else(|| BuildError::Usage("this host is no x86-64".into()))?;
        let code = capturing.code(Engine::Native.name(), TARGET, level)?;
        let failed = |error: FreezeError| BuildError::Freeze { name: shown.to_owned(), source: error.into() };
        let engine = NativeEngine::new(EngineOptions::default()).map_err(|error| failed(error.into()))?;
        let base = over.map(|over| over.open(freeze, capturing, &code)).transpose()?;
        // The seed decides what the program draws before it is frozen, and must be the same for the same build.
        let seed = KeyFields::new()
            .with(field::SOURCE, code.file().artefact().digest)
            .with(field::FUNCTION, &function.name)
            .with(field::ARGS, json(&function.args))
            .with(field::ENV, json(&function.env))
            .with(field::FREEZE, freeze.declared());
        let options = FreezeOptions {
            point: &freeze.point,
            init_export: freeze.init_export.as_deref(),
            dirs: &freeze.dirs,
            late_env: freeze.late_env.iter().map(String::as_str).collect(),
            wake_dir: freeze.has_wake_dir(),
            seed: *seed.key().as_bytes(),
            limits: freeze.limits,
        };
        engine.freeze(code, function, &options, base).map_err(failed)
    }

    fn frozen_fields(&self, freeze: &Freeze, function: &Function, base: &Built, frost: &Frost, source: &Descriptor) -> KeyFields {
        let code: BTreeMap<&str, String> = base.code.iter().map(|code| (code.cpu.name(), code.key.to_string())).collect();
        self.image_fields(Engine::Native, None, function, source, &code)
            .with(field::FREEZE, freeze.declared())
            .with(field::FILES, json(&frost.files()))
    }

    /// The code objects of an image.
    pub(super) fn code_of(&self, image: &Digest) -> Result<Vec<Artefact>, BuildError> {
        let image = self.store.load(image, &self.home.trust()?, LoadOptions::default())?;
        Ok(image.manifest().artefacts.iter().filter(|artefact| artefact.is_code()).cloned().collect())
    }

    /// The resume objects that go with these code objects, if the program has a stack.
    pub(super) fn resume_objects(
        &self,
        code: &[Artefact],
        source: &wasm::Source<'_>,
        sites: &[(u32, Option<u32>)],
        shown: &str,
    ) -> Result<Vec<(Variant, Resume)>, BuildError> {
        if sites.is_empty() {
            return Ok(Vec::new());
        }
        let policy = self.home.trust()?;
        let input = |what: String| BuildError::Input { name: shown.to_owned(), what };
        let digest = source.digest();
        let mut resumes = Vec::new();
        for artefact in code {
            let Some(variant) = &artefact.variant else { continue };
            let compiler = Compiler::new(Engine::Native, variant.cpu, self.optimize, self.capture, None).map_err(input)?;
            let fields = compiler.resume_fields(&digest, &artefact.digest, sites);
            let key = fields.key();
            let _building = self.store.lock_build(&[key])?;
            let object = match self.outputs_here_or_shared(&policy, &key, Kind::CodeObject)? {
                Some(outputs) => Resume::Found(outputs),
                None => {
                    let size = usize::try_from(artefact.size).unwrap_or(usize::MAX);
                    let base = self.store.read_blob(&artefact.digest, size)?;
                    let code = compiler.resume(&source.wasm, &base, sites, key).map_err(|error| match error {
                        CompileError::Unsupported(what) | CompileError::Other(what) => input(what),
                    })?;
                    Resume::Compiled(code, fields)
                }
            };
            resumes.push((Variant { key, ..variant.clone() }, object));
        }
        Ok(resumes)
    }

    /// Puts resume objects.
    pub(super) fn put_resumes(
        &self,
        publication: &mut Publication<'_>,
        signer: &dyn Signer,
        resumes: Vec<(Variant, Resume)>,
    ) -> Result<Vec<Artefact>, BuildError> {
        let mut artefacts = Vec::new();
        for (variant, object) in resumes {
            let mut artefact = match object {
                Resume::Found(outputs) => found_code(outputs)?,
                Resume::Compiled(code, fields) => {
                    let artefact = self.put_large(publication, media::RESUME, &code)?;
                    let outputs = [Some(artefact.descriptor()), artefact.chunks.clone()].into_iter().flatten().collect();
                    let statement = Statement::new(Kind::CodeObject, &self.namespace, fields, outputs);
                    publication.add_statement(&sign(statement, signer)?, &signer.public())?;
                    artefact
                }
            };
            artefact.variant = Some(variant);
            artefacts.push(artefact);
        }
        Ok(artefacts)
    }

    /// Wakes the trial image once, to see whether it draws random bytes before it answers.
    fn try_reseed(&self, freeze: &Freeze, trial: &Digest, drawn: u64, shown: &str) -> Result<(), BuildError> {
        let failed = |source: FreezeError| BuildError::Freeze { name: shown.to_owned(), source: source.into() };
        let loaded = self.load_trial(trial, shown)?;
        let again = loaded.random_before_output(&freeze.dirs, &freeze.trial_input, freeze.limits.time);
        let again = again.map_err(|error| failed(error.into()))?;
        if again > 0 {
            return Ok(());
        }
        let what = format!(
            "it drew {drawn} random bytes before it was frozen and none after waking, so that all calls would share what it made of them; let \
             it draw anew when its event is there (docs/freezing.md has how, for each language), or say --allow-frozen-random"
        );
        Err(failed(FreezeError::Refused(what)))
    }
}

/// The annotation of an image that was made to see what it does.
const TRIAL: &str = "trial";

/// A resume object on its way into an image.
pub(super) enum Resume {
    /// The outputs of the statement about one that is there.
    Found(Vec<Descriptor>),
    /// One that was compiled now, and the fields of its key.
    Compiled(Vec<u8>, KeyFields),
}

/// Refuses what was forbidden to be baked in.
fn check_baked(freeze: &Freeze, record: &FreezeRecord, wrote_output: bool, shown: &str) -> Result<(), BuildError> {
    let read = [
        (Baked::Clock, record.clocks.realtime + record.clocks.monotonic > 0, "read a clock"),
        (Baked::Env, record.environment.as_ref().is_some_and(|names| !names.is_empty()), "read its environment variables"),
        (Baked::Files, !record.files.is_empty() || !record.listed.is_empty(), "read files or directories"),
        (Baked::Random, record.random_bytes > 0, "drew random bytes"),
        (Baked::Output, wrote_output, "wrote output"),
    ];
    match read.into_iter().find(|(baked, found, _)| *found && freeze.deny.contains(baked)) {
        Some((baked, _, did)) => {
            let what = format!("it {did} before it was frozen, and `--deny-frozen {}` forbids that", baked.name());
            Err(BuildError::Freeze { name: shown.to_owned(), source: FreezeError::Refused(what).into() })
        }
        None => Ok(()),
    }
}

/// What stays the same in every call and might better not, in words.
fn risks(record: &FreezeRecord, wrote_output: bool, freeze: &Freeze) -> Vec<String> {
    let mut risks = Vec::new();
    if record.random_bytes > 0 {
        let again = if freeze.allow_frozen_random { "" } else { "; it draws more after waking" };
        risks.push(format!("{} random bytes, drawn before the freeze, are the same in all calls{again}", record.random_bytes));
    }
    if record.clocks.realtime > 0 {
        risks.push("it read the time of day before the freeze, and was told the first second of 2020".to_owned());
    }
    if let Some(names) = record.environment.as_ref().filter(|names| !names.is_empty()) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        risks.push(format!("environment variables are those of the build: {}", names.join(", ")));
    }
    if !record.files.is_empty() {
        let paths: Vec<String> = record.files.iter().map(|file| file.guest_path()).collect();
        risks.push(format!("files were read before the freeze: {}", paths.join(", ")));
    }
    if wrote_output {
        risks.push("output that was written before the freeze is written again at each wake-up".to_owned());
    }
    risks
}
