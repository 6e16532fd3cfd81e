//! Bulk frames, and the stripes that carry them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fast_rtc_swarm::core::mesh::{self, Event};
use fast_rtc_swarm::core::peer::{LinkKey, PeerClosed, PeerEvent, Strain};
use fast_rtc_swarm::wire::UserId;

use super::rtc::End;
use super::{PeerNo, Program, World};

/// Keys of stripes begin here.
const FIRST_STRIPE: LinkKey = LinkKey(1 << 63);

/// Somebody was asked for a frame.
#[derive(Debug, Clone)]
struct Asked {
    by: PeerNo,
    of: UserId,
    at: Instant,
}

/// What became of the frames.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// In the order of the frames' numbers.
    asked: Vec<Asked>,
    heard: Vec<u64>,
    /// Who was told that frames of whom may never arrive, or that a link came or went.
    told: Vec<(PeerNo, UserId, Instant)>,
}

impl World {
    /// Bulk data waits in front of one of the peer's links, although its path has no queue.
    pub fn strain(&mut self, no: PeerNo, which: usize) {
        let Some((_, link)) = self.some_link(no, which) else { return };
        let long = Duration::from_millis(40);
        for _ in 0..3 {
            self.rtc_event(
                (no, link),
                PeerEvent::Strain(Strain { shortest: long, last: long, backlog: long }),
            );
        }
    }

    /// The peer asks another for frames, which sends them as soon as it hears of it.
    pub fn ask_frames(&mut self, no: PeerNo, which: usize, count: usize) {
        let Some((of, _)) = self.some_link(no, which) else { return };
        for _ in 0..count {
            let message = self.bulk.asked.len().into();
            self.bulk.asked.push(Asked { by: no, of: of.clone(), at: self.now });
            self.input(no, mesh::Input::Transfer { to: of.clone(), message });
        }
    }

    fn some_link(&self, no: PeerNo, which: usize) -> Option<(UserId, LinkKey)> {
        let Program::Ours(mesh) = &self.peers[no].program else { return None };
        let is_ours = |id: &UserId| !self.peers.iter().any(|peer| peer.id == *id && peer.is_original());
        let links = mesh.ready_links().filter(|(peer, _)| is_ours(peer));
        let links: Vec<(UserId, LinkKey)> = links.map(|(peer, key)| (peer.clone(), key)).collect();
        let is_there = !self.peers[no].frozen && !links.is_empty();
        is_there.then(|| links[which % links.len()].clone())
    }

    /// How many connections beside its links the peer holds, open or not.
    pub fn stripes(&self, no: PeerNo) -> usize {
        self.peers[no].mesh().held().stripes
    }

    /// How many frames the peer heard.
    pub fn frames_heard(&self, no: PeerNo) -> usize {
        self.peers[no].events.iter().filter(|event| matches!(event, Event::Bulk { .. })).count()
    }

    /// The connection of one of the peer's stripes is gone, if it has any.
    pub fn break_stripe(&mut self, no: PeerNo, which: usize) {
        let is_open = |end: &End| !self.connections[end].is_closed;
        let open: Vec<End> = self.stripe_ends(no).filter(is_open).collect();
        if !open.is_empty() && !self.peers[no].frozen {
            self.rtc_event(open[which % open.len()], PeerEvent::Closed(PeerClosed::Failed));
        }
    }

    fn stripe_ends(&self, no: PeerNo) -> impl Iterator<Item = End> {
        self.connections.range((no, FIRST_STRIPE)..(no + 1, LinkKey(0))).map(|(end, _)| *end)
    }

    pub(super) fn note_told(&mut self, no: PeerNo, event: &Event) {
        match event {
            Event::Transfer { from, message } => {
                let number = message.as_u64().expect("frames are asked for by number");
                let frame: Bytes = [&[1][..], &number.to_be_bytes()].concat().into();
                self.input(no, mesh::Input::Bulk { to: from.clone(), frame });
            }
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

    /// Each frame that was asked for arrived once; or whoever asked was told later that it may not, or that the link changed.
    pub fn assert_no_frame_vanished(&self) {
        let mut heard = self.bulk.heard.clone();
        heard.sort_unstable();
        assert!(heard.is_sorted_by(|a, b| a < b), "a frame arrived twice: {heard:?}");
        for (number, Asked { by, of, at }) in self.bulk.asked.iter().enumerate() {
            let arrived = heard.binary_search(&(number as u64)).is_ok();
            let is_news =
                |(who, peer, told_at): &(PeerNo, UserId, Instant)| who == by && peer == of && told_at >= at;
            let was_told = self.bulk.told.iter().any(is_news);
            assert!(arrived || was_told || !self.peers[*by].alive, "frame {number} of {of} to {by} vanished");
        }
    }
}

fn number_of(frame: &Bytes) -> u64 {
    u64::from_be_bytes(frame[1..].try_into().expect("frames here are a kind and a number"))
}
