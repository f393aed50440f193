use super::{Global, profile};
use crate::ui;
use clap::Args;
use preheat::evidence::{self, Evidence};
use preheat::{FreezeRecord, Frozen, LoadOptions, MAX_FREEZE_RECORD, Manifest, Store, media};
use serde_json::json;
use std::process::ExitCode;

/// Show what an image consists of, who vouches for it, and how its function is called
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat inspect app:v1\n  preheat inspect sha256:4f2a… --json")]
pub(crate) struct Inspect {
    /// Name or digest of an image
    image: String,
}

impl Inspect {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let store = home.store()?;
        let digest = store.resolve_text(&self.image)?;
        let policy = home.trust()?;
        // Looking is allowed whoever signed: without trust the statements are shown as what they are.
        let bytes = store.read_blob(&digest, preheat::manifest::MAX_SIZE)?;
        let wrong = |source| preheat::StoreError::Format { path: store.blob_path(&digest), source };
        let manifest = preheat::Manifest::parse(&bytes).map_err(wrong)?;
        let record = store.entry(&digest)?;
        let statements = record.map(|record| record.statements).unwrap_or_default();
        let trusted = store.load(&digest, &policy, LoadOptions::default());
        let names: Vec<String> = store.names()?.into_iter().filter(|name| name.digest == digest).map(|name| name.name).collect();
        if global.json {
            let statements: Vec<_> = statements
                .iter()
                .map(|signed| {
                    let verdict = policy.judge(signed).err().map(|refusal| refusal.to_string());
                    json!({ "signer": signed.signer, "namespace": signed.namespace, "key": signed.key, "buildId": signed.build_id,
                            "trusted": verdict.is_none(), "refusal": verdict })
                })
                .collect();
            let frozen = manifest.function.as_ref().and_then(|function| function.frozen.as_ref());
            let record = frozen.and_then(|frozen| read_record(&store, frozen).ok());
            let learned = record.map(|record| json!(record));
            let evidence = read_evidence(&store, &manifest).and_then(Result::ok);
            ui::print_json(&json!({
                "image": digest, "names": names, "manifest": manifest, "statements": statements, "learned": learned, "evidence": evidence,
            }));
            return Ok(ExitCode::SUCCESS);
        }
        ui::say!("image     {digest}");
        for name in names {
            ui::say!("name      {}", name.escape_debug());
        }
        if let Some(source) = &manifest.source {
            ui::say!("source    {} ({})", source.digest, ui::bytes(source.size));
        }
        if let Some(function) = &manifest.function {
            ui::say!("function  {} ({})", function.name.escape_debug(), function.kind.name());
            if !function.args.is_empty() {
                ui::say!("args      {}", function.args.join(" ").escape_debug());
            }
            for (name, value) in &function.env {
                ui::say!("env       {}={}", name.escape_debug(), value.escape_debug());
            }
        }
        if let Some(frozen) = manifest.function.as_ref().and_then(|function| function.frozen.as_ref()) {
            show_frozen(&store, frozen);
        }
        if let Some(reason) = manifest.annotations.get(preheat::manifest::ENGINE_REASON) {
            ui::say!("engine    not native: {}", reason.escape_debug());
        }
        if let Some(evidence) = read_evidence(&store, &manifest) {
            show_evidence(&evidence);
        }
        for artefact in &manifest.artefacts {
            let place =
                artefact.variant.as_ref().map(|variant| format!("{} {} ", variant.engine.escape_debug(), variant.cpu)).unwrap_or_default();
            let missing = if store.blob_size(&artefact.digest).is_some() { "" } else { " (not in this store)" };
            ui::say!("artefact  {} {place}{}{missing}\n          {}", artefact.media_type, ui::bytes(artefact.size), artefact.digest);
        }
        for signed in &statements {
            let verdict = policy.judge(signed).err().map_or_else(|| "trusted".to_owned(), |refusal| format!("not trusted: {refusal}"));
            ui::say!("signed    by {} for `{}`, {verdict}", signed.signer, signed.namespace.escape_debug());
            ui::say!("key       {}", signed.key);
        }
        if let Err(error) = trusted {
            ui::say!("warning   it can't be run here: {error}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// For what an image took the place of another, if it did. It has to be about the code that the image has.
fn read_evidence(store: &Store, manifest: &Manifest) -> Option<Result<Evidence, String>> {
    let artefact = manifest.artefacts.iter().find(|artefact| artefact.media_type == media::EVIDENCE)?;
    let read = || {
        let bytes = store.read_blob(&artefact.digest, evidence::MAX_SIZE).map_err(|error| error.to_string())?;
        let evidence = Evidence::parse(&bytes).map_err(|error| error.to_string())?;
        let (code, source) = (evidence.candidate.code, manifest.source.as_ref().map(|source| source.digest));
        if manifest.code().all(|(artefact, _)| artefact.digest != code) || source != Some(evidence.source) {
            return Err(format!("it is about other code than that of this image, {code}"));
        }
        Ok(evidence)
    };
    Some(read())
}

fn show_evidence(evidence: &Result<Evidence, String>) {
    match evidence {
        Ok(evidence) => {
            ui::say!("evidence  {} {}", evidence.cpu, profile::shown_ratio(&evidence.ratio));
            ui::say!("          {} requests with the same answers, {} rounds", evidence.requests.len(), evidence.rounds);
            ui::say!("          took the place of {}", evidence.control.image);
            ui::say!("          profile {}", evidence.profile);
        }
        Err(error) => ui::say!("evidence  does not count: {}", error.escape_debug()),
    }
}

/// What a frozen program learned from outside before it was frozen.
fn read_record(store: &Store, frozen: &Frozen) -> Result<FreezeRecord, String> {
    let bytes = store.read_blob(&frozen.record, MAX_FREEZE_RECORD).map_err(|error| error.to_string())?;
    FreezeRecord::parse(&bytes).map_err(|error| error.to_string())
}

fn show_frozen(store: &Store, frozen: &Frozen) {
    let point = frozen.point.to_string();
    match &frozen.component {
        Some(component) => ui::say!("frozen    at {}, as the component {component}", point.escape_debug()),
        None => ui::say!("frozen    at {}, {} heap layers", point.escape_debug(), frozen.layers.len()),
    }
    for layer in &frozen.layers {
        let size = store.blob_size(layer).map_or_else(|| "not in this store".to_owned(), ui::bytes);
        ui::say!("layer     {size} {layer}");
    }
    for name in &frozen.late_env {
        ui::say!("late env  {}", name.escape_debug());
    }
    match read_record(store, frozen) {
        Ok(record) => {
            for name in record.environment.iter().flatten() {
                ui::say!("learned   variable {}", name.escape_debug());
            }
            for file in &record.files {
                ui::say!("learned   file {} ({}) {}", file.guest_path().escape_debug(), ui::bytes(file.size), file.digest);
            }
            for path in &record.listed {
                ui::say!("learned   names in {}", path.escape_debug());
            }
            for path in record.looked_at.iter().take(SHOWN_PATHS) {
                ui::say!("learned   what is at {}", path.escape_debug());
            }
            if record.looked_at.len() > SHOWN_PATHS {
                ui::say!("learned   what is at {} paths more (`--json` has them)", record.looked_at.len() - SHOWN_PATHS);
            }
            let clocks = &record.clocks;
            if clocks.realtime + clocks.monotonic > 0 {
                ui::say!("learned   the time, {} times, and the time since it began, {} times", clocks.realtime, clocks.monotonic);
            }
            if record.random_bytes > 0 {
                ui::say!("learned   {} random bytes", record.random_bytes);
            }
        }
        Err(error) => ui::say!("learned   {}", error.escape_debug()),
    }
    for risk in &frozen.risks {
        ui::say!("risk      {}", risk.escape_debug());
    }
}

/// How many paths are shown that a program only looked at.
const SHOWN_PATHS: usize = 10;
