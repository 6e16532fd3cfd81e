//! The server's part in one-time codes: it gives out numbers, brings a newcomer to the member of a number, and passes on
//! what they say. It never learns the words.
//!
//! ```text
//!  member's socket:     Silent ── open ──▶ Open ── somebody claims its number ──▶ Paired
//!  newcomer's socket:   Silent ── claim ────────────────────────────────────────▶ Paired
//! ```
//!
//! A number is claimed once, whatever comes of it. Each socket has one deadline, says a handful of messages, and is closed on
//! the first that does not fit. Newcomers have no token, so a stranger can claim, too, and burn a code: numbers are drawn from
//! 999, and an address has few claims.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::core::allowance::Allowance;
use crate::core::network::ClientAddress;
use crate::core::room::SocketId;
use crate::core::timers::Timers;
use crate::wire::code::{ClientCode, CodeNumber, CodeOver, NUMBER_MAX, Passed, ServerCode};

/// Messages each end may have passed on. The member sends its half of the exchange and the invite, the newcomer its
/// half, which is the claim, and its proof.
const MEMBER_PASSES: u8 = 2;
const NEWCOMER_PASSES: u8 = 1;

/// Addresses whose claims are counted. More of them at once are no newcomers. Members have as many places again: strangers, of
/// whom one host may have thousands of networks, must not keep them from opening codes.
const ADDRESSES_MAX: usize = 10_000;

/// How often, at most, all addresses are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What codes may take of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open codes. At most half of all numbers, so that a free one is found and a blind guess mostly misses.
    pub codes: usize,
    /// Open codes of one address, lest one member uses them all up.
    pub codes_per_address: usize,
    /// Sockets of one address.
    pub sockets_per_address: usize,
    /// Sockets without a token, of all addresses.
    pub strangers: usize,
    /// A socket without a token that has said nothing for so long gives way to another, when there are too many.
    pub give_way: Duration,
    /// Claims of one address at once …
    pub claims_burst: u32,
    /// … and how long until there is one more.
    pub claim_every: Duration,
    /// How long a code waits for its newcomer.
    pub lifetime: Duration,
    /// How long both ends may take once they have met. No person is involved.
    pub hand_over: Duration,
    /// How long a socket may take to say what it wants.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            codes: 400,
            codes_per_address: 8,
            sockets_per_address: 32,
            strangers: 1_000,
            give_way: Duration::from_secs(1),
            claims_burst: 5,
            claim_every: Duration::from_secs(30),
            lifetime: Duration::from_secs(600),
            hand_over: Duration::from_secs(30),
            silence: Duration::from_secs(10),
        }
    }
}

/// What a socket's token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Let in by the server: may open codes.
    Member,
    /// Brought no good token: may claim.
    Stranger,
}

/// What happens to the server.
#[derive(Debug, Clone)]
pub enum Input {
    /// A socket was opened.
    Connected {
        /// Its number, never used twice.
        socket: SocketId,
        /// Where it comes from.
        address: ClientAddress,
        /// What it may do.
        standing: Standing,
    },
    /// A message; `None` is one that could not be parsed.
    Message(SocketId, Option<ClientCode>),
    /// The socket is closed or broke off.
    Lost(SocketId),
    /// The server is about to stop.
    Shutdown,
}

/// What the server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Sends a message.
    Send(SocketId, ServerCode),
    /// Closes the socket after what was sent to it. The machine has forgotten it already.
    Close(SocketId),
}

#[derive(Debug)]
struct Socket {
    address: ClientAddress,
    standing: Standing,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Has not said what it wants.
    Silent { since: Instant },
    /// Waits for whoever claims the number.
    Open(CodeNumber),
    /// Speaks with the other end.
    Paired { with: SocketId, passes: u8 },
}

/// What is known of an address.
#[derive(Debug)]
struct Address {
    sockets: usize,
    claims: Allowance,
}

/// All codes of a server.
#[derive(Debug)]
pub struct Relay {
    limits: Limits,
    random: StdRng,
    sockets: BTreeMap<SocketId, Socket>,
    strangers: usize,
    /// Those of them who have said nothing, by when they came.
    silent: BTreeSet<(Instant, SocketId)>,
    open: BTreeMap<CodeNumber, SocketId>,
    addresses: BTreeMap<ClientAddress, Address>,
    swept_at: Option<Instant>,
    deadlines: Timers<SocketId>,
    outputs: VecDeque<Output>,
}

impl Relay {
    /// A server without codes. `seed` must come from the system's randomness, lest strangers foresee numbers.
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        Self {
            limits: Limits { codes: limits.codes.min(usize::from(NUMBER_MAX) / 2), ..limits },
            random: StdRng::from_seed(seed),
            sockets: BTreeMap::new(),
            strangers: 0,
            silent: BTreeSet::new(),
            open: BTreeMap::new(),
            addresses: BTreeMap::new(),
            swept_at: None,
            deadlines: Timers::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input. Drain [`Relay::poll`] before the next.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected { socket, address, standing } => {
                self.handle_connected(now, socket, address, standing);
            }
            Input::Message(socket, Some(message)) => self.handle_message(now, socket, message),
            Input::Message(socket, None) => self.end(socket, CodeOver::Malformed),
            Input::Lost(socket) => {
                if let Some(other) = self.forget(socket) {
                    self.dismiss(other, CodeOver::Left);
                }
            }
            Input::Shutdown => {
                for socket in self.sockets.keys().copied().collect::<Vec<_>>() {
                    self.dismiss(socket, CodeOver::ShuttingDown);
                }
            }
        }
    }

    /// The next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Relay::handle_timeout`] has something to do, and about which socket.
    pub fn poll_timeout(&self) -> Option<(Instant, SocketId)> {
        self.deadlines.next().map(|(at, socket)| (at, *socket))
    }

    /// Ends what took too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(socket) = self.deadlines.pop_expired(now) {
            let reason = match self.sockets.get(&socket).map(|known| known.stage) {
                Some(Stage::Open(_)) => CodeOver::Expired,
                Some(Stage::Silent { .. } | Stage::Paired { .. }) => CodeOver::TooSlow,
                None => continue,
            };
            self.end(socket, reason);
        }
    }

    fn handle_connected(
        &mut self,
        now: Instant,
        socket: SocketId,
        address: ClientAddress,
        standing: Standing,
    ) {
        self.make_room(now);
        let places = match standing {
            Standing::Stranger => ADDRESSES_MAX,
            Standing::Member => 2 * ADDRESSES_MAX,
        };
        let crowded = self.addresses.len() >= places && !self.addresses.contains_key(&address);
        let from_there = self.addresses.get(&address).map_or(0, |known| known.sockets);
        if crowded
            || from_there >= self.limits.sockets_per_address
            || standing == Standing::Stranger && !self.has_room_for_stranger(now)
        {
            return self.say_over(socket, CodeOver::Limit);
        }
        let Limits { claims_burst, claim_every, .. } = self.limits;
        let fresh = || Address { sockets: 0, claims: Allowance::new(claims_burst, claim_every) };
        self.addresses.entry(address).or_insert_with(fresh).sockets += 1;
        if standing == Standing::Stranger {
            self.strangers += 1;
            self.silent.insert((now, socket));
        }
        self.sockets.insert(socket, Socket { address, standing, stage: Stage::Silent { since: now } });
        self.deadlines.set(socket, Some(now + self.limits.silence));
    }

    /// Whether one more stranger finds a place, if need be that of the one who has said nothing for longest: a newcomer claims
    /// as soon as it is here.
    fn has_room_for_stranger(&mut self, now: Instant) -> bool {
        if self.strangers < self.limits.strangers {
            return true;
        }
        let Some(&(since, oldest)) = self.silent.first() else { return false };
        let gives_way = now.saturating_duration_since(since) >= self.limits.give_way;
        if gives_way {
            self.end(oldest, CodeOver::Limit);
        }
        gives_way
    }

    fn handle_message(&mut self, now: Instant, socket: SocketId, message: ClientCode) {
        let Some(known) = self.sockets.get_mut(&socket) else { return };
        match (&mut known.stage, message) {
            (Stage::Silent { .. }, ClientCode::CodeOpen) if known.standing == Standing::Stranger => {
                self.end(socket, CodeOver::Forbidden);
            }
            (Stage::Silent { .. }, ClientCode::CodeOpen) => self.open(now, socket),
            (Stage::Silent { .. }, ClientCode::CodeClaim { number, message }) => {
                self.claim(now, socket, number, message);
            }
            (Stage::Paired { with, passes }, ClientCode::CodePass { message }) if *passes > 0 => {
                *passes -= 1;
                self.outputs.push_back(Output::Send(*with, ServerCode::CodePass { message }));
            }
            (Stage::Paired { .. }, ClientCode::CodeRefuse) => {
                if let Some(other) = self.forget(socket) {
                    self.dismiss(other, CodeOver::Wrong);
                }
                self.outputs.push_back(Output::Close(socket));
            }
            (Stage::Silent { .. } | Stage::Open(_) | Stage::Paired { .. }, _) => {
                self.end(socket, CodeOver::Malformed);
            }
        }
    }

    fn open(&mut self, now: Instant, socket: SocketId) {
        if self.open.len() >= self.limits.codes || self.open_beside(socket) >= self.limits.codes_per_address {
            return self.end(socket, CodeOver::Limit);
        }
        // Less than half of the numbers are taken: this ends soon.
        let number = loop {
            let number = CodeNumber::from_random(self.random.next_u32());
            if !self.open.contains_key(&number) {
                break number;
            }
        };
        self.open.insert(number, socket);
        self.enter(socket, Stage::Open(number), now + self.limits.lifetime);
        let secs = self.limits.lifetime.as_secs();
        self.outputs.push_back(Output::Send(socket, ServerCode::CodeOpened { number, secs }));
    }

    /// How many codes are open from the socket's address.
    fn open_beside(&self, socket: SocketId) -> usize {
        let address = |socket: &SocketId| self.sockets.get(socket).map(|known| known.address);
        let own = address(&socket);
        self.open.values().filter(|other| address(other) == own).count()
    }

    fn claim(&mut self, now: Instant, socket: SocketId, number: CodeNumber, message: Passed) {
        if !self.may_claim(now, socket) {
            return self.end(socket, CodeOver::Limit);
        }
        let Some(member) = self.open.remove(&number) else {
            return self.end(socket, CodeOver::Unknown);
        };
        let deadline = now + self.limits.hand_over;
        self.enter(member, Stage::Paired { with: socket, passes: MEMBER_PASSES }, deadline);
        self.enter(socket, Stage::Paired { with: member, passes: NEWCOMER_PASSES }, deadline);
        self.outputs.push_back(Output::Send(member, ServerCode::CodePass { message }));
    }

    fn enter(&mut self, socket: SocketId, stage: Stage, deadline: Instant) {
        if let Some(known) = self.sockets.get_mut(&socket) {
            if let Stage::Silent { since } = known.stage {
                self.silent.remove(&(since, socket));
            }
            known.stage = stage;
            self.deadlines.set(socket, Some(deadline));
        }
    }

    /// Takes one claim from the allowance of the socket's address.
    fn may_claim(&mut self, now: Instant, socket: SocketId) -> bool {
        let address = self.sockets.get(&socket).map(|known| known.address);
        let Some(known) = address.and_then(|address| self.addresses.get_mut(&address)) else { return false };
        known.claims.take(now)
    }

    /// Forgets addresses of which there is nothing to remember, when there are many.
    fn make_room(&mut self, now: Instant) {
        let is_soon = self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_EVERY);
        if self.addresses.len() < ADDRESSES_MAX || is_soon {
            return;
        }
        self.swept_at = Some(now);
        let limits = &self.limits;
        self.addresses.retain(|_, known| {
            known.claims.catch_up(now);
            known.sockets > 0 || known.claims.left() < limits.claims_burst
        });
    }

    /// Ends a socket for its own fault or its time; the other end, if there is one, hears that it is gone or too slow.
    fn end(&mut self, socket: SocketId, reason: CodeOver) {
        if !self.sockets.contains_key(&socket) {
            return;
        }
        if let Some(other) = self.forget(socket) {
            let heard = if reason == CodeOver::TooSlow { CodeOver::TooSlow } else { CodeOver::Left };
            self.dismiss(other, heard);
        }
        self.say_over(socket, reason);
    }

    fn dismiss(&mut self, socket: SocketId, reason: CodeOver) {
        self.forget(socket);
        self.say_over(socket, reason);
    }

    fn say_over(&mut self, socket: SocketId, reason: CodeOver) {
        self.outputs.push_back(Output::Send(socket, ServerCode::CodeOver { reason }));
        self.outputs.push_back(Output::Close(socket));
    }

    /// Forgets a socket and gives up its number. Returns the other end, if that is still there.
    fn forget(&mut self, socket: SocketId) -> Option<SocketId> {
        let Socket { address, standing, stage } = self.sockets.remove(&socket)?;
        self.deadlines.set(socket, None);
        self.strangers -= usize::from(standing == Standing::Stranger);
        if let Some(known) = self.addresses.get_mut(&address) {
            known.sockets -= 1;
            if known.sockets == 0 && known.claims.left() == self.limits.claims_burst {
                self.addresses.remove(&address);
            }
        }
        match stage {
            Stage::Silent { since } => {
                self.silent.remove(&(since, socket));
                None
            }
            Stage::Open(number) => {
                self.open.remove(&number);
                None
            }
            Stage::Paired { with, .. } => Some(with).filter(|with| self.sockets.contains_key(with)),
        }
    }
}
