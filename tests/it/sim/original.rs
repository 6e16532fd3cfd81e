//! A peer of the second generation, as far as the mesh and the room can tell: no marker, no `have`, no control channel.
//! It does not retry, closes its links when its socket breaks, and does not come back.

use std::collections::{BTreeMap, VecDeque};

use fast_rtc_swarm::core::mesh::Output;
use fast_rtc_swarm::core::peer::{Channel, LinkKey, Payload, PeerCommand, PeerEvent};
use fast_rtc_swarm::wire::signal::OfferSignal;
use fast_rtc_swarm::wire::{ClientSignal, Init, LinkId, RoomId, ServerSignal, UserId};

/// The message with which a published library closes a connection.
const CLOSE: &str = r#"@fast/{"type":"close"}"#;

#[derive(Debug)]
struct Connection {
    id: LinkId,
    peer: Option<UserId>,
    is_offerer: bool,
    is_open: bool,
}

#[derive(Debug)]
pub struct Original {
    no: usize,
    me: UserId,
    room: RoomId,
    connections: BTreeMap<LinkKey, Connection>,
    next: u64,
    is_over: bool,
    /// What it was told, by whom.
    pub heard: Vec<(UserId, String)>,
    outbox: VecDeque<Output>,
}

impl Original {
    pub fn new(no: usize, me: UserId, room: RoomId) -> Self {
        Self {
            no,
            me,
            room,
            connections: BTreeMap::new(),
            next: 0,
            is_over: false,
            heard: Vec::new(),
            outbox: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    pub fn open_peers(&self) -> impl Iterator<Item = &UserId> {
        self.connections.values().filter(|connection| connection.is_open).filter_map(|c| c.peer.as_ref())
    }

    /// The first offer goes out before `init`, which is sent on a timer.
    pub fn handle_socket_open(&mut self) {
        self.offer();
    }

    pub fn handle_init_timer(&mut self) {
        if !self.is_over {
            let (user_id, room_id) = (self.me.clone(), self.room.clone());
            self.signal(ClientSignal::Init(Init { user_id, room_id, have: None, resume: None }));
        }
    }

    pub fn handle_signal(&mut self, signal: ServerSignal) {
        match signal {
            ServerSignal::Accept { id, user_id, signals } => self.answer(id, user_id, signals),
            ServerSignal::OfferAccepted { id, user_id } => {
                if let Some(connection) = self.connections.values_mut().find(|c| c.id == id) {
                    connection.peer = Some(user_id);
                }
            }
            ServerSignal::OfferRequest => self.offer(),
            ServerSignal::Answer { id, sdp } => self.command(&id, PeerCommand::AcceptAnswer { sdp }),
            ServerSignal::LeaveSwarm { id } => {
                self.command(&id, PeerCommand::Close);
                self.connections.retain(|_, connection| connection.id != id);
            }
            ServerSignal::Candidate { .. }
            | ServerSignal::Offer { .. }
            | ServerSignal::SignalError { .. } => {}
            ServerSignal::Welcome { .. } | ServerSignal::Gone { .. } => {
                panic!("an original was sent {signal:?}")
            }
        }
    }

    pub fn handle_peer(&mut self, key: LinkKey, event: PeerEvent) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let id = connection.id.clone();
        match event {
            PeerEvent::Description(sdp) if connection.is_offerer => {
                self.signal(ClientSignal::Offer { id, sdp })
            }
            PeerEvent::Description(sdp) => self.signal(ClientSignal::Answer { id, sdp }),
            PeerEvent::Candidate(candidate) => self.signal(ClientSignal::Candidate { id, candidate }),
            PeerEvent::ChannelOpen(Channel::Fast) => connection.is_open = true,
            PeerEvent::ChannelOpen(channel) => panic!("{channel:?} was opened towards an original"),
            PeerEvent::Message { channel: Channel::Fast, payload: Payload::Text(text) } if text == CLOSE => {
                self.command(&id, PeerCommand::Close);
                self.connections.remove(&key);
            }
            PeerEvent::Message { payload: Payload::Text(text), .. } => {
                let from = connection.peer.clone().expect("a connected peer is known");
                self.heard.push((from, text));
            }
            PeerEvent::Closed(_) => drop(self.connections.remove(&key)),
            PeerEvent::Connected { .. }
            | PeerEvent::Message { payload: Payload::Binary(_), .. }
            | PeerEvent::Writable { .. }
            | PeerEvent::Strain(_)
            | PeerEvent::Path(_)
            | PeerEvent::Disconnected
            | PeerEvent::Reconnected => {}
        }
    }

    pub fn say(&mut self, text: &str) {
        let open: Vec<LinkId> =
            self.connections.values().filter(|c| c.is_open).map(|c| c.id.clone()).collect();
        for id in open {
            let payload = Payload::Text(text.to_owned());
            self.command(&id, PeerCommand::Send { channel: Channel::Fast, payload });
        }
    }

    pub fn leave(&mut self) {
        self.signal(ClientSignal::Close);
        self.handle_socket_lost();
    }

    pub fn handle_socket_lost(&mut self) {
        self.is_over = true;
        for key in std::mem::take(&mut self.connections).into_keys() {
            self.outbox.push_back(Output::Peer(key, PeerCommand::Close));
        }
    }

    fn offer(&mut self) {
        if self.is_over {
            return;
        }
        let key = self.insert(None, None);
        self.outbox.push_back(Output::Peer(key, PeerCommand::CreateOffer));
    }

    fn answer(&mut self, id: LinkId, peer: UserId, signals: Vec<OfferSignal>) {
        if self.is_over {
            return;
        }
        let key = self.insert(Some(id), Some(peer));
        for signal in signals {
            if let OfferSignal::Offer { sdp } = signal {
                self.outbox.push_back(Output::Peer(key, PeerCommand::AcceptOffer { sdp }));
            }
        }
    }

    fn insert(&mut self, id: Option<LinkId>, peer: Option<UserId>) -> LinkKey {
        self.next += 1;
        let key = LinkKey(self.next);
        let is_offerer = id.is_none();
        let id =
            id.unwrap_or_else(|| LinkId::new(format!("original-{}-{}", self.no, self.next)).expect("an id"));
        self.connections.insert(key, Connection { id, peer, is_offerer, is_open: false });
        key
    }

    fn command(&mut self, id: &LinkId, command: PeerCommand) {
        if let Some((key, _)) = self.connections.iter().find(|(_, connection)| connection.id == *id) {
            self.outbox.push_back(Output::Peer(*key, command));
        }
    }

    fn signal(&mut self, signal: ClientSignal) {
        self.outbox.push_back(Output::Signal(signal));
    }
}
