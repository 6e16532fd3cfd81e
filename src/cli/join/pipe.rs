//! The face of a pipe: lines of stdin are said, stdout has `<name> text`, the rest is on stderr.

use crate::cli::ask;
use crate::cli::consent::{Consent, Decision};
use crate::cli::roster::Roster;
use crate::cli::shelf::{self, Shelf, State};
use crate::cli::words::Narrator;
use crate::core::transfer::TransferEvent;
use crate::node::api::{Command, Event, PeerInfo, To};
use crate::wire::text;

/// The most lines of one message that have its name in front: of a short one so many, and one more for each so many bytes.
const LINES_LEAST: usize = 32;
const LINES_MAX: usize = 1000;
const BYTES_PER_LINE: usize = 8;

/// What the pipe's face knows.
pub struct PipeFace {
    roster: Roster,
    shelf: Shelf,
    consent: Consent,
    narrator: Narrator,
}

/// What comes of an event.
#[derive(Debug, Default)]
pub struct Step {
    /// Data, for stdout.
    pub out: Vec<String>,
    /// News, for stderr.
    pub err: Vec<String>,
    /// To be asked of the node.
    pub ask: Option<Command>,
}

impl PipeFace {
    /// A fresh face.
    pub fn new(roster: Roster, consent: Consent, keyed: bool) -> Self {
        Self { roster, shelf: Shelf::default(), consent, narrator: Narrator::new(keyed) }
    }

    /// How many peers are here.
    pub fn peers(&self) -> usize {
        self.roster.len()
    }

    /// A line came in on stdin. Commands are for people: here, a line is a line.
    pub fn on_line(&self, line: String) -> Command {
        Command::Say { text: line, to: To::Everyone }
    }

    /// The node says something.
    pub fn on_event(&mut self, event: &Event) -> Step {
        self.roster.learn(event);
        let mut step = Step::default();
        if let Event::Message { from, text, .. } = event {
            step.out = self.message(from, text);
        } else if let Event::Transfer(event) = event {
            step = self.transfer(event);
        } else {
            step.err.extend(self.narrator.event(event, &self.roster).map(|note| note.text));
        }
        self.roster.forget(event);
        step
    }

    /// Each line of a message has its name in front, so that no line is anybody else's. Nothing is cut: whoever reads this
    /// is a program. Of very many lines the last one is the rest, in which line breaks are shown: what somebody says at length
    /// does not become many times as long.
    fn message(&self, from: &PeerInfo, message: &str) -> Vec<String> {
        let (head, said) = self.narrator.head(from, message, &self.roster);
        let lines_max = (LINES_LEAST + said.len() / BYTES_PER_LINE).min(LINES_MAX);
        let (lines, rest) = match said.match_indices('\n').nth(lines_max - 1) {
            Some((at, _)) if at + 1 < said.len() => (&said[..=at], Some(&said[at + 1..])),
            Some(_) | None => (said, None),
        };
        let lines = text::split_lines(lines).chain(rest);
        lines.map(|line| format!("{head}{}", text::whole_line(line))).collect()
    }

    fn transfer(&mut self, event: &TransferEvent) -> Step {
        let note = self.shelf.on_event(event, &self.roster);
        let mut step = Step::default();
        let TransferEvent::Offered { from, offer, .. } = event else {
            step.err.extend(note.map(|note| note.text));
            if let TransferEvent::Delivered { transfer, .. } | TransferEvent::Undelivered { transfer, .. } =
                event
            {
                let over = self.shelf.item(transfer).filter(|item| item.state == State::Done);
                step.err.extend(over.map(|item| item.sent_summary()));
            }
            return step;
        };
        let transfer = offer.transfer;
        match self.consent.judge(from, &self.roster) {
            Decision::Accept => step.ask = Some(ask::accept(from, offer)),
            Decision::Ask => {
                let (what, label) = (shelf::what(offer), self.roster.label(from));
                step.err
                    .push(format!("declined {what} from {label}: --yes or --accept-from NAME takes files"));
                self.shelf.decline(&transfer);
                step.ask = Some(ask::reject_from(from, transfer));
            }
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::consent::tests::consent;
    use crate::cli::roster::tests::{peer, roster};
    use crate::cli::shelf::tests::{id, offer};
    use crate::core::transfer::TransferCommand;

    fn face(yes: bool) -> PipeFace {
        PipeFace::new(roster(&[("1111", "ada")]), consent(yes, &[], true), true)
    }

    fn message(text: &str) -> Event {
        Event::Message { from: peer("1111", "ada"), text: text.into(), direct: false }
    }

    #[test]
    fn each_line_of_a_message_has_its_name() {
        let step = face(false).on_event(&message("one\n<eve> two\r\n"));
        assert_eq!(step.out, ["<ada> one", "<ada> <eve> two"]);
        assert_eq!(face(false).on_event(&message("/me waves\nand")).out, ["* <ada> waves", "* <ada> and"]);
        let mut from = peer("1111", "ada");
        from.verified = false;
        let event = Event::Message { from, text: "hi".into(), direct: false };
        assert_eq!(face(false).on_event(&event).out, ["<ada #?> hi"]);
    }

    #[test]
    fn very_many_lines_are_not_as_many_names() {
        let said = |text: &str| face(false).on_event(&message(text)).out;
        let out = said(&format!("{}end", "x\n".repeat(100_000)));
        assert_eq!((out.len(), &out[999][..]), (LINES_MAX + 1, "<ada> x"));
        assert!(out[1000].starts_with("<ada> x\u{240a}x\u{240a}") && out[1000].ends_with("\u{240a}end"));
        assert_eq!(said(&format!("{}\nend", "x\n".repeat(999))).len(), 32 + 2002 / 8 + 1, "the rest is one");
        let poem = "a line that is as long as lines are\n\n".repeat(500);
        assert_eq!(said(&poem).len(), 1000, "there is nothing behind the last line break");
        assert_eq!(said(&"\n".repeat(100)).len(), 45, "an empty line is one, too");
        for breaks in [1, 16, 100, 1000, 262_143] {
            let names = said(&"\n".repeat(breaks)).len();
            assert!(names <= 33 + breaks / 8, "{names} for {breaks} bytes");
        }
    }

    #[test]
    fn a_long_line_comes_out_whole() {
        let long = "x".repeat(2 << 20);
        assert_eq!(face(false).on_event(&message(&long)).out, [format!("<ada> {long}")]);
    }

    #[test]
    fn news_are_not_data() {
        let step = face(false).on_event(&Event::Opened(peer("2222", "bob")));
        assert!(step.out.is_empty());
        assert_eq!(step.err, ["bob joined (verified)"]);
    }

    #[test]
    fn what_nobody_can_be_asked_about_is_declined() {
        let offered = Event::Transfer(TransferEvent::Offered {
            from: id("1111"),
            offer: offer(1, "film.mkv", "1111"),
            free_bytes: None,
        });
        let step = face(false).on_event(&offered);
        assert!(matches!(step.ask, Some(Command::Transfer(TransferCommand::RejectFrom { .. }))));
        assert_eq!(
            step.err,
            ["declined film.mkv (1.0 MiB) from ada: --yes or --accept-from NAME takes files"]
        );
        assert!(matches!(
            face(true).on_event(&offered).ask,
            Some(Command::Transfer(TransferCommand::Accept { .. }))
        ));
    }
}
