//! Names, short digests, and the memory of source files.

mod common;

use common::{Env, Recipe, assert_clear, reference};
use preheat_image::{Digest, Manifest, Reference};
use preheat_loader::StoreError;
use preheat_loader::store::{Collection, NamedImage, SourceFile};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;

#[test]
fn a_name_is_made_moved_and_removed() {
    let env = Env::new();
    let (one, two) = (env.image("one").image, env.image("two").image);
    let app = reference("team/app:v1");
    assert!(matches!(env.store.resolve(&app), Err(StoreError::UnknownName(name)) if name == "local/team/app:v1"));
    env.store.tag(&app, &one).unwrap();
    env.store.tag(&reference("app"), &one).unwrap();
    assert_eq!(env.store.resolve(&app).unwrap(), one);
    assert_eq!(env.store.resolve_text("team/app:v1").unwrap(), one);
    env.store.tag(&app, &two).unwrap();
    assert_eq!(env.store.resolve(&app).unwrap(), two);
    let named = |name: &str, digest| NamedImage { name: name.into(), digest };
    assert_eq!(env.store.names().unwrap(), [named("local/default/app:latest", one), named("local/team/app:v1", two)]);
    assert!(env.store.untag(&app).unwrap());
    assert!(!env.store.untag(&app).unwrap(), "it is gone already");
    assert!(env.store.resolve(&app).unwrap_err().is_missing());
    assert_eq!(env.run(&two).unwrap(), b"code of two", "the image stays until it is collected");
}

#[test]
fn a_name_with_a_digest_must_still_lead_there() {
    let env = Env::new();
    let (one, two) = (env.image("one").image, env.image("two").image);
    env.store.tag(&reference("app"), &one).unwrap();
    let pinned = reference(&format!("app@{one}"));
    assert_eq!(env.store.resolve(&pinned).unwrap(), one);
    env.store.tag(&reference("app"), &two).unwrap();
    let error = env.store.resolve(&pinned).unwrap_err();
    assert!(matches!(&error, StoreError::NameMoved { found, wanted, .. } if (*found, *wanted) == (two, one)));
    assert_clear(&error);
    assert!(matches!(env.store.untag(&pinned), Err(StoreError::NameMoved { .. })), "it would remove what was not meant");
    assert!(env.store.untag(&reference(&format!("app@{two}"))).unwrap());
    assert_eq!(env.store.resolve(&Reference::Digest(one)).unwrap(), one, "a digest alone needs no name");
}

#[test]
fn only_an_image_gets_a_name_or_a_pin() {
    let env = Env::new();
    let made = env.image("app");
    for not_an_image in [Digest::of(b"nothing"), made.code(), made.statement] {
        assert!(matches!(env.store.tag(&reference("app"), &not_an_image), Err(StoreError::Missing(_))));
        assert!(matches!(env.store.pin(&not_an_image, true), Err(StoreError::Missing(_))));
    }
    assert!(env.store.tag(&Reference::Digest(made.image), &made.image).is_err(), "a digest is no name");
    assert_eq!((env.store.names().unwrap(), env.store.pins().unwrap()), (Vec::new(), Vec::new()));
    env.store.pin(&made.image, true).unwrap();
    env.store.pin(&made.image, true).unwrap();
    assert_eq!(env.store.pins().unwrap(), [made.image]);
    env.store.pin(&made.image, false).unwrap();
    env.store.pin(&made.image, false).unwrap();
    assert_eq!(env.store.pins().unwrap(), []);
}

#[test]
fn the_first_digits_are_enough() {
    let env = Env::new();
    let made = env.image("app");
    let hex = made.image.hex();
    for digits in [6, 7, 12, 63, 64] {
        assert_eq!(env.store.resolve_text(&hex[..digits]).unwrap(), made.image);
        assert_eq!(env.store.resolve_text(&format!("sha256:{}", &hex[..digits])).unwrap(), made.image);
    }
    for bad in [&hex[..5], &hex[1..10], &format!("{hex}0"), &made.code().hex()[..12], "", "a/b/c/d", "../../etc/passwd", "sha256:"] {
        let error = env.store.resolve_text(bad).unwrap_err();
        assert_clear(&error);
    }
    // A name comes before digits.
    let other = env.image("other").image;
    env.store.tag(&reference(&hex[..8]), &other).unwrap();
    assert_eq!(env.store.resolve_text(&hex[..8]).unwrap(), other);
}

#[test]
fn digits_that_fit_two_images_are_ambiguous() {
    let env = Env::new();
    // Labels whose manifests' digests begin alike; some thousands are enough for 24 bits.
    let mut seen: HashMap<String, u32> = HashMap::new();
    let recipe = |nonce: u32| Recipe { code: Vec::new(), ..Recipe::new(&nonce.to_string()) };
    let digest = |nonce: u32| {
        let source = preheat_image::manifest::Descriptor::of(preheat_image::media::WASM, nonce.to_string().as_bytes());
        let mut manifest = Manifest::new(Some(source), None, Vec::new());
        manifest.annotations.insert("label".into(), nonce.to_string());
        Digest::of(&manifest.to_bytes())
    };
    let (first, second) = (0..).find_map(|nonce| Some((seen.insert(digest(nonce).hex()[..6].to_owned(), nonce)?, nonce))).unwrap();
    let (first, second) = (env.publish(&recipe(first)).image, env.publish(&recipe(second)).image);
    let error = env.store.resolve_text(&first.hex()[..6]).unwrap_err();
    assert!(matches!(error, StoreError::Ambiguous(_)));
    assert_clear(&error);
    for image in [first, second] {
        assert_eq!(env.store.resolve_text(&image.hex()[..20]).unwrap(), image);
    }
}

#[test]
fn a_source_file_is_remembered_until_it_changes() {
    let env = Env::new();
    let image = env.image("app").image;
    let (purpose, other) = (Digest::of(b"purpose"), Digest::of(b"other"));
    let path = env.dir.path().join("app.wasm");
    let write = |text: &str| File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    let look = || SourceFile::of(&File::open(&path).unwrap()).unwrap();
    write("wasm");
    // Written a moment ago: it may change again without its times showing it.
    let fresh = look();
    env.store.remember(&fresh, &purpose, &image).unwrap();
    assert_eq!(env.store.recall(&fresh, &purpose), None);
    // Until the file has settled, remembering does nothing.
    while env.store.recall(&look(), &purpose).is_none() {
        std::thread::sleep(std::time::Duration::from_millis(100));
        env.store.remember(&look(), &purpose, &image).unwrap();
    }
    assert_eq!(env.store.recall(&look(), &purpose), Some(image));
    assert_eq!(env.store.recall(&look(), &other), None, "built for something else");
    // What was seen before it settled is the same file.
    assert_eq!(env.store.recall(&fresh, &purpose), Some(image));
    write("WASM");
    assert_eq!(env.store.recall(&look(), &purpose), None, "same size, other times");
    // A memory of an image that is collected goes with it.
    assert_eq!(env.store.recall(&fresh, &purpose), Some(image));
    env.store.collect(&Collection::default()).unwrap();
    assert_eq!(env.store.recall(&fresh, &purpose), None);
}
