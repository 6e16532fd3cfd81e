//! The room's key: 128 random bits that members share and the server never sees.
//!
//! ```text
//! as text    24 characters of base64url: the 16 bytes of the key, then 2 bytes of checksum
//! as words   12 English words of BIP-39: the 128 bits of the key, then 4 bits of checksum
//! ```
//!
//! The checksums tell a mistyped key from a wrong one before anything is connected. They are as secret as the key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::secret::Secret;

/// The key in bytes. 128 bits are out of reach of any search, offline too.
const KEY_BYTES: usize = 16;

/// Checksum bytes in the text form: one mistyped key in 65,536 passes for another.
const CHECKSUM_BYTES: usize = 2;

/// Characters of the text form.
const TEXT_CHARS: usize = (KEY_BYTES + CHECKSUM_BYTES) / 3 * 4;

/// Words of the other form.
const WORDS: usize = 12;

/// The longest text worth looking at: 12 words of at most 8 letters with generous separators.
const INPUT_MAX_BYTES: usize = 256;

/// The key of a room. Wiped when dropped, absent from `Debug`, compared in constant time.
#[derive(Clone)]
pub struct RoomKey(Zeroizing<[u8; KEY_BYTES]>);

/// The text is no key. What was typed is never repeated: most of it may be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("the key is missing: copy the invite whole, with what stands behind the #")]
    Empty,
    /// Neither form has this length.
    #[error(
        "the key is cut off or has something added: it has {TEXT_CHARS} characters or {WORDS} words, not {0}"
    )]
    Length(Count),
    /// A character outside base64url.
    #[error("the key is mistyped: its {0}. character is none of A-Z a-z 0-9 - _")]
    Character(usize),
    /// A word outside the list.
    #[error("the key is mistyped: its {0}. word is not one of the list")]
    Word(usize),
    /// Well formed, with a wrong checksum.
    #[error("the key is mistyped: its checksum does not fit")]
    Checksum,
}

/// How much was there, in the unit of the form that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Characters of the text form.
    Characters(usize),
    /// Words.
    Words(usize),
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Characters(1) => f.write_str("1 character"),
            Self::Characters(n) => write!(f, "{n} characters"),
            Self::Words(1) => f.write_str("1 word"),
            Self::Words(n) => write!(f, "{n} words"),
        }
    }
}

impl RoomKey {
    /// A key from 16 random bytes, which must come from the operating system's generator.
    pub fn from_random(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Parses either form. Words may be separated by anything that is not a letter, in any case.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > INPUT_MAX_BYTES {
            return Err(KeyError::Length(Count::Characters(text.chars().count())));
        }
        match words_in(text) {
            Some(words) => Self::parse_words(&words),
            None => Self::parse_text(text),
        }
    }

    /// The text form. Secret: for an invite, and nowhere else.
    pub fn to_text(&self) -> Secret {
        let mut bytes = Zeroizing::new([0; KEY_BYTES + CHECKSUM_BYTES]);
        bytes[..KEY_BYTES].copy_from_slice(self.bytes());
        bytes[KEY_BYTES..].copy_from_slice(&checksum(self.bytes()));
        Secret::new(URL_SAFE_NO_PAD.encode(*bytes))
    }

    /// The key as 12 words, to be read out. Secret likewise.
    pub fn to_words(&self) -> Secret {
        let mnemonic = bip39::Mnemonic::from_entropy(self.bytes()).expect("16 bytes are a BIP-39 entropy");
        Secret::new(mnemonic.to_string())
    }

    /// The key itself, for [`crate::core::auth`].
    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn parse_text(text: &str) -> Result<Self, KeyError> {
        if let Some(at) = text.chars().position(|c| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')) {
            return Err(KeyError::Character(at + 1));
        }
        if text.len() != TEXT_CHARS {
            return Err(KeyError::Length(Count::Characters(text.len())));
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Checksum)?);
        let (key, sum) = bytes.split_first_chunk::<KEY_BYTES>().ok_or(KeyError::Checksum)?;
        if !bool::from(checksum(key).ct_eq(sum)) {
            return Err(KeyError::Checksum);
        }
        Ok(Self(Zeroizing::new(*key)))
    }

    fn parse_words(words: &str) -> Result<Self, KeyError> {
        let count = words.split(' ').count();
        if count != WORDS {
            return Err(KeyError::Length(Count::Words(count)));
        }
        let mnemonic = match bip39::Mnemonic::parse_in_normalized(bip39::Language::English, words) {
            Ok(mnemonic) => mnemonic,
            Err(bip39::Error::UnknownWord(index)) => return Err(KeyError::Word(index + 1)),
            Err(_) => return Err(KeyError::Checksum),
        };
        let (entropy, _) = mnemonic.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let key = entropy.first_chunk().expect("12 words of BIP-39 are 16 bytes");
        Ok(Self(Zeroizing::new(*key)))
    }
}

/// The words of a text, in lower case with single spaces, where it is meant as words: it has spaces, or it is too
/// long for the other form and has none of its digits.
fn words_in(text: &str) -> Option<Zeroizing<String>> {
    let is_spaced = text.contains(char::is_whitespace);
    if !is_spaced && (text.len() <= TEXT_CHARS || text.contains(|c: char| c.is_ascii_digit())) {
        return None;
    }
    let words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    (words.len() > 1).then(|| Zeroizing::new(words.join(" ").to_lowercase()))
}

fn checksum(key: &[u8; KEY_BYTES]) -> [u8; CHECKSUM_BYTES] {
    let hash = Sha256::new().chain_update(b"fast-rtc-swarm key checksum").chain_update(key).finalize();
    [hash[0], hash[1]]
}

impl PartialEq for RoomKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes().ct_eq(other.bytes()).into()
    }
}

impl Eq for RoomKey {}

impl fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "AAECAwQFBgcICQoLDA0OD";
    const BYTES: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn both_forms_bring_the_key_back() {
        let key = RoomKey::from_random(BYTES);
        let text = key.to_text();
        assert_eq!(text.expose().len(), TEXT_CHARS);
        assert!(text.expose().starts_with(TEXT), "{}", text.expose());
        assert_eq!(RoomKey::parse(text.expose()), Ok(key.clone()));
        assert_eq!(RoomKey::parse(key.to_words().expose()), Ok(key));
    }

    /// The vector of 16 zero bytes in the BIP-39 reference list.
    #[test]
    fn words_are_those_of_bip_39() {
        let words = [["abandon"; 11].join(" "), "about".into()].join(" ");
        assert_eq!(RoomKey::from_random([0; 16]).to_words(), Secret::new(words));
    }

    #[test]
    fn words_may_come_from_an_url_or_from_somebody_reading_aloud() {
        let key = RoomKey::from_random(BYTES);
        let words = key.to_words();
        for separator in ["-", "  ", ", ", "\n", "+", "."] {
            let typed = words.expose().replace(' ', separator).to_uppercase();
            assert_eq!(RoomKey::parse(&typed), Ok(key.clone()), "{separator:?}");
        }
    }

    #[test]
    fn each_single_typing_error_in_the_text_is_noticed() {
        let text = RoomKey::from_random(BYTES).to_text();
        for at in 0..TEXT_CHARS {
            for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
                let mut typed: Vec<char> = text.expose().chars().collect();
                if typed[at] == other {
                    continue;
                }
                typed[at] = other;
                assert_eq!(RoomKey::parse(&String::from_iter(typed)), Err(KeyError::Checksum));
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said_without_repeating_it() {
        let text = RoomKey::from_random(BYTES).to_text();
        let words = RoomKey::from_random([0; 16]).to_words();
        let cases = [
            ("  ".into(), KeyError::Empty),
            (text.expose()[..20].into(), KeyError::Length(Count::Characters(20))),
            (text.expose().replace('C', "!"), KeyError::Character(4)),
            (words.expose().replacen("abandon", "abandom", 3), KeyError::Word(1)),
            (words.expose().replace("about", "abandon"), KeyError::Checksum),
            (words.expose().replace(" about", ""), KeyError::Length(Count::Words(11))),
            (["abandon "; 14].concat() + "agent", KeyError::Length(Count::Words(15))),
            ("two words".into(), KeyError::Length(Count::Words(2))),
            ("x".repeat(5000), KeyError::Length(Count::Characters(5000))),
        ];
        for (typed, error) in cases {
            assert_eq!(RoomKey::parse(&typed), Err(error.clone()), "{typed}");
            assert!(!error.to_string().contains("aband"), "{error}");
        }
    }

    #[test]
    fn debug_output_has_no_key() {
        assert_eq!(format!("{:?}", RoomKey::from_random(BYTES)), "RoomKey(…)");
    }
}
