//! Code objects in memory.

use preheat_image::native::NativeParts;
use preheat_image::{CpuLevel, Digest, FormatError};
use preheat_loader::map::MappedCode;
use preheat_loader::{StoreError, TrustedCode};

fn map(bytes: &[u8]) -> Result<MappedCode, StoreError> {
    // SAFETY: nothing of it is executed.
    MappedCode::map(unsafe { TrustedCode::vouch(bytes, "native") }.unwrap())
}

fn code_object(text: Vec<u8>) -> Vec<u8> {
    let parts = NativeParts { text, ..NativeParts::default() };
    parts.encode(Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V1).unwrap()
}

/// What the kernel says may be done at an address.
fn access(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        range.contains(&address).then(|| rest[..4].to_owned())
    };
    maps.lines().find_map(of).unwrap()
}

#[test]
fn text_is_executable_and_nothing_else_is() {
    for size in [0, 1, 4095, 4096, 4097, 3 << 20] {
        let bytes = code_object(vec![0xc3; size]);
        let code = map(&bytes).unwrap();
        assert_eq!(code.file().bytes(), bytes);
        assert_eq!(code.text().len(), size);
        assert_eq!(code.native().object.source, Digest::of(b"wasm"));
        let start = code.file().bytes().as_ptr().addr();
        assert_eq!(access(start), "r--p");
        if size > 0 {
            assert_eq!((access(code.text().start), access(code.text().end - 1)), ("r-xp".into(), "r-xp".into()));
            assert_eq!(access(code.text().start - 1), "r--p");
        }
        // What follows in the last page of the text is as accessible as the text.
        let behind = (code.text().end).next_multiple_of(4096);
        if behind < start + bytes.len() {
            assert_eq!(access(behind), "r--p");
        }
    }
}

#[test]
fn what_is_no_code_object_is_refused() {
    let bytes = code_object(vec![0xc3; 5000]);
    assert!(matches!(map(b"nothing of the kind").unwrap_err(), StoreError::Format { .. }));
    assert!(map(&[]).is_err());
    for len in (0..bytes.len()).step_by(97) {
        assert!(map(&bytes[..len]).is_err(), "{len} bytes of it");
    }
    let mut other = bytes;
    other[64 + 8] = 9;
    let error = map(&other).unwrap_err();
    assert!(matches!(error, StoreError::Format { source: FormatError::Version { found: 9, .. }, .. }), "{error}");
}
