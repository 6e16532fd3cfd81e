//! How much faces hear of what others can bring about as often as they like.

use std::time::{Duration, Instant};

use super::{Event, Mesh};
use crate::core::allowance::Allowance;
use crate::core::link::CloseReason;
use crate::wire::UserId;
use crate::wire::signal::ErrorCode;

/// How many of a kind people hear of at once, and how long until they may hear of one more.
const BURST: u32 = 16;
const EVERY: Duration = Duration::from_secs(1);

/// As much of one kind of news as people can read.
#[derive(Debug)]
pub(super) struct Hearing {
    allowance: Allowance,
    untold: u64,
}

impl Hearing {
    pub(super) fn new() -> Self {
        Self { allowance: Allowance::new(BURST, EVERY), untold: 0 }
    }

    /// How many were not told since the last that was; none if this is one more of them.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.allowance.take(now) {
            return Some(std::mem::take(&mut self.untold));
        }
        self.untold += 1;
        None
    }
}

impl Mesh {
    /// A server may refuse as often as it likes.
    pub(super) fn tell_refusal(&mut self, now: Instant, code: Option<ErrorCode>, message: String) {
        let Some(untold) = self.refusals.take(now) else { return };
        let message = match untold {
            0 => message,
            untold => format!("{message} (and {untold} more before it)"),
        };
        self.event(Event::Refused { code, message });
    }

    /// And whoever can get a link attempt may have it fail as often. Of each reason people hear, whatever there is of the others.
    pub(super) fn tell_failure(&mut self, now: Instant, peer: UserId, reason: CloseReason) {
        let hearing = self.failures.entry(reason).or_insert_with(Hearing::new);
        if let Some(untold) = hearing.take(now) {
            self.event(Event::Failed { peer, reason, untold });
        }
    }
}
