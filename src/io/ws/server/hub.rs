//! The one [`Rooms`] machine, behind a lock, with the queue of every socket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::core::access::Grant;
use crate::core::network::ClientAddress;
use crate::core::room::{CloseReason, Input, Limits, Output, Rooms, SocketId, Stats};
use crate::wire::ServerSignal;

/// Messages that may wait for one socket. A newcomer to a room of 100 gets about 600 at once.
const QUEUE_MAX_MESSAGES: usize = 2_048;

/// Bytes that may wait for one socket.
const QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// While more than this waits for all sockets together, each has less: some hundred clients that read nothing must not take all of
/// the server's memory.
const QUEUES_MAX_BYTES: usize = 256 * 1024 * 1024;
const CROWDED_QUEUE_MAX_BYTES: usize = QUEUE_MAX_BYTES / 8;

/// Of a queue, what members may fill with what they say to one another: the rest is for what the server has to say. So a client
/// with a slow line may miss a candidate or an offer and does not lose its socket.
const fn relayed_share(max: usize) -> usize {
    max / 4 * 3
}

/// How old the figures of a scrape may be. Counting walks through all rooms, while everybody waits.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// What a socket's task is told.
#[derive(Debug)]
pub(super) enum ToSocket {
    // Boxed: the queue keeps room for 32 of them, and most sockets are idle.
    Signal(Box<ServerSignal>),
    Ping,
    Close(CloseReason),
}

#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// The first deadline has moved ahead.
    deadline_moved: Notify,
}

#[derive(Debug)]
struct State {
    rooms: Rooms,
    queues: HashMap<SocketId, Queue>,
    /// The bytes of all queues.
    all_bytes: Arc<AtomicUsize>,
    next_socket: u64,
    scraped: Option<(Instant, Stats)>,
    /// What the timer task waits for.
    armed: Option<Instant>,
}

/// The sending end of a socket's queue.
#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<ToSocket>,
    bytes: Arc<Bytes>,
    /// Used when the queue is full, dropped when the last message is in it.
    over: oneshot::Sender<TooSlow>,
}

/// The client does not read what it is sent.
#[derive(Debug)]
pub(super) struct TooSlow;

/// What a socket's task gets from the hub.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: SocketId,
    pub(super) inbox: Inbox,
    /// Comes when the hub has no more to say: at once with [`TooSlow`], or behind the last message with an error.
    pub(super) over: oneshot::Receiver<TooSlow>,
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: mpsc::Receiver<ToSocket>,
    bytes: Arc<Bytes>,
}

/// How much waits in a queue.
#[derive(Debug)]
pub(super) struct Bytes {
    here: AtomicUsize,
    everywhere: Arc<AtomicUsize>,
}

impl Bytes {
    fn add(&self, len_bytes: usize) {
        self.here.fetch_add(len_bytes, Ordering::Relaxed);
        self.everywhere.fetch_add(len_bytes, Ordering::Relaxed);
    }

    fn remove(&self, len_bytes: usize) {
        self.here.fetch_sub(len_bytes, Ordering::Relaxed);
        self.everywhere.fetch_sub(len_bytes, Ordering::Relaxed);
    }

    /// How much there is in this queue, and how much there may be.
    fn load(&self) -> (usize, usize) {
        let is_crowded = self.everywhere.load(Ordering::Relaxed) > QUEUES_MAX_BYTES;
        let max = if is_crowded { CROWDED_QUEUE_MAX_BYTES } else { QUEUE_MAX_BYTES };
        (self.here.load(Ordering::Relaxed), max)
    }
}

impl Inbox {
    /// The next message; `None` once the hub has given the socket up.
    pub(super) async fn recv(&mut self) -> Option<ToSocket> {
        let message = self.receiver.recv().await?;
        self.bytes.remove(message.len_bytes());
        Some(message)
    }

    /// The next message, if there is one already.
    pub(super) fn try_recv(&mut self) -> Option<ToSocket> {
        let message = self.receiver.try_recv().ok()?;
        self.bytes.remove(message.len_bytes());
        Some(message)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.receiver.close();
        while self.try_recv().is_some() {}
    }
}

impl ToSocket {
    fn len_bytes(&self) -> usize {
        match self {
            Self::Signal(signal) => size_of::<ServerSignal>() + signal.len_bytes(),
            Self::Ping | Self::Close(_) => 0,
        }
    }

    /// Whether a member said this to another.
    fn is_relayed(&self) -> bool {
        match self {
            Self::Signal(signal) => match **signal {
                // An offer that is dropped is not answered, so that the claim is given back in time and tried again.
                ServerSignal::Accept { .. }
                | ServerSignal::Offer { .. }
                | ServerSignal::Answer { .. }
                | ServerSignal::Candidate { .. } => true,
                ServerSignal::OfferAccepted { .. }
                | ServerSignal::OfferRequest
                | ServerSignal::LeaveSwarm { .. }
                | ServerSignal::Welcome { .. }
                | ServerSignal::Gone { .. }
                | ServerSignal::SignalError { .. } => false,
            },
            Self::Ping | Self::Close(_) => false,
        }
    }
}

/// What became of a message for a socket.
#[derive(Debug, PartialEq, Eq)]
enum Pushed {
    Queued,
    /// It was only relayed, and there is not room enough for that.
    Dropped,
    Overflowed,
}

impl Queue {
    fn push(&self, message: ToSocket) -> Pushed {
        let len_bytes = message.len_bytes();
        let (waiting_bytes, max_bytes) = self.bytes.load();
        let bytes = waiting_bytes + len_bytes;
        let messages = self.sender.max_capacity() - self.sender.capacity();
        let is_too_much = bytes > relayed_share(max_bytes) || messages >= relayed_share(QUEUE_MAX_MESSAGES);
        if message.is_relayed() && is_too_much {
            return Pushed::Dropped;
        }
        if bytes > max_bytes {
            return Pushed::Overflowed;
        }
        // Before it can be taken out.
        self.bytes.add(len_bytes);
        match self.sender.try_send(message) {
            Ok(()) => Pushed::Queued,
            Err(_) => {
                self.bytes.remove(len_bytes);
                Pushed::Overflowed
            }
        }
    }
}

impl Hub {
    pub(super) fn new(limits: Limits, seed: [u8; 32]) -> Self {
        let rooms = Rooms::new(limits, seed);
        let (queues, all_bytes) = (HashMap::new(), Arc::default());
        let state = State { rooms, queues, all_bytes, next_socket: 0, scraped: None, armed: None };
        Self { state: Mutex::new(state), deadline_moved: Notify::new() }
    }

    /// Makes a socket known and gives it its queue.
    pub(super) fn connect(&self, address: ClientAddress, grant: Grant) -> Connection {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX_MESSAGES);
        let (over, is_over) = oneshot::channel();
        let mut state = self.lock();
        let bytes = Arc::new(Bytes { here: AtomicUsize::new(0), everywhere: state.all_bytes.clone() });
        let socket = SocketId(state.next_socket);
        state.next_socket += 1;
        state.queues.insert(socket, Queue { sender, bytes: bytes.clone(), over });
        self.turn(&mut state, Input::Connected { socket, address, grant });
        Connection { socket, inbox: Inbox { receiver, bytes }, over: is_over }
    }

    pub(super) fn handle(&self, input: Input) {
        self.turn(&mut self.lock(), input);
    }

    /// The socket is closed and its queue freed.
    pub(super) fn disconnect(&self, socket: SocketId) {
        let mut state = self.lock();
        state.queues.remove(&socket);
        self.turn(&mut state, Input::Lost(socket));
    }

    #[cfg(test)]
    pub(super) fn queue_of(&self, socket: SocketId) -> std::sync::Weak<Bytes> {
        Arc::downgrade(&self.lock().queues[&socket].bytes)
    }

    pub(super) fn stats(&self) -> Stats {
        self.lock().rooms.stats()
    }

    /// The figures of a moment ago: who asks for them may ask often.
    pub(super) fn recent_stats(&self, now: Instant) -> Stats {
        let mut state = self.lock();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < SCRAPE_EVERY;
        if let Some((_, stats)) = state.scraped.filter(|(at, _)| is_recent(*at)) {
            return stats;
        }
        let stats = state.rooms.stats();
        state.scraped = Some((now, stats));
        stats
    }

    /// Wakes the machine when it wants to be woken. Never ends.
    pub(super) async fn run_timers(&self) {
        loop {
            let armed = self.lock().armed;
            let due = async {
                match armed {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {
                    let mut state = self.lock();
                    state.rooms.handle_timeout(Instant::now());
                    self.drain(&mut state);
                }
                () = self.deadline_moved.notified() => {}
            }
        }
    }

    /// A panic in the machine would be our bug; it must not take everybody else's rooms with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, state: &mut State, input: Input) {
        state.rooms.handle(Instant::now(), input);
        self.drain(state);
    }

    /// Carries out what the machine wants. A socket that does not keep up is given up, which is an input again.
    fn drain(&self, state: &mut State) {
        loop {
            let mut overflowed = Vec::new();
            while let Some(output) = state.rooms.poll() {
                let (socket, message) = match output {
                    Output::Send { socket, signal } => (socket, ToSocket::Signal(Box::new(signal))),
                    Output::Ping(socket) => (socket, ToSocket::Ping),
                    Output::Close { socket, reason } => (socket, ToSocket::Close(reason)),
                };
                let is_last = matches!(message, ToSocket::Close(_));
                let Some(queue) = state.queues.get(&socket) else { continue };
                match queue.push(message) {
                    Pushed::Queued if is_last => drop(state.queues.remove(&socket)),
                    Pushed::Queued => {}
                    Pushed::Dropped => {
                        tracing::debug!(
                            socket = socket.0,
                            "a client hardly reads; did not relay a message to it"
                        );
                    }
                    Pushed::Overflowed => {
                        overflowed.push(socket);
                        // Its task may have ended meanwhile.
                        let _ = state.queues.remove(&socket).map(|queue| queue.over.send(TooSlow));
                    }
                }
            }
            if overflowed.is_empty() {
                break;
            }
            for socket in overflowed {
                tracing::info!(socket = socket.0, "a client does not read what it is sent; dropped");
                state.rooms.handle(Instant::now(), Input::GivenUp(socket));
            }
        }
        self.rearm(state);
    }

    fn rearm(&self, state: &mut State) {
        let next = state.rooms.poll_timeout().map(|(at, _)| at);
        if next != state.armed {
            state.armed = next;
            self.deadline_moved.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::room::Rate;
    use crate::wire::{ClientSignal, Init, RoomId, UserId};

    #[test]
    fn whoever_asks_for_figures_without_end_has_them_counted_once_a_second() {
        let hub = Hub::new(Limits::default(), [0; 32]);
        let start = Instant::now();
        assert_eq!(hub.recent_stats(start).sockets, 0);
        let _connection = hub.connect(loopback(), Grant::EveryRoom);
        assert_eq!(hub.recent_stats(start + SCRAPE_EVERY - Duration::from_nanos(1)).sockets, 0);
        assert_eq!(hub.recent_stats(start + SCRAPE_EVERY).sockets, 1);
    }

    #[test]
    fn a_client_that_does_not_read_is_given_up() {
        let limits = Limits { messages_burst: u32::MAX, ..Limits::default() };
        let hub = Hub::new(limits, [0; 32]);
        let address = loopback();
        let Connection { socket, mut inbox, mut over } = hub.connect(address, Grant::EveryRoom);
        for _ in 0..=QUEUE_MAX_MESSAGES {
            let user_id = UserId::new("nobody").expect("a good id");
            hub.handle(Input::Signal { socket, signal: ClientSignal::Want { user_id } });
        }
        assert_eq!(hub.stats().sockets, 0);
        assert!(over.try_recv().is_ok(), "the task is told at once");
        let mut received = 0;
        while inbox.try_recv().is_some() {
            received += 1;
        }
        assert_eq!(received, QUEUE_MAX_MESSAGES);
        assert!(matches!(inbox.receiver.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_too() {
        let hub = Hub::new(Limits::default(), [0; 32]);
        let Connection { inbox, .. } = hub.connect(loopback(), Grant::EveryRoom);
        let state = hub.lock();
        let queue = state.queues.values().next().expect("there is one");
        let long = || {
            let message = "x".repeat(16 * 1024 - size_of::<ServerSignal>());
            ToSocket::Signal(Box::new(ServerSignal::SignalError { code: None, message }))
        };
        let pushed = (0..).find(|_| queue.push(long()) != Pushed::Queued);
        assert_eq!(pushed, Some(QUEUE_MAX_BYTES / (16 * 1024)));
        assert_eq!(queue.push(long()), Pushed::Overflowed);
        assert_eq!(inbox.bytes.load().0, QUEUE_MAX_BYTES);
    }

    #[test]
    fn clients_that_do_not_read_get_shorter_queues_when_they_are_many() {
        let hub = Hub::new(Limits::default(), [0; 32]);
        let others = QUEUES_MAX_BYTES;
        hub.lock().all_bytes.store(others, Ordering::Relaxed);
        let Connection { inbox, .. } = hub.connect(loopback(), Grant::EveryRoom);
        let state = hub.lock();
        let queue = state.queues.values().next().expect("there is one");
        let long = || {
            let message = "x".repeat(16 * 1024 - size_of::<ServerSignal>());
            ToSocket::Signal(Box::new(ServerSignal::SignalError { code: None, message }))
        };
        let pushed = (0..).find(|_| queue.push(long()) != Pushed::Queued);
        assert_eq!(pushed, Some(CROWDED_QUEUE_MAX_BYTES / (16 * 1024)));
        drop(inbox);
        assert_eq!(queue.push(long()), Pushed::Overflowed, "nobody listens");
        assert_eq!(state.all_bytes.load(Ordering::Relaxed), others, "what waited is not counted any more");
    }

    fn enter(hub: &Hub, name: &str) -> (SocketId, Inbox) {
        let Connection { socket, inbox, .. } = hub.connect(loopback(), Grant::EveryRoom);
        let room_id = RoomId::new("den").expect("a good id");
        let user_id = UserId::new(name).expect("a good id");
        let init = Init { user_id, room_id, have: None, resume: None };
        hub.handle(Input::Signal { socket, signal: ClientSignal::Init(init) });
        (socket, inbox)
    }

    #[test]
    fn fat_offers_of_everybody_cost_a_newcomer_no_socket() {
        const MEMBERS: usize = 40;
        let hub = Hub::new(Limits::default(), [0; 32]);
        let mut members: Vec<_> = (0..MEMBERS).map(|n| enter(&hub, &format!("member-{n}"))).collect();
        for (n, (socket, _)) in members.iter().enumerate() {
            for m in 0..MEMBERS {
                let id = crate::wire::LinkId::new(format!("{n}-{m}")).expect("a good id");
                let sdp = crate::wire::Sdp::new("x".repeat(16 * 1024)).expect("short enough");
                hub.handle(Input::Signal { socket: *socket, signal: ClientSignal::Offer { id, sdp } });
            }
        }
        for (_, inbox) in &mut members {
            while inbox.try_recv().is_some() {}
        }
        hub.lock().all_bytes.store(QUEUES_MAX_BYTES + 1, Ordering::Relaxed);
        let (_, mut inbox) = enter(&hub, "newcomer");
        assert_eq!(hub.stats().sockets, MEMBERS + 1);
        let offers = std::iter::from_fn(|| inbox.try_recv()).filter(ToSocket::is_relayed).count();
        assert_eq!(offers, relayed_share(CROWDED_QUEUE_MAX_BYTES) / (16 * 1024) - 1, "each has a name, too");
    }

    #[test]
    fn what_members_say_to_one_another_costs_nobody_the_socket() {
        let everything = Rate { per_sec: u32::MAX, burst: u32::MAX };
        let (relayed_messages, relayed_bytes) = (everything, everything);
        let limits =
            Limits { messages_burst: u32::MAX, relayed_messages, relayed_bytes, ..Limits::default() };
        let hub = Hub::new(limits, [0; 32]);
        let (alice, _keep) = enter(&hub, "alice");
        let id = crate::wire::LinkId::new("a").expect("a good id");
        let offer = |len: usize| ClientSignal::Offer {
            id: id.clone(),
            sdp: crate::wire::Sdp::new("x".repeat(len)).expect("short enough"),
        };
        hub.handle(Input::Signal { socket: alice, signal: offer(0) });
        let (_bob, mut inbox) = enter(&hub, "bob");
        for _ in 0..=QUEUE_MAX_BYTES / (16 * 1024) {
            hub.handle(Input::Signal { socket: alice, signal: offer(16 * 1024) });
        }
        assert!(inbox.bytes.load().0 <= relayed_share(QUEUE_MAX_BYTES));
        while inbox.try_recv().is_some() {}
        for _ in 0..=QUEUE_MAX_MESSAGES {
            hub.handle(Input::Signal { socket: alice, signal: offer(1) });
        }
        assert_eq!(hub.stats().sockets, 2);
        let received = std::iter::from_fn(|| inbox.try_recv()).count();
        assert_eq!(received, relayed_share(QUEUE_MAX_MESSAGES));
    }

    fn loopback() -> ClientAddress {
        ClientAddress::of(std::net::Ipv4Addr::LOCALHOST.into())
    }
}
