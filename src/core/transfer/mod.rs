//! Files to everyone, at the cost of one upload.
//!
//! ```text
//! sender                             receiver                          another receiver
//!   scan, hash -> manifest
//!   offer ------------------------->   prompt or policy
//!                       <---- accept
//!   manifest ====================>   check, open part files, re-hash what is there
//!                       <------ join   (with what it has) ---- join ->
//!   have (a few pieces) --------->
//!                      <---- request   pull, rarest first
//!   piece ========================>  hash, write, have ----- have --->
//!                                      <------------------- request
//!                                      =================== piece ====>
//!                       <------ done   fsync, rename, fsync of the folder
//! ```
//!
//! `---` travels on the control channel as JSON ([`TransferMessage`]), `===` on the
//! bulk channel as binary frames ([`Frame`](crate::wire::frame::Frame)).
//!
//! [`Transfers`] is the machine: all transfers of one node. It is pure; the disk is an output ([`DiskOp`]) whose completion
//! comes back as an input ([`Input::Disk`]), carried out by [`crate::io::disk`].
//!
//! Everyone who has a verified piece serves it. A complete holder shows each receiver only a few pieces at a time, those that
//! fewest others were shown, so that receivers fetch different pieces and exchange them: the sender's uplink carries the file
//! about once.

mod budget;
mod disk;
mod download;
mod event;
mod exchange;
mod fetch;
mod later;
mod machine;
mod manifest;
mod membership;
mod negotiate;
mod pieces;
mod progress;
mod rate;
mod refuse;
mod reveal;
mod serve;
mod share;
mod upload;

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;

pub use crate::wire::TransferId;
use crate::wire::UserId;
use crate::wire::transfer::TransferMessage;
pub use disk::{
    Conflict, DiskDone, DiskError, DiskJob, DiskOp, OpId, Opened, Scanned, SourceOptions, Summary, Target,
    Written,
};
pub use event::{
    CutOffReason, DeclineReason, Direction, FailReason, OfferInfo, PeerProgress, Progress, StopReason,
    TransferEvent,
};
pub use machine::Transfers;
pub use pieces::PieceSet;

/// What a machine is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our own id.
    pub own: UserId,
    /// Where accepted files go.
    pub target: Target,
    /// How many of them, where that is standard output.
    pub streams: Streams,
    /// Who is accepted without asking.
    pub accept: AcceptPolicy,
    /// The largest transfer taken, in bytes of content; larger ones are declined without asking.
    pub max_bytes: u64,
    /// The most files and folders taken in one transfer.
    pub max_entries: u32,
    /// What happens to a file whose name is taken by another content.
    pub conflict: ConflictPolicy,
    /// Upload limit over all transfers, in bytes a second.
    pub up_bps: Option<u64>,
    /// Download limit over all transfers, in bytes a second.
    pub down_bps: Option<u64>,
}

impl Config {
    /// Asks for every offer, puts files into `folder`, and takes up to the protocol's limits.
    pub fn new(own: UserId, folder: PathBuf) -> Self {
        Self {
            own,
            target: Target::Folder(folder),
            streams: Streams::One,
            accept: AcceptPolicy::Ask,
            max_bytes: u64::MAX,
            max_entries: crate::wire::manifest::ENTRIES_MAX,
            conflict: ConflictPolicy::Rename,
            up_bps: None,
            down_bps: None,
        }
    }
}

/// How many transfers go to standard output. Never two at a time: whoever reads it could not tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// The first that was accepted. Others are declined, unless it ends before anything was written.
    One,
    /// One after the other; one of which nobody here has the rest is given up when another waits.
    InTurns,
}

/// Whose offers are accepted without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptPolicy {
    /// Nobody's: each offer waits for [`TransferCommand::Accept`] or [`TransferCommand::Reject`].
    Ask,
    /// These peers' offers; the others wait.
    From(BTreeSet<UserId>),
    /// Everybody's.
    Everyone,
    /// Nothing is taken; every offer is declined.
    Nobody,
}

impl AcceptPolicy {
    /// Whether this peer was singled out to be accepted without asking.
    fn welcomes(&self, peer: &UserId) -> bool {
        match self {
            Self::From(peers) => peers.contains(peer),
            Self::Ask | Self::Everyone | Self::Nobody => false,
        }
    }
}

/// What happens where a file of that name, with another content, is there already. A file with the same content is
/// recognised, kept and not fetched, whatever the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Says [`TransferEvent::Conflicts`] and waits for [`TransferCommand::Resolve`].
    Ask,
    /// Takes the next free name: `report (1).pdf`.
    Rename,
    /// Leaves the file that is there and does not fetch the other.
    Skip,
    /// Replaces the file that is there, once the new one is complete.
    Overwrite,
}

/// To whom files are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Everyone in the room, also those who come later.
    Everyone,
    /// These peers, now or when they come.
    Peers(BTreeSet<UserId>),
}

/// Names one [`TransferCommand::Send`] until its transfer has an id. Chosen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendToken(pub u64);

/// What a person or a script asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferCommand {
    /// Offers files and folders. Answered by [`TransferEvent::Prepared`] or [`TransferEvent::NotPrepared`].
    Send {
        /// The caller's name for this request.
        token: SendToken,
        /// What to send; `-` is standard input.
        paths: Vec<PathBuf>,
        /// What of it.
        options: SourceOptions,
        /// To whom.
        audience: Audience,
    },
    /// Accepts an offered transfer, as [`TransferEvent::Offered`] said it. If that is not what is offered any more, nothing
    /// happens: there is, or will be, other news of it.
    Accept {
        /// Whose offer is meant. Others who offer the same may serve it.
        from: UserId,
        /// What is meant.
        offer: OfferInfo,
        /// Whether later offers of the same peer are meant too.
        scope: AcceptScope,
    },
    /// Declines an offered transfer, whoever offers it, now and later; or stops one under way (what was received stays on
    /// disk, to be resumed).
    Reject {
        /// Which.
        transfer: TransferId,
    },
    /// Declines one peer's offer, because of the peer. Whoever else offers the same, or the same id in other words, still waits
    /// for an answer, and so does this peer if it offers again. Does nothing to what was accepted.
    RejectFrom {
        /// Which.
        transfer: TransferId,
        /// Whose.
        from: UserId,
    },
    /// A person says no to the offer of which they were told. It is not taken from this peer, now and later, nor from others
    /// in its stead. Of the next who offers the same id, in the same words or in others, [`TransferEvent::Offered`] is said
    /// again, for a person is asked about one at a time; if there is none, [`TransferEvent::Withdrawn`].
    Pass {
        /// Which.
        transfer: TransferId,
        /// Whose.
        from: UserId,
    },
    /// Answers [`TransferEvent::Conflicts`]. [`ConflictPolicy::Ask`] is taken as [`ConflictPolicy::Rename`].
    Resolve {
        /// Which.
        transfer: TransferId,
        /// What to do with every file in conflict.
        conflict: ConflictPolicy,
    },
    /// Changes whose offers are accepted from now on; offers that wait are judged again.
    SetAccept(AcceptPolicy),
    /// Changes the limits on bytes a second.
    SetRates {
        /// Upload, over all transfers.
        up_bps: Option<u64>,
        /// Download, over all transfers.
        down_bps: Option<u64>,
    },
}

/// How far an acceptance goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptScope {
    /// This transfer.
    Once,
    /// This transfer and all later offers of this peer.
    Peer,
}

/// What happens to the machine.
#[derive(Debug, Clone)]
pub enum Input {
    /// One of our own peers is ready: connected, verified where the room has a key, with both extra channels open.
    PeerReady {
        /// Who.
        peer: UserId,
    },
    /// A peer that had been ready is gone.
    PeerGone {
        /// Who.
        peer: UserId,
    },
    /// The value of a [`Control::Transfer`](crate::wire::control::Control::Transfer) message.
    Control {
        /// From whom.
        peer: UserId,
        /// The message, not yet judged.
        message: serde_json::Value,
    },
    /// A binary message of the bulk channel.
    Bulk {
        /// From whom.
        peer: UserId,
        /// The frame, not yet judged.
        frame: Bytes,
    },
    /// The bulk channel to a peer takes so many bytes more. The machine counts down what it emits, and may go over it
    /// by less than one frame, which counts against the next, so that a path slower than a frame is used at all.
    Writable {
        /// To whom.
        peer: UserId,
        /// How many bytes.
        bytes: usize,
    },
    /// Bulk frames from or to this peer may never arrive, although it is still there.
    BulkLost {
        /// Whose.
        peer: UserId,
        /// How many bytes less the bulk channel to the peer takes; below zero: how many more.
        revoked_bytes: i64,
    },
    /// A disk operation said something.
    Disk {
        /// Which operation.
        op: OpId,
        /// What.
        done: DiskDone,
    },
    /// A person or a script asks something.
    Command(TransferCommand),
}

/// What the machine wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send on the control channel, as [`Control::Transfer`](crate::wire::control::Control::Transfer) with
    /// [`TransferMessage::to_value`].
    Control {
        /// To whom.
        peer: UserId,
        /// What.
        message: TransferMessage,
    },
    /// Send on the bulk channel, as binary.
    Bulk {
        /// To whom.
        peer: UserId,
        /// At most [`crate::wire::frame::FRAME_MAX_BYTES`].
        frame: Bytes,
    },
    /// Carry out on the disk.
    Disk(DiskOp),
    /// Tell the faces.
    Event(TransferEvent),
}

/// Why the machine wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Pieces received since the last announcement are to be announced.
    Announce,
    /// The faces are owed news of progress.
    Progress,
    /// A rate limit lets more bytes pass.
    Rate,
    /// A peer that was busy may be asked again, or one that does not answer is to be given up.
    Requests,
    /// What was too much for a peer is to be offered again.
    Offers,
}
