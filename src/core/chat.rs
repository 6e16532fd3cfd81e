//! What the `fast` channel carries: lines of chat as plain strings, and `@fast/…` for the published libraries' own use.

use std::borrow::Cow;

use super::link::PeerKind;
use crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;

/// The message by which the second generation closes a connection. We never send it: in the first it is a line of chat.
pub const CLOSE: &str = r#"@fast/{"type":"close"}"#;

const RESERVED: &str = "@fast";
const INTERNAL: &str = "@fast/";

/// A string from the `fast` channel.
#[derive(Debug, PartialEq, Eq)]
pub enum FastMessage {
    /// A line of chat.
    Line(String),
    /// The other side closes the connection.
    Close,
    /// Something about media, which a data-only peer ignores.
    Internal,
}

/// Reads a string that a peer sent.
pub fn parse(kind: PeerKind, text: &str) -> FastMessage {
    if let Some(json) = text.strip_prefix(INTERNAL) {
        return match serde_json::from_str::<serde_json::Value>(json) {
            Ok(value) if value["type"] == "close" => FastMessage::Close,
            Ok(_) | Err(_) => FastMessage::Internal,
        };
    }
    let line = match kind {
        PeerKind::Swarm => unescape(text),
        PeerKind::Original => text,
    };
    FastMessage::Line(line.to_owned())
}

/// The strings that carry `line`: one, or several of at most [`CHANNEL_MESSAGE_MAX_BYTES`] for a very long line.
pub fn messages(line: &str) -> Vec<String> {
    split(line, CHANNEL_MESSAGE_MAX_BYTES - 1).map(|part| escape(part).into_owned()).collect()
}

/// Cuts `text` into parts of at most `max_bytes`, between characters. An empty text is one empty part.
pub fn split(text: &str, max_bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        if text.len() <= max_bytes {
            return rest.take();
        }
        let (part, tail) = text.split_at(text.floor_char_boundary(max_bytes));
        rest = Some(tail);
        Some(part)
    })
}

/// A line that a published library would take for its own message gets a space in front, and so does a line
/// that only looks as if it had one, so that our peers can take it off again.
fn escape(line: &str) -> Cow<'_, str> {
    if line.trim_start_matches(' ').starts_with(RESERVED) { format!(" {line}").into() } else { line.into() }
}

fn unescape(text: &str) -> &str {
    match text.strip_prefix(' ') {
        Some(line) if line.trim_start_matches(' ').starts_with(RESERVED) => line,
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_begins_with_fast_survives() {
        for line in ["@fast/{\"type\":\"close\"}", "@faster", " @fast", "  @fast x", "hi", ""] {
            let sent = messages(line);
            assert_eq!(sent.len(), 1);
            assert!(!sent[0].starts_with(RESERVED), "{sent:?}");
            assert_eq!(parse(PeerKind::Swarm, &sent[0]), FastMessage::Line(line.into()));
        }
    }

    #[test]
    fn an_originals_line_is_taken_as_it_is() {
        assert_eq!(parse(PeerKind::Original, " @fast"), FastMessage::Line(" @fast".into()));
    }

    #[test]
    fn internal_messages_are_never_chat() {
        assert_eq!(parse(PeerKind::Original, CLOSE), FastMessage::Close);
        assert_eq!(parse(PeerKind::Original, "@fast/{\"type\":\"stream\"}"), FastMessage::Internal);
        assert_eq!(parse(PeerKind::Original, "@fast/not json"), FastMessage::Internal);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let line = "é".repeat(CHANNEL_MESSAGE_MAX_BYTES);
        let sent = messages(&line);
        assert!(sent.iter().all(|part| part.len() <= CHANNEL_MESSAGE_MAX_BYTES));
        assert_eq!(sent.concat(), line);
    }
}
