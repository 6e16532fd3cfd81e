//! ICE candidates as browsers write them (`RTCIceCandidateInit`, W3C webrtc-pc §4.8.2).

use std::fmt;
use std::net::SocketAddr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::limits::CANDIDATE_MAX_BYTES;

/// One ICE candidate. `candidate` is the candidate-attribute of RFC 8839 §5.1; an empty one ends the candidates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The `candidate:…` line, without `a=`.
    pub candidate: String,
    /// The media stream it belongs to; `"0"` in every data-only description of the published libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdp_mid: Option<String>,
    /// The index of the m-line.
    #[serde(default, rename = "sdpMLineIndex", skip_serializing_if = "Option::is_none")]
    pub sdp_m_line_index: Option<u16>,
    /// The ufrag of the ICE generation the candidate belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_fragment: Option<String>,
}

impl Candidate {
    /// What stands in a description with one m-line.
    pub fn of_line(line: &str) -> Self {
        Self { candidate: line.to_owned(), sdp_mid: None, sdp_m_line_index: Some(0), username_fragment: None }
    }

    /// Whether the candidate is of type `host` (RFC 8839 §5.1): an address of the machine itself.
    pub fn is_host(&self) -> bool {
        self.candidate.is_empty() || self.kind() == Some("host")
    }

    /// What kind of candidate it is: `host`, `srflx`, `prflx` or `relay` (RFC 8839 §5.1).
    pub fn kind(&self) -> Option<&str> {
        let mut words = self.candidate.split_ascii_whitespace();
        words.find(|word| *word == "typ")?;
        words.next()
    }

    /// Where it leads, unless it is a name.
    pub fn address(&self) -> Option<SocketAddr> {
        let mut words = self.candidate.split_ascii_whitespace().skip(4);
        Some(SocketAddr::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    }

    /// Whether the candidate is reached over UDP, by its third field (RFC 8839 §5.1). Others are TCP (RFC 6544), which this program
    /// does not speak. What is not as that grammar has it, ASCII with spaces, is neither: others might find other fields in it.
    pub fn is_udp(&self) -> bool {
        let is_plain = self.candidate.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let transport = self.candidate.split_ascii_whitespace().nth(2);
        is_plain && transport.is_some_and(|transport| transport.eq_ignore_ascii_case("udp"))
    }

    /// The same candidate without the address that it is the outside of, which is for diagnosis only (RFC 8839 §5.1: `0.0.0.0 9`
    /// keeps it private).
    pub fn without_related_address(self) -> Self {
        let mut words: Vec<&str> = self.candidate.split(' ').collect();
        for (name, nothing) in [("raddr", "0.0.0.0"), ("rport", "9")] {
            let value = words.iter().position(|word| *word == name).map(|at| at + 1);
            if let Some(value) = value.and_then(|at| words.get_mut(at)) {
                *value = nothing;
            }
        }
        Self { candidate: words.join(" "), ..self }
    }

    /// As JSON each of them takes six bytes, so a candidate within its limit could be a message over the limit.
    fn has_control_characters(&self) -> bool {
        let texts = [Some(&self.candidate), self.sdp_mid.as_ref(), self.username_fragment.as_ref()];
        texts.into_iter().flatten().any(|text| text.chars().any(char::is_control))
    }

    /// The bytes this candidate takes, for limits.
    pub fn len_bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.candidate.len() + optional(&self.sdp_mid) + optional(&self.username_fragment)
    }
}

/// Reads what stands for a candidate: an object, or one of the ways to say that there are no more (`null`, `""`, an
/// object with an empty line). Longer than [`CANDIDATE_MAX_BYTES`] is an error.
pub(super) fn or_end<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Candidate>, D::Error> {
    let Some(candidate) = deserializer.deserialize_any(CandidateVisitor)? else { return Ok(None) };
    if candidate.candidate.is_empty() {
        return Ok(None);
    }
    if candidate.len_bytes() > CANDIDATE_MAX_BYTES {
        let message = format!("a candidate has at most {CANDIDATE_MAX_BYTES} bytes");
        return Err(serde::de::Error::custom(message));
    }
    if candidate.has_control_characters() {
        return Err(serde::de::Error::custom("a candidate has no control characters"));
    }
    Ok(Some(candidate))
}

/// Reads without a copy of what it is not yet known to be.
struct CandidateVisitor;

impl<'de> Visitor<'de> for CandidateVisitor {
    type Value = Option<Candidate>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a candidate: an object, a line or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, line: &str) -> Result<Self::Value, E> {
        let candidate = line.to_owned();
        Ok(Some(Candidate { candidate, sdp_mid: None, sdp_m_line_index: None, username_fragment: None }))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        Candidate::deserialize(MapAccessDeserializer::new(object)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Field {
        #[serde(deserialize_with = "or_end")]
        candidate: Option<Candidate>,
    }

    #[test]
    fn what_stands_for_a_candidate_is_an_object_a_line_or_an_end() {
        let read = |json: &str| serde_json::from_str::<Field>(&format!(r#"{{"candidate":{json}}}"#));
        let line = |json: &str| read(json).expect(json).candidate.map(|candidate| candidate.candidate);
        for end in ["null", r#""""#, r#"{"candidate":"","sdpMid":"0","sdpMLineIndex":0}"#] {
            assert_eq!(line(end), None, "{end}");
        }
        for good in
            [r#""x""#, r#""\u0078""#, r#"{"candidate":"x"}"#, r#"{"y":[{}],"candidate":"x","sdpMid":null}"#]
        {
            assert_eq!(line(good).as_deref(), Some("x"), "{good}");
        }
        for bad in
            ["7", "true", "{}", "[]", r#"["x"]"#, r#"{"candidate":null}"#, r#"{"candidate":"x","sdpMid":0}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let value = serde_json::json!({ "candidate": { "candidate": "x" } });
        assert!(serde_json::from_value::<Field>(value).expect("likewise").candidate.is_some());
    }

    #[test]
    fn a_candidate_is_read_in_one_way() {
        let is_udp = |line: &str| Candidate::of_line(line).is_udp();
        assert!(is_udp("candidate:1 1 UDP 1 192.0.2.1 9 typ host"));
        assert!(!is_udp("candidate:1 1 tcp 1 192.0.2.1 9 typ host tcptype passive"));
        let words = "candidate:1\u{a0}1\u{a0}tcp\u{a0}1\u{a0}192.0.2.1 9 udp host tcptype passive";
        assert!(!is_udp(words), "others take the first for a space");
    }

    #[test]
    fn what_is_behind_a_relay_is_not_told() {
        let told = |line: &str| Candidate::of_line(line).without_related_address().candidate;
        let relayed =
            "candidate:1 1 udp 9 203.0.113.9 55555 typ relay raddr 192.0.2.2 rport 50354 generation 0";
        assert_eq!(
            told(relayed),
            "candidate:1 1 udp 9 203.0.113.9 55555 typ relay raddr 0.0.0.0 rport 9 generation 0"
        );
        for host in [
            "candidate:1 1 udp 9 192.0.2.2 55555 typ host",
            "candidate:1 1 udp 9 192.0.2.2 5 typ srflx raddr",
        ] {
            assert_eq!(told(host), host);
        }
    }

    #[test]
    fn a_candidate_that_grows_as_json_is_refused() {
        let parsed = |line: &str| {
            let field = serde_json::json!({ "candidate": { "candidate": line } });
            serde_json::from_value::<Field>(field).map(|field| field.candidate.is_some())
        };
        assert!(parsed("candidate:1 1 udp 1 192.0.2.1 9 typ host").expect("a good one"));
        assert!(parsed(&"\u{1}".repeat(900)).is_err());
    }
}
