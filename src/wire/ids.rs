//! Ids of users, rooms and connections: short printable strings, checked where they enter.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::{HAVE_MAX, ID_MAX_BYTES};

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// An id must have at least one character.
    #[error("an id must not be empty")]
    Empty,
    /// The id is longer than [`ID_MAX_BYTES`].
    #[error("an id has at most {ID_MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// Control, format and white-space characters would be confusing or harmful where ids are shown.
    #[error("an id has no spaces or control characters, this one has U+{0:04X}")]
    Character(u32),
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_MAX_BYTES {
        return Err(IdError::TooLong(text.len()));
    }
    match text.chars().find(|c| !is_allowed(*c)) {
        Some(c) => Err(IdError::Character(c as u32)),
        None => Ok(()),
    }
}

/// Letters and digits of any script and printable ASCII; nothing that moves a cursor or hides text.
fn is_allowed(c: char) -> bool {
    c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an id of 1 to [`ID_MAX_BYTES`] bytes without spaces or control characters.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                check(text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// A fresh id from 16 random bytes, written as a version 4 UUID (RFC 9562 §5.4).
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string().into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = TextOrNumber::deserialize(deserializer)?.into_text();
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// A member of a room: what the second generation calls `userId`.
    UserId
}
id! {
    /// A room. The published libraries send a string or a number; `7` and `"7"` are the same room.
    RoomId
}
id! {
    /// One connection, named by its offerer: `id` in the second generation, `offerId` in the first.
    LinkId
}

/// An id as the published libraries write it, a string or a number. What it says is checked later.
pub(super) struct TextOrNumber(String);

impl TextOrNumber {
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for TextOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = TextOrNumber;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: a string or a number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TextOrNumber, E> {
        Ok(TextOrNumber(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<TextOrNumber, E> {
        Ok(TextOrNumber(text))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<TextOrNumber, E> {
        Ok(TextOrNumber(number.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<TextOrNumber, E> {
        Ok(TextOrNumber(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<TextOrNumber, E> {
        let number = serde_json::Number::from_f64(number).ok_or_else(|| E::custom("not a number"))?;
        Ok(TextOrNumber(number.to_string()))
    }
}

/// Reads the first [`HAVE_MAX`] ids of a list and passes over the others.
pub(super) fn first_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<UserId>>, D::Error> {
    struct First(Vec<UserId>);

    impl<'de> Deserialize<'de> for First {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(ListVisitor).map(Self)
        }
    }

    Ok(Option::<First>::deserialize(deserializer)?.map(|First(ids)| ids))
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Vec<UserId>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<UserId>, A::Error> {
        let mut ids = Vec::new();
        while ids.len() < HAVE_MAX {
            match list.next_element()? {
                Some(id) => ids.push(id),
                None => return Ok(ids),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_printable_and_bounded() {
        assert_eq!(UserId::new(""), Err(IdError::Empty));
        assert_eq!(UserId::new("a b"), Err(IdError::Character(0x20)));
        assert_eq!(UserId::new("a\u{202e}b"), Err(IdError::Character(0x202e)));
        assert_eq!(UserId::new("x".repeat(129)), Err(IdError::TooLong(129)));
        assert_eq!(UserId::new("zoë-1").map(|id| id.to_string()), Ok("zoë-1".into()));
    }

    #[test]
    fn a_room_may_be_a_number() {
        let room: RoomId = serde_json::from_str("7").expect("a number is a room");
        assert_eq!(room.as_str(), "7");
        let ids: Vec<UserId> =
            serde_json::from_str(r#"["a\u0062", -7, 1.5, 18446744073709551615]"#).expect("ids");
        assert_eq!(
            ids.iter().map(UserId::as_str).collect::<Vec<_>>(),
            ["ab", "-7", "1.5", "18446744073709551615"]
        );
        for wrong in ["true", "null", "[1]", "{}"] {
            assert!(serde_json::from_str::<UserId>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn random_ids_are_version_4_uuids() {
        assert_eq!(LinkId::from_random([0; 16]).as_str(), "00000000-0000-4000-8000-000000000000");
    }
}
