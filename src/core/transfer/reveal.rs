//! What we show of what we have.
//!
//! Everybody shows each member a little at a time, and first what fewest members have or were shown: so members fetch
//! different pieces from one uplink and exchange them, and it carries each piece about once. When every piece has been shown
//! to somebody, members are shown each other's pieces, too, so that nobody waits for a slow member as long as the uplink has
//! room. Pieces that a member has itself are no secret: they are told as they come, to complete members all of them.

use std::time::{Duration, Instant};

use super::exchange::{Exchange, JOIN_BYTES, Member, Phase};
use super::pieces::{PieceSet, ones};
use crate::wire::UserId;
use crate::wire::transfer::PIECES_PER_MESSAGE;

/// How long ahead of its requests a member is shown pieces. What is shown to one is not shown to others for a while, so
/// that more would leave a slow member sitting on pieces that fast ones could spread.
const LOOKAHEAD: Duration = Duration::from_millis(500);

/// A member is shown no more while it has more than it was given in this time and nobody got from it.
const PASS_ON: Duration = Duration::from_secs(2);

/// A member that is behind is shown a piece all the same when it was shown none for so long: it may have nobody to pass
/// anything on to, and would take us for one that has nothing. Those who pass something on seldom wait so long, and lose by it
/// if others do not. Who was behind for so long is shown one after the other: what others say, who take instead, may not be so. To all of
/// them together no more goes than a part of the uplink, and to each as much.
const SHOWN_EVERY: Duration = Duration::from_secs(20);
const PART_FOR_THOSE_BEHIND: u64 = 8;

/// And a piece in this time, however long pieces are: who gets none for twice as long has been told that nobody has the rest.
const SHOWN_AT_LEAST: Duration = Duration::from_secs(60);

/// The most that is shown ahead to one member.
const LOOKAHEAD_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How many candidates are compared before the best of them are taken, and how many of those at most.
const CANDIDATES: usize = 1024;
const TAKEN: usize = 64;

/// A member is shown more at most so often when it asks for that. Honest ones ask five times a second, and that may come in
/// bursts.
const NUDGED_EVERY: Duration = Duration::from_millis(50);

impl Exchange {
    /// Of `pieces`, which we have, those to tell `peer` of whatever it was shown: it has them, too, and must know that we
    /// need not be offered them, or it has everything and only counts.
    pub(super) fn agree(&mut self, now: Instant, peer: &UserId, pieces: &[u32]) -> Vec<u32> {
        let Some(member) = self.members.get(peer) else { return Vec::new() };
        let is_owed = |piece: &u32| {
            self.have.contains(*piece)
                && !member.shown.contains(*piece)
                && (member.complete || member.has.contains(*piece))
        };
        let owed: Vec<u32> = pieces.iter().copied().filter(is_owed).collect();
        owed.iter().for_each(|piece| self.show(now, peer, *piece));
        owed
    }

    /// Pieces to show to `peer` now, taken down as shown.
    pub(super) fn reveal(&mut self, now: Instant, peer: &UserId) -> Vec<u32> {
        let Some(member) = self.members.get(peer) else { return Vec::new() };
        if member.complete {
            let unshown = self.unshown(member, 0).take(PIECES_PER_MESSAGE).collect::<Vec<u32>>();
            unshown.iter().for_each(|piece| self.show(now, peer, *piece));
            return unshown;
        }
        let (mut pieces, mut rarest) = (Vec::new(), Vec::new().into_iter());
        while pieces.len() < PIECES_PER_MESSAGE && self.is_owed(now, peer) {
            let next = self.fresh(peer).or_else(|| rarest.next()).or_else(|| {
                rarest = self.rarest_shown(peer).into_iter();
                rarest.next()
            });
            let Some(piece) = next else { break };
            self.show(now, peer, piece);
            pieces.push(piece);
        }
        pieces
    }

    /// Takes down that `peer` knows that we have a piece.
    pub(super) fn show(&mut self, now: Instant, peer: &UserId, piece: u32) {
        let len = self.len(piece);
        let Some(member) = self.members.get_mut(peer) else { return };
        if !member.shown.insert(piece) || member.has.contains(piece) {
            return;
        }
        member.shown_at = Some(now);
        self.spread[piece as usize] += 1;
        if member.open.insert(piece) {
            member.open_bytes += len;
        }
    }

    /// Takes down that `peer` asked us for a piece. It is shown ahead what it asks for in [`LOOKAHEAD`].
    pub(super) fn note_asked(&mut self, now: Instant, peer: &UserId, piece: u32) {
        let (len, least) = (self.len(piece), 2 * u64::from(self.manifest.piece_bytes()));
        let Some(member) = self.members.get_mut(peer) else { return };
        if member.open.remove(piece) {
            member.open_bytes -= len;
        }
        member.wanted.add(now, len);
        let ahead = (member.wanted.bps(now) as f64 * LOOKAHEAD.as_secs_f64()) as u64;
        member.lookahead_bytes = ahead.clamp(least, LOOKAHEAD_MAX_BYTES.max(least));
    }

    /// `peer` has no use for what it was shown, for it has it from elsewhere or is getting it there. `false`: it has said that
    /// just before.
    pub(super) fn forget_shown(&mut self, now: Instant, peer: &UserId) -> bool {
        let none = PieceSet::none(self.manifest.piece_count());
        let Some(member) = self.members.get_mut(peer) else { return false };
        if member.nudged_us_at.is_some_and(|at| now.saturating_duration_since(at) < NUDGED_EVERY) {
            return false;
        }
        member.nudged_us_at = Some(now);
        member.open = none;
        member.open_bytes = 0;
        true
    }

    /// Whether a member is to be shown a piece.
    fn is_owed(&mut self, now: Instant, peer: &UserId) -> bool {
        let is_behind = self.is_behind(now, peer);
        let Some(member) = self.members.get_mut(peer) else { return false };
        let since =
            member.owed_at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        member.behind_for = match is_behind {
            true => (member.behind_for + since).min(SHOWN_EVERY),
            // What others say changes at once: a moment counts as a moment.
            false => member.behind_for.saturating_sub(since),
        };
        let (shown_at, behind_for) = (member.shown_at, member.behind_for);
        if member.open_bytes >= member.lookahead_bytes {
            return false;
        }
        if !is_behind {
            return true;
        }
        let each = self.each_for_those_behind(now);
        let each = if behind_for < SHOWN_EVERY { each.max(SHOWN_EVERY) } else { each };
        shown_at.is_none_or(|at| now.saturating_duration_since(at) >= each)
    }

    /// How often each of those who are behind is shown a piece.
    fn each_for_those_behind(&mut self, now: Instant) -> Duration {
        let taking = self.members.values().filter(|member| member.is_taking());
        let (mut behind, mut best_bps) = (0, self.up.steady_bps(now));
        for member in taking {
            // Who does not touch what it was shown takes nothing of the others' part.
            let is_shown = member.shown_at.is_none_or(|at| now.saturating_duration_since(at) < SHOWN_EVERY);
            let takes_part = member.open_bytes == 0 || is_shown;
            behind += u32::from(!member.behind_for.is_zero() && takes_part);
            best_bps = best_bps.max(member.best_up_bps);
        }
        let part_bps = best_bps.max(PART_FOR_THOSE_BEHIND) / PART_FOR_THOSE_BEHIND;
        let each = Duration::from_secs_f64(f64::from(self.manifest.piece_bytes()) / part_bps as f64);
        (each * behind.max(1)).min(SHOWN_AT_LEAST)
    }

    /// Whether a member has more that nobody got from it yet than it passes on, while others are quicker. What we send it
    /// would only wait there. Those others must take from us what it takes itself at its best, or half of that: members that
    /// are there and take little are no reason to let the uplink rest. And they must say that they have half of what they took:
    /// then they wait themselves unless they pass it on. What it brought with it is not held against it: how quick it is shows only
    /// when it is given something.
    fn is_behind(&self, now: Instant, peer: &UserId) -> bool {
        let waits = |member: &Member, bps: u64| {
            let passes = (bps as f64 * PASS_ON.as_secs_f64()) as u64;
            member.sole_bytes.min(member.up.total()) > passes.max(4 * u64::from(self.manifest.piece_bytes()))
        };
        let is_waiting = |member: &&Member| waits(member, member.wanted.bps(now));
        let Some(member) = self.members.get(peer).filter(is_waiting) else { return false };
        // What they take, not what they ask for, which costs them nothing.
        let is_quick = |other: &Member| other.is_taking() && !waits(other, other.up.bps(now));
        let says = |peer: &UserId, other: &Member| {
            self.taken_bytes.get(peer).is_none_or(|taken| *taken <= JOIN_BYTES + 2 * other.has_bytes)
        };
        let others = self.members.iter().filter(|(id, _)| *id != peer);
        let quicker = others.filter(|(id, other)| is_quick(other) && says(id, other));
        let mut taken_bps = 0;
        quicker.map(|(_, other)| other.up.bps(now)).any(|bps| {
            taken_bps += bps;
            taken_bps > member.best_up_bps / 2
        })
    }

    /// The first piece that no member has and none was shown, if we have everything.
    fn fresh(&mut self, peer: &UserId) -> Option<u32> {
        let member = self.members.get(peer).filter(|_| self.phase == Phase::Complete)?;
        while self.spread.get(self.fresh_from as usize).is_some_and(|spread| *spread > 0) {
            self.fresh_from += 1;
        }
        (self.fresh_from..self.manifest.piece_count()).take(CANDIDATES).find(|piece| {
            self.spread[*piece as usize] == 0 && self.have.contains(*piece) && !member.shown.contains(*piece)
        })
    }

    /// Of some that a member was not shown, those that fewest have or were shown, the rarest first.
    fn rarest_shown(&self, peer: &UserId) -> Vec<u32> {
        let Some(member) = self.members.get(peer) else { return Vec::new() };
        // Each member begins somewhere else, so that equals are not taken in the same order by all.
        let start = peer.as_str().bytes().fold(member.shown.count() as usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        let candidates = self.unshown(member, start).filter(|piece| !member.has.contains(*piece));
        let mut ranked: Vec<(u16, usize, u32)> = candidates
            .take(CANDIDATES)
            .enumerate()
            .map(|(place, piece)| (self.spread[piece as usize], place, piece))
            .collect();
        if ranked.len() > TAKEN {
            ranked.select_nth_unstable(TAKEN);
            ranked.truncate(TAKEN);
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, piece)| piece).collect()
    }

    /// What we have and a member was not shown, from the stretch of 64 pieces with that number on.
    fn unshown(&self, member: &Member, start: usize) -> impl Iterator<Item = u32> {
        let words = self.have.word_count();
        (0..words).map(move |step| start.wrapping_add(step) % words).flat_map(|at| {
            let unshown = self.have.word(at) & !member.shown.word(at);
            ones(unshown).map(move |bit| at as u32 * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::wire::manifest::{Entry, EntryKind, Manifest};
    use crate::wire::path::SafePath;

    const PIECE: u64 = 256 * 1024;

    /// Everything is here of a hundred pieces. For three seconds `mallory` took as much as those who may be behind; they say that
    /// they have half of the pieces, and `mallory` the other half, and another says the same as `mallory` if so.
    fn exchange(now: Instant, behind: &[&UserId], mallory: &UserId, is_passed_on: bool) -> Exchange {
        let kind = EntryKind::File { size: 100 * PIECE, executable: false };
        let entry = Entry { path: SafePath::parse("film.mkv").expect("a name"), kind, mtime: 0 };
        let manifest = Manifest::new(18, vec![(entry, vec![[0; 32]; 100])]).expect("a manifest");
        let mut exchange = Exchange::complete(Arc::new(manifest), Bytes::new());
        for peer in behind.iter().copied().chain([mallory]) {
            let member = exchange.member(now, peer);
            member.joined = true;
            (0..12).for_each(|step| member.up.add(now + Duration::from_millis(250) * step, 4 * PIECE));
            member.best_up_bps = 16 * PIECE;
            assert!(exchange.allow(peer, JOIN_BYTES + 48 * PIECE));
        }
        let bob = user("bob");
        exchange.member(now, &bob);
        for piece in 0..50 {
            exchange.note_has(now, behind[piece as usize * behind.len() / 50], piece);
            exchange.note_has(now, mallory, piece + 50);
            if is_passed_on {
                exchange.note_has(now, &bob, piece + 50);
            }
        }
        exchange
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("an id")
    }

    /// So much goes on to go out, and to `mallory`.
    fn go_on(exchange: &mut Exchange, now: Instant, bytes: u64) {
        exchange.up.add(now, bytes);
        exchange.members.get_mut(&user("mallory")).expect("it is there").up.add(now, bytes);
    }

    /// What a member is shown, and asks for.
    fn show_and_ask(exchange: &mut Exchange, now: Instant, peer: &UserId) -> usize {
        let pieces = exchange.reveal(now, peer);
        pieces.iter().for_each(|piece| exchange.note_asked(now, peer, *piece));
        pieces.len()
    }

    #[test]
    fn who_asks_for_more_than_it_takes_is_not_taken_for_one_that_passes_it_on() {
        let [ada, mallory] = ["ada", "mallory"].map(user);
        let start = Instant::now();
        let now = start + Duration::from_secs(3);
        for is_passed_on in [false, true] {
            let mut exchange = exchange(start, &[&ada], &mallory, is_passed_on);
            (0..10_000).for_each(|_| exchange.note_asked(now, &mallory, 99));
            assert_eq!(exchange.is_behind(now, &ada), is_passed_on);
        }
    }

    /// What others say, who take instead, may not be so.
    #[test]
    fn who_was_behind_for_long_is_shown_an_eighth_of_what_goes_out() {
        let [ada, mallory] = ["ada", "mallory"].map(user);
        let start = Instant::now();
        let mut exchange = exchange(start, &[&ada], &mallory, true);
        exchange.members.get_mut(&mallory).expect("it is there").best_up_bps = 32 * PIECE;
        let mut shown = [0; 2];
        for step in 0..500 {
            let now = start + Duration::from_millis(3_000 + 50 * step);
            go_on(&mut exchange, now, 2 * PIECE);
            assert!(exchange.is_behind(now, &ada));
            shown[usize::from(step >= 400)] += show_and_ask(&mut exchange, now, &ada);
        }
        assert!(shown[0] <= 2 && (15..=25).contains(&shown[1]), "{shown:?}");
    }

    #[test]
    fn of_those_who_are_behind_nobody_is_shown_more_by_asking_oftener() {
        let [ada, cyd, mallory] = ["ada", "cyd", "mallory"].map(user);
        let start = Instant::now();
        let mut exchange = exchange(start, &[&ada, &cyd], &mallory, true);
        let mut shown = [0; 2];
        for step in 0..600 {
            let now = start + Duration::from_millis(3_000 + 50 * step);
            go_on(&mut exchange, now, 2 * PIECE);
            assert!(exchange.is_behind(now, &ada) && exchange.is_behind(now, &cyd));
            shown[0] += (0..20).map(|_| show_and_ask(&mut exchange, now, &cyd)).sum::<usize>();
            shown[1] += show_and_ask(&mut exchange, now, &ada);
        }
        assert!(shown[1] >= 10 && shown[1] * 5 >= (shown[0] + shown[1]) * 2, "{shown:?}");
    }

    #[test]
    fn who_does_not_touch_what_it_was_shown_takes_nothing_of_the_others_part() {
        let [ada, cyd, mallory] = ["ada", "cyd", "mallory"].map(user);
        let start = Instant::now();
        let mut shown = [0; 2];
        for (at, behind) in [&[&ada][..], &[&ada, &cyd]].into_iter().enumerate() {
            let mut exchange = exchange(start, behind, &mallory, true);
            exchange.members.values_mut().for_each(|member| member.best_up_bps = 8 * PIECE);
            for step in 0..1_100 {
                let now = start + Duration::from_millis(3_000 + 50 * step);
                go_on(&mut exchange, now, PIECE / 4);
                assert!(exchange.is_behind(now, &ada));
                if step < 420 {
                    exchange.reveal(now, &cyd);
                }
                let pieces = show_and_ask(&mut exchange, now, &ada);
                shown[at] += usize::from(step >= 850) * pieces;
            }
        }
        assert!(shown[0] >= 5 && shown[1] * 10 >= shown[0] * 8, "{shown:?}");
    }

    /// What others say changes at once.
    #[test]
    fn who_was_behind_for_long_stays_so_in_spite_of_a_moment() {
        let [ada, mallory] = ["ada", "mallory"].map(user);
        let start = Instant::now();
        let mut exchange = exchange(start, &[&ada], &mallory, true);
        let mut shown = 0;
        for step in 0..1_000 {
            let now = start + Duration::from_millis(3_000 + 50 * step);
            go_on(&mut exchange, now, 2 * PIECE);
            if step % 300 == 299 {
                exchange.members.get_mut(&mallory).expect("it is there").sole_bytes += 100 * PIECE;
                assert!(!exchange.is_behind(now, &ada));
                exchange.is_owed(now, &ada);
                exchange.members.get_mut(&mallory).expect("it is there").sole_bytes -= 100 * PIECE;
            }
            shown += usize::from(step > 450) * show_and_ask(&mut exchange, now, &ada);
        }
        assert!(shown >= 20, "{shown}");
    }

    /// How quick it is shows only when it is given something.
    #[test]
    fn who_brings_much_that_nobody_has_is_not_behind_before_it_was_given_something() {
        let [ada, mallory, cyd] = ["ada", "mallory", "cyd"].map(user);
        let start = Instant::now();
        let now = start + Duration::from_secs(3);
        let mut exchange = exchange(start, &[&ada], &mallory, true);
        exchange.remove(&ada);
        exchange.member(now, &cyd).joined = true;
        assert!((0..50).all(|piece| exchange.note_has(now, &cyd, piece)));
        assert!(!exchange.is_behind(now, &cyd));
        exchange.members.get_mut(&cyd).expect("it is there").up.add(now, 16 * PIECE);
        assert!(exchange.is_behind(now, &cyd));
    }
}
