//! Offers that were too many for a peer: made again when it may have room, for a burst is no reason to lose any.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Reason;
use super::machine::Transfers;
use crate::wire::transfer::{DeclineReason, TransferMessage};
use crate::wire::{TransferId, UserId};

/// A peer may have room again without a word to us: so many offers are made to each, so often.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const AGAIN_AT_ONCE: usize = 8;

/// What is to be offered again to whom, the first declined first.
#[derive(Debug, Default)]
pub(super) struct Later(BTreeMap<UserId, VecDeque<TransferId>>);

impl Later {
    /// Whoever is gone is greeted with everything when it comes back.
    pub(super) fn forget(&mut self, peer: &UserId) {
        self.0.remove(peer);
    }

    fn put(&mut self, peer: &UserId, id: TransferId) {
        self.0.entry(peer.clone()).or_default().push_back(id);
    }

    fn take(&mut self, peer: &UserId) -> Option<TransferId> {
        let queue = self.0.get_mut(peer)?;
        let id = queue.pop_front();
        if queue.is_empty() {
            self.0.remove(peer);
        }
        id
    }
}

/// Whether a message shows that its sender has one offer less to answer, or one transfer less under way.
pub(super) fn makes_room(message: &TransferMessage) -> bool {
    match message {
        TransferMessage::Accept { .. } | TransferMessage::Done { .. } | TransferMessage::Stop { .. } => true,
        TransferMessage::Decline { reason, .. } => *reason != DeclineReason::TooManyOffers,
        TransferMessage::Offer(_)
        | TransferMessage::Manifest { .. }
        | TransferMessage::Join { .. }
        | TransferMessage::Have { .. }
        | TransferMessage::Request { .. }
        | TransferMessage::Cancel { .. }
        | TransferMessage::Busy { .. }
        | TransferMessage::Unknown => false,
    }
}

impl Transfers {
    /// A peer has no room for one more offer, for now.
    pub(super) fn offer_later(&mut self, now: Instant, peer: &UserId, id: TransferId) {
        self.later.put(peer, id);
        self.wake(Reason::Offers, now + AGAIN_AFTER);
    }

    /// Makes the next of the offers that a peer had no room for. `false`: there are none.
    pub(super) fn offer_next(&mut self, peer: &UserId) -> bool {
        while let Some(id) = self.later.take(peer) {
            if self.offer_to(id, peer) {
                return true;
            }
        }
        false
    }

    /// Tries those who said nothing.
    pub(super) fn offer_again(&mut self, now: Instant) {
        let peers: Vec<UserId> = self.later.0.keys().cloned().collect();
        for peer in peers {
            let _ = (0..AGAIN_AT_ONCE).take_while(|_| self.offer_next(&peer)).count();
        }
        if !self.later.0.is_empty() {
            self.wake(Reason::Offers, now + AGAIN_AFTER);
        }
    }
}
