//! One-time codes: sockets of their own, without a room, for the one [`Relay`] machine.
//!
//! Newcomers have no token yet. All that a socket without one can do here is to claim a number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep_until, timeout};

use crate::core::code::relay::{Input, Limits, Output, Relay, Standing};
use crate::core::network::ClientAddress;
use crate::core::room::SocketId;
use crate::wire::code::{ClientCode, ServerCode};

/// Messages that may wait for one socket; the whole exchange has fewer.
const QUEUE_MAX_MESSAGES: usize = 8;

/// How long one write, and the closing handshake, may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Codes {
    state: Mutex<State>,
    /// The first deadline is another.
    deadline_moved: Notify,
}

#[derive(Debug)]
struct State {
    relay: Relay,
    queues: HashMap<SocketId, mpsc::Sender<ServerCode>>,
    /// How many tasks there are for each address: those of sockets that the machine has refused or forgotten, too.
    tasks: HashMap<ClientAddress, usize>,
    tasks_per_address: usize,
    next_socket: u64,
    /// What the timer task waits for.
    armed: Option<Instant>,
}

/// What a socket's task has from the start to its very end.
struct Task {
    codes: Arc<Codes>,
    address: ClientAddress,
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.codes.lock();
        if let Some(count) = state.tasks.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                state.tasks.remove(&self.address);
            }
        }
    }
}

impl Codes {
    pub(super) fn new(limits: Limits, seed: [u8; 32]) -> Self {
        // As many again may be on their way out.
        let tasks_per_address = limits.sockets_per_address.saturating_mul(2);
        let state = State {
            relay: Relay::new(limits, seed),
            queues: HashMap::new(),
            tasks: HashMap::new(),
            tasks_per_address,
            next_socket: 0,
            armed: None,
        };
        Self { state: Mutex::new(state), deadline_moved: Notify::new() }
    }

    /// Takes a socket in, unless there are so many of its address that it is not worth a word.
    fn enter(self: Arc<Self>, address: ClientAddress) -> Option<Task> {
        let mut state = self.lock();
        let most = state.tasks_per_address;
        let count = state.tasks.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(state);
        Some(Task { codes: self, address })
    }

    pub(super) fn shut_down(&self) {
        self.handle(Input::Shutdown);
    }

    /// Wakes the machine when it wants to be woken. Never ends.
    pub(super) async fn run_timers(&self) {
        loop {
            let armed = self.lock().armed;
            tokio::select! {
                () = until(armed) => {
                    let mut state = self.lock();
                    state.relay.handle_timeout(Instant::now());
                    self.drain(&mut state);
                }
                () = self.deadline_moved.notified() => {}
            }
        }
    }

    fn connect(&self, address: ClientAddress, standing: Standing) -> (SocketId, mpsc::Receiver<ServerCode>) {
        let (sender, inbox) = mpsc::channel(QUEUE_MAX_MESSAGES);
        let mut state = self.lock();
        let socket = SocketId(state.next_socket);
        state.next_socket += 1;
        state.queues.insert(socket, sender);
        self.turn(&mut state, Input::Connected { socket, address, standing });
        (socket, inbox)
    }

    fn disconnect(&self, socket: SocketId) {
        let mut state = self.lock();
        state.queues.remove(&socket);
        self.turn(&mut state, Input::Lost(socket));
    }

    fn handle(&self, input: Input) {
        self.turn(&mut self.lock(), input);
    }

    fn turn(&self, state: &mut State, input: Input) {
        state.relay.handle(Instant::now(), input);
        self.drain(state);
    }

    fn drain(&self, state: &mut State) {
        state.drain();
        let next = state.relay.poll_timeout().map(|(at, _)| at);
        if next != state.armed {
            state.armed = next;
            self.deadline_moved.notify_one();
        }
    }

    /// A panic in the machine would be our bug; it must not take everybody else's codes with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A queue that is dropped ends its socket once it is empty; so does one that is full.
    fn drain(&mut self) {
        while let Some(output) = self.relay.poll() {
            match output {
                Output::Send(socket, message) => {
                    let full = self.queues.get(&socket).is_some_and(|queue| queue.try_send(message).is_err());
                    if full {
                        self.queues.remove(&socket);
                    }
                }
                Output::Close(socket) => drop(self.queues.remove(&socket)),
            }
        }
    }
}

/// Serves one socket to its end; `_alive` is held as long.
pub(super) async fn run(
    stream: WebSocket,
    codes: Arc<Codes>,
    address: ClientAddress,
    standing: Standing,
    _alive: mpsc::Sender<()>,
) {
    let Some(_task) = codes.clone().enter(address) else { return };
    // Dropped before the task is counted off.
    let mut stream = stream;
    let (socket, mut inbox) = codes.connect(address, standing);
    tracing::debug!(socket = socket.0, ?standing, "open for a code");
    let ours_to_close = serve(&mut stream, &codes, socket, &mut inbox).await;
    codes.disconnect(socket);
    tracing::debug!(socket = socket.0, "closed");
    if ours_to_close {
        let _ = timeout(CLOSE_TIMEOUT, say_goodbye(&mut stream)).await;
    }
}

/// Returns whether the client is still there to be told that it is over.
async fn serve(
    stream: &mut WebSocket,
    codes: &Codes,
    socket: SocketId,
    inbox: &mut mpsc::Receiver<ServerCode>,
) -> bool {
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    codes.handle(Input::Message(socket, ClientCode::parse(&text)));
                }
                Some(Ok(Message::Binary(_))) => codes.handle(Input::Message(socket, None)),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
            },
            message = inbox.recv() => {
                let Some(message) = message else { return true };
                let write = stream.send(Message::Text(message.to_text().into()));
                if !matches!(timeout(WRITE_TIMEOUT, write).await, Ok(Ok(()))) {
                    return false;
                }
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn say_goodbye(stream: &mut WebSocket) {
    let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    if stream.send(Message::Close(Some(frame))).await.is_ok() {
        // Closing with unread input would reset the connection and could destroy what was just said.
        while let Some(Ok(_)) = stream.next().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_for_codes_that_are_on_their_way_out_are_bounded_too() {
        let limits = Limits { sockets_per_address: 1, ..Limits::default() };
        let codes = Arc::new(Codes::new(limits, [0; 32]));
        let address = |last: u8| ClientAddress::of(std::net::Ipv4Addr::new(192, 0, 2, last).into());
        let enter = |last: u8| codes.clone().enter(address(last));
        let (first, second) = (enter(1), enter(1));
        assert!(first.is_some() && second.is_some());
        assert!(enter(1).is_none());
        assert!(enter(2).is_some());
        drop(first);
        assert!(enter(1).is_some());
        drop(second);
        assert!(codes.lock().tasks.is_empty());
    }
}
