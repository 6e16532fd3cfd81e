//! What one client, one address and one room may take of the server.

use std::time::{Duration, Instant};

use crate::wire::limits::CANDIDATES_MAX;

/// The server's limits and deadlines, all for the operator to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Members of a room, those within their grace included. A full mesh of 100 is 4,950 links.
    pub members_per_room: usize,
    /// Rooms with at least one member.
    pub rooms: usize,
    /// Open sockets from one address; a household or an office may share one.
    pub sockets_per_address: usize,
    /// Messages a second from one socket, in the long run.
    pub messages_per_sec: u32,
    /// Messages from one socket at once. Joining a complete mesh of 100 takes about 600.
    pub messages_burst: u32,
    /// Unclaimed offers of one member.
    pub offers_per_member: usize,
    /// Candidates kept with one offer.
    pub candidates_per_offer: usize,
    /// Messages kept from a socket that has not sent `init`.
    pub early_signals: usize,
    /// Bytes of offers and candidates kept for one socket.
    pub bytes_per_socket: usize,
    /// How long a claimed offer may stay unanswered, and its owner without a sign of life. Doubled, up to eightfold,
    /// each time a claim of the same pair fails.
    pub claim_timeout: Duration,
    /// How long a member whose socket is gone keeps its place.
    pub grace: Duration,
    /// How soon after a link was made `want` may replace it.
    pub want_interval: Duration,
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
            claim_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(30),
            want_interval: Duration::from_secs(2),
        }
    }
}

/// A socket's allowance of messages: fills at [`Limits::messages_per_sec`], holds [`Limits::messages_burst`].
#[derive(Debug)]
pub(super) struct Bucket {
    /// In millionths of a message, so that a slow rate loses nothing to rounding.
    micro_messages: u64,
    filled_at: Instant,
}

const MICRO: u64 = 1_000_000;

impl Bucket {
    pub(super) fn full(now: Instant, limits: &Limits) -> Self {
        Self { micro_messages: u64::from(limits.messages_burst) * MICRO, filled_at: now }
    }

    /// Takes one message, if there is one.
    pub(super) fn take(&mut self, now: Instant, limits: &Limits) -> bool {
        let elapsed = now.saturating_duration_since(self.filled_at);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(u64::from(limits.messages_per_sec));
        let capacity = u64::from(limits.messages_burst) * MICRO;
        self.micro_messages = self.micro_messages.saturating_add(gained).min(capacity);
        self.filled_at = now.max(self.filled_at);
        let Some(rest) = self.micro_messages.checked_sub(MICRO) else { return false };
        self.micro_messages = rest;
        true
    }
}
