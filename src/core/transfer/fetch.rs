//! Asking the others, taking what comes, and the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngExt;
use rand::seq::SliceRandom;

use super::download::Arrived;
use super::exchange::{Exchange, Phase};
use super::machine::{Pending, Ready, TICK, Transfers};
use super::membership::unexpected;
use super::share::{Answer, Share, Stage};
use super::{CutOffReason, Direction, DiskDone, DiskJob, FailReason, Reason, TransferEvent, Written};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::transfer::{Bits, PIECES_PER_MESSAGE, TransferMessage};
use crate::wire::{TransferId, UserId};

/// What is asked for and at the disk, over all transfers: the most that received pieces take in memory, but for one piece of
/// each peer.
const IN_FLIGHT_BYTES: u64 = 32 * 1024 * 1024;

/// A peer that answers nothing for so long has its requests taken back, and twice as long after each such silence until a piece
/// comes: on a slow path an answer comes behind much else.
const SILENCE: Duration = Duration::from_secs(10);
const SILENCE_DOUBLES: u32 = 3;

/// After so many silences, if nothing else came on its bulk channel for so long either, it is asked for one piece after so long
/// again, until it answers: its user may have stopped the terminal.
const SILENCES_MAX: u32 = 3;
const NOTHING_CAME: Duration = Duration::from_secs(120);

/// A peer that said that it is busy is asked again after this and up to as much again.
const BUSY_FOR: Duration = Duration::from_millis(250);

impl Transfers {
    /// A peer says what it has.
    pub(super) fn has(
        &mut self,
        now: Instant,
        peer: &UserId,
        id: TransferId,
        pieces: Vec<u32>,
        bits: Option<Bits>,
        complete: bool,
    ) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) && !share.holders.contains(peer) {
            return;
        }
        let Some(exchange) = share.exchange() else { return };
        if !exchange.admit(now, peer) {
            return self.cut_off(now, Some(id), peer, CutOffReason::EndlessRequests);
        }
        let member = exchange.member(now, peer);
        if member.rests {
            // It is there, and may be asked at once.
            member.retry_at = None;
        }
        member.joined = true;
        let mut is_news = complete && !member.complete;
        member.complete |= complete;
        let mut said = pieces;
        if let Some(bits) = bits {
            let Some(set) = bits.unpack() else {
                return self.cut_off(now, Some(id), peer, CutOffReason::Protocol);
            };
            let ones = set.iter().enumerate().flat_map(|(at, byte)| {
                (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at as u32 * 8 + bit)
            });
            said.extend(ones.filter_map(|bit| bits.first.checked_add(bit)));
        }
        if said.iter().any(|piece| *piece >= exchange.manifest.piece_count()) {
            return self.cut_off(now, Some(id), peer, CutOffReason::Protocol);
        }
        for piece in &said {
            is_news |= exchange.note_has(now, peer, *piece);
        }
        let agreed = exchange.agree(now, peer, &said);
        for pieces in agreed.chunks(PIECES_PER_MESSAGE) {
            self.out.control(
                peer,
                TransferMessage::Have { id, pieces: pieces.to_vec(), bits: None, complete: false },
            );
        }
        if exchange.phase == Phase::Downloading {
            self.hungry.insert((id, peer.clone()));
        }
        if is_news {
            self.show_all_more(now, id);
        }
        self.show_more(now, id, peer);
    }

    /// Asks peers for pieces, in turns, as far as windows, memory and the rate limit allow.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.hungry.is_empty() {
            return;
        }
        let exchanges = self.shares.values_mut().filter_map(Share::exchange);
        let (mut in_flight, writing) = exchanges.fold((0, 0), |(in_flight, writing), exchange| {
            (in_flight + exchange.in_flight_bytes(), writing + exchange.writing_bytes)
        });
        if writing >= IN_FLIGHT_BYTES || !self.down.is_open(now) {
            return;
        }
        // Peers that were asked and send nothing must not keep the others from being asked for one piece each.
        let mut owing = owing(&self.shares);
        let is_full = |in_flight| in_flight >= IN_FLIGHT_BYTES;
        let may_be_asked = |(_, peer): &&(TransferId, UserId)| !is_full(in_flight) || !owing.contains(peer);
        let mut turns: Vec<(TransferId, UserId)> = self.hungry.iter().filter(may_be_asked).cloned().collect();
        turns.shuffle(&mut self.rng);
        let mut requests: BTreeMap<(TransferId, UserId), Vec<u32>> = BTreeMap::new();
        while !turns.is_empty() {
            turns.retain(|(id, peer)| {
                if !self.down.is_open(now) || is_full(in_flight) && owing.contains(peer) {
                    return false;
                }
                let exchange = self.shares.get_mut(id).and_then(Share::exchange);
                let exchange = exchange.filter(|exchange| exchange.phase == Phase::Downloading);
                let Some(exchange) = exchange else {
                    self.hungry.remove(&(*id, peer.clone()));
                    return false;
                };
                let Some(piece) = exchange.ask(now, peer, &mut self.rng) else {
                    if exchange.nudge(now, peer) {
                        // A request for nothing in particular: show more.
                        requests.entry((*id, peer.clone())).or_default();
                    }
                    self.hungry.remove(&(*id, peer.clone()));
                    return false;
                };
                let cost = exchange.cost(piece);
                in_flight += cost;
                owing.insert(peer.clone());
                self.down.take(cost);
                requests.entry((*id, peer.clone())).or_default().push(piece);
                true
            });
        }
        self.send_requests(now, requests);
    }

    fn send_requests(&mut self, now: Instant, requests: BTreeMap<(TransferId, UserId), Vec<u32>>) {
        for ((id, peer), pieces) in requests {
            self.wake(Reason::Requests, now + TICK);
            if pieces.is_empty() {
                self.out.control(&peer, TransferMessage::Request { id, pieces });
                continue;
            }
            for pieces in pieces.chunks(PIECES_PER_MESSAGE) {
                self.out.control(&peer, TransferMessage::Request { id, pieces: pieces.to_vec() });
            }
        }
    }

    /// When the rate limit lets the next request pass, if it is what holds one back.
    pub(super) fn requests_open_at(&mut self, now: Instant) -> Option<Instant> {
        if self.hungry.is_empty() { None } else { self.down.opens_at(now) }
    }

    /// Everybody may have something for us again.
    pub(super) fn feed_all(&mut self, id: TransferId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        if exchange.phase == Phase::Downloading {
            let members = exchange.members.keys().map(|peer| (id, peer.clone()));
            self.hungry.extend(members);
        }
    }

    /// A frame of the bulk channel.
    pub(super) fn frame(&mut self, now: Instant, peer: &UserId, frame: Bytes) {
        let Ok(frame) = Frame::parse(frame) else {
            return self.cut_off(now, None, peer, CutOffReason::Protocol);
        };
        // What is not known may be on its way from before the transfer ended here.
        let Some(id) = self.by_short.get(&frame.short).copied() else { return };
        match frame.kind {
            FrameKind::Manifest => self.manifest_part(now, peer, id, frame.offset, frame.content),
            FrameKind::Piece { piece } => self.piece_part(now, peer, id, piece, frame.offset, frame.content),
        }
    }

    fn piece_part(
        &mut self,
        now: Instant,
        peer: &UserId,
        id: TransferId,
        piece: u32,
        offset: u32,
        content: Bytes,
    ) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        match exchange.take_part(now, peer, piece, offset, content) {
            Err(reason) => self.cut_off(now, Some(id), peer, reason),
            Ok(None) => {}
            Ok(Some(Arrived { piece, parts })) => {
                self.out.disk(
                    Pending::Write { transfer: id, piece },
                    DiskJob::Write { transfer: id, piece, parts },
                );
                self.hungry.insert((id, peer.clone()));
            }
        }
    }

    /// The disk has judged and written a piece.
    pub(super) fn piece_written(&mut self, now: Instant, id: TransferId, piece: u32, done: DiskDone) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let origin = share.info.origin.clone();
        let Some(exchange) = share.exchange() else { return };
        let DiskDone::Written(written) = done else {
            return self.fail(id, FailReason::from(unexpected(done)));
        };
        match written {
            Written::Verified => {
                let from_origin = exchange.writing.get(&piece) == Some(&origin);
                for peer in exchange.written(now, piece, from_origin) {
                    self.out.control(&peer, TransferMessage::Cancel { id, pieces: vec![piece] });
                    self.hungry.insert((id, peer));
                }
                self.announce_soon(now, id);
                self.wake(Reason::Progress, now);
                self.advance(now, id);
            }
            Written::WrongHash => {
                if let Some(from) = exchange.wrong(piece) {
                    self.cut_off(now, Some(id), &from, CutOffReason::WrongBytes);
                }
                self.feed_all(id);
            }
        }
    }

    pub(super) fn piece_emitted(&mut self, now: Instant, id: TransferId, piece: u32, done: DiskDone) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        if done != DiskDone::Emitted {
            return self.fail(id, FailReason::from(unexpected(done)));
        }
        if let Some(emit) = &mut exchange.emit {
            emit.busy = false;
            emit.next = piece + 1;
        }
        self.advance(now, id);
    }

    /// Writes to standard output what can be, and finishes when nothing is left.
    pub(super) fn advance(&mut self, _now: Instant, id: TransferId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        if exchange.phase != Phase::Downloading {
            return;
        }
        if let Some(emit) = &mut exchange.emit
            && !emit.busy
            && exchange.have.contains(emit.next)
        {
            emit.busy = true;
            let piece = emit.next;
            self.out.disk(Pending::Emit { transfer: id, piece }, DiskJob::Emit { transfer: id, piece });
            return;
        }
        let is_emitted =
            exchange.emit.is_none_or(|emit| !emit.busy && emit.next == exchange.manifest.piece_count());
        if exchange.left == 0 && is_emitted {
            exchange.phase = Phase::Finishing;
            self.hungry.retain(|(hungry, _)| *hungry != id);
            self.out.disk(Pending::Finish { transfer: id }, DiskJob::Finish { transfer: id });
        }
    }

    /// Everything is in place.
    pub(super) fn finished(&mut self, now: Instant, id: TransferId, done: DiskDone) {
        let DiskDone::Finished(summary) = done else {
            return self.fail(id, FailReason::from(unexpected(done)));
        };
        self.announce(now);
        let Some(share) = self.shares.get_mut(&id) else { return };
        let (offer, since, reported) = (share.info.clone(), share.since, &mut share.reported);
        *reported = None;
        let Some(exchange) = share.exchange() else { return };
        exchange.phase = Phase::Complete;
        let (from_origin, from_others) = (exchange.from_origin_bytes, exchange.from_others_bytes);
        for peer in exchange.members.keys() {
            self.out.control(peer, TransferMessage::Done { id, from_origin, from_others });
        }
        let manifest = exchange.manifest.clone();
        let skipped = exchange.skipped_files;
        self.report_one(now, id);
        self.out.event(TransferEvent::Done {
            transfer: id,
            offer,
            path: summary.path,
            blake3: (manifest.entries().len() == 1 && manifest.file_count() == 1)
                .then(|| manifest.file_hash(0)),
            elapsed: now.saturating_duration_since(since),
            from_origin_bytes: from_origin,
            from_others_bytes: from_others,
            skipped,
        });
        self.forget_surplus(now);
    }

    /// A peer has everything in place.
    pub(super) fn delivered(
        &mut self,
        now: Instant,
        peer: &UserId,
        id: TransferId,
        from_origin_bytes: u64,
        from_others_bytes: u64,
    ) {
        let Some(share) = self.shares.get_mut(&id).filter(|share| share.admits(peer)) else { return };
        let direction = share.direction;
        if let Some(exchange) = share.exchange() {
            if !exchange.admit(now, peer) {
                return self.cut_off(now, Some(id), peer, CutOffReason::EndlessRequests);
            }
            exchange.member(now, peer).done = true;
        }
        let before = share.answers.insert(peer.clone(), Answer::Delivered);
        self.uploads.cancel_all(peer, id);
        if direction == Direction::Send && before != Some(Answer::Delivered) {
            self.report_one(now, id);
            self.out.event(TransferEvent::Delivered {
                transfer: id,
                peer: peer.clone(),
                from_origin_bytes,
                from_others_bytes,
            });
        }
    }

    /// A peer will not serve what we asked for, now.
    pub(super) fn busy(&mut self, now: Instant, peer: &UserId, id: TransferId, pieces: Vec<u32>) {
        let jitter = BUSY_FOR.mul_f64(self.rng.random_range(1.0..2.0));
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        let asked: Vec<u32> = match exchange.members.get(peer) {
            Some(member) => pieces.into_iter().filter(|piece| member.asked.contains_key(piece)).collect(),
            None => return,
        };
        if asked.is_empty() {
            return;
        }
        asked.iter().for_each(|piece| exchange.unask(peer, *piece));
        exchange.wake(peer);
        let cost: u64 = asked.iter().map(|piece| exchange.cost(*piece)).sum();
        let member = exchange.members.get_mut(peer).expect("it was there above");
        member.heard_at = now;
        member.retry_at = Some(now + jitter);
        member.window_bytes = member.window_bytes.saturating_sub(cost).max(1);
        self.feed_all(id);
        self.wake(Reason::Requests, now + TICK);
    }

    /// Looks at what waits: requests to us and of ours, busy and silent peers.
    pub(super) fn tick(&mut self, now: Instant) {
        for ((peer, id), pieces) in self.uploads.expire(now) {
            for pieces in pieces.chunks(PIECES_PER_MESSAGE) {
                self.out.control(&peer, TransferMessage::Busy { id, pieces: pieces.to_vec() });
            }
        }
        let ids: Vec<TransferId> = self.shares.keys().copied().collect();
        let mut is_waiting = self.uploads.expires_at().is_some();
        for id in ids {
            is_waiting |= self.tick_share(now, id);
        }
        if is_waiting {
            self.wake(Reason::Requests, now + TICK);
        }
        for (peer, offer) in std::mem::take(&mut self.unheard) {
            self.hear_rivals(now, BTreeMap::from([(peer, offer)]));
        }
        self.start_queued(now);
    }

    fn tick_share(&mut self, now: Instant, id: TransferId) -> bool {
        let Some(share) = self.shares.get_mut(&id) else { return false };
        match &mut share.stage {
            Stage::Fetching(_) => {
                self.fetch_again(now, id);
                false
            }
            Stage::Sharing(exchange) if exchange.phase == Phase::Downloading => {
                let silent = silent_members(now, exchange);
                let is_waiting = !exchange.stalled || exchange.members.values().any(|member| member.joined);
                if !exchange.stalled && exchange.is_dead_for_long(now) {
                    self.stall(id);
                }
                silent.into_iter().for_each(|peer| self.silent(now, id, &peer));
                self.feed_all(id);
                is_waiting
            }
            Stage::Offered | Stage::Queued | Stage::Opening(_) | Stage::Asking(_) | Stage::Sharing(_) => {
                false
            }
        }
    }

    /// Takes the requests to a silent peer back; one that never answers rests.
    fn silent(&mut self, now: Instant, id: TransferId, peer: &UserId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        let Some(member) = exchange.members.get_mut(peer) else { return };
        member.silences += 1;
        member.heard_at = now;
        member.retry_at = Some(now + SILENCE / 4);
        let is_silent = |ready: &Ready| now.saturating_duration_since(ready.came_at) >= NOTHING_CAME;
        let is_hopeless = member.silences >= SILENCES_MAX && self.ready.get(peer).is_none_or(is_silent);
        self.take_back(id, peer);
        if is_hopeless {
            self.rest(now, id, peer);
        }
    }

    fn rest(&mut self, now: Instant, id: TransferId, peer: &UserId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        let Some(member) = exchange.members.get_mut(peer) else { return };
        (member.retry_at, member.window_bytes) = (Some(now + NOTHING_CAME), 1);
        if !std::mem::replace(&mut member.rests, true) {
            self.out.event(TransferEvent::Silent { transfer: id, peer: peer.clone() });
        }
    }

    /// What a peer was asked for may not come, although it is there: it is asked again.
    pub(super) fn bulk_lost(&mut self, now: Instant, peer: &UserId) {
        let ids: Vec<TransferId> = self.shares.keys().copied().collect();
        for id in ids {
            if self.take_back(id, peer) {
                self.hungry.insert((id, peer.clone()));
                self.wake(Reason::Requests, now + TICK);
            }
        }
    }

    /// Takes all requests to a peer back. `false`: there were none.
    fn take_back(&mut self, id: TransferId, peer: &UserId) -> bool {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return false };
        let pieces = exchange.take_back(peer);
        for pieces in pieces.chunks(PIECES_PER_MESSAGE) {
            self.out.control(peer, TransferMessage::Cancel { id, pieces: pieces.to_vec() });
        }
        !pieces.is_empty()
    }

    /// Says at once that nobody here has what is missing, if nobody says otherwise.
    pub(super) fn check_stalled(&mut self, id: TransferId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        let is_moving = exchange.phase != Phase::Downloading || exchange.stalled;
        if !is_moving && !exchange.is_said() && exchange.is_dead() {
            self.stall(id);
        }
    }

    /// Nobody here has what is missing. Says so once, and again when there was more in between.
    fn stall(&mut self, id: TransferId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        exchange.stalled = true;
        // Whoever shows a piece and takes it back changes nothing: it is told, and counted, when something came since.
        if exchange.stalled_with_bytes.replace(exchange.have_bytes) == Some(exchange.have_bytes) {
            return;
        }
        let missing_bytes = exchange.unobtainable_bytes();
        self.out.event(TransferEvent::Stalled { transfer: id, missing_bytes });
    }
}

/// Who owes us a piece that we asked for, in whichever transfer. Looked through once for all who may be asked: after every
/// input there may be as many of those as there are transfers.
fn owing(shares: &BTreeMap<TransferId, Share>) -> BTreeSet<UserId> {
    let exchanges = shares.values().filter_map(|share| match &share.stage {
        Stage::Sharing(exchange) if !exchange.fetching.is_empty() => Some(exchange),
        Stage::Sharing(_)
        | Stage::Offered
        | Stage::Queued
        | Stage::Fetching(_)
        | Stage::Opening(_)
        | Stage::Asking(_) => None,
    });
    let members = exchanges.flat_map(|exchange| &exchange.members);
    members.filter(|(_, member)| !member.asked.is_empty()).map(|(peer, _)| peer.clone()).collect()
}

fn silent_members(now: Instant, exchange: &Exchange) -> Vec<UserId> {
    let is_silent = |member: &super::exchange::Member| {
        let patience = SILENCE * 2_u32.pow(member.silences.min(SILENCE_DOUBLES));
        !member.asked.is_empty() && now.saturating_duration_since(member.heard_at) >= patience
    };
    exchange.members.iter().filter(|(_, member)| is_silent(member)).map(|(peer, _)| peer.clone()).collect()
}
