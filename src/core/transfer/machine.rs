//! The machine: what comes in, to whom it goes, and when it wants to be woken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::budget::Received;
use super::later::{self, Later};
use super::share::{Share, Stage};
use super::upload::Uploads;
use super::{
    AcceptPolicy, Audience, Config, CutOffReason, DeclineReason, Direction, DiskDone, DiskError, DiskJob,
    DiskOp, FailReason, Input, OpId, Output, Reason, SendToken, TransferCommand, TransferEvent,
};
use crate::core::transfer::rate::Bucket;
use crate::wire::transfer::{Offer, StopReason, TransferMessage};
use crate::wire::{TransferId, UserId};

/// Requests that wait too long, peers that do not answer and busy peers are looked at so often while there are any.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// The most peers that are remembered as cut off.
const CUT_OFF_MAX: usize = 4096;

/// Malformed messages of one peer that are let pass.
const STRIKES_MAX: u32 = 16;

/// All transfers of one node. Driven like every machine of [`crate::core`].
#[derive(Debug)]
pub struct Transfers {
    pub(super) config: Config,
    pub(super) rng: StdRng,
    /// The peers that are ready.
    pub(super) ready: BTreeMap<UserId, Ready>,
    pub(super) cut_off: BTreeSet<UserId>,
    pub(super) shares: BTreeMap<TransferId, Share>,
    /// How frames name the transfers.
    pub(super) by_short: BTreeMap<[u8; 8], TransferId>,
    /// Offers that a person declined, whoever makes them or of one peer; asked about no more.
    pub(super) declined: BTreeSet<(TransferId, Option<UserId>)>,
    /// What was received and is not served any more, the oldest first.
    pub(super) received: VecDeque<Received>,
    /// Offers of the same ids as what gave way, in other words.
    pub(super) unheard: Vec<(UserId, Offer)>,
    /// Whether the disk was asked how much room there is.
    pub(super) is_free_asked: bool,
    /// Whether the one transfer that goes to standard output was accepted, see [`Streams::One`](super::Streams::One).
    pub(super) streamed: bool,
    /// What was too much for a peer.
    pub(super) later: Later,
    pub(super) uploads: Uploads,
    pub(super) down: Bucket,
    /// Whom more may be asked, in which transfer.
    pub(super) hungry: BTreeSet<(TransferId, UserId)>,
    pub(super) out: Outbox,
    pub(super) timers: BTreeMap<Reason, Instant>,
}

/// What is known of a peer that is ready.
#[derive(Debug)]
pub(super) struct Ready {
    /// How often it sent something malformed.
    strikes: u32,
    /// When anything of any transfer last came on its bulk channel.
    pub(super) came_at: Instant,
}

/// What the machine has to say, and the disk operations under way.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Output>,
    pending: BTreeMap<OpId, Pending>,
    next_op: u64,
}

/// A disk operation under way, and what it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pending {
    Scan { token: SendToken, audience: Audience },
    Free,
    Open { transfer: TransferId },
    Read { transfer: TransferId, peer: UserId, piece: u32, len: u64 },
    Write { transfer: TransferId, piece: u32 },
    Emit { transfer: TransferId, piece: u32 },
    Finish { transfer: TransferId },
}

impl Outbox {
    pub(super) fn control(&mut self, peer: &UserId, message: TransferMessage) {
        self.queue.push_back(Output::Control { peer: peer.clone(), message });
    }

    pub(super) fn event(&mut self, event: TransferEvent) {
        self.queue.push_back(Output::Event(event));
    }

    pub(super) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(super) fn disk(&mut self, pending: Pending, job: DiskJob) {
        let id = self.op_id();
        self.pending.insert(id, pending);
        self.queue.push_back(Output::Disk(DiskOp { id, job }));
    }

    fn close(&mut self, transfer: TransferId) {
        // Reads are still counted against their peer when they come back; the rest is nobody's business any more.
        self.pending.retain(|_, pending| match pending {
            Pending::Scan { .. } | Pending::Free | Pending::Read { .. } => true,
            Pending::Open { transfer: of }
            | Pending::Write { transfer: of, .. }
            | Pending::Emit { transfer: of, .. }
            | Pending::Finish { transfer: of } => *of != transfer,
        });
        let id = self.op_id();
        self.queue.push_back(Output::Disk(DiskOp { id, job: DiskJob::Close { transfer } }));
    }

    fn op_id(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }
}

impl Transfers {
    /// A machine with no transfers. The same seed and inputs give the same outputs.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        Self {
            uploads: Uploads::new(config.up_bps),
            down: Bucket::new(config.down_bps),
            config,
            rng: StdRng::from_seed(seed),
            ready: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            shares: BTreeMap::new(),
            by_short: BTreeMap::new(),
            declined: BTreeSet::new(),
            is_free_asked: false,
            streamed: false,
            received: VecDeque::new(),
            unheard: Vec::new(),
            later: Later::default(),
            hungry: BTreeSet::new(),
            out: Outbox::default(),
            timers: BTreeMap::new(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::PeerReady { peer } => self.peer_ready(now, peer),
            Input::PeerGone { peer } => {
                if self.ready.remove(&peer).is_some() {
                    self.forget_peer(now, &peer);
                }
            }
            Input::Control { peer, message } => self.control(now, &peer, message),
            Input::Bulk { peer, frame } => {
                if let Some(ready) = self.ready.get_mut(&peer) {
                    ready.came_at = now;
                    self.frame(now, &peer, frame);
                }
            }
            Input::Writable { peer, bytes } => self.uploads.writable(&peer, bytes),
            Input::BulkLost { peer, revoked_bytes } => {
                self.uploads.revoke(&peer, revoked_bytes);
                self.bulk_lost(now, &peer);
            }
            Input::Disk { op, done } => self.disk(now, op, done),
            Input::Command(command) => self.command(now, command),
        }
        self.work(now);
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.queue.pop_front()
    }

    /// When [`Transfers::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.timers.iter().map(|(reason, at)| (*at, *reason)).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<Reason> =
            self.timers.iter().filter(|(_, at)| **at <= now).map(|(reason, _)| *reason).collect();
        for reason in due {
            self.timers.remove(&reason);
            match reason {
                Reason::Announce => self.announce(now),
                Reason::Progress => self.report(now),
                Reason::Requests => self.tick(now),
                Reason::Offers => self.offer_again(now),
                Reason::Rate => {}
            }
        }
        self.work(now);
    }

    /// What every input may have made possible: more requests, more reads, more frames.
    fn work(&mut self, now: Instant) {
        self.ask(now);
        self.serve(now);
        let opens_at = [self.uploads.opens_at(now), self.requests_open_at(now)];
        match opens_at.into_iter().flatten().min() {
            Some(at) => self.timers.insert(Reason::Rate, at),
            None => self.timers.remove(&Reason::Rate),
        };
    }

    /// Wakes the machine for `reason` at `at`, or earlier if that is set already.
    pub(super) fn wake(&mut self, reason: Reason, at: Instant) {
        let earliest = self.timers.entry(reason).or_insert(at);
        *earliest = (*earliest).min(at);
    }

    fn control(&mut self, now: Instant, peer: &UserId, value: serde_json::Value) {
        let Some(ready) = self.ready.get_mut(peer) else { return };
        let message = match TransferMessage::parse(value) {
            Ok(message) => message,
            Err(_) => {
                ready.strikes += 1;
                if ready.strikes > STRIKES_MAX {
                    self.cut_off(now, None, peer, CutOffReason::Protocol);
                }
                return;
            }
        };
        let makes_room = later::makes_room(&message);
        match message {
            TransferMessage::Offer(offer) => self.offer_came(now, peer, offer),
            TransferMessage::Accept { id } => self.accepted(now, peer, id),
            TransferMessage::Decline { id, reason } => self.declined(now, peer, id, reason),
            TransferMessage::Manifest { id, offset } => self.send_manifest(now, peer, id, offset),
            TransferMessage::Join { id } => self.joined(now, peer, id),
            TransferMessage::Have { id, pieces, bits, complete } => {
                self.has(now, peer, id, pieces, bits, complete)
            }
            TransferMessage::Request { id, pieces } => self.requested(now, peer, id, pieces),
            TransferMessage::Cancel { id, pieces } => self.uploads.cancel(peer, id, &pieces),
            TransferMessage::Busy { id, pieces } => self.busy(now, peer, id, pieces),
            TransferMessage::Done { id, from_origin, from_others } => {
                self.delivered(now, peer, id, from_origin, from_others);
            }
            TransferMessage::Stop { id, reason } => self.stopped(now, peer, id, reason),
            TransferMessage::Unknown => {}
        }
        if makes_room {
            self.offer_next(peer);
        }
    }

    fn command(&mut self, now: Instant, command: TransferCommand) {
        match command {
            TransferCommand::Send { token, paths, options, audience } => {
                self.out.disk(Pending::Scan { token, audience }, DiskJob::Scan { paths, options });
            }
            TransferCommand::Accept { from, offer, scope } => self.accept_command(now, from, &offer, scope),
            TransferCommand::Reject { transfer } => self.reject_command(now, transfer),
            TransferCommand::RejectFrom { transfer, from } => self.reject_from(now, transfer, &from),
            TransferCommand::Pass { transfer, from } => self.pass(now, transfer, &from),
            TransferCommand::Resolve { transfer, conflict } => self.resolve(transfer, conflict),
            TransferCommand::SetAccept(policy) => self.set_accept(now, policy),
            TransferCommand::SetRates { up_bps, down_bps } => {
                self.uploads.limit(up_bps);
                self.down = Bucket::new(down_bps);
            }
        }
    }

    fn set_accept(&mut self, now: Instant, policy: AcceptPolicy) {
        self.config.accept = policy;
        let waiting: Vec<TransferId> = self
            .shares
            .iter()
            .filter(|(_, share)| matches!(share.stage, Stage::Offered))
            .map(|(id, _)| *id)
            .collect();
        waiting.into_iter().for_each(|id| self.judge(now, id));
    }

    fn disk(&mut self, now: Instant, op: OpId, done: DiskDone) {
        if let DiskDone::Scanning { bytes, total } = done {
            if let Some(Pending::Scan { token, .. }) = self.out.pending.get(&op) {
                let token = *token;
                self.out.event(TransferEvent::Preparing { token, bytes, total });
            }
            return;
        }
        let Some(pending) = self.out.pending.remove(&op) else { return };
        match pending {
            Pending::Scan { token, audience } => self.scanned(now, token, audience, done),
            Pending::Free => self.free_known(done),
            Pending::Open { transfer } => self.opened(now, transfer, done),
            Pending::Read { transfer, peer, piece, len } => self.piece_read(transfer, peer, piece, len, done),
            Pending::Write { transfer, piece } => self.piece_written(now, transfer, piece, done),
            Pending::Emit { transfer, piece } => self.piece_emitted(now, transfer, piece, done),
            Pending::Finish { transfer } => self.finished(now, transfer, done),
        }
    }

    fn peer_ready(&mut self, now: Instant, peer: UserId) {
        let ready = Ready { strikes: 0, came_at: now };
        if self.cut_off.contains(&peer) || self.ready.insert(peer.clone(), ready).is_some() {
            return;
        }
        self.uploads.add_peer(now, &peer);
        self.greet(now, &peer);
    }

    /// Everything that a peer was part of goes on without it.
    fn forget_peer(&mut self, now: Instant, peer: &UserId) {
        self.uploads.remove_peer(peer);
        self.later.forget(peer);
        self.hungry.retain(|(_, hungry)| hungry != peer);
        let ids: Vec<TransferId> = self.shares.keys().copied().collect();
        for id in ids {
            self.leave(now, peer, id, None);
        }
    }

    /// Nothing is asked of this peer or given to it from now on.
    pub(super) fn cut_off(
        &mut self,
        now: Instant,
        transfer: Option<TransferId>,
        peer: &UserId,
        reason: CutOffReason,
    ) {
        if !self.cut_off.insert(peer.clone()) {
            return;
        }
        if self.cut_off.len() > CUT_OFF_MAX {
            let any = self.cut_off.iter().find(|other| *other != peer).cloned();
            any.map(|any| self.cut_off.remove(&any));
        }
        self.out.event(TransferEvent::PeerCutOff { transfer, peer: peer.clone(), reason });
        if self.ready.remove(peer).is_some() {
            self.forget_peer(now, peer);
        }
    }

    /// Ends a transfer that is not complete. Part files stay.
    pub(super) fn fail(&mut self, transfer: TransferId, reason: FailReason) {
        if let Some(direction) = self.end(transfer, &reason) {
            self.out.event(TransferEvent::Failed { transfer, direction, reason });
        }
    }

    /// Takes part in a transfer no more: tells everyone who does, and forgets it.
    pub(super) fn end(&mut self, transfer: TransferId, reason: &FailReason) -> Option<Direction> {
        let mut share = self.shares.remove(&transfer)?;
        if share.direction == Direction::Receive && !share.has_written() {
            self.streamed = false;
        }
        let word = match &share.stage {
            // It was never asked for.
            Stage::Queued => TransferMessage::Decline { id: transfer, reason: DeclineReason::NotWanted },
            Stage::Offered
            | Stage::Fetching(_)
            | Stage::Opening(_)
            | Stage::Asking(_)
            | Stage::Sharing(_) => TransferMessage::Stop { id: transfer, reason: stop_word(reason) },
        };
        let mut told: BTreeSet<UserId> = share.holders.clone();
        told.extend(share.answers.keys().cloned());
        if let Some(exchange) = share.exchange() {
            told.extend(exchange.members.keys().cloned());
        }
        for peer in told.iter().filter(|peer| self.ready.contains_key(*peer)) {
            self.out.control(peer, word.clone());
        }
        self.drop_share(transfer);
        Some(share.direction)
    }

    /// Takes back what a removed transfer left here and on the disk.
    pub(super) fn drop_share(&mut self, transfer: TransferId) {
        self.unqueue(transfer);
        self.out.close(transfer);
    }

    /// Takes back what a removed transfer left in the queues.
    pub(super) fn unqueue(&mut self, transfer: TransferId) {
        self.by_short.remove(&transfer.short());
        self.uploads.drop_transfer(transfer);
        self.hungry.retain(|(id, _)| *id != transfer);
    }

    /// Whether a transfer's origin is us or a peer that is ready.
    pub(super) fn origin_is_here(&self, share: &Share) -> bool {
        share.direction == Direction::Send || self.ready.contains_key(&share.info.origin)
    }
}

/// How a failure is told to the others.
fn stop_word(reason: &FailReason) -> StopReason {
    match reason {
        FailReason::Stopped => StopReason::Stopped,
        FailReason::SourceChanged => StopReason::SourceChanged,
        FailReason::Disk(DiskError::Full { .. }) => StopReason::DiskFull,
        FailReason::Disk(_) => StopReason::Disk,
        FailReason::Manifest(_) => StopReason::Manifest,
        FailReason::NoManifest | FailReason::Abandoned => StopReason::GaveUp,
        FailReason::NoRoom => StopReason::NoRoom,
    }
}
