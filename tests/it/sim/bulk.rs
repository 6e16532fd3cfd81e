//! Bulk frames, and the stripes that carry them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fast_rtc_swarm::core::mesh::{self, Event};
use fast_rtc_swarm::core::peer::{LinkKey, Payload, PeerClosed, PeerEvent, Strain};
use fast_rtc_swarm::wire::UserId;

use super::rtc::End;
use super::{PeerNo, Program, World};

/// Keys of stripes begin here.
const FIRST_STRIPE: LinkKey = LinkKey(1 << 63);

/// A frame on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    from: PeerNo,
    to: PeerNo,
    at: Instant,
}

/// What became of the frames.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// In the order of their numbers.
    sent: Vec<Option<Sent>>,
    heard: Vec<u64>,
    /// Who was told that frames of whom may never arrive, or that a link came or went.
    told: Vec<(PeerNo, UserId, Instant)>,
}

impl World {
    /// Bulk data waits in front of one of the peer's links, although its path has no queue; then frames are sent.
    pub fn strain(&mut self, no: PeerNo, which: usize) {
        let Program::Ours(mesh) = &self.peers[no].program else { return };
        let links: Vec<(UserId, LinkKey)> =
            mesh.ready_links().map(|(peer, key)| (peer.clone(), key)).collect();
        if links.is_empty() || self.peers[no].frozen {
            return;
        }
        let (to, key) = links[which % links.len()].clone();
        let long = Duration::from_millis(40);
        for _ in 0..3 {
            self.rtc_event((no, key), PeerEvent::Strain(Strain { shortest: long, last: long }));
        }
        for _ in 0..8 {
            self.send_frame(no, &to);
        }
    }

    /// Sends a frame of a piece.
    pub fn send_frame(&mut self, no: PeerNo, to: &UserId) {
        let number = self.bulk.sent.len() as u64;
        self.bulk.sent.push(None);
        let frame: Bytes = [&[1][..], &number.to_be_bytes()].concat().into();
        self.input(no, mesh::Input::Bulk { to: to.clone(), frame });
    }

    /// How many connections beside its links the peer holds, open or not.
    pub fn stripes(&self, no: PeerNo) -> usize {
        self.peers[no].mesh().held().stripes
    }

    /// How many frames the peer heard.
    pub fn frames_heard(&self, no: PeerNo) -> usize {
        self.peers[no].events.iter().filter(|event| matches!(event, Event::Bulk { .. })).count()
    }

    /// The connection of one of the peer's open stripes is gone.
    pub fn break_stripe(&mut self, no: PeerNo) {
        let end = self.stripe_ends(no).find(|end| !self.connections[end].is_closed).expect("it has a stripe");
        self.rtc_event(end, PeerEvent::Closed(PeerClosed::Failed));
    }

    fn stripe_ends(&self, no: PeerNo) -> impl Iterator<Item = End> {
        self.connections.range((no, FIRST_STRIPE)..(no + 1, LinkKey(0))).map(|(end, _)| *end)
    }

    pub(super) fn note_frame(&mut self, from: PeerNo, to: PeerNo, payload: &Payload) {
        if let Payload::Binary(frame) = payload {
            let number = number_of(frame) as usize;
            self.bulk.sent[number] = Some(Sent { from, to, at: self.now });
        }
    }

    pub(super) fn note_told(&mut self, no: PeerNo, event: &Event) {
        match event {
            Event::Bulk { frame, .. } => self.bulk.heard.push(number_of(frame)),
            Event::BulkLost { peer, .. }
            | Event::Opened { peer, .. }
            | Event::Closed { peer, .. }
            | Event::Failed { peer, .. } => self.bulk.told.push((no, peer.clone(), self.now)),
            _ => {}
        }
    }

    /// No stripe outlives its link.
    pub(super) fn assert_stripes_have_links(&self, no: PeerNo) {
        let Program::Ours(mesh) = &self.peers[no].program else { return };
        for end in self.stripe_ends(no).filter(|end| !self.connections[end].is_closed) {
            let link = mesh.link_of(end.1).and_then(|link| self.connections.get(&(no, link)));
            assert!(link.is_some_and(|link| !link.is_closed), "{end:?} of {} has no link", self.peers[no].id);
        }
    }

    /// Each frame arrived once; or its receiver was told that it may not, or both ends were that the link changed.
    pub fn assert_no_frame_vanished(&self) {
        let mut heard = self.bulk.heard.clone();
        heard.sort_unstable();
        assert!(heard.is_sorted_by(|a, b| a < b), "a frame arrived twice: {heard:?}");
        let was_told = |no: PeerNo, other: PeerNo, since: Instant| {
            let other = &self.peers[other].id;
            self.bulk.told.iter().any(|(who, peer, at)| *who == no && peer == other && *at >= since)
        };
        for (number, sent) in self.bulk.sent.iter().enumerate() {
            let Some(Sent { from, to, at }) = *sent else { continue };
            let is_over = !self.peers[from].alive || !self.peers[to].alive;
            let arrived = heard.binary_search(&(number as u64)).is_ok();
            assert!(
                arrived || is_over || was_told(to, from, at),
                "frame {number} of {from} to {to} vanished"
            );
        }
    }
}

fn number_of(frame: &Bytes) -> u64 {
    u64::from_be_bytes(frame[1..].try_into().expect("frames here are a kind and a number"))
}
