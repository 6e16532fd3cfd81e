//! The signaling server: accepts connections, lets in whom [`Access`] lets in, and drives one [`Rooms`](crate::core::room::Rooms) machine.
//!
//! ```text
//!  accept loop -> a place among those pending -> TLS -> hyper (one request) -> gate: path, Origin, token, seat -> upgrade
//!                                                                                                                 |
//!  socket task:  text -> dialect -> Hub::handle (Mutex<Rooms>) -> outputs -> bounded queue of each socket
//!                text <- dialect <--------------------------------------------------------'
//! ```

mod capacity;
mod codes;
mod front;
mod gate;
mod hub;
mod metrics;
mod pending;
mod socket;
mod tls;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::core::access::Access;
use crate::core::code::relay;
use crate::core::network::{ClientAddress, TrustedProxies};
use crate::core::room::{Input, Limits, Stats};
use crate::io::open_files;

pub use capacity::Capacity;
use codes::Codes;
use front::Front;
use hub::Hub;
use pending::Pending;
pub use tls::{TlsError, server_config as tls_config};

/// How long sockets may take to close when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// After a failed `accept` (out of memory or file descriptors, whoever took them) others get a moment to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long the server waits for its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A client may take so long for the TLS handshake, and again for its request and the answer.
    pub handshake: Duration,
    /// A client that has not asked for anything in so long gives way to others, when there are too many.
    pub give_way: Duration,
    /// A client that says nothing for so long is pinged.
    pub ping_after: Duration,
    /// A client that gives no sign of life for so long is gone. Long, because an original does not come back by itself,
    /// and a suspended laptop or a paused tab may.
    pub gone_after: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            give_way: Duration::from_secs(1),
            ping_after: Duration::from_secs(15),
            gone_after: Duration::from_secs(60),
        }
    }
}

/// What a server is made of.
pub struct ServerConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Whom to let in.
    pub access: Access,
    /// The web origins (`https://host[:port]`) that browsers may come from; `None` is any.
    pub origins: Option<Vec<String>>,
    /// The reverse proxies whose `X-Forwarded-For` or `Forwarded` says who their clients are; by default nobody's does.
    pub proxies: TrustedProxies,
    /// What each may take.
    pub limits: Limits,
    /// What one-time codes may take.
    pub codes: relay::Limits,
    /// How many connections there may be.
    pub capacity: Capacity,
    /// How long to wait for whom.
    pub timeouts: Timeouts,
    /// Certificate and key, for `wss`.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The seed of resume secrets and of the numbers of codes: 32 bytes of the system's randomness.
    pub seed: [u8; 32],
}

impl ServerConfig {
    /// A server with the default limits, the capacity that this process's open files allow, and fresh randomness; without TLS.
    pub fn new(listen: SocketAddr, access: Access) -> Self {
        let (limits, codes, timeouts) = (Limits::default(), relay::Limits::default(), Timeouts::default());
        let proxies = TrustedProxies::default();
        Self {
            listen,
            access,
            origins: None,
            proxies,
            limits,
            codes,
            capacity: Capacity::of(open_files::limit()),
            timeouts,
            tls: None,
            seed: rand::random(),
        }
    }
}

impl fmt::Debug for ServerConfig {
    /// The seed is as secret as what is drawn from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    pending: Arc<Pending>,
    gate: Arc<gate::Gate>,
}

impl Server {
    /// Takes the port. Connections wait in the system's queue until [`Server::run`].
    pub async fn bind(config: ServerConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let local_addr = listener.local_addr()?;
        let hub = Arc::new(Hub::new(config.limits, config.seed));
        // A generator of its own: numbers are shown, and must say nothing of the secrets drawn from the same seed.
        let codes_seed = blake3::derive_key("fast-rtc-swarm numbers of one-time codes", &config.seed);
        let strangers_heard = config.codes.strangers.min(config.capacity.strangers_heard());
        let code_limits = relay::Limits { strangers: strangers_heard, ..config.codes };
        let codes = Arc::new(Codes::new(code_limits, codes_seed));
        let Capacity { pending, pending_per_address, sockets, strangers } = config.capacity;
        Ok(Self {
            listener,
            local_addr,
            tls: config.tls,
            pending: Arc::new(Pending::new(pending, pending_per_address, config.timeouts.give_way)),
            gate: Arc::new(gate::Gate {
                access: config.access,
                origins: config.origins,
                proxies: config.proxies,
                timeouts: config.timeouts,
                hub,
                codes,
                seats: Arc::new(Semaphore::new(sockets)),
                strangers_seats: Arc::new(Semaphore::new(strangers)),
            }),
        })
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the server holds and has done, from now on.
    pub fn monitor(&self) -> Monitor {
        Monitor(self.gate.hub.clone())
    }

    /// Serves until `shutdown` completes; then tells every client and waits a moment for them to go.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        // Every connection holds a clone of `alive`; when the last is gone, so is everybody.
        let (alive, mut all_gone) = mpsc::channel::<()>(1);
        let hub = self.gate.hub.clone();
        tokio::select! {
            () = self.accept(&alive) => {}
            () = hub.run_timers() => {}
            () = self.gate.codes.run_timers() => {}
            () = shutdown => {}
        }
        tracing::info!("stopping");
        hub.handle(Input::Shutdown);
        self.gate.codes.shut_down();
        drop((self, alive));
        // Whoever has not closed by now is dropped with the runtime.
        let _ = tokio::time::timeout(FAREWELL, all_gone.recv()).await;
    }

    async fn accept(&self, alive: &mpsc::Sender<()>) {
        let router = gate::router(self.gate.clone());
        let tls = self.tls.clone().map(TlsAcceptor::from);
        let mut is_failing = false;
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(%error, "could not accept a connection; it goes on when it can");
                    }
                    is_failing = true;
                    self.pending.turn_away_oldest();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            is_failing = false;
            // Before the request is here, all clients of a proxy look alike: slow ones are the proxy's to hold off.
            let is_proxy = self.gate.proxies.trusts(address.ip());
            let counted = (!is_proxy).then(|| ClientAddress::of(address.ip()));
            let Some(place) = self.pending.enter(counted).await else {
                front::refuse(stream, tls.is_some());
                continue;
            };
            let guest = gate::Guest { peer: address.ip(), alive: alive.clone() };
            let front = Front::new(router.clone(), guest);
            tokio::spawn(front::serve(stream, tls.clone(), front, self.gate.timeouts.handshake, place));
        }
    }
}

/// A view of a running server, for metrics and tests.
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Hub>);

impl Monitor {
    /// What the server holds and has done.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}
