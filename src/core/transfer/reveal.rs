//! What we show of what we have.
//!
//! Everybody shows each member a little at a time, and first what fewest members have or were shown: so members fetch
//! different pieces from one uplink and exchange them, and it carries each piece about once. When every piece has been shown
//! to somebody, members are shown each other's pieces, too, so that nobody waits for a slow member as long as the uplink has
//! room. Pieces that a member has itself are no secret: they are told as they come, to complete members all of them.

use std::time::{Duration, Instant};

use super::exchange::{Exchange, Member, Phase};
use super::pieces::{PieceSet, ones};
use crate::wire::UserId;
use crate::wire::transfer::PIECES_PER_MESSAGE;

/// How long ahead of its requests a member is shown pieces. What is shown to one is not shown to others for a while, so
/// that more would leave a slow member sitting on pieces that fast ones could spread.
const LOOKAHEAD: Duration = Duration::from_millis(500);

/// A member is shown no more while it has more than it was given in this time and nobody got from it.
const PASS_ON: Duration = Duration::from_secs(2);

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
    pub(super) fn agree(&mut self, peer: &UserId, pieces: &[u32]) -> Vec<u32> {
        let Some(member) = self.members.get(peer) else { return Vec::new() };
        let is_owed = |piece: &u32| {
            self.have.contains(*piece)
                && !member.shown.contains(*piece)
                && (member.complete || member.has.contains(*piece))
        };
        let owed: Vec<u32> = pieces.iter().copied().filter(is_owed).collect();
        owed.iter().for_each(|piece| self.show(peer, *piece));
        owed
    }

    /// Pieces to show to `peer` now, taken down as shown.
    pub(super) fn reveal(&mut self, now: Instant, peer: &UserId) -> Vec<u32> {
        let Some(member) = self.members.get(peer) else { return Vec::new() };
        if member.complete {
            let unshown = self.unshown(member, 0).take(PIECES_PER_MESSAGE).collect::<Vec<u32>>();
            unshown.iter().for_each(|piece| self.show(peer, *piece));
            return unshown;
        }
        let (mut pieces, mut rarest) = (Vec::new(), Vec::new().into_iter());
        while pieces.len() < PIECES_PER_MESSAGE && self.is_owed(now, peer) {
            let next = self.fresh(peer).or_else(|| rarest.next()).or_else(|| {
                rarest = self.rarest_shown(peer).into_iter();
                rarest.next()
            });
            let Some(piece) = next else { break };
            self.show(peer, piece);
            pieces.push(piece);
        }
        pieces
    }

    /// Takes down that `peer` knows that we have a piece.
    pub(super) fn show(&mut self, peer: &UserId, piece: u32) {
        let len = self.len(piece);
        let Some(member) = self.members.get_mut(peer) else { return };
        if !member.shown.insert(piece) || member.has.contains(piece) {
            return;
        }
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

    fn is_owed(&self, now: Instant, peer: &UserId) -> bool {
        let Some(member) = self.members.get(peer) else { return false };
        member.open_bytes < member.lookahead_bytes && !self.is_behind(now, peer)
    }

    /// Whether a member has more that nobody got from it yet than it passes on, while others are quicker. What we send it
    /// would only wait there. Those others must take from us what it takes itself at its best, or half of that: members that
    /// are there and take little are no reason to let the uplink rest.
    fn is_behind(&self, now: Instant, peer: &UserId) -> bool {
        let waits = |member: &Member| {
            let passes = (member.wanted.bps(now) as f64 * PASS_ON.as_secs_f64()) as u64;
            member.sole_bytes > passes.max(4 * u64::from(self.manifest.piece_bytes()))
        };
        let Some(member) = self.members.get(peer).filter(|member| waits(member)) else { return false };
        let quicker =
            self.members.iter().filter(|(id, other)| *id != peer && other.is_taking() && !waits(other));
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
