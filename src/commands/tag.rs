use super::Global;
use clap::Args;
use preheat::Reference;
use std::process::ExitCode;

/// Give an image a name, or pin it
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat tag app:v1 app:stable\n  preheat tag sha256:4f2a… team/app:v2\n  preheat tag app:v1 --pin")]
pub(crate) struct Tag {
    /// Name or digest of an image
    image: String,
    /// The new name; a name that leads elsewhere is moved
    #[arg(required_unless_present_any = ["pin", "unpin"])]
    name: Option<Reference>,
    /// Protect the image from eviction and collection
    #[arg(long, conflicts_with = "unpin")]
    pin: bool,
    /// Let the image go again
    #[arg(long)]
    unpin: bool,
}

impl Tag {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = global.home()?.store()?;
        let digest = store.resolve_text(&self.image)?;
        if let Some(name) = &self.name {
            if name.name().is_none() {
                return Err(preheat::BuildError::Usage("a name is needed, not a digest".into()).into());
            }
            store.tag(name, &digest)?;
        }
        if self.pin || self.unpin {
            store.pin(&digest, self.pin)?;
        }
        if global.json {
            let name = self.name.as_ref().and_then(Reference::name);
            crate::ui::print_json(&serde_json::json!({ "image": digest, "name": name, "pinned": store.pins()?.contains(&digest) }));
        } else {
            crate::ui::say!("{digest}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
