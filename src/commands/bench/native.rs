//! The native engine as the benchmark of engines sees it. All code goes through a store: there is no other safe way to code that may run.

use ::preheat::{Digest, Home, LoadOptions, Store as Blobs, TARGET, TrustPolicy};
use anyhow::{Context as _, Result, bail};
use preheat_bench::engine::guest::{Guest, Outcome};
use preheat_bench::engine::steered::Lesson;
use preheat_bench::engine::wasmtime::level;
use preheat_bench::engine::{Engine, Kernel, Opening, Ours, Program, Slot, System, thread_time};
use preheat_compiler::{COUNTERS, CompileOptions, Compiler, Instrumented, Passes};
use preheat_image::manifest::{Artefact, Variant};
use preheat_image::profile::{Contribution, Method, Profile, Rules, Summary};
use preheat_image::statement::Kind;
use preheat_image::{KeyFields, Manifest, Statement, media};
use preheat_loader::TrustedCode;
use preheat_native::{Caller, Config, Error, ExternType, InstancePre, Linker, Module, PoolLimits, Store, Val, WrittenPages};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// All systems that are the native engine. Their code is in one home.
pub(crate) struct Native {
    home: Home,
}

impl Native {
    pub(crate) fn new(home: &Home) -> Self {
        Self { home: home.clone() }
    }
}

fn compiler(interruptible: bool) -> Result<Compiler> {
    Ok(Compiler::new(CompileOptions { interruptible, ..CompileOptions::new(level()?) })?)
}

impl Native {
    fn in_process(&self, system: System) -> Result<InProcess> {
        let written_pages = match system {
            System::Pagemap => Some(WrittenPages::Pagemap),
            System::Remap => Some(WrittenPages::Remap),
            _ => None,
        };
        // As many pages stay in memory as wasmtime keeps.
        let memories = PoolLimits { pages: 4096, ..PoolLimits::default() };
        let config = Config { prepared: 4, stack: 8 << 20, memories, written_pages, ..Config::default() };
        self.home.builder_signer()?;
        Ok(InProcess {
            compiler: compiler(system != System::Unchecked)?,
            counting: system == System::Counting,
            from_store: system == System::FromStore,
            engine: preheat_native::Engine::new(config)?,
            home: self.home.clone(),
            blobs: self.home.store()?,
            policy: self.home.trust()?,
        })
    }
}

impl Ours for Native {
    fn engine(&self, system: System) -> Result<Box<dyn Engine>> {
        Ok(Box::new(self.in_process(system)?))
    }

    fn train(&self, wasm: &[u8], lesson: &Lesson<'_>) -> Result<Summary> {
        let counting = Instrumented::new(wasm)?;
        let engine = self.in_process(System::Native)?;
        let counters = match lesson {
            Lesson::Kernel(times) => {
                let (mut store, instance) = engine.instance(counting.wasm())?;
                instance.typed_func::<i32, i64>(&store, "run")?.call(&mut store, *times)?;
                instance.memory(&store, COUNTERS).context("no counters")?.bytes(&store).to_vec()
            }
            Lesson::Program(args, stdin) => {
                let (pre, _) = engine.linked(counting.wasm())?;
                let mut store = Store::new(&engine.engine, Guest::new(args, stdin))?;
                let instance = pre.instantiate(&mut store)?;
                let result = instance.typed_func::<(), ()>(&store, "_start")?.call(&mut store, ());
                if let Err(error) = result
                    && !store.data().has_exited()
                {
                    bail!("{error}");
                }
                instance.memory(&store, COUNTERS).context("no counters")?.bytes(&store).to_vec()
            }
        };
        let mut profile = Profile::new(counting.source());
        profile.insert(Contribution {
            contributor: "bench".into(),
            at: 0,
            method: Method::Counted,
            origin: preheat_compiler::COMPILER.into(),
            calls: 1,
            functions: counting.read(&counters, None)?,
        })?;
        Ok(profile.evaluate(&Rules::new(0))?)
    }

    fn steered(&self, system: System, profile: Arc<Summary>) -> Result<Box<dyn Engine>> {
        let pass = match system {
            System::WithoutLayout => "layout",
            System::WithoutBlocks => "blocks",
            System::WithoutInline => "inline",
            System::WithCalls => "calls",
            System::WithoutTables => "tables",
            _ => "",
        };
        let passes = Passes::USUAL.with(pass, system == System::WithCalls).unwrap_or(Passes::USUAL);
        let mut engine = self.in_process(System::Native)?;
        engine.compiler = compiler(true)?.with_profile(profile, passes);
        Ok(Box::new(engine))
    }

    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>> {
        Ok(compiler(true)?.compile(wasm, Digest::ZERO)?)
    }

    fn child_arguments(&self, system: System, wasm: &Path) -> Vec<OsString> {
        let compiler = if system == System::Native { "native" } else { "wasmtime" };
        vec!["bench".into(), "engine".into(), "--compile-only".into(), compiler.into(), wasm.into()]
    }
}

struct InProcess {
    compiler: Compiler,
    /// Modules are compiled with counters in them.
    counting: bool,
    from_store: bool,
    engine: preheat_native::Engine,
    home: Home,
    blobs: Blobs,
    policy: TrustPolicy,
}

impl InProcess {
    /// Compiles, and puts an image of it into the store.
    fn build(&self, wasm: &[u8]) -> Result<Digest> {
        let fields = self.compiler.key_fields(&Digest::of(wasm));
        let code = self.compiler.compile(wasm, fields.key())?;
        let signer = self.home.builder_signer()?;
        let mut publication = self.blobs.publish()?;
        let mut artefact = Artefact::of(publication.put(media::CODE, &code)?);
        let engine = preheat_compiler::ENGINE.to_owned();
        artefact.variant = Some(Variant { engine, target: TARGET.to_owned(), cpu: level()?, key: fields.key() });
        let manifest = Manifest::new(None, None, vec![artefact.clone()]);
        let blob = publication.put(media::MANIFEST, &manifest.to_bytes())?;
        let digest = blob.digest;
        let fields = KeyFields::new().with("code", fields.key());
        let statement = Statement::new(Kind::Image, "local", fields, vec![blob, artefact.descriptor()]);
        publication.add_statement(&statement.sign_with(&*signer)?, &signer.public())?;
        publication.finish()?;
        Ok(digest)
    }

    fn load(&self, wasm: &[u8]) -> Result<Module> {
        if self.counting {
            let counting = Instrumented::new(wasm)?;
            return Ok(Module::load(&self.engine, trusted(&self.blobs, &self.build(counting.wasm())?, &self.policy)?)?);
        }
        Ok(Module::load(&self.engine, trusted(&self.blobs, &self.build(wasm)?, &self.policy)?)?)
    }
}

fn trusted(blobs: &Blobs, image: &Digest, policy: &TrustPolicy) -> Result<TrustedCode> {
    Ok(blobs.load(image, policy, LoadOptions::default())?.code(preheat_compiler::ENGINE, TARGET, level()?)?)
}

impl InProcess {
    fn instance(&self, wasm: &[u8]) -> Result<(Store<()>, preheat_native::Instance)> {
        let mut store = Store::new(&self.engine, ())?;
        let instance = Linker::new().instantiate(&mut store, &self.load(wasm)?)?;
        Ok((store, instance))
    }

    fn linked(&self, wasm: &[u8]) -> Result<(InstancePre<Guest>, Module)> {
        let module = self.load(wasm)?;
        let mut linker = Linker::<Guest>::new();
        // Go imports some functions twice.
        linker.allow_shadowing(true);
        for import in module.imports()? {
            let ExternType::Func(ty) = import.ty else { continue };
            let name = import.name.to_owned();
            let function = move |caller: &mut Caller<'_, Guest>, params: &[Val]| {
                let params = params.iter().map(|param| match param {
                    Val::I32(value) => u64::from(value.cast_unsigned()),
                    Val::I64(value) => value.cast_unsigned(),
                    _ => 0,
                });
                let params: Vec<u64> = params.collect();
                let memory = caller.memory().ok_or_else(|| Error::Link("no memory".into()))?;
                let (bytes, guest) = caller.memory_and_data(memory);
                match guest.call(&name, bytes, &params) {
                    Outcome::Errno(errno) => Ok(vec![Val::I32(errno)]),
                    Outcome::Exit => Err(Error::host("exit")),
                }
            };
            linker.func_new(import.module, import.name, ty, function)?;
        }
        Ok((linker.instantiate_pre(&module)?, module))
    }
}

impl Engine for InProcess {
    fn code_size(&self, wasm: &[u8]) -> Result<usize> {
        let counting = if self.counting { Some(Instrumented::new(wasm)?) } else { None };
        Ok(self.compiler.compile(counting.as_ref().map_or(wasm, Instrumented::wasm), Digest::ZERO)?.len())
    }

    fn kernel(&self, wasm: &[u8]) -> Result<Kernel> {
        let (mut store, instance) = self.instance(wasm)?;
        let run = instance.typed_func::<i32, i64>(&store, "run")?;
        Ok(Box::new(move |times| Ok(run.call(&mut store, times)?)))
    }

    fn program(&self, wasm: &[u8]) -> Result<Program> {
        let (pre, _) = self.linked(wasm)?;
        let engine = self.engine.clone();
        Ok(Box::new(move |guest| {
            let mut store = Store::new(&engine, guest)?;
            let instance = pre.instantiate(&mut store)?;
            let start = instance.typed_func::<(), ()>(&store, "_start")?;
            let before = thread_time();
            let result = start.call(&mut store, ());
            let time = thread_time() - before;
            match result {
                Err(error) if !store.data().has_exited() => bail!("{error}"),
                _ => Ok((time, store.data_mut().take_output())),
            }
        }))
    }

    fn opening(&self, wasm: &[u8], _scratch: &Path) -> Result<Opening> {
        let image = self.build(wasm)?;
        let (engine, blobs, policy, from_store) = (self.engine.clone(), self.blobs.clone(), self.policy.clone(), self.from_store);
        let checked = trusted(&blobs, &image, &policy)?;
        Ok(Box::new(move || {
            let started = Instant::now();
            let code = if from_store {
                trusted(&blobs, &image, &policy)?
            } else {
                // The store's check is not counted, opening the file is.
                std::fs::File::open(checked.file().path()).context("can't open the code object")?;
                checked.try_clone()?
            };
            let module = Module::load(&engine, code)?;
            let pre = Linker::<()>::new().instantiate_pre(&module)?;
            let mut store = Store::new(&engine, ())?;
            let instance = pre.instantiate(&mut store)?;
            let dirty = instance.typed_func::<i32, i32>(&store, "dirty")?;
            let time = started.elapsed();
            dirty.call(&mut store, 1)?;
            Ok(time)
        }))
    }

    fn slot(&self, wasm: &[u8]) -> Result<Slot> {
        let (engine, pre) = (self.engine.clone(), Linker::<()>::new().instantiate_pre(&self.load(wasm)?)?);
        Ok(Box::new(move |pages| {
            let started = Instant::now();
            let mut store = Store::new(&engine, ())?;
            let instance = pre.instantiate(&mut store)?;
            let dirty = instance.typed_func::<i32, i32>(&store, "dirty")?;
            let taken = started.elapsed();
            dirty.call(&mut store, pages)?;
            let started = Instant::now();
            drop(store);
            Ok(taken + started.elapsed())
        }))
    }
}
