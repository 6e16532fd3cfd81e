//! What the clients of one address hold and use together.

use std::collections::BTreeMap;
use std::time::Instant;

use super::limits::{Bucket, Limits};
use crate::core::network::ClientAddress;

/// Above this many addresses, those of which there is nothing to remember are looked for.
const SWEEP_AT: usize = 1_024;

/// All addresses that hold something, or have used more than comes back in no time.
#[derive(Debug)]
pub(super) struct Addresses {
    known: BTreeMap<ClientAddress, Held>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Held {
    /// Sockets that were let in, until their ends are there.
    let_in: usize,
    /// Sockets that were too many, until they have been told so.
    turned_away: usize,
    /// Outlives the sockets, so that a new one brings nothing new.
    allowance: Bucket,
    /// Messages about connections that others have paid for.
    credit: u64,
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

impl Held {
    fn matters(&mut self, now: Instant, limits: &Limits) -> bool {
        self.let_in > 0 || self.turned_away > 0 || !self.allowance.is_full(now, limits.messages_of_address())
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self { known: BTreeMap::new(), sweep_at: SWEEP_AT }
    }
}

impl Addresses {
    /// Counts a socket that was opened, until [`Addresses::closed`].
    pub(super) fn opened(&mut self, now: Instant, address: ClientAddress, limits: &Limits) -> Reception {
        self.sweep(now, limits);
        let held = self.known.entry(address).or_insert_with(|| Held {
            let_in: 0,
            turned_away: 0,
            allowance: Bucket::full(now, limits.messages_of_address()),
            credit: 0,
        });
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
    pub(super) fn closed(
        &mut self,
        now: Instant,
        address: ClientAddress,
        reception: Reception,
        limits: &Limits,
    ) {
        let Some(held) = self.known.get_mut(&address) else { return };
        match reception {
            Reception::LetIn => held.let_in = held.let_in.saturating_sub(1),
            Reception::TurnedAway => held.turned_away = held.turned_away.saturating_sub(1),
            Reception::Ignored => {}
        }
        if !held.matters(now, limits) {
            self.known.remove(&address);
        }
    }

    /// Takes so many messages out of the allowance of an address that has a socket.
    pub(super) fn charge(
        &mut self,
        now: Instant,
        address: ClientAddress,
        messages: u64,
        limits: &Limits,
    ) -> bool {
        let rate = limits.messages_of_address();
        let Some(held) = self.known.get_mut(&address) else { return false };
        held.allowance.take(now, rate, messages.min(rate.burst.into()))
    }

    /// Takes one message about a connection: out of the credit, while there is some.
    pub(super) fn charge_word(&mut self, now: Instant, address: ClientAddress, limits: &Limits) -> bool {
        match self.known.get_mut(&address) {
            Some(held) if held.credit > 0 => {
                held.credit -= 1;
                true
            }
            Some(_) | None => self.charge(now, address, 1, limits),
        }
    }

    /// So many messages about connections are paid for. What would be more than an address may say at once is lost: it could be saved
    /// up for a flood.
    pub(super) fn add_credit(&mut self, address: ClientAddress, messages: u64, limits: &Limits) {
        if let Some(held) = self.known.get_mut(&address) {
            let most = limits.messages_of_address().burst.into();
            held.credit = held.credit.saturating_add(messages).min(most);
        }
    }

    /// Whether [`Addresses::charge`] could take so many.
    pub(super) fn can_pay(
        &mut self,
        now: Instant,
        address: ClientAddress,
        messages: u64,
        limits: &Limits,
    ) -> bool {
        let rate = limits.messages_of_address();
        let Some(held) = self.known.get_mut(&address) else { return false };
        held.allowance.has(now, rate, messages.min(rate.burst.into()))
    }

    /// What an address has used comes back so fast that those without a socket are few, whoever comes from wherever.
    fn sweep(&mut self, now: Instant, limits: &Limits) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, held| held.matters(now, limits));
            self.sweep_at = SWEEP_AT.max(2 * self.known.len());
        }
    }

    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// What is left of its allowance, and of its credit.
    #[cfg(test)]
    pub(super) fn left(&mut self, now: Instant, address: ClientAddress, limits: &Limits) -> (u64, u64) {
        let rate = limits.messages_of_address();
        self.known
            .get_mut(&address)
            .map_or((rate.burst.into(), 0), |held| (held.allowance.left(now, rate), held.credit))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_is_remembered_while_it_holds_or_has_used_something() {
        let limits = Limits { messages_per_sec: 1, ..Limits::default() };
        let mut addresses = Addresses::default();
        let mut now = Instant::now();
        let address = |n: usize| ClientAddress::of(Ipv4Addr::from(u32::try_from(n).expect("few")).into());
        let mut come_and_go = |now: Instant, n: usize, messages: u64| {
            let reception = addresses.opened(now, address(n), &limits);
            assert!(addresses.charge(now, address(n), messages, &limits));
            addresses.closed(now, address(n), reception, &limits);
            addresses.len()
        };
        assert_eq!(come_and_go(now, 0, 0), 0);
        for n in 1..=SWEEP_AT {
            assert_eq!(come_and_go(now, n, 10), n);
        }
        now += Duration::from_secs(1);
        assert_eq!(come_and_go(now, 0, 20), 1, "ten messages of an address come back in a second");
        now += Duration::from_secs(2);
        assert_eq!(come_and_go(now, 0, 0), 0);
    }
}
