//! One client's socket: text in, text out, and a sign of life now and then.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite;

use super::Timeouts;
use super::hub::{Connection, Hub, Inbox, ToSocket, TooSlow};
use crate::core::access::Grant;
use crate::core::network::ClientAddress;
use crate::core::room::{CloseReason, Input, SocketId};
use crate::wire::RoomId;
use crate::wire::dialect::ServerDialect;
use crate::wire::signal::ErrorCode;

/// How long a client may take to read what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client that is let go may take for all that was said to it before.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(10);

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

/// A [`WebSocket`](axum::extract::ws::WebSocket), or what stands for one in tests.
pub(super) trait Wire:
    Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

impl<S> Wire for S where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

struct Socket<S> {
    id: SocketId,
    stream: S,
    hub: Arc<Hub>,
    dialect: ServerDialect,
    timeouts: Timeouts,
}

/// Serves one socket to its end.
pub(super) async fn run<S: Wire>(stream: S, hub: Arc<Hub>, opening: Opening) {
    let Opening { address, alive: _alive, grant, room, init, timeouts } = opening;
    let Connection { socket: id, mut inbox, over } = hub.connect(address, grant);
    // Dropped last: until then the socket counts.
    let _end = End { hub: hub.clone(), id };
    let mut socket = Socket { id, stream, hub, dialect: ServerDialect::new(room), timeouts };
    tracing::debug!(socket = id.0, "open");
    if let Some(init) = init {
        socket.take_text(&init);
    }
    let close = tokio::select! {
        biased;
        close = socket.serve(&mut inbox) => close,
        close = time_is_over(over) => close,
    };
    drop(inbox);
    socket.hub.handle(Input::GivenUp(id));
    tracing::debug!(socket = id.0, "closed");
    if let Some(frame) = close {
        // The client is told why on a best effort: it may be gone.
        let _ = timeout(CLOSE_TIMEOUT, socket.say_goodbye(frame)).await;
    }
}

/// The end of a socket's task, whichever way it comes.
struct End {
    hub: Arc<Hub>,
    id: SocketId,
}

impl Drop for End {
    fn drop(&mut self) {
        self.hub.disconnect(self.id);
    }
}

/// When a socket must end although its client may not have read everything, and what it is told then.
async fn time_is_over(over: oneshot::Receiver<TooSlow>) -> Option<CloseFrame> {
    match over.await {
        Ok(TooSlow) => Some(frame(TRY_AGAIN_LATER, "too slow")),
        Err(_) => {
            sleep(LAST_WORDS_TIMEOUT).await;
            None
        }
    }
}

impl<S: Wire> Socket<S> {
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
                ToSocket::Close(reason) => {
                    // The goodbye has little time, and this is no part of it.
                    let is_read = in_time(self.stream.flush()).await;
                    return ControlFlow::Break(close_frame(reason).filter(|_| is_read));
                }
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

fn close_frame(reason: CloseReason) -> Option<CloseFrame> {
    match reason {
        CloseReason::Refused(_) => Some(frame(POLICY, "refused")),
        CloseReason::Replaced => Some(frame(REPLACED, "replaced")),
        CloseReason::Crowded => None,
        CloseReason::ShuttingDown => Some(frame(RESTART, "restarting")),
    }
}

/// What a client is told whose message broke the connection: only one that is too large leaves it able to listen.
fn close_for(error: axum::Error) -> Option<CloseFrame> {
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => Some(frame(TOO_BIG, "message too big")),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::time::Sleep;

    use super::*;
    use crate::core::room::Limits;
    use crate::wire::{ClientSignal, ServerSignal};

    /// A client that says nothing.
    enum Client {
        Stuck,
        /// Reads a message, waits a moment, and reads the next.
        Reads {
            heard: mpsc::UnboundedSender<Message>,
            pace: Duration,
            next: Pin<Box<Sleep>>,
            written: VecDeque<Message>,
        },
    }

    impl Client {
        fn reads(pace: Duration) -> (Self, mpsc::UnboundedReceiver<Message>) {
            let (heard, hears) = mpsc::unbounded_channel();
            (Self::Reads { heard, pace, next: Box::pin(sleep(pace)), written: VecDeque::new() }, hears)
        }
    }

    impl Stream for Client {
        type Item = Result<Message, axum::Error>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Pending
        }
    }

    impl Sink<Message> for Client {
        type Error = axum::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            match &*self {
                Self::Stuck => Poll::Pending,
                Self::Reads { .. } => Poll::Ready(Ok(())),
            }
        }

        fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), axum::Error> {
            match &mut *self {
                Self::Stuck => {}
                Self::Reads { written, .. } => written.push_back(message),
            }
            Ok(())
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            let Self::Reads { heard, pace, next, written } = &mut *self else { return Poll::Pending };
            while !written.is_empty() {
                std::task::ready!(next.as_mut().poll(context));
                next.as_mut().reset(Instant::now() + *pace);
                heard.send(written.pop_front().expect("there is one")).expect("the test listens");
            }
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
            self.poll_flush(context)
        }
    }

    fn opening() -> Opening {
        Opening {
            address: ClientAddress::of(std::net::Ipv4Addr::LOCALHOST.into()),
            alive: mpsc::channel(1).0,
            grant: Grant::EveryRoom,
            room: RoomId::new("den").expect("a good id"),
            init: Some(r#"{"type":"init","userId":"ada","have":[]}"#.to_owned()),
            timeouts: Timeouts::default(),
        }
    }

    fn hub() -> Arc<Hub> {
        let limits = Limits { sockets_per_address: 1, messages_burst: u32::MAX, ..Limits::default() };
        Arc::new(Hub::new(limits, [0; 32]))
    }

    /// The number of the first socket.
    const ADA: SocketId = SocketId(0);

    /// Says something to the client that it does not ask for.
    fn say(hub: &Hub, user: &str) {
        let user_id = crate::wire::UserId::new(user).expect("a good id");
        hub.handle(Input::Signal { socket: ADA, signal: ClientSignal::Want { user_id } });
    }

    /// Whether another socket of the same address is let in.
    fn is_let_in(hub: &Hub) -> bool {
        let mut connection = hub.connect(opening().address, Grant::EveryRoom);
        hub.disconnect(connection.socket);
        connection.inbox.try_recv().is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_frees_its_queue_at_once_and_counts_until_it_is_closed() {
        let hub = hub();
        let start = Instant::now();
        let mut task = tokio::spawn(run(Client::Stuck, hub.clone(), opening()));
        assert!(timeout(Duration::from_secs(1), &mut task).await.is_err(), "stuck in the first write");
        let queue = hub.queue_of(ADA);
        while hub.stats().sockets == 1 {
            say(&hub, "nobody");
        }
        while queue.upgrade().is_some() {
            assert_eq!(start.elapsed(), Duration::from_secs(1), "freed before there is time for goodbyes");
            tokio::task::yield_now().await;
        }
        assert!(!is_let_in(&hub), "it is given up, and not gone yet");
        task.await.expect("no panic");
        assert_eq!(start.elapsed(), Duration::from_secs(1) + CLOSE_TIMEOUT);
        assert!(is_let_in(&hub));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_let_go_and_does_not_read_is_gone_in_time() {
        let hub = hub();
        let mut task = tokio::spawn(run(Client::Stuck, hub.clone(), opening()));
        assert!(timeout(Duration::from_secs(1), &mut task).await.is_err(), "stuck in the first write");
        let start = Instant::now();
        hub.handle(Input::Shutdown);
        task.await.expect("no panic");
        assert_eq!(start.elapsed(), LAST_WORDS_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_hears_the_last_words_whatever_the_reason() {
        let hub = hub();
        let (client, mut hears) = Client::reads(Duration::from_millis(50));
        let task = tokio::spawn(run(client, hub.clone(), opening()));
        assert!(hears.recv().await.is_some(), "welcome");
        for n in 0..WRITE_BUDGET + 32 {
            say(&hub, &format!("nobody-{n}"));
        }
        hub.handle(Input::Shutdown);
        for n in 0..WRITE_BUDGET + 32 {
            let user_id = crate::wire::UserId::new(format!("nobody-{n}")).expect("a good id");
            let gone = ServerDialect::new(opening().room).write(&ServerSignal::Gone { user_id });
            assert_eq!(hears.recv().await, gone.map(|text| Message::Text(text.into())));
        }
        let Some(Message::Text(error)) = hears.recv().await else { panic!("the reason") };
        assert!(error.contains("shutting_down"), "{error}");
        assert_eq!(hears.recv().await, Some(Message::Close(Some(frame(RESTART, "restarting")))));
        task.await.expect("no panic");
    }
}
