//! The way to a signaling server over a WebSocket that is opened again whenever it breaks.

use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::api::Ended;
use super::{SignalingLink, SignalingNews};
use crate::core::backoff::Backoff;
use crate::io::ws::client::{ConnectConfig, ConnectError, SignalReceiver, SignalSender, connect};
use crate::wire::signal::ErrorCode;
use crate::wire::{ClientSignal, ServerSignal};

/// Signals that may wait for the server: those of a newcomer to a room of 100, several times over.
const QUEUE: usize = 2048;

/// News that may wait for the node. What more the server says waits in the receiver, which counts its bytes.
const NEWS_QUEUE: usize = 16;

/// A connection that lasted this long was a good one: the next loss is retried at once.
const LASTING: Duration = Duration::from_secs(30);

/// Connects, and keeps connecting. The first attempt decides: if it fails there is nothing to go back to, and the node ends.
pub fn start(config: ConnectConfig) -> SignalingLink {
    let (signals, outgoing) = mpsc::channel(QUEUE);
    let (news, incoming) = mpsc::channel(NEWS_QUEUE);
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
        let lost = match connect(&config).await {
            Ok((sender, receiver)) => {
                is_first = false;
                // A member that comes back sends its secret in a message, never on the URL.
                config.init = None;
                let since = Instant::now();
                match carry(&mut outgoing, &news, sender, receiver).await {
                    Some(lost) => {
                        if since.elapsed() >= LASTING {
                            backoff.reset();
                        }
                        lost
                    }
                    None => return,
                }
            }
            Err(error) if is_first => {
                let _ = news.send(SignalingNews::Over(ended(&error))).await;
                return;
            }
            Err(error) => Lost { reason: describe(&error), was_refused: false },
        };
        let random = rand::rng().random();
        let retry_in =
            if lost.was_refused { backoff.delay_after_refusal(random) } else { backoff.next_delay(random) };
        if news.send(SignalingNews::Down { reason: lost.reason, retry_in }).await.is_err() {
            return;
        }
        sleep(retry_in).await;
    }
}

/// How a socket ended.
struct Lost {
    reason: String,
    /// The server let us into no room: our place was lost and is taken.
    was_refused: bool,
}

/// Carries signals both ways. Returns why the socket is gone, or `None` once the node has said its last.
async fn carry(
    outgoing: &mut mpsc::Receiver<ClientSignal>,
    news: &mpsc::Sender<SignalingNews>,
    sender: SignalSender,
    mut receiver: SignalReceiver,
) -> Option<Lost> {
    news.send(SignalingNews::Up).await.ok()?;
    // What the node said to the last socket means nothing to this one: everything begins with `init`.
    let mut has_begun = false;
    let mut was_refused = false;
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
                Ok(signal) => {
                    was_refused = refuses_entry(&signal);
                    news.send(SignalingNews::Signal(signal)).await.ok()?;
                }
                Err(lost) => return Some(Lost { reason: lost.to_string(), was_refused }),
            },
        }
    }
}

fn refuses_entry(signal: &ServerSignal) -> bool {
    matches!(signal, ServerSignal::SignalError { code: Some(code), .. } if code.refuses_entry())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::access::Access;
    use crate::io::ws::client::Trust;
    use crate::io::ws::server::{Server, ServerConfig};
    use crate::wire::{Init, RoomId, UserId};

    fn init(user: &str) -> ClientSignal {
        let room_id = RoomId::new("den").expect("a good id");
        let user_id = UserId::new(user).expect("a good id");
        ClientSignal::Init(Init { user_id, room_id, have: Some(Vec::new()), resume: None })
    }

    #[tokio::test]
    async fn a_server_that_lets_us_in_no_more_is_asked_seldom() {
        let mut server = ServerConfig::new(([127, 0, 0, 1], 0).into(), Access::Open);
        server.limits.members_per_room = 1;
        let server = Server::bind(server).await.expect("a free port");
        let url = format!("ws://{}/den", server.local_addr());
        let config = ConnectConfig { url, token: None, trust: Trust::none(), wrapped: false, init: None };
        let running = tokio::spawn(server.run(std::future::pending()));
        let mut first = start(config.clone());
        first.signals.send(init("alice")).await.expect("it is read");
        loop {
            let news = first.news.recv().await.expect("it goes on");
            if let SignalingNews::Signal(ServerSignal::Welcome { .. }) = news {
                break;
            }
        }
        let mut second = start(config);
        second.signals.send(init("bob")).await.expect("it is read");
        let retry_in = loop {
            if let SignalingNews::Down { retry_in, .. } = second.news.recv().await.expect("it goes on") {
                break retry_in;
            }
        };
        assert!(retry_in >= Backoff::default().delay_after_refusal(0), "{retry_in:?}");
        running.abort();
    }
}
