//! When more connections to a peer are worth having.
//!
//! A path that is full has a queue, and a round trip over it takes longer than the shortest one. Data that waits
//! although there is no queue waits for an association's congestion control or window, and another association has
//! another of each. On a path without loss one association fills the queue by itself, so nothing is opened there: nor for
//! a while after, since an association that recovers from an overrun queue looks like one on a path that loses packets, and
//! more of them would overrun it more.

use std::time::{Duration, Instant};

use crate::core::peer::Strain;

/// On a shorter path one association is fast enough: 50 Mbit/s at one lost packet in a hundred.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(10);

/// A round trip that takes so much longer than the shortest has met a queue. The bulk window aims at less than 30 ms.
const QUEUE: Duration = Duration::from_millis(20);

/// A path that had a queue counts as full for so long. An association takes up to five seconds to recover from overrunning one.
const FULL_FOR: Duration = Duration::from_secs(10);

/// Data that waits less than that before it is sent is not held back by its association but by the bulk window, which
/// lets 20 ms and a quarter of a round trip wait there and grows otherwise.
const BACKLOG: Duration = Duration::from_millis(20);

/// So many times the connections there are, and they must bring at least so much more, or they stay as they are.
const GROWTH: usize = 4;
const GAIN: f64 = 1.3;

/// How long nothing more is opened after that brought nothing, or did not come up.
const REST: Duration = Duration::from_secs(60);

/// What one link's history says.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// When a queue was last seen.
    full_at: Option<Instant>,
    /// Whether the report before was of as many connections.
    is_settled: bool,
    sent_bytes: u64,
    /// When the present number of connections was reached, and what had been sent then.
    since: Option<(Instant, u64)>,
    /// Bytes a second before the last were opened.
    before_bps: Option<f64>,
    connections: usize,
    rests_until: Option<Instant>,
}

impl Policy {
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Opens nothing for a while.
    pub(super) fn rest(&mut self, now: Instant) {
        self.rests_until = Some(now + REST);
    }

    /// How many more stripes to open, with so many open and coming up.
    pub(super) fn judge(&mut self, now: Instant, strain: Strain, open: usize, opening: usize) -> usize {
        let connections = 1 + open;
        if strain.last > strain.shortest + QUEUE {
            self.full_at = Some(now);
        }
        if opening > 0 || self.connections != connections {
            self.connections = connections;
            self.since = Some((now, self.sent_bytes));
            self.is_settled = false;
            return 0;
        }
        if !std::mem::replace(&mut self.is_settled, true) {
            return 0;
        }
        let is_full = self.full_at.is_some_and(|at| now < at + FULL_FOR);
        let is_held_back = strain.backlog >= BACKLOG;
        let rests = self.rests_until.is_some_and(|until| now < until);
        if is_full || !is_held_back || rests || strain.shortest < ROUND_TRIP_MIN {
            return 0;
        }
        self.is_settled = false;
        let bps = self.rate(now);
        if self.before_bps.is_some_and(|before| bps < before * GAIN) {
            self.before_bps = None;
            self.rest(now);
            return 0;
        }
        self.before_bps = Some(bps);
        connections * (GROWTH - 1)
    }

    fn rate(&self, now: Instant) -> f64 {
        let (since, sent_bytes) = self.since.unwrap_or((now, self.sent_bytes));
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        if seconds > 0.0 { (self.sent_bytes - sent_bytes) as f64 / seconds } else { 0.0 }
    }
}
