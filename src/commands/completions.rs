use super::Cli;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use std::process::ExitCode;

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "Example:\n  preheat completions bash > ~/.local/share/bash-completion/completions/preheat")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    #[expect(clippy::unnecessary_wraps, reason = "all subcommands have one signature")]
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        clap_complete::generate(self.shell, &mut Cli::command(), "preheat", &mut std::io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}
