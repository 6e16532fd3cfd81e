//! Saying no to offers: by limit, by policy, by a person.

use std::time::Instant;

use super::machine::Transfers;
use super::share::{Share, Stage};
use super::{AcceptPolicy, DeclineReason, FailReason, OfferInfo, Streams, Target, TransferEvent};
use crate::wire::manifest::{ENTRIES_MAX, MANIFEST_MAX_BYTES};
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
    /// Why an offer is declined without asking anybody.
    pub(super) fn refusal(&self, peer: &UserId, offer: &Offer) -> Option<DeclineReason> {
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
    pub(super) fn has_streamed(&self) -> bool {
        self.config.target == Target::Stdout && self.config.streams == Streams::One && self.streamed
    }

    /// Which limit an offer is over.
    pub(super) fn excess(&self, offer: &Offer) -> Option<DeclineReason> {
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
    pub(super) fn is_declined(&self, peer: &UserId, offer: &OfferInfo) -> bool {
        let whose = [None, Some(peer.clone()), Some(offer.origin.clone())];
        whose.into_iter().any(|whose| self.declined.contains(&(offer.transfer, whose)))
    }

    pub(super) fn decline(&mut self, now: Instant, id: TransferId, reason: DeclineReason) {
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
}
