//! The engines for which images are built, and which one an image is for.

use super::Optimize;
use preheat_compiler::{Passes, Site};
use preheat_image::abi::NONE;
use preheat_image::profile::Summary;
use preheat_image::{CpuLevel, Digest, KeyFields, media};
use preheat_wasmtime::compile as wasmtime;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Which engine shall run what is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineChoice {
    /// The native engine where it can run the function, else wasmtime; the image says why.
    Auto,
    /// This one, or none.
    Only(Engine),
}

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Preheat's own.
    Native,
    /// wasmtime.
    Wasmtime,
}

/// The choice of those who make none: the benchmarks show the native engine ahead for core modules (`docs/benchmarks.md`), and components and
/// what else it lacks run on wasmtime.
pub const DEFAULT_ENGINE: EngineChoice = EngineChoice::Auto;

impl Engine {
    /// All engines, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Native, Self::Wasmtime];

    /// Its name in manifests, keys and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => preheat_compiler::ENGINE,
            Self::Wasmtime => preheat_wasmtime::ENGINE,
        }
    }

    /// Its compiler with the full version.
    #[must_use]
    pub const fn compiler(self) -> &'static str {
        match self {
            Self::Native => preheat_compiler::COMPILER,
            Self::Wasmtime => preheat_wasmtime::COMPILER,
        }
    }

    /// Digest over everything that went into this build of its compiler.
    #[must_use]
    pub const fn build_id(self) -> &'static str {
        match self {
            Self::Native => preheat_compiler::BUILD_ID,
            Self::Wasmtime => preheat_wasmtime::BUILD_ID,
        }
    }

    /// The media type of its code objects.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Native => media::CODE,
            Self::Wasmtime => media::CODE_WASMTIME,
        }
    }
}

impl EngineChoice {
    /// Its name in commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Only(engine) => engine.name(),
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Auto].into_iter().chain(Engine::ALL.map(Self::Only));
        all.into_iter().find(|choice| choice.name() == text).ok_or_else(|| format!("`{text}` is none of auto, native, wasmtime"))
    }
}

/// A profile, and what it is used for.
#[derive(Debug, Clone)]
pub(super) struct Steer {
    pub(super) profile: Arc<Summary>,
    pub(super) passes: Passes,
}

impl Steer {
    /// All that it changes, for keys.
    pub(super) fn to_text(&self) -> String {
        format!("{} {}", self.profile.digest(), self.passes.to_text())
    }
}

/// A compiler of either engine for one CPU level.
pub(super) enum Compiler {
    Native(preheat_compiler::Compiler),
    Wasmtime(wasmtime::Compiler),
}

/// Why nothing was compiled.
pub(super) enum CompileError {
    /// The engine has not what the module needs.
    Unsupported(String),
    /// Anything else.
    Other(String),
}

impl Compiler {
    /// `capture`: for code that can say where its values are, native only. So far no other engine follows a profile.
    pub(super) fn new(engine: Engine, cpu: CpuLevel, optimize: Optimize, capture: bool, steer: Option<&Steer>) -> Result<Self, String> {
        match engine {
            Engine::Native => {
                let optimize = match optimize {
                    Optimize::Speed => preheat_compiler::Optimize::Speed,
                    Optimize::Size => preheat_compiler::Optimize::Size,
                    Optimize::None => preheat_compiler::Optimize::None,
                };
                let options = preheat_compiler::CompileOptions { optimize, capture, ..preheat_compiler::CompileOptions::new(cpu) };
                let compiler = preheat_compiler::Compiler::new(options).map_err(|error| error.to_string())?;
                Ok(Self::Native(match steer {
                    Some(steer) => compiler.with_profile(steer.profile.clone(), steer.passes),
                    None => compiler,
                }))
            }
            Engine::Wasmtime => {
                let compiler = wasmtime::Compiler::new(wasmtime::CompileOptions { cpu, optimize });
                compiler.map(Self::Wasmtime).map_err(|error| error.to_string())
            }
        }
    }

    /// Everything that can change the code object of the Wasm bytes `source`.
    pub(super) fn key_fields(&self, source: &Digest) -> KeyFields {
        match self {
            Self::Native(compiler) => compiler.key_fields(source),
            Self::Wasmtime(compiler) => compiler.key_fields(source),
        }
    }

    /// Makes the code object of this key.
    pub(super) fn compile(&self, wasm: &[u8], is_component: bool, key: Digest) -> Result<Vec<u8>, CompileError> {
        match self {
            Self::Native(compiler) => compiler.compile(wasm, key).map_err(|error| match error {
                preheat_compiler::CompileError::Unsupported { .. } | preheat_compiler::CompileError::Limit { .. } => {
                    CompileError::Unsupported(error.to_string())
                }
                other => CompileError::Other(other.to_string()),
            }),
            Self::Wasmtime(compiler) => compiler.compile(wasm, is_component).map_err(|error| CompileError::Other(error.to_string())),
        }
    }
}

impl Compiler {
    /// Everything that can change the resume object with which a program wakes that runs on the code object `base` and was frozen at `sites`.
    /// Only the native engine has them.
    pub(super) fn resume_fields(&self, source: &Digest, base: &Digest, sites: &[(u32, Option<u32>)]) -> KeyFields {
        match self {
            Self::Native(compiler) => compiler.resume_key_fields(source, base, &of_sites(sites)),
            Self::Wasmtime(compiler) => compiler.key_fields(source),
        }
    }

    /// Makes the resume object of this key. `base` are the bytes of the code object.
    pub(super) fn resume(&self, wasm: &[u8], base: &[u8], sites: &[(u32, Option<u32>)], key: Digest) -> Result<Vec<u8>, CompileError> {
        match self {
            Self::Native(compiler) => {
                compiler.resume(wasm, base, &of_sites(sites), key).map_err(|error| CompileError::Other(error.to_string()))
            }
            Self::Wasmtime(_) => Err(CompileError::Unsupported("only the native engine wakes frozen programs".into())),
        }
    }
}

fn of_sites(sites: &[(u32, Option<u32>)]) -> Vec<Site> {
    sites.iter().map(|(function, offset)| Site { function: *function, offset: offset.unwrap_or(NONE) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for choice in [EngineChoice::Auto, EngineChoice::Only(Engine::Native), EngineChoice::Only(Engine::Wasmtime)] {
            assert_eq!(choice.name().parse(), Ok(choice));
        }
        assert!("jvm".parse::<EngineChoice>().is_err());
    }
}
