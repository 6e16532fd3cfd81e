//! Offers and answers: what comes before the list of files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::exchange::Phase;
use super::machine::{Pending, Transfers};
use super::membership::unexpected;
use super::share::{Answer, Content, Share, Stage};
use super::{
    AcceptPolicy, AcceptScope, Audience, DeclineReason, Direction, DiskDone, DiskJob, FailReason, OfferInfo,
    Reason, Scanned, SendToken, Streams, Target, TransferEvent,
};
use crate::wire::manifest::{ENTRIES_MAX, MANIFEST_MAX_BYTES, Manifest};
use crate::wire::transfer::{Offer, TransferMessage};
use crate::wire::{TransferId, UserId};

/// The most offers that wait for an answer, in all and of one peer: nobody takes the others' places.
const OFFERS_MAX: usize = 256;
const OFFERS_PEER_MAX: usize = 32;

/// The same, with those that were accepted and wait for their turn.
const WAITING_MAX: usize = 1024;
const WAITING_PEER_MAX: usize = 256;

/// The most declined offers that are remembered.
const DECLINED_MAX: usize = 1024;

impl Transfers {
    /// Tells a newcomer of everything it may take part in.
    pub(super) fn greet(&mut self, now: Instant, peer: &UserId) {
        let ids: Vec<TransferId> = self.shares.keys().copied().collect();
        for id in ids {
            self.offer_to(id, peer);
            self.join(now, id, peer);
        }
    }

    /// Offers a transfer to a peer, if we are its origin or the origin is not here. `false`: it is not for the peer, or was
    /// offered to it already.
    pub(super) fn offer_to(&mut self, id: TransferId, peer: &UserId) -> bool {
        let Some(share) = self.shares.get(&id) else { return false };
        let is_ours = share.direction == Direction::Send || !self.origin_is_here(share);
        let can_serve = matches!(share.stage, Stage::Sharing(_));
        if !is_ours || !can_serve || !share.admits(peer) || share.answers.contains_key(peer) {
            return false;
        }
        let share = self.shares.get_mut(&id).expect("it was there above");
        share.answers.insert(peer.clone(), Answer::Waiting);
        self.out.control(peer, TransferMessage::Offer(share.offer()));
        true
    }

    /// The origin left: whoever takes part offers in its stead.
    pub(super) fn offer_to_all(&mut self, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Some(exchange) = share.exchange() else { return };
        let outside: Vec<UserId> =
            self.ready.keys().filter(|id| !exchange.members.contains_key(*id)).cloned().collect();
        for peer in &outside {
            self.offer_to(id, peer);
        }
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
        for peer in &peers {
            self.offer_to(id, peer);
        }
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
        if let Some(received) = self.received.iter().find(|received| received.id == id) {
            return self.out.control(peer, received.done());
        }
        let refusal = self.refusal(peer, &offer);
        let share = Share::offered(now, peer, offer);
        if let Some(reason) = refusal {
            self.out.control(peer, TransferMessage::Decline { id, reason });
            // What was declined is not worth a second word, and what is too much for now comes again.
            if !self.is_declined(peer, &share.info) && reason != DeclineReason::TooManyOffers {
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
        let is_waiting = matches!(share.stage, Stage::Offered);
        if is_waiting && self.is_declined(peer, &offer.clone().into()) {
            let reason = DeclineReason::NotWanted;
            return self.out.control(peer, TransferMessage::Decline { id, reason });
        }
        let share = self.shares.get_mut(&id).expect("the caller found it");
        if !share.agrees_with(&offer) {
            return self.contradicted(now, peer, offer);
        }
        let is_new = share.holders.insert(peer.clone());
        share.rivals.remove(peer);
        match &mut share.stage {
            Stage::Offered if self.config.accept.welcomes(peer) => self.accept(now, id, peer.clone()),
            Stage::Offered if is_new => self.tell_offer(id, peer),
            Stage::Queued => self.start_queued(now),
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
        if let Some(reason) = self.excess(&offer) {
            return self.out.control(peer, TransferMessage::Decline { id, reason });
        }
        let share = self.shares.get_mut(&id).expect("the caller found it");
        if matches!(share.stage, Stage::Offered) && share.holders.contains(peer) {
            // Its last word counts, and nobody is taken at the one before.
            self.leave(now, peer, id, None);
            return self.offer_came(now, peer, offer);
        }
        let is_new = share.rivals.get(peer) != Some(&offer);
        match share.stage {
            // The manifest is here: the newcomer is wrong.
            Stage::Sharing(_) => {}
            Stage::Offered | Stage::Queued | Stage::Fetching(_) | Stage::Opening(_) | Stage::Asking(_) => {
                share.rivals.insert(peer.clone(), offer);
            }
        }
        if !matches!(share.stage, Stage::Offered) {
            return;
        }
        if self.config.accept.welcomes(peer) {
            self.accept(now, id, peer.clone());
        } else if is_new {
            self.tell_offer(id, peer);
        }
    }

    /// Hears those who had offered in other words what is no longer here.
    pub(super) fn hear_rivals(&mut self, now: Instant, rivals: BTreeMap<UserId, Offer>) {
        for (peer, offer) in rivals {
            if self.ready.contains_key(&peer) {
                self.offer_came(now, &peer, offer);
            }
        }
    }

    /// Takes a rival at its word in what was accepted; for anybody else nothing changes.
    pub(super) fn go_over(&mut self, now: Instant, id: TransferId, rival: &UserId) {
        let is_rival = |share: &Share| share.rivals.contains_key(rival);
        if self.shares.get(&id).is_some_and(is_rival)
            && let Some(share) = self.shares.remove(&id)
        {
            self.shares.insert(id, share.go_over_to(now, rival));
        }
    }

    /// Those who were taken at their word did not keep it: the others are heard, in turns, and they last.
    pub(super) fn hear_others(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let words = share.offer();
        let losers =
            std::mem::take(&mut share.holders).into_iter().map(|peer| (peer, words.clone())).collect();
        let mut before = std::mem::take(&mut share.rivals);
        let after = before.split_off(&share.payer);
        self.fail(id, FailReason::NoManifest);
        for heard in [after, before, losers] {
            self.hear_rivals(now, heard);
        }
    }

    /// Why an offer is declined without asking anybody.
    fn refusal(&self, peer: &UserId, offer: &Offer) -> Option<DeclineReason> {
        if self.config.accept == AcceptPolicy::Nobody || self.is_declined(peer, &offer.clone().into()) {
            return Some(DeclineReason::NotWanted);
        }
        let is_too_much = || {
            let is_ambiguous = self.by_short.contains_key(&offer.id.short());
            (is_ambiguous || self.waits_too_much(peer)).then_some(DeclineReason::TooManyOffers)
        };
        let is_streaming = || self.has_streamed().then_some(DeclineReason::Streaming);
        self.excess(offer).or_else(is_streaming).or_else(is_too_much)
    }

    /// Whether standard output was given to a transfer, and takes no other.
    fn has_streamed(&self) -> bool {
        self.config.target == Target::Stdout && self.config.streams == Streams::One && self.streamed
    }

    /// Which limit an offer is over.
    fn excess(&self, offer: &Offer) -> Option<DeclineReason> {
        let is_too_large = offer.bytes > self.config.max_bytes || offer.manifest_bytes > MANIFEST_MAX_BYTES;
        let entries = u64::from(offer.files) + u64::from(offer.folders);
        let are_too_many = entries > self.config.max_entries.min(ENTRIES_MAX).into();
        match (is_too_large, are_too_many) {
            (true, _) => Some(DeclineReason::TooLarge),
            (false, true) => Some(DeclineReason::TooManyFiles),
            (false, false) => None,
        }
    }

    /// Whether one more offer of a peer would be too much. Whoever has none may always have one.
    fn waits_too_much(&self, peer: &UserId) -> bool {
        let count = |is: &dyn Fn(&Share) -> bool| self.shares.values().filter(|share| is(share)).count();
        let is_offered = |share: &Share| matches!(share.stage, Stage::Offered);
        let is_waiting = |share: &Share| matches!(share.stage, Stage::Offered | Stage::Queued);
        let waiting_of_peer = count(&|share| is_waiting(share) && share.from == *peer);
        waiting_of_peer >= WAITING_PEER_MAX
            || count(&|share| is_offered(share) && share.from == *peer) >= OFFERS_PEER_MAX
            || waiting_of_peer > 0 && (count(&is_offered) >= OFFERS_MAX || count(&is_waiting) >= WAITING_MAX)
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
                let target = self.config.target.clone();
                self.out.disk(Pending::Free { transfer: id }, DiskJob::Free { target });
            }
        }
    }

    /// Now whoever can answer is told who offers it: first whoever came first.
    pub(super) fn free_known(&mut self, id: TransferId, done: DiskDone) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        share.free = Some(if let DiskDone::Free(bytes) = done { bytes } else { None });
        let others = share.holders.iter().filter(|holder| **holder != share.from);
        let told: Vec<UserId> =
            [&share.from].into_iter().chain(others).chain(share.rivals.keys()).cloned().collect();
        told.iter().for_each(|peer| self.tell_offer(id, peer));
    }

    /// Tells whoever can answer that this peer offers it, too; not before they can be told of the first.
    fn tell_offer(&mut self, id: TransferId, peer: &UserId) {
        let Some(share) = self.shares.get(&id).filter(|share| matches!(share.stage, Stage::Offered)) else {
            return;
        };
        if let (Some(free_bytes), Some(offer)) = (share.free, share.offer_of(peer)) {
            self.out.event(TransferEvent::Offered { from: peer.clone(), offer, free_bytes });
        }
    }

    pub(super) fn accept_command(
        &mut self,
        now: Instant,
        from: UserId,
        meant: &OfferInfo,
        scope: AcceptScope,
    ) {
        let Some(share) = self.shares.get(&meant.transfer) else { return };
        // Who offered it may have left; the others offer the same.
        let offered = share.offer_of(&from).unwrap_or_else(|| share.info.clone());
        if !matches!(share.stage, Stage::Offered) || !offered.says_the_same(meant) {
            return;
        }
        if scope == AcceptScope::Peer {
            self.welcome(from.clone());
        }
        self.accept(now, meant.transfer, from);
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

    /// Accepts what `from` offers, in its words.
    fn accept(&mut self, now: Instant, id: TransferId, from: UserId) {
        let Some(mut share) = self.shares.remove(&id) else { return };
        if self.has_streamed() {
            let (reason, offer) = (DeclineReason::Streaming, share.info.clone());
            self.shares.insert(id, share);
            self.decline(now, id, reason);
            return self.out.event(TransferEvent::Refused { from, offer, reason });
        }
        self.streamed = true;
        if share.rivals.contains_key(&from) {
            share = share.in_words_of(now, &from);
        }
        (share.since, share.payer, share.stage) = (now, from.clone(), Stage::Queued);
        self.out.event(TransferEvent::Accepting { from, offer: share.info.clone() });
        self.shares.insert(id, share);
        self.start_queued(now);
    }

    pub(super) fn reject_command(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get(&id) else { return };
        match share.stage {
            Stage::Offered => self.decline(now, id, DeclineReason::NotWanted),
            Stage::Queued | Stage::Fetching(_) | Stage::Opening(_) | Stage::Asking(_) | Stage::Sharing(_) => {
                self.fail(id, FailReason::Stopped);
            }
        }
    }

    /// An offer is not taken from this peer; nothing else follows from that.
    pub(super) fn reject_from(&mut self, now: Instant, id: TransferId, from: &UserId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !matches!(share.stage, Stage::Offered) || share.offer_of(from).is_none() {
            return;
        }
        self.out.control(from, TransferMessage::Decline { id, reason: DeclineReason::NotWanted });
        share.rivals.remove(from);
        share.holders.remove(from);
        match share.holders.first() {
            Some(_) if share.from != *from => {}
            Some(next) => share.from = next.clone(),
            None => {
                let rivals = std::mem::take(&mut share.rivals);
                self.shares.remove(&id);
                self.drop_share(id);
                self.hear_rivals(now, rivals);
            }
        }
    }

    /// A person takes it from anybody but this peer; who else offers it is told of next.
    pub(super) fn pass(&mut self, now: Instant, id: TransferId, from: &UserId) {
        self.remember_declined(id, Some(from.clone()));
        self.reject_from(now, id, from);
        let Some(share) = self.shares.get(&id) else {
            return self.out.event(TransferEvent::Withdrawn { transfer: id });
        };
        let first = share.holders.get(&share.from).or(share.holders.first());
        if let Some(next) = first.cloned() {
            self.tell_offer(id, &next);
        }
    }

    fn remember_declined(&mut self, id: TransferId, from: Option<UserId>) {
        if self.declined.len() < DECLINED_MAX {
            self.declined.insert((id, from));
        }
    }

    /// Whether a person said no to this: whoever offers it, or to this peer, or to the origin in whose stead it speaks.
    fn is_declined(&self, peer: &UserId, offer: &OfferInfo) -> bool {
        let whose = [None, Some(peer.clone()), Some(offer.origin.clone())];
        whose.into_iter().any(|whose| self.declined.contains(&(offer.transfer, whose)))
    }

    fn decline(&mut self, now: Instant, id: TransferId, reason: DeclineReason) {
        let Some(share) = self.shares.remove(&id) else { return };
        self.drop_share(id);
        // What was declined is these words; others for the same id may be the true ones.
        if reason == DeclineReason::NotWanted && share.rivals.is_empty() {
            self.remember_declined(id, None);
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

    pub(super) fn declined(&mut self, now: Instant, peer: &UserId, id: TransferId, reason: DeclineReason) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Some(answer) = share.answers.get_mut(peer).filter(|answer| **answer == Answer::Waiting) else {
            return;
        };
        if reason == DeclineReason::TooManyOffers {
            share.answers.remove(peer);
            return self.offer_later(now, peer, id);
        }
        *answer = Answer::Declined;
        if share.direction == Direction::Send {
            self.out.event(TransferEvent::Declined { transfer: id, peer: peer.clone(), reason });
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
