//! The peer's WebSocket to its signaling server. When it is lost, the node decides what next; nothing here retries.

pub mod code;
mod connect;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

pub use connect::{ConnectConfig, ConnectError, Trust, TrustError, connect};

use crate::wire::dialect::ClientDialect;
use crate::wire::{ClientSignal, ServerSignal};

/// Messages that may wait in either direction. A newcomer to a room of 100 exchanges about 600 at once.
const QUEUE_MAX_MESSAGES: usize = 2_048;

/// Bytes of the server's that may wait: twice as many as our server lets wait for us.
const QUEUE_MAX_BYTES: usize = 8 * 1024 * 1024;

/// A server that says nothing for so long is pinged.
const PING_AFTER: Duration = Duration::from_secs(10);

/// A server that gives no sign of life for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(25);

/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a client that leaves waits for the server to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Says things to the server. Dropping it, or [`SignalSender::close`], ends the connection after what was said.
#[derive(Debug)]
pub struct SignalSender(mpsc::Sender<ClientSignal>);

/// The message was not taken: the connection is over, or the server does not keep up. Either way it is of no use any
/// more, and [`SignalReceiver::recv`] tells why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the signaling server is over")]
pub struct SendError;

impl SignalSender {
    /// Queues one message; never waits.
    pub fn send(&self, signal: ClientSignal) -> Result<(), SendError> {
        self.0.try_send(signal).map_err(|_| SendError)
    }

    /// Ends the connection after what was said before.
    pub fn close(self) {}
}

/// Hears from the server.
#[derive(Debug)]
pub struct SignalReceiver(mpsc::Receiver<Heard>);

/// What waits to be heard, with its share of [`QUEUE_MAX_BYTES`].
type Heard = Result<(ServerSignal, OwnedSemaphorePermit), Lost>;

impl SignalReceiver {
    /// The next message, or once, as the last thing, why there are no more.
    pub async fn recv(&mut self) -> Result<ServerSignal, Lost> {
        self.0.recv().await.unwrap_or(Err(Lost::Closed)).map(|(signal, _share)| signal)
    }
}

/// Why the connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// We closed it.
    Closed,
    /// The server closed it, in order.
    ServerClosed {
        /// The code of RFC 6455 §7.4, 1005 if there was none.
        code: u16,
    },
    /// The server gave no sign of life for 25 seconds.
    Silent,
    /// The connection broke off.
    Broken(String),
    /// The server sent faster than we could read, or did not read.
    Overflow,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::ServerClosed { code: 1012 } => f.write_str("the server is restarting"),
            Self::ServerClosed { code: 4001 } => f.write_str("another connection took our place"),
            Self::ServerClosed { code } => write!(f, "the server closed the connection (code {code})"),
            Self::Silent => f.write_str("the server gives no sign of life"),
            Self::Broken(cause) => write!(f, "the connection broke off: {cause}"),
            Self::Overflow => f.write_str("the connection can't keep up"),
        }
    }
}

/// Carries messages between the two queues and the socket until one side has had enough.
struct Driver<S> {
    stream: S,
    dialect: ClientDialect,
    outgoing: mpsc::Receiver<ClientSignal>,
    incoming: mpsc::Sender<Heard>,
    room: Arc<Semaphore>,
}

/// Starts driving a connected socket.
fn start<S>(stream: S, dialect: ClientDialect) -> (SignalSender, SignalReceiver)
where
    S: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin + Send + 'static,
{
    let (to_driver, outgoing) = mpsc::channel(QUEUE_MAX_MESSAGES);
    let (incoming, from_driver) = mpsc::channel(QUEUE_MAX_MESSAGES);
    let room = Arc::new(Semaphore::new(QUEUE_MAX_BYTES));
    let driver = Driver { stream, dialect, outgoing, incoming, room };
    tokio::spawn(driver.run());
    (SignalSender(to_driver), SignalReceiver(from_driver))
}

impl<S> Driver<S>
where
    S: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin,
{
    async fn run(mut self) {
        let lost = self.drive().await;
        tracing::debug!(%lost, "signaling ended");
        // The node may have stopped listening, and then nobody needs to know.
        let _ = self.incoming.try_send(Err(lost));
        let _ = timeout(CLOSE_TIMEOUT, self.say_goodbye()).await;
    }

    async fn drive(&mut self) -> Lost {
        let mut seen = Instant::now();
        let mut pinged = false;
        loop {
            let deadline = if pinged { seen + GONE_AFTER } else { seen + PING_AFTER };
            let outcome = tokio::select! {
                message = self.stream.next() => {
                    (seen, pinged) = (Instant::now(), false);
                    self.take(message)
                }
                signal = self.outgoing.recv() => match signal {
                    Some(signal) => self.write_batch(signal).await,
                    None => Err(Lost::Closed),
                },
                () = sleep_until(deadline) => {
                    if pinged {
                        Err(Lost::Silent)
                    } else {
                        pinged = true;
                        in_time(self.stream.send(Message::Ping(Bytes::new()))).await
                    }
                }
            };
            if let Err(lost) = outcome {
                return lost;
            }
        }
    }

    fn take(&mut self, message: Option<Result<Message, Error>>) -> Result<(), Lost> {
        match message {
            Some(Ok(Message::Text(text))) => match self.dialect.parse(&text) {
                Ok(signal) => self.queue(signal, text.len()),
                Err(error) => {
                    tracing::debug!(%error, "ignored a message of the server");
                    Ok(())
                }
            },
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map_or(CloseCode::Status, |frame| frame.code);
                Err(Lost::ServerClosed { code: code.into() })
            }
            Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Err(error)) => Err(Lost::Broken(error.to_string())),
            None => Err(Lost::Broken("the server is gone".into())),
        }
    }

    fn queue(&self, signal: ServerSignal, bytes: usize) -> Result<(), Lost> {
        let bytes = u32::try_from(bytes).map_err(|_| Lost::Overflow)?;
        let share = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| Lost::Overflow)?;
        self.incoming.try_send(Ok((signal, share))).map_err(|_| Lost::Overflow)
    }

    /// Writes this message and those that wait behind it, and flushes once.
    async fn write_batch(&mut self, first: ClientSignal) -> Result<(), Lost> {
        let mut next = Some(first);
        while let Some(signal) = next {
            let text = self.dialect.write(&signal);
            in_time(self.stream.feed(Message::Text(text.into()))).await?;
            next = self.outgoing.try_recv().ok();
        }
        in_time(self.stream.flush()).await
    }

    async fn say_goodbye(&mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        if self.stream.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = self.stream.next().await {}
        }
    }
}

async fn in_time(write: impl Future<Output = Result<(), Error>>) -> Result<(), Lost> {
    match timeout(WRITE_TIMEOUT, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Lost::Broken(error.to_string())),
        Err(_) => Err(Lost::Overflow),
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::wire::limits::SERVER_SIGNAL_MAX_BYTES;

    #[tokio::test]
    async fn a_server_that_sends_more_than_is_read_is_given_up() {
        let (ours, theirs) = tokio::io::duplex(SERVER_SIGNAL_MAX_BYTES);
        let mut server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let client = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let (_sender, mut receiver) = start(client, ClientDialect::default());
        let padding = "x".repeat(SERVER_SIGNAL_MAX_BYTES - 100);
        let text = format!(r#"{{"type":"offerRequest","padding":"{padding}"}}"#);
        let fit = QUEUE_MAX_BYTES / text.len();

        // All that fits is heard, as often as it is read in between.
        for _ in 0..2 {
            for _ in 0..fit {
                server.send(Message::Text(text.clone().into())).await.expect("it is read");
            }
            for _ in 0..fit {
                assert_eq!(receiver.recv().await, Ok(ServerSignal::OfferRequest));
            }
        }
        for _ in 0..=fit {
            server.send(Message::Text(text.clone().into())).await.expect("it is read");
        }
        assert!(matches!(server.next().await, Some(Ok(Message::Close(_)))), "one too many");
        for _ in 0..fit {
            assert_eq!(receiver.recv().await, Ok(ServerSignal::OfferRequest));
        }
        assert_eq!(receiver.recv().await, Err(Lost::Overflow));
    }
}
