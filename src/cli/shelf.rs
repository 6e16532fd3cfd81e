//! The transfers a face knows of: their numbers, their state, and what is said about them.

mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::time::Instant;

use super::ask;
use super::format;
use super::roster::Roster;
use super::words::Note;
use crate::core::transfer::{Direction, OfferInfo, Progress, TransferEvent};
use crate::node::api::Command;
use crate::wire::text;
use crate::wire::{TransferId, UserId};

pub use words::what;

/// The longest name of a file that is shown, in characters.
const NAME_MAX_CHARS: usize = 60;

/// Transfers that are named where one of them must be meant; the others are counted.
const WAITING_NAMED: usize = 3;

/// Transfers kept, ended ones first out: what `/transfers` can look back on.
const ITEMS_MAX: usize = 200;

/// All transfers since the start.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Where what is received goes; none where that is no folder.
    out: Option<PathBuf>,
    items: BTreeMap<TransferId, Item>,
    last_number: u32,
}

/// One transfer.
#[derive(Debug)]
pub struct Item {
    /// Its number on this screen, from 1.
    pub number: u32,
    /// What is offered.
    pub offer: OfferInfo,
    /// Whose offer it is; `None`: ours.
    pub from: Option<UserId>,
    /// How far it is.
    pub state: State,
    /// When somebody was last asked about it.
    pub asked_at: Option<Instant>,
    /// The last news of its progress.
    pub progress: Option<Progress>,
    /// Receivers that accepted, and what each had from others, once it has everything.
    receivers: BTreeMap<UserId, Receiver>,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has answered the offer.
    Waiting,
    /// Under way.
    Running,
    /// Files are in the way, and what to do with them is being asked.
    InTheWay,
    /// Complete.
    Done,
    /// Failed while it was under way, on our side or the sender's.
    Failed,
    /// We declined it.
    Declined,
    /// Taken back before it was accepted.
    Withdrawn,
}

/// How it went with one receiver of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Taking,
    Has { from_us: u64, from_others: u64 },
    Lost,
}

/// How it went with all receivers of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Receivers that accepted and are at it.
    pub taking: usize,
    /// Receivers that have everything.
    pub delivered: usize,
    /// Receivers that accepted and then left or failed.
    pub lost: usize,
    /// Bytes that receivers had from us.
    pub from_us: u64,
    /// Bytes that receivers had from each other.
    pub from_others: u64,
}

/// No transfer has this number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// Nothing waits.
    #[error("nothing waits for an answer")]
    Nothing,
    /// More than one could be meant.
    #[error("more than one waits; say which: {0}")]
    Which(String),
    /// Not a number of ours.
    #[error("there is no transfer {0}; /transfers shows them")]
    Unknown(String),
}

impl Item {
    /// The name as it may be shown.
    pub fn name(&self) -> String {
        shown_name(&self.offer)
    }

    /// How it went with our receivers.
    pub fn tally(&self) -> Tally {
        self.receivers.values().fold(Tally::default(), |mut tally, receiver| {
            match receiver {
                Receiver::Taking => tally.taking += 1,
                Receiver::Lost => tally.lost += 1,
                Receiver::Has { from_us, from_others } => {
                    tally.delivered += 1;
                    // What receivers say they had is theirs to make up.
                    tally.from_us = tally.from_us.saturating_add(*from_us);
                    tally.from_others = tally.from_others.saturating_add(*from_others);
                }
            }
            tally
        })
    }

    /// Which way it goes.
    pub fn direction(&self) -> Direction {
        if self.from.is_some() { Direction::Receive } else { Direction::Send }
    }

    /// `3 files, 12 MiB`.
    pub fn size(&self) -> String {
        size(&self.offer)
    }

    /// Whether it is offered to us and waits for an answer.
    pub fn awaits_us(&self) -> bool {
        self.state == State::Waiting && self.direction() == Direction::Receive
    }

    /// The answer that takes it, in the words that are shown here.
    pub fn acceptance(&self) -> Command {
        ask::accept(self.from.as_ref().unwrap_or(&self.offer.origin), &self.offer)
    }

    /// The answer that does not take it: no to whose offer is shown here, or the end of what is under way.
    pub fn refusal(&self) -> Command {
        match self.from.as_ref().filter(|_| self.awaits_us()) {
            Some(from) => ask::pass(from, self.offer.transfer),
            None => ask::reject(self.offer.transfer),
        }
    }

    /// Whether we accepted it and it is not over.
    pub fn is_being_received(&self) -> bool {
        let under_way = matches!(self.state, State::Running | State::InTheWay);
        under_way && self.direction() == Direction::Receive
    }

    /// One line for a sender: how it went, and who uploaded how much.
    pub fn sent_summary(&self) -> String {
        let tally = self.tally();
        let all = tally.delivered + tally.lost + tally.taking;
        let uploaded = self.progress.as_ref().map_or(tally.from_us, |progress| progress.uploaded_bytes);
        let name = self.name();
        let who = match (tally.delivered, all) {
            (0, 0) => return format!("{name}: nobody took it"),
            (1, 1) => format!("{name} was delivered"),
            (delivered, all) if delivered == all => format!("{name} was delivered to all {all}"),
            (delivered, all) => format!("{name} was delivered to {delivered} of {all}"),
        };
        let others = match tally.from_others {
            0 => String::new(),
            bytes => format!(", the receivers passed {} to each other", format::bytes(bytes)),
        };
        format!("{who}; uploaded {}{others}", format::bytes(uploaded))
    }
}

fn shown_name(offer: &OfferInfo) -> String {
    let name = text::line(&offer.name, NAME_MAX_CHARS);
    match offer.roots {
        0 | 1 => name.into_owned(),
        roots => format!("{name} and {} more", roots - 1),
    }
}

fn size(offer: &OfferInfo) -> String {
    let bytes = format::bytes(offer.bytes);
    if offer.files == 1 { bytes } else { format!("{}, {bytes}", format::count(offer.files as usize, "file")) }
}

impl Shelf {
    /// An empty one, of somebody who receives into this folder.
    pub fn receiving_into(out: PathBuf) -> Self {
        Self { out: Some(out), ..Self::default() }
    }

    /// Everything, in the order it came.
    pub fn items(&self) -> Vec<&Item> {
        let mut items: Vec<&Item> = self.items.values().collect();
        items.sort_by_key(|item| item.number);
        items
    }

    /// One transfer.
    pub fn item(&self, transfer: &TransferId) -> Option<&Item> {
        self.items.get(transfer)
    }

    /// The transfer that `typed` means: a number or the beginning of an id; nothing typed means the only one for which
    /// `fits` holds.
    pub fn pick(&self, typed: &str, fits: impl Fn(&Item) -> bool) -> Result<TransferId, PickError> {
        let typed = typed.trim();
        let items = self.items();
        if !typed.is_empty() {
            let number = typed.trim_start_matches('#').parse::<u32>().ok();
            let by_number = items.iter().find(|item| Some(item.number) == number);
            let by_id = || {
                items
                    .iter()
                    .find(|item| typed.len() >= 8 && item.offer.transfer.to_string().starts_with(typed))
            };
            let found = by_number.or_else(by_id).map(|item| item.offer.transfer);
            return found.ok_or_else(|| PickError::Unknown(text::line(typed, 80).into_owned()));
        }
        let waiting: Vec<&&Item> = items.iter().filter(|item| fits(item)).collect();
        match waiting.as_slice() {
            [] => Err(PickError::Nothing),
            [one] => Ok(one.offer.transfer),
            several => {
                let named = several.iter().take(WAITING_NAMED);
                let named = named.map(|item| format!("{} ({})", item.number, item.name()));
                let more = match several.len().saturating_sub(WAITING_NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more; /transfers shows them"),
                };
                Err(PickError::Which(named.collect::<Vec<_>>().join(", ") + &more))
            }
        }
    }

    /// Takes news in and says it in words, if it is worth a line.
    pub fn on_event(&mut self, event: &TransferEvent, roster: &Roster) -> Option<Note> {
        if let TransferEvent::Offered { offer, .. } = event
            && self.item(&offer.transfer).is_some_and(Item::awaits_us)
        {
            // One question at a time: what somebody else says of it is heard when the first takes it back, or is told no.
            return None;
        }
        if let TransferEvent::Withdrawn { transfer } = event
            && self.item(transfer).is_some_and(|item| item.state == State::Declined)
        {
            // Nobody else offers what was declined.
            return None;
        }
        self.record(event);
        self.words(event, roster)
    }

    fn name(&self, transfer: &TransferId) -> String {
        self.items.get(transfer).map_or_else(|| transfer.brief(), Item::name)
    }

    fn record(&mut self, event: &TransferEvent) {
        match event {
            TransferEvent::Preparing { .. }
            | TransferEvent::NotPrepared { .. }
            | TransferEvent::Stalled { .. }
            | TransferEvent::Silent { .. }
            | TransferEvent::PeerCutOff { .. }
            | TransferEvent::Declined { .. } => {}
            TransferEvent::Conflicts { transfer, .. } => self.set(transfer, State::InTheWay),
            TransferEvent::Resumed { transfer, .. } => self.go_on(transfer),
            TransferEvent::Prepared { offer, .. } => self.put(offer, None, State::Waiting),
            TransferEvent::Offered { from, offer, .. } => self.put(offer, Some(from), State::Waiting),
            TransferEvent::Accepting { from, offer } => self.put(offer, Some(from), State::Running),
            TransferEvent::Refused { from, offer, .. } => self.put(offer, Some(from), State::Declined),
            TransferEvent::Withdrawn { transfer } => self.set(transfer, State::Withdrawn),
            TransferEvent::Failed { transfer, .. } => self.set(transfer, State::Failed),
            TransferEvent::Accepted { transfer, peer } => self.receiver(transfer, peer, Receiver::Taking),
            TransferEvent::Progress(progress) => {
                self.go_on(&progress.transfer);
                if let Some(item) = self.items.get_mut(&progress.transfer) {
                    item.progress = Some(progress.clone());
                }
            }
            TransferEvent::Delivered { transfer, peer, from_origin_bytes, from_others_bytes } => {
                let has = Receiver::Has { from_us: *from_origin_bytes, from_others: *from_others_bytes };
                self.receiver(transfer, peer, has);
            }
            TransferEvent::Undelivered { transfer, peer, .. } => {
                self.receiver(transfer, peer, Receiver::Lost)
            }
            TransferEvent::Done { offer, .. } => self.set(&offer.transfer, State::Done),
        }
    }

    /// A new transfer, or one that is offered again: under its old number, unless it is another to whoever reads it.
    fn put(&mut self, offer: &OfferInfo, from: Option<&UserId>, state: State) {
        if let Some(item) = self.items.get_mut(&offer.transfer) {
            // Whoever offered it first may have lied, and taken it back.
            let is_reworded = item.offer != *offer || item.from.as_ref() != from;
            if is_reworded && state == State::Waiting {
                self.last_number += 1;
                item.number = self.last_number;
            }
            item.offer = offer.clone();
            item.from = from.cloned();
            item.state = state;
            return;
        }
        self.make_room();
        self.last_number += 1;
        let item = Item {
            number: self.last_number,
            offer: offer.clone(),
            from: from.cloned(),
            state,
            asked_at: None,
            progress: None,
            receivers: BTreeMap::new(),
        };
        self.items.insert(offer.transfer, item);
    }

    /// Somebody is asked about a transfer.
    pub fn ask(&mut self, transfer: &TransferId, now: Instant) {
        if let Some(item) = self.items.get_mut(transfer) {
            item.asked_at = Some(now);
        }
    }

    /// Forgets the oldest transfer that is over; if none is, the oldest that waits for an answer. What is under way stays: the node
    /// bounds how much that is.
    fn make_room(&mut self) {
        if self.items.len() < ITEMS_MAX {
            return;
        }
        let worth = |item: &Item| match item.state {
            State::Done | State::Failed | State::Declined | State::Withdrawn => Some(0),
            State::Waiting => Some(1),
            State::Running | State::InTheWay => None,
        };
        let oldest = self
            .items
            .values()
            .filter_map(|item| Some((worth(item)?, item.number, item)))
            .min_by_key(|it| (it.0, it.1))
            .map(|it| it.2);
        if let Some(transfer) = oldest.map(|item| item.offer.transfer) {
            self.items.remove(&transfer);
        }
    }

    /// We say no to an offer. The node does not repeat it, and stops what is under way with an event of its own.
    pub fn decline(&mut self, transfer: &TransferId) {
        if let Some(item) = self.items.get_mut(transfer).filter(|item| item.state == State::Waiting) {
            item.state = State::Declined;
        }
    }

    /// What was in the way is so no more.
    fn go_on(&mut self, transfer: &TransferId) {
        if let Some(item) = self.items.get_mut(transfer).filter(|item| item.state == State::InTheWay) {
            item.state = State::Running;
        }
    }

    fn set(&mut self, transfer: &TransferId, state: State) {
        if let Some(item) = self.items.get_mut(transfer) {
            item.state = state;
        }
    }

    fn receiver(&mut self, transfer: &TransferId, peer: &UserId, how: Receiver) {
        if let Some(item) = self.items.get_mut(transfer) {
            item.receivers.insert(peer.clone(), how);
            let tally = item.tally();
            item.state = match (tally.taking, tally.delivered) {
                (0, 0) => State::Waiting,
                (0, _) => State::Done,
                (_, _) => State::Running,
            };
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::roster::tests::roster;
    use crate::core::transfer::{CutOffReason, DeclineReason, DiskError, FailReason, SendToken};
    use crate::wire::transfer::StopReason;

    pub(crate) fn id(text: &str) -> UserId {
        UserId::new(text).expect("an id")
    }

    pub(crate) fn offer(byte: u8, name: &str, from: &str) -> OfferInfo {
        OfferInfo {
            transfer: TransferId([byte; 32]),
            name: name.into(),
            files: 1,
            folders: 0,
            roots: 1,
            bytes: 1 << 20,
            origin: id(from),
        }
    }

    fn say(shelf: &mut Shelf, event: &TransferEvent) -> String {
        let roster = roster(&[("1111", "ada"), ("2222", "bob")]);
        shelf.on_event(event, &roster).map_or_else(String::new, |note| note.text)
    }

    fn offered(byte: u8, name: &str) -> TransferEvent {
        TransferEvent::Offered { from: id("1111"), offer: offer(byte, name, "1111"), free_bytes: None }
    }

    /// What it does not know of, nobody is told of, and `recv` does not wait for.
    #[test]
    fn what_is_under_way_is_not_forgotten_however_much_is_offered() {
        let mut shelf = Shelf::default();
        let film = offer(1, "film", "1111");
        say(&mut shelf, &TransferEvent::Accepting { from: id("1111"), offer: film.clone() });
        for number in 0..3 * ITEMS_MAX as u16 {
            let mut more = offer(0, "more", "2222");
            more.transfer.0[..2].copy_from_slice(&number.to_be_bytes());
            say(&mut shelf, &TransferEvent::Offered { from: id("2222"), offer: more, free_bytes: None });
        }
        assert!(shelf.item(&film.transfer).is_some_and(|item| item.state == State::Running));
        assert!(shelf.items.len() <= ITEMS_MAX + 1);
    }

    #[test]
    fn an_offer_says_who_and_what() {
        let mut shelf = Shelf::default();
        assert_eq!(say(&mut shelf, &offered(1, "a\u{202e}.mkv")), "ada offers a�.mkv (1.0 MiB)");
        let full = TransferEvent::Offered {
            from: id("1111"),
            offer: OfferInfo { files: 3, folders: 1, ..offer(2, "photos", "2222") },
            free_bytes: Some(1000),
        };
        let said = "ada offers photos (3 files, 1.0 MiB, first sent by bob; only 1000 B are free here)";
        assert_eq!(say(&mut shelf, &full), said);
    }

    #[test]
    fn an_offer_of_several_says_how_many_stand_beside_the_first() {
        let mut shelf = Shelf::default();
        let mut said = |byte, name: &str, files, folders, roots| {
            let offer = OfferInfo { files, folders, roots, ..offer(byte, name, "1111") };
            say(&mut shelf, &TransferEvent::Offered { from: id("1111"), offer, free_bytes: None })
        };
        assert_eq!(said(1, "album", 2, 1, 2), "ada offers album and 1 more (2 files, 1.0 MiB)");
        assert_eq!(said(2, "notes.txt", 13, 1, 2), "ada offers notes.txt and 1 more (13 files, 1.0 MiB)");
        assert_eq!(said(3, "a.txt", 3, 0, 3), "ada offers a.txt and 2 more (3 files, 1.0 MiB)");
        assert_eq!(said(4, "photos", 3, 0, 1), "ada offers photos (3 files, 1.0 MiB)");
        let most = format!("ada offers x and {} more (1.0 MiB)", u32::MAX - 1);
        assert_eq!(said(5, "x", 1, 0, u32::MAX), most);
    }

    #[test]
    fn an_offer_of_a_folder_that_is_there_says_so() {
        let out = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(out.path().join("album")).expect("made");
        std::fs::write(out.path().join("notes.txt"), "").expect("written");
        #[cfg(unix)]
        std::os::unix::fs::symlink("album", out.path().join("link")).expect("linked");
        let shelf = Shelf::receiving_into(out.path().to_owned());
        let described = |name: &str, files, folders, roots| {
            shelf.described(&OfferInfo { files, folders, roots, ..offer(1, name, "1111") })
        };
        let into = "album (2 files, 1.0 MiB; into the folder album, which is there already)";
        assert_eq!(described("album", 2, 1, 1), into);
        let perhaps = "(1.0 MiB; a folder album is there already)";
        assert_eq!(described("album", 1, 0, 1), format!("album {perhaps}"), "that may be a file");
        assert_eq!(described("album", 1, 1, 2), format!("album and 1 more {perhaps}"));
        for name in ["other", "notes.txt", "link", "", ".", "..", "../", "album/..", "\0"] {
            assert!(!described(name, 2, 1, 1).contains("there already"), "{name}");
        }
        assert!(!Shelf::default().described(&offer(1, ".", "1111")).contains("there already"));
    }

    #[test]
    fn no_line_begins_with_what_a_peer_calls_its_files() {
        let (transfer, peer) = (TransferId([1; 32]), id("1111"));
        let mut shelf = Shelf::default();
        say(&mut shelf, &offered(1, "<bob> I owe you"));
        let news = [
            TransferEvent::Accepting { from: peer.clone(), offer: offer(1, "<bob> I owe you", "1111") },
            TransferEvent::Conflicts { transfer, paths: Vec::new(), count: 1 },
            TransferEvent::Resumed { transfer, bytes: 1, total: 2 },
            TransferEvent::Stalled { transfer, missing_bytes: 1 },
            TransferEvent::Silent { transfer, peer: peer.clone() },
            TransferEvent::PeerCutOff {
                transfer: Some(transfer),
                peer: peer.clone(),
                reason: CutOffReason::WrongBytes,
            },
            TransferEvent::Failed { transfer, direction: Direction::Receive, reason: FailReason::Stopped },
            TransferEvent::Withdrawn { transfer },
        ];
        for event in news {
            let said = say(&mut shelf, &event);
            assert!(said.contains("<bob> I owe you") && !said.starts_with('<'), "{said}");
        }
    }

    #[test]
    fn an_answer_without_a_number_means_the_only_one_that_waits() {
        let mut shelf = Shelf::default();
        let waits = |item: &Item| item.state == State::Waiting;
        assert_eq!(shelf.pick("", waits), Err(PickError::Nothing));
        say(&mut shelf, &offered(1, "one"));
        assert_eq!(shelf.pick("", waits), Ok(TransferId([1; 32])));
        say(&mut shelf, &offered(2, "two"));
        assert_eq!(shelf.pick("", waits), Err(PickError::Which("1 (one), 2 (two)".into())));
        assert_eq!(shelf.pick("2", waits), Ok(TransferId([2; 32])));
        assert_eq!(shelf.pick("01010101", waits), Ok(TransferId([1; 32])));
        assert_eq!(shelf.pick("9", waits), Err(PickError::Unknown("9".into())));
        say(&mut shelf, &TransferEvent::Withdrawn { transfer: TransferId([1; 32]) });
        assert_eq!(shelf.pick("", waits), Ok(TransferId([2; 32])));
    }

    #[test]
    fn an_offer_made_again_is_asked_about_in_its_own_words() {
        let mut shelf = Shelf::default();
        say(&mut shelf, &offered(1, "notes.txt"));
        say(&mut shelf, &TransferEvent::Withdrawn { transfer: TransferId([1; 32]) });
        say(&mut shelf, &offered(1, "evil.sh"));
        assert_eq!(shelf.items()[0].offer.name, "evil.sh");
    }

    #[test]
    fn the_sender_learns_who_uploaded_how_much() {
        let mut shelf = Shelf::default();
        let transfer = TransferId([1; 32]);
        say(
            &mut shelf,
            &TransferEvent::Prepared { token: SendToken(0), offer: offer(1, "film.mkv", "0"), left_out: 0 },
        );
        assert_eq!(shelf.items()[0].sent_summary(), "film.mkv: nobody took it");
        let folder =
            TransferEvent::Prepared { token: SendToken(1), offer: offer(2, "trip", "0"), left_out: 2 };
        assert!(
            say(&mut shelf, &folder)
                .ends_with(" without 2 links or special files (--follow sends what links lead to)")
        );
        say(&mut shelf, &TransferEvent::Accepted { transfer, peer: id("1111") });
        say(&mut shelf, &TransferEvent::Accepted { transfer, peer: id("2222") });
        assert_eq!(shelf.items()[0].state, State::Running);
        let delivered = TransferEvent::Delivered {
            transfer,
            peer: id("1111"),
            from_origin_bytes: 600_000,
            from_others_bytes: 448_576,
        };
        assert_eq!(say(&mut shelf, &delivered), "ada has film.mkv");
        let lost =
            TransferEvent::Undelivered { transfer, peer: id("2222"), reason: Some(StopReason::DiskFull) };
        assert_eq!(say(&mut shelf, &lost), "film.mkv: bob gave up: the disk is full there");
        assert_eq!(
            shelf.items()[0].sent_summary(),
            "film.mkv was delivered to 1 of 2; uploaded 586 KiB, the receivers passed 438 KiB to each other"
        );
    }

    #[test]
    fn receivers_may_make_up_any_number() {
        let mut shelf = Shelf::default();
        let transfer = TransferId([1; 32]);
        say(
            &mut shelf,
            &TransferEvent::Prepared { token: SendToken(0), offer: offer(1, "film.mkv", "0"), left_out: 0 },
        );
        for peer in ["1111", "2222"] {
            let (from_origin_bytes, from_others_bytes) = (u64::MAX, u64::MAX);
            let peer = id(peer);
            say(
                &mut shelf,
                &TransferEvent::Delivered { transfer, peer, from_origin_bytes, from_others_bytes },
            );
        }
        assert_eq!(shelf.items()[0].tally().from_us, u64::MAX);
    }

    #[test]
    fn a_refusal_says_why() {
        let mut shelf = Shelf::default();
        let refused = TransferEvent::Refused {
            from: id("1111"),
            offer: offer(1, "film.mkv", "1111"),
            reason: DeclineReason::TooLarge,
        };
        assert_eq!(
            say(&mut shelf, &refused),
            "declined film.mkv (1.0 MiB) from ada: larger than the receiver takes"
        );
    }

    #[test]
    fn a_file_that_can_not_be_sent_can_not_move_the_cursor() {
        let error = DiskError::Changed { path: "\x1b]52;c;eA==\x07\x1b[2J\u{202e}".into() };
        let not_prepared = TransferEvent::NotPrepared { token: SendToken(0), error };
        assert_eq!(
            say(&mut Shelf::default(), &not_prepared),
            "can't send that: ␛]52;c;eA==␇␛[2J� changed while it was being sent; send it again"
        );
    }

    #[test]
    fn a_flood_of_offers_is_forgotten_from_its_oldest() {
        let mut shelf = Shelf::default();
        for number in 0..300u32 {
            let mut info = offer(0, "x", "1111");
            info.transfer.0[..4].copy_from_slice(&number.to_be_bytes());
            say(&mut shelf, &TransferEvent::Offered { from: id("1111"), offer: info, free_bytes: None });
        }
        assert_eq!(shelf.items().len(), ITEMS_MAX);
        assert_eq!(shelf.items()[0].number, 101);
    }
}
