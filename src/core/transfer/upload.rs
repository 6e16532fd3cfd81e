//! Serving: who gets the next piece, and what goes out when a channel takes more.
//!
//! ```text
//! request -> queue of the peer -> (slot, turn) -> disk read -> frames of the peer -> (writable, rate) -> bulk channel
//! ```
//!
//! A piece is useful only when it is whole, so a few peers are served at a time and the others wait their turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::rate::{Bucket, Meter};
use crate::wire::frame::{CONTENT_MAX_BYTES, HEADER_BYTES};
use crate::wire::{TransferId, UserId};

/// How many peers are served at a time.
const SLOTS: usize = 4;

/// A peer that took nothing for so long does not count against [`SLOTS`]: its own path is the limit, not ours.
const SLOT_IDLE: Duration = Duration::from_millis(500);

/// Read and not yet sent, for one peer and in all. A single piece may always be read.
const READ_AHEAD_PEER_BYTES: u64 = 4 * 1024 * 1024;
const READ_AHEAD_BYTES: u64 = 16 * 1024 * 1024;

/// The most reads for one peer at a time: small files are many pieces.
const READS_PEER: usize = 32;

/// A request waits at most so long; then the peer is told to ask somebody else, or again.
const QUEUE_FOR: Duration = Duration::from_secs(4);

/// Requests that wait are kept up to what goes out in [`QUEUE_FOR`], but at least so many bytes in all, and for each peer what
/// went out to it.
const QUEUE_MIN_BYTES: u64 = 4 * 1024 * 1024;

/// The most requests that one peer may have waiting. A receiver of many small files asks for thousands.
const QUEUE_PIECES: usize = 16 * 1024;

/// How many of a peer's requests are compared before one is served.
const QUEUE_SEARCHED: usize = 32;

/// The least content in a frame: what is cut evenly into such parts has none below the receivers' minimum.
const FRAME_MIN_BYTES: u32 = 8 * 1024;

/// A request of a peer, waiting.
#[derive(Debug, Clone)]
struct Wanted {
    transfer: TransferId,
    piece: u32,
    len: u64,
    at: Instant,
}

/// Something to send on the bulk channel.
#[derive(Debug)]
struct Ready {
    transfer: TransferId,
    /// Whether it carries content, not a manifest.
    is_content: bool,
    frame: Bytes,
}

/// Reads and frames for one peer.
#[derive(Debug)]
struct Link {
    credit: i64,
    /// What the channel took at once: reading ahead more than that would only fill memory.
    grant_bytes: u64,
    frame_bytes: u32,
    queue: VecDeque<Wanted>,
    queued: BTreeSet<(TransferId, u32)>,
    queued_bytes: u64,
    reads: usize,
    reading_bytes: u64,
    ready: VecDeque<Ready>,
    ready_bytes: u64,
    turn: u64,
    moved_at: Instant,
    out: Meter,
}

impl Link {
    fn held_bytes(&self) -> u64 {
        self.reading_bytes + self.ready_bytes
    }

    /// Where in the queue the piece with the fewest copies stands, and how many there are.
    fn rarest(&self, copies: impl Fn(&TransferId, u32) -> u16) -> Option<(usize, u16)> {
        let near = self.queue.iter().take(QUEUE_SEARCHED).enumerate();
        near.map(|(at, wanted)| (at, copies(&wanted.transfer, wanted.piece)))
            .min_by_key(|(_, copies)| *copies)
    }

    fn may_read_ahead(&self, len: u64) -> bool {
        let limit = self.grant_bytes.clamp(2 * len, READ_AHEAD_PEER_BYTES.max(2 * len));
        self.held_bytes() + len <= limit && self.reads < READS_PEER
    }

    fn is_served(&self, now: Instant) -> bool {
        self.held_bytes() > 0 && now.saturating_duration_since(self.moved_at) < SLOT_IDLE
    }
}

/// A piece to read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NextRead {
    pub(super) peer: UserId,
    pub(super) transfer: TransferId,
    pub(super) piece: u32,
    pub(super) len: u64,
    pub(super) frame_bytes: u32,
}

/// A frame to send now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NextFrame {
    pub(super) peer: UserId,
    pub(super) transfer: TransferId,
    /// Bytes of content of the transfer in it; zero for a manifest's.
    pub(super) content_bytes: u64,
    pub(super) frame: Bytes,
}

/// All serving, to all peers.
#[derive(Debug)]
pub(super) struct Uploads {
    links: BTreeMap<UserId, Link>,
    bucket: Bucket,
    out: Meter,
    turn: u64,
    queued_bytes: u64,
}

impl Uploads {
    pub(super) fn new(bps: Option<u64>) -> Self {
        Self {
            links: BTreeMap::new(),
            bucket: Bucket::new(bps),
            out: Meter::default(),
            turn: 0,
            queued_bytes: 0,
        }
    }

    pub(super) fn limit(&mut self, bps: Option<u64>) {
        self.bucket = Bucket::new(bps);
    }

    pub(super) fn add_peer(&mut self, now: Instant, peer: &UserId) {
        let link = Link {
            credit: 0,
            grant_bytes: 0,
            frame_bytes: CONTENT_MAX_BYTES as u32,
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            queued_bytes: 0,
            reads: 0,
            reading_bytes: 0,
            ready: VecDeque::new(),
            ready_bytes: 0,
            turn: 0,
            moved_at: now,
            out: Meter::default(),
        };
        self.links.entry(peer.clone()).or_insert(link);
    }

    pub(super) fn remove_peer(&mut self, peer: &UserId) {
        if let Some(link) = self.links.remove(peer) {
            self.queued_bytes -= link.queued_bytes;
        }
    }

    /// The channel takes so much more. A frame is kept to half of that, so that a slow path is not held up by a single one.
    pub(super) fn writable(&mut self, peer: &UserId, bytes: usize) {
        if let Some(link) = self.links.get_mut(peer) {
            link.credit = link.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            link.grant_bytes = bytes as u64;
            let half = u32::try_from(bytes / 2).unwrap_or(u32::MAX);
            link.frame_bytes = half.clamp(FRAME_MIN_BYTES, CONTENT_MAX_BYTES as u32);
        }
    }

    /// Some of what the channel took it takes no more.
    pub(super) fn revoke(&mut self, peer: &UserId, bytes: i64) {
        if let Some(link) = self.links.get_mut(peer) {
            link.credit = link.credit.saturating_sub(bytes);
        }
    }

    /// Takes a request. `false` if it is one too many.
    pub(super) fn want(
        &mut self,
        now: Instant,
        peer: &UserId,
        transfer: TransferId,
        piece: u32,
        len: u64,
    ) -> bool {
        let passes = |out: &Meter| out.bps(now) * QUEUE_FOR.as_secs();
        let Some(link) = self.links.get_mut(peer) else { return false };
        if link.queued.contains(&(transfer, piece)) {
            return true;
        }
        // Others, who may ask for much and take nothing, leave each peer what it takes itself.
        let is_much = self.queued_bytes + len > passes(&self.out).max(QUEUE_MIN_BYTES)
            && link.queued_bytes + len > passes(&link.out);
        let is_full = link.queue.len() >= QUEUE_PIECES || is_much;
        // Whoever has nothing waiting may always have one.
        if is_full && !(link.queue.is_empty() && link.held_bytes() == 0) {
            return false;
        }
        link.queued.insert((transfer, piece));
        link.queue.push_back(Wanted { transfer, piece, len, at: now });
        link.queued_bytes += len;
        self.queued_bytes += len;
        true
    }

    /// Forgets those requests of one transfer that still wait.
    pub(super) fn cancel(&mut self, peer: &UserId, transfer: TransferId, pieces: &[u32]) {
        let Some(link) = self.links.get_mut(peer) else { return };
        let is_waiting = |piece: &u32| link.queued.remove(&(transfer, *piece));
        let cancelled: BTreeSet<u32> = pieces.iter().copied().filter(is_waiting).collect();
        if !cancelled.is_empty() {
            self.forget(peer, |wanted| wanted.transfer == transfer && cancelled.contains(&wanted.piece));
        }
    }

    /// Takes requests out of a peer's queue, in one go however many they are.
    fn forget(&mut self, peer: &UserId, is_forgotten: impl Fn(&Wanted) -> bool) {
        let Some(link) = self.links.get_mut(peer) else { return };
        link.queue.retain(|wanted| !is_forgotten(wanted));
        let left_bytes = link.queue.iter().map(|wanted| wanted.len).sum();
        self.queued_bytes -= link.queued_bytes - left_bytes;
        link.queued_bytes = left_bytes;
    }

    /// Forgets everything that waits and is read for one transfer.
    pub(super) fn drop_transfer(&mut self, transfer: TransferId) {
        let peers: Vec<UserId> = self.links.keys().cloned().collect();
        peers.iter().for_each(|peer| self.cancel_all(peer, transfer));
    }

    /// Forgets everything that waits for one peer in one transfer.
    pub(super) fn cancel_all(&mut self, peer: &UserId, transfer: TransferId) {
        self.forget(peer, |wanted| wanted.transfer == transfer);
        let Some(link) = self.links.get_mut(peer) else { return };
        link.queued.retain(|(queued, _)| *queued != transfer);
        link.ready.retain(|ready| ready.transfer != transfer);
        link.ready_bytes = link.ready.iter().map(|ready| ready.frame.len() as u64).sum();
    }

    /// Requests that have waited too long, taken out: by peer and transfer.
    pub(super) fn expire(&mut self, now: Instant) -> BTreeMap<(UserId, TransferId), Vec<u32>> {
        let mut expired: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for (peer, link) in &mut self.links {
            while let Some(wanted) = link.queue.front() {
                if now.saturating_duration_since(wanted.at) < QUEUE_FOR {
                    break;
                }
                let wanted = link.queue.pop_front().expect("there is a front");
                link.queued.remove(&(wanted.transfer, wanted.piece));
                link.queued_bytes -= wanted.len;
                self.queued_bytes -= wanted.len;
                expired.entry((peer.clone(), wanted.transfer)).or_default().push(wanted.piece);
            }
        }
        expired
    }

    /// When [`Uploads::expire`] has something to do, at the earliest.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.links.values().filter_map(|link| link.queue.front()).map(|wanted| wanted.at + QUEUE_FOR).min()
    }

    /// The next piece to read. Those with the fewest copies go first: one copy of a rare piece lets others spread it, and
    /// whoever asked for it, too, gets it from them. Among equals, peers take turns.
    pub(super) fn next_read(
        &mut self,
        now: Instant,
        copies: impl Fn(&TransferId, u32) -> u16,
    ) -> Option<NextRead> {
        // What is held for peers that take nothing must not keep others from a single piece.
        let is_memory_left = self.links.values().map(Link::held_bytes).sum::<u64>() < READ_AHEAD_BYTES;
        let is_slot_free = self.links.values().filter(|link| link.is_served(now)).count() < SLOTS;
        // Reading ahead for one must not keep another from its turn.
        let is_waiting = |link: &Link| link.held_bytes() == 0 && !link.queue.is_empty();
        let may_read_ahead = is_memory_left && !self.links.values().any(is_waiting);
        let candidates = self.links.iter().filter_map(|(peer, link)| {
            let (at, copies) = link.rarest(&copies)?;
            let may_read = if link.held_bytes() == 0 {
                is_slot_free
            } else {
                may_read_ahead && link.may_read_ahead(link.queue[at].len)
            };
            may_read.then_some(((copies, link.turn), peer, at))
        });
        let (_, peer, at) = candidates.min()?;
        let peer = peer.clone();
        Some(self.start_read(now, peer, at))
    }

    fn start_read(&mut self, now: Instant, peer: UserId, at: usize) -> NextRead {
        self.turn += 1;
        let link = self.links.get_mut(&peer).expect("it was chosen among the links");
        let wanted = link.queue.remove(at).expect("it was chosen for its request");
        link.queued.remove(&(wanted.transfer, wanted.piece));
        link.queued_bytes -= wanted.len;
        self.queued_bytes -= wanted.len;
        if link.held_bytes() == 0 {
            link.moved_at = now;
        }
        link.turn = self.turn;
        link.reads += 1;
        link.reading_bytes += wanted.len;
        let frame_bytes = link.frame_bytes;
        NextRead { peer, transfer: wanted.transfer, piece: wanted.piece, len: wanted.len, frame_bytes }
    }

    /// A read of `len` bytes for `peer` is over, with these frames, or none.
    pub(super) fn read(&mut self, peer: &UserId, transfer: TransferId, len: u64, frames: Vec<Bytes>) {
        let Some(link) = self.links.get_mut(peer) else { return };
        link.reads = link.reads.saturating_sub(1);
        link.reading_bytes = link.reading_bytes.saturating_sub(len);
        self.push_content(peer, transfer, frames);
    }

    /// Sends a part of a manifest, in place of what waits of it for that peer, and before all content: whoever waits for a manifest
    /// gives up on it, and on the same link much may be on its way that it has asked for.
    pub(super) fn push_manifest(&mut self, peer: &UserId, transfer: TransferId, frames: Vec<Bytes>) {
        let Some(link) = self.links.get_mut(peer) else { return };
        // Whoever asks again keeps its place.
        let at =
            link.ready.iter().take_while(|ready| !ready.is_content && ready.transfer != transfer).count();
        let mut behind = link.ready.split_off(at);
        behind.retain(|ready| ready.is_content || ready.transfer != transfer);
        link.ready.extend(frames.into_iter().map(|frame| Ready { transfer, is_content: false, frame }));
        link.ready.extend(behind);
        link.ready_bytes = link.ready.iter().map(|ready| ready.frame.len() as u64).sum();
    }

    fn push_content(&mut self, peer: &UserId, transfer: TransferId, frames: Vec<Bytes>) {
        let Some(link) = self.links.get_mut(peer) else { return };
        for frame in frames {
            link.ready_bytes += frame.len() as u64;
            link.ready.push_back(Ready { transfer, is_content: true, frame });
        }
    }

    /// How much of manifests waits to be sent to a peer, in bytes.
    pub(super) fn manifest_bytes(&self, peer: &UserId) -> u64 {
        let ready = self.links.get(peer).into_iter().flat_map(|link| &link.ready);
        ready.take_while(|ready| !ready.is_content).map(|ready| ready.frame.len() as u64).sum()
    }

    /// The next frame that a channel and the rate limit let pass; peers take turns.
    pub(super) fn next_frame(&mut self, now: Instant) -> Option<NextFrame> {
        let sendable = self.links.iter().filter(|(_, link)| link.credit > 0 && !link.ready.is_empty());
        let peer = sendable.min_by_key(|(_, link)| link.moved_at).map(|(peer, _)| peer.clone())?;
        if !self.bucket.is_open(now) {
            return None;
        }
        let link = self.links.get_mut(&peer).expect("it was chosen among the links");
        let ready = link.ready.pop_front().expect("it was chosen for its frame");
        let len = ready.frame.len() as u64;
        link.ready_bytes -= len;
        link.credit -= len as i64;
        link.moved_at = now;
        link.out.add(now, len);
        self.bucket.take(len);
        self.out.add(now, len);
        let content_bytes = if ready.is_content { len - HEADER_BYTES as u64 } else { 0 };
        Some(NextFrame { peer, transfer: ready.transfer, content_bytes, frame: ready.frame })
    }

    /// When the rate limit lets the next frame pass, if it is what holds one back.
    pub(super) fn opens_at(&mut self, now: Instant) -> Option<Instant> {
        if self.links.values().any(|link| link.credit > 0 && !link.ready.is_empty()) {
            return self.bucket.opens_at(now);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_channel_takes_no_more_is_not_sent() {
        let (now, peer) = (Instant::now(), UserId::new("bob").expect("an id"));
        let mut uploads = Uploads::new(None);
        uploads.add_peer(now, &peer);
        uploads.push_content(&peer, TransferId([0; 32]), vec![Bytes::from(vec![1; 500]); 3]);
        uploads.writable(&peer, 600);
        uploads.revoke(&peer, 100);
        let sent = |uploads: &mut Uploads| std::iter::from_fn(|| uploads.next_frame(now)).count();
        assert_eq!(sent(&mut uploads), 1);
        uploads.revoke(&peer, -100);
        assert_eq!(sent(&mut uploads), 1);
    }

    #[test]
    fn a_manifest_that_is_asked_for_again_keeps_its_place_before_others_and_all_content() {
        let (now, peer) = (Instant::now(), UserId::new("bob").expect("an id"));
        let [first, second, content] = [1, 2, 3].map(|byte| TransferId([byte; 32]));
        let mut uploads = Uploads::new(None);
        uploads.add_peer(now, &peer);
        uploads.push_content(&peer, content, vec![Bytes::from_static(&[0; 100])]);
        for (transfer, byte) in [(first, 1), (second, 2), (first, 3)] {
            uploads.push_manifest(&peer, transfer, vec![Bytes::copy_from_slice(&[byte; 100]); 2]);
        }
        assert_eq!((uploads.manifest_bytes(&peer), uploads.links[&peer].ready_bytes), (400, 500));
        uploads.writable(&peer, 1000);
        let sent: Vec<u8> =
            std::iter::from_fn(|| uploads.next_frame(now)).map(|next| next.frame[0]).collect();
        assert_eq!(sent, [3, 3, 2, 2, 0]);
    }

    #[test]
    fn what_is_taken_back_is_not_read_and_the_rest_keeps_its_order() {
        let (now, peer) = (Instant::now(), UserId::new("bob").expect("an id"));
        let (one, other) = (TransferId([1; 32]), TransferId([2; 32]));
        let mut uploads = Uploads::new(None);
        uploads.add_peer(now, &peer);
        uploads.writable(&peer, 1 << 20);
        for piece in 0..8 {
            assert!(
                uploads.want(now, &peer, one, piece, 1000) && uploads.want(now, &peer, other, piece, 1000)
            );
        }
        uploads.cancel(&peer, one, &[6, 0, 2, 2, 4, 99]);
        uploads.cancel(&peer, other, &[0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(uploads.queued_bytes, 5000);
        let reads = std::iter::from_fn(|| uploads.next_read(now, |_, _| 0));
        let reads: Vec<_> = reads.map(|read| (read.transfer, read.piece)).collect();
        assert_eq!(reads, [(one, 1), (one, 3), (one, 5), (one, 7), (other, 7)]);
        assert_eq!(uploads.queued_bytes, 0);
        assert!(uploads.want(now, &peer, one, 0, 1000));
    }
}
