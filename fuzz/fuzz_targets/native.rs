//! Native code objects: tables that are used where they are, with indices and ranges that need not be true. Whatever parses is followed
//! everywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::abi::{PAGE, VALUE_SIZE};
use preheat_image::native::{Elements, NativeCode};

fuzz_target!(|data: &[u8]| {
    let Ok(code) = NativeCode::parse(data) else { return };
    let len = data.len() as u64;
    assert!(code.text.offset + code.text.size <= len);
    for ty in code.types {
        if let Ok((params, results)) = code.signature(ty) {
            assert!(params.len() + results.len() <= data.len());
        }
    }
    for function in (0..code.functions.len().min(64)).chain([usize::MAX]) {
        let function = u32::try_from(function).unwrap_or(u32::MAX);
        let _ = (code.type_of(function).is_ok(), code.name(function));
    }
    for import in code.imports {
        let _ = (code.string(import.module).is_ok(), code.string(import.name).is_ok());
    }
    for export in code.exports {
        if let Ok(name) = code.string(export.name) {
            let _ = code.export(name).is_ok();
        }
    }
    for memory in code.memories {
        for run in code.runs(memory).unwrap_or_default() {
            assert!(code.memory_image.offset + run.offset.get() + u64::from(run.pages.get()) * PAGE <= len);
        }
    }
    for table in code.tables {
        if let Ok(range) = code.initial_entries(table) {
            assert!(range.start <= range.end && range.end <= len);
        }
    }
    for global in code.globals {
        let _ = code.expression(global.init).is_ok();
    }
    for segment in code.data_segments {
        let _ = (code.data(segment).is_ok(), code.expression(segment.at).is_ok());
    }
    for segment in code.element_segments {
        if let Ok(Elements::Expressions(expressions)) = code.elements(segment) {
            for expression in expressions {
                let _ = code.expression(*expression).is_ok();
            }
        }
    }
    for site in code.call_sites {
        let _ = code.handlers(site).is_ok();
    }
    for site in code.sites {
        for value in code.site_values(site).unwrap_or_default() {
            assert!((u32::from(value.slot.get()) + 1) * VALUE_SIZE <= site.frame.get());
        }
        let _ = code.site(site.return_to.get());
    }
    if let Some(resume) = &code.resume {
        for record in resume.records {
            if let Ok(types) = resume.value_types(record) {
                assert!(types.len() <= data.len());
            }
            let _ = resume.find(record.function.get(), record.site.get());
        }
    }
    for offset in [0, 1, 31, 32, 4096, u32::MAX] {
        let _ = (code.range(offset), code.trap(offset), code.wasm_offset(offset), code.call_site(offset));
    }
});
