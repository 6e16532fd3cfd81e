//! Taking part: from the list of files until a peer, or we, take part no more.

use std::time::Instant;

use super::exchange::{Emit, Exchange, Order, Phase};
use super::machine::{Pending, TICK, Transfers};
use super::share::{Answer, Content, Share, Stage};
use super::{
    ConflictPolicy, Direction, DiskDone, DiskError, DiskJob, FailReason, Opened, Reason, Target,
    TransferEvent,
};
use crate::wire::transfer::{StopReason, TransferMessage};
use crate::wire::{TransferId, UserId};

/// The most conflicts named in an event.
const CONFLICTS_NAMED: usize = 100;

impl Transfers {
    pub(super) fn open(&mut self, id: TransferId, content: Content, conflict: ConflictPolicy) {
        let target = self.config.target.clone();
        let job = DiskJob::Open { transfer: id, manifest: content.manifest, target, conflict };
        self.out.disk(Pending::Open { transfer: id }, job);
    }

    pub(super) fn resolve(&mut self, id: TransferId, conflict: ConflictPolicy) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Asking(content) = &share.stage else { return };
        let content = content.clone();
        share.stage = Stage::Opening(content.clone());
        let conflict = if conflict == ConflictPolicy::Ask { ConflictPolicy::Rename } else { conflict };
        self.open(id, content, conflict);
    }

    /// The disk has looked what is there.
    pub(super) fn opened(&mut self, now: Instant, id: TransferId, done: DiskDone) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Opening(content) = &share.stage else { return };
        let content = content.clone();
        if let DiskDone::Conflicts(conflicts) = done {
            share.stage = Stage::Asking(content);
            let count = conflicts.len();
            let paths = conflicts.into_iter().take(CONFLICTS_NAMED).map(|conflict| conflict.path).collect();
            return self.out.event(TransferEvent::Conflicts { transfer: id, paths, count });
        }
        let DiskDone::Opened(opened) = done else {
            return self.fail(id, FailReason::from(unexpected(done)));
        };
        self.start(now, id, content, opened);
    }

    /// From here on pieces are exchanged.
    fn start(&mut self, now: Instant, id: TransferId, content: Content, opened: Opened) {
        let (order, emit) = match self.config.target {
            Target::Folder(_) => (Order::Rarest, None),
            Target::Stdout => (Order::Sequential, Some(Emit { next: 0, busy: false })),
        };
        let total = content.manifest.total_bytes();
        let mut exchange = Exchange::new(content.manifest, content.bytes, opened.have, order);
        exchange.want_all_but(&opened.unwanted);
        exchange.skipped_files = opened.skipped_files;
        exchange.emit = emit;
        if exchange.have_bytes > 0 {
            self.out.event(TransferEvent::Resumed { transfer: id, bytes: exchange.have_bytes, total });
        }
        let share = self.shares.get_mut(&id).expect("it was being opened");
        share.stage = Stage::Sharing(Box::new(exchange));
        let was_left = share.holders.is_empty();
        let peers: Vec<UserId> = self.ready.keys().cloned().collect();
        peers.iter().for_each(|peer| self.join(now, id, peer));
        self.wake(Reason::Progress, now);
        self.wake(Reason::Requests, now + TICK);
        self.advance(now, id);
        if was_left {
            self.check_stalled(id);
        }
    }

    /// Tells a peer that we take part, and with what.
    pub(super) fn join(&mut self, now: Instant, id: TransferId, peer: &UserId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) && !share.holders.contains(peer) {
            return;
        }
        let Some(exchange) = share.exchange().filter(|exchange| exchange.phase != Phase::Complete) else {
            return;
        };
        if exchange.members.contains_key(peer) {
            return;
        }
        exchange.member(now, peer);
        self.out.control(peer, TransferMessage::Join { id });
        self.tell_all(now, id, peer);
    }

    /// A peer leaves a transfer, on purpose or with its link.
    pub(super) fn leave(&mut self, now: Instant, peer: &UserId, id: TransferId, reason: Option<StopReason>) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        share.holders.remove(peer);
        share.rivals.remove(peer);
        if share.answers.remove(peer) == Some(Answer::Accepted) && share.direction == Direction::Send {
            self.out.event(TransferEvent::Undelivered { transfer: id, peer: peer.clone(), reason });
        }
        let was_origin = share.info.origin == *peer;
        if share.holders.is_empty() && matches!(share.stage, Stage::Queued | Stage::Fetching(_)) {
            let next = share.likewise().next().cloned();
            next.into_iter().for_each(|next| self.go_over(now, id, &next));
        }
        let Some(share) = self.shares.get_mut(&id) else { return };
        match &mut share.stage {
            Stage::Offered if share.holders.is_empty() => {
                let rivals = std::mem::take(&mut share.rivals);
                self.shares.remove(&id);
                self.drop_share(id);
                self.out.event(TransferEvent::Withdrawn { transfer: id });
                return self.hear_rivals(now, rivals);
            }
            Stage::Fetching(_) if share.holders.is_empty() && !share.rivals.is_empty() => {
                let reason = "who offered it is gone, and others say otherwise what it is".to_owned();
                return self.refuse_manifest(now, id, reason);
            }
            Stage::Queued if share.holders.is_empty() => {
                let rivals = std::mem::take(&mut share.rivals);
                self.fail(id, FailReason::NoManifest);
                return self.hear_rivals(now, rivals);
            }
            Stage::Offered | Stage::Queued | Stage::Opening(_) | Stage::Asking(_) => {}
            Stage::Fetching(_) => self.fetch_again(now, id),
            Stage::Sharing(exchange) => {
                if reason.is_none() {
                    exchange.taken_bytes.remove(peer);
                }
                // Whoever took no part changes nothing by leaving: what is missing need not be looked at.
                if exchange.remove(peer).is_some() {
                    self.feed_all(id);
                    if was_origin && reason == Some(StopReason::SourceChanged) {
                        self.fail_if_hopeless(id);
                    }
                    self.check_stalled(id);
                }
            }
        }
        if was_origin && reason.is_none() {
            self.offer_to_all(id);
        }
    }

    pub(super) fn stopped(&mut self, now: Instant, peer: &UserId, id: TransferId, reason: StopReason) {
        self.uploads_dropped(peer, id);
        self.hungry.remove(&(id, peer.clone()));
        self.leave(now, peer, id, Some(reason));
    }

    /// The source is not what it was. Whoever else offers it may still have it, and may be the true origin.
    fn fail_if_hopeless(&mut self, id: TransferId) {
        let share = self.shares.get_mut(&id).filter(|share| share.holders.is_empty());
        let Some(exchange) = share.and_then(Share::exchange) else { return };
        if exchange.phase == Phase::Downloading && !exchange.is_obtainable() {
            self.fail(id, FailReason::SourceChanged);
        }
    }
}

/// The error in an answer of the disk; an answer to another question is a bug of the shell.
pub(super) fn unexpected(done: DiskDone) -> DiskError {
    match done {
        DiskDone::Failed(error) => error,
        DiskDone::Scanning { .. }
        | DiskDone::Scanned(_)
        | DiskDone::Free(_)
        | DiskDone::Conflicts(_)
        | DiskDone::Opened(_)
        | DiskDone::Frames(_)
        | DiskDone::Written(_)
        | DiskDone::Emitted
        | DiskDone::Finished(_) => DiskError::Io {
            path: Default::default(),
            message: "the disk answered another question".to_owned(),
        },
    }
}
