//! Modules of `wasm-smith`.

use crate::random::Random;
use crate::{rewrite, script};
use arbitrary::Unstructured;
use wasm_smith::{Config, MemoryOffsetChoices, Module};

/// A module, if the random bytes are enough for one.
pub(super) fn module(random: &mut Random) -> Option<Vec<u8>> {
    let len = 2_000 + random.below(30_000);
    let bytes = random.bytes(len);
    module_of(random, &bytes)
}

/// The module that `bytes` stand for, of a shape that `random` chooses.
pub(super) fn module_of(random: &mut Random, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut module = Module::new(config(random), &mut Unstructured::new(bytes)).ok()?;
    let fuel = module.ensure_termination(script::FUEL.cast_unsigned()).ok()?;
    rewrite::export_global(&module.to_bytes(), script::FUEL_EXPORT, fuel).ok()
}

fn config(random: &mut Random) -> Config {
    let simd_enabled = random.chance(3, 4);
    let disallow_traps = random.chance(5, 6);
    Config {
        allow_start_export: random.chance(1, 3),
        bulk_memory_enabled: true,
        canonicalize_nans: false,
        custom_page_sizes_enabled: false,
        disallow_traps,
        exceptions_enabled: random.chance(2, 3),
        export_everything: true,
        extended_const_enabled: true,
        gc_enabled: false,
        max_data_segments: 6,
        max_element_segments: 6,
        max_elements: 12,
        max_funcs: 8,
        max_globals: 10,
        max_imports: *random.choose(&[0, 3, 8]),
        max_instructions: *random.choose(&[60, 150, 400]),
        max_memories: 3,
        max_memory32_bytes: 4 << 16,
        max_nesting_depth: 6,
        max_table_elements: 60,
        max_tables: 4,
        max_tags: 4,
        max_type_size: 10_000,
        max_types: 12,
        memory64_enabled: false,
        memory_max_size_required: true,
        memory_offset_choices: if disallow_traps { MemoryOffsetChoices(95, 4, 1) } else { MemoryOffsetChoices(197, 2, 1) },
        min_data_segments: usize::from(random.chance(1, 2)),
        min_element_segments: usize::from(random.chance(1, 2)),
        min_funcs: 3 + random.below(5),
        min_globals: random.below(8),
        min_memories: u32::from(random.chance(3, 4)),
        min_types: 4 + random.below(6),
        min_tables: u32::from(random.chance(1, 2)),
        multi_value_enabled: true,
        reference_types_enabled: true,
        relaxed_simd_enabled: simd_enabled && random.chance(1, 3),
        saturating_float_to_int_enabled: true,
        shared_everything_threads_enabled: false,
        sign_extension_ops_enabled: true,
        simd_enabled,
        table_max_size_required: true,
        tail_call_enabled: random.chance(2, 3),
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        ..Config::default()
    }
}
