//! One transfer, from the offer on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::exchange::{Exchange, Phase};
use super::manifest::MANIFEST_CHUNK_BYTES;
use super::{Direction, OfferInfo};
use crate::wire::manifest::Manifest;
use crate::wire::transfer::{AUDIENCE_MAX, OFFER_NAME_MAX_BYTES, Offer};
use crate::wire::{TransferId, UserId};

/// What a transfer costs in memory besides its manifest, roughly.
const SHARE_BYTES: u64 = 4096;

/// What each file or folder costs besides its bytes once the list is read, however short its name: the entry, the text of its path,
/// and where it goes.
const ENTRY_BYTES: u64 = 80;

/// Bytes free where files would go, if the system says.
pub(super) type FreeBytes = Option<u64>;

/// One transfer.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) info: OfferInfo,
    pub(super) manifest_len: u32,
    pub(super) direction: Direction,
    /// For whom it is, besides the origin; `None` is everyone.
    pub(super) audience: Option<BTreeSet<UserId>>,
    /// What the disk said of free space, once it has. From then on whoever can answer is told of every offer.
    pub(super) free: Option<FreeBytes>,
    /// Who offered it to us first, and whom a person is asked about.
    pub(super) from: UserId,
    /// Against whose part of what may be received at once it counts.
    pub(super) payer: UserId,
    /// Who offered it to us in the same words and has not left since.
    pub(super) holders: BTreeSet<UserId>,
    /// Who offered it in other words. The id stands for one manifest, so that only one of them can be right; until it is
    /// here nobody knows which.
    pub(super) rivals: BTreeMap<UserId, Offer>,
    /// Whom we offered it to, and what came back.
    pub(super) answers: BTreeMap<UserId, Answer>,
    /// When it was accepted, or offered by us.
    pub(super) since: Instant,
    pub(super) stage: Stage,
    pub(super) reported: Option<(u64, u64)>,
}

/// What became of an offer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    Waiting,
    /// Accepted and not complete.
    Accepted,
    /// Declined, or given up.
    Declined,
    /// Complete there.
    Delivered,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Offered to us; nobody has answered yet.
    Offered,
    /// Accepted; others come first.
    Queued,
    /// Accepted; the manifest is coming.
    Fetching(Fetch),
    /// The manifest is here; the disk makes room and looks what is there.
    Opening(Content),
    /// Files are in the way, and somebody has to say what to do.
    Asking(Content),
    /// Pieces are exchanged.
    Sharing(Box<Exchange>),
}

/// A manifest on its way.
#[derive(Debug)]
pub(super) struct Fetch {
    /// Who was asked last; `None` if nobody is there to ask.
    pub(super) from: Option<UserId>,
    pub(super) asked_at: Instant,
    pub(super) heard_at: Instant,
    /// When the first was asked.
    pub(super) began_at: Instant,
    /// When anything last came, from whomever; at first, when somebody was asked.
    pub(super) came_at: Instant,
    /// How often all holders were asked before.
    pub(super) round: u32,
    pub(super) buffer: Vec<u8>,
    /// How much of it was asked for; no more is taken.
    pub(super) asked_len: usize,
}

impl Fetch {
    /// Somebody is asked for the first time.
    pub(super) fn new(now: Instant, from: UserId) -> Self {
        Self {
            from: Some(from),
            asked_at: now,
            heard_at: now,
            began_at: now,
            came_at: now,
            round: 0,
            buffer: Vec::new(),
            asked_len: MANIFEST_CHUNK_BYTES,
        }
    }

    /// Somebody is asked from the beginning again, or for the first time if nobody was here any more.
    pub(super) fn again(&self, now: Instant, from: UserId) -> Self {
        let Some(before) = &self.from else { return Self::new(now, from) };
        let round = self.round + u32::from(*before >= from);
        Self { round, began_at: self.began_at, came_at: self.came_at, ..Self::new(now, from) }
    }

    /// Nobody is here any more to be asked.
    pub(super) fn lose(&mut self) {
        (self.from, self.buffer) = (None, Vec::new());
    }
}

/// A manifest that is here.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) manifest: Arc<Manifest>,
    pub(super) bytes: Bytes,
}

impl Share {
    /// A transfer that `from` offers.
    pub(super) fn offered(now: Instant, from: &UserId, offer: Offer) -> Self {
        Self {
            manifest_len: offer.manifest_bytes,
            direction: Direction::Receive,
            audience: offer.audience.clone().map(BTreeSet::from_iter),
            info: offer.into(),
            free: None,
            from: from.clone(),
            payer: from.clone(),
            holders: BTreeSet::from([from.clone()]),
            rivals: BTreeMap::new(),
            answers: BTreeMap::new(),
            since: now,
            stage: Stage::Offered,
            reported: None,
        }
    }

    /// The same transfer in the words of a rival, with whoever agrees. The others are the rivals now.
    pub(super) fn in_words_of(self, now: Instant, rival: &UserId) -> Self {
        let words = self.offer();
        let Some(offer) = self.rivals.get(rival).cloned() else { return self };
        let mut share = Self { free: self.free, ..Self::offered(now, rival, offer) };
        let losers = self.holders.into_iter().map(|holder| (holder, words.clone()));
        for (peer, offer) in self.rivals.into_iter().chain(losers) {
            if share.agrees_with(&offer) {
                share.holders.insert(peer);
            } else {
                share.rivals.insert(peer, offer);
            }
        }
        share
    }

    /// An accepted transfer in the words of a rival, as far as it is.
    pub(super) fn go_over_to(mut self, now: Instant, rival: &UserId) -> Self {
        let (since, stage) = (self.since, std::mem::replace(&mut self.stage, Stage::Offered));
        Self { since, stage, ..self.in_words_of(now, rival) }
    }

    /// Rivals who say what the others say in all that a person is shown.
    pub(super) fn likewise(&self) -> impl Iterator<Item = &UserId> {
        self.rivals.iter().filter(|(_, offer)| self.info.is_said_by(offer)).map(|(peer, _)| peer)
    }

    /// How long the manifest is in the words of this peer.
    pub(super) fn manifest_len_of(&self, peer: &UserId) -> u32 {
        self.rivals.get(peer).map_or(self.manifest_len, |offer| offer.manifest_bytes)
    }

    /// What a peer offers, in its words.
    pub(super) fn offer_of(&self, peer: &UserId) -> Option<OfferInfo> {
        match self.rivals.get(peer) {
            Some(offer) => Some(offer.clone().into()),
            None => self.holders.contains(peer).then(|| self.info.clone()),
        }
    }

    /// A transfer of ours.
    pub(super) fn own(
        now: Instant,
        id: TransferId,
        own: UserId,
        content: Content,
        audience: Option<BTreeSet<UserId>>,
    ) -> Self {
        let manifest = &content.manifest;
        let files = manifest.file_count();
        let info = OfferInfo {
            transfer: id,
            name: manifest.name().to_owned(),
            files,
            folders: manifest.entries().len() as u32 - files,
            roots: manifest.root_count(),
            bytes: manifest.total_bytes(),
            origin: own.clone(),
        };
        Self {
            info,
            manifest_len: content.bytes.len() as u32,
            direction: Direction::Send,
            audience,
            free: None,
            from: own.clone(),
            payer: own,
            holders: BTreeSet::new(),
            rivals: BTreeMap::new(),
            answers: BTreeMap::new(),
            since: now,
            stage: Stage::Sharing(Box::new(Exchange::complete(content.manifest, content.bytes))),
            reported: None,
        }
    }

    /// Whether `peer` may take part.
    pub(super) fn admits(&self, peer: &UserId) -> bool {
        *peer == self.info.origin || self.audience.as_ref().is_none_or(|audience| audience.contains(peer))
    }

    /// The offer as we make it.
    pub(super) fn offer(&self) -> Offer {
        debug_assert!(self.info.name.len() <= OFFER_NAME_MAX_BYTES, "a name is one component of a path");
        Offer {
            id: self.info.transfer,
            name: self.info.name.clone(),
            files: self.info.files,
            folders: self.info.folders,
            roots: self.info.roots,
            bytes: self.info.bytes,
            manifest_bytes: self.manifest_len,
            origin: self.info.origin.clone(),
            audience: self
                .audience
                .as_ref()
                .map(|audience| audience.iter().take(AUDIENCE_MAX).cloned().collect()),
        }
    }

    /// The exchange, if it has begun.
    pub(super) fn exchange(&mut self) -> Option<&mut Exchange> {
        match &mut self.stage {
            Stage::Sharing(exchange) => Some(exchange),
            Stage::Offered | Stage::Queued | Stage::Fetching(_) | Stage::Opening(_) | Stage::Asking(_) => {
                None
            }
        }
    }

    /// Whether something of it went to standard output, or all of it, which may be nothing.
    pub(super) fn has_written(&self) -> bool {
        match &self.stage {
            Stage::Sharing(exchange) => {
                let has_begun = exchange.emit.is_some_and(|emit| emit.busy || emit.next > 0);
                has_begun || exchange.phase != Phase::Downloading
            }
            Stage::Offered | Stage::Queued | Stage::Fetching(_) | Stage::Opening(_) | Stage::Asking(_) => {
                false
            }
        }
    }

    /// Whether what the offer said, and a person agreed to, is what the manifest holds.
    pub(super) fn matches(&self, manifest: &Manifest) -> bool {
        let files = manifest.file_count();
        let folders = manifest.entries().len() as u32 - files;
        let info = &self.info;
        (&info.name[..], info.files, info.folders, info.roots, info.bytes)
            == (manifest.name(), files, folders, manifest.root_count(), manifest.total_bytes())
    }

    /// Whether another offer of the same id says the same of what is in it.
    pub(super) fn agrees_with(&self, offer: &Offer) -> bool {
        self.info.is_said_by(offer) && self.manifest_len == offer.manifest_bytes
    }

    /// What a transfer that we receive may take in memory for its manifest, in bytes: what is here and what was asked for.
    pub(super) fn manifest_cost(&self) -> u64 {
        let len = u64::from(self.manifest_len);
        let held_bytes = match (&self.direction, &self.stage) {
            (Direction::Send, _) => return 0,
            (Direction::Receive, Stage::Offered | Stage::Queued) => return 0,
            (Direction::Receive, Stage::Fetching(fetch)) if fetch.from.is_none() => 0,
            (Direction::Receive, Stage::Fetching(fetch)) => len.min(fetch.asked_len as u64),
            (Direction::Receive, Stage::Opening(_) | Stage::Asking(_) | Stage::Sharing(_)) => {
                len + (u64::from(self.info.files) + u64::from(self.info.folders)) * ENTRY_BYTES
            }
        };
        held_bytes + SHARE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::manifest::{Entry, EntryKind};
    use crate::wire::path::SafePath;

    #[test]
    fn a_list_that_is_here_is_charged_for_each_entry_however_short_its_name_is() {
        let entry = |number: u32| {
            let path = SafePath::parse(&format!("{number:x}")).expect("a name");
            (Entry { path, kind: EntryKind::Folder, mtime: 0 }, Vec::new())
        };
        let manifest = Manifest::new(18, (0..1000).map(entry).collect()).expect("sound");
        let bytes = manifest.to_bytes();
        let ada = UserId::new("ada").expect("an id");
        let offer = Offer {
            id: Manifest::id_of(&bytes),
            name: manifest.name().to_owned(),
            files: 0,
            folders: 1000,
            roots: 1,
            bytes: 0,
            manifest_bytes: bytes.len() as u32,
            origin: ada.clone(),
            audience: None,
        };
        let now = Instant::now();
        let mut share = Share::offered(now, &ada, offer);
        share.stage = Stage::Fetching(Fetch::new(now, ada));
        let before = share.manifest_cost();
        share.stage = Stage::Opening(Content { manifest: Arc::new(manifest), bytes: bytes.into() });
        // The least that is allocated for a path takes 32 bytes.
        assert!(share.manifest_cost() - before >= 1000 * (size_of::<Entry>() as u64 + 32));
    }
}
