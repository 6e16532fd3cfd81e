//! Broken links are asked for again.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::{Mesh, Output, TimerKey, Want};
use crate::wire::{ClientSignal, UserId};

/// First delay before a broken link is asked for again; doubled each time, plus up to half of it at random.
const WANT_DELAY: Duration = Duration::from_millis(500);

/// How soon after an offer was handed out the server may refuse to be asked for another (R31 of `docs/protocol.md`).
const WANT_INTERVAL: Duration = Duration::from_secs(2);

/// How often a peer is asked for before it is given up, until the server is entered anew: two minutes of delays in all.
const WANT_ATTEMPTS: u32 = 8;

/// How often others may have us ask, all peers together: so many at once, and how long until there may be one more. Whoever can take
/// part can have any number of links break.
pub(super) const WANTS_BURST: u32 = 192;
pub(super) const WANTS_EVERY: Duration = Duration::from_secs(1);

/// So much of that is left for links that had held and are asked for the first time, whoever comes and leaves meanwhile, and so much
/// for those and all others that are asked for the first time, and for links that had held: they are not to wait for those that never
/// come up.
const WANTS_OF_STEADY: u32 = WANTS_BURST / 3;
const WANTS_OF_FIRST: u32 = 2 * WANTS_BURST / 3;

/// Peers that are counted as asked for. Beyond, those that were asked for most often give way; where there are none, a broken link is
/// left to the other end to repair.
const WANTS_MAX: usize = 1024;

impl Mesh {
    /// Sets the time to ask for this peer, unless it was asked for too often: not so soon after `claimed_at` that the server refuses.
    /// While the server is away nothing is asked: on return `have` tells it what is missing. One that does not know the question is
    /// not asked either.
    pub(super) fn schedule_want(
        &mut self,
        now: Instant,
        peer: UserId,
        claimed_at: Option<Instant>,
        was_steady: bool,
    ) {
        if !self.signaling.may_be_asked() {
            return;
        }
        if !self.wants.contains_key(&peer) {
            if !self.make_room_for_want(was_steady) {
                return;
            }
            self.wants.insert(peer.clone(), Want { was_steady, ..Want::default() });
        }
        self.set_want_time(now, peer, claimed_at);
    }

    /// Whether there is room for one more. Whose link had held does not give way, and has another give way that was not asked for yet.
    fn make_room_for_want(&mut self, for_steady: bool) -> bool {
        if self.wants.len() < WANTS_MAX {
            return true;
        }
        let others = self.wants.iter().filter(|(_, want)| !want.was_steady);
        let Some((most, want)) = others.max_by_key(|(_, want)| want.tries) else { return false };
        let gives_way = for_steady || want.tries > 0;
        if gives_way {
            self.forget_want(&most.clone());
        }
        gives_way
    }

    fn set_want_time(&mut self, now: Instant, peer: UserId, claimed_at: Option<Instant>) {
        let Some(tries) = self.wants.get(&peer).map(|want| want.tries).filter(|tries| *tries < WANT_ATTEMPTS)
        else {
            return;
        };
        let delay = WANT_DELAY * 2u32.pow(tries);
        let soonest = (now + delay).max(claimed_at.map_or(now, |at| at + WANT_INTERVAL));
        let at = soonest + delay.mul_f64(self.rng.random_range(0.0..0.5));
        self.timers.set(TimerKey::Want(peer), Some(at));
    }

    /// Asks, and sets the time to ask again in case nothing comes of it. Where too much was asked for, this one waits for its turn.
    pub(super) fn want(&mut self, now: Instant, peer: UserId) {
        let Some(want) = self.wants.get_mut(&peer) else { return };
        self.asked.catch_up(now);
        let kept = match (want.tries, want.was_steady) {
            (0, true) => 0,
            (0, false) | (1.., true) => WANTS_OF_STEADY,
            (1.., false) => WANTS_OF_FIRST,
        };
        if self.asked.left() <= kept || !self.asked.take(now) {
            let turn = now + WANTS_EVERY.mul_f64(self.rng.random_range(1.0..2.0));
            return self.timers.set(TimerKey::Want(peer), Some(turn));
        }
        want.tries += 1;
        self.outbox.push_back(Output::Signal(ClientSignal::Want { user_id: peer.clone() }));
        self.set_want_time(now, peer, None);
    }

    /// The server does not know the peer any more, or its socket broke off. If we asked for it, it is done: one that comes back is
    /// paired with everybody by the server, and one that has only lost its socket still gets what was asked for.
    pub(super) fn forget_gone(&mut self, peer: &UserId) {
        if !self.slots.contains_key(peer) && self.wants.get(peer).is_some_and(|want| want.tries > 0) {
            self.forget_want(peer);
        }
    }

    /// The peer need not be asked for, for now.
    pub(super) fn rest_want(&mut self, peer: &UserId) {
        self.timers.set(TimerKey::Want(peer.clone()), None);
    }

    /// Whether people heard already that the handshake with this peer fails.
    pub(super) fn is_told(&self, peer: &UserId) -> bool {
        self.wants.get(peer).is_some_and(|want| want.is_told)
    }

    pub(super) fn set_told(&mut self, peer: &UserId, is_told: bool) {
        if let Some(want) = self.wants.get_mut(peer) {
            want.is_told = is_told;
        }
    }

    /// The count begins anew.
    pub(super) fn forget_want(&mut self, peer: &UserId) {
        self.wants.remove(peer);
        self.rest_want(peer);
    }

    pub(super) fn forget_wants(&mut self) {
        for peer in std::mem::take(&mut self.wants).into_keys() {
            self.rest_want(&peer);
        }
    }
}
