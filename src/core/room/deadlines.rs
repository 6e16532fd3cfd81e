//! What the room machine will do without another input, and when.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{MemberKey, SocketId};
use crate::wire::{LinkId, RoomId};

/// Why the machine wants to be woken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A socket that is in no room by then is closed.
    Init {
        /// The socket.
        socket: SocketId,
    },
    /// A claim that brought no link by then is given back.
    Claim {
        /// The room.
        room: RoomId,
        /// The offer that was claimed.
        link: LinkId,
    },
    /// Members wait for an offer that was asked for and did not come: it is asked for again.
    Offers {
        /// The room.
        room: RoomId,
        /// The member who owes it.
        member: MemberKey,
    },
    /// A member without a socket gives up its place.
    Grace {
        /// The room.
        room: RoomId,
        /// The member.
        member: MemberKey,
    },
}

/// Deadlines in the order in which they come due. Whoever sets one remembers its instant, to cancel it.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(Instant, Reason)>);

impl Deadlines {
    pub(super) fn set(&mut self, at: Instant, reason: Reason) {
        self.0.insert((at, reason));
    }

    pub(super) fn cancel(&mut self, at: Instant, reason: Reason) {
        self.0.remove(&(at, reason));
    }

    pub(super) fn first(&self) -> Option<(Instant, Reason)> {
        self.0.first().cloned()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Reason> {
        let (at, _) = self.0.first()?;
        if *at > now {
            return None;
        }
        self.0.pop_first().map(|(_, reason)| reason)
    }
}
