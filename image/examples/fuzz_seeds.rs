//! Writes the seeds of the fuzz targets: `cargo run -p preheat-image --example fuzz_seeds -- fuzz/seeds`.

use preheat_image::abi::{NONE, ValueType};
use preheat_image::api::{
    CollectReport, Contribution, ContributionList, ErrorBody, FindMissing, Missing, NamespaceBuilder, NamespaceConfig, NamespaceKind,
    NamespaceList, NamespaceRow, NamespaceStatistics, StatementList, Statistics,
};
use preheat_image::code::{CodeObject, SectionKind};
use preheat_image::heap::{HeapBuilder, HeapSnapshot, Value};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::{Artefact, Descriptor, Function, FunctionKind, Variant};
use preheat_image::names::{MoveKind, Names};
use preheat_image::native::{
    ConstOp, ExportRecord, Expression, FunctionRange, FunctionRecord, GlobalRecord, MemoryPlan, MemoryRun, NameRecord, NativeParts,
    StringRange, TablePlan, TypeRecord,
};
use preheat_image::profile::{
    BodyDigest, Contribution as ProfileContribution, FunctionProfile, Method, Profile, Rules, ShapeDigest, Site, SiteCounts,
};
use preheat_image::record::{Record, Seal, Signed};
use preheat_image::revocation::RevocationList;
use preheat_image::root::{Delegation, Role, Root};
use preheat_image::signed::{Document, SignedDocument};
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
        frozen: None,
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
    let wasm = Digest::of(b"wasm");
    let heap = HeapBuilder::new()
        .memory(0, &memory)
        .global(1, Value::new(ValueType::I64, [9; 16]))
        .table(0, 9, [(0, [0, 5, 7])])
        .dropped(&[true, false], &[true])
        .written(0, 1, 2)
        .host(b"{}")
        .encode(wasm)?;
    let mut written = memory.clone();
    (written[5000], written[9000]) = (0, 3);
    let stack = [Value::new(ValueType::V128, [1; 16]), Value::function(Some(3))];
    let layer = HeapBuilder::over(Digest::of(&heap), &[HeapSnapshot::parse(&heap)?])
        .memory(0, &written)
        .table(0, 9, [(0, [1]), (8, [2])])
        .frame(7, Some(0x123), &stack)
        .frame(0, None, &[])
        .encode(wasm)?;
    let state_only = HeapBuilder::new().global(0, Value::function(None)).table(0, 1, [(0, [3])]).encode(wasm)?;
    let mut seeds = signed_seeds(&envelope)?;
    seeds.extend(profiles());
    seeds.extend([
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
        ("native", "empty", NativeParts::default().encode(Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V3)?),
        ("native", "small", native()?),
        ("heap", "base", heap),
        ("heap", "layer", layer),
        ("heap", "state-only", state_only),
        ("chunks", "empty", chunks::encode(&[])),
        ("chunks", "two", chunks::encode(&vec![7; chunks::CHUNK_SIZE + 1])),
        ("reference", "short", b"app".to_vec()),
        ("reference", "long", format!("cache.example:8080/team/app:v1@{}", Digest::of(b"x")).into_bytes()),
        ("reference", "digest", Digest::of(b"x").to_string().into_bytes()),
    ]);
    Ok(seeds)
}

/// A native code object with something in most tables.
fn native() -> Result<Vec<u8>, FormatError> {
    let range = |offset: u32, len: u32| StringRange { offset: offset.into(), len: len.into() };
    let parts = NativeParts {
        text: vec![0xcc; 64],
        types: vec![TypeRecord {
            first: 0.into(),
            params: 1.into(),
            results: 1.into(),
            enter: 32.into(),
            host: NONE.into(),
            reserved: 0.into(),
            hash: 5.into(),
        }],
        value_types: vec![1, 5],
        exports: vec![ExportRecord { name: range(0, 1), kind: 0.into(), index: 0.into() }],
        functions: vec![FunctionRecord { code: 0.into(), ty: 0.into() }],
        memories: vec![MemoryPlan { min: 1.into(), max: u64::MAX.into(), first_run: 0.into(), runs: 1.into() }],
        memory_runs: vec![MemoryRun { first: 3.into(), pages: 1.into(), offset: 0.into() }],
        memory_image: vec![7; 4096],
        tables: vec![TablePlan { element: 6.into(), entries: 1.into(), offset: 0.into(), min: 2.into(), max: 2.into() }],
        table_image: vec![1; 4096],
        globals: vec![GlobalRecord { ty: 1.into(), mutable: 1.into(), init: Expression { first: 0.into(), count: 1.into() } }],
        global_values: vec![[0; 16]],
        const_ops: vec![ConstOp { kind: 1.into(), index: 0.into(), value: [3; 16] }],
        module_strings: b"f".to_vec(),
        ranges: vec![FunctionRange {
            start: 0.into(),
            size: 30.into(),
            kind: 0.into(),
            index: 0.into(),
            body: 100.into(),
            body_size: 20.into(),
        }],
        trap_offsets: vec![3.into()],
        trap_codes: vec![1],
        names: vec![NameRecord { function: 0.into(), name: range(1, 4) }],
        strings: b"\0main\0".to_vec(),
        symbol_names: vec![1.into()],
        ..NativeParts::default()
    };
    parts.encode(Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V3)
}

/// A profile with a site of every kind, one of nothing, and a summary.
fn profiles() -> [Seed; 3] {
    let counts = [
        SiteCounts::Reached(7),
        SiteCounts::Branch { reached: 300, taken: 299 },
        SiteCounts::Table { arms: vec![1, 0, u64::MAX] },
        SiteCounts::Indirect { reached: 9, targets: vec![(3, 5), (0, 2)] },
        SiteCounts::Samples(2),
    ];
    let sites: Vec<Site> = (1..).zip(counts).map(|(place, counts)| Site { offset: 100 * place, counts }).collect();
    let function = |index: u32, first| {
        let (body, shape) = (BodyDigest::of(&[1]), ShapeDigest::of(&[2]));
        FunctionProfile { index, body, shape, first, entries: 5, sites: sites[index as usize % 3..].to_vec() }
    };
    let mut profile = Profile::new(Digest::of(b"wasm"));
    for (contributor, method) in [("a", Method::Counted), ("b", Method::Sampled { interval_us: 1000 })] {
        let functions = vec![function(0, Some(1)), function(3, Some(0)), function(4, None), function(300, None)];
        let (contributor, origin) = (contributor.to_owned(), "native".to_owned());
        let contribution = ProfileContribution { contributor, at: 1_799_999_000, method, origin, calls: 20, functions };
        // It says nothing that it may not say.
        let _ = profile.insert(contribution);
    }
    let summary = profile.evaluate(&Rules::new(1_800_000_000)).map(|summary| summary.to_bytes());
    [
        ("profile", "two", profile.to_bytes()),
        ("profile", "empty", Profile::new(Digest::ZERO).to_bytes()),
        ("profile", "summary", summary.unwrap_or_default()),
    ]
}

/// The documents that a cache and its clients exchange: as envelopes, and as they are before they are signed.
fn signed_seeds(statement: &[u8]) -> Result<Vec<Seed>, FormatError> {
    fn both<D: Document + Clone>(target: &'static str, document: D) -> Result<[Seed; 2], FormatError> {
        let payload = serde_json::to_vec(&document).unwrap_or_default();
        let unsigned = SignedDocument::new(document)?;
        let signed = unsigned.clone().sign(&SecretKey::from_seed([1; 32])).unwrap_or(unsigned);
        Ok([
            (target, "envelope", [&[0], signed.to_bytes().as_slice()].concat()),
            (target, "to-be-signed", [&[1], payload.as_slice()].concat()),
        ])
    }
    let public = |seed| SecretKey::from_seed([seed; 32]).public();
    let delegation =
        |role, seed| Delegation { role, name: "someone".into(), key: public(seed), namespaces: vec!["*".into()], expires: 2_000_000_000 };
    let root = Root {
        version: 1,
        installation: "here".into(),
        number: 1,
        issued: 1_700_000_000,
        expires: 2_000_000_000,
        threshold: 1,
        keys: vec![public(1), public(2)],
        delegations: vec![delegation(Role::Builder, 3), delegation(Role::Namer, 4), delegation(Role::Revoker, 5)],
    };
    let mut names = Names::first("team", 1_700_000_000, 2_000_000_000);
    // These names are names.
    let _ = names.set(MoveKind::Push, "app:v1", Some(Digest::of(b"1")));
    let _ = names.set(MoveKind::Promote, "app:v1", Some(Digest::of(b"2")));
    let list = RevocationList {
        version: 1,
        installation: "here".into(),
        number: 1,
        issued: 1_700_000_000,
        expires: 2_000_000_000,
        keys: [public(3).id()].into(),
        build_ids: ["b1".to_owned()].into(),
        sources: [Digest::of(b"wasm")].into(),
        blobs: [Digest::of(b"code")].into(),
        reasons: [("b1".to_owned(), "miscompiles".to_owned())].into(),
    };
    let holder = NamespaceBuilder { name: "someone".into(), key: public(3), expires: Some(2_000_000_000) };
    let config = NamespaceConfig {
        base: Some("production".into()),
        builders: vec![holder],
        max_bytes: Some(1 << 30),
        ..NamespaceConfig::new(NamespaceKind::Preheat)
    };
    let row = NamespaceRow { name: "team".into(), config: config.clone() };
    let contribution = Contribution { digest: Digest::of(b"1"), size: 1, at: 1_700_000_000, by: "someone".into() };
    let contributions = ContributionList { contributions: vec![contribution], next: Some(Digest::of(b"1")) };
    let count = NamespaceStatistics { name: "team".into(), blobs: Some(1), ..NamespaceStatistics::default() };
    let json = |mode: u8, value: serde_json::Result<Vec<u8>>| [vec![mode], value.unwrap_or_default()].concat();
    let mut seeds = vec![
        ("api", "statements", json(0, serde_json::to_vec(&StatementList::new([statement])))),
        ("api", "namespace-config", json(1, serde_json::to_vec(&config))),
        ("api", "find-missing", json(2, serde_json::to_vec(&FindMissing { digests: vec![Digest::of(b"1")] }))),
        ("api", "missing", json(3, serde_json::to_vec(&Missing { missing: vec![Digest::of(b"1")] }))),
        ("api", "namespace-row", json(4, serde_json::to_vec(&row))),
        ("api", "namespaces", json(5, serde_json::to_vec(&NamespaceList { namespaces: vec![row] }))),
        ("api", "contributions", json(6, serde_json::to_vec(&contributions))),
        ("api", "statistics", json(7, serde_json::to_vec(&Statistics { namespaces: vec![count] }))),
        ("api", "collect-report", json(8, serde_json::to_vec(&CollectReport::default()))),
        ("api", "error", json(9, serde_json::to_vec(&ErrorBody { error: "not-found".into(), message: "no".into(), hint: None }))),
    ];
    seeds.extend(both("root", root)?);
    seeds.extend(both("names", names)?);
    seeds.extend(both("revocations", list)?);
    Ok(seeds)
}
