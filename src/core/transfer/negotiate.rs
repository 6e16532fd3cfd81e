//! Offers and answers: what comes before the list of files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::exchange::{JOIN_BYTES, Phase};
use super::machine::{Pending, Transfers};
use super::membership::unexpected;
use super::share::{Answer, Content, Share, Stage};
use super::{
    AcceptPolicy, AcceptScope, Audience, CutOffReason, DeclineReason, Direction, DiskDone, DiskJob,
    FailReason, OfferInfo, Reason, Scanned, SendToken, TransferEvent,
};
use crate::wire::manifest::Manifest;
use crate::wire::transfer::{Offer, TransferMessage};
use crate::wire::{TransferId, UserId};

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
        let DiskDone::Scanned(Scanned { manifest, bytes, left_out }) = done else {
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
        let offer = self.shares[&id].info.clone();
        self.out.event(TransferEvent::Prepared { token, offer, left_out });
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
            Stage::Queued if is_new => self.start_queued(now),
            Stage::Offered | Stage::Queued | Stage::Opening(_) | Stage::Asking(_) => {}
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
            None => self.ask_free(),
        }
    }

    /// Asks how much room there is: once for all offers that wait for the answer, however many come.
    fn ask_free(&mut self) {
        if !std::mem::replace(&mut self.is_free_asked, true) {
            let target = self.config.target.clone();
            self.out.disk(Pending::Free, DiskJob::Free { target });
        }
    }

    /// There is so much room for what is offered.
    pub(super) fn free_known(&mut self, done: DiskDone) {
        self.is_free_asked = false;
        let free = if let DiskDone::Free(bytes) = done { bytes } else { None };
        let is_new = |share: &Share| matches!(share.stage, Stage::Offered) && share.free.is_none();
        let new = self.shares.iter_mut().filter(|(_, share)| is_new(share));
        let ids: Vec<TransferId> = new.map(|(id, share)| (share.free = Some(free), *id).1).collect();
        ids.into_iter().for_each(|id| self.tell_offers(id));
    }

    /// Whoever can answer is told who offers it: first whoever came first.
    fn tell_offers(&mut self, id: TransferId) {
        let Some(share) = self.shares.get(&id) else { return };
        let others = share.holders.iter().filter(|holder| **holder != share.from);
        let told: Vec<UserId> =
            [&share.from].into_iter().chain(others).chain(share.rivals.keys()).cloned().collect();
        told.iter().for_each(|peer| self.tell_offer(id, peer));
    }

    /// Tells whoever can answer that this peer offers it, too; not before they can be told of the first.
    pub(super) fn tell_offer(&mut self, id: TransferId, peer: &UserId) {
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

    /// A peer accepted what we offer: the manifest's beginning is sent at once.
    pub(super) fn accepted(&mut self, now: Instant, peer: &UserId, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) {
            return;
        }
        let is_new = share.answers.get(peer) != Some(&Answer::Accepted);
        let Some(exchange) = share.exchange() else { return };
        // It is told of, and again if the peer leaves and comes back.
        if is_new && !exchange.allow(peer, JOIN_BYTES) {
            return self.cut_off(now, Some(id), peer, CutOffReason::EndlessRequests);
        }
        share.answers.insert(peer.clone(), Answer::Accepted);
        if is_new && share.direction == Direction::Send {
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
