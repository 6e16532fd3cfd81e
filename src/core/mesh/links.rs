//! What becomes of the links.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Event, Mesh, Output, Signaling, TimerKey};
use crate::core::link::{self, CloseReason, Link, PeerKind};
use crate::core::peer::{Channel, LinkKey, Payload, PeerCommand};
use crate::core::stripes;
use crate::wire::UserId;
use crate::wire::control::Control;

/// A link that was ready for so long worked: if it breaks, asking for it starts from the shortest delay. Otherwise a pair
/// whose links break as soon as they are ready would ask for ever.
const STEADY: Duration = Duration::from_secs(10);

impl Mesh {
    /// Carries out what a link wants, and keeps what is known about it in step.
    pub(super) fn drain(&mut self, now: Instant, key: LinkKey) {
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
        } else {
            self.unclaimed.remove(&key);
        }
    }

    fn handle_link_event(&mut self, now: Instant, key: LinkKey, event: link::Event) {
        match event {
            link::Event::Closed(reason) => self.handle_link_closed(now, key, reason),
            link::Event::Stale => self.handle_stale_offer(now, key),
            link::Event::Ready { kind, verified, name } => {
                let Some(peer) = self.links.get(&key).and_then(Link::peer).cloned() else { return };
                // Where peers without a proof are let in, whoever has one keeps the place against them.
                if !verified && self.has_verified_link(&peer) {
                    return self.feed(now, key, link::Input::Close(CloseReason::Unverified));
                }
                if let Some(holder) = self.holder_against(&peer, key) {
                    self.probe_link(now, holder);
                    return self.feed(now, key, link::Input::Close(CloseReason::TakenId));
                }
                self.handle_link_ready(now, key, &peer);
                self.event(Event::Opened { peer, kind, verified, name });
            }
            // A link that was refused or replaced tells nothing more, although what it said before still comes out.
            _ if self.ready_peer(key).is_none() => {}
            link::Event::Strain(strain) => {
                self.stripes.handle_strain(now, key, strain);
                self.drain_stripes(now);
            }
            link::Event::Stripe { stripe, signal } => {
                self.stripes.handle_signal(now, key, stripe, signal);
                self.drain_stripes(now);
            }
            link::Event::Writable(bytes) => {
                self.stripes.add_credit(key, bytes);
                self.tell(key, |peer| Event::Writable { peer, bytes });
            }
            link::Event::Path(path) => self.tell(key, |peer| Event::Path { peer, path }),
            link::Event::Renamed(name) => self.pass_on(key, |peer| Event::Renamed { peer, name }),
            link::Event::Text { text, direct } => {
                self.pass_on(key, |from| Event::Text { from, text, direct })
            }
            link::Event::Data(bytes) => self.pass_on(key, |from| Event::Data { from, bytes }),
            link::Event::Transfer(message) => self.pass_on(key, |from| Event::Transfer { from, message }),
            link::Event::Bulk(frame) => self.pass_on(key, |from| Event::Bulk { from, frame }),
        }
    }

    /// Tells something about the peer whose link in use this is.
    fn tell(&mut self, key: LinkKey, event: impl FnOnce(UserId) -> Event) {
        if let Some(peer) = self.ready_peer(key) {
            self.event(event(peer));
        }
    }

    /// Tells what the peer says, unless it is ignored.
    fn pass_on(&mut self, key: LinkKey, event: impl FnOnce(UserId) -> Event) {
        if let Some(peer) = self.ready_peer(key).filter(|peer| !self.ignored.contains(peer)) {
            self.event(event(peer));
        }
    }

    fn has_verified_link(&self, peer: &UserId) -> bool {
        self.ready_link(peer).and_then(|key| self.links.get(&key)).is_some_and(Link::is_verified)
    }

    /// The link to another process of that id, if there is one: everybody in the room may call himself so, and the server's word
    /// that this is free again may be wrong. If that process is gone, the probe shows it, and the newcomer is asked for.
    fn holder_against(&self, peer: &UserId, newer: LinkKey) -> Option<LinkKey> {
        let (holder, newer) = (self.ready_link(peer)?, self.links.get(&newer)?);
        let link = self.links.get(&holder)?;
        let is_another = link.remote_certificate() != newer.remote_certificate();
        let is_trusted_less = newer.is_verified() && !link.is_verified();
        (link.kind() == Some(PeerKind::Swarm) && is_another && !is_trusted_less).then_some(holder)
    }

    fn handle_link_ready(&mut self, now: Instant, key: LinkKey, peer: &UserId) {
        self.rest_want(peer);
        self.set_told(peer, false);
        let slot = self.slots.entry(peer.clone()).or_default();
        slot.ready_since = Some(now);
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
        self.stripes.handle_link_closed(key);
        self.drain_stripes(now);
        self.by_id.remove(link.id());
        if self.signaling == Signaling::Down {
            self.forget_unsent(link.id());
        }
        if self.unclaimed.remove(&key) && is_failure(reason) {
            self.handle_broken_offer(now, link.id().clone());
        }
        let Some(peer) = link.peer() else { return };
        let Some(slot) = self.slots.get_mut(peer) else { return };
        let was_ready = slot.ready == Some(key);
        if was_ready {
            slot.ready = None;
        } else if slot.attempt == Some(key) {
            slot.attempt = None;
        } else {
            return;
        }
        let (is_alone, claimed_at) = (slot.ready.is_none() && slot.attempt.is_none(), slot.claimed_at);
        let handshake_failed = link.has_failed_handshake();
        let may_fare_better = handshake_failed || is_worth_another_try(reason);
        let was_steady = was_ready && slot.ready_since.is_some_and(|since| now >= since + STEADY);
        if is_alone {
            self.slots.remove(peer);
        }
        if was_ready {
            self.event(Event::Closed { peer: peer.clone(), reason });
        } else if is_failure(reason) && !(handshake_failed && self.is_told(peer)) {
            self.tell_failure(now, peer.clone(), reason);
        }
        if was_steady || !may_fare_better {
            self.forget_want(peer);
        }
        if is_alone && may_fare_better {
            self.schedule_want(now, peer.clone(), claimed_at, was_steady);
        }
        if handshake_failed {
            self.set_told(peer, true);
        }
    }
}

impl Mesh {
    /// Sends a bulk frame beside the link or on it.
    pub(super) fn send_bulk(&mut self, now: Instant, peer: &UserId, frame: Bytes) {
        let Some(key) = self.ready_link(peer) else { return };
        match self.stripes.route(now, key, &frame) {
            Some(stripe) => {
                let payload = Payload::Binary(frame);
                let send = PeerCommand::Send { channel: Channel::Bulk, payload };
                self.outbox.push_back(Output::Peer(stripe, send));
            }
            None => self.feed(now, key, link::Input::Bulk(frame)),
        }
    }

    /// Carries out what the stripes want.
    pub(super) fn drain_stripes(&mut self, now: Instant) {
        while let Some(output) = self.stripes.poll() {
            match output {
                stripes::Output::Peer(key, command) => self.outbox.push_back(Output::Peer(key, command)),
                stripes::Output::Control { link, stripe, signal } => {
                    self.feed(now, link, link::Input::Control(Control::Stripe { stripe, signal }));
                }
                stripes::Output::Bulk(link, frame) => self.pass_on(link, |from| Event::Bulk { from, frame }),
                stripes::Output::Writable(link, bytes) => {
                    self.tell(link, |peer| Event::Writable { peer, bytes })
                }
                stripes::Output::Lost { link, revoked_bytes } => {
                    self.tell(link, |peer| Event::BulkLost { peer, revoked_bytes });
                }
            }
        }
        self.timers.set(TimerKey::Stripes, self.stripes.poll_timeout().map(|(at, _)| at));
    }

    /// Whose link this is, if it is the one in use.
    fn ready_peer(&self, key: LinkKey) -> Option<UserId> {
        let peer = self.links.get(&key).and_then(Link::peer)?;
        (self.ready_link(peer) == Some(key)).then(|| peer.clone())
    }
}

/// Whether people should hear that a link that was never ready came to this end.
fn is_failure(reason: CloseReason) -> bool {
    match reason {
        CloseReason::NoPath
        | CloseReason::Lost
        | CloseReason::KeyMismatch
        | CloseReason::Unverified
        | CloseReason::Misbehaved
        | CloseReason::TakenId => true,
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
        | CloseReason::TakenId
        | CloseReason::Local => false,
    }
}
