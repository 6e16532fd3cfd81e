//! What goes into a mesh and what comes out of it.

use std::fmt;

use bytes::Bytes;

use crate::core::link::{CloseReason, Deadline, Identity, PeerKind};
use crate::core::peer::{LinkKey, Path, PeerCommand, PeerEvent};
use crate::wire::signal::ErrorCode;
use crate::wire::{ClientSignal, ServerSignal, UserId};

/// What a mesh is made from.
pub struct Config {
    /// Who we are, the room and its key.
    pub identity: Identity,
    /// Offers kept waiting at the server (`peerBuffer`). At least 1.
    pub peer_buffer: usize,
    /// Most peers at a time (`maxPeers`).
    pub max_peers: usize,
    /// Seeds the resume secret, connection ids and retry delays. Must come from the system's randomness.
    pub seed: [u8; 32],
}

impl fmt::Debug for Config {
    /// The seed is as secret as what is drawn from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// To whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Every ready peer.
    Everyone,
    /// These peers.
    Peers(Vec<UserId>),
}

/// What a mesh hears.
#[derive(Debug)]
pub enum Input {
    /// The socket to the server is open.
    SignalingUp,
    /// The socket to the server broke off.
    SignalingDown,
    /// The server says something.
    Signal(ServerSignal),
    /// A connection says something.
    Peer(LinkKey, PeerEvent),
    /// Say a line of chat.
    Say {
        /// The line.
        text: String,
        /// To whom.
        to: To,
    },
    /// Send bytes as they are, at most [`crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES`].
    Data {
        /// The bytes.
        bytes: Bytes,
        /// To whom.
        to: To,
    },
    /// Send a message of the file protocol.
    Transfer {
        /// To whom.
        to: UserId,
        /// The message.
        message: serde_json::Value,
    },
    /// Send a bulk frame.
    Bulk {
        /// To whom.
        to: UserId,
        /// The frame.
        frame: Bytes,
    },
    /// Take a new name.
    Rename(String),
    /// Shut this peer's messages out, or let them in again.
    Ignore {
        /// Whom.
        peer: UserId,
        /// Whether to.
        ignored: bool,
    },
    /// Cut a peer off that broke a protocol above this one.
    Drop {
        /// Whom.
        peer: UserId,
    },
    /// Leave the room and close every link.
    Close,
}

/// What a mesh wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell the server.
    Signal(ClientSignal),
    /// Tell a connection.
    Peer(LinkKey, PeerCommand),
    /// Tell the faces and the transfers.
    Event(Event),
}

/// What a mesh tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The server let us in (only servers that know our extensions say so).
    Welcome {
        /// How many other members there are.
        members: usize,
    },
    /// A peer is ready.
    Opened {
        /// Who.
        peer: UserId,
        /// Which program it runs.
        kind: PeerKind,
        /// Whether it proved the room's key.
        verified: bool,
        /// What it calls itself, as sent.
        name: String,
    },
    /// A ready peer is gone.
    Closed {
        /// Who.
        peer: UserId,
        /// Why.
        reason: CloseReason,
    },
    /// A link failed before it was ready.
    Failed {
        /// Who.
        peer: UserId,
        /// Why.
        reason: CloseReason,
        /// How many more failed for this reason since the last of them that was told.
        untold: u64,
    },
    /// A line of chat.
    Text {
        /// From whom.
        from: UserId,
        /// The line, as sent.
        text: String,
        /// Whether it was for us alone.
        direct: bool,
    },
    /// Bytes.
    Data {
        /// From whom.
        from: UserId,
        /// The bytes.
        bytes: Bytes,
    },
    /// A peer has a new name.
    Renamed {
        /// Who.
        peer: UserId,
        /// The name, as sent.
        name: String,
    },
    /// A message of the file protocol.
    Transfer {
        /// From whom.
        from: UserId,
        /// The message.
        message: serde_json::Value,
    },
    /// A bulk frame.
    Bulk {
        /// From whom.
        from: UserId,
        /// The frame.
        frame: Bytes,
    },
    /// A peer's bulk channel takes that many bytes more.
    Writable {
        /// Whose.
        peer: UserId,
        /// How many.
        bytes: usize,
    },
    /// Bulk frames to or from a ready peer may never arrive.
    BulkLost {
        /// Whose.
        peer: UserId,
        /// How much less may be sent to the peer; below zero: how much more.
        revoked_bytes: i64,
    },
    /// How packets travel to a ready peer.
    Path {
        /// Whose.
        peer: UserId,
        /// The path.
        path: Path,
    },
    /// The server refused something.
    Refused {
        /// The server's word, if it is one of ours.
        code: Option<ErrorCode>,
        /// The server's sentence, as sent.
        message: String,
    },
}

/// Why a mesh wants to be woken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A deadline of one link.
    Link(LinkKey, Deadline),
    /// Time to ask for a broken link again.
    Want(UserId),
    /// Time to make offers again after one broke.
    Refill,
    /// A stripe did not come up, or is idle.
    Stripe(LinkKey),
}

/// How much a mesh holds, in numbers of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Connections, offers included.
    pub links: usize,
    /// Further connections, for bulk.
    pub stripes: usize,
    /// Members with a connection, ready or coming up.
    pub members: usize,
    /// Members that were asked for again.
    pub wants: usize,
    /// Connections of which only candidates are known.
    pub orphans: usize,
    /// Signals kept for the server.
    pub unsent: usize,
    /// Deadlines.
    pub timers: usize,
}
