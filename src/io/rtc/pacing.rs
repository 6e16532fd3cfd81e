//! How much bulk data one connection holds, so that chat passes files.
//!
//! All channels of a connection share one SCTP association, and what is queued there is sent in order: a chat line
//! waits behind every byte of bulk before it. The window therefore follows what the path drains: the bytes of one
//! round trip, which are in flight anyway, a quarter of that, and of [`QUEUE_TIME`] more. The quarter is for what the
//! window is not used while more is granted and sent; without it, no long path would ever be filled.
//!
//! ```text
//!   window  = rate x (round trip x 1.25 + 20 ms), within bounds
//!   limited by the window:  rate = window / round trip,  so the window grows
//!   limited by the path:    rate is the path's,          so the queue settles at that
//! ```
//!
//! A queue that short also fits the buffers of most routers, so the association seldom meets the losses that its
//! congestion control would otherwise look for (each burst of them may cost SCTP's minimum timeout of a second).

use std::time::{Duration, Instant};

use crate::core::peer::Strain;

/// How long a chat line may wait behind bulk data.
const QUEUE_TIME: Duration = Duration::from_millis(20);

/// From this round trip on a path counts as long: what is in flight is more than one or two frames.
const LONG: Duration = Duration::from_millis(10);

/// One frame of the size our peers send: less than that cannot keep any path busy.
const WINDOW_MIN_BYTES: usize = 64 * 1024;

/// Where a connection starts, before anything is known about its path: what the slowest paths carry without loss. A larger one
/// overruns them at once, and looks like a lossy path from then on.
const WINDOW_START_BYTES: usize = WINDOW_MIN_BYTES;

/// The receive window of our peers: more than that is never in flight.
const WINDOW_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The drain rate is measured over at least this long.
const MEASURE_TIME: Duration = Duration::from_millis(50);

/// A round trip longer than our own queue explains, twice over, is another path's, or others fill it: of what it is
/// longer, one part in so many is believed.
const RTT_FORGET: u32 = 8;

/// How much the rate may rise from one measurement to the next, and the weights of a higher and of a lower one.
const RISE_MAX: f64 = 2.0;
const RISE: f64 = 0.5;
const FALL: f64 = 0.1;

/// The bulk window of one connection.
#[derive(Debug)]
pub(super) struct Pacer {
    window_bytes: usize,
    rtt: Duration,
    shortest_rtt: Duration,
    load: Load,
    measured_at: Instant,
    drained_at_measure: u64,
    /// Whether nothing was waiting at some time since then: the rate is at least what was measured.
    was_idle: bool,
    rate_bps: f64,
    granted: u64,
}

impl Pacer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window_bytes: WINDOW_START_BYTES,
            rtt: Duration::ZERO,
            shortest_rtt: Duration::MAX,
            load: Load::new(now),
            measured_at: now,
            drained_at_measure: 0,
            was_idle: true,
            rate_bps: 0.0,
            granted: 0,
        }
    }

    /// When the channel has drained to this many bytes there is room again.
    pub(super) fn low_water_bytes(&self) -> usize {
        self.window_bytes - self.step_bytes()
    }

    /// What is granted at a time, at least. Frames are cut from it, and each costs the same whatever its size; but on a long
    /// path what is not granted yet is a gap that no queue fills.
    fn step_bytes(&self) -> usize {
        if self.rtt >= LONG { self.window_bytes / 4 } else { self.window_bytes / 2 }
    }

    /// A round trip was measured. Those measured while the routers' queues are full are too long: the shortest counts,
    /// until it is far from what is measured, because paths change. Returns how the path fared since the last.
    pub(super) fn set_rtt(&mut self, rtt: Duration) -> Strain {
        self.shortest_rtt = self.shortest_rtt.min(rtt);
        let own_queue = (QUEUE_TIME + self.rtt / 4) * 2;
        self.rtt = match self.rtt {
            Duration::ZERO => rtt,
            shortest if rtt > shortest + own_queue => shortest + (rtt - shortest) / RTT_FORGET,
            shortest => shortest.min(rtt),
        };
        let backlog = self.load.waited().saturating_sub(rtt);
        Strain { shortest: self.shortest_rtt, last: rtt, backlog }
    }

    /// `sent` bytes were given to the channel since it opened, `drained` of them were acknowledged. Returns how many
    /// more fit, when that is worth saying.
    pub(super) fn room(&mut self, now: Instant, sent: u64, drained: u64) -> Option<usize> {
        self.measure(now, sent, drained);
        self.load.note(now, sent, drained);
        let (window, step) = (self.window_bytes as i64, self.step_bytes() as i64);
        let waiting = sent.saturating_sub(drained) as i64;
        // What the consumer may still send; below zero by less than one message.
        let left = self.granted as i64 - sent as i64;
        if waiting > window - step || left >= step {
            return None;
        }
        let room = window - waiting - left;
        self.granted += room as u64;
        usize::try_from(room).ok()
    }

    fn measure(&mut self, now: Instant, sent: u64, drained: u64) {
        self.was_idle |= sent == drained;
        let elapsed = now.saturating_duration_since(self.measured_at);
        if elapsed < MEASURE_TIME {
            return;
        }
        let rate = drained.saturating_sub(self.drained_at_measure) as f64 / elapsed.as_secs_f64();
        // Acknowledgements come in bursts after a loss: one burst is not a faster path, one gap not a slower one.
        self.rate_bps = match self.rate_bps {
            0.0 => rate,
            known if rate > known => (known + (rate - known) * RISE).min(known * RISE_MAX),
            known if self.was_idle => known,
            known => known * (1.0 - FALL) + rate * FALL,
        };
        let bytes = (self.rate_bps * (self.rtt + self.rtt / 4 + QUEUE_TIME).as_secs_f64()) as usize;
        let least = if self.was_idle { self.window_bytes } else { WINDOW_MIN_BYTES };
        self.window_bytes = bytes.clamp(least, WINDOW_MAX_BYTES);
        self.measured_at = now;
        self.drained_at_measure = drained;
        self.was_idle = sent == drained;
    }
}

/// What waited for how long, since it was last asked for.
#[derive(Debug)]
struct Load {
    noted_at: Instant,
    /// Bytes times seconds.
    waited: f64,
    drained_before: u64,
    drained: u64,
}

impl Load {
    fn new(now: Instant) -> Self {
        Self { noted_at: now, waited: 0.0, drained_before: 0, drained: 0 }
    }

    fn note(&mut self, now: Instant, sent: u64, drained: u64) {
        let elapsed = now.saturating_duration_since(self.noted_at).as_secs_f64();
        self.waited += sent.saturating_sub(drained) as f64 * elapsed;
        self.noted_at = now;
        self.drained = drained;
    }

    /// How long a byte took from the consumer to the other end and its acknowledgement back (Little's law).
    fn waited(&mut self) -> Duration {
        let drained = self.drained.saturating_sub(self.drained_before) as f64;
        let waited = std::mem::take(&mut self.waited);
        self.drained_before = self.drained;
        if drained > 0.0 {
            Duration::try_from_secs_f64(waited / drained).unwrap_or_default()
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of `rate` bytes a second; the consumer sends whatever it is granted.
    fn window_after(rate: f64, rtt: Duration, time: Duration) -> usize {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.set_rtt(rtt);
        let step = Duration::from_millis(5);
        let (mut sent, mut drained) = (0_u64, 0_u64);
        let mut in_flight = std::collections::VecDeque::new();
        for tick in 0..(time.as_millis() / step.as_millis()) as u32 {
            let now = start + step * tick;
            let arrived = in_flight.len() as u32 * step >= rtt;
            if arrived {
                drained += in_flight.pop_front().unwrap_or(0);
            }
            let waiting = sent - drained - in_flight.iter().sum::<u64>();
            in_flight.push_back(waiting.min((rate * step.as_secs_f64()) as u64));
            if let Some(bytes) = pacer.room(now, sent, drained) {
                sent += bytes as u64;
            }
        }
        pacer.window_bytes
    }

    #[test]
    fn an_idle_channel_is_granted_one_window_once() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        assert_eq!(pacer.room(now, 0, 0), Some(WINDOW_START_BYTES));
        assert_eq!(pacer.room(now + Duration::from_secs(9), 0, 0), None);
    }

    #[test]
    fn a_consumer_that_used_little_of_its_room_is_never_starved() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        let mut room = pacer.room(now, 0, 0).expect("room at the start");
        let mut sent = 0_u64;
        for tick in 0..1000 {
            let bytes = 10_000;
            assert!(room >= bytes, "starved after {sent} bytes");
            room -= bytes;
            sent += bytes as u64;
            let now = now + Duration::from_millis(tick);
            room += pacer.room(now, sent, sent).unwrap_or(0);
        }
    }

    #[test]
    fn what_was_granted_and_not_yet_sent_is_never_granted_again() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        let mut granted = 0;
        // A path that drains at once, and a consumer that hears of its room late.
        for tick in 0..1000_u64 {
            let sent = tick * 8 * 1024;
            let now = start + Duration::from_millis(tick);
            granted += pacer.room(now, sent, sent).unwrap_or(0) as u64;
            assert!(granted - sent <= WINDOW_MAX_BYTES as u64, "{granted} after {sent}");
        }
        // Then nothing drains any more.
        let drained = 999 * 8 * 1024;
        while let Some(more) = pacer.room(start + Duration::from_secs(2), granted, drained) {
            granted += more as u64;
        }
        assert!(granted - drained <= WINDOW_MAX_BYTES as u64, "{granted} after {drained}");
    }

    #[test]
    fn the_window_holds_the_round_trip_and_a_short_queue() {
        let slow = window_after(1.25e6, Duration::from_millis(40), Duration::from_secs(20));
        assert!((65_000..110_000).contains(&slow), "{slow}");
        let fast = window_after(12.5e6, Duration::from_millis(40), Duration::from_secs(20));
        assert!((700_000..1_100_000).contains(&fast), "{fast}");
        let lan = window_after(400e6, Duration::ZERO, Duration::from_secs(5));
        assert_eq!(lan, WINDOW_MAX_BYTES);
    }

    #[test]
    fn what_waits_before_it_is_sent_is_told_from_what_is_in_flight() {
        let start = Instant::now();
        let rtt = Duration::from_millis(40);
        for (waiting, backlog) in [(40_000, Duration::ZERO), (100_000, Duration::from_millis(60))] {
            let mut pacer = Pacer::new(start);
            for millisecond in 1..=1000_u64 {
                let drained = millisecond * 1000;
                pacer.room(start + Duration::from_millis(millisecond), drained + waiting, drained);
            }
            let told = pacer.set_rtt(rtt).backlog;
            assert!(told.abs_diff(backlog) < Duration::from_millis(2), "{told:?} instead of {backlog:?}");
        }
    }

    #[test]
    fn our_own_queue_does_not_lengthen_the_round_trip_and_another_path_does() {
        let mut pacer = Pacer::new(Instant::now());
        let short = Duration::from_millis(40);
        pacer.set_rtt(short);
        for _ in 0..1000 {
            pacer.set_rtt(short + Duration::from_millis(30));
        }
        assert_eq!(pacer.rtt, short);
        let long = Duration::from_millis(300);
        for _ in 0..60 {
            pacer.set_rtt(long);
        }
        assert!(pacer.rtt > long / 2, "{:?}", pacer.rtt);
    }

    #[test]
    fn a_long_path_is_filled() {
        let rtt = Duration::from_millis(300);
        let window = window_after(5e6, rtt, Duration::from_secs(10));
        assert!(window >= (5e6 * rtt.as_secs_f64()) as usize, "{window}");
    }
}
