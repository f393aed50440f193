//! Manifests: whatever is accepted is written as it was read, and selects no code that the host can't run.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::{CpuLevel, Manifest, manifest, media};

fuzz_target!(|data: &[u8]| {
    let Ok(read) = Manifest::parse(data) else { return };
    assert!(data.len() <= manifest::MAX_SIZE);
    let bytes = read.to_bytes();
    let again = Manifest::parse(&bytes).expect("what was written is a manifest");
    assert_eq!(again, read);
    assert_eq!(again.to_bytes(), bytes);
    assert!(read.blobs().all(|blob| media::is_valid(&blob.media_type)));
    for (_, variant) in read.code() {
        for level in CpuLevel::ALL {
            let best = read.best_code(&variant.engine, &variant.target, level);
            assert_eq!(
                best.is_some(),
                read.code()
                    .any(|(_, other)| { (&other.engine, &other.target) == (&variant.engine, &variant.target) && other.cpu <= level })
            );
            assert!(best.is_none_or(|(artefact, best)| artefact.is_code() && best.cpu <= level));
        }
    }
});
