//! The offers that wait at the server for whoever comes next.
//!
//! A client brings the first ones unasked; after that the server asks for each offer it wants (`offerRequest`). An offer
//! that grew too old is withdrawn, if the server understands that, and the server then asks for another.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::{Mesh, Signaling, TimerKey};
use crate::core::link::{self, CloseReason, Link};
use crate::core::peer::LinkKey;
use crate::wire::{ClientSignal, LinkId};

/// Most unclaimed offers, whatever the server asks for: as many as our server keeps of one member. Each is a live WebRTC
/// connection.
const OFFERS_MAX: usize = 32;

/// How long to wait before an offer that could not be made is tried again.
const REFILL_DELAY: Duration = Duration::from_secs(1);

impl Mesh {
    /// Makes the offers that a client brings unasked.
    pub(super) fn fill_offers(&mut self, now: Instant) {
        self.timers.set(TimerKey::Refill, None);
        for _ in self.unclaimed.len()..self.config.peer_buffer {
            self.make_offer(now);
            self.requested = self.requested.saturating_sub(1);
        }
    }

    pub(super) fn handle_offer_request(&mut self, now: Instant) {
        self.requested += 1;
        self.make_requested(now);
    }

    /// The pause is over: what could not be made before it is made now.
    pub(super) fn handle_refill(&mut self, now: Instant) {
        self.fill_offers(now);
        self.make_requested(now);
    }

    /// Makes the offers that the server asked for, or remembers them until they may be made: it counts on them and does not soon
    /// ask again.
    fn make_requested(&mut self, now: Instant) {
        let room = OFFERS_MAX.max(self.config.peer_buffer).saturating_sub(self.unclaimed.len());
        self.requested = self.requested.min(room);
        if self.timers.contains(&TimerKey::Refill) {
            return;
        }
        while self.requested > 0 {
            if !self.made.take(now) {
                return self.timers.set(TimerKey::Refill, Some(now + REFILL_DELAY));
            }
            self.requested -= 1;
            self.make_offer(now);
        }
    }

    /// Nobody took the offer in time.
    pub(super) fn handle_stale_offer(&mut self, now: Instant, key: LinkKey) {
        match self.signaling {
            Signaling::Down => {
                self.feed(now, key, link::Input::Close(CloseReason::GivenBack));
                self.fill_offers(now);
            }
            Signaling::Welcomed => self.withdraw(now, key),
            // A server that does not know `withdraw` would go on handing it out: better stale than gone.
            Signaling::Entering | Signaling::Plain | Signaling::Closed => {}
        }
    }

    /// The server turns out to know `withdraw`.
    pub(super) fn withdraw_stale_offers(&mut self, now: Instant) {
        let is_stale = |key: &&LinkKey| self.links.get(key).is_some_and(|link| link.poll_timeout().is_none());
        let stale: Vec<LinkKey> = self.unclaimed.iter().filter(is_stale).copied().collect();
        for key in stale {
            self.withdraw(now, key);
        }
    }

    fn withdraw(&mut self, now: Instant, key: LinkKey) {
        if let Some(id) = self.links.get(&key).map(|link| link.id().clone()) {
            self.signal(ClientSignal::Withdraw { id });
            self.feed(now, key, link::Input::Withdrawn);
        }
    }

    /// The connection behind an unclaimed offer broke. Its successor is made after a pause, for whatever broke it may
    /// still be there.
    pub(super) fn handle_broken_offer(&mut self, now: Instant, id: LinkId) {
        if self.signaling == Signaling::Welcomed {
            self.signal(ClientSignal::Withdraw { id });
        }
        self.timers.set(TimerKey::Refill, Some(now + REFILL_DELAY));
    }

    fn make_offer(&mut self, now: Instant) {
        let key = self.next_key();
        let id = LinkId::from_random(self.rng.random());
        self.insert(Link::offer(now, key, id));
        self.drain(now, key);
    }
}
