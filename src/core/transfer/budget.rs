//! How much is received at once. What was accepted beyond that waits for its turn, and what is over gives way.

use std::collections::BTreeMap;
use std::time::Instant;

use super::exchange::{Member, Phase};
use super::machine::{TICK, Transfers};
use super::manifest::MANIFEST_CHUNK_BYTES;
use super::share::{Share, Stage};
use super::{Direction, FailReason, Reason, Target};
use crate::wire::manifest::MANIFEST_MAX_BYTES;
use crate::wire::transfer::TransferMessage;
use crate::wire::{TransferId, UserId};

/// Transfers received at once, in all and from one peer. Whoever has none may always have one: nobody takes all turns.
const UNDER_WAY_MAX: usize = 64;
const UNDER_WAY_PEER_MAX: usize = 8;

/// What manifests may take in memory: eight of the largest, and what those of one peer say may be two of them.
const MANIFESTS_MAX_BYTES: u64 = 8 * MANIFEST_MAX_BYTES as u64;
const MANIFESTS_PEER_MAX_BYTES: u64 = 2 * MANIFEST_MAX_BYTES as u64;

/// Transfers kept in which nothing moves: complete ones for those who want them, and those of which nobody here has the rest.
const IDLE_MAX: usize = 128;

/// Complete transfers of which only that is remembered: whoever offers one again is told so.
const RECEIVED_MAX: usize = 4096;

/// A transfer that was received, and is not served any more.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) id: TransferId,
    from_origin: u64,
    from_others: u64,
}

impl Received {
    pub(super) fn done(&self) -> TransferMessage {
        TransferMessage::Done { id: self.id, from_origin: self.from_origin, from_others: self.from_others }
    }
}

/// What is received at once: how many transfers, and what their manifests say that they take.
#[derive(Debug, Default)]
struct Load {
    transfers: usize,
    of_peers: BTreeMap<UserId, (usize, u64)>,
}

impl Load {
    fn of<'a>(shares: impl Iterator<Item = &'a Share>) -> Self {
        let mut load = Self::default();
        shares.filter(|share| is_under_way(share)).for_each(|share| load.add(share));
        load
    }

    fn add(&mut self, share: &Share) {
        self.transfers += 1;
        let (transfers, bytes) = self.of_peers.entry(share.payer.clone()).or_default();
        *transfers += 1;
        *bytes += u64::from(share.manifest_len);
    }

    /// Against whose part a transfer may begin, if it may. Whoever only repeats what somebody else offers does not use up the
    /// other's part.
    fn payer(&self, share: &Share) -> Option<UserId> {
        let has_part = |peer: &&UserId| {
            let (transfers, bytes) = self.of_peers.get(*peer).copied().unwrap_or_default();
            let is_within = transfers < UNDER_WAY_PEER_MAX
                && bytes + u64::from(share.manifest_len_of(peer)) <= MANIFESTS_PEER_MAX_BYTES;
            transfers == 0 || self.transfers < UNDER_WAY_MAX && is_within
        };
        let first = share.holders.get(&share.payer);
        first.into_iter().chain(&share.holders).chain(share.likewise()).find(has_part).cloned()
    }
}

impl Transfers {
    /// Begins what was accepted and waits, the oldest first, as far as there is room.
    pub(super) fn start_queued(&mut self, now: Instant) {
        let is_queued = |share: &&Share| matches!(share.stage, Stage::Queued);
        let mut queued: Vec<(Instant, TransferId)> =
            self.shares.values().filter(is_queued).map(|share| (share.since, share.info.transfer)).collect();
        if queued.is_empty() {
            return;
        }
        self.wake(Reason::Requests, now + TICK);
        queued.sort_unstable();
        if self.config.target == Target::Stdout {
            queued.truncate(usize::from(!self.stream_is_taken()));
        }
        let mut load = Load::of(self.shares.values());
        for (_, id) in queued {
            let share = self.shares.get_mut(&id).expect("only what is over gives way");
            let Some(payer) = load.payer(share) else { continue };
            self.go_over(now, id, &payer);
            let share = self.shares.get_mut(&id).expect("it only changes its words");
            share.payer = payer;
            load.add(share);
            let first_bytes = share.manifest_len.min(MANIFEST_CHUNK_BYTES as u32);
            // The origin counts who accepted; ask it if it is among those who offer.
            let first = share.holders.get(&share.info.origin).unwrap_or(&share.payer).clone();
            if !self.make_room(first_bytes.into()) {
                break;
            }
            self.fetch_from(now, id, first);
        }
    }

    /// Whether standard output belongs to a transfer that is not complete. One of which nobody here has the rest gives way.
    fn stream_is_taken(&mut self) -> bool {
        let is_at_it = |share: &&Share| is_under_way(share) || idleness(share) == Some(Idleness::Abandoned);
        let Some(share) = self.shares.values().find(is_at_it) else { return false };
        let (id, is_over) = (share.info.transfer, idleness(share).is_some());
        if is_over {
            self.give_way(id);
        }
        !is_over
    }

    /// Lets what is over give way until so much of a manifest may come besides what is here and on its way. `false`: that is
    /// not enough.
    pub(super) fn make_room(&mut self, bytes: u64) -> bool {
        loop {
            let held_bytes: u64 = self.shares.values().map(Share::manifest_cost).sum();
            let has_room = held_bytes + bytes <= MANIFESTS_MAX_BYTES;
            let idle = self.shares.values().filter_map(|share| Some((idleness(share)?, share)));
            let (count, first) = idle.fold((0, None), |(count, first), (idleness, share)| {
                let candidate = (idleness, share.since, share.info.transfer);
                (count + 1, Some(first.map_or(candidate, |first| candidate.min(first))))
            });
            match first {
                Some((_, _, id)) if !has_room || count > IDLE_MAX => self.give_way(id),
                Some(_) | None => return has_room,
            }
        }
    }

    /// A transfer in which nothing moves is forgotten.
    fn give_way(&mut self, id: TransferId) {
        let exchange = self.shares.get_mut(&id).and_then(Share::exchange);
        let Some(exchange) = exchange.filter(|exchange| exchange.phase == Phase::Complete) else {
            return self.fail(id, FailReason::Abandoned);
        };
        let (from_origin, from_others) = (exchange.from_origin_bytes, exchange.from_others_bytes);
        self.end(id, &FailReason::Stopped);
        if self.received.len() == RECEIVED_MAX {
            self.received.pop_front();
        }
        self.received.push_back(Received { id, from_origin, from_others });
    }
}

/// Whether it was accepted, is not complete, and somebody is here to get it from.
fn is_under_way(share: &Share) -> bool {
    match (&share.direction, &share.stage) {
        (Direction::Send, _) | (Direction::Receive, Stage::Offered | Stage::Queued) => false,
        (Direction::Receive, Stage::Opening(_) | Stage::Asking(_)) => true,
        (Direction::Receive, Stage::Fetching(_) | Stage::Sharing(_)) => idleness(share).is_none(),
    }
}

/// In which order that in which nothing moves gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Idleness {
    /// It is complete, and nobody here takes it.
    Complete,
    /// It is complete, and somebody takes it.
    Serving,
    /// Nobody here has the rest.
    Abandoned,
}

fn idleness(share: &Share) -> Option<Idleness> {
    if share.direction == Direction::Send {
        return None;
    }
    match &share.stage {
        Stage::Offered | Stage::Queued | Stage::Opening(_) | Stage::Asking(_) => None,
        Stage::Fetching(fetch) => fetch.from.is_none().then_some(Idleness::Abandoned),
        Stage::Sharing(exchange) => match exchange.phase {
            Phase::Downloading => exchange.stalled.then_some(Idleness::Abandoned),
            Phase::Finishing => None,
            Phase::Complete if exchange.members.values().any(Member::is_taking) => Some(Idleness::Serving),
            Phase::Complete => Some(Idleness::Complete),
        },
    }
}
