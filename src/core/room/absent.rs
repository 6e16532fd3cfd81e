//! The places of members whose sockets are gone, by the address that left them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::MemberKey;
use crate::core::network::ClientAddress;
use crate::wire::RoomId;

/// Each place with the end of its grace.
#[derive(Debug, Default)]
pub(super) struct Absent(BTreeMap<ClientAddress, BTreeSet<(Instant, RoomId, MemberKey)>>);

impl Absent {
    pub(super) fn add(&mut self, address: ClientAddress, until: Instant, room: &RoomId, member: MemberKey) {
        self.0.entry(address).or_default().insert((until, room.clone(), member));
    }

    pub(super) fn remove(
        &mut self,
        address: ClientAddress,
        until: Instant,
        room: &RoomId,
        member: MemberKey,
    ) {
        let Some(places) = self.0.get_mut(&address) else { return };
        places.remove(&(until, room.clone(), member));
        if places.is_empty() {
            self.0.remove(&address);
        }
    }

    /// The place that was left longest ago, if the address has more than so many.
    pub(super) fn oldest_beyond(
        &self,
        address: ClientAddress,
        at_most: usize,
    ) -> Option<(RoomId, MemberKey)> {
        let places = self.0.get(&address).filter(|places| places.len() > at_most)?;
        places.first().map(|(_, room, member)| (room.clone(), *member))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }
}
