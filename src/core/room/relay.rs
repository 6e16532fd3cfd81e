//! From one member to another: so much as making a link and renegotiating it takes, and little more.
//!
//! Whatever is relayed, the offer that makes a link included, waits in the receiver's queue, and most of a slow receiver's line is
//! for others. What a pair has used up is therefore remembered as long as both are members, over however many links and sockets.
//! Whoever says `close` and enters anew is another member: that costs its address the price of an entry each time, and
//! where it is too much for the receiver all the same, the shell drops what was relayed, and not the receiver.

use std::time::Instant;

use super::Turn;
use super::limits::{Bucket, Limits};
use super::member::MemberKey;
use super::state::{Refusal, Room};
use crate::wire::ServerSignal;

/// What one member may still have relayed to one other.
#[derive(Debug)]
pub(super) struct Budget {
    messages: Bucket,
    bytes: Bucket,
}

impl Budget {
    fn full(now: Instant, limits: &Limits) -> Self {
        Self {
            messages: Bucket::full(now, limits.relayed_messages),
            bytes: Bucket::full(now, limits.relayed_bytes),
        }
    }

    /// Whether so much could not be relayed when it was last looked at.
    #[cfg(test)]
    pub(super) fn lacked(&self, len_bytes: usize) -> bool {
        !self.messages.had(1) || !self.bytes.had(len_bytes as u64)
    }

    fn take(&mut self, now: Instant, limits: &Limits, len_bytes: usize) -> bool {
        let len_bytes = len_bytes as u64;
        self.bytes.has(now, limits.relayed_bytes, len_bytes)
            && self.messages.take(now, limits.relayed_messages, 1)
            && self.bytes.take(now, limits.relayed_bytes, len_bytes)
    }
}

impl Room {
    /// Takes what a message of that length costs its sender.
    pub(super) fn charge_relay(
        &mut self,
        from: MemberKey,
        to: MemberKey,
        len_bytes: usize,
        turn: &Turn<'_>,
    ) -> Result<(), Refusal> {
        let budget = self.budgets.entry((from, to)).or_insert_with(|| Budget::full(turn.now, turn.limits));
        if budget.take(turn.now, turn.limits, len_bytes) {
            return Ok(());
        }
        Err(Refusal::limit("too much to pass on to one member: slow down"))
    }

    pub(super) fn relay(&self, to: MemberKey, signal: ServerSignal, turn: &mut Turn<'_>) {
        turn.effects.counters.relayed += 1;
        self.send(to, signal, turn);
    }

    pub(super) fn forget_pair(&mut self, a: MemberKey, b: MemberKey) {
        for direction in [(a, b), (b, a)] {
            self.budgets.remove(&direction);
            self.given_up.remove(&direction);
        }
    }
}
