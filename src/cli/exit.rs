//! How the program ends: one exit code for each thing a script would do next.

use std::fmt;
use std::io;
use std::process::ExitCode;

use super::{layout, term};
use crate::wire::text;

/// The program's exit codes (`README.md`, "Exit codes"). A script may rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// Something failed that none of the others names.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The server or a peer said no: wrong token, room full, offer declined, one-time code spent.
    Refused = 3,
    /// The server could not be reached.
    Unreachable = 4,
    /// Some receivers did not get everything; running the same command again goes on from there.
    Incomplete = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error on its way to the user, with the exit code it ends the program with.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// A failure with one sentence for the user, best with the next step to take.
    pub fn new(exit: Exit, message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self { exit, error: anyhow::Error::msg(message) }
    }

    /// A failure with its causes.
    pub fn with(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// The code the program would end with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What went wrong, and why, in one sentence.
    pub fn message(&self) -> String {
        format!("{:#}", self.error)
    }

    /// Says once what went wrong, on stderr, and gives the exit code. A reader who closed the pipe has what it wanted: no
    /// failure.
    pub fn report(&self) -> Exit {
        if is_broken_pipe(&self.error) {
            return Exit::Done;
        }
        self.rows(term::stderr_columns()).iter().for_each(|row| term::eprint_line(row));
        self.exit
    }

    /// Fit for a terminal of so many columns: names of files that somebody else chose, and what a server says, may be in it.
    fn rows(&self, columns: Option<usize>) -> Vec<String> {
        let text = self.to_string();
        text::split_lines(&text).flat_map(|line| layout::hang(&text::whole_line(line), columns)).collect()
    }
}

impl fmt::Display for Failure {
    /// `swarm: what: why: why that`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "swarm: {:#}", self.error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}

/// Gives an error its exit code.
pub trait OrExit<T> {
    /// The value, or the failure that ends the program with `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, error: error.into() })
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let failure = Err::<(), _>(io::Error::other("disk on fire")).context("can't write film.mkv");
        let failure = failure.or_exit(Exit::Incomplete).expect_err("it is an error");
        assert_eq!(failure.to_string(), "swarm: can't write film.mkv: disk on fire");
        assert_eq!(failure.exit(), Exit::Incomplete);
    }

    #[test]
    fn a_failure_can_not_move_the_cursor() {
        let failure = Failure::new(Exit::Failed, "can't read \u{1b}]0;x\u{7}.txt\ntry again");
        assert_eq!(failure.rows(None), ["swarm: can't read ␛]0;x␇.txt", "try again"]);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure =
            Failure::from(anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("stdout"));
        assert_eq!(failure.report(), Exit::Done);
    }
}
