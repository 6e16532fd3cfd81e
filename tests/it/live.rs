//! Members made of the real mesh on the real driver, over loopback. Whoever tests them is their server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use fast_rtc_swarm::core::link::Identity;
use fast_rtc_swarm::core::mesh::{Config, Event, Input, Mesh, Output};
use fast_rtc_swarm::core::peer::{Channel, LinkKey, PeerCommand, PeerEvent};
use fast_rtc_swarm::io::rtc::{Bind, RtcConfig, RtcDriver};
use fast_rtc_swarm::wire::{ClientSignal, RoomId, RoomKey, ServerSignal, UserId};
use tokio::sync::mpsc;

/// Longer than any handshake over loopback takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn driver() -> (RtcDriver, mpsc::Receiver<(LinkKey, PeerEvent)>) {
    let bind = Bind::Addresses(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    RtcDriver::new(RtcConfig { bind, mdns: false, ..RtcConfig::default() }).expect("loopback is there")
}

/// When the first of them wants to be woken.
pub fn next_wake(members: &[Member]) -> Option<tokio::time::Instant> {
    members.iter().filter_map(|member| member.mesh.poll_timeout()).map(|(at, _)| at.into()).min()
}

/// The mesh, its connections, and what its user was told.
pub struct Member {
    pub mesh: Mesh,
    pub driver: RtcDriver,
    pub events: mpsc::Receiver<(LinkKey, PeerEvent)>,
    pub told: Vec<Event>,
    pub signals: VecDeque<ClientSignal>,
    /// Connections that were made and are not over.
    pub connections: BTreeSet<LinkKey>,
    /// How many bulk frames were sent on each of them.
    pub bulk_sent: BTreeMap<LinkKey, usize>,
}

impl Member {
    pub fn new(name: &str, key: Option<RoomKey>) -> Self {
        let (driver, events) = driver();
        let identity = Identity {
            me: UserId::new(name).expect("an id"),
            name: name.into(),
            room: RoomId::new("attic").expect("an id"),
            key,
            allow_unverified: false,
        };
        let seed = *blake3::hash(name.as_bytes()).as_bytes();
        let config = Config { identity, peer_buffer: 1, max_peers: 4, seed };
        let mut member = Self {
            mesh: Mesh::new(Instant::now(), config),
            driver,
            events,
            told: Vec::new(),
            signals: VecDeque::new(),
            connections: BTreeSet::new(),
            bulk_sent: BTreeMap::new(),
        };
        member.hear(Input::SignalingUp);
        member
    }

    pub fn hear(&mut self, input: Input) {
        if let Input::Peer(key, PeerEvent::Closed(_)) = &input {
            self.connections.remove(key);
        }
        self.mesh.handle(Instant::now(), input);
        self.carry_out();
    }

    pub fn signal(&mut self, signal: ServerSignal) {
        self.hear(Input::Signal(signal));
    }

    pub fn wake(&mut self) {
        self.mesh.handle_timeout(Instant::now());
        self.carry_out();
    }

    pub fn is_open(&self) -> bool {
        self.told.iter().any(|event| matches!(event, Event::Opened { .. }))
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.mesh.poll() {
            match output {
                Output::Signal(signal) => self.signals.push_back(signal),
                Output::Peer(key, command) => self.command(key, command),
                Output::Event(event) => self.told.push(event),
            }
        }
    }

    fn command(&mut self, key: LinkKey, command: PeerCommand) {
        match &command {
            PeerCommand::CreateOffer | PeerCommand::AcceptOffer { .. } => {
                self.connections.insert(key);
            }
            PeerCommand::Send { channel: Channel::Bulk, .. } => *self.bulk_sent.entry(key).or_default() += 1,
            _ => {}
        }
        self.driver.command(key, command);
    }
}
