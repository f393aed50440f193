//! Cranelift, set up for a CPU level.

use crate::{CompileError, CompileOptions, Optimize};
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable as _, SetError};
use preheat_image::CpuLevel;

/// Flags of the levels above v1; each level has those below it too.
const LEVELS: [(CpuLevel, &[&str]); 3] = [
    (CpuLevel::V2, &["has_cmpxchg16b", "has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"]),
    (CpuLevel::V3, &["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"]),
    (CpuLevel::V4, &["has_avx512f", "has_avx512dq", "has_avx512vl"]),
];

/// What translation must know of a CPU level: where CLIF has no instruction that all levels can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities {
    pub(crate) ssse3: bool,
    pub(crate) sse41: bool,
    pub(crate) fma: bool,
}

impl Capabilities {
    pub(crate) fn of(cpu: CpuLevel) -> Self {
        let v2 = cpu >= CpuLevel::V2;
        Self { ssse3: v2, sse41: v2, fma: cpu >= CpuLevel::V3 }
    }
}

/// Makes a target for `options`.
pub(crate) fn target(options: &CompileOptions) -> Result<OwnedTargetIsa, CompileError> {
    let error = |error: &dyn std::fmt::Display| CompileError::Codegen { what: "x86-64".into(), message: error.to_string() };
    let shared = shared_flags(options).map_err(|failure| error(&failure))?;
    let mut target = isa::lookup_by_name("x86_64-unknown-linux-gnu").map_err(|failure| error(&failure))?;
    for (_, flags) in LEVELS.iter().filter(|(level, _)| *level <= options.cpu) {
        for flag in *flags {
            target.enable(flag).map_err(|failure| error(&failure))?;
        }
    }
    target.finish(shared).map_err(|failure| error(&failure))
}

fn shared_flags(options: &CompileOptions) -> Result<settings::Flags, SetError> {
    let mut flags = settings::builder();
    flags.set(
        "opt_level",
        match options.optimize {
            Optimize::Speed => "speed",
            Optimize::Size => "speed_and_size",
            Optimize::None => "none",
        },
    )?;
    flags.set("enable_verifier", if options.verify { "true" } else { "false" })?;
    // Traps, exceptions and profilers follow the frames.
    flags.set("preserve_frame_pointers", "true")?;
    // A frame of more than a page touches each of its pages, so that the guard below the stack is enough.
    flags.set("enable_probestack", "true")?;
    flags.set("probestack_strategy", "inline")?;
    flags.set("enable_heap_access_spectre_mitigation", "true")?;
    flags.set("enable_table_access_spectre_mitigation", "true")?;
    // What Cranelift can't express in instructions of v1 is in the text too, see `helpers`.
    flags.set("use_colocated_libcalls", "true")?;
    flags.set("enable_multi_ret_implicit_sret", "true")?;
    flags.set("unwind_info", "false")?;
    Ok(settings::Flags::new(flags))
}
