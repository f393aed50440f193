use super::Global;
use clap::Args;
use preheat::{Reference, StoreError};
use std::process::ExitCode;

/// Remove names; `gc` then frees what nothing leads to any more
#[derive(Args)]
#[command(after_help = "Example:\n  preheat rm app:v1 app:v2 && preheat gc")]
pub(crate) struct Rm {
    /// Names to remove
    #[arg(required = true)]
    names: Vec<Reference>,
}

impl Rm {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = global.home()?.store()?;
        for name in &self.names {
            if name.name().is_none() {
                return Err(preheat::BuildError::Usage(format!("{name} is a digest; `gc` removes images that have no name")).into());
            }
            if !store.untag(name)? {
                return Err(StoreError::UnknownName(name.to_string()).into());
            }
        }
        if global.json {
            let names: Vec<_> = self.names.iter().filter_map(Reference::name).collect();
            crate::ui::print_json(&serde_json::json!({ "removed": names }));
        }
        Ok(ExitCode::SUCCESS)
    }
}
