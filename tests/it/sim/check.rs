//! What must be so.

use std::collections::BTreeSet;
use std::time::Duration;

use fast_rtc_swarm::core::link::Deadline;
use fast_rtc_swarm::core::mesh::{self, Event};
use fast_rtc_swarm::core::peer::{Channel, Payload};
use fast_rtc_swarm::wire::UserId;

use super::{Break, PeerNo, Program, World};

impl World {
    /// The invariants that hold once things are quiet, among the live members of one room that may be connected.
    pub fn assert_full_mesh(&self, members: &[PeerNo]) {
        for &a in members {
            let expected: BTreeSet<UserId> =
                members.iter().filter(|b| **b != a).map(|b| self.peers[*b].id.clone()).collect();
            self.assert_connected_to(a, &expected);
        }
    }

    /// `no` is connected to these, and holds nothing else.
    pub fn assert_connected_to(&self, no: PeerNo, expected: &BTreeSet<UserId>) {
        let peer = &self.peers[no];
        assert_eq!(&peer.ready_peers(), expected, "who {} is connected to", peer.id);
        if let Program::Ours(_) = peer.program {
            self.assert_nothing_left_over(no, expected.len());
            self.assert_events_agree(no, expected);
        }
    }

    fn assert_nothing_left_over(&self, no: PeerNo, peers: usize) {
        let (id, mesh) = (&self.peers[no].id, self.peers[no].mesh());
        let held = mesh.held();
        // One offer in the pool, and perhaps its predecessor, which is kept for a moment in case it was taken meanwhile.
        let offers = held.links - peers;
        assert!((1..=3).contains(&offers), "{id} holds {offers} connections besides its peers'");
        assert_eq!(held.members, peers, "members {id} knows of");
        assert_eq!((held.unsent, held.stripes, held.timers), (0, 0, offers), "{id} holds {held:?}");
        assert!(held.orphans <= 16 && held.wants <= 200, "{id} holds {held:?}");
        match mesh.poll_timeout() {
            None | Some((_, mesh::Reason::Link(_, Deadline::OfferAge | Deadline::Withdrawn))) => {}
            Some((_, reason)) => panic!("{id} still waits for {reason:?}"),
        }
        let open = self.connections.iter().filter(|(end, c)| end.0 == no && !c.is_closed).count();
        assert_eq!(open, held.links, "WebRTC connections and links of {id}");
    }

    /// What faces were told adds up to the peers that are there.
    fn assert_events_agree(&self, no: PeerNo, expected: &BTreeSet<UserId>) {
        let mut shown = BTreeSet::new();
        for event in &self.peers[no].events {
            match event {
                Event::Opened { peer, .. } => assert!(shown.insert(peer.clone()), "{peer} opened twice"),
                Event::Closed { peer, .. } => {
                    assert!(shown.remove(peer), "{peer} closed without having opened")
                }
                Event::Text { from, .. } => assert!(shown.contains(from), "{from} spoke without being open"),
                _ => {}
            }
        }
        assert_eq!(&shown, expected, "what {} was told", self.peers[no].id);
    }

    /// Offers are renewed, and nothing else is said.
    pub fn assert_quiet(&mut self) {
        let (before, wants) = (self.sent_to_server, self.wants_sent);
        self.run_for(Duration::from_secs(100));
        let peers = self.alive().len() as u64;
        // Four times an offer with two candidates, and the withdrawal of its predecessor.
        assert!(self.sent_to_server - before <= peers * 32, "{} signals", self.sent_to_server - before);
        assert_eq!(self.wants_sent, wants, "nobody is missing");
    }

    /// After everybody is gone the server holds nothing.
    pub fn assert_server_forgets(&mut self) {
        for no in self.alive() {
            self.crash(no);
        }
        self.run_for(Duration::from_secs(120));
        let stats = self.rooms.stats();
        let held = (stats.rooms, stats.members, stats.sockets, stats.offers, stats.links);
        assert_eq!(held, (0, 0, 0, 0, 0));
        assert_eq!(self.rooms.poll_timeout(), None);
    }

    /// Each of these hears the others' next line once, and nobody else's.
    pub fn assert_everyone_hears_everyone(&mut self, members: &[PeerNo]) {
        let before: Vec<usize> = members.iter().map(|no| self.lines(*no).len()).collect();
        for &no in members {
            self.say(no, "roll call");
        }
        self.run_for(Duration::from_secs(10));
        for (&no, before) in members.iter().zip(before) {
            let mut heard = self.lines(no).split_off(before);
            heard.sort();
            let others = members.iter().filter(|other| **other != no);
            let mut expected: Vec<String> =
                others.map(|other| format!("{}: roll call", self.peers[*other].id)).collect();
            expected.sort();
            assert_eq!(heard, expected, "what {} heard", self.peers[no].id);
        }
    }

    /// Whatever becomes of sockets and servers, a link that works goes on.
    pub fn assert_links_outlive_the_server(&mut self, members: &[PeerNo]) {
        let before: Vec<usize> = members.iter().map(|no| self.peers[*no].events.len()).collect();
        for &no in members {
            self.break_socket(no, Break::Clean);
        }
        self.run_for(Duration::from_secs(45));
        self.restart_server();
        self.run_for(Duration::from_secs(45));
        for (&no, before) in members.iter().zip(before) {
            let news = &self.peers[no].events[before..];
            let is_change = |event: &Event| matches!(event, Event::Opened { .. } | Event::Closed { .. });
            assert!(!news.iter().any(is_change), "{}: {news:?}", self.peers[no].id);
        }
    }

    /// Nothing a person said goes to a peer of another room, or to one that has not proven the key.
    pub(super) fn assert_may_be_said(&self, from: PeerNo, to: PeerNo, channel: Channel, payload: &Payload) {
        let (sender, receiver) = (&self.peers[from], &self.peers[to]);
        assert_eq!(sender.who.room, receiver.who.room, "{} speaks to {}", sender.id, receiver.id);
        assert!(channel == Channel::Fast || !receiver.is_original(), "{channel:?} towards an original");
        let is_hello = matches!(payload, Payload::Text(text) if channel == Channel::Control
            && (text.starts_with(r#"{"type":"hello""#) || text.starts_with(r#"{"type":"bye""#)));
        if is_hello || sender.is_original() {
            return;
        }
        let is_admitted = match receiver.is_original() {
            true => sender.who.key.is_none() || sender.who.allow_unverified,
            false => sender.who.key == receiver.who.key,
        };
        assert!(is_admitted, "{} says {payload:?} to {}", sender.id, receiver.id);
    }
}
