//! What a face (REPL, pipe, JSON, library) says to the node and hears from it.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

pub use crate::core::link::{CloseReason, PeerKind};
pub use crate::core::mesh::To;
use crate::core::peer::Path;
use crate::core::transfer::{TransferCommand, TransferEvent};
pub use crate::io::rtc::{IceServerTrouble, IceTrouble};
use crate::wire::signal::ErrorCode;
use crate::wire::{RoomId, UserId};

/// What a face asks of the node.
#[derive(Debug)]
pub enum Command {
    /// Says a line of chat.
    Say {
        /// The line; a very long one is split into several messages.
        text: String,
        /// To whom. A direct line to a peer of the published libraries is an ordinary string there.
        to: To,
    },
    /// Sends bytes as they are, to be reported as data by the receivers.
    Data {
        /// At most [`crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES`].
        bytes: Bytes,
        /// To whom.
        to: To,
    },
    /// Offers, accepts, declines or limits transfers.
    Transfer(TransferCommand),
    /// Takes a new name.
    Rename {
        /// The name as typed.
        name: String,
    },
    /// Neither shows nor answers what this peer sends from now on, or the reverse.
    Ignore {
        /// Whom.
        peer: UserId,
        /// `false` listens again.
        ignored: bool,
    },
    /// Asks who is here.
    Peers {
        /// Every peer, in the order of their ids.
        reply: oneshot::Sender<Vec<PeerInfo>>,
    },
    /// Leaves the room once what was said has arrived: [`Command::Quit`], but no hurry while something moves, for ten minutes.
    Finish,
    /// Leaves the room, says so to everyone, and ends the node.
    Quit,
}

/// A peer as faces see it. What the peer chose itself (`name`) is not sanitised: faces show it through
/// [`crate::wire::text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who.
    pub id: UserId,
    /// What the peer calls itself; empty for a peer of the published libraries.
    pub name: String,
    /// Whether the peer proved the room's key. Always `false` in an open room.
    pub verified: bool,
    /// One of our own, or a peer of the published libraries.
    pub kind: PeerKind,
    /// How packets travel, once known.
    pub path: Option<Path>,
    /// Bytes sent to and received from the peer, on all channels.
    pub sent_bytes: u64,
    /// See [`PeerInfo::sent_bytes`].
    pub received_bytes: u64,
}

/// What the node tells a face.
#[derive(Debug)]
pub enum Event {
    /// The server let us in. Said once.
    Ready {
        /// Our id.
        id: UserId,
        /// The room.
        room: RoomId,
        /// How many others were there; unknown where the server does not speak our extensions.
        members: Option<usize>,
    },
    /// The state of the connection to the server changed.
    Signaling(SignalingState),
    /// A peer is ready: connected, and verified where the room has a key.
    Opened(PeerInfo),
    /// A peer that had been ready is gone.
    Closed {
        /// Who.
        peer: PeerInfo,
        /// Why.
        reason: CloseReason,
    },
    /// A peer has a new name.
    Renamed {
        /// Who, with the new name.
        peer: PeerInfo,
        /// The name before.
        old: String,
    },
    /// A line of chat, not sanitised.
    Message {
        /// From whom.
        from: PeerInfo,
        /// The line.
        text: String,
        /// Whether it was for us alone.
        direct: bool,
    },
    /// Bytes.
    Data {
        /// From whom.
        from: PeerInfo,
        /// The bytes.
        bytes: Bytes,
    },
    /// News of a transfer.
    Transfer(TransferEvent),
    /// A connection attempt failed or a peer was refused. The mesh goes on.
    PeerFailed {
        /// Who, if known.
        peer: Option<UserId>,
        /// Why.
        reason: CloseReason,
        /// How many more failed for this reason since the last of them that was told.
        untold: u64,
    },
    /// A STUN or TURN server of ours is of no use.
    IceServer(IceServerTrouble),
    /// The node ended; the last event.
    Ended(Ended),
}

/// The connection to the signaling server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalingState {
    /// Trying for the first time.
    Connecting,
    /// In the room.
    Up,
    /// Lost; the mesh goes on without it.
    Down {
        /// One sentence.
        reason: String,
        /// When the next attempt starts.
        retry_in: Duration,
    },
    /// The server refused something.
    Refused {
        /// The server's word, if it is one of ours.
        code: Option<ErrorCode>,
        /// The server's sentence, not sanitised.
        message: String,
    },
}

/// How a node ended.
#[derive(Debug)]
pub enum Ended {
    /// Asked to.
    Quit,
    /// Asked to, and somebody has not got all that was said before.
    Undelivered {
        /// What was on its way.
        bytes: usize,
    },
    /// The server will not have us: wrong token, id taken, room full.
    Refused {
        /// The server's word.
        code: ErrorCode,
        /// The server's sentence, not sanitised.
        message: String,
    },
    /// The server could not be reached in the first place.
    Unreachable {
        /// One sentence with the cause.
        reason: String,
    },
}
