//! Strings that are nobody else's business.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text: wiped when dropped, absent from `Debug`, compared in constant time.
///
/// It has no `Display`, so that no format string prints it by accident; [`Secret::expose`] stands where it is meant.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    /// Takes the same time wherever the texts differ; their lengths are not hidden.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// On the wire, and only there, a secret is what it is.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_but_not_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(secret, Secret::new("hunter2"));
        assert_ne!(secret, Secret::new("hunter3"));
        assert_ne!(secret, Secret::new("hunter"));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    /// Long enough that an early end would show: a comparison that stops at the first difference takes next to no time for
    /// texts that differ at once. The shortest of several times is taken, since others may use the machine, too.
    #[test]
    fn where_two_secrets_differ_does_not_show_in_the_time() {
        const LEN: usize = 1 << 20;
        let secret = Secret::new("x".repeat(LEN));
        let differs_at = |at: usize| {
            let mut text = "x".repeat(LEN);
            text.replace_range(at..=at, "y");
            let other = Secret::new(text);
            let time = |_| {
                let start = std::time::Instant::now();
                assert!(std::hint::black_box(&secret) != std::hint::black_box(&other));
                start.elapsed()
            };
            (0..5).map(time).min().expect("five times")
        };
        let (first, last) = (differs_at(0), differs_at(LEN - 1));
        assert!(first * 8 > last, "{first:?} where the first byte differs, {last:?} where the last does");
    }
}
