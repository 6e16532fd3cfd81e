//! One-time codes, and the messages that hand an invite over with one.
//!
//! ```text
//! 7-guitar-bacon
//! |  `- two words of BIP-39: 22 random bits, chosen by the member, never sent
//! `- a number: which member is meant; the server gives it out and sees it
//! ```
//!
//! The words are the password of a key exchange ([`crate::core::code`]) that the server only passes on.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Secret;
use super::invite::INVITE_MAX_BYTES;

/// The last part of the path under which a server has codes. No room has this name.
pub const CODE_PATH: &str = ".code";

/// The largest number: three digits can be said, and a stranger who burns codes blindly mostly misses.
pub const NUMBER_MAX: u16 = 999;

/// Bits that choose a word: the list has 2,048.
const WORD_BITS: u32 = 11;

/// The longest text worth looking at: a number and two words of at most 8 letters with generous separators.
const INPUT_MAX_BYTES: usize = 64;

/// The longest message that is passed on: an invite, what proves the member's key, and the seal's tag.
pub const PASS_MAX_BYTES: usize = INVITE_MAX_BYTES + 32 + 16;

/// The longest text of a message: one of [`PASS_MAX_BYTES`] in base64url, and what stands around it.
pub const CODE_SIGNAL_MAX_BYTES: usize = 4 * 1024;

/// Which code is meant. Not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct CodeNumber(u16);

impl CodeNumber {
    /// 1 to [`NUMBER_MAX`].
    pub fn new(number: u16) -> Result<Self, CodeError> {
        if (1..=NUMBER_MAX).contains(&number) { Ok(Self(number)) } else { Err(CodeError::Number) }
    }

    /// The number whose turn it is if `random` is drawn evenly.
    pub fn from_random(random: u32) -> Self {
        let below = u16::try_from(random % u32::from(NUMBER_MAX)).expect("it is below NUMBER_MAX");
        Self(below + 1)
    }
}

impl TryFrom<u16> for CodeNumber {
    type Error = CodeError;

    fn try_from(number: u16) -> Result<Self, CodeError> {
        Self::new(number)
    }
}

impl From<CodeNumber> for u16 {
    fn from(number: CodeNumber) -> Self {
        number.0
    }
}

impl fmt::Display for CodeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is no code. What was typed is never repeated: most of it may be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Not a number and two words.
    #[error("a code is a number and two words, such as 7-guitar-bacon")]
    Shape,
    /// No number from 1 to [`NUMBER_MAX`] in front.
    #[error("a code begins with a number from 1 to {NUMBER_MAX}: ask for it again")]
    Number,
    /// A word outside the list. Said before anything is sent, since a wrong code can't be tried twice.
    #[error("the {0}. word of the code is not one of the list: look at its spelling")]
    Word(usize),
}

/// A one-time code. Wiped when dropped, absent from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    number: CodeNumber,
    words: Secret,
}

impl Code {
    /// The code of this number with words drawn by `random`, which must come from the operating system's generator.
    pub fn from_random(number: CodeNumber, random: u32) -> Self {
        let word = |bits: u32| word_list()[(bits % (1 << WORD_BITS)) as usize];
        Self { number, words: Secret::new(format!("{}-{}", word(random), word(random >> WORD_BITS))) }
    }

    /// Parses a code as it was typed or heard: in any case, with anything between its parts that is no letter or digit.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        if text.len() > INPUT_MAX_BYTES {
            return Err(CodeError::Shape);
        }
        let text = Secret::new(text.to_lowercase());
        let mut parts = text.expose().split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty());
        let (Some(number), Some(first), Some(second), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CodeError::Shape);
        };
        let number = CodeNumber::new(number.parse().map_err(|_| CodeError::Number)?)?;
        for (at, word) in [first, second].into_iter().enumerate() {
            word_list().binary_search(&word).map_err(|_| CodeError::Word(at + 1))?;
        }
        Ok(Self { number, words: Secret::new(format!("{first}-{second}")) })
    }

    /// Whether a text is meant as a code and not as an invite: it begins with a digit, as no URL does.
    pub fn is_meant(text: &str) -> bool {
        text.trim_start().starts_with(|c: char| c.is_ascii_digit())
    }

    /// The number.
    pub fn number(&self) -> CodeNumber {
        self.number
    }

    /// The words, for [`crate::core::code`].
    pub(crate) fn words(&self) -> &Secret {
        &self.words
    }

    /// The whole code, to be shown to the person who asked for it, and to nobody else.
    pub fn reveal(&self) -> String {
        format!("{}-{}", self.number, self.words.expose())
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        Self::parse(text)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}-…)", self.number)
    }
}

/// The words that invites use, too, in the order of the alphabet.
fn word_list() -> &'static [&'static str; 1 << WORD_BITS] {
    bip39::Language::English.word_list()
}

/// What one end says to the other: a few bytes, as base64url in JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Passed(Vec<u8>);

impl Passed {
    /// At most [`PASS_MAX_BYTES`], which is more than any of the messages of [`crate::core::code`] has.
    pub fn new(bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.len() <= PASS_MAX_BYTES, "{} bytes", bytes.len());
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Passed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Passed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| D::Error::custom("not base64url"))?;
        if bytes.len() > PASS_MAX_BYTES {
            return Err(D::Error::custom("too long"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passed({} bytes)", self.0.len())
    }
}

/// What a member or a newcomer says to the server about a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ClientCode {
    /// A member wants a number.
    CodeOpen,
    /// A newcomer wants to speak with the member of that number, and says its first word.
    CodeClaim {
        /// The number.
        number: CodeNumber,
        /// For the member.
        message: Passed,
    },
    /// For the other end.
    CodePass {
        /// What is passed on.
        message: Passed,
    },
    /// The other end does not know the code.
    CodeRefuse,
}

/// What the server says about a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ServerCode {
    /// The member has a number.
    CodeOpened {
        /// The number.
        number: CodeNumber,
        /// For how many seconds.
        secs: u64,
    },
    /// From the other end.
    CodePass {
        /// As it was sent.
        message: Passed,
    },
    /// It is over; the server closes the socket.
    CodeOver {
        /// Why.
        reason: CodeOver,
    },
}

/// Why it is over with a code. Stable words: programs match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeOver {
    /// There is no code of that number: never was, used, burnt or expired.
    Unknown,
    /// Nobody came in time.
    Expired,
    /// The other end says that the codes differ.
    Wrong,
    /// The other end is gone.
    Left,
    /// The other end took too long.
    TooSlow,
    /// Too many codes, connections or attempts.
    Limit,
    /// Only members may open a code: the socket brought no good token.
    Forbidden,
    /// The message made no sense, or not at that moment.
    Malformed,
    /// The server stops.
    ShuttingDown,
    /// A word this version does not know.
    #[serde(other)]
    Other,
}

impl ClientCode {
    /// Parses one message of at most [`CODE_SIGNAL_MAX_BYTES`].
    pub fn parse(text: &str) -> Option<Self> {
        parse(text)
    }

    /// The message as it is sent.
    pub fn to_text(&self) -> String {
        to_text(self)
    }
}

impl ServerCode {
    /// Parses one message of at most [`CODE_SIGNAL_MAX_BYTES`].
    pub fn parse(text: &str) -> Option<Self> {
        parse(text)
    }

    /// The message as it is sent.
    pub fn to_text(&self) -> String {
        to_text(self)
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    (text.len() <= CODE_SIGNAL_MAX_BYTES).then(|| serde_json::from_str(text).ok()).flatten()
}

fn to_text(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("codes have string keys and no failing types")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_being_said() {
        let code = Code::from_random(CodeNumber::new(7).expect("a number"), 0b_00000000001_00000000000);
        assert_eq!(code.reveal(), "7-abandon-ability");
        for heard in
            ["7-abandon-ability", " 7 Abandon ABILITY ", "7, abandon, ability.", "007 abandon/ability"]
        {
            assert_eq!(Code::parse(heard).as_ref(), Ok(&code), "{heard}");
        }
    }

    #[test]
    fn every_number_and_every_word_can_be_drawn_and_read_back() {
        let numbers: std::collections::BTreeSet<u16> =
            (0..u32::from(NUMBER_MAX)).map(|random| CodeNumber::from_random(random).into()).collect();
        assert_eq!((numbers.len(), numbers.first(), numbers.last()), (999, Some(&1), Some(&999)));
        for word in 0..1 << WORD_BITS {
            let code = Code::from_random(CodeNumber::from_random(word), word << WORD_BITS | (word ^ 5));
            assert_eq!(Code::parse(&code.reveal()), Ok(code));
        }
    }

    #[test]
    fn what_is_wrong_with_a_code_is_said_without_repeating_it() {
        let cases = [
            ("", CodeError::Shape),
            ("7", CodeError::Shape),
            ("7-guitar", CodeError::Shape),
            ("7-guitar-bacon-zoo", CodeError::Shape),
            ("0-guitar-bacon", CodeError::Number),
            ("1000-guitar-bacon", CodeError::Number),
            ("99999999-guitar-bacon", CodeError::Number),
            ("guitar-bacon-7", CodeError::Number),
            ("7-gitar-bacon", CodeError::Word(1)),
            ("7-guitar-bacn", CodeError::Word(2)),
        ];
        for (text, expected) in cases {
            assert_eq!(Code::parse(text), Err(expected), "{text}");
        }
        assert_eq!(Code::parse(&"7".repeat(10_000)), Err(CodeError::Shape));
        assert!(!CodeError::Word(1).to_string().contains("gitar"));
    }

    #[test]
    fn a_code_is_told_from_an_invite_by_its_first_character() {
        assert!(Code::is_meant("7-guitar-bacon") && Code::is_meant("12 guitar"));
        assert!(!Code::is_meant("ws://h/r") && !Code::is_meant("@file") && !Code::is_meant("-"));
    }

    #[test]
    fn debug_output_has_no_code() {
        let code = Code::parse("7-guitar-bacon").expect("a code");
        assert_eq!(format!("{code:?}"), "Code(7-…)");
        assert_eq!(format!("{:?}", Passed::new(vec![1, 2])), "Passed(2 bytes)");
    }

    #[test]
    fn messages_have_the_documented_form_and_are_bounded() {
        let claim = r#"{"type":"codeClaim","number":7,"message":"AAEC"}"#;
        let number = CodeNumber::new(7).expect("a number");
        let parsed = ClientCode::CodeClaim { number, message: Passed::new(vec![0, 1, 2]) };
        assert_eq!(ClientCode::parse(claim), Some(parsed.clone()));
        assert_eq!(parsed.to_text(), claim);
        assert_eq!(ClientCode::parse(r#"{"type":"codeOpen"}"#), Some(ClientCode::CodeOpen));
        assert_eq!(
            ServerCode::CodeOver { reason: CodeOver::TooSlow }.to_text(),
            r#"{"type":"codeOver","reason":"too_slow"}"#
        );
        let unknown = ServerCode::parse(r#"{"type":"codeOver","reason":"bored"}"#);
        assert_eq!(unknown, Some(ServerCode::CodeOver { reason: CodeOver::Other }));

        let pass = |bytes: usize| {
            let message = URL_SAFE_NO_PAD.encode(vec![0; bytes]);
            ClientCode::parse(&format!(r#"{{"type":"codePass","message":"{message}"}}"#))
        };
        assert!(pass(PASS_MAX_BYTES).is_some() && pass(PASS_MAX_BYTES + 1).is_none());
        for wrong in [
            r#"{"type":"codeClaim","number":0,"message":""}"#,
            r#"{"type":"codeClaim","number":1000,"message":""}"#,
            r#"{"type":"codeClaim","number":7,"message":"="}"#,
            r#"{"type":"codeOpened","number":7,"secs":1}"#,
            r#"{"type":"init"}"#,
        ] {
            assert_eq!(ClientCode::parse(wrong), None, "{wrong}");
        }
    }
}
