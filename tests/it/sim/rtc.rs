//! Connections, as far as the machines can tell them from WebRTC.

use std::net::SocketAddr;
use std::time::Duration;

use fast_rtc_swarm::core::mesh;
use fast_rtc_swarm::core::peer::{
    Channel, Fingerprint, LinkKey, Path, PathKind, Payload, PeerClosed, PeerCommand, PeerEvent,
};
use fast_rtc_swarm::wire::{Candidate, Sdp};
use rand::RngExt;

use super::{Delivery, PeerNo, Program, Way, World};

/// When ICE notices that nothing comes any more, and when it gives up.
const CONSENT_LOST: Duration = Duration::from_secs(5);
const ICE_FAILED: Duration = Duration::from_secs(15);

/// One end of a connection.
pub type End = (PeerNo, LinkKey);

#[derive(Debug, Default)]
pub struct Connection {
    partner: Option<End>,
    is_connected: bool,
    pending_channels: Vec<Channel>,
    pub(super) is_closed: bool,
}

impl World {
    /// No packet passes between the two any more, or again.
    pub fn set_path(&mut self, a: PeerNo, b: PeerNo, works: bool) {
        let pair = (a.min(b), a.max(b));
        if works {
            self.cut_pairs.remove(&pair);
            return self.resend(pair);
        }
        self.cut_pairs.insert(pair);
        let is_between = |end: PeerNo, other: PeerNo| (end.min(other), end.max(other)) == pair;
        self.lose_paths(is_between);
    }

    /// The channels are reliable: what was said meanwhile arrives after all, if the connection lived on.
    fn resend(&mut self, pair: (PeerNo, PeerNo)) {
        let between = |end: PeerNo, other: PeerNo| (end.min(other), end.max(other)) == pair;
        for (end, channel, payload) in std::mem::take(&mut self.held_back) {
            let other = self.connections.get(&end).and_then(|connection| connection.partner);
            if other.is_some_and(|other| between(end.0, other.0)) {
                self.handle_send(end, channel, payload);
            } else {
                self.held_back.push((end, channel, payload));
            }
        }
    }

    /// Nothing comes from this peer any more.
    pub(super) fn fall_silent(&mut self, no: PeerNo) {
        self.lose_paths(|_, other| other == no);
    }

    pub(super) fn rtc_command(&mut self, end: End, command: PeerCommand) {
        match command {
            PeerCommand::CreateOffer => {
                self.connections.insert(end, Connection::default());
                self.describe(end);
            }
            PeerCommand::AcceptOffer { sdp } => {
                let partner = read_sdp(&sdp);
                self.connections.insert(end, Connection { partner, ..Connection::default() });
                self.describe(end);
            }
            PeerCommand::AcceptAnswer { sdp } => self.handle_accept_answer(end, &sdp),
            PeerCommand::AddCandidate(_) => {}
            PeerCommand::OpenChannel(channel) => self.handle_open_channel(end, channel),
            PeerCommand::Send { channel, payload } => self.handle_send(end, channel, payload),
            PeerCommand::Close => self.handle_close(end),
        }
    }

    pub(super) fn rtc_event(&mut self, end: End, event: PeerEvent) {
        let Some(connection) = self.connections.get_mut(&end) else { return };
        if connection.is_closed && event != PeerEvent::Closed(PeerClosed::Local) {
            return;
        }
        if matches!(event, PeerEvent::Closed(_)) {
            connection.is_closed = true;
            if let Some(other) = connection.partner {
                self.lose_path(other);
            }
        }
        match &mut self.peers[end.0].program {
            Program::Ours(_) => self.input(end.0, mesh::Input::Peer(end.1, event)),
            Program::Original(original) => {
                original.handle_peer(end.1, event);
                self.drain_peer(end.0);
            }
        }
    }

    /// Whether nothing can come from the other end at the moment.
    pub(super) fn is_path_silent(&self, end: End) -> bool {
        let other = self.connections.get(&end).and_then(|connection| connection.partner);
        other.is_some_and(|other| self.peers[other.0].frozen) || self.is_path_dead(end)
    }

    /// Whether nothing will come from the other end any more, unless a cut path heals.
    fn is_path_dead(&self, end: End) -> bool {
        let Some(other) = self.connections.get(&end).and_then(|connection| connection.partner) else {
            return false;
        };
        let Some(connection) = self.connections.get(&other) else { return true };
        let is_between_us = connection.partner.is_none_or(|partner| partner == end);
        connection.is_closed || !self.peers[other.0].alive || !is_between_us || self.is_cut(end.0, other.0)
    }

    fn is_cut(&self, a: PeerNo, b: PeerNo) -> bool {
        self.cut_pairs.contains(&(a.min(b), a.max(b)))
    }

    /// A description that names its maker, and a candidate.
    fn describe(&mut self, end: End) {
        let sdp = Sdp::new(format!("v=0\r\ns={} {}\r\n", end.0, end.1.0)).expect("short");
        let sdp = if self.peers[end.0].is_original() { sdp } else { sdp.with_marker() };
        let kind = if self.peers[end.0].is_behind_nat { "srflx" } else { "host" };
        let candidate = Candidate {
            candidate: format!("candidate:1 1 udp 1 192.0.2.1 9 typ {kind}"),
            sdp_mid: Some("0".into()),
            sdp_m_line_index: Some(0),
            username_fragment: None,
        };
        let way = Way::Connection(end);
        self.in_order(way, Delivery::Rtc { end, event: PeerEvent::Description(sdp) });
        self.in_order(way, Delivery::Rtc { end, event: PeerEvent::Candidate(Some(candidate)) });
        self.in_order(way, Delivery::Rtc { end, event: PeerEvent::Candidate(None) });
    }

    fn handle_accept_answer(&mut self, end: End, sdp: &Sdp) {
        let partner = read_sdp(sdp).expect("answers name their maker");
        let Some(connection) = self.connections.get_mut(&end).filter(|connection| !connection.is_closed)
        else {
            return;
        };
        connection.partner = Some(partner);
        if self.is_path_dead(end) {
            for end in [end, partner] {
                self.lose_path(end);
            }
            return;
        }
        for (end, other) in [(end, partner), (partner, end)] {
            let connection = self.connections.get_mut(&end).expect("the path is not dead");
            connection.is_connected = true;
            let connected = PeerEvent::Connected { local: fingerprint(end), remote: fingerprint(other) };
            let address = SocketAddr::from(([192, 0, 2, 1], 9));
            let path = Path { kind: PathKind::Direct, local: address, remote: address, rtt: None };
            for event in [connected, PeerEvent::Path(path)] {
                self.in_order(Way::Connection(end), Delivery::Rtc { end, event });
            }
            self.open_channel(end, Channel::Fast);
        }
        let pending = std::mem::take(&mut self.connections.get_mut(&end).expect("above").pending_channels);
        for channel in pending {
            self.handle_open_channel(end, channel);
        }
    }

    fn handle_open_channel(&mut self, end: End, channel: Channel) {
        let Some(connection) = self.connections.get_mut(&end).filter(|connection| !connection.is_closed)
        else {
            return;
        };
        if !connection.is_connected {
            connection.pending_channels.push(channel);
            return;
        }
        let ends = [Some(end), connection.partner];
        for end in ends.into_iter().flatten() {
            self.open_channel(end, channel);
        }
    }

    /// Channels are announced after the connection, each in its own time.
    fn open_channel(&mut self, end: End, channel: Channel) {
        let delay = self.delay();
        let connected = self.ways.get(&Way::Connection(end)).copied().unwrap_or(self.now);
        let (at, way) = (connected.max(self.now) + delay, Way::Channel(end, channel));
        self.in_order_from(at, way, Delivery::Rtc { end, event: PeerEvent::ChannelOpen(channel) });
        if channel == Channel::Bulk {
            self.in_order(way, Delivery::Rtc { end, event: PeerEvent::Writable { bytes: 1 << 20 } });
        }
    }

    fn handle_send(&mut self, end: End, channel: Channel, payload: Payload) {
        let Some(connection) = self.connections.get(&end) else { return };
        let (is_up, other) = (connection.is_connected && !connection.is_closed, connection.partner);
        let Some(other) = other.filter(|_| is_up) else { return };
        self.assert_may_be_said(end.0, other.0, channel, &payload);
        if self.is_cut(end.0, other.0) {
            self.held_back.push((end, channel, payload));
        } else if !self.is_path_dead(end) {
            let event = PeerEvent::Message { channel, payload };
            self.in_order(Way::Channel(other, channel), Delivery::Rtc { end: other, event });
        }
    }

    fn handle_close(&mut self, end: End) {
        let dead = self.is_path_dead(end);
        let Some(connection) = self.connections.get_mut(&end) else { return };
        let (was_connected, partner) = (connection.is_connected, connection.partner);
        connection.is_closed = true;
        self.in_order(
            Way::Connection(end),
            Delivery::Rtc { end, event: PeerEvent::Closed(PeerClosed::Local) },
        );
        let Some(other) = partner else { return };
        if !was_connected || dead {
            return self.lose_path(other);
        }
        // What was sent last usually arrives before the end, but nothing says that it must.
        let mut at = self.now + self.delay();
        if self.rng.random_ratio(4, 5) {
            let channels =
                [Channel::Fast, Channel::Control, Channel::Bulk].map(|channel| Way::Channel(other, channel));
            let last = channels.iter().filter_map(|way| self.ways.get(way)).max();
            at = last.map_or(at, |last| at.max(*last));
        }
        let event = PeerEvent::Closed(PeerClosed::Remote);
        self.in_order_from(at, Way::Connection(other), Delivery::Rtc { end: other, event });
    }

    fn lose_paths(&mut self, is_lost: impl Fn(PeerNo, PeerNo) -> bool) {
        let is_lost = |end: &End, connection: &Connection| {
            !connection.is_closed && connection.partner.is_some_and(|other| is_lost(end.0, other.0))
        };
        let ends: Vec<End> =
            self.connections.iter().filter(|(end, c)| is_lost(end, c)).map(|(end, _)| *end).collect();
        for end in ends {
            self.lose_path(end);
        }
    }

    fn lose_path(&mut self, end: End) {
        self.later(CONSENT_LOST, Delivery::IceNews { end, event: PeerEvent::Disconnected });
        let failed = PeerEvent::Closed(PeerClosed::IceFailed);
        self.later(ICE_FAILED, Delivery::IceNews { end, event: failed });
    }
}

fn read_sdp(sdp: &Sdp) -> Option<End> {
    let line = sdp.as_str().lines().find_map(|line| line.strip_prefix("s="))?;
    let (peer, key) = line.split_once(' ')?;
    Some((peer.parse().ok()?, LinkKey(key.parse().ok()?)))
}

fn fingerprint((peer, _): End) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(peer as u64 + 1).to_le_bytes());
    Fingerprint(bytes)
}
