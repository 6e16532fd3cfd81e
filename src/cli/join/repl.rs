//! The face of a terminal, without the terminal: events and typed lines in, lines to show and things to ask out.

mod files;
#[cfg(test)]
mod tests;

use tokio::time::Instant;

use super::commands::{self, COMMANDS, Typed, send_options};
use crate::cli::ask::Tokens;
use crate::cli::code::{self, News};
use crate::cli::consent::Consent;
use crate::cli::format;
use crate::cli::layout;
use crate::cli::roster::{Roster, plain_id};
use crate::cli::shelf::Shelf;
use crate::cli::term::{self, Ink, Palette};
use crate::cli::words::{self, Narrator};
use crate::node::api::{Command, Event, PeerInfo, To};
use crate::wire::UserId;
use crate::wire::text;

/// Rings the terminal's bell.
const BELL: &str = "\x07";

/// The fewest columns that what was said gets beside its head.
const ROOM_MIN: usize = 8;

/// What the terminal shows and knows.
pub struct Repl {
    roster: Roster,
    shelf: Shelf,
    consent: Consent,
    palette: Palette,
    keyed: bool,
    narrator: Narrator,
    invite: Option<String>,
    /// The time, as it stands in front of a line.
    now: fn() -> String,
    columns: usize,
    tokens: Tokens,
}

/// What stands between the time and what was said.
struct Head {
    plain: String,
    painted: String,
}

impl Head {
    fn plain(head: String) -> Self {
        Self { painted: head.clone(), plain: head }
    }
}

/// What the node is to be asked.
#[derive(Debug)]
pub enum Ask {
    /// This.
    Command(Command),
    /// Who is here.
    Peers,
    /// For a one-time code.
    Code,
    /// To leave.
    Quit,
}

/// What comes of an event or a line: lines to show, things to ask.
#[derive(Debug, Default)]
pub struct Step {
    /// Lines, painted, safe.
    pub lines: Vec<String>,
    /// To be asked, in this order.
    pub asks: Vec<Ask>,
}

impl Step {
    fn show(lines: Vec<String>) -> Self {
        Self { lines, asks: Vec::new() }
    }

    fn ask(ask: Ask) -> Self {
        Self { lines: Vec::new(), asks: vec![ask] }
    }
}

/// What a [`Repl`] is made from.
pub struct Settings {
    /// Who we are.
    pub roster: Roster,
    /// No transfers yet.
    pub shelf: Shelf,
    /// Whose files are taken.
    pub consent: Consent,
    /// Colours.
    pub palette: Palette,
    /// Whether the room has a key.
    pub keyed: bool,
    /// The invite to the room.
    pub invite: Option<String>,
    /// The time, as it stands in front of a line.
    pub now: fn() -> String,
}

impl Repl {
    /// A fresh face.
    pub fn new(settings: Settings) -> Self {
        let Settings { roster, shelf, consent, palette, keyed, invite, now } = settings;
        Self {
            roster,
            shelf,
            consent,
            palette,
            keyed,
            narrator: Narrator::new(keyed),
            invite,
            now,
            columns: 80,
            tokens: Tokens::default(),
        }
    }

    /// The terminal has so many columns now.
    pub fn set_columns(&mut self, columns: usize) {
        self.columns = columns.max(20);
    }

    /// What stands in front of the typed line.
    pub fn prompt(&self) -> String {
        format!("{}> ", self.roster.own())
    }

    /// Names for completion.
    pub fn labels(&self) -> Vec<String> {
        self.roster.labels()
    }

    /// One line about everything, at most as wide as the terminal: transfers first, for they are what one waits for.
    pub fn status(&self) -> String {
        let mut parts = self.under_way();
        parts.push(match self.roster.len() {
            0 => "nobody else is here".to_owned(),
            1 => "1 other here".to_owned(),
            others => format!("{others} others here"),
        });
        let line = format!("  {}", parts.join(" · "));
        self.palette.paint(Ink::Dim, &layout::clip(&line, self.columns - 1))
    }

    /// The node says something.
    pub fn on_event(&mut self, now: Instant, event: &Event) -> Step {
        self.roster.learn(event);
        let step = if let Event::Message { from, text, direct } = event {
            Step::show(self.message(from, text, *direct))
        } else if let Event::Transfer(event) = event {
            self.transfer(now, event)
        } else {
            let note = self.narrator.event(event, &self.roster);
            Step::show(note.map(|note| self.note(note.ink, &note.text)).unwrap_or_default())
        };
        self.roster.forget(event);
        step
    }

    /// A line was typed.
    pub fn on_line(&mut self, now: Instant, line: &str) -> Step {
        let typed = match commands::parse(line) {
            Ok(typed) => typed,
            Err(error) => return self.complain(&error.to_string()),
        };
        match typed {
            Typed::Nothing => Step::default(),
            Typed::Say(text) => self.say(text, To::Everyone),
            Typed::Direct(rest) => self.direct(rest),
            Typed::Rename(name) => {
                self.roster.rename_self(name.clone());
                let command = Command::Rename { name: name.to_string() };
                Step {
                    lines: self.note(Ink::Dim, &format!("you are {name} now")),
                    asks: vec![Ask::Command(command)],
                }
            }
            Typed::Peers => Step::ask(Ask::Peers),
            Typed::Send(sending) => self.send(sending),
            Typed::Accept("all") => self.accept_all(now),
            Typed::Accept(which) => self.accept(now, which),
            Typed::Reject(which) => self.reject(which),
            Typed::Resolve { which, how } => self.resolve(now, which, how),
            Typed::Transfers => Step::show(self.transfers()),
            Typed::Ignore(name) => self.ignore(name, true),
            Typed::Unignore(name) => self.ignore(name, false),
            Typed::Invite => match &self.invite {
                Some(invite) => Step::show(vec![invite.clone()]),
                None => self.complain("this room has no invite"),
            },
            Typed::Code => Step::ask(Ask::Code),
            Typed::Help => Step::show(self.help()),
            Typed::Quit => Step::ask(Ask::Quit),
        }
    }

    /// The answer to [`Ask::Peers`].
    pub fn peers(&self, peers: &[PeerInfo]) -> Vec<String> {
        if peers.is_empty() {
            return self.note(Ink::Dim, "nobody else is here; /invite prints what lets others in");
        }
        let mut rows = vec![["NAME", "TRUST", "PATH", "RTT", "SENT", "RECEIVED", "ID"].map(str::to_owned)];
        rows.extend(peers.iter().map(|peer| self.peer_row(peer)));
        let table = layout::table(&rows);
        let (head, rows) = table.split_first().expect("it has a head");
        let mut lines = self.folded(head, Some(Ink::Dim));
        lines.extend(rows.iter().flat_map(|row| self.folded(row, None)));
        lines
    }

    /// What became of a one-time code that [`Ask::Code`] asked for.
    pub fn code(&self, news: &News) -> Vec<String> {
        let lines = news.lines("join", "/code makes another");
        match news.state {
            code::State::Open { .. } => lines,
            code::State::Used => self.note(Ink::Dim, &lines.join(" ")),
            code::State::Failed(_) => self.note(Ink::Warn, &lines.join(" ")),
        }
    }

    fn peer_row(&self, peer: &PeerInfo) -> [String; 7] {
        let trust = match (self.keyed, peer.verified) {
            (_, true) => "verified",
            (true, false) => "UNVERIFIED",
            (false, false) => "open room",
        };
        let path = peer.path.as_ref();
        let how =
            path.map(|path| format!("{} {}", words::path_kind(path.kind), words::family(path.remote.ip())));
        let rtt = path.and_then(|path| path.rtt).map(format::rtt);
        let dash = || "-".to_owned();
        [
            self.roster.label(&peer.id),
            trust.to_owned(),
            how.unwrap_or_else(dash),
            rtt.unwrap_or_else(dash),
            format::bytes(peer.sent_bytes),
            format::bytes(peer.received_bytes),
            text::line(&plain_id(&peer.id), 13).into_owned(),
        ]
    }

    fn message(&self, from: &PeerInfo, message: &str, direct: bool) -> Vec<String> {
        let name = self.roster.speaker(from, self.keyed);
        let (kind, said) = words::spoken(message);
        let front = if direct { format!("{}{kind}", words::TO_US) } else { kind.to_owned() };
        let lines = text::lines(said);
        let mentioned = direct || lines.iter().any(|line| self.roster.mentions_us(line));
        let painted = self.palette.paint(self.roster.ink(&from.id), &name);
        let head = Head { plain: format!("{front}<{name}> "), painted: format!("{front}<{painted}> ") };
        let mut shown = self.stamped(&head, &lines, mentioned.then_some(Ink::Bold));
        if mentioned && let Some(first) = shown.first_mut() {
            first.insert_str(0, BELL);
        }
        shown
    }

    fn say(&self, text: &str, to: To) -> Step {
        if self.roster.is_empty() {
            return self
                .complain("nobody else is here, so nobody heard that; /invite prints what lets others in");
        }
        Step::ask(Ask::Command(Command::Say { text: text.to_owned(), to }))
    }

    fn direct(&self, rest: &str) -> Step {
        match self.roster.find_prefix(rest) {
            Ok((_, "")) => self.complain("usage: /msg NAME TEXT"),
            Ok((peer, text)) => {
                let (kind, said) = words::spoken(text);
                let head = format!("(to {}) {kind}<{}> ", self.roster.label(&peer), self.roster.own());
                let lines = self.stamped(&Head::plain(head), &text::lines(said), Some(Ink::Dim));
                Step { lines, ..self.say(text, To::Peers(vec![peer])) }
            }
            Err(error) => self.complain(&error.to_string()),
        }
    }

    fn ignore(&self, name: &str, ignored: bool) -> Step {
        let peer: UserId = match self.roster.find(name) {
            Ok(peer) => peer,
            Err(error) => return self.complain(&error.to_string()),
        };
        let label = self.roster.label(&peer);
        let text = if ignored {
            format!("{label} is ignored; /unignore {label}")
        } else {
            format!("{label} is heard again")
        };
        Step {
            lines: self.note(Ink::Dim, &text),
            asks: vec![Ask::Command(Command::Ignore { peer, ignored })],
        }
    }

    fn help(&self) -> Vec<String> {
        let rows =
            COMMANDS.map(|(name, arguments, meaning)| [format!("{name} {arguments}"), meaning.to_owned()]);
        let mut lines = layout::table(&rows);
        let options = send_options().into_iter();
        let rows: Vec<_> = options
            .map(|option| [format!("  /send {} {}", option.name, option.argument), option.meaning])
            .collect();
        lines.extend(layout::table(&rows));
        lines.push("Anything else is said to everyone; Tab completes commands, names and paths.".to_owned());
        lines
    }

    fn complain(&self, text: &str) -> Step {
        Step::show(self.folded(text, Some(Ink::Warn)))
    }

    fn note(&self, ink: Ink, text: &str) -> Vec<String> {
        self.stamped(&Head::plain("- ".to_owned()), &[text.to_owned()], Some(ink))
    }

    /// A line without the time, folded likewise.
    fn folded(&self, line: &str, ink: Option<Ink>) -> Vec<String> {
        layout::hang(line, Some(self.columns)).into_iter().map(|row| self.inked(ink, row)).collect()
    }

    fn inked(&self, ink: Option<Ink>, row: String) -> String {
        ink.map_or(row.clone(), |ink| self.palette.paint(ink, &row))
    }

    /// Lines behind the time and a head, folded so that nothing of them stands below the time: a line that wraps by itself
    /// could pretend to be somebody else's. A head that leaves no room stands by itself.
    fn stamped(&self, head: &Head, lines: &[String], ink: Option<Ink>) -> Vec<String> {
        let now = (self.now)();
        let front = format!("{now} {}", head.plain);
        let width = term::width(&front);
        let (indent, room) = (width.min(self.columns / 2), self.columns.saturating_sub(width));
        let rest = self.columns - indent;
        let (mut rows, front, first) = if room >= ROOM_MIN {
            (Vec::new(), format!("{} {}", self.palette.paint(Ink::Dim, &now), head.painted), room)
        } else {
            (self.folded(&front, None), " ".repeat(indent), rest)
        };
        let fronts = std::iter::once(front).chain(std::iter::repeat(" ".repeat(indent)));
        let folded = lines.iter().enumerate();
        let folded =
            folded.flat_map(|(at, line)| layout::fold(line, if at == 0 { first } else { rest }, rest));
        rows.extend(fronts.zip(folded).map(|(front, row)| front + &self.inked(ink, row)));
        rows
    }
}
