//! The runtime one connection's engine runs on: tokio's, with larger sockets and an impatient clock.
//!
//! The engine sends what it has queued at the top of its loop, but several of its steps queue packets further down
//! (ClientHello, SCTP INIT, DCEP), where they lie until the next 200 ms tick. While a connection is being set up,
//! [`LinkRuntime::sleep`] therefore returns at once for the next few calls after something happened: the loop goes
//! round once more and sends them. It can also be cut short, because the engine does not wake its loop for a new
//! remote candidate. A connection that is up sleeps as usual.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::checks::{Checks, Reach};
use super::records::Records;
use super::servers::Servers;
use super::socket::{LinkSocket, enlarge_buffers};
use super::udp::UdpPort;
use tokio::sync::Notify;
use webrtc::runtime::{AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime};

/// The loop queues packets at most three steps below the place where it sends them.
const EARLY_WAKES: u8 = 3;

/// How long a connection counts as relayed after something came or went through a relay: a path that is used is asked for consent
/// every second (RFC 7675 §5.1).
const RELAYED_FOR: Duration = Duration::from_secs(5);

/// How long a STUN or TURN server's name may take to resolve; candidates of the host wait for it.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a socket is not read at the most: less than the shortest time after which SCTP sends again (RFC 9260 §16, 1 s).
const HOLD_MAX: Duration = Duration::from_millis(200);

/// What the sockets of one connection tell its clock and its task.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    settled: AtomicBool,
    early_wakes: AtomicU8,
    relayed_at: Mutex<Option<Instant>>,
    /// That of the engine's loop.
    task: OnceLock<tokio::task::Id>,
    alert_sent: AtomicBool,
    alert_received: AtomicBool,
    nudged: Notify,
    prodded: AtomicBool,
    /// Which hold it is; 0 if the socket is read.
    hold: AtomicU64,
    holds: AtomicU64,
    /// Those who wait for packets, one a socket: the engine polls each for itself.
    readers: Mutex<Vec<Weak<AtomicWaker>>>,
    deciphered: AtomicBool,
    pub(super) checks: Checks,
    pub(super) servers: Option<Arc<Servers>>,
    pub(super) records: Records,
    /// Told of each packet sent, until the connection is settled.
    pub(super) sent: Notify,
}

impl Pulse {
    /// That of one connection of so many.
    pub(super) fn new(all: Arc<Reach>, servers: Arc<Servers>) -> Self {
        Self { checks: Checks::new(all), servers: Some(servers), ..Self::default() }
    }

    /// Something was received that may leave packets queued: the next sleeps return at once.
    pub(super) fn beat(&self) {
        if !self.is_settled() {
            self.early_wakes.store(EARLY_WAKES, Ordering::Relaxed);
        }
    }

    /// The same from outside of the loop, which may be asleep.
    pub(super) fn nudge(&self) {
        self.beat();
        self.nudged.notify_one();
    }

    /// Makes the engine look for messages that it has and did not hand over.
    ///
    /// It hands over 256 in a round and leaves the others where they are until the next packet comes (rtc 0.21), and on a quiet
    /// connection that may be the next keepalive. So its socket gives it a packet that it silently forgets.
    pub(super) fn prod(&self) {
        self.prodded.store(true, Ordering::Release);
        self.wake_readers();
    }

    /// Has the socket not read for a moment, so that the engine can hand over what it has. What comes waits in the kernel; if that
    /// took long, the connection would be taken for dead.
    pub(super) fn hold(self: &Arc<Self>) {
        let hold = self.holds.fetch_add(1, Ordering::Relaxed) + 1;
        self.hold.store(hold, Ordering::Release);
        let pulse = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(HOLD_MAX).await;
            if pulse.hold.compare_exchange(hold, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                pulse.wake_readers();
            }
        });
    }

    /// Has the socket read again.
    pub(super) fn release(&self) {
        if self.hold.swap(0, Ordering::AcqRel) != 0 {
            self.wake_readers();
        }
    }

    /// One more socket, and who waits for its packets.
    pub(super) fn add_reader(&self, reader: &Arc<AtomicWaker>) {
        self.readers.lock().expect("nothing panics under it").push(Arc::downgrade(reader));
    }

    fn wake_readers(&self) {
        let readers = self.readers.lock().expect("nothing panics under it").clone();
        readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.wake());
    }

    /// A record was deciphered: the handshake is done.
    pub(super) fn note_deciphered(&self) {
        self.deciphered.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_deciphered(&self) -> bool {
        self.deciphered.load(Ordering::Relaxed)
    }

    pub(super) fn is_held(&self) -> bool {
        self.hold.load(Ordering::Acquire) != 0
    }

    /// Whether the engine was prodded since it was asked last.
    pub(super) fn take_prod(&self) -> bool {
        self.prodded.swap(false, Ordering::Acquire)
    }

    /// The connection is set up, or being torn down: time is time again.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
        self.early_wakes.store(0, Ordering::Relaxed);
    }

    /// The connection is being set up (again).
    pub(super) fn unsettle(&self) {
        self.settled.store(false, Ordering::Relaxed);
        self.nudge();
    }

    /// Whether our end sent a DTLS alert. Before the handshake is done that means that it failed; the engine does
    /// not say so itself.
    pub(super) fn alert_sent(&self) -> bool {
        self.alert_sent.load(Ordering::Relaxed)
    }

    /// Whether an alert came in, from the peer or from anybody who knows our port: a hint where the handshake fails anyway.
    pub(super) fn alert_received(&self) -> bool {
        self.alert_received.load(Ordering::Relaxed)
    }

    pub(super) fn note_alert_received(&self) {
        self.alert_received.store(true, Ordering::Relaxed);
    }

    /// A packet was sent.
    pub(super) fn note_sent(&self, is_alert: bool) {
        if is_alert {
            self.alert_sent.store(true, Ordering::Relaxed);
        }
        self.sent.notify_one();
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Something came or went through a relay.
    pub(super) fn note_relayed(&self, now: Instant) {
        *self.relayed_at.lock().expect("nothing panics under it") = Some(now);
    }

    /// The loop is about to sleep. What is relayed it hands to its TURN client a step below the place where it sends what that has,
    /// and without more steps it would leave with the next packet that comes, or the next keepalive.
    fn keep_awake_if_relayed(&self, now: Instant) {
        let relayed_at = *self.relayed_at.lock().expect("nothing panics under it");
        if relayed_at.is_some_and(|at| now.saturating_duration_since(at) < RELAYED_FOR) {
            self.early_wakes.store(EARLY_WAKES, Ordering::Relaxed);
        }
    }

    fn take_early_wake(&self) -> bool {
        let take = |left: u8| left.checked_sub(1);
        self.early_wakes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// The runtime of one connection.
pub(super) struct LinkRuntime {
    inner: Arc<dyn Runtime>,
    pulse: Arc<Pulse>,
    /// The sockets of all connections are read in step.
    epoch: Instant,
    /// Called when the engine's task ends, for whatever reason.
    on_stopped: Arc<dyn Fn() + Send + Sync>,
}

impl LinkRuntime {
    pub(super) fn new(
        inner: Arc<dyn Runtime>,
        pulse: Arc<Pulse>,
        epoch: Instant,
        on_stopped: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { inner, pulse, epoch, on_stopped: Arc::new(on_stopped) }
    }
}

impl fmt::Debug for LinkRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkRuntime").field("pulse", &self.pulse).finish_non_exhaustive()
    }
}

struct OnDrop(Arc<dyn Fn() + Send + Sync>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Runtime for LinkRuntime {
    fn spawn(&self, future: BoxFuture<'static, ()>) -> Box<dyn JoinHandle> {
        let stopped = OnDrop(Arc::clone(&self.on_stopped));
        let pulse = Arc::clone(&self.pulse);
        self.inner.spawn(Box::pin(async move {
            let _stopped = stopped;
            let _ = tokio::task::try_id().map(|task| pulse.task.set(task));
            future.await;
        }))
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        enlarge_buffers(&socket);
        Ok(Arc::new(LinkSocket::new(UdpPort::new(socket, self.epoch)?, Arc::clone(&self.pulse))))
    }

    fn wrap_tcp_listener(&self, listener: TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        self.inner.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        _remote_addr: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        // Where it would lead is a peer's choice.
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        // The engine's loop stands still meanwhile, so a dead resolver must not hold it for long.
        Box::pin(async move {
            let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, self.inner.resolve_host(host)).await;
            let resolved = resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            // It is only asked for STUN and TURN servers.
            let addresses = resolved.as_deref().unwrap_or_default();
            self.pulse.checks.note_relays(addresses);
            self.pulse
                .servers
                .iter()
                .for_each(|servers| servers.note_resolved(host, addresses, Instant::now()));
            resolved
        })
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // Writers that wait for room sleep, too, and are woken in each round of the loop.
        if tokio::task::try_id().as_ref() != self.pulse.task.get() {
            return self.inner.sleep(duration);
        }
        if self.pulse.take_early_wake() {
            return Box::pin(std::future::ready(()));
        }
        self.pulse.keep_awake_if_relayed(Instant::now());
        let asleep = self.inner.sleep(duration);
        if self.pulse.is_settled() {
            return asleep;
        }
        let pulse = Arc::clone(&self.pulse);
        Box::pin(async move {
            tokio::select! {
                () = asleep => {}
                () = pulse.nudged.notified() => {}
            }
        })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.inner.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.inner.block_on(future);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        self.inner.yield_now()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
