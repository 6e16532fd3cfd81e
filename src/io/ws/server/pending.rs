//! The connections that have not asked for anything yet. They cost their strangers nothing, so they are few, and old ones
//! give way to new ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::core::network::ClientAddress;

/// All of them.
#[derive(Debug)]
pub(super) struct Pending {
    /// Given back when the connection's task lets go of the socket, which is a little later than it is told to.
    places: Arc<Semaphore>,
    per_address: usize,
    /// Whoever has had so long gives way.
    give_way: Duration,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    by_address: HashMap<ClientAddress, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Waiting {
    address: Option<ClientAddress>,
    since: Instant,
    /// Dropped to tell the connection that it has to go.
    _stay: oneshot::Sender<()>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pending: Arc<Pending>,
    ticket: u64,
    may_stay: oneshot::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

impl Pending {
    pub(super) fn new(in_all: usize, per_address: usize, give_way: Duration) -> Self {
        let places = Arc::new(Semaphore::new(in_all));
        Self { places, per_address, give_way, line: Mutex::default() }
    }

    /// A place for a connection, as soon as there is one; `None` if its address has all it may have. Without an address
    /// (a proxy's) it counts among all only.
    pub(super) async fn enter(self: &Arc<Self>, address: Option<ClientAddress>) -> Option<Place> {
        if let Some(address) = address
            && !self.has_room_for(address)
        {
            return None;
        }
        let permit = self.permit().await;
        let (stay, may_stay) = oneshot::channel();
        let ticket = self.line().add(Waiting { address, since: Instant::now(), _stay: stay });
        Some(Place { pending: self.clone(), ticket, may_stay, _permit: permit })
    }

    /// Makes the oldest go, however short its stay was.
    pub(super) fn turn_away_oldest(&self) {
        let mut line = self.line();
        if let Some((&oldest, _)) = line.waiting.first_key_value() {
            line.remove(oldest);
        }
    }

    fn has_room_for(&self, address: ClientAddress) -> bool {
        let mut line = self.line();
        let Some(tickets) = line.by_address.get(&address).filter(|all| all.len() >= self.per_address) else {
            return true;
        };
        let Some(&oldest) = tickets.first() else { return false };
        let may_stay =
            line.waiting.get(&oldest).is_some_and(|waiting| waiting.since.elapsed() < self.give_way);
        if !may_stay {
            line.remove(oldest);
        }
        !may_stay
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        let permit = || async { self.places.clone().acquire_owned().await.expect("it is never closed") };
        let oldest = self.line().waiting.first_key_value().map(|(_, waiting)| waiting.since);
        let Some(since) = oldest else { return permit().await };
        match timeout_at(since + self.give_way, permit()).await {
            Ok(permit) => permit,
            Err(_) => {
                self.turn_away_oldest();
                // It goes at once, or has just become a WebSocket: either way there is a place.
                permit().await
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn add(&mut self, waiting: Waiting) -> u64 {
        let ticket = self.next;
        self.next += 1;
        if let Some(address) = waiting.address {
            self.by_address.entry(address).or_default().insert(ticket);
        }
        self.waiting.insert(ticket, waiting);
        ticket
    }

    fn remove(&mut self, ticket: u64) {
        let Some(Waiting { address: Some(address), .. }) = self.waiting.remove(&ticket) else { return };
        if let Some(tickets) = self.by_address.get_mut(&address) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Place {
    /// Completes when the connection has to give way to another.
    pub(super) async fn turned_away(&mut self) {
        // Nothing is ever sent: the other end is dropped.
        let _ = (&mut self.may_stay).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.line().remove(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    fn address(host: usize) -> Option<ClientAddress> {
        Some(ClientAddress::of(format!("2001:db8::{host:x}").parse().expect("an address")))
    }

    fn elsewhere(network: usize) -> Option<ClientAddress> {
        Some(ClientAddress::of(format!("2001:db8:1:{network:x}::1").parse().expect("an address")))
    }

    #[tokio::test]
    async fn connections_not_upgraded_yet_are_counted_by_the_network_of_their_host() {
        let pending = Arc::new(Pending::new(100, 3, LONG));
        let mut places = Vec::new();
        for host in 0..3 {
            places.push(pending.enter(address(host)).await.expect("room"));
        }
        assert!(pending.enter(address(3)).await.is_none());
        let _others =
            [pending.enter(elsewhere(1)).await.expect("room"), pending.enter(None).await.expect("room")];
        drop(places);
        assert!(pending.enter(address(0)).await.is_some());
        assert_eq!(pending.line().by_address.len(), 1, "nothing is kept of those who are gone");
    }

    #[tokio::test]
    async fn whoever_has_waited_long_enough_gives_way_to_a_newcomer_from_the_same_address() {
        let pending = Arc::new(Pending::new(100, 2, Duration::ZERO));
        let mut other = pending.enter(elsewhere(1)).await.expect("room");
        let mut first = pending.enter(address(1)).await.expect("room");
        let mut second = pending.enter(address(2)).await.expect("room");
        let _third = pending.enter(address(3)).await.expect("room");
        first.turned_away().await;
        assert!(second.turned_away().now_or_never().is_none());
        assert!(other.turned_away().now_or_never().is_none(), "it is older, and of another address");
    }

    #[tokio::test]
    async fn there_is_always_a_place_for_a_newcomer_once_the_oldest_is_gone() {
        let pending = Arc::new(Pending::new(2, 2, Duration::ZERO));
        let mut first = pending.enter(elsewhere(1)).await.expect("room");
        let mut second = pending.enter(None).await.expect("room");
        let newcomer = tokio::spawn({
            let pending = pending.clone();
            async move { pending.enter(elsewhere(3)).await }
        });
        first.turned_away().await;
        assert_eq!(pending.places.available_permits(), 0, "a socket counts until it is closed");
        drop(first);
        assert!(newcomer.await.expect("no panic").is_some());
        assert!(second.turned_away().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gives_way_before_the_time() {
        let pending = Arc::new(Pending::new(1, 1, LONG));
        let start = Instant::now();
        let mut first = pending.enter(elsewhere(1)).await.expect("room");
        let newcomer = tokio::spawn({
            let pending = pending.clone();
            async move { pending.enter(elsewhere(2)).await }
        });
        first.turned_away().await;
        assert_eq!(start.elapsed(), LONG);
        drop(first);
        assert!(newcomer.await.expect("no panic").is_some());
    }
}
