//! STUN messages, as far as they are judged before the engine gets them (RFC 8489), and what relays make of them (RFC 8656).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use aws_lc_rs::{constant_time, hmac};

/// Header and magic cookie (§5), methods with their class, and attributes (§14, RFC 8656 §18). The engine does not look at the
/// first two bits.
const HEADER_BYTES: usize = 20;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
pub(super) const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const TYPE: u16 = 0x3fff;
pub(super) const BINDING_REQUEST: u16 = 0x0001;
pub(super) const BINDING_INDICATION: u16 = 0x0011;
pub(super) const BINDING_SUCCESS: u16 = 0x0101;
pub(super) const BINDING_ERROR: u16 = 0x0111;
pub(super) const SEND_INDICATION: u16 = 0x0016;
pub(super) const DATA_INDICATION: u16 = 0x0017;
pub(super) const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
pub(super) const ERROR_CODE: u16 = 0x0009;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const FINGERPRINT: u16 = 0x8028;

/// Behind a relay the peer is known by its address, or by the channel that was made for that (RFC 8656 §12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    Address(SocketAddr),
    Channel([u8; 2]),
}

/// A method with its class, if it is a message.
pub(super) fn kind(datagram: &[u8]) -> Option<u16> {
    let header = datagram.get(..HEADER_BYTES)?;
    (header[4..8] == COOKIE).then(|| u16::from_be_bytes([header[0], header[1]]) & TYPE)
}

/// What a message names its transaction by.
pub(super) fn transaction(message: &[u8]) -> Option<[u8; 12]> {
    message.get(8..HEADER_BYTES)?.try_into().ok()
}

/// Whether a message was made by somebody who has the key (§14.5), and says nothing that the key does not vouch for: the engine would
/// believe what stands behind that. Nor is it of another length than it says (§5): the engine would drop it.
pub(super) fn is_signed(message: &[u8], key: &hmac::Key) -> bool {
    if message.get(2..4).map(|len| usize::from(u16::from_be_bytes([len[0], len[1]])) + HEADER_BYTES)
        != Some(message.len())
    {
        return false;
    }
    let Some(value) = attribute(message, MESSAGE_INTEGRITY) else { return false };
    let Ok(len) = u16::try_from(value.end - HEADER_BYTES) else { return false };
    let is_vouched_for = attributes(message)
        .skip_while(|(_, other)| *other != value)
        .skip(1)
        .all(|(kind, _)| matches!(kind, MESSAGE_INTEGRITY_SHA256 | FINGERPRINT));
    let mut mac = hmac::Context::with_key(key);
    mac.update(&message[..2]);
    mac.update(&len.to_be_bytes());
    mac.update(&message[4..value.start - ATTRIBUTE_HEADER_BYTES]);
    is_vouched_for && constant_time::verify_slices_are_equal(mac.sign().as_ref(), &message[value]).is_ok()
}

/// Where in a datagram is what a relay passes on.
pub(super) fn relayed_data(datagram: &[u8]) -> Option<Range<usize>> {
    relayed(datagram, DATA_INDICATION).map(|(_, data)| data)
}

/// What a relay passes on or is to pass on, and whose or to whom it is, if that can be read.
pub(super) fn relayed(datagram: &[u8], indication: u16) -> Option<(Option<Peer>, Range<usize>)> {
    match (kind(datagram), datagram) {
        (Some(kind), _) if kind == indication => {
            let peer = attribute(datagram, XOR_PEER_ADDRESS);
            let peer = peer.and_then(|value| xor_address(&datagram[value], datagram));
            Some((peer.map(Peer::Address), attribute(datagram, DATA)?))
        }
        (None, [high @ 0x40..=0x7f, low, len_high, len_low, data @ ..]) => {
            let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
            (len <= data.len()).then_some((Some(Peer::Channel([*high, *low])), 4..4 + len))
        }
        (Some(_) | None, _) => None,
    }
}

/// An address as a relay writes it (RFC 8489 §14.2) in a message that has a header.
fn xor_address(value: &[u8], message: &[u8]) -> Option<SocketAddr> {
    let [_, family, port_high, port_low, address @ ..] = value else { return None };
    let port = u16::from_be_bytes([port_high ^ COOKIE[0], port_low ^ COOKIE[1]]);
    let xor = |at: usize| address[at] ^ message[4 + at];
    let ip = match (family, address.len()) {
        (1, 4) => IpAddr::from(Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(xor))),
        (2, 16) => IpAddr::from(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(xor))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Where in a message the value of its first attribute of a kind is.
pub(super) fn attribute(message: &[u8], kind: u16) -> Option<Range<usize>> {
    attributes(message).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The kinds of a message's attributes and where their values are, up to the first that is not whole.
fn attributes(message: &[u8]) -> impl Iterator<Item = (u16, Range<usize>)> {
    let mut at = HEADER_BYTES;
    std::iter::from_fn(move || {
        let header = message.get(at..at + ATTRIBUTE_HEADER_BYTES)?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = at + ATTRIBUTE_HEADER_BYTES..at + ATTRIBUTE_HEADER_BYTES + len;
        at = value.start + len.next_multiple_of(4);
        (value.end <= message.len()).then_some((u16::from_be_bytes([header[0], header[1]]), value))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    pub(in super::super) const XOR_PEER_ADDRESS: u16 = super::XOR_PEER_ADDRESS;
    pub(in super::super) const DATA: u16 = super::DATA;

    pub(in super::super) fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &[7; 12]].concat();
        for (kind, value) in attributes {
            append(&mut message, *kind, value);
        }
        message
    }

    fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
        message.extend(kind.to_be_bytes());
        message.extend((value.len() as u16).to_be_bytes());
        message.extend(value);
        message.resize(message.len().next_multiple_of(4), 0);
        let len = (message.len() - HEADER_BYTES) as u16;
        message[2..4].copy_from_slice(&len.to_be_bytes());
    }

    fn key(password: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
    }

    /// A message with its integrity and fingerprint.
    pub(in super::super) fn signed(mut message: Vec<u8>, password: &str) -> Vec<u8> {
        let len = (message.len() - HEADER_BYTES + 24) as u16;
        message[2..4].copy_from_slice(&len.to_be_bytes());
        let tag = hmac::sign(&key(password), &message);
        append(&mut message, MESSAGE_INTEGRITY, tag.as_ref());
        append(&mut message, FINGERPRINT, &[7; 4]);
        message
    }

    /// The same of a transaction of its own.
    pub(in super::super) fn renamed(mut message: Vec<u8>, password: &str) -> Vec<u8> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        message[16..20].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        signed(message, password)
    }

    /// The request of RFC 5769 §2.1.
    const SAMPLE: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff\
        80290008932ff9b151263b36000600096576746a3a683676592020200008001 49aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";

    #[test]
    fn the_sample_of_the_standard_is_signed_with_its_password() {
        let digits: Vec<u8> = SAMPLE.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16);
        let sample: Vec<u8> = digits.chunks(2).map(|pair| byte(pair).expect("digits")).collect();
        assert_eq!((sample.len(), kind(&sample)), (108, Some(BINDING_REQUEST)));
        assert!(is_signed(&sample, &key("VOkJxbRl1RmTxUk/WvJxBt")));
        assert!(!is_signed(&sample, &key("VOkJxbRl1RmTxUk/WvJxBu")));
        for at in 0..sample.len() - 12 {
            let mut changed = sample.clone();
            changed[at] ^= 1;
            assert!(!is_signed(&changed, &key("VOkJxbRl1RmTxUk/WvJxBt")), "{at}");
        }
    }

    /// The engine believes attributes wherever they stand.
    #[test]
    fn nothing_may_be_put_behind_what_was_signed() {
        let signed = signed(message(BINDING_REQUEST, &[(USERNAME, b"us:them")]), "key");
        assert!(is_signed(&signed, &key("key")));
        for kind in [0x0025, 0x8029, 0x802a, USERNAME, MESSAGE_INTEGRITY] {
            let mut more = signed.clone();
            append(&mut more, kind, &[7; 8]);
            assert!(!is_signed(&more, &key("key")), "{kind:x}");
        }
        let mut more = signed.clone();
        append(&mut more, MESSAGE_INTEGRITY_SHA256, &[7; 32]);
        assert!(is_signed(&more, &key("key")), "RFC 8489 §14.6");
        let empty = message(BINDING_REQUEST, &[(USERNAME, b"us:them"), (MESSAGE_INTEGRITY, &[])]);
        assert!(!is_signed(&empty, &key("key")));
    }
}
