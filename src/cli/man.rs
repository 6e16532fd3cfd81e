//! `swarm completions` and `swarm man`: what packagers install beside the program.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use super::args::Cli;
use super::exit::{Exit, Failure};

/// Prints the completions of `shell`.
pub fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "swarm", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Exit::Done)
}

/// Prints the manual page, or writes one for every command into `dir`.
pub fn man(dir: Option<&Path>) -> Result<Exit, Failure> {
    match dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            io::stdout().lock().write_all(&page)?;
        }
        Some(dir) => {
            fs::create_dir_all(dir).with_context(|| format!("can't make the folder {}", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), dir)
                .with_context(|| format!("can't write pages into {}", dir.display()))?;
        }
    }
    Ok(Exit::Done)
}
