//! Who is here, and what each is called on the screen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::term::Ink;
use crate::node::api::{Event, PeerInfo};
use crate::wire::UserId;
use crate::wire::limits::NAME_MAX_CHARS;
use crate::wire::text::{self, Name};

/// The shortest part of an id that stands for it, in characters.
const ID_MIN_CHARS: usize = 4;

/// The longest beginning of an id that is shown: of two that are made as they should be (RFC 9562) this much is never the same.
const ID_MAX_CHARS: usize = 12;

/// Those who left that are remembered.
const DEPARTED_MAX: usize = 100;

/// The longest of what was typed that an error repeats, in characters.
const SHOWN_MAX_CHARS: usize = 80;

/// What stands for a name where there is none.
const NAMELESS: &str = "peer";

/// The peers in the room. Everything it gives out is safe for a terminal.
#[derive(Debug)]
pub struct Roster {
    own: Name,
    peers: BTreeMap<UserId, Entry>,
    /// Those who left, the last one last: news about their transfers may come after them, and what was typed for one of
    /// them is for nobody else.
    departed: VecDeque<(UserId, Option<Name>)>,
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
    /// In `NAME text`, several beginnings are somebody's.
    #[error("that can be for more than one: instead of the name, write {0}")]
    Unclear(String),
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
            | Event::IceServer(_)
            | Event::Ended(_) => {}
        }
    }

    /// Forgets who left. To be called after the event was put into words, which still need the name.
    pub fn forget(&mut self, event: &Event) {
        let Event::Closed { peer, .. } = event else { return };
        let Some(entry) = self.peers.remove(&peer.id) else { return };
        self.departed.push_back((peer.id.clone(), entry.name));
        if self.departed.len() > DEPARTED_MAX {
            self.departed.pop_front();
        }
    }

    /// A peer came, or something about it is new.
    pub fn upsert(&mut self, info: &PeerInfo) {
        let entry = Entry { info: info.clone(), name: Name::from_remote(&info.name) };
        self.departed.retain(|(id, _)| *id != info.id);
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
        match self.name(id) {
            Some(name) if !self.has_twin(id, name) => name.to_string(),
            Some(_) | None => self.full_label(id),
        }
    }

    /// Its name and a part of its id, which together are nobody else's.
    fn full_label(&self, id: &UserId) -> String {
        let name = self.name(id).map_or(NAMELESS, Name::as_str);
        format!("{name}#{}", self.short_id(id))
    }

    fn name(&self, id: &UserId) -> Option<&Name> {
        self.known().find(|(other, _)| *other == id).and_then(|(_, name)| name)
    }

    /// Everyone who is here, and those who left and are remembered.
    fn known(&self) -> impl Iterator<Item = (&UserId, Option<&Name>)> {
        let here = self.peers.iter().map(|(id, entry)| (id, entry.name.as_ref()));
        here.chain(self.departed.iter().map(|(id, name)| (id, name.as_ref())))
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

    /// The peer whom a program means: by its whole id, or by its name in any case. Nothing that only begins like it counts,
    /// or whoever chose such an id would get what is meant for somebody who has just left.
    pub fn find_exactly(&self, said: &str) -> Result<UserId, FindError> {
        self.only(said, &self.called(said))
    }

    /// The peer whom a person means: as a program would say it, as it is shown, or by the beginning of its id.
    pub fn find(&self, typed: &str) -> Result<UserId, FindError> {
        let typed = typed.trim();
        self.only(typed, &self.meant(typed))
    }

    /// Splits `NAME text`, where names may have spaces. Whoever calls itself like somebody else and the first words that
    /// may follow does not get them: where several beginnings are somebody's, nobody is meant.
    pub fn find_prefix<'a>(&self, typed: &'a str) -> Result<(UserId, &'a str), FindError> {
        let typed = typed.trim_start();
        let cuts = typed.match_indices(char::is_whitespace).map(|(at, _)| at).chain([typed.len()]);
        let cuts: Vec<usize> = cuts.take(NAME_MAX_CHARS).collect();
        let beginnings: Vec<_> = cuts
            .iter()
            .map(|at| (*at, self.meant(&typed[..*at])))
            .filter(|(_, meant)| !meant.is_empty())
            .collect();
        let Some((longest, meant)) = beginnings.last() else {
            return Err(FindError::Nobody(shown(&typed[..cuts.first().copied().unwrap_or(0)])));
        };
        if beginnings.iter().any(|(_, other)| other != meant) {
            let all: BTreeSet<&UserId> = beginnings.iter().flat_map(|(_, meant)| meant).collect();
            let here = all.into_iter().filter(|id| self.peers.contains_key(*id));
            let ways: Vec<_> =
                here.map(|id| format!("{} for {}", self.short_id(id), self.label(id))).collect();
            return Err(FindError::Unclear(ways.join(", ")));
        }
        Ok((self.only(&typed[..*longest], meant)?, typed[*longest..].trim_start()))
    }

    /// The one of `found` who is here, if nobody else is meant.
    fn only(&self, typed: &str, found: &BTreeSet<UserId>) -> Result<UserId, FindError> {
        let here: Vec<UserId> = found.iter().filter(|id| self.peers.contains_key(*id)).cloned().collect();
        match here.as_slice() {
            [one] if found.len() == 1 => Ok(one.clone()),
            [] => Err(FindError::Nobody(shown(typed))),
            several => {
                let labels: Vec<_> = several.iter().map(|id| self.full_label(id)).collect();
                Err(FindError::Several(shown(typed), labels.join(", ")))
            }
        }
    }

    /// Those who have this id, and those here who have this name or are shown so.
    fn called(&self, said: &str) -> BTreeSet<UserId> {
        let named = |entry: &Entry| entry.name.as_ref().is_some_and(|name| is_name(name.as_str(), said));
        let here = self.peers.iter().filter(|(id, entry)| named(entry) || self.label(id) == said);
        let with_id = self.known().map(|(id, _)| id).filter(|id| id.as_str() == said);
        here.map(|(id, _)| id).chain(with_id).cloned().collect()
    }

    /// Those whom it can mean, as it is or behind an `@`.
    fn meant(&self, typed: &str) -> BTreeSet<UserId> {
        let bare = typed.strip_prefix('@').map(|bare| self.fitting(bare));
        self.fitting(typed).into_iter().chain(bare.into_iter().flatten()).collect()
    }

    /// Those who are called so, whose id begins so, and those whose name and beginning of the id it is.
    fn fitting(&self, typed: &str) -> BTreeSet<UserId> {
        let mut meant = self.called(typed);
        meant.extend(begins(self.known().map(|(id, _)| id), typed));
        if let Some((name, part)) = typed.split_once('#') {
            let namesakes = self.known().filter(|(_, of)| is_name(of.map_or(NAMELESS, Name::as_str), name));
            meant.extend(begins(namesakes.map(|(id, _)| id), part));
        }
        meant
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

    /// The beginning of an id, as long as it takes to tell it from everyone else's.
    fn short_id(&self, id: &UserId) -> String {
        let shared = |other: &UserId| {
            other.as_str().chars().zip(id.as_str().chars()).take_while(|(a, b)| a == b).count()
        };
        let others = self.known().map(|(other, _)| other).filter(|other| *other != id);
        let longest = others.map(shared).max().unwrap_or(0);
        let len = ID_MIN_CHARS.max(longest + 1);
        let start: String = id.as_str().chars().take(len.min(ID_MAX_CHARS + 1)).map(plain).collect();
        if start.chars().count() <= ID_MAX_CHARS { start } else { hashed_id(id) }
    }
}

/// The beginning of an id and, in place of the rest, what nobody else's has: who chose an id to look like another would have it shown at
/// length, in front of each line.
fn hashed_id(id: &UserId) -> String {
    let start: String = id.as_str().chars().take(ID_MIN_CHARS).filter(char::is_ascii_alphanumeric).collect();
    let hash = blake3::hash(id.as_str().as_bytes()).to_hex();
    format!("{start}~{}", &hash[..16])
}

/// The one of these ids that it is, or else those that begin so.
fn begins<'a>(ids: impl Iterator<Item = &'a UserId>, part: &str) -> Vec<UserId> {
    let (whole, others): (Vec<_>, Vec<_>) =
        ids.cloned().partition(|id| plain_id(id) == part || hashed_id(id) == part);
    if !whole.is_empty() || part.chars().count() < ID_MIN_CHARS {
        return whole;
    }
    others.into_iter().filter(|id| plain_id(id).starts_with(part)).collect()
}

/// Whether somebody who typed that means this name.
fn is_name(name: &str, typed: &str) -> bool {
    name.to_lowercase() == typed.to_lowercase()
}

fn shown(typed: &str) -> String {
    text::line(typed, SHOWN_MAX_CHARS).into_owned()
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

    fn leave(roster: &mut Roster, id: &str, name: &str) {
        let reason = crate::node::api::CloseReason::Left;
        roster.forget(&Event::Closed { peer: peer(id, name), reason });
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
    fn an_id_that_looks_like_another_for_long_does_not_make_labels_long() {
        let (ada, eve) = (format!("{}a", "1".repeat(127)), format!("{}b", "1".repeat(127)));
        let mut roster = roster(&[(&ada, "ada"), (&eve, "ada")]);
        let [ada, eve] = [ada, eve].map(|id| UserId::new(id).expect("an id"));
        let labels = [&ada, &eve].map(|id| roster.label(id));
        assert_ne!(labels[0], labels[1]);
        assert!(labels.iter().all(|label| label.len() <= 32 + 22), "{labels:?}");
        assert_eq!([0, 1].map(|at| roster.find(&labels[at])), [Ok(ada.clone()), Ok(eve)]);
        let odd = UserId::new("é".repeat(11)).expect("an id");
        assert!(roster.short_id(&odd).len() <= 18, "{}", roster.short_id(&odd));
        // Nor is who has that for an id taken for her.
        let (_, shown) = labels[0].split_once('#').expect("they have the same name");
        roster.upsert(&peer(shown, "mal"));
        assert!(roster.find(shown).is_err());
        assert_eq!(roster.find(ada.as_str()), Ok(ada));
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
    fn an_id_is_nobody_elses_however_it_goes_on() {
        let mut roster = roster(&[("1111-a", "ada"), ("1111-ax", "eve")]);
        let ada = UserId::new("1111-a").expect("an id");
        for find in [Roster::find, Roster::find_exactly] {
            assert_eq!(find(&roster, "1111-a"), Ok(ada.clone()));
        }
        assert_eq!(roster.find("ada#1111-a"), Ok(ada.clone()));
        assert_eq!(roster.find("1111-ax").map(|id| id.to_string()), Ok("1111-ax".into()));
        leave(&mut roster, "1111-a", "ada");
        // Not even whoever takes her name, too.
        for name in ["1111-a", "ada", "eve"] {
            roster.upsert(&peer("1111-ax", name));
            assert!(roster.find_exactly("1111-a").is_err(), "{name}");
            for typed in ["1111-a", "1111", "ada#1111-a", "ada#1111"] {
                assert!(roster.find(typed).is_err(), "{typed} {name}");
                assert!(roster.find_prefix(&format!("{typed} psst")).is_err(), "{typed} {name}");
            }
        }
        roster.upsert(&peer("1111-a", "ada"));
        assert_eq!(roster.find_exactly("1111-a"), Ok(ada), "she is back");
    }

    #[test]
    fn programs_say_whole_ids_and_names() {
        let roster = roster(&[("1111-a", "Ada"), ("2222-b", "bob"), ("3333-c", "bob")]);
        let found = |said| roster.find_exactly(said).map(|id| id.to_string()).ok();
        assert_eq!(found("1111-a").as_deref(), Some("1111-a"));
        assert_eq!(found("ada").as_deref(), Some("1111-a"));
        for said in ["bob", "1111", "1111-", "ada#1111", "x#1111-a", "", "#"] {
            assert_eq!(found(said), None, "{said}");
        }
    }

    #[test]
    fn who_chooses_an_id_that_is_anothers_name_does_not_get_what_is_meant_for_that_one() {
        let roster = roster(&[("1111-a", "ada"), ("ada", "eve"), ("5555-e", "1111-a")]);
        for find in [Roster::find, Roster::find_exactly] {
            let several = FindError::Several("ada".into(), "ada#1111, eve#ada".into());
            assert_eq!(find(&roster, "ada"), Err(several));
            assert!(find(&roster, "1111-a").is_err());
        }
        let found = roster.find("ada#1111").expect("as the error says");
        assert_eq!(found.as_str(), "1111-a");
    }

    #[test]
    fn a_name_with_spaces_is_told_from_the_text_behind_it() {
        let roster = roster(&[("1111-a", "Ada Lovelace"), ("2222-b", "Bob")]);
        let found = |typed| roster.find_prefix(typed).map(|(id, rest)| (id.to_string(), rest));
        assert_eq!(found("Ada Lovelace hello  you"), Ok(("1111-a".into(), "hello  you")));
        assert_eq!(found("@bob hello"), Ok(("2222-b".into(), "hello")));
        assert_eq!(found("2222 hello"), Ok(("2222-b".into(), "hello")));
        assert_eq!(found("bob#2222 hello"), Ok(("2222-b".into(), "hello")));
        assert_eq!(found("Bob"), Ok(("2222-b".into(), "")));
        assert_eq!(found("eve hi"), Err(FindError::Nobody("eve".into())));
        assert_eq!(found("bob# hi"), Err(FindError::Nobody("bob#".into())));
        assert_eq!(found(""), Err(FindError::Nobody(String::new())));
    }

    #[test]
    fn who_is_called_like_another_and_the_first_words_to_it_does_not_get_the_rest() {
        let room = roster(&[("1111-a", "ada"), ("2222-b", "ada the")]);
        let error = room.find_prefix("ada the password is hunter2").expect_err("unclear");
        let way_out = "instead of the name, write 1111 for ada, 2222 for ada the";
        assert_eq!(error.to_string(), format!("that can be for more than one: {way_out}"));
        let meant = |typed| room.find_prefix(typed).map(|(id, rest)| (id.to_string(), rest));
        assert_eq!(meant("1111 the password"), Ok(("1111-a".into(), "the password")));
        assert_eq!(meant("ada please"), Ok(("1111-a".into(), "please")));

        let at = roster(&[("1111-a", "@ada"), ("2222-b", "ada")]);
        assert!(at.find_prefix("@ada psst").is_err());

        let twins = roster(&[("1111-a", "ada"), ("2222-b", "ada"), ("3333-c", "ada the")]);
        assert!(matches!(twins.find_prefix("ada the password"), Err(FindError::Unclear(_))));
        let several = FindError::Several("ada".into(), "ada#1111, ada#2222".into());
        assert_eq!(twins.find_prefix("ada please"), Err(several));
    }

    #[test]
    fn a_number_sign_in_the_text_leads_to_nobody() {
        let roster = roster(&[("1111-a", "ada"), ("1234-b", "eve")]);
        let found = |typed| roster.find_prefix(typed).map(|(id, rest)| (id.to_string(), rest));
        assert_eq!(found("ada see #1234 please"), Ok(("1111-a".into(), "see #1234 please")));
        assert_eq!(found("ada#1111 see eve#1234"), Ok(("1111-a".into(), "see eve#1234")));
        assert_eq!(roster.find("ada#1234"), Err(FindError::Nobody("ada#1234".into())));
        assert_eq!(roster.find("#1234"), Err(FindError::Nobody("#1234".into())));
    }

    #[test]
    fn who_left_is_still_called_by_name() {
        let mut roster = roster(&[("1111-a", "ada")]);
        leave(&mut roster, "1111-a", "ada");
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
