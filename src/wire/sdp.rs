//! Session descriptions, and the few lines of them that this program reads or adds.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::limits::SDP_MAX_BYTES;

/// The session-level attribute by which our peers recognise each other. The published libraries ignore it
/// (RFC 8866 §5.13: unknown attributes are ignored).
pub const MARKER: &str = "a=x-swarm:1";

/// A session description of at most [`SDP_MAX_BYTES`].
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Sdp(String);

/// How a line with a candidate begins (RFC 8839 §5.1).
const CANDIDATE: &str = "a=candidate:";
const CANDIDATE_NAME: &str = "candidate:";

/// Formats of a media section (RTP has 128 payload types, RFC 3550 §5.1), and attributes times formats in all of them: the engine reads each
/// attribute once for each format (rtc 0.21). Browsers that offer audio and video have 50 formats and 200 attributes.
const FORMATS_MAX: usize = 128;
const FORMAT_ATTRIBUTES_MAX: usize = 32_000;

/// A ufrag has 256 characters at most (RFC 8839 §5.4). It is part of each connectivity check.
const UFRAG_NAME: &str = "ice-ufrag:";
const UFRAG_MAX_BYTES: usize = 256;

/// The text is no session description this program accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// The text is longer than [`SDP_MAX_BYTES`].
    #[error("a session description has at most {SDP_MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
}

impl Sdp {
    /// Takes a description of at most [`SDP_MAX_BYTES`]; what it says is judged by the WebRTC stack.
    pub fn new(text: impl Into<String>) -> Result<Self, SdpError> {
        let text = text.into();
        if text.len() > SDP_MAX_BYTES {
            return Err(SdpError::TooLong(text.len()));
        }
        Ok(Self(text))
    }

    /// The description as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the description was made by one of our peers.
    pub fn has_marker(&self) -> bool {
        self.session_lines().any(|line| line == MARKER)
    }

    /// The description with our marker among its session-level attributes.
    pub fn with_marker(&self) -> Self {
        if self.has_marker() {
            return self.clone();
        }
        let session_bytes: usize =
            self.0.split_inclusive('\n').take_while(|line| !line.starts_with("m=")).map(str::len).sum();
        let (session, media) = self.0.split_at(session_bytes);
        let line_end = if session.is_empty() || session.ends_with('\n') { "" } else { "\r\n" };
        Self(format!("{session}{line_end}{MARKER}\r\n{media}"))
    }

    /// The description without candidates, which are counted and sorted out where those are that come by themselves. What might
    /// be one to somebody who reads less strictly goes, too.
    pub fn without_candidates(&self) -> Self {
        let is_other = |line: &&str| !line.contains(CANDIDATE_NAME);
        Self(self.0.split_inclusive('\n').filter(is_other).collect())
    }

    /// Whether the description has the measure of those that peers really make, so that it costs little to read and to use.
    pub fn is_modest(&self) -> bool {
        let (mut formats, mut reads) = (0, 0);
        for line in self.0.split(['\r', '\n']).map(str::trim) {
            if line.starts_with('m') {
                formats = line.split_whitespace().count();
            }
            reads += if line.starts_with('a') { formats } else { 0 };
            let is_long =
                line.contains(UFRAG_NAME) && line.len() > "a=".len() + UFRAG_NAME.len() + UFRAG_MAX_BYTES;
            if is_long || formats > FORMATS_MAX || reads > FORMAT_ATTRIBUTES_MAX {
                return false;
            }
        }
        true
    }

    /// The candidates in the description, as they stand in the candidate of W3C webrtc-pc §4.8.1.
    pub fn candidates(&self) -> impl Iterator<Item = &str> {
        self.0.lines().filter(|line| line.starts_with(CANDIDATE)).map(|line| line["a=".len()..].trim_end())
    }

    fn session_lines(&self) -> impl Iterator<Item = &str> {
        self.0.lines().map(str::trim_end).take_while(|line| !line.starts_with("m="))
    }
}

impl fmt::Debug for Sdp {
    /// Addresses and ICE passwords stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sdp({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Sdp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_a_session_attribute() {
        let sdp = Sdp::new("v=0\r\ns=-\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n")
            .expect("short enough");
        assert!(!sdp.has_marker());
        let marked = sdp.with_marker();
        assert!(marked.has_marker());
        assert_eq!(marked.with_marker(), marked);
        assert!(marked.as_str().starts_with("v=0\r\ns=-\r\na=x-swarm:1\r\nm=application"));
    }

    #[test]
    fn a_media_level_marker_does_not_count() {
        let sdp = Sdp::new("v=0\r\nm=application 9\r\na=x-swarm:1\r\n").expect("short enough");
        assert!(!sdp.has_marker());
    }

    #[test]
    fn candidates_are_taken_out() {
        let udp = "candidate:1 1 udp 2122265343 192.0.2.2 47805 typ host";
        let tcp = "candidate:2 1 tcp 1518285567 192.0.2.2 50083 typ host tcptype passive";
        let sdp = Sdp::new(format!("v=0\r\na={tcp}\r\na={udp}\na=mid:0\r\n")).expect("short");
        assert_eq!(sdp.without_candidates().as_str(), "v=0\r\na=mid:0\r\n");
        assert_eq!(sdp.candidates().collect::<Vec<_>>(), [tcp, udp]);
    }

    #[test]
    fn a_description_has_the_measure_of_what_peers_make() {
        let is_modest = |text: String| Sdp::new(text).expect("short enough").is_modest();
        let section = |formats: usize, attributes: usize| {
            let feedback = "a=rtcp-fb:1 x\r\n".repeat(attributes);
            format!("m=video 9 UDP/TLS/RTP/SAVPF{}\r\n{feedback}", " 1".repeat(formats))
        };
        assert!(is_modest(format!("v=0\r\n{}{}", section(60, 250), section(20, 100))));
        assert!(!is_modest(section(3_000, 10)));
        assert!(!is_modest(section(100, 400)));
        assert!(!is_modest(section(60, 250).repeat(3)), "all sections together");
        let named = |ufrag: usize| format!("v=0\r\na=ice-ufrag:{}\r\n", "u".repeat(ufrag));
        assert!(is_modest(named(UFRAG_MAX_BYTES)));
        assert!(!is_modest(named(UFRAG_MAX_BYTES + 1)));
    }

    /// The engine trims values, and takes a carriage return for the end of a line.
    #[test]
    fn candidates_are_taken_out_however_they_are_written() {
        for hidden in [
            "a= candidate:1",
            "\ra=candidate:1",
            "a=mid:0\ra=candidate:1",
            " a=candidate:1",
            "a=\u{a0}candidate:1",
        ] {
            let sdp =
                Sdp::new(format!("v=0\r\n{hidden} 1 udp 9 192.0.2.2 9 typ host\r\na=end-of-candidates\r\n"));
            let left = sdp.expect("short").without_candidates();
            assert_eq!(left.as_str(), "v=0\r\na=end-of-candidates\r\n", "{hidden:?}");
        }
    }
}
