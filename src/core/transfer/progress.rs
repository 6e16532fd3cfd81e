//! How far it is, for the faces.

use std::time::{Duration, Instant};

use super::exchange::{Exchange, Member, Phase};
use super::machine::Transfers;
use super::share::{Answer, Share, Stage};
use super::{Direction, PeerProgress, Progress, Reason, TransferEvent};
use crate::wire::TransferId;

/// News of progress come so often while there is any.
const REPORT_EVERY: Duration = Duration::from_millis(200);

impl Transfers {
    /// Reports on every transfer that moved since the last report.
    pub(super) fn report(&mut self, now: Instant) {
        let ids: Vec<TransferId> = self.shares.keys().copied().collect();
        let mut is_active = false;
        for id in ids {
            is_active |= self.is_active(&id);
            self.report_one(now, id);
        }
        if is_active {
            self.timers.insert(Reason::Progress, now + REPORT_EVERY);
        }
    }

    pub(super) fn report_one(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Some(progress) = progress(now, share) else { return };
        let state = (progress.bytes, progress.uploaded_bytes);
        if share.reported.replace(state) != Some(state) {
            self.out.event(TransferEvent::Progress(progress));
        }
    }

    /// Whether something may move in a transfer by itself.
    fn is_active(&self, id: &TransferId) -> bool {
        let Some(share) = self.shares.get(id) else { return false };
        let Stage::Sharing(exchange) = &share.stage else { return false };
        match exchange.phase {
            Phase::Downloading | Phase::Finishing => true,
            Phase::Complete => exchange.members.values().any(Member::is_taking),
        }
    }
}

fn progress(now: Instant, share: &Share) -> Option<Progress> {
    let Stage::Sharing(exchange) = &share.stage else { return None };
    let (bytes, total, rate_bps) = match share.direction {
        Direction::Send => sent(now, share, exchange),
        Direction::Receive => {
            let wanted = exchange.have_bytes + exchange.left_bytes;
            (exchange.have_bytes, wanted, exchange.down.bps(now))
        }
    };
    let left = total.saturating_sub(bytes);
    let eta = (rate_bps > 0).then(|| Duration::from_secs_f64(left as f64 / rate_bps as f64));
    let peers = exchange.members.iter().map(|(peer, member)| PeerProgress {
        peer: peer.clone(),
        has_bytes: if member.done || member.complete { share.info.bytes } else { member.has_bytes },
        done: member.done,
        down_bytes: member.down.total(),
        up_bytes: member.up.total(),
        down_bps: member.down.bps(now),
        up_bps: member.up.bps(now),
    });
    Some(Progress {
        transfer: share.info.transfer,
        direction: share.direction,
        bytes,
        total,
        rate_bps,
        eta,
        uploaded_bytes: exchange.up.total(),
        peers: peers.collect(),
    })
}

/// What all receivers together have, what they will have, and how fast that grows.
fn sent(now: Instant, share: &Share, exchange: &Exchange) -> (u64, u64, u64) {
    let receivers =
        share.answers.iter().filter(|(_, answer)| matches!(answer, Answer::Accepted | Answer::Delivered));
    let (mut bytes, mut total, mut rate) = (0, 0, 0);
    for (peer, answer) in receivers {
        total += share.info.bytes;
        let Some(member) = exchange.members.get(peer) else { continue };
        bytes += if *answer == Answer::Delivered { share.info.bytes } else { member.has_bytes };
        rate += member.gained.bps(now);
    }
    (bytes, total, rate)
}
