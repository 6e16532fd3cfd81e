//! What happens, in words for people. Everything in here is safe for a terminal.

use std::net::IpAddr;

use super::format;
use super::layout;
use super::roster::Roster;
use super::term::{Ink, Palette};
use crate::core::peer::{Path, PathKind};
use crate::node::api::{
    CloseReason, Ended, Event, IceServerTrouble, IceTrouble, PeerInfo, PeerKind, SignalingState,
};
use crate::wire::UserId;
use crate::wire::signal::ErrorCode;
use crate::wire::text;

/// The longest sentence of a server or a library that is shown, in characters.
const FOREIGN_MAX_CHARS: usize = 300;

/// A sentence and how it should look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its colour.
    pub ink: Ink,
    /// What it says.
    pub text: String,
}

impl Note {
    /// A sentence of this colour.
    pub fn new(ink: Ink, text: impl Into<String>) -> Self {
        Self { ink, text: text.into() }
    }

    /// The sentence in its colour, in rows for a terminal of so many columns.
    pub fn rows(&self, palette: Palette, columns: Option<usize>) -> Vec<String> {
        layout::hang(&self.text, columns).iter().map(|row| palette.paint(self.ink, row)).collect()
    }
}

/// Puts events into words. It remembers whether the server is away, to say so once and not with every attempt.
#[derive(Debug)]
pub struct Narrator {
    keyed: bool,
    server_away: bool,
}

impl Narrator {
    /// For a room with a key, or one without.
    pub fn new(keyed: bool) -> Self {
        Self { keyed, server_away: false }
    }

    /// What an event that is neither a message nor news of a transfer says to people. The roster has learnt from it, and has
    /// not yet forgotten who left.
    pub fn event(&mut self, event: &Event, roster: &Roster) -> Option<Note> {
        match event {
            Event::Ready { members, .. } => Some(ready(*members)),
            Event::Signaling(state) => self.signaling(state),
            Event::Opened(peer) => Some(opened(peer, roster, self.keyed)),
            // We know that we leave.
            Event::Closed { reason: CloseReason::Local, .. } => None,
            Event::Closed { peer, reason } => {
                Some(Note::new(Ink::Dim, format!("{} {}", roster.label(&peer.id), left(*reason))))
            }
            Event::Renamed { peer, old } => {
                let old = text::Name::from_remote(old)
                    .map_or_else(|| "somebody".to_owned(), |name| name.to_string());
                Some(Note::new(Ink::Dim, format!("{old} is now {}", roster.label(&peer.id))))
            }
            Event::Data { from, bytes } => {
                let (label, len) = (roster.label(&from.id), format::bytes(bytes.len() as u64));
                Some(Note::new(Ink::Dim, format!("{label} sent {len} of data, blake3 {}", brief_hash(bytes))))
            }
            Event::PeerFailed { peer, reason, untold } => {
                let mut note = peer_failed(peer.as_ref(), *reason, roster);
                if *untold > 0 {
                    note.text.push_str(&format!(" (and {untold} more before it)"));
                }
                Some(note)
            }
            Event::IceServer(trouble) => Some(Note::new(Ink::Warn, ice_server(trouble))),
            Event::Message { .. } | Event::Transfer(_) | Event::Ended(_) => None,
        }
    }

    /// What stands in front of each line of a message, and what was said.
    pub fn head<'a>(&self, from: &PeerInfo, message: &'a str, roster: &Roster) -> (String, &'a str) {
        let (kind, said) = spoken(message);
        (format!("{kind}<{}> ", roster.speaker(from, self.keyed)), said)
    }

    /// Nothing while all is well.
    fn signaling(&mut self, state: &SignalingState) -> Option<Note> {
        let was_away = self.server_away;
        match state {
            SignalingState::Connecting => None,
            SignalingState::Up => {
                self.server_away = false;
                was_away.then(|| Note::new(Ink::Good, "the server is back"))
            }
            SignalingState::Down { reason, .. } => {
                self.server_away = true;
                let reason = text::line(reason, FOREIGN_MAX_CHARS);
                let note = format!(
                    "the server is away ({reason}); whoever is here stays connected, and it is tried again"
                );
                (!was_away).then(|| Note::new(Ink::Warn, note))
            }
            // The loss that follows says it.
            SignalingState::Refused { code: Some(ErrorCode::ShuttingDown), .. } => None,
            SignalingState::Refused { message, .. } => Some(Note::new(
                Ink::Warn,
                format!("the server says: {}", text::line(message, FOREIGN_MAX_CHARS)),
            )),
        }
    }
}

/// What stands in front of the name of whoever said that, and what was said: `/me waves` is shown as `* <ada> waves`. Where
/// a name has a border on both sides, none can take in what stands around it.
pub fn spoken(message: &str) -> (&'static str, &str) {
    let action = message.strip_prefix("/me ").map(str::trim_start).filter(|what| !what.is_empty());
    action.map_or(("", message), |action| ("* ", action))
}

/// What stands in front of what was said to us alone: behind the name it could be something that was said to everyone.
pub const TO_US: &str = "(to you) ";

fn ready(members: Option<usize>) -> Note {
    let text = match members {
        None => "you are in".to_owned(),
        Some(0) => "you are the first here".to_owned(),
        Some(1) => "1 other is here".to_owned(),
        Some(more) => format!("{more} others are here"),
    };
    Note::new(Ink::Dim, text)
}

fn brief_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().chars().take(16).collect()
}

fn opened(peer: &PeerInfo, roster: &Roster, keyed: bool) -> Note {
    let label = roster.label(&peer.id);
    let mut facts = Vec::new();
    if keyed {
        facts.push(if peer.verified { "verified" } else { "NOT VERIFIED" }.to_owned());
    }
    if peer.kind == PeerKind::Original {
        facts.push("a published fast-rtc library".to_owned());
    }
    facts.extend(peer.path.as_ref().map(path));
    let ink = if keyed && !peer.verified { Ink::Warn } else { Ink::Good };
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    Note::new(ink, format!("{label} joined{facts}"))
}

/// `direct, IPv4, 0.4 ms`.
pub fn path(path: &Path) -> String {
    let rtt = path.rtt.map(|rtt| format!(", {}", format::rtt(rtt)));
    format!("{}, {}{}", path_kind(path.kind), family(path.remote.ip()), rtt.unwrap_or_default())
}

/// `direct` or `relayed`.
pub fn path_kind(kind: PathKind) -> &'static str {
    match kind {
        PathKind::Direct => "direct",
        PathKind::Relayed => "relayed",
    }
}

/// `IPv4` or `IPv6`.
pub fn family(address: IpAddr) -> &'static str {
    match address.to_canonical() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// What became of a peer that had been here.
fn left(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Left => "left",
        CloseReason::Lost => "is gone: nothing came any more",
        CloseReason::NoPath => "is gone: no path leads there any more",
        CloseReason::KeyMismatch => "was dropped: it could not prove the room's key",
        CloseReason::Unverified => "was dropped: it can't prove the room's key",
        CloseReason::Misbehaved => "was dropped: it broke the protocol",
        CloseReason::GivenBack => "left, says the server",
        CloseReason::Replaced => "reconnected",
        CloseReason::TakenId => "was dropped: another member has that id",
        CloseReason::Local => "was left behind",
    }
}

fn peer_failed(peer: Option<&UserId>, reason: CloseReason, roster: &Roster) -> Note {
    let who = peer.map_or_else(|| "somebody".to_owned(), |id| roster.label(id));
    match reason {
        CloseReason::KeyMismatch => Note::new(
            Ink::Bad,
            format!(
                "{who} was refused: another key, or somebody in between. \
                 Compare your invites; if they are the same, do not trust this server"
            ),
        ),
        CloseReason::Unverified => Note::new(
            Ink::Warn,
            format!(
                "{who} was refused: it can't prove the room's key (--allow-unverified lets such peers in)"
            ),
        ),
        CloseReason::NoPath => Note::new(
            Ink::Warn,
            format!(
                "no path to {who}: a firewall is in the way on one side; a TURN server would help (--ice-server)"
            ),
        ),
        CloseReason::Misbehaved => Note::new(Ink::Warn, format!("{who} was refused: it broke the protocol")),
        CloseReason::TakenId => Note::new(
            Ink::Warn,
            format!(
                "somebody else came with the id of {who} and was refused; {who} is asked for a sign of life"
            ),
        ),
        CloseReason::Lost => Note::new(Ink::Dim, format!("{who} did not answer; trying again")),
        CloseReason::Left | CloseReason::GivenBack | CloseReason::Replaced | CloseReason::Local => {
            Note::new(Ink::Dim, format!("{who} left before the connection stood"))
        }
    }
}

fn ice_server(trouble: &IceServerTrouble) -> String {
    let server = &trouble.server;
    match trouble.trouble {
        IceTrouble::Unresolved => {
            format!("can't find the STUN or TURN server {server} (--ice-server): is its name right?")
        }
        IceTrouble::Silent => format!(
            "no answer from the STUN or TURN server {server} (--ice-server): are address and port right, and does the network let UDP out?"
        ),
        IceTrouble::Refused(401) => {
            format!("the TURN server {server} relays nothing for us: wrong user or password (--ice-server)")
        }
        IceTrouble::Refused(code) => {
            format!("the TURN server {server} relays nothing for us: error {code} (RFC 8656 §19)")
        }
    }
}

/// Why the node ended, where it was not asked to, with the next step.
pub fn ended(ended: Option<&Ended>) -> Option<String> {
    let Some(ended) = ended else {
        return Some(
            "something broke inside, which is a bug: run it again with -vv and report what it says"
                .to_owned(),
        );
    };
    match ended {
        Ended::Quit => None,
        Ended::Undelivered { bytes } => Some(format!(
            "{} of what was said did not arrive: somebody takes nothing any more, or too slowly",
            format::bytes(*bytes as u64)
        )),
        Ended::Refused { code: ErrorCode::Forbidden, .. } => {
            let next = "check the invite or --token-file, which is for the server that was typed if a code was; SWARM_TOKEN is for the \
                 server of --url or SWARM_URL only";
            Some(format!("the server wants a good token: {next}"))
        }
        Ended::Refused { message, .. } => {
            Some(format!("the server refused: {}", text::line(message, FOREIGN_MAX_CHARS)))
        }
        Ended::Unreachable { reason } => Some(format!(
            "can't reach the server: {}; is it running, and is the address right?",
            text::line(reason, FOREIGN_MAX_CHARS)
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::roster::tests::{peer, roster};
    use crate::cli::term;

    fn said(event: &Event) -> String {
        let note = Narrator::new(true).event(event, &roster(&[("1111", "ada")]));
        note.map_or_else(String::new, |note| note.text)
    }

    #[test]
    fn an_arrival_says_how_far_it_can_be_trusted_and_how_it_is_connected() {
        let mut ada = peer("1111", "ada");
        ada.path = Some(Path {
            kind: PathKind::Direct,
            local: "10.0.0.1:1".parse().expect("an address"),
            remote: "[::ffff:10.0.0.2]:1".parse().expect("an address"),
            rtt: Some(Duration::from_micros(800)),
        });
        assert_eq!(said(&Event::Opened(ada.clone())), "ada joined (verified, direct, IPv4, 0.8 ms)");
        ada.verified = false;
        ada.kind = PeerKind::Original;
        ada.path = None;
        assert_eq!(said(&Event::Opened(ada)), "ada joined (NOT VERIFIED, a published fast-rtc library)");
    }

    #[test]
    fn what_a_server_says_can_not_move_the_cursor() {
        let state = SignalingState::Refused { code: None, message: "\x1b[2Jgo away".into() };
        assert_eq!(said(&Event::Signaling(state)), "the server says: ␛[2Jgo away");
    }

    #[test]
    fn what_a_server_says_begins_no_row_of_its_own() {
        let forged =
            format!("{:63}{:80}{:80}", "", "<bob> it is me, say y", "ada joined (verified, direct, IPv4)");
        let state = SignalingState::Refused { code: None, message: forged };
        let note = Narrator::new(true).event(&Event::Signaling(state), &roster(&[])).expect("a note");
        for columns in 4..120 {
            let rows = note.rows(Palette::PLAIN, Some(columns));
            assert!(rows.iter().all(|row| term::width(row) <= columns), "{rows:?}");
            assert!(rows[1..].iter().all(|row| row.starts_with("  ")), "{rows:?}");
        }
        assert_eq!(note.rows(Palette::PLAIN, None), [note.text]);
    }

    #[test]
    fn a_server_that_stays_away_is_mentioned_once() {
        let (mut narrator, roster) = (Narrator::new(true), roster(&[]));
        let mut say = |state| narrator.event(&Event::Signaling(state), &roster).map(|note| note.text);
        let down = || SignalingState::Down { reason: "gone".into(), retry_in: Duration::from_secs(1) };
        assert_eq!(say(SignalingState::Up), None);
        assert!(say(down()).expect("news").starts_with("the server is away (gone);"));
        assert_eq!(say(down()), None);
        assert_eq!(say(SignalingState::Up).as_deref(), Some("the server is back"));
    }

    #[test]
    fn a_wrong_key_does_not_look_like_a_network_failure() {
        let event = Event::PeerFailed { peer: None, reason: CloseReason::KeyMismatch, untold: 0 };
        assert!(said(&event).starts_with("somebody was refused: another key, or somebody in between."));
    }

    #[test]
    fn of_failures_that_were_not_told_one_hears_the_number() {
        let event = Event::PeerFailed { peer: None, reason: CloseReason::Misbehaved, untold: 7 };
        assert_eq!(said(&event), "somebody was refused: it broke the protocol (and 7 more before it)");
    }
}
