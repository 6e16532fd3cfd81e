//! What we show of what we have.
//!
//! Who lacks pieces shows every piece at once. Who has everything shows each member a little at a time, and first what
//! fewest members have or were shown: so members fetch different pieces from it and exchange them, and its uplink carries
//! each piece about once. When every piece has been shown to somebody, members are shown each other's pieces, too, so that
//! nobody ever waits for a slow member as long as the uplink has room.

use super::exchange::{Exchange, Phase};
use super::pieces::ones;
use crate::wire::UserId;
use crate::wire::transfer::PIECES_PER_MESSAGE;

/// The most that is shown ahead to one member.
const LOOKAHEAD_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How many candidates are compared before the best of them is taken.
const CANDIDATES: usize = 1024;

impl Exchange {
    /// Pieces to show to `peer` now, taken down as shown.
    pub(super) fn reveal(&mut self, peer: &UserId) -> Vec<u32> {
        let mut pieces = Vec::new();
        while pieces.len() < PIECES_PER_MESSAGE && self.is_owed(peer) {
            let Some(piece) = self.rarest_unshown(peer) else { break };
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

    /// Takes down that `peer` asked us for a piece. One that uses up what it was shown is shown more at a time.
    pub(super) fn note_asked(&mut self, peer: &UserId, piece: u32) {
        let len = self.len(piece);
        let Some(member) = self.members.get_mut(peer) else { return };
        if member.open.remove(piece) {
            member.open_bytes -= len;
        }
        if member.open_bytes * 4 < member.lookahead_bytes && !member.shown.is_all() {
            member.lookahead_bytes = (member.lookahead_bytes * 2).min(LOOKAHEAD_MAX_BYTES);
        }
    }

    fn is_owed(&self, peer: &UserId) -> bool {
        let Some(member) = self.members.get(peer) else { return false };
        match self.phase {
            Phase::Downloading | Phase::Finishing => true,
            Phase::Complete => member.open_bytes < member.lookahead_bytes,
        }
    }

    fn rarest_unshown(&mut self, peer: &UserId) -> Option<u32> {
        self.fresh(peer).or_else(|| self.rarest_shown(peer))
    }

    /// The first piece that no member has and none was shown.
    fn fresh(&mut self, peer: &UserId) -> Option<u32> {
        let member = self.members.get(peer)?;
        while self.spread.get(self.fresh_from as usize).is_some_and(|spread| *spread > 0) {
            self.fresh_from += 1;
        }
        (self.fresh_from..self.manifest.piece_count()).take(CANDIDATES).find(|piece| {
            self.spread[*piece as usize] == 0 && self.have.contains(*piece) && !member.shown.contains(*piece)
        })
    }

    fn rarest_shown(&self, peer: &UserId) -> Option<u32> {
        let member = self.members.get(peer)?;
        // Each member begins somewhere else, so that equals are not taken in the same order by all.
        let words = self.have.word_count();
        let start = peer.as_str().bytes().fold(member.shown.count() as usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        (0..words)
            .map(|step| (start.wrapping_add(step)) % words)
            .flat_map(|at| {
                let unshown = self.have.word(at) & !member.shown.word(at) & !member.has.word(at);
                ones(unshown).map(move |bit| at as u32 * 64 + bit)
            })
            .take(CANDIDATES)
            .min_by_key(|piece| self.spread[*piece as usize])
    }
}
