//! Signaling messages, neutral of dialect. `dialect` turns the text of either generation into these and back.
//!
//! The JSON form of these types *is* the second generation's, bare, plus our own optional fields and messages
//! (`docs/protocol.md`), so a server or a client that knows only the second generation can ignore what is ours.

use serde::{Deserialize, Deserializer, Serialize};

use super::limits::{CANDIDATES_MAX, SIGNAL_ERROR_MAX_BYTES};
use super::{Candidate, LinkId, RoomId, Sdp, Secret, UserId};

/// What a member says to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ClientSignal {
    /// Enters a room.
    Init(Init),
    /// Leaves an offer at the server for the next member to take; again with the same id to renegotiate.
    Offer {
        /// The connection, named by its offerer.
        id: LinkId,
        /// The offer.
        sdp: Sdp,
    },
    /// Answers an offer taken from the server.
    Answer {
        /// The connection.
        id: LinkId,
        /// The answer.
        sdp: Sdp,
    },
    /// A candidate of either side. `None` ends the candidates.
    Candidate {
        /// The connection.
        id: LinkId,
        /// The candidate, or `None` for the end of candidates.
        #[serde(default, deserialize_with = "super::candidate::or_end")]
        candidate: Option<Candidate>,
    },
    /// Ours: asks for one offer of one member, to repair a hole in the mesh.
    #[serde(rename_all = "camelCase")]
    Want {
        /// The member to be connected to.
        user_id: UserId,
    },
    /// Ours: takes back an offer that nobody has taken; one that somebody has taken stays.
    Withdraw {
        /// The connection.
        id: LinkId,
    },
    /// Ours: gives up a connection for good; the server tells the other end and does not try that pair again until
    /// one of them asks.
    Leave {
        /// The connection.
        id: LinkId,
    },
    /// Leaves the room.
    Close,
}

impl ClientSignal {
    /// The `type` of each message that the second generation does not have.
    pub const EXTENSIONS: [&str; 3] = ["want", "withdraw", "leave"];

    /// Whether the message is one of [`Self::EXTENSIONS`].
    pub fn is_extension(&self) -> bool {
        match self {
            Self::Want { .. } | Self::Withdraw { .. } | Self::Leave { .. } => true,
            Self::Init(_)
            | Self::Offer { .. }
            | Self::Answer { .. }
            | Self::Candidate { .. }
            | Self::Close => false,
        }
    }

    /// The connection the message is about, if any.
    pub fn link_id(&self) -> Option<&LinkId> {
        match self {
            Self::Offer { id, .. }
            | Self::Answer { id, .. }
            | Self::Candidate { id, .. }
            | Self::Withdraw { id }
            | Self::Leave { id } => Some(id),
            Self::Init(_) | Self::Want { .. } | Self::Close => None,
        }
    }

    /// The bytes of descriptions and candidates in this message, for limits.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Offer { id, sdp } | Self::Answer { id, sdp } => id.as_str().len() + sdp.as_str().len(),
            Self::Candidate { id, candidate } => {
                id.as_str().len() + candidate.as_ref().map_or(0, Candidate::len_bytes)
            }
            Self::Withdraw { id } | Self::Leave { id } => id.as_str().len(),
            Self::Want { user_id } => user_id.as_str().len(),
            Self::Init(_) | Self::Close => 0,
        }
    }
}

/// Entry into a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// The newcomer.
    pub user_id: UserId,
    /// The room.
    pub room_id: RoomId,
    /// Ours: the members the newcomer is connected to already. Its presence, even empty, says that the sender
    /// understands our extensions.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::ids::first_ids")]
    pub have: Option<Vec<UserId>>,
    /// Ours: the secret from an earlier [`ServerSignal::Welcome`], with which a member takes its own place back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Secret>,
}

/// What the server says to a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ServerSignal {
    /// Hands an offer to a newcomer, who answers it.
    #[serde(rename_all = "camelCase")]
    Accept {
        /// The connection.
        id: LinkId,
        /// The offerer.
        user_id: UserId,
        /// The offer, then its candidates so far. More than [`CANDIDATES_MAX`] of those are not read.
        #[serde(deserialize_with = "offer_signals")]
        signals: Vec<OfferSignal>,
    },
    /// Tells the owner of an offer who took it.
    #[serde(rename_all = "camelCase")]
    OfferAccepted {
        /// The connection.
        id: LinkId,
        /// The newcomer who took the offer.
        user_id: UserId,
    },
    /// Asks the member for one more offer.
    OfferRequest,
    /// A renegotiation offer, as the other side sent it.
    Offer {
        /// The connection.
        id: LinkId,
        /// The offer.
        sdp: Sdp,
    },
    /// The answer, as the other side sent it.
    Answer {
        /// The connection.
        id: LinkId,
        /// The answer.
        sdp: Sdp,
    },
    /// A candidate, as the other side sent it.
    Candidate {
        /// The connection.
        id: LinkId,
        /// The candidate, or `None` for the end of candidates.
        #[serde(default, deserialize_with = "super::candidate::or_end")]
        candidate: Option<Candidate>,
    },
    /// Close that connection: its other end left, or the offer was given back.
    LeaveSwarm {
        /// The connection.
        id: LinkId,
    },
    /// Ours, only to clients whose `init` had `have`: the member is in.
    Welcome {
        /// The secret that lets this member, and nobody else, take its place back after a lost socket.
        resume: Secret,
        /// How many other members the room has.
        members: usize,
    },
    /// Ours, likewise: that member's socket broke off. A hint to probe the link, not an order to close it.
    #[serde(rename_all = "camelCase")]
    Gone {
        /// The member whose socket broke off.
        user_id: UserId,
    },
    /// Something the client sent was refused. The published libraries ignore it.
    #[serde(rename = "signal_error")]
    SignalError {
        /// Ours: a stable word for programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<ErrorCode>,
        /// One sentence for people, with the next step to take. No more of it is kept than [`SIGNAL_ERROR_MAX_BYTES`].
        #[serde(deserialize_with = "sentence")]
        message: String,
    },
}

fn sentence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let mut text = String::deserialize(deserializer)?;
    text.truncate(text.floor_char_boundary(SIGNAL_ERROR_MAX_BYTES));
    text.shrink_to_fit();
    Ok(text)
}

fn offer_signals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OfferSignal>, D::Error> {
    let mut signals = Vec::deserialize(deserializer)?;
    signals.truncate(1 + CANDIDATES_MAX);
    signals.shrink_to_fit();
    Ok(signals)
}

impl ServerSignal {
    /// The bytes of ids, descriptions, candidates and texts in this message, and those that hold them in a list, for limits.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Accept { id, user_id, signals } => {
                let signals: usize = signals.iter().map(OfferSignal::len_bytes).sum();
                id.as_str().len() + user_id.as_str().len() + signals
            }
            Self::OfferAccepted { id, user_id } => id.as_str().len() + user_id.as_str().len(),
            Self::Offer { id, sdp } | Self::Answer { id, sdp } => id.as_str().len() + sdp.as_str().len(),
            Self::Candidate { id, candidate } => {
                id.as_str().len() + candidate.as_ref().map_or(0, Candidate::len_bytes)
            }
            Self::LeaveSwarm { id } => id.as_str().len(),
            Self::Gone { user_id } => user_id.as_str().len(),
            Self::Welcome { resume, .. } => resume.expose().len(),
            Self::SignalError { message, .. } => message.len(),
            Self::OfferRequest => 0,
        }
    }
}

/// What an [`ServerSignal::Accept`] carries: the offer followed by its candidates. The connection's id stands
/// once, in the `accept` itself; an `id` in here is ignored, as the published libraries do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum OfferSignal {
    /// The offer; the first of the list.
    Offer {
        /// The offer.
        sdp: Sdp,
    },
    /// One of the offer's candidates.
    Candidate {
        /// The candidate, or `None` for the end of candidates.
        #[serde(default, deserialize_with = "super::candidate::or_end")]
        candidate: Option<Candidate>,
    },
}

impl OfferSignal {
    /// The end of candidates says nothing, and takes its place in the list all the same.
    fn len_bytes(&self) -> usize {
        let said = match self {
            Self::Offer { sdp } => sdp.as_str().len(),
            Self::Candidate { candidate } => candidate.as_ref().map_or(0, Candidate::len_bytes),
        };
        size_of::<Self>() + said
    }
}

/// Why the server refused something. Stable words: programs match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The text was no signaling message.
    Malformed,
    /// The message has a type this server does not know.
    UnknownType,
    /// The message is one only servers send, or does not fit the sender's state.
    NotAllowed,
    /// The user id is taken by a member who is here or may still come back.
    DuplicateId,
    /// The room is full.
    RoomFull,
    /// The server holds as many rooms as it may.
    TooManyRooms,
    /// The sender exceeded a limit on rate, size or number.
    LimitExceeded,
    /// The token does not open this room.
    Forbidden,
    /// The server is shutting down; come back in a moment.
    ShuttingDown,
    /// A word this version does not know.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// Whether a server that says so to `init` lets the sender into no room.
    pub fn refuses_entry(self) -> bool {
        match self {
            Self::DuplicateId | Self::RoomFull | Self::TooManyRooms | Self::Forbidden => true,
            Self::Malformed
            | Self::UnknownType
            | Self::NotAllowed
            | Self::LimitExceeded
            | Self::ShuttingDown
            | Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_has_no_resume_secret() {
        let resume = Secret::new("hunter2");
        let id = |text| UserId::new(text).expect("an id");
        let room_id = RoomId::new("den").expect("an id");
        let init = Init { user_id: id("ada"), room_id, have: None, resume: Some(resume.clone()) };
        let said = ClientSignal::Init(init);
        let welcome = ServerSignal::Welcome { resume, members: 1 };
        assert!(!format!("{said:?}{welcome:?}").contains("hunter2"));
        for json in [serde_json::to_string(&said), serde_json::to_string(&welcome)] {
            assert!(json.expect("JSON").contains(r#""resume":"hunter2""#), "on the wire it is itself");
        }
    }
}
