use super::Global;
use crate::ui;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

/// List the images in the store
#[derive(Args)]
pub(crate) struct Ls {}

impl Ls {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = global.home()?.store()?;
        let sizes: BTreeMap<_, _> = store.blobs()?.into_iter().map(|row| (row.digest, row.size)).collect();
        let mut names: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for name in store.names()? {
            names.entry(name.digest).or_default().push(name.name);
        }
        let pins = store.pins()?;
        let images: Vec<_> = store
            .images()?
            .into_iter()
            .map(|image| {
                let bytes: u64 = image.blobs.iter().filter_map(|blob| sizes.get(blob)).sum();
                let names = names.remove(&image.digest).unwrap_or_default();
                (image.digest, names, bytes, store.last_used(&image.digest), pins.contains(&image.digest))
            })
            .collect();
        if global.json {
            let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let images: Vec<_> = images
                .iter()
                .map(|(digest, names, bytes, used, pinned)| {
                    json!({ "image": digest, "names": names, "bytes": bytes, "lastUsed": seconds(*used), "pinned": pinned })
                })
                .collect();
            ui::print_json(&json!({ "images": images, "bytes": sizes.values().sum::<u64>() }));
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = vec![["IMAGE", "SIZE", "USED", "NAMES"].map(str::to_owned).to_vec()];
        for (digest, mut names, bytes, used, pinned) in images {
            if pinned {
                names.push("(pinned)".into());
            }
            let age = used.elapsed().unwrap_or_default().as_secs();
            let age = match age {
                0..=119 => "just now".to_owned(),
                120..=7199 => format!("{} min ago", age / 60),
                7200..=172_799 => format!("{} h ago", age / 3600),
                _ => format!("{} days ago", age / 86400),
            };
            rows.push(vec![digest.short(), ui::bytes(bytes), age, names.join(" ")]);
        }
        ui::print(&ui::table(&rows));
        ui::say!("{} in all blobs together", ui::bytes(sizes.values().sum()));
        Ok(ExitCode::SUCCESS)
    }
}
