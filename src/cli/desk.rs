//! What `send` and `recv` show: bars and sentences on stderr for people, or JSON on stdout for programs.

use std::io;

use super::bars::Bars;
use super::code::News;
use super::config::Telling;
use super::exit::{Exit, Failure};
use super::invite;
use super::json::{ErrorCode, Event as JsonEvent, Translator, to_line};
use super::layout;
use super::room::Room;
use super::roster::Roster;
use super::shelf::{Shelf, State};
use super::term::{self, Ink};
use super::words::{self, Narrator, Note};
use crate::core::transfer::{Direction, TransferEvent};
use crate::node::api::Event;
use crate::wire::text::{self, Name};

/// What is known, and how it is told.
pub struct Desk {
    /// Who is here.
    pub roster: Roster,
    /// The transfers.
    pub shelf: Shelf,
    voice: Voice,
}

enum Voice {
    People { narrator: Narrator, bars: Bars },
    Program(Box<Translator>),
}

/// Who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Somebody at a terminal, or who reads stderr later.
    People,
    /// A program that reads JSON.
    Program,
}

impl Desk {
    /// A desk that has just been opened.
    pub fn new(audience: Audience, own: Name, keyed: bool, invite: &str) -> Self {
        let voice = match audience {
            Audience::People => Voice::People { narrator: Narrator::new(keyed), bars: Bars::new() },
            Audience::Program => {
                Voice::Program(Box::new(Translator::new(own.clone(), Some(invite.to_owned()))))
            }
        };
        Self { roster: Roster::new(own), shelf: Shelf::default(), voice }
    }

    /// Tells the invite where others need it. `command` is what they do with it.
    pub fn tell_invite(&self, room: &Room, told: Telling, command: &str) -> io::Result<()> {
        match &self.voice {
            Voice::People { .. } => {
                invite::lines(room, told, command).iter().for_each(|line| term::eprint_line(line));
                Ok(())
            }
            Voice::Program(_) => invite::event(room).map_or(Ok(()), |event| print(&event)),
        }
    }

    /// Takes news in and tells them.
    pub fn tell(&mut self, event: &Event) -> io::Result<()> {
        self.roster.learn(event);
        let told = match &mut self.voice {
            Voice::Program(translator) => {
                if let Event::Transfer(event) = event {
                    self.shelf.on_event(event, &self.roster);
                }
                translator.event(event).map_or(Ok(()), |event| print(&event))
            }
            Voice::People { narrator, bars } => {
                if let Event::Transfer(event) = event {
                    tell_transfer(event, &mut self.shelf, &self.roster, bars);
                } else if let Event::Message { from, text, direct } = event {
                    let whom = if *direct { words::TO_US } else { "" };
                    let (head, said) = narrator.head(from, text, &self.roster);
                    let lines = behind(&format!("{whom}{head}"), said, term::stderr_columns());
                    bars.said(&lines);
                } else if let Some(note) = narrator.event(event, &self.roster) {
                    bars.note(&note);
                }
                Ok(())
            }
        };
        self.roster.forget(event);
        told
    }

    /// Tells what became of a one-time code. `command` is what its user does with it.
    pub fn tell_code(&self, news: &News, command: &str) -> io::Result<()> {
        match &self.voice {
            Voice::People { bars, .. } => {
                let lines = news.lines(command, "start again with --code for another");
                bars.suspend(|| lines.iter().for_each(|line| term::eprint_line(line)));
                Ok(())
            }
            Voice::Program(_) => print(&news.event()),
        }
    }

    /// Says something to people. Programs learn it from the events.
    pub fn note(&self, ink: Ink, text: impl Into<String>) {
        if let Voice::People { bars, .. } = &self.voice {
            bars.note(&Note::new(ink, text));
        }
    }

    /// Asks people something, with the bars out of the way.
    pub fn ask(&self, question: &str) {
        if let Voice::People { bars, .. } = &self.voice {
            let rows = layout::hang(question, term::stderr_columns()).join("\n");
            bars.suspend(|| {
                let _ = io::Write::write_all(&mut io::stderr(), rows.as_bytes());
            });
        }
    }

    /// Ends: the bars go, and programs hear how it ended.
    pub fn close(&mut self, result: &Result<Exit, Failure>) -> io::Result<()> {
        match &mut self.voice {
            Voice::People { bars, .. } => {
                bars.clear();
                Ok(())
            }
            Voice::Program(_) => {
                let exit = result.as_ref().map_or_else(Failure::exit, |exit| *exit);
                tell_end(result.as_ref().err(), exit)
            }
        }
    }
}

/// A program's last words: what failed, and that it is over.
pub fn tell_end(failure: Option<&Failure>, exit: Exit) -> io::Result<()> {
    if let Some(failure) = failure {
        let (code, message) = (ErrorCode::from(failure.exit()), failure.message());
        print(&JsonEvent::Error { code, message, r#ref: None })?;
    }
    print(&JsonEvent::End { exit: exit as u8 })
}

fn print(event: &JsonEvent) -> io::Result<()> {
    term::print_line(&to_line(event))
}

fn tell_transfer(event: &TransferEvent, shelf: &mut Shelf, roster: &Roster, bars: &mut Bars) {
    let note = shelf.on_event(event, roster);
    if let TransferEvent::Progress(progress) = event {
        let running = shelf.item(&progress.transfer).is_some_and(|item| item.state == State::Running);
        if running { bars.update(progress, shelf, roster) } else { bars.remove(&progress.transfer) }
    } else if let TransferEvent::Done { transfer, .. } | TransferEvent::Failed { transfer, .. } = event {
        bars.remove(transfer);
    }
    // What ends `send` is its last word, and said once.
    let last_word = matches!(
        event,
        TransferEvent::NotPrepared { .. } | TransferEvent::Failed { direction: Direction::Send, .. }
    );
    if let Some(note) = note.filter(|_| !last_word) {
        bars.note(&note);
    }
}

/// Each line of a message behind its head, folded where a terminal shows them: what it would wrap by itself could look
/// like another line.
///
/// A head that leaves little room stands by itself, and what was said below it behind an indent.
fn behind(head: &str, said: &str, columns: Option<usize>) -> Vec<String> {
    let lines = text::lines(said).into_iter();
    let Some(columns) = columns else { return lines.map(|line| format!("{head}{line}")).collect() };
    let room = columns.saturating_sub(term::width(head));
    if room >= columns / 3 {
        let folded = lines.flat_map(|line| layout::fold(&line, room, room));
        return folded.map(|line| format!("{head}{line}")).collect();
    }
    let below = lines.flat_map(|line| layout::below(&line, columns));
    layout::hang(head.trim_end(), Some(columns)).into_iter().chain(below).collect()
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;

    #[test]
    fn each_line_has_its_head_however_long_it_is() {
        let forged = format!("hi{}<bob> I owe you", " ".repeat(22));
        assert_eq!(behind("<ada> ", "one\ntwo", None), ["<ada> one", "<ada> two"]);
        assert_eq!(behind("<ada> ", &forged, None), [format!("<ada> {forged}")]);
        let folded = behind("<ada> ", &forged, Some(30));
        assert!(folded.len() > 1);
        assert!(
            folded.iter().all(|line| line.starts_with("<ada> ") && term::width(line) <= 30),
            "{folded:?}"
        );
        let rows = behind(&format!("<{}> ", "x".repeat(136)), &"y".repeat(2_000), Some(80));
        assert!(rows.len() <= 30 && rows[2..].iter().all(|row| row.starts_with("  ")), "{rows:?}");
        // A terminal that draws each of them two columns wide would begin a row with what bob did not say.
        let wide = format!("{}<bob> I owe you", "❤\u{fe0f}".repeat(12));
        let folded = behind("<ada> ", &wide, Some(30));
        assert!(folded.iter().all(|line| UnicodeWidthStr::width(&line[..]) <= 30), "{folded:?}");
    }
}
