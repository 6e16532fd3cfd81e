//! The faces of the program: one file a command, the terminal, the exit codes. No interface for other crates.

pub mod args;
pub mod config;
pub mod exit;
pub mod format;
pub mod json;
pub mod log;
pub mod man;
pub mod roster;
pub mod shelf;
pub mod term;
pub mod words;

use args::{Cli, Command};
use exit::{Exit, Failure};

impl Command {
    /// What is logged when nothing is said about it.
    pub fn default_log(&self) -> &'static str {
        match self {
            Self::Join(_) | Self::Send(_) | Self::Recv(_) => "error",
            Self::Completions { .. } | Self::Man { .. } => "error",
        }
    }
}

/// Runs one command to its end.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Join(_) | Command::Send(_) | Command::Recv(_) => {
            Err(Failure::new(Exit::Failed, "not here yet"))
        }
        Command::Completions { shell } => man::completions(shell),
        Command::Man { dir } => man::man(dir.as_deref()),
    }
}
