//! The faces of the program: one file a command, the terminal, the exit codes. No interface for other crates.

pub mod args;
pub mod ask;
pub mod bars;
pub mod code;
pub mod config;
pub mod consent;
pub mod desk;
pub mod exit;
pub mod format;
pub mod input;
pub mod invite;
pub mod join;
pub mod json;
pub mod layout;
pub mod log;
pub mod man;
pub mod recv;
pub mod room;
pub mod roster;
pub mod send;
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
            // A server's log is what its operator looks at; a peer tells people what happens in its own way, the WebRTC library's
            // errors, too.
            Self::Serve(_) => "fast_rtc_swarm=info",
            Self::Join(_)
            | Self::Send(_)
            | Self::Recv(_)
            | Self::Token(_)
            | Self::Completions { .. }
            | Self::Man { .. } => "error,webrtc=off,rtc=off",
        }
    }
}

/// Runs one command to its end.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Join(args) => block_on(join::run(*args)),
        Command::Send(args) => block_on(send::run(*args)),
        Command::Recv(args) => block_on(recv::run(*args)),
        Command::Serve(args) => block_on(serve::run(*args)),
        Command::Token(args) => token::run(&args),
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
