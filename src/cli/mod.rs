//! The faces of the program: one file a command, the terminal, the exit codes. No interface for other crates.

pub mod args;
pub mod ask;
pub mod config;
pub mod consent;
pub mod exit;
pub mod format;
pub mod input;
pub mod join;
pub mod json;
pub mod layout;
pub mod log;
pub mod man;
pub mod room;
pub mod roster;
pub mod serve;
pub mod session;
pub mod shelf;
pub mod signals;
pub mod term;
pub mod token;
pub mod values;
pub mod words;

use args::{Cli, Command};
use exit::{Exit, Failure};

impl Command {
    /// What is logged when nothing is said about it.
    pub fn default_log(&self) -> &'static str {
        match self {
            Self::Join(_) | Self::Send(_) | Self::Recv(_) => "error",
            Self::Serve(_) => "fast_rtc_swarm=info",
            Self::Token(_) | Self::Completions { .. } | Self::Man { .. } => "error",
        }
    }
}

/// Runs one command to its end.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Serve(args) => block_on(serve::run(*args)),
        Command::Token(args) => token::run(&args),
        Command::Join(args) => block_on(join::run(*args)),
        Command::Send(_) | Command::Recv(_) => Err(Failure::new(Exit::Failed, "not here yet")),
        Command::Completions { shell } => man::completions(shell),
        Command::Man { dir } => man::man(dir.as_deref()),
    }
}

fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    // What still runs then is a read that nobody waits for.
    runtime.shutdown_background();
    result
}
