//! What a request must bring before it becomes a socket: a good path, an allowed origin, a token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, Path, Query, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::codes::{self, Codes};
use super::hub::Hub;
use super::socket::{self, Opening};
use super::{Timeouts, metrics};
use crate::core::access::{Access, Denied, Grant};
use crate::core::code::relay::Standing;
use crate::core::network::{ClientAddress, Forwarding, TrustedProxies};
use crate::wire::code::{CODE_PATH, CODE_SIGNAL_MAX_BYTES};
use crate::wire::dialect::DEFAULT_ROOM;
use crate::wire::limits::SIGNAL_MAX_BYTES;
use crate::wire::{RoomId, Secret};

/// Read and write buffers of a socket, in bytes. Most sockets are idle most of the time, and a signal is small.
const READ_BUFFER_BYTES: usize = 1_024;
const WRITE_BUFFER_BYTES: usize = 4_096;

/// What may wait in a socket's write buffer: a few of the longest messages. Without a bound each ping of a client that reads
/// nothing adds a pong.
const WRITE_BACKLOG_MAX_BYTES: usize = 1024 * 1024;
const CODE_BACKLOG_MAX_BYTES: usize = 64 * 1024;

/// A message that is only a little too large is refused politely; beyond this the socket is closed.
const MESSAGE_MAX_BYTES: usize = 2 * SIGNAL_MAX_BYTES;

const GREETING: &str = "This is a swarm signaling server. Join a room with `swarm join`.\n";

#[derive(Debug)]
pub(super) struct Gate {
    pub(super) access: Access,
    pub(super) origins: Option<Vec<String>>,
    pub(super) proxies: TrustedProxies,
    pub(super) timeouts: Timeouts,
    pub(super) hub: Arc<Hub>,
    pub(super) codes: Arc<Codes>,
    /// Places for WebSockets …
    pub(super) seats: Arc<Semaphore>,
    /// … and for those of newcomers with one-time codes, who are not to take everybody else's.
    pub(super) strangers_seats: Arc<Semaphore>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    /// The other end of the socket, which may be a proxy.
    pub(super) peer: IpAddr,
    /// Held as long as the connection lives.
    pub(super) alive: mpsc::Sender<()>,
}

/// What may stand in the URL's query.
#[derive(Deserialize)]
struct Parameters {
    /// For browsers, which can't set headers on a WebSocket.
    token: Option<String>,
    /// The client's first message, so that its answer can follow the upgrade at once.
    init: Option<String>,
}

pub(super) fn router(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(serve_metrics))
        .route("/", get(open_lobby))
        .route("/{*room}", get(open_room))
        .layer(map_response(close_after))
        .with_state(gate)
}

/// One connection, one request: whoever keeps asking does not keep a place.
async fn close_after(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Gate {
    fn admit(&self, headers: &HeaderMap, parameters: &Parameters) -> Result<Grant, Refusal> {
        self.check_origin(headers)?;
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer =
            bearer.and_then(|value| value.strip_prefix("Bearer ")).map(|token| Secret::new(token.trim()));
        let presented = bearer.or_else(|| parameters.token.as_ref().map(Secret::new));
        // A clock before 1970 is a clock not set; every minted token is then as good as new.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.access.admit(presented.as_ref(), now).map_err(Refusal::Token)
    }

    /// Whom the request counts against.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let lines = |name: &str| -> Vec<&str> {
            headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect()
        };
        let (x_forwarded_for, forwarded) = (lines("x-forwarded-for"), lines(header::FORWARDED.as_str()));
        let said = Forwarding { x_forwarded_for: &x_forwarded_for, forwarded: &forwarded };
        ClientAddress::of(self.proxies.client(peer, said))
    }

    /// Only browsers send an `Origin`, and they can't lie about it (RFC 6455 §10.2).
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let (Some(allowed), Some(origin)) = (&self.origins, headers.get(header::ORIGIN)) else {
            return Ok(());
        };
        let allowed =
            allowed.iter().any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()));
        if allowed { Ok(()) } else { Err(Refusal::Origin) }
    }
}

/// Why a request does not become a socket.
#[derive(Debug)]
enum Refusal {
    Token(Denied),
    Origin,
    Room,
    Full,
    NoUpgrade(WebSocketUpgradeRejection),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Token(denied) => {
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, challenge, format!("{denied}\n")).into_response()
            }
            Self::Origin => {
                (StatusCode::FORBIDDEN, "this web page may not use this server\n").into_response()
            }
            Self::Room => {
                let message = "the last part of the path is no room: 1 to 128 letters, digits or marks\n";
                (StatusCode::BAD_REQUEST, message).into_response()
            }
            Self::Full => {
                tracing::debug!("turned a client away: the server has all the sockets it may have");
                let retry = [(header::RETRY_AFTER, "5")];
                (StatusCode::SERVICE_UNAVAILABLE, retry, "the server is full; try again soon\n")
                    .into_response()
            }
            Self::NoUpgrade(rejection) => rejection.into_response(),
        }
    }
}

async fn serve_metrics(
    State(gate): State<Arc<Gate>>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    match gate.admit(&headers, &parameters)? {
        Grant::EveryRoom => Ok(metrics::render(&gate.hub.recent_stats(Instant::now())).into_response()),
        Grant::Room(_) => Err(Refusal::Token(Denied::Wrong)),
    }
}

async fn open_lobby(
    state: State<Arc<Gate>>,
    guest: Extension<Guest>,
    parameters: Query<Parameters>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Refusal> {
    open(state, guest, parameters, &headers, upgrade, DEFAULT_ROOM)
}

async fn open_room(
    state: State<Arc<Gate>>,
    guest: Extension<Guest>,
    Path(path): Path<String>,
    parameters: Query<Parameters>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Refusal> {
    // A reverse proxy may have put something in front: the room is the last part.
    let room = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if room == CODE_PATH {
        return open_code(state, guest, parameters, &headers, upgrade);
    }
    open(state, guest, parameters, &headers, upgrade, room)
}

fn open(
    State(gate): State<Arc<Gate>>,
    Extension(guest): Extension<Guest>,
    Query(parameters): Query<Parameters>,
    headers: &HeaderMap,
    upgrade: Upgrade,
    room: &str,
) -> Result<Response, Refusal> {
    let upgrade = match upgrade.0 {
        Ok(upgrade) => upgrade,
        Err(_) if !headers.contains_key(header::UPGRADE) => return Ok(GREETING.into_response()),
        Err(rejection) => return Err(Refusal::NoUpgrade(rejection)),
    };
    let room = RoomId::new(room).map_err(|_| Refusal::Room)?;
    let grant = gate.admit(headers, &parameters)?;
    let seat = take(&gate.seats)?;
    let (hub, timeouts) = (gate.hub.clone(), gate.timeouts);
    let address = gate.client(guest.peer, headers);
    let opening = Opening { address, alive: guest.alive, grant, room, init: parameters.init, timeouts };
    let upgrade = bounded(upgrade, MESSAGE_MAX_BYTES, WRITE_BACKLOG_MAX_BYTES);
    Ok(upgrade.on_upgrade(async move |socket| {
        socket::run(socket, hub, opening).await;
        drop(seat);
    }))
}

/// A socket for one-time codes. Whoever has no good token may come in as a newcomer; web pages, which codes are not for
/// and which could burn them from any visitor's machine, may not.
fn open_code(
    State(gate): State<Arc<Gate>>,
    Extension(guest): Extension<Guest>,
    Query(parameters): Query<Parameters>,
    headers: &HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Refusal> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refusal::Origin);
    }
    let upgrade = upgrade.0.map_err(Refusal::NoUpgrade)?;
    let (standing, seats) = match gate.admit(headers, &parameters) {
        Ok(Grant::EveryRoom | Grant::Room(_)) => (Standing::Member, &gate.seats),
        Err(_) => (Standing::Stranger, &gate.strangers_seats),
    };
    let seat = take(seats)?;
    let upgrade = bounded(upgrade, CODE_SIGNAL_MAX_BYTES, CODE_BACKLOG_MAX_BYTES);
    let (codes, address) = (gate.codes.clone(), gate.client(guest.peer, headers));
    Ok(upgrade.on_upgrade(async move |socket| {
        codes::run(socket, codes, address, standing, guest.alive).await;
        drop(seat);
    }))
}

fn take(seats: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    seats.clone().try_acquire_owned().map_err(|_| Refusal::Full)
}

/// A socket that takes messages of so many bytes, and of which so many may wait to be written.
fn bounded(upgrade: WebSocketUpgrade, message_max: usize, backlog_max: usize) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(message_max)
        .max_frame_size(message_max)
        .max_write_buffer_size(backlog_max)
}

/// The upgrade, or why the request is none.
struct Upgrade(Result<WebSocketUpgrade, WebSocketUpgradeRejection>);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(WebSocketUpgrade::from_request_parts(parts, state).await))
    }
}
