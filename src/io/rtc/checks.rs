//! The peer's addresses, as far as the engine gets to know them: from candidates, and from connectivity checks.
//!
//! Each of our candidates makes a pair with each of them, and each step goes through all checks of the last four seconds for each
//! pair. From each new address that a check comes from the engine makes a candidate that it never forgets, looks through all of
//! them at each packet, and answers each check with one of its own (rtc-ice 0.21). So addresses are counted, and the checks from each.
//!
//! Whoever hears a check can write its name into others, and send it again: only those that are signed with our password count as the
//! peer's, and each of them once. For the engine anything of STUN from the peer's address is a sign of life (RFC 7675 wants the answer to a question).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::stun::{
    BINDING_ERROR, BINDING_INDICATION, BINDING_REQUEST, BINDING_SUCCESS, DATA_INDICATION, Peer,
    SEND_INDICATION, USERNAME, attribute, is_signed, kind, relayed, transaction,
};
use super::transactions::Transactions;
use crate::core::allowance::Allowance;
use crate::core::network::ClientAddress;
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

/// And of all connections together, to one host, or network of IPv6 as one has it, from which nobody has checked us, and to all of them;
/// and names that are asked for.
const HOST_BURST: u32 = 1000;
const HOST_EVERY: Duration = Duration::from_millis(50);
const HOSTS_MAX: usize = 4096;
const ALL_HOSTS_BURST: u32 = 32_768;
const ALL_HOSTS_EVERY: Duration = Duration::from_millis(2);
const ALL_NAMES_BURST: u32 = 256;
const ALL_NAMES_EVERY: Duration = Duration::from_millis(500);

/// Paths of a connection on which checks are heard: from an address of the peer to a socket of ours, relayed or not.
const PATHS_MAX: usize = 128;

/// Checks on each: one each 50 ms (RFC 8445 §14.2) as long as a connection may take to come up, then many times what keeps it
/// up (RFC 7675 §5.1, one in 5 s).
const CHECKS_BURST: u32 = 250;
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// How long a check may be sent again (RFC 8489 §6.2.1: after 0.5, 1.5, 3.5, 7.5 and 15.5 s): whoever repeats it keeps a connection
/// whose peer is gone alive for so much longer.
const AGAIN_WITHIN: Duration = Duration::from_secs(16);

/// How late an answer may come (RFC 7675 §5.1).
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What the peer calls us by, and proves that it was told so.
#[derive(Debug)]
struct Us {
    ufrag: String,
    password: hmac::Key,
}

/// What is known about the peer's addresses on one connection.
#[derive(Debug, Default)]
pub(super) struct Checks {
    us: OnceLock<Us>,
    /// How many candidates we may have.
    ours: AtomicUsize,
    all: Arc<Reach>,
    known: Mutex<Known>,
}

/// What all connections of a process do where peers have them do it.
#[derive(Debug)]
pub(super) struct Reach {
    hosts: Mutex<HashMap<ClientAddress, Allowance>>,
    all_hosts: Mutex<Allowance>,
    names: Mutex<Allowance>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            hosts: Mutex::default(),
            all_hosts: Mutex::new(Allowance::new(ALL_HOSTS_BURST, ALL_HOSTS_EVERY)),
            names: Mutex::new(Allowance::new(ALL_NAMES_BURST, ALL_NAMES_EVERY)),
        }
    }
}

impl Reach {
    fn may_ask_for_name(&self, now: Instant) -> bool {
        self.names.lock().expect("nothing panics under it").take(now)
    }

    fn may_check(&self, host: IpAddr, now: Instant) -> bool {
        let host = ClientAddress::of(host);
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
            && self.all_hosts.lock().expect("nothing panics under it").take(now)
    }
}

#[derive(Debug)]
struct Known {
    candidates: BTreeSet<String>,
    names: usize,
    named: HashSet<SocketAddr>,
    found: HashSet<SocketAddr>,
    paths: HashMap<(Peer, SocketAddr), Path>,
    /// Our STUN and TURN servers.
    relays: HashSet<SocketAddr>,
    sent: HashMap<Peer, Allowance>,
    asked: Transactions,
    heard: Transactions,
    heard_again: Allowance,
}

/// What a path on which the peer checked us lets through: its checks, and ours besides those to its address from all sockets, of
/// which those that lead nowhere take as many.
#[derive(Debug)]
struct Path {
    heard: Allowance,
    sent: Allowance,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            heard: Allowance::new(CHECKS_BURST, CHECK_EVERY),
            sent: Allowance::new(SENT_BURST, SENT_EVERY),
        }
    }
}

impl Default for Known {
    fn default() -> Self {
        Self {
            candidates: BTreeSet::new(),
            names: 0,
            named: HashSet::new(),
            found: HashSet::new(),
            paths: HashMap::new(),
            relays: HashSet::new(),
            sent: HashMap::new(),
            asked: Transactions::kept_for(ANSWER_WITHIN),
            heard: Transactions::kept(),
            heard_again: Allowance::new(CHECKS_BURST, CHECK_EVERY),
        }
    }
}

impl Known {
    /// Whether a peer was named, or a check of its came that nobody had heard before.
    fn has(&self, peer: Peer) -> bool {
        let is_named = matches!(peer, Peer::Address(address) if self.named.contains(&address));
        is_named || self.paths.keys().any(|(known, _)| *known == peer)
    }

    fn note_asked(&mut self, check: &[u8], now: Instant) {
        if let Some(transaction) = transaction(check) {
            self.asked.note(transaction, now);
        }
    }

    /// Whether one more candidate leads to where not enough others lead.
    fn lacks(&self, address: Option<SocketAddr>) -> bool {
        match address {
            Some(address) => {
                let host = ClientAddress::of(address.ip());
                let ports = self.named.iter().filter(|known| ClientAddress::of(known.ip()) == host);
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

    /// What checks must name us by and be signed with (RFC 8445 §7.2.2). Before this nobody can know it, and none comes through.
    pub(super) fn expect(&self, ufrag: &str, password: &str) {
        let password = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
        let _ = self.us.set(Us { ufrag: ufrag.to_owned(), password });
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
    pub(super) fn may_leave(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let (peer, check) = match relayed(datagram, SEND_INDICATION) {
            Some((peer, data)) => (peer, &datagram[data]),
            None => (Some(Peer::Address(to)), datagram),
        };
        if kind(check) != Some(BINDING_REQUEST) {
            return true;
        }
        let mut known = self.known.lock().expect("nothing panics under it");
        // It asks a STUN server that the user named: checks have a name.
        if attribute(check, USERNAME).is_none() {
            known.note_asked(check, now);
            return true;
        }
        let has_place = |peer: &Peer| known.sent.len() < SENT_TO_MAX || known.sent.contains_key(peer);
        let Some(peer) = peer.filter(has_place) else { return false };
        let host = match peer {
            Peer::Address(address) => address.ip(),
            Peer::Channel(_) => to.ip(),
        };
        let has_checked_us = known.paths.keys().any(|(known, _)| *known == peer);
        let may_leave = known.paths.get_mut(&(peer, from)).is_some_and(|path| path.sent.take(now))
            || known.sent.entry(peer).or_insert_with(|| Allowance::new(SENT_BURST, SENT_EVERY)).take(now)
                && (has_checked_us || self.all.may_check(host, now));
        if may_leave {
            known.note_asked(check, now);
        }
        may_leave
    }

    /// This left behind another in one call: the engine puts together what goes to one place.
    pub(super) fn note_left(&self, datagram: &[u8], now: Instant) {
        if kind(datagram) == Some(BINDING_REQUEST) {
            self.known.lock().expect("nothing panics under it").note_asked(datagram, now);
        }
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
        match kind(check) {
            Some(BINDING_REQUEST) => peer.is_some_and(|peer| self.admits_check(peer, to, check, now)),
            Some(BINDING_SUCCESS | BINDING_ERROR) => self.admits_answer(check, now),
            // It asks nothing, and nobody vouches for it.
            Some(BINDING_INDICATION) => false,
            Some(_) | None => true,
        }
    }

    fn admits_check(&self, peer: Peer, to: SocketAddr, check: &[u8], now: Instant) -> bool {
        let Some(transaction) = transaction(check).filter(|_| self.is_for_us(check)) else { return false };
        let found_max = self.addresses_max(FOUND_PAIRS_MAX);
        let mut known = self.known.lock().expect("nothing panics under it");
        if let Some(since) = known.heard.note(transaction, now) {
            // It may be anybody's by now: it takes no place of those that are the peer's.
            return since <= AGAIN_WITHIN && known.has(peer) && known.heard_again.take(now);
        }
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
        paths.entry(path).or_default().heard.take(now)
    }

    /// Whether it answers a question of ours, by its name; the engine looks at the rest.
    fn admits_answer(&self, answer: &[u8], now: Instant) -> bool {
        let mut known = self.known.lock().expect("nothing panics under it");
        let since = transaction(answer).and_then(|transaction| known.asked.since(transaction, now));
        since.is_some_and(|since| since <= ANSWER_WITHIN)
    }

    /// How many addresses of the peer make so many pairs.
    fn addresses_max(&self, pairs: usize) -> usize {
        (pairs / self.ours.load(Ordering::Relaxed).max(1)).clamp(ADDRESSES_LEAST, CANDIDATES_MAX)
    }

    fn is_for_us(&self, check: &[u8]) -> bool {
        let Some((us, name)) = self.us.get().zip(attribute(check, USERNAME)) else { return false };
        let rest = check[name].strip_prefix(us.ufrag.as_bytes());
        rest.is_some_and(|rest| rest.first() == Some(&b':')) && is_signed(check, &us.password)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::ops::Range;

    use proptest::prelude::*;

    use super::super::stun::tests::{DATA, XOR_PEER_ADDRESS, message, renamed, signed};
    use super::*;

    /// What our checks are signed with here.
    const PASSWORD: &str = "open sesame";

    /// A check that nobody sent before.
    pub(in super::super) fn check(username: &str) -> Vec<u8> {
        renamed(unsigned(username), PASSWORD)
    }

    fn unsigned(username: &str) -> Vec<u8> {
        message(BINDING_REQUEST, &[(0x8022, b"who?"), (USERNAME, username.as_bytes())])
    }

    fn relayed(peer: &[u8], username: &str) -> Vec<u8> {
        message(DATA_INDICATION, &[(XOR_PEER_ADDRESS, peer), (DATA, &check(username))])
    }

    pub(in super::super) fn expect_us(checks: &Checks) {
        checks.expect("us", PASSWORD);
    }

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn checks() -> Checks {
        let checks = Checks::default();
        expect_us(&checks);
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
        assert!(!admits(&checks(), &unsigned("us:them")), "anybody can write that");
        assert!(!admits(&checks(), &signed(unsigned("us:them"), "open barley")));
        assert!(admits(&Checks::default(), &[22; 40]), "something else");
    }

    /// They look like something else, and the engine takes them for checks all the same.
    #[test]
    fn checks_in_disguise_are_checks() {
        let wrong = check("them:us");
        let alive = message(BINDING_INDICATION, &[]);
        let admits = |datagram: &[u8]| checks().admits(address(1), address(2), datagram, Instant::now());
        let from_relay = |data: &[u8]| {
            message(DATA_INDICATION, &[(XOR_PEER_ADDRESS, &[0, 1, 9, 9, 9, 9, 9, 9]), (DATA, data)])
        };
        for bits in [0, 0x40, 0x80, 0xc0] {
            let disguise = |mut datagram: Vec<u8>| {
                datagram[0] |= bits;
                datagram
            };
            for wrong in [&wrong, &alive, &message(BINDING_SUCCESS, &[]), &message(BINDING_ERROR, &[])] {
                assert!(!admits(&disguise(wrong.clone())), "{bits:x}");
                assert!(!admits(&disguise(from_relay(wrong))), "{bits:x}, from a relay");
                assert!(!admits(&from_relay(&disguise(wrong.clone()))), "{bits:x}, behind a relay");
            }
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
        let network: Vec<_> = (1..65).map(|host| line(1, &format!("2001:db8::{host} 9"))).collect();
        assert_eq!(tried(&network), PORTS_MAX, "one host has all of them");
        let networks: Vec<_> = (1..65).map(|number| line(1, &format!("2001:db8:0:{number}::1 9"))).collect();
        assert_eq!(tried(&networks), 64);
        let names: Vec<_> = (0..64).map(|number| line(1, &format!("name-{number}.local 9"))).collect();
        assert_eq!(tried(&names), NAMES_MAX);
    }

    #[test]
    fn checks_that_we_send_to_one_place_are_few() {
        let (checks, start) = (checks(), Instant::now());
        let sent = |datagram: &[u8], to: u16| {
            let times = (0..12_000).step_by(5).map(|ms| start + Duration::from_millis(ms));
            times.filter(|now| checks.may_leave(address(1), address(to), datagram, *now)).count()
        };
        assert_eq!(sent(&check("them:us"), 1), 20 + 23);
        assert_eq!(sent(&check("them:us"), 2), 20 + 23, "each place for itself");
        let peer = [0, 1, 0x21, 0x13, 192 ^ 0x21, 0x12, 2 ^ 0xa4, 9 ^ 0x42];
        let over_relay = message(SEND_INDICATION, &[(XOR_PEER_ADDRESS, &peer), (DATA, &check("them:us"))]);
        assert_eq!(sent(&over_relay, 3), 20 + 23, "through a relay, too");
        assert_eq!(sent(&[23; 100], 1), 2_400, "what is no check is not counted");
        assert!(
            (0..1_000)
                .filter(|port| checks.may_leave(address(1), address(*port), &check("them:us"), start))
                .count()
                <= SENT_TO_MAX
        );
    }

    /// One of them leads there, and the peer waits for a check on it.
    #[test]
    fn checks_from_sockets_that_lead_nowhere_leave_enough_for_the_one_that_the_peer_answers_to() {
        let (checks, now) = (checks(), Instant::now());
        let leave = |from: u16| checks.may_leave(address(from), address(99), &check("them:us"), now);
        assert_eq!((0..60).filter(|number| leave(number % 6)).count(), SENT_BURST as usize);
        assert!(checks.admits(address(99), address(5), &check("us:them"), now));
        assert_eq!((0..1_000).filter(|_| leave(5)).count(), SENT_BURST as usize);
        assert!((0..5).all(|from| !leave(from)));
    }

    /// Connections are made as often as somebody wants to be connected.
    #[test]
    fn all_connections_together_send_few_checks_to_a_host_that_has_not_asked_for_them() {
        let (all, now) = (Arc::<Reach>::default(), Instant::now());
        let sent = |at: Instant, ports: Range<u16>| {
            let checks = Checks::new(Arc::clone(&all));
            expect_us(&checks);
            ports.filter(|port| checks.may_leave(address(1), address(*port), &check("them:us"), at)).count()
        };
        let connections = (0..40).map(|_| sent(now, 0..100)).sum::<usize>();
        assert_eq!(connections, HOST_BURST as usize);
        assert_eq!(sent(now + Duration::from_secs(1), 0..100), 20);
        let question = message(BINDING_REQUEST, &[]);
        let other = Checks::new(Arc::clone(&all));
        assert!(
            other.may_leave(address(1), address(0), &question, now),
            "the user's STUN server is asked whatever peers do"
        );
        assert!(other.admits(address(0), address(1), &message(BINDING_SUCCESS, &[]), now), "and may answer");
        assert!(
            other.may_leave(address(1), ([192, 0, 2, 77], 9).into(), &check("them:us"), now),
            "each host for itself"
        );
        expect_us(&other);
        assert!(other.admits(address(5), address(1), &check("us:them"), now));
        assert!(other.may_leave(address(1), address(5), &check("them:us"), now), "it has asked for them");
        let name = Candidate::of_line("candidate:1 1 udp 9 name.local 9 typ host");
        let names = (0..1000).filter(|_| Checks::new(Arc::clone(&all)).admits_candidate(&name, now)).count();
        assert_eq!(names, ALL_NAMES_BURST as usize);
    }

    #[test]
    fn what_was_heard_hours_ago_takes_no_place_of_what_is_new() {
        let (checks, start) = (Checks::default(), Instant::now());
        expect_us(&checks);
        let mut secs = 0;
        let mut hear = |check: &[u8]| {
            secs += 1;
            checks.admits(address(5), address(1), check, start + Duration::from_secs(secs))
        };
        let heard: Vec<Vec<u8>> = (0..6_000).map(|_| check("us:them")).collect();
        let came_in = heard.iter().filter(|check| hear(check)).count();
        assert!(came_in > 5_900, "{came_in}");
        assert_eq!(heard.iter().filter(|again| hear(again)).count(), 0);
        let new = (0..60).filter(|_| hear(&check("us:them"))).count();
        assert!(new > 55, "{new}");
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_are_one_host() {
        let (all, now) = (Arc::<Reach>::default(), Instant::now());
        let sent = |network: u16| {
            let to = move |host: u16| (Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host), 9).into();
            let checks: Vec<_> = (0..40).map(|_| Checks::new(Arc::clone(&all))).collect();
            let leaves = |host: &u16| {
                checks[usize::from(host % 40)].may_leave(address(1), to(*host), &check("them:us"), now)
            };
            (1..5000).filter(leaves).count()
        };
        assert_eq!([1, 1, 2].map(sent), [HOST_BURST as usize, 0, HOST_BURST as usize]);
    }

    #[test]
    fn all_hosts_together_get_few_checks_that_they_have_not_asked_for() {
        let (all, now) = (Reach::default(), Instant::now());
        let host = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
        let sent =
            |now| (0..2 * ALL_HOSTS_BURST).filter(|number| all.may_check(host(number % 256), now)).count();
        assert_eq!(sent(now), ALL_HOSTS_BURST as usize);
        assert_eq!(sent(now + Duration::from_secs(1)), 500);
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

    /// Whoever hears a check knows our name, and can send from the peer's address.
    #[test]
    fn forged_checks_take_nothing_of_the_peers() {
        let (checks, now) = (checks(), Instant::now());
        let from = |port: u16, check: &[u8]| checks.admits(address(port), address(1), check, now);
        let heard = check("us:them");
        assert!(from(9, &heard));
        for number in 0..10_000 {
            assert!(!from(9, &unsigned("us:them")) && !from(number, &signed(unsigned("us:x"), "")));
        }
        assert!(!checks.knows(address(77)), "a stranger");
        assert_eq!(checks.known.lock().expect("nothing panics").found.len(), 1);
        let again = (0..10_000).filter(|port| from(*port, &heard)).count();
        assert_eq!(again, 1, "of those that are sent again what comes from the peer's address");
        let again = (0..10_000).filter(|_| from(9, &heard)).count();
        assert_eq!(again, CHECKS_BURST as usize - 1);
        assert_eq!((0..1000).filter(|_| from(9, &check("us:them"))).count(), CHECKS_BURST as usize - 1);
        assert!(!checks.knows(address(77)));
    }

    /// The engine takes anything for a sign of life.
    #[test]
    fn what_was_heard_long_ago_is_no_sign_of_life() {
        let (checks, start) = (checks(), Instant::now());
        let heard = check("us:them");
        let at = |secs: u64, datagram: &[u8]| {
            checks.admits(address(9), address(1), datagram, start + Duration::from_secs(secs))
        };
        assert!(at(0, &heard) && at(15, &heard), "it may not have been answered");
        assert!(!at(20, &heard) && !at(2000, &heard));
        assert!(at(20, &check("us:them")));
        let asked = check("them:us");
        let answer = [&BINDING_SUCCESS.to_be_bytes()[..], &[0, 0], &asked[4..20]].concat();
        assert!(!at(20, &answer), "nothing was asked");
        assert!(checks.may_leave(address(1), address(9), &asked, start + Duration::from_secs(20)));
        assert!(at(21, &answer));
        assert!(!at(60, &answer));
    }

    #[test]
    fn answers_come_in_that_were_asked_for() {
        let (checks, now) = (checks(), Instant::now());
        const PEER: [u8; 8] = [0, 1, 0x21, 0x13, 192 ^ 0x21, 0x12, 2 ^ 0xa4, 9 ^ 0x42];
        type Way = fn(&[u8]) -> Vec<u8>;
        let on_channel: Way = |data| [&[0x40, 0][..], &(data.len() as u16).to_be_bytes(), data].concat();
        let asks: [Way; 3] = [
            <[u8]>::to_vec,
            |data| message(SEND_INDICATION, &[(XOR_PEER_ADDRESS, &PEER), (DATA, data)]),
            on_channel,
        ];
        let answers: [Way; 3] = [
            <[u8]>::to_vec,
            |data| message(DATA_INDICATION, &[(XOR_PEER_ADDRESS, &PEER), (DATA, data)]),
            on_channel,
        ];
        for (ask, kind) in asks.iter().flat_map(|ask| [(ask, BINDING_SUCCESS), (ask, BINDING_ERROR)]) {
            let asked = check("them:us");
            let answer = [&kind.to_be_bytes()[..], &[0, 0], &asked[4..20]].concat();
            let come_in = |way: &&Way| checks.admits(address(9), address(1), &way(&answer), now);
            assert_eq!(answers.iter().filter(come_in).count(), 0);
            assert!(checks.may_leave(address(1), address(9), &ask(&asked), now));
            assert_eq!(answers.iter().filter(come_in).count(), 3);
        }
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
            password in prop_oneof![Just(PASSWORD), Just("open barley")],
            cut in 0..140_usize,
        ) {
            let attributes: Vec<(u16, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
            let mut datagram = signed(message(kind, &attributes), password);
            datagram.truncate(cut);
            let checks = checks();
            let is_check = super::kind(&datagram) == Some(BINDING_REQUEST);
            let is_admitted = checks.admits(address(1), address(2), &datagram, Instant::now());
            prop_assert_eq!(is_check && is_admitted, is_check && checks.is_for_us(&datagram));
        }
    }
}
