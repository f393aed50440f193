//! What a corpus refuses, and what it says about it.

use super::*;

fn shipped() -> Corpus {
    Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus.toml")).unwrap()
}

fn tgz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        // `set_path` would refuse the tricks.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (path, content) in files {
        zip.start_file(*path, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A corpus of one program `tool` from an archive, in a directory of its own.
struct Made {
    home: TempDir,
    corpus: Corpus,
    archive: Vec<u8>,
    name: &'static str,
}

impl Made {
    fn new(archive: Vec<u8>, name: &'static str, archive_digest: Digest, member_digest: Digest) -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("corpus.toml");
        let text = format!(
            "root = '.'\n[archive.one]\nregistry = 'npm'\npackage = 'one'\nversion = '1'\ndigest = '{archive_digest}'\n\
                 [program.tool]\nabout = ''\ndigest = '{member_digest}'\nfrom.member = {{ archive = 'one', path = 'package/tool.wasm' }}\n"
        );
        fs::write(&file, text).unwrap();
        let corpus = Corpus::load(&file).unwrap();
        Self { home, corpus, archive, name }
    }

    fn dest(&self) -> PathBuf {
        self.home.path().join("fetched")
    }

    fn fetch(&self, downloads: &std::cell::Cell<usize>) -> Outcome {
        let download = |_: &Archive, folder: &Path| {
            downloads.set(downloads.get() + 1);
            let path = folder.join(self.name);
            fs::write(&path, &self.archive)?;
            Ok(path)
        };
        let mut fetched = self.corpus.fetch_with(&self.dest(), &[], &mut |_| {}, &download);
        assert_eq!(fetched.len(), 1);
        fetched.remove(0).outcome
    }

    /// Expects a refusal that leaves nothing behind.
    fn refused(&self) -> String {
        let Outcome::Unavailable { why } = self.fetch(&std::cell::Cell::new(0)) else { panic!("not refused") };
        assert_eq!(fs::read_dir(self.dest()).unwrap().count(), 0, "{why}");
        why
    }
}

const CONTENT: &[u8] = b"\0asm\x01\0\0\0";
const GOOD: &[(&str, &[u8])] = &[("package/other", b"x"), ("package/tool.wasm", CONTENT)];

#[test]
fn what_has_the_pinned_digests_is_kept_and_not_fetched_again() {
    for (archive, name) in [(tgz(GOOD), "one.tgz"), (zip_of(GOOD), "one.whl")] {
        let digest = Digest::of(&archive);
        let made = Made::new(archive, name, digest, Digest::of(CONTENT));
        let downloads = std::cell::Cell::new(0);
        for _ in 0..2 {
            let Outcome::Available(path) = made.fetch(&downloads) else { panic!("{name}") };
            assert_eq!(fs::read(path).unwrap(), CONTENT);
        }
        assert_eq!(downloads.get(), 1);
        fs::write(made.dest().join("tool.wasm"), b"damaged").unwrap();
        assert!(matches!(made.fetch(&downloads), Outcome::Available(_)));
        assert_eq!((downloads.get(), fs::read_dir(made.dest()).unwrap().count()), (2, 1));
    }
}

#[test]
fn an_archive_with_a_wrong_digest_is_refused() {
    let archive = tgz(GOOD);
    let (found, pinned) = (Digest::of(&archive), Digest::of(b"other"));
    let why = Made::new(archive, "one.tgz", pinned, Digest::of(CONTENT)).refused();
    assert!(why.contains(&found.to_string()) && why.contains(&pinned.to_string()), "{why}");
}

#[test]
fn a_member_with_a_wrong_digest_is_refused() {
    let archive = zip_of(GOOD);
    let (digest, pinned) = (Digest::of(&archive), Digest::of(b"other"));
    let why = Made::new(archive, "one.whl", digest, pinned).refused();
    assert!(why.contains(&Digest::of(CONTENT).to_string()) && why.contains(&pinned.to_string()), "{why}");
}

#[test]
fn an_archive_without_the_member_is_refused() {
    let archive = zip_of(&GOOD[..1]);
    let digest = Digest::of(&archive);
    let why = Made::new(archive, "one.whl", digest, Digest::of(CONTENT)).refused();
    assert!(why.contains("no file package/tool.wasm"), "{why}");
}

#[test]
fn an_archive_whose_paths_lead_outside_is_refused() {
    for evil in ["../evil", "/evil", "package/../../evil"] {
        let files: &[(&str, &[u8])] = &[(evil, b"x"), ("package/tool.wasm", CONTENT)];
        for (archive, name) in [(tgz(files), "one.tgz"), (zip_of(files), "one.whl")] {
            let digest = Digest::of(&archive);
            let made = Made::new(archive, name, digest, Digest::of(CONTENT));
            let why = made.refused();
            assert!(why.contains("leads outside"), "{evil} in {name}: {why}");
            let file = made.home.path().join(name);
            fs::write(&file, &made.archive).unwrap();
            assert!(unpack(&file, &made.home.path().join("a/b")).is_err());
            assert!(!made.home.path().join("a/evil").exists() && !made.home.path().join("evil").exists());
        }
    }
}

#[test]
fn links_in_an_archive_are_refused() {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "package/link", "/etc").unwrap();
    let archive = tar.into_inner().unwrap().finish().unwrap();
    let digest = Digest::of(&archive);
    let why = Made::new(archive, "one.tgz", digest, Digest::of(CONTENT)).refused();
    assert!(why.contains("not a regular file"), "{why}");
}

#[test]
fn absurd_sizes_are_refused() {
    let mut limits = Limits { files: 0, bytes: 0 };
    assert!(limits.admit(Path::new("a"), LARGEST_FILE + 1).is_err());
    assert!((0..=LARGEST_ARCHIVE / LARGEST_FILE).any(|_| limits.admit(Path::new("a"), LARGEST_FILE).is_err()));
    let mut read = Bounded { inner: io::repeat(1), rest: 1000 };
    assert!(io::copy(&mut read, &mut io::sink()).is_err());
}

#[test]
fn a_file_that_is_no_archive_is_refused() {
    for name in ["one.tgz", "one.whl"] {
        let archive = b"not an archive".to_vec();
        let digest = Digest::of(&archive);
        let why = Made::new(archive, name, digest, Digest::of(CONTENT)).refused();
        assert!(why.contains(name) && why.contains("refused"), "{why}");
    }
}

#[test]
fn unknown_fields_and_references_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("corpus.toml");
    let archive = "[archive.a]\nregistry = 'npm'\npackage = 'a'\nversion = '1'\ndigest = 'sha256:00'\n";
    let digest = Digest::ZERO;
    for (text, what) in [
        ("root = '.'\nextra = 1\n".to_owned(), "extra"),
        ("root = '.'\n[archive.a]\nhost = 'x'\n".to_owned(), "host"),
        (format!("root = '.'\n{archive}"), "not a digest"),
        ("root = '.'\n[program.p]\nabout = ''\nfrom.member = { archive = 'a', path = 'p', other = 1 }\n".to_owned(), "other"),
        ("root = '.'\n[program.p]\nabout = ''\nfrom.cloud = {}\n".to_owned(), "cloud"),
        (
            format!("root = '.'\n[program.p]\nabout = ''\ndigest = '{digest}'\nfrom.member = {{ archive = 'a', path = 'p' }}\n"),
            "no archive `a`",
        ),
        ("root = '.'\n[program.'../p']\nabout = ''\nfrom.component = { program = 'x' }\n".to_owned(), "characters"),
        ("root = '.'\n[program.p]\nabout = ''\nfrom.build = { script = '../x', sources = [] }\n".to_owned(), "leads outside"),
        ("root = '.'\n[[workload]]\nname = 'w'\nprogram = 'p'\nexpected = 'e'\n".to_owned(), "no program `p`"),
    ] {
        fs::write(&file, &text).unwrap();
        let error = format!("{:#}", Corpus::load(&file).unwrap_err());
        assert!(error.contains(what) && error.contains("corpus.toml"), "{text}\n{error}");
    }
}

#[test]
fn an_unknown_program_is_answered_with_those_that_there_are() {
    let home = tempfile::tempdir().unwrap();
    let fetched = shipped().fetch(home.path(), &["nothing".into()], &mut |_| {});
    assert!(matches!(&fetched[0].outcome, Outcome::Unavailable { why } if why.contains("json-c")), "{fetched:?}");
}

#[test]
fn the_shipped_list_names_only_what_is_there() {
    let corpus = shipped();
    assert!(corpus.programs().all(|(_, about)| !about.is_empty()));
    for program in corpus.list.programs.values() {
        let paths = match &program.from {
            Origin::Build(build) => build.sources.iter().chain([&build.script]).collect(),
            Origin::Committed(committed) => vec![&committed.path, &committed.script],
            Origin::Member(_) | Origin::Component(_) => vec![],
        };
        for path in paths {
            assert!(corpus.root.join(path).is_file(), "{}", path.display());
        }
    }
    for entry in &corpus.list.workloads {
        for path in entry.stdin.iter().chain([&entry.expected]) {
            assert!(corpus.root.join(path).is_file(), "{}: {}", entry.name, path.display());
        }
        for host in entry.dirs.values().filter(|host| !host.starts_with("{fetched}")) {
            assert!(corpus.root.join(host).is_dir(), "{}: {host}", entry.name);
        }
    }
}

#[test]
fn programs_of_this_repository_need_no_network() {
    let corpus = shipped();
    let home = tempfile::tempdir().unwrap();
    let offline = |_: &Archive, _: &Path| -> Result<PathBuf> { bail!("no network") };
    let names = ["json-c".to_owned(), "json-component".to_owned()];
    for fetched in corpus.fetch_with(home.path(), &names, &mut |_| {}, &offline) {
        let Outcome::Available(path) = &fetched.outcome else { panic!("{fetched:?}") };
        // The layer in the version field tells a component from a core module.
        let layer = fs::read(path).unwrap()[6];
        assert_eq!(layer, u8::from(fetched.name == "json-component"));
    }
    let (workloads, missing) = corpus.workloads(home.path()).unwrap();
    assert!(names.iter().all(|name| workloads.iter().any(|workload| workload.name == *name)));
    assert!(missing.iter().any(|(name, why)| name == "cpython" && why.contains("preheat bench fetch cpython")), "{missing:?}");
    assert!(workloads.iter().all(|workload| workload.stdin.exists() && !workload.expected.is_empty()));
}

#[test]
fn a_missing_compiler_is_said_plainly() {
    let needs = Needs::from([("no-such-compiler-14".to_owned(), String::new())]);
    let error = check_needs(&needs).unwrap_err().to_string();
    assert!(error.contains("could not be had: no-such-compiler-14 not found"), "{error}");
    let needs = Needs::from([("sh".to_owned(), String::new()), ("/no/such/file.h".to_owned(), String::new())]);
    assert!(check_needs(&needs).unwrap_err().to_string().contains("/no/such/file.h not found"));
}
