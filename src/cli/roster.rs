//! Who is here, and what each is called on the screen.

use std::collections::{BTreeMap, VecDeque};

use super::term::Ink;
use crate::node::api::{Event, PeerInfo};
use crate::wire::UserId;
use crate::wire::text::{self, Name};

/// The shortest part of an id that stands for it, in characters.
const ID_MIN_CHARS: usize = 4;

/// Names of those who left that are remembered.
const DEPARTED_MAX: usize = 100;

/// The peers in the room. Everything it gives out is safe for a terminal.
#[derive(Debug)]
pub struct Roster {
    own: Name,
    peers: BTreeMap<UserId, Entry>,
    /// The names of those who left, the last one last: news about their transfers may come after them.
    departed: VecDeque<(UserId, Name)>,
}

#[derive(Debug)]
struct Entry {
    info: PeerInfo,
    name: Option<Name>,
}

/// Nobody, or more than one, is called that.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nobody.
    #[error("nobody here is called {0}; /peers shows who is here")]
    Nobody(String),
    /// Several.
    #[error("more than one is called {0}: say {1}")]
    Several(String, String),
}

impl Roster {
    /// Nobody but us.
    pub fn new(own: Name) -> Self {
        Self { own, peers: BTreeMap::new(), departed: VecDeque::new() }
    }

    /// Our own name.
    pub fn own(&self) -> &Name {
        &self.own
    }

    /// Takes another own name.
    pub fn rename_self(&mut self, own: Name) {
        self.own = own;
    }

    /// Learns from an event who came, and what is new about whom. To be called before the event is put into words.
    pub fn learn(&mut self, event: &Event) {
        match event {
            Event::Opened(peer) | Event::Renamed { peer, .. } => self.upsert(peer),
            Event::Message { from, .. } | Event::Data { from, .. } => self.upsert(from),
            Event::Ready { .. }
            | Event::Signaling(_)
            | Event::Closed { .. }
            | Event::Transfer(_)
            | Event::PeerFailed { .. }
            | Event::Ended(_) => {}
        }
    }

    /// Forgets who left. To be called after the event was put into words, which still need the name.
    pub fn forget(&mut self, event: &Event) {
        let Event::Closed { peer, .. } = event else { return };
        if let Some(name) = self.peers.remove(&peer.id).and_then(|entry| entry.name) {
            self.departed.retain(|(id, _)| *id != peer.id);
            self.departed.push_back((peer.id.clone(), name));
            if self.departed.len() > DEPARTED_MAX {
                self.departed.pop_front();
            }
        }
    }

    /// A peer came, or something about it is new.
    pub fn upsert(&mut self, info: &PeerInfo) {
        let entry = Entry { info: info.clone(), name: Name::from_remote(&info.name) };
        self.peers.insert(info.id.clone(), entry);
    }

    /// How many peers are here.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether we are alone.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// What is known of a peer.
    pub fn info(&self, id: &UserId) -> Option<&PeerInfo> {
        self.peers.get(id).map(|entry| &entry.info)
    }

    /// What a peer is called: its name, with a part of its id where it has none or another's looks like it.
    pub fn label(&self, id: &UserId) -> String {
        let here = self.peers.get(id).and_then(|entry| entry.name.as_ref());
        let gone = || self.departed.iter().find(|(other, _)| other == id).map(|(_, name)| name);
        let Some(name) = here.or_else(gone) else {
            return format!("peer#{}", self.short_id(id));
        };
        if self.has_twin(id, name) { format!("{name}#{}", self.short_id(id)) } else { name.to_string() }
    }

    /// What a peer is called in front of what it says, with a mark if it ought to have proved the room's key and has not.
    /// No label has a space in front of a number sign, so the mark is part of none.
    pub fn speaker(&self, peer: &PeerInfo, keyed: bool) -> String {
        let doubt = if keyed && !peer.verified { " #?" } else { "" };
        self.label(&peer.id) + doubt
    }

    /// What everyone here is called.
    pub fn labels(&self) -> Vec<String> {
        self.peers.keys().map(|id| self.label(id)).collect()
    }

    /// What several peers are called, in one phrase.
    pub fn phrase(&self, ids: &[UserId]) -> String {
        ids.iter().map(|id| self.label(id)).collect::<Vec<_>>().join(", ")
    }

    /// The peer whom somebody means: by label, by name in any case, or by the beginning of the id.
    pub fn find(&self, typed: &str) -> Result<UserId, FindError> {
        let typed = typed.trim().trim_start_matches('@');
        let by_label = |id: &&UserId| self.label(id) == typed;
        if let Some(id) = self.peers.keys().find(by_label) {
            return Ok(id.clone());
        }
        let lower = typed.to_lowercase();
        let named =
            |entry: &Entry| entry.name.as_ref().is_some_and(|name| name.as_str().to_lowercase() == lower);
        let by_name: Vec<_> =
            self.peers.iter().filter(|(_, entry)| named(entry)).map(|(id, _)| id.clone()).collect();
        let id_part = typed.rsplit_once('#').map_or(typed, |(_, part)| part);
        let by_id = || {
            let long_enough = id_part.chars().count() >= ID_MIN_CHARS;
            let ids = self.peers.keys().filter(|id| long_enough && id.as_str().starts_with(id_part));
            ids.cloned().collect()
        };
        let found: Vec<UserId> = if by_name.is_empty() { by_id() } else { by_name };
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(FindError::Nobody(text::line(typed, 80).into_owned())),
            several => Err(FindError::Several(text::line(typed, 80).into_owned(), self.phrase(several))),
        }
    }

    /// Splits `NAME text`, where names may have spaces: the longest beginning that is somebody's wins.
    pub fn find_prefix<'a>(&self, typed: &'a str) -> Result<(UserId, &'a str), FindError> {
        let typed = typed.trim_start();
        let cuts = typed.match_indices(char::is_whitespace).map(|(at, _)| at).chain([typed.len()]);
        let mut cuts: Vec<usize> = cuts.take(crate::wire::limits::NAME_MAX_CHARS).collect();
        let first = cuts.first().copied().unwrap_or(0);
        cuts.reverse();
        let longest = cuts
            .iter()
            .find_map(|at| self.find(&typed[..*at]).ok().map(|id| (id, typed[*at..].trim_start())));
        longest.map_or_else(|| self.find(&typed[..first]).map(|id| (id, "")), Ok)
    }

    /// The colour of a peer, the same as long as it is here.
    pub fn ink(&self, id: &UserId) -> Ink {
        Ink::Peer(id.as_str().bytes().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte)))
    }

    /// Whether a line speaks to us: our name stands in it as a word.
    pub fn mentions_us(&self, line: &str) -> bool {
        let own = self.own.as_str().to_lowercase();
        let line = line.to_lowercase();
        line.match_indices(&own).any(|(at, found)| {
            let before = line[..at].chars().next_back();
            let after = line[at + found.len()..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        })
    }

    fn has_twin(&self, id: &UserId, name: &Name) -> bool {
        let skeleton = name.skeleton();
        let others = self.peers.iter().filter(|(other, _)| *other != id);
        let names = others.filter_map(|(_, entry)| entry.name.as_ref()).chain([&self.own]);
        names.into_iter().any(|other| other.skeleton() == skeleton)
    }

    /// The beginning of an id, as long as it takes to tell it from everyone else's here.
    fn short_id(&self, id: &UserId) -> String {
        let shared = |other: &UserId| {
            other.as_str().chars().zip(id.as_str().chars()).take_while(|(a, b)| a == b).count()
        };
        let longest = self.peers.keys().filter(|other| *other != id).map(shared).max().unwrap_or(0);
        id.as_str().chars().take(ID_MIN_CHARS.max(longest + 1)).map(plain).collect()
    }
}

/// An id that no other looks like: only ASCII stands for itself, since other scripts have letters that look like it.
pub fn plain_id(id: &UserId) -> String {
    id.as_str().chars().map(plain).collect()
}

/// The backslash begins what stands for other characters, so it never stands for itself; the borders of names are in no
/// id, as they are in no name.
fn plain(c: char) -> String {
    let stands_for_itself = c.is_ascii_graphic() && !matches!(c, '\\' | '<' | '>' | '#');
    if stands_for_itself { c.into() } else { c.escape_unicode().to_string() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::node::api::PeerKind;

    pub(crate) fn peer(id: &str, name: &str) -> PeerInfo {
        PeerInfo {
            id: UserId::new(id).expect("an id"),
            name: name.into(),
            verified: true,
            kind: PeerKind::Swarm,
            path: None,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    pub(crate) fn roster(peers: &[(&str, &str)]) -> Roster {
        let mut roster = Roster::new("me".parse().expect("a name"));
        for (id, name) in peers {
            roster.upsert(&peer(id, name));
        }
        roster
    }

    fn labels(peers: &[(&str, &str)]) -> Vec<String> {
        roster(peers).labels()
    }

    #[test]
    fn a_name_alone_is_a_label_and_twins_get_their_ids() {
        assert_eq!(labels(&[("1111-a", "ada"), ("2222-b", "bob")]), ["ada", "bob"]);
        assert_eq!(labels(&[("1111-a", "ada"), ("2222-b", "АDА")]), ["ada#1111", "АDА#2222"]);
        assert_eq!(labels(&[("1111-a", "Me")]), ["Me#1111"]);
        assert_eq!(labels(&[("1111-a", "\u{202e}"), ("1111-b", "")]), ["peer#1111-a", "peer#1111-b"]);
    }

    #[test]
    fn ids_that_look_alike_are_told_apart() {
        let alike = labels(&[("1111-a", "ada"), ("a1b2-x", "ada"), ("\u{430}1b2-x", "ada")]);
        assert_eq!(alike, ["ada#1111", "ada#a1b2", "ada#\\u{430}1b2"]);
        assert_eq!(labels(&[("\\u{430}1", "")]), ["peer#\\u{5c}u{4"], "nothing is spelled like another");
        let roster = roster(&[("a1b2-x", "ada"), ("\u{430}1b2-x", "ada")]);
        let found = roster.find("ada#\\u{430}1b2").expect("as it is shown");
        assert_eq!(found.as_str(), "\u{430}1b2-x");
    }

    #[test]
    fn a_peer_is_found_by_label_name_or_id() {
        let roster = roster(&[("1111-a", "Ada Lovelace"), ("2222-b", "bob"), ("3333-c", "bob")]);
        let id = |text: &str| UserId::new(text).expect("an id");
        assert_eq!(roster.find("ada lovelace"), Ok(id("1111-a")));
        assert_eq!(roster.find("bob#3333"), Ok(id("3333-c")));
        assert_eq!(roster.find("2222"), Ok(id("2222-b")));
        assert_eq!(roster.find("bob"), Err(FindError::Several("bob".into(), "bob#2222, bob#3333".into())));
        assert_eq!(roster.find("eve"), Err(FindError::Nobody("eve".into())));
        assert_eq!(roster.find("22"), Err(FindError::Nobody("22".into())));
    }

    #[test]
    fn a_name_with_spaces_is_told_from_the_text_behind_it() {
        let roster = roster(&[("1111-a", "Ada Lovelace"), ("2222-b", "Ada")]);
        let found = |typed| roster.find_prefix(typed).map(|(id, rest)| (id.to_string(), rest));
        assert_eq!(found("Ada Lovelace hello  you"), Ok(("1111-a".into(), "hello  you")));
        assert_eq!(found("Ada hello"), Ok(("2222-b".into(), "hello")));
        assert_eq!(found("Ada"), Ok(("2222-b".into(), "")));
        assert_eq!(found("eve hi"), Err(FindError::Nobody("eve".into())));
        assert_eq!(found(""), Err(FindError::Nobody(String::new())));
    }

    #[test]
    fn who_left_is_still_called_by_name() {
        let mut roster = roster(&[("1111-a", "ada")]);
        let reason = crate::node::api::CloseReason::Left;
        roster.forget(&Event::Closed { peer: peer("1111-a", "ada"), reason });
        assert!(roster.is_empty());
        assert_eq!(roster.label(&UserId::new("1111-a").expect("an id")), "ada");
    }

    #[test]
    fn a_mention_is_our_name_as_a_word() {
        let roster = roster(&[]);
        assert!(roster.mentions_us("hey Me, look"));
        assert!(roster.mentions_us("@me"));
        assert!(!roster.mentions_us("some meat"));
    }
}
