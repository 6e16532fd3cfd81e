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

mod api;
mod hearing;
mod links;
mod offers;
mod repair;
mod signaling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::allowance::Allowance;
use super::chat;
use super::link::{self, CloseReason, Link, PeerKind};
use super::peer::{LinkKey, Payload};
use super::stripes::{Stripes, is_stripe};
use super::timers::Timers;
use crate::wire::control::Control;
use crate::wire::{Candidate, ClientSignal, LinkId, RoomId, Secret, UserId};

use hearing::Hearing;
use repair::{WANTS_BURST, WANTS_EVERY};

pub use api::{Config, Event, Held, Input, Output, Reason, To};

/// How many connections the server may have us make at once, for each peer that we take and at least and at most, and how long
/// until there may be one more. It ends them with a word, too, and a connection takes longer to come and go than that.
const MADE_PER_PEER: usize = 2;
const MADE_BURST_MIN: usize = 128;
const MADE_BURST_MAX: usize = 1024;
const MADE_EVERY: Duration = Duration::from_millis(50);

/// A direct message this long always fits into a control message, however much JSON escaping makes of it
/// (six bytes for one).
const DIRECT_PART_BYTES: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Link(LinkKey),
    Want(UserId),
    Refill,
    Stripes,
}

/// How things stand with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signaling {
    Down,
    /// `init` is sent. A server that knows the second generation only never says more.
    Entering,
    /// The server knows our extensions.
    Welcomed,
    /// The server said that it does not know our extensions: it hears no more of them on this socket.
    Plain,
    /// We left.
    Closed,
}

impl Signaling {
    /// Whether the server, as far as we know, understands our extensions.
    fn may_be_asked(self) -> bool {
        match self {
            Self::Entering | Self::Welcomed => true,
            Self::Down | Self::Plain | Self::Closed => false,
        }
    }

    fn is_up(self) -> bool {
        match self {
            Self::Entering | Self::Welcomed | Self::Plain => true,
            Self::Down | Self::Closed => false,
        }
    }
}

/// What is known of one member: the link in use and the one that is coming up.
#[derive(Debug, Default)]
struct Slot {
    ready: Option<LinkKey>,
    ready_since: Option<Instant>,
    attempt: Option<LinkKey>,
    /// When the server last handed out an offer, as far as we know.
    claimed_at: Option<Instant>,
}

/// A broken link that is asked for again.
#[derive(Debug, Default)]
struct Want {
    tries: u32,
    /// Whether its link had been ready for long enough to have worked.
    was_steady: bool,
    /// Whether people heard that its handshake failed. It sounds the alarm, and may fail each time.
    is_told: bool,
}

/// The machine of the mesh.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    signaling: Signaling,
    /// With this the server knows us again. Ours to begin with, so that it works even if the first welcome is lost.
    resume: Secret,
    links: BTreeMap<LinkKey, Link>,
    stripes: Stripes,
    by_id: BTreeMap<LinkId, LinkKey>,
    /// Connections that the server may have us make.
    made: Allowance,
    /// Connections that may be asked for.
    asked: Allowance,
    /// What people hear of refusals, and of each way to fail.
    refusals: Hearing,
    failures: BTreeMap<CloseReason, Hearing>,
    unclaimed: BTreeSet<LinkKey>,
    /// Offers that the server asked for and that are not made yet.
    requested: usize,
    slots: BTreeMap<UserId, Slot>,
    ignored: BTreeSet<UserId>,
    wants: BTreeMap<UserId, Want>,
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
        let mut rng = StdRng::from_seed(config.seed);
        let resume = Secret::new(URL_SAFE_NO_PAD.encode(rng.random::<[u8; 16]>()));
        let burst = config.max_peers.saturating_mul(MADE_PER_PEER).clamp(MADE_BURST_MIN, MADE_BURST_MAX);
        let mut mesh = Self {
            made: Allowance::new(burst as u32, MADE_EVERY),
            asked: Allowance::new(WANTS_BURST, WANTS_EVERY),
            refusals: Hearing::new(),
            failures: BTreeMap::new(),
            config,
            signaling: Signaling::Down,
            resume,
            links: BTreeMap::new(),
            stripes: Stripes::new(rng.random()),
            by_id: BTreeMap::new(),
            unclaimed: BTreeSet::new(),
            requested: 0,
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

    /// The room.
    pub fn room(&self) -> &RoomId {
        &self.config.identity.room
    }

    /// The ready link to a peer.
    pub fn ready_link(&self, peer: &UserId) -> Option<LinkKey> {
        self.slots.get(peer).and_then(|slot| slot.ready)
    }

    /// The link that a connection is, or belongs to.
    pub fn link_of(&self, key: LinkKey) -> Option<LinkKey> {
        if is_stripe(key) { self.stripes.link_of(key) } else { Some(key) }
    }

    /// The members with a ready link, and that link.
    pub fn ready_links(&self) -> impl Iterator<Item = (&UserId, LinkKey)> {
        self.slots.iter().filter_map(|(peer, slot)| Some((peer, slot.ready?)))
    }

    /// The members with a ready link, in the order of their ids.
    pub fn ready_peers(&self) -> impl Iterator<Item = &UserId> {
        self.slots.iter().filter(|(_, slot)| slot.ready.is_some()).map(|(peer, _)| peer)
    }

    /// How much the machine holds.
    pub fn held(&self) -> Held {
        Held {
            links: self.links.len(),
            stripes: self.stripes.len(),
            members: self.slots.len(),
            wants: self.wants.len(),
            orphans: self.orphans.len(),
            unsent: self.unsent.len(),
            timers: self.timers.len(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::SignalingUp => self.handle_signaling_up(now),
            Input::SignalingDown => self.handle_signaling_down(now),
            Input::Signal(signal) => self.handle_signal(now, signal),
            Input::Peer(key, event) if is_stripe(key) => {
                self.stripes.handle_peer(now, key, event);
                self.drain_stripes(now);
            }
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
            Input::Bulk { to, frame } => self.send_bulk(now, &to, frame),
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
            TimerKey::Refill => Reason::Refill,
            TimerKey::Stripes => {
                let (_, key) = self.stripes.poll_timeout().expect("the timer mirrors theirs");
                Reason::Stripe(key)
            }
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
                TimerKey::Refill => self.handle_refill(now),
                TimerKey::Stripes => {
                    self.stripes.handle_timeout(now);
                    self.drain_stripes(now);
                }
            }
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
        if self.signaling.is_up() {
            self.outbox.push_back(Output::Signal(ClientSignal::Close));
        }
        self.signaling = Signaling::Closed;
        let keys: Vec<LinkKey> = self.links.keys().copied().collect();
        for key in keys {
            self.feed(now, key, link::Input::Close(CloseReason::Local));
        }
        self.forget_wants();
        self.timers.set(TimerKey::Refill, None);
        self.orphans.clear();
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

    /// Takes the link in. Whoever does so drains it.
    fn insert(&mut self, link: Link) {
        self.by_id.insert(link.id().clone(), link.key());
        self.links.insert(link.key(), link);
    }

    fn next_key(&mut self) -> LinkKey {
        self.next_key += 1;
        LinkKey(self.next_key)
    }

    fn event(&mut self, event: Event) {
        self.outbox.push_back(Output::Event(event));
    }
}
