//! The `preheat-cache-server` command: `preheat cache serve` by itself.

use clap::{Parser, Subcommand};
use preheat_cache_server::{ServeArgs, TokenArgs, run, run_token};
use std::process::ExitCode;

/// Preheat's shared cache
#[derive(Parser)]
#[command(name = "preheat-cache-server", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
    /// Answer in JSON, for machines
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Token(TokenArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Token(token)) => run_token(token, cli.json),
        None => run(cli.serve, cli.json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
