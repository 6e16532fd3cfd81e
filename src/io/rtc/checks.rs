//! Connectivity checks of the peer, as far as the engine gets them.
//!
//! From each new address that a check comes from it makes a candidate that it never forgets, looks through all of them at each
//! packet, and answers each check with one of its own (rtc-ice 0.21). So addresses are counted, and the checks from each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::core::allowance::Allowance;

/// Paths of a connection on which checks are heard: from an address of the peer to a socket of ours, relayed or not.
const PATHS_MAX: usize = 128;

/// Checks on each: one each 50 ms (RFC 8445 §14.2) as long as a connection may take to come up, then many times what keeps it
/// up (RFC 7675 §5.1, one in 5 s).
const CHECKS_BURST: u32 = 250;
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// STUN (RFC 8489 §5): header, magic cookie, and where it is; methods with their class; attributes (§14, RFC 8656 §18).
const HEADER_BYTES: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0, 0x01];
const DATA_INDICATION: [u8; 2] = [0, 0x17];
const USERNAME: u16 = 0x0006;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;

/// Where a check came from, and to: behind a relay the peer's address is as the relay wrote it.
type Path = (SocketAddr, SocketAddr, Vec<u8>);

/// What is known about the checks of one connection.
#[derive(Debug, Default)]
pub(super) struct Checks {
    ufrag: OnceLock<String>,
    paths: Mutex<HashMap<Path, Allowance>>,
}

impl Checks {
    /// What checks must name us by (RFC 8445 §7.2.2). Before this nobody can know it, and none comes through.
    pub(super) fn expect(&self, ufrag: &str) {
        let _ = self.ufrag.set(ufrag.to_owned());
    }

    /// Whether the engine may have a datagram: what is no check, and checks that it would take, in bounded number.
    pub(super) fn admits(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let (peer, check) = match relayed(datagram) {
            Some((peer, data)) => (peer, data),
            None => (&[][..], datagram),
        };
        if !is_stun(check, BINDING_REQUEST) {
            return true;
        }
        if !self.names_us(check) {
            return false;
        }
        let mut paths = self.paths.lock().expect("nothing panics under it");
        let path = (from, to, peer.to_vec());
        if paths.len() >= PATHS_MAX && !paths.contains_key(&path) {
            return false;
        }
        paths.entry(path).or_insert_with(|| Allowance::new(CHECKS_BURST, CHECK_EVERY)).take(now)
    }

    fn names_us(&self, check: &[u8]) -> bool {
        let us = self.ufrag.get().zip(attribute(check, USERNAME));
        let rest = us.and_then(|(ufrag, name)| name.strip_prefix(ufrag.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&b':'))
    }
}

fn is_stun(datagram: &[u8], kind: [u8; 2]) -> bool {
    datagram.len() >= HEADER_BYTES && datagram[..2] == kind && datagram[4..8] == COOKIE
}

/// What a relay passes on, and whose it is.
fn relayed(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_relayed = is_stun(datagram, DATA_INDICATION);
    let peer = is_relayed.then(|| attribute(datagram, XOR_PEER_ADDRESS)).flatten()?;
    Some((peer.get(..20).unwrap_or(peer), attribute(datagram, DATA)?))
}

fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = message.get(HEADER_BYTES..)?;
    while let [high, low, len_high, len_low, value @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
        if u16::from_be_bytes([*high, *low]) == kind {
            return value.get(..len);
        }
        rest = value.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: [u8; 2], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = [&kind[..], &[0, 0], &COOKIE, &[7; 12]].concat();
        for (kind, value) in attributes {
            message.extend(kind.to_be_bytes());
            message.extend((value.len() as u16).to_be_bytes());
            message.extend(*value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message
    }

    pub(in super::super) fn check(username: &str) -> Vec<u8> {
        message(BINDING_REQUEST, &[(0x8022, b"who?"), (USERNAME, username.as_bytes())])
    }

    fn relayed(peer: &[u8]) -> Vec<u8> {
        message(DATA_INDICATION, &[(XOR_PEER_ADDRESS, peer), (DATA, &check("us:them"))])
    }

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn checks() -> Checks {
        let checks = Checks::default();
        checks.expect("us");
        checks
    }

    #[test]
    fn checks_come_in_that_name_us() {
        let admits = |checks: &Checks, datagram: &[u8]| {
            checks.admits(address(1), address(2), datagram, Instant::now())
        };
        assert!(admits(&checks(), &check("us:them")));
        for wrong in ["us", "usual:them", "them:us", ""] {
            assert!(!admits(&checks(), &check(wrong)), "{wrong}");
        }
        assert!(!admits(&checks(), &message(BINDING_REQUEST, &[])));
        assert!(!admits(&Checks::default(), &check("us:them")), "nobody was told our name yet");
        assert!(admits(&Checks::default(), &message([1, 1], &[])), "an answer");
        assert!(admits(&Checks::default(), &[22; 40]), "something else");
    }

    #[test]
    fn checks_from_ever_new_addresses_have_a_bound_and_those_from_known_ones_go_on() {
        let (checks, now) = (checks(), Instant::now());
        let from = |port: u16| checks.admits(address(port), address(1), &check("us:them"), now);
        assert_eq!((0..1000).filter(|port| from(*port)).count(), PATHS_MAX);
        assert!(from(0));
        assert!(!from(1000));
        assert!(!checks.admits(address(0), address(1), &relayed(&[9; 8]), now), "a relay's peers are others");
    }

    #[test]
    fn what_a_relay_passes_on_is_counted_by_whose_it_is() {
        let (checks, now) = (checks(), Instant::now());
        let from = |peer: u16| {
            let peer = [[0, 1], peer.to_be_bytes(), [9, 9], [9, 9]].concat();
            checks.admits(address(1), address(2), &relayed(&peer), now)
        };
        assert_eq!((0..1000).filter(|peer| from(*peer)).count(), PATHS_MAX);
    }

    #[test]
    fn a_connection_may_take_long_to_come_up_and_nobody_checks_much_faster() {
        let (checks, start) = (checks(), Instant::now());
        let admitted = |every_ms: u64, from: u16| {
            let times = (0..12_000).step_by(every_ms as usize).map(|ms| start + Duration::from_millis(ms));
            let admits = |now| checks.admits(address(from), address(1), &check("us:them"), now);
            times.filter(|now| admits(*now)).count()
        };
        assert_eq!(admitted(50, 1), 240);
        assert!(admitted(1, 2) < 400);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged(
            kind in prop_oneof![Just(BINDING_REQUEST), Just(DATA_INDICATION)],
            attributes in prop::collection::vec(
                (prop_oneof![Just(USERNAME), Just(XOR_PEER_ADDRESS), Just(DATA)], prop::collection::vec(any::<u8>(), 0..40)),
                0..4,
            ),
            cut in 0..100_usize,
        ) {
            let attributes: Vec<(u16, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
            let mut datagram = message(kind, &attributes);
            datagram.truncate(cut);
            let checks = checks();
            checks.admits(address(1), address(2), &datagram, Instant::now());
            prop_assert!(checks.paths.lock().expect("whole").keys().all(|(_, _, peer)| peer.len() <= 20));
        }
    }
}
