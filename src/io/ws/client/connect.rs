//! Reaching the server: TCP, TLS, the upgrade, and a clear word for each way it can fail.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use url::Url;

use super::{SignalReceiver, SignalSender, start};
use crate::wire::dialect::ClientDialect;
use crate::wire::limits::SERVER_SIGNAL_MAX_BYTES;
use crate::wire::{ClientSignal, Init, Secret};

/// How long reaching the server may take, from the first packet to the upgrade.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What may wait to be written: a few of the longest signals. A server that pings without end and reads nothing gets no more pongs.
const WRITE_BACKLOG_MAX_BYTES: usize = 1024 * 1024;

/// The longest `init` that rides on the URL: servers and proxies bound the head of a request, often to 8 KiB.
const INIT_ON_URL_MAX_BYTES: usize = 4 * 1024;

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct ConnectConfig {
    /// `ws://` or `wss://`, with the room as its last path segment; without secrets.
    pub url: String,
    /// Goes into the `Authorization` header.
    pub token: Option<Secret>,
    /// Whom `wss` trusts.
    pub trust: Trust,
    /// Speak wrapped messages from the start, for hosts that expect them.
    pub wrapped: bool,
    /// Rides on the URL if it holds no secret and is short, so that the server's offers follow the upgrade at once. Send it as a
    /// message too: servers of the published kind don't look at the URL.
    pub init: Option<Init>,
}

/// The certificates that `wss` trusts.
#[derive(Debug, Clone)]
pub struct Trust(Option<Arc<rustls::ClientConfig>>);

/// Why the trusted certificates could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file given with `--ca`.
    #[error("can't read certificates from {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate rustls does not take.
    #[error("a certificate can't be used")]
    Unusable(#[from] rustls::Error),
}

impl Trust {
    /// No TLS: for `ws` only.
    pub fn none() -> Self {
        Self(None)
    }

    /// The system's roots, and those of a PEM file.
    pub fn system(ca: Option<&Path>) -> Result<Self, TrustError> {
        let mut roots = rustls::RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::debug!(%error, "could not read some of the system's certificates");
        }
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = ca {
            let in_file = |source| TrustError::File { path: path.into(), source };
            for certificate in CertificateDer::pem_file_iter(path).map_err(in_file)? {
                roots.add(certificate.map_err(in_file)?)?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Some(Arc::new(config))))
    }
}

/// Why the server could not be reached, in terms of what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is no `ws://` or `wss://` URL with a host, or a token can't stand in a header.
    #[error("{0} is not the address of a signaling server: it should look like wss://host/ROOM")]
    BadUrl(String),
    /// The name is unknown, or nobody answers there. Check the address; is the server running?
    #[error("can't reach {host}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{host} does not answer")]
    Timeout {
        /// Host and port.
        host: String,
    },
    /// The certificate is not trusted, or the server speaks no TLS: `--ca`, or `ws://`.
    #[error("no trusted connection to {host}: {message}")]
    Tls {
        /// Host and port.
        host: String,
        /// What rustls says.
        message: String,
    },
    /// The server wants a token, or another one (401, 403).
    #[error("the server refused the token")]
    TokenRefused,
    /// The server, or a proxy before it, has no place or is not ready (429, 502, 503, 504). Try again later.
    #[error("{host} is busy or not ready (it answered {status})")]
    Busy {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: StatusCode,
    },
    /// Whatever answers is no signaling server.
    #[error("{host} is no signaling server (it answered {status})")]
    NotASignalingServer {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: StatusCode,
    },
    /// The answer was not HTTP, or not an upgrade.
    #[error("{host} is no signaling server: {message}")]
    NotWebSocket {
        /// Host and port.
        host: String,
        /// What is wrong.
        message: String,
    },
}

/// An open WebSocket.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects to a signaling server. Nothing is sent yet, except what rides on the URL.
pub async fn connect(config: &ConnectConfig) -> Result<(SignalSender, SignalReceiver), ConnectError> {
    let socket = open(config).await?;
    Ok(start(socket, ClientDialect::new(config.wrapped)))
}

/// Opens the socket, whatever will be said over it.
pub(super) async fn open(config: &ConnectConfig) -> Result<Socket, ConnectError> {
    let target = Target::parse(config)?;
    match timeout(CONNECT_TIMEOUT, target.connect(config)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout { host: target.host }),
    }
}

struct Target {
    request: Request<()>,
    /// Host and port, as shown.
    host: String,
}

impl Target {
    fn parse(config: &ConnectConfig) -> Result<Self, ConnectError> {
        let bad = || ConnectError::BadUrl(config.url.clone());
        let mut url = Url::parse(&config.url).map_err(|_| bad())?;
        let (Some(host), Some(port), "ws" | "wss") =
            (url.host_str(), url.port_or_known_default(), url.scheme())
        else {
            return Err(bad());
        };
        let host = format!("{host}:{port}");
        if let Some(init) = config.init.as_ref().filter(|init| init.resume.is_none()) {
            let text = ClientDialect::new(false).write(&ClientSignal::Init(init.clone()));
            let bare = url.clone();
            url.query_pairs_mut().append_pair("init", &text);
            if url.as_str().len() - bare.as_str().len() > INIT_ON_URL_MAX_BYTES {
                url = bare;
            }
        }
        url.set_fragment(None);
        let mut request = url.as_str().into_client_request().map_err(|_| bad())?;
        if let Some(token) = &config.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .map_err(|_| ConnectError::TokenRefused)?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(Self { request, host })
    }

    async fn connect(&self, config: &ConnectConfig) -> Result<Socket, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { host: self.host.clone(), source };
        let stream = TcpStream::connect(&self.host).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let limits = WebSocketConfig::default()
            .max_message_size(Some(SERVER_SIGNAL_MAX_BYTES))
            .max_frame_size(Some(SERVER_SIGNAL_MAX_BYTES))
            .max_write_buffer_size(WRITE_BACKLOG_MAX_BYTES);
        let connector = config.trust.0.clone().map_or(Connector::Plain, Connector::Rustls);
        let connecting =
            client_async_tls_with_config(self.request.clone(), stream, Some(limits), Some(connector));
        let (stream, _response) = connecting.await.map_err(|error| self.explain(error))?;
        Ok(stream)
    }

    fn explain(&self, error: Error) -> ConnectError {
        let host = self.host.clone();
        match error {
            Error::Http(response) => match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ConnectError::TokenRefused,
                status @ (StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT) => ConnectError::Busy { host, status },
                status => ConnectError::NotASignalingServer { host, status },
            },
            Error::Tls(error) => ConnectError::Tls { host, message: error.to_string() },
            Error::Io(error) => match error.get_ref().filter(|inner| inner.is::<rustls::Error>()) {
                Some(tls) => ConnectError::Tls { host, message: tls.to_string() },
                None => ConnectError::Unreachable { host, source: error },
            },
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Capacity(_)
            | Error::Protocol(_)
            | Error::WriteBufferFull(_)
            | Error::Utf8(_)
            | Error::AttackAttempt
            | Error::Url(_)
            | Error::HttpFormat(_) => {
                let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                ConnectError::NotWebSocket { host, message }
            }
        }
    }
}
