use super::Global;
use super::key::parse_public;
use crate::ui;
use clap::{Args, Subcommand};
use preheat::remote::Remote;
use preheat::trust::{self, Builder, RootEntry, Stale, TrustPolicy};
use preheat::{Digest, Home, NewRoot, StoreError, TrustError, TrustUpdate};
use preheat_image::keys::KeyId;
use preheat_image::revocation::SignedRevocations;
use preheat_image::root::SignedRoot;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Say whose images may be loaded
#[derive(Args)]
#[command(
    after_help = "Nothing is ever trusted because it was pulled: only what is added here, and what roots that were added here delegate.

Examples:
  preheat trust add root.json --host cache.example --fingerprint sha256:4f2a…
  preheat trust add --from cache.example --fingerprint sha256:4f2a…
  preheat trust add --builder ci BASE64 --namespace team --namespace prod
  preheat trust ls
  preheat trust rm ci
  preheat trust revoke --build-id 5b1e…"
)]
pub(crate) struct Trust {
    #[command(subcommand)]
    command: TrustCommand,
}

#[derive(Subcommand)]
enum TrustCommand {
    Add(Add),
    Ls(Ls),
    Rm(Rm),
    Revoke(Revoke),
    Update(Update),
    Import(Import),
}

/// Trust an installation's root, and so the builders and namers that it delegates; or one builder
#[derive(Args)]
#[command(after_help = "Get the root's fingerprint from its operator, by another way than the file, and give it with --fingerprint.")]
struct Add {
    /// The root's file
    #[arg(required_unless_present_any = ["builder", "from"], conflicts_with_all = ["builder", "from"])]
    file: Option<PathBuf>,
    /// Get the root from this cache, for whose names it then speaks. Needs --fingerprint: the cache itself is not to be believed
    #[arg(long, value_name = "HOST[:PORT]", requires = "fingerprint", conflicts_with = "builder")]
    from: Option<String>,
    /// What to call the root here [default: the installation's name]
    #[arg(long, conflicts_with = "builder")]
    name: Option<String>,
    /// Cache, such as cache.example or localhost:8080, for whose names the root speaks; repeatable
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "builder")]
    host: Vec<String>,
    /// Refuse a root with another fingerprint
    #[arg(long, value_name = "DIGEST", conflicts_with = "builder")]
    fingerprint: Option<Digest>,
    /// Go on with the root's builders when its revocation list is out of date: for machines that are offline for long
    #[arg(long, conflicts_with = "builder")]
    allow_stale: bool,
    /// Trust a builder: what to call it, and its public key in base64 or its key file
    #[arg(long, num_args = 2, value_names = ["NAME", "KEY"], requires = "namespace")]
    builder: Option<Vec<String>>,
    /// Namespace for which the builder may speak, `*` for all; repeatable
    #[arg(long, value_name = "NAME", requires = "builder")]
    namespace: Vec<String>,
    /// End to trust the builder after this time, such as 90d
    #[arg(long, value_name = "TIME", value_parser = ui::parse_time, requires = "builder")]
    expires: Option<Duration>,
}

/// List roots, builders and revocations
#[derive(Args)]
struct Ls {}

/// End to trust a root, or a builder that was added by hand
#[derive(Args)]
#[command(after_help = "What a root revoked goes with it, as does what is remembered of the names at its caches.")]
struct Rm {
    /// Name of a root or builder, or the id of a builder's key
    name: String,
}

/// Revoke something in this home, whoever vouches for it; `preheat root revoke` does it for an installation
#[derive(Args)]
#[command(after_help = "It counts at the next load, also for what is in the store already: `preheat audit` shows what that is.

Examples:
  preheat trust revoke --build-id 5b1e…      a compiler that was wrong (`preheat doctor --json`, `preheat inspect --json`)
  preheat trust revoke --source sha256:4f2a…
  preheat trust revoke --source sha256:4f2a… --undo")]
struct Revoke {
    /// Build of a compiler; repeatable
    #[arg(long, value_name = "ID", required_unless_present_any = ["key_id", "source", "blob"])]
    build_id: Vec<String>,
    /// Builder's key by its id, its base64 or its file; repeatable
    #[arg(long, value_name = "KEY", value_parser = super::root::parse_key_id)]
    key_id: Vec<KeyId>,
    /// Digest of a Wasm source; repeatable
    #[arg(long, value_name = "DIGEST")]
    source: Vec<Digest>,
    /// Digest of a blob or an image; repeatable
    #[arg(long, value_name = "DIGEST")]
    blob: Vec<Digest>,
    /// Take it back: it counts as before. What a root revoked stays so
    #[arg(long)]
    undo: bool,
}

/// Take over later roots and revocation lists from caches
#[derive(Args)]
#[command(after_help = "Each must follow what is trusted already: nothing is trusted anew. Every pull does the same on its way.

Example:
  preheat trust update")]
struct Update {
    /// The caches; all for which a root speaks if none is given
    hosts: Vec<String>,
}

/// Take over later roots and revocation lists from files, on a machine without network
#[derive(Args)]
#[command(after_help = "Each must follow what is trusted already: nothing is trusted anew.

Example:
  preheat trust import 2.root.json 3.root.json revocations.json")]
struct Import {
    /// Roots, in their order, and revocation lists
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The root that they follow, if several are trusted
    #[arg(long, value_name = "NAME")]
    root: Option<String>,
}

impl Trust {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        match self.command {
            TrustCommand::Add(command) => command.execute(global, &home),
            TrustCommand::Ls(Ls {}) => ls(global, &home),
            TrustCommand::Rm(command) => command.execute(global, &home),
            TrustCommand::Revoke(command) => command.execute(global, &home),
            TrustCommand::Update(command) => command.execute(global, &home),
            TrustCommand::Import(command) => command.execute(global, &home),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| preheat::BuildError::Read { path: path.to_owned(), source }.into())
}

/// Adds or removes all of `some`, and says how many of them that changed.
fn change<T: Ord + Clone>(all: &mut BTreeSet<T>, some: Vec<T>, remove: bool) -> usize {
    some.into_iter().filter(|one| if remove { all.remove(one) } else { all.insert(one.clone()) }).count()
}

impl Revoke {
    fn execute(self, global: &Global, home: &Home) -> anyhow::Result<ExitCode> {
        let Self { build_id, key_id, source, blob, undo } = self;
        // An empty one is that of code that no compiler made.
        if build_id.iter().any(String::is_empty) {
            return Err(TrustError::Usage("the build of a compiler is not empty".into()).into());
        }
        let changed = home.change_trust(|policy| {
            let revoked = &mut policy.revoked;
            let keys = change(&mut revoked.keys, key_id, undo) + change(&mut revoked.build_ids, build_id, undo);
            Ok::<_, StoreError>(keys + change(&mut revoked.sources, source, undo) + change(&mut revoked.blobs, blob, undo))
        })?;
        if global.json {
            ui::print_json(&json!({ "changed": changed }));
        } else {
            ui::say!("{changed} {}", if undo { "not revoked here any more" } else { "revoked here" });
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    fn execute(self, global: &Global, home: &Home) -> anyhow::Result<ExitCode> {
        let now = trust::now();
        if let Some([name, key]) = self.builder.as_deref() {
            let key = parse_public(key).map_err(TrustError::Usage)?;
            let namespaces: Vec<&str> = self.namespace.iter().map(String::as_str).collect();
            let expires = self.expires.map(|span| now.saturating_add(span.as_secs()));
            let builder = Builder { expires, ..Builder::new(name, key, &namespaces) };
            home.add_builder(builder.clone())?;
            let shown = shown_builder(&TrustPolicy::default(), &builder, now);
            if global.json {
                ui::print_json(&shown)
            } else {
                ui::say!("trusted  {} ({})", builder.name.escape_debug(), builder.key.id())
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut hosts = self.host;
        let bytes = match (&self.file, &self.from) {
            (Some(file), _) => read(file)?,
            (None, Some(from)) => {
                if !hosts.contains(from) {
                    hosts.push(from.clone());
                }
                root_of(home, from, self.fingerprint.as_ref())?
            }
            (None, None) => return Err(TrustError::Usage("a root's file is needed, or --from".into()).into()),
        };
        let stale = if self.allow_stale { Stale::Allow } else { Stale::Refuse };
        let told = self.fingerprint.is_some();
        let new = NewRoot { name: self.name, hosts, stale, fingerprint: self.fingerprint };
        let mut trusted = home.add_root(&new, &bytes, now)?;
        if let Some(from) = &self.from {
            // What followed since, and what is revoked.
            trusted = Remote::new(home)?.update_trust(from)?;
        }
        if global.json {
            ui::print_json(&shown_root(&trusted.entry, now));
            return Ok(ExitCode::SUCCESS);
        }
        ui::say!("trusted      {}", trusted.entry.name);
        ui::say!("fingerprint  {}", trusted.entry.id);
        if !told {
            ui::say!("             compare it with what the operator says; if it differs, `preheat trust rm {}`", trusted.entry.name);
        }
        for line in super::root::delegations(&trusted.root) {
            ui::say!("             {line}");
        }
        if let Err(refusal) = trusted.entry.check_at(now) {
            ui::say!("note         {refusal}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The root of a cache with this fingerprint. It may not be the latest: the fingerprint that people were told stays good.
fn root_of(home: &Home, host: &str, fingerprint: Option<&Digest>) -> anyhow::Result<Vec<u8>> {
    let remote = Remote::new(home)?;
    let latest = remote.ask(host, async |cache| cache.root().await)?.ok_or_else(|| TrustError::Usage(format!("{host} has no root yet")))?;
    let mut found = latest.clone();
    while fingerprint.is_some_and(|fingerprint| found.digest() != *fingerprint) {
        let before = found.unverified().number - 1;
        match remote.ask(host, async |cache| if before == 0 { Ok(None) } else { cache.root_number(before).await })? {
            Some(older) => found = older,
            // None of them: the latest is what the error is about.
            None => return Ok(latest.to_bytes()),
        }
    }
    Ok(found.to_bytes())
}

impl Update {
    fn execute(self, global: &Global, home: &Home) -> anyhow::Result<ExitCode> {
        let hosts = if self.hosts.is_empty() { home.trust()?.roots.into_iter().flat_map(|root| root.hosts).collect() } else { self.hosts };
        let (remote, now) = (Remote::new(home)?, trust::now());
        let mut shown = Vec::new();
        for host in &hosts {
            let trusted = remote.update_trust(host)?;
            if !global.json {
                let list = trusted.entry.revocations.as_ref().map_or_else(|| "none".to_owned(), |list| list.number.to_string());
                ui::say!("{host}: root {} has number {}, its revocation list {list}", trusted.entry.name, trusted.entry.number);
            }
            shown.push(shown_root(&trusted.entry, now));
        }
        if global.json {
            ui::print_json(&json!({ "roots": shown }));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn shown_builder(policy: &TrustPolicy, builder: &Builder, now: u64) -> serde_json::Value {
    let root = builder.root.as_ref().and_then(|id| policy.root(id)).map(|root| root.name.clone());
    let revoked = policy.revokes_key(&builder.key.id());
    let refusal = policy.check_builder_at(builder, now).err().map(|refusal| refusal.to_string());
    json!({ "name": builder.name, "id": builder.key.id(), "public": builder.key, "namespaces": builder.namespaces,
            "expires": builder.expires, "root": root, "revoked": revoked, "counts": refusal.is_none() && !revoked, "refusal": refusal })
}

fn shown_root(root: &RootEntry, now: u64) -> serde_json::Value {
    let refusal = root.check_at(now).err().map(|refusal| refusal.to_string());
    let list = root.revocations.as_ref().map(|list| {
        let revoked = &list.revoked;
        json!({ "number": list.number, "issued": list.issued, "expires": list.expires, "keys": revoked.keys,
                "buildIds": revoked.build_ids, "sources": revoked.sources, "blobs": revoked.blobs })
    });
    json!({ "name": root.name, "fingerprint": root.id, "number": root.number, "expires": root.expires, "hosts": root.hosts,
            "stale": root.stale, "revocations": list, "counts": refusal.is_none(), "refusal": refusal })
}

fn ls(global: &Global, home: &Home) -> anyhow::Result<ExitCode> {
    let (policy, now) = (home.trust()?, trust::now());
    if global.json {
        let roots: Vec<_> = policy.roots.iter().map(|root| shown_root(root, now)).collect();
        let builders: Vec<_> = policy.builders.iter().map(|builder| shown_builder(&policy, builder, now)).collect();
        ui::print_json(&json!({ "roots": roots, "builders": builders, "revoked": policy.revoked }));
        return Ok(ExitCode::SUCCESS);
    }
    for root in &policy.roots {
        let hosts = if root.hosts.is_empty() { "no cache".to_owned() } else { root.hosts.join(", ") };
        ui::say!("root {} (number {}, for {hosts}) until {}", root.name, root.number, ui::date(root.expires));
        ui::say!("  fingerprint {}", root.id);
        match &root.revocations {
            Some(list) => {
                ui::say!("  revocation list {} of {}, fresh until {}", list.number, ui::date(list.issued), ui::date(list.expires))
            }
            None => ui::say!("  no revocation list"),
        }
        if let Err(refusal) = root.check_at(now) {
            ui::say!("  does not count: {refusal}");
        }
    }
    let mut rows = vec![["BUILDER", "KEY", "NAMESPACES", "UNTIL", "FROM"].map(str::to_owned).to_vec()];
    for builder in &policy.builders {
        let root = builder.root.as_ref().and_then(|id| policy.root(id)).map_or("by hand", |root| root.name.as_str());
        let mut until = builder.expires.map_or_else(|| "no end".to_owned(), ui::date);
        if builder.expires.is_some_and(|expires| now >= expires) {
            until.push_str(" (over)");
        }
        if policy.revokes_key(&builder.key.id()) {
            until.push_str(" (revoked)");
        }
        let name = builder.name.escape_debug().to_string();
        rows.push(vec![name, builder.key.id().to_string(), builder.namespaces.join(","), until, root.to_owned()]);
    }
    ui::print(&ui::table(&rows));
    let lists = policy.roots.iter().filter_map(|root| root.revocations.as_ref()).map(|list| &list.revoked);
    for revoked in std::iter::once(&policy.revoked).chain(lists) {
        revoked.keys.iter().for_each(|key| ui::say!("revoked key     {key}"));
        revoked.build_ids.iter().for_each(|id| ui::say!("revoked build   {}", id.escape_debug()));
        revoked.sources.iter().for_each(|source| ui::say!("revoked source  {source}"));
        revoked.blobs.iter().for_each(|blob| ui::say!("revoked blob    {blob}"));
    }
    Ok(ExitCode::SUCCESS)
}

impl Rm {
    fn execute(self, global: &Global, home: &Home) -> anyhow::Result<ExitCode> {
        let kind = match home.remove_root(&self.name) {
            Ok(_) => "root",
            Err(TrustError::Unknown(_)) => {
                home.remove_builder(&self.name)?;
                "builder"
            }
            Err(error) => return Err(error.into()),
        };
        if global.json {
            ui::print_json(&json!({ "removed": self.name, "kind": kind }));
        } else {
            ui::say!("{kind} {} is not trusted any more", self.name.escape_debug());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    fn execute(self, global: &Global, home: &Home) -> anyhow::Result<ExitCode> {
        let (mut roots, mut lists, mut installation) = (Vec::new(), Vec::new(), None);
        for file in &self.files {
            let bytes = read(file)?;
            let wrong = |source| preheat::StoreError::Format { path: file.clone(), source };
            if let Ok(list) = SignedRevocations::parse(&bytes) {
                installation = Some(list.unverified().installation.clone());
                lists.push(bytes);
            } else {
                installation = Some(SignedRoot::parse(&bytes).map_err(wrong)?.unverified().installation.clone());
                roots.push(bytes);
            }
        }
        // The root is looked up by what it is called here; by default that is the installation's name.
        let name = self.root.or(installation).unwrap_or_default();
        let id = home.trusted_root(&name)?.entry.id;
        let now = trust::now();
        let mut trusted = home.update_trust(&id, &TrustUpdate { roots, revocations: None }, now)?;
        for list in lists {
            trusted.entry.revocations = Some(home.update_revocations(&id, &list, now)?);
        }
        if global.json {
            ui::print_json(&shown_root(&trusted.entry, now));
        } else {
            let list = trusted.entry.revocations.as_ref().map_or_else(|| "none".to_owned(), |list| list.number.to_string());
            ui::say!("root {} has number {}, its revocation list {list}", trusted.entry.name, trusted.entry.number);
        }
        Ok(ExitCode::SUCCESS)
    }
}
