//! The peer's full mesh: one link to every member of the room.
//!
//! ```text
//!   server ──Signal──▶ ┌──────┐ ──Peer(key, command)──▶ WebRTC
//!   server ◀──Signal── │ Mesh │ ◀──Peer(key, event)──── WebRTC
//!   faces  ──say, …──▶ └──────┘ ──Event──▶ faces, transfers
//! ```
//!
//! The invariant: once things are quiet, each pair of members has exactly one ready link. The server pairs members up and
//! a newer link replaces an older one only when it is ready, so that neither a lost socket nor a lying server takes a
//! working link away. A link that broke is asked for again (`want`) with growing delays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::chat;
use super::link::{self, CloseReason, Deadline, Identity, Link, PeerKind};
use super::peer::{LinkKey, Path, Payload, PeerCommand, PeerEvent};
use super::timers::Timers;
use crate::wire::control::Control;
use crate::wire::limits::CANDIDATES_MAX;
use crate::wire::signal::{ErrorCode, OfferSignal};
use crate::wire::{Candidate, ClientSignal, Init, LinkId, RoomId, Sdp, ServerSignal, UserId};

/// Most signals kept for the server while it is away. Older ones are dropped first: the links they belong to are found missing
/// and made again.
const UNSENT_SIGNALS_MAX: usize = 1024;

/// Connections whose candidates came before their offer: how many are remembered.
const ORPHANS_MAX: usize = 16;

/// First delay before a broken link is asked for again; doubled each time, plus up to half of it at random.
const WANT_DELAY: Duration = Duration::from_millis(500);

/// How often a broken link is asked for before the peer is given up: about two minutes in all.
const WANT_ATTEMPTS: u32 = 8;

/// A direct message this long always fits into a control message, however much JSON escaping makes of it
/// (six bytes for one).
const DIRECT_PART_BYTES: usize = 10_000;

/// What a mesh is made from.
#[derive(Debug)]
pub struct Config {
    /// Who we are, the room and its key.
    pub identity: Identity,
    /// Offers kept waiting at the server (`peerBuffer`). At least 1.
    pub peer_buffer: usize,
    /// Most peers at a time (`maxPeers`).
    pub max_peers: usize,
    /// Seeds connection ids and retry delays.
    pub seed: [u8; 32],
}

/// To whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Every ready peer.
    Everyone,
    /// These peers.
    Peers(Vec<UserId>),
}

/// What a mesh hears.
#[derive(Debug)]
pub enum Input {
    /// The socket to the server is open.
    SignalingUp,
    /// The socket to the server broke off.
    SignalingDown,
    /// The server says something.
    Signal(ServerSignal),
    /// A connection says something.
    Peer(LinkKey, PeerEvent),
    /// Say a line of chat.
    Say {
        /// The line.
        text: String,
        /// To whom.
        to: To,
    },
    /// Send bytes as they are, at most [`crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES`].
    Data {
        /// The bytes.
        bytes: Bytes,
        /// To whom.
        to: To,
    },
    /// Send a message of the file protocol.
    Transfer {
        /// To whom.
        to: UserId,
        /// The message.
        message: serde_json::Value,
    },
    /// Send a bulk frame.
    Bulk {
        /// To whom.
        to: UserId,
        /// The frame.
        frame: Bytes,
    },
    /// Take a new name.
    Rename(String),
    /// Shut this peer's messages out, or let them in again.
    Ignore {
        /// Whom.
        peer: UserId,
        /// Whether to.
        ignored: bool,
    },
    /// Cut a peer off that broke a protocol above this one.
    Drop {
        /// Whom.
        peer: UserId,
    },
    /// Leave the room and close every link.
    Close,
}

/// What a mesh wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell the server.
    Signal(ClientSignal),
    /// Tell a connection.
    Peer(LinkKey, PeerCommand),
    /// Tell the faces and the transfers.
    Event(Event),
}

/// What a mesh tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The server let us in (only servers that know our extensions say so).
    Welcome {
        /// How many other members there are.
        members: usize,
    },
    /// A peer is ready.
    Opened {
        /// Who.
        peer: UserId,
        /// Which program it runs.
        kind: PeerKind,
        /// Whether it proved the room's key.
        verified: bool,
        /// What it calls itself, as sent.
        name: String,
    },
    /// A ready peer is gone.
    Closed {
        /// Who.
        peer: UserId,
        /// Why.
        reason: CloseReason,
    },
    /// A link failed before it was ready.
    Failed {
        /// Who.
        peer: UserId,
        /// Why.
        reason: CloseReason,
    },
    /// A line of chat.
    Text {
        /// From whom.
        from: UserId,
        /// The line, as sent.
        text: String,
        /// Whether it was for us alone.
        direct: bool,
    },
    /// Bytes.
    Data {
        /// From whom.
        from: UserId,
        /// The bytes.
        bytes: Bytes,
    },
    /// A peer has a new name.
    Renamed {
        /// Who.
        peer: UserId,
        /// The name, as sent.
        name: String,
    },
    /// A message of the file protocol.
    Transfer {
        /// From whom.
        from: UserId,
        /// The message.
        message: serde_json::Value,
    },
    /// A bulk frame.
    Bulk {
        /// From whom.
        from: UserId,
        /// The frame.
        frame: Bytes,
    },
    /// A peer's bulk channel takes that many bytes.
    Writable {
        /// Whose.
        peer: UserId,
        /// How many.
        bytes: usize,
    },
    /// How packets travel to a ready peer.
    Path {
        /// Whose.
        peer: UserId,
        /// The path.
        path: Path,
    },
    /// The server refused something.
    Refused {
        /// The server's word, if it is one of ours.
        code: Option<ErrorCode>,
        /// The server's sentence, as sent.
        message: String,
    },
}

/// Why a mesh wants to be woken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A deadline of one link.
    Link(LinkKey, Deadline),
    /// Time to ask for a broken link again.
    Want(UserId),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Link(LinkKey),
    Want(UserId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Signaling {
    Down,
    Up,
}

/// What is known of one member: the link in use and the one that is coming up.
#[derive(Debug, Default)]
struct Slot {
    ready: Option<LinkKey>,
    attempt: Option<LinkKey>,
}

/// The machine of the mesh.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    signaling: Signaling,
    resume: Option<String>,
    links: BTreeMap<LinkKey, Link>,
    by_id: BTreeMap<LinkId, LinkKey>,
    unclaimed: BTreeSet<LinkKey>,
    slots: BTreeMap<UserId, Slot>,
    ignored: BTreeSet<UserId>,
    wants: BTreeMap<UserId, u32>,
    orphans: VecDeque<(LinkId, Vec<Option<Candidate>>)>,
    unsent: VecDeque<ClientSignal>,
    timers: Timers<TimerKey>,
    next_key: u64,
    nonce: u64,
    rng: StdRng,
    outbox: VecDeque<Output>,
}

impl Mesh {
    /// A mesh that makes its first offers at once, so that they are gathered by the time the socket is open.
    pub fn new(now: Instant, config: Config) -> Self {
        let rng = StdRng::from_seed(config.seed);
        let mut mesh = Self {
            config,
            signaling: Signaling::Down,
            resume: None,
            links: BTreeMap::new(),
            by_id: BTreeMap::new(),
            unclaimed: BTreeSet::new(),
            slots: BTreeMap::new(),
            ignored: BTreeSet::new(),
            wants: BTreeMap::new(),
            orphans: VecDeque::new(),
            unsent: VecDeque::new(),
            timers: Timers::new(),
            next_key: 0,
            nonce: 0,
            rng,
            outbox: VecDeque::new(),
        };
        mesh.fill_offers(now);
        mesh
    }

    /// Our id.
    pub fn me(&self) -> &UserId {
        &self.config.identity.me
    }

    /// What we call ourselves.
    pub fn name(&self) -> &str {
        &self.config.identity.name
    }

    /// The members with a ready link, in the order of their ids.
    pub fn ready_peers(&self) -> impl Iterator<Item = &UserId> {
        self.slots.iter().filter(|(_, slot)| slot.ready.is_some()).map(|(peer, _)| peer)
    }

    /// The room.
    pub fn room(&self) -> &RoomId {
        &self.config.identity.room
    }

    /// The ready link to a peer.
    pub fn ready_link(&self, peer: &UserId) -> Option<LinkKey> {
        self.slots.get(peer).and_then(|slot| slot.ready)
    }

    /// The members with a ready link, and that link.
    pub fn ready_links(&self) -> impl Iterator<Item = (&UserId, LinkKey)> {
        self.slots.iter().filter_map(|(peer, slot)| Some((peer, slot.ready?)))
    }

    /// How many connections there are, offers included.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::SignalingUp => self.handle_signaling_up(now),
            Input::SignalingDown => self.handle_signaling_down(now),
            Input::Signal(signal) => self.handle_signal(now, signal),
            Input::Peer(key, event) => self.feed(now, key, link::Input::Peer(event)),
            Input::Say { text, to } => self.say(now, &text, &to),
            Input::Data { bytes, to } => {
                for key in self.ready_keys(&to) {
                    self.feed(now, key, link::Input::Fast(Payload::Binary(bytes.clone())));
                }
            }
            Input::Transfer { to, message } => {
                self.feed_ready(now, &to, link::Input::Control(Control::Transfer { message }))
            }
            Input::Bulk { to, frame } => self.feed_ready(now, &to, link::Input::Bulk(frame)),
            Input::Rename(name) => self.rename(now, name),
            Input::Ignore { peer, ignored: true } => drop(self.ignored.insert(peer)),
            Input::Ignore { peer, ignored: false } => drop(self.ignored.remove(&peer)),
            Input::Drop { peer } => self.feed_ready(now, &peer, link::Input::Close(CloseReason::Misbehaved)),
            Input::Close => self.close(now),
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to call [`Mesh::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let (at, key) = self.timers.next()?;
        let reason = match key {
            TimerKey::Link(key) => {
                let link = self.links.get(key).expect("a link's timer is removed with the link");
                let (_, deadline) = link.poll_timeout().expect("a link's timer mirrors its deadline");
                Reason::Link(*key, deadline)
            }
            TimerKey::Want(peer) => Reason::Want(peer.clone()),
        };
        Some((at, reason))
    }

    /// Acts on every deadline that has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop_expired(now) {
            match key {
                TimerKey::Link(key) => {
                    if let Some(link) = self.links.get_mut(&key) {
                        link.handle_timeout(now);
                    }
                    self.drain(now, key);
                }
                TimerKey::Want(peer) => self.want(now, peer),
            }
        }
    }

    fn handle_signaling_up(&mut self, now: Instant) {
        self.signaling = Signaling::Up;
        let have = self.underway_peers();
        let resume = self.resume.take();
        let Identity { me, room, .. } = &self.config.identity;
        let init = Init { user_id: me.clone(), room_id: room.clone(), have: Some(have), resume };
        self.outbox.push_back(Output::Signal(ClientSignal::Init(init)));
        // `have` tells the server which links are missing: it makes them.
        for peer in std::mem::take(&mut self.wants).into_keys() {
            self.timers.set(TimerKey::Want(peer), None);
        }
        for signal in std::mem::take(&mut self.unsent) {
            self.outbox.push_back(Output::Signal(signal));
        }
        self.fill_offers(now);
    }

    /// The server forgets a member's offers and open claims with its socket, so they are made anew; links that have both
    /// descriptions do without the server.
    fn handle_signaling_down(&mut self, now: Instant) {
        self.signaling = Signaling::Down;
        let waits_for_server = |link: &&Link| !link.is_underway();
        let keys: Vec<LinkKey> = self.links.values().filter(waits_for_server).map(Link::key).collect();
        for key in keys {
            self.feed(now, key, link::Input::Close(CloseReason::GivenBack));
        }
        self.fill_offers(now);
    }

    /// Members that need no link from the server: connected, or about to be with both descriptions exchanged.
    fn underway_peers(&self) -> Vec<UserId> {
        let is_underway = |key: LinkKey| self.links.get(&key).is_some_and(Link::is_underway);
        let has_link = |slot: &Slot| slot.ready.or(slot.attempt).is_some_and(is_underway);
        self.slots.iter().filter(|(_, slot)| has_link(slot)).map(|(peer, _)| peer.clone()).collect()
    }

    fn handle_signal(&mut self, now: Instant, signal: ServerSignal) {
        match signal {
            ServerSignal::Accept { id, user_id, signals } => self.handle_accept(now, id, user_id, signals),
            ServerSignal::OfferAccepted { id, user_id } => self.handle_offer_accepted(now, &id, user_id),
            ServerSignal::OfferRequest => self.make_offer(now),
            ServerSignal::Answer { id, sdp } => self.feed_id(now, &id, link::Input::Answer(sdp)),
            ServerSignal::Candidate { id, candidate } => self.handle_candidate(now, id, candidate),
            // Renegotiation is about media, which a data-only peer has none of.
            ServerSignal::Offer { .. } => {}
            ServerSignal::LeaveSwarm { id } => self.handle_leave_swarm(now, &id),
            ServerSignal::Welcome { resume, members } => {
                self.resume = Some(resume);
                self.event(Event::Welcome { members });
            }
            ServerSignal::Gone { user_id } => self.probe(now, &user_id),
            ServerSignal::SignalError { code, message } => self.event(Event::Refused { code, message }),
        }
    }

    fn handle_accept(&mut self, now: Instant, id: LinkId, peer: UserId, signals: Vec<OfferSignal>) {
        if peer == self.config.identity.me || self.by_id.contains_key(&id) {
            return;
        }
        let Some((sdp, mut candidates)) = split_offer(signals) else { return };
        if self.is_full_for(&peer) {
            return self.signal(ClientSignal::Leave { id });
        }
        candidates.extend(self.adopt_orphans(&id));
        let key = self.next_key();
        let link = Link::answer(now, &self.config.identity, key, id, peer.clone(), sdp);
        self.adopt(link);
        self.attempt(now, peer, key);
        self.drain(now, key);
        for candidate in candidates.into_iter().take(CANDIDATES_MAX) {
            self.feed(now, key, link::Input::Candidate(candidate));
        }
    }

    fn handle_offer_accepted(&mut self, now: Instant, id: &LinkId, peer: UserId) {
        let Some(&key) = self.by_id.get(id) else { return };
        if peer == self.config.identity.me || self.links.get(&key).is_none_or(|link| link.peer().is_some()) {
            return;
        }
        if self.is_full_for(&peer) {
            self.signal(ClientSignal::Leave { id: id.clone() });
            return self.feed(now, key, link::Input::Close(CloseReason::GivenBack));
        }
        self.attempt(now, peer.clone(), key);
        self.feed(now, key, link::Input::Accepted { peer });
    }

    fn is_full_for(&self, peer: &UserId) -> bool {
        !self.slots.contains_key(peer) && self.slots.len() >= self.config.max_peers
    }

    /// The link `key` is the one that comes up towards `peer`; an earlier one that did not make it is given up.
    fn attempt(&mut self, now: Instant, peer: UserId, key: LinkKey) {
        if !self.links.contains_key(&key) {
            return;
        }
        self.timers.set(TimerKey::Want(peer.clone()), None);
        let slot = self.slots.entry(peer).or_default();
        if let Some(earlier) = slot.attempt.replace(key) {
            self.feed(now, earlier, link::Input::Close(CloseReason::Replaced));
        }
    }

    fn handle_candidate(&mut self, now: Instant, id: LinkId, candidate: Option<Candidate>) {
        if self.by_id.contains_key(&id) {
            return self.feed_id(now, &id, link::Input::Candidate(candidate));
        }
        let known = self.orphans.iter().position(|(orphan, _)| *orphan == id);
        let at = known.unwrap_or_else(|| {
            if self.orphans.len() == ORPHANS_MAX {
                self.orphans.pop_front();
            }
            self.orphans.push_back((id, Vec::new()));
            self.orphans.len() - 1
        });
        let (_, candidates) = &mut self.orphans[at];
        if candidates.len() < CANDIDATES_MAX {
            candidates.push(candidate);
        }
    }

    fn adopt_orphans(&mut self, id: &LinkId) -> Vec<Option<Candidate>> {
        let at = self.orphans.iter().position(|(orphan, _)| orphan == id);
        at.and_then(|at| self.orphans.remove(at)).map(|(_, candidates)| candidates).unwrap_or_default()
    }

    /// The server wants a connection closed. An original that left cannot say so itself; our own peers can, so a working
    /// link to one of them is only probed: the server may be wrong, or lie.
    fn handle_leave_swarm(&mut self, now: Instant, id: &LinkId) {
        let Some(&key) = self.by_id.get(id) else { return };
        let Some(link) = self.links.get(&key) else { return };
        match (link.is_ready(), link.kind()) {
            (true, Some(PeerKind::Swarm)) => self.probe_link(now, key),
            (true, Some(PeerKind::Original) | None) => {
                self.feed(now, key, link::Input::Close(CloseReason::Left))
            }
            (false, _) => self.feed(now, key, link::Input::Close(CloseReason::GivenBack)),
        }
    }

    fn probe(&mut self, now: Instant, peer: &UserId) {
        if let Some(key) = self.slots.get(peer).and_then(|slot| slot.ready) {
            self.probe_link(now, key);
        }
    }

    fn probe_link(&mut self, now: Instant, key: LinkKey) {
        self.nonce += 1;
        let nonce = self.nonce;
        self.feed(now, key, link::Input::Probe { nonce });
    }

    fn say(&mut self, now: Instant, text: &str, to: &To) {
        let keys = self.ready_keys(to);
        match to {
            To::Everyone => {
                let messages = chat::messages(text);
                for key in keys {
                    self.say_openly(now, key, &messages);
                }
            }
            To::Peers(_) => {
                for key in keys {
                    self.say_directly(now, key, text);
                }
            }
        }
    }

    fn say_openly(&mut self, now: Instant, key: LinkKey, messages: &[String]) {
        for message in messages {
            self.feed(now, key, link::Input::Fast(Payload::Text(message.clone())));
        }
    }

    fn say_directly(&mut self, now: Instant, key: LinkKey, text: &str) {
        match self.links.get(&key).and_then(Link::kind) {
            Some(PeerKind::Swarm) => {
                for part in chat::split(text, DIRECT_PART_BYTES) {
                    self.feed(now, key, link::Input::Control(Control::Direct { text: part.to_owned() }));
                }
            }
            Some(PeerKind::Original) => self.say_openly(now, key, &chat::messages(text)),
            None => {}
        }
    }

    fn rename(&mut self, now: Instant, name: String) {
        self.config.identity.name.clone_from(&name);
        for key in self.ready_keys(&To::Everyone) {
            self.feed(now, key, link::Input::Control(Control::Name { name: name.clone() }));
        }
    }

    fn close(&mut self, now: Instant) {
        if self.signaling == Signaling::Up {
            self.outbox.push_back(Output::Signal(ClientSignal::Close));
        }
        self.signaling = Signaling::Down;
        self.config.peer_buffer = 0;
        let keys: Vec<LinkKey> = self.links.keys().copied().collect();
        for key in keys {
            self.feed(now, key, link::Input::Close(CloseReason::Local));
        }
        for peer in std::mem::take(&mut self.wants).into_keys() {
            self.timers.set(TimerKey::Want(peer), None);
        }
        self.unsent.clear();
    }

    fn ready_keys(&self, to: &To) -> Vec<LinkKey> {
        let ready = |peer| self.slots.get(peer).and_then(|slot: &Slot| slot.ready);
        match to {
            To::Everyone => self.slots.values().filter_map(|slot| slot.ready).collect(),
            To::Peers(peers) => peers.iter().filter_map(ready).collect(),
        }
    }

    fn feed_ready(&mut self, now: Instant, peer: &UserId, input: link::Input) {
        if let Some(key) = self.slots.get(peer).and_then(|slot| slot.ready) {
            self.feed(now, key, input);
        }
    }

    fn feed_id(&mut self, now: Instant, id: &LinkId, input: link::Input) {
        if let Some(&key) = self.by_id.get(id) {
            self.feed(now, key, input);
        }
    }

    fn feed(&mut self, now: Instant, key: LinkKey, input: link::Input) {
        let Some(link) = self.links.get_mut(&key) else { return };
        link.handle(now, &self.config.identity, input);
        self.drain(now, key);
    }

    /// Carries out what a link wants, and keeps what is known about it in step.
    fn drain(&mut self, now: Instant, key: LinkKey) {
        while let Some(output) = self.links.get_mut(&key).and_then(Link::poll) {
            match output {
                link::Output::Signal(signal) => self.signal(signal),
                link::Output::Peer(command) => self.outbox.push_back(Output::Peer(key, command)),
                link::Output::Event(event) => self.handle_link_event(now, key, event),
            }
        }
        let link = self.links.get(&key);
        self.timers.set(TimerKey::Link(key), link.and_then(Link::poll_timeout).map(|(at, _)| at));
        if link.is_some_and(Link::is_unclaimed) {
            self.unclaimed.insert(key);
        } else if self.unclaimed.remove(&key) {
            self.fill_offers(now);
        }
    }

    fn handle_link_event(&mut self, now: Instant, key: LinkKey, event: link::Event) {
        if let link::Event::Closed(reason) = event {
            return self.handle_link_closed(now, key, reason);
        }
        let Some(peer) = self.links.get(&key).and_then(Link::peer).cloned() else { return };
        let is_ignored = self.ignored.contains(&peer);
        match event {
            // Where peers without a proof are let in, whoever has one keeps the place against them.
            link::Event::Ready { verified: false, .. } if self.has_verified_link(&peer) => {
                self.feed(now, key, link::Input::Close(CloseReason::Unverified));
            }
            link::Event::Ready { kind, verified, name } => {
                self.handle_link_ready(now, key, &peer);
                self.event(Event::Opened { peer, kind, verified, name });
            }
            link::Event::Path(path) => self.event(Event::Path { peer, path }),
            link::Event::Writable(bytes) => self.event(Event::Writable { peer, bytes }),
            link::Event::Renamed(name) => self.event(Event::Renamed { peer, name }),
            link::Event::Text { .. }
            | link::Event::Data(_)
            | link::Event::Transfer(_)
            | link::Event::Bulk(_)
                if is_ignored => {}
            link::Event::Text { text, direct } => self.event(Event::Text { from: peer, text, direct }),
            link::Event::Data(bytes) => self.event(Event::Data { from: peer, bytes }),
            link::Event::Transfer(message) => self.event(Event::Transfer { from: peer, message }),
            link::Event::Bulk(frame) => self.event(Event::Bulk { from: peer, frame }),
            link::Event::Closed(_) => unreachable!("returned above"),
        }
    }

    fn has_verified_link(&self, peer: &UserId) -> bool {
        let ready = self.slots.get(peer).and_then(|slot| slot.ready);
        ready.and_then(|key| self.links.get(&key)).is_some_and(Link::is_verified)
    }

    fn handle_link_ready(&mut self, now: Instant, key: LinkKey, peer: &UserId) {
        self.forget_want(peer);
        let slot = self.slots.entry(peer.clone()).or_default();
        if slot.attempt == Some(key) {
            slot.attempt = None;
        }
        if let Some(older) = slot.ready.replace(key) {
            self.feed(now, older, link::Input::Close(CloseReason::Replaced));
            self.event(Event::Closed { peer: peer.clone(), reason: CloseReason::Replaced });
        }
    }

    fn handle_link_closed(&mut self, now: Instant, key: LinkKey, reason: CloseReason) {
        let Some(link) = self.links.remove(&key) else { return };
        self.by_id.remove(link.id());
        if self.signaling == Signaling::Down {
            self.forget_unsent(link.id());
        }
        let Some(peer) = link.peer().cloned() else { return };
        let Some(slot) = self.slots.get_mut(&peer) else { return };
        let was_ready = slot.ready == Some(key);
        if was_ready {
            slot.ready = None;
        } else if slot.attempt == Some(key) {
            slot.attempt = None;
        } else {
            return;
        }
        let is_alone = slot.ready.is_none() && slot.attempt.is_none();
        if is_alone {
            self.slots.remove(&peer);
        }
        if was_ready {
            self.event(Event::Closed { peer: peer.clone(), reason });
        } else if is_failure(reason) {
            self.event(Event::Failed { peer: peer.clone(), reason });
        }
        if is_alone && is_worth_another_try(reason) {
            self.schedule_want(now, peer);
        }
    }

    fn schedule_want(&mut self, now: Instant, peer: UserId) {
        // A server may invent members without end.
        if !self.wants.contains_key(&peer) && self.wants.len() >= self.config.max_peers {
            return;
        }
        let attempts = self.wants.entry(peer.clone()).or_insert(0);
        if *attempts >= WANT_ATTEMPTS {
            return self.forget_want(&peer);
        }
        let delay = WANT_DELAY * 2u32.pow(*attempts);
        *attempts += 1;
        let delay = delay + delay.mul_f64(self.rng.random_range(0.0..0.5));
        self.timers.set(TimerKey::Want(peer), Some(now + delay));
    }

    /// Asks again, unless the link came back; the next delay starts now, in case nothing comes of it.
    fn want(&mut self, now: Instant, peer: UserId) {
        if self.signaling == Signaling::Up {
            self.outbox.push_back(Output::Signal(ClientSignal::Want { user_id: peer.clone() }));
        }
        self.schedule_want(now, peer);
    }

    fn forget_want(&mut self, peer: &UserId) {
        self.wants.remove(peer);
        self.timers.set(TimerKey::Want(peer.clone()), None);
    }

    fn fill_offers(&mut self, now: Instant) {
        for _ in self.unclaimed.len()..self.config.peer_buffer {
            self.make_offer(now);
        }
    }

    fn make_offer(&mut self, now: Instant) {
        if self.config.peer_buffer == 0
            || self.unclaimed.len() >= self.config.max_peers.max(self.config.peer_buffer)
        {
            return;
        }
        let key = self.next_key();
        let id = LinkId::from_random(self.rng.random());
        self.insert(now, Link::offer(now, key, id));
    }

    fn insert(&mut self, now: Instant, link: Link) {
        let key = link.key();
        self.adopt(link);
        self.drain(now, key);
    }

    fn adopt(&mut self, link: Link) {
        self.by_id.insert(link.id().clone(), link.key());
        self.links.insert(link.key(), link);
    }

    fn next_key(&mut self) -> LinkKey {
        self.next_key += 1;
        LinkKey(self.next_key)
    }

    fn signal(&mut self, signal: ClientSignal) {
        match self.signaling {
            Signaling::Up => self.outbox.push_back(Output::Signal(signal)),
            Signaling::Down => {
                if let ClientSignal::Withdraw { id } | ClientSignal::Leave { id } = &signal {
                    return self.forget_unsent(id);
                }
                if self.unsent.len() == UNSENT_SIGNALS_MAX {
                    self.unsent.pop_front();
                }
                self.unsent.push_back(signal);
            }
        }
    }

    fn forget_unsent(&mut self, id: &LinkId) {
        self.unsent.retain(|signal| signal.link_id() != Some(id));
    }

    fn event(&mut self, event: Event) {
        self.outbox.push_back(Output::Event(event));
    }
}

fn split_offer(signals: Vec<OfferSignal>) -> Option<(Sdp, Vec<Option<Candidate>>)> {
    let mut offer = None;
    let mut candidates = Vec::new();
    for signal in signals {
        match signal {
            OfferSignal::Offer { sdp } => offer = Some(sdp),
            OfferSignal::Candidate { candidate } => candidates.push(candidate),
        }
    }
    offer.map(|sdp| (sdp, candidates))
}

/// Whether people should hear that a link that was never ready came to this end.
fn is_failure(reason: CloseReason) -> bool {
    match reason {
        CloseReason::NoPath
        | CloseReason::Lost
        | CloseReason::KeyMismatch
        | CloseReason::Unverified
        | CloseReason::Misbehaved => true,
        CloseReason::Left | CloseReason::GivenBack | CloseReason::Replaced | CloseReason::Local => false,
    }
}

/// Whether a fresh connection may fare better.
fn is_worth_another_try(reason: CloseReason) -> bool {
    match reason {
        CloseReason::NoPath | CloseReason::Lost | CloseReason::GivenBack | CloseReason::Replaced => true,
        CloseReason::Left
        | CloseReason::KeyMismatch
        | CloseReason::Unverified
        | CloseReason::Misbehaved
        | CloseReason::Local => false,
    }
}
