//! Stripes: further connections to a peer, beside its link, that carry bulk frames.
//!
//! One SCTP association gets `1.2 × packet / (round trip × √loss)` at the most (Mathis et al. 1997), which is little on a long
//! path that loses packets: 0.3 MB/s at 40 ms and 1 %, whatever the path could carry; and never more than its window in
//! flight. Several associations each get that. So while bulk data waits and the path shows no queue, whoever sends it
//! opens more of them, four times as many each time, until the path is full or nothing is gained (`policy`).
//!
//! ```text
//!   opener                                          the other
//!     CreateOffer -> offer ──── control channel ───▶  AcceptOffer
//!     AcceptAnswer   ◀───────── of the link ────────  answer
//!     OpenChannel(Bulk)  ══════ bulk frames ════════  (both ways)
//! ```
//!
//! Nothing of it goes through the server. The descriptions travel on a link that is proven already, and DTLS holds each end
//! to the certificate in its description, so a stripe needs no proof of its own. It lives and dies with its link.
//! Frames of pieces may overtake each other on different stripes; all others stay on the link.

mod policy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::allowance::Allowance;
use super::peer::{Channel, LinkKey, Payload, PeerCommand, PeerEvent, Strain};
use super::timers::Timers;
use crate::wire::control::StripeSignal;
use crate::wire::frame;
use crate::wire::limits::CANDIDATES_MAX;
use policy::Policy;

/// The most stripes that either end opens beside one link: with them a path of 40 ms that loses one packet in a hundred
/// carries 30 Mbit/s.
pub const STRIPES_MAX: usize = 11;

/// How long a stripe may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A stripe that carried nothing for so long is closed by whoever opened it, and if not, after twice as long by the other.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many stripes a peer may open beside its link at once, and how long until there may be one more: enough to open all of
/// them, lose them and open them again. Whoever opens and ends them as fast as messages come makes us open sockets as fast.
const OFFERS_BURST: u32 = 2 * STRIPES_MAX as u32;
const OFFER_EVERY: Duration = Duration::from_secs(2);

/// The most stripes that peers open beside all links, and as many that we open: each costs a socket on every interface, and
/// many members may agree to open, or to make us open, as many as they can.
const ALL_LINKS_MAX: usize = 64;

/// The keys of stripes are apart from those of links.
const FIRST_KEY: u64 = 1 << 63;

/// What the stripes want done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell a stripe's connection.
    Peer(LinkKey, PeerCommand),
    /// Say this on the control channel of a link.
    Control {
        /// Of which link.
        link: LinkKey,
        /// The stripe's name.
        stripe: u32,
        /// What to say.
        signal: StripeSignal,
    },
    /// A bulk frame came in beside this link.
    Bulk(LinkKey, Bytes),
    /// That many more bytes of bulk may be sent to the peer of this link.
    Writable(LinkKey, usize),
    /// Frames that were sent or asked for beside this link may never arrive.
    Lost {
        /// Which link.
        link: LinkKey,
        /// How much of what was granted can't be sent any more; below zero if more was sent than granted.
        revoked_bytes: i64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Our offer waits for its answer.
    Offered,
    Connecting,
    /// Carries frames.
    Open,
}

#[derive(Debug)]
struct Stripe {
    link: LinkKey,
    name: u32,
    is_ours: bool,
    state: State,
    candidates: usize,
    credit: i64,
    used_at: Instant,
}

/// What belongs to one link.
#[derive(Debug)]
struct Lane {
    /// What the link's own bulk channel takes.
    credit: i64,
    policy: Policy,
    /// Stripes that the peer may open.
    offers: Allowance,
}

impl Default for Lane {
    fn default() -> Self {
        Self { credit: 0, policy: Policy::default(), offers: Allowance::new(OFFERS_BURST, OFFER_EVERY) }
    }
}

/// The machine of all stripes of a mesh.
#[derive(Debug)]
pub struct Stripes {
    stripes: BTreeMap<LinkKey, Stripe>,
    lanes: BTreeMap<LinkKey, Lane>,
    timers: Timers<LinkKey>,
    next_key: u64,
    rng: StdRng,
    outbox: VecDeque<Output>,
}

/// Whether a connection is a stripe, open or not.
pub fn is_stripe(key: LinkKey) -> bool {
    key.0 >= FIRST_KEY
}

impl Stripes {
    /// None yet. `seed` is for their names, which both ends choose without asking the other.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            stripes: BTreeMap::new(),
            lanes: BTreeMap::new(),
            timers: Timers::new(),
            next_key: FIRST_KEY,
            rng: StdRng::from_seed(seed),
            outbox: VecDeque::new(),
        }
    }

    /// The link a stripe belongs to.
    pub fn link_of(&self, stripe: LinkKey) -> Option<LinkKey> {
        self.stripes.get(&stripe).map(|stripe| stripe.link)
    }

    /// How many there are, open or not.
    pub fn len(&self) -> usize {
        self.stripes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stripes.is_empty()
    }

    /// The link's own bulk channel takes that many bytes more.
    pub fn add_credit(&mut self, link: LinkKey, bytes: usize) {
        self.lanes.entry(link).or_default().credit += signed(bytes);
    }

    /// Which stripe takes this frame; `None` if the link itself does. The one with the most room, so that none is
    /// waited for while another is idle.
    pub fn route(&mut self, now: Instant, link: LinkKey, frame: &Bytes) -> Option<LinkKey> {
        let lane = self.lanes.entry(link).or_default();
        lane.policy.note_sent(frame.len());
        let open = self.stripes.iter_mut().filter(|(_, stripe)| stripe.carries(link));
        let widest = open.max_by_key(|(_, stripe)| stripe.credit);
        match widest {
            Some((key, stripe)) if stripe.credit > lane.credit && frame::may_overtake(frame) => {
                stripe.credit -= signed(frame.len());
                stripe.used_at = now;
                Some(*key)
            }
            Some(_) | None => {
                lane.credit -= signed(frame.len());
                None
            }
        }
    }

    /// Bulk data has been waiting in front of a link for a while.
    pub fn handle_strain(&mut self, now: Instant, link: LinkKey, strain: Strain) {
        let ours = self.stripes.values().filter(|stripe| stripe.link == link && stripe.is_ours);
        let (open, opening): (Vec<_>, Vec<_>) = ours.partition(|stripe| stripe.state == State::Open);
        let (open, opening) = (open.len(), opening.len());
        let lane = self.lanes.entry(link).or_default();
        let wanted = lane.policy.judge(now, strain, open, opening);
        let all_ours = self.stripes.values().filter(|stripe| stripe.is_ours).count();
        let room = STRIPES_MAX.saturating_sub(open + opening).min(ALL_LINKS_MAX.saturating_sub(all_ours));
        for _ in 0..wanted.min(room) {
            let name = self.rng.random();
            let key = self.insert(now, link, name, true);
            self.command(key, PeerCommand::CreateOffer);
        }
    }

    /// The peer of a ready link says something about a stripe.
    pub fn handle_signal(&mut self, now: Instant, link: LinkKey, name: u32, signal: StripeSignal) {
        let known = self.stripes.iter().find(|(_, stripe)| stripe.link == link && stripe.name == name);
        let Some((&key, _)) = known else {
            return match signal {
                StripeSignal::Offer { sdp } if self.may_open(now, link) => {
                    let key = self.insert(now, link, name, false);
                    self.command(key, PeerCommand::AcceptOffer { sdp });
                }
                StripeSignal::Offer { .. } => self.say(link, name, StripeSignal::End),
                StripeSignal::Answer { .. }
                | StripeSignal::Candidate { .. }
                | StripeSignal::End
                | StripeSignal::Unknown => {}
            };
        };
        let stripe = self.stripes.get_mut(&key).expect("it was found");
        match signal {
            StripeSignal::Answer { sdp } if stripe.state == State::Offered => {
                stripe.state = State::Connecting;
                self.command(key, PeerCommand::AcceptAnswer { sdp });
                self.command(key, PeerCommand::OpenChannel(Channel::Bulk));
            }
            StripeSignal::Candidate { candidate } if stripe.takes_candidate() => {
                self.command(key, PeerCommand::AddCandidate(candidate));
            }
            StripeSignal::End => self.close(now, key),
            StripeSignal::Offer { .. }
            | StripeSignal::Answer { .. }
            | StripeSignal::Candidate { .. }
            | StripeSignal::Unknown => {}
        }
    }

    /// A stripe's connection says something.
    pub fn handle_peer(&mut self, now: Instant, key: LinkKey, event: PeerEvent) {
        let Some(stripe) = self.stripes.get_mut(&key) else { return };
        let (link, name) = (stripe.link, stripe.name);
        match event {
            PeerEvent::Description(sdp) => {
                let signal = match stripe.is_ours {
                    true => StripeSignal::Offer { sdp },
                    false => StripeSignal::Answer { sdp },
                };
                self.say(link, name, signal);
            }
            PeerEvent::Candidate(candidate) => self.say(link, name, StripeSignal::Candidate { candidate }),
            PeerEvent::ChannelOpen(Channel::Bulk) => {
                stripe.state = State::Open;
                stripe.used_at = now;
                self.timers.set(key, Some(now + stripe.patience()));
                if let Ok(bytes @ 1..) = usize::try_from(stripe.credit) {
                    self.outbox.push_back(Output::Writable(link, bytes));
                }
            }
            PeerEvent::Message { channel: Channel::Bulk, payload: Payload::Binary(frame) } => {
                stripe.used_at = now;
                self.outbox.push_back(Output::Bulk(link, frame));
            }
            PeerEvent::Writable { bytes } => {
                stripe.credit += signed(bytes);
                if stripe.state == State::Open {
                    self.outbox.push_back(Output::Writable(link, bytes));
                }
            }
            PeerEvent::Message { .. } => self.give_up(now, key),
            PeerEvent::Closed(_) => {
                // The other end may not know, and would go on sending into it.
                self.say(link, name, StripeSignal::End);
                self.remove(now, key);
            }
            PeerEvent::Connected { .. }
            | PeerEvent::ChannelOpen(Channel::Fast | Channel::Control)
            | PeerEvent::Strain(_)
            | PeerEvent::Path(_)
            | PeerEvent::Disconnected
            | PeerEvent::Reconnected => {}
        }
    }

    /// A link is over, and its stripes with it.
    pub fn handle_link_closed(&mut self, link: LinkKey) {
        self.lanes.remove(&link);
        let its = self.stripes.extract_if(.., |_, stripe| stripe.link == link);
        for (key, _) in its.collect::<Vec<_>>() {
            self.timers.set(key, None);
            self.command(key, PeerCommand::Close);
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to call [`Stripes::handle_timeout`], and for which stripe.
    pub fn poll_timeout(&self) -> Option<(Instant, LinkKey)> {
        self.timers.next().map(|(at, key)| (at, *key))
    }

    /// Acts on every deadline that has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop_expired(now) {
            let Some(stripe) = self.stripes.get(&key) else { continue };
            let idle_at = stripe.used_at + stripe.patience();
            if stripe.state == State::Open && idle_at > now {
                self.timers.set(key, Some(idle_at));
            } else {
                self.give_up(now, key);
            }
        }
    }

    fn insert(&mut self, now: Instant, link: LinkKey, name: u32, is_ours: bool) -> LinkKey {
        let key = LinkKey(self.next_key);
        self.next_key += 1;
        let state = if is_ours { State::Offered } else { State::Connecting };
        let stripe = Stripe { link, name, is_ours, state, candidates: 0, credit: 0, used_at: now };
        self.stripes.insert(key, stripe);
        self.timers.set(key, Some(now + CONNECT_TIMEOUT));
        key
    }

    /// Whether the peer of a link may open one more. Counts it if so.
    fn may_open(&mut self, now: Instant, link: LinkKey) -> bool {
        let opened_by_peers = || self.stripes.values().filter(|stripe| !stripe.is_ours);
        let is_room = opened_by_peers().count() < ALL_LINKS_MAX
            && opened_by_peers().filter(|stripe| stripe.link == link).count() < STRIPES_MAX;
        is_room && self.lanes.entry(link).or_default().offers.take(now)
    }

    /// Closes a stripe and lets the peer know.
    fn give_up(&mut self, now: Instant, key: LinkKey) {
        if let Some(stripe) = self.stripes.get(&key) {
            self.say(stripe.link, stripe.name, StripeSignal::End);
        }
        self.close(now, key);
    }

    fn close(&mut self, now: Instant, key: LinkKey) {
        self.command(key, PeerCommand::Close);
        self.remove(now, key);
    }

    fn remove(&mut self, now: Instant, key: LinkKey) {
        let Some(stripe) = self.stripes.remove(&key) else { return };
        self.timers.set(key, None);
        if stripe.is_ours && stripe.state != State::Open {
            self.lanes.entry(stripe.link).or_default().policy.rest(now);
        }
        let revoked_bytes = match stripe.state {
            State::Offered => return,
            // The other end may have found it open already.
            State::Connecting => 0,
            // Even if nothing was sent on it for long: something may be on its way to us.
            State::Open => stripe.credit,
        };
        self.outbox.push_back(Output::Lost { link: stripe.link, revoked_bytes });
    }

    fn command(&mut self, key: LinkKey, command: PeerCommand) {
        self.outbox.push_back(Output::Peer(key, command));
    }

    fn say(&mut self, link: LinkKey, stripe: u32, signal: StripeSignal) {
        self.outbox.push_back(Output::Control { link, stripe, signal });
    }
}

impl Stripe {
    fn carries(&self, link: LinkKey) -> bool {
        self.link == link && self.state == State::Open
    }

    fn patience(&self) -> Duration {
        if self.is_ours { IDLE_TIMEOUT } else { 2 * IDLE_TIMEOUT }
    }

    /// Counts a remote candidate in. Before the answer there are none.
    fn takes_candidate(&mut self) -> bool {
        self.candidates += 1;
        self.state != State::Offered && self.candidates <= CANDIDATES_MAX
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
