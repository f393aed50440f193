//! The `preheat` command.

#![forbid(unsafe_code)]

mod commands;
mod exit;
mod ui;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    match cli.command.execute(cli.global) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
