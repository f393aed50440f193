use super::Global;
use super::key::parse_public;
use crate::ui;
use clap::{Args, Subcommand, ValueEnum};
use preheat::ceremony::{self, Revoke as RevokeList, Signatures};
use preheat::{Digest, KeyFile, TrustError, trust, verify_revocations};
use preheat_image::keys::{KeyId, PublicKey};
use preheat_image::revocation::SignedRevocations;
use preheat_image::root::{Delegation, Role, Root as RootDocument, SignedRoot};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Make an installation's root, offline: who may build, name and revoke
#[derive(Args)]
#[command(after_help = "Nothing here needs the network. A root counts once enough of its keys (and of the one before it) have signed it.

Examples, from nothing to a root that two of three people have signed:
  preheat key new --out alice.json
  preheat root new --installation acme --key alice.json --key bob.json --key carol.json --threshold 2 --out root.json
  preheat root delegate root.json --role builder --name ci --key CI_KEY --namespace team --expires 90d --out root.json
  preheat root delegate root.json --role revoker --name oncall --key revoker.json --expires 1y --out root.json
  preheat root sign root.json --key alice.json
  preheat root sign root.json --key bob.json
  preheat root show root.json
  preheat root revoke --root root.json --key revoker.json --expires 7d --out revocations.json")]
pub(crate) struct Root {
    #[command(subcommand)]
    command: RootCommand,
}

#[derive(Subcommand)]
enum RootCommand {
    New(New),
    Delegate(Delegate),
    Withdraw(Withdraw),
    RotateKeys(RotateKeys),
    Sign(Sign),
    Show(Show),
    Revoke(Revoke),
}

/// Begin an installation
#[derive(Args)]
struct New {
    /// Name of the installation; it never changes
    #[arg(long, value_name = "NAME")]
    installation: String,
    /// Public key of the root in base64, or a key file; repeatable
    #[arg(long, value_name = "KEY", required = true, value_parser = parse_public)]
    key: Vec<PublicKey>,
    /// How many of the keys must sign
    #[arg(long)]
    threshold: u32,
    /// How long the root counts
    #[arg(long, value_name = "TIME", value_parser = ui::parse_time, default_value = "1y")]
    expires: Duration,
    /// File to make
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What the next root is made from, and where it is written.
#[derive(Args)]
struct Change {
    /// The root so far
    file: PathBuf,
    /// File to make; a root that nobody has signed yet may be changed in place
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Let a key build, name or revoke, in the next root
#[derive(Args)]
struct Delegate {
    #[command(flatten)]
    change: Change,
    /// What the key may do
    #[arg(long, value_enum)]
    role: RoleArg,
    /// What people call who has the key
    #[arg(long)]
    name: String,
    /// Public key in base64, or a key file
    #[arg(long, value_name = "KEY", value_parser = parse_public)]
    key: PublicKey,
    /// Namespace for which it counts, `*` for all; repeatable; a revoker has all
    #[arg(long, value_name = "NAME", required_if_eq_any = [("role", "builder"), ("role", "namer")])]
    namespace: Vec<String>,
    /// How long it counts
    #[arg(long, value_name = "TIME", value_parser = ui::parse_time, default_value = "90d")]
    expires: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArg {
    Builder,
    Namer,
    Revoker,
}

/// Take back what a key may do, in the next root
#[derive(Args)]
struct Withdraw {
    #[command(flatten)]
    change: Change,
    /// Name of the holder, or the id of the key
    holder: String,
}

/// Exchange keys of the root, or only make it last longer, in the next root
#[derive(Args)]
#[command(after_help = "Enough keys of the root so far must sign the next one, and enough of its own.")]
struct RotateKeys {
    #[command(flatten)]
    change: Change,
    /// Public key to add in base64, or a key file; repeatable
    #[arg(long, value_name = "KEY", value_parser = parse_public)]
    add: Vec<PublicKey>,
    /// Key to remove, by its id, its base64 or its file; repeatable
    #[arg(long, value_name = "KEY", value_parser = parse_key_id)]
    remove: Vec<KeyId>,
    /// How many of the keys must sign from then on
    #[arg(long)]
    threshold: Option<u32>,
    /// How long the next root counts
    #[arg(long, value_name = "TIME", value_parser = ui::parse_time, default_value = "1y")]
    expires: Duration,
}

/// Sign a root or a revocation list, in its file
#[derive(Args)]
struct Sign {
    /// The file
    file: PathBuf,
    /// Key file; one with a command signs through that
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Show who may do what until when, and who has signed
#[derive(Args)]
struct Show {
    /// The root, or a revocation list
    file: PathBuf,
    /// The root before it, enough of whose keys must have signed as well; for a list, the root that it is of
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
}

/// Make a revocation list, or the next one: with nothing to revoke, only a fresh one
#[derive(Args)]
#[command(
    after_help = "Lists only grow, and a fresh one has to be made before the last one ends: machines refuse what is of the root otherwise.

Examples:
  preheat root revoke --root root.json --key revoker.json --out revocations.json
  preheat root revoke --root root.json --list revocations.json --build-id 5b1e… --reason 'CVE-2026-1' --key revoker.json --out 2.json"
)]
struct Revoke {
    /// The root that the list is of
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The list so far
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Build of a compiler (`preheat doctor --json`, `preheat inspect --json`); repeatable
    #[arg(long, value_name = "ID")]
    build_id: Vec<String>,
    /// Builder's key by its id, its base64 or its file; repeatable
    #[arg(long, value_name = "KEY", value_parser = parse_key_id)]
    key_id: Vec<KeyId>,
    /// Digest of a Wasm source; repeatable
    #[arg(long, value_name = "DIGEST")]
    source: Vec<Digest>,
    /// Digest of a blob or an image; repeatable
    #[arg(long, value_name = "DIGEST")]
    blob: Vec<Digest>,
    /// For people: why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long the list is fresh
    #[arg(long, value_name = "TIME", value_parser = ui::parse_time, default_value = "7d")]
    expires: Duration,
    /// Key file of a revoker
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File to make
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn parse_key_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).or_else(|_| parse_public(text).map(|key| key.id()))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Builder => "builder",
        Role::Namer => "namer",
        Role::Revoker => "revoker",
    }
}

/// Who may do what, in lines for people.
pub(super) fn delegations(root: &RootDocument) -> Vec<String> {
    let line = |one: &Delegation| {
        let (role, namespaces) = (role_name(one.role), one.namespaces.join(","));
        format!("{role} {} for {namespaces} until {}, key {}", one.name.escape_debug(), ui::date(one.expires), one.key.id())
    };
    root.delegations.iter().map(line).collect()
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| preheat::BuildError::Read { path: path.to_owned(), source }.into())
}

fn read_root(path: &Path) -> anyhow::Result<SignedRoot> {
    SignedRoot::parse(&read(path)?).map_err(|source| preheat::StoreError::Format { path: path.to_owned(), source }.into())
}

fn read_list(path: &Path) -> anyhow::Result<SignedRevocations> {
    SignedRevocations::parse(&read(path)?).map_err(|source| preheat::StoreError::Format { path: path.to_owned(), source }.into())
}

/// Writes a file whole. One that is there is replaced only if it is the one that was read.
fn write(path: &Path, bytes: &[u8], in_place: bool) -> anyhow::Result<()> {
    let failed = |source| preheat::StoreError::Io { action: "write", path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644)).tempfile_in(dir).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let written = if in_place { file.persist(path) } else { file.persist_noclobber(path) };
    written.map(drop).map_err(|error| failed(error.error).into())
}

impl Change {
    fn apply(&self, global: &Global, change: impl FnOnce(&mut RootDocument, u64) -> Result<(), TrustError>) -> anyhow::Result<ExitCode> {
        let (old, now) = (read_root(&self.file)?, trust::now());
        let next = ceremony::next_root(&old, now, |root| change(root, now))?;
        let draft = old.signers().next().is_none();
        let same = std::path::absolute(&self.file)? == std::path::absolute(&self.out)?;
        write(&self.out, &next.to_bytes(), same && draft)?;
        show_root(global, &next, if draft { None } else { Some(&old) });
        Ok(ExitCode::SUCCESS)
    }
}

fn shown_signatures(signatures: &Signatures) -> serde_json::Value {
    json!({ "threshold": signatures.threshold, "good": signatures.good, "wrong": signatures.wrong, "missing": signatures.missing,
            "enough": signatures.enough() })
}

fn say_signatures(of: &str, signatures: &Signatures) {
    ui::say!(
        "{of}: {} of {} signatures{}",
        signatures.good.len(),
        signatures.threshold,
        if signatures.enough() { "" } else { ", not enough" }
    );
    for (word, keys) in [("signed", &signatures.good), ("WRONG", &signatures.wrong), ("not signed", &signatures.missing)] {
        keys.iter().for_each(|key| ui::say!("  {key} {word}"));
    }
}

fn show_root(global: &Global, signed: &SignedRoot, previous: Option<&SignedRoot>) {
    let root = signed.unverified();
    let own = ceremony::signatures(signed, &root.keys, root.threshold);
    let before = previous.map(|old| ceremony::signatures(signed, &old.unverified().keys, old.unverified().threshold));
    let follows = previous.map(|old| signed.verify_next(old.unverified()).err().map(|error| error.to_string()));
    if global.json {
        ui::print_json(&json!({
            "fingerprint": signed.digest(), "root": root, "signatures": shown_signatures(&own),
            "previousSignatures": before.as_ref().map(shown_signatures),
            "follows": follows.as_ref().map(Option::is_none), "whyNot": follows.flatten(),
        }));
        return;
    }
    ui::say!("root {} of {}, until {}", root.number, root.installation, ui::date(root.expires));
    ui::say!("fingerprint {}", signed.digest());
    delegations(root).iter().for_each(|line| ui::say!("{line}"));
    say_signatures("its own keys", &own);
    if let Some(before) = &before {
        say_signatures("keys of the root before it", before);
    }
    if let Some(Some(why)) = follows {
        ui::say!("it does not follow the root before it yet: {why}");
    }
}

fn show_list(global: &Global, signed: &SignedRevocations, root: Option<&RootDocument>) {
    let list = signed.unverified();
    let verdict = root.map(|root| verify_revocations(signed, root, trust::now()).err().map(|error| error.to_string()));
    if global.json {
        let signers: Vec<KeyId> = signed.signers().collect();
        ui::print_json(
            &json!({ "list": list, "signers": signers, "counts": verdict.as_ref().map(Option::is_none), "whyNot": verdict.flatten() }),
        );
        return;
    }
    ui::say!("revocation list {} of {}, fresh until {}", list.number, list.installation.escape_debug(), ui::date(list.expires));
    let reason = |what: String| list.reasons.get(&what).map_or_else(String::new, |why| format!(" ({})", why.escape_debug()));
    list.keys.iter().for_each(|key| ui::say!("key     {key}{}", reason(key.to_string())));
    list.build_ids.iter().for_each(|id| ui::say!("build   {}{}", id.escape_debug(), reason(id.clone())));
    list.sources.iter().for_each(|source| ui::say!("source  {source}{}", reason(source.to_string())));
    list.blobs.iter().for_each(|blob| ui::say!("blob    {blob}{}", reason(blob.to_string())));
    signed.signers().for_each(|signer| ui::say!("signed by {signer}"));
    if let Some(Some(why)) = verdict {
        ui::say!("it does not count: {why}");
    }
}

impl Root {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.command {
            RootCommand::New(command) => {
                let now = trust::now();
                let expires = now.saturating_add(command.expires.as_secs());
                let root = ceremony::first_root(&command.installation, command.key, command.threshold, now, expires)?;
                write(&command.out, &root.to_bytes(), false)?;
                show_root(global, &root, None);
                Ok(ExitCode::SUCCESS)
            }
            RootCommand::Delegate(command) => {
                let (role, namespaces) = match command.role {
                    RoleArg::Builder => (Role::Builder, command.namespace),
                    RoleArg::Namer => (Role::Namer, command.namespace),
                    RoleArg::Revoker => (Role::Revoker, vec!["*".to_owned()]),
                };
                let (name, key, span) = (command.name, command.key, command.expires.as_secs());
                command.change.apply(global, |root, now| {
                    ceremony::delegate(root, Delegation { role, name, key, namespaces, expires: now.saturating_add(span) })
                })
            }
            RootCommand::Withdraw(command) => command.change.apply(global, |root, _| ceremony::withdraw(root, None, &command.holder)),
            RootCommand::RotateKeys(command) => command.change.apply(global, |root, now| {
                root.expires = now.saturating_add(command.expires.as_secs());
                ceremony::rotate_keys(root, command.add, &command.remove, command.threshold)
            }),
            RootCommand::Sign(command) => command.execute(global),
            RootCommand::Show(command) => {
                let bytes = read(&command.file)?;
                let previous = command.previous.as_deref().map(read_root).transpose()?;
                match SignedRevocations::parse(&bytes) {
                    Ok(list) => show_list(global, &list, previous.as_ref().map(SignedRoot::unverified)),
                    Err(_) => show_root(global, &read_root(&command.file)?, previous.as_ref()),
                }
                Ok(ExitCode::SUCCESS)
            }
            RootCommand::Revoke(command) => command.execute(global),
        }
    }
}

impl Sign {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let (bytes, key) = (read(&self.file)?, KeyFile::read(&self.key)?);
        if let Ok(list) = SignedRevocations::parse(&bytes) {
            let list = ceremony::sign(list, &key)?;
            write(&self.file, &list.to_bytes(), true)?;
            show_list(global, &list, None);
        } else {
            let root = ceremony::sign(read_root(&self.file)?, &key)?;
            write(&self.file, &root.to_bytes(), true)?;
            show_root(global, &root, None);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Revoke {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let (root, now) = (read_root(&self.root)?, trust::now());
        let old = self.list.as_deref().map(read_list).transpose()?;
        let revoke =
            RevokeList { keys: self.key_id, build_ids: self.build_id, sources: self.source, blobs: self.blob, reason: self.reason };
        let expires = now.saturating_add(self.expires.as_secs());
        let list = ceremony::revocations(&root.unverified().installation, old.as_ref(), &revoke, now, expires)?;
        let list = ceremony::sign(list, &KeyFile::read(&self.key)?)?;
        write(&self.out, &list.to_bytes(), false)?;
        show_list(global, &list, Some(root.unverified()));
        Ok(ExitCode::SUCCESS)
    }
}
