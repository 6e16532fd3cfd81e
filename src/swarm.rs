//! The library: a full mesh over your own signaling.
//!
//! [`Swarm`] has the shape of the published JavaScript libraries: hand it what the signaling server says with
//! [`dispatch`](Swarm::dispatch), carry its [`SwarmEvent::Signal`]s to the server, and everything else is peers that open, close and
//! send data. It speaks to them and to the `swarm` program alike.
//!
//! ```no_run
//! use fast_rtc_swarm::{Swarm, SwarmConfig, SwarmEvent};
//!
//! # async fn example(mut from_server: tokio::sync::mpsc::Receiver<String>, to_server: tokio::sync::mpsc::Sender<String>) -> anyhow::Result<()> {
//! let (swarm, mut events) = Swarm::new(SwarmConfig::new("lobby")?)?;
//! loop {
//!     tokio::select! {
//!         Some(text) = from_server.recv() => swarm.dispatch(serde_json::from_str(&text)?).await?,
//!         event = events.recv() => match event {
//!             Some(SwarmEvent::Signal(signal)) => to_server.send(serde_json::to_string(&signal)?).await?,
//!             Some(SwarmEvent::Open(peer)) => swarm.broadcast(format!("welcome, {}", peer.id)).await?,
//!             Some(SwarmEvent::Data { from, message }) => println!("{}: {message:?}", from.id),
//!             Some(SwarmEvent::Close { peer, reason }) => println!("{} is gone: {reason:?}", peer.id),
//!             Some(SwarmEvent::Refused { peer, reason }) => println!("{peer:?} was refused: {reason:?}"),
//!             None => return Ok(()),
//!         }
//!     }
//! }
//! # }
//! ```

use bytes::Bytes;
use rand::RngExt;
use tokio::sync::mpsc;

use crate::core::link::Identity;
use crate::core::mesh;
use crate::core::transfer::{self, AcceptPolicy};
use crate::io::rtc::{RtcConfig, RtcError};
use crate::node::api::{Command, Event, To};
use crate::node::{self, NodeConfig, SignalingLink, SignalingNews};
use crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;
use crate::wire::{ClientSignal, IdError, RoomId, RoomKey, ServerSignal, UserId};

pub use crate::node::api::{CloseReason, PeerInfo};

/// Signals that may wait on either side of a [`Swarm`].
const SIGNALS: usize = 1024;

/// Events that may wait to be received.
const EVENTS: usize = 256;

/// What a swarm is made from: a superset of `RTCConfiguration` and of the published libraries' options.
#[derive(Debug)]
pub struct SwarmConfig {
    /// Our id (`id`); random by default.
    pub id: UserId,
    /// The room (`roomId`).
    pub room: RoomId,
    /// What we call ourselves towards our own kind of peers.
    pub name: String,
    /// The room's key: peers that cannot prove it are refused. `None` is an open room.
    pub key: Option<RoomKey>,
    /// Whether peers of the published libraries, which can prove nothing, may take part in a room with a key.
    pub allow_unverified: bool,
    /// Offers kept waiting at the server (`peerBuffer`); at least 1.
    pub peer_buffer: usize,
    /// Most peers at a time (`maxPeers`).
    pub max_peers: usize,
    /// ICE servers and how to bind (`iceServers`, `iceTransportPolicy`).
    pub rtc: RtcConfig,
}

impl SwarmConfig {
    /// A random id, one offer ahead, at most 1024 peers as in the published libraries, an open room, no ICE servers.
    ///
    /// # Errors
    /// `room` must be a room id.
    pub fn new(room: impl AsRef<str>) -> Result<Self, IdError> {
        Ok(Self {
            id: UserId::from_random(rand::rng().random()),
            room: RoomId::new(room)?,
            name: String::new(),
            key: None,
            allow_unverified: false,
            peer_buffer: 1,
            max_peers: 1024,
            rtc: RtcConfig::default(),
        })
    }
}

/// What a swarm tells.
#[derive(Debug)]
pub enum SwarmEvent {
    /// Carry this to the signaling server, in order.
    Signal(ClientSignal),
    /// A peer is connected and, where the room has a key, verified.
    Open(PeerInfo),
    /// A peer that was open is gone.
    Close {
        /// Who.
        peer: PeerInfo,
        /// Why.
        reason: CloseReason,
    },
    /// A peer sent a message.
    Data {
        /// From whom.
        from: PeerInfo,
        /// What. Remote text: sanitise it before it reaches a terminal.
        message: Message,
    },
    /// A connection attempt failed, or a peer was refused. The mesh goes on.
    Refused {
        /// Who, if known.
        peer: Option<UserId>,
        /// Why.
        reason: CloseReason,
    },
}

/// What travels between peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A string; the published libraries' `peer.send('…')`.
    Text(String),
    /// Bytes, at most [`CHANNEL_MESSAGE_MAX_BYTES`].
    Binary(Bytes),
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

/// Why a swarm did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// WebRTC cannot be used on this machine.
    #[error(transparent)]
    Rtc(#[from] RtcError),
    /// The published libraries close the channel on anything longer: send it in parts.
    #[error("a binary message has at most {CHANNEL_MESSAGE_MAX_BYTES} bytes, this one has {0}")]
    MessageTooLarge(usize),
    /// The swarm was closed.
    #[error("the swarm is closed")]
    Closed,
}

/// A peer in a full mesh, with signaling brought by its owner. Dropping it leaves the room.
#[derive(Debug)]
pub struct Swarm {
    id: UserId,
    commands: mpsc::Sender<Command>,
    news: mpsc::Sender<SignalingNews>,
}

impl Swarm {
    /// Starts on the current tokio runtime. The first events are the `init` and the first offer.
    ///
    /// # Errors
    /// [`SwarmError::Rtc`] where WebRTC cannot be used.
    pub fn new(config: SwarmConfig) -> Result<(Self, mpsc::Receiver<SwarmEvent>), SwarmError> {
        let (signals, to_server) = mpsc::channel(SIGNALS);
        let (news, from_server) = mpsc::channel(SIGNALS);
        news.try_send(SignalingNews::Up).expect("a new queue has room");
        let id = config.id.clone();
        let handle = node::spawn(config.into(), SignalingLink { signals, news: from_server })?;
        let (events, told) = mpsc::channel(EVENTS);
        tokio::spawn(forward(to_server, handle.events, events));
        Ok((Self { id, commands: handle.commands, news }, told))
    }

    /// Our id.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// Hands over what the signaling server said.
    ///
    /// # Errors
    /// [`SwarmError::Closed`].
    pub async fn dispatch(&self, signal: ServerSignal) -> Result<(), SwarmError> {
        self.news.send(SignalingNews::Signal(signal)).await.map_err(|_| SwarmError::Closed)
    }

    /// Sends a message to every open peer. Waits while a peer is far behind.
    ///
    /// # Errors
    /// [`SwarmError::MessageTooLarge`] for binary; longer text is sent in several messages. [`SwarmError::Closed`].
    pub async fn broadcast(&self, message: impl Into<Message>) -> Result<(), SwarmError> {
        self.send(message.into(), To::Everyone).await
    }

    /// Sends a message to one peer; nothing if it is not open.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub async fn send_to(&self, peer: UserId, message: impl Into<Message>) -> Result<(), SwarmError> {
        self.send(message.into(), To::Peers(vec![peer])).await
    }

    /// Leaves the room. The events end once the others were told.
    pub async fn close(self) {
        let _ = self.commands.send(Command::Quit).await;
    }

    async fn send(&self, message: Message, to: To) -> Result<(), SwarmError> {
        let command = match message {
            Message::Text(text) => Command::Say { text, to },
            Message::Binary(bytes) if bytes.len() > CHANNEL_MESSAGE_MAX_BYTES => {
                return Err(SwarmError::MessageTooLarge(bytes.len()));
            }
            Message::Binary(bytes) => Command::Data { bytes, to },
        };
        self.commands.send(command).await.map_err(|_| SwarmError::Closed)
    }
}

impl From<SwarmConfig> for NodeConfig {
    fn from(config: SwarmConfig) -> Self {
        let identity = Identity {
            me: config.id.clone(),
            name: config.name,
            room: config.room,
            key: config.key,
            allow_unverified: config.allow_unverified,
        };
        let mut transfers = transfer::Config::new(config.id, std::env::temp_dir());
        transfers.accept = AcceptPolicy::Nobody;
        Self {
            mesh: mesh::Config {
                identity,
                peer_buffer: config.peer_buffer.max(1),
                max_peers: config.max_peers,
                seed: rand::rng().random(),
            },
            rtc: config.rtc,
            transfers,
        }
    }
}

/// Merges signals and events into the one stream an owner reads.
async fn forward(
    mut signals: mpsc::Receiver<ClientSignal>,
    mut events: mpsc::Receiver<Event>,
    out: mpsc::Sender<SwarmEvent>,
) {
    loop {
        let event = tokio::select! {
            Some(signal) = signals.recv() => Some(SwarmEvent::Signal(signal)),
            Some(event) = events.recv() => to_swarm_event(event),
            else => return,
        };
        if let Some(event) = event
            && out.send(event).await.is_err()
        {
            return;
        }
    }
}

fn to_swarm_event(event: Event) -> Option<SwarmEvent> {
    match event {
        Event::Opened(peer) => Some(SwarmEvent::Open(peer)),
        Event::Closed { peer, reason } => Some(SwarmEvent::Close { peer, reason }),
        Event::Message { from, text, direct: _ } => {
            Some(SwarmEvent::Data { from, message: Message::Text(text) })
        }
        Event::Data { from, bytes } => Some(SwarmEvent::Data { from, message: Message::Binary(bytes) }),
        Event::PeerFailed { peer, reason, untold: _ } => Some(SwarmEvent::Refused { peer, reason }),
        Event::Ready { .. }
        | Event::Signaling(_)
        | Event::Renamed { .. }
        | Event::Transfer(_)
        | Event::IceServer(_)
        | Event::Ended(_) => None,
    }
}
