//! The dialects of signaling, at the edge of each socket.
//!
//! The published libraries come in two generations that cannot understand each other, and some hosts wrap their
//! messages as `{"type":"WRTC_SIGNAL","signal":{…}}`. The server recognises which of the four a client speaks by the
//! first message and answers in kind, so that rooms may mix them; our own peers speak the second generation.

mod first;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::ids::TextOrNumber;
use super::limits::{SERVER_SIGNAL_MAX_BYTES, SIGNAL_MAX_BYTES};
use super::signal::ErrorCode;
use super::{Candidate, ClientSignal, Init, LinkId, RoomId, Sdp, Secret, ServerSignal, UserId};
use first::FirstGeneration;

/// The room of clients that name none, neither in `init` nor in the URL.
pub const DEFAULT_ROOM: &str = "lobby";

/// The type of a wrapped message.
const WRAPPER: &str = "WRTC_SIGNAL";

/// Why a message was refused: what the server tells its sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DialectError {
    /// The stable word.
    pub code: ErrorCode,
    /// One sentence for people, of bounded length.
    pub message: String,
}

impl DialectError {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn missing(what: &str) -> Self {
        Self::new(ErrorCode::Malformed, format!("the message has no `{what}`"))
    }

    fn not_json(error: &serde_json::Error) -> Self {
        const EXPLANATION_MAX_CHARS: usize = 160;
        let explanation: String = error.to_string().chars().take(EXPLANATION_MAX_CHARS).collect();
        Self::new(ErrorCode::Malformed, format!("not a signaling message: {explanation}"))
    }
}

/// The server's end of one socket.
#[derive(Debug)]
pub struct ServerDialect {
    default_room: RoomId,
    generation: Generation,
    wrapped: bool,
}

#[derive(Debug)]
enum Generation {
    /// Nothing was understood yet.
    Unknown,
    First(FirstGeneration),
    Second,
}

/// Any message of any client: the union of all fields, so that one pass over the text is enough. `S` is what it may wrap; in
/// what is wrapped nothing is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "S: Deserialize<'de>"))]
struct Raw<'a, S = IgnoredAny> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    signal: Option<Box<S>>,
    sdp: Option<Sdp>,
    #[serde(default, deserialize_with = "super::candidate::or_end")]
    candidate: Option<Candidate>,
    id: Option<LinkId>,
    user_id: Option<UserId>,
    room_id: Option<TextOrNumber>,
    #[serde(default, deserialize_with = "super::ids::first_ids")]
    have: Option<Vec<UserId>>,
    resume: Option<Secret>,
    offer_id: Option<LinkId>,
    from: Option<UserId>,
    to: Option<UserId>,
}

impl<'a> Raw<'a, Raw<'a>> {
    /// What is said, and whether it was wrapped.
    fn unwrapped(self) -> Result<(Raw<'a>, bool), DialectError> {
        if self.kind == WRAPPER {
            let inner = self.signal.ok_or_else(|| DialectError::missing("signal"))?;
            return Ok((*inner, true));
        }
        let Self { kind, signal: _, sdp, candidate, id, user_id, room_id, have, resume, offer_id, from, to } =
            self;
        let bare = Raw {
            kind,
            signal: None,
            sdp,
            candidate,
            id,
            user_id,
            room_id,
            have,
            resume,
            offer_id,
            from,
            to,
        };
        Ok((bare, false))
    }
}

impl Raw<'_> {
    fn is_first_generation(&self) -> bool {
        let second = self.id.is_some() || self.user_id.is_some();
        let first = self.offer_id.is_some() || self.from.is_some() || self.to.is_some();
        first && !second
    }

    fn take_sdp(&mut self) -> Result<Sdp, DialectError> {
        self.sdp.take().ok_or_else(|| DialectError::missing("sdp"))
    }

    fn take_id(&mut self) -> Result<LinkId, DialectError> {
        self.id.take().ok_or_else(|| DialectError::missing("id"))
    }
}

impl ServerDialect {
    /// A dialect yet to be recognised. `default_room` is the room of the URL, or [`DEFAULT_ROOM`].
    pub fn new(default_room: RoomId) -> Self {
        Self { default_room, generation: Generation::Unknown, wrapped: false }
    }

    /// Parses one message of a client. The first generation says two things in one: `init` carries an offer.
    pub fn parse(&mut self, text: &str) -> Result<Vec<ClientSignal>, DialectError> {
        if text.len() > SIGNAL_MAX_BYTES {
            let message =
                format!("a message has at most {SIGNAL_MAX_BYTES} bytes, this one has {}", text.len());
            return Err(DialectError::new(ErrorCode::LimitExceeded, message));
        }
        let outer: Raw<'_, Raw<'_>> =
            serde_json::from_str(text).map_err(|error| DialectError::not_json(&error))?;
        let (raw, wrapped) = outer.unwrapped()?;
        check_kind(&raw.kind)?;
        if matches!(self.generation, Generation::Unknown) && raw.kind != "close" {
            self.wrapped = wrapped;
            self.generation = if raw.is_first_generation() {
                Generation::First(FirstGeneration::default())
            } else {
                Generation::Second
            };
        }
        match &mut self.generation {
            Generation::First(first) => first.parse(raw, &self.default_room),
            Generation::Second | Generation::Unknown => self.parse_second(raw).map(|signal| vec![signal]),
        }
    }

    fn parse_second(&self, mut raw: Raw<'_>) -> Result<ClientSignal, DialectError> {
        match raw.kind.as_ref() {
            "init" => self.parse_init(raw).map(ClientSignal::Init),
            "offer" => Ok(ClientSignal::Offer { id: raw.take_id()?, sdp: raw.take_sdp()? }),
            "answer" => Ok(ClientSignal::Answer { id: raw.take_id()?, sdp: raw.take_sdp()? }),
            "candidate" => {
                Ok(ClientSignal::Candidate { id: raw.take_id()?, candidate: raw.candidate.take() })
            }
            "want" => {
                let user_id = raw.user_id.ok_or_else(|| DialectError::missing("userId"))?;
                Ok(ClientSignal::Want { user_id })
            }
            "withdraw" => Ok(ClientSignal::Withdraw { id: raw.take_id()? }),
            "leave" => Ok(ClientSignal::Leave { id: raw.take_id()? }),
            "close" => Ok(ClientSignal::Close),
            _ => Err(unknown_type()),
        }
    }

    fn parse_init(&self, raw: Raw<'_>) -> Result<Init, DialectError> {
        let user_id = raw.user_id.ok_or_else(|| DialectError::missing("userId"))?;
        let room = raw.room_id.map(TextOrNumber::into_text).unwrap_or_default();
        let room_id = if room.is_empty() {
            self.default_room.clone()
        } else {
            RoomId::new(room).map_err(|error| DialectError::new(ErrorCode::Malformed, error.to_string()))?
        };
        Ok(Init { user_id, room_id, have: raw.have, resume: raw.resume })
    }

    /// Writes one message to the client, or nothing if its generation has no such message. Nothing longer than
    /// [`SERVER_SIGNAL_MAX_BYTES`] is written, either: the limits of what is kept leave no such message, and a client that
    /// got one might close.
    pub fn write(&mut self, signal: &ServerSignal) -> Option<String> {
        let text = match &mut self.generation {
            Generation::First(first) => first.write(signal)?.to_string(),
            Generation::Second | Generation::Unknown => to_text(signal),
        };
        let text = if self.wrapped { wrap(&text) } else { text };
        (text.len() <= SERVER_SIGNAL_MAX_BYTES).then_some(text)
    }
}

/// Messages only servers send are refused by name: passing them on was how one client could speak for the server.
fn check_kind(kind: &str) -> Result<(), DialectError> {
    match kind {
        "init" | "offer" | "answer" | "candidate" | "want" | "withdraw" | "leave" | "close" => Ok(()),
        "accept" | "offerAccepted" | "offerRequest" | "leaveSwarm" | "welcome" | "gone" | "signal_error" => {
            Err(DialectError::new(ErrorCode::NotAllowed, "only the server sends this message"))
        }
        _ => Err(unknown_type()),
    }
}

fn unknown_type() -> DialectError {
    DialectError::new(ErrorCode::UnknownType, "this server does not know messages of this type")
}

fn to_text(signal: &impl serde::Serialize) -> String {
    serde_json::to_string(signal).expect("signals have string keys and no failing types")
}

fn wrap(text: &str) -> String {
    format!(r#"{{"type":"{WRAPPER}","signal":{text}}}"#)
}

/// Our peer's end of its socket: the second generation, bare or wrapped.
#[derive(Debug, Default)]
pub struct ClientDialect {
    wrapped: bool,
}

impl ClientDialect {
    /// Speaks wrapped messages from the start if the host is known to expect them; otherwise as soon as it does.
    pub fn new(wrapped: bool) -> Self {
        Self { wrapped }
    }

    /// Parses one message of the server. One of an unknown type is an error too: ignore it.
    pub fn parse(&mut self, text: &str) -> Result<ServerSignal, DialectError> {
        #[derive(Deserialize)]
        #[serde(tag = "type")]
        enum Incoming {
            #[serde(rename = "WRTC_SIGNAL")]
            Wrapped { signal: ServerSignal },
            #[serde(untagged)]
            Bare(ServerSignal),
        }
        if text.len() > SERVER_SIGNAL_MAX_BYTES {
            let message = format!("the server's message has {} bytes, too many", text.len());
            return Err(DialectError::new(ErrorCode::LimitExceeded, message));
        }
        match serde_json::from_str(text).map_err(|error| DialectError::not_json(&error))? {
            Incoming::Wrapped { signal } => {
                self.wrapped = true;
                Ok(signal)
            }
            Incoming::Bare(signal) => Ok(signal),
        }
    }

    /// Writes one message to the server.
    pub fn write(&self, signal: &ClientSignal) -> String {
        let text = to_text(signal);
        if self.wrapped { wrap(&text) } else { text }
    }
}
