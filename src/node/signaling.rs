//! The way to a signaling server over a WebSocket that is opened again whenever it breaks.

use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::api::Ended;
use super::{SignalingLink, SignalingNews};
use crate::core::backoff::Backoff;
use crate::io::ws::client::{ConnectConfig, ConnectError, SignalReceiver, SignalSender, connect};
use crate::wire::ClientSignal;
use crate::wire::signal::ErrorCode;

/// Signals that may wait in either direction: those of a newcomer to a room of 100, several times over.
const QUEUE: usize = 2048;

/// A connection that lasted this long was a good one: the next loss is retried at once.
const LASTING: Duration = Duration::from_secs(30);

/// Connects, and keeps connecting. The first attempt decides: if it fails there is nothing to go back to, and the node ends.
pub fn start(config: ConnectConfig) -> SignalingLink {
    let (signals, outgoing) = mpsc::channel(QUEUE);
    let (news, incoming) = mpsc::channel(QUEUE);
    tokio::spawn(run(config, outgoing, news));
    SignalingLink { signals, news: incoming }
}

async fn run(
    mut config: ConnectConfig,
    mut outgoing: mpsc::Receiver<ClientSignal>,
    news: mpsc::Sender<SignalingNews>,
) {
    let mut backoff = Backoff::default();
    let mut is_first = true;
    loop {
        let reason = match connect(&config).await {
            Ok((sender, receiver)) => {
                is_first = false;
                // A member that comes back sends its secret in a message, never on the URL.
                config.init = None;
                let since = Instant::now();
                match carry(&mut outgoing, &news, sender, receiver).await {
                    Some(reason) => {
                        if since.elapsed() >= LASTING {
                            backoff.reset();
                        }
                        reason
                    }
                    None => return,
                }
            }
            Err(error) if is_first => {
                let _ = news.send(SignalingNews::Over(ended(&error))).await;
                return;
            }
            Err(error) => describe(&error),
        };
        let retry_in = backoff.next_delay(rand::rng().random());
        if news.send(SignalingNews::Down { reason, retry_in }).await.is_err() {
            return;
        }
        sleep(retry_in).await;
    }
}

/// Carries signals both ways. Returns why the socket is gone, or `None` once the node has said its last.
async fn carry(
    outgoing: &mut mpsc::Receiver<ClientSignal>,
    news: &mpsc::Sender<SignalingNews>,
    sender: SignalSender,
    mut receiver: SignalReceiver,
) -> Option<String> {
    news.send(SignalingNews::Up).await.ok()?;
    // What the node said to the last socket means nothing to this one: everything begins with `init`.
    let mut has_begun = false;
    loop {
        tokio::select! {
            signal = outgoing.recv() => match signal {
                None => {
                    sender.close();
                    while receiver.recv().await.is_ok() {}
                    return None;
                }
                Some(signal) => {
                    has_begun |= matches!(signal, ClientSignal::Init(_));
                    // An error means that the socket is gone: the receiver says why.
                    if has_begun {
                        let _ = sender.send(signal);
                    }
                }
            },
            heard = receiver.recv() => match heard {
                Ok(signal) => news.send(SignalingNews::Signal(signal)).await.ok()?,
                Err(lost) => return Some(lost.to_string()),
            },
        }
    }
}

fn ended(error: &ConnectError) -> Ended {
    match error {
        ConnectError::TokenRefused => {
            Ended::Refused { code: ErrorCode::Forbidden, message: error.to_string() }
        }
        ConnectError::BadUrl(_)
        | ConnectError::Unreachable { .. }
        | ConnectError::Timeout { .. }
        | ConnectError::Tls { .. }
        | ConnectError::Busy { .. }
        | ConnectError::NotASignalingServer { .. }
        | ConnectError::NotWebSocket { .. } => Ended::Unreachable { reason: describe(error) },
    }
}

fn describe(error: &ConnectError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
