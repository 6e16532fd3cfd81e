//! The file protocol's messages on the control channel (`docs/protocol-files.md`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{TransferId, UserId};

/// The most piece numbers in one message, so that it stays below [`super::limits::CONTROL_MAX_BYTES`].
pub const PIECES_PER_MESSAGE: usize = 4096;

/// The most pieces that one [`Bits`] covers.
pub const PIECES_PER_BITS: u32 = 32 * 1024 * 8;

/// The longest display name of an offer, in bytes: one path component.
pub const OFFER_NAME_MAX_BYTES: usize = 255;

/// The most peers in an offer's audience.
pub const AUDIENCE_MAX: usize = 256;

/// What peers say to each other about transfers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum TransferMessage {
    /// The sender has a transfer and serves it.
    Offer(Offer),
    /// Answers an offer: the manifest may be sent.
    Accept {
        /// Which transfer.
        id: TransferId,
    },
    /// Answers an offer: not wanted.
    Decline {
        /// Which transfer.
        id: TransferId,
        /// Why.
        reason: DeclineReason,
    },
    /// Asks for the manifest from `offset` on; after [`TransferMessage::Accept`] the beginning comes unasked.
    Manifest {
        /// Which transfer.
        id: TransferId,
        /// The first byte wanted.
        offset: u32,
    },
    /// The sender takes part: it has accepted, has checked the manifest and wants what it lacks. Its have-set follows. The
    /// receiver, if it takes part, answers with its own have-set.
    Join {
        /// Which transfer.
        id: TransferId,
    },
    /// The sender has, besides what it said before, these pieces, and serves them.
    Have {
        /// Which transfer.
        id: TransferId,
        /// At most [`PIECES_PER_MESSAGE`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pieces: Vec<u32>,
        /// Many at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bits: Option<Bits>,
        /// The sender has everything, also what it has not said: it shows its pieces a few at a time.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        complete: bool,
    },
    /// Asks for pieces, in this order.
    Request {
        /// Which transfer.
        id: TransferId,
        /// At most [`PIECES_PER_MESSAGE`].
        pieces: Vec<u32>,
    },
    /// Takes back requests. What is on its way may still come.
    Cancel {
        /// Which transfer.
        id: TransferId,
        /// At most [`PIECES_PER_MESSAGE`].
        pieces: Vec<u32>,
    },
    /// Answers a request that will not be served now; ask somebody else, or again in a moment.
    Busy {
        /// Which transfer.
        id: TransferId,
        /// At most [`PIECES_PER_MESSAGE`].
        pieces: Vec<u32>,
    },
    /// The sender has everything, durable and under its final names, and serves it.
    #[serde(rename_all = "camelCase")]
    Done {
        /// Which transfer.
        id: TransferId,
        /// Content bytes it had from the transfer's origin.
        from_origin: u64,
        /// Content bytes it had from others.
        from_others: u64,
    },
    /// The sender no longer takes part and serves nothing.
    Stop {
        /// Which transfer.
        id: TransferId,
        /// Why.
        reason: StopReason,
    },
    /// A type this version does not know: ignored.
    #[serde(other)]
    Unknown,
}

/// What an offer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Which transfer.
    pub id: TransferId,
    /// The name of the file or folder, for people; at most [`OFFER_NAME_MAX_BYTES`].
    pub name: String,
    /// Files in it.
    pub files: u32,
    /// Folders in it.
    pub folders: u32,
    /// Outermost files and folders, of which the name is one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub roots: u32,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of the manifest.
    pub manifest_bytes: u32,
    /// Who offered it first.
    pub origin: UserId,
    /// For whom it is, besides the origin; absent for everyone. At most [`AUDIENCE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Vec<UserId>>,
}

fn one() -> u32 {
    1
}

fn is_one(count: &u32) -> bool {
    *count == 1
}

/// Why an offer was declined. Stable words on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum DeclineReason {
    /// A person or a policy said no.
    #[error("not wanted")]
    NotWanted,
    /// Over the receiver's limit of bytes.
    #[error("larger than the receiver takes")]
    TooLarge,
    /// Over the receiver's limit of files.
    #[error("more files than the receiver takes")]
    TooManyFiles,
    /// More offers than can wait at once: to be made again later.
    #[error("too many offers wait for an answer")]
    TooManyOffers,
    /// Another goes where only one can.
    #[error("the receiver writes one file to a stream, and that is another")]
    Streaming,
    /// A word this version does not know.
    #[error("for a reason this version does not know")]
    #[serde(other)]
    Other,
}

/// Why a peer no longer takes part. Stable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum StopReason {
    /// A person stopped it.
    #[error("stopped there")]
    Stopped,
    /// A file changed while it was being sent.
    #[error("a file changed while it was being sent")]
    SourceChanged,
    /// The disk is full.
    #[error("the disk is full there")]
    DiskFull,
    /// It could not be read or written.
    #[error("the disk failed there")]
    Disk,
    /// The manifest was refused.
    #[error("the list of files was refused there")]
    Manifest,
    /// What it waited for did not come.
    #[error("it waited in vain there")]
    GaveUp,
    /// There is too much under way.
    #[error("there is no room for more there")]
    NoRoom,
    /// A word this version does not know.
    #[error("it failed there")]
    #[serde(other)]
    Other,
}

/// A stretch of a have-set, one bit a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bits {
    /// The piece of the first bit; a multiple of 64.
    pub first: u32,
    /// The bits in base64 without padding, the lowest piece in the lowest bit of the first byte.
    pub set: String,
}

impl Bits {
    /// Packs little-endian words.
    pub fn pack(first: u32, words: impl IntoIterator<Item = u64>) -> Self {
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        Self { first, set: STANDARD_NO_PAD.encode(bytes) }
    }

    /// The bytes of the set, at most [`PIECES_PER_BITS`] bits; `None` if they are malformed.
    pub fn unpack(&self) -> Option<Vec<u8>> {
        let limit = PIECES_PER_BITS as usize / 8;
        if !self.first.is_multiple_of(64) || self.set.len() > limit.div_ceil(3) * 4 {
            return None;
        }
        STANDARD_NO_PAD.decode(&self.set).ok().filter(|bytes| bytes.len() <= limit)
    }
}

/// The value is no message of the file protocol.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not of a known shape.
    #[error("the message is malformed")]
    Malformed(#[source] serde_json::Error),
    /// More than one message may hold.
    #[error("the message holds more than it may")]
    TooMuch,
}

impl TransferMessage {
    /// Parses the value of a [`Control::Transfer`](super::control::Control::Transfer).
    pub fn parse(value: serde_json::Value) -> Result<Self, MessageError> {
        let message: Self = serde_json::from_value(value).map_err(MessageError::Malformed)?;
        if message.is_within_limits() { Ok(message) } else { Err(MessageError::TooMuch) }
    }

    /// The message as the value of a [`Control::Transfer`](super::control::Control::Transfer).
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("messages have string keys and no failing types")
    }

    fn is_within_limits(&self) -> bool {
        match self {
            Self::Offer(offer) => {
                offer.name.len() <= OFFER_NAME_MAX_BYTES
                    && offer.audience.as_ref().is_none_or(|audience| audience.len() <= AUDIENCE_MAX)
            }
            Self::Have { pieces, .. }
            | Self::Request { pieces, .. }
            | Self::Cancel { pieces, .. }
            | Self::Busy { pieces, .. } => pieces.len() <= PIECES_PER_MESSAGE,
            Self::Accept { .. }
            | Self::Decline { .. }
            | Self::Manifest { .. }
            | Self::Join { .. }
            | Self::Done { .. }
            | Self::Stop { .. }
            | Self::Unknown => true,
        }
    }
}
