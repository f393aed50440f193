use super::Global;
use crate::ui;
use clap::Args;
use preheat::{Store, StoreError};
use preheat_image::statement::Envelope;
use preheat_image::{Digest, KeyFields};
use serde_json::json;
use std::process::ExitCode;

/// Say in which fields the keys of two builds differ
#[derive(Args)]
#[command(after_help = "Keys and digests are shown by `build --json` and `inspect`. Ends with 1 when they differ.\n\nExample:
  preheat diff-key app:v1 app:v2")]
pub(crate) struct DiffKey {
    /// Name or digest of an image, digest of a code object, or a build key
    one: String,
    /// The other
    other: String,
}

impl DiffKey {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = global.home()?.store()?;
        let (one, other) = (fields(&store, &self.one)?, fields(&store, &self.other)?);
        let differences = one.differences(&other);
        if global.json {
            let rows: Vec<_> = differences.iter().map(|(name, one, other)| json!({ "field": name, "one": one, "other": other })).collect();
            ui::print_json(&json!({ "one": one.key(), "other": other.key(), "differences": rows }));
        } else if differences.is_empty() {
            ui::say!("the same key: {}", one.key());
        } else {
            for (name, one, other) in &differences {
                ui::say!("{name}\n  - {}\n  + {}", one.unwrap_or("(absent)"), other.unwrap_or("(absent)"));
            }
        }
        Ok(ExitCode::from(u8::from(!differences.is_empty())))
    }
}

/// The fields of what `text` names, out of the statement about it.
fn fields(store: &Store, text: &str) -> Result<KeyFields, StoreError> {
    let as_key = text.parse::<Digest>().ok().map(|key| store.built(&key)).transpose()?.flatten();
    let record = match as_key {
        Some(record) => record,
        None => {
            let digest = store.resolve_text(text)?;
            store.entry(&digest)?.ok_or(StoreError::Missing(digest))?
        }
    };
    let signed = record.statements.first().ok_or(StoreError::Missing(record.subject))?;
    let bytes = store.read_blob(&signed.statement, preheat_image::statement::MAX_SIZE)?;
    let envelope = Envelope::parse(&bytes).map_err(|source| StoreError::Statement { subject: record.subject, source })?;
    Ok(envelope.unverified().fields.clone())
}
