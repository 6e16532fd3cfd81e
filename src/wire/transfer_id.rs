//! The name of a transfer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A transfer, named by the BLAKE3 hash of its manifest; shown as its first eight hex digits where that is unambiguous.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub [u8; 32]);

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a transfer is named by 64 hexadecimal digits")]
pub struct TransferIdError;

impl TransferId {
    /// The first eight bytes: how frames on the bulk channel name a transfer.
    pub fn short(&self) -> [u8; 8] {
        self.0[..8].try_into().expect("eight of thirty-two bytes")
    }

    /// The first eight hexadecimal digits, for people.
    pub fn brief(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransferId({})", self.brief())
    }
}

impl FromStr for TransferId {
    type Err = TransferIdError;

    fn from_str(text: &str) -> Result<Self, TransferIdError> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| TransferIdError)?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl Serialize for TransferId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TransferId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = TransferId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.brief(), "abababab");
        assert_eq!("xyz".parse::<TransferId>(), Err(TransferIdError));
    }
}
