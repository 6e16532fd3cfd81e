//! When to try again: soon after the first failure, then ever more slowly, and never all at the same moment.

use std::time::Duration;

/// The first delay's upper end.
const FIRST: Duration = Duration::from_millis(400);

/// The longest delay's upper end.
const LONGEST: Duration = Duration::from_secs(15);

/// The upper end of the delay after a refusal. A full room does not empty in seconds, and each attempt costs the address.
const REFUSED: Duration = Duration::from_secs(60);

/// An exponential schedule with jitter. A delay lies between half of a step and the whole of it, so that the clients of
/// a server that restarts do not come back together.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure. `random` is any number from the caller's randomness.
    pub fn next_delay(&mut self, random: u32) -> Duration {
        let step = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        jittered(step, random)
    }

    /// The delay after a server was there and let nobody in, which is no failure to mend soon.
    pub fn delay_after_refusal(&mut self, random: u32) -> Duration {
        self.reset();
        jittered(REFUSED, random)
    }

    /// Starts over after a success that lasted.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

fn jittered(step: Duration, random: u32) -> Duration {
    step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_cap() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..8).map(|_| backoff.next_delay(u32::MAX).as_millis()).collect();
        assert_eq!(longest, [400, 800, 1_600, 3_200, 6_400, 12_800, 15_000, 15_000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(0), Duration::from_millis(200));
    }

    #[test]
    fn a_refusal_is_tried_again_after_much_longer_than_a_failure() {
        let mut backoff = Backoff::default();
        let delays = [0, u32::MAX].map(|random| backoff.delay_after_refusal(random).as_secs());
        assert_eq!(delays, [30, 60]);
        assert!(backoff.delay_after_refusal(0) > LONGEST);
    }

    #[test]
    fn a_server_that_never_comes_back_overflows_nothing() {
        let mut backoff = Backoff::default();
        for _ in 0..1_000 {
            assert!(backoff.next_delay(u32::MAX) <= LONGEST);
        }
    }
}
