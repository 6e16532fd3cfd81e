//! How much is received at once. What was accepted beyond that waits for its turn, and what is over gives way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::exchange::{Member, Phase};
use super::machine::{TICK, Transfers};
use super::manifest::{MANIFEST_CHUNK_BYTES, manifest_patience};
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

/// One manifest of each peer that is no longer than this has a place besides: nobody takes all room.
const RESERVED_BYTES: u32 = MANIFEST_CHUNK_BYTES as u32;

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
    /// Who uses the place besides.
    reserved: BTreeSet<UserId>,
}

impl Load {
    fn of<'a>(shares: impl Iterator<Item = &'a Share>) -> Self {
        let mut load = Self::default();
        for share in shares.filter(|share| is_under_way(share)) {
            load.add(share);
        }
        load
    }

    /// Says whether it has the place besides.
    fn add(&mut self, share: &Share) -> bool {
        self.transfers += 1;
        let (transfers, bytes) = self.of_peers.entry(share.payer.clone()).or_default();
        *transfers += 1;
        *bytes += u64::from(share.manifest_len);
        is_short(share) && self.reserved.insert(share.payer.clone())
    }

    fn transfers_of(&self, peer: &UserId) -> usize {
        self.of_peers.get(peer).map_or(0, |(transfers, _)| *transfers)
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
    /// Begins what was accepted and waits, as far as there is room: first what those offer who have least under way, and of
    /// that the oldest.
    pub(super) fn start_queued(&mut self, now: Instant) {
        let is_queued = |share: &&Share| matches!(share.stage, Stage::Queued);
        if !self.shares.values().any(|share| is_queued(&share)) {
            return;
        }
        self.wake(Reason::Requests, now + TICK);
        self.forget_surplus(now);
        let is_taken = self.config.target == Target::Stdout && self.stream_is_taken(now);
        let mut load = Load::of(self.shares.values());
        let queued = self.shares.values().filter(is_queued);
        let mut queued: Vec<(usize, Instant, TransferId)> =
            queued.map(|share| (load.transfers_of(&share.payer), share.since, share.info.transfer)).collect();
        queued.sort_unstable();
        if self.config.target == Target::Stdout {
            queued.truncate(usize::from(!is_taken));
        }
        let mut is_full = false;
        for (_, _, id) in queued {
            let share = self.shares.get_mut(&id).expect("what waits does not give way");
            let Some(payer) = load.payer(share) else { continue };
            self.go_over(now, id, &payer);
            let share = self.shares.get_mut(&id).expect("it only changes its words");
            let is_reserved = is_short(share) && !load.reserved.contains(&payer);
            let first_bytes = share.manifest_len.min(MANIFEST_CHUNK_BYTES as u32);
            // Whoever waits for room is not overtaken by who needs less.
            if !is_reserved && (is_full || !self.make_room(now, first_bytes.into())) {
                is_full = true;
                continue;
            }
            let share = self.shares.get_mut(&id).expect("what waits does not give way");
            share.payer = payer;
            load.add(share);
            // The origin counts who accepted; ask it if it is among those who offer.
            let first = share.holders.get(&share.info.origin).unwrap_or(&share.payer).clone();
            self.fetch_from(now, id, first);
        }
    }

    /// Whether standard output belongs to a transfer that is not complete. One of which nobody here has the rest gives way.
    fn stream_is_taken(&mut self, now: Instant) -> bool {
        let is_at_it = |share: &&Share| is_under_way(share) || idleness(share) == Some(Idleness::Abandoned);
        let Some(share) = self.shares.values().find(is_at_it) else { return false };
        let (id, is_over) = (share.info.transfer, idleness(share).is_some());
        if is_over {
            self.give_way(now, id);
        }
        !is_over
    }

    /// Whether so much of a manifest may come besides what is here and on its way, when what gives way for it has. Nothing does
    /// if that is not enough.
    pub(super) fn make_room(&mut self, now: Instant, bytes: u64) -> bool {
        let mut load = Load::default();
        let is_charged = |share: &&Share| !is_under_way(share) || !load.add(share);
        let held_bytes: u64 = self.shares.values().filter(is_charged).map(Share::manifest_cost).sum();
        let excess = (held_bytes + bytes).saturating_sub(MANIFESTS_MAX_BYTES);
        if excess == 0 {
            return true;
        }
        let (idle, late) = (self.candidates(idleness), self.candidates(|share| lateness(now, share)));
        let both = [&late[..], &idle[..]].concat();
        let Some(giving_way) = [idle, late, both].iter().find_map(|candidates| enough(candidates, excess))
        else {
            return false;
        };
        giving_way.into_iter().for_each(|id| self.give_way(now, id));
        true
    }

    /// Of what is idle only so much is kept.
    pub(super) fn forget_surplus(&mut self, now: Instant) {
        let idle = self.candidates(idleness);
        let surplus = idle.len().saturating_sub(IDLE_MAX);
        idle[..surplus].iter().for_each(|(_, id, _)| self.give_way(now, *id));
    }

    /// What may give way, in this order, and how much room that makes.
    fn candidates<K: Ord>(&self, key: impl Fn(&Share) -> Option<K>) -> Vec<Candidate> {
        let shares = self.shares.values();
        let keyed = shares.filter_map(|share| Some((key(share)?, share.since, share.info.transfer, share)));
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_by(|one, other| (&one.0, one.1, one.2).cmp(&(&other.0, other.1, other.2)));
        keyed.into_iter().map(|(_, since, id, share)| (since, id, share.manifest_cost())).collect()
    }

    /// A transfer in which nothing moves, or next to nothing, is forgotten.
    fn give_way(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if lateness(now, share).is_some() {
            let (payer, rivals) = (share.payer.clone(), std::mem::take(&mut share.rivals));
            self.unheard.extend(rivals);
            self.wake(Reason::Requests, now + TICK);
            self.fail(id, FailReason::NoRoom);
            return self.postpone(now, &payer);
        }
        let Some(exchange) = share.exchange().filter(|exchange| exchange.phase == Phase::Complete) else {
            return self.fail(id, FailReason::Abandoned);
        };
        let (from_origin, from_others) = (exchange.from_origin_bytes, exchange.from_others_bytes);
        self.end(id, &FailReason::Stopped);
        if self.received.len() == RECEIVED_MAX {
            self.received.pop_front();
        }
        self.received.push_back(Received { id, from_origin, from_others });
    }

    /// Others who wait come before what else this peer offers.
    fn postpone(&mut self, now: Instant, payer: &UserId) {
        let is_theirs = |share: &&mut Share| matches!(share.stage, Stage::Queued) && share.payer == *payer;
        self.shares.values_mut().filter(is_theirs).for_each(|share| share.since = now);
    }
}

/// Since when it is there, which it is, and how much room it leaves.
type Candidate = (Instant, TransferId, u64);

/// The first of them that together leave so much room.
fn enough(candidates: &[Candidate], bytes: u64) -> Option<Vec<TransferId>> {
    let mut left_bytes = 0;
    let last = candidates.iter().position(|(_, _, cost)| {
        left_bytes += cost;
        left_bytes >= bytes
    })?;
    Some(candidates[..=last].iter().map(|(_, id, _)| *id).collect())
}

/// Whether its manifest is one of those of which each peer has a place for one.
fn is_short(share: &Share) -> bool {
    share.manifest_len <= RESERVED_BYTES
}

/// Since when a manifest should be here, if it takes the room of others.
fn lateness(now: Instant, share: &Share) -> Option<Instant> {
    let Stage::Fetching(fetch) = &share.stage else { return None };
    let due_at = fetch.asked_at + manifest_patience(share.manifest_len);
    (!is_short(share) && fetch.from.is_some() && due_at <= now).then_some(due_at)
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
