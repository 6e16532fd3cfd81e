//! What one client, one address and one room may take of the server.

use std::time::{Duration, Instant};

use crate::wire::limits::{CANDIDATE_MAX_BYTES, CANDIDATES_MAX, SDP_MAX_BYTES};

/// The most that one end says while a link is made or renegotiated: a description, candidates, and that there are no more.
const NEGOTIATION_MESSAGES: u32 = CANDIDATES_MAX as u32 + 2;
const NEGOTIATION_BYTES: u32 = (SDP_MAX_BYTES + CANDIDATES_MAX * CANDIDATE_MAX_BYTES) as u32;

/// The server's limits and deadlines, all for the operator to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Members of a room, those within their grace included. A full mesh of 100 is 4,950 links.
    pub members_per_room: usize,
    /// Rooms with at least one member.
    pub rooms: usize,
    /// Open sockets from one address; a household or an office may share one.
    pub sockets_per_address: usize,
    /// Messages a second from one socket, in the long run. All sockets of an address have ten times as many.
    pub messages_per_sec: u32,
    /// Messages from one socket at once. Joining a complete mesh of 100 takes about 600. All sockets of an address have 128 times
    /// as many, and pay for entering: 50 messages for asking, and 10 for each member of the room; and 10 for an offer by `want` or
    /// on a connection.
    pub messages_burst: u32,
    /// Unclaimed offers of one member.
    pub offers_per_member: usize,
    /// Candidates kept with one offer.
    pub candidates_per_offer: usize,
    /// Messages kept from a socket that has not sent `init`.
    pub early_signals: usize,
    /// Bytes of offers and candidates kept for one socket.
    pub bytes_per_socket: usize,
    /// While more than these bytes of them are kept for all sockets together, each has an eighth of its own.
    pub bytes_of_all: usize,
    /// Bytes of one offer with its candidates. A newcomer gets one of every member at once.
    pub bytes_per_offer: usize,
    /// Offers, answers, candidates and renegotiations that one member may have passed on to another.
    pub relayed_messages: Rate,
    /// Bytes of them.
    pub relayed_bytes: Rate,
    /// How long a socket may take to say `init`.
    pub init_timeout: Duration,
    /// How long a claimed offer may stay unanswered, and its owner without a sign of life. Doubled, up to eightfold,
    /// each time a claim of the same pair fails.
    pub claim_timeout: Duration,
    /// How long a member whose socket is gone keeps its place.
    pub grace: Duration,
    /// How soon after a link was made `want` may replace it.
    pub want_interval: Duration,
}

impl Limits {
    /// What one socket may say.
    pub(super) fn messages(&self) -> Rate {
        Rate { per_sec: self.messages_per_sec, burst: self.messages_burst }
    }

    /// What all sockets of an address may say together.
    pub(super) fn messages_of_address(&self) -> Rate {
        Rate {
            per_sec: self.messages_per_sec.saturating_mul(BUSY_SOCKETS),
            burst: self.messages_burst.saturating_mul(JOINING_SOCKETS),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            members_per_room: 100,
            rooms: 10_000,
            sockets_per_address: 256,
            messages_per_sec: 200,
            messages_burst: 2_000,
            offers_per_member: 32,
            candidates_per_offer: CANDIDATES_MAX,
            early_signals: 128,
            bytes_per_socket: 256 * 1024,
            bytes_of_all: 256 * 1024 * 1024,
            bytes_per_offer: 32 * 1024,
            relayed_messages: Rate { per_sec: 5, burst: 2 * NEGOTIATION_MESSAGES },
            relayed_bytes: Rate { per_sec: 4 * 1024, burst: 2 * NEGOTIATION_BYTES },
            init_timeout: Duration::from_secs(30),
            claim_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(30),
            want_interval: Duration::from_secs(2),
        }
    }
}

/// How many sockets' allowance of messages an address has, in the long run and at once. Sockets of one household or office
/// are seldom busy together, except when all of them join: 100 of them, with 15 candidates for each of 4,950 links, take 225,000
/// messages, what they pay for entering included.
const BUSY_SOCKETS: u32 = 10;
const JOINING_SOCKETS: u32 = 128;

/// What it costs an address to ask for entry, in messages, whatever the answer.
pub(super) const PRICE_OF_REQUEST: u64 = 50;

/// What it costs an address to have somebody behind another speak about a connection. The rule is in [`super::accounts`].
pub(super) const PRICE_OF_OFFER: u64 = 10;

/// What whoever's offer was taken has to say then: that it is there, and the next offer with its candidates; an offer on a connection
/// takes no more to answer. Others decide how often that is: it takes nothing from the allowance of the socket.
pub(super) const MESSAGES_OF_CLAIM: u64 = NEGOTIATION_MESSAGES as u64 + 1;

/// What it costs besides to enter a room with so many members: each is told, makes an offer for the next newcomer, and is told
/// again when the member leaves.
pub(super) fn price_of_entry(members: usize) -> u64 {
    PRICE_OF_OFFER * members as u64
}

/// So much at once, and so much more each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_sec: u32,
    /// At once.
    pub burst: u32,
}

/// What is left of a [`Rate`].
#[derive(Debug)]
pub(super) struct Bucket {
    /// In millionths, so that a slow rate loses nothing to rounding.
    micros: u64,
    filled_at: Instant,
}

const MICRO: u64 = 1_000_000;

impl Bucket {
    pub(super) fn full(now: Instant, rate: Rate) -> Self {
        Self { micros: u64::from(rate.burst) * MICRO, filled_at: now }
    }

    /// Whether nothing is missing.
    pub(super) fn is_full(&mut self, now: Instant, rate: Rate) -> bool {
        self.has(now, rate, rate.burst.into())
    }

    /// Whether so much is left.
    pub(super) fn has(&mut self, now: Instant, rate: Rate, amount: u64) -> bool {
        let elapsed = now.saturating_duration_since(self.filled_at);
        let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let gained = elapsed.saturating_mul(u64::from(rate.per_sec));
        self.micros = self.micros.saturating_add(gained).min(u64::from(rate.burst) * MICRO);
        self.filled_at = now.max(self.filled_at);
        self.micros >= amount.saturating_mul(MICRO)
    }

    /// Whether so much was left at the last look.
    #[cfg(test)]
    pub(super) fn had(&self, amount: u64) -> bool {
        self.micros >= amount * MICRO
    }

    /// What is left, in whole numbers.
    #[cfg(test)]
    pub(super) fn left(&mut self, now: Instant, rate: Rate) -> u64 {
        self.has(now, rate, 0);
        self.micros / MICRO
    }

    /// Gives so much back, up to the burst.
    pub(super) fn give(&mut self, rate: Rate, amount: u64) {
        self.micros = self.micros.saturating_add(amount * MICRO).min(u64::from(rate.burst) * MICRO);
    }

    /// Takes so much, if it is left.
    pub(super) fn take(&mut self, now: Instant, rate: Rate, amount: u64) -> bool {
        let is_left = self.has(now, rate, amount);
        if is_left {
            self.micros -= amount * MICRO;
        }
        is_left
    }
}
