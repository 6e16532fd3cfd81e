//! Offers, answers, and the manifest: everything before pieces are exchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::exchange::{Emit, Exchange, Order, Phase};
use super::machine::{Pending, Transfers};
use super::share::{Answer, Content, Fetch, Share, Stage};
use super::{
    AcceptPolicy, AcceptScope, Audience, ConflictPolicy, CutOffReason, DeclineReason, Direction, DiskDone,
    DiskError, DiskJob, FailReason, Opened, Reason, Scanned, SendToken, Target, TransferEvent,
};
use crate::core::transfer::machine::TICK;
use crate::wire::frame::{self, Frame, FrameKind};
use crate::wire::manifest::{ENTRIES_MAX, MANIFEST_MAX_BYTES, Manifest};
use crate::wire::transfer::{Offer, StopReason, TransferMessage};
use crate::wire::{TransferId, UserId};

/// How much of a manifest is sent for one request.
const MANIFEST_CHUNK_BYTES: usize = 1024 * 1024;

/// The most that may wait to be sent to a peer while it asks for more of a manifest.
const MANIFEST_AHEAD_BYTES: u64 = 4 * MANIFEST_CHUNK_BYTES as u64;

/// A manifest of which nothing came for so long is asked from another holder.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(5);

/// So is one that comes by the drop: it should be here after this and what its length takes at so many bytes a second. When
/// all holders were asked each has twice as long, so that one of them comes to an end on any path.
const MANIFEST_GRACE: Duration = Duration::from_secs(10);
const MANIFEST_MIN_BPS: u32 = 256 * 1024;
const MANIFEST_ROUNDS_MAX: u32 = 10;

/// The most offers that wait for an answer, in all and of one peer: nobody takes the others' places.
const OFFERS_MAX: usize = 256;
const OFFERS_PEER_MAX: usize = 32;

/// What the manifests of all that was accepted may take in memory: eight of the largest. Beyond, offers are declined.
const MANIFESTS_MAX_BYTES: u64 = 8 * MANIFEST_MAX_BYTES as u64;

/// The most declined offers that are remembered.
const DECLINED_MAX: usize = 1024;

/// The most conflicts named in an event.
const CONFLICTS_NAMED: usize = 100;

impl Transfers {
    /// Tells a newcomer of everything it may take part in.
    pub(super) fn greet(&mut self, now: Instant, peer: &UserId) {
        let ids: Vec<TransferId> = self.shares.keys().copied().collect();
        for id in ids {
            self.offer_to(id, peer);
            self.join(now, id, peer);
        }
    }

    /// Offers a transfer to a peer, if we are its origin or the origin is not here.
    fn offer_to(&mut self, id: TransferId, peer: &UserId) {
        let Some(share) = self.shares.get(&id) else { return };
        let is_ours = share.direction == Direction::Send || !self.origin_is_here(share);
        let can_serve = matches!(share.stage, Stage::Sharing(_));
        if !is_ours || !can_serve || !share.admits(peer) || share.answers.contains_key(peer) {
            return;
        }
        let share = self.shares.get_mut(&id).expect("it was there above");
        share.answers.insert(peer.clone(), Answer::Waiting);
        self.out.control(peer, TransferMessage::Offer(share.offer()));
    }

    /// The origin left: whoever takes part offers in its stead.
    fn offer_to_all(&mut self, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Some(exchange) = share.exchange() else { return };
        let outside: Vec<UserId> =
            self.ready.keys().filter(|id| !exchange.members.contains_key(*id)).cloned().collect();
        outside.iter().for_each(|peer| self.offer_to(id, peer));
    }

    /// A source is hashed.
    pub(super) fn scanned(&mut self, now: Instant, token: SendToken, audience: Audience, done: DiskDone) {
        let DiskDone::Scanned(Scanned { manifest, bytes, .. }) = done else {
            return self.out.event(TransferEvent::NotPrepared { token, error: unexpected(done) });
        };
        let id = Manifest::id_of(&bytes);
        let audience = match audience {
            Audience::Everyone => None,
            Audience::Peers(peers) => Some(peers),
        };
        self.drop_stale(id);
        let content = Content { manifest, bytes };
        match self.shares.get_mut(&id) {
            Some(share) => widen(&mut share.audience, audience),
            None => {
                let share = Share::own(now, id, self.config.own.clone(), content, audience);
                self.by_short.insert(id.short(), id);
                self.shares.insert(id, share);
            }
        }
        self.out.event(TransferEvent::Prepared { token, offer: self.shares[&id].info.clone() });
        let peers: Vec<UserId> = self.ready.keys().cloned().collect();
        peers.iter().for_each(|peer| self.offer_to(id, peer));
    }

    /// A transfer that we begin to send ourselves need not be received any more.
    fn drop_stale(&mut self, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let is_whole = share.exchange().is_some_and(|exchange| exchange.phase == Phase::Complete);
        if !is_whole {
            self.shares.remove(&id);
            // The disk knows the transfer by its source now: nothing is to be closed.
            self.unqueue(id);
        }
    }

    pub(super) fn offer_came(&mut self, now: Instant, peer: &UserId, offer: Offer) {
        let id = offer.id;
        if self.shares.contains_key(&id) {
            return self.offered_again(now, peer, offer);
        }
        let refusal = self.refusal(peer, &offer);
        let share = Share::offered(now, peer, offer);
        if let Some(reason) = refusal {
            self.out.control(peer, TransferMessage::Decline { id, reason });
            if !self.declined.contains(&id) {
                let refused = TransferEvent::Refused { from: peer.clone(), offer: share.info, reason };
                self.out.event(refused);
            }
            return;
        }
        self.by_short.insert(id.short(), id);
        self.shares.insert(id, share);
        self.judge(now, id);
    }

    /// One more peer says that it has what we know already.
    fn offered_again(&mut self, now: Instant, peer: &UserId, offer: Offer) {
        let id = offer.id;
        let share = self.shares.get_mut(&id).expect("the caller found it");
        // Nobody learns by offering it that we have what was not meant for them.
        if share.direction == Direction::Send && !share.admits(peer) {
            return;
        }
        if !share.agrees_with(&offer) {
            return self.contradicted(now, peer, offer);
        }
        share.holders.insert(peer.clone());
        match &mut share.stage {
            Stage::Offered if self.config.accept.welcomes(peer) => self.accept(now, id, peer.clone()),
            Stage::Offered | Stage::Opening(_) | Stage::Asking(_) => {}
            Stage::Fetching(fetch) if fetch.from.is_none() => self.fetch_from(now, id, peer.clone()),
            Stage::Fetching(_) => {}
            Stage::Sharing(exchange) if exchange.phase == Phase::Complete => {
                let (from_origin, from_others) = (exchange.from_origin_bytes, exchange.from_others_bytes);
                self.out.control(peer, TransferMessage::Done { id, from_origin, from_others });
            }
            Stage::Sharing(_) => self.join(now, id, peer),
        }
    }

    /// The same id in other words: whoever was first may be the liar. The other is heard when the first turns out to be, or
    /// at once if it is trusted and the first is not.
    fn contradicted(&mut self, now: Instant, peer: &UserId, offer: Offer) {
        let id = offer.id;
        let share = self.shares.get_mut(&id).expect("the caller found it");
        match share.stage {
            Stage::Offered if self.config.accept.welcomes(peer) => {
                self.shares.remove(&id);
                self.drop_share(id);
                self.offer_came(now, peer, offer);
            }
            Stage::Offered | Stage::Fetching(_) | Stage::Opening(_) | Stage::Asking(_) => {
                share.rivals.insert(peer.clone(), offer);
            }
            // The manifest is here: the newcomer is wrong.
            Stage::Sharing(_) => {}
        }
    }

    /// Hears those who had offered in other words what is no longer here.
    fn hear_rivals(&mut self, now: Instant, rivals: BTreeMap<UserId, Offer>) {
        for (peer, offer) in rivals {
            if self.ready.contains_key(&peer) {
                self.offer_came(now, &peer, offer);
            }
        }
    }

    /// Why an offer is declined without asking anybody.
    fn refusal(&self, peer: &UserId, offer: &Offer) -> Option<DeclineReason> {
        if self.config.accept == AcceptPolicy::Nobody || self.declined.contains(&offer.id) {
            return Some(DeclineReason::NotWanted);
        }
        if offer.bytes > self.config.max_bytes || offer.manifest_bytes > MANIFEST_MAX_BYTES {
            return Some(DeclineReason::TooLarge);
        }
        let entries = u64::from(offer.files) + u64::from(offer.folders);
        if entries > self.config.max_entries.min(ENTRIES_MAX).into() {
            return Some(DeclineReason::TooManyFiles);
        }
        let waiting = || self.shares.values().filter(|share| matches!(share.stage, Stage::Offered));
        let of_peer = waiting().filter(|share| share.from == *peer).count();
        let accepted = self.shares.values().filter(|share| !matches!(share.stage, Stage::Offered));
        let held_bytes: u64 = accepted.map(Share::manifest_cost).sum();
        let is_too_much = waiting().count() >= OFFERS_MAX
            || of_peer >= OFFERS_PEER_MAX
            || held_bytes + u64::from(offer.manifest_bytes) > MANIFESTS_MAX_BYTES;
        let is_ambiguous = self.by_short.contains_key(&offer.id.short());
        (is_too_much || is_ambiguous).then_some(DeclineReason::TooManyOffers)
    }

    /// Accepts a waiting offer by policy, or asks.
    pub(super) fn judge(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get(&id) else { return };
        let welcome = match &self.config.accept {
            AcceptPolicy::Ask => None,
            AcceptPolicy::Nobody => return self.decline(now, id, DeclineReason::NotWanted),
            AcceptPolicy::Everyone => share.holders.first(),
            AcceptPolicy::From(peers) => share.holders.iter().find(|holder| peers.contains(*holder)),
        };
        match welcome.cloned() {
            Some(from) => self.accept(now, id, from),
            None => {
                let from = share.from.clone();
                self.out.disk(
                    Pending::Free { transfer: id, from },
                    DiskJob::Free { target: self.config.target.clone() },
                );
            }
        }
    }

    /// Now the person can be asked.
    pub(super) fn free_known(&mut self, id: TransferId, from: UserId, done: DiskDone) {
        let Some(share) = self.shares.get(&id) else { return };
        if !matches!(share.stage, Stage::Offered) {
            return;
        }
        let free_bytes = if let DiskDone::Free(bytes) = done { bytes } else { None };
        self.out.event(TransferEvent::Offered { from, offer: share.info.clone(), free_bytes });
    }

    pub(super) fn accept_command(&mut self, now: Instant, id: TransferId, scope: AcceptScope) {
        let Some(share) = self.shares.get(&id) else { return };
        let (Stage::Offered, Some(any)) = (&share.stage, share.holders.first()) else { return };
        // The person was asked about the first, whoever offers the same meanwhile.
        let asked_about = share.from.clone();
        let from = if share.holders.contains(&asked_about) { asked_about.clone() } else { any.clone() };
        if scope == AcceptScope::Peer {
            self.welcome(asked_about);
        }
        self.accept(now, id, from);
    }

    fn welcome(&mut self, peer: UserId) {
        match &mut self.config.accept {
            AcceptPolicy::From(peers) => {
                peers.insert(peer);
            }
            AcceptPolicy::Ask | AcceptPolicy::Nobody => {
                self.config.accept = AcceptPolicy::From(BTreeSet::from([peer]));
            }
            AcceptPolicy::Everyone => {}
        }
    }

    fn accept(&mut self, now: Instant, id: TransferId, from: UserId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        share.since = now;
        self.out.event(TransferEvent::Accepting { from: from.clone(), offer: share.info.clone() });
        // The origin counts who accepted; ask it if it is among those who offer.
        let origin = share.info.origin.clone();
        let first = if share.holders.contains(&origin) { origin } else { from };
        self.fetch_from(now, id, first);
    }

    /// Asks one holder for the manifest from the beginning.
    fn fetch_from(&mut self, now: Instant, id: TransferId, peer: UserId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        self.out.control(&peer, TransferMessage::Accept { id });
        let round = match &share.stage {
            Stage::Fetching(fetch) => fetch.round + u32::from(fetch.from.as_ref() >= Some(&peer)),
            Stage::Offered | Stage::Opening(_) | Stage::Asking(_) | Stage::Sharing(_) => 0,
        };
        share.stage = Stage::Fetching(Fetch::new(now, Some(peer), round));
        self.wake(Reason::Requests, now + TICK);
    }

    /// Asks another holder for the manifest, if the one that was asked has gone or is silent.
    pub(super) fn fetch_again(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Fetching(fetch) = &mut share.stage else { return };
        let is_silent = now.saturating_duration_since(fetch.heard_at) >= MANIFEST_PATIENCE;
        let patience = MANIFEST_GRACE + Duration::from_secs((share.manifest_len / MANIFEST_MIN_BPS).into());
        let patience = patience * 2_u32.pow(fetch.round.min(MANIFEST_ROUNDS_MAX));
        let is_slow = share.holders.len() > 1 && now.saturating_duration_since(fetch.asked_at) >= patience;
        let has_gone = fetch.from.as_ref().is_none_or(|from| !share.holders.contains(from));
        if !is_silent && !is_slow && !has_gone {
            return self.wake(Reason::Requests, now + TICK);
        }
        // In turns: two who send nothing must not be asked for ever, one after the other.
        let next =
            fetch.from.as_ref().and_then(|from| share.holders.range((Excluded(from), Unbounded)).next());
        match next.or(share.holders.first()).cloned() {
            Some(holder) => self.fetch_from(now, id, holder),
            None => *fetch = Fetch::new(now, None, 0),
        }
    }

    pub(super) fn reject_command(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get(&id) else { return };
        match share.stage {
            Stage::Offered => self.decline(now, id, DeclineReason::NotWanted),
            Stage::Fetching(_) | Stage::Opening(_) | Stage::Asking(_) | Stage::Sharing(_) => {
                self.fail(id, FailReason::Stopped);
            }
        }
    }

    fn decline(&mut self, now: Instant, id: TransferId, reason: DeclineReason) {
        let Some(share) = self.shares.remove(&id) else { return };
        self.drop_share(id);
        // What was declined is these words; others for the same id may be the true ones.
        if share.rivals.is_empty() && self.declined.len() < DECLINED_MAX {
            self.declined.insert(id);
        }
        for holder in &share.holders {
            self.out.control(holder, TransferMessage::Decline { id, reason });
        }
        self.hear_rivals(now, share.rivals);
    }

    /// A peer accepted what we offer: the manifest's beginning is sent at once.
    pub(super) fn accepted(&mut self, now: Instant, peer: &UserId, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) || share.exchange().is_none() {
            return;
        }
        let before = share.answers.insert(peer.clone(), Answer::Accepted);
        if share.direction == Direction::Send && before != Some(Answer::Accepted) {
            self.out.event(TransferEvent::Accepted { transfer: id, peer: peer.clone() });
        }
        self.send_manifest(now, peer, id, 0);
        self.wake(Reason::Progress, now);
    }

    pub(super) fn declined(&mut self, peer: &UserId, id: TransferId, reason: DeclineReason) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Some(answer) = share.answers.get_mut(peer).filter(|answer| **answer == Answer::Waiting) else {
            return;
        };
        *answer = Answer::Declined;
        if share.direction == Direction::Send {
            self.out.event(TransferEvent::Declined { transfer: id, peer: peer.clone(), reason });
        }
    }

    pub(super) fn send_manifest(&mut self, now: Instant, peer: &UserId, id: TransferId, offset: u32) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) || self.uploads.ready_bytes(peer) > MANIFEST_AHEAD_BYTES {
            return;
        }
        let Some(exchange) = share.exchange() else { return };
        let bytes = exchange.manifest_bytes.clone();
        let start = (offset as usize).min(bytes.len());
        let chunk = bytes.slice(start..bytes.len().min(start + MANIFEST_CHUNK_BYTES));
        if !exchange.allow(peer, chunk.len() as u64) {
            return self.cut_off(now, Some(id), peer, CutOffReason::EndlessRequests);
        }
        let frames = frame::cut(chunk.len() as u32, u32::MAX).map(|(at, len)| {
            let content = chunk.slice(at as usize..(at + len) as usize);
            Frame { short: id.short(), kind: FrameKind::Manifest, offset: offset + at, content }.encode()
        });
        self.uploads.push(peer, id, false, frames.collect());
    }

    /// A part of a manifest arrived.
    pub(super) fn manifest_part(
        &mut self,
        now: Instant,
        peer: &UserId,
        id: TransferId,
        offset: u32,
        part: Bytes,
    ) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Fetching(fetch) = &mut share.stage else { return };
        if fetch.from.as_ref() != Some(peer) || offset as usize != fetch.buffer.len() {
            return;
        }
        if fetch.buffer.len() + part.len() > share.manifest_len as usize {
            return self.cut_off(now, Some(id), peer, CutOffReason::BadManifest);
        }
        fetch.buffer.extend_from_slice(&part);
        fetch.heard_at = now;
        if fetch.buffer.len() == share.manifest_len as usize {
            let bytes = Bytes::from(std::mem::take(&mut fetch.buffer));
            return self.manifest_here(now, peer, id, bytes);
        }
        if fetch.buffer.len().is_multiple_of(MANIFEST_CHUNK_BYTES) {
            let offset = fetch.buffer.len() as u32;
            self.out.control(peer, TransferMessage::Manifest { id, offset });
        }
    }

    fn manifest_here(&mut self, now: Instant, peer: &UserId, id: TransferId, bytes: Bytes) {
        if Manifest::id_of(&bytes) != id {
            return self.cut_off(now, Some(id), peer, CutOffReason::BadManifest);
        }
        // The hash is right, so every holder has these bytes: the transfer itself is hopeless if they are refused.
        let share = self.shares.get_mut(&id).expect("its manifest was being fetched");
        let manifest = match Manifest::parse(&bytes) {
            Ok(manifest) if share.matches(&manifest) => Arc::new(manifest),
            Ok(_) => return self.refuse_manifest(now, id, "it is not what was offered".to_owned()),
            Err(error) => return self.refuse_manifest(now, id, error.to_string()),
        };
        let content = Content { manifest, bytes };
        share.stage = Stage::Opening(content.clone());
        self.open(id, content, self.config.conflict);
    }

    /// All who offered it in these words were wrong, not only the one who sent it.
    fn refuse_manifest(&mut self, now: Instant, id: TransferId, reason: String) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let (liars, rivals) = (share.holders.clone(), std::mem::take(&mut share.rivals));
        self.fail(id, FailReason::Manifest(reason));
        for liar in liars {
            self.cut_off(now, Some(id), &liar, CutOffReason::BadManifest);
        }
        self.hear_rivals(now, rivals);
    }

    fn open(&mut self, id: TransferId, content: Content, conflict: ConflictPolicy) {
        let target = self.config.target.clone();
        let job = DiskJob::Open { transfer: id, manifest: content.manifest, target, conflict };
        self.out.disk(Pending::Open { transfer: id }, job);
    }

    pub(super) fn resolve(&mut self, id: TransferId, conflict: ConflictPolicy) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Asking(content) = &share.stage else { return };
        let content = content.clone();
        share.stage = Stage::Opening(content.clone());
        let conflict = if conflict == ConflictPolicy::Ask { ConflictPolicy::Rename } else { conflict };
        self.open(id, content, conflict);
    }

    /// The disk has looked what is there.
    pub(super) fn opened(&mut self, now: Instant, id: TransferId, done: DiskDone) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Opening(content) = &share.stage else { return };
        let content = content.clone();
        if let DiskDone::Conflicts(conflicts) = done {
            share.stage = Stage::Asking(content);
            let count = conflicts.len();
            let paths = conflicts.into_iter().take(CONFLICTS_NAMED).map(|conflict| conflict.path).collect();
            return self.out.event(TransferEvent::Conflicts { transfer: id, paths, count });
        }
        let DiskDone::Opened(opened) = done else {
            return self.fail(id, FailReason::from(unexpected(done)));
        };
        self.start(now, id, content, opened);
    }

    /// From here on pieces are exchanged.
    fn start(&mut self, now: Instant, id: TransferId, content: Content, opened: Opened) {
        let (order, emit) = match self.config.target {
            Target::Folder(_) => (Order::Rarest, None),
            Target::Stdout => (Order::Sequential, Some(Emit { next: 0, busy: false })),
        };
        let total = content.manifest.total_bytes();
        let mut exchange = Exchange::new(content.manifest, content.bytes, opened.have, order);
        exchange.want_all_but(&opened.unwanted);
        exchange.skipped_files = opened.skipped_files;
        exchange.emit = emit;
        if exchange.have_bytes > 0 {
            self.out.event(TransferEvent::Resumed { transfer: id, bytes: exchange.have_bytes, total });
        }
        self.shares.get_mut(&id).expect("it was being opened").stage = Stage::Sharing(Box::new(exchange));
        let peers: Vec<UserId> = self.ready.keys().cloned().collect();
        peers.iter().for_each(|peer| self.join(now, id, peer));
        self.wake(Reason::Progress, now);
        self.advance(now, id);
    }

    /// Tells a peer that we take part, and with what.
    fn join(&mut self, now: Instant, id: TransferId, peer: &UserId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) && !share.holders.contains(peer) {
            return;
        }
        let Some(exchange) = share.exchange().filter(|exchange| exchange.phase != Phase::Complete) else {
            return;
        };
        if exchange.members.contains_key(peer) {
            return;
        }
        exchange.member(now, peer);
        self.out.control(peer, TransferMessage::Join { id });
        self.tell_all(now, id, peer);
    }

    /// A peer leaves a transfer, on purpose or with its link.
    pub(super) fn leave(&mut self, now: Instant, peer: &UserId, id: TransferId, reason: Option<StopReason>) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        share.holders.remove(peer);
        share.rivals.remove(peer);
        if share.answers.remove(peer) == Some(Answer::Accepted) && share.direction == Direction::Send {
            self.out.event(TransferEvent::Undelivered { transfer: id, peer: peer.clone(), reason });
        }
        let was_origin = share.info.origin == *peer;
        match &mut share.stage {
            Stage::Offered if share.holders.is_empty() => {
                let rivals = std::mem::take(&mut share.rivals);
                self.shares.remove(&id);
                self.drop_share(id);
                self.out.event(TransferEvent::Withdrawn { transfer: id });
                return self.hear_rivals(now, rivals);
            }
            Stage::Fetching(_) if share.holders.is_empty() && !share.rivals.is_empty() => {
                let reason = "who offered it is gone, and others say otherwise what it is".to_owned();
                return self.refuse_manifest(now, id, reason);
            }
            Stage::Offered | Stage::Opening(_) | Stage::Asking(_) => {}
            Stage::Fetching(_) => self.fetch_again(now, id),
            Stage::Sharing(exchange) => {
                exchange.remove(peer);
                if reason.is_none() {
                    exchange.taken_bytes.remove(peer);
                }
                self.feed_all(id);
            }
        }
        if was_origin && reason.is_none() {
            self.offer_to_all(id);
        }
        if was_origin && reason == Some(StopReason::SourceChanged) {
            self.fail_if_hopeless(id);
        }
        self.check_stalled(id);
    }

    pub(super) fn stopped(&mut self, now: Instant, peer: &UserId, id: TransferId, reason: StopReason) {
        self.uploads_dropped(peer, id);
        self.hungry.remove(&(id, peer.clone()));
        self.leave(now, peer, id, Some(reason));
    }

    /// The source is not what it was. Whoever else offers it may still have it, and may be the true origin.
    fn fail_if_hopeless(&mut self, id: TransferId) {
        let share = self.shares.get_mut(&id).filter(|share| share.holders.is_empty());
        let Some(exchange) = share.and_then(Share::exchange) else { return };
        if exchange.phase == Phase::Downloading && !exchange.is_obtainable() {
            self.fail(id, FailReason::SourceChanged);
        }
    }
}

/// An audience never shrinks: who was offered something may still take it.
fn widen(audience: &mut Option<BTreeSet<UserId>>, by: Option<BTreeSet<UserId>>) {
    match (audience.as_mut(), by) {
        (Some(peers), Some(more)) => peers.extend(more),
        (Some(_), None) => *audience = None,
        (None, _) => {}
    }
}

/// The error in an answer of the disk; an answer to another question is a bug of the shell.
pub(super) fn unexpected(done: DiskDone) -> DiskError {
    match done {
        DiskDone::Failed(error) => error,
        DiskDone::Scanning { .. }
        | DiskDone::Scanned(_)
        | DiskDone::Free(_)
        | DiskDone::Conflicts(_)
        | DiskDone::Opened(_)
        | DiskDone::Frames(_)
        | DiskDone::Written(_)
        | DiskDone::Emitted
        | DiskDone::Finished(_) => DiskError::Io {
            path: Default::default(),
            message: "the disk answered another question".to_owned(),
        },
    }
}
