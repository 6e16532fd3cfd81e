//! The machine's face: one JSON object a line (`docs/json.md`, which is the interface).
//!
//! Unlike what people are shown, texts are passed on whole and as they were sent; characters that a terminal could obey are
//! written as `\u…` escapes, so that looking at the stream is harmless and parsing it loses nothing.

mod translate;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::exit::Exit;
use super::values::Resolution;
use crate::wire::text;
use crate::wire::{RoomId, TransferId, UserId};

pub use translate::Translator;

/// The version of the schema. It changes when something that a script may rely on does; what is added does not change it.
pub const VERSION: u32 = 1;

/// What the program prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "docs/json.md says it, once, for the readers who need it")]
pub enum Event {
    Invite {
        version: u32,
        invite: String,
        room: RoomId,
    },
    Ready {
        version: u32,
        id: UserId,
        name: String,
        room: RoomId,
        invite: Option<String>,
        members: Option<usize>,
    },
    Signaling {
        state: Signaling,
        reason: Option<String>,
        retry_secs: Option<f64>,
    },
    Open {
        peer: Peer,
    },
    Close {
        peer: PeerRef,
        reason: Reason,
    },
    Refused {
        peer: Option<UserId>,
        reason: Reason,
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
    },
    IceServer {
        server: String,
        reason: IceReason,
        code: Option<u16>,
    },
    Name {
        peer: PeerRef,
        old: String,
    },
    Message {
        from: PeerRef,
        text: String,
        direct: bool,
    },
    Data {
        from: PeerRef,
        len: usize,
        blake3: String,
    },
    Peers {
        peers: Vec<Peer>,
        r#ref: Option<serde_json::Value>,
    },
    Sending {
        transfer: TransferId,
        name: String,
        files: u32,
        bytes: u64,
        left_out: usize,
        r#ref: Option<serde_json::Value>,
    },
    Offer {
        transfer: TransferId,
        from: PeerRef,
        name: String,
        files: u32,
        folders: u32,
        roots: u32,
        bytes: u64,
        origin: UserId,
    },
    Withdrawn {
        transfer: TransferId,
    },
    Accepted {
        transfer: TransferId,
        peer: PeerRef,
    },
    Declined {
        transfer: TransferId,
        peer: PeerRef,
        reason: String,
    },
    Receiving {
        transfer: TransferId,
        from: PeerRef,
        name: String,
        files: u32,
        bytes: u64,
    },
    Conflicts {
        transfer: TransferId,
        paths: Vec<String>,
        count: usize,
    },
    Resumed {
        transfer: TransferId,
        bytes: u64,
        total: u64,
    },
    Progress(Progress),
    Stalled {
        transfer: TransferId,
        missing_bytes: u64,
    },
    Delivered {
        transfer: TransferId,
        peer: PeerRef,
        from_sender_bytes: u64,
        from_others_bytes: u64,
    },
    Undelivered {
        transfer: TransferId,
        peer: PeerRef,
        reason: Option<String>,
    },
    Done(Done),
    Failed {
        transfer: TransferId,
        reason: String,
    },
    Silent {
        transfer: TransferId,
        peer: PeerRef,
    },
    Suspect {
        transfer: Option<TransferId>,
        peer: PeerRef,
        reason: String,
    },
    Code {
        state: CodeState,
        code: Option<String>,
        server: Option<String>,
        secs: Option<u64>,
        reason: Option<String>,
        r#ref: Option<serde_json::Value>,
    },
    Error {
        code: ErrorCode,
        message: String,
        r#ref: Option<serde_json::Value>,
    },
    End {
        exit: u8,
    },
}

/// Who sent something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see docs/json.md")]
pub struct PeerRef {
    pub id: UserId,
    pub name: String,
    pub verified: bool,
}

/// A peer and how it is connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see docs/json.md")]
pub struct Peer {
    pub id: UserId,
    pub name: String,
    pub verified: bool,
    pub kind: Kind,
    pub path: Option<PathInfo>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// Which program a peer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum Kind {
    Swarm,
    Original,
}

/// How packets travel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see docs/json.md")]
pub struct PathInfo {
    pub kind: Travel,
    pub local: String,
    pub remote: String,
    pub rtt_ms: Option<f64>,
}

/// Between the hosts or through a TURN server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum Travel {
    Direct,
    Relayed,
}

/// The connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum Signaling {
    Connecting,
    Up,
    Down,
    Refused,
}

/// What is wrong with a STUN or TURN server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "docs/json.md says it, once, for the readers who need it")]
pub enum IceReason {
    Unresolved,
    Silent,
    Refused,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a peer is gone or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum Reason {
    Left,
    Lost,
    NoPath,
    KeyMismatch,
    Unverified,
    Misbehaved,
    Server,
    Replaced,
    TakenId,
    Local,
}

/// What became of a one-time code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum CodeState {
    Open,
    Used,
    Wrong,
    Expired,
    Failed,
}

/// How far a transfer is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see docs/json.md")]
pub struct Progress {
    pub transfer: TransferId,
    pub direction: Way,
    pub bytes: u64,
    pub total: u64,
    pub rate_bps: u64,
    pub eta_secs: Option<f64>,
    pub uploaded_bytes: u64,
    pub peers: Vec<PeerProgress>,
}

/// One peer's part in a transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see docs/json.md")]
pub struct PeerProgress {
    pub id: UserId,
    pub has_bytes: u64,
    pub done: bool,
    pub down_bps: u64,
    pub up_bps: u64,
}

/// Which way a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum Way {
    Send,
    Receive,
}

/// A transfer that was received whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see docs/json.md")]
pub struct Done {
    pub transfer: TransferId,
    pub path: Option<String>,
    pub bytes: u64,
    pub secs: f64,
    pub blake3: Option<String>,
    pub from_sender_bytes: u64,
    pub from_others_bytes: u64,
    pub skipped: usize,
}

/// What kind of error. Stable words: programs match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum ErrorCode {
    BadCommand,
    NoSuchPeer,
    NoSuchTransfer,
    CanNotSend,
    Refused,
    Unreachable,
    Failed,
}

impl From<Exit> for ErrorCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Refused => Self::Refused,
            Exit::Unreachable => Self::Unreachable,
            Exit::Done | Exit::Failed | Exit::Usage | Exit::Incomplete => Self::Failed,
        }
    }
}

/// What a script asks of `swarm join --json`, one object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "docs/json.md says it, once, for the readers who need it")]
pub enum Command {
    Say {
        text: String,
        #[serde(default, skip_serializing_if = "Recipients::is_everyone")]
        to: Recipients,
    },
    Data {
        base64: String,
        #[serde(default, skip_serializing_if = "Recipients::is_everyone")]
        to: Recipients,
    },
    Send {
        paths: Vec<PathBuf>,
        #[serde(default, skip_serializing_if = "Recipients::is_everyone")]
        to: Recipients,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        #[serde(default, skip_serializing_if = "is_no")]
        gitignore: bool,
        #[serde(default, skip_serializing_if = "is_no")]
        follow: bool,
    },
    Accept {
        transfer: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folders: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        roots: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    Reject {
        transfer: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    Resolve {
        transfer: String,
        conflict: Resolution,
    },
    Name {
        name: String,
    },
    Ignore {
        peer: String,
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        ignored: bool,
    },
    Peers,
    Code,
    Quit,
}

/// To whom: absent or `null` is everyone, a name or id, or several.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "see docs/json.md")]
pub enum Recipients {
    #[default]
    Everyone,
    One(String),
    Some(Vec<String>),
}

impl Recipients {
    fn is_everyone(&self) -> bool {
        *self == Self::Everyone
    }
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_no(value: &bool) -> bool {
    !*value
}

/// A command and what the script calls it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Repeated in the answer, and in an error about it.
    pub r#ref: Option<serde_json::Value>,
}

impl Request {
    /// Parses one line. The error is the event to print.
    pub fn parse(line: &str) -> Result<Self, Box<Event>> {
        let bad = |error: serde_json::Error, r#ref| {
            let message = format!("{error}; see docs/json.md");
            Box::new(Event::Error { code: ErrorCode::BadCommand, message, r#ref })
        };
        let mut value: serde_json::Value = serde_json::from_str(line).map_err(|error| bad(error, None))?;
        let r#ref = value.as_object_mut().and_then(|object| object.remove("ref"));
        let command = serde_json::from_value(value).map_err(|error| bad(error, r#ref.clone()))?;
        Ok(Self { command, r#ref })
    }
}

/// The object as one line, without the line break: JSON whose every character can be shown.
pub fn to_line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("our types have string keys and serialise");
    if !json.contains(text::is_harmful) {
        return json;
    }
    let mut line = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if text::is_harmful(c) {
            // Harmful characters stand inside strings only, where JSON takes UTF-16 escapes (RFC 8259 §7).
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOCS: &str = include_str!("../../docs/json.md");

    /// The lines of the documentation's `json` blocks.
    fn examples() -> Vec<&'static str> {
        let blocks = DOCS.split("```json\n").skip(1).filter_map(|rest| rest.split("\n```").next());
        blocks.flat_map(str::lines).collect()
    }

    #[test]
    fn every_example_of_the_documentation_is_what_the_program_writes() {
        for line in examples() {
            let written = if line.starts_with(r#"{"cmd""#) {
                to_line(
                    &serde_json::from_str::<Command>(line).unwrap_or_else(|error| panic!("{line}: {error}")),
                )
            } else {
                to_line(
                    &serde_json::from_str::<Event>(line).unwrap_or_else(|error| panic!("{line}: {error}")),
                )
            };
            assert_eq!(written, line);
        }
    }

    /// Serde lists what it knows when it is asked for something that it does not know.
    fn known(error: &serde_json::Error) -> BTreeSet<String> {
        error.to_string().split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn everything_has_an_example() {
        let documented = |tag: &str| -> BTreeSet<String> {
            let values = examples().into_iter().map(serde_json::from_str::<serde_json::Value>);
            let tags =
                values.filter_map(|value| value.expect("checked above")[tag].as_str().map(str::to_owned));
            tags.collect()
        };
        let events =
            serde_json::from_str::<Event>(r#"{"event":"?"}"#).expect_err("there is none of that name");
        assert_eq!(known(&events), documented("event"));
        let commands =
            serde_json::from_str::<Command>(r#"{"cmd":"?"}"#).expect_err("there is none of that name");
        assert_eq!(known(&commands), documented("cmd"));
    }
}
