//! Lines from stdin, read on a thread of their own: a blocked read can't be cancelled, and must not hold the program back
//! when it ends.

use std::io::{self, BufRead, Read};
use std::thread;

use tokio::sync::mpsc;

/// Lines that wait to be taken.
const QUEUED_LINES: usize = 64;

/// The longest line that is taken as one, in bytes; a longer one is cut into several. More than anybody pastes, and
/// little enough to hold a few of.
const LINE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What comes in.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C in a line editor, where it is a key and no signal.
    Interrupt,
    /// Nothing more.
    End,
}

/// Reads lines from stdin from now on.
pub fn stdin_lines() -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(QUEUED_LINES);
    thread::spawn(move || pump(io::stdin().lock(), &sender));
    receiver
}

fn pump(mut input: impl BufRead, sender: &mpsc::Sender<Input>) {
    while let Some(line) = read_line(&mut input) {
        if sender.blocking_send(Input::Line(line)).is_err() {
            return;
        }
    }
    // If nobody listens any more, the end is no news.
    let _ = sender.blocking_send(Input::End);
}

/// The next line; bytes that are no UTF-8 become �. An error is an end: there is nothing else to do about one.
fn read_line(input: &mut impl BufRead) -> Option<String> {
    let mut bytes = Vec::new();
    let read = input.take(LINE_MAX_BYTES).read_until(b'\n', &mut bytes).ok()?;
    if read == 0 {
        return None;
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Some(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Input> {
        let (sender, mut receiver) = mpsc::channel(64);
        pump(bytes, &sender);
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    #[test]
    fn lines_come_without_their_ends_and_then_the_end() {
        let line = |text: &str| Input::Line(text.into());
        assert_eq!(lines(b"one\r\n\ntwo"), [line("one"), line(""), line("two"), Input::End]);
        assert_eq!(lines(b"caf\xe9\n"), [line("caf\u{fffd}"), Input::End]);
        assert_eq!(lines(b""), [Input::End]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let long = vec![b'x'; LINE_MAX_BYTES as usize + 10];
        let lengths: Vec<usize> = lines(&long)
            .iter()
            .filter_map(|input| match input {
                Input::Line(line) => Some(line.len()),
                Input::Interrupt | Input::End => None,
            })
            .collect();
        assert_eq!(lengths, [LINE_MAX_BYTES as usize, 10]);
    }
}
