//! One connection to one peer, from the offer to the end.
//!
//! ```text
//!   offerer                                     answerer
//!   Offered --accepted--> Claimed --answer--.
//!                                           v
//!                                       Connecting <-- offer taken from the server
//!                                           |
//!            original: `fast` is open       |   ours: `fast` is open and the hello's proof holds
//!                                           v
//!                                         Ready --> Closed
//! ```
//!
//! Nothing a peer sent leaves this machine before `Ready`, and nothing a person said enters it before.

mod api;
mod talk;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::auth::Role;
use super::peer::{Channel, Fingerprint, LinkKey, Path, Payload, PeerClosed, PeerCommand, PeerEvent};
use crate::wire::control::Control;
use crate::wire::limits::CANDIDATES_MAX;
use crate::wire::{Candidate, ClientSignal, LinkId, Sdp, UserId};

pub use api::{CloseReason, Deadline, Event, Identity, Input, Output, PeerKind};

/// How long the answer to a claimed offer may take. The server gives a claim back after 10 s; this is the safety net behind
/// it for servers that don't.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long ICE, DTLS and SCTP may take together. RFC 8445 §14.3 checks of a whole list end well before.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connected peer may take to prove the room's key.
pub const PROOF_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a probed peer may stay silent if its path does, too, which shows after 4 s. An answer may wait behind all that was
/// said before, or for a program that is busy; consent (RFC 7675) does not.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the end of a connection may take after the peer said `bye`.
pub const BYE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an offer may wait at the server before it is replaced by a fresh one. NATs may drop the binding behind a
/// server-reflexive candidate after 30 s of silence (RFC 4787 REQ-5 asks for two minutes, many give less).
pub const OFFER_MAX_AGE: Duration = Duration::from_secs(25);

/// The same for an offer with host candidates only: nothing binds it but the addresses of this machine.
pub const HOST_OFFER_MAX_AGE: Duration = Duration::from_secs(300);

/// How long a withdrawn offer is kept open, in case it was taken while the withdrawal travelled.
pub const WITHDRAWN_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum State {
    Offered { early: Early, reflexive: bool, withdrawn: bool },
    Claimed { peer: UserId, early: Early },
    Connecting(Session),
    Ready(Session),
    Closed { peer: Option<UserId>, handshake_failed: bool },
}

/// What came from the other side before it could be used.
#[derive(Debug, Default)]
struct Early {
    answer: Option<Sdp>,
    candidates: Vec<Option<Candidate>>,
}

#[derive(Debug)]
struct Session {
    peer: UserId,
    kind: PeerKind,
    fingerprints: Option<Fingerprints>,
    fast_open: bool,
    hello: Option<Hello>,
    verified: bool,
    candidates: usize,
    control_open: bool,
    probe: Option<u64>,
    /// Whether the peer's end of the path answers.
    consents: bool,
    /// Why the peer is about to close.
    bye: Option<CloseReason>,
    /// What the connection said before the peer was ready.
    path: Option<Path>,
    writable: Option<usize>,
    /// What the peer said before it was ready here. To the peer we may have been ready earlier, and channels overtake
    /// each other.
    early: Vec<Message>,
    early_bytes: usize,
}

/// What a peer says, by channel.
#[derive(Debug)]
enum Message {
    Text(String),
    Data(Bytes),
    Control(Control),
    Bulk(Bytes),
}

#[derive(Debug, Clone, Copy)]
struct Fingerprints {
    local: Fingerprint,
    remote: Fingerprint,
}

/// The peer's hello, after its proof held.
#[derive(Debug)]
struct Hello {
    name: String,
    verified: bool,
}

/// The machine of one connection.
#[derive(Debug)]
pub struct Link {
    key: LinkKey,
    id: LinkId,
    role: Role,
    state: State,
    deadline: Option<(Instant, Deadline)>,
    outbox: VecDeque<Output>,
}

impl Link {
    /// Starts an offer for whoever comes next.
    pub fn offer(now: Instant, key: LinkKey, id: LinkId) -> Self {
        let state = State::Offered { early: Early::default(), reflexive: false, withdrawn: false };
        let mut link = Self::new(key, id, Role::Offerer, state);
        link.command(PeerCommand::CreateOffer);
        link.deadline = Some((now + HOST_OFFER_MAX_AGE, Deadline::OfferAge));
        link
    }

    /// Takes the offer of `peer`.
    pub fn answer(
        now: Instant,
        identity: &Identity,
        key: LinkKey,
        id: LinkId,
        peer: UserId,
        sdp: Sdp,
    ) -> Self {
        let session = Session::new(peer, &sdp);
        let kind = session.kind;
        let mut link = Self::new(key, id, Role::Answerer, State::Connecting(session));
        if !identity.admits(kind) {
            link.refuse(CloseReason::Unverified);
            return link;
        }
        link.command(PeerCommand::AcceptOffer { sdp });
        link.deadline = Some((now + CONNECT_TIMEOUT, Deadline::Connect));
        link
    }

    fn new(key: LinkKey, id: LinkId, role: Role, state: State) -> Self {
        Self { key, id, role, state, deadline: None, outbox: VecDeque::new() }
    }

    /// The local number of the connection.
    pub fn key(&self) -> LinkKey {
        self.key
    }

    /// The name both sides and the server have for the connection.
    pub fn id(&self) -> &LinkId {
        &self.id
    }

    /// Who is, or was, at the other end, once somebody is.
    pub fn peer(&self) -> Option<&UserId> {
        match &self.state {
            State::Claimed { peer, .. } => Some(peer),
            State::Connecting(session) | State::Ready(session) => Some(&session.peer),
            State::Closed { peer, .. } => peer.as_ref(),
            State::Offered { .. } => None,
        }
    }

    /// Whether the link carries messages.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Whether the peer proved the room's key.
    pub fn is_verified(&self) -> bool {
        matches!(&self.state, State::Ready(session) if session.verified)
    }

    /// The certificate of the peer, once the connection stands.
    pub fn remote_certificate(&self) -> Option<Fingerprint> {
        match &self.state {
            State::Connecting(session) | State::Ready(session) => {
                session.fingerprints.map(|both| both.remote)
            }
            State::Offered { .. } | State::Claimed { .. } | State::Closed { .. } => None,
        }
    }

    /// Whether it ended in the handshake, which proves nothing: a single forged packet ends one, if it comes in time.
    pub fn has_failed_handshake(&self) -> bool {
        matches!(self.state, State::Closed { handshake_failed: true, .. })
    }

    /// Whether both descriptions are known, so that the link may come up without the server.
    pub fn is_underway(&self) -> bool {
        matches!(self.state, State::Connecting(_) | State::Ready(_))
    }

    /// Whether the offer still waits for somebody, and has not been withdrawn.
    pub fn is_unclaimed(&self) -> bool {
        matches!(self.state, State::Offered { withdrawn: false, .. })
    }

    /// Whether the other end runs our program, as its description says.
    pub fn kind(&self) -> Option<PeerKind> {
        match &self.state {
            State::Connecting(session) | State::Ready(session) => Some(session.kind),
            State::Offered { .. } | State::Claimed { .. } | State::Closed { .. } => None,
        }
    }

    /// Takes one input. Inputs that do not fit the state are ignored: they are late or forged.
    pub fn handle(&mut self, now: Instant, identity: &Identity, input: Input) {
        match input {
            Input::Accepted { peer } => self.handle_accepted(now, identity, peer),
            Input::Answer(sdp) => self.handle_answer(now, identity, sdp),
            Input::Candidate(candidate) => self.handle_candidate(candidate),
            Input::Peer(event) => self.handle_peer(now, identity, event),
            Input::Withdrawn => self.handle_withdrawn(now),
            Input::Probe { nonce } => self.handle_probe(now, nonce),
            Input::Fast(payload) => self.send(Channel::Fast, payload),
            Input::Control(control) => self.send_control(&control),
            Input::Bulk(frame) => self.send_to_ours(Channel::Bulk, Payload::Binary(frame)),
            Input::Close(reason) => self.close(reason),
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to call [`Link::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Deadline)> {
        self.deadline
    }

    /// Acts on a deadline that has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some((at, reason)) = self.deadline else { return };
        if at > now {
            return;
        }
        self.deadline = None;
        match reason {
            Deadline::OfferAge => self.event(Event::Stale),
            Deadline::Withdrawn | Deadline::Answer => self.close(CloseReason::GivenBack),
            Deadline::Connect => self.close(CloseReason::NoPath),
            // No wrong proof, but none: the peer froze, or its path broke, since the connection came up.
            Deadline::Proof => self.close(CloseReason::Lost),
            Deadline::Probe => self.close_if_silent(),
            Deadline::Bye => self.end_after_bye(),
        }
    }

    fn handle_withdrawn(&mut self, now: Instant) {
        if let State::Offered { withdrawn, .. } = &mut self.state {
            *withdrawn = true;
            self.deadline = Some((now + WITHDRAWN_GRACE, Deadline::Withdrawn));
        }
    }

    fn handle_accepted(&mut self, now: Instant, identity: &Identity, peer: UserId) {
        let State::Offered { early, .. } = &mut self.state else { return };
        let mut early = std::mem::take(early);
        let answer = early.answer.take();
        self.state = State::Claimed { peer, early };
        self.deadline = Some((now + ANSWER_TIMEOUT, Deadline::Answer));
        if let Some(sdp) = answer {
            self.handle_answer(now, identity, sdp);
        }
    }

    fn handle_answer(&mut self, now: Instant, identity: &Identity, sdp: Sdp) {
        match &mut self.state {
            State::Offered { early, .. } => early.answer = Some(sdp),
            State::Claimed { peer, early } => {
                let session = Session::new(peer.clone(), &sdp);
                let candidates = std::mem::take(&mut early.candidates);
                self.connect(now, identity, session, sdp, candidates);
            }
            State::Connecting(_) | State::Ready(_) | State::Closed { .. } => {}
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        identity: &Identity,
        session: Session,
        sdp: Sdp,
        candidates: Vec<Option<Candidate>>,
    ) {
        let kind = session.kind;
        self.state = State::Connecting(session);
        if !identity.admits(kind) {
            return self.refuse(CloseReason::Unverified);
        }
        self.deadline = Some((now + CONNECT_TIMEOUT, Deadline::Connect));
        self.command(PeerCommand::AcceptAnswer { sdp });
        for candidate in candidates {
            self.handle_candidate(candidate);
        }
        // An original takes the latest incoming channel for its only one: nothing is opened towards it.
        if kind == PeerKind::Swarm {
            self.command(PeerCommand::OpenChannel(Channel::Control));
            self.command(PeerCommand::OpenChannel(Channel::Bulk));
        }
    }

    fn handle_candidate(&mut self, candidate: Option<Candidate>) {
        match &mut self.state {
            State::Offered { early, .. } | State::Claimed { early, .. } => {
                if early.candidates.len() < CANDIDATES_MAX {
                    early.candidates.push(candidate);
                }
            }
            State::Connecting(session) | State::Ready(session) => {
                if session.candidates < CANDIDATES_MAX {
                    session.candidates += 1;
                    self.command(PeerCommand::AddCandidate(candidate));
                }
            }
            State::Closed { .. } => {}
        }
    }

    fn handle_probe(&mut self, now: Instant, nonce: u64) {
        let State::Ready(session) = &mut self.state else { return };
        if session.kind == PeerKind::Original || session.probe.is_some() || session.bye.is_some() {
            return;
        }
        session.probe = Some(nonce);
        self.deadline = Some((now + PROBE_TIMEOUT, Deadline::Probe));
        self.send_control(&Control::Probe { nonce });
    }

    /// The path may come back, and ICE has the last word, unless the peer did not answer a probe before.
    fn handle_consent(&mut self, consents: bool) {
        let (State::Connecting(session) | State::Ready(session)) = &mut self.state else { return };
        session.consents = consents;
        if self.deadline.is_none() {
            self.close_if_silent();
        }
    }

    fn close_if_silent(&mut self) {
        if matches!(&self.state, State::Ready(session) if session.probe.is_some() && !session.consents) {
            self.close(CloseReason::Lost);
        }
    }

    fn handle_peer(&mut self, now: Instant, identity: &Identity, event: PeerEvent) {
        match event {
            PeerEvent::Description(sdp) => self.handle_description(sdp),
            PeerEvent::Candidate(candidate) => self.handle_local_candidate(now, candidate),
            PeerEvent::Connected { local, remote } => {
                if let State::Connecting(session) = &mut self.state {
                    session.fingerprints = Some(Fingerprints { local, remote });
                }
            }
            PeerEvent::ChannelOpen(channel) => self.handle_channel_open(now, identity, channel),
            PeerEvent::Message { channel, payload } => self.handle_message(now, identity, channel, payload),
            PeerEvent::Writable { bytes } => self.handle_writable(bytes),
            PeerEvent::Strain(strain) => {
                if self.is_ready() {
                    self.event(Event::Strain(strain));
                }
            }
            PeerEvent::Path(path) => self.handle_path(path),
            PeerEvent::Disconnected => self.handle_consent(false),
            PeerEvent::Reconnected => self.handle_consent(true),
            PeerEvent::Closed(reason) => self.handle_closed(reason),
        }
    }

    fn handle_writable(&mut self, bytes: usize) {
        match &mut self.state {
            State::Connecting(session) => session.writable = Some(session.writable.unwrap_or(0) + bytes),
            State::Ready(_) => self.event(Event::Writable(bytes)),
            State::Offered { .. } | State::Claimed { .. } | State::Closed { .. } => {}
        }
    }

    fn handle_path(&mut self, path: Path) {
        match &mut self.state {
            State::Connecting(session) => session.path = Some(path),
            State::Ready(_) => self.event(Event::Path(path)),
            State::Offered { .. } | State::Claimed { .. } | State::Closed { .. } => {}
        }
    }

    fn handle_description(&mut self, sdp: Sdp) {
        let id = self.id.clone();
        match (&self.state, self.role) {
            (State::Closed { .. }, _) => {}
            (_, Role::Offerer) => self.signal(ClientSignal::Offer { id, sdp }),
            (_, Role::Answerer) => self.signal(ClientSignal::Answer { id, sdp }),
        }
    }

    fn handle_local_candidate(&mut self, now: Instant, candidate: Option<Candidate>) {
        if let State::Offered { reflexive, withdrawn: false, .. } = &mut self.state
            && !*reflexive
            && candidate.as_ref().is_some_and(|candidate| !candidate.is_host())
        {
            *reflexive = true;
            self.deadline = Some((now + OFFER_MAX_AGE, Deadline::OfferAge));
        }
        let id = self.id.clone();
        if !matches!(self.state, State::Closed { .. }) {
            self.signal(ClientSignal::Candidate { id, candidate });
        }
    }

    fn handle_channel_open(&mut self, now: Instant, identity: &Identity, channel: Channel) {
        let State::Connecting(session) = &mut self.state else { return };
        match channel {
            Channel::Control | Channel::Bulk if session.kind == PeerKind::Original => {}
            Channel::Fast => {
                session.fast_open = true;
                self.deadline = Some((now + PROOF_TIMEOUT, Deadline::Proof));
                self.settle(now);
            }
            Channel::Control => {
                session.control_open = true;
                self.say_hello(identity);
            }
            Channel::Bulk => {}
        }
    }

    fn handle_closed(&mut self, closed: PeerClosed) {
        if let Some(reason) = self.bye() {
            return self.end(reason);
        }
        let was_ready = self.is_ready();
        let reason = match closed {
            PeerClosed::Local => CloseReason::Local,
            PeerClosed::Remote if was_ready => CloseReason::Left,
            PeerClosed::IceFailed if was_ready => CloseReason::Lost,
            PeerClosed::Remote | PeerClosed::IceFailed => CloseReason::NoPath,
            // The certificate is not the one of the description: somebody changed either on the way, or made it look so.
            PeerClosed::DtlsFailed => return self.end_in_handshake(),
            PeerClosed::Failed => CloseReason::Misbehaved,
        };
        self.end(reason);
    }

    /// Ends a connection that must not be tried again for now, and lets the server know.
    fn refuse(&mut self, reason: CloseReason) {
        let id = self.id.clone();
        self.signal(ClientSignal::Leave { id });
        self.close(reason);
    }

    fn close(&mut self, reason: CloseReason) {
        match &self.state {
            State::Closed { .. } => return,
            State::Connecting(session) | State::Ready(session) if session.control_open => {
                let bye = Control::Bye { reason: talk::bye_word(reason).into() };
                self.command(PeerCommand::Send {
                    channel: Channel::Control,
                    payload: Payload::Text(bye.to_text()),
                });
            }
            // An original needs no word: its channel closes. The second generation's word would be a line of chat in the first.
            State::Offered { .. } | State::Claimed { .. } | State::Connecting(_) | State::Ready(_) => {}
        }
        self.command(PeerCommand::Close);
        self.end(reason);
    }

    fn end(&mut self, reason: CloseReason) {
        if matches!(self.state, State::Closed { .. }) {
            return;
        }
        self.state = State::Closed { peer: self.peer().cloned(), handshake_failed: false };
        self.deadline = None;
        self.event(Event::Closed(reason));
    }

    fn end_in_handshake(&mut self) {
        self.end(CloseReason::KeyMismatch);
        if let State::Closed { handshake_failed, .. } = &mut self.state {
            *handshake_failed = true;
        }
    }

    fn send(&mut self, channel: Channel, payload: Payload) {
        if self.is_ready() {
            self.command(PeerCommand::Send { channel, payload });
        }
    }

    fn send_to_ours(&mut self, channel: Channel, payload: Payload) {
        if matches!(&self.state, State::Ready(session) if session.kind == PeerKind::Swarm) {
            self.send(channel, payload);
        }
    }

    fn send_control(&mut self, control: &Control) {
        self.send_to_ours(Channel::Control, Payload::Text(control.to_text()));
    }

    fn event(&mut self, event: Event) {
        self.outbox.push_back(Output::Event(event));
    }

    fn signal(&mut self, signal: ClientSignal) {
        self.outbox.push_back(Output::Signal(signal));
    }

    fn command(&mut self, command: PeerCommand) {
        self.outbox.push_back(Output::Peer(command));
    }
}

impl Session {
    fn new(peer: UserId, remote: &Sdp) -> Self {
        let kind = if remote.has_marker() { PeerKind::Swarm } else { PeerKind::Original };
        Self {
            peer,
            kind,
            fingerprints: None,
            fast_open: false,
            hello: None,
            verified: false,
            candidates: 0,
            control_open: false,
            probe: None,
            consents: true,
            bye: None,
            path: None,
            writable: None,
            early: Vec::new(),
            early_bytes: 0,
        }
    }
}
