//! What our STUN and TURN servers refuse, or that they do not answer: the engine goes on without them and only logs it.
//!
//! W3C webrtc-pc §5.6.3.1 calls this `icecandidateerror`. It is told once for all connections of a process, and again only after the
//! server has answered in between.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::stun::{ERROR_CODE, USERNAME, attribute, kind, transaction};
use super::transactions::Transactions;
use crate::core::allowance::Allowance;

/// How long a server may take to answer: the engine repeats a question to a TURN server for 7.9 s (RFC 8489 §6.2.1 has 39.5 s).
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Questions that are farther apart have nothing to do with one another.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// What is told of a server at once, and how often more is: anybody on the way to it can answer in its name.
const TOLD_BURST: u32 = 4;
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// One that answered so lately is there: some of our addresses do not lead to it, and more is asked than is answered.
const ANSWERED_LATELY: Duration = Duration::from_secs(60);

/// Requests and their answers (RFC 8489 §5, RFC 8656 §17). A nonce that is too old is asked for anew.
const CLASS: u16 = 0x0110;
const REQUEST: u16 = 0x0000;
const SUCCESS: u16 = 0x0100;
const ERROR: u16 = 0x0110;
const ALLOCATE_REQUEST: u16 = 0x0003;
const ALLOCATE_ERROR: u16 = 0x0113;
const STALE_NONCE: u16 = 438;

/// What is wrong with a STUN or TURN server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IceTrouble {
    /// Its name leads to no address.
    Unresolved,
    /// It does not answer.
    Silent,
    /// It relays nothing for us, with this error code (RFC 8656 §19): 401 is a wrong user or password.
    Refused(u16),
}

/// A STUN or TURN server that is of no use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IceServerTrouble {
    /// `host:port`, as it was configured.
    pub server: String,
    /// What is wrong.
    pub trouble: IceTrouble,
}

/// Those of a process.
#[derive(Debug)]
pub(super) struct Servers {
    tell: mpsc::UnboundedSender<IceServerTrouble>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    names: HashMap<SocketAddr, String>,
    servers: HashMap<String, Server>,
    /// What was asked, and of that the allocations in our name.
    asked: Transactions,
    signed: Transactions,
}

#[derive(Debug)]
struct Server {
    /// Since when it is asked and does not answer, and when it was asked last.
    asked_at: Option<(Instant, Instant)>,
    answered_at: Option<Instant>,
    told: Option<IceTrouble>,
    allowance: Allowance,
}

impl Default for Server {
    fn default() -> Self {
        let allowance = Allowance::new(TOLD_BURST, TOLD_EVERY);
        Self { asked_at: None, answered_at: None, told: None, allowance }
    }
}

impl Servers {
    /// None yet.
    pub(super) fn new(tell: mpsc::UnboundedSender<IceServerTrouble>) -> Self {
        let [asked, signed] = [(); 2].map(|()| Transactions::kept_for(ANSWERED_LATELY));
        let known = Known { names: HashMap::new(), servers: HashMap::new(), asked, signed };
        Self { tell, known: Mutex::new(known) }
    }

    /// A server's name leads to these addresses.
    pub(super) fn note_resolved(&self, server: &str, addresses: &[SocketAddr], now: Instant) {
        let mut known = self.known();
        if addresses.is_empty() {
            self.tell(&mut known, server, IceTrouble::Unresolved, now);
        }
        known.names.retain(|_, name| name != server);
        known.names.extend(addresses.iter().map(|address| (*address, server.to_owned())));
    }

    /// Something of ours leaves.
    pub(super) fn note_sent(&self, to: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(kind) = kind(datagram).filter(|kind| kind & CLASS == REQUEST) else { return };
        let mut known = self.known();
        let Some(name) = known.names.get(&to).cloned() else { return };
        let Some(transaction) = transaction(datagram) else { return };
        known.asked.note(transaction, now);
        if kind == ALLOCATE_REQUEST && attribute(datagram, USERNAME).is_some() {
            known.signed.note(transaction, now);
        }
        let server = known.servers.entry(name.clone()).or_default();
        let is_again = |(_, last): &(_, Instant)| now.saturating_duration_since(*last) < ASKED_AGAIN_WITHIN;
        let (asked_at, _) = server.asked_at.filter(is_again).unwrap_or((now, now));
        server.asked_at = Some((asked_at, now));
        let is_there =
            server.answered_at.is_some_and(|at| now.saturating_duration_since(at) < ANSWERED_LATELY);
        if !is_there && now.saturating_duration_since(asked_at) >= ANSWER_WITHIN {
            self.tell(&mut known, &name, IceTrouble::Silent, now);
        }
    }

    /// Something came.
    pub(super) fn note_heard(&self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(kind) = kind(datagram).filter(|kind| matches!(kind & CLASS, SUCCESS | ERROR)) else {
            return;
        };
        let mut known = self.known();
        let Some(name) = known.names.get(&from).cloned() else { return };
        let Some(transaction) = transaction(datagram) else { return };
        if known.asked.since(transaction, now).is_none() {
            return;
        }
        let is_signed = known.signed.since(transaction, now).is_some();
        let server = known.servers.entry(name.clone()).or_default();
        (server.asked_at, server.answered_at) = (None, Some(now));
        // It wants to know who asks, before it is asked in our name.
        let code = (kind == ALLOCATE_ERROR && is_signed).then(|| error_code(datagram)).flatten();
        match code.filter(|code| *code != STALE_NONCE) {
            Some(code) => self.tell(&mut known, &name, IceTrouble::Refused(code), now),
            None if kind & CLASS == SUCCESS => server.told = None,
            None => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics under it")
    }

    fn tell(&self, known: &mut Known, name: &str, trouble: IceTrouble, now: Instant) {
        let server = known.servers.entry(name.to_owned()).or_default();
        if server.told.replace(trouble) != Some(trouble) && server.allowance.take(now) {
            let _ = self.tell.send(IceServerTrouble { server: name.to_owned(), trouble });
        }
    }
}

/// The code of an error (RFC 8489 §14.8).
fn error_code(message: &[u8]) -> Option<u16> {
    let value = attribute(message, ERROR_CODE)?;
    let [_, _, class, number, ..] = message[value] else { return None };
    (number < 100).then_some(u16::from(class & 7) * 100 + u16::from(number))
}

#[cfg(test)]
mod tests {
    use super::super::stun::BINDING_REQUEST;
    use super::super::stun::tests::message;
    use super::*;

    const NAME: &str = "turn.example.org:3478";
    const BINDING_SUCCESS: u16 = 0x0101;
    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        servers: Servers,
        told: mpsc::UnboundedReceiver<IceServerTrouble>,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let (tell, told) = mpsc::unbounded_channel();
            let servers = Servers::new(tell);
            servers.note_resolved(NAME, &[address(1), address(2)], Instant::now());
            Self { servers, told, now: Instant::now() }
        }

        fn ask(&mut self, port: u16, kind: u16, user: bool) {
            let attributes: &[(u16, &[u8])] = if user { &[(USERNAME, b"ada")] } else { &[] };
            self.servers.note_sent(address(port), &message(kind, attributes), self.now);
        }

        fn answer(&mut self, port: u16, kind: u16, code: Option<[u8; 2]>) {
            let value = code.map_or([0; 4], |[class, number]| [0, 0, class, number]);
            self.servers.note_heard(address(port), &message(kind, &[(ERROR_CODE, &value)]), self.now);
        }

        fn told(&mut self) -> Option<IceTrouble> {
            let told = self.told.try_recv().ok()?;
            assert_eq!(told.server, NAME);
            Some(told.trouble)
        }
    }

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 7], port).into()
    }

    #[test]
    fn a_server_that_does_not_answer_is_told_of_once_until_it_does() {
        let mut world = World::new();
        for _ in 0..9 {
            world.ask(1, BINDING_REQUEST, false);
            world.ask(9, BINDING_REQUEST, false);
            world.now += SECOND;
        }
        assert_eq!((world.told(), world.told()), (Some(IceTrouble::Silent), None));
        world.answer(9, BINDING_SUCCESS, None);
        world.ask(1, BINDING_REQUEST, false);
        assert_eq!(world.told(), None);
        world.answer(1, BINDING_SUCCESS, None);
        world.now += ANSWERED_LATELY;
        world.ask(2, BINDING_REQUEST, false);
        world.now += ANSWER_WITHIN;
        world.ask(2, BINDING_REQUEST, false);
        assert_eq!((world.told(), world.told()), (Some(IceTrouble::Silent), None));
    }

    #[test]
    fn a_server_that_some_addresses_do_not_lead_to_is_there() {
        let mut world = World::new();
        for _ in 0..9 {
            world.ask(1, BINDING_REQUEST, false);
            world.ask(2, BINDING_REQUEST, false);
            world.now += SECOND / 2;
            world.answer(1, BINDING_SUCCESS, None);
        }
        assert_eq!(world.told(), None);
    }

    /// All that a server is asked without a name it refuses, to learn it.
    #[test]
    fn a_server_that_refuses_our_name_is_told_of_and_one_that_asks_for_it_is_not() {
        let mut world = World::new();
        world.ask(1, ALLOCATE_REQUEST, false);
        world.answer(1, ALLOCATE_ERROR, Some([4, 1]));
        assert_eq!(world.told(), None);
        world.ask(1, ALLOCATE_REQUEST, true);
        world.answer(1, ALLOCATE_ERROR, Some([4, 38]));
        assert_eq!(world.told(), None, "the nonce was too old");
        for _ in 0..2 {
            world.answer(1, ALLOCATE_ERROR, Some([4, 1]));
        }
        assert_eq!((world.told(), world.told()), (Some(IceTrouble::Refused(401)), None));
        world.answer(1, ALLOCATE_ERROR, Some([4, 86]));
        assert_eq!(world.told(), Some(IceTrouble::Refused(486)));
        world.answer(1, ALLOCATE_ERROR, Some([7, 255]));
        assert_eq!(world.told(), None, "it makes no sense");
    }

    #[test]
    fn whoever_answers_in_a_servers_name_without_end_is_heard_now_and_then() {
        let mut world = World::new();
        world.answer(1, ALLOCATE_ERROR, Some([4, 1]));
        world.ask(1, ALLOCATE_REQUEST, true);
        for number in 0..1000 {
            world.answer(1, ALLOCATE_ERROR, Some([4, number as u8 % 2]));
        }
        assert_eq!(std::iter::from_fn(|| world.told()).count(), TOLD_BURST as usize);
    }

    #[test]
    fn a_question_long_after_another_is_a_new_one() {
        let mut world = World::new();
        for _ in 0..9 {
            world.ask(1, BINDING_REQUEST, false);
            world.now += 2 * ASKED_AGAIN_WITHIN;
        }
        assert_eq!(world.told(), None);
    }

    #[test]
    fn a_server_without_an_address_is_told_of() {
        let mut world = World::new();
        world.servers.note_resolved(NAME, &[], world.now);
        world.servers.note_resolved(NAME, &[], world.now);
        assert_eq!((world.told(), world.told()), (Some(IceTrouble::Unresolved), None));
    }
}
