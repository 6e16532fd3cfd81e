//! What the faces hear of transfers. Names that a peer chose are not sanitised here: faces show them through
//! [`crate::wire::text`].

use std::path::PathBuf;
use std::time::Duration;

use super::disk::DiskError;
use super::{SendToken, TransferId};
use crate::wire::UserId;
use crate::wire::path::SafePath;
use crate::wire::transfer::Offer;
pub use crate::wire::transfer::{DeclineReason, StopReason};

/// Whether we send or receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// We offered it first.
    Send,
    /// We accepted it.
    Receive,
}

/// News of a transfer.
#[derive(Debug, Clone, PartialEq)]
pub enum TransferEvent {
    /// The files to send are being read and hashed. Said at most ten times a second.
    Preparing {
        /// The request.
        token: SendToken,
        /// Bytes hashed so far.
        bytes: u64,
        /// Bytes in all, as far as known.
        total: u64,
    },
    /// The files are hashed and offered.
    Prepared {
        /// The request.
        token: SendToken,
        /// What is offered.
        offer: OfferInfo,
        /// What was found and is not in it, see [`Scanned::left_out`](super::Scanned::left_out).
        left_out: usize,
    },
    /// The files can't be offered.
    NotPrepared {
        /// The request.
        token: SendToken,
        /// Why.
        error: DiskError,
    },
    /// A peer offers files, and an answer is awaited: [`super::TransferCommand::Accept`], `Reject`, `RejectFrom` or `Pass`. Said for
    /// each peer that offers a transfer as long as it waits, in the same words as the first or in others, for one may be
    /// trusted where another is not. Not said for offers that a policy accepts or declines.
    Offered {
        /// Who offers; not always who offered first, see [`OfferInfo::origin`].
        from: UserId,
        /// What.
        offer: OfferInfo,
        /// Bytes free where it would go, if the system says.
        free_bytes: Option<u64>,
    },
    /// Everyone who offered this has left, taken it back or been passed over before we accepted.
    Withdrawn {
        /// Which.
        transfer: TransferId,
    },
    /// We accepted an offer, by command or by policy.
    Accepting {
        /// Who offers.
        from: UserId,
        /// What.
        offer: OfferInfo,
    },
    /// We declined an offer by policy or limit, without asking anyone. Not said of those that are too many for now.
    Refused {
        /// Who offered.
        from: UserId,
        /// What.
        offer: OfferInfo,
        /// Why.
        reason: DeclineReason,
    },
    /// A peer accepted what we offer.
    Accepted {
        /// Which.
        transfer: TransferId,
        /// Who.
        peer: UserId,
    },
    /// A peer declined what we offer.
    Declined {
        /// Which.
        transfer: TransferId,
        /// Who.
        peer: UserId,
        /// Why.
        reason: DeclineReason,
    },
    /// Files are in the way, and [`super::TransferCommand::Resolve`] is awaited.
    Conflicts {
        /// Which.
        transfer: TransferId,
        /// The files in the way, at most a hundred of them.
        paths: Vec<SafePath>,
        /// How many there are.
        count: usize,
    },
    /// Part of it was on disk already, and verified.
    Resumed {
        /// Which.
        transfer: TransferId,
        /// Bytes that need not be fetched.
        bytes: u64,
        /// Bytes of the whole.
        total: u64,
    },
    /// How far it is. Said at most five times a second, and once at the end.
    Progress(Progress),
    /// Nobody here has what is missing. Said at once if nobody says otherwise, else when nobody showed any of it for long; then
    /// not again until a piece came.
    Stalled {
        /// Which.
        transfer: TransferId,
        /// Bytes that nobody here has.
        missing_bytes: u64,
    },
    /// A receiver has all of it, verified and under its final names.
    Delivered {
        /// Which.
        transfer: TransferId,
        /// Who.
        peer: UserId,
        /// Content bytes the receiver had from its first sender.
        from_origin_bytes: u64,
        /// Content bytes the receiver had from other receivers.
        from_others_bytes: u64,
    },
    /// A peer that had accepted left or gave up before it had everything.
    Undelivered {
        /// Which.
        transfer: TransferId,
        /// Who.
        peer: UserId,
        /// Why, in the receiver's word; absent where the peer just left.
        reason: Option<StopReason>,
    },
    /// Received, verified, on disk under its final names.
    Done {
        /// Which.
        transfer: TransferId,
        /// What.
        offer: OfferInfo,
        /// The file, or the folder that holds what was sent; absent where it went to standard output.
        path: Option<PathBuf>,
        /// BLAKE3 of the content for a single file; absent for several.
        blake3: Option<[u8; 32]>,
        /// From acceptance until now.
        elapsed: Duration,
        /// Content bytes from its first sender.
        from_origin_bytes: u64,
        /// Content bytes from other receivers.
        from_others_bytes: u64,
        /// Files that were not taken because of the conflict policy.
        skipped: usize,
    },
    /// It will not complete. What was received and verified stays on disk and is used when it is offered again.
    Failed {
        /// Which.
        transfer: TransferId,
        /// Whether we sent or received it.
        direction: Direction,
        /// Why.
        reason: FailReason,
    },
    /// A peer says that it has pieces and does not send them: it is asked for one now and then.
    Silent {
        /// Which.
        transfer: TransferId,
        /// Who.
        peer: UserId,
    },
    /// A peer broke the protocol: nothing is asked of it or given to it any more.
    PeerCutOff {
        /// In which transfer, if it was in one.
        transfer: Option<TransferId>,
        /// Who.
        peer: UserId,
        /// What it did.
        reason: CutOffReason,
    },
}

/// What an offer says. Counts are checked against the manifest once that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferInfo {
    /// Which.
    pub transfer: TransferId,
    /// The name of the file or folder, or of the first of several. Not sanitised.
    pub name: String,
    /// Files in it.
    pub files: u32,
    /// Folders in it.
    pub folders: u32,
    /// Outermost files and folders, of which the name is one.
    pub roots: u32,
    /// Bytes of content.
    pub bytes: u64,
    /// Who offered it first, as far as is known. Only an offer made by the origin itself proves it.
    pub origin: UserId,
}

impl OfferInfo {
    /// Whether another offer says the same of what is in it. Who offered it first may be told differently.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (self.transfer, &self.name, self.files, self.folders, self.roots, self.bytes)
            == (other.transfer, &other.name, other.files, other.folders, other.roots, other.bytes)
    }

    /// The same of an offer as it came.
    pub(super) fn is_said_by(&self, offer: &Offer) -> bool {
        (self.transfer, &self.name, self.files, self.folders, self.roots, self.bytes)
            == (offer.id, &offer.name, offer.files, offer.folders, offer.roots, offer.bytes)
    }
}

impl From<Offer> for OfferInfo {
    fn from(offer: Offer) -> Self {
        let Offer { id, name, files, folders, roots, bytes, manifest_bytes: _, origin, audience: _ } = offer;
        Self { transfer: id, name, files, folders, roots, bytes, origin }
    }
}

/// How far a transfer is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Which.
    pub transfer: TransferId,
    /// Whether we send or receive it.
    pub direction: Direction,
    /// Receiving: content bytes verified and written here. Sending: content bytes that all accepted receivers together have.
    pub bytes: u64,
    /// Receiving: content bytes of the whole. Sending: that times the accepted receivers.
    pub total: u64,
    /// Bytes a second over the last seconds.
    pub rate_bps: u64,
    /// The time left at this rate.
    pub eta: Option<Duration>,
    /// Content bytes we uploaded of this transfer.
    pub uploaded_bytes: u64,
    /// Every peer that takes part, in the order of their ids.
    pub peers: Vec<PeerProgress>,
}

/// One peer's part in a transfer, seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    /// Who.
    pub peer: UserId,
    /// Content bytes it says it has.
    pub has_bytes: u64,
    /// Whether it confirmed that everything is in place.
    pub done: bool,
    /// Content bytes we had from it.
    pub down_bytes: u64,
    /// Content bytes it had from us.
    pub up_bytes: u64,
    /// Bytes a second from it.
    pub down_bps: u64,
    /// Bytes a second to it.
    pub up_bps: u64,
}

/// Why a transfer will not complete, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailReason {
    /// We stopped it.
    #[error("stopped; what is here stays and is used when it is offered again")]
    Stopped,
    /// A file changed on the sender's side while it was being sent.
    #[error("a file changed while it was being sent; send it again")]
    SourceChanged,
    /// The disk refused something.
    #[error("{0}")]
    Disk(DiskError),
    /// The manifest is malformed or hostile.
    #[error("the list of files was refused: {0}")]
    Manifest(String),
    /// Whoever offered it never sent the manifest, or left before it was here.
    #[error("its list of files did not come; ask for it to be sent again")]
    NoManifest,
    /// Nobody here has the rest, and others need the room.
    #[error("nobody here has the rest; what is here stays and is used when it is offered again")]
    Abandoned,
    /// The manifests of all that is received take all the memory that there is for them.
    #[error("there is no room for one more list of files; have it sent again when others are done")]
    NoRoom,
}

impl From<DiskError> for FailReason {
    fn from(error: DiskError) -> Self {
        if matches!(error, DiskError::Changed { .. }) { Self::SourceChanged } else { Self::Disk(error) }
    }
}

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutOffReason {
    /// A piece that does not have the hash the manifest gives it.
    #[error("it sent wrong bytes")]
    WrongBytes,
    /// It asked for much more than there is.
    #[error("it asks without end")]
    EndlessRequests,
    /// Messages or frames that make no sense, or that nobody asked for.
    #[error("it broke the protocol")]
    Protocol,
    /// A manifest that is malformed, hostile, or not the one it offered.
    #[error("its list of files is not what it offered, or is refused")]
    BadManifest,
}
