//! One connection: the task that carries out its commands and reports its events.
//!
//! ```text
//!   commands ──► Link ──► engine (its own task: sockets, ICE, DTLS, SCTP)
//!                 ▲  │        │
//!      signals ───┘  │        └─► one reader and one writer a channel ──► events
//!                    └─► outbox ─────────────────────────────────────────► events
//! ```
//!
//! The task never waits for the consumer: what it has to say itself lies in a short outbox. The readers do wait, and
//! start only when `Connected` has left the outbox, so nothing arrives from a peer before the consumer knows who it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tracing::{debug, warn};
use webrtc::data_channel::DataChannel;
use webrtc::peer_connection::{
    PeerConnection, RTCIceCandidateInit, RTCIceConnectionState, RTCPeerConnectionState,
    RTCSessionDescription, RTCStatsReportEntry, StatsSelector,
};

use super::channel::{self, Outlet, Reader};
use super::inflow::{Delivered, Inflow};
use super::load::Load;
use super::path;
use super::runtime::Pulse;
use super::session::{attribute, fingerprint_of, fingerprints};
use super::signal::Signal;
use super::{Engine, Shared};
use crate::core::peer::{Channel, Fingerprint, Path, Payload, PeerClosed, PeerCommand, PeerEvent};
use crate::wire::{Candidate, Sdp};

/// From the first working candidate pair to the end of the DTLS handshake: four flights, with the retransmissions
/// of a bad path (RFC 6347 §4.2.4.1: after 1, 2 and 4 s).
const DTLS_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a closing connection goes on sending what it was given before.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long nothing may move where the last that was said is waited for: twice SCTP's patience after a loss or two (RFC 9260 §16: one
/// second, then two). How often it is looked at.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(5);
const DELIVERY_POLL: Duration = Duration::from_millis(20);

/// And how long it is waited for at all: who takes it by the drop keeps nobody for longer. It is 8 MiB at most, nine minutes at 128 kbit/s.
const DELIVERY_MAX: Duration = Duration::from_secs(600);

/// How long what came before its peer closed a connection is still read while nobody takes any of it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// And how long at all: it keeps a socket and what is in it.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How often the selected pair is looked at.
const PATH_EVERY: Duration = Duration::from_secs(5);

/// What the driver asks of a link.
#[derive(Debug)]
pub(super) enum Request {
    /// Carry this out.
    Command(PeerCommand),
    /// Say [`PeerEvent::Path`] with a fresh round trip.
    Path,
    /// Answer when what was said has arrived, with the bytes that have not if nothing moves any more.
    Delivered(oneshot::Sender<usize>),
}

/// Who made the offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Offerer,
    Answerer,
}

/// A channel of ours that exists, open or not.
struct OpenChannel {
    data_channel: Arc<dyn DataChannel>,
    queue: mpsc::UnboundedSender<Payload>,
}

/// A channel whose tasks have not started yet.
struct WaitingChannel {
    channel: Channel,
    data_channel: Arc<dyn DataChannel>,
    queued: mpsc::UnboundedReceiver<Payload>,
}

/// The state of one connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    outlet: Outlet,
    requests: mpsc::UnboundedReceiver<Request>,
    signals: mpsc::UnboundedSender<Signal>,
    noticed: mpsc::UnboundedReceiver<Signal>,
    pc: Arc<dyn PeerConnection>,
    pulse: Arc<Pulse>,
    inflow: Arc<Inflow>,
    delivered: Delivered,
    role: Role,
    remote: Option<Sdp>,
    local_ufrag: Option<String>,
    connected: bool,
    disconnected: bool,
    dtls_deadline: Option<Instant>,
    /// Whether the SCTP association is up.
    associated: watch::Sender<bool>,
    path: Option<Path>,
    outbox: VecDeque<PeerEvent>,
    channels: BTreeMap<Channel, OpenChannel>,
    waiting: Vec<WaitingChannel>,
    opening: usize,
    readers: JoinSet<()>,
    writers: JoinSet<()>,
    /// Apart from the writers: it never ends by itself.
    pacer: JoinSet<()>,
    deliveries: JoinSet<Result<(), usize>>,
}

/// Runs a connection from its first command to its end.
pub(super) async fn run(
    shared: Arc<Shared>,
    outlet: Outlet,
    requests: mpsc::UnboundedReceiver<Request>,
    first: PeerCommand,
) {
    let Engine { pc, pulse, inflow, signals, noticed } = match shared.connect().await {
        Ok(engine) => engine,
        Err(error) => {
            warn!(%error, "cannot make a connection");
            return outlet.say(PeerEvent::Closed(PeerClosed::Failed)).await;
        }
    };
    let mut link = Link {
        shared,
        outlet,
        requests,
        signals,
        noticed,
        pc,
        pulse,
        inflow,
        delivered: Delivered::default(),
        role: Role::Offerer,
        remote: None,
        local_ufrag: None,
        connected: false,
        disconnected: false,
        dtls_deadline: None,
        associated: watch::Sender::new(false),
        path: None,
        outbox: VecDeque::new(),
        channels: BTreeMap::new(),
        waiting: Vec::new(),
        opening: 0,
        readers: JoinSet::new(),
        writers: JoinSet::new(),
        pacer: JoinSet::new(),
        deliveries: JoinSet::new(),
    };
    let reason = match link.carry_out(first).await {
        Ok(()) => link.live().await,
        Err(reason) => reason,
    };
    link.finish(reason).await;
}

impl Link {
    /// Returns why the connection is over.
    async fn live(&mut self) -> PeerClosed {
        let mut path_tick = ticks(PATH_EVERY);
        let load = Arc::clone(&self.outlet.load);
        let events = self.outlet.events.clone();
        let pulse = Arc::clone(&self.pulse);
        let inflow = Arc::clone(&self.inflow);
        loop {
            self.start_readers();
            let dtls_deadline = self.dtls_deadline;
            let step = tokio::select! {
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        let event = self.outbox.pop_front().expect("guarded by the branch's condition");
                        permit.send((self.outlet.key, event));
                        Ok(())
                    }
                    // The consumer is gone.
                    Err(_) => Err(PeerClosed::Local),
                },
                Some(signal) = self.noticed.recv() => self.notice(signal).await,
                request = self.requests.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => Err(PeerClosed::Local),
                },
                () = inflow.suspicious.notified() => self.look_at_inflow().await,
                () = inflow.starved.notified() => {
                    self.notice(Signal::Violation("what it sends has not been read for hours")).await
                }
                () = inflow.over() => Err(PeerClosed::Remote),
                () = load.refused() => {
                    warn!(load = ?load, "the peer does not take what it is sent");
                    Err(PeerClosed::Failed)
                }
                () = sleep_until(dtls_deadline.unwrap_or_else(Instant::now)), if dtls_deadline.is_some() => {
                    Err(self.failure())
                }
                () = pulse.sent.notified(), if !self.connected && dtls_deadline.is_some() => match pulse.alert_sent() {
                    true => Err(PeerClosed::DtlsFailed),
                    false => Ok(()),
                },
                () = pulse.sent.notified(), if self.connected && !*self.associated.borrow() => {
                    self.look_for_association().await;
                    Ok(())
                }
                _ = path_tick.tick(), if self.connected => {
                    self.report_path(Freshness::Changed).await;
                    Ok(())
                }
            };
            if let Err(reason) = step {
                return reason;
            }
        }
    }

    async fn serve(&mut self, request: Request) -> Result<(), PeerClosed> {
        match request {
            Request::Command(command) => self.carry_out(command).await,
            Request::Path => {
                self.report_path(Freshness::Asked).await;
                Ok(())
            }
            Request::Delivered(answer) => {
                let load = Arc::clone(&self.outlet.load);
                let said = [Channel::Fast, Channel::Control].into_iter().filter_map(|channel| {
                    let data_channel = Arc::clone(&self.channels.get(&channel)?.data_channel);
                    Some(Said { channel, data_channel, until: load.moved_bytes(channel).0 })
                });
                let said = said.collect();
                self.deliveries.spawn(async move { answer.send(delivered(&load, said).await) });
                Ok(())
            }
        }
    }

    async fn carry_out(&mut self, command: PeerCommand) -> Result<(), PeerClosed> {
        match command {
            PeerCommand::CreateOffer => self.offer().await,
            PeerCommand::AcceptOffer { sdp } => self.answer(sdp).await,
            PeerCommand::AcceptAnswer { sdp } => {
                let answer = RTCSessionDescription::answer(sdp.without_candidates().as_str().to_owned());
                self.set_remote(sdp, refuse("the answer", answer)?).await
            }
            PeerCommand::AddCandidate(candidate) => {
                self.add_candidate(candidate).await;
                Ok(())
            }
            PeerCommand::OpenChannel(channel) => self.open_channel(channel).await,
            PeerCommand::Send { channel, payload } => {
                self.send(channel, payload);
                Ok(())
            }
            PeerCommand::Close => Err(PeerClosed::Local),
        }
    }

    async fn offer(&mut self) -> Result<(), PeerClosed> {
        self.role = Role::Offerer;
        self.open_channel(Channel::Fast).await?;
        let offer = refuse("making an offer", self.pc.create_offer(None).await)?;
        self.describe(offer).await
    }

    async fn answer(&mut self, sdp: Sdp) -> Result<(), PeerClosed> {
        self.role = Role::Answerer;
        let offer = RTCSessionDescription::offer(sdp.without_candidates().as_str().to_owned());
        self.set_remote(sdp, refuse("the offer", offer)?).await?;
        let answer = refuse("making an answer", self.pc.create_answer(None).await)?;
        self.describe(answer).await
    }

    async fn describe(&mut self, description: RTCSessionDescription) -> Result<(), PeerClosed> {
        let sdp = refuse("our description", Sdp::new(description.sdp.clone()))?.with_marker();
        self.local_ufrag = attribute(&sdp, "ice-ufrag").map(str::to_owned);
        if let Some((ufrag, password)) = self.local_ufrag.as_deref().zip(attribute(&sdp, "ice-pwd")) {
            self.pulse.checks.expect(ufrag, password);
        }
        refuse("our description", self.pc.set_local_description(description).await)?;
        self.pulse.nudge();
        self.outbox.push_back(PeerEvent::Description(sdp));
        Ok(())
    }

    async fn set_remote(&mut self, sdp: Sdp, description: RTCSessionDescription) -> Result<(), PeerClosed> {
        if fingerprints(&sdp).is_empty() || !sdp.is_modest() {
            debug!("a description without a SHA-256 fingerprint, or out of measure");
            return Err(PeerClosed::Failed);
        }
        refuse("the remote description", self.pc.set_remote_description(description).await)?;
        for line in sdp.candidates() {
            self.add_candidate(Some(Candidate::of_line(line))).await;
        }
        self.pulse.nudge();
        self.remote = Some(sdp);
        Ok(())
    }

    /// A candidate that the engine does not take is no reason to give up: others may work.
    async fn add_candidate(&mut self, candidate: Option<Candidate>) {
        let Some(candidate) = candidate else { return };
        // The engine would dial a TCP candidate, wherever it leads, and ends the connection when that fails.
        if !candidate.is_udp() || !self.pulse.checks.admits_candidate(&candidate, std::time::Instant::now()) {
            return;
        }
        let init = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_m_line_index,
            username_fragment: candidate.username_fragment,
            url: None,
        };
        if let Err(error) = self.pc.add_ice_candidate(init).await {
            debug!(%error, "a remote candidate was skipped");
        }
        self.pulse.nudge();
    }

    async fn open_channel(&mut self, channel: Channel) -> Result<(), PeerClosed> {
        if self.channels.contains_key(&channel) {
            return Ok(());
        }
        self.pulse.unsettle();
        let created = self.pc.create_data_channel(channel.label(), None).await;
        self.adopt(channel, refuse("a new channel", created)?);
        Ok(())
    }

    fn adopt(&mut self, channel: Channel, data_channel: Arc<dyn DataChannel>) {
        let (queue, queued) = mpsc::unbounded_channel();
        self.channels.insert(channel, OpenChannel { data_channel: Arc::clone(&data_channel), queue });
        self.waiting.push(WaitingChannel { channel, data_channel, queued });
        self.opening += 1;
    }

    fn send(&mut self, channel: Channel, payload: Payload) {
        let len = payload.len_bytes();
        let is_queued = self.channels.get(&channel).is_some_and(|open| open.queue.send(payload).is_ok());
        if !is_queued {
            self.outlet.load.written(channel, len);
        }
    }

    async fn notice(&mut self, signal: Signal) -> Result<(), PeerClosed> {
        match signal {
            Signal::Candidate(candidate) => self.report_candidate(candidate),
            Signal::Gathered => self.outbox.push_back(PeerEvent::Candidate(None)),
            Signal::Ice(state) => return self.notice_ice(state),
            Signal::State(state) => return self.notice_state(state).await,
            Signal::Channel(data_channel) => self.notice_channel(data_channel).await,
            Signal::ChannelOpened => {
                self.opening = self.opening.saturating_sub(1);
                if self.opening == 0 {
                    self.pulse.settle();
                }
            }
            Signal::ChannelClosed => return Err(PeerClosed::Remote),
            Signal::Violation(what) => {
                warn!(what, "the peer is cut off");
                return Err(PeerClosed::Failed);
            }
            Signal::Stopped => return Err(self.failure()),
        }
        Ok(())
    }

    fn report_candidate(&mut self, candidate: String) {
        self.outbox.push_back(PeerEvent::Candidate(Some(Candidate {
            sdp_mid: Some("0".to_owned()),
            sdp_m_line_index: Some(0),
            username_fragment: self.local_ufrag.clone(),
            ..Candidate::of_line(&candidate).without_related_address()
        })));
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum may grow")]
    fn notice_ice(&mut self, state: RTCIceConnectionState) -> Result<(), PeerClosed> {
        match state {
            RTCIceConnectionState::Connected | RTCIceConnectionState::Completed if !self.connected => {
                self.dtls_deadline.get_or_insert_with(|| Instant::now() + DTLS_TIMEOUT);
            }
            RTCIceConnectionState::Failed => return Err(self.failure()),
            _ => {}
        }
        Ok(())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum may grow")]
    async fn notice_state(&mut self, state: RTCPeerConnectionState) -> Result<(), PeerClosed> {
        match state {
            RTCPeerConnectionState::Connected if !self.connected => self.report_connected().await?,
            RTCPeerConnectionState::Connected if self.disconnected => {
                self.disconnected = false;
                self.outbox.push_back(PeerEvent::Reconnected);
            }
            RTCPeerConnectionState::Disconnected if self.connected => {
                self.disconnected = true;
                self.outbox.push_back(PeerEvent::Disconnected);
            }
            RTCPeerConnectionState::Failed => return Err(self.failure()),
            RTCPeerConnectionState::Closed => return Err(PeerClosed::Remote),
            _ => {}
        }
        Ok(())
    }

    /// The engine compared the certificate with the description during the handshake. It is compared again here,
    /// because everything above rests on it.
    async fn report_connected(&mut self) -> Result<(), PeerClosed> {
        let Some(remote) = self.remote_fingerprint().await else { return Err(PeerClosed::DtlsFailed) };
        if !self.remote.as_ref().is_some_and(|sdp| fingerprints(sdp).contains(&remote)) {
            return Err(PeerClosed::DtlsFailed);
        }
        self.connected = true;
        self.dtls_deadline = None;
        self.outbox.push_back(PeerEvent::Connected { local: self.shared.fingerprint, remote });
        self.report_path(Freshness::Changed).await;
        Ok(())
    }

    async fn remote_fingerprint(&self) -> Option<Fingerprint> {
        let dtls = self.pc.sctp().await?.transport();
        let certificates = dtls.get_remote_certificates().await.ok()?;
        Some(fingerprint_of(certificates.first()?))
    }

    async fn report_path(&mut self, freshness: Freshness) {
        let Some(path) = path::selected(&*self.pc).await else { return };
        if freshness == Freshness::Changed && self.path.as_ref() == Some(&path) {
            return;
        }
        self.path = Some(path.clone());
        let rtt = path::round_trip(&*self.pc).await;
        self.outbox.retain(|event| !matches!(event, PeerEvent::Path(_)));
        self.outbox.push_back(PeerEvent::Path(Path { rtt, ..path }));
    }

    /// The engine does not say when the association is up, but it sends something then.
    async fn look_for_association(&mut self) {
        let Some(sctp) = self.pc.sctp().await else { return };
        if let Ok(Some(_)) = sctp.max_channels().await {
            self.associated.send_replace(true);
        }
    }

    /// Whether more came in than came out of the engine, or was only waiting for us.
    async fn look_at_inflow(&mut self) -> Result<(), PeerClosed> {
        let received = self.inflow.received_bytes();
        let report = self.pc.get_stats(std::time::Instant::now(), StatsSelector::None).await;
        let (mut bytes, mut messages) = (0, 0_u32);
        for entry in report.iter() {
            if let RTCStatsReportEntry::DataChannel(channel) = entry {
                bytes += channel.bytes_received;
                messages = messages.wrapping_add(channel.messages_received);
            }
        }
        self.delivered.count(bytes, messages);
        match self.inflow.is_excessive(received, self.delivered) {
            true => self.notice(Signal::Violation("a message without an end")).await,
            false => Ok(()),
        }
    }

    /// The first channel from an original is `fast`, whatever its label; our peers use our labels.
    async fn notice_channel(&mut self, data_channel: Arc<dyn DataChannel>) {
        let label = data_channel.label().await.unwrap_or_default();
        let is_ours = self.remote.as_ref().is_some_and(Sdp::has_marker);
        let channel = match label.as_str() {
            "swarm" if is_ours => Some(Channel::Control),
            "swarm-bulk" if is_ours => Some(Channel::Bulk),
            _ if self.role == Role::Answerer => Some(Channel::Fast),
            _ => None,
        };
        match channel.filter(|channel| !self.channels.contains_key(channel)) {
            Some(channel) => self.adopt(channel, data_channel),
            None => {
                debug!("a channel of no use to us is closed");
                self.readers.spawn(channel::discard(data_channel, Arc::clone(&self.inflow)));
            }
        }
    }

    fn start_readers(&mut self) {
        if !self.connected || !self.outbox.is_empty() {
            return;
        }
        for WaitingChannel { channel, data_channel, queued } in self.waiting.drain(..) {
            let (opened, is_open) = oneshot::channel();
            let load = Arc::clone(&self.outlet.load);
            let reader = Reader {
                channel,
                data_channel: Arc::clone(&data_channel),
                outlet: self.outlet.clone(),
                signals: self.signals.clone(),
                associated: self.associated.subscribe(),
                pulse: Arc::clone(&self.pulse),
                inflow: Arc::clone(&self.inflow),
            };
            self.readers.spawn(reader.run(opened));
            if channel == Channel::Bulk {
                let pc = Arc::clone(&self.pc);
                self.pacer.spawn(channel::pace(Arc::clone(&data_channel), pc, self.outlet.clone()));
            }
            self.writers.spawn(channel::write(channel, data_channel, queued, load, is_open));
        }
    }

    /// The engine gave up. Which of its layers it was is known only from what had happened before.
    fn failure(&self) -> PeerClosed {
        if self.connected {
            PeerClosed::IceFailed
        } else if self.pulse.alert_sent() || self.pulse.alert_received() {
            PeerClosed::DtlsFailed
        } else {
            PeerClosed::IceFailed
        }
    }
}

/// Whether a path is reported because somebody asked or only if it is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Asked,
    Changed,
}

fn refuse<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, PeerClosed> {
    result.map_err(|error| {
        debug!(%error, "{what} was refused");
        PeerClosed::Failed
    })
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The end.
impl Link {
    async fn finish(mut self, reason: PeerClosed) {
        match reason {
            PeerClosed::Local => {
                self.outbox.clear();
                self.readers.abort_all();
                let _ = timeout(LINGER_TIMEOUT, self.flush()).await;
            }
            PeerClosed::Remote => {
                self.deliveries.abort_all();
                self.drain().await;
            }
            PeerClosed::IceFailed | PeerClosed::DtlsFailed | PeerClosed::Failed => {}
        }
        self.pulse.settle();
        if let Err(error) = self.pc.close().await {
            debug!(%error, "closing");
        }
        self.readers.shutdown().await;
        self.writers.shutdown().await;
        self.pacer.shutdown().await;
        for event in std::mem::take(&mut self.outbox) {
            self.outlet.say(event).await;
        }
        self.outlet.say(PeerEvent::Closed(reason)).await;
    }

    /// Sends what was queued and waits until the other end has it.
    async fn flush(&mut self) {
        let open: Vec<Arc<dyn DataChannel>> =
            std::mem::take(&mut self.channels).into_values().map(|open| open.data_channel).collect();
        // Without their queues the writers end after the last message.
        while self.writers.join_next().await.is_some() {}
        let mut pause = Duration::from_millis(1);
        while outstanding(&open).await > 0 {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Reads what the other end sent before it closed. If the association is over nothing more can come, and it may take longer, as
    /// long as somebody takes it.
    async fn drain(&mut self) {
        let (inflow, events) = (Arc::clone(&self.inflow), self.outlet.events.clone());
        let started_at = Instant::now();
        let (mut taken, mut deadline) = (inflow.taken_messages(), started_at + DRAIN_PATIENCE);
        loop {
            self.start_readers();
            let is_told = self.outbox.is_empty();
            if is_told && self.readers.is_empty() {
                return;
            }
            tokio::select! {
                permit = events.reserve(), if !is_told => match permit {
                    Ok(permit) => {
                        let event = self.outbox.pop_front().expect("guarded by the branch's condition");
                        permit.send((self.outlet.key, event));
                    }
                    Err(_) => return,
                },
                () = inflow.all_read(), if is_told => return,
                Some(_) = self.readers.join_next(), if is_told => {}
                request = self.requests.recv() => match request {
                    Some(Request::Command(PeerCommand::Close)) | None => return,
                    Some(Request::Command(PeerCommand::Send { channel, payload })) => self.send(channel, payload),
                    // There is nobody any more to do it with.
                    Some(Request::Command(_) | Request::Path | Request::Delivered(_)) => {}
                },
                () = inflow.suspicious.notified() => {
                    if self.look_at_inflow().await.is_err() {
                        return;
                    }
                }
                () = inflow.starved.notified() => return,
                () = sleep_until(deadline) => {
                    let taken_now = inflow.taken_messages();
                    let is_taken = taken_now != std::mem::replace(&mut taken, taken_now);
                    if !inflow.is_over() || !is_taken || started_at.elapsed() >= DRAIN_MAX {
                        return;
                    }
                    deadline = Instant::now() + DRAIN_PATIENCE;
                }
            }
        }
    }
}

/// What was said on a channel before a moment.
struct Said {
    channel: Channel,
    data_channel: Arc<dyn DataChannel>,
    until: u64,
}

impl Said {
    /// What of it the other end has not acknowledged.
    async fn left(&self, load: &Load) -> u64 {
        // What is taken in between is outstanding, too.
        let (_, taken) = load.moved_bytes(self.channel);
        let outstanding = self.data_channel.outstanding_bytes().await.unwrap_or(0) as u64;
        self.until.saturating_sub(taken.saturating_sub(outstanding))
    }
}

/// Waits until what was said has arrived, whatever is said meanwhile. Returns the bytes that have not, if it is over with them.
async fn delivered(load: &Load, said: Vec<Said>) -> usize {
    let started_at = Instant::now();
    let (mut least, mut moved_at) = (u64::MAX, started_at);
    loop {
        let mut left = 0;
        for said in &said {
            left += said.left(load).await;
        }
        if left < least {
            (least, moved_at) = (left, Instant::now());
        }
        let is_over = moved_at.elapsed() >= DELIVERY_PATIENCE || started_at.elapsed() >= DELIVERY_MAX;
        if left == 0 || is_over {
            return usize::try_from(left).unwrap_or(usize::MAX);
        }
        sleep(DELIVERY_POLL).await;
    }
}

async fn outstanding(channels: &[Arc<dyn DataChannel>]) -> usize {
    let mut bytes = 0;
    for channel in channels {
        bytes += channel.outstanding_bytes().await.unwrap_or(0);
    }
    bytes
}
