//! Code objects: a header, a directory, and a file size that need not be true. Eight bytes in front choose the size and how much of the
//! file is shown to the parser.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::code::{ALIGN, CodeKind, CodeObject, MAX_SECTIONS, kind_of};

fuzz_target!(|data: &[u8]| {
    let Some((sizes, bytes)) = data.split_first_chunk::<8>() else { return };
    let shown = &bytes[..bytes.len().min(8192)];
    let claims = u64::from_le_bytes(*sizes);
    let header: Option<[u8; 8]> = bytes.get(64 + 88..64 + 96).and_then(|field| field.try_into().ok());
    for file_size in [bytes.len() as u64, claims, header.map_or(0, u64::from_le_bytes)] {
        let Ok(code) = CodeObject::parse(shown, file_size) else { continue };
        assert_eq!(kind_of(shown), Ok(CodeKind::Own));
        assert!(code.sections.len() <= MAX_SECTIONS);
        let mut end = 64 + 128;
        for section in &code.sections {
            assert!(section.offset >= end && section.offset % ALIGN == 0);
            end = section.offset.checked_add(section.size).expect("no section wraps around");
            assert!(end <= file_size);
        }
    }
    if let Ok(kind) = kind_of(bytes) {
        assert!(bytes.starts_with(b"\x7fELF") && (kind == CodeKind::Own) == bytes[64..].starts_with(b"PREHCODE"));
    }
});
