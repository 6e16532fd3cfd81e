//! The peer's addresses, as far as the engine gets to know them: from candidates, and from connectivity checks.
//!
//! Each of our candidates makes a pair with each of them, and each step goes through all checks of the last four seconds for each
//! pair. From each new address that a check comes from the engine makes a candidate that it never forgets, looks through all of
//! them at each packet, and answers each check with one of its own (rtc-ice 0.21). So addresses are counted, and the checks from each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::core::allowance::Allowance;
use crate::wire::Candidate;
use crate::wire::limits::CANDIDATES_MAX;

/// Pairs with candidates that the peer names, and with addresses found by its checks; and how many of each are known however many
/// candidates we have. What they cost the engine while a connection comes up grows with their square.
const NAMED_PAIRS_MAX: usize = 128;
const FOUND_PAIRS_MAX: usize = 64;
const ADDRESSES_LEAST: usize = 16;

/// Of the places for candidates so many are kept for those that hosts send last, and half of them for relayed ones only, which lead
/// to a peer where nothing else does.
const KEPT_PLACES: usize = 8;

/// Candidates of one address, with different ports or none of them known, since it is a name: each is asked for over multicast (RFC 8828 §3).
const PORTS_MAX: usize = 8;
const NAMES_MAX: usize = 8;

/// Checks to one address: for a second all that the engine sends, one each 50 ms for each pair it is in, then two a second. It goes on for
/// twelve seconds (rtc-ice 0.21; RFC 8445 §14.2 has 50 ms for all pairs together), and a peer chooses where they go.
const SENT_BURST: u32 = 20;
const SENT_EVERY: Duration = Duration::from_millis(500);
const SENT_TO_MAX: usize = 256;

/// And of all connections together, to one host from which nobody has checked us; and names that are asked for.
const HOST_BURST: u32 = 1000;
const HOST_EVERY: Duration = Duration::from_millis(50);
const HOSTS_MAX: usize = 4096;
const ALL_NAMES_BURST: u32 = 256;
const ALL_NAMES_EVERY: Duration = Duration::from_millis(500);

/// Paths of a connection on which checks are heard: from an address of the peer to a socket of ours, relayed or not.
const PATHS_MAX: usize = 128;

/// Checks on each: one each 50 ms (RFC 8445 §14.2) as long as a connection may take to come up, then many times what keeps it
/// up (RFC 7675 §5.1, one in 5 s).
const CHECKS_BURST: u32 = 250;
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// STUN (RFC 8489 §5): header, magic cookie, methods with their class, and attributes (§14, RFC 8656 §18). The engine does not
/// look at the first two bits.
const HEADER_BYTES: usize = 20;
pub(super) const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const TYPE: u16 = 0x3fff;
const BINDING_REQUEST: u16 = 0x0001;
const SEND_INDICATION: u16 = 0x0016;
const DATA_INDICATION: u16 = 0x0017;
const USERNAME: u16 = 0x0006;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;

/// Behind a relay the peer is known by its address, or by the channel that was made for that (RFC 8656 §12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    Address(SocketAddr),
    Channel([u8; 2]),
}

/// What is known about the peer's addresses on one connection.
#[derive(Debug, Default)]
pub(super) struct Checks {
    ufrag: OnceLock<String>,
    /// How many candidates we may have.
    ours: AtomicUsize,
    all: Arc<Reach>,
    known: Mutex<Known>,
}

/// What all connections of a process do where peers have them do it.
#[derive(Debug)]
pub(super) struct Reach {
    hosts: Mutex<HashMap<IpAddr, Allowance>>,
    names: Mutex<Allowance>,
}

impl Default for Reach {
    fn default() -> Self {
        Self { hosts: Mutex::default(), names: Mutex::new(Allowance::new(ALL_NAMES_BURST, ALL_NAMES_EVERY)) }
    }
}

impl Reach {
    fn may_ask_for_name(&self, now: Instant) -> bool {
        self.names.lock().expect("nothing panics under it").take(now)
    }

    fn may_check(&self, host: IpAddr, now: Instant) -> bool {
        let mut hosts = self.hosts.lock().expect("nothing panics under it");
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&host) {
            hosts.retain(|_, allowance| {
                allowance.catch_up(now);
                allowance.left() < HOST_BURST
            });
            if hosts.len() >= HOSTS_MAX {
                return false;
            }
        }
        hosts.entry(host).or_insert_with(|| Allowance::new(HOST_BURST, HOST_EVERY)).take(now)
    }
}

#[derive(Debug, Default)]
struct Known {
    candidates: BTreeSet<String>,
    names: usize,
    named: HashSet<SocketAddr>,
    found: HashSet<SocketAddr>,
    paths: HashMap<(Peer, SocketAddr), Allowance>,
    /// Our STUN and TURN servers.
    relays: HashSet<SocketAddr>,
    sent: HashMap<Peer, Allowance>,
}

impl Known {
    /// Whether one more candidate leads to where not enough others lead.
    fn lacks(&self, address: Option<SocketAddr>) -> bool {
        match address {
            Some(address) => {
                let ports = self.named.iter().filter(|known| known.ip() == address.ip());
                !self.named.contains(&address) && ports.count() < PORTS_MAX
            }
            None => self.names < NAMES_MAX,
        }
    }
}

impl Checks {
    /// Those of one connection of so many.
    pub(super) fn new(all: Arc<Reach>) -> Self {
        Self { all, ..Self::default() }
    }

    /// How many candidates we may have, before there is any.
    pub(super) fn set_ours(&self, candidates: usize) {
        self.ours.store(candidates, Ordering::Relaxed);
    }

    /// What checks must name us by (RFC 8445 §7.2.2). Before this nobody can know it, and none comes through.
    pub(super) fn expect(&self, ufrag: &str) {
        let _ = self.ufrag.set(ufrag.to_owned());
    }

    /// Whether the engine may have a candidate, once.
    pub(super) fn admits_candidate(&self, candidate: &Candidate, now: Instant) -> bool {
        let places = self.addresses_max(NAMED_PAIRS_MAX);
        let places = match candidate.kind() {
            Some("relay") => places,
            Some("host") => places - KEPT_PLACES,
            Some(_) | None => places - KEPT_PLACES / 2,
        };
        let mut known = self.known.lock().expect("nothing panics under it");
        let address = candidate.address();
        let is_wanted = known.candidates.len() < places
            && known.lacks(address)
            && !known.candidates.contains(&candidate.candidate)
            && (address.is_some() || self.all.may_ask_for_name(now));
        if is_wanted {
            known.candidates.insert(candidate.candidate.clone());
            known.names += usize::from(address.is_none());
            known.named.extend(address);
        }
        is_wanted
    }

    /// These are our STUN and TURN servers.
    pub(super) fn note_relays(&self, addresses: &[SocketAddr]) {
        self.known.lock().expect("nothing panics under it").relays.extend(addresses);
    }

    /// Whether what a datagram says that a relay passes on may be that.
    pub(super) fn is_relay(&self, address: SocketAddr) -> bool {
        self.known.lock().expect("nothing panics under it").relays.contains(&address)
    }

    /// Whether a datagram of ours may leave: what is no check, and checks in measure.
    pub(super) fn may_leave(&self, to: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let (peer, check) = match relayed(datagram, SEND_INDICATION) {
            Some((peer, data)) => (peer, &datagram[data]),
            None => (Some(Peer::Address(to)), datagram),
        };
        if !is_stun(check, BINDING_REQUEST) {
            return true;
        }
        let mut known = self.known.lock().expect("nothing panics under it");
        let has_place = |peer: &Peer| known.sent.len() < SENT_TO_MAX || known.sent.contains_key(peer);
        let Some(peer) = peer.filter(has_place) else { return false };
        let host = match peer {
            Peer::Address(address) => address.ip(),
            Peer::Channel(_) => to.ip(),
        };
        let has_checked_us = known.paths.keys().any(|(known, _)| *known == peer);
        known.sent.entry(peer).or_insert_with(|| Allowance::new(SENT_BURST, SENT_EVERY)).take(now)
            && (has_checked_us || self.all.may_check(host, now))
    }

    /// Whether an address is one of the peer's, by what it named and by the checks that came.
    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        let known = self.known.lock().expect("nothing panics under it");
        known.named.contains(&address) || known.found.contains(&address)
    }

    /// Whether the engine may have a datagram: what is no check, and checks that it would take, in bounded number.
    pub(super) fn admits(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let (peer, check) = match relayed(datagram, DATA_INDICATION) {
            Some((peer, data)) => (peer, &datagram[data]),
            None => (Some(Peer::Address(from)), datagram),
        };
        if !is_stun(check, BINDING_REQUEST) {
            return true;
        }
        let Some(peer) = peer.filter(|_| self.names_us(check)) else { return false };
        let found_max = self.addresses_max(FOUND_PAIRS_MAX);
        let mut known = self.known.lock().expect("nothing panics under it");
        let Known { named, found, paths, .. } = &mut *known;
        if let Peer::Address(address) = peer
            && !named.contains(&address)
            && !found.contains(&address)
        {
            if found.len() >= found_max {
                return false;
            }
            found.insert(address);
        }
        let path = (peer, to);
        if paths.len() >= PATHS_MAX && !paths.contains_key(&path) {
            return false;
        }
        paths.entry(path).or_insert_with(|| Allowance::new(CHECKS_BURST, CHECK_EVERY)).take(now)
    }

    /// How many addresses of the peer make so many pairs.
    fn addresses_max(&self, pairs: usize) -> usize {
        (pairs / self.ours.load(Ordering::Relaxed).max(1)).clamp(ADDRESSES_LEAST, CANDIDATES_MAX)
    }

    fn names_us(&self, check: &[u8]) -> bool {
        let us = self.ufrag.get().zip(attribute(check, USERNAME));
        let rest = us.and_then(|(ufrag, name)| check[name].strip_prefix(ufrag.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&b':'))
    }
}

fn is_stun(datagram: &[u8], kind: u16) -> bool {
    let found =
        |header: &[u8]| u16::from_be_bytes([header[0], header[1]]) & TYPE == kind && header[4..8] == COOKIE;
    datagram.get(..HEADER_BYTES).is_some_and(found)
}

/// Where in a datagram is what a relay passes on.
pub(super) fn relayed_data(datagram: &[u8]) -> Option<Range<usize>> {
    relayed(datagram, DATA_INDICATION).map(|(_, data)| data)
}

/// What a relay passes on or is to pass on, and whose or to whom it is, if that can be read.
fn relayed(datagram: &[u8], indication: u16) -> Option<(Option<Peer>, Range<usize>)> {
    if is_stun(datagram, BINDING_REQUEST) {
        return None;
    }
    if is_stun(datagram, indication) {
        let peer = attribute(datagram, XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| xor_address(&datagram[value], datagram));
        return Some((peer.map(Peer::Address), attribute(datagram, DATA)?));
    }
    match datagram {
        [high @ 0x40..=0x7f, low, len_high, len_low, data @ ..] => {
            let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
            (len <= data.len()).then_some((Some(Peer::Channel([*high, *low])), 4..4 + len))
        }
        _ => None,
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
fn attribute(message: &[u8], kind: u16) -> Option<Range<usize>> {
    let mut at = HEADER_BYTES;
    while let [high, low, len_high, len_low, ..] = message.get(at..)? {
        let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
        let value = at + 4..at + 4 + len;
        if u16::from_be_bytes([*high, *low]) == kind {
            return (value.end <= message.len()).then_some(value);
        }
        at += 4 + len.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &[7; 12]].concat();
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

    fn relayed(peer: &[u8], username: &str) -> Vec<u8> {
        message(DATA_INDICATION, &[(XOR_PEER_ADDRESS, peer), (DATA, &check(username))])
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
        assert!(admits(&Checks::default(), &message(0x0101, &[])), "an answer");
        assert!(admits(&Checks::default(), &[22; 40]), "something else");
    }

    /// They look like something else, and the engine takes them for checks all the same.
    #[test]
    fn checks_in_disguise_are_checks() {
        let wrong = check("them:us");
        let admits = |datagram: &[u8]| checks().admits(address(1), address(2), datagram, Instant::now());
        for bits in [0x40, 0x80, 0xc0] {
            let mut disguised = wrong.clone();
            disguised[0] |= bits;
            assert!(!admits(&disguised), "{bits:x}");
            let mut passed_on = relayed(&[0, 1, 9, 9, 9, 9, 9, 9], "them:us");
            passed_on[0] |= bits;
            assert!(!admits(&passed_on), "{bits:x}, from a relay");
        }
        let len = (wrong.len() as u16).to_be_bytes();
        assert!(!admits(&[&[0x40, 0][..], &len, &wrong].concat()), "on a channel of a relay");
        assert!(!admits(&relayed(&[0, 3, 9, 9], "us:them")), "of nobody");
        assert!(admits(&[&[0x40, 0][..], &[0, 4], &wrong[..4]].concat()), "data on a channel");
    }

    fn candidate(port: u16, kind: &str) -> Candidate {
        Candidate::of_line(&format!("candidate:1 1 udp 2122265343 192.0.2.1 {port} typ {kind}"))
    }

    fn elsewhere(number: u16, kind: &str) -> Candidate {
        Candidate::of_line(&format!("candidate:1 1 udp 2122265343 10.0.0.{number} 9 typ {kind}"))
    }

    #[test]
    fn the_more_candidates_we_have_the_fewer_of_a_peer_are_tried() {
        let tried = |ours: usize| {
            let checks = checks();
            checks.set_ours(ours);
            let candidates = (0..100).map(|number| elsewhere(number, "relay"));
            candidates.filter(|candidate| checks.admits_candidate(candidate, Instant::now())).count()
        };
        assert_eq!([0, 1, 2, 4, 8, 100].map(tried), [64, 64, 64, 32, 16, 16]);
    }

    /// Peers send them in this order.
    #[test]
    fn hosts_leave_room_for_what_leads_to_a_peer_where_they_do_not() {
        let checks = checks();
        checks.set_ours(8);
        let tried = |kind: &str, numbers: Range<u16>| {
            numbers
                .filter(|number| checks.admits_candidate(&elsewhere(*number, kind), Instant::now()))
                .count()
        };
        assert_eq!(tried("host", 0..20), 8);
        assert_eq!(tried("host", 0..20), 0, "each once");
        assert_eq!(tried("srflx", 20..40), 4);
        assert_eq!(tried("relay", 40..60), 4);
    }

    /// Whoever lives there need not have asked for it.
    #[test]
    fn few_candidates_lead_to_one_place() {
        let tried = |candidates: &[String]| {
            let checks = checks();
            let admits = |line: &&String| checks.admits_candidate(&Candidate::of_line(line), Instant::now());
            candidates.iter().filter(admits).count()
        };
        let line = |number: usize, to: &str| {
            format!("candidate:{number} 1 udp 9 {to} typ relay raddr 10.0.0.{number}")
        };
        assert_eq!(tried(&(0..64).map(|number| line(number, "192.0.2.1 9")).collect::<Vec<_>>()), 1);
        let ports: Vec<_> = (0..64).map(|port| line(1, &format!("192.0.2.1 {port}"))).collect();
        assert_eq!(tried(&ports), PORTS_MAX);
        let names: Vec<_> = (0..64).map(|number| line(1, &format!("name-{number}.local 9"))).collect();
        assert_eq!(tried(&names), NAMES_MAX);
    }

    #[test]
    fn checks_that_we_send_to_one_place_are_few() {
        let (checks, start) = (checks(), Instant::now());
        let sent = |datagram: &[u8], to: u16| {
            let times = (0..12_000).step_by(5).map(|ms| start + Duration::from_millis(ms));
            times.filter(|now| checks.may_leave(address(to), datagram, *now)).count()
        };
        assert_eq!(sent(&check("them:us"), 1), 20 + 23);
        assert_eq!(sent(&check("them:us"), 2), 20 + 23, "each place for itself");
        let peer = [0, 1, 0x21, 0x13, 192 ^ 0x21, 0x12, 2 ^ 0xa4, 9 ^ 0x42];
        let over_relay = message(SEND_INDICATION, &[(XOR_PEER_ADDRESS, &peer), (DATA, &check("them:us"))]);
        assert_eq!(sent(&over_relay, 3), 20 + 23, "through a relay, too");
        assert_eq!(sent(&[23; 100], 1), 2_400, "what is no check is not counted");
        assert!(
            (0..1_000).filter(|port| checks.may_leave(address(*port), &check("them:us"), start)).count()
                <= SENT_TO_MAX
        );
    }

    /// Connections are made as often as somebody wants to be connected.
    #[test]
    fn all_connections_together_send_few_checks_to_a_host_that_has_not_asked_for_them() {
        let (all, now) = (Arc::<Reach>::default(), Instant::now());
        let sent = |at: Instant, ports: Range<u16>| {
            let checks = Checks::new(Arc::clone(&all));
            checks.expect("us");
            ports.filter(|port| checks.may_leave(address(*port), &check("them:us"), at)).count()
        };
        let connections = (0..40).map(|_| sent(now, 0..100)).sum::<usize>();
        assert_eq!(connections, HOST_BURST as usize);
        assert_eq!(sent(now + Duration::from_secs(1), 0..100), 20);
        let other = Checks::new(Arc::clone(&all));
        assert!(other.may_leave(([192, 0, 2, 77], 9).into(), &check("them:us"), now), "each host for itself");
        other.expect("us");
        assert!(other.admits(address(5), address(1), &check("us:them"), now));
        assert!(other.may_leave(address(5), &check("them:us"), now), "it has asked for them");
        let name = Candidate::of_line("candidate:1 1 udp 9 name.local 9 typ host");
        let names = (0..1000).filter(|_| Checks::new(Arc::clone(&all)).admits_candidate(&name, now)).count();
        assert_eq!(names, ALL_NAMES_BURST as usize);
    }

    #[test]
    fn the_number_of_hosts_that_are_kept_track_of_is_bounded() {
        let (all, now) = (Reach::default(), Instant::now());
        let host = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
        assert!((0..HOSTS_MAX as u32).all(|number| all.may_check(host(number), now)));
        assert!(!all.may_check(host(u32::MAX), now));
        assert!(all.may_check(host(7), now));
        assert!(all.may_check(host(u32::MAX), now + 3 * HOST_EVERY), "most are forgotten by then");
        assert!(all.hosts.lock().expect("nothing panics").len() < HOSTS_MAX);
    }

    #[test]
    fn checks_from_ever_new_addresses_have_a_bound_and_those_from_known_ones_go_on() {
        let (checks, now) = (checks(), Instant::now());
        checks.set_ours(4);
        assert!(checks.admits_candidate(&candidate(999, "host"), Instant::now()));
        let from = |port: u16| checks.admits(address(port), address(1), &check("us:them"), now);
        assert_eq!((0..900).filter(|port| from(*port)).count(), FOUND_PAIRS_MAX / 4);
        assert!(from(0));
        assert!(!from(1000));
        assert!(from(999), "it was named");
        let other = [0, 1, 0x21, 0x13, 192 ^ 0x21, 0x12, 2 ^ 0xa4, 9 ^ 0x42];
        assert!(!checks.admits(address(0), address(1), &relayed(&other, "us:them"), now), "192.0.2.9:1");
        let first = [0, 1, 0x21, 0x12, 192 ^ 0x21, 0x12, 2 ^ 0xa4, 1 ^ 0x42];
        assert!(checks.admits(address(77), address(1), &relayed(&first, "us:them"), now), "192.0.2.1:0");
    }

    #[test]
    fn paths_have_a_bound() {
        let (checks, now) = (checks(), Instant::now());
        let to = |port: u16| checks.admits(address(1), address(port), &check("us:them"), now);
        assert_eq!((0..1000).filter(|port| to(*port)).count(), PATHS_MAX);
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
            let is_check = is_stun(&datagram, BINDING_REQUEST);
            let is_admitted = checks.admits(address(1), address(2), &datagram, Instant::now());
            prop_assert_eq!(is_check && is_admitted, is_check && checks.names_us(&datagram));
        }
    }
}
