//! The `preheat-cache-server` command: `preheat cache serve` by itself.

use clap::Parser;
use preheat_cache_server::{ServeArgs, run};
use std::process::ExitCode;

/// Preheat's shared cache
#[derive(Parser)]
#[command(name = "preheat-cache-server", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
    /// Answer in JSON, for machines
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.serve, cli.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
