use super::{contributions, now, read_input, write};
use crate::commands::{Global, directories, parse_variable};
use crate::ui;
use anyhow::Context as _;
use clap::Args;
use preheat::{Builder, Directory, Freeze, FreezePoint, Request};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Run a command that counts what it does, and keep what it counted
#[derive(Args)]
#[command(after_help = "The command is compiled with counters in it, which makes it slower, and called once for each input.

Examples:
  preheat profile record app.wasm --input a.json --input b.json -o app.profile
  preheat profile record qjs.wasm --input event.json --ro-dir .::/src -o qjs.profile -- /src/handler.js
  preheat profile record python.wasm --after-stdin --input event.json -o f.profile -- -c \"$(cat handler.py)\"
                                                   only what comes behind the first read of standard input")]
pub(crate) struct Record {
    /// Wasm module, binary or text
    file: PathBuf,
    /// Arguments of the command
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    /// File with the standard input of a call; repeatable, a call for each [default: one call with no input]
    #[arg(long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// File to write; contributions that are in it already stay
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Directory that the guest may read and write; repeatable
    #[arg(long, value_name = "HOST[::GUEST]")]
    dir: Vec<String>,
    /// Directory that the guest may only read; repeatable
    #[arg(long, value_name = "HOST[::GUEST]")]
    ro_dir: Vec<String>,
    /// Environment variable of the guest; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Count only what the command does after it first asked for its standard input, as a frozen function does
    #[arg(long)]
    after_stdin: bool,
    /// Who says so: the contributor's name in the profile
    #[arg(long, value_name = "NAME", default_value = "local")]
    contributor: String,
    /// End a call after this time, such as 500ms or 2s
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME", default_value = "300s")]
    timeout: Duration,
}

impl Record {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let bytes = read_input(&self.file)?;
        let wasm = preheat::wasm_of(&self.file.display().to_string(), &bytes)?;
        let name = self.file.file_stem().map_or_else(|| "function".into(), |stem| stem.to_string_lossy().into_owned());
        let known = if self.output.exists() { Some(contributions(&self.output)?) } else { None };

        let dirs = self.dirs();
        let mut builder = Builder::new(&home)?.args(&self.args);
        for (name, value) in &self.env {
            builder = builder.env(name, value);
        }
        if self.after_stdin {
            let freeze = Freeze::at(FreezePoint::Stdin).allow_frozen_random(true);
            builder = builder.freeze(dirs.iter().cloned().fold(freeze, Freeze::dir));
        }
        let inputs: Vec<Vec<u8>> = match &self.input[..] {
            [] => vec![Vec::new()],
            files => files.iter().map(|path| read_input(path)).collect::<Result<_, _>>()?,
        };
        let requests: Vec<Request> = inputs
            .into_iter()
            .map(|input| {
                let mut request = Request::new().stdin(input).timeout(self.timeout);
                request.dirs.clone_from(&dirs);
                request
            })
            .collect();
        let spinner = ui::spinner(format!("counting in {}", self.file.display()));
        let recorded = builder.record(&name, &wasm, &requests, &self.contributor, now());
        spinner.finish_and_clear();
        let recorded = recorded?;
        let functions = recorded.contributions().values().map(|contribution| contribution.functions.len()).max().unwrap_or(0);
        let (source, calls) = (recorded.source(), requests.len());
        let profile = match known {
            Some(known) => known.union(&recorded).with_context(|| format!("{} can't be added to", self.output.display()))?,
            None => recorded,
        };
        let bytes = profile.to_bytes();
        write(&self.output, &bytes)?;
        let all = profile.contributions().len();
        if global.json {
            ui::print_json(&json!({
                "source": source, "calls": calls, "functions": functions, "contributions": all, "bytes": bytes.len(),
                "file": self.output,
            }));
        } else {
            ui::say!(
                "{calls} calls, {functions} functions; {} has {all} contributions, {}",
                self.output.display(),
                ui::bytes(bytes.len() as u64)
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    fn dirs(&self) -> Vec<Directory> {
        directories(&self.dir, &self.ro_dir)
    }
}
