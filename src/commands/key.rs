use super::Global;
use crate::ui;
use clap::{Args, Subcommand};
use preheat::{CommandSigner, KeyFile, trust};
use preheat_image::keys::{PublicKey, Signer as _};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Make, show and exchange keys that sign
#[derive(Args)]
#[command(after_help = "Examples:
  preheat key show                                      who this builder is
  preheat key rotate --overlap 30d                      a new builder's key; the old one counts for 30 days more
  preheat key new --out namer.json                      a key for another role
  preheat key new --out kms.json --public BASE64 -- /usr/local/bin/kms-sign --key 7")]
pub(crate) struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    New(New),
    Show(Show),
    Rotate(Rotate),
}

/// Make a key file: with a new key in it, or with the command that signs with a key somewhere else
#[derive(Args)]
#[command(after_help = "The command gets the bytes to be signed on standard input and answers with the 64 bytes of an ed25519
signature, as they are or in base64, within 30 seconds. It is asked once here, to see that it has the key.")]
struct New {
    /// File to make; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Public key of the command, in base64
    #[arg(long, value_name = "BASE64", value_parser = parse_public, requires = "command")]
    public: Option<PublicKey>,
    /// Command that signs
    #[arg(last = true, value_name = "COMMAND", requires = "public")]
    command: Vec<String>,
}

/// Show the public half of a key: never the secret one
#[derive(Args)]
struct Show {
    /// Key file [default: this builder's]
    file: Option<PathBuf>,
}

/// Give this builder another key
#[derive(Args)]
#[command(after_help = "What the old key signed counts on this machine until the overlap is over; `preheat rebuild --revoked` builds again
what it leaves behind. The old key's file is kept under keys/retired/. Other machines must come to trust the new key:
by the next root (`preheat root delegate`), or by `preheat trust add --builder`.")]
struct Rotate {
    /// How long what the old key signed counts on
    #[arg(long, value_name = "TIME", value_parser = ui::parse_time, default_value = "30d")]
    overlap: Duration,
    /// Key file to take instead of a new key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Reads a public key: in base64, or of a key file.
pub(super) fn parse_public(text: &str) -> Result<PublicKey, String> {
    if let Ok(key) = PublicKey::from_base64(text) {
        return Ok(key);
    }
    match KeyFile::read(Path::new(text)) {
        Ok(file) => Ok(file.public()),
        Err(error) if error.is_missing() => Err("neither the base64 of a public key nor a key file".into()),
        Err(error) => Err(error.to_string()),
    }
}

impl Key {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.command {
            KeyCommand::New(command) => command.execute(global),
            KeyCommand::Show(command) => command.execute(global),
            KeyCommand::Rotate(command) => command.execute(global),
        }
    }
}

fn show(global: &Global, path: &Path, key: &KeyFile) {
    let public = key.public();
    let command = matches!(key, KeyFile::Command(_));
    if global.json {
        ui::print_json(&json!({ "id": public.id(), "public": public, "file": path, "command": command }));
    } else {
        ui::say!("id      {}\npublic  {}", public.id(), public.to_base64());
        ui::say!("file    {}{}", path.display(), if command { " (a command has the secret)" } else { "" });
    }
}

impl New {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let key = match self.public {
            None => KeyFile::generate()?,
            Some(public) => {
                let signer = CommandSigner::new(public, self.command)?;
                signer.sign(b"preheat: is this the key?")?;
                KeyFile::Command(signer)
            }
        };
        key.write_new(&self.out)?;
        show(global, &self.out, &key);
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let path = match self.file {
            Some(file) => file,
            None => global.home()?.root().join("keys/builder.json"),
        };
        show(global, &path, &KeyFile::read(&path)?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Rotate {
    fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let key = match &self.key {
            Some(file) => KeyFile::read(file)?,
            None => KeyFile::generate()?,
        };
        let rotated = global.home()?.rotate_key(&key, self.overlap.as_secs(), trust::now())?;
        if global.json {
            ui::print_json(&json!({
                "old": rotated.old.id(), "oldExpires": rotated.old_expires, "retired": rotated.retired,
                "id": rotated.new.id(), "public": rotated.new, "delegated": rotated.delegated,
            }));
            return Ok(ExitCode::SUCCESS);
        }
        ui::say!("id      {}\npublic  {}", rotated.new.id(), rotated.new.to_base64());
        ui::say!("before  {}, counts until {}", rotated.old.id(), ui::date(rotated.old_expires));
        if rotated.delegated {
            ui::say!(
                "note    a root delegates the old key: have it delegate the new one, or others do not trust what is built from now on"
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
