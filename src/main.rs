//! The `swarm` program: parse, log, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use fast_rtc_swarm::cli;

fn main() -> ExitCode {
    let cli = cli::args::Cli::parse();
    cli::log::init(&cli);
    match cli::run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}
