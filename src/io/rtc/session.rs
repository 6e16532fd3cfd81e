//! What the driver itself reads from session descriptions and certificates.

use sha2::{Digest, Sha256};

use crate::core::peer::Fingerprint;
use crate::wire::Sdp;

/// The SHA-256 fingerprint of a DER certificate (RFC 8122 §5).
pub(super) fn fingerprint_of(certificate_der: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate_der).into())
}

/// The value of the first `a=NAME:` line.
pub(super) fn attribute<'a>(sdp: &'a Sdp, name: &str) -> Option<&'a str> {
    sdp.as_str().lines().find_map(|line| value_of(line, name))
}

/// Every SHA-256 fingerprint the description vouches for.
pub(super) fn fingerprints(sdp: &Sdp) -> Vec<Fingerprint> {
    sdp.as_str().lines().filter_map(|line| parse_fingerprint(value_of(line, "fingerprint")?)).collect()
}

fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.trim_end().strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':')
}

pub(super) fn parse_fingerprint(value: &str) -> Option<Fingerprint> {
    let (algorithm, digits) = value.split_once(' ')?;
    if !algorithm.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut bytes = [0; 32];
    let mut pairs = digits.trim().split(':');
    for byte in &mut bytes {
        let pair = pairs.next().filter(|pair| pair.len() == 2)?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(Fingerprint(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_at_either_level_and_in_either_case() {
        let hex: Vec<String> = (0..32).map(|n| format!("{:02X}", n * 7)).collect();
        let lower = hex.join(":").to_lowercase();
        let sdp = Sdp::new(format!(
            "v=0\r\na=fingerprint:sha-256 {}\r\nm=application 9\r\na=ice-ufrag:abcd\r\na=fingerprint:SHA-256 {lower}\r\n\
             a=fingerprint:sha-512 {lower}\r\na=fingerprint:sha-256 00:11\r\na=fingerprint:sha-256 {lower}:00\r\n",
            hex.join(":"),
        ))
        .expect("short enough");
        let expected = Fingerprint(std::array::from_fn(|n| (n * 7) as u8));
        assert_eq!(fingerprints(&sdp), [expected, expected]);
        assert_eq!(attribute(&sdp, "ice-ufrag"), Some("abcd"));
        assert_eq!(attribute(&sdp, "ice"), None);
    }
}
