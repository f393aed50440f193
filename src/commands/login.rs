use super::Global;
use crate::ui;
use anyhow::Context as _;
use clap::Args;
use preheat::remote::{CacheEntry, Remote, Settings};
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Remember a cache, how to reach it and what lets you in
#[derive(Args)]
#[command(
    after_help = "The token is read from standard input, or by each command from $PREHEAT_TOKEN or from the file of --token-file; never give it
as an argument, where every process of the machine can read it. What came from standard input is kept in credentials.json, readable by
you alone. A token is one of the cache, or the identity token of a CI job or a workload (OIDC).

Examples:
  preheat login cache.example < token.txt
  preheat login cache.example --builds --push < token.txt    `build` and `run` ask it and bring to it
  preheat login cache.example --ca-file ca.pem --identity-file me.pem --no-token
  preheat login cache.example --token-file /var/run/secrets/tokens/cache    a token that is replaced from time to time
  preheat login --forget cache.example"
)]
pub(crate) struct Login {
    /// The cache, host or host:port
    host: String,
    /// Its address, if it is not https://HOST
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Certificates of the authorities that may vouch for it, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// This client's certificate and private key, PEM in one file
    #[arg(long, value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// File that each command reads the token from, for one that is replaced from time to time; nothing is read from standard input
    #[arg(long, value_name = "FILE", conflicts_with = "no_token")]
    token_file: Option<PathBuf>,
    /// Let `build` and `run` ask this cache before they compile
    #[arg(long)]
    builds: bool,
    /// Let `build` bring to this cache what it compiled
    #[arg(long)]
    push: bool,
    /// Read no token: a certificate is shown, or $PREHEAT_TOKEN
    #[arg(long)]
    no_token: bool,
    /// Forget the cache and its token
    #[arg(long, conflicts_with_all = ["url", "ca_file", "identity_file", "token_file", "builds", "push", "no_token"])]
    forget: bool,
}

impl Login {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let mut settings = Settings::of(&home)?;
        if self.forget {
            let known = settings.forget(&self.host)?;
            return Ok(if known { ExitCode::SUCCESS } else { ExitCode::from(crate::exit::NOT_FOUND) });
        }
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let entry = CacheEntry {
            url: self.url,
            ca_file: self.ca_file.map(absolute),
            identity_file: self.identity_file.map(absolute),
            token_file: self.token_file.map(absolute),
            builds: self.builds || self.push,
            push: self.push,
            ..CacheEntry::new(&self.host)
        };
        let token = if self.no_token || entry.token_file.is_some() { None } else { Some(read_token(&self.host)?) };
        // What the cache refuses is not kept, and what was kept before stays.
        let config = settings.config_of(&entry, token.as_deref())?;
        let namespaces = Remote::new(&home)?.ask_at(config, async |cache| cache.namespaces().await)?;
        if token.is_some() || entry.token_file.is_some() {
            settings.set_token(&self.host, token.as_deref())?;
        }
        settings.set(entry)?;
        if global.json {
            ui::print_json(&serde_json::json!({ "host": self.host, "namespaces": namespaces }));
        } else {
            let names: Vec<&str> = namespaces.iter().map(|namespace| namespace.name.as_str()).collect();
            ui::say!("{} lets you see: {}", self.host, if names.is_empty() { "no namespace yet".into() } else { names.join(", ") });
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read_token(host: &str) -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        eprintln!("token for {host}, then Enter:");
    }
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        std::io::stdin().read_line(&mut text).context("can't read the token")?;
    } else {
        std::io::stdin().take(64 * 1024).read_to_string(&mut text).context("can't read the token from standard input")?;
    }
    let token = text.trim();
    anyhow::ensure!(!token.is_empty(), "no token on standard input; give one, or `--no-token`");
    Ok(token.to_owned())
}
