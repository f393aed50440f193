//! Building the frozen image of a component.
//!
//! Three images are made on the way, all by wasmtime. The *instrumented* one has exports through which its state can be read; it is initialised
//! once, here. The component with that state in it, the *snapshot*, is compiled as any other. The frozen image has its code and says of
//! itself what it was made from: its source is the component before.

use super::{BuiltFrozen, Freeze, check_baked, risks};
use crate::pipeline::{BuildError, Builder, Built, Engine, EngineChoice, NO_COMPONENTS, json, wasm};
use preheat_image::frozen::{FreezePoint, Frozen};
use preheat_image::key::field;
use preheat_image::manifest::{ENGINE_REASON, Function};
use preheat_image::{CpuLevel, Digest, KeyFields, Manifest, media};
use preheat_loader::LoadOptions;
use preheat_native_wasi::{FreezeError, FreezeRecord, RECORDED_REALTIME, Recording};
use preheat_wasmtime::freeze::{self, FreezeOptions, Instrumented};
use preheat_wasmtime::{EngineOptions, TARGET, WasmtimeEngine};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

impl Builder {
    pub(super) fn check_freeze_component(&self, freeze: &Freeze, shown: &str) -> Result<(), BuildError> {
        let usage = |what: String| Err(BuildError::Usage(what));
        if self.engine == EngineChoice::Only(Engine::Native) {
            return usage("components are frozen on the wasmtime engine; leave --engine out, or say --engine wasmtime".into());
        }
        if freeze.point != FreezePoint::Init {
            return usage(format!("{shown} is a component, of which calls are all that the host sees: freeze it at `init`"));
        }
        if !freeze.dirs.is_empty() {
            let why = "what it opens is the host's and gone when it wakes up";
            return usage(format!("a component can't be given directories while it is frozen, since {why}: grant them to `run`"));
        }
        if freeze.wake_dir {
            return usage(
                "a component has no wake directory: it asks wasi:random and wasi:cli/environment when it is called, and gets fresh bytes and the \
                 late variables there"
                    .into(),
            );
        }
        if freeze.base.is_some() {
            return usage("a component has its state in itself, and no heap that could be a layer: leave --base out".into());
        }
        if !freeze.warmup.is_empty() {
            return usage("a component is not tried out, since nobody can say what to call: leave --warmup-request out".into());
        }
        if !freeze.trial_input.is_empty() {
            return usage("a component is not tried out, since nobody can say what to call: leave --trial-input out".into());
        }
        Ok(())
    }

    /// Builds the frozen image of a component.
    pub(super) fn build_frozen_component(
        &self,
        freeze: &Freeze,
        name: &str,
        shown: &str,
        source: &wasm::Source<'_>,
    ) -> Result<Built, BuildError> {
        let failed = |source: FreezeError| BuildError::Freeze { name: shown.to_owned(), source: source.into() };
        let engine_reason = (self.engine == EngineChoice::Auto).then(|| NO_COMPONENTS.to_owned());
        let mut function = self.function(source.kind, name);
        let descriptor = source.descriptor();

        let instrumented = Instrumented::new(&source.wasm, freeze.init_export.as_deref()).map_err(|error| failed(of_freeze(error)))?;
        let started = Instant::now();
        let recording = Recording::new(seed(freeze, &function, &descriptor.digest), RECORDED_REALTIME);
        // What comes late is absent now, even if it is given.
        let mut early = function.clone();
        early.env.retain(|name, _| !freeze.late_env.contains(name));
        let snapshot = self.initialise(freeze, &early, &instrumented, &recording, shown)?;
        let ran_for = started.elapsed();
        let record = recording.record();
        check_baked(freeze, &record, false, shown)?;
        check_random(freeze, &record).map_err(failed)?;

        let state = Digest::of(&snapshot);
        let compiled = wasm::Source::new(Cow::Owned(snapshot), source.kind);
        let base = self.plain().build_for(Engine::Wasmtime, engine_reason.clone(), name, shown, &compiled)?;
        let code: BTreeMap<&str, String> = base.code.iter().map(|code| (code.cpu.name(), code.key.to_string())).collect();
        let no_files = BTreeMap::<String, String>::new();
        let fields = self
            .image_fields(Engine::Wasmtime, engine_reason.as_deref(), &function, &descriptor, &code)
            .with(field::FREEZE, freeze.declared())
            .with(field::FILES, json(&no_files));
        if !self.anew
            && let Some(built) = self.find_key(&fields.key())?
        {
            self.name(&built.digest)?;
            return Ok(built);
        }

        let mut artefacts = self.code_of(&base.digest)?;
        let signer = self.home.builder_signer()?;
        let mut publication = self.store.publish()?;
        let blob = self.put_large(&mut publication, media::FREEZE_RECORD, &record.encode())?;
        let risks = risks(&record, false, freeze);
        function.frozen = Some(Box::new(Frozen {
            point: FreezePoint::Init,
            layers: Vec::new(),
            component: Some(state),
            late_env: freeze.late_env.clone(),
            record: blob.digest,
            risks: risks.clone(),
        }));
        artefacts.push(blob);
        if self.keep_source {
            artefacts.push(self.put_large(&mut publication, media::WASM, &source.wasm)?);
            artefacts.push(self.put_large(&mut publication, media::WASM, &compiled.wasm)?);
        }
        let mut manifest = Manifest::new(Some(descriptor), Some(function), artefacts);
        manifest.annotations.extend(engine_reason.clone().map(|reason| (ENGINE_REASON.to_owned(), reason)));
        let digest = self.publish_image(&mut publication, &*signer, fields.clone(), &manifest)?;
        self.name(&digest)?;
        publication.finish()?;
        let heap = compiled.wasm.len() as u64;
        let frozen = BuiltFrozen {
            point: FreezePoint::Init,
            frames: 0,
            heap,
            layers_below: 0,
            written: 0,
            resume: 0,
            component: Some(state),
            ran_for,
            risks,
        };
        Ok(Built {
            digest,
            key: fields.key(),
            cached: false,
            engine: Some(Engine::Wasmtime),
            engine_reason,
            code: base.code,
            frozen: Some(frozen),
        })
    }

    /// Initialises the component, and returns the component that it is then.
    fn initialise(
        &self,
        freeze: &Freeze,
        function: &Function,
        instrumented: &Instrumented<'_>,
        recording: &Recording,
        shown: &str,
    ) -> Result<Vec<u8>, BuildError> {
        let failed = |error: FreezeError| BuildError::Freeze { name: shown.to_owned(), source: error.into() };
        let source = wasm::Source::new(Cow::Borrowed(instrumented.wasm()), function.kind);
        let once = Self { levels: self.levels.first().copied().into_iter().collect(), ..self.plain() };
        let image = once.build_for(Engine::Wasmtime, None, &function.name, shown, &source)?;
        let image = self.store.load(&image.digest, &self.home.trust()?, LoadOptions::default())?;
        let level = CpuLevel::of_host().ok_or_else(|| BuildError::Usage("this host is no x86-64".into()))?;
        let code = image.code(Engine::Wasmtime.name(), TARGET, level)?;
        let engine = WasmtimeEngine::new(EngineOptions { slots: None, ..EngineOptions::default() });
        let engine = engine.map_err(|error| failed(error.into()))?;
        let options = FreezeOptions { recording, time: freeze.limits.time, memory: freeze.limits.memory };
        engine.freeze(&code, function, instrumented, &options).map_err(|error| failed(of_freeze(error)))
    }
}

/// What a component's random numbers are made from: the same for the same build.
fn seed(freeze: &Freeze, function: &Function, source: &Digest) -> [u8; 32] {
    let fields = KeyFields::new()
        .with(field::SOURCE, source)
        .with(field::FUNCTION, &function.name)
        .with(field::ARGS, json(&function.args))
        .with(field::ENV, json(&function.env))
        .with(field::FREEZE, freeze.declared());
    *fields.key().as_bytes()
}

/// Nobody can say which export to call to see whether a component draws anew, so that its builder has to know.
fn check_random(freeze: &Freeze, record: &FreezeRecord) -> Result<(), FreezeError> {
    if record.random_bytes == 0 || freeze.allow_frozen_random {
        return Ok(());
    }
    Err(FreezeError::Refused(format!(
        "it drew {} random bytes in its initialisation, so that all calls would share what it made of them; let it draw when it is called \
         (docs/freezing.md has how), or say --allow-frozen-random if it draws anew, or need not",
        record.random_bytes
    )))
}

fn of_freeze(error: freeze::FreezeError) -> FreezeError {
    match error {
        freeze::FreezeError::Ended { code, stderr } => {
            FreezeError::Ended { code, point: FreezePoint::Init, said: preheat_native_wasi::last_words(&stderr) }
        }
        freeze::FreezeError::Run(error) => FreezeError::Run(error),
        other => FreezeError::Refused(other.to_string()),
    }
}
