//! What the clients of one address hold together.

use std::collections::BTreeMap;

use super::limits::Limits;
use crate::core::network::ClientAddress;

/// All addresses that hold something.
#[derive(Debug, Default)]
pub(super) struct Addresses(BTreeMap<ClientAddress, Held>);

#[derive(Debug, Default)]
struct Held {
    /// Sockets that were let in, until their ends are there.
    let_in: usize,
    /// Sockets that were too many, until they have been told so.
    turned_away: usize,
}

/// How a socket was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reception {
    LetIn,
    /// There are too many of them.
    TurnedAway,
    /// Even of those that are being turned away there are too many.
    Ignored,
}

impl Addresses {
    /// Counts a socket that was opened, until [`Addresses::closed`].
    pub(super) fn opened(&mut self, address: ClientAddress, limits: &Limits) -> Reception {
        let held = self.0.entry(address).or_default();
        let (count, reception) = if held.let_in < limits.sockets_per_address {
            (&mut held.let_in, Reception::LetIn)
        } else if held.turned_away < limits.sockets_per_address {
            (&mut held.turned_away, Reception::TurnedAway)
        } else {
            return Reception::Ignored;
        };
        *count += 1;
        reception
    }

    /// The end of a socket is there.
    pub(super) fn closed(&mut self, address: ClientAddress, reception: Reception) {
        let Some(held) = self.0.get_mut(&address) else { return };
        match reception {
            Reception::LetIn => held.let_in = held.let_in.saturating_sub(1),
            Reception::TurnedAway => held.turned_away = held.turned_away.saturating_sub(1),
            Reception::Ignored => {}
        }
        if held.let_in == 0 && held.turned_away == 0 {
            self.0.remove(&address);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
