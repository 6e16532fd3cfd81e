//! The signaling server: accepts connections, lets in whom [`Access`] lets in, and drives one [`Rooms`](crate::core::room::Rooms) machine.
//!
//! ```text
//!  accept loop -> TLS -> hyper (one request) -> gate: path, Origin, token -> upgrade
//!                                                                              |
//!  socket task:  text -> dialect -> Hub::handle (Mutex<Rooms>) -> outputs -> bounded queue of each socket
//!                text <- dialect <--------------------------------------------------------'
//! ```

mod codes;
mod gate;
mod hub;
mod metrics;
mod socket;
mod tls;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::core::access::Access;
use crate::core::code::relay;
use crate::core::network::{ClientAddress, TrustedProxies};
use crate::core::room::{Input, Limits, Stats};

use codes::Codes;
use hub::Hub;
pub use tls::{TlsError, server_config as tls_config};

/// Connections from one address that are not upgraded yet. More are dropped: a slow loris holds nobody else up.
const PENDING_PER_ADDRESS: usize = 512;

/// How long sockets may take to close when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// After a failed `accept` (out of file descriptors, most likely) others get a moment to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long the server waits for its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A client may take so long for the TLS handshake, and again for its request's header.
    pub handshake: Duration,
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
    /// How long to wait for whom.
    pub timeouts: Timeouts,
    /// Certificate and key, for `wss`.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The seed of resume secrets and of the numbers of codes: 32 bytes of the system's randomness.
    pub seed: [u8; 32],
}

impl ServerConfig {
    /// A server with the default limits and fresh randomness, without TLS.
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
        let codes = Arc::new(Codes::new(config.codes, codes_seed));
        Ok(Self {
            listener,
            local_addr,
            tls: config.tls,
            gate: Arc::new(gate::Gate {
                access: config.access,
                origins: config.origins,
                proxies: config.proxies,
                timeouts: config.timeouts,
                hub,
                codes,
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
        let pending = Arc::new(Pending::default());
        let router = gate::router(self.gate.clone());
        let tls = self.tls.clone().map(TlsAcceptor::from);
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Before the request is here, all clients of a proxy look alike: slow ones are the proxy's to hold off.
            let is_proxy = self.gate.proxies.trusts(address.ip());
            let place = (!is_proxy).then(|| pending.clone().enter(ClientAddress::of(address.ip())));
            if let Some(None) = place {
                tracing::debug!("dropped one of too many connections from one address");
                continue;
            }
            let guest = gate::Guest { peer: address.ip(), alive: alive.clone() };
            let front = Front { router: TowerToHyperService::new(router.clone()), guest };
            let handshake = self.gate.timeouts.handshake;
            tokio::spawn(serve_connection(stream, tls.clone(), front, handshake, place.flatten()));
        }
    }
}

/// Answers the requests of one guest.
struct Front {
    router: TowerToHyperService<axum::Router>,
    guest: gate::Guest,
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<axum::Router> as hyper::service::Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.guest.clone());
        self.router.call(request)
    }
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    front: Front,
    handshake: Duration,
    _place: Option<Place>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%error, "a connection was gone at once");
    }
    let Some(tls) = tls else { return serve_http(stream, front, handshake).await };
    match tokio::time::timeout(handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(stream, front, handshake).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// An upgrade, or probes. A connection that brings no request in time is closed.
async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    front: Front,
    header_timeout: Duration,
) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header_timeout);
    let connection = http.serve_connection(TokioIo::new(stream), front).with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a request failed");
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

/// How many connections of each address are not upgraded yet.
#[derive(Debug, Default)]
struct Pending(Mutex<HashMap<ClientAddress, usize>>);

/// One of them; given back when dropped.
struct Place {
    pending: Arc<Pending>,
    address: ClientAddress,
}

impl Pending {
    fn enter(self: Arc<Self>, address: ClientAddress) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= PENDING_PER_ADDRESS {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { pending: self, address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_not_upgraded_yet_are_counted_by_the_network_of_their_host() {
        let pending = Arc::new(Pending::default());
        let address =
            |host: usize| ClientAddress::of(format!("2001:db8::{host:x}").parse().expect("an address"));
        let places: Vec<Place> =
            (0..PENDING_PER_ADDRESS).filter_map(|host| pending.clone().enter(address(host))).collect();
        assert_eq!(places.len(), PENDING_PER_ADDRESS);
        assert!(pending.clone().enter(address(PENDING_PER_ADDRESS)).is_none());
        drop(places);
        assert!(pending.enter(address(0)).is_some());
    }
}
