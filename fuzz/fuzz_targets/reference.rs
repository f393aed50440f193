//! References: the long form is its own text, and no part of it leads out of the directory of names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else { return };
    let long = reference.to_string();
    assert_eq!(long.parse::<Reference>().as_ref(), Ok(&reference));
    assert!(reference.digest().is_none_or(|digest| long.ends_with(&digest.to_string())));
    if let Reference::Name { host, namespace, name, tag, .. } = &reference {
        for part in [host, namespace, name, tag] {
            assert!((1..=255).contains(&part.len()) && !part.contains(['/', '\0', '@']) && part != "." && part != "..");
            assert!(!part.starts_with('.') && part.is_ascii());
        }
        assert!([namespace, name, tag].into_iter().all(|part| Reference::is_namespace(part)));
    }
});
