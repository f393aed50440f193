//! Briefs: the bytes as they are, and with the checksum that they would need. Whatever is accepted says what a manifest may say, and is written as
//! it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::brief::{self, Brief};
use preheat_image::{Digest, Manifest, manifest, media};

fuzz_target!(|data: &[u8]| {
    let subject = data.get(32..64).and_then(|bytes| bytes.try_into().ok()).map_or(Digest::ZERO, Digest::from_bytes);
    check(data, &subject);
    let mut summed = data.to_vec();
    brief::set_checksum(&mut summed);
    check(&summed, &subject);
});

fn check(data: &[u8], subject: &Digest) {
    let Ok(read) = Brief::parse(data, subject) else { return };
    assert_eq!(read.record.subject, *subject);
    // A digest that a fuzzer can't write into what it hashes.
    assert!(Brief::parse(data, &Digest::of(subject.as_bytes())).is_err());
    assert!(read.manifest.blobs().all(|blob| media::is_valid(&blob.media_type)));
    let manifest = read.manifest.to_bytes();
    // What is named several times in a brief is several times in a manifest, and may be too much for one.
    if manifest.len() <= manifest::MAX_SIZE {
        assert_eq!(Manifest::parse(&manifest).as_ref(), Ok(&read.manifest));
    }
    let Some(bytes) = read.to_bytes() else {
        assert!(manifest.len() + read.record.to_bytes().len() > brief::MAX_SIZE / 2, "what was read can be written");
        return;
    };
    assert_eq!(Brief::parse(&bytes, subject).as_ref(), Ok(&read));
}
