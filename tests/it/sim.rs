//! A world on a virtual clock: meshes, one signaling server, and connections that behave like WebRTC as far as the
//! machines can tell.
//!
//! Sockets deliver in order, with a random delay each, and so does each channel of a connection; what was on its way when
//! a socket broke is lost. Everything random comes from one seed, so a failing run can be repeated.

mod bulk;
mod check;
mod original;
mod rtc;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fast_rtc_swarm::core::link::{CloseReason, Identity};
use fast_rtc_swarm::core::mesh::{self, Config, Event, Mesh, To};
use fast_rtc_swarm::core::peer::{Channel, Payload, PeerEvent};
use fast_rtc_swarm::core::room::{self, Limits, Rooms, SocketId};
use fast_rtc_swarm::wire::{ClientSignal, RoomId, RoomKey, ServerSignal, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use bulk::Bulk;
use original::Original;
use rtc::{Connection, End};

pub use sockets::Break;

/// A peer's number in the world. Never used twice: a restarted peer is a new one with the old id.
pub type PeerNo = usize;

/// A room's key.
pub type Key = [u8; 16];

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
    InitTimer {
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
    /// Nothing comes from the other end any more: said only if that is still so.
    IceNews {
        end: End,
        event: PeerEvent,
    },
    Unfreeze {
        peer: PeerNo,
    },
}

/// Whatever keeps its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Up(SocketId),
    Down(SocketId),
    Connection(End),
    Channel(End, Channel),
}

/// Who comes.
#[derive(Debug, Clone)]
pub struct Newcomer {
    id: String,
    room: String,
    key: Option<Key>,
    is_original: bool,
    allow_unverified: bool,
    max_peers: usize,
    /// Comes back although the server says that its id is taken.
    insists: bool,
}

impl Newcomer {
    pub fn new(id: &str, room: &str, key: Option<Key>) -> Self {
        let (id, room) = (id.into(), room.into());
        Self { id, room, key, is_original: false, allow_unverified: false, max_peers: 200, insists: false }
    }

    pub fn original(id: &str, room: &str) -> Self {
        Self { is_original: true, ..Self::new(id, room, None) }
    }

    pub fn allowing_unverified(self) -> Self {
        Self { allow_unverified: true, ..self }
    }

    pub fn with_max_peers(self, max_peers: usize) -> Self {
        Self { max_peers, ..self }
    }

    pub fn insisting(self) -> Self {
        Self { insists: true, ..self }
    }
}

pub enum Program {
    Ours(Box<Mesh>),
    Original(Original),
}

pub struct Peer {
    pub id: UserId,
    pub program: Program,
    pub events: Vec<Event>,
    who: Newcomer,
    /// The socket that works.
    socket: Option<SocketId>,
    /// The socket that the peer takes for working.
    believed: Option<SocketId>,
    alive: bool,
    frozen: bool,
    /// What came while the process was frozen.
    backlog: Vec<Delivery>,
    reconnects: bool,
    has_connected: bool,
    /// Whether its candidates bind a NAT, so that its offers grow old soon.
    is_behind_nat: bool,
}

impl Peer {
    pub fn mesh(&self) -> &Mesh {
        match &self.program {
            Program::Ours(mesh) => mesh,
            Program::Original(_) => panic!("{} is no mesh", self.id),
        }
    }

    pub fn is_original(&self) -> bool {
        self.who.is_original
    }

    pub fn ready_peers(&self) -> BTreeSet<UserId> {
        match &self.program {
            Program::Ours(mesh) => mesh.ready_peers().cloned().collect(),
            Program::Original(original) => original.open_peers().cloned().collect(),
        }
    }
}

pub struct World {
    pub now: Instant,
    pub rooms: Rooms,
    pub peers: Vec<Peer>,
    pub sent_to_server: u64,
    pub wants_sent: u64,
    start: Instant,
    is_traced: bool,
    rng: StdRng,
    max_delay: Duration,
    queue: BTreeMap<(Instant, u64), Delivery>,
    sequence: u64,
    /// The latest arrival promised on each ordered way.
    ways: BTreeMap<Way, Instant>,
    sockets: BTreeMap<SocketId, PeerNo>,
    /// Sockets that carry nothing to the server any more, although it does not know yet.
    deaf: BTreeSet<SocketId>,
    next_socket: u64,
    connections: BTreeMap<End, Connection>,
    cut_pairs: BTreeSet<(PeerNo, PeerNo)>,
    /// What was said over cut paths.
    held_back: Vec<(End, Channel, Payload)>,
    bulk: Bulk,
    server_seed: u8,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with_limits(seed, Limits::default())
    }

    pub fn with_limits(seed: u64, limits: Limits) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            is_traced: std::env::var_os("SWARM_SIM_TRACE").is_some(),
            rooms: Rooms::new(limits, [7; 32]),
            peers: Vec::new(),
            sent_to_server: 0,
            wants_sent: 0,
            rng: StdRng::seed_from_u64(seed),
            max_delay: Duration::from_millis(80),
            queue: BTreeMap::new(),
            sequence: 0,
            ways: BTreeMap::new(),
            sockets: BTreeMap::new(),
            deaf: BTreeSet::new(),
            next_socket: 0,
            connections: BTreeMap::new(),
            cut_pairs: BTreeSet::new(),
            held_back: Vec::new(),
            bulk: Bulk::default(),
            server_seed: 7,
        }
    }

    /// How long a message may take, from now on.
    pub fn set_max_delay(&mut self, max_delay: Duration) {
        self.max_delay = max_delay;
    }

    /// One of our peers in room `room`, which connects at once. Returns its number.
    pub fn join(&mut self, id: &str, room: &str, key: Option<Key>) -> PeerNo {
        self.enter(Newcomer::new(id, room, key))
    }

    pub fn enter(&mut self, who: Newcomer) -> PeerNo {
        let no = self.peers.len();
        let id = UserId::new(&who.id).expect("test ids are ids");
        let room = RoomId::new(&who.room).expect("test rooms are rooms");
        let program = if who.is_original {
            Program::Original(Original::new(no, id.clone(), room))
        } else {
            let identity = Identity {
                me: id.clone(),
                name: format!("name-of-{id}"),
                room,
                key: who.key.map(RoomKey::from_random),
                allow_unverified: who.allow_unverified,
            };
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(no as u64 + 1).to_le_bytes());
            seed[8..16].copy_from_slice(&self.rng.random::<[u8; 8]>());
            let config = Config { identity, peer_buffer: 1, max_peers: who.max_peers, seed };
            Program::Ours(Box::new(Mesh::new(self.now, config)))
        };
        self.peers.push(Peer {
            id,
            program,
            events: Vec::new(),
            reconnects: !who.is_original,
            has_connected: false,
            who,
            socket: None,
            believed: None,
            alive: true,
            frozen: false,
            backlog: Vec::new(),
            is_behind_nat: self.rng.random(),
        });
        self.drain_peer(no);
        self.later(Duration::ZERO, Delivery::SocketOpens { peer: no });
        no
    }

    /// Leaves in an orderly way.
    pub fn leave(&mut self, no: PeerNo) {
        self.peers[no].reconnects = false;
        match &mut self.peers[no].program {
            Program::Ours(mesh) => mesh.handle(self.now, mesh::Input::Close),
            Program::Original(original) => original.leave(),
        }
        self.drain_peer(no);
        // What the peer said last still travels; then its process ends.
        let delay = self.max_delay * 4;
        self.run_for(delay);
        self.crash(no);
    }

    /// Ends the process without a word, as SIGKILL does. The kernel closes its socket.
    pub fn crash(&mut self, no: PeerNo) {
        self.peers[no].alive = false;
        self.break_socket(no, Break::Clean);
        self.fall_silent(no);
    }

    /// Stops the process for a while (SIGSTOP); sockets and connections stay, but nobody hears of it.
    pub fn freeze(&mut self, no: PeerNo, time: Duration) {
        self.peers[no].frozen = true;
        self.fall_silent(no);
        self.later(time, Delivery::Unfreeze { peer: no });
    }

    pub fn say(&mut self, no: PeerNo, text: &str) {
        match &mut self.peers[no].program {
            Program::Ours(_) => self.input(no, mesh::Input::Say { text: text.into(), to: To::Everyone }),
            Program::Original(original) => {
                original.say(text);
                self.drain_peer(no);
            }
        }
    }

    /// An input for one of our peers.
    pub fn input(&mut self, no: PeerNo, input: mesh::Input) {
        match &mut self.peers[no].program {
            Program::Ours(mesh) => mesh.handle(self.now, input),
            Program::Original(_) => panic!("an original has no such input: {input:?}"),
        }
        self.drain_peer(no);
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
        match &self.peers[no].program {
            Program::Ours(_) => self.peers[no].events.iter().filter_map(line).collect(),
            Program::Original(original) => {
                original.heard.iter().map(|(from, text)| format!("{from}: {text}")).collect()
            }
        }
    }

    fn next_moment(&self) -> Option<Instant> {
        let deliveries = self.queue.first_key_value().map(|((at, _), _)| *at);
        let server = self.rooms.poll_timeout().map(|(at, _)| at);
        let timeout = |peer: &Peer| match &peer.program {
            Program::Ours(mesh) if peer.alive && !peer.frozen => mesh.poll_timeout().map(|(at, _)| at),
            Program::Ours(_) | Program::Original(_) => None,
        };
        self.peers.iter().filter_map(timeout).chain(deliveries).chain(server).min()
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
            if let (true, false, Program::Ours(mesh)) = (peer.alive, peer.frozen, &mut peer.program) {
                mesh.handle_timeout(self.now);
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
            | Delivery::InitTimer { peer }
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
        self.trace(&delivery);
        match delivery {
            Delivery::ToServer { socket, signal } if !self.deaf.contains(&socket) => {
                self.rooms.handle(self.now, room::Input::Signal { socket, signal });
                self.drain_rooms();
            }
            Delivery::ToServer { .. } => {}
            Delivery::ToPeer { peer, socket, signal } => self.signal_arrives(peer, socket, signal),
            Delivery::SocketOpens { peer } => self.handle_socket_opens(peer),
            Delivery::InitTimer { peer } => {
                if let Program::Original(original) = &mut self.peers[peer].program {
                    original.handle_init_timer();
                }
                self.drain_peer(peer);
            }
            Delivery::PeerSeesSocketLost { peer, socket } => self.handle_peer_lost_socket(peer, socket),
            Delivery::ServerSeesSocketLost { socket } => {
                self.rooms.handle(self.now, room::Input::Lost(socket));
                self.drain_rooms();
            }
            Delivery::Rtc { end, event } => self.rtc_event(end, event),
            Delivery::IceNews { end, event } => {
                if self.is_path_silent(end) {
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

    fn drain_rooms(&mut self) {
        while let Some(output) = self.rooms.poll() {
            match output {
                room::Output::Send { socket, signal } => {
                    if let Some(&peer) = self.sockets.get(&socket) {
                        self.in_order(Way::Down(socket), Delivery::ToPeer { peer, socket, signal });
                    }
                }
                room::Output::Ping(socket) => self.pong(socket),
                room::Output::Close { socket, .. } => self.handle_server_closes(socket),
            }
        }
    }

    fn drain_peer(&mut self, no: PeerNo) {
        while let Some(output) = match &mut self.peers[no].program {
            Program::Ours(mesh) => mesh.poll(),
            Program::Original(original) => original.poll(),
        } {
            match output {
                mesh::Output::Signal(signal) => self.send_signal(no, signal),
                mesh::Output::Peer(key, command) => self.rtc_command((no, key), command),
                mesh::Output::Event(event) => {
                    self.trace(&(no, &event));
                    self.note_told(no, &event);
                    self.peers[no].events.push(event);
                }
            }
        }
        self.assert_stripes_have_links(no);
    }

    /// `SWARM_SIM_TRACE=1` shows what happens, on stderr.
    pub fn trace(&self, what: &impl std::fmt::Debug) {
        if self.is_traced {
            eprintln!("{:9.3} {what:?}", self.now.duration_since(self.start).as_secs_f64());
        }
    }

    fn delay(&mut self) -> Duration {
        self.max_delay.mul_f64(self.rng.random_range(0.05..1.0))
    }

    fn later(&mut self, delay: Duration, delivery: Delivery) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), delivery);
    }

    /// Arrives after everything that was sent the same way before.
    fn in_order(&mut self, way: Way, delivery: Delivery) {
        let at = self.now + self.delay();
        self.in_order_from(at, way, delivery);
    }

    fn in_order_from(&mut self, at: Instant, way: Way, delivery: Delivery) {
        let latest = self.ways.entry(way).or_insert(at);
        *latest = at.max(*latest);
        self.sequence += 1;
        self.queue.insert((*latest, self.sequence), delivery);
    }
}

/// Whether the peer was told that `other` failed or was refused for this reason.
pub fn was_told_of(peer: &Peer, other: &UserId, expected: CloseReason) -> bool {
    peer.events.iter().any(
        |event| matches!(event, Event::Failed { peer, reason, .. } if peer == other && *reason == expected),
    )
}
