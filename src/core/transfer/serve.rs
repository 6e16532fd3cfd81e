//! Showing what we have, and giving it to those who ask.

use std::time::{Duration, Instant};

use super::exchange::{JOIN_BYTES, Member, Phase};
use super::machine::{Pending, TICK, Transfers};
use super::membership::unexpected;
use super::share::{Share, Stage};
use super::{CutOffReason, Direction, DiskDone, DiskError, DiskJob, FailReason, Output, Reason};
use crate::wire::transfer::{Bits, PIECES_PER_BITS, PIECES_PER_MESSAGE, TransferMessage};
use crate::wire::{TransferId, UserId};

/// Verified pieces are announced at most so often, and less often the more take part.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(40);

impl Transfers {
    /// A peer takes part from now on.
    pub(super) fn joined(&mut self, now: Instant, peer: &UserId, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) {
            return;
        }
        let Some(exchange) = share.exchange() else { return };
        // Once: the answer is longer than the question.
        if std::mem::replace(&mut exchange.member(now, peer).joined, true) {
            return;
        }
        self.tell_all(now, id, peer);
        self.wake(Reason::Progress, now);
    }

    /// Tells a peer what we have: a first few pieces, or everything if it only counts.
    pub(super) fn tell_all(&mut self, now: Instant, id: TransferId, peer: &UserId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        if !exchange.allow(peer, JOIN_BYTES) {
            return self.cut_off(now, Some(id), peer, CutOffReason::EndlessRequests);
        }
        let complete = exchange.have.is_all();
        if !exchange.members.get(peer).is_some_and(|member| member.complete) {
            let pieces = exchange.reveal(now, peer);
            return self.out.control(peer, TransferMessage::Have { id, pieces, bits: None, complete });
        }
        let have: Vec<u32> = exchange.have.iter().collect();
        have.iter().for_each(|piece| exchange.show(now, peer, *piece));
        let stretches = exchange.manifest.piece_count().div_ceil(PIECES_PER_BITS).max(1);
        let words = (PIECES_PER_BITS / 64) as usize;
        for stretch in 0..stretches as usize {
            let set = (stretch * words..((stretch + 1) * words).min(exchange.have.word_count()))
                .map(|word| exchange.have.word(word));
            let bits = Some(Bits::pack(stretch as u32 * PIECES_PER_BITS, set));
            self.out.control(peer, TransferMessage::Have { id, pieces: Vec::new(), bits, complete });
        }
    }

    /// Announces what was verified since the last time to everyone who takes part.
    pub(super) fn announce(&mut self, now: Instant) {
        for (id, share) in &mut self.shares {
            let Some(exchange) = share.exchange().filter(|exchange| !exchange.unannounced.is_empty()) else {
                continue;
            };
            exchange.announced_at = Some(now);
            let verified = std::mem::take(&mut exchange.unannounced);
            let members: Vec<UserId> = exchange.members.keys().cloned().collect();
            for peer in &members {
                let mut said = exchange.agree(now, peer, &verified);
                said.extend(exchange.reveal(now, peer));
                for pieces in said.chunks(PIECES_PER_MESSAGE) {
                    let have = TransferMessage::Have {
                        id: *id,
                        pieces: pieces.to_vec(),
                        bits: None,
                        complete: false,
                    };
                    self.out.control(peer, have);
                }
            }
        }
    }

    /// When pieces verified now are to be announced.
    pub(super) fn announce_soon(&mut self, now: Instant, id: TransferId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        let every = ANNOUNCE_EVERY + ANNOUNCE_EVERY * exchange.members.len() as u32 / 16;
        let at = exchange.announced_at.map_or(now, |at| (at + every).max(now));
        self.wake(Reason::Announce, at);
    }

    /// A peer asks for pieces.
    pub(super) fn requested(&mut self, now: Instant, peer: &UserId, id: TransferId, pieces: Vec<u32>) {
        // Whoever offers us something may show it to us, but is not given what is not meant for it.
        let share = self.shares.get_mut(&id).filter(|share| share.admits(peer));
        let Some(exchange) = share.and_then(Share::exchange) else { return };
        if !exchange.members.contains_key(peer) {
            return;
        }
        if pieces.is_empty() && !exchange.forget_shown(now, peer) {
            return;
        }
        let mut refused = Vec::new();
        for piece in pieces {
            if piece >= exchange.manifest.piece_count() {
                return self.cut_off(now, Some(id), peer, CutOffReason::Protocol);
            }
            let len = exchange.len(piece);
            exchange.note_asked(now, peer, piece);
            if !exchange.have.contains(piece) || !self.uploads.want(now, peer, id, piece, len) {
                refused.push(piece);
            }
        }
        self.show_more(now, id, peer);
        if !refused.is_empty() {
            self.out.control(peer, TransferMessage::Busy { id, pieces: refused });
        }
        self.wake(Reason::Requests, now + TICK);
    }

    /// Somebody got something: whoever was behind may not be any more.
    pub(super) fn show_all_more(&mut self, now: Instant, id: TransferId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        let is_waiting =
            |member: &Member| member.is_taking() && member.open_bytes == 0 && !member.shown.is_all();
        let waiting: Vec<UserId> = exchange
            .members
            .iter()
            .filter(|(_, member)| is_waiting(member))
            .map(|(peer, _)| peer.clone())
            .collect();
        waiting.iter().for_each(|peer| self.show_more(now, id, peer));
    }

    /// Shows a peer more of what we have, if it has used up enough of what it was shown.
    pub(super) fn show_more(&mut self, now: Instant, id: TransferId, peer: &UserId) {
        let Some(exchange) = self.shares.get_mut(&id).and_then(Share::exchange) else { return };
        let is_low =
            exchange.members.get(peer).is_some_and(|member| member.open_bytes * 2 < member.lookahead_bytes);
        if !is_low {
            return;
        }
        let pieces = exchange.reveal(now, peer);
        if !pieces.is_empty() {
            self.out.control(peer, TransferMessage::Have { id, pieces, bits: None, complete: false });
        }
    }

    /// Reads and sends as much as slots, memory, channels and the rate limit allow.
    pub(super) fn serve(&mut self, now: Instant) {
        loop {
            let shares = &self.shares;
            let copies = |id: &TransferId, piece| match shares.get(id).map(|share| &share.stage) {
                // What is on its way to somebody is as good as there.
                Some(Stage::Sharing(exchange)) => {
                    exchange.copies[piece as usize].max(exchange.served.contains(piece).into())
                }
                Some(
                    Stage::Offered
                    | Stage::Queued
                    | Stage::Fetching(_)
                    | Stage::Opening(_)
                    | Stage::Asking(_),
                )
                | None => u16::MAX,
            };
            let Some(next) = self.uploads.next_read(now, copies) else { break };
            let (transfer, piece, frame_bytes) = (next.transfer, next.piece, next.frame_bytes);
            if let Some(exchange) = self.shares.get_mut(&transfer).and_then(Share::exchange) {
                // Not when it asks: who waits for its turn asks again and again.
                if !exchange.allow(&next.peer, next.len) {
                    self.cut_off(now, Some(transfer), &next.peer, CutOffReason::EndlessRequests);
                    continue;
                }
                exchange.served.insert(piece);
            }
            let pending = Pending::Read { transfer, peer: next.peer, piece, len: next.len };
            self.out.disk(pending, DiskJob::Read { transfer, piece, frame_bytes });
        }
        while let Some(next) = self.uploads.next_frame(now) {
            if let Some(exchange) = self.shares.get_mut(&next.transfer).and_then(Share::exchange) {
                exchange.up.add(now, next.content_bytes);
                if let Some(member) = exchange.members.get_mut(&next.peer) {
                    member.up.add(now, next.content_bytes);
                    member.best_up_bps = member.best_up_bps.max(member.up.steady_bps(now));
                }
            }
            self.out.push(Output::Bulk { peer: next.peer, frame: next.frame });
        }
    }

    /// The disk has read a piece for somebody, or could not.
    pub(super) fn piece_read(&mut self, id: TransferId, peer: UserId, piece: u32, len: u64, done: DiskDone) {
        let is_wanted = self.shares.get_mut(&id).and_then(Share::exchange).is_some();
        let DiskDone::Frames(frames) = done else {
            self.uploads.read(&peer, id, len, Vec::new());
            if is_wanted {
                self.read_failed(id, &peer, piece, unexpected(done));
            }
            return;
        };
        self.uploads.read(&peer, id, len, if is_wanted { frames } else { Vec::new() });
    }

    /// What we said we have is not there any more.
    fn read_failed(&mut self, id: TransferId, peer: &UserId, piece: u32, error: DiskError) {
        let share = self.shares.get_mut(&id).expect("the caller found it");
        let direction = share.direction;
        let Some(exchange) = share.exchange() else { return };
        match (direction, exchange.phase) {
            (Direction::Receive, Phase::Downloading) => {
                exchange.lost(piece);
                self.feed_all(id);
                self.out.control(peer, TransferMessage::Busy { id, pieces: vec![piece] });
            }
            // It was verified: it only has another name now.
            (Direction::Receive, Phase::Finishing) => {
                self.out.control(peer, TransferMessage::Busy { id, pieces: vec![piece] });
            }
            // The files are the user's, who may have moved them. They were received all the same.
            (Direction::Receive, Phase::Complete) => {
                self.end(id, &FailReason::from(error));
            }
            (Direction::Send, Phase::Downloading | Phase::Finishing | Phase::Complete) => {
                self.fail(id, FailReason::from(error));
            }
        }
    }

    pub(super) fn uploads_dropped(&mut self, peer: &UserId, id: TransferId) {
        self.uploads.cancel_all(peer, id);
    }
}
