//! `token new|ls|revoke`: makes the tokens of a cache.

use crate::auth::Right;
use crate::auth::tokens::{self, NewToken, TokenRecord};
use crate::config::ServeArgs;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Make, list and revoke the tokens of a cache
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  preheat cache token new ci --namespace pr --right read --right write-blob --right write-key --expires 90d
  preheat cache token ls
  preheat cache token revoke 0f3a9c1b52d7e684

To replace a token, make a second one, give it to its holder, then revoke the first: both count meanwhile, and nothing has to restart.")]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand, Debug, Clone)]
enum TokenCommand {
    /// Make a token and print it, this once
    New(NewArgs),
    /// List tokens; their secrets are known to their holders only
    Ls(FileArgs),
    /// Make a token not count any more
    Revoke(RevokeArgs),
}

#[derive(Args, Debug, Clone)]
struct FileArgs {
    /// Directory of the cache [default: preheat-cache]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Settings of the cache, TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
struct NewArgs {
    /// What it is called in lists and logs
    name: String,
    /// A namespace where it counts, or `*` for all
    #[arg(long = "namespace", value_name = "NAMESPACE", required = true)]
    namespaces: Vec<String>,
    /// What its holder may do there
    #[arg(long = "right", value_name = "RIGHT", required = true)]
    rights: Vec<Right>,
    /// How long it counts: a number and `m`, `h` or `d`; for ever if not given
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Args, Debug, Clone)]
struct RevokeArgs {
    /// Its id, as `ls` shows it
    id: String,
    #[command(flatten)]
    file: FileArgs,
}

/// Does what `token` is asked for. What it makes and lists goes to standard output.
///
/// # Errors
/// When the file of tokens can't be read or written, or the token would have no meaning.
pub fn run_token(args: &TokenArgs, json: bool) -> anyhow::Result<()> {
    let text = execute(args, json, now())?;
    print!("{text}");
    Ok(())
}

fn execute(args: &TokenArgs, json: bool, now: u64) -> anyhow::Result<String> {
    match &args.command {
        TokenCommand::New(new) => {
            let expires = new.expires.map(|time| now.saturating_add(time.as_secs()));
            let wanted = NewToken { name: new.name.clone(), scopes: new.namespaces.clone(), rights: new.rights.clone(), expires };
            let (record, secret) = tokens::add(&new.file.path()?, wanted)?;
            Ok(match json {
                true => {
                    line(&serde_json::json!({ "id": record.id, "name": record.name, "token": secret.expose(), "expires": record.expires }))
                }
                false => format!("{}\n", secret.expose()),
            })
        }
        TokenCommand::Ls(file) => {
            let records = tokens::list(&file.path()?)?;
            Ok(match json {
                true => line(&records.iter().map(|record| row(record, now)).collect()),
                false => table(&records, now),
            })
        }
        TokenCommand::Revoke(revoke) => {
            let record = tokens::revoke(&revoke.file.path()?, &revoke.id)?;
            Ok(match json {
                true => line(&row(&record, now)),
                false => format!("revoked {} ({})\n", record.id, record.name),
            })
        }
    }
}

impl FileArgs {
    fn path(&self) -> anyhow::Result<PathBuf> {
        let args = ServeArgs { directory: self.directory.clone(), config: self.config.clone(), ..ServeArgs::default() };
        Ok(args.config().context("can't tell where the tokens are")?.tokens_file())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}

fn state(record: &TokenRecord, now: u64) -> &'static str {
    match record {
        record if record.revoked.is_some() => "revoked",
        record if record.expires.is_some_and(|expires| expires <= now) => "expired",
        record if record.not_before.is_some_and(|not_before| not_before > now) => "not yet",
        _ => "good",
    }
}

fn row(record: &TokenRecord, now: u64) -> serde_json::Value {
    serde_json::json!({
        "id": record.id,
        "name": record.name,
        "namespaces": record.scopes,
        "rights": record.rights,
        "created": record.created,
        "expires": record.expires,
        "state": state(record, now),
    })
}

fn table(records: &[TokenRecord], now: u64) -> String {
    let mut text = format!("{:<16}  {:<20}  {:<8}  {:<9}  {:<20}  RIGHTS\n", "ID", "NAME", "STATE", "ENDS IN", "NAMESPACES");
    for record in records {
        let ends = match record.expires {
            None => "never".to_owned(),
            Some(expires) => short(expires.saturating_sub(now)),
        };
        let rights: Vec<&str> = record.rights.iter().map(|right| right.as_str()).collect();
        text.push_str(&format!(
            "{:<16}  {:<20}  {:<8}  {ends:<9}  {:<20}  {}\n",
            record.id,
            record.name,
            state(record, now),
            record.scopes.join(","),
            rights.join(",")
        ));
    }
    text
}

fn short(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{} m", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time: expected a number and `m`, `h` or `d`, such as 90d");
    let unit = match text.chars().last() {
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        token: TokenArgs,
    }

    fn run(dir: &Path, json: bool, words: &[&str]) -> anyhow::Result<String> {
        let dir = dir.to_str().unwrap();
        let words = [&["token"], words, &["--directory", dir]].concat();
        execute(&Cli::try_parse_from(words)?.token, json, now())
    }

    #[test]
    fn a_token_is_made_listed_without_its_secret_and_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let new = ["new", "ci", "--namespace", "pr", "--right", "read", "--right", "write-blob", "--expires", "90d"];
        let token = run(dir.path(), false, &new).unwrap();
        let token = token.trim();
        let (_, secret) = token.split_at(token.len() - 43);
        let listed = run(dir.path(), false, &["ls"]).unwrap();
        let as_json = run(dir.path(), true, &["ls"]).unwrap();
        for text in [&listed, &as_json] {
            assert!(text.contains("write-blob") && text.contains("good") && text.contains("ci"), "{text}");
            assert!(!text.contains(secret), "{text}");
        }
        let rows: serde_json::Value = serde_json::from_str(&as_json).unwrap();
        let id = rows[0]["id"].as_str().unwrap();
        assert!(token.contains(id) && !as_json.contains("hash"));
        run(dir.path(), false, &["revoke", id]).unwrap();
        assert!(run(dir.path(), false, &["ls"]).unwrap().contains("revoked"));
        assert!(run(dir.path(), false, &["revoke", "nobody"]).is_err());
    }

    #[test]
    fn tokens_need_a_namespace_a_right_and_a_time_that_is_one() {
        let dir = tempfile::tempdir().unwrap();
        for words in [
            vec!["new", "ci", "--namespace", "pr"],
            vec!["new", "ci", "--right", "read"],
            vec!["new", "ci", "--namespace", "pr", "--right", "root"],
            vec!["new", "ci", "--namespace", "../pr", "--right", "read"],
            vec!["new", "ci", "--namespace", "pr", "--right", "read", "--expires", "90"],
            vec!["new", "ci", "--namespace", "pr", "--right", "read", "--expires", "0d"],
            vec!["new", "ci", "--namespace", "pr", "--right", "read", "--expires", "99999999999999999999d"],
            vec!["new", "ci", "--namespace", "pr", "--right", "read", "--expires", "9ä"],
            vec!["revoke"],
        ] {
            assert!(run(dir.path(), false, &words).is_err(), "{words:?}");
        }
        assert!(!dir.path().join("tokens.json").exists());
    }
}
