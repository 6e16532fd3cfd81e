//! When a busy socket is read.
//!
//! A packet that wakes its reader costs ten times what a packet costs that is read along with others: two switches of
//! context, a round of the engine's loop, an acknowledgement of its own. So a socket on which packets come quickly is not
//! waited for but read in steps of a few milliseconds, as network cards moderate their interrupts. The steps of all
//! sockets fall together, so a process with many busy connections wakes once for all of them.

use std::time::{Duration, Instant};

/// From so many datagrams a second on, a socket is read in steps; below half of it, it is waited for again.
const BUSY_PER_SECOND: u32 = 500;

/// The rate is measured over at least this long.
const MEASURE_TIME: Duration = Duration::from_millis(20);

/// So many datagrams are worth one step: more together save next to nothing.
const DATAGRAMS_PER_STEP: u32 = 32;

/// The longest step and the shortest, in milliseconds. The longest is what chat waits at the most.
const STEP_MAX_MS: u64 = 16;
const STEP_MIN_MS: u64 = 1;

/// What to do with a socket that was read until it was empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextRead {
    /// As soon as something comes.
    WhenReady,
    /// At this moment, whatever has come by then.
    At(Instant),
}

/// The timing of one socket's reads.
#[derive(Debug)]
pub(super) struct Moderation {
    /// The steps of all sockets are counted from here.
    epoch: Instant,
    measured_at: Instant,
    datagrams: u32,
    step: Option<Duration>,
}

impl Moderation {
    /// `epoch` is the same for all sockets that should be read together.
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, measured_at: epoch, datagrams: 0, step: None }
    }

    /// So many were read.
    pub(super) fn note_read(&mut self, datagrams: usize) {
        self.datagrams = self.datagrams.saturating_add(u32::try_from(datagrams).unwrap_or(u32::MAX));
    }

    /// The socket is empty.
    pub(super) fn next_read(&mut self, now: Instant) -> NextRead {
        self.measure(now);
        let Some(step) = self.step else { return NextRead::WhenReady };
        let since = now.saturating_duration_since(self.epoch).as_micros();
        let next = (since / step.as_micros() + 1) * step.as_micros();
        NextRead::At(self.epoch + Duration::from_micros(u64::try_from(next).unwrap_or(u64::MAX)))
    }

    fn measure(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.measured_at);
        if elapsed < MEASURE_TIME {
            return;
        }
        let per_second = f64::from(self.datagrams) / elapsed.as_secs_f64();
        let busy = f64::from(BUSY_PER_SECOND);
        self.step = match self.step {
            _ if per_second >= busy => Some(step_at(per_second)),
            Some(_) if per_second >= busy / 2.0 => self.step,
            Some(_) | None => None,
        };
        self.measured_at = now;
        self.datagrams = 0;
    }
}

/// A power of two, so that the steps of sockets with different rates fall together.
fn step_at(per_second: f64) -> Duration {
    let wanted_ms = f64::from(DATAGRAMS_PER_STEP) / per_second * 1000.0;
    let mut step_ms = STEP_MAX_MS;
    while step_ms > STEP_MIN_MS && wanted_ms < step_ms as f64 {
        step_ms /= 2;
    }
    Duration::from_millis(step_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `per_second` datagrams in steps or one by one for `time`, and returns how often the reader woke in its last second.
    fn wakes(moderation: &mut Moderation, from: Instant, per_second: u32, time: Duration) -> usize {
        let gap = Duration::from_secs(1) / per_second;
        let (mut now, mut arrival, mut wakes) = (from, from, Vec::new());
        while now < from + time {
            let mut read = 0;
            while arrival <= now {
                read += 1;
                arrival += gap;
            }
            wakes.push(now);
            moderation.note_read(read);
            now = match moderation.next_read(now) {
                NextRead::WhenReady => arrival,
                NextRead::At(at) => at,
            };
        }
        wakes.into_iter().filter(|at| *at + Duration::from_secs(1) >= from + time).count()
    }

    #[test]
    fn a_quiet_socket_is_waited_for() {
        let epoch = Instant::now();
        let mut moderation = Moderation::new(epoch);
        moderation.note_read(30);
        assert_eq!(moderation.next_read(epoch + Duration::from_secs(9)), NextRead::WhenReady);
        assert_eq!(wakes(&mut moderation, epoch + Duration::from_secs(9), 200, Duration::from_secs(2)), 200);
    }

    #[test]
    fn a_busy_socket_wakes_its_reader_a_few_hundred_times_a_second() {
        let epoch = Instant::now();
        let mut moderation = Moderation::new(epoch);
        let two = Duration::from_secs(2);
        assert!((60..70).contains(&wakes(&mut moderation, epoch, 1_000, two)));
        assert!((480..520).contains(&wakes(&mut moderation, epoch + two, 10_000, two)));
        assert!((900..1100).contains(&wakes(&mut moderation, epoch + 2 * two, 200_000, two)));
    }

    #[test]
    fn a_socket_that_falls_silent_is_waited_for_again() {
        let epoch = Instant::now();
        let mut moderation = Moderation::new(epoch);
        wakes(&mut moderation, epoch, 10_000, Duration::from_secs(1));
        let mut now = epoch + Duration::from_secs(1);
        let mut steps = 0;
        while let NextRead::At(at) = moderation.next_read(now) {
            now = at;
            steps += 1;
        }
        assert!(steps <= 20, "{steps}");
    }

    #[test]
    fn steps_of_different_lengths_fall_together() {
        let epoch = Instant::now();
        let mut busy = Moderation::new(epoch);
        let mut busier = Moderation::new(epoch);
        wakes(&mut busy, epoch, 1_000, Duration::from_secs(1));
        wakes(&mut busier, epoch, 100_000, Duration::from_secs(1));
        let now = epoch + Duration::from_micros(1_001_100);
        assert_eq!(busy.next_read(now), NextRead::At(epoch + Duration::from_millis(1008)));
        assert_eq!(busier.next_read(now), NextRead::At(epoch + Duration::from_millis(1002)));
    }
}
