//! The STUN transactions of a connection's last while, by which a check that was heard before is told from one that was made now.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// So many are remembered with their time: a connection that is up has one or two a second.
const REMEMBERED_MAX: usize = 2048;

/// Of those before, where that matters, it is remembered that they were, of so many at least and twice as many at most: 14 hours of two
/// a second, 2.8 of ten. One in a hundred new ones is taken for one of them; whoever checks does so again (RFC 7675 §5.1: every five
/// seconds, here every second).
const BEFORE_MAX: usize = 100_000;
const BEFORE_BITS: usize = 1 << 20;
const BITS_OF_EACH: usize = 4;

/// Those that were noted, oldest first. Eight bytes each, since each connection that lasts has all of them.
#[derive(Debug)]
pub(super) struct Transactions {
    kept_for: Duration,
    start: Option<Instant>,
    hasher: RandomState,
    noted: VecDeque<Noted>,
    /// Those that gave way, if they are kept.
    before: Option<[Before; 2]>,
}

/// A set that may hold more than was put in (a Bloom filter); no memory until something is.
#[derive(Debug, Default)]
struct Before {
    bits: Vec<u64>,
    count: usize,
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
        Self { kept_for, start: None, hasher: RandomState::new(), noted: VecDeque::new(), before: None }
    }

    /// None yet; each is remembered, and the newest with their time.
    pub(super) fn kept() -> Self {
        Self { before: Some(Default::default()), ..Self::kept_for(Duration::MAX) }
    }

    /// How long ago a transaction was noted first; if it never was, it is now.
    pub(super) fn note(&mut self, name: [u8; 12], now: Instant) -> Option<Duration> {
        let since = self.since(name, now);
        if since.is_none() {
            let noted = Noted { hash: self.hash(name), secs: self.secs(now) };
            while self.noted.front().is_some_and(|first| self.is_over(first, noted.secs)) {
                let first = self.noted.pop_front();
                first.into_iter().for_each(|first| self.put_before(first.hash));
            }
            self.noted.push_back(noted);
        }
        since
    }

    /// How long ago a transaction was noted first, to the second; longer than matters if that is not known any more.
    pub(super) fn since(&mut self, name: [u8; 12], now: Instant) -> Option<Duration> {
        let (hash, now) = (self.hash(name), self.secs(now));
        if let Some(noted) = self.noted.iter().rev().find(|noted| noted.hash == hash) {
            return Some(Duration::from_secs(now.saturating_sub(noted.secs).into()));
        }
        let was_before = self.before.iter().flatten().any(|before| before.has(hash));
        was_before.then_some(Duration::MAX)
    }

    fn put_before(&mut self, hash: u32) {
        let Some([newer, older]) = &mut self.before else { return };
        if newer.count >= BEFORE_MAX {
            *older = std::mem::take(newer);
        }
        newer.put(hash);
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

impl Before {
    fn put(&mut self, hash: u32) {
        self.bits.resize(BEFORE_BITS / 64, 0);
        for bit in bits(hash) {
            self.bits[bit / 64] |= 1 << (bit % 64);
        }
        self.count += 1;
    }

    fn has(&self, hash: u32) -> bool {
        bits(hash).all(|bit| self.bits.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1))
    }
}

/// The places of a hash among [`BEFORE_BITS`].
fn bits(hash: u32) -> impl Iterator<Item = usize> {
    // 2^64 over the golden ratio: what was well mixed is spread over twice as many bits.
    let spread = u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (start, step) = (spread >> 44, spread >> 20 | 1);
    (0..BITS_OF_EACH as u64).map(move |at| start.wrapping_add(at.wrapping_mul(step)) as usize % BEFORE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> [u8; 12] {
        std::array::from_fn(|at| (number >> (8 * (at % 4))) as u8)
    }

    #[test]
    fn a_transaction_is_new_once_and_remembered_among_thousands() {
        let (mut transactions, start) = (Transactions::kept(), Instant::now());
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
        assert_eq!(transactions.since(name(1), at(20)), Some(Duration::MAX), "when that was has a bound");
        assert_eq!(transactions.noted.len(), REMEMBERED_MAX);
    }

    #[test]
    fn transactions_of_half_a_day_are_known_and_few_others_are_taken_for_them() {
        let (mut transactions, start) = (Transactions::kept(), Instant::now());
        let all = 2 * BEFORE_MAX + BEFORE_MAX / 2;
        let taken_for_known =
            (0..all).filter(|number| transactions.note(name(*number), start).is_some()).count();
        assert!(taken_for_known < all / 40, "{taken_for_known}");
        let known =
            (all - BEFORE_MAX..all).filter(|number| transactions.since(name(*number), start).is_some());
        let known = known.count();
        assert!(known > BEFORE_MAX - BEFORE_MAX / 40, "{known}");
        let memory: usize = transactions.before.iter().flatten().map(|before| before.bits.len() * 8).sum();
        assert_eq!(memory, 256 * 1024);
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
