//! The control channel: JSON text messages between our own peers, one a message (`docs/protocol.md`).

use serde::{Deserialize, Serialize};

use super::candidate::or_end;
use super::limits::CONTROL_MAX_BYTES;
use super::{Candidate, Sdp};

/// The version of the control protocol this program speaks.
pub const CONTROL_VERSION: u32 = 1;

/// What our peers say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Control {
    /// The first message of each side. Nothing else is listened to before it.
    Hello {
        /// The sender's [`CONTROL_VERSION`].
        version: u32,
        /// What the sender wants to be called.
        name: String,
        /// The proof of the room's key, base64url without padding; absent in a room without a key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proof: Option<String>,
    },
    /// The sender has a new name.
    Name {
        /// The new name.
        name: String,
    },
    /// A line for the receiver alone.
    Direct {
        /// The line.
        text: String,
    },
    /// Asks for an [`Control::Alive`] with the same nonce.
    Probe {
        /// Chosen by the asker.
        nonce: u64,
    },
    /// Answers a [`Control::Probe`].
    Alive {
        /// The nonce of the probe.
        nonce: u64,
    },
    /// The sender closes this link on purpose and says why.
    Bye {
        /// One of the stable words of `docs/protocol.md`.
        reason: String,
    },
    /// A message of the file protocol, for [`crate::core::transfer`].
    Transfer {
        /// The message. Parsed by the transfer machine, so that the mesh need not know files.
        message: serde_json::Value,
    },
    /// About a further connection between the two, which carries bulk frames beside this link (`core::stripes`).
    Stripe {
        /// Its name, drawn by whoever opens it.
        stripe: u32,
        /// What there is to say.
        signal: StripeSignal,
    },
    /// A type this version does not know: ignored.
    #[serde(other)]
    Unknown,
}

/// How two peers of a ready link set up a further connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum StripeSignal {
    /// Here is one.
    Offer {
        /// The description.
        sdp: Sdp,
    },
    /// Taken.
    Answer {
        /// The description.
        sdp: Sdp,
    },
    /// A way to reach the sender.
    Candidate {
        /// `None`: that was the last.
        #[serde(deserialize_with = "or_end")]
        candidate: Option<Candidate>,
    },
    /// Refused, or over.
    End,
    /// A type this version does not know: ignored.
    #[serde(other)]
    Unknown,
}

/// The text is no control message.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Longer than [`CONTROL_MAX_BYTES`].
    #[error("a control message has at most {CONTROL_MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// Not JSON of a known shape.
    #[error("the control message is malformed")]
    Malformed(#[source] serde_json::Error),
}

impl Control {
    /// Parses one message of at most [`CONTROL_MAX_BYTES`].
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        if text.len() > CONTROL_MAX_BYTES {
            return Err(ControlError::TooLong(text.len()));
        }
        serde_json::from_str(text).map_err(ControlError::Malformed)
    }

    /// The message as text.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("control messages have string keys and no failing types")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let hello = Control::Hello { version: CONTROL_VERSION, name: "ada".into(), proof: None };
        assert_eq!(hello.to_text(), r#"{"type":"hello","version":1,"name":"ada"}"#);
        assert_eq!(Control::parse(&hello.to_text()).expect("its own text"), hello);
    }

    #[test]
    fn a_stripe_is_set_up_in_the_documented_words() {
        let signals = [
            (r#"{"type":"end"}"#, StripeSignal::End),
            (r#"{"type":"candidate","candidate":null}"#, StripeSignal::Candidate { candidate: None }),
            (r#"{"type":"offer","sdp":"v=0"}"#, StripeSignal::Offer { sdp: Sdp::new("v=0").expect("short") }),
            (
                r#"{"type":"answer","sdp":"v=0"}"#,
                StripeSignal::Answer { sdp: Sdp::new("v=0").expect("short") },
            ),
        ];
        for (text, signal) in signals {
            let text = format!(r#"{{"type":"stripe","stripe":7,"signal":{text}}}"#);
            let control = Control::Stripe { stripe: 7, signal };
            assert_eq!(control.to_text(), text);
            assert_eq!(Control::parse(&text).expect("well formed"), control);
        }
        let later = r#"{"type":"stripe","stripe":7,"signal":{"type":"hologram","size":3}}"#;
        let unknown = Control::Stripe { stripe: 7, signal: StripeSignal::Unknown };
        assert_eq!(Control::parse(later).expect("well formed"), unknown);
    }

    #[test]
    fn what_a_later_version_says_is_ignored() {
        let control = Control::parse(r#"{"type":"hologram","size":3}"#).expect("well formed");
        assert_eq!(control, Control::Unknown);
    }

    #[test]
    fn a_message_too_long_is_refused_before_it_is_parsed() {
        let text = "x".repeat(CONTROL_MAX_BYTES + 1);
        assert!(matches!(Control::parse(&text), Err(ControlError::TooLong(_))));
    }
}
