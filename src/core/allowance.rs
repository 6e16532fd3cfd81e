//! How often something may happen because others want it.

use std::time::{Duration, Instant};

/// So many at once, and one more each time a span has passed.
#[derive(Debug)]
pub struct Allowance {
    burst: u32,
    every: Duration,
    used: u32,
    /// Up to when what was used has been forgotten.
    counted_to: Option<Instant>,
}

impl Allowance {
    /// Nothing used yet. `every` is a millisecond at least.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every: every.max(Duration::from_millis(1)), used: 0, counted_to: None }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.catch_up(now);
        let is_left = self.used < self.burst;
        self.used += u32::from(is_left);
        is_left
    }

    /// How many are left, as far as time has been caught up with.
    pub fn left(&self) -> u32 {
        self.burst - self.used
    }

    /// Forgets what was used long enough ago.
    pub fn catch_up(&mut self, now: Instant) {
        let counted_to = self.counted_to.unwrap_or(now);
        let spans = now.saturating_duration_since(counted_to).as_millis() / self.every.as_millis();
        let forgotten = u32::try_from(spans).unwrap_or(u32::MAX).min(self.used);
        self.used -= forgotten;
        self.counted_to = Some(if self.used == 0 { now } else { counted_to + self.every * forgotten });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_comes_back_one_by_one_and_never_more_than_the_burst() {
        let mut allowance = Allowance::new(3, Duration::from_secs(2));
        let start = Instant::now();
        let mut taken = |secs: u64| {
            let now = start + Duration::from_secs(secs);
            (0..10).filter(|_| allowance.take(now)).count()
        };
        assert_eq!([0, 1, 2, 3, 5, 100, 101].map(&mut taken), [3, 0, 1, 0, 1, 3, 0]);
    }
}
