//! The corpus: real programs, pinned by digest, and what they are given and must answer.
//!
//! `benches/corpus.toml` lists them. Archives come from the registries through the registries' own clients (`npm`, `pip`), as those are set
//! up; nothing of an archive is used before its digest is that of the list. A program that can't be had is never an error of the whole: its
//! [`Outcome`] says why.

use crate::workload::Workload;
use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::GzDecoder;
use preheat_image::{Digest, DigestHasher};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use wasi_preview1_component_adapter_provider as adapter;

/// No file of an archive may be larger, nor all that an archive unpacks to: an archive must not be able to fill a disk.
const LARGEST_FILE: u64 = 256 << 20;
const LARGEST_ARCHIVE: u64 = 2 << 30;
const MOST_FILES: usize = 100_000;

/// A list of programs and of workloads that use them.
#[derive(Debug)]
pub struct Corpus {
    file: PathBuf,
    root: PathBuf,
    list: List,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// The directory to which all paths are relative, itself relative to the list.
    root: PathBuf,
    #[serde(default, rename = "archive")]
    archives: BTreeMap<String, Archive>,
    #[serde(default, rename = "program")]
    programs: BTreeMap<String, Program>,
    #[serde(default, rename = "workload")]
    workloads: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Archive {
    registry: Registry,
    package: String,
    version: String,
    digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Registry {
    Npm,
    Pypi,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    about: String,
    digest: Option<Digest>,
    from: Origin,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    /// A file of an archive.
    Member(Member),
    /// A file of this repository, with the script that made it.
    Committed(Committed),
    /// Compiled here.
    Build(Build),
    /// A core module of this list, made a `wasi:cli/command` component.
    Component(Wrapped),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    archive: String,
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    path: PathBuf,
    script: PathBuf,
    #[serde(default)]
    needs: Needs,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    script: PathBuf,
    sources: Vec<PathBuf>,
    #[serde(default)]
    needs: Needs,
    /// Archives to unpack: directory among the tools, name of the archive.
    #[serde(default)]
    tools: BTreeMap<PathBuf, String>,
    /// Variables for the script; `{tools}` stands for the directory of the tools, `{cache}` for one that is kept between builds.
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    program: String,
}

/// What must be on the machine: commands, with a part of what they answer to `--version` where that matters, and absolute paths of files.
type Needs = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    program: String,
    #[serde(default)]
    args: Vec<String>,
    stdin: Option<PathBuf>,
    /// Name in the guest, directory on the host; `{fetched}` stands for the directory of the programs.
    #[serde(default)]
    dirs: BTreeMap<String, String>,
    expected: PathBuf,
}

/// A program that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its name in the list.
    pub name: String,
    /// Whether it is there now.
    pub outcome: Outcome,
}

/// A workload that is left out, and the reason.
pub type Missing = (String, String);

/// Whether a program is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is, in this file, and its digest is right.
    Available(PathBuf),
    /// It is not.
    Unavailable {
        /// The cause, and what to do where something can be done.
        why: String,
    },
}

/// What compiling a committed program again gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebuilt {
    /// The same bytes.
    Same,
    /// Other bytes, with this digest.
    Different(Digest),
    /// Nothing: the compiler is not on this machine, or another one is.
    NoCompiler {
        /// What is missing.
        why: String,
    },
}

/// Puts the archive into the directory and returns its path.
type Download<'a> = &'a dyn Fn(&Archive, &Path) -> Result<PathBuf>;

impl Corpus {
    /// Reads the list in `file` and checks that it is consistent in itself.
    ///
    /// # Errors
    /// When the file can't be read, has an unknown field, or refers to something that it does not contain.
    pub fn load(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("can't read the corpus {}; run this in the repository, or name the list", file.display()))?;
        let list: List = toml::from_str(&text).with_context(|| format!("{} is not a corpus", file.display()))?;
        list.check().with_context(|| format!("{} is not a corpus", file.display()))?;
        let root = file.parent().unwrap_or(Path::new("")).join(&list.root);
        let root =
            fs::canonicalize(&root).with_context(|| format!("{} names a root that is not there: {}", file.display(), root.display()))?;
        Ok(Self { file: file.to_owned(), root, list })
    }

    /// The names of all programs, each with a line about it.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.programs.iter().map(|(name, program)| (name.as_str(), program.about.as_str()))
    }

    /// Gets the programs `names` (all, if there are none) into the directory `dest`, and tells `progress` what it does.
    ///
    /// A program that is already there with the right digest is left alone. Where something goes wrong, nothing of that program stays in
    /// `dest`, and its outcome says what.
    #[must_use]
    pub fn fetch(&self, dest: &Path, names: &[String], progress: &mut dyn FnMut(&str)) -> Vec<Fetched> {
        self.fetch_with(dest, names, progress, &download)
    }

    fn fetch_with(&self, dest: &Path, names: &[String], progress: &mut dyn FnMut(&str), download: Download<'_>) -> Vec<Fetched> {
        let all: Vec<String>;
        let names = if names.is_empty() {
            all = self.list.programs.keys().cloned().collect();
            &all
        } else {
            names
        };
        let session = Session::new(self, dest, progress, download).map_err(|error| format!("{error:#}"));
        match session {
            Err(why) => {
                names.iter().map(|name| Fetched { name: name.clone(), outcome: Outcome::Unavailable { why: why.clone() } }).collect()
            }
            Ok(mut session) => names
                .iter()
                .map(|name| {
                    let outcome = match session.get(name) {
                        Ok(path) => Outcome::Available(path),
                        Err(error) => Outcome::Unavailable { why: format!("{error:#}") },
                    };
                    Fetched { name: name.clone(), outcome }
                })
                .collect(),
        }
    }

    /// The workloads whose programs are in the directory `fetched`, and the names of the others, each with the reason.
    ///
    /// # Errors
    /// When an input or an expected output can't be read.
    pub fn workloads(&self, fetched: &Path) -> Result<(Vec<Workload>, Vec<Missing>)> {
        let fetched = std::path::absolute(fetched)?;
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for entry in &self.list.workloads {
            let wasm = match self.present(&entry.program, &fetched) {
                Ok(Some(wasm)) => wasm,
                Ok(None) => {
                    missing.push((entry.name.clone(), format!("{0} is not there; `preheat bench fetch {0}` gets it", entry.program)));
                    continue;
                }
                Err(error) => {
                    missing.push((entry.name.clone(), format!("{error:#}")));
                    continue;
                }
            };
            let expected = self.root.join(&entry.expected);
            found.push(Workload {
                name: entry.name.clone(),
                wasm,
                args: entry.args.clone(),
                stdin: entry.stdin.as_ref().map_or_else(|| "/dev/null".into(), |path| self.root.join(path)),
                dirs: entry.dirs.iter().map(|(guest, host)| (guest.clone(), self.directory(host, &fetched))).collect(),
                expected: fs::read(&expected)
                    .with_context(|| format!("can't read {}, what workload {} must answer", expected.display(), entry.name))?,
            });
        }
        Ok((found, missing))
    }

    fn directory(&self, host: &str, fetched: &Path) -> PathBuf {
        match host.strip_prefix("{fetched}") {
            Some(rest) => fetched.join(rest.trim_start_matches('/')),
            None => self.root.join(host),
        }
    }

    /// Compiles the committed program `name` again, in a directory that is deleted afterwards, and compares.
    ///
    /// # Errors
    /// When no committed program has this name, or the compiler is there but fails.
    pub fn rebuild(&self, name: &str) -> Result<Rebuilt> {
        let program = self.program(name)?;
        let Origin::Committed(committed) = &program.from else { bail!("{name} is not a committed program") };
        if let Err(error) = check_needs(&committed.needs) {
            return Ok(Rebuilt::NoCompiler { why: format!("{error:#}") });
        }
        let work = tempfile::tempdir().context("can't make a directory to compile in")?;
        let out = work.path().join("rebuilt.wasm");
        run_script(&self.root.join(&committed.script), &out, &BTreeMap::new())?;
        let digest = digest_of(&out)?;
        Ok(if program.digest == Some(digest) { Rebuilt::Same } else { Rebuilt::Different(digest) })
    }

    fn program(&self, name: &str) -> Result<&Program> {
        self.list.programs.get(name).with_context(|| {
            let known: Vec<_> = self.list.programs.keys().map(String::as_str).collect();
            format!("{} has no program `{name}`; it has {}", self.file.display(), known.join(", "))
        })
    }

    /// The file of a program, if it is there and up to date.
    fn present(&self, name: &str, dest: &Path) -> Result<Option<PathBuf>> {
        let program = self.program(name)?;
        if let Origin::Committed(committed) = &program.from {
            let path = self.root.join(&committed.path);
            let found = digest_of(&path)?;
            if let Some(digest) = program.digest.filter(|digest| *digest != found) {
                bail!("{} has the digest {found}, but {} pins {digest}", path.display(), self.file.display());
            }
            return Ok(Some(path));
        }
        let path = wasm_in(dest, name);
        if !path.is_file() {
            return Ok(None);
        }
        let found = digest_of(&path)?;
        let recipe = self.recipe(program)?;
        let current = program.digest.is_none_or(|digest| digest == found)
            && recipe.is_none_or(|recipe| fs::read_to_string(stamp_in(dest, name)).is_ok_and(|stamp| stamp == stamp_text(recipe, found)));
        Ok(current.then_some(path))
    }

    /// The digest of all that a program is made from, if it is made here: a change of the sources makes it stale. The versions of commands
    /// that are no part of the corpus are left out.
    fn recipe(&self, program: &Program) -> Result<Option<Digest>> {
        let mut hasher = DigestHasher::new();
        let mut line = |what: &str, digest: Digest| hasher.update(format!("{what}\0{digest}\n").as_bytes());
        match &program.from {
            Origin::Member(_) | Origin::Committed(_) => return Ok(None),
            Origin::Build(build) => {
                for path in std::iter::once(&build.script).chain(&build.sources) {
                    line(&path.to_string_lossy(), digest_of(&self.root.join(path))?);
                }
                for (to, archive) in &build.tools {
                    line(&to.to_string_lossy(), self.archive(archive)?.digest);
                }
                for (name, value) in &build.env {
                    line(name, Digest::of(value.as_bytes()));
                }
            }
            Origin::Component(wrapped) => {
                let Origin::Committed(core) = &self.program(&wrapped.program)?.from else { bail!("{} is not committed", wrapped.program) };
                line(&wrapped.program, digest_of(&self.root.join(&core.path))?);
                line("adapter", Digest::of(adapter::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER));
            }
        }
        Ok(Some(hasher.finalize()))
    }

    fn archive(&self, name: &str) -> Result<&Archive> {
        self.list.archives.get(name).with_context(|| format!("{} has no archive `{name}`", self.file.display()))
    }
}

impl List {
    /// That what the parts refer to is there, and that no path leads out of the repository or of the directory of the programs.
    fn check(&self) -> Result<()> {
        for (name, archive) in &self.archives {
            ensure!(is_plain(name), "the archive name `{name}` has other characters than a-z, 0-9 and -");
            // They become arguments of another program.
            let tame = |text: &str| !text.is_empty() && !text.starts_with('-') && text.bytes().all(|c| c.is_ascii_graphic());
            ensure!(tame(&archive.package) && tame(&archive.version), "archive {name}: package and version are not names");
        }
        for (name, program) in &self.programs {
            ensure!(is_plain(name), "the program name `{name}` has other characters than a-z, 0-9 and -");
            self.check_program(program).with_context(|| format!("program {name}"))?;
        }
        for (i, entry) in self.workloads.iter().enumerate() {
            let name = &entry.name;
            ensure!(is_plain(name), "the workload name `{name}` has other characters than a-z, 0-9 and -");
            ensure!(self.workloads[..i].iter().all(|other| other.name != *name), "two workloads are called {name}");
            ensure!(self.programs.contains_key(&entry.program), "workload {name}: there is no program `{}`", entry.program);
            for path in entry.stdin.iter().chain([&entry.expected]) {
                inside(path).with_context(|| format!("workload {name}"))?;
            }
            for host in entry.dirs.values() {
                let path = host.strip_prefix("{fetched}").map_or(host.as_str(), |rest| rest.trim_start_matches('/'));
                ensure!(path.is_empty() || inside(Path::new(path)).is_ok(), "workload {name}: the directory {host} is outside");
            }
        }
        Ok(())
    }

    fn check_program(&self, program: &Program) -> Result<()> {
        let known = |archive: &String| -> Result<()> {
            ensure!(self.archives.contains_key(archive), "there is no archive `{archive}`");
            Ok(())
        };
        match &program.from {
            Origin::Member(member) => {
                known(&member.archive)?;
                ensure!(program.digest.is_some(), "a member of an archive needs a digest");
            }
            Origin::Committed(committed) => {
                inside(&committed.path)?;
                inside(&committed.script)?;
                ensure!(program.digest.is_some(), "a committed program needs a digest");
            }
            Origin::Build(build) => {
                for path in build.sources.iter().chain(build.tools.keys()).chain([&build.script]) {
                    inside(path)?;
                }
                build.tools.values().try_for_each(known)?;
            }
            Origin::Component(wrapped) => {
                let core = self.programs.get(&wrapped.program);
                ensure!(
                    core.is_some_and(|core| matches!(core.from, Origin::Committed(_))),
                    "there is no committed program `{}`",
                    wrapped.program
                );
            }
        }
        Ok(())
    }
}

/// One call of [`Corpus::fetch`]: what it has downloaded is shared by the programs and deleted at the end.
struct Session<'a> {
    corpus: &'a Corpus,
    dest: PathBuf,
    /// In the destination, so that what is made here can be renamed.
    work: TempDir,
    archives: BTreeMap<String, PathBuf>,
    progress: &'a mut dyn FnMut(&str),
    download: Download<'a>,
}

impl<'a> Session<'a> {
    fn new(corpus: &'a Corpus, dest: &Path, progress: &'a mut dyn FnMut(&str), download: Download<'a>) -> Result<Self> {
        fs::create_dir_all(dest).with_context(|| format!("can't make the directory {}", dest.display()))?;
        // The build scripts run elsewhere.
        let dest = fs::canonicalize(dest).with_context(|| format!("can't open the directory {}", dest.display()))?;
        let work = tempfile::Builder::new()
            .prefix(".fetching-")
            .tempdir_in(&dest)
            .with_context(|| format!("can't write into {}; choose another directory", dest.display()))?;
        Ok(Self { corpus, dest, work, archives: BTreeMap::new(), progress, download })
    }

    fn get(&mut self, name: &str) -> Result<PathBuf> {
        (self.progress)(name);
        if let Some(path) = self.corpus.present(name, &self.dest)? {
            return Ok(path);
        }
        let program = self.corpus.program(name)?;
        let made = self.work.path().join(format!("{name}.wasm"));
        match &program.from {
            Origin::Member(member) => {
                let archive = self.archive(&member.archive)?;
                take_member(&archive, &member.path, &made)?;
            }
            Origin::Committed(committed) => bail!("{} is not there", committed.path.display()),
            Origin::Build(build) => self.build(name, build, &made)?,
            Origin::Component(wrapped) => {
                let core = self.get(&wrapped.program)?;
                let module = fs::read(&core).with_context(|| format!("can't read {}", core.display()))?;
                let component = componentize(&module).with_context(|| format!("can't make a component of {}", core.display()))?;
                fs::write(&made, component).with_context(|| format!("can't write {}", made.display()))?;
            }
        }
        let found = digest_of(&made)?;
        if let Some(digest) = program.digest.filter(|digest| *digest != found) {
            let advice = if matches!(program.from, Origin::Build(_)) {
                "the compiler is not the one that the list was made with"
            } else {
                "correct the list if the other one is meant"
            };
            bail!("{name} has the digest {found}, but {} pins {digest}: nothing was kept; {advice}", self.corpus.file.display());
        }
        let path = wasm_in(&self.dest, name);
        fs::rename(&made, &path).with_context(|| format!("can't put {name} in its place, {}", path.display()))?;
        // After the program: a stamp without its program says nothing, a program without its stamp is made again.
        if let Some(recipe) = self.corpus.recipe(program)? {
            let stamp = stamp_in(&self.dest, name);
            fs::write(&stamp, stamp_text(recipe, found)).with_context(|| format!("can't write {}", stamp.display()))?;
        }
        Ok(path)
    }

    /// The archive, downloaded at most once, its digest checked.
    fn archive(&mut self, name: &str) -> Result<PathBuf> {
        if let Some(path) = self.archives.get(name) {
            return Ok(path.clone());
        }
        let archive = self.corpus.archive(name)?;
        let Archive { package, version, digest, .. } = archive;
        (self.progress)(&format!("downloading {package} {version}"));
        let folder = self.work.path().join(format!("archive-{name}"));
        // Left from an attempt for another program.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).with_context(|| format!("can't make the directory {}", folder.display()))?;
        let path = (self.download)(archive, &folder)?;
        let found = digest_of(&path)?;
        ensure!(
            found == *digest,
            "the archive of {package} {version} has the digest {found}, but {} pins {digest}: nothing was kept; \
             don't use it unless you know why it changed",
            self.corpus.file.display()
        );
        self.archives.insert(name.to_owned(), path.clone());
        Ok(path)
    }

    fn build(&mut self, name: &str, build: &Build, out: &Path) -> Result<()> {
        check_needs(&build.needs)?;
        let tools = self.tools(name, build)?;
        let cache = self.dest.join(".cache");
        fs::create_dir_all(&cache).with_context(|| format!("can't make the directory {}", cache.display()))?;
        let env = build
            .env
            .iter()
            .map(|(name, value)| {
                let value = value.replace("{tools}", &tools.to_string_lossy()).replace("{cache}", &cache.to_string_lossy());
                (name.clone(), value)
            })
            .collect();
        (self.progress)(&format!("compiling {name}"));
        run_script(&self.corpus.root.join(&build.script), out, &env)
    }

    /// A directory with the tools, kept for later builds and named by what is in it: it is there whole or not at all.
    fn tools(&mut self, name: &str, build: &Build) -> Result<PathBuf> {
        let mut hasher = DigestHasher::new();
        for (to, archive) in &build.tools {
            hasher.update(format!("{}\0{}\n", to.display(), self.corpus.archive(archive)?.digest).as_bytes());
        }
        let home = self.dest.join(".tools");
        let path = home.join(format!("{name}-{}", hasher.finalize().short()));
        if path.is_dir() {
            return Ok(path);
        }
        let made = self.work.path().join(format!("tools-{name}"));
        let _ = fs::remove_dir_all(&made);
        fs::create_dir(&made).with_context(|| format!("can't make the directory {}", made.display()))?;
        for (to, archive) in &build.tools {
            let file = self.archive(archive)?;
            (self.progress)(&format!("unpacking {archive}"));
            unpack(&file, &made.join(to))?;
        }
        fs::create_dir_all(&home).with_context(|| format!("can't make the directory {}", home.display()))?;
        match fs::rename(&made, &path) {
            // Another process was faster.
            Err(_) if path.is_dir() => Ok(path),
            done => done.map(|()| path).with_context(|| format!("can't put the tools of {name} in their place")),
        }
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-')) && !name.starts_with('-')
}

/// That a relative path stays below the directory that it is relative to.
fn inside(path: &Path) -> Result<()> {
    let mut parts = path.components().peekable();
    ensure!(parts.peek().is_some(), "an empty path");
    ensure!(parts.all(|part| matches!(part, Component::Normal(_))), "the path {} leads outside", path.display());
    Ok(())
}

fn wasm_in(dest: &Path, name: &str) -> PathBuf {
    dest.join(format!("{name}.wasm"))
}

fn stamp_in(dest: &Path, name: &str) -> PathBuf {
    dest.join(format!("{name}.made-from"))
}

fn stamp_text(recipe: Digest, made: Digest) -> String {
    format!("{recipe}\n{made}\n")
}

fn digest_of(path: &Path) -> Result<Digest> {
    let mut hasher = DigestHasher::new();
    File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher)).with_context(|| format!("can't read {}", path.display()))?;
    Ok(hasher.finalize())
}

fn find_command(name: &str) -> Option<PathBuf> {
    let usable = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(usable)
}

fn check_needs(needs: &Needs) -> Result<()> {
    for (what, version) in needs {
        if what.starts_with('/') {
            ensure!(Path::new(what).exists(), "could not be had: {what} not found");
            continue;
        }
        ensure!(find_command(what).is_some(), "could not be had: {what} not found; install it to compile this program");
        if !version.is_empty() {
            let answer = run(Command::new(what).arg("--version"))?;
            let first = answer.lines().next().unwrap_or_default();
            ensure!(answer.contains(version), "could not be had: {what} is `{first}`, but `{version}` is needed");
        }
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("can't run {name}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let mut said: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // npm says the cause first, compilers and pip say it last.
        if said.len() > 4 {
            said.drain(2..said.len() - 2);
        }
        let said = said.join("; ");
        bail!("{name} failed ({}): {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run_script(script: &Path, out: &Path, env: &BTreeMap<String, String>) -> Result<()> {
    run(Command::new("sh").arg(script).arg(out).envs(env)).with_context(|| format!("{} could not compile", script.display()))?;
    ensure!(out.is_file(), "{} made nothing", script.display());
    Ok(())
}

/// Makes a `wasi:cli/command` component of a core module that uses WASI preview 1.
fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    wit_component::ComponentEncoder::default()
        .module(module)?
        .adapter(adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)?
        .encode()
}

/// Downloads with the registry's own client.
fn download(archive: &Archive, folder: &Path) -> Result<PathBuf> {
    let Archive { registry, package, version, .. } = archive;
    let done = match registry {
        Registry::Npm => {
            ensure!(find_command("npm").is_some(), "could not be had: npm not found; install Node.js");
            // Never run what a package brings along.
            run(Command::new("npm")
                .args(["pack", "--loglevel=error", "--ignore-scripts", &format!("{package}@{version}")])
                .current_dir(folder))
        }
        Registry::Pypi => {
            // A source archive would run its set-up code.
            let args = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", "."];
            let wanted = format!("{package}=={version}");
            let mut command = if let Some(pip) = ["pip", "pip3"].into_iter().find(|name| find_command(name).is_some()) {
                Command::new(pip)
            } else {
                ensure!(find_command("python3").is_some(), "could not be had: neither pip nor python3 found; install Python with pip");
                let mut python = Command::new("python3");
                python.args(["-m", "pip"]);
                python
            };
            run(command.args(args).arg(wanted).current_dir(folder))
        }
    };
    done.with_context(|| format!("could not be had: {package} {version} could not be downloaded"))?;
    let mut files = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>())
        .with_context(|| format!("can't read {}", folder.display()))?;
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => bail!("could not be had: the registry's client made no single file of {package} {version}"),
    }
}

/// Copies one file of an archive.
fn take_member(archive: &Path, member: &str, to: &Path) -> Result<()> {
    let mut taken = false;
    each_file(archive, &mut |path, _, content| {
        if path == Path::new(member) && !taken {
            taken = true;
            write_file(to, 0o644, content)?;
        }
        Ok(())
    })?;
    ensure!(taken, "{} has no file {member}", file_name(archive));
    Ok(())
}

/// Unpacks an archive. The one directory that each archive of npm consists of is left out.
fn unpack(archive: &Path, to: &Path) -> Result<()> {
    let skip = usize::from(!is_zip(archive));
    each_file(archive, &mut |path, executable, content| {
        let path: PathBuf = path.components().skip(skip).collect();
        ensure!(!path.as_os_str().is_empty(), "a file lies outside the one directory");
        let path = to.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("can't make the directory {}", parent.display()))?;
        }
        write_file(&path, if executable { 0o755 } else { 0o644 }, content)
    })
}

fn write_file(to: &Path, mode: u32, content: &mut dyn Read) -> Result<()> {
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(to).with_context(|| format!("can't make {}", to.display()))?;
    io::copy(content, &mut file).with_context(|| format!("can't write {}", to.display()))?;
    file.flush().with_context(|| format!("can't write {}", to.display()))
}

fn is_zip(archive: &Path) -> bool {
    archive.extension().is_some_and(|extension| extension == "whl" || extension == "zip")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(OsStr::new("archive")).to_string_lossy().into_owned()
}

/// Goes through the regular files of a zip or of a compressed tar: path, executable, content. Links, paths that lead outside and absurd
/// sizes make it an error, wherever in the archive they are.
fn each_file(archive: &Path, visit: &mut dyn FnMut(&Path, bool, &mut dyn Read) -> Result<()>) -> Result<()> {
    let result = File::open(archive).map_err(Into::into).and_then(|file| {
        let mut limits = Limits { files: 0, bytes: 0 };
        if is_zip(archive) { each_of_zip(file, &mut limits, visit) } else { each_of_tar(file, &mut limits, visit) }
    });
    result.with_context(|| format!("the archive {} is refused", file_name(archive)))
}

fn each_of_zip(file: File, limits: &mut Limits, visit: &mut dyn FnMut(&Path, bool, &mut dyn Read) -> Result<()>) -> Result<()> {
    let mut zip = zip::ZipArchive::new(io::BufReader::new(file))?;
    for i in 0..zip.len() {
        let entry = zip.by_index(i)?;
        let name = entry.name()?.into_owned();
        limits.admit(Path::new(&name), entry.size())?;
        if entry.is_dir() {
            continue;
        }
        ensure!(entry.is_file(), "{name} is not a regular file");
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        // The size is only a claim.
        visit(Path::new(&name), executable, &mut Bounded { rest: entry.size(), inner: entry })?;
    }
    Ok(())
}

fn each_of_tar(file: File, limits: &mut Limits, visit: &mut dyn FnMut(&Path, bool, &mut dyn Read) -> Result<()>) -> Result<()> {
    // Whatever lies between the files is unpacked too, and counts.
    let unpacked = Bounded { rest: LARGEST_ARCHIVE, inner: GzDecoder::new(io::BufReader::new(file)) };
    let mut tar = tar::Archive::new(unpacked);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        limits.admit(&path, entry.size())?;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        ensure!(kind.is_file(), "{} is not a regular file", path.display());
        let executable = entry.header().mode()? & 0o111 != 0;
        visit(&path, executable, &mut entry)?;
    }
    Ok(())
}

struct Limits {
    files: usize,
    bytes: u64,
}

impl Limits {
    fn admit(&mut self, path: &Path, size: u64) -> Result<()> {
        inside(path)?;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        ensure!(size <= LARGEST_FILE, "{} has {size} bytes, more than {LARGEST_FILE}", path.display());
        ensure!(self.files <= MOST_FILES && self.bytes <= LARGEST_ARCHIVE, "more than {MOST_FILES} files or {LARGEST_ARCHIVE} bytes");
        Ok(())
    }
}

/// Fails where there is more to read than was said.
struct Bounded<R> {
    inner: R,
    rest: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(to)?;
        self.rest =
            self.rest.checked_sub(n as u64).ok_or_else(|| io::Error::other("the content is larger than it claims or than is allowed"))?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
