//! The face of a terminal, without the terminal: events and typed lines in, lines to show and things to ask out.

use std::path::PathBuf;

use super::commands::{self, COMMANDS, Typed};
use crate::cli::ask::{self, Tokens};
use crate::cli::code::{self, News};
use crate::cli::consent::{Consent, Decision};
use crate::cli::format;
use crate::cli::layout;
use crate::cli::roster::Roster;
use crate::cli::shelf::{Item, Shelf, State};
use crate::cli::term::{self, Ink, Palette};
use crate::cli::words::{self, Narrator};
use crate::core::transfer::{Direction, SourceOptions, TransferEvent};
use crate::node::api::{Command, Event, PeerInfo, To};
use crate::wire::UserId;
use crate::wire::text;

/// Rings the terminal's bell.
const BELL: &str = "\x07";

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
        let Settings { roster, consent, palette, keyed, invite, now } = settings;
        Self {
            roster,
            shelf: Shelf::default(),
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
        let mut parts: Vec<String> = self
            .shelf
            .items()
            .into_iter()
            .filter(|item| item.state == State::Running)
            .filter_map(progress)
            .collect();
        let waiting = self.shelf.items().iter().filter(|item| awaits_us(item)).count();
        if waiting > 0 {
            parts.push(format!("{} waiting: /accept", format::count(waiting, "offer")));
        }
        parts.push(match self.roster.len() {
            0 => "nobody else is here".to_owned(),
            1 => "1 other here".to_owned(),
            others => format!("{others} others here"),
        });
        let line = format!("  {}", parts.join(" · "));
        self.palette.paint(Ink::Dim, &layout::clip(&line, self.columns - 1))
    }

    /// The node says something.
    pub fn on_event(&mut self, event: &Event) -> Step {
        self.roster.learn(event);
        let step = if let Event::Message { from, text, direct } = event {
            Step::show(self.message(from, text, *direct))
        } else if let Event::Transfer(event) = event {
            self.transfer(event)
        } else {
            let note = self.narrator.event(event, &self.roster);
            Step::show(note.map(|note| self.note(note.ink, &note.text)).unwrap_or_default())
        };
        self.roster.forget(event);
        step
    }

    /// A line was typed.
    pub fn on_line(&mut self, line: &str) -> Step {
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
            Typed::Send { to, paths } => self.send(to.as_deref(), paths),
            Typed::Accept("all") => self.accept_all(),
            Typed::Accept(which) => self.accept(which),
            Typed::Reject(which) => self.reject(which),
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
        let mut lines = layout::table(&rows);
        lines[0] = self.palette.paint(Ink::Dim, &lines[0]);
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
            text::line(peer.id.as_str(), 13).into_owned(),
        ]
    }

    fn message(&self, from: &PeerInfo, message: &str, direct: bool) -> Vec<String> {
        let label = self.roster.label(&from.id);
        let doubt = if self.keyed && !from.verified { "?" } else { "" };
        let whom = if direct { " to you" } else { "" };
        let lines = text::lines(commands::action(message).unwrap_or(message));
        let mentioned = direct || lines.iter().any(|line| self.roster.mentions_us(line));
        let name = self.palette.paint(self.roster.ink(&from.id), &format!("{label}{doubt}{whom}"));
        let width = term::width(&label) + doubt.len() + whom.len() + 3;
        let head = match commands::action(message) {
            Some(_) => format!("* {name} "),
            None => format!("<{name}> "),
        };
        let mut shown = self.stamped(&head, width, &lines, mentioned.then_some(Ink::Bold));
        if mentioned && let Some(first) = shown.first_mut() {
            first.insert_str(0, BELL);
        }
        shown
    }

    fn transfer(&mut self, event: &TransferEvent) -> Step {
        let note = self.shelf.on_event(event, &self.roster);
        let mut step = Step::default();
        if let TransferEvent::Offered { from, offer, .. } = event
            && self.consent.judge(from, &self.roster) == Decision::Accept
        {
            step.asks.push(Ask::Command(ask::accept(offer.transfer)));
            return step;
        }
        let offer = if let TransferEvent::Offered { offer, .. } = event { Some(offer) } else { None };
        let offered = offer.and_then(|offer| self.shelf.item(&offer.transfer));
        let how = |item: &Item| format!(": /accept {0} or /reject {0}", item.number);
        let answer = offered.map(how).unwrap_or_default();
        step.lines = note.map(|note| self.note(note.ink, &(note.text + &answer))).unwrap_or_default();
        if matches!(event, TransferEvent::Offered { .. })
            && let Some(first) = step.lines.first_mut()
        {
            first.insert_str(0, BELL);
        }
        if let TransferEvent::Delivered { transfer, .. } | TransferEvent::Undelivered { transfer, .. } = event
        {
            let all_have_it = self.shelf.item(transfer).filter(|item| item.state == State::Done);
            let summary = all_have_it.map(|item| self.note(Ink::Dim, &item.sent_summary()));
            step.lines.extend(summary.into_iter().flatten());
        }
        step
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
            Ok((peer, text)) => self.say(text, To::Peers(vec![peer])),
            Err(error) => self.complain(&error.to_string()),
        }
    }

    fn send(&mut self, to: Option<&str>, paths: Vec<PathBuf>) -> Step {
        let to = match to.map(|name| self.roster.find(name)) {
            None => To::Everyone,
            Some(Ok(peer)) => To::Peers(vec![peer]),
            Some(Err(error)) => return self.complain(&error.to_string()),
        };
        // In a chat, stdin is the keyboard.
        if paths.iter().any(|path| path.as_os_str() == "-") {
            return self.complain("stdin can't be sent from within a chat: use swarm send -");
        }
        let token = self.tokens.fresh();
        Step::ask(Ask::Command(ask::send(token, paths, to, SourceOptions::default())))
    }

    fn accept(&self, which: &str) -> Step {
        match self.shelf.pick(which, awaits_us) {
            Ok(transfer) => Step::ask(Ask::Command(ask::accept(transfer))),
            Err(error) => self.complain(&error.to_string()),
        }
    }

    fn accept_all(&self) -> Step {
        let waiting =
            self.shelf.items().into_iter().filter(|item| awaits_us(item)).map(|item| item.offer.transfer);
        let asks: Vec<Ask> = waiting.map(|transfer| Ask::Command(ask::accept(transfer))).collect();
        if asks.is_empty() {
            self.complain("nothing waits for an answer")
        } else {
            Step { lines: Vec::new(), asks }
        }
    }

    fn reject(&self, which: &str) -> Step {
        let running = |item: &Item| item.state == State::Running && item.direction() == Direction::Receive;
        match self.shelf.pick(which, |item| awaits_us(item) || running(item)) {
            Ok(transfer) => Step::ask(Ask::Command(ask::reject(transfer))),
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

    fn transfers(&self) -> Vec<String> {
        let items = self.shelf.items();
        if items.is_empty() {
            return self.note(Ink::Dim, "no transfers yet; /send PATH offers something");
        }
        let mut lines = Vec::new();
        for item in items {
            lines.push(self.transfer_line(item));
            let parts = item.progress.iter().flat_map(|progress| &progress.peers);
            let running = item.state == State::Running;
            lines.extend(parts.filter(|_| running).map(|peer| {
                let has = format::percent(peer.has_bytes, item.offer.bytes);
                let (down, up) = (format::rate(peer.down_bps), format::rate(peer.up_bps));
                self.palette.paint(
                    Ink::Dim,
                    &format!("     {} has {has} %, ↓ {down} ↑ {up}", self.roster.label(&peer.peer)),
                )
            }));
        }
        lines
    }

    fn transfer_line(&self, item: &Item) -> String {
        let (arrow, who) = match &item.from {
            Some(from) => ("↓", format!(" from {}", self.roster.label(from))),
            None => ("↑", String::new()),
        };
        let state = match item.state {
            State::Waiting if item.from.is_some() => "waiting for /accept".to_owned(),
            State::Waiting => "offered".to_owned(),
            State::Running => progress(item).unwrap_or_else(|| "starting".to_owned()),
            State::Done => "done".to_owned(),
            State::Failed => "failed".to_owned(),
            State::Over => "over".to_owned(),
        };
        format!("{:>3}. {arrow} {} ({}){who}: {state}", item.number, item.name(), item.size())
    }

    fn help(&self) -> Vec<String> {
        let rows =
            COMMANDS.map(|(name, arguments, meaning)| [format!("{name} {arguments}"), meaning.to_owned()]);
        let mut lines = layout::table(&rows);
        lines.push("Anything else is said to everyone; Tab completes commands, names and paths.".to_owned());
        lines
    }

    fn complain(&self, text: &str) -> Step {
        Step::show(vec![self.palette.paint(Ink::Warn, text)])
    }

    fn note(&self, ink: Ink, text: &str) -> Vec<String> {
        self.stamped("- ", 2, &[text.to_owned()], Some(ink))
    }

    /// Lines behind the time and a head of `width` columns, folded so that nothing of them stands below the time: a line
    /// that wraps by itself could pretend to be somebody else's.
    fn stamped(&self, head: &str, width: usize, lines: &[String], ink: Option<Ink>) -> Vec<String> {
        let now = (self.now)();
        let indent = (term::width(&now) + 1 + width).min(self.columns / 2);
        let folded = lines.iter().flat_map(|line| layout::fold(line, self.columns - indent));
        let painted = folded.map(|line| ink.map_or(line.clone(), |ink| self.palette.paint(ink, &line)));
        let first = format!("{} {head}", self.palette.paint(Ink::Dim, &now));
        let front = std::iter::once(first).chain(std::iter::repeat(" ".repeat(indent)));
        front.zip(painted).map(|(front, line)| format!("{front}{line}")).collect()
    }
}

fn awaits_us(item: &Item) -> bool {
    item.state == State::Waiting && item.direction() == Direction::Receive
}

/// `↓ film.mkv 45 % 11.2 MiB/s 0:12`.
fn progress(item: &Item) -> Option<String> {
    let progress = item.progress.as_ref()?;
    let arrow = match progress.direction {
        Direction::Send => "↑",
        Direction::Receive => "↓",
    };
    let eta = progress.eta.map(|eta| format!(" {}", format::clock(eta))).unwrap_or_default();
    let (percent, rate) = (format::percent(progress.bytes, progress.total), format::rate(progress.rate_bps));
    Some(format!("{arrow} {} {percent} % {rate}{eta}", item.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::AcceptArgs;
    use crate::cli::roster::tests::{peer, roster};
    use crate::cli::shelf::tests::{id, offer};
    use crate::core::transfer::{Progress, TransferCommand};
    use crate::node::api::CloseReason;
    use crate::wire::TransferId;

    fn repl(accept_from: &[&str]) -> Repl {
        let args = AcceptArgs {
            out: ".".into(),
            yes: false,
            accept_from: accept_from.iter().map(|name| (*name).to_owned()).collect(),
            on_conflict: crate::cli::values::Arrival::Rename,
        };
        Repl::new(Settings {
            roster: roster(&[("1111", "ada"), ("2222", "bob")]),
            consent: Consent::new(&args, true),
            palette: Palette::PLAIN,
            keyed: true,
            invite: Some("ws://h/r#k".into()),
            now: || "12:01".into(),
        })
    }

    fn message(text: &str, direct: bool) -> Event {
        Event::Message { from: peer("1111", "ada"), text: text.into(), direct }
    }

    #[test]
    fn lines_stand_behind_the_time_and_the_name() {
        let mut repl = repl(&[]);
        assert_eq!(
            repl.on_event(&message("hello\nworld", false)).lines,
            ["12:01 <ada> hello", "            world"]
        );
        assert_eq!(repl.on_event(&message("/me waves", false)).lines, ["12:01 * ada waves"]);
        assert_eq!(repl.on_event(&message("psst", true)).lines, ["\x0712:01 <ada to you> psst"]);
        assert_eq!(repl.on_event(&message("hi me!", false)).lines, ["\x0712:01 <ada> hi me!"]);
    }

    #[test]
    fn nothing_that_a_peer_says_can_pretend_to_be_another_line() {
        let mut repl = repl(&[]);
        repl.set_columns(40);
        let forged = format!("hi{}12:02 <bob> I owe you", " ".repeat(38));
        for line in repl.on_event(&message(&forged, false)).lines.iter().skip(1) {
            assert!(line.starts_with("            "), "{line:?}");
        }
        let escapes = repl.on_event(&message("\x1b[1A\r12:02 <bob> hi", false)).lines;
        assert_eq!(escapes, ["12:01 <ada> ␛[1A␍12:02 <bob> hi"]);
    }

    #[test]
    fn who_is_not_verified_is_marked_in_every_line() {
        let mut repl = repl(&[]);
        let mut ada = peer("1111", "ada");
        ada.verified = false;
        let event = Event::Message { from: ada, text: "hi".into(), direct: false };
        assert_eq!(repl.on_event(&event).lines, ["12:01 <ada?> hi"]);
    }

    #[test]
    fn a_peer_that_leaves_is_named_one_last_time() {
        let mut repl = repl(&[]);
        let closed = Event::Closed { peer: peer("1111", "ada"), reason: CloseReason::Left };
        assert_eq!(repl.on_event(&closed).lines, ["12:01 - ada left"]);
        assert_eq!(repl.labels(), ["bob"]);
    }

    #[test]
    fn what_is_typed_is_asked_of_the_node() {
        let mut repl = repl(&[]);
        let asked = |step: Step| match step.asks.as_slice() {
            [Ask::Command(command)] => format!("{command:?}"),
            asks => format!("{asks:?} {:?}", step.lines),
        };
        assert_eq!(asked(repl.on_line("hi")), r#"Say { text: "hi", to: Everyone }"#);
        assert_eq!(asked(repl.on_line("/msg ada hi you")), r#"Say { text: "hi you", to: Peers(["1111"]) }"#);
        assert_eq!(asked(repl.on_line("/nick eve")), r#"Rename { name: "eve" }"#);
        assert_eq!(repl.prompt(), "eve> ");
        assert_eq!(asked(repl.on_line("/ignore bob")), r#"Ignore { peer: "2222", ignored: true }"#);
        assert!(asked(repl.on_line("/send a b")).contains(r#"paths: ["a", "b"]"#));
        assert_eq!(asked(repl.on_line("/quit")), "[Quit] []");
        assert_eq!(
            asked(repl.on_line("/msg eve hi")),
            r#"[] ["nobody here is called eve; /peers shows who is here"]"#
        );
        assert_eq!(asked(repl.on_line("/accept")), r#"[] ["nothing waits for an answer"]"#);
    }

    #[test]
    fn an_offer_is_accepted_by_number_or_by_who_sends_it() {
        let offered = |from: &str| {
            let offer = offer(7, "film.mkv", from);
            Event::Transfer(TransferEvent::Offered { from: id(from), offer, free_bytes: None })
        };
        let mut careful = repl(&["bob"]);
        let step = careful.on_event(&offered("1111"));
        assert_eq!(step.lines, ["\x0712:01 - ada offers film.mkv (1.0 MiB): /accept 1 or /reject 1"]);
        assert!(step.asks.is_empty());
        let accepted = careful.on_line("/accept").asks;
        assert!(matches!(
            accepted.as_slice(),
            [Ask::Command(Command::Transfer(TransferCommand::Accept { .. }))]
        ));
        let step = repl(&["bob"]).on_event(&offered("2222"));
        let asks = step.asks.as_slice();
        assert!(
            matches!(asks, [Ask::Command(Command::Transfer(TransferCommand::Accept { .. }))]),
            "{asks:?}"
        );
    }

    #[test]
    fn the_status_line_shows_what_one_waits_for() {
        let mut repl = repl(&[]);
        assert_eq!(repl.status(), "  2 others here");
        let transfer = TransferId([7; 32]);
        let offer = offer(7, "film.mkv", "1111");
        repl.on_event(&Event::Transfer(TransferEvent::Accepting { from: id("1111"), offer }));
        repl.on_event(&Event::Transfer(TransferEvent::Progress(Progress {
            transfer,
            direction: Direction::Receive,
            bytes: 1 << 19,
            total: 1 << 20,
            rate_bps: 1 << 17,
            eta: Some(std::time::Duration::from_secs(4)),
            uploaded_bytes: 0,
            peers: Vec::new(),
        })));
        assert_eq!(repl.status(), "  ↓ film.mkv 50 % 128 KiB/s 0:04 · 2 others here");
        repl.set_columns(20);
        assert_eq!(repl.status(), "  ↓ film.mkv 50 % …");
    }

    #[test]
    fn the_table_of_peers_says_how_each_is_connected() {
        let mut ada = peer("1111", "ada");
        ada.received_bytes = 4096;
        ada.path = Some(crate::core::peer::Path {
            kind: crate::core::peer::PathKind::Relayed,
            local: "[::1]:1".parse().expect("an address"),
            remote: "[::1]:2".parse().expect("an address"),
            rtt: Some(std::time::Duration::from_millis(42)),
        });
        let lines = repl(&[]).peers(&[ada]);
        assert_eq!(
            lines,
            [
                "NAME  TRUST     PATH          RTT    SENT  RECEIVED  ID",
                "ada   verified  relayed IPv6  42 ms  0 B   4.0 KiB   1111",
            ]
        );
    }
}
