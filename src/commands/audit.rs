use super::Global;
use crate::{exit, ui};
use clap::Args;
use preheat::Rebuild;
use preheat::store::Affected;
use preheat_image::statement::Kind;
use serde_json::json;
use std::process::ExitCode;

/// List what in the store is revoked, or was made by builders whose time is over
#[derive(Args)]
#[command(after_help = "Ends with 122 when something is affected. What is affected does not load; code that a revoked key made and that a
trusted builder took into an image still does, and is listed for that.

Example:
  preheat audit || preheat rebuild --revoked --dry-run")]
pub(crate) struct Audit {}

/// What people read first: the names, or the digest where there are none.
pub(super) fn label(affected: &Affected) -> String {
    let kind = match affected.kind {
        Kind::Image => "image",
        Kind::CodeObject => "code ",
    };
    let names: Vec<String> = affected.names.iter().map(|name| name.escape_debug().to_string()).collect();
    format!("{kind} {}{}{}", affected.digest, if names.is_empty() { "" } else { " " }, names.join(" "))
}

pub(super) fn shown(affected: &Affected, rebuild: &Result<(), String>) -> serde_json::Value {
    json!({ "digest": affected.digest, "kind": affected.kind, "names": affected.names, "refusal": affected.refusal.to_string(),
            "part": affected.part, "canRebuild": rebuild.is_ok(), "whyNot": rebuild.as_ref().err() })
}

impl Audit {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let rebuild = Rebuild::new(&global.home()?)?;
        let audit = rebuild.audit();
        if global.json {
            let affected: Vec<_> = audit.affected.iter().map(|affected| shown(affected, &rebuild.check(affected))).collect();
            ui::print_json(
                &json!({ "images": audit.images, "codeObjects": audit.objects, "unknown": audit.unknown, "affected": affected }),
            );
        } else {
            for affected in &audit.affected {
                ui::say!("{}", label(affected));
                match &affected.part {
                    Some(part) => ui::say!("      of it, {part}: {}", affected.refusal),
                    None => ui::say!("      {}", affected.refusal),
                }
                match rebuild.check(affected) {
                    Ok(()) => ui::say!("      can be built again: `preheat rebuild --revoked`"),
                    Err(why) => ui::say!("      can't be built again from here: {why}"),
                }
            }
            ui::say!("{} images and {} code objects: {} affected", audit.images, audit.objects, audit.affected.len());
            if audit.unknown > 0 {
                ui::say!("{} are vouched for only by builders whom the trust policy does not know", audit.unknown);
            }
        }
        Ok(if audit.affected.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::REFUSED) })
    }
}
