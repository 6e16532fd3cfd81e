//! WebRTC: carries out [`PeerCommand`]s and reports [`PeerEvent`]s for many connections.
//!
//! The only folder that knows the `webrtc` crate. Every connection is a task of its own (`link`); this file is the
//! table of them and what they share: the configuration, one certificate, and what the machine allows.
//!
//! | queue | bound | when it is full |
//! |---|---|---|
//! | commands of a connection | 16 MiB of messages | that connection is closed, [`PeerClosed::Failed`] |
//! | events of all connections | [`RtcConfig::event_queue`] | channels are no longer read; SCTP's window closes |
//! | received messages of a channel | about 1000 messages (250 MiB of the longest), in the engine, and SCTP's window | the sender waits |
//! | one message that does not end | 16 MiB | the connection is closed, [`PeerClosed::Failed`] |
//! | one received message | what both ends announced, 262,144 bytes at most | the engine drops it, the connection goes on |
//! | channels a peer opens | 16 | the connection is closed, [`PeerClosed::Failed`] |
//! | candidates of a peer, in its description or after it | 128 pairs with ours, or 16 | further ones are ignored |
//! | connectivity checks of a peer | from addresses that make 64 pairs besides, or 16; 10 a second on each of 128 paths | further ones are ignored |

mod addresses;
mod channel;
mod checks;
mod config;
mod inflow;
mod link;
mod load;
mod moderation;
mod pacing;
mod path;
mod records;
mod runtime;
mod servers;
mod session;
mod signal;
mod socket;
mod stun;
mod transactions;
mod udp;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use rtc::mdns::MulticastSocket;
use rtc::peer_connection::certificate::CertificateParams;
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, debug, error, info_span};
use webrtc::peer_connection::crypto::{RTCCryptoProvider, SignatureScheme, default_provider};
use webrtc::peer_connection::{PeerConnection, PeerConnectionBuilder, RTCCertificate};
use webrtc::runtime::{Runtime, default_runtime};

pub use config::{Bind, IceServer, RtcConfig};
pub use servers::{IceServerTrouble, IceTrouble};

use self::channel::Outlet;
use self::checks::Reach;
use self::inflow::{Inflow, Watched};
use self::link::Request;
use self::load::Load;
use self::runtime::{LinkRuntime, Pulse};
use self::servers::Servers;
use self::signal::{Reporter, Signal};
use crate::core::peer::{Fingerprint, LinkKey, PeerClosed, PeerCommand, PeerEvent};

/// Sent but unacknowledged bytes of one channel at which its writer waits.
const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// WebRTC cannot be used on this machine.
#[derive(Debug, thiserror::Error)]
pub enum RtcError {
    /// No UDP socket could be opened: a sandbox, or the limit on open files.
    #[error("cannot open a UDP socket")]
    Socket(#[source] std::io::Error),
    /// The certificate of this process could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// The library was built without a runtime. Our bug.
    #[error("the WebRTC library has no runtime")]
    Runtime,
}

/// What all connections of a process share.
pub(super) struct Shared {
    config: RtcConfig,
    crypto: Arc<dyn RTCCryptoProvider>,
    certificate: RTCCertificate,
    fingerprint: Fingerprint,
    runtime: Arc<dyn Runtime>,
    window_bytes: u32,
    /// The sockets of all connections are read in step.
    epoch: Instant,
    /// Cleared when a connection could not be made with it.
    mdns_works: AtomicBool,
    reach: Arc<Reach>,
    servers: Arc<Servers>,
}

/// All WebRTC connections of a process.
pub struct RtcDriver {
    shared: Arc<Shared>,
    events: mpsc::Sender<(LinkKey, PeerEvent)>,
    links: BTreeMap<LinkKey, LinkHandle>,
    troubles: Option<mpsc::UnboundedReceiver<IceServerTrouble>>,
}

struct LinkHandle {
    requests: mpsc::UnboundedSender<Request>,
    load: Arc<Load>,
}

impl RtcDriver {
    /// Makes the certificate and finds out what the machine allows. Connections live on the tokio runtime that
    /// [`command`](Self::command) is called on.
    pub fn new(config: RtcConfig) -> Result<(Self, mpsc::Receiver<(LinkKey, PeerEvent)>), RtcError> {
        let crypto = default_provider().map_err(|error| RtcError::Certificate(error.to_string()))?;
        let certificate = make_certificate(&*crypto)?;
        let fingerprint = own_fingerprint(&certificate, &*crypto)?;
        let (events, receiver) = mpsc::channel(config.event_queue.max(1));
        let (tell, troubles) = mpsc::unbounded_channel();
        let shared = Shared {
            reach: Arc::default(),
            servers: Arc::new(Servers::new(tell)),
            mdns_works: AtomicBool::new(config.mdns && MulticastSocket::new().into_std().is_ok()),
            window_bytes: socket::receive_window_bytes().map_err(RtcError::Socket)?,
            runtime: default_runtime().ok_or(RtcError::Runtime)?,
            epoch: Instant::now(),
            crypto,
            certificate,
            fingerprint,
            config,
        };
        let (shared, troubles) = (Arc::new(shared), Some(troubles));
        Ok((Self { shared, events, links: BTreeMap::new(), troubles }, receiver))
    }

    /// What is wrong with our STUN and TURN servers, as it turns out; for who asks first.
    pub fn troubles(&mut self) -> Option<mpsc::UnboundedReceiver<IceServerTrouble>> {
        self.troubles.take()
    }

    /// Asks something of one connection; never waits. `CreateOffer` and `AcceptOffer` make the connection, anything
    /// said to a connection that is over or was never made is dropped: its `Closed` is on its way.
    pub fn command(&mut self, key: LinkKey, command: PeerCommand) {
        match command {
            PeerCommand::CreateOffer | PeerCommand::AcceptOffer { .. } => self.start(key, command),
            PeerCommand::Send { channel, ref payload } => {
                if let Some(link) = self.links.get(&key)
                    && link.load.accept(channel, payload)
                {
                    let _ = link.requests.send(Request::Command(command));
                }
            }
            PeerCommand::AcceptAnswer { .. }
            | PeerCommand::AddCandidate(_)
            | PeerCommand::OpenChannel(_)
            | PeerCommand::Close => self.request(key, Request::Command(command)),
        }
    }

    /// Asks for a [`PeerEvent::Path`] with a fresh round trip.
    pub fn ask_path(&self, key: LinkKey) {
        self.request(key, Request::Path);
    }

    /// Waits until what was said on all connections, but for bulk data, has arrived. Resolves to the bytes on those where nothing moves
    /// any more.
    pub fn delivered(&self) -> impl Future<Output = usize> + Send + use<> {
        let ask = |link: &LinkHandle| {
            let (answer, delivered) = oneshot::channel();
            link.requests.send(Request::Delivered(answer)).is_ok().then_some(delivered)
        };
        let answers: Vec<_> = self.links.values().filter_map(ask).collect();
        async move {
            // A connection that ends drops the question; its end is told.
            let left = futures_util::future::join_all(answers).await;
            left.into_iter().map(|left| left.unwrap_or(0)).sum()
        }
    }

    /// The connections in front of whose channels more than so many bytes wait. A connection is closed at 16 MiB.
    pub fn congested(&self, bytes: usize) -> impl Iterator<Item = LinkKey> {
        let is_congested =
            move |link: &LinkHandle| !link.requests.is_closed() && link.load.waiting_bytes() > bytes;
        self.links.iter().filter(move |(_, link)| is_congested(link)).map(|(key, _)| *key)
    }

    /// Whether no connection is open, opening or closing.
    pub fn is_idle(&self) -> bool {
        self.links.values().all(|link| link.requests.is_closed())
    }

    /// The SHA-256 fingerprint of this process's certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shared.fingerprint
    }

    fn request(&self, key: LinkKey, request: Request) {
        if let Some(link) = self.links.get(&key) {
            let _ = link.requests.send(request);
        }
    }

    fn start(&mut self, key: LinkKey, first: PeerCommand) {
        self.links.retain(|_, link| !link.requests.is_closed());
        if self.links.contains_key(&key) {
            error!(?key, "a connection was made twice");
            return;
        }
        let (requests, asked) = mpsc::unbounded_channel();
        let load = Arc::new(Load::default());
        let outlet = Outlet { key, events: self.events.clone(), load: Arc::clone(&load) };
        let farewell = outlet.clone();
        let link = link::run(Arc::clone(&self.shared), outlet, asked, first);
        // A panic in the library must cost one connection, not a silent hole in the mesh.
        let guarded = async move {
            if AssertUnwindSafe(link).catch_unwind().await.is_err() {
                farewell.say(PeerEvent::Closed(PeerClosed::Failed)).await;
            }
        };
        tokio::spawn(guarded.instrument(info_span!("rtc", link = key.0)));
        self.links.insert(key, LinkHandle { requests, load });
    }
}

/// A connection whose engine runs, and what the engine says.
pub(super) struct Engine {
    pc: Arc<dyn PeerConnection>,
    pulse: Arc<Pulse>,
    inflow: Arc<Inflow>,
    signals: mpsc::UnboundedSender<Signal>,
    noticed: mpsc::UnboundedReceiver<Signal>,
}

impl Shared {
    /// Makes a connection and starts its engine.
    async fn connect(&self) -> webrtc::error::Result<Engine> {
        let mdns = self.mdns_works.load(Ordering::Relaxed);
        match self.build(mdns).await {
            Err(error) if mdns => {
                let engine = self.build(false).await?;
                debug!(%error, "no multicast here: .local candidates are not resolved");
                self.mdns_works.store(false, Ordering::Relaxed);
                Ok(engine)
            }
            built => built,
        }
    }

    async fn build(&self, mdns: bool) -> webrtc::error::Result<Engine> {
        let pulse = Arc::new(Pulse::new(Arc::clone(&self.reach), Arc::clone(&self.servers)));
        let addresses = addresses::bind_addresses(&self.config.bind);
        pulse.checks.set_ours(addresses.len() * (1 + self.config.ice_servers.len()));
        let inflow = Arc::new(Inflow::new(Arc::clone(&pulse)));
        let crypto = Watched { inner: Arc::clone(&self.crypto), inflow: Arc::clone(&inflow) };
        let (signals, noticed) = mpsc::unbounded_channel();
        let stopped = signals.clone();
        let on_stopped = move || {
            let _ = stopped.send(Signal::Stopped);
        };
        let runtime = LinkRuntime::new(Arc::clone(&self.runtime), Arc::clone(&pulse), self.epoch, on_stopped);
        let pc = PeerConnectionBuilder::new()
            .with_configuration(self.config.peer_connection(self.certificate.clone()))
            .with_setting_engine(self.config.setting_engine(self.window_bytes, mdns, Arc::new(crypto)))
            .with_runtime(Arc::new(runtime))
            .with_handler(Arc::new(Reporter::new(signals.clone())))
            .with_udp_addrs(addresses)
            .with_data_channel_send_buffer_limit(SEND_BUFFER_BYTES)
            .build()
            .await?;
        Ok(Engine { pc: Arc::new(pc), pulse, inflow, signals, noticed })
    }
}

/// P-256, as browsers make it (RFC 8827 §6.5). It names nobody.
fn make_certificate(crypto: &dyn RTCCryptoProvider) -> Result<RTCCertificate, RtcError> {
    let refused = |error: &dyn std::fmt::Display| RtcError::Certificate(error.to_string());
    let params = CertificateParams::new(vec!["swarm".to_owned()]).map_err(|error| refused(&error))?;
    RTCCertificate::generate(crypto.crypto(), SignatureScheme::EcdsaP256Sha256, params)
        .map_err(|error| refused(&error))
}

fn own_fingerprint(
    certificate: &RTCCertificate,
    crypto: &dyn RTCCryptoProvider,
) -> Result<Fingerprint, RtcError> {
    let refused = |error: &dyn std::fmt::Display| RtcError::Certificate(error.to_string());
    let printed = certificate.get_fingerprints(crypto.crypto()).map_err(|error| refused(&error))?;
    let mut parsed = printed
        .iter()
        .filter_map(|print| session::parse_fingerprint(&format!("{} {}", print.algorithm, print.value)));
    parsed.next().ok_or_else(|| refused(&"it has no SHA-256 fingerprint"))
}
