//! One client's socket: text in, text out, and a sign of life now and then.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite;

use super::Timeouts;
use super::hub::{Hub, Inbox, ToSocket};
use crate::core::access::Grant;
use crate::core::network::ClientAddress;
use crate::core::room::{CloseReason, Input, SocketId};
use crate::wire::RoomId;
use crate::wire::dialect::ServerDialect;
use crate::wire::signal::ErrorCode;

/// How long a client may take to read what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the closing handshake may take (RFC 6455 §7.1.1).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Messages written before the socket is read again.
const WRITE_BUDGET: usize = 64;

/// With what a socket begins.
pub(super) struct Opening {
    /// Whom it counts against.
    pub(super) address: ClientAddress,
    /// Held as long as the connection lives.
    pub(super) alive: mpsc::Sender<()>,
    pub(super) grant: Grant,
    /// The room of the URL.
    pub(super) room: RoomId,
    /// The first message, if it came with the URL.
    pub(super) init: Option<String>,
    pub(super) timeouts: Timeouts,
}

struct Socket {
    id: SocketId,
    stream: WebSocket,
    hub: Arc<Hub>,
    dialect: ServerDialect,
    timeouts: Timeouts,
}

/// Serves one socket to its end.
pub(super) async fn run(stream: WebSocket, hub: Arc<Hub>, opening: Opening) {
    let Opening { address, alive: _alive, grant, room, init, timeouts } = opening;
    let (id, mut inbox) = hub.connect(address, grant);
    let mut socket = Socket { id, stream, hub, dialect: ServerDialect::new(room), timeouts };
    tracing::debug!(socket = id.0, "open");
    if let Some(init) = init {
        socket.take_text(&init);
    }
    let close = socket.serve(&mut inbox).await;
    socket.hub.disconnect(id);
    tracing::debug!(socket = id.0, "closed");
    if let Some(frame) = close {
        // The client is told why on a best effort: it may be gone.
        let _ = timeout(CLOSE_TIMEOUT, socket.say_goodbye(frame)).await;
    }
}

impl Socket {
    /// Reads and writes until one side has had enough. Returns what the client is told, if it can be told.
    async fn serve(&mut self, inbox: &mut Inbox) -> Option<CloseFrame> {
        let mut seen = Instant::now();
        let mut pinged = false;
        loop {
            let patience = if pinged { self.timeouts.gone_after } else { self.timeouts.ping_after };
            tokio::select! {
                message = self.stream.next() => {
                    (seen, pinged) = (Instant::now(), false);
                    match self.take(message) {
                        ControlFlow::Continue(()) => {}
                        ControlFlow::Break(close) => return close,
                    }
                }
                message = inbox.recv() => match self.write_batch(message, inbox).await {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(close) => return close,
                },
                () = sleep_until(seen + patience) => {
                    if pinged || !in_time(self.stream.send(Message::Ping(Bytes::new()))).await {
                        return None;
                    }
                    pinged = true;
                }
            }
        }
    }

    fn take(&mut self, message: Option<Result<Message, axum::Error>>) -> ControlFlow<Option<CloseFrame>> {
        match message {
            Some(Ok(Message::Text(text))) => self.take_text(&text),
            Some(Ok(Message::Binary(_))) => {
                self.refuse(ErrorCode::Malformed, "send text, one JSON object a message");
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.hub.handle(Input::Seen(self.id)),
            Some(Ok(Message::Close(_))) | None => return ControlFlow::Break(None),
            Some(Err(error)) => {
                tracing::debug!(socket = self.id.0, %error, "broken off");
                return ControlFlow::Break(close_for(error));
            }
        }
        ControlFlow::Continue(())
    }

    fn take_text(&mut self, text: &str) {
        match self.dialect.parse(text) {
            Ok(signals) => {
                for signal in signals {
                    self.hub.handle(Input::Signal { socket: self.id, signal });
                }
            }
            Err(error) => self.refuse(error.code, error.message),
        }
    }

    fn refuse(&self, code: ErrorCode, message: impl Into<String>) {
        self.hub.handle(Input::Invalid { socket: self.id, code, message: message.into() });
    }

    /// Writes what there is to write, up to the budget, and flushes once.
    async fn write_batch(
        &mut self,
        first: Option<ToSocket>,
        inbox: &mut Inbox,
    ) -> ControlFlow<Option<CloseFrame>> {
        // The hub has given the socket up: it does not keep up with what it is sent.
        let Some(mut message) = first else {
            return ControlFlow::Break(Some(frame(TRY_AGAIN_LATER, "too slow")));
        };
        for written in 1.. {
            let out = match message {
                ToSocket::Signal(signal) => {
                    self.dialect.write(&signal).map(|text| Message::Text(text.into()))
                }
                ToSocket::Ping => Some(Message::Ping(Bytes::new())),
                ToSocket::Close(reason) => return ControlFlow::Break(Some(close_frame(reason))),
            };
            if let Some(out) = out
                && !in_time(self.stream.feed(out)).await
            {
                return ControlFlow::Break(None);
            }
            if written == WRITE_BUDGET {
                break;
            }
            match inbox.try_recv() {
                Some(next) => message = next,
                None => break,
            }
        }
        if in_time(self.stream.flush()).await { ControlFlow::Continue(()) } else { ControlFlow::Break(None) }
    }

    async fn say_goodbye(&mut self, frame: CloseFrame) {
        if self.stream.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        // Closing with unread input would reset the connection and could destroy what was just said.
        while let Some(Ok(_)) = self.stream.next().await {}
    }
}

/// Whether the client read what was written to it.
async fn in_time(write: impl Future<Output = Result<(), axum::Error>>) -> bool {
    matches!(timeout(WRITE_TIMEOUT, write).await, Ok(Ok(())))
}

const TOO_BIG: u16 = 1009;
const POLICY: u16 = 1008;
const RESTART: u16 = 1012;
const TRY_AGAIN_LATER: u16 = 1013;
/// Ours, from the range for private use (RFC 6455 §7.4.2).
const REPLACED: u16 = 4001;

fn frame(code: u16, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: reason.into() }
}

fn close_frame(reason: CloseReason) -> CloseFrame {
    match reason {
        CloseReason::Refused(_) => frame(POLICY, "refused"),
        CloseReason::Replaced => frame(REPLACED, "replaced"),
        CloseReason::ShuttingDown => frame(RESTART, "restarting"),
    }
}

/// What a client is told whose message broke the connection: only one that is too large leaves it able to listen.
fn close_for(error: axum::Error) -> Option<CloseFrame> {
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => Some(frame(TOO_BIG, "message too big")),
        Some(_) | None => None,
    }
}
