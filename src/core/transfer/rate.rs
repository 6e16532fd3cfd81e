//! Bytes a second: measured, and limited.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SAMPLE_EVERY: Duration = Duration::from_millis(250);
const SAMPLES: usize = 12;
const STEADY: Duration = Duration::from_secs(1);

/// Counts bytes and says how many passed a second over the last three seconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter {
    total: u64,
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        if self.samples.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SAMPLE_EVERY) {
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back((now, self.total));
        }
        self.total += bytes;
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn bps(&self, now: Instant) -> u64 {
        self.bps_over(now, SAMPLE_EVERY)
    }

    /// The same, but what a buffer took at once at the beginning is not taken for a rate.
    pub(super) fn steady_bps(&self, now: Instant) -> u64 {
        self.bps_over(now, STEADY)
    }

    fn bps_over(&self, now: Instant, at_least: Duration) -> u64 {
        let window = SAMPLE_EVERY * SAMPLES as u32;
        let oldest = self.samples.iter().find(|(at, _)| now.saturating_duration_since(*at) <= window);
        let Some((at, before)) = oldest else { return 0 };
        let elapsed = now.saturating_duration_since(*at).max(at_least);
        ((self.total - before) as f64 / elapsed.as_secs_f64()) as u64
    }
}

/// A token bucket. Tokens may go below zero, so that a piece larger than the bucket passes, later.
#[derive(Debug, Clone, Default)]
pub(super) struct Bucket {
    limit: Option<Limit>,
}

#[derive(Debug, Clone)]
struct Limit {
    bps: u64,
    tokens: f64,
    at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(bps: Option<u64>) -> Self {
        Self { limit: bps.map(|bps| Limit { bps: bps.max(1), tokens: 0.0, at: None }) }
    }

    /// Whether bytes may pass now.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        let Some(limit) = &mut self.limit else { return true };
        limit.refill(now);
        limit.tokens > 0.0
    }

    pub(super) fn take(&mut self, bytes: u64) {
        if let Some(limit) = &mut self.limit {
            limit.tokens -= bytes as f64;
        }
    }

    /// When bytes may pass again, if they may not now.
    pub(super) fn opens_at(&mut self, now: Instant) -> Option<Instant> {
        if self.is_open(now) {
            return None;
        }
        let limit = self.limit.as_ref().expect("only a limit closes a bucket");
        // At least a millisecond's worth, so that a timer does not fire for a handful of bytes.
        let wait = (1.0 - limit.tokens) / limit.bps as f64;
        Some(now + Duration::from_secs_f64(wait.clamp(0.001, 3600.0)))
    }
}

impl Limit {
    fn refill(&mut self, now: Instant) {
        let elapsed = self.at.map_or(0.1, |at| now.saturating_duration_since(at).as_secs_f64());
        let burst = self.bps as f64 / 10.0;
        self.tokens = (self.tokens + elapsed * self.bps as f64).min(burst.max(1.0));
        self.at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_forgets_what_is_long_ago() {
        let start = Instant::now();
        let mut meter = Meter::default();
        for step in 0..20 {
            meter.add(start + SAMPLE_EVERY * step, 1000);
        }
        let now = start + SAMPLE_EVERY * 20;
        assert_eq!(meter.bps(now), 4000);
        assert_eq!(meter.bps(now + Duration::from_secs(10)), 0);
        assert_eq!(meter.total(), 20_000);
    }

    #[test]
    fn a_bucket_lets_its_rate_pass_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Some(100_000));
        let (mut now, mut passed) = (start, 0);
        while now < start + Duration::from_secs(10) {
            match bucket.opens_at(now) {
                Some(at) => now = at,
                None => {
                    bucket.take(64_000);
                    passed += 64_000;
                }
            }
        }
        assert!((1_000_000..1_140_000).contains(&passed), "{passed} bytes in ten seconds");
    }

    #[test]
    fn without_a_limit_a_bucket_is_open() {
        let mut bucket = Bucket::new(None);
        bucket.take(u64::MAX);
        assert_eq!(bucket.opens_at(Instant::now()), None);
    }
}
