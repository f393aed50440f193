use super::{BuildOptions, Global, Shared, parse_variable};
use crate::ui;
use clap::Args;
use preheat::{Builder, Built, Reference};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compile Wasm into a signed image in the store
#[derive(Args)]
#[command(after_help = "The last line of standard output is the image's digest.

Examples:
  preheat build app.wasm
  preheat build app.wasm --tag team/app:v1 --cpu v2,v3,v4
  preheat build app.wasm --engine auto                the native engine where it can, and the reason where it can't
  preheat build app.wasm --env LANG=C -- --serve      arguments that every run gets first")]
pub(crate) struct Build {
    /// Wasm module or component, binary or text
    file: PathBuf,
    /// Arguments that the function gets before those of `run`
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    /// Name for the image, such as app:v1; repeatable
    #[arg(long, short, value_name = "REFERENCE")]
    tag: Vec<Reference>,
    /// Environment variable that the function sees unless `run` sets it; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Keep the Wasm bytes in the image, so that it can be built again from the store
    #[arg(long)]
    keep_source: bool,
    #[command(flatten)]
    pub(super) options: BuildOptions,
}

impl Build {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let shared = Shared::of(&home, &self.options)?;
        let mut builder = shared.apply(self.options.apply(Builder::new(&home)?)).args(self.args).keep_source(self.keep_source);
        for (name, value) in self.env {
            builder = builder.env(name, value);
        }
        for reference in &self.tag {
            builder = builder.tag(reference.clone());
        }
        let spinner = ui::spinner(format!("building {}", self.file.display()));
        let built = builder.build_file(&self.file);
        if let Ok(built) = &built {
            shared.finish(built, &self.options.namespace);
        }
        spinner.finish_and_clear();
        let built = built?;
        if global.json {
            let tags: Vec<String> = self.tag.iter().filter_map(Reference::name).collect();
            let mut report = report(&built);
            report["tags"] = json!(tags);
            ui::print_json(&report);
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(reason) = &built.engine_reason {
            eprintln!("{}: {reason}", built.engine.map_or("", preheat::Engine::name));
        }
        for code in &built.code {
            let how = code.compiled_in.map_or_else(|| "already there".into(), |took| format!("compiled in {}", ui::time(took)));
            eprintln!("{}  {:>8}  {how}", code.cpu, ui::bytes(code.size));
        }
        for name in self.tag.iter().filter_map(Reference::name) {
            eprintln!("{name}");
        }
        ui::say!("{}", built.digest);
        Ok(ExitCode::SUCCESS)
    }
}

/// What `--json` says of a build.
pub(super) fn report(built: &Built) -> serde_json::Value {
    let code: Vec<_> = built
        .code
        .iter()
        .map(|code| {
            json!({
                "cpu": code.cpu,
                "key": code.key,
                "digest": code.digest,
                "bytes": code.size,
                "compiled": code.compiled_in.is_some(),
                "compileSeconds": code.compiled_in.map(|took| took.as_secs_f64()),
            })
        })
        .collect();
    json!({
        "image": built.digest,
        "key": built.key,
        "cached": built.cached,
        "engine": built.engine.map(preheat::Engine::name),
        "engineReason": built.engine_reason,
        "compiled": built.compiled(),
        "code": code,
    })
}
