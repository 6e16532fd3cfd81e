//! The peer's only event loop: it carries what the machines want to the network, the disk and the faces, and back.
//!
//! ```text
//!  face ──Command──▶ ┌─────────────────────────┐ ◀──PeerEvent──── WebRTC   (io::rtc)
//!  face ◀──Event──── │ Mesh ◀─────▶ Transfers  │ ──PeerCommand──▶
//!                    └─────────────────────────┘ ◀─▶ server (signaling), disk (io::disk)
//! ```
//!
//! Backpressure: what a face does not take stops the loop from reading the network and the disk, and the machines' time with it;
//! what a peer does not take stops it from reading commands. Neither waits for the other, so nothing can lock up.

pub mod api;
mod clock;
mod roster;
pub mod signaling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::core::link::PeerKind;
use crate::core::mesh::{self, Mesh};
use crate::core::peer::{LinkKey, PeerCommand, PeerEvent};
use crate::core::transfer::{self, OpId, TransferEvent, Transfers};
use crate::io::disk::Disk;
use crate::io::rtc::{IceServerTrouble, RtcConfig, RtcDriver, RtcError};
use crate::wire::signal::ErrorCode;
use crate::wire::{ClientSignal, ServerSignal};

use api::{Command, Ended, Event, SignalingState};
use clock::Clock;
use roster::Roster;

/// Inputs taken in one turn before the outputs are carried out and everybody else is looked at.
const TURN_BUDGET: usize = 64;

/// Commands of the face, events for it, and answers of the disk, that may wait.
const QUEUE: usize = 256;

/// Events that may wait for a face before the server is not listened to, either: far more than a server has reason to cause.
const OUTBOUND_MAX: usize = 4096;

/// A peer that has this much waiting in front of it holds back the commands of the faces. The driver closes a connection
/// at 16 MiB.
const CONGESTED_BYTES: usize = 4 * 1024 * 1024;

/// How long a peer that takes nothing may hold the faces back. After that it is on its own.
const CONGESTION_PATIENCE: Duration = Duration::from_secs(5);

/// How often a congested peer is looked at.
const CONGESTION_POLL: Duration = Duration::from_millis(20);

/// How long a server without our extensions may take to say anything before the room counts as entered.
const READY_PATIENCE: Duration = Duration::from_secs(1);

/// How long a question for fresh round trips may take.
const PATHS_PATIENCE: Duration = Duration::from_millis(250);

/// How long leaving may take: what was said last is delivered, the others are told.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// What a node is made from.
#[derive(Debug)]
pub struct NodeConfig {
    /// The mesh: who we are, the room, its key.
    pub mesh: mesh::Config,
    /// The connections.
    pub rtc: RtcConfig,
    /// The files.
    pub transfers: transfer::Config,
}

/// How a face holds a node.
#[derive(Debug)]
pub struct Handle {
    /// What the face asks. Dropping it is [`Command::Quit`].
    pub commands: mpsc::Sender<Command>,
    /// What the node tells. The last event is [`Event::Ended`].
    pub events: mpsc::Receiver<Event>,
}

/// Both ends of a way to the signaling server.
#[derive(Debug)]
pub struct SignalingLink {
    /// To the server. Closed by the node when it has said its last.
    pub signals: mpsc::Sender<ClientSignal>,
    /// From the server.
    pub news: mpsc::Receiver<SignalingNews>,
}

/// What the way to the signaling server says.
#[derive(Debug)]
pub enum SignalingNews {
    /// The socket is open.
    Up,
    /// The server says something.
    Signal(ServerSignal),
    /// The socket broke off, or could not be opened; another attempt follows.
    Down {
        /// One sentence.
        reason: String,
        /// When the next attempt starts.
        retry_in: Duration,
    },
    /// There will be no other attempt.
    Over(Ended),
}

/// Starts a node on the current tokio runtime. It ends by [`Command::Quit`], by the server's refusal, or when its face is gone.
///
/// # Errors
/// WebRTC needs a UDP socket and a certificate of its own.
pub fn spawn(config: NodeConfig, signaling: SignalingLink) -> Result<Handle, RtcError> {
    let (mut rtc, rtc_events) = RtcDriver::new(config.rtc)?;
    let (commands, asked) = mpsc::channel(QUEUE);
    let (events, told) = mpsc::channel(QUEUE);
    let (completions, disk_done) = mpsc::channel(QUEUE);
    let troubles = rtc.troubles();
    let node = Node::new(config.mesh, config.transfers, rtc, Disk::new(completions), signaling.signals);
    let inlets = Inlets { rtc_events, troubles, disk_done, asked, news: signaling.news };
    tokio::spawn(node.run(inlets, events));
    Ok(Handle { commands, events: told })
}

struct Inlets {
    rtc_events: mpsc::Receiver<(LinkKey, PeerEvent)>,
    troubles: Option<mpsc::UnboundedReceiver<IceServerTrouble>>,
    disk_done: mpsc::Receiver<(OpId, transfer::DiskDone)>,
    asked: mpsc::Receiver<Command>,
    news: mpsc::Receiver<SignalingNews>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not yet in the room.
    Outside,
    /// In the room, whether or not the server is there right now.
    Inside,
    /// On the way out.
    Leaving,
}

struct Node {
    mesh: Mesh,
    transfers: Transfers,
    roster: Roster,
    rtc: RtcDriver,
    disk: Disk,
    clock: Clock,
    /// Gone once the last signal was said.
    signals: Option<mpsc::Sender<ClientSignal>>,
    /// Events that the face has not taken yet.
    outbound: VecDeque<Event>,
    stage: Stage,
    ready_by: Option<Instant>,
    /// The connections that are far behind, and since when.
    congested: BTreeMap<LinkKey, Instant>,
    /// What was said is arriving, and then we leave.
    delivery: Option<BoxFuture<'static, usize>>,
    undelivered_bytes: usize,
    leave_by: Option<Instant>,
}

/// Whether the loop goes on.
enum Flow {
    On,
    Over(Ended),
}

impl Node {
    fn new(
        mesh: mesh::Config,
        transfers: transfer::Config,
        rtc: RtcDriver,
        disk: Disk,
        signals: mpsc::Sender<ClientSignal>,
    ) -> Self {
        Self {
            transfers: Transfers::new(transfers, mesh.seed),
            mesh: Mesh::new(now(), mesh),
            roster: Roster::default(),
            rtc,
            disk,
            clock: Clock::default(),
            signals: Some(signals),
            outbound: VecDeque::new(),
            stage: Stage::Outside,
            ready_by: None,
            congested: BTreeMap::new(),
            delivery: None,
            undelivered_bytes: 0,
            leave_by: None,
        }
    }

    async fn run(mut self, mut inlets: Inlets, events: mpsc::Sender<Event>) {
        let ended = loop {
            self.carry_out();
            if let Flow::Over(ended) = self.turn(&mut inlets, &events).await {
                break ended;
            }
            if self.stage == Stage::Leaving && self.has_left() {
                break match self.undelivered_bytes {
                    0 => Ended::Quit,
                    bytes => Ended::Undelivered { bytes },
                };
            }
        };
        self.carry_out();
        for event in self.outbound.drain(..).chain([Event::Ended(ended)]) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// Waits for whatever comes first and hands it to the machines.
    async fn turn(&mut self, inlets: &mut Inlets, events: &mpsc::Sender<Event>) -> Flow {
        let face_keeps_up = self.outbound.is_empty();
        self.clock.set_listening(now(), face_keeps_up);
        let peers_keep_up = self.peers_keep_up();
        let wake_at = self.wake_at().map(tokio::time::Instant::from_std);
        tokio::select! {
            permit = events.reserve(), if !face_keeps_up => match permit {
                Ok(permit) => {
                    if let Some(event) = self.outbound.pop_front() {
                        permit.send(event);
                    }
                }
                Err(_) => return self.face_is_gone(),
            },
            Some((key, event)) = inlets.rtc_events.recv(), if face_keeps_up => {
                self.handle_rtc(key, event);
                for _ in 1..TURN_BUDGET {
                    let Ok((key, event)) = inlets.rtc_events.try_recv() else { break };
                    self.handle_rtc(key, event);
                }
            }
            Some(trouble) = next_of(&mut inlets.troubles), if face_keeps_up => self.tell(Event::IceServer(trouble)),
            Some((op, done)) = inlets.disk_done.recv(), if face_keeps_up => {
                self.handle_disk(op, done);
                for _ in 1..TURN_BUDGET {
                    let Ok((op, done)) = inlets.disk_done.try_recv() else { break };
                    self.handle_disk(op, done);
                }
            }
            command = inlets.asked.recv(), if peers_keep_up && self.stage != Stage::Leaving => {
                self.handle_command(command.unwrap_or(Command::Quit));
            }
            Some(news) = inlets.news.recv(), if self.outbound.len() < OUTBOUND_MAX => {
                return self.handle_news(news);
            }
            undelivered_bytes = arrival(&mut self.delivery) => {
                self.undelivered_bytes = undelivered_bytes;
                self.leave();
            }
            () = sleep_until(wake_at) => self.handle_timeout(),
        }
        Flow::On
    }

    fn handle_disk(&mut self, op: transfer::OpId, done: transfer::DiskDone) {
        self.transfers.handle(self.time(), transfer::Input::Disk { op, done });
    }

    fn face_is_gone(&mut self) -> Flow {
        self.outbound.clear();
        if self.stage == Stage::Leaving {
            return Flow::Over(Ended::Quit);
        }
        self.leave();
        Flow::On
    }

    fn handle_rtc(&mut self, key: LinkKey, event: PeerEvent) {
        if let Some(link) = self.mesh.link_of(key) {
            self.roster.count_event(link, &event);
        }
        if let PeerEvent::Closed(_) = event {
            self.roster.forget(key);
        }
        self.mesh.handle(self.time(), mesh::Input::Peer(key, event));
        self.carry_out();
    }

    fn handle_command(&mut self, command: Command) {
        let time = self.time();
        match command {
            Command::Say { text, to } => self.mesh.handle(time, mesh::Input::Say { text, to }),
            Command::Data { bytes, to } => self.mesh.handle(time, mesh::Input::Data { bytes, to }),
            Command::Transfer(command) => self.transfers.handle(time, transfer::Input::Command(command)),
            Command::Rename { name } => self.mesh.handle(time, mesh::Input::Rename(name)),
            Command::Ignore { peer, ignored } => {
                self.mesh.handle(time, mesh::Input::Ignore { peer, ignored })
            }
            Command::Peers { reply } => {
                let links: Vec<LinkKey> = self.mesh.ready_links().map(|(_, key)| key).collect();
                for key in &links {
                    self.rtc.ask_path(*key);
                }
                let patience = if links.is_empty() { Duration::ZERO } else { PATHS_PATIENCE };
                self.roster.ask(reply, links, now() + patience);
            }
            Command::Finish if self.delivery.is_none() => {
                self.delivery = Some(self.rtc.delivered().boxed());
            }
            Command::Finish => {}
            Command::Quit => self.leave(),
        }
    }

    fn handle_news(&mut self, news: SignalingNews) -> Flow {
        let time = self.time();
        match news {
            SignalingNews::Up => {
                self.mesh.handle(time, mesh::Input::SignalingUp);
                self.tell(Event::Signaling(SignalingState::Up));
                if self.stage == Stage::Outside {
                    self.ready_by = Some(now() + READY_PATIENCE);
                }
            }
            SignalingNews::Signal(signal) => return self.handle_signal(time, signal),
            SignalingNews::Down { reason, retry_in } => {
                self.mesh.handle(time, mesh::Input::SignalingDown);
                self.tell(Event::Signaling(SignalingState::Down { reason, retry_in }));
            }
            SignalingNews::Over(ended) => return Flow::Over(ended),
        }
        Flow::On
    }

    fn handle_signal(&mut self, time: Instant, signal: ServerSignal) -> Flow {
        match &signal {
            ServerSignal::Welcome { members, .. } => self.enter(Some(*members)),
            ServerSignal::SignalError { code: Some(code), message } if self.is_final(*code) => {
                return Flow::Over(Ended::Refused { code: *code, message: message.clone() });
            }
            ServerSignal::SignalError { .. } => {}
            ServerSignal::Accept { .. }
            | ServerSignal::OfferAccepted { .. }
            | ServerSignal::OfferRequest
            | ServerSignal::Offer { .. }
            | ServerSignal::Answer { .. }
            | ServerSignal::Candidate { .. }
            | ServerSignal::LeaveSwarm { .. }
            | ServerSignal::Gone { .. } => self.enter(None),
        }
        self.mesh.handle(time, mesh::Input::Signal(signal));
        Flow::On
    }

    /// Whether this refusal means that we will not get in. Once inside, a refusal is news like any other.
    fn is_final(&self, code: ErrorCode) -> bool {
        code.refuses_entry() && self.stage == Stage::Outside
    }

    fn enter(&mut self, members: Option<usize>) {
        if self.stage == Stage::Outside {
            self.stage = Stage::Inside;
            self.ready_by = None;
            self.tell(Event::Ready { id: self.mesh.me().clone(), room: self.mesh.room().clone(), members });
        }
    }

    fn leave(&mut self) {
        self.delivery = None;
        self.stage = Stage::Leaving;
        self.leave_by = Some(now() + LEAVE_PATIENCE);
        self.mesh.handle(self.time(), mesh::Input::Close);
        self.carry_out();
        self.signals = None;
    }

    /// Nobody waits for anything from us any more, or has waited long enough.
    fn has_left(&self) -> bool {
        self.rtc.is_idle() || self.leave_by.is_some_and(|by| by <= now())
    }

    fn handle_timeout(&mut self) {
        let (now, time) = (now(), self.time());
        self.mesh.handle_timeout(time);
        self.transfers.handle_timeout(time);
        if self.ready_by.is_some_and(|by| by <= now) {
            self.enter(None);
        }
        self.roster.handle_timeout(now, &self.mesh);
    }

    fn wake_at(&self) -> Option<Instant> {
        let mesh = self.mesh.poll_timeout().and_then(|(at, _)| self.clock.when(at));
        let transfers = self.transfers.poll_timeout().and_then(|(at, _)| self.clock.when(at));
        let congestion = (!self.congested.is_empty()).then(|| now() + CONGESTION_POLL);
        let leaving = self.leave_by.map(|by| by.min(now() + CONGESTION_POLL));
        let own = [mesh, transfers, congestion, leaving, self.ready_by, self.roster.poll_timeout()];
        own.into_iter().flatten().min()
    }

    /// Whether the faces may say more: nobody is far behind, except who has been for too long.
    fn peers_keep_up(&mut self) -> bool {
        let now = now();
        let since = |key| (key, self.congested.get(&key).copied().unwrap_or(now));
        self.congested = self.rtc.congested(CONGESTED_BYTES).map(since).collect();
        self.congested.values().all(|since| now.duration_since(*since) >= CONGESTION_PATIENCE)
    }

    /// Carries out what the machines want, until neither wants anything more.
    fn carry_out(&mut self) {
        loop {
            if let Some(output) = self.mesh.poll() {
                self.carry_out_mesh(output);
            } else if let Some(output) = self.transfers.poll() {
                self.carry_out_transfer(output);
            } else {
                return;
            }
        }
    }

    fn carry_out_mesh(&mut self, output: mesh::Output) {
        match output {
            mesh::Output::Signal(signal) => self.send_signal(signal),
            mesh::Output::Peer(key, command) => {
                if let Some(link) = self.mesh.link_of(key) {
                    self.roster.count_command(link, &command);
                }
                if command == PeerCommand::Close {
                    self.roster.forget(key);
                }
                self.rtc.command(key, command);
            }
            mesh::Output::Event(event) => self.handle_mesh_event(event),
        }
    }

    /// A full queue means that the server does not read: the signal is lost, and what it was for is made good by the
    /// deadlines of the mesh, as with a socket that breaks.
    fn send_signal(&mut self, signal: ClientSignal) {
        if let Some(signals) = &self.signals
            && signals.try_send(signal).is_err()
        {
            tracing::debug!("a signal was dropped: the server does not read");
        }
    }

    fn handle_mesh_event(&mut self, event: mesh::Event) {
        let time = self.time();
        match event {
            // The node has acted on it before the mesh did.
            mesh::Event::Welcome { .. } => {}
            mesh::Event::Opened { peer, kind, verified, name } => {
                let info = self.roster.open(peer.clone(), kind, verified, name);
                self.tell(Event::Opened(info));
                if kind == PeerKind::Swarm {
                    self.transfers.handle(time, transfer::Input::PeerReady { peer });
                }
            }
            mesh::Event::Closed { peer, reason } => {
                self.transfers.handle(time, transfer::Input::PeerGone { peer: peer.clone() });
                if let Some(peer) = self.roster.close(&peer) {
                    self.tell(Event::Closed { peer, reason });
                }
            }
            mesh::Event::Failed { peer, reason, untold } => {
                self.tell(Event::PeerFailed { peer: Some(peer), reason, untold });
            }
            mesh::Event::Text { from, text, direct } => {
                if let Some(from) = self.roster.info(&from) {
                    self.tell(Event::Message { from, text, direct });
                }
            }
            mesh::Event::Data { from, bytes } => {
                if let Some(from) = self.roster.info(&from) {
                    self.tell(Event::Data { from, bytes });
                }
            }
            mesh::Event::Renamed { peer, name } => {
                if let Some((peer, old)) = self.roster.rename(&peer, name) {
                    self.tell(Event::Renamed { peer, old });
                }
            }
            mesh::Event::Transfer { from, message } => {
                self.transfers.handle(time, transfer::Input::Control { peer: from, message });
            }
            mesh::Event::Bulk { from, frame } => {
                self.transfers.handle(time, transfer::Input::Bulk { peer: from, frame });
            }
            mesh::Event::Writable { peer, bytes } => {
                self.transfers.handle(time, transfer::Input::Writable { peer, bytes });
            }
            mesh::Event::BulkLost { peer, revoked_bytes } => {
                self.transfers.handle(time, transfer::Input::BulkLost { peer, revoked_bytes });
            }
            mesh::Event::Path { peer, path } => self.roster.set_path(&peer, path, &self.mesh),
            mesh::Event::Refused { code, message } => {
                self.tell(Event::Signaling(SignalingState::Refused { code, message }));
            }
        }
    }

    fn carry_out_transfer(&mut self, output: transfer::Output) {
        let time = self.time();
        match output {
            transfer::Output::Control { peer, message } => {
                let message = message.to_value();
                self.mesh.handle(time, mesh::Input::Transfer { to: peer, message });
            }
            transfer::Output::Bulk { peer, frame } => {
                self.mesh.handle(time, mesh::Input::Bulk { to: peer, frame });
            }
            transfer::Output::Disk(op) => self.disk.submit(op),
            // The next one says more: nothing is lost on a face that is behind.
            transfer::Output::Event(TransferEvent::Progress(_)) if self.outbound.len() >= QUEUE => {}
            transfer::Output::Event(event) => self.tell(Event::Transfer(event)),
        }
    }

    fn tell(&mut self, event: Event) {
        self.outbound.push_back(event);
    }

    /// The machines' time.
    fn time(&self) -> Instant {
        self.clock.time(now())
    }
}

/// Everybody's time.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn next_of<T>(receiver: &mut Option<mpsc::UnboundedReceiver<T>>) -> Option<T> {
    receiver.as_mut()?.recv().await
}

async fn arrival(delivery: &mut Option<BoxFuture<'static, usize>>) -> usize {
    match delivery {
        Some(delivery) => delivery.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
