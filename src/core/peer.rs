//! The seam in front of the WebRTC library: what a machine asks of one connection and what it hears back.
//!
//! ```text
//! offerer                                    answerer
//!   CreateOffer -> Description                 AcceptOffer{sdp} -> Description
//!   (Candidate …)                              (Candidate …)
//!   AcceptAnswer{sdp}                          AddCandidate …
//!   AddCandidate …
//!   -> Connected{fingerprints}                 -> Connected{fingerprints}
//!   -> ChannelOpen(Fast)                       -> ChannelOpen(Fast)
//!   OpenChannel(Control), OpenChannel(Bulk)    -> ChannelOpen(Control), ChannelOpen(Bulk)
//! ```
//!
//! `OpenChannel` may be said any time after the description that allows it; the driver holds it back until
//! the association is there. `Send` on a channel that the driver has announced open never fails: a connection that can
//! no longer send says `Closed`.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::wire::{Candidate, Sdp};

/// A connection of this process. A local number, so that nothing a stranger names indexes our tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKey(pub u64);

/// The three data channels of a link, all ordered and reliable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// The offerer's first channel, label `fast`: what the published libraries speak.
    Fast,
    /// Label `swarm`: JSON control messages between our peers.
    Control,
    /// Label `swarm-bulk`: binary frames between our peers.
    Bulk,
}

impl Channel {
    /// The label in the DCEP OPEN message (RFC 8832 §5.1).
    pub fn label(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Control => "swarm",
            Self::Bulk => "swarm-bulk",
        }
    }
}

/// One message on a data channel, at most [`crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES`].
#[derive(Clone, PartialEq, Eq)]
pub enum Payload {
    /// A string message (PPID 51, RFC 8831 §8).
    Text(String),
    /// A binary message (PPID 53).
    Binary(Bytes),
}

impl Payload {
    /// Bytes on the wire.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

impl fmt::Debug for Payload {
    /// What people say to each other stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
        }
    }
}

/// SHA-256 of a DTLS certificate (RFC 8122 §5), taken from the live session, not from the SDP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// What is asked of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerCommand {
    /// Makes the connection, with the `fast` channel in it, and its offer; gathering begins at once.
    CreateOffer,
    /// Makes the connection from somebody's offer, and its answer.
    AcceptOffer {
        /// The remote offer.
        sdp: Sdp,
    },
    /// Takes the answer to our offer.
    AcceptAnswer {
        /// The remote answer.
        sdp: Sdp,
    },
    /// Adds a remote candidate; `None` ends them. Never said before the remote description.
    AddCandidate(Option<Candidate>),
    /// Opens one of our channels in-band (RFC 8832).
    OpenChannel(Channel),
    /// Sends one message. Messages of one channel arrive in order.
    Send {
        /// On which channel.
        channel: Channel,
        /// What.
        payload: Payload,
    },
    /// Closes the connection. No event follows but [`PeerEvent::Closed`].
    Close,
}

/// What a connection says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// The local offer or answer, set and ready to be signalled.
    Description(Sdp),
    /// A local candidate; `None` when gathering is complete. Always after the `Description`.
    Candidate(Option<Candidate>),
    /// DTLS is up.
    Connected {
        /// Our certificate in this session.
        local: Fingerprint,
        /// The other end's certificate, as DTLS verified it.
        remote: Fingerprint,
    },
    /// A channel can carry messages both ways.
    ChannelOpen(Channel),
    /// A message arrived.
    Message {
        /// On which channel.
        channel: Channel,
        /// What.
        payload: Payload,
    },
    /// The bulk channel has room: `bytes` more may be sent, on top of what earlier ones allowed. Said when the channel
    /// opens, then each time it drains below its low-water mark. While any of it is left one more message may be
    /// sent even if it is larger; the excess counts against the next.
    Writable {
        /// How many more bytes.
        bytes: usize,
    },
    /// Bulk data has been waiting without a pause since the last of these, or for a second.
    Strain(Strain),
    /// How the packets travel now.
    Path(Path),
    /// Consent (RFC 7675) was lost; the connection may come back.
    Disconnected,
    /// Consent is there again.
    Reconnected,
    /// The connection is over. The last event of a connection.
    Closed(PeerClosed),
}

/// How a path fares on which bulk data waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strain {
    /// The shortest round trip of this connection.
    pub shortest: Duration,
    /// The last one. What it takes longer is the queue on the path.
    pub last: Duration,
    /// How long bulk data waited here before it was sent, on the average since the report before.
    pub backlog: Duration,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerClosed {
    /// We said [`PeerCommand::Close`].
    Local,
    /// The other end closed the `fast` channel or the DTLS session.
    Remote,
    /// No candidate pair worked, the handshake got nowhere on the one that did, or consent did not come back in time.
    IceFailed,
    /// DTLS failed: the certificate is not the one in the SDP, or the handshake broke off.
    DtlsFailed,
    /// The library refused a description, a candidate or a message.
    Failed,
}

/// The selected candidate pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Direct or through a TURN server, on either side.
    pub kind: PathKind,
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The last measured round trip, if any.
    pub rtt: Option<Duration>,
}

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// Between the two hosts.
    Direct,
    /// Through a TURN server.
    Relayed,
}
