//! What goes into a link and what comes out of it.

use bytes::Bytes;

use crate::core::peer::{Path, Payload, PeerCommand, PeerEvent, Strain};
use crate::wire::control::{Control, StripeSignal};
use crate::wire::{Candidate, ClientSignal, RoomId, RoomKey, Sdp, UserId};

/// Which program a peer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    /// `swarm`.
    Swarm,
    /// A published fast-rtc library.
    Original,
}

/// Why a peer is gone or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloseReason {
    /// The peer left.
    Left,
    /// Nothing came from the peer any more.
    Lost,
    /// No direct or relayed path could be found.
    NoPath,
    /// The peer could not prove the room's key: another key, or somebody in between.
    KeyMismatch,
    /// The peer could not prove anything: a published library in a room with a key.
    Unverified,
    /// The peer broke the protocol or a limit.
    Misbehaved,
    /// The server gave the connection back before it came up.
    GivenBack,
    /// A newer connection to the same peer took its place.
    Replaced,
    /// A member of that id, with another certificate, is connected already.
    TakenId,
    /// We left.
    Local,
}

/// What all links of a mesh share.
#[derive(Debug)]
pub struct Identity {
    /// Our id.
    pub me: UserId,
    /// What we call ourselves.
    pub name: String,
    /// The room.
    pub room: RoomId,
    /// The room's key, if it has one.
    pub key: Option<RoomKey>,
    /// Whether peers of the published libraries may take part in a room with a key.
    pub allow_unverified: bool,
}

/// What a link hears.
#[derive(Debug)]
pub enum Input {
    /// The server says that `peer` took our offer.
    Accepted {
        /// The newcomer.
        peer: UserId,
    },
    /// The other side's answer.
    Answer(Sdp),
    /// One of the other side's candidates, or their end.
    Candidate(Option<Candidate>),
    /// The WebRTC connection says something.
    Peer(PeerEvent),
    /// The offer is no longer at the server: keep it only for those who may have taken it already.
    Withdrawn,
    /// Find out whether the peer is still there.
    Probe {
        /// Names the question.
        nonce: u64,
    },
    /// Send a message as it is on the `fast` channel. Ignored before `Ready`.
    Fast(Payload),
    /// Send a control message. Ignored before `Ready` and towards originals.
    Control(Control),
    /// Send a bulk frame. Ignored before `Ready` and towards originals.
    Bulk(Bytes),
    /// End the connection.
    Close(CloseReason),
}

/// What a link wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell the server.
    Signal(ClientSignal),
    /// Tell the WebRTC connection.
    Peer(PeerCommand),
    /// Tell the mesh.
    Event(Event),
}

/// What a link tells the mesh.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer is connected and, where the room has a key, verified.
    Ready {
        /// Which program it runs.
        kind: PeerKind,
        /// Whether it proved the room's key.
        verified: bool,
        /// What it calls itself, as sent.
        name: String,
    },
    /// The peer said a line.
    Text {
        /// The line, as sent.
        text: String,
        /// Whether it was for us alone.
        direct: bool,
    },
    /// The peer sent bytes.
    Data(Bytes),
    /// The peer has a new name.
    Renamed(String),
    /// A message of the file protocol.
    Transfer(serde_json::Value),
    /// A bulk frame.
    Bulk(Bytes),
    /// The bulk channel takes that many bytes.
    Writable(usize),
    /// Bulk data waits on the bulk channel.
    Strain(Strain),
    /// The peer says something about a stripe.
    Stripe {
        /// The stripe's name.
        stripe: u32,
        /// What it says.
        signal: StripeSignal,
    },
    /// How packets travel.
    Path(Path),
    /// Nobody took the offer in time. It stays open until [`Input::Withdrawn`] or [`Input::Close`].
    Stale,
    /// The end. Nothing follows.
    Closed(CloseReason),
}

/// Why a link wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// The offer is too old to be taken.
    OfferAge,
    /// Nobody can take the withdrawn offer any more.
    Withdrawn,
    /// The answer is overdue.
    Answer,
    /// The connection is overdue.
    Connect,
    /// The proof is overdue.
    Proof,
    /// The answer to a probe is overdue.
    Probe,
    /// The peer said `bye`, and the end of the connection is overdue.
    Bye,
}

impl Identity {
    /// Whether a peer of this kind may take part at all.
    pub(super) fn admits(&self, kind: PeerKind) -> bool {
        match kind {
            PeerKind::Swarm => true,
            PeerKind::Original => self.key.is_none() || self.allow_unverified,
        }
    }
}
