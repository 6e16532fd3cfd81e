//! The time that the machines live by. It stands still while the node does not listen to peers.
//!
//! Every deadline of the machines is about what peers say, and while the face takes nothing that lies unread. Whoever has answered
//! must not be given up because nobody has looked.

use std::time::{Duration, Instant};

/// A pause so short counts as listening: peers whom the face can almost keep up with do not stop the time for all others.
const SHORT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Clock {
    /// How much has passed that the machines never saw.
    skipped: Duration,
    deaf_since: Option<Instant>,
}

impl Clock {
    /// Whether peers are listened to from now on.
    pub(super) fn set_listening(&mut self, now: Instant, is_listening: bool) {
        match (self.deaf_since, is_listening) {
            (None, false) => self.deaf_since = Some(now),
            (Some(_), true) => {
                self.skipped += self.skipping(now);
                self.deaf_since = None;
            }
            (None, true) | (Some(_), false) => {}
        }
    }

    /// What the machines take for the time.
    pub(super) fn time(&self, now: Instant) -> Instant {
        now - self.skipped - self.skipping(now)
    }

    /// When it will be that time for the machines. `None`: not before peers are listened to again.
    pub(super) fn when(&self, time: Instant) -> Option<Instant> {
        let at = time + self.skipped;
        let stands_still_at = self.deaf_since.map(|since| since + SHORT_PAUSE);
        stands_still_at.is_none_or(|stop| at <= stop).then_some(at)
    }

    /// Of the pause that is going on.
    fn skipping(&self, now: Instant) -> Duration {
        let pause = self.deaf_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        pause.saturating_sub(SHORT_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_stands_still_while_nobody_listens_and_goes_on_from_there() {
        let start = Instant::now();
        let mut clock = Clock::default();
        let deadline = start + 2 * SECOND;
        clock.set_listening(start + SECOND, false);
        assert_eq!(clock.when(deadline), None);
        assert_eq!(clock.time(start + 3600 * SECOND), start + SECOND + SHORT_PAUSE);
        clock.set_listening(start + 3601 * SECOND, true);
        assert_eq!(clock.when(deadline), Some(start + 3602 * SECOND - SHORT_PAUSE));
        assert_eq!(clock.time(start + 3602 * SECOND - SHORT_PAUSE), deadline);
    }

    #[test]
    fn short_pauses_do_not_stop_the_time() {
        let start = Instant::now();
        let mut clock = Clock::default();
        for pause in 0..10 {
            let now = start + 2 * pause * SHORT_PAUSE;
            clock.set_listening(now, false);
            assert_eq!(clock.when(now + SHORT_PAUSE), Some(now + SHORT_PAUSE));
            clock.set_listening(now + SHORT_PAUSE, true);
            assert_eq!(clock.time(now + SHORT_PAUSE), now + SHORT_PAUSE);
        }
    }
}
