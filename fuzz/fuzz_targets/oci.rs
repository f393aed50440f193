//! OCI registries: the same bytes are never two things, an image that can be packed leads back, and no reference has a path trick in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_cache_client::oci::{IMAGE_INDEX, IMAGE_MANIFEST, Kind, Packed, RawManifest, Reference, Version};
use preheat_image::Digest;

fn kind(bytes: &[u8], media_type: Option<&str>) -> Option<Kind> {
    let raw = RawManifest { digest: Digest::of(bytes), media_type: media_type.map(str::to_owned), bytes: bytes.to_vec() };
    raw.kind().ok()
}

fuzz_target!(|data: &[u8]| {
    let (manifest, index) = (kind(data, Some(IMAGE_MANIFEST)), kind(data, Some(IMAGE_INDEX)));
    assert!(manifest.is_none() || index.is_none());
    assert!(manifest != Some(Kind::Index) && index.is_none_or(|kind| kind == Kind::Index));
    let unnamed = kind(data, None);
    assert!(unnamed.is_none() || unnamed == manifest || unnamed == index);
    if let Ok(packed) = Packed::image(data, &[]) {
        assert_eq!(kind(packed.manifest_bytes(), Some(IMAGE_MANIFEST)), Some(Kind::Image));
        assert_eq!(Packed::image(data, &[]).as_ref(), Ok(&packed));
    }
    let Some(reference) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<Reference>().ok()) else { return };
    assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
    for part in reference.repository().split('/') {
        assert!(!part.is_empty() && !part.contains("..") && !part.starts_with('.') && part.is_ascii());
        assert!(!part.contains(['\\', '%', '?', '#', '@', ':', '\0']));
    }
    assert!(!reference.host().contains(['/', '@', '?', '#', '\\']));
    if let Version::Tag(tag) = reference.version() {
        assert!(!tag.starts_with('.') && !tag.contains(['/', '%', '?', '#', '\\']));
    }
});
