//! A world on a virtual clock: meshes, one signaling server, and connections that behave like WebRTC as far as the
//! machines can tell.
//!
//! Sockets deliver in order, with a random delay each; connections too. What was on its way when a socket broke is lost.
//! Everything random comes from one seed, so a failing run can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fast_rtc_swarm::core::access::Grant;
use fast_rtc_swarm::core::link::{CloseReason, Deadline, Identity};
use fast_rtc_swarm::core::mesh::{self, Config, Event, Mesh, To};
use fast_rtc_swarm::core::peer::{
    Channel, Fingerprint, LinkKey, Path, PathKind, Payload, PeerClosed, PeerCommand, PeerEvent,
};
use fast_rtc_swarm::core::room::{self, Limits, Rooms, SocketId};
use fast_rtc_swarm::wire::{Candidate, ClientSignal, RoomId, RoomKey, Sdp, ServerSignal, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A peer's number in the world. Never used twice: a restarted peer is a new one with the old id.
pub type PeerNo = usize;

/// When ICE notices that nothing comes any more, and when it gives up.
const CONSENT_LOST: Duration = Duration::from_secs(5);
const ICE_FAILED: Duration = Duration::from_secs(15);

/// One end of a connection.
type End = (PeerNo, LinkKey);

#[derive(Debug)]
enum Delivery {
    ToServer {
        socket: SocketId,
        signal: ClientSignal,
    },
    ToPeer {
        peer: PeerNo,
        socket: SocketId,
        signal: ServerSignal,
    },
    SocketOpens {
        peer: PeerNo,
    },
    PeerSeesSocketLost {
        peer: PeerNo,
        socket: SocketId,
    },
    ServerSeesSocketLost {
        socket: SocketId,
    },
    Rtc {
        end: End,
        event: PeerEvent,
    },
    /// The other end is gone without a word: said only if it still is.
    IceNews {
        end: End,
        event: PeerEvent,
    },
    Unfreeze {
        peer: PeerNo,
    },
}

pub struct Peer {
    pub id: UserId,
    pub mesh: Mesh,
    pub events: Vec<Event>,
    socket: Option<SocketId>,
    alive: bool,
    frozen: bool,
    /// What came while the process was frozen.
    backlog: Vec<Delivery>,
    reconnects: bool,
}

#[derive(Debug, Default)]
struct Connection {
    partner: Option<End>,
    is_connected: bool,
    pending_channels: Vec<Channel>,
    is_closed: bool,
}

pub struct World {
    pub now: Instant,
    pub rooms: Rooms,
    pub peers: Vec<Peer>,
    pub sent_to_server: u64,
    rng: StdRng,
    max_delay: Duration,
    queue: BTreeMap<(Instant, u64), Delivery>,
    sequence: u64,
    /// The latest arrival promised on each ordered way.
    ways: BTreeMap<String, Instant>,
    sockets: BTreeMap<SocketId, PeerNo>,
    next_socket: u64,
    connections: BTreeMap<End, Connection>,
    cut_pairs: BTreeSet<(UserId, UserId)>,
    server_seed: u8,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with_limits(seed, Limits::default())
    }

    pub fn with_limits(seed: u64, limits: Limits) -> Self {
        Self {
            now: Instant::now(),
            rooms: Rooms::new(limits, [7; 32]),
            peers: Vec::new(),
            sent_to_server: 0,
            rng: StdRng::seed_from_u64(seed),
            max_delay: Duration::from_millis(80),
            queue: BTreeMap::new(),
            sequence: 0,
            ways: BTreeMap::new(),
            sockets: BTreeMap::new(),
            next_socket: 0,
            connections: BTreeMap::new(),
            cut_pairs: BTreeSet::new(),
            server_seed: 7,
        }
    }

    /// A peer in room `room` that connects at once. Returns its number.
    pub fn join(&mut self, id: &str, room: &str, key: Option<[u8; 16]>) -> PeerNo {
        let no = self.peers.len();
        let id = UserId::new(id).expect("test ids are ids");
        let identity = Identity {
            me: id.clone(),
            name: format!("name-of-{id}"),
            room: RoomId::new(room).expect("test rooms are rooms"),
            key: key.map(RoomKey::from_random),
            allow_unverified: false,
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&(no as u64 + 1).to_le_bytes());
        seed[8..16].copy_from_slice(&self.rng.random::<[u8; 8]>());
        let mesh = Mesh::new(self.now, Config { identity, peer_buffer: 1, max_peers: 200, seed });
        let peer = Peer {
            id,
            mesh,
            events: Vec::new(),
            socket: None,
            alive: true,
            frozen: false,
            backlog: Vec::new(),
            reconnects: true,
        };
        self.peers.push(peer);
        self.drain_peer(no);
        self.later(Duration::ZERO, Delivery::SocketOpens { peer: no });
        no
    }

    /// Leaves in an orderly way.
    pub fn leave(&mut self, no: PeerNo) {
        self.peers[no].reconnects = false;
        self.input(no, mesh::Input::Close);
        // What the peer said last still travels; then its process ends.
        let delay = self.max_delay * 4;
        self.run_for(delay);
        self.crash(no);
    }

    /// Ends the process without a word, as SIGKILL does. The kernel closes its socket.
    pub fn crash(&mut self, no: PeerNo) {
        self.peers[no].alive = false;
        self.break_socket(no);
        let orphaned: Vec<End> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.partner.is_some_and(|(peer, _)| peer == no))
            .map(|(end, _)| *end)
            .collect();
        for end in orphaned {
            self.lose_path(end);
        }
    }

    /// Breaks the socket; either side learns of it at its own time.
    pub fn break_socket(&mut self, no: PeerNo) {
        let Some(socket) = self.peers[no].socket.take() else { return };
        self.sockets.remove(&socket);
        let (soon, later) = (self.delay(), self.delay() * 20);
        self.later(soon, Delivery::ServerSeesSocketLost { socket });
        self.later(later, Delivery::PeerSeesSocketLost { peer: no, socket });
    }

    /// Stops the process for a while (SIGSTOP); sockets and connections stay.
    pub fn freeze(&mut self, no: PeerNo, time: Duration) {
        self.peers[no].frozen = true;
        self.later(time, Delivery::Unfreeze { peer: no });
    }

    /// The server process is replaced by a new one that knows nothing.
    pub fn restart_server(&mut self) {
        self.server_seed += 1;
        self.rooms = Rooms::new(Limits::default(), [self.server_seed; 32]);
        for no in 0..self.peers.len() {
            if let Some(socket) = self.peers[no].socket.take() {
                self.sockets.remove(&socket);
                let delay = self.delay();
                self.later(delay, Delivery::PeerSeesSocketLost { peer: no, socket });
            }
        }
    }

    /// No packet passes between the two any more, or again.
    pub fn set_path(&mut self, a: PeerNo, b: PeerNo, works: bool) {
        let pair = self.pair(a, b);
        if works {
            self.cut_pairs.remove(&pair);
            return;
        }
        self.cut_pairs.insert(pair);
        let between = |end: &End, connection: &Connection| {
            connection.partner.is_some_and(|(other, _)| (end.0, other) == (a, b) || (end.0, other) == (b, a))
        };
        let ends: Vec<End> =
            self.connections.iter().filter(|(end, c)| between(end, c)).map(|(end, _)| *end).collect();
        for end in ends {
            self.lose_path(end);
        }
    }

    pub fn say(&mut self, no: PeerNo, text: &str) {
        self.input(no, mesh::Input::Say { text: text.into(), to: To::Everyone });
    }

    pub fn input(&mut self, no: PeerNo, input: mesh::Input) {
        self.peers[no].mesh.handle(self.now, input);
        self.drain_peer(no);
    }

    /// A raw message of a client that is no mesh, on a socket of its own.
    pub fn raw_socket(&mut self) -> SocketId {
        let socket = self.open_socket();
        self.drain_rooms();
        socket
    }

    pub fn raw_signal(&mut self, socket: SocketId, signal: ClientSignal) {
        self.rooms.handle(self.now, room::Input::Signal { socket, signal });
        self.drain_rooms();
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_moment().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    /// Lets so much time pass that every retry and grace period is over.
    pub fn settle(&mut self) {
        self.run_for(Duration::from_secs(240));
    }

    pub fn alive(&self) -> Vec<PeerNo> {
        (0..self.peers.len()).filter(|no| self.peers[*no].alive).collect()
    }

    /// The lines `no` was shown, as `from: text`.
    pub fn lines(&self, no: PeerNo) -> Vec<String> {
        let line = |event: &Event| match event {
            Event::Text { from, text, .. } => Some(format!("{from}: {text}")),
            _ => None,
        };
        self.peers[no].events.iter().filter_map(line).collect()
    }

    /// The invariants that hold once things are quiet, among the live members of one room that share a key.
    pub fn assert_full_mesh(&self, members: &[PeerNo]) {
        for &a in members {
            let ready: BTreeSet<&UserId> = self.peers[a].mesh.ready_peers().collect();
            let expected: BTreeSet<&UserId> =
                members.iter().filter(|b| **b != a).map(|b| &self.peers[*b].id).collect();
            assert_eq!(ready, expected, "who {} is connected to", self.peers[a].id);
            self.assert_nothing_left_over(a, expected.len());
            self.assert_events_agree(a, &expected);
        }
    }

    fn assert_nothing_left_over(&self, no: PeerNo, peers: usize) {
        let mesh = &self.peers[no].mesh;
        // A replaced offer is kept for a moment in case it was taken meanwhile.
        let offers = mesh.link_count() - peers;
        assert!(
            (1..=2).contains(&offers),
            "{} holds {offers} connections besides its peers'",
            self.peers[no].id
        );
        match mesh.poll_timeout() {
            None | Some((_, mesh::Reason::Link(_, Deadline::OfferAge | Deadline::Withdrawn))) => {}
            Some((_, reason)) => panic!("{} still waits for {reason:?}", self.peers[no].id),
        }
        let open = self.connections.iter().filter(|(end, c)| end.0 == no && !c.is_closed).count();
        assert_eq!(open, mesh.link_count(), "WebRTC connections and links of {}", self.peers[no].id);
    }

    /// What faces were told adds up to the peers that are there.
    fn assert_events_agree(&self, no: PeerNo, expected: &BTreeSet<&UserId>) {
        let mut shown = BTreeSet::new();
        for event in &self.peers[no].events {
            match event {
                Event::Opened { peer, .. } => assert!(shown.insert(peer), "{peer} opened twice"),
                Event::Closed { peer, .. } => {
                    assert!(shown.remove(peer), "{peer} closed without having opened")
                }
                Event::Text { from, .. } => assert!(shown.contains(from), "{from} spoke without being open"),
                _ => {}
            }
        }
        assert_eq!(&shown, expected, "what {} was told", self.peers[no].id);
    }

    fn next_moment(&self) -> Option<Instant> {
        let deliveries = self.queue.first_key_value().map(|((at, _), _)| *at);
        let server = self.rooms.poll_timeout().map(|(at, _)| at);
        let awake = |peer: &&Peer| peer.alive && !peer.frozen;
        let peers =
            self.peers.iter().filter(awake).filter_map(|peer| peer.mesh.poll_timeout()).map(|(at, _)| at);
        peers.chain(deliveries).chain(server).min()
    }

    fn step(&mut self) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let delivery = entry.remove();
            self.deliver(delivery);
        }
        self.rooms.handle_timeout(self.now);
        self.drain_rooms();
        for no in 0..self.peers.len() {
            let peer = &mut self.peers[no];
            if peer.alive && !peer.frozen {
                peer.mesh.handle_timeout(self.now);
                self.drain_peer(no);
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let to = match &delivery {
            Delivery::ToServer { .. } | Delivery::ServerSeesSocketLost { .. } | Delivery::Unfreeze { .. } => {
                None
            }
            Delivery::ToPeer { peer, .. }
            | Delivery::SocketOpens { peer }
            | Delivery::PeerSeesSocketLost { peer, .. } => Some(*peer),
            Delivery::Rtc { end, .. } | Delivery::IceNews { end, .. } => Some(end.0),
        };
        match to {
            Some(no) if !self.peers[no].alive => {}
            Some(no) if self.peers[no].frozen => self.peers[no].backlog.push(delivery),
            Some(_) | None => self.deliver_now(delivery),
        }
    }

    fn deliver_now(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::ToServer { socket, signal } => {
                self.rooms.handle(self.now, room::Input::Signal { socket, signal });
                self.drain_rooms();
            }
            Delivery::ToPeer { peer, socket, signal } => {
                if self.peers[peer].socket == Some(socket) {
                    self.rooms.handle(self.now, room::Input::Seen(socket));
                    self.drain_rooms();
                    self.input(peer, mesh::Input::Signal(signal));
                }
            }
            Delivery::SocketOpens { peer } => self.handle_socket_opens(peer),
            Delivery::PeerSeesSocketLost { peer, socket } => self.handle_peer_lost_socket(peer, socket),
            Delivery::ServerSeesSocketLost { socket } => {
                self.rooms.handle(self.now, room::Input::Lost(socket));
                self.drain_rooms();
            }
            Delivery::Rtc { end, event } => self.rtc_event(end, event),
            Delivery::IceNews { end, event } => {
                if self.is_path_dead(end) {
                    self.rtc_event(end, event);
                }
            }
            Delivery::Unfreeze { peer } => {
                self.peers[peer].frozen = false;
                for delivery in std::mem::take(&mut self.peers[peer].backlog) {
                    self.deliver(delivery);
                }
            }
        }
    }

    fn handle_socket_opens(&mut self, no: PeerNo) {
        if self.peers[no].socket.is_some() || !self.peers[no].reconnects {
            return;
        }
        let socket = self.open_socket();
        self.sockets.insert(socket, no);
        self.peers[no].socket = Some(socket);
        self.drain_rooms();
        self.input(no, mesh::Input::SignalingUp);
    }

    fn handle_peer_lost_socket(&mut self, no: PeerNo, socket: SocketId) {
        if self.peers[no].socket.is_some_and(|current| current != socket) {
            return;
        }
        self.peers[no].socket = None;
        self.input(no, mesh::Input::SignalingDown);
        let was_refused = self.peers[no].events.iter().any(|event| matches!(event, Event::Refused { .. }));
        if self.peers[no].reconnects && !was_refused {
            let pause = Duration::from_millis(self.rng.random_range(100..3000));
            self.later(pause, Delivery::SocketOpens { peer: no });
        }
    }

    fn open_socket(&mut self) -> SocketId {
        self.next_socket += 1;
        let socket = SocketId(self.next_socket);
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.rooms.handle(self.now, room::Input::Connected { socket, address, grant: Grant::EveryRoom });
        socket
    }

    fn drain_rooms(&mut self) {
        while let Some(output) = self.rooms.poll() {
            match output {
                room::Output::Send { socket, signal } => {
                    if let Some(&peer) = self.sockets.get(&socket) {
                        self.in_order(format!("down {socket:?}"), Delivery::ToPeer { peer, socket, signal });
                    }
                }
                room::Output::Ping(socket) => self.pong(socket),
                room::Output::Close { socket, .. } => self.handle_server_closes(socket),
            }
        }
    }

    /// A process that runs answers a ping.
    fn pong(&mut self, socket: SocketId) {
        if self.sockets.get(&socket).is_some_and(|no| self.peers[*no].alive && !self.peers[*no].frozen) {
            self.rooms.handle(self.now, room::Input::Seen(socket));
        }
    }

    fn handle_server_closes(&mut self, socket: SocketId) {
        if let Some(peer) = self.sockets.remove(&socket) {
            self.in_order(format!("down {socket:?}"), Delivery::PeerSeesSocketLost { peer, socket });
        }
    }

    fn drain_peer(&mut self, no: PeerNo) {
        while let Some(output) = self.peers[no].mesh.poll() {
            match output {
                mesh::Output::Signal(signal) => self.send_signal(no, signal),
                mesh::Output::Peer(key, command) => self.rtc_command((no, key), command),
                mesh::Output::Event(event) => self.peers[no].events.push(event),
            }
        }
    }

    fn send_signal(&mut self, no: PeerNo, signal: ClientSignal) {
        let text = serde_json::to_string(&signal).expect("signals are JSON");
        let signal = serde_json::from_str(&text).expect("a signal survives the wire");
        self.sent_to_server += 1;
        if let Some(socket) = self.peers[no].socket {
            self.in_order(format!("up {socket:?}"), Delivery::ToServer { socket, signal });
        }
    }

    fn rtc_command(&mut self, end: End, command: PeerCommand) {
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

    fn describe(&mut self, end: End) {
        let sdp = Sdp::new(format!("v=0\r\ns={} {}\r\n", end.0, end.1.0)).expect("short").with_marker();
        let candidate = Candidate {
            candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host".into(),
            sdp_mid: Some("0".into()),
            sdp_m_line_index: Some(0),
            username_fragment: None,
        };
        let way = format!("rtc {end:?}");
        self.in_order(way.clone(), Delivery::Rtc { end, event: PeerEvent::Description(sdp) });
        self.in_order(way.clone(), Delivery::Rtc { end, event: PeerEvent::Candidate(Some(candidate)) });
        self.in_order(way, Delivery::Rtc { end, event: PeerEvent::Candidate(None) });
    }

    fn handle_accept_answer(&mut self, end: End, sdp: &Sdp) {
        let partner = read_sdp(sdp).expect("answers name their maker");
        self.connections.get_mut(&end).expect("commands follow creation").partner = Some(partner);
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
            for event in [connected, PeerEvent::Path(path), PeerEvent::ChannelOpen(Channel::Fast)] {
                self.in_order(format!("rtc {end:?}"), Delivery::Rtc { end, event });
            }
        }
        let pending = std::mem::take(&mut self.connections.get_mut(&end).expect("above").pending_channels);
        for channel in pending {
            self.handle_open_channel(end, channel);
        }
    }

    fn handle_open_channel(&mut self, end: End, channel: Channel) {
        let connection = self.connections.get_mut(&end).expect("commands follow creation");
        if !connection.is_connected {
            connection.pending_channels.push(channel);
            return;
        }
        let ends = [Some(end), connection.partner];
        for end in ends.into_iter().flatten() {
            self.in_order(
                format!("rtc {end:?}"),
                Delivery::Rtc { end, event: PeerEvent::ChannelOpen(channel) },
            );
            if channel == Channel::Bulk {
                let event = PeerEvent::Writable { bytes: 1 << 20 };
                self.in_order(format!("rtc {end:?}"), Delivery::Rtc { end, event });
            }
        }
    }

    fn handle_send(&mut self, end: End, channel: Channel, payload: Payload) {
        let connection = &self.connections[&end];
        if connection.is_connected && !connection.is_closed && !self.is_path_dead(end) {
            let other = connection.partner.expect("a connected end has a partner");
            let event = PeerEvent::Message { channel, payload };
            self.in_order(format!("rtc {other:?}"), Delivery::Rtc { end: other, event });
        }
    }

    fn handle_close(&mut self, end: End) {
        let dead = self.is_path_dead(end);
        let connection = self.connections.get_mut(&end).expect("commands follow creation");
        let (was_connected, partner) = (connection.is_connected, connection.partner);
        connection.is_closed = true;
        self.in_order(
            format!("rtc {end:?}"),
            Delivery::Rtc { end, event: PeerEvent::Closed(PeerClosed::Local) },
        );
        let Some(other) = partner else { return };
        if was_connected && !dead {
            let event = PeerEvent::Closed(PeerClosed::Remote);
            self.in_order(format!("rtc {other:?}"), Delivery::Rtc { end: other, event });
        } else {
            self.lose_path(other);
        }
    }

    fn rtc_event(&mut self, end: End, event: PeerEvent) {
        let Some(connection) = self.connections.get_mut(&end) else { return };
        if matches!(event, PeerEvent::Closed(_)) {
            connection.is_closed = true;
        } else if connection.is_closed {
            return;
        }
        self.input(end.0, mesh::Input::Peer(end.1, event));
    }

    fn lose_path(&mut self, end: End) {
        self.later(CONSENT_LOST, Delivery::IceNews { end, event: PeerEvent::Disconnected });
        let failed = PeerEvent::Closed(PeerClosed::IceFailed);
        self.later(ICE_FAILED, Delivery::IceNews { end, event: failed });
    }

    fn is_path_dead(&self, end: End) -> bool {
        let Some(other) = self.connections.get(&end).and_then(|connection| connection.partner) else {
            return false;
        };
        let is_there = self.connections.get(&other).is_some_and(|connection| !connection.is_closed);
        let knows_us = self.connections.get(&other).is_some_and(|connection| connection.partner == Some(end));
        let is_waiting = self.connections.get(&other).is_some_and(|connection| connection.partner.is_none());
        !is_there || !self.peers[other.0].alive || !(knows_us || is_waiting) || self.is_cut(end.0, other.0)
    }

    fn is_cut(&self, a: PeerNo, b: PeerNo) -> bool {
        self.cut_pairs.contains(&self.pair(a, b))
    }

    fn pair(&self, a: PeerNo, b: PeerNo) -> (UserId, UserId) {
        let (a, b) = (self.peers[a].id.clone(), self.peers[b].id.clone());
        if a < b { (a, b) } else { (b, a) }
    }

    fn delay(&mut self) -> Duration {
        self.max_delay.mul_f64(self.rng.random_range(0.05..1.0))
    }

    fn later(&mut self, delay: Duration, delivery: Delivery) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), delivery);
    }

    /// Arrives after everything that was sent the same way before.
    fn in_order(&mut self, way: String, delivery: Delivery) {
        let at = self.now + self.delay();
        let latest = self.ways.entry(way).or_insert(at);
        *latest = at.max(*latest);
        self.sequence += 1;
        self.queue.insert((*latest, self.sequence), delivery);
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

/// Whether the peer was told that `other` failed or was refused for this reason.
pub fn was_told_of(peer: &Peer, other: &UserId, expected: CloseReason) -> bool {
    peer.events
        .iter()
        .any(|event| matches!(event, Event::Failed { peer, reason } if peer == other && *reason == expected))
}
