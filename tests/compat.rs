//! Images of earlier versions: what was written once is still read, and still means the same.
//!
//! `tests/fixtures/v1` is a store as version 1 of the formats wrote it. Its code object is of an older build of the compiler by now, so
//! it can't be run; everything else about it must be as it was. `tests/fixtures/v2` is a store with a frozen image: manifest and heap snapshot
//! of version 2, a host state, a freeze record, and code for x86-64-v1 with a resume object.

mod common;

use common::{Home, repo};
use preheat::{CpuLevel, Digest, LoadOptions, Manifest, Store};
use preheat_image::code::{CodeKind, CodeObject, SectionKind, kind_of};
use preheat_image::heap::HeapSnapshot;
use preheat_image::media;

/// The image that the fixture has under the name `fixture:v1`.
const IMAGE: &str = include_str!("fixtures/v1/image.txt");
/// The frozen one that the other fixture has under the name `frozen:v2`.
const FROZEN: &str = include_str!("fixtures/v2/image.txt");

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

fn fixture(version: &str) -> (Home, Store) {
    let home = Home::new();
    copy(&repo(&format!("tests/fixtures/{version}/home")), &home.root());
    let store = home.library().store().unwrap();
    (home, store)
}

#[test]
fn a_store_of_version_1_is_read_and_whole() {
    let (home, store) = fixture("v1");
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
    let (_home, store) = fixture("v1");
    let digest: Digest = IMAGE.trim().parse().unwrap();
    let manifest = Manifest::parse(&store.read_blob(&digest, 1 << 20).unwrap()).unwrap();
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
    let (home, _store) = fixture("v1");
    home.run(["run", "fixture:v1"]).assert_fails(122, "native code object is truncated");
}

/// What the frozen program does with an event: it goes on in three frames, with a vector, a float and an operand that they had.
fn assert_wakes(home: &Home, name: &str) {
    for (event, answer) in [("abc", "ready abc:6"), ("", "ready :3"), ("longer event", "ready longer event:?")] {
        let ran = home.run_with(["run", name], event.as_bytes());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), answer), "{ran:?}");
    }
}

/// It holds as long as the ABI of native code has the version that it had when the fixture was made; afterwards its code is to be refused by name.
#[test]
fn a_frozen_image_of_version_2_is_whole_and_wakes() {
    let (home, store) = fixture("v2");
    let digest: Digest = FROZEN.trim().parse().unwrap();
    assert_eq!(store.resolve_text("frozen:v2").unwrap(), digest);
    let image = store.load(&digest, &home.library().trust().unwrap(), LoadOptions::default()).unwrap();
    let manifest = image.manifest();
    assert_eq!(manifest.schema_version, 2);
    let types: Vec<_> = manifest.artefacts.iter().map(|artefact| artefact.media_type.as_str()).collect();
    assert_eq!(types, [media::CODE, media::RESUME, media::HEAP, media::FREEZE_RECORD, media::WASM]);
    assert_eq!(Digest::of(&manifest.to_bytes()), digest, "the same manifest is still written as the same bytes");
    home.assert_whole();
    let shown = home.ok(["inspect", "frozen:v2"]);
    for what in ["frozen    at stdin, 1 heap layers", "variable LANG", "late env  TOKEN", "since it began, 1 times", "trusted"] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    assert_wakes(&home, "frozen:v2");
}

/// Heap snapshots name functions and places in the Wasm, and outlast the code that they were taken from.
#[test]
fn a_heap_snapshot_of_version_2_wakes_on_code_of_today() {
    use preheat_compiler::{CompileOptions, Compiler, Site};
    let (home, store) = fixture("v2");
    let digest: Digest = FROZEN.trim().parse().unwrap();
    let manifest = Manifest::parse(&store.read_blob(&digest, 1 << 20).unwrap()).unwrap();
    let blob = |media_type: &str| {
        let artefact = manifest.artefacts.iter().find(|artefact| artefact.media_type == media_type).unwrap();
        store.read_blob(&artefact.digest, 1 << 20).unwrap()
    };
    let (wasm, heap) = (blob(media::WASM), blob(media::HEAP));
    let heap = HeapSnapshot::parse(&heap).unwrap();
    let mut sites: Vec<_> = heap.frames().map(|(frame, _)| Site { function: frame.function.get(), offset: frame.site.get() }).collect();
    assert_eq!(sites.len(), 5, "`_start`, three times `down`, and the import");
    sites.sort_unstable();
    sites.dedup();
    let compiler = Compiler::new(CompileOptions::new(CpuLevel::V1)).unwrap();
    let code = compiler.compile(&wasm, Digest::of(b"code")).unwrap();
    let resume = compiler.resume(&wasm, &code, &sites, Digest::of(b"resume")).unwrap();

    // A key of this home's own, which it trusts.
    std::fs::remove_file(home.root().join("trust.json")).unwrap();
    home.write("hello.wat", common::hello("hello", 0));
    home.ok(["build", "hello.wat", "--cpu=v1"]);
    let mut artefacts = manifest.artefacts.clone();
    let mut publication = store.publish().unwrap();
    for artefact in &mut artefacts {
        let bytes = match artefact.media_type.as_str() {
            media::CODE => &code,
            media::RESUME => &resume,
            _ => continue,
        };
        let blob = publication.put(&artefact.media_type, bytes).unwrap();
        (artefact.digest, artefact.size) = (blob.digest, blob.size);
        artefact.chunks = None;
    }
    let image = publish(&home, publication, &Manifest::new(manifest.source, manifest.function, artefacts));
    store.tag(&"today".parse().unwrap(), &image).unwrap();
    assert_wakes(&home, "today");
}

/// Publishes an image that a test put together, signed by its home's builder.
fn publish(home: &Home, mut publication: preheat_loader::store::Publication<'_>, manifest: &Manifest) -> Digest {
    use preheat_image::manifest::Artefact;
    use preheat_image::statement::Kind;
    use preheat_image::{KeyFields, Statement};
    let key = home.library().builder_key().unwrap();
    let blob = publication.put(media::MANIFEST, &manifest.to_bytes()).unwrap();
    let (image, source) = (blob.digest, manifest.source.as_ref().unwrap().digest);
    let fields = KeyFields::new().with("kind", "image").with("source", source).with("build-id", "fixture");
    let outputs = std::iter::once(blob).chain(manifest.artefacts.iter().map(Artefact::descriptor)).collect();
    publication.add_statement(&Statement::new(Kind::Image, "local", fields, outputs).sign(&key), &key.public()).unwrap();
    publication.finish().unwrap();
    image
}

/// Takes a home as a fixture.
fn take(home: &Home, version: &str, image: &Digest) {
    home.ok(["gc"]);
    let target = repo("tests/fixtures").join(version);
    let _ = std::fs::remove_dir_all(target.join("home"));
    copy(&home.root(), &target.join("home"));
    for gone in ["keys", "store/index.redb", "store/lock", "store/records.lock", "store/tmp"] {
        let path = target.join("home").join(gone);
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    std::fs::write(target.join("image.txt"), format!("{image}\n")).unwrap();
}

/// Writes the fixture with a frozen image; run by hand when a version of the formats is new:
/// `cargo test --test compat -- --ignored make_the_frozen_fixture`.
#[test]
#[ignore = "writes into the repository"]
fn make_the_frozen_fixture() {
    let home = Home::new();
    home.write("frozen.wat", include_str!("fixtures/frozen.wat"));
    let options = ["--freeze=stdin", "--cpu=v1", "--keep-source", "--tag=frozen:v2", "--env=LANG=C", "--late-env=TOKEN"];
    let image = home.ok(["build"].iter().chain(&options).chain(&["frozen.wat"]));
    take(&home, "v2", &image.parse().unwrap());
}

/// Writes the fixture; run by hand when a version of the formats is new: `cargo test --test compat -- --ignored make_the_fixture`.
#[test]
#[ignore = "writes into the repository"]
fn make_the_fixture() {
    use preheat_image::abi::ValueType;
    use preheat_image::heap::{HeapBuilder, Value};
    use preheat_image::manifest::{Artefact, Variant};
    let home = Home::new();
    home.write("fixture.wat", common::hello("fixture", 0));
    let digest: Digest = home.ok(["build", "fixture.wat", "--cpu", "v1"]).parse().unwrap();
    let library = home.library();
    let store = library.store().unwrap();
    let mut manifest = Manifest::parse(&store.read_blob(&digest, 1 << 20).unwrap()).unwrap();
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
    let image = publish(&home, publication, &manifest);
    store.tag(&"fixture:v1".parse().unwrap(), &image).unwrap();
    take(&home, "v1", &image);
}
