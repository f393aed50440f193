//! Images of earlier versions: what was written once is still read, and still means the same.
//!
//! `tests/fixtures/v1` is a store as version 1 of the formats wrote it. Its code object is of an older build of the compiler by now, so
//! it can't be run; everything else about it must be as it was.

mod common;

use common::{Home, repo};
use preheat::{Digest, LoadOptions, Store};
use preheat_image::code::{CodeKind, CodeObject, SectionKind, kind_of};
use preheat_image::heap::HeapSnapshot;
use preheat_image::media;

/// The image that the fixture has under the name `fixture:v1`.
const IMAGE: &str = include_str!("fixtures/v1/image.txt");

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            _ = std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn fixture() -> (Home, Store) {
    let home = Home::new();
    copy(&repo("tests/fixtures/v1/home"), &home.root());
    let store = home.library().store().unwrap();
    (home, store)
}

#[test]
fn a_store_of_version_1_is_read_and_whole() {
    let (home, store) = fixture();
    let digest: Digest = IMAGE.trim().parse().unwrap();
    assert_eq!(store.resolve_text("fixture:v1").unwrap(), digest);
    let image = store.load(&digest, &home.library().trust().unwrap(), LoadOptions::default()).unwrap();
    let manifest = image.manifest();
    let types: Vec<_> = manifest.artefacts.iter().map(|artefact| artefact.media_type.as_str()).collect();
    assert_eq!(types, [media::CODE_WASMTIME, media::CODE, "application/vnd.preheat.heap.v1"]);
    assert_eq!(Digest::of(&manifest.to_bytes()), digest, "the same manifest is still written as the same bytes");
    assert_eq!(image.statement().namespace, "local");
    home.assert_whole();
    assert!(home.ok(["inspect", "fixture:v1"]).contains("trusted"));
}

#[test]
fn code_objects_of_version_1_mean_what_they_meant_and_heap_snapshots_are_refused() {
    let (_home, store) = fixture();
    let digest: Digest = IMAGE.trim().parse().unwrap();
    let manifest = preheat::Manifest::parse(&store.read_blob(&digest, 1 << 20).unwrap()).unwrap();
    let blob = |index: usize| store.read_blob(&manifest.artefacts[index].digest, 1 << 20).unwrap();
    assert_eq!(kind_of(&blob(0)).unwrap(), CodeKind::OtherElf);
    let code = blob(1);
    let code = CodeObject::parse(&code, code.len() as u64).unwrap();
    assert_eq!(code.cpu, preheat::CpuLevel::V2);
    assert_eq!(
        code.sections.iter().map(|section| (section.kind, section.size)).collect::<Vec<_>>(),
        [(SectionKind::ReadOnly, 12), (SectionKind::Text, 1)]
    );
    let heap = HeapSnapshot::parse(&blob(2)).map(drop).unwrap_err().to_string();
    assert!(heap.starts_with("heap snapshot of version 1, but this preheat reads version 2"), "{heap}");
}

#[test]
fn native_code_from_before_it_had_tables_is_refused() {
    let (home, _store) = fixture();
    home.run(["run", "fixture:v1"]).assert_fails(122, "native code object is truncated");
}

/// Writes the fixture; run by hand when a version of the formats is new: `cargo test --test compat -- --ignored make_the_fixture`.
#[test]
#[ignore = "writes into the repository"]
fn make_the_fixture() {
    use preheat_image::abi::ValueType;
    use preheat_image::heap::{HeapBuilder, Value};
    use preheat_image::manifest::{Artefact, Variant};
    use preheat_image::statement::Kind;
    use preheat_image::{CpuLevel, KeyFields, Manifest, Statement};
    let home = Home::new();
    home.write("fixture.wat", common::hello("fixture", 0));
    let digest: Digest = home.ok(["build", "fixture.wat", "--cpu", "v1"]).parse().unwrap();
    let library = home.library();
    let (store, key) = (library.store().unwrap(), library.builder_key().unwrap());
    let mut manifest = preheat::Manifest::parse(&store.read_blob(&digest, 1 << 20).unwrap()).unwrap();
    manifest.artefacts[0].chunks = None;
    let source = manifest.source.clone().unwrap().digest;
    let sections: [(SectionKind, u32, &str, &[u8]); 2] =
        [(SectionKind::ReadOnly, 1, ".preheat.table", b"twelve bytes"), (SectionKind::Text, 0, ".text", b"\xc3")];
    let code = CodeObject::encode(source, Digest::of(b"key"), CpuLevel::V2, &sections).unwrap();
    let mut memory = vec![0; 65536];
    (memory[5000], memory[60000]) = (1, 2);
    let value = Value::new(ValueType::I32, [5; 16]);
    let heap = HeapBuilder::new().memory(0, &memory).global(0, value).table(0, 2, [(0, [0, 3])]).encode(source).unwrap();
    let mut publication = store.publish().unwrap();
    let mut native = Artefact::of(publication.put(media::CODE, &code).unwrap());
    native.variant = Some(Variant { engine: "native".into(), target: preheat::TARGET.into(), cpu: CpuLevel::V2, key: Digest::of(b"key") });
    manifest.artefacts.push(native);
    manifest.artefacts.push(Artefact::of(publication.put(media::HEAP, &heap).unwrap()));
    let manifest = Manifest::new(manifest.source, manifest.function, manifest.artefacts);
    let blob = publication.put(media::MANIFEST, &manifest.to_bytes()).unwrap();
    let image = blob.digest;
    let fields = KeyFields::new().with("kind", "image").with("source", source).with("build-id", "fixture");
    let outputs = std::iter::once(blob).chain(manifest.artefacts.iter().map(Artefact::descriptor)).collect();
    publication.add_statement(&Statement::new(Kind::Image, "local", fields, outputs).sign(&key), &key.public()).unwrap();
    publication.finish().unwrap();
    store.tag(&"fixture:v1".parse().unwrap(), &image).unwrap();
    home.ok(["gc"]);
    let target = repo("tests/fixtures/v1");
    let _ = std::fs::remove_dir_all(target.join("home"));
    copy(&home.root(), &target.join("home"));
    for gone in ["keys", "store/index.redb", "store/lock", "store/records.lock", "store/tmp"] {
        let path = target.join("home").join(gone);
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    std::fs::write(target.join("image.txt"), format!("{image}\n")).unwrap();
}
