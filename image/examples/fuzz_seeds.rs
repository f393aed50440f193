//! Writes the seeds of the fuzz targets: `cargo run -p preheat-image --example fuzz_seeds -- fuzz/seeds`.

use preheat_image::code::{CodeObject, SectionKind};
use preheat_image::heap::HeapBuilder;
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::{Artefact, Descriptor, Function, FunctionKind, Variant};
use preheat_image::record::{Record, Seal, Signed};
use preheat_image::statement::Kind;
use preheat_image::{CpuLevel, Digest, FormatError, KeyFields, Manifest, Statement, chunks, media};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args_os().nth(1).ok_or("give the directory for the seeds")?);
    for (target, name, bytes) in seeds()? {
        let dir = root.join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

/// Target, name of the seed, contents.
type Seed = (&'static str, &'static str, Vec<u8>);

fn seeds() -> Result<Vec<Seed>, FormatError> {
    let with = |mode: u8, rest: &[u8]| [&[mode], rest].concat();
    let code = |cpu: CpuLevel| {
        let mut artefact = Artefact::of(Descriptor::of(media::CODE_WASMTIME, cpu.name().as_bytes()));
        let target = "x86_64-unknown-linux-gnu".to_owned();
        artefact.variant = Some(Variant { engine: "wasmtime".into(), target, cpu, key: Digest::of(b"key") });
        artefact.chunks = Some(Descriptor::of(media::CHUNKS, b"chunks"));
        artefact
    };
    let function = Function {
        kind: FunctionKind::Command,
        name: "app".into(),
        args: vec!["-x".into()],
        env: [("A".to_owned(), "b".to_owned())].into(),
    };
    let artefacts = vec![code(CpuLevel::V2), code(CpuLevel::V3), Artefact::of(Descriptor::of("application/vnd.openjdk.cds", b"cds"))];
    let manifest = Manifest::new(Some(Descriptor::of(media::WASM, b"wasm")), Some(function), artefacts);
    let key = SecretKey::from_seed([1; 32]);
    let fields = KeyFields::new().with(field::KIND, "image").with(field::SOURCE, Digest::of(b"wasm")).with(field::BUILD_ID, "b1");
    let outputs = vec![Descriptor::of(media::MANIFEST, &manifest.to_bytes())];
    let statement = Statement::new(Kind::Image, "default", fields, outputs);
    let payload = serde_json::to_vec(&statement).unwrap_or_default();
    let envelope = statement.clone().sign(&key).to_bytes();
    let mut record = Record::new(Digest::of(&manifest.to_bytes()));
    record.add(Signed::new(&statement, key.public().id(), Digest::of(&envelope)));
    record.seals.insert(Digest::of(b"code"), Seal { inode: 1, size: 4, mtime: 2, ctime: 3 });
    let row = with(1, &[*Digest::of(b"image").as_bytes(), *Digest::of(b"code").as_bytes(), *record.subject.as_bytes()].concat());
    let sections: [(SectionKind, u32, &str, &[u8]); 2] =
        [(SectionKind::ReadOnly, 7, ".preheat.functions", &[1, 2, 3]), (SectionKind::Text, 0, ".text", &[0xc3; 16])];
    let object = CodeObject::encode(Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V3, &sections)?;
    let sized = |bytes: &[u8]| [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
    // The first page holds all that the parser looks at; the claimed size makes up for the rest.
    let sized_head = [&(object.len() as u64).to_le_bytes(), &object[..4096]].concat();
    let mut other_elf = object[..64].to_vec();
    other_elf.extend(b"something else");
    let mut memory = vec![0; 2 * 65536];
    memory[5000] = 1;
    memory[100_000] = 2;
    let heap = HeapBuilder::new().memory(0, &memory, &[]).global(1, 1, [9; 16]).table(0, &[0, 5, 7]).encode(Digest::of(b"wasm"))?;
    let layer = HeapBuilder::over(Digest::of(&heap)).memory(0, &memory, &[]).table(0, &[1]).table(1, &[2]).encode(Digest::of(b"wasm"))?;
    let state_only = HeapBuilder::new().global(0, 6, [0; 16]).table(0, &[3]).encode(Digest::of(b"wasm"))?;
    Ok(vec![
        ("manifest", "command", manifest.to_bytes()),
        ("manifest", "artefacts-only", Manifest::new(None, None, vec![Artefact::of(Descriptor::of("a/b", b""))]).to_bytes()),
        ("manifest", "empty", Manifest::new(None, None, Vec::new()).to_bytes()),
        ("statement", "envelope", with(0, &envelope)),
        ("statement", "payload", with(1, &payload)),
        ("statement", "to-be-signed", with(2, &payload)),
        ("index", "record", with(0, &record.to_bytes())),
        ("index", "empty-record", with(0, &Record::new(Digest::ZERO).to_bytes())),
        ("index", "row", row),
        ("code_object", "truncated", sized(&object[..4096])),
        ("code_object", "head", sized_head),
        ("code_object", "other-elf", sized(&other_elf)),
        ("heap", "base", heap),
        ("heap", "layer", layer),
        ("heap", "state-only", state_only),
        ("chunks", "empty", chunks::encode(&[])),
        ("chunks", "two", chunks::encode(&vec![7; chunks::CHUNK_SIZE + 1])),
        ("reference", "short", b"app".to_vec()),
        ("reference", "long", format!("cache.example:8080/team/app:v1@{}", Digest::of(b"x")).into_bytes()),
        ("reference", "digest", Digest::of(b"x").to_string().into_bytes()),
    ])
}
