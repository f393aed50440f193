use super::Global;
use crate::{exit, ui};
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use preheat::remote::{CacheEntry, Remote, Settings};
use preheat::{Home, KeyFile, NewRoot, ceremony, trust};
use preheat_image::api::{NamespaceConfig, NamespaceKind};
use preheat_image::keys::Signer as _;
use preheat_image::revocation::SignedRevocations;
use preheat_image::root::{Delegation, Role, SignedRoot};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Run a shared cache, and look after one
#[derive(Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Subcommand)]
enum CacheCommand {
    /// Run a shared cache that builders push to and nodes pull from
    Serve(preheat_cache_server::ServeArgs),
    Token(preheat_cache_server::TokenArgs),
    Init(Init),
    Publish(Publish),
    Namespace(Namespace),
    Collect(Collect),
}

impl Cache {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.command {
            CacheCommand::Serve(args) => preheat_cache_server::run(args, global.json).map(|()| ExitCode::SUCCESS),
            CacheCommand::Token(args) => preheat_cache_server::run_token(&args, global.json).map(|()| ExitCode::SUCCESS),
            CacheCommand::Init(command) => command.execute(global),
            CacheCommand::Publish(command) => command.execute(global),
            CacheCommand::Namespace(command) => command.execute(global),
            CacheCommand::Collect(command) => command.execute(global),
        }
    }
}

/// Set up a new cache whose only root key is here: the short way, for one person or one team
///
/// Makes keys/root.json and keys/namer.json in the store's directory, a root that lets this builder build and the namer name, and brings the
/// root to the cache. Whoever has keys/root.json decides whom all readers trust: move it to another machine, or hold a ceremony with
/// several keys instead (`preheat root`).
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat login 127.0.0.1:7433 < admin-token\n  preheat cache init 127.0.0.1:7433")]
struct Init {
    /// The cache; `preheat login` to it first, with an admin's token
    host: String,
    /// Name of the installation
    #[arg(long, value_name = "NAME", default_value = "home")]
    installation: String,
    /// Namespaces that this builder builds for and the namer names; made where they are not there
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = preheat_image::reference::DEFAULT_NAMESPACE)]
    namespace: Vec<String>,
    /// How long the root and what it delegates count
    #[arg(long, value_name = "TIME", value_parser = ui::parse_time, default_value = "365d")]
    expires: Duration,
}

/// The key in a file of the home, made if it is not there.
fn key(home: &Home, name: &str) -> anyhow::Result<KeyFile> {
    let path = home.root().join("keys").join(name);
    match KeyFile::read(&path) {
        Err(error) if error.is_missing() => {
            let key = KeyFile::generate()?;
            home.write_file(&format!("keys/{name}"), &key.to_bytes(), 0o600)?;
            Ok(key)
        }
        read => Ok(read?),
    }
}

impl Init {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let remote = Remote::new(&home)?;
        if let Some(root) = remote.ask(&self.host, async |cache| cache.root().await)? {
            anyhow::bail!(
                "{} has a root already, of `{}`; to trust it: `preheat trust add --from {} --fingerprint …`",
                self.host,
                root.unverified().installation,
                self.host
            );
        }
        let builder = home.builder_signer()?.public();
        let (root_key, namer) = (key(&home, "root.json")?, key(&home, "namer.json")?);
        let now = trust::now();
        let expires = now.saturating_add(self.expires.as_secs());
        let first = ceremony::first_root(&self.installation, vec![root_key.public()], 1, now, expires)?;
        let mut document = first.unverified().clone();
        for (role, name, key) in [(Role::Builder, "builder", builder), (Role::Namer, "namer", namer.public())] {
            document.delegations.push(Delegation { role, name: name.into(), key, namespaces: self.namespace.clone(), expires });
        }
        let root = ceremony::sign(SignedRoot::new(document)?, &root_key)?;
        remote.ask(&self.host, async |cache| {
            for namespace in &self.namespace {
                if cache.namespace(namespace).await?.is_none() {
                    cache.put_namespace(namespace, &NamespaceConfig::new(NamespaceKind::Preheat)).await?;
                }
            }
            cache.put_root(&root).await
        })?;
        let new = NewRoot { name: None, hosts: vec![self.host.clone()], stale: trust::Stale::Refuse, fingerprint: Some(root.digest()) };
        home.add_root(&new, &root.to_bytes(), now)?;
        let mut settings = Settings::of(&home)?;
        let known = settings.cache(&self.host);
        settings.set(CacheEntry { builds: true, ..known })?;
        if global.json {
            ui::print_json(
                &json!({ "host": self.host, "installation": self.installation, "fingerprint": root.digest(), "expires": expires }),
            );
        } else {
            ui::say!("{} has its root. On every machine that shall run what is built here:", self.host);
            ui::say!("  preheat trust add --from {} --fingerprint {}", self.host, root.digest());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Bring a signed root or revocation list to a cache
#[derive(Args)]
#[command(
    after_help = "Examples:\n  preheat cache publish cache.example root.json\n  preheat cache publish cache.example revocations.json"
)]
struct Publish {
    /// The cache
    host: String,
    /// Root or revocation list, as `preheat root` makes them
    file: PathBuf,
}

impl Publish {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let bytes = std::fs::read(&self.file).with_context(|| format!("can't read {}", self.file.display()))?;
        let remote = Remote::new(&global.home()?)?;
        let (kind, number) = match (SignedRoot::parse(&bytes), SignedRevocations::parse(&bytes)) {
            (Ok(root), _) => {
                remote.ask(&self.host, async |cache| cache.put_root(&root).await)?;
                ("root", root.unverified().number)
            }
            (Err(_), Ok(list)) => {
                remote.ask(&self.host, async |cache| cache.put_revocations(&list).await)?;
                ("revocations", list.unverified().number)
            }
            (Err(root), Err(list)) => {
                eprintln!("preheat: {} is neither a root ({root}) nor a revocation list ({list})", self.file.display());
                return Ok(ExitCode::from(exit::BAD_INPUT));
            }
        };
        if global.json {
            ui::print_json(&json!({ "host": self.host, "kind": kind, "number": number }));
        } else {
            ui::say!("{} has {kind} number {number}", self.host);
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    Preheat,
    Raw,
}

/// Show, make or change a namespace of a cache
#[derive(Args)]
#[command(after_help = "Examples:
  preheat cache namespace cache.example                          list them
  preheat cache namespace cache.example ccache --kind raw        for ccache, Bazel and others
  preheat cache namespace cache.example pr-17 --base team        reads `team`, writes nothing into it
  preheat cache namespace cache.example pr-17 --remove")]
struct Namespace {
    /// The cache
    host: String,
    /// The namespace
    name: Option<String>,
    /// Make it, of this kind
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
    /// Make it an overlay over this namespace
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Let everybody read it, if the service allows such namespaces
    #[arg(long)]
    anonymous_read: bool,
    /// Most bytes that it may hold
    #[arg(long, value_parser = ui::parse_size, value_name = "SIZE")]
    max_bytes: Option<u64>,
    /// Remove it
    #[arg(long, conflicts_with_all = ["kind", "base", "anonymous_read", "max_bytes"])]
    remove: bool,
}

impl Namespace {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(&global.home()?)?;
        let Some(name) = self.name else {
            let all = remote.ask(&self.host, async |cache| cache.namespaces().await)?;
            if global.json {
                ui::print_json(&json!({ "namespaces": all }));
            } else {
                let rows: Vec<_> = all
                    .iter()
                    .map(|row| {
                        vec![row.name.clone(), format!("{:?}", row.config.kind).to_lowercase(), row.config.base.clone().unwrap_or_default()]
                    })
                    .collect();
                ui::print(&ui::table(&rows));
            }
            return Ok(ExitCode::SUCCESS);
        };
        if self.remove {
            remote.ask(&self.host, async |cache| cache.delete_namespace(&name).await)?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.kind.is_some() || self.base.is_some() || self.anonymous_read || self.max_bytes.is_some() {
            let kind = match self.kind {
                Some(KindArg::Raw) => NamespaceKind::Raw,
                _ => NamespaceKind::Preheat,
            };
            let old = remote.ask(&self.host, async |cache| cache.namespace(&name).await)?;
            let mut config = old.unwrap_or_else(|| NamespaceConfig::new(kind));
            config.base = self.base.or(config.base);
            config.anonymous_read |= self.anonymous_read;
            config.max_bytes = self.max_bytes.or(config.max_bytes);
            remote.ask(&self.host, async |cache| cache.put_namespace(&name, &config).await)?;
        }
        let config = remote.ask(&self.host, async |cache| cache.namespace(&name).await)?;
        let config = config.with_context(|| format!("{} has no namespace `{name}`; make it with --kind", self.host))?;
        ui::say!("{}", json!({ "name": name, "config": config }));
        Ok(ExitCode::SUCCESS)
    }
}

/// Remove from a namespace what no name and no lease holds
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat cache collect cache.example team --dry-run")]
struct Collect {
    /// The cache
    host: String,
    /// The namespace
    name: String,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

impl Collect {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(&global.home()?)?;
        let report = remote.ask(&self.host, async |cache| cache.collect(&self.name, self.dry_run).await)?;
        if global.json {
            ui::print_json(&json!(report));
        } else {
            let what = if report.dry_run { "would remove" } else { "removed" };
            ui::say!("{what} {} of {} blobs, {}", report.removed, report.seen, ui::bytes(report.removed_bytes));
            ui::say!("{} are held; {} stay", report.held, ui::bytes(report.kept_bytes));
        }
        Ok(ExitCode::SUCCESS)
    }
}
