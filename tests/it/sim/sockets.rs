//! Sockets between peers and the server: how they open, carry, break and come back.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fast_rtc_swarm::core::access::Grant;
use fast_rtc_swarm::core::mesh::{self, Event};
use fast_rtc_swarm::core::network::ClientAddress;
use fast_rtc_swarm::core::room::{self, Limits, Rooms, SocketId};
use fast_rtc_swarm::wire::signal::ErrorCode;
use fast_rtc_swarm::wire::{ClientSignal, ServerSignal};
use rand::RngExt;

use super::{Delivery, PeerNo, Program, Way, World};

/// How a socket breaks.
#[derive(Debug, Clone, Copy)]
pub enum Break {
    /// Both sides learn of it soon; what was on its way to the server arrives.
    Clean,
    /// The server goes on believing in it for long: the peer is back before that.
    ServerLate,
    /// The peer goes on talking into it for long.
    PeerLate,
    /// Nothing that was on its way arrives; the server learns of it soon.
    MidMessage,
}

impl World {
    /// Breaks the socket; either side learns of it at its own time. Whatever the server sends meanwhile is lost.
    pub fn break_socket(&mut self, no: PeerNo, how: Break) {
        let Some(socket) = self.peers[no].socket.take() else { return };
        self.sockets.remove(&socket);
        let (server, peer) = match how {
            Break::Clean | Break::MidMessage => (self.delay(), self.delay() * 20),
            Break::ServerLate => (Duration::from_secs(20), self.delay()),
            Break::PeerLate => (self.delay(), Duration::from_secs(12)),
        };
        if let Break::MidMessage | Break::ServerLate = how {
            self.deaf.insert(socket);
        }
        self.in_order_from(self.now + server, Way::Up(socket), Delivery::ServerSeesSocketLost { socket });
        self.later(peer, Delivery::PeerSeesSocketLost { peer: no, socket });
    }

    /// The server process is replaced by a new one that knows nothing.
    pub fn restart_server(&mut self) {
        self.server_seed = self.server_seed.wrapping_add(1);
        self.rooms = Rooms::new(Limits::default(), [self.server_seed; 32]);
        for no in 0..self.peers.len() {
            if let Some(socket) = self.peers[no].socket.take() {
                self.sockets.remove(&socket);
                let delay = self.delay();
                self.later(delay, Delivery::PeerSeesSocketLost { peer: no, socket });
            }
        }
    }

    /// A client that is no mesh, on a socket of its own.
    pub fn raw_socket(&mut self) -> SocketId {
        let socket = self.open_socket();
        self.drain_rooms();
        socket
    }

    pub fn raw_signal(&mut self, socket: SocketId, signal: ClientSignal) {
        self.rooms.handle(self.now, room::Input::Signal { socket, signal });
        self.drain_rooms();
    }

    pub(super) fn handle_socket_opens(&mut self, no: PeerNo) {
        let peer = &mut self.peers[no];
        if peer.believed.is_some() || (peer.has_connected && !peer.reconnects) {
            return;
        }
        peer.has_connected = true;
        let socket = self.open_socket();
        self.sockets.insert(socket, no);
        self.peers[no].socket = Some(socket);
        self.peers[no].believed = Some(socket);
        self.drain_rooms();
        match &mut self.peers[no].program {
            Program::Ours(_) => self.input(no, mesh::Input::SignalingUp),
            Program::Original(original) => {
                original.handle_socket_open();
                self.drain_peer(no);
                let delay = self.delay();
                self.later(delay, Delivery::InitTimer { peer: no });
            }
        }
    }

    pub(super) fn signal_arrives(&mut self, no: PeerNo, socket: SocketId, signal: ServerSignal) {
        if self.peers[no].socket != Some(socket) {
            return;
        }
        self.rooms.handle(self.now, room::Input::Seen(socket));
        self.drain_rooms();
        match &mut self.peers[no].program {
            Program::Ours(_) => self.input(no, mesh::Input::Signal(signal)),
            Program::Original(original) => {
                original.handle_signal(signal);
                self.drain_peer(no);
            }
        }
    }

    pub(super) fn handle_peer_lost_socket(&mut self, no: PeerNo, socket: SocketId) {
        if self.peers[no].believed != Some(socket) {
            return;
        }
        self.peers[no].believed = None;
        self.peers[no].socket = None;
        match &mut self.peers[no].program {
            Program::Ours(_) => self.input(no, mesh::Input::SignalingDown),
            Program::Original(original) => {
                original.handle_socket_lost();
                self.drain_peer(no);
            }
        }
        let peer = &self.peers[no];
        let is_duplicate =
            |event: &Event| matches!(event, Event::Refused { code: Some(ErrorCode::DuplicateId), .. });
        let was_welcomed = peer.events.iter().any(|event| matches!(event, Event::Welcome { .. }));
        let gives_up = !peer.who.insists && !was_welcomed && peer.events.iter().any(is_duplicate);
        if peer.reconnects && !gives_up {
            let pause = Duration::from_millis(self.rng.random_range(100..3000));
            self.later(pause, Delivery::SocketOpens { peer: no });
        }
    }

    pub(super) fn send_signal(&mut self, no: PeerNo, signal: ClientSignal) {
        let text = serde_json::to_string(&signal).expect("signals are JSON");
        let signal = serde_json::from_str(&text).expect("a signal survives the wire");
        self.sent_to_server += 1;
        self.wants_sent += u64::from(matches!(signal, ClientSignal::Want { .. }));
        if let Some(socket) = self.peers[no].socket {
            self.in_order(Way::Up(socket), Delivery::ToServer { socket, signal });
        }
    }

    /// A process that runs answers a ping.
    pub(super) fn pong(&mut self, socket: SocketId) {
        if self.sockets.get(&socket).is_some_and(|no| self.peers[*no].alive && !self.peers[*no].frozen) {
            self.rooms.handle(self.now, room::Input::Seen(socket));
        }
    }

    pub(super) fn handle_server_closes(&mut self, socket: SocketId) {
        self.rooms.handle(self.now, room::Input::Lost(socket));
        if let Some(peer) = self.sockets.remove(&socket) {
            self.in_order(Way::Down(socket), Delivery::PeerSeesSocketLost { peer, socket });
        }
    }

    fn open_socket(&mut self) -> SocketId {
        self.next_socket += 1;
        let socket = SocketId(self.next_socket);
        let address = ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
        self.rooms.handle(self.now, room::Input::Connected { socket, address, grant: Grant::EveryRoom });
        socket
    }
}
