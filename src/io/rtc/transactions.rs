//! The STUN transactions of a connection's last while, by which a check that was heard before is told from one that was made now.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// So many are remembered: a connection that is up has one or two a second.
const REMEMBERED_MAX: usize = 2048;

/// Those that were noted, oldest first. Eight bytes each, since each connection that lasts has all of them.
#[derive(Debug)]
pub(super) struct Transactions {
    kept_for: Duration,
    start: Option<Instant>,
    hasher: RandomState,
    noted: VecDeque<Noted>,
}

/// Nobody can choose names that have the hash of another.
#[derive(Debug)]
struct Noted {
    hash: u32,
    secs: u32,
}

impl Transactions {
    /// None yet; each is remembered for so long, if there are not too many.
    pub(super) fn kept_for(kept_for: Duration) -> Self {
        Self { kept_for, start: None, hasher: RandomState::new(), noted: VecDeque::new() }
    }

    /// How long ago a transaction was noted first; if it never was, it is now.
    pub(super) fn note(&mut self, name: [u8; 12], now: Instant) -> Option<Duration> {
        let since = self.since(name, now);
        if since.is_none() {
            let noted = Noted { hash: self.hash(name), secs: self.secs(now) };
            while self.noted.front().is_some_and(|first| self.is_over(first, noted.secs)) {
                self.noted.pop_front();
            }
            self.noted.push_back(noted);
        }
        since
    }

    /// How long ago a transaction was noted first, to the second.
    pub(super) fn since(&mut self, name: [u8; 12], now: Instant) -> Option<Duration> {
        let (hash, now) = (self.hash(name), self.secs(now));
        let noted = self.noted.iter().rev().find(|noted| noted.hash == hash)?;
        Some(Duration::from_secs(now.saturating_sub(noted.secs).into()))
    }

    fn is_over(&self, noted: &Noted, now: u32) -> bool {
        let age = Duration::from_secs(now.saturating_sub(noted.secs).into());
        self.noted.len() >= REMEMBERED_MAX || age > self.kept_for
    }

    #[expect(clippy::cast_possible_truncation, reason = "a part of the hash is a hash")]
    fn hash(&self, name: [u8; 12]) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    fn secs(&mut self, now: Instant) -> u32 {
        let start = *self.start.get_or_insert(now);
        u32::try_from(now.saturating_duration_since(start).as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> [u8; 12] {
        std::array::from_fn(|at| (number >> (8 * (at % 4))) as u8)
    }

    #[test]
    fn a_transaction_is_new_once_and_remembered_among_thousands() {
        let (mut transactions, start) = (Transactions::kept_for(Duration::MAX), Instant::now());
        let at = |secs: u64| start + Duration::from_secs(secs);
        assert_eq!(transactions.since(name(1), start), None);
        assert_eq!(transactions.note(name(1), at(0)), None);
        assert_eq!(transactions.note(name(1), at(7)), Some(Duration::from_secs(7)));
        assert_eq!(transactions.since(name(1), at(9)), Some(Duration::from_secs(9)), "since the first time");
        for number in 2..=REMEMBERED_MAX {
            transactions.note(name(number), at(10));
        }
        assert_eq!(transactions.since(name(1), at(20)), Some(Duration::from_secs(20)));
        transactions.note(name(REMEMBERED_MAX + 1), at(20));
        assert_eq!(transactions.since(name(1), at(20)), None, "they have a bound");
        assert_eq!(transactions.noted.len(), REMEMBERED_MAX);
    }

    #[test]
    fn transactions_are_remembered_as_long_as_they_matter() {
        let (mut transactions, start) = (Transactions::kept_for(Duration::from_secs(30)), Instant::now());
        for number in 0..1000 {
            assert_eq!(transactions.note(name(number), start + Duration::from_secs(number as u64)), None);
        }
        assert_eq!(transactions.noted.len(), 31);
    }
}
